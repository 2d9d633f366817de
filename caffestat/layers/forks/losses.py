"""Losses of forks that weigh pairs, classes or differences."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.schema.forks import scaling_pb2

from ..base import Layer, Shape, layer
from ..loss import FLT_MIN, Classified, Loss, SoftmaxWithLoss, class_index, is_label, total, weigh
from ..math import emit_softmax
from ..reread import emit_closed
from .flow import check_images

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "EuclideanLossWithIgnore",
    "FixedFocalLoss",
    "FocalLoss",
    "GeneralTripletLoss",
    "LpqLoss",
    "PairwiseLoss",
    "PythonEuclideanLoss",
    "WeighedFocalLoss",
]


class _Focal(SoftmaxWithLoss):
    """y = -Σ w(p) log(max(p, FLT_MIN)) / normalizer, p the softmax at the label, w(p) a power that p gives."""

    def settings(self) -> tuple[float, float, float]:
        """Return base, sign and exponent of w(p) = (base + sign · p)^exponent."""
        raise NotImplementedError

    def factor(self) -> float:
        """Return what the loss is multiplied by."""
        return 1.0

    def uninformed_loss(self, bottoms: Sequence[Shape]) -> float | None:
        return None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        axis = self.axis(shape)
        outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        base, sign, exponent = self.settings()
        made: dict[str, Any] = {}

        def forward(scores: str, labels: str) -> Sequence[str]:
            labels = g.reshape(labels, *shape[:axis], 1, *shape[axis + 1 :])
            p, index = emit_softmax(g, scores, axis), class_index(g, labels, shape[axis])
            chosen = g.emit("GatherElements", p, index, axis=axis)
            power = g.emit("Pow", self.base_of(g, chosen, base, sign), g.constant(exponent))
            logs = g.emit("Log", g.emit("Max", chosen, g.constant(FLT_MIN)))
            valid = self.valid(g, labels)
            normalizer = g.emit("Div", self.normalizer(g, valid, outer, inner), g.constant(-self.factor()))
            made.update(p=p, index=index, chosen=chosen, logs=logs, valid=valid, normalizer=normalizer, power=power)
            return [g.emit("Div", total(g, weigh(g, g.emit("Mul", power, logs), valid)), normalizer), p][
                : self.top_count
            ]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            if dys[0] is None:
                return [None, None]
            slope = self.slope(tape, made)
            scale = weigh(tape, tape.emit("Mul", slope, tape.emit("Div", dys[0], made["normalizer"])), made["valid"])
            own = tape.emit("Sub", tape.constant(1), made["chosen"])
            pulls = tape.emit("ScatterElements", tape.emit("Neg", made["p"]), made["index"], own, axis=axis)
            return [tape.emit("Mul", pulls, scale), None]

        return g.custom_vjp(bottoms, forward, backward)

    def base_of(self, g: Any, p: str, base: float, sign: float) -> str:
        """Emit base + sign · p."""
        return str(g.emit("Add", g.emit("Mul", p, g.constant(sign)), g.constant(base)))

    def slope(self, tape: Tape, made: dict[str, Any]) -> str:
        """Emit p · d(w(p) log p) / dp, as the reference has it: with base 1 in w' whatever the base is."""
        _, sign, exponent = self.settings()
        held = tape.emit("Max", self.base_of(tape, made["chosen"], 1.0, sign), tape.constant(1e-10))
        part = tape.emit("Mul", tape.emit("Div", made["power"], held), tape.constant(sign * exponent))
        return tape.emit("Add", tape.emit("Mul", part, tape.emit("Mul", made["logs"], made["chosen"])), made["power"])


class _StatedFocal(_Focal):
    """One whose focal_loss_param states gamma and alpha."""

    def check(self, bottoms: Sequence[Shape]) -> None:
        super().check(bottoms)
        p = self.added.focal_loss_param
        if p.gamma < 0 or p.alpha <= 0:
            raise self.error(f"expected gamma of 0 or more and alpha above 0, found {p.gamma:g} and {p.alpha:g}")


