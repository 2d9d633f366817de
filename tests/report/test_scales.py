"""Ratios that colour a net and are drawn over its depth, from numbers written by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest

from caffestat.report import Report
from caffestat.report.model import LayerGain
from caffestat.report.scales import depth_series, scales

from .reports import tiny_report


def changed(tops: Mapping[str, dict], diffs: Mapping[str, dict] | None = None) -> Report:
    """Return the tiny report with other numbers in the first top, and in the first gradient, of some layers."""
    report, diffs, rows = tiny_report(), diffs or {}, []
    for row in report.layers:
        first_top = tuple(replace(top, **tops.get(row.name, {})) for top in row.tops[:1])
        first_diff = tuple(replace(diff, **diffs.get(row.name, {})) for diff in row.bottom_diffs[:1])
        rows.append(replace(row, tops=first_top + row.tops[1:], bottom_diffs=first_diff + row.bottom_diffs[1:]))
    return replace(report, layers=tuple(rows))


def at(report: Report, values: list[float | None], layer: str) -> float | None:
    return values[[row.name for row in report.layers].index(layer)]


def test_signals_are_relative_to_the_data_and_gradients_to_the_loss() -> None:
    tops = {"data": {"mean_abs": 4.0}, "conv": {"mean_abs": 2.0}}
    report = changed(tops, {"loss": {"mean_abs": 0.5}, "one": {"mean_abs": 0.125}})
    found = scales(report)
    assert (at(report, found["forward"], "data"), at(report, found["forward"], "conv")) == (1, 0.5)
    assert (at(report, found["backward"], "loss"), at(report, found["backward"], "one")) == (1, 0.25)
    assert at(report, found["backward"], "data") is None
    assert depth_series(report)["forward"] == [row.tops[0].mean_abs for row in report.layers]
    assert at(report, depth_series(report)["backward"], "one") == 0.125


@pytest.mark.parametrize("data", [0.0, math.inf])
def test_no_signal_is_relative_to_nothing_or_to_infinity(data: float) -> None:
    assert "forward" not in scales(changed({"data": {"mean_abs": data}}))


def test_a_gradient_of_zero_is_no_loss_side() -> None:
    report = changed({}, {"loss": {"mean_abs": 0.0}, "sum": {"mean_abs": 8.0}, "one": {"mean_abs": 4.0}})
    found = scales(report)["backward"]
    assert (at(report, found, "loss"), at(report, found, "one")) == (0, 0.5)


def test_what_was_not_measured_is_as_predicted() -> None:
    tops = {"data": {"mean_abs": None, "predicted": 0.5}, "conv": {"mean_abs": 3.0, "predicted": 0.75}}
    report = changed(tops, {"one": {"mean_abs": 2.0, "predicted": 8.0}})
    found, series = scales(report), depth_series(report)
    assert (at(report, found["forward"], "data"), at(report, found["forward"], "conv")) == (1, 6)
    assert (at(report, found["forward_ratio"], "conv"), at(report, found["backward_ratio"], "one")) == (4, 0.25)
    assert at(report, found["forward_ratio"], "data") is None
    assert (at(report, series["forward_predicted"], "conv"), at(report, series["backward_predicted"], "one")) == (
        0.75,
        8,
    )


def test_params_and_gains_of_layers_that_have_them() -> None:
    report = tiny_report()
    gain = LayerGain(2.0, 3.0, 5.0, 7.0)
    report = replace(report, layers=tuple(replace(r, gain=gain if r.name == "one" else None) for r in report.layers))
    found, series = scales(report), depth_series(report)
    assert at(report, found["params"], "conv") == 6 * 2 * 3 * 2 + 6
    assert (at(report, found["params"], "relu"), at(report, found["macs"], "relu")) == (None, None)
    assert at(report, found["macs"], "two") == 2 * 6 * 7 * 6 * 2  # samples, inputs, outputs
    names = ("gain", "product", "gain_backward", "product_backward")
    assert [at(report, series[name], "one") for name in names] == [2, 3, 5, 7]
    assert [at(report, series[name], "two") for name in names] == [None] * 4
    assert at(report, found["gain"], "one") == 2


def test_updates_are_those_of_the_first_weight() -> None:
    report = tiny_report()
    row = next(row for row in report.layers if row.name == "conv")
    bias = replace(row.params[1], mean_abs=1.0, diff_mean_abs=9.0)
    weight = replace(row.params[0], mean_abs=4.0, diff_mean_abs=1.0, predicted=2.0, diff_predicted=6.0)
    rows = [replace(row, params=(bias, weight)) if one is row else one for one in report.layers]
    series = depth_series(replace(report, layers=tuple(rows)))
    assert (at(report, series["update"], "conv"), at(report, series["update_predicted"], "conv")) == (0.25, 3)
    assert at(report, series["update"], "relu") is None


def test_what_no_layer_has_is_left_out() -> None:
    assert set(scales(tiny_report(measured=False))) == {"params", "macs"}
