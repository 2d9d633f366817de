"""Where the backward pass of a model without a loss starts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from caffestat.autodiff import COTANGENT
from caffestat.errors import InputError
from caffestat.graph import Graph

__all__ = ["LOSSES", "Start", "start"]

LOSSES = ("noise", "ones", "cross-entropy")
"""The losses that need no value's name."""


@dataclass
class Start:
    """The gradient (a value) of each value to start from, what to feed for it, and a sentence about it."""

    words: str
    seeds: dict[str, str] = field(default_factory=dict)
    feeds: dict[str, np.ndarray] = field(default_factory=dict)


def start(graph: Graph, loss: str, random: np.random.Generator) -> Start:
    """Emit what the backward pass starts from.

    loss: "noise" (the gradient of every output is N(0, 1)), "ones" (it is 1), "cross-entropy" (the mean softmax cross
    entropy of the first output, with random labels), or the name of a value whose sum is the loss.

    Raises InputError when the model has no such value.
    """
    outputs = [name for name in graph.outputs if name in graph.specs and graph.specs[name].is_float]
    if loss in LOSSES and not outputs:
        raise InputError("the model has no floating-point output to start a backward pass from: use --forward-only")
    if loss == "noise":
        return _noise(graph, outputs, random)
    if loss == "ones":
        return _ones(graph, outputs, "the gradient of every output is 1")
    if loss == "cross-entropy":
        return _cross_entropy(graph, outputs[0], random)
    if loss not in graph.specs or not graph.specs[loss].is_float:
        known = ", ".join((*LOSSES, *outputs))
        raise InputError(f"--loss {loss}: the model has no such value; expected one of its values or {known}")
    return _ones(graph, [loss], f"the loss is the sum of {loss}")


def _noise(graph: Graph, outputs: list[str], random: np.random.Generator) -> Start:
    result = Start("the gradient of every output is N(0, 1) noise; --loss says another loss")
    for name in outputs:
        spec = graph.specs[name]
        seed = graph.input(COTANGENT + name, spec.shape, spec.dtype)
        result.seeds[name] = seed
        result.feeds[seed] = random.standard_normal(spec.shape).astype(spec.dtype)
    return result


def _ones(graph: Graph, values: list[str], words: str) -> Start:
    seeds = {}
    for name in values:
        spec = graph.specs[name]
        one = graph.constant(1, spec.dtype)
        seeds[name] = graph.declare(graph.emit("Expand", one, graph.ints(*spec.shape)), spec.shape, spec.dtype)
    return Start(words, seeds)


def _cross_entropy(graph: Graph, logits: str, random: np.random.Generator) -> Start:
    """Classes lie on the last axis of [N, C] and [N, T, C], on the second of images [N, C, H, W]."""
    shape = graph.shape(logits)
    if len(shape) < 2:
        raise InputError(f"--loss cross-entropy: output {logits!r} of shape {shape} has no axis of classes")
    scores, dtype = logits, graph.specs[logits].dtype
    if len(shape) == 3:
        scores = graph.declare(graph.transpose(logits, 0, 2, 1), (shape[0], shape[2], shape[1]), dtype)
    batch, classes, *places = graph.shape(scores)
    labels = graph.input("labels", (batch, *places), np.int64)
    loss = graph.emit("SoftmaxCrossEntropyLoss", scores, labels, reduction="mean", hint="loss")
    graph.declare(loss, (), dtype)
    words = f"the loss is the mean softmax cross entropy of {logits} with random labels"
    drawn = random.integers(0, classes, (batch, *places))
    return Start(words, {loss: graph.constant(1, dtype)}, {labels: drawn})
