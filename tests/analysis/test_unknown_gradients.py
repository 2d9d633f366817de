"""A gradient that depends on a layer which cannot be computed is unknown: "?" and null, never zero."""

from __future__ import annotations

import json

import pytest

from caffestat import net as nets
from caffestat import report as reports
from caffestat.analysis import Measurement, predict
from caffestat.analysis import measure as measure_program
from caffestat.logs import read_passes
from caffestat.net.source import net_source
from caffestat.options import RunOptions
from caffestat.program import Program, from_net
from caffestat.prototext import parse
from caffestat.report.debug_info import render as debug_lines

NET = """\
layer { name: "d" type: "DummyData" top: "x" top: "y" dummy_data_param { shape { dim: 4 dim: 6 } shape { dim: 4 }
  data_filler { type: "gaussian" } data_filler { type: "constant" } } }
layer { name: "f" type: "InnerProduct" bottom: "x" top: "f"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "c" type: "InnerProduct" bottom: "f" top: "c"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "c" bottom: "y" top: "loss" }
"""
CENTER = 'layer { name: "center" type: "UnheardLoss" bottom: "f" bottom: "y" top: "center" %s }\n'
MONITOR = 'layer { name: "m" type: "Monitor" bottom: "f" top: "m" }\n'


def build(text: str) -> Program:
    return from_net(nets.build(net_source(parse(text.encode(), "net.prototxt"))))


def measure(net: Program) -> Measurement:
    return measure_program(net, 1, RunOptions("cpu"))[1]


def keys(net: Program, found: dict[tuple[int, int], object]) -> set[tuple[str, int]]:
    return {(net.rows[row].name, index) for row, index in found}


@pytest.mark.parametrize("weight", ["loss_weight: 0.01", ""])
def test_what_an_unknown_loss_reads_has_an_unknown_gradient(weight: str) -> None:
    """Without a weight too: Caffe gives every loss layer's first top 1."""
    net = build(NET + CENTER % weight)
    measured, predicted = measure(net), predict(net)
    for found in (measured, predicted):
        assert keys(net, found.param_diffs) == {("c", 0), ("c", 1)}
        assert keys(net, found.bottom_diffs) == {("c", 0), ("loss", 0)}
    assert measured.norms is not None
    assert (measured.norms.diff_l1, measured.norms.diff_l2) == (None, None)
    assert measured.norms.data_l1 > 0


@pytest.mark.parametrize("more", ["", MONITOR, CENTER % "loss_weight: 0"])
def test_a_layer_that_no_loss_depends_on_hides_no_gradient(more: str) -> None:
    net = build(NET + more)
    measured = measure(net)
    assert keys(net, measured.param_diffs) == {(layer, index) for layer in "fc" for index in (0, 1)}
    assert measured.norms is not None
    assert measured.norms.diff_l1 is not None


def test_every_format_says_so() -> None:
    net = build(NET + CENTER % "")
    report = reports.build(net, measure(net), source="net.prototxt", seed=1)
    table = reports.render(report, "table")
    assert "of their gradients ?" in table
    assert "?: depends on the gradient of a layer that cannot be computed." in table
    data = json.loads(reports.render(report, "json"))
    assert data["norms"]["diff_l1"] is None
    diffs = {
        (layer["name"], diff["bottom"]): diff["mean_abs"] for layer in data["layers"] for diff in layer["bottom_diffs"]
    }
    assert diffs["center", 0] is None
    assert diffs["loss", 0] > 0
    log = "\n".join(debug_lines(report))
    assert "    [Backward] Layer f, param blob 0 diff: ?\n" in log
    assert log.count("?)") == 2
    [read] = read_passes([line.encode() for line in log.splitlines(keepends=True)])
    assert read.norms is None
    assert {key.layer for key in read.values if key.direction == "backward"} == {"loss", "c"}


def test_a_report_without_a_run_has_no_unknown_gradient() -> None:
    report = reports.build(build(NET + CENTER % ""), source="net.prototxt", seed=1)
    assert not any(diff.is_unknown for layer in report.layers for diff in layer.bottom_diffs)
    assert "?)" not in "\n".join(debug_lines(report))
