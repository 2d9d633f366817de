"""What a program will do to its signal and its gradient, derived from its fillers or weights without running it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from caffestat.errors import InputError
from caffestat.graph import Node
from caffestat.program import Forward, Key, Program, RowParam
from caffestat.program.feeds import fitting
from caffestat.theory import Gradient, Moments, Signal, Source, Walk, has_rule, propagate
from caffestat.theory.sources import of_array, of_data, of_filler

__all__ = ["Prediction", "predict"]


@dataclass
class Prediction:
    """Moments by the keys of a Measurement; an absent key is not predicted.

    tops, params, bottom_diffs, param_diffs  as in Measurement, mean, second moment and mean |x| of each
    signals  the Signal behind each top: its distribution and correlations
    gaps     the ops that are not predicted
    notes    what the reader should know, in sentences
    """

    tops: dict[Key, Moments] = field(default_factory=dict)
    params: dict[Key, Moments] = field(default_factory=dict)
    bottom_diffs: dict[Key, Moments] = field(default_factory=dict)
    param_diffs: dict[Key, Moments] = field(default_factory=dict)
    signals: dict[Key, Signal] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def predict(
    program: Program,
    *,
    values: Sequence[np.ndarray] | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    input_std: float = 1.0,
    input_mean: float = 0.0,
) -> Prediction:
    """Return the expected moments of every value, param and gradient at the first iteration.

    values:  given params (trained weights) instead of what the fillers will draw
    inputs:  arrays for data, by name; other data is taken for independent normal values of input_mean and input_std,
             labels for uniform over their classes

    An op without a moments rule is a gap. Raises InputError when a given array does not fit, NetError when nothing can
    be computed.
    """
    forward = program.forward()
    graph = forward.graph
    signals: dict[str, Signal | None] = {
        name: _signal(program, program.params[number], None if values is None else values[number])
        for number, name in forward.params.items()
    }
    for feed in forward.feeds:
        signals.update(zip(feed.names, feed.signals(input_mean, input_std), strict=True))
    signals |= {name: of_data(array) for name, array in fitting(graph, forward.feeds, inputs or {}).items()}
    gaps: list[Node] = []
    walk = propagate(
        graph, signals, {v: _seed(seed) for v, seed in forward.seeds.items() if seed}, forward.unwanted, gaps
    )
    found = _collect(forward, walk)
    found.gaps = tuple(dict.fromkeys(node.op for node in gaps if _is_gap(program, forward, node)))
    lines = (f"not predicted, nor what depends on it: {', '.join(found.gaps)}",) if found.gaps else ()
    found.notes = (*forward.notes, *lines)
    return found


def _is_gap(program: Program, forward: Forward, node: Node) -> bool:
    """Tell whether a reader should know of an op that is not predicted.

    The ops of a Caffe layer are our own: those that are declared unpredicted belong to layers that have no signal.
    """
    if program.is_caffe:
        return not has_rule(node.op)
    return node not in forward.loss_nodes


def _signal(program: Program, param: RowParam, given: np.ndarray | None) -> Signal | None:
    """Return the distribution of a param: of its values, None where they are not finite, else of its filler."""
    array = param.stored if given is None else given
    if array is not None:
        return of_array(array) if np.isfinite(array).all() else None
    assert param.filler is not None
    try:
        return of_filler(param.filler, param.shape)
    except InputError as error:
        raise program.at(param.row, error) from error


def _seed(seed: float | str) -> Gradient:
    """Return the gradient that a value starts with: a number everywhere or, where it is fed, noise."""
    if isinstance(seed, str):
        return Gradient.of(Source(1.0))
    return Gradient.of(Source(seed**2, 1.0, seed**2, seed**2))


def _collect(forward: Forward, walk: Walk) -> Prediction:
    found = Prediction()
    for key, value in forward.tops.items():
        signal = walk.signal(value)
        if signal is not None:
            found.signals[key], found.tops[key] = signal, signal.moments
    for key, value in forward.uses.items():
        signal = walk.signal(forward.graph.updates.get(value, value))
        if signal is not None:
            found.params[key] = signal.moments
    asked = ((forward.wanted, found.bottom_diffs), (forward.wanted_params, found.param_diffs))
    for wanted, target in asked:
        for key, value in wanted.items():
            moments = walk.gradient_moments(value)
            if moments is not None:
                target[key] = moments
    return found
