"""Loss layers: predictions and labels in, one scalar out, which counts with weight 1 unless the file says otherwise.

Labels are float32 blobs, cut to integers. Where a label lies outside the classes, Caffe reads foreign memory; here a
run is refused then (`caffestat.program.labels`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from caffestat.errors import InputError
from caffestat.files import read_regular
from caffestat.float32 import FLT_MIN
from caffestat.lazy import np
from caffestat.ops import Nonlinearity, activations

from .base import Layer, Shape, layer
from .math import emit_softmax
from .reread import emit_closed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "ContrastiveLoss",
    "EuclideanLoss",
    "HingeLoss",
    "InfogainLoss",
    "Loss",
    "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss",
    "SoftmaxWithLoss",
]

FULL, VALID, BATCH_SIZE, NONE = range(4)
L2 = 2

FLOAT, INT64, BOOL = 1, 7, 9  # onnx element types

LOG_THRESHOLD = 1e-20


class Loss(Layer):
    """A scalar of two bottoms of equal batch; `labels` are the bottoms that get no gradient. (loss_layer.cpp)"""

    num_bottoms = (2, 2)
    auto_tops = True
    keeps_shapes = True

    def loss_weight(self, top: int) -> float:
        return super().loss_weight(top) if self.proto.loss_weight else float(top == 0)

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom != 1

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        first = [shape[:1] for shape in bottoms[:2]]
        if first[0] != first[1] or not first[0]:
            raise self.error(f"expected two bottoms of the same first axis, found shapes {bottoms[0]} and {bottoms[1]}")
        self.check(bottoms)
        return ((), *[bottoms[0]] * (self.top_count - 1))

    def check(self, bottoms: Sequence[Shape]) -> None:
        """Raise NetError when the bottoms do not fit this loss."""

    def check_counts(self, bottoms: Sequence[Shape]) -> None:
        """Raise NetError unless two bottoms have as many elements."""
        if math.prod(bottoms[0]) != math.prod(bottoms[1]):
            raise self.error(f"expected two bottoms of the same count, found shapes {bottoms[0]} and {bottoms[1]}")

    def check_labels(self, scores: Shape, labels: Shape, axis: int) -> None:
        """Raise NetError unless there is one label for each position outside `axis`."""
        expected = math.prod(scores) // max(scores[axis], 1)
        if math.prod(labels) != expected:
            raise self.error(
                f"expected {expected} labels, one for each position of bottom 0 (shape {scores}) outside axis {axis}, "
                f"found {math.prod(labels)} (shape {labels})"
            )


class Normalized(Loss):
    """A loss that loss_param normalizes: divided by all positions, those not ignored, the batch, or nothing."""

    default_normalization = VALID

    def is_by_sample(self, bottoms: Sequence[Shape]) -> bool:
        counts_all = self.normalization() != NONE and not self.proto.loss_param.HasField("ignore_label")
        return super().is_by_sample(bottoms) and counts_all

    def normalization(self) -> int:
        """Return the mode: as written, else by the older field `normalize`, else the layer's own."""
        proto = self.proto.loss_param
        if proto.HasField("normalization"):
            return int(proto.normalization)
        if proto.HasField("normalize"):
            return VALID if proto.normalize else BATCH_SIZE
        return self.default_normalization

    def valid(self, g: Graph, labels: str) -> str | None:
        """Emit which labels count (1 or 0, as floats); None when all do."""
        if not self.proto.loss_param.HasField("ignore_label"):
            return None
        ignored = g.emit(
            "Equal", g.emit("Cast", labels, to=INT64), g.constant(self.proto.loss_param.ignore_label, np.int64)
        )
        return g.emit("Cast", g.emit("Not", ignored), to=FLOAT)

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        proto = self.proto.loss_param
        return np.equal(values, proto.ignore_label if proto.HasField("ignore_label") else np.nan)

    def normalizer(self, g: Graph, valid: str | None, outer: int, inner: int) -> str:
        """Emit what the loss is divided by: never below 1, so that a batch without labels gives 0."""
        mode = self.normalization()
        if mode == VALID and valid is not None:
            return g.emit("Max", total(g, valid), g.constant(1))
        return g.constant(self.most(outer, inner))

    def most(self, outer: int, inner: int) -> float:
        """Return the normalizer when every label counts."""
        count = {FULL: outer * inner, VALID: outer * inner, BATCH_SIZE: outer, NONE: 1}[self.normalization()]
        return max(count, 1)


