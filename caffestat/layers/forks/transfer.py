"""Layers of forks that bring what a net says of two sets of data (source and target) closer together."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.schema.forks import metric_pb2

from ..base import Layer, Shape, layer
from ..loss import Loss, total

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["EntropyLoss", "MMDLoss", "MMDLossInPlace", "OuterProduct"]

LEAST = 1e-5  # likelihoods below it add nothing to an entropy


@layer("MMDLoss", dialect="xlearn")
class MMDLoss(Loss):
    """y = Σ k(s, s') + k(t, t') - k(s, t') - k(s', t) over pairs drawn of source and target, as many as rows.

    k(a, b) = Σ exp(-γ_i |a - b|²) over kernel_num kernels, γ_i in steps of kernel_mul around 1 / the mean |a - b|² of
    all pairs (with fix_gamma that of the first pass). As in the reference, the gradient is that of other draws, divided
    by their number, and γ has none. Bottoms: source [N, …] and target [M, …]. Drawn from other numbers than rand()'s.
    (thuml/Xlearn, mmd_layer.cu; Long et al. 2015)
    """

    adds = metric_pb2.LayerParameter
    num_bottoms = (2, 4)
    decides = True
    fixed: float | None = None

    def allow_force_backward(self, bottom: int) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        source, target = bottoms[:2]
        if not source or not target or math.prod(source[1:]) != math.prod(target[1:]):
            raise self.error(f"expected source and target of rows of one length, found shapes {source} and {target}")
        return ((),) * self.top_count

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        counts = [len(bottom) for bottom in bottoms[:2]]
        x = np.concatenate([bottom.reshape(count, -1) for bottom, count in zip(bottoms, counts, strict=False)])
        loss, slope = 0.0, np.zeros(x.shape)
        if all(counts):
            scales = self.scales(x.astype(np.float64))
            loss = sum(float(k.sum()) for k, _ in _compared(x, *_pairs(counts, random), scales))
        if min(counts) > 1:
            _add_slopes(slope, x, *_pairs(counts, random), scales)
        parts = np.split(slope / max(*counts, 1), counts[:1])
        slopes = [part.reshape(bottom.shape) for part, bottom in zip(parts, bottoms, strict=False)]
        return [np.asarray(array, np.float32) for array in (*(loss,) * self.top_count, *slopes)]

    def scales(self, x: np.ndarray) -> np.ndarray:
        """Return γ of each kernel."""
        p, n = self.added.mmd_param, len(x)
        with np.errstate(divide="ignore", invalid="ignore"):
            gamma = np.float64(n * n - n) / sum(((x - row) ** 2).sum() for row in x)
        self.fixed = gamma if self.fixed is None or not p.fix_gamma else self.fixed
        return self.fixed * p.kernel_mul ** (np.arange(p.kernel_num, dtype=np.float64) - p.kernel_num // 2)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        decided = self.input_decisions(g)
        tops, slopes = decided[: self.top_count], decided[self.top_count :]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            dy = dys[0]
            return [dy and tape.emit("Mul", slope, dy) for slope in slopes]

        return g.custom_vjp(bottoms[:2], lambda *_: [g.emit("Identity", top) for top in tops], backward)


def _pairs(counts: Sequence[int], random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return rows to compare, those that they are compared with, and whether a pair counts or is taken off."""
    first = [random.integers(0, count, max(counts)) for count in counts]
    second = [random.integers(0, count, max(counts)) for count in counts]
    s, t = first[0], first[1] + counts[0]
    others = [np.where(a == b, (b + 1) % count, b) for a, b, count in zip(first, second, counts, strict=True)]
    s2, t2 = others[0], others[1] + counts[0]
    signs = np.repeat([1.0, 1.0, -1.0, -1.0], max(counts))
    return np.concatenate([s, t, s, t]), np.concatenate([s2, t2, t2, s2]), signs


