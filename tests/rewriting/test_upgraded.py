"""Old texts in the current format: the same net, nothing lost that can be kept, and current texts left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

import caffestat
from caffestat import net as nets
from caffestat.cli import main
from caffestat.errors import CaffestatError, NetError
from caffestat.net.source import is_solver, net_source
from caffestat.prototext import parse
from caffestat.rewriting import upgrade_text

from ..corpus import REAL

TESTS = Path(__file__).parents[1]
GOLDEN = sorted([*TESTS.glob("golden/*/net.prototxt"), *TESTS.glob("golden/*/solver.prototxt")])
OLD = {"v0net/net", "v1net/net", "legacy_input/net"}


def upgraded(text: str) -> tuple[str, list[str]]:
    result = upgrade_text(text.encode(), "net.prototxt")
    assert upgrade_text(result.data, "net.prototxt") == type(result)(result.data, ())
    return result.data.decode(), [str(finding) for finding in result.findings]


def outline(data: bytes) -> Any:
    """Return what makes a net: names, types, shapes, params, or the error that it ends in."""
    try:
        net = nets.build(net_source(parse(data, "net.prototxt")), data="synthetic")
    except CaffestatError as error:
        return type(error), getattr(error, "message", "")
    params = [(p.name, p.param, p.lr_mult, p.decay_mult, p.owner) for p in net.params]
    layers = [(node.name, node.type, node.bottoms, node.tops, node.loss_weights) for node in net.nodes]
    return [(blob.name, blob.shape, blob.need_backward) for blob in net.blobs], params, layers, net.name


def current_and_same(path: Path) -> bool:
    """Check what holds for every file that can be read; return whether it was current."""
    data = path.read_bytes()
    result = upgrade_text(data, str(path))
    assert upgrade_text(result.data, str(path)).data == result.data
    if not is_solver(parse(data)):
        assert outline(result.data) == outline(data)
        written = parse(result.data)
        assert not any(written.find(name) for name in ("layers", "input", "input_dim", "input_shape"))
    assert comments(result.data) == comments(data)
    return result.data == data


def comments(data: bytes) -> list[bytes]:
    """Return all comments, sorted: they may move to before the layer that they stand in."""
    trivia = b"\n".join(part for token in parse(data).tokens for part in (token.leading, token.trailing))
    return sorted(line.strip() for line in trivia.split(b"\n") if line.strip())


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_golden_nets_stay_what_they_are(path: Path) -> None:
    assert current_and_same(path) == (f"{path.parent.name}/{path.stem}" not in OLD)


@pytest.mark.skipif(not REAL, reason="the corpus is not at hand")
def test_real_files_stay_what_they_are() -> None:
    read = {}
    for path in REAL:
        try:
            read[path] = current_and_same(path)
        except CaffestatError as error:
            assert str(error).startswith(f"{path}:")
    assert len(read) >= 59
    assert sum(read.values()) < len(read)


def test_comments_are_kept() -> None:
    text, findings = upgraded(
        '# head\n\nlayers { # one\n  name: "a" # two\n  type: RELU # three\n  # four\n  top: "x"\n} # five\n'
        '# six\nlayers { name: "b" type: TANH bottom: "x" top: "y" }\n# seven\n'
    )
    assert text == (
        '# head\n\n# one\n# two\n# three\n# four\nlayer {\n  name: "a"\n  type: "ReLU"\n  top: "x"\n} # five\n'
        '# six\nlayer {\n  name: "b"\n  type: "TanH"\n  bottom: "x"\n  top: "y"\n}\n# seven\n'
    )
    assert findings == []


def test_fields_of_forks_are_kept_or_told_of() -> None:
    text, findings = upgraded(
        'layers { name: "b" type: BN top: "y"\n  bn_param { eps: 1 }; blobs_lr: 2 weight_decay: 0.5\n'
        "  pooling_param { ceil_mode: false odd: 1 } }\nodd: 3\n"
    )
    assert text == (
        'layer {\n  name: "b"\n  type: "BN"\n  top: "y"\n  param {\n    lr_mult: 2\n    decay_mult: 0.5\n  }\n'
        "  pooling_param {\n    round_mode: FLOOR\n  }\n  bn_param { eps: 1 }\n}\nodd: 3\n"
    )
    assert [finding.partition(" in ")[0] for finding in findings] == [
        "net.prototxt:3:36: unknown field 'odd'",
        "net.prototxt:3:19: ceil_mode",
    ]


RELU = 'layer { name: "r" type: "ReLU" bottom: "x" top: "x" }'
INPUT = '  name: "input"\n  type: "Input"\n  top: "x"\n  input_param {\n    shape {\n      dim: 2\n      dim: 3\n'


@pytest.mark.parametrize(
    "text",
    [
        f'name: "n"\ninput: "x" # c\ninput_shape {{ dim: 2 dim: 3 }}\n{RELU}\n',
        f'name: "n"\ninput: "x" input_shape {{ # c\n dim: 2 dim: 3 }}\n{RELU}\n',
        f'name: "n"\n{RELU}\ninput: "x" # c\ninput_shape {{ dim: 2 dim: 3 }}\n',
        f'name: "n" input: "x"\n# c\n{RELU} input_shape {{ dim: 2 dim: 3 }}\n',
    ],
)
def test_inputs_become_the_first_layer(text: str) -> None:
    new, _ = upgraded(text)
    assert INPUT in new
    assert new.index('"Input"') < new.index("ReLU")
    assert RELU in new
    assert new.count("# c") == 1
    assert "input_shape" not in new
    assert outline(new.encode()) == outline(text.encode())


def test_inputs_that_caffe_drops_go() -> None:
    layer = 'layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 2 } } }\n'
    assert upgraded(f'input: "x"\n{layer}')[0] == layer


def test_indents_and_line_ends_are_those_of_the_file() -> None:
    text, _ = upgraded('net_param {\r\n\tname: "n"\r\n\tlayers { name: "a" type: RELU }\r\n}\r\nbase_lr: 1\r\n')
    assert text == (
        'net_param {\r\n\tname: "n"\r\n\tlayer {\r\n\t  name: "a"\r\n\t  type: "ReLU"\r\n\t}\r\n}\r\nbase_lr: 1\r\n'
    )


@pytest.mark.parametrize(("old", "new"), [("SGD", "SGD"), ("NESTEROV", "Nesterov"), ("5", "Adam")])
def test_solver_types(old: str, new: str) -> None:
    assert upgraded(f"base_lr: 1 # a\nsolver_type:  {old} # b\n")[0] == f'base_lr: 1 # a\ntype:  "{new}" # b\n'


def test_two_solver_types_are_refused() -> None:
    with pytest.raises(NetError, match=r"net.prototxt:1:13: solver_type is the old form of type"):
        upgraded('type: "SGD" solver_type: SGD base_lr: 1')


OLD_NET = 'layers { name: "a" type: RELU bottom: "x" top: "x" odd: 1 relu_param { odd: 2 } }\n'
NEW_NET = 'layer {\n  name: "a"\n  type: "ReLU"\n  bottom: "x"\n  top: "x"\n  relu_param {\n  }\n  odd: 1\n}\n'


def test_command(tmp_path: Path) -> None:
    path, out = tmp_path / "old.prototxt", tmp_path / "new.prototxt"
    path.write_text(OLD_NET)
    shown = CliRunner().invoke(main, ["upgrade", str(path)])
    assert (shown.exit_code, shown.stdout) == (0, NEW_NET)
    assert shown.stderr.startswith(f"warning: {path}:1:72: unknown field 'odd' in relu_param")
    assert path.read_text() == OLD_NET
    assert CliRunner().invoke(main, ["upgrade", "-o", str(out), str(path)]).stdout == ""
    assert out.read_text() == NEW_NET
    assert CliRunner().invoke(main, ["upgrade", "-"], input=OLD_NET).stdout == NEW_NET
    assert CliRunner().invoke(main, ["upgrade", "--in-place", str(path)]).exit_code == 0
    assert path.read_text() == NEW_NET
    before = path.stat()
    assert CliRunner().invoke(main, ["upgrade", "--in-place", str(path)]).stderr == ""
    assert path.stat().st_ino == before.st_ino
    for arguments in (["--in-place", "-"], ["--in-place", "-o", "x", str(path)]):
        refused = CliRunner().invoke(main, ["upgrade", *arguments])
        assert (refused.exit_code, "--in-place" in refused.stderr) == (2, True)


def test_from_python(tmp_path: Path) -> None:
    path = tmp_path / "old.prototxt"
    path.write_text(OLD_NET)
    assert caffestat.api.upgrade(str(path)).data == NEW_NET.encode()
    assert path.read_text() == OLD_NET