@layer("FocalLoss", dialect="frcnn")
class WeighedFocalLoss(_StatedFocal):
    """y = -alpha Σ (1 - p)^gamma log(p) / normalizer, p the softmax at the label.

    beta and type LINEAR change nothing. (makefile/frcnn, focal_loss_layer.cpp; Lin et al. 2017)
    """

    adds = scaling_pb2.FrcnnLayerParameter

    def axis(self, shape: Shape) -> int:
        p = self.added.focal_loss_param
        return self.canonical_axis(p.axis, len(shape)) if p.HasField("axis") else super().axis(shape)

    def settings(self) -> tuple[float, float, float]:
        return 1.0, -1.0, self.added.focal_loss_param.gamma

    def factor(self) -> float:
        return float(self.added.focal_loss_param.alpha)


@layer("FocalLoss", dialect="happynear")
class FocalLoss(_StatedFocal):
    """y = -Σ (alpha - p)^gamma log(p) / normalizer, p the softmax at the label; type ONEADDP: (alpha + p)^gamma.

    dx = (p_c - [c is the label]) · (p^… log p's slope, with 1 - p or 1 + p in place of alpha ± p) · dy / normalizer.
    beta and type LINEAR change nothing. (happynear/caffe-windows, focal_loss_layer.cpp)
    """

    adds = scaling_pb2.LayerParameter

    def settings(self) -> tuple[float, float, float]:
        p = self.added.focal_loss_param
        return p.alpha, 1.0 if p.type == p.ONEADDP else -1.0, p.gamma


@layer("focalSoftmaxWithLoss", dialect="caffe-train")
class FixedFocalLoss(_Focal):
    """y = -0.75 Σ (1 - p)² log(p) / normalizer, p the softmax at the label.

    (yuqj1991/caffe_train, focal_loss_layer.cpp)
    """

    def settings(self) -> tuple[float, float, float]:
        return 1.0, -1.0, 2.0

    def factor(self) -> float:
        return 0.75


