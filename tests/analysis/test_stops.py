"""Where a prediction stops and why: in the Prediction, the report's notes, and checks."""

from __future__ import annotations

import json

import pytest

from caffestat import analysis, api
from caffestat import net as nets
from caffestat import report as reports
from caffestat.net.source import net_source
from caffestat.program import from_net
from caffestat.prototext import parse

WIDE = """\
layer { name: "data" type: "Input" top: "x" top: "label" input_param { shape { dim: 2 dim: 3 dim: 4 dim: 5000 }
  shape { dim: 2 } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "msra" } } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "fc" type: "InnerProduct" bottom: "a" top: "fc"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "label" top: "loss" }
layer { name: "accuracy" type: "Accuracy" bottom: "fc" bottom: "label" top: "accuracy" }
"""


@pytest.fixture
def program():
    return from_net(nets.build(net_source(parse(WIDE.encode(), "net.prototxt"))))


def test_a_stop_names_the_layer_and_the_reason(program) -> None:
    prediction = analysis.predict(program)
    [stop] = prediction.stops  # not Accuracy, which nothing reads
    assert (stop.name, stop.type) == ("a", "Convolution")
    assert stop.reason == "the axes of op Conv are too long for sums over its windows"
    names = {program.rows[row].name for row, _ in prediction.tops}
    assert names.isdisjoint({"a", "relu", "fc", "loss"})
    assert "data" in names


def test_the_running_product_ends_there(program) -> None:
    first, second = analysis.gains(program, analysis.predict(program))
    assert (first.layer, first.forward, first.product) == ("a", None, None)
    assert (second.layer, second.product) == ("fc", None)
    assert second.forward == pytest.approx(1.0, rel=0.01)


def test_the_report_says_so_in_every_format(program) -> None:
    prediction = analysis.predict(program)
    report = reports.build(program, None, prediction, source="net.prototxt", seed=1, notes=prediction.notes)
    expected = "the prediction stops at 'a' (Convolution): the axes of op Conv are too long for sums over its windows"
    assert json.loads(reports.render(report, "json"))["notes"] == [f"{expected}; what depends on it is not predicted"]
    assert report.notes == prediction.notes


def test_analyze_says_so(tmp_path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(WIDE)
    [note] = api.analyze(str(path), static=True, predict=True).notes
    assert note.startswith("the prediction stops at 'a' (Convolution)")


def test_many_stops_of_one_reason_are_one_line() -> None:
    stops = [analysis.prediction.Stop(index, f"n{index}", "Odd", "why") for index in range(5)]
    assert list(analysis.prediction._lines(stops)) == [
        "the prediction stops at 'n0', 'n1', 'n2' and 2 more (Odd): why; what depends on it is not predicted"
    ]
