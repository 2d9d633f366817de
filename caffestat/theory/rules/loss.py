"""Softmax, and the loss behind it: all classes of a sample together, which no rule per element can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from caffestat.graph import Node

from ..engine import Walk, backward_moments, moments
from ..quadrature import NODES, Array, expect, quantiles
from ..signal import Gradient, Signal, Source, Term
from .linear import known

Gradients = Sequence[Gradient | None]

_SAMPLED = 200_000


@dataclass(frozen=True)
class Softmax:
    """Of p = softmax(z), C independent logits, by sampling: its distribution, E[-log p], E[p p'] of correlated
    samples.
    """

    values: Array
    loss: float
    cross: tuple[float, float]


@lru_cache(maxsize=32)
def softmax_of(classes: int, deviation: float, rho_space: float, rho_batch: float) -> Softmax:
    """Sample p for normal logits of a standard deviation; always the same samples."""
    random = np.random.default_rng(0)
    rows = max(_SAMPLED // classes, 64)
    shared, own, other = (random.standard_normal((rows, classes)) for _ in range(3))
    p, log_p = _softmax(deviation * own)
    crosses = []
    for rho in (rho_space, rho_batch):
        first, second = (
            _softmax(deviation * (math.sqrt(rho) * shared + math.sqrt(1 - rho) * e))[0] for e in (own, other)
        )
        crosses.append(float((first * second).mean()))
    return Softmax(quantiles(p, np.full(p.shape, 1 / p.size)), float(-log_p.mean()), (crosses[0], crosses[1]))


def _softmax(z: Array) -> tuple[Array, Array]:
    shifted = z - z.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return np.exp(log_p), log_p


def _of(walk: Walk, node: Node, axis: int = -1) -> tuple[Softmax, int]:
    z = known(walk.signal(node.inputs[0]))
    shape = walk.shape(node.inputs[0])
    classes = shape[node.get("axis", axis)] if shape else 1
    deviation = math.sqrt(max(z.second - expect(z.values) ** 2, 0.0))
    return softmax_of(classes, *(float(f"{value:.6g}") for value in (deviation, z.rho_space, z.rho_batch))), classes


def _signal(found: Softmax) -> Signal:
    return Signal.of_pairs(found.values, found.cross[0], found.cross[1])


@moments("Softmax")
def softmax(walk: Walk, node: Node) -> Sequence[Signal]:
    """p = eᶻ / Σ eᶻ."""
    found, _ = _of(walk, node)
    return [_signal(found)]


@backward_moments("Softmax")
def softmax_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dz = p · (dy - Σ p·dy): E[dz²] = E[dy²] · (E[p²] - 2 E[p³] + C E[p²]²), all dy alike."""
    dy, (found, classes) = dys[0], _of(walk, node)
    assert dy is not None
    square, cube = expect(found.values**2), expect(found.values**3)
    second = max(square - 2 * cube + classes * square**2, 0.0)
    flat = np.ones_like(NODES)
    return [dy.times(Term(0 * flat, second * flat, math.sqrt(second) * flat))]


def _normalizer(node: Node, labels: float) -> float:
    """Return what the sum over labels is divided by: ONNX's reduction says it, or a framework's own number."""
    return float(node.get("normalizer", 1 if node.get("reduction") == "sum" else labels))


@moments("SoftmaxCrossEntropyLoss")
def softmax_loss(walk: Walk, node: Node) -> Sequence[Signal | None]:
    """loss = -Σ log p[label] / normalizer, and p; log p, which ONNX has in its place, is not predicted.

    Nor are losses with a weight per class, or labels that are ignored.
    """
    if len(node.inputs) > 2 or "ignore_index" in node.attributes:
        return [None] * len(node.outputs)
    found, classes = _of(walk, node, 1)
    labels = math.prod(walk.shape(node.inputs[0])) / max(classes, 1)
    sums = 1.0 if node.get("reduction") == "none" else labels / _normalizer(node, labels)
    p = _signal(found) if "normalizer" in node.attributes else None
    return [Signal(np.full_like(NODES, found.loss * sums), 1.0, 1.0), p][: len(node.outputs)]


@backward_moments("SoftmaxCrossEntropyLoss")
def softmax_loss_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dz = (p - [label]) · dy / normalizer, labels independent of p.

    E[dz²] = E[p²] - 2/C² + 1/C, which is (1/C)(1 - 1/C) for small logits; E|dz| = 2 (C - 1) / C² for any.
    """
    zeros: list[Gradient | None] = [None] * (len(node.inputs) - 1)
    if dys[0] is None:
        return [None, *zeros]
    found, classes = _of(walk, node, 1)
    labels = math.prod(walk.shape(node.inputs[0])) / max(classes, 1)
    scale = math.sqrt(dys[0].second) / (1.0 if node.get("reduction") == "none" else _normalizer(node, labels))
    second = expect(found.values**2) - 2 / classes**2 + 1 / classes
    if second <= 0:
        return [None, *zeros]
    space, batch = (scale**2 * max(cross - 1 / classes**2, 0.0) for cross in found.cross)
    shape = 2 * (classes - 1) / classes**2 / math.sqrt(second)
    return [Gradient.of(Source(scale**2 * second, shape, space, batch, lumped=True)), *zeros]