@layer("GeneralTripletLoss", dialect="happynear")
class GeneralTripletLoss(Classified):
    """y = Σ negative_weight · max(0, d[label] + margin - d[j]) / N over the other classes j of distances d [N, K].

    hardest_only keeps the largest of each row; positive_first drops rows with d[label] > positive_upper_bound. The
    gradient is -negative_weight where a term is kept, and positive_weight at the label if any is, or with
    add_center_loss, or where its row is dropped. Top 1 holds the means of d[label] and of the others.
    (happynear/caffe-windows, general_triplet_loss_layer.cpp)
    """

    adds = scaling_pb2.LayerParameter
    num_tops = (1, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        super().tops(bottoms)
        return ((), (2,))[: self.top_count]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, shape = self.added.general_triplet_loss_param, g.shape(bottoms[0])
        n, classes = shape[0], math.prod(shape[1:])
        made: dict[str, str] = {}

        def forward(distances: str, labels: str) -> Sequence[str]:
            d, own = g.reshape(distances, n, classes), is_label(g, labels, classes)
            same = g.emit("ReduceSum", g.emit("Where", own, d, g.constant(0)), g.ints(1), keepdims=1)
            terms = self.terms(g, d, own, same)
            if p.positive_first:
                dropped = g.emit("Greater", same, g.constant(p.positive_upper_bound))
                terms = g.emit("Where", dropped, g.constant(0), terms)
                made["dropped"] = dropped
            made.update(own=own, terms=terms)
            others = g.emit("Sub", g.emit("ReduceSum", d, keepdims=0), g.emit("ReduceSum", same, keepdims=0))
            means = [g.emit("ReduceMean", same, keepdims=0), g.emit("Div", others, g.constant(n * max(classes - 1, 1)))]
            loss = g.emit("Div", total(g, terms), g.constant(n))
            return [loss, g.emit("Concat", *(g.reshape(mean, 1) for mean in means), axis=0)][: self.top_count]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            if dys[0] is None:
                return [None, None]
            kept = tape.emit("Greater", made["terms"], tape.constant(0))
            negative = tape.emit("Where", kept, tape.constant(-p.negative_weight), tape.constant(0))
            counts = tape.emit("ReduceMax", tape.emit("Cast", kept, to=1), tape.ints(1), keepdims=1)
            if p.add_center_loss:
                counts = tape.constant(np.ones((n, 1)))
            elif p.positive_first:
                counts = tape.emit("Where", made["dropped"], tape.constant(1), counts)
            positive = tape.emit("Mul", counts, tape.constant(p.positive_weight))
            slope = tape.emit("Where", made["own"], positive, negative)
            scaled = tape.emit("Mul", slope, tape.emit("Div", dys[0], tape.constant(n)))
            return [tape.reshape(tape.declare(scaled, (n, classes)), *shape), None]

        return g.custom_vjp(bottoms, forward, backward)

    def terms(self, g: Graph, d: str, own: str, same: str) -> str:
        """Emit how far each other class is within the margin, times its weight; [N, C], 0 for the sample's own class.

        d: distances [N, C]; own: which is the label's; same: that distance [N, 1]
        """
        p, zero, classes = self.added.general_triplet_loss_param, g.constant(0), g.shape(d)[1]
        excess = g.emit("Relu", g.emit("Sub", g.emit("Add", same, g.constant(p.margin)), d))
        terms = g.emit("Where", own, zero, g.emit("Mul", excess, g.constant(p.negative_weight)))
        if not p.hardest_only:
            return terms
        best = g.emit("ArgMax", terms, axis=1, keepdims=1)
        is_best = g.emit("Equal", best, g.constant(np.arange(classes).reshape(1, -1), np.int64))
        return g.emit("Where", is_best, terms, zero)


@layer("LpqLoss", dialect="flownet")
class LpqLoss(Loss):
    """y = Σ (Σ_c (|d| + p_epsilon)^p + q_epsilon)^q / N, d = bottom 0 - bottom 1; differences that are NaN count as 0.

    Bottoms [N, C, H, W], or one. l2_prescale_by_channels divides the inner sum by C, normalize_by_num_entries the outer
    one by the numbers that are not NaN over C in place of N. The gradient has sign(0) = -1, and is 0 at NaN.
    (lmb-freiburg/flownet2, lpq_loss_layer.cu)
    """

    adds = scaling_pb2.LayerParameter
    num_bottoms = (1, 2)

    @property
    def left_out(self) -> str:
        several = len(self.added.lpq_loss_param.p) > 1
        return "p and q stay those of the first episode; the later ones are not used" if several else ""

    def allow_force_backward(self, bottom: int) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.added.lpq_loss_param
        shapes = [check_images(self, shape) for shape in bottoms]
        starts = len(p.pq_episode_starts_at_iter) or 1
        if not len(p.p) == len(p.q) == starts:
            raise self.error("expected as many p as q and pq_episode_starts_at_iter in lpq_loss_param, one at least")
        if any(shape != shapes[0] for shape in shapes):
            raise self.error(f"expected two bottoms of one shape, found {' and '.join(map(str, shapes))}")
        return ((),) * self.top_count

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        proto, (n, channels, _, _) = self.added.lpq_loss_param, g.shape(bottoms[0])
        p, q = proto.p[0], proto.q[0]
        share = 1 / channels if proto.l2_prescale_by_channels else 1.0
        made: dict[str, str] = {}

        def forward(*values: str) -> str:
            d = g.emit("Sub", *values) if len(values) == 2 else values[0]
            known = g.emit("Not", g.emit("IsNaN", d))
            d = g.emit("Where", known, d, g.constant(0))
            count = g.emit("Div", total(g, g.cast(known, np.float32)), g.constant(channels))
            size = g.emit("Add", g.emit("Abs", d), g.constant(proto.p_epsilon))
            power = g.emit("Mul", g.emit("Pow", size, g.constant(p)), g.constant(share))
            inner = g.emit("Add", g.emit("ReduceSum", power, g.ints(1), keepdims=1), g.constant(proto.q_epsilon))
            divisor = count if proto.normalize_by_num_entries else g.constant(n)
            made.update(d=d, known=known, size=size, inner=inner, divisor=divisor)
            return g.emit("Div", total(g, g.emit("Pow", inner, g.constant(q))), divisor)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            outer = tape.emit(
                "Mul", tape.emit("Pow", made["inner"], tape.constant(q - 1)), tape.constant(p * q * share)
            )
            slope = tape.emit("Mul", tape.emit("Pow", made["size"], tape.constant(p - 1)), outer)
            above = tape.emit("Greater", made["d"], tape.constant(0))
            signed = tape.emit("Where", above, slope, tape.emit("Neg", slope))
            scaled = tape.emit("Mul", signed, tape.emit("Div", dy, made["divisor"]))
            da = tape.emit("Where", made["known"], scaled, tape.constant(0))
            return [da, tape.emit("Neg", da)][: len(bottoms)]

        return [emit_closed(g, bottoms, forward, gradient)] * self.top_count


@layer("pyloss.EuclideanLossLayer", dialect="pycaffe")
class PythonEuclideanLoss(Loss):
    """y = Σ (x₀ - x₁)² / 2N, one value; dx₀ = -dx₁ = (x₀ - x₁) / N, whatever dy is; its loss_weight is as written.

    (BVLC/caffe, examples/pycaffe/layers/pyloss.py)
    """

    auto_tops = False
    takes_targets = True

    @property
    def ignores_dy(self) -> bool:
        return True

    def loss_weight(self, top: int) -> float:
        return Layer.loss_weight(self, top)

    def allow_force_backward(self, bottom: int) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if math.prod(bottoms[0]) != math.prod(bottoms[1]) or not bottoms[0]:
            raise self.error(f"expected two bottoms of the same count, found shapes {bottoms[0]} and {bottoms[1]}")
        return ((1,),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, other = g.shape(bottoms[0]), g.shape(bottoms[1])
        differences: list[str] = []

        def forward(a: str, b: str) -> str:
            differences.append(g.emit("Sub", a, g.reshape(b, *shape)))
            sums = total(g, g.emit("Mul", differences[0], differences[0]))
            return g.reshape(g.emit("Div", sums, g.constant(2 * shape[0])), 1)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            dx = tape.emit("Div", differences[0], tape.constant(shape[0]))
            return dx, tape.reshape(tape.emit("Neg", dx), *other)

        return (emit_closed(g, bottoms, forward, gradient),)


@layer("PairwiseLoss", dialect="hashnet")
class PairwiseLoss(Loss):
    """y = Σ c (log(1 + e^z) - s z) / Σ c over all pairs of rows of x and x', z = sigmoid_param · x x'ᵀ.

    Bottoms: x, labels [N, L], x', labels. s is 1 where a pair shares a label, else 0; c is class_num where it does,
    else 1, and 0 where the product of the labels is negative or L and more. From l_threshold on (0 or more) a term is
    z (1 - s). l_lambda of 0 makes y 0. Whatever dy is, dx = l_lambda Σ 2 c (σ(z) - s) x' / Σ c, times 4 · similarity
    with continous_similarity, its first N numbers times sigmoid_param. (thuml/HashNet, pairwise_loss_layer.cu)
    """

    adds = scaling_pb2.LayerParameter
    num_bottoms = (4, 4)

    @property
    def ignores_dy(self) -> bool:
        return True

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom in (0, 2)

    def check(self, bottoms: Sequence[Shape]) -> None:
        x, labels, other, other_labels = bottoms
        if x != other or labels != other_labels or labels[:1] != x[:1]:
            raise self.error(
                f"expected two pairs of rows and labels of equal shapes, found {', '.join(map(str, bottoms))}"
            )

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return random.integers(0, 2, bottoms[bottom]) if bottom % 2 else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, shape = self.added.pairwise_param, g.shape(bottoms[0])
        n, size, width = shape[0], math.prod(shape[1:]), math.prod(g.shape(bottoms[1])[1:])
        made: dict[str, str] = {}

        def forward(x: str, labels: str, other: str, other_labels: str) -> str:
            x, other = (g.reshape(value, n, size) for value in (x, other))
            labels, other_labels = (g.reshape(value, n, width) for value in (labels, other_labels))
            product, most = g.emit("MatMul", labels, g.transpose(other_labels, 1, 0)), g.constant(width)
            counts = g.emit("And", g.emit("GreaterOrEqual", product, g.constant(0)), g.emit("Less", product, most))
            similar = g.emit("And", counts, g.emit("Greater", product, g.constant(0)))
            weight = g.emit("Where", similar, g.constant(p.class_num), g.cast(counts, np.float32))
            z = g.emit("Mul", g.emit("MatMul", x, g.transpose(other, 1, 0)), g.constant(p.sigmoid_param))
            s = g.cast(similar, np.float32)
            divisor = total(g, g.emit("Abs", weight))
            divisor = g.emit("Where", g.emit("Greater", divisor, g.constant(0)), divisor, g.constant(1))
            made.update(x=x, other=other, s=s, z=z, weight=weight, divisor=divisor)
            if p.continous_similarity:
                made["similarity"] = similarity(g, product, labels, other_labels, n)
            terms = g.emit("Mul", self.terms(g, z, s), weight)
            sign = g.constant(float(p.l_lambda > 0))
            return g.emit("Mul", g.emit("Div", total(g, g.emit("Abs", terms)), divisor), sign)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            error = tape.emit("Sub", tape.emit("Sigmoid", made["z"]), made["s"])
            pull = tape.emit("Mul", tape.emit("Mul", error, made["weight"]), tape.constant(2 * p.l_lambda))
            if p.continous_similarity:
                pull = tape.emit("Mul", pull, tape.emit("Mul", made["similarity"], tape.constant(4)))
            pull = tape.emit("Div", pull, made["divisor"])
            one = tape.emit("MatMul", pull, made["other"])
            two = tape.emit("MatMul", tape.emit("Transpose", pull, perm=(1, 0)), made["x"])
            scale = np.ones(math.prod(shape))
            scale[:n] = p.sigmoid_param
            scaled = [tape.emit("Mul", part, tape.constant(scale.reshape(n, -1))) for part in (one, two)]
            dx, other = (tape.reshape(tape.declare(part, (n, size)), *shape) for part in scaled)
            return dx, None, other, None

        return [emit_closed(g, bottoms, forward, gradient)] * self.top_count

    def terms(self, g: Graph, z: str, s: str) -> str:
        """Emit log(1 + e^z) - s z, or z (1 - s) from the threshold on."""
        p = self.added.pairwise_param
        soft = g.emit("Sub", g.emit("Softplus", z), g.emit("Mul", s, z))
        if p.l_threshold < 0:
            return soft
        straight = g.emit("Mul", z, g.emit("Sub", g.constant(1), s))
        return g.emit("Where", g.emit("GreaterOrEqual", z, g.constant(p.l_threshold)), straight, soft)


def similarity(g: Graph, product: str, labels: str, others: str, n: int) -> str:
    """Emit (l·l')² / (|l|² |l'|²) of all pairs of n rows, 0.25 where it is 0; a row of zeros counts as of length 1."""
    squares = []
    for rows in (labels, others):
        sums = g.emit("ReduceSum", g.emit("Mul", rows, rows), g.ints(1), keepdims=1)
        squares.append(g.emit("Where", g.emit("Equal", sums, g.constant(0)), g.constant(1), sums))
    lengths = g.emit("Mul", squares[0], g.transpose(g.declare(squares[1], (n, 1)), 1, 0))
    found = g.emit("Div", g.emit("Mul", product, product), lengths)
    return g.emit("Where", g.emit("Equal", found, g.constant(0)), g.constant(0.25), found)


@layer("EuclideanLossWithIgnore", dialect="pulkitag")
class EuclideanLossWithIgnore(Loss):
    """y = Σ |x - t|² / 2n over the n items whose mark is 1; dx = (x - t) · dy / n, 0 for the others.

    Bottoms x [N, C, …] and [N, C + 1, …]: t and the mark, the number behind t. is_normalized: true is not supported.
    (pulkitag/caffe, euclidean_loss_with_ignore_layer.cpp)
    """

    adds = scaling_pb2.LayerParameter

    def check(self, bottoms: Sequence[Shape]) -> None:
        x, targets = bottoms
        extra = math.prod(targets[2:]) * x[0]
        if len(x) < 2 or targets[1:2] != (x[1] + 1,) or math.prod(x) + extra != math.prod(targets):
            raise self.error(f"expected bottoms (N, C, …) and (N, C + 1, …), found shapes {x} and {targets}")
        if self.added.euclideanloss_param.is_normalized:
            raise self.error("is_normalized: true is not supported")

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if not bottom:
            return None
        values = random.standard_normal((bottoms[1][0], math.prod(bottoms[1][1:])))
        values[:, math.prod(bottoms[0][1:])] = 1
        return values

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        n, size = shape[0], math.prod(shape[1:])
        made: dict[str, str] = {}

        def forward(x: str, targets: str) -> str:
            rows = g.reshape(targets, n, -1)
            wanted, mark = (
                g.emit("Slice", rows, g.ints(a), g.ints(b), g.ints(1)) for a, b in ((0, size), (size, size + 1))
            )
            counts = g.cast(g.emit("Equal", mark, g.constant(1)), np.float32)
            d = g.emit("Mul", g.emit("Sub", g.reshape(x, n, size), wanted), counts)
            made.update(d=d, n=g.emit("Max", total(g, counts), g.constant(1)))
            return g.emit("Div", total(g, g.emit("Mul", d, d)), g.emit("Mul", made["n"], g.constant(2)))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            dx = tape.emit("Mul", made["d"], tape.emit("Div", dy, made["n"]))
            return [tape.reshape(tape.declare(dx, (n, size)), *shape), None]

        return [emit_closed(g, bottoms, forward, gradient)] * self.top_count


@layer("VoxelSoftmaxLoss", dialect="c3d")
class VoxelSoftmaxLoss(Loss):
    """y = -Σ log p[label] / places, p = softmax over channels; dx = (p - [label]) / places, whatever dy is.

    Bottoms [N, C, L, H, W] and labels [N, 1, L, H, W]; labels of C and above add nothing to y, and p to dx.
    (facebookarchive/C3D, voxel_wise_softmax_loss_layer.cpp)
    """

    @property
    def ignores_dy(self) -> bool:
        return True

    def check(self, bottoms: Sequence[Shape]) -> None:
        x, labels = bottoms
        if len(x) != 5 or labels != (x[0], 1, *x[2:]):
            raise self.error(f"expected scores (N, C, L, H, W) and labels (N, 1, L, H, W), found {x} and {labels}")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return bottoms[0][1] if bottom == 1 else None

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        return np.greater_equal(values, 0)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        places = math.prod(shape) // shape[1]
        classes = g.constant(np.arange(shape[1]).reshape(1, -1, 1, 1, 1), np.int64)
        chosen = g.emit("Equal", g.cast(bottoms[1], np.int64), classes)
        made: dict[str, str] = {}

        def forward(x: str) -> str:
            p = made["p"] = g.emit("Softmax", x, axis=1)
            log = g.emit("Log", g.emit("Max", p, g.constant(FLT_MIN)))
            losses = g.emit("Where", chosen, log, g.constant(0))
            return g.emit("Div", g.emit("ReduceSum", losses, keepdims=0), g.constant(-places))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            one = tape.emit("Where", chosen, tape.constant(1), tape.constant(0))
            return [tape.emit("Div", tape.emit("Sub", made["p"], one), tape.constant(places))]

        return [emit_closed(g, [bottoms[0]], forward, gradient)]


@layer("MemoryLoss", dialect="mycaffe")
class MemoryLoss(Loss):
    """A loss that the application computes: a scalar without values. (MyCaffe/MyCaffe, MemoryLossLayer.cs)"""

    num_bottoms = (1, None)  # type: ignore[assignment]  # most losses have two

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.why_uncomputed = "the application computes its loss"
        return ((),) * self.top_count

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        raise self.error(self.why_uncomputed)
