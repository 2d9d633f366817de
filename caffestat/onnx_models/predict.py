"""What a model will do to its signal and its gradient, worked out from its weights without running it."""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Sequence
from copy import deepcopy
from dataclasses import dataclass, field

import numpy as np

from caffestat.graph import Graph, Node
from caffestat.graph.load import Model
from caffestat.net.prediction import signal_of, uniform_integers
from caffestat.theory import Gradient, Moments, Signal, Source, Walk, normal, propagate

from .feeds import fitting, rows_of
from .losses import start
from .measure import measured_names

__all__ = ["Prediction", "predict"]


@dataclass
class Prediction:
    """Moments by the names of a Measurement; an absent name is not predicted.

    values, gradients  mean, second moment and mean |x| of each
    signals  the Signal behind each value: its distribution and correlations
    """

    values: dict[str, Moments] = field(default_factory=dict)
    gradients: dict[str, Moments] = field(default_factory=dict)
    signals: dict[str, Signal] = field(default_factory=dict)


def predict(
    model: Model,
    *,
    inputs: Mapping[str, np.ndarray] | None = None,
    loss: str = "noise",
    forward_only: bool = False,
    notes: MutableSequence[str],
) -> Prediction:
    """Return the expected moments of every float value and param and, unless `forward_only`, of its gradient.

    Weights are what they are in the model, inputs what `measure` would feed. The parameters are those of `measure`; a
    note says which ops, and with them what they feed, are not predicted.

    Raises InputError where a given array does not fit, or the model has no such loss.
    """
    given = fitting(model.graph, inputs or {})
    graph = deepcopy(model.graph)  # the loss adds nodes
    values, params = measured_names(model)
    seeds: dict[str, str] = {}
    if not forward_only:
        beginning = start(graph, loss, np.random.default_rng(0))
        notes.append(beginning.words)
        seeds = beginning.seeds
        graph.infer()
    signals = {name: _finite(array) for name, array in model.arrays.items()}
    signals |= {name: _fed(graph, name, given.get(name)) for name in graph.inputs}
    gaps: list[Node] = []
    walk = propagate(graph, signals, {value: _seed(graph, seed) for value, seed in seeds.items()}, gaps=gaps)
    of_loss = graph.nodes[len(model.graph.nodes) :]
    ops = dict.fromkeys(node.op for node in gaps if node not in of_loss)
    if ops:
        notes.append(f"not predicted, nor what depends on it: {', '.join(ops)}")
    return _collect(walk, [*values, *params], forward_only)


def _finite(array: np.ndarray) -> Signal | None:
    """Return the signal of an array; None where it holds NaN or infinity, of which nothing can be said."""
    return signal_of(array) if np.isfinite(array).all() else None


def _fed(graph: Graph, name: str, array: np.ndarray | None) -> Signal | None:
    """Return the signal of an input: of the given array, else of what is drawn for it."""
    if array is not None:
        return _of_data(array)
    if graph.inputs[name].is_float:
        return normal(0.0, 1.0)
    rows = rows_of(graph, name)
    return uniform_integers(rows) if rows is not None else signal_of(np.ones(1))


def _of_data(array: np.ndarray) -> Signal | None:
    """Return the distribution of [N, C, places…], and how alike two places of a channel, and two samples, are."""
    found = _finite(array)
    if found is None:
        return None
    blob = np.asarray(array, np.float64)
    blob = blob.reshape(*blob.shape[:2], -1) if blob.ndim > 1 else blob.reshape(-1, 1, 1)
    return Signal.of_pairs(found.values, _pairs(blob, 2), _pairs(blob, 0))


def _pairs(blob: np.ndarray, axis: int) -> float:
    """Return E[x x'] over the pairs of elements that differ along an axis; 0 where there is but one."""
    count = blob.shape[axis]
    squares = float((blob.sum(axis=axis) ** 2).sum() - (blob**2).sum())
    return squares / (blob.size * (count - 1)) if count > 1 and blob.size else 0.0


def _seed(graph: Graph, seed: str) -> Gradient:
    """Return the gradient that a value of `start` is: noise where it is fed, else ones."""
    return Gradient.of(Source(1.0) if seed in graph.inputs else Source(1.0, 1.0, 1.0, 1.0))


def _collect(walk: Walk, names: Sequence[str], forward_only: bool) -> Prediction:
    found = Prediction()
    for name in names:
        signal, gradient = walk.signal(name), None if forward_only else walk.gradient_moments(name)
        if signal is not None:
            found.signals[name], found.values[name] = signal, signal.moments
        if gradient is not None:
            found.gradients[name] = gradient
    return found
