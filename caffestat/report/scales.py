"""Numbers by which the layers of a report are coloured and drawn over depth: ratios of the numbers in its rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .model import LayerRow, ParamRow, Report

__all__ = ["MODES", "TITLES", "Mode", "depth_series", "scales"]

Values = list["float | None"]

TITLES = {
    "x": "mean |x| of the tops",
    "dx": "mean |dx| of the bottoms",
    "w": "mean |w| of the params",
    "dw": "mean |dw| of the params",
}
"""What charts over depth are called, by the kind of their numbers."""


@dataclass(frozen=True)
class Mode:
    """One way to colour a net.

    key, title  its name in the data, and for people
    unit        what a value means
    diverging   the values are ratios around 1, else counts from 0 up
    """

    key: str
    title: str
    unit: str
    diverging: bool


MODES = (
    Mode("forward", "mean |x| ÷ input", "times the input's mean |x|", True),
    Mode("backward", "mean |dx| ÷ loss side", "times the mean |dx| at the loss", True),
    Mode("gain", "gain n·Var(w)", "times E[x²], by the layer and its nonlinearity", True),
    Mode("forward_ratio", "mean |x| measured ÷ predicted", "times the predicted mean |x|", True),
    Mode("backward_ratio", "mean |dx| measured ÷ predicted", "times the predicted mean |dx|", True),
    Mode("params", "params", "learned numbers", False),
    Mode("macs", "multiply-adds", "multiply-adds of one forward pass", False),
)


def scales(report: Report) -> dict[str, Values]:
    """Return, by the key of each of `MODES` that has a value, one number per layer; None where there is none."""
    found = {
        "forward": _relative(_forward(report), _first_input(report)),
        "backward": _relative(_backward(report), _loss_side(report)),
        "gain": [row.gain.forward if row.gain else None for row in report.layers],
        "forward_ratio": _each(report, _forward_ratio),
        "backward_ratio": _each(report, _backward_ratio),
        "params": _each(report, lambda row: row.learned or None),
        "macs": _each(report, lambda row: row.macs or None),
    }
    return {key: values for key, values in found.items() if any(value is not None for value in values)}


def depth_series(report: Report) -> dict[str, Values]:
    """Return the series of the charts over depth, one number per layer."""
    return {
        "forward": _each(report, lambda row: row.tops[0].mean_abs if row.tops else None),
        "forward_predicted": _each(report, lambda row: row.tops[0].predicted if row.tops else None),
        "backward": _each(report, lambda row: row.bottom_diffs[0].mean_abs if row.bottom_diffs else None),
        "backward_predicted": _each(report, lambda row: row.bottom_diffs[0].predicted if row.bottom_diffs else None),
        "gain": [row.gain.forward if row.gain else None for row in report.layers],
        "product": [row.gain.product if row.gain else None for row in report.layers],
        "gain_backward": [row.gain.backward if row.gain else None for row in report.layers],
        "product_backward": [row.gain.product_backward if row.gain else None for row in report.layers],
        "update": _each(report, _update),
        "update_predicted": _each(report, _update_predicted),
    }


def _each(report: Report, value: Callable[[LayerRow], float | None]) -> Values:
    return [value(row) for row in report.layers]


def _forward(report: Report) -> Values:
    """Return the mean |x| of each layer's first top: measured, else predicted."""
    return _each(report, lambda row: _known(row.tops[0]) if row.tops else None)


def _backward(report: Report) -> Values:
    """Return the mean |dx| of each layer's first bottom that gets a gradient: measured, else predicted."""
    return _each(report, lambda row: _known(row.bottom_diffs[0]) if row.bottom_diffs else None)


def _known(value: object) -> float | None:
    measured: float | None = getattr(value, "mean_abs", None)
    predicted: float | None = getattr(value, "predicted", None)
    return predicted if measured is None else measured


def _first_input(report: Report) -> float | None:
    """Return the mean |x| of what the net reads: its first input, or the first top of a layer without bottoms."""
    outside = [_known(value) for value in report.inputs]
    made = [_known(top) for row in report.layers if not row.reads for top in row.tops[:1]]
    return next((value for value in (*outside, *made) if value), None)


def _loss_side(report: Report) -> float | None:
    """Return the mean |dx| at the last layer that has a gradient of a bottom."""
    return next((value for value in reversed(_backward(report)) if value), None)


def _relative(values: Sequence[float | None], reference: float | None) -> Values:
    return [_ratio(value, reference) for value in values]


def _ratio(value: float | None, reference: float | None) -> float | None:
    if value is None or not reference or math.isinf(reference):
        return None
    return value / reference


def _forward_ratio(row: LayerRow) -> float | None:
    return _ratio(row.tops[0].mean_abs, row.tops[0].predicted) if row.tops else None


def _backward_ratio(row: LayerRow) -> float | None:
    return _ratio(row.bottom_diffs[0].mean_abs, row.bottom_diffs[0].predicted) if row.bottom_diffs else None


def _update(row: LayerRow) -> float | None:
    """Return the mean |dw| ÷ mean |w| of the first weight."""
    weight = _first_weight(row)
    return _ratio(weight.diff_mean_abs, weight.mean_abs) if weight else None


def _update_predicted(row: LayerRow) -> float | None:
    weight = _first_weight(row)
    return _ratio(weight.diff_predicted, weight.predicted) if weight else None


def _first_weight(row: LayerRow) -> ParamRow | None:
    return next((param for param in row.params if param.role == "weight"), None)
