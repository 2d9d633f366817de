"""Losses of faces: labels from 0 number identities, those from -1 down sequences without one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.fillers import Stream
from caffestat.lazy import np
from caffestat.schema.forks import seqface_pb2

from ..base import Param, Shape, layer, read_param
from ..loss import FLOAT, FLT_MIN, INT64, Loss, SoftmaxWithLoss, total, weigh
from ..math import emit_softmax
from ..reread import emit_closed
from .evaluated import EvaluatedLoss
from .faces import emit_sums_of_classes, emit_unit_rows
from .passes import emit_count

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["DSALoss", "LSROLoss", "LiftedStructSimilaritySoftmaxLoss"]

CENTER_EPS = 1e-7  # of centers that are scaled


@layer("LSROLoss", dialect="seqface")
class LSROLoss(SoftmaxWithLoss):
    """y = -Σ t·log(max(p, FLT_MIN)) / normalizer, p = softmax along an axis; dx = (p - t) · dy / normalizer.

    t is 1 at the label and 0 elsewhere; 1/C at each of C classes where the label is negative. Labels that equal
    ignore_label count nowhere. A second top is p, without gradient.
    (huangyangyu/SeqFace, LSRO_loss_layer.cpp; Zheng et al. 2017)
    """

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        return super().is_ignored(values) | (values < 0)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        axis = self.axis(shape)
        outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        made: dict[str, Any] = {}

        def forward(scores: str, labels: str) -> Sequence[str]:
            labels = g.reshape(labels, *shape[:axis], 1, *shape[axis + 1 :])
            p, valid = emit_softmax(g, scores, axis), self.valid(g, labels)
            made.update(p=p, valid=valid, target=self.targets(g, labels, shape, axis))
            made["normalizer"] = self.normalizer(g, valid, outer, inner)
            logs = g.emit("Log", g.emit("Max", p, g.constant(FLT_MIN)))
            losses = weigh(g, g.emit("Mul", logs, made["target"]), valid)
            return [g.emit("Neg", g.emit("Div", total(g, losses), made["normalizer"])), p][: self.top_count]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            if dys[0] is None:
                return [None, None]
            scale = weigh(tape, tape.emit("Div", dys[0], made["normalizer"]), made["valid"])
            return [tape.emit("Mul", tape.emit("Sub", made["p"], made["target"]), scale), None]

        return g.custom_vjp(bottoms, forward, backward)

    def targets(self, g: Graph, labels: str, shape: Shape, axis: int) -> str:
        """Emit t, of the scores' shape."""
        classes = np.arange(shape[axis]).reshape(-1, *(1,) * (len(shape) - axis - 1))
        labels = g.emit("Cast", labels, to=INT64)
        chosen = g.emit("Cast", g.emit("Equal", labels, g.constant(classes, np.int64)), to=FLOAT)
        has_none = g.emit("Less", labels, g.constant(0, np.int64))
        return g.emit("Where", has_none, g.constant(1 / shape[axis]), chosen)


