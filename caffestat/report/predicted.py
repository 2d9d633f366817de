"""Puts what is predicted of a net beside what was measured of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from caffestat.net import Net
from caffestat.net.gains import gains
from caffestat.net.prediction import Prediction
from caffestat.theory import Moments

from .model import LayerGain, LayerRow, Report

__all__ = ["with_prediction"]

Found = Mapping[tuple[int, int], Moments]


def with_prediction(report: Report, net: Net, prediction: Prediction) -> Report:
    """Return the report of this net with predictions and gains in its rows."""
    by_node = {g.node: LayerGain(g.forward, g.product, g.backward, g.product_backward) for g in gains(net, prediction)}
    layers = [
        _layer(net, index, replace(layer, gain=by_node.get(index)), prediction)
        for index, layer in enumerate(report.layers)
    ]
    return replace(report, layers=tuple(layers))


def _layer(net: Net, index: int, layer: LayerRow, prediction: Prediction) -> LayerRow:
    flags = net.nodes[index].bottom_need_backward
    with_diff = [bottom for bottom, needed in enumerate(flags) if needed] if net.nodes[index].need_backward else []
    return replace(
        layer,
        tops=tuple(
            replace(top, predicted=value)
            for top, value in zip(layer.tops, _values(prediction.tops, index, range(len(layer.tops))), strict=True)
        ),
        bottom_diffs=tuple(
            replace(diff, predicted=value)
            for diff, value in zip(layer.bottom_diffs, _values(prediction.bottom_diffs, index, with_diff), strict=True)
        ),
        params=tuple(
            replace(
                param,
                predicted=_value(prediction.params, index, param.index),
                diff_predicted=_value(prediction.param_diffs, index, param.index),
            )
            for param in layer.params
        ),
    )


def _values(found: Found, node: int, indices: Iterable[int]) -> list[float | None]:
    return [_value(found, node, index) for index in indices]


def _value(found: Found, node: int, index: int) -> float | None:
    moments = found.get((node, index))
    return moments.mean_abs if moments else None