def _compared(
    x: np.ndarray, a: np.ndarray, b: np.ndarray, signs: np.ndarray, scales: np.ndarray
) -> list[tuple[np.ndarray, float]]:
    """Return k(a, b) of each pair for each kernel, with its sign, and the kernel's γ."""
    squares = ((x[a].astype(np.float64) - x[b]) ** 2).sum(1)
    return [(signs * np.exp(-scale * squares), float(scale)) for scale in scales]


def _add_slopes(
    slope: np.ndarray, x: np.ndarray, a: np.ndarray, b: np.ndarray, signs: np.ndarray, scales: np.ndarray
) -> None:
    """Add the derivative of Σ k(a, b) by the rows."""
    factors = sum(-2 * scale * k for k, scale in _compared(x, a, b, signs, scales))
    change = np.reshape(factors, (-1, 1)) * (x[a].astype(np.float64) - x[b])
    np.add.at(slope, a, change)
    np.add.at(slope, b, -change)


@layer("MMDLoss", dialect="mmd-caffe")
class MMDLossInPlace(Layer):
    """y = x of bottom 0; the gradient of MMDLoss that the reference adds in the backward pass is not computed.

    Bottoms: features and labels, below 0 for rows of the source. (zhuhan1236/mmd-caffe, mmd_layer.cu)
    """

    adds = metric_pb2.MmdCaffeLayerParameter
    num_bottoms = (2, 2)

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and proto.top[0] == proto.bottom[0]

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.why_uncomputed = "the gradient that it adds is not computed" if self.added.mmd_param.mmd_lambda else ""
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return [g.emit("Identity", bottoms[0])]


@layer("EntropyLoss", dialect="xlearn")
class EntropyLoss(Loss):
    """y = -Σ |p log p| over the likelihoods p ≥ 0.00001 of bottom [N, …].

    As in the reference that is -1 times the entropy, while dx = -(1 + log p) dy / N, 0 for p < threshold.
    (thuml/Xlearn, entropy_loss_layer.cu)
    """

    adds = metric_pb2.LayerParameter
    num_bottoms = (1, 1)
    foreign_bottoms = (2, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not bottoms[0]:
            raise self.error("expected a bottom of at least one axis")
        if waits := self.added.entropy_param.iterations_num:
            self.why_uncomputed = f"iterations_num: {waits} leaves the gradient of the first iterations undefined"
        return ((),) * self.top_count

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        threshold, rows = self.added.entropy_param.threshold, g.shape(bottoms[0])[0]

        def forward(p: str) -> Sequence[str]:
            size = g.emit("Abs", g.emit("Mul", p, g.emit("Log", p)))
            counted = g.emit("Where", g.emit("Less", p, g.constant(LEAST)), g.constant(0), size)
            return [g.emit("Neg", total(g, counted))] * self.top_count

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            if dys[0] is None:
                return [None]
            slope = tape.emit("Add", tape.emit("Log", bottoms[0]), tape.constant(1))
            share = tape.emit("Div", dys[0], tape.constant(-rows))
            small = tape.emit("Less", bottoms[0], tape.constant(threshold))
            return [tape.emit("Where", small, tape.constant(0), tape.emit("Mul", slope, share))]

        return g.custom_vjp(bottoms, forward, backward)


@layer("OuterProduct", dialect="xlearn")
class OuterProduct(Layer):
    """y_ij = a_i b_j of each item: bottoms [N, C] and [N, D], top [N, 1, C, D].

    (thuml/Xlearn, outerproduct_layer.cu)
    """

    num_bottoms = (2, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        a, b = bottoms
        if min(len(a), len(b)) < 2 or a[0] != b[0] or math.prod((*a[2:], *b[2:])) != 1:
            raise self.error(f"expected bottoms (N, C) and (N, D), found shapes {a} and {b}")
        return ((a[0], 1, a[1], b[1]),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        n, _, c, d = self.tops([g.shape(bottom) for bottom in bottoms])[0]
        return [g.emit("Mul", g.reshape(bottoms[0], n, 1, c, 1), g.reshape(bottoms[1], n, 1, 1, d))]
