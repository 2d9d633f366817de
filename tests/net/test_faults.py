"""Nets that Caffe refuses: each fault is an error, and the rest is built; shapes around layers that nobody knows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

import caffestat
from caffestat import net as nets
from caffestat.cli import main
from caffestat.errors import NetError, RefusedError
from caffestat.net.source import net_source
from caffestat.prototext import parse

INPUT = 'layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 5 dim: 7 } } }\n'
FC = 'layer { name: "%s" type: "InnerProduct" bottom: "%s" top: "%s" inner_product_param { num_output: 4 } }\n'
RELU = 'layer { name: "%s" type: "ReLU" bottom: "%s" top: "%s" }\n'
BN = 'layer { name: "%s" type: "BatchNorm" bottom: "x" top: "%s" param { name: "m" lr_mult: 0 decay_mult: %g } }\n'
NOVEL = 'layer { name: "%s" type: "Novel" bottom: "%s" top: "%s" }\n'

# name: what stands behind INPUT and a layer "before", what the errors say, and the shapes of some blobs
FAULTS = {
    "an unknown bottom": (
        RELU % ("r", "lost", "r") + RELU % ("s", "lost", "s") + FC % ("beside", "x", "beside"),
        ["layer 'r': unknown bottom blob 'lost'"],
        {"r": None, "s": None, "beside": (2, 4)},
    ),
    "a top twice": (  # the later one counts
        RELU % ("r", "x", "before") + FC % ("beside", "x", "beside"),
        ["layer 'r' (ReLU): top blob 'before' is already produced"],
        {"before": (2, 3, 5, 7), "beside": (2, 4)},
    ),
    "a shape that does not fit": (
        'layer { name: "p" type: "Pooling" bottom: "x" top: "p" pooling_param { kernel_size: 9 } }\n'
        + FC % ("after", "p", "after")
        + FC % ("beside", "x", "beside"),
        ["layer 'p' (Pooling): "],
        {"p": None, "after": None, "beside": (2, 4)},
    ),
    "a wrong number of bottoms": (
        'layer { name: "r" type: "ReLU" bottom: "x" bottom: "before" top: "r" propagate_down: true }\n',
        ["layer 'r' (ReLU): takes 1 bottom blob, found 2"],
        {"r": None},
    ),
    "propagate_down": (
        'layer { name: "r" type: "ReLU" bottom: "x" top: "r" propagate_down: true propagate_down: true }\n',
        ["layer 'r' (ReLU): propagate_down is given 2 times"],
        {"r": None},
    ),
    "loss weights": (
        'layer { name: "r" type: "ReLU" bottom: "x" top: "r" loss_weight: 1 loss_weight: 2 }\n',
        ["layer 'r' (ReLU): loss_weight is given 2 times"],
        {"r": (2, 3, 5, 7)},
    ),
    "params that cannot be shared": (
        FC.replace("bottom", 'param { name: "w" } bottom', 1) % ("a", "x", "a")
        + FC.replace("bottom", 'param { name: "w" } bottom', 1) % ("b", "a", "b"),
        ["layer 'b' (InnerProduct): param 'w' of shape (4, 4) cannot share"],
        {"a": (2, 4), "b": (2, 4)},
    ),
    "multipliers of a shared param": (
        FC.replace("bottom", 'param { name: "w" lr_mult: 2 } bottom', 1) % ("a", "x", "a")
        + FC.replace("bottom", 'param { name: "w" lr_mult: 3 } bottom', 1) % ("b", "x", "b"),
        ["layer 'b' (InnerProduct): shared param 'w' has lr_mult 3"],
        {"a": (2, 4), "b": (2, 4)},
    ),
    "multipliers of shared statistics": (
        BN % ("a", "a", 1) + BN % ("b", "b", 0),
        ["layer 'b' (BatchNorm): shared param 'm' has decay_mult 0"],
        {"a": (2, 3, 5, 7), "b": (2, 3, 5, 7)},
    ),
    "two faults": (
        RELU % ("r", "lost", "r") + RELU % ("s", "gone", "s"),
        ["layer 'r': unknown bottom blob 'lost'", "layer 's': unknown bottom blob 'gone'"],
        {"before": (2, 4)},
    ),
}


def build(text: str, **options) -> nets.Net:
    return nets.build(net_source(parse(text.encode(), "net.prototxt")), **options)


@pytest.mark.parametrize("name", FAULTS)
def test_the_rest_of_a_net_with_faults_is_built(tmp_path: Path, name: str) -> None:
    text, errors, shapes = FAULTS[name]
    text = INPUT + FC % ("before", "x", "before") + text
    faults: list[NetError] = []
    net = build(text, faults=faults)
    assert len(faults) == len(errors)
    for error, message in zip(faults, errors, strict=True):
        assert error.message.startswith(message) and error.place.line > 2
    found = {blob.name: blob.shape for blob in net.blobs if "split" not in blob.name}
    assert found | shapes == found
    with pytest.raises(NetError) as raised:
        build(text)
    assert str(raised.value) == str(faults[0])


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("options", [{"static": True}, {}, {"predict": True}])
def test_a_table_comes_with_the_error(tmp_path: Path, name: str, options: dict) -> None:
    file = tmp_path / "net.prototxt"
    file.write_text(INPUT + FC % ("before", "x", "before") + FAULTS[name][0])
    with pytest.raises(RefusedError) as raised:
        caffestat.analyze(file, device="cpu", **options)
    report = raised.value.report
    assert [error.message for error in report.errors] == [error.message for error in raised.value.errors]
    rows = {layer.name: layer for layer in report.layers}
    assert rows["before"].tops[0].shape == (2, 4)
    assert options.get("static") or rows["before"].tops[0].mean_abs is not None


STOPPING = {
    "labels": 'layer { name: "no" type: "SoftmaxWithLoss" bottom: "before" bottom: "sum" top: "loss" }',
    "threshold": 'layer { name: "no" type: "Threshold" bottom: "before" top: "t" loss_weight: 1 }',
    "embed": 'layer { name: "no" type: "Embed" bottom: "sum" top: "e" loss_weight: 1 '
    "embed_param { input_dim: 3 num_output: 2 } }",
}


@pytest.mark.parametrize("name", STOPPING)
def test_a_net_that_stops_caffes_backward_pass_is_refused(tmp_path: Path, name: str) -> None:
    """layer.hpp: NOT_IMPLEMENTED; softmax_loss_layer.cpp and embed_layer.cpp: no gradient of labels and indices."""
    file = tmp_path / "net.prototxt"
    add = 'layer { name: "sum" type: "Reduction" bottom: "before" top: "sum" reduction_param { axis: 1 } }\n'
    file.write_text(INPUT + FC % ("before", "x", "before") + add + STOPPING[name])
    for verb in (caffestat.analyze, caffestat.debug):
        with pytest.raises(RefusedError, match=r"prototxt:4:1: layer 'no' .*: Caffe stops in its backward pass"):
            verb(file, device="cpu")
    assert any("Layer no" in line for line in caffestat.debug(file, device="cpu", forward_only=True))
    assert caffestat.analyze(file, static=True)


def test_nothing_is_asked_of_a_layer_without_tops_below_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "net.prototxt"
    wrong = 'layer { name: "im" type: "Im2col" bottom: "x" top: "im" convolution_param { kernel_size: 9 } }\n'
    silence = 'layer { name: "end" type: "Silence" bottom: "im" }'
    file.write_text("force_backward: true\n" + INPUT + wrong + silence)
    with pytest.raises(RefusedError, match="'im'"):
        caffestat.analyze(file, device="cpu")


def test_the_command_shows_the_table_and_ends_with_2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(INPUT + FC % ("before", "x", "before") + FAULTS["two faults"][0])
    result = CliRunner().invoke(main, ["analyze", "--static", "net.prototxt"])
    assert result.exit_code == 2
    assert "before" in result.stdout and "2x4" in result.stdout.replace(" ", "").replace("×", "x")
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert [line.split(": ")[1] for line in lines] == ["net.prototxt:4:1", "net.prototxt:3:1"]
    result = CliRunner().invoke(main, ["analyze", "--static", "--format", "json", "net.prototxt"])
    assert result.exit_code == 2
    assert [error["line"] for error in json.loads(result.stdout)["errors"]] == [3, 4]


def test_a_shape_that_is_kept_is_assumed_where_nothing_else_fits() -> None:
    text = INPUT + RELU % ("r", "x", "r") + NOVEL % ("n", "r", "n")
    add = 'layer { name: "add" type: "Eltwise" bottom: "n" bottom: "r" top: "sum" }\n'
    net = build(text + add)
    assert {blob.name: blob.shape for blob in net.blobs}["sum"] == (2, 3, 5, 7)
    [finding] = net.findings
    assert finding.message.startswith("layer 'n': unknown layer type 'Novel'")
    assert finding.message.endswith(
        "top 'n' is assumed to have its bottom's shape (2, 3, 5, 7), the only one that fits layer 'add' (Eltwise)"
    )
    net = build(text + add + RELU % ("s", "n", "s"))  # with a Split between
    assert {blob.name: blob.shape for blob in net.blobs}["s"] == (2, 3, 5, 7)
    net = build(text + FC % ("f", "n", "f"))  # which fits any shape
    assert {blob.name: blob.shape for blob in net.blobs}["n"] is None
    assert "--shape" in net.findings[0].message


def test_an_unknown_layer_in_place_keeps_the_shape() -> None:
    net = build(INPUT + NOVEL % ("n", "x", "x") + FC % ("f", "x", "f"))
    assert net.nodes[-1].top_shapes == ((2, 4),)
    assert net.findings[0].message.endswith("shape (2, 3, 5, 7), because it works in place")


def test_a_given_shape_goes_before_an_assumed_one() -> None:
    net = build(INPUT + NOVEL % ("n", "x", "n") + FC % ("f", "n", "f"), shapes={"n": (6, 5)})
    assert net.nodes[-1].top_shapes == ((6, 4),)
    assert "taken" not in net.findings[0].message


def test_a_fault_that_a_run_finds_leaves_what_is_known_without(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(INPUT + FC.replace("num_output: 4", 'num_output: 4 weight_filler { type: "he" }') % ("f", "x", "f"))
    with pytest.raises(RefusedError, match='unknown filler type "he"') as raised:
        caffestat.analyze(path, device="cpu")
    assert [error.place.line for error in raised.value.errors] == [2]
    assert raised.value.report.layers[1].tops[0].shape == (2, 4)
    result = CliRunner().invoke(main, ["analyze", str(path)])
    assert result.exit_code == 2
    assert "not run" in result.stdout and "4x105" in result.stdout