@layer("LiftedStructSimilaritySoftmaxLoss", dialect="seqface")
class LiftedStructSimilaritySoftmaxLoss(EvaluatedLoss):
    """y = Σ max(0, log Σₖ (e^(margin - d(i, k)) + e^(margin - d(j, k))) + d(i, j))² / 2P over P pairs i, j of a label.

    d are distances of rows x [N, C], k the rows of other labels. There is no y without a pair (NaN).
    (huangyangyu/SeqFace, lifted_struct_similarity_softmax_layer.cpp; Song et al. 2016)
    """

    adds = seqface_pb2.LayerParameter

    def check(self, bottoms: Sequence[Shape]) -> None:
        shape, labels = bottoms
        if len(shape) < 2 or math.prod(shape[2:]) != 1 or not shape[1] or math.prod(labels) != shape[0]:
            raise self.error(f"expected features (N, C) and N labels, found shapes {shape} and {labels}")

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return (np.arange(math.prod(bottoms[1])) // 2).astype(np.float32).reshape(bottoms[1]) if bottom else None

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        x, labels = bottoms[0].reshape(len(bottoms[0]), -1).astype(float), bottoms[1].ravel()
        differences = x[:, None] - x[None]
        d = np.sqrt((differences**2).sum(2))
        pairs = [(int(i), int(j)) for i, j in zip(*np.triu_indices(len(x), 1), strict=True) if labels[i] == labels[j]]
        loss, pulls = 0.0, np.zeros_like(d)  # pulls: the slopes for d
        for i, j in pairs:
            hinge, of_others, others = self.pull(d, labels, i, j)
            loss += hinge**2
            pulls[i, j] += 2 * hinge
            pulls[i, others] -= 2 * hinge * of_others[0]
            pulls[j, others] -= 2 * hinge * of_others[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            pulls = np.where(pulls, pulls / d, 0)
            slope = np.einsum("ij,ijk->ik", pulls + pulls.T, differences)
            return [np.divide(loss, 2 * len(pairs))], np.divide(slope, 2 * len(pairs)).reshape(bottoms[0].shape)

    def pull(self, d: np.ndarray, labels: np.ndarray, i: int, j: int) -> tuple[float, np.ndarray, np.ndarray]:
        """Return a pair's hinge, how much each other row counts in it, seen from i and from j, and which these are."""
        others = np.flatnonzero(labels != labels[i])
        if not others.size:
            raise self.error("expected labels of at least two values, found one")
        excess = self.added.lifted_struct_sim_softmax_loss_param.margin - d[[[i], [j]], others]
        largest = excess.max()
        powers = np.exp(excess - largest)
        return max(math.log(powers.sum()) + largest + d[i, j], 0.0), powers / powers.sum(), others


@dataclass(frozen=True)
class _Others:
    """Centers that a pass compares with: their rows [S, K], which pairs [N, S] cost something, and how much."""

    centers: str
    costly: str
    excess: str


@layer("DSALoss", dialect="seqface")
class DSALoss(Loss):
    """y = Σᵢ (λ d(i, own) + (1 - λ) Σⱼ max(0, alpha · d(i, own) - d(i, j) + beta) / S) / rows, d = |x - c|² / 4.

    Bottoms x [N, …] and N labels: from 0 to faceid_num - 1 an identity, -1 to -seqid_num a sequence (with seqid_num 0
    these count nowhere, as ignore_label does). Centers c [faceid_num + seqid_num, K] are learned; dc = Σ (c - x) / 2 /
    (1 + n) over the n rows of a center does not depend on dy. j are the S = (1 - dropout_ratio) · centers that each
    pass draws with rand(); two sequences are not compared. λ's part counts after center_iter passes, the other after
    diff_iter. use_normalize stores centers of length `scale`. gamma changes nothing. The reference adds dx to what the
    blob's gradient held; here that is 0. (huangyangyu/SeqFace, dsa_loss_layer.cpp; Hu et al. 2018)
    """

    adds = seqface_pb2.LayerParameter
    filler_fields: ClassVar[Mapping[str, str]] = {"dsa_loss_param.center_filler": "center"}

    @property
    def settings(self) -> Any:
        return self.added.dsa_loss_param

    @property
    def center_count(self) -> int:
        return int(self.settings.faceid_num + self.settings.seqid_num)

    @property
    def drawn_count(self) -> int:
        """How many centers a pass compares with: S, or one that counts nothing where S is 0."""
        return max(self.compared_count, 1)

    @property
    def compared_count(self) -> int:
        """S."""
        return int(self.center_count * float(np.float32(1) - np.float32(self.settings.dropout_ratio)))

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        shape = (self.center_count, math.prod(bottoms[0][1:]))
        return (read_param("center", shape, self.settings, "center_filler", 1, 1),)

    def check(self, bottoms: Sequence[Shape]) -> None:
        p, (shape, labels) = self.settings, bottoms
        if not p.faceid_num or not 0 <= p.dropout_ratio <= 1:
            found = f"{p.faceid_num} and {p.dropout_ratio:g}"
            raise self.error(f"expected a faceid_num of at least 1 and a dropout_ratio of 0 to 1, found {found}")
        if self.canonical_axis(p.axis, len(shape)) != 1 or not math.prod(shape):
            raise self.error(f"expected axis 1 and items, found axis {p.axis} and shape {shape}")
        if math.prod(labels) != shape[0]:
            raise self.error(f"expected one label for each of {shape[0]} items, found shape {labels}")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return self.center_count if bottom == 1 else None

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        p, ignored = self.settings, self.proto.loss_param
        is_sequence = (values < 0) & ((values >= -float(p.seqid_num)) | (p.seqid_num == 0))
        return is_sequence | (ignored.HasField("ignore_label") & (values == ignored.ignore_label))

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        return (np.array(stream.c_random.shuffled(range(self.center_count))[: self.drawn_count], np.int64),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, shape, (count, inputs) = self.settings, g.shape(bottoms[0]), g.shape(params[0])
        drawn = g.input(f"{self.name}/centers", (self.drawn_count,), np.int64)
        index, weight = self.read(g, g.reshape(bottoms[1], shape[0], 1))
        shares = self.shares(g)
        valid = total(g, weight)
        made: dict[str, Any] = {}

        def forward(x: str, centers: str) -> str:
            x = g.reshape(x, shape[0], inputs)
            if p.use_normalize:
                unit = g.emit("Mul", emit_unit_rows(g, centers, inputs, CENTER_EPS), g.constant(p.scale))
                centers = g.updates[params[0]] = g.declare(unit, (count, inputs))
            away = g.emit("Sub", x, g.emit("Gather", centers, g.reshape(index, shape[0]), axis=0))
            own = g.emit("Mul", self.squares(g, away), g.constant(0.25))
            others = self.compare(g, x, own, g.emit("Gather", centers, drawn, axis=0), index, weight, drawn)
            made.update(x=x, away=away, others=others)
            parts = total(g, g.emit("Mul", weight, own)), total(g, g.emit("Mul", others.costly, others.excess))
            loss = g.emit("Add", *(g.emit("Mul", part, share) for part, share in zip(parts, shares, strict=True)))
            return g.emit("Div", loss, valid)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            g = tape.graph
            dx = g.emit("Mul", self.slope(g, made, weight, shares), g.emit("Div", dy, valid))
            places = g.reshape(index, shape[0])
            pulls = g.emit("Mul", made["away"], g.emit("Mul", weight, g.constant(-0.5)))
            g.declare(pulls, (shape[0], inputs))
            sums = emit_sums_of_classes(g, pulls, places, count)
            counts = g.emit("Add", emit_sums_of_classes(g, weight, places, count), g.constant(1))
            return g.reshape(g.declare(dx, (shape[0], inputs)), *shape), g.emit("Div", sums, counts)

        return [emit_closed(g, [bottoms[0], params[0]], forward, gradient)]

    def read(self, g: Graph, labels: str) -> tuple[str, str]:
        """Emit the centers of labels [N, 1], and which of these count, as floats."""
        p = self.settings
        ids = g.emit("Cast", labels, to=INT64)
        has_none = g.emit("Less", ids, g.constant(0, np.int64))
        weight = g.constant(np.ones((g.shape(labels)[0], 1)))
        if not p.seqid_num:
            weight = g.emit("Mul", weight, g.emit("Cast", g.emit("Not", has_none), to=FLOAT))
        if self.proto.loss_param.HasField("ignore_label"):
            ignored = g.constant(self.proto.loss_param.ignore_label, np.int64)
            weight = g.emit("Mul", weight, g.emit("Cast", g.emit("Not", g.emit("Equal", ids, ignored)), to=FLOAT))
        ids = g.emit("Where", has_none, g.emit("Sub", g.constant(p.faceid_num - 1, np.int64), ids), ids)
        last = g.constant(self.center_count - 1, np.int64)
        index = g.emit("Min", g.emit("Max", ids, g.constant(0, np.int64)), last)
        return g.declare(index, g.shape(labels)), g.declare(weight, g.shape(labels))

    def shares(self, g: Graph) -> tuple[str, str]:
        """Emit what the sums of both parts count with in this pass."""
        p = self.settings
        part = float(getattr(p, "lambda"))
        factors = [part, (1 - part) / self.compared_count if self.compared_count else 0]
        starts = [p.center_iter, p.diff_iter]
        if max(starts) <= 0:
            return g.constant(factors[0]), g.constant(factors[1])
        passes = g.reshape(emit_count(g, self.name))
        begun = [g.emit("GreaterOrEqual", passes, g.constant(start)) for start in starts]
        first, second = (
            g.emit("Where", has_begun, g.constant(factor), g.constant(0))
            for has_begun, factor in zip(begun, factors, strict=True)
        )
        return first, second

    @staticmethod
    def squares(g: Graph, rows: str) -> str:
        """Emit the sum of squares of each row, as a column."""
        return g.emit("ReduceSum", g.emit("Mul", rows, rows), g.ints(1), keepdims=1)

    def compare(self, g: Graph, x: str, own: str, centers: str, index: str, weight: str, drawn: str) -> _Others:
        """Compare the distances [N, 1] to the rows' own centers with those to the drawn ones."""
        p = self.settings
        products = g.emit("MatMul", x, g.transpose(centers, 1, 0))
        sums = g.emit("Add", self.squares(g, x), g.transpose(self.squares(g, centers), 1, 0))
        distances = g.emit("Sub", g.emit("Mul", sums, g.constant(0.25)), g.emit("Mul", products, g.constant(0.5)))
        wanted = g.emit("Add", g.emit("Mul", own, g.constant(p.alpha)), g.constant(p.beta))
        excess = g.emit("Sub", wanted, distances)
        faces = g.constant(p.faceid_num, np.int64)
        drawn = g.reshape(drawn, 1, self.drawn_count)
        has_face = g.emit("Or", g.emit("Less", index, faces), g.emit("Less", drawn, faces))
        compared = g.emit("And", has_face, g.emit("Not", g.emit("Equal", index, drawn)))
        costs = g.emit("And", compared, g.emit("Greater", excess, g.constant(0)))
        return _Others(centers, g.emit("Mul", g.emit("Cast", costs, to=FLOAT), weight), excess)

    def slope(self, g: Graph, made: Mapping[str, Any], weight: str, shares: tuple[str, str]) -> str:
        """Emit the slope of the sums for x: of d(i, own) along x - own, and of the others' d against it."""
        others, alpha = made["others"], g.constant(self.settings.alpha)
        counts = g.emit("ReduceSum", others.costly, g.ints(1), keepdims=1)
        pulls = g.emit("Mul", weight, shares[0])
        pulls = g.emit("Add", pulls, g.emit("Mul", g.emit("Mul", counts, alpha), shares[1]))
        toward = g.emit("Mul", made["away"], pulls)
        away = g.emit("Sub", g.emit("Mul", made["x"], counts), g.emit("MatMul", others.costly, others.centers))
        return g.emit("Mul", g.emit("Sub", toward, g.emit("Mul", away, shares[1])), g.constant(0.5))