def tell_legacy_axes(bottoms: Sequence[Shape]) -> str:
    """Return what to tell the user of a first bottom whose batch Caffe's num() does not give; "" for nothing."""
    return f"its bottom has {len(bottoms[0])} axes, but Caffe expects at most 4" if len(bottoms[0]) > 4 else ""


def total(g: Graph, value: str) -> str:
    """Emit the sum of all elements as a scalar, in two steps: less rounding than in one."""
    rows = g.emit("ReduceSum", value, g.ints(-1), keepdims=0)
    return g.emit("ReduceSum", rows, keepdims=0)


def cross_entropies(g: Graph, x: str, targets: str) -> str:
    """Emit the cross entropy of σ(x) and a target for each element: log(1 + e^-|x|) + max(x, 0) - x·t."""
    tail = g.emit("Log", g.emit("Add", g.emit("Exp", g.emit("Neg", g.emit("Abs", x))), g.constant(1)))
    return g.emit("Add", g.emit("Sub", g.emit("Relu", x), g.emit("Mul", x, targets)), tail)


def weigh(g: Any, value: str, valid: str | None) -> str:
    """Emit the value, zero where it does not count."""
    return value if valid is None else str(g.emit("Mul", value, valid))


def counted(g: Any, value: str, weights: str | None) -> str:
    """Emit the value times its weight; a weight of 0 leaves a NaN out, as loops do that skip it."""
    if weights is None:
        return value
    return str(g.emit("Where", g.emit("Cast", weights, to=BOOL), g.emit("Mul", value, weights), g.constant(0)))


def class_index(g: Graph, labels: str, classes: int) -> str:
    """Emit the labels as integers within the classes."""
    return g.emit("Cast", g.emit("Clip", labels, g.constant(0), g.constant(classes - 1)), to=INT64)


@layer("SoftmaxWithLoss", by_sample=True)
class SoftmaxWithLoss(Normalized):
    """y = -Σ log(max(p[label], FLT_MIN)) / normalizer, p = softmax along an axis; dx = (p - [label]) · dy / normalizer.

    Labels that equal ignore_label count nowhere. A second top is p, without gradient. (softmax_loss_layer.cpp)
    """

    whole = "SoftmaxCrossEntropyLoss"  # the op that the emitted nodes are as a whole
    num_tops = (1, 2)
    foreign_tops = (3, None)

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return needed[1]

    def nonlinearity(self) -> Nonlinearity:
        return activations.SOFTMAX

    def weights(self, g: Graph, labels: str, classes: int, others: Sequence[str]) -> tuple[str | None, str | None]:
        """Emit what each label's loss is multiplied by, and how much each counts in the normalizer; None for 1."""
        valid = self.valid(g, labels)
        return valid, valid

    def axis(self, shape: Shape) -> int:
        """Return the class axis, counted from the front."""
        return self.canonical_axis(self.proto.softmax_param.axis, len(shape))

    def is_by_sample(self, bottoms: Sequence[Shape]) -> bool:
        return super().is_by_sample(bottoms) and self.axis(bottoms[0]) > 0

    def check(self, bottoms: Sequence[Shape]) -> None:
        self.check_labels(bottoms[0], bottoms[1], self.axis(bottoms[0]))

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return bottoms[0][self.axis(bottoms[0])] if bottom == 1 else None

    def uninformed_loss(self, bottoms: Sequence[Shape]) -> float | None:
        shape, axis = bottoms[0], self.axis(bottoms[0])
        outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        return math.log(max(shape[axis], 1)) * outer * inner / self.most(outer, inner)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        axis = self.axis(shape)
        outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        made: dict[str, Any] = {}  # what the backward pass shares with the forward pass

        def forward(scores: str, labels: str, *others: str) -> Sequence[str]:
            labels = g.reshape(labels, *shape[:axis], 1, *shape[axis + 1 :])
            p, index = emit_softmax(g, scores, axis), class_index(g, labels, shape[axis])
            chosen = g.emit("GatherElements", p, index, axis=axis)
            weights, counts = self.weights(g, labels, shape[axis], others)
            normalizer = self.normalizer(g, counts, outer, inner)
            logs = g.emit("Log", g.emit("Max", chosen, g.constant(FLT_MIN)))
            loss = g.emit("Neg", g.emit("Div", total(g, counted(g, logs, weights)), normalizer))
            made.update(p=p, index=index, chosen=chosen, weights=weights, normalizer=normalizer)
            return [loss, p][: self.top_count]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            others = [None] * (len(bottoms) - 1)
            if dys[0] is None:
                return [None, *others]
            scale = weigh(tape, tape.emit("Div", dys[0], made["normalizer"]), made["weights"])
            less_one = tape.emit("Sub", made["chosen"], tape.constant(1))
            slope = tape.emit("ScatterElements", made["p"], made["index"], less_one, axis=axis)
            return [tape.emit("Mul", slope, scale), *others]

        whole: dict[str, Any] = {"axis": axis, "normalizer": self.most(outer, inner), "floor": FLT_MIN}
        return g.custom_vjp(bottoms, forward, backward, self.whole, **whole)


