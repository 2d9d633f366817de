"""What a net will do to its signal, worked out from its fillers without running it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from caffestat.errors import InputError
from caffestat.fillers import Filler, Normal, Sample, Stream, Uniform, density
from caffestat.theory import Gradient, Moments, Signal, Source, Walk, propagate
from caffestat.theory.quadrature import NODES, WEIGHTS, cdf, quantiles

from .lower import Lowered, behind_unknown, lower
from .model import Net, Node

__all__ = ["Prediction", "filler_signal", "predict", "signal_of", "uniform_integers"]

Key = tuple[int, int]

_DRAWN = 20_000  # elements of a layer's own draws that are looked at, at least
_LOOKED_AT = 1_000_000  # elements of a large array


@dataclass
class Prediction:
    """Moments by the keys of a Measurement; an absent key is not predicted.

    tops, params, bottom_diffs, param_diffs  as in Measurement, mean, second moment and mean |x| of each
    latents  the Signal behind each top: its distribution and correlations
    """

    tops: dict[Key, Moments] = field(default_factory=dict)
    params: dict[Key, Moments] = field(default_factory=dict)
    bottom_diffs: dict[Key, Moments] = field(default_factory=dict)
    param_diffs: dict[Key, Moments] = field(default_factory=dict)
    signals: dict[Key, Signal] = field(default_factory=dict)


def predict(
    net: Net,
    *,
    values: Sequence[np.ndarray] | None = None,
    assume_filler: str | None = None,
    input_std: float = 1.0,
    input_mean: float = 0.0,
) -> Prediction:
    """Return the expected moments of every blob, param and gradient at the first iteration.

    values:        given params (trained weights) instead of what the fillers will draw
    assume_filler: the filler type of weights that have none written
    input_std, input_mean: of external data, taken for independent normal values; labels are uniform over their classes
    """
    lowered = lower(net)
    inputs: dict[str, Signal | None] = {}
    for number, name in lowered.params.items():
        if values is not None:
            inputs[name] = signal_of(values[number])
        else:
            inputs[name] = _param_signal(net, number, assume_filler)
    for node in net.nodes:
        inputs.update(_fed(net, node, lowered, input_mean, input_std))
    walk = propagate(lowered.graph, inputs, _seeds(net, lowered), _unneeded(net, lowered))
    return _collect(net, lowered, walk)


def signal_of(array: np.ndarray) -> Signal:
    """Return the distribution of given params, the same at every place and in every sample.

    Of large ones a million elements are looked at.
    """
    flat = np.asarray(array).ravel()
    if flat.size > _LOOKED_AT:
        flat = flat[np.random.default_rng(0).integers(0, flat.size, _LOOKED_AT)]
    flat = flat.astype(np.float64)
    if flat.size == 0 or np.ptp(flat) == 0:
        return _constant(float(flat[0]) if flat.size else 0.0)
    return Signal(quantiles(flat, np.full(flat.size, 1 / flat.size)), 1.0, 1.0)


def _constant(value: float) -> Signal:
    return Signal(np.full_like(NODES, value), 1.0, 1.0)


def _uniform(low: float, high: float) -> Signal:
    """U(low, high), its second moment exact at the nodes."""
    middle, half = (low + high) / 2, (high - low) / 2
    shape = 2 * cdf(NODES) - 1
    shape /= math.sqrt(3 * float(shape**2 @ WEIGHTS))
    return Signal(middle + half * shape, 1.0, 1.0)


def filler_signal(filler: Filler, shape: tuple[int, ...]) -> Signal | None:
    """Return the distribution that a filler gives a blob of `shape`, the same at every place and in every sample.

    None where it is not finite. Raises InputError for a filler that Caffe refuses, one of an unknown type among them.
    """
    found = density(filler, shape)
    if not (math.isfinite(found.mean) and math.isfinite(found.variance)):
        return None
    if isinstance(found, Uniform):
        return _uniform(found.low, found.high)
    if isinstance(found, Normal):
        return _normal(found)
    return signal_of(found.values) if isinstance(found, Sample) else _constant(found.mean)


def _normal(found: Normal) -> Signal:
    values = found.center + found.std * NODES
    if found.kept == 1:
        return Signal(values, 1.0, 1.0)
    mixed = quantiles(np.stack([values, 0 * values]), np.outer([found.kept, 1 - found.kept], WEIGHTS))
    return Signal(mixed, 1.0, 1.0)


def _param_signal(net: Net, number: int, assume_filler: str | None) -> Signal | None:
    from .initial import with_assumed_filler

    param = with_assumed_filler(net.params[number].param, assume_filler)
    return _layer_signal(net.nodes[net.params[number].node], param.filler, param.shape)


def _layer_signal(node: Node, filler: Filler, shape: tuple[int, ...]) -> Signal | None:
    """Return what a layer's filler draws from. Raises NetError where Caffe refuses it."""
    try:
        return filler_signal(filler, shape)
    except InputError as error:
        raise node.layer.error(str(error)) from error


