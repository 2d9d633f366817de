"""What files do not tell: shapes that stand elsewhere, types and fields that Caffe lacks, fields spelled otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat import net as nets
from caffestat.analysis import measure
from caffestat.errors import InputError, NetError, SchemaError
from caffestat.fillers import Stream
from caffestat.net.source import net_source
from caffestat.options import RunOptions
from caffestat.program import from_net
from caffestat.prototext import parse

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 dim: 9 dim: 11 } } }\n'
DATA = 'layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "db" batch_size: 6 } }\n'
CONV = 'layer { name: "%s" type: "Convolution" bottom: "x" top: "%s" convolution_param { num_output: 5 %s } }\n'
FC = 'layer { name: "%s" type: "InnerProduct" bottom: "%s" top: "%s" inner_product_param { num_output: 3 } }\n'
RELU = 'layer { name: "r" type: "ReLU" bottom: "label" top: "r" }\n'
POOL = 'layer { name: "p" type: "Pooling" bottom: "x" top: "p" pooling_param { kernel_size: 2 stride: 2 %s } }\n'


def build(text: str, **options) -> nets.Net:
    return nets.build(net_source(parse(text.encode(), "net.prototxt")), **options)


def shapes(net: nets.Net) -> dict[str, object]:
    return {blob.name: blob.shape for blob in net.blobs}


def messages(net: nets.Net) -> list[str]:
    return [str(finding) for finding in net.findings]


def test_a_shape_that_stands_elsewhere_is_one_warning() -> None:
    net = build(DATA + FC % ("a", "data", "a") + RELU)
    assert shapes(net) == {"data": None, "label": (6,), "a": None, "r": (6,)}
    assert messages(net) == [
        "net.prototxt:1:1: layer 'd' (Data): the shape of top 'data' is in the records of 'db', not in this file; "
        "what depends on it is left out; set it with --shape data=N,C,H,W"
    ]
    given = build(DATA + FC % ("a", "data", "a"), shapes={"data": (6, 2, 5, 7)})
    assert (shapes(given)["a"], messages(given)) == ((6, 3), [])


def test_all_tops_of_a_layer_share_one_warning() -> None:
    net = build('layer { name: "d" type: "HDF5Data" top: "u" top: "v" hdf5_data_param { source: "h" batch_size: 3 } }')
    [message] = messages(net)
    assert "the shapes of tops 'u', 'v' are in the files that 'h' lists" in message
    assert message.endswith("--shape u=N,C,H,W --shape v=N,C,H,W")


def test_running_what_needs_an_unknown_shape_is_refused() -> None:
    net = build(DATA + FC % ("a", "data", "a"))
    with pytest.raises(NetError, match=r"net.prototxt:1:1: the net cannot be run: layer 'd' .*--shape data=N,C,H,W"):
        measure(from_net(net), 1, RunOptions("cpu"))[1]


def test_what_needs_no_unknown_shape_is_run() -> None:
    python = 'layer { name: "p" type: "Python" bottom: "x" top: "rois" python_param { module: "m" layer: "L" } }\n'
    net = build(INPUT + python + FC % ("a", "x", "a") + FC % ("b", "rois", "b"))
    measured = measure(from_net(net), 1, RunOptions("cpu"))[1]
    names = {net.nodes[node].name for node, _ in measured.tops}
    assert {"in", "a"} <= names
    assert names.isdisjoint({"p", "b"})


def test_an_unknown_type_with_a_given_shape_is_data() -> None:
    text = INPUT + 'layer { name: "n" type: "Novel" bottom: "x" top: "y" }\n' + FC % ("a", "y", "a")
    net = build(text, shapes={"y": (2, 5)})
    assert shapes(net)["a"] == (2, 3)
    measured = measure(from_net(net), 1, RunOptions("cpu"))[1]
    assert measured.tops[1, 0] > 0
    assert "unknown layer type 'Novel'" in messages(net)[0]
    assert shapes(build(text))["a"] is None


def test_an_old_unknown_type_is_one_warning() -> None:
    inputs = 'input: "x" input_dim: 2 input_dim: 4 input_dim: 9 input_dim: 11\n'
    net = build(inputs + 'layers { name: "n" type: NOVEL bottom: "x" top: "y" }')
    [message] = messages(net)
    assert message.startswith("net.prototxt:2:1: layer 'n': unknown layer type 'NOVEL'")


def test_an_error_that_an_unknown_field_may_explain_is_a_warning() -> None:
    with pytest.raises(NetError, match="kernel_size is given once"):
        build(INPUT + CONV % ("c", "c", ""))
    net = build(INPUT + CONV % ("c", "c", "kernal_size: 3") + FC % ("a", "c", "a"))
    assert shapes(net)["c"] is None
    assert [message.partition(";")[0] for message in messages(net)] == [
        "net.prototxt:2:94: unknown field 'kernal_size' in convolution_param (ConvolutionParameter) of layer \"c\", "
        "left out",
        "net.prototxt:2:1: layer 'c' (Convolution): kernel_size is given once, or once per spatial axis (2)",
    ]
    assert "fields that Caffe lacks (kernal_size): the shapes of its tops are unknown" in messages(net)[1]


def test_an_unknown_field_excuses_its_own_layer_only() -> None:
    odd = 'layer { name: "r" type: "ReLU" bottom: "x" top: "r" odd: 1 }\n'
    with pytest.raises(NetError, match="kernel_size is given once"):
        build(INPUT + odd + CONV % ("c", "c", ""))


def test_bottoms_that_only_a_fork_takes() -> None:
    odd = 'layer { name: "r" type: "ReLU" bottom: "x" bottom: "x" top: "r" odd: 1 }\n'
    net = build(INPUT + odd + FC % ("a", "r", "a"))
    assert shapes(net)["r"] is None
    assert "takes 1 bottom blob, found 2; but it has fields that Caffe lacks (odd)" in messages(net)[1]


@pytest.mark.parametrize(
    ("mode", "size"),
    [
        ("ceil_mode: false", (4, 5)),
        ("ceil_mode: 0", (4, 5)),
        ("ceil_mode: true", (5, 6)),
        ("ceil_mode: t", (5, 6)),
        ("", (5, 6)),
    ],
)
def test_ceil_mode_is_the_rounding(mode: str, size: tuple[int, int]) -> None:
    net = build(INPUT + POOL % mode)
    assert shapes(net)["p"] == (2, 4, *size)
    note = "2:97: ceil_mode in pooling_param is a fork's, taken as round_mode: CEIL for true, FLOOR for false"
    assert messages(net) == [f"net.prototxt:{note}"] * bool(mode)


def test_hole_is_the_dilation_and_told_of_once() -> None:
    hole = "kernel_size: 3 hole: 2"
    net = build(INPUT + CONV % ("a", "a", hole) + CONV % ("b", "b", hole))
    assert shapes(net)["a"] == shapes(net)["b"] == (2, 5, 5, 7)
    assert [message.partition(" in ")[0] for message in messages(net)] == ["net.prototxt:2:109: hole"]


@pytest.mark.parametrize(("mode", "found"), [(": maybe", "maybe"), (" { a: 1 }", "a message in braces")])
def test_a_spelling_with_another_value_is_an_error(mode: str, found: str) -> None:
    with pytest.raises(SchemaError, match=f"2:97: ceil_mode in pooling_param of layer 'p': cannot be {found}"):
        build(INPUT + POOL % f"ceil_mode{mode}")


def test_inputs_without_shapes_are_those_that_no_layer_produces() -> None:
    net = build('input: "x" input: "z"\n' + INPUT.strip() + FC % ("a", "z", "a"))
    assert shapes(net) == {"z": None, "x": (2, 4, 9, 11), "a": None}
    assert "1:1: layer 'input' (Input): the shape of top 'z' is where the net is used" in messages(net)[0]


def test_a_file_that_is_no_net_says_so() -> None:
    message = r"label.prototxt:1: the file has no layers: expected .*, found the fields item$"
    with pytest.raises(NetError, match=message):
        nets.build(net_source(parse(b"item { id: 1 } item { id: 2 }", "label.prototxt")))


def test_a_net_inside_a_solver_gets_the_findings_about_it(tmp_path: Path) -> None:
    bn = 'layer { name: "n" type: "BN" bottom: "x" top: "n" bn_param { frozen: true } odd: 1 }\n'
    path = tmp_path / "solver.prototxt"
    path.write_text("base_lr: 1 fancy: 2\nnet_param {\n" + INPUT + bn + POOL % "ceil_mode: true" + "}\n")
    solver = nets.read_solver(str(path))
    assert [finding.message.split("'")[1] for finding in solver.findings] == ["fancy"]
    said = [f"{finding.place.line} {finding.message}" for finding in nets.build(solver.net).findings]
    assert [message.partition(" in ")[0] for message in said] == [
        "4 unknown field 'odd'",
        "5 ceil_mode",
        "4 type 'BN' is a fork's, taken as that of dialect tsn (yjxiong/caffe, bn_layer.cpp)",
    ]


def test_a_solvers_net_is_looked_for_from_the_folders_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "examples" / "mnist"
    folder.mkdir(parents=True)
    (folder / "net.prototxt").write_text(INPUT)
    (folder / "solver.prototxt").write_text('base_lr: 1\nnet: "examples/mnist/net.prototxt"\n')
    (tmp_path / "net.prototxt").write_text(INPUT)
    (tmp_path / "examples" / "plain.prototxt").write_text('base_lr: 1\nnet: "net.prototxt"\n')
    monkeypatch.chdir("/")
    assert nets.read_solver(str(folder / "solver.prototxt")).net.layers
    with pytest.raises((InputError, NetError), match=r"plain.prototxt:2:1: net: file not found: 'net.prototxt'"):
        nets.read_solver(str(tmp_path / "examples" / "plain.prototxt"))


def test_values_are_drawn_for_what_is_known_only() -> None:
    novel = 'layer { name: "n" type: "Novel" bottom: "a" top: "y" }\n'
    net = build(INPUT + FC % ("a", "x", "a") + novel + FC % ("b", "y", "b"))
    assert [value.shape for value in nets.draw_params(net, Stream(1))] == [(3, 396), (3,)]
    assert all(isinstance(value, np.ndarray) for value in nets.draw_params(net, Stream(1)))
