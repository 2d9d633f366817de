"""What a pass of a log implies beyond its numbers: the signals that a run measures, as far as means determine them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache

from caffestat.errors import Place
from caffestat.layers import layer_class
from caffestat.net import TRAIN, Solver
from caffestat.ops import activations
from caffestat.ops.activations import Nonlinearity
from caffestat.program import Program
from caffestat.schema import LayerParameter
from caffestat.training import solver_type

from .reader import Key, Pass

__all__ = ["Background", "background_of", "signals_of", "without_statistics"]

_BY_NAME = {"relu": activations.RELU, "sigmoid": activations.SIGMOID, "tanh": activations.TANH}
_LEAKY = ("prelu", "lrelu", "leaky", "crelu", "rrelu")  # rectifiers that pass something of their negative half
_STATISTICS = 3  # params of a BatchNorm: sums of means and of variances, and their weight
_STEPS_BY_RATE = ("sgd", "nesterov")
_SAME_NORM = 1e-2  # relative: debug_info and the clipping add squares up in another order


@dataclass(frozen=True)
class Background:
    """What is known from a net and a solver beside a log.

    activations  by layer; None without a net: the log's own settings, or the layers' names, then tell some
    multipliers  the lr_mult of params by (layer, index), 0 for those that no gradient updates; of layers whose params
                 are not known, none
    solver       the solver's type, "" without one
    """

    activations: Mapping[str, Nonlinearity] | None = None
    multipliers: Mapping[tuple[str, int], float] = field(default_factory=dict)
    solver: str = ""


def background_of(program: Program, solver: Solver | None) -> Background:
    """Return what a net, and its solver where there is one, tell."""
    params = {
        (row.name, index): program.params[number] for row in program.rows for index, number in enumerate(row.params)
    }
    return Background(
        {row.name: row.activation for row in program.rows if row.activation},
        {key: 0.0 if param.is_statistic else param.lr_mult for key, param in params.items()},
        solver_type(solver.message) if solver else "",
    )


def without_statistics(one: Pass, background: Background) -> None:
    """Take the gradients of params that no gradient updates out of a pass: Caffe prints 0 for running statistics."""
    unlearned = set(_unlearned(one, background))
    if unlearned:
        kept = [pair for pair in zip(one.values.items(), one.lines, strict=True) if pair[0][0] not in unlearned]
        one.values, one.lines = {key: value for (key, value), _ in kept}, [line for _, line in kept]


def _unlearned(one: Pass, background: Background) -> Iterator[Key]:
    diffs = {key: value for key, value in one.values.items() if key.direction == "backward"}
    params = {key: value for key, value in diffs.items() if key.role == "param"}
    yield from (key for key in params if background.multipliers.get((key.layer, _index(key))) == 0)
    known = {layer for layer, _ in background.multipliers}
    blocked = {key.layer for key, value in diffs.items() if key.role == "bottom" and value == 0}
    by_layer: dict[str, list[Key]] = {}
    for key in params:
        if key.layer not in known:
            by_layer.setdefault(key.layer, []).append(key)
    for layer, keys in by_layer.items():
        # a layer that passes a gradient on and has none for any of its three params: a BatchNorm
        if len(keys) == _STATISTICS and layer not in blocked and not any(params[key] for key in keys):
            yield from keys


def _index(key: Key) -> int:
    return int(key.blob) if key.blob.isdecimal() else -1


def signals_of(one: Pass, background: Background) -> dict[Key, float]:
    """Return the signals that the numbers of a train net's pass imply.

    update_ratio  mean |update| ÷ mean |w| of weights, where the log has `[Update]` lines
    step_ratio    elsewhere: rate · lr_mult · mean |dw| ÷ mean |w|, the step of this gradient alone, without momentum,
                  of SGD and Nesterov
    step_bound    the same where the solver's type is not known: adaptive ones take larger steps of small gradients
    zeros         1 for a ReLU whose top is zero everywhere and whose bottom is not
    open          mean |dx| ÷ mean |dy| of a ReLU: the share of the gradient that passes
    slope         the same of a sigmoid or tanh ÷ its slope at 0: the mean slope that the gradient meets
    """
    if one.test_net is not None:
        return {}
    return {**dict(_activity(one, background)), **dict(_steps(one, background))}


def _activity(one: Pass, background: Background) -> Iterator[tuple[Key, float]]:
    """Yield the shares that activations pass, forward and backward."""
    tops: dict[str, tuple[str, float]] = {}  # by layer: name and mean of its top
    signals: dict[str, float] = {}  # the last mean of each blob
    diffs: dict[str, float] = {}
    before = 0.0
    for key, value in one.values.items():
        kind = _activation(key.layer, background, one.types)
        if key.direction == "forward" and key.role == "top":
            tops[key.layer] = key.blob, value
            if kind and kind.cuts and value == 0 and signals.get(key.blob, before):
                yield Key("zeros", key.layer, "top", key.blob), 1.0
            before = signals[key.blob] = value
        elif key.direction == "backward" and key.role == "bottom":
            above = diffs.get(tops[key.layer][0]) if key.layer in tops else None
            slope = kind.slope_at_zero if kind and above else None
            if kind and above and slope and kind.cuts:
                yield Key("open", key.layer, "bottom", key.blob), value / above
            elif kind and above and slope and kind.squashes:
                yield Key("slope", key.layer, "bottom", key.blob), value / above / slope
            diffs[key.blob] = value


def _activation(layer: str, background: Background, types: Mapping[str, str]) -> Nonlinearity | None:
    if background.activations is not None:
        return background.activations.get(layer)
    if layer in types:
        return _of_type(types[layer])
    name = layer.lower()
    if any(word in name for word in (*_LEAKY, "loss")):
        return None
    return next((kind for word, kind in _BY_NAME.items() if word in name), None)


@cache
def _of_type(name: str) -> Nonlinearity | None:
    """Return the nonlinearity of a layer type with its settings as they are by default; None for any other type."""
    kind = layer_class(name)
    return kind(LayerParameter(type=name), TRAIN, Place("")).nonlinearity() if kind else None


def _steps(one: Pass, background: Background) -> Iterator[tuple[Key, float]]:
    """Yield how large updates are beside the weights."""
    for key, (weight, update) in one.updates.items():
        if weight:
            yield key._replace(direction="update_ratio"), update / weight
    solver = background.solver or one.solver
    if one.updates or one.rate is None or (solver and solver.lower() not in _STEPS_BY_RATE):
        return
    direction = "step_ratio" if solver else "step_bound"
    rate = one.rate * _scale(one) / one.accumulated
    params: dict[str, list[float]] = {}
    for key, value in one.values.items():
        if key.role == "param" and key.direction == "forward":
            params.setdefault(key.layer, []).append(value)
        elif key.role == "param" and _index(key) in range(len(params.get(key.layer, ()))):
            weight = params[key.layer][_index(key)]
            step = rate * background.multipliers.get((key.layer, _index(key)), 1.0) * value
            if weight and step:
                yield key._replace(direction=direction), step / weight


def _scale(one: Pass) -> float:
    """Return what clipping multiplies the gradients by, 1 where the line about it is of a later iteration."""
    if one.clip is None or one.norms is None:
        return 1.0
    norm, scale = one.clip
    return scale if abs(norm - one.norms[3]) <= _SAME_NORM * norm else 1.0