def _fed(net: Net, node: Node, lowered: Lowered, mean: float, std: float) -> dict[str, Signal | None]:
    """Return the signals of the graph inputs that a node declared."""
    names = lowered.feeds.get(node.index, ())
    if not names:
        return {}
    if node.layer.is_external:
        from caffestat.data.synthetic import classes_of

        classes = [classes_of(net, blob, node.index + 1) for blob in node.tops]
        return {name: _external(count, mean, std) for name, count in zip(names, classes, strict=True)}
    return dict(zip(names, _drawn(node), strict=True))


def _external(classes: int | None, mean: float, std: float) -> Signal:
    return Signal(mean + std * NODES) if classes is None else uniform_integers(classes)


def uniform_integers(count: int) -> Signal:
    """Return independent integers, each of 0 to count - 1 equally likely: labels, rows of a table."""
    return Signal(np.floor(cdf(NODES) * count).clip(0, count - 1))


def _drawn(node: Node) -> list[Signal | None]:
    """Return the distributions of what a layer draws for itself: of its fillers, else of what it draws (masks)."""
    fillers = node.layer.feed_fillers()
    if fillers:
        shapes = [shape or () for shape in node.top_shapes]
        found = (_layer_signal(node, filler, shape) for filler, shape in zip(fillers, shapes, strict=True))
        return [_independent(signal) for signal in found]
    bottoms = [shape for shape in node.bottom_shapes if shape is not None]
    stream = Stream(0)
    drawn: list[list[np.ndarray]] = []
    count = 0
    while count < _DRAWN:
        drawn.append(list(node.layer.draw_feeds(stream, bottoms)))
        count += max(sum(array.size for array in drawn[-1]), 1)
    arrays = (np.concatenate([np.ravel(a) for a in column]) for column in zip(*drawn, strict=True))
    return [_independent(signal_of(array)) for array in arrays]


def _independent(signal: Signal | None) -> Signal | None:
    """Return the distribution of values of which no two have anything in common."""
    return signal if signal is None or signal.is_constant else Signal(signal.values)


def _seeds(net: Net, lowered: Lowered) -> dict[str, Gradient]:
    """Return the gradient that each weighted top starts with: its loss weight, everywhere."""
    seeds = {}
    for node in net.nodes:
        for top, weight in enumerate(node.loss_weights):
            if weight and node.need_backward and (node.index, top) in lowered.tops:
                square = weight**2
                seeds[lowered.tops[node.index, top]] = Gradient.of(Source(square, 1.0, square, square))
    return seeds


def _unneeded(net: Net, lowered: Lowered) -> set[str]:
    """Return the data blobs that nobody asks a gradient of."""
    return {
        lowered.tops[node.index, top]
        for node in net.nodes
        for top, blob in enumerate(node.tops)
        if (node.index, top) in lowered.tops and not net.blobs[blob].need_backward
    }


def _collect(net: Net, lowered: Lowered, walk: Walk) -> Prediction:
    found, unknown = Prediction(), behind_unknown(net, lowered)
    for key, value in lowered.tops.items():
        signal = walk.signal(value)
        if signal is not None:
            found.signals[key], found.tops[key] = signal, signal.moments
    for key, value in lowered.uses.items():
        signal = walk.signal(lowered.graph.updates.get(value, value))
        if signal is not None:
            found.params[key] = signal.moments
    for node in net.nodes:
        if node.need_backward and unknown.isdisjoint(node.tops):
            asked = [
                (key, needed, lowered.bottoms, found.bottom_diffs)
                for key, needed in _keys(node, node.bottom_need_backward)
            ]
            asked += [
                (key, needed, lowered.uses, found.param_diffs) for key, needed in _keys(node, node.param_propagate_down)
            ]
            for key, needed, values, target in asked:
                moments = walk.gradient_moments(values[key]) if needed and key in values else None
                if moments is not None:
                    target[key] = moments
    return found


def _keys(node: Node, needed: Sequence[bool]) -> list[tuple[Key, bool]]:
    return [((node.index, index), flag) for index, flag in enumerate(needed)]