@layer("EuclideanLoss", by_sample=True)
class EuclideanLoss(Loss):
    """y = Σ (x₀ - x₁)² / 2N; dx₀ = -dx₁ = (x₀ - x₁) · dy / N. (euclidean_loss_layer.cpp)"""

    takes_targets = True

    def allow_force_backward(self, bottom: int) -> bool:
        return True

    def departs(self, bottoms: Sequence[Shape]) -> str:
        return super().departs(bottoms) or tell_legacy_axes(bottoms)

    def check(self, bottoms: Sequence[Shape]) -> None:
        self.check_counts(bottoms)

    def divisor(self, shape: Shape) -> float:
        """Return what the gradient is divided by, and half of the sum of squares."""
        return shape[0]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, other = g.shape(bottoms[0]), g.shape(bottoms[1])
        divisor, differences = self.divisor(shape), list[str]()

        def forward(a: str, b: str, *weights: str) -> str:
            difference = g.emit("Sub", a, g.reshape(b, *shape))
            for weight in weights:
                difference = g.emit("Mul", difference, g.reshape(weight, *shape))
            differences.append(difference)
            return g.emit("Div", total(g, g.emit("Mul", difference, difference)), g.constant(2 * divisor))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            dx = tape.emit("Mul", differences[0], tape.emit("Div", dy, tape.constant(divisor)))
            db = tape.reshape(tape.emit("Neg", dx), *other) if tape.needs(bottoms[1]) else None
            return [dx, db, *[None] * (len(bottoms) - 2)]

        return (emit_closed(g, bottoms, forward, gradient),)


@layer("SigmoidCrossEntropyLoss", by_sample=True)
class SigmoidCrossEntropyLoss(Normalized):
    """y = Σ (log(1 + e^-|x|) + max(x, 0) - x·t) / normalizer; dx = (σ(x) - t) · dy / normalizer.

    Targets t that equal ignore_label when cut to an integer count nowhere; the default normalizer is the batch.
    (sigmoid_cross_entropy_loss_layer.cpp)
    """

    default_normalization = BATCH_SIZE
    takes_targets = True

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return needed[1]

    def nonlinearity(self) -> Nonlinearity:
        return activations.SOFTMAX  # the loss's gradient σ(x) - t is flat nowhere

    def check(self, bottoms: Sequence[Shape]) -> None:
        if math.prod(bottoms[0]) != math.prod(bottoms[1]):
            raise self.error(f"expected one target per value, found shapes {bottoms[0]} and {bottoms[1]}")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom == 1 else None

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        return np.ones(values.shape, bool)  # any target is taken

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        made: dict[str, Any] = {}

        def forward(x: str, targets: str) -> str:
            targets = g.reshape(targets, *shape)
            valid = self.valid(g, targets)
            normalizer = self.normalizer(g, valid, shape[0], math.prod(shape[1:]))
            made.update(targets=targets, valid=valid, normalizer=normalizer)
            return g.emit("Div", total(g, counted(g, cross_entropies(g, x, targets), valid)), normalizer)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            scale = weigh(tape, tape.emit("Div", dy, made["normalizer"]), made["valid"])
            return tape.emit("Mul", tape.emit("Sub", tape.emit("Sigmoid", bottoms[0]), made["targets"]), scale), None

        return (emit_closed(g, bottoms, forward, gradient),)


