"""Files that cannot be used: one message with its place, exit code 2, no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from caffestat.cli import main

DATA = 'layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 9 } } }\n'
TWO = """\
layer { name: "d" type: "Input" top: "a" top: "b"
  input_param { shape { dim: 2 dim: 3 dim: 8 dim: 9 } shape { dim: 2 dim: 3 dim: 8 dim: 7 } } }
"""

# name: the file, where the message says it is wrong, and words it must have
CASES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "truncated": ('layer { name: "a"\n  input_param { shape { dim: 1', "2:", ("end of the file", "opened at")),
    "open string": ('layer { name: "a\n}', "1:", ()),
    "unknown bottom": (
        DATA + 'layer { name: "r" type: "ReLU" bottom: "dta" top: "r" }',
        "2:1:",
        ("'dta'", "did you mean 'data'"),
    ),
    "shape that does not fit": (
        TWO + 'layer { name: "e" type: "Eltwise" bottom: "a" bottom: "b" top: "c" }',
        "3:1:",
        ("'e'", "(2, 3, 8, 7)", "(2, 3, 8, 9)"),
    ),
    "kernel too large": (
        DATA + '\nlayer { name: "c" type: "Convolution" bottom: "data" top: "c"'
        " convolution_param { num_output: 4 kernel_size: 11 pad: 1 } }",
        "3:1:",
        ("'c'", "kernel", "11", "10"),
    ),
    "pooling kernel too large": (
        DATA + 'layer { name: "p" type: "Pooling" bottom: "data" top: "p" pooling_param { kernel_size: 12 pad: 1 } }',
        "2:1:",
        ("'p'", "kernel", "12"),
    ),
    "duplicate top": (
        DATA + 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" }\n'
        'layer { name: "s" type: "ReLU" bottom: "data" top: "r" }',
        "3:1:",
        ("'s'", "already produced", "bad.prototxt:2:1"),
    ),
    "cycle": (
        DATA + 'layer { name: "r" type: "Eltwise" bottom: "data" bottom: "s" top: "r" }\n'
        'layer { name: "s" type: "ReLU" bottom: "r" top: "s" }',
        "2:1:",
        ("'s'", "bad.prototxt:3:1", "later"),
    ),
    "enum typo": (
        DATA + 'layer { name: "p" type: "Pooling" bottom: "data" top: "p"\n'
        "  pooling_param { pool: MAXX kernel_size: 3 } }",
        "3:25:",
        ("MAX, AVE, STOCHASTIC", "MAXX"),
    ),
    "string for a number": (
        DATA + 'layer { name: "p" type: "Pooling" bottom: "data" top: "p" pooling_param { kernel_size: "3" } }',
        "2:",
        ("kernel_size",),
    ),
    "unknown filler": (
        DATA + 'layer { name: "i" type: "InnerProduct" bottom: "data" top: "i"'
        ' inner_product_param { num_output: 2 weight_filler { type: "Xavier" } } }',
        "2:1:",
        ("'i'", "Xavier", "xavier"),
    ),
    "too many params": (
        DATA + 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" param { lr_mult: 1 } }',
        "2:1:",
        ("'r'", "param"),
    ),
}


def message(*arguments: str) -> str:
    """Return the one message of a run that fails as it should."""
    result = CliRunner().invoke(main, ["analyze", "--device", "cpu", *arguments])
    assert result.exit_code == 2, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return errors[0]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder, so that messages name short paths."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", CASES)
def test_message_has_place_and_reason(folder: Path, name: str) -> None:
    text, place, words = CASES[name]
    (folder / "bad.prototxt").write_text(text)
    said = message("bad.prototxt")
    assert said.startswith(f"error: bad.prototxt:{place}")
    for word in words:
        assert word in said


def test_weights_in_the_place_of_a_net_are_told(folder: Path) -> None:
    (folder / "a.caffemodel").write_bytes(b"\n\x01a\0")
    assert "a.caffemodel: expected a net or solver prototxt, found weights; --weights takes" in message("a.caffemodel")


NET = DATA + 'layer { name: "i" type: "InnerProduct" bottom: "data" top: "i" inner_product_param { num_output: 2 } }\n'


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "--write-baseline", "a.prototxt", "b.prototxt"),
        ("check", "--write-baseline", "a.prototxt", "a.prototxt"),
        ("check", "-o", "a.prototxt", "b.prototxt"),
        ("check", "-o", "a.txt", "a.txt"),
        ("check", "--weights", "./w", "-o", "w", "b.prototxt"),
        ("analyze", "--static", "-o", "a.prototxt", "b.prototxt"),
        ("analyze", "--static", "-o", "a.txt", "link.txt"),
        ("debug", "-o", "a.prototxt", "b.prototxt"),
        ("debug", "-o", "./a.txt", "a.txt"),
        ("convert", "a.prototxt", "-o", "a.prototxt"),
        ("convert", "b.prototxt", "-o", "a.prototxt"),
        ("convert", "--backward", "m.onnx", "-o", "./m.onnx"),
        ("fill", "a.prototxt", "-o", "a.prototxt"),
        ("fill", "m.npz", "-o", "m.npz"),
        ("check", "b.prototxt", "--baseline", "a.txt", "-o", "link.txt"),
        ("analyze", "b.prototxt", "--input", "data=m.npy", "-o", "m.npy"),
        ("analyze", "b.prototxt", "-o", "plugin.py"),
        ("train", "b.prototxt", "--log", "new.txt", "--report", "./new.txt"),
    ],
)
def test_an_input_is_never_overwritten(folder: Path, arguments: tuple[str, ...]) -> None:
    for name in ("a.prototxt", "b.prototxt", "a.txt", "m.onnx", "m.npz", "m.npy", "plugin.py", "w"):
        (folder / name).write_text(NET)
    (folder / "link.txt").symlink_to("a.txt")
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output and "rror: " in result.stderr
    assert {path.read_text() for path in folder.iterdir()} == {NET}


def test_missing_file() -> None:
    assert message("absent.prototxt").startswith("error: absent.prototxt: cannot be read: No such file")


def test_folder_for_a_file() -> None:
    assert message(".").startswith("error: .: cannot be read")


def test_binary_file(folder: Path) -> None:
    (folder / "net.prototxt").write_bytes(bytes(range(256)) * 8)
    said = message("net.prototxt")
    assert said.startswith("error: net.prototxt:1:")
    assert "binary" in said


def test_empty_file(folder: Path) -> None:
    (folder / "empty.prototxt").write_text("")
    expected = "the file has no layers: expected a net or solver prototxt, found an empty file"
    assert message("empty.prototxt").strip() == f"error: empty.prototxt:1: {expected}"


def test_an_empty_file_is_in_the_current_format(folder: Path) -> None:
    """upgrade_net_proto_text of Caffe takes it for a net of this version, too, and exits with 0."""
    (folder / "empty.prototxt").write_text("")
    result = CliRunner().invoke(main, ["upgrade", "empty.prototxt"])
    assert (result.exit_code, result.output) == (0, "")


def test_solver_of_a_missing_net(folder: Path) -> None:
    (folder / "solver.prototxt").write_text('base_lr: 0.1\nnet: "absent.prototxt"\n')
    assert "absent.prototxt" in message("solver.prototxt")


def test_solver_without_a_net(folder: Path) -> None:
    (folder / "solver.prototxt").write_text("base_lr: 0.1\n")
    assert message("solver.prototxt").startswith("error: solver.prototxt:1: a solver names its net")


@pytest.mark.parametrize(
    "command", [("analyze", "--static"), ("check",), ("train",), ("rewrite", "--fix-check")], ids=lambda words: words[0]
)
@pytest.mark.parametrize("named", ["s.prototxt", "/elsewhere/s.prototxt", "other.prototxt"])
def test_a_solver_in_the_place_of_a_solver_s_net(folder: Path, command: tuple[str, ...], named: str) -> None:
    solver = 'net: "{}"\nbase_lr: 0.1 lr_policy: "fixed" max_iter: 1\n'
    (folder / "s.prototxt").write_text(solver.format(named))
    (folder / "other.prototxt").write_text(solver.format("s.prototxt"))
    result = CliRunner().invoke(main, [*command, "s.prototxt"])
    assert "expected a net prototxt, found a solver" in result.output
    assert result.exit_code in (1, 2)
