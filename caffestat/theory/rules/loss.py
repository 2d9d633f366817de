"""Softmax, and the loss behind it: all classes of a sample together, which no rule per element can tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np

from caffestat.graph import Node

from ..engine import Walk, backward_moments, moments
from ..quadrature import NODES, Array, expect, quantiles_of
from ..signal import Gradient, Signal, Source, Term
from .linear import known

Gradients = Sequence[Gradient | None]

_SAMPLED = 200_000
_LOWEST = float(np.finfo(np.float32).min)
_HIDDEN = -1e4  # logits that a mask hides are below, and far below all others


@dataclass(frozen=True)
class Softmax:
    """p = softmax(z) of so many independent normal logits of a standard deviation: always the same samples.

    rhos   the correlations of z of two places, and of two samples
    shown  the share of logits that no mask hides; as under a causal mask, all numbers of them are equally frequent
    floor  the least p that the loss takes the logarithm of
    """

    classes: int
    deviation: float
    rhos: tuple[float, float]
    shown: float = 1.0
    floor: float = 0.0

    @cached_property
    def values(self) -> Array:
        """The distribution of p."""
        return quantiles_of(np.exp(self._log_p))

    @cached_property
    def logs(self) -> Array:
        """The distribution of log p."""
        return quantiles_of(np.maximum(self._log_p, _LOWEST))

    @cached_property
    def loss(self) -> float:
        """E[-log p], p no less than the floor."""
        return float(-np.maximum(self._log_p, self._least).mean())

    @cached_property
    def floored(self) -> float:
        """P(p < floor)."""
        return float((np.maximum(self._log_p, _LOWEST) < self._least).mean())

    @cached_property
    def cross(self) -> tuple[float, float]:
        """E[p p'] of two samples as correlated as two places, and as two samples are."""
        found = {rho: self._cross(rho) for rho in dict.fromkeys(self.rhos)}
        return found[self.rhos[0]], found[self.rhos[1]]

    @cached_property
    def slope(self) -> tuple[float, float]:
        """√E[dz²] and E|dz| / E|dy| of dz = p · (dy - Σ p·dy), all dy of one size."""
        p = np.exp(self._log_p)
        slope = p * np.sqrt(np.maximum(1 - 2 * p + (p**2).sum(axis=1, keepdims=True), 0.0))
        return math.sqrt(float((slope**2).mean())), float(slope.mean())

    def _cross(self, rho: float) -> float:
        shared, *apart = _drawn(self.classes)
        first, second = (
            np.exp(_log_softmax(self.deviation * (math.sqrt(rho) * shared + math.sqrt(1 - rho) * e) + self._hidden))
            for e in apart
        )
        return float((first * second).mean())

    @cached_property
    def _log_p(self) -> Array:
        return _log_softmax(self.deviation * _drawn(self.classes)[1] + self._hidden)

    @property
    def _hidden(self) -> Array:
        kept = _kept(self.classes, len(_drawn(self.classes)[0]), self.shown)
        return np.where(np.arange(self.classes) < kept[:, None], 0.0, -np.inf)

    @property
    def _least(self) -> float:
        return math.log(self.floor) if self.floor > 0 else _LOWEST


@lru_cache(maxsize=1)
def _drawn(classes: int) -> tuple[Array, Array, Array]:
    """Draw three times N(0, 1), for what samples share and for each of two: [rows, classes]."""
    random, rows = np.random.default_rng(0), max(_SAMPLED // classes, 64)
    one, two, three = (random.standard_normal((rows, classes)) for _ in range(3))
    return one, two, three


def _kept(classes: int, rows: int, shown: float) -> Array:
    """Return how many logits each row keeps: from 1 on, or as many as are left, evenly up to all of them."""
    least = max(min(2 * shown * classes - classes, classes), 1.0)
    most = max(min(2 * shown * classes - least, classes), least)
    return np.round(np.linspace(least - 0.5, most + 0.5, rows)).clip(least, most)


def _log_softmax(z: Array) -> Array:
    shifted = z - z.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _is_shown(z: Signal) -> Array:
    """Return 1 at the nodes of logits that no mask hides, else 0: hidden ones lie further from the others than these
    from one another, which distinguishes them from large logits.
    """
    is_shown = z.values > _HIDDEN
    shown, hidden = z.values[is_shown], z.values[~is_shown]
    is_masked = shown.size and hidden.size and shown.min() - hidden.max() > max(float(np.ptp(shown)), 1.0)
    return is_shown.astype(np.float64) if is_masked else np.ones_like(NODES)


def _of(walk: Walk, node: Node, axis: int = -1) -> tuple[Softmax, int]:
    z, shape = known(walk.signal(node.inputs[0])), walk.shape(node.inputs[0])
    classes = shape[node.get("axis", axis)] if shape else 1
    return softmax_for(z, classes, node.get("floor", 0.0)), classes


def softmax_for(z: Signal, classes: int, floor: float = 0.0) -> Softmax:
    """Return the Softmax of so many logits with the distribution of z."""
    is_shown = _is_shown(z)
    shown, seen = expect(is_shown), np.where(is_shown > 0, z.values, 0.0)
    deviation = math.sqrt(max(expect(seen**2) / shown - (expect(seen) / shown) ** 2, 0.0)) if shown > 0 else 0.0
    std, space, batch, shown = (float(f"{value:.6g}") for value in (deviation, z.rho_spatial, z.rho_sample, shown))
    return _softmax(classes, std, (space, batch), shown, floor)


_softmax = lru_cache(maxsize=4)(Softmax)  # a few MB each: what the walk forward has found is asked for backward


def _signal(found: Softmax) -> Signal:
    return Signal.of_pairs(found.values, found.cross[0], found.cross[1])


@moments("Softmax")
def softmax(walk: Walk, node: Node) -> Sequence[Signal]:
    """p = eᶻ / Σ eᶻ."""
    found, _ = _of(walk, node)
    return [_signal(found)]


@backward_moments("Softmax")
def softmax_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dz = p · (dy - Σ p·dy): given p, its variance is E[dy²] · p² · (1 - 2p + Σ p²), all dy of one size."""
    dy, (found, _) = dys[0], _of(walk, node)
    assert dy is not None
    root, absolute = found.slope
    is_shown = _is_shown(known(walk.signal(node.inputs[0])))
    profile = is_shown / max(expect(is_shown), 1e-300)
    return [dy.times(Term(0 * profile, root**2 * profile, absolute * profile))]


@moments("LogSoftmax")
def log_softmax(walk: Walk, node: Node) -> Sequence[Signal]:
    """log p = z - log Σ eᶻ."""
    z, (found, _) = known(walk.signal(node.inputs[0])), _of(walk, node)
    return [Signal(found.logs, z.rho_spatial, z.rho_sample)]


@backward_moments("LogSoftmax")
def log_softmax_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dz = dy - p · Σ dy: E[dz²] = E[dy²] · (1 - 2 / C + C E[p²]), all dy of one size."""
    dy, (found, classes) = dys[0], _of(walk, node)
    assert dy is not None
    second = max(1 - 2 / classes + classes * expect(found.values**2), 0.0)
    flat = np.ones_like(NODES)
    return [dy.times(Term(math.sqrt(second) * flat, second * flat, math.sqrt(second) * flat))]


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
    z = known(walk.signal(node.inputs[0]))
    loss = expected_loss(z, classes, node.get("floor", 0.0)).loss * sums
    return [Signal(np.full_like(NODES, loss), 1.0, 1.0, finite_width=1.0), p][: len(node.outputs)]


def expected_loss(z: Signal, classes: int, floor: float = 0.0) -> Softmax:
    """Return the Softmax of logits of the size that an average draw has: large ones count as they are, not squared."""
    return softmax_for(
        replace(z, values=z.values * (1.0 if z.finite_width is None else z.finite_width)), classes, floor
    )


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
    return [Gradient.of(Source(scale**2 * second, shape, space, batch, one_hot=True)), *zeros]