class Classified(Loss):
    """A loss of [N, …] scores and N labels, one class per score of an item."""

    def departs(self, bottoms: Sequence[Shape]) -> str:
        return super().departs(bottoms) or tell_legacy_axes(bottoms)

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return needed[1]

    def check(self, bottoms: Sequence[Shape]) -> None:
        if math.prod(bottoms[1]) != bottoms[0][0]:
            raise self.error(f"expected one label for each of {bottoms[0][0]} items, found shape {bottoms[1]}")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return math.prod(bottoms[0][1:]) if bottom == 1 else None


def tell_left_labels(scores: Shape, labels: Shape) -> str:
    """Return what to tell the user of more labels than items; "" for nothing."""
    items, count = math.prod(scores[:1]), math.prod(labels)
    return f"takes the first {items} of {count} labels, in the order of memory" if count > items else ""


def first_labels(g: Graph, labels: str, count: int) -> str:
    """Emit the first labels in the order of memory, as [count, 1]: Caffe reads no more than one for each item."""
    column = g.reshape(labels, -1, 1)
    if math.prod(g.shape(labels)) == count:
        return column
    return g.emit("Slice", column, g.ints(0), g.ints(count), g.ints(0))


def is_label(g: Graph, labels: str, classes: int) -> str:
    """Emit, as [N, classes], whether a class is the item's label."""
    index = class_index(g, g.reshape(labels, -1, 1), classes)
    return g.emit("Equal", index, g.constant(np.arange(classes).reshape(1, -1), np.int64))


@layer("HingeLoss", by_sample=True)
class HingeLoss(Classified):
    """y = Σ max(0, 1 - s·x)^p / N, s = 1 at the label and -1 elsewhere, p = 1 (L1) or 2 (L2).

    The forward pass leaves max(0, 1 - s·x) in the bottom's diff. Where x is NaN, C++'s max is 0. Of more labels than
    items the first ones count. (hinge_loss_layer.cpp)
    """

    def is_by_sample(self, bottoms: Sequence[Shape]) -> bool:
        return super().is_by_sample(bottoms) and not self.oddity(bottoms)

    def oddity(self, bottoms: Sequence[Shape]) -> str:
        return tell_left_labels(bottoms[0], bottoms[1]) if bottoms[0][:1] == bottoms[1][:1] else ""

    def check(self, bottoms: Sequence[Shape]) -> None:
        if not self.oddity(bottoms):
            super().check(bottoms)

    def left_diffs(self, g: Graph, bottoms: Sequence[str]) -> Mapping[int, str]:
        return {0: g.reshape(self.excess(g, bottoms), *g.shape(bottoms[0]))}

    def excess(self, g: Graph, bottoms: Sequence[str]) -> str:
        """Emit max(0, 1 - s·x) as [N, classes]."""
        shape = g.shape(bottoms[0])
        chosen = is_label(g, first_labels(g, bottoms[1], shape[0]), math.prod(shape[1:]))
        signs = g.emit("Where", chosen, g.constant(-1), g.constant(1))
        signed = g.emit("Mul", g.reshape(bottoms[0], shape[0], -1), signs)
        gap = g.emit("Add", signed, g.constant(1))
        return g.emit("Where", g.emit("Greater", gap, g.constant(0)), gap, g.constant(0))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        excess = self.excess(g, bottoms)
        if self.proto.hinge_loss_param.norm == L2:
            excess = g.emit("Mul", excess, excess)
        return (g.emit("Div", total(g, excess), g.constant(g.shape(bottoms[0])[0])),)


@layer("MultinomialLogisticLoss", by_sample=True)
class MultinomialLogisticLoss(Classified):
    """y = -Σ log(max(x[label], 1e-20)) / N; dx[label] = -dy / (N · max(x[label], 1e-20)).
    (multinomial_logistic_loss_layer.cpp)"""

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])

        def forward(x: str, labels: str) -> str:
            logs = g.emit("Log", self.chosen(g, x, labels, shape))
            return g.emit("Div", g.emit("Neg", total(g, logs)), g.constant(shape[0]))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            is_chosen = is_label(tape.graph, bottoms[1], math.prod(shape[1:]))
            chosen = self.chosen(tape.graph, tape.stored(bottoms[0]), bottoms[1], shape)
            grad = tape.emit("Div", tape.emit("Div", dy, tape.constant(-shape[0])), chosen)
            return tape.reshape(tape.emit("Where", is_chosen, grad, tape.constant(0)), *shape), None

        return (emit_closed(g, bottoms, forward, gradient),)

    def chosen(self, g: Graph, x: str, labels: str, shape: Shape) -> str:
        """Emit max(x[label], 1e-20) as [N, 1]."""
        index = class_index(g, g.reshape(labels, shape[0], 1), math.prod(shape[1:]))
        chosen = g.emit("GatherElements", g.reshape(x, shape[0], -1), index, axis=1)
        return g.emit("Max", chosen, g.constant(LOG_THRESHOLD))


@layer("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """y = Σ (d² of similar pairs, max(margin - d, 0)² of others) / 2N, d² = Σ (a - b)²; of old max(margin - d², 0).

    Bottom 2 tells which pairs are similar: not 0 when cut to an integer. The gradient of other pairs is
    -(a - b) · (margin - d) / (d + 1e-4) · dy / N. Of more similarities than pairs the first ones count. With a fourth
    bottom, as in a fork, both hold labels, and pairs of one label are similar. (contrastive_loss_layer.cpp;
    happynear/caffe-windows)
    """

    num_bottoms = (3, 3)
    fork_bottoms = (3, 4)

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom < 2

    def departs(self, bottoms: Sequence[Shape]) -> str:
        return "has 4 bottoms, two of labels, and Caffe takes 3" if len(bottoms) == 4 else ""

    def oddity(self, bottoms: Sequence[Shape]) -> str:
        return tell_left_labels(bottoms[0], bottoms[2]) if len(bottoms) == 3 else ""

    def check(self, bottoms: Sequence[Shape]) -> None:
        a, b, *labels = bottoms
        if a[:2] != b[:2] or any(size != 1 for size in (*a[2:], *b[2:])) or max(len(a), len(b)) > 4:
            raise self.error(f"expected two bottoms of one shape (N, C) or (N, C, 1, 1), found {a} and {b}")
        for shape in labels:
            if math.prod(shape) != a[0] and not self.oddity(bottoms):
                what = "similarity" if len(labels) == 1 else "label"
                raise self.error(f"expected one {what} for each of {a[0]} pairs, found shape {shape}")
        if len(labels) == 1 and any(size != 1 for size in labels[0][1:]):
            raise self.error(f"expected similarities of shape (N) or (N, 1, 1, 1), found {labels[0]}")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom >= 2 else None

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        return np.ones(values.shape, bool)  # any value is taken

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shapes = [g.shape(bottom) for bottom in bottoms]
        count, margin = shapes[0][0], g.constant(self.proto.contrastive_loss_param.margin)
        legacy = self.proto.contrastive_loss_param.legacy_version
        made: dict[str, str] = {}

        def forward(a: str, b: str, *labels: str) -> str:
            difference = g.emit("Sub", g.reshape(a, count, -1), g.reshape(b, count, -1))
            square = g.emit("ReduceSum", g.emit("Mul", difference, difference), g.ints(1), keepdims=1)
            distance = square if legacy else g.emit("Sqrt", square)
            gap = g.emit("Relu", g.emit("Sub", margin, distance))
            similar = self.similar(g, [first_labels(g, label, count) for label in labels])
            terms = g.emit("Where", similar, square, gap if legacy else g.emit("Mul", gap, gap))
            made.update(difference=difference, distance=distance, gap=gap, similar=similar)
            return g.emit("Div", total(g, terms), g.constant(2 * count))

        def pull(tape: Tape) -> str:
            """Emit, for each pair, what the difference is multiplied with beside dy / N."""
            if legacy:
                apart = tape.emit("Sign", made["gap"])
            else:
                apart = tape.emit("Div", made["gap"], tape.emit("Add", made["distance"], tape.constant(1e-4)))
            return str(tape.emit("Where", made["similar"], tape.constant(1), tape.emit("Neg", apart)))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            factor = tape.emit("Mul", pull(tape), tape.emit("Div", dy, tape.constant(count)))
            counts = tape.emit("Or", made["similar"], tape.emit("Greater", made["gap"], tape.constant(0)))
            da = tape.emit("Where", counts, tape.emit("Mul", made["difference"], factor), tape.constant(0))
            return (
                tape.reshape(da, *shapes[0]),
                tape.reshape(tape.emit("Neg", da), *shapes[1]),
                *(None,) * len(shapes[2:]),
            )

        return (emit_closed(g, bottoms, forward, gradient),)

    def similar(self, g: Graph, labels: Sequence[str]) -> str:
        """Emit which pairs are similar: of two labels that are equal when cut to integers, of one that is not 0 then.

        onnxruntime before 1.26 would skip the integer between two casts.
        """
        if len(labels) == 1:
            return g.emit("GreaterOrEqual", g.emit("Abs", labels[0]), g.constant(1))
        cut = [g.emit("Mul", g.emit("Sign", label), g.emit("Floor", g.emit("Abs", label))) for label in labels]
        return g.emit("Equal", *cut)


@layer("InfogainLoss")
class InfogainLoss(Normalized):
    """y = -Σ H[label, l] · log(max(p[l], 1e-20)) / normalizer, p the softmax along `axis`;
    dx[l] = (p[l] · Σ H[label] - H[label, l]) · dy / normalizer.

    H is bottom 2, or stands in the binaryproto file `source`. A second top is p. (infogain_loss_layer.cpp)
    """

    num_bottoms = (2, 3)
    num_tops = (1, 2)
    foreign_bottoms = (4, 10)

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return any(needed[1:])

    def axis(self, shape: Shape) -> int:
        """Return the class axis, counted from the front."""
        return self.canonical_axis(self.proto.infogain_loss_param.axis, len(shape))

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return bottoms[0][self.axis(bottoms[0])] if bottom == 1 else None

    def check(self, bottoms: Sequence[Shape]) -> None:
        if self.proto.loss_param.HasField("normalize"):
            raise self.error("loss_param.normalize is not supported by this layer; use normalization")
        axis = self.axis(bottoms[0])
        self.check_labels(bottoms[0], bottoms[1], axis)
        if len(bottoms) == 3:
            self.check_matrix(math.prod(bottoms[2]), bottoms[0][axis])
        elif not self.proto.infogain_loss_param.HasField("source"):
            raise self.error("expected the matrix H: a third bottom, or a file named in infogain_loss_param.source")

    def check_matrix(self, count: int, classes: int) -> None:
        """Raise NetError unless H has a row and a column per class."""
        if count != classes**2:
            raise self.error(f"expected a matrix H of {classes} x {classes} values, found {count} values")

    def matrix(self, classes: int) -> np.ndarray:
        """Return H from the file, its path taken from the working directory as in Caffe, else from the net's folder."""
        path = self.proto.infogain_loss_param.source
        blob = type(self.proto)().blobs.add()
        try:
            blob.ParseFromString(read_regular(self.named_file(path) or path))
        except (OSError, DecodeError, InputError) as error:
            raise self.error(f"cannot read the matrix H from {path!r}: {error}") from error
        values = np.array(blob.data or blob.double_data, np.float32)
        self.check_matrix(values.size, classes)
        return values.reshape(classes, classes)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        axis = self.axis(shape)
        classes, outer, inner = shape[axis], math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
        matrix = g.reshape(bottoms[2], classes, classes) if len(bottoms) == 3 else g.constant(self.matrix(classes))
        made: dict[str, Any] = {}

        def forward(scores: str, labels: str, *_: str) -> Sequence[str]:
            p, labels = emit_softmax(g, scores, axis), g.reshape(labels, outer, inner)
            rows = g.emit("Gather", matrix, class_index(g, labels, classes), axis=0)
            gains = g.declare(g.transpose(rows, 0, 2, 1), (outer, classes, inner))
            valid = self.valid(g, g.reshape(labels, outer, 1, inner))
            normalizer = self.normalizer(g, valid, outer, inner)
            logs = g.emit("Log", g.emit("Max", g.reshape(p, outer, classes, inner), g.constant(LOG_THRESHOLD)))
            loss = g.emit("Neg", g.emit("Div", total(g, counted(g, g.emit("Mul", gains, logs), valid)), normalizer))
            made.update(p=p, gains=gains, valid=valid, normalizer=normalizer)
            return [loss, p][: self.top_count]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            others = [None] * (len(bottoms) - 1)
            if dys[0] is None:
                return [None, *others]
            sums = tape.emit("ReduceSum", made["gains"], tape.ints(1), keepdims=1)
            expected = tape.emit("Mul", tape.reshape(made["p"], outer, classes, inner), sums)
            scale = weigh(tape, tape.emit("Div", dys[0], made["normalizer"]), made["valid"])
            return [tape.reshape(tape.emit("Mul", tape.emit("Sub", expected, made["gains"]), scale), *shape), *others]

        return g.custom_vjp(bottoms, forward, backward)
