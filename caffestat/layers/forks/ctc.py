"""Connectionist temporal classification: losses over all alignments of a label sequence, and greedy decoding.

Graves et al. 2006, as in Baidu's warp-ctc. Scores are [T, N, classes], N sequences of T steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.ops import Nonlinearity, activations
from caffestat.schema.forks import sequences_pb2

from ..base import Layer, Shape, layer
from ..loss import Loss
from .scans import emit_scan
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["CTCGreedyDecoder", "CtcLoss", "CtcLossOfPlates", "LabelsequenceAccuracy", "WarpCTCLoss"]

_WORD = 8  # labels that a sequence usually has
NEVER = -1e30  # the logarithm of probability 0; sums of two stay finite


@dataclass(frozen=True)
class _Targets:
    """Label sequences: codes [N, L] int64, the first `lengths` [N, 1] int64 of which count; `times` [N, 1] steps."""

    codes: str
    lengths: str
    times: str


def _packed(g: Graph, codes: str, kept: str) -> tuple[str, str]:
    """Emit the codes [N, L] that are kept, moved to the front of their row, and their number [N, 1]."""
    length = g.shape(codes)[1]
    places = g.constant(np.arange(length), np.int64)
    keys = g.emit("Where", kept, places, g.emit("Add", places, g.ints(length)))
    _, order = g.emit_many("TopK", keys, g.ints(length), count=2, axis=1, largest=0, sorted=1)
    packed = g.declare(g.emit("GatherElements", codes, order, axis=1), g.shape(codes), np.int64)
    return packed, g.emit("ReduceSum", g.cast(kept, np.int64), g.ints(1), keepdims=1)


def _shifted(g: Graph, value: str, by: int, fill: str) -> str:
    """Emit the value [N, S] moved by some places along its last axis."""
    rows, size = g.shape(value)
    edge = g.emit("Expand", fill, g.ints(rows, min(abs(by), size)))
    if abs(by) >= size:
        return edge
    start, end = (0, size - by) if by > 0 else (-by, size)
    kept = g.emit("Slice", value, g.ints(start), g.ints(end), g.ints(1))
    return g.emit("Concat", *((edge, kept) if by > 0 else (kept, edge)), axis=1)


def _log_sum(g: Graph, *values: str) -> str:
    """Emit log Σ e^v."""
    most = g.emit("Max", *values)
    powers = [g.emit("Exp", g.emit("Sub", value, most)) for value in values]
    return g.emit("Add", most, g.emit("Log", g.emit("Sum", *powers)))


class _Alignments:
    """All alignments of label sequences with scores, the labels spread between blanks: S = 2 L + 1 states.

    cost      -log of their probability [N, 1], 0 where a sequence is too long for its steps
    is_possible  whether it is not [N, 1]
    """

    def __init__(self, g: Graph, scores: str, targets: _Targets, blank: int) -> None:
        self.g, self.targets = g, targets
        self.shape = g.shape(scores)
        self.logs = g.declare(g.emit("LogSoftmax", scores, axis=2), self.shape)
        self.codes = self.spread(blank)
        self.states = g.shape(self.codes)
        before = _shifted(g, self.codes, 2, g.constant(-1, np.int64))
        is_label = g.emit("Not", g.emit("Equal", self.codes, g.constant(blank, np.int64)))
        self.skips = g.emit("And", is_label, g.emit("Not", g.emit("Equal", self.codes, before)))
        self.emissions = self.emitted()
        self.active = self.steps()
        self.forward = self.run(reverse=False)
        self.is_possible = self.possible()
        self.log_likelihood = self.total()
        self.cost = g.emit("Where", self.is_possible, g.emit("Neg", self.log_likelihood), g.constant(0))

    def spread(self, blank: int) -> str:
        """Emit the labels with blanks before, between and behind them: [N, 2 L + 1]."""
        g, (rows, length) = self.g, self.g.shape(self.targets.codes)
        column = g.emit("Unsqueeze", self.targets.codes, g.ints(2))
        blanks = g.constant(np.full((rows, length, 1), blank), np.int64)
        pairs = g.emit("Reshape", g.emit("Concat", blanks, column, axis=2), g.ints(rows, 2 * length))
        last = g.constant(np.full((rows, 1), blank), np.int64)
        return g.declare(g.emit("Concat", pairs, last, axis=1), (rows, 2 * length + 1), np.int64)

    def emitted(self) -> str:
        """Emit the log probability of each state at each step: [T, N, S]."""
        steps, shape = self.shape[0], self.g.shape(self.codes)
        index = self.g.emit("Expand", self.codes, self.g.ints(steps, *shape))
        return self.g.declare(self.g.emit("GatherElements", self.logs, index, axis=2), (steps, *shape))

    def steps(self) -> str:
        """Emit whether a step is within its sequence, [T, N, 1]."""
        numbers = self.g.constant(np.arange(self.shape[0]).reshape(-1, 1, 1), np.int64)
        inside = self.g.emit("Less", numbers, self.targets.times)
        return self.g.declare(inside, (*self.shape[:2], 1), np.bool_)

    def first(self, reverse: bool) -> str:
        """Emit the state before the first step, or behind the last: [N, S]."""
        places = self.g.constant(np.arange(self.states[1]), np.int64)
        end = self.g.emit("Mul", self.targets.lengths, self.g.constant(2, np.int64)) if reverse else self.g.ints(0)
        at = self.g.emit("Equal", self.g.emit("Expand", places, self.g.ints(*self.states)), end)
        return self.g.declare(self.g.emit("Where", at, self.g.constant(0), self.g.constant(NEVER)), self.states)

    def run(self, reverse: bool) -> str:
        """Emit the log probabilities of all alignments up to each state, or from it on, itself included: [T, N, S]."""
        way = -1 if reverse else 1
        skips = self.skips if not reverse else _shifted(self.g, self.skips, -2, self.g.constant(False, np.bool_))
        self.g.declare(skips, self.states, np.bool_)

        def step(g: Graph, states: Sequence[str], slices: Sequence[str]) -> tuple[list[str], list[str]]:
            never = g.constant(NEVER)
            jumped = g.emit("Where", skips, _shifted(g, states[0], 2 * way, never), never)
            reached = _log_sum(g, states[0], _shifted(g, states[0], way, never), jumped)
            new = g.emit("Where", slices[1], g.emit("Add", reached, slices[0]), states[0])
            return [new], [new]

        scanned = [self.emissions, self.active]
        return emit_scan(self.g, step, [self.first(reverse)], scanned, [skips], reverse)[1]

    def possible(self) -> str:
        """Emit whether a sequence's labels, and a blank between equal ones, fit into its steps: [N, 1]."""
        g, codes = self.g, self.targets.codes
        length = g.shape(codes)[1]
        equal = g.emit("Equal", codes, _shifted(g, codes, 1, g.constant(-1, np.int64)))
        counted = g.emit("Less", g.constant(np.arange(length).reshape(1, -1), np.int64), self.targets.lengths)
        repeats = g.emit("ReduceSum", g.cast(g.emit("And", equal, counted), np.int64), g.ints(1), keepdims=1)
        return g.emit("LessOrEqual", g.emit("Add", self.targets.lengths, repeats), self.targets.times)

    def total(self) -> str:
        """Emit the log likelihood [N, 1]: the last two states at the last step."""
        g = self.g
        last = g.emit("Gather", self.forward, g.constant(self.shape[0] - 1, np.int64), axis=0)
        behind = g.emit("Mul", self.targets.lengths, g.constant(2, np.int64))
        places = g.constant(np.arange(self.states[1]).reshape(1, -1), np.int64)
        at_end = g.emit("Or", g.emit("Equal", places, behind), self.is_last_label(places, behind))
        ends = g.emit("Where", at_end, last, g.constant(NEVER))
        most = g.emit("ReduceMax", ends, g.ints(1), keepdims=1)
        powers = g.emit("ReduceSum", g.emit("Exp", g.emit("Sub", ends, most)), g.ints(1), keepdims=1)
        return g.emit("Add", most, g.emit("Log", powers))

    def is_last_label(self, places: str, behind: str) -> str:
        return self.g.emit("Equal", self.g.emit("Add", places, self.g.constant(1, np.int64)), behind)

    def slope(self, tape: Tape) -> str:
        """Emit the gradient of Σ cost to the scores: softmax less how likely each class is at each step, [T, N, C]."""
        backward = self.run(reverse=True)
        both = tape.emit("Sub", tape.emit("Add", self.forward, backward), self.emissions)
        likely = tape.emit("Exp", tape.emit("Sub", both, self.log_likelihood))
        index = tape.emit("Expand", self.codes, tape.ints(self.shape[0], *self.states))
        zeros = tape.constant(np.zeros(self.shape))
        occupied = tape.emit("ScatterElements", zeros, index, likely, axis=2, reduction="add")
        error = tape.emit("Sub", tape.emit("Exp", self.logs), occupied)
        counts = tape.emit("And", self.active, self.is_possible)
        return tape.declare(tape.emit("Where", counts, error, tape.constant(0)), self.shape)


class _CtcLoss(Loss):
    """A CTC loss; the gradient is that of the sum of costs, with or without dy."""

    def nonlinearity(self) -> Nonlinearity:
        return activations.SOFTMAX

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    @property
    def blank(self) -> int:
        """The class of the blank."""
        raise NotImplementedError

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check_scores(bottoms[0])
        self.check(bottoms)
        return ((),) * self.top_count

    def check_scores(self, scores: Shape) -> None:
        """Raise NetError unless the scores are [T, N, classes] and the blank is one of the classes."""
        if len(scores) < 3 or math.prod(scores[3:]) != 1 or not math.prod(scores):
            raise self.error(f"expected scores of shape (steps, sequences, classes), found {scores}")
        if not 0 <= self.blank < scores[2]:
            raise self.error(f"expected a blank of 0 to {scores[2] - 1}, found {self.blank}")

    def check_rows(self, labels: Shape, scores: Shape) -> None:
        """Raise NetError unless there is one row of labels for each sequence."""
        if len(labels) < 2 or labels[0] != scores[1] or math.prod(labels[2:]) != 1:
            raise self.error(f"expected labels of shape ({scores[1]}, longest), found {labels}")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return bottoms[0][2] if bottom == 1 else None

    def usual_bottom(self, bottom: int, others: Sequence[Shape]) -> Shape | None:
        steps, rows = others[0][:2]
        return (rows, min(max(steps // 2, 1), _WORD)) if bottom == 1 == len(others) else None

    def targets(self, g: Graph, bottoms: Sequence[str]) -> _Targets:
        """Emit the label sequences: all labels of a row that are not the blank."""
        steps, rows = self.used_steps(g.shape(bottoms[0])), g.shape(bottoms[0])[1]
        codes = g.declare(g.cast(g.reshape(bottoms[1], rows, -1), np.int64), g.shape(bottoms[1])[:2], np.int64)
        kept = g.emit("Not", g.emit("Equal", codes, g.constant(self.blank, np.int64)))
        packed, lengths = _packed(g, codes, kept)
        return _Targets(packed, lengths, g.constant(np.full((rows, 1), steps), np.int64))

    def used_steps(self, scores: Shape) -> int:
        """Return how many steps count."""
        return scores[0]

    def scaled(self, tape: Tape, slope: str, dy: str) -> str:
        """Emit the gradient of the scores."""
        return tape.emit("Mul", slope, dy)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        targets = self.targets(g, bottoms)
        made: list[_Alignments] = []

        def forward(scores: str) -> Sequence[str]:
            made.append(_Alignments(g, g.reshape(scores, *shape[:3]), targets, self.blank))
            counted = g.cast(g.emit("Greater", targets.times, g.constant(0, np.int64)), np.float32)
            count = g.emit("Max", g.emit("ReduceSum", counted, keepdims=0), g.constant(1))
            return [g.emit("Div", g.emit("ReduceSum", made[0].cost, keepdims=0), count)] * self.top_count

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            return [tape.reshape(self.scaled(tape, made[0].slope(tape), dys[0] or tape.constant(0)), *shape)]

        return g.custom_vjp(bottoms[:1], forward, backward)


@layer("CtcLoss", dialect="warpctc")
class CtcLoss(_CtcLoss):
    """y = mean over sequences of -log p(labels), p the sum over all alignments; dx = d Σ(-log p)/dx · dy.

    Bottoms: scores [T, N, alphabet_size] and labels [N, L], of which those that are blank_label do not count. The first
    time_step steps count. A sequence that is too long for them costs 0. The gradient is not divided by N.
    (xmfbit/warpctc-caffe, ctc_loss_layer.cpp)
    """

    adds = sequences_pb2.LayerParameter

    @property
    def settings(self) -> Any:
        return self.added.ctc_loss_param

    @property
    def blank(self) -> int:
        return int(self.settings.blank_label)

    def check(self, bottoms: Sequence[Shape]) -> None:
        p, scores = self.settings, bottoms[0]
        self.check_rows(bottoms[1], scores)
        if p.alphabet_size != scores[2]:
            raise self.error(f"expected scores of {p.alphabet_size} classes (alphabet_size), found shape {scores}")
        if not 0 < p.time_step <= scores[0]:
            raise self.error(f"expected a time_step of 1 to {scores[0]}, found {p.time_step}")

    def used_steps(self, scores: Shape) -> int:
        return int(self.settings.time_step)


@layer("CtcLoss", dialect="caffe-train")
class CtcLossOfPlates(CtcLoss):
    """CtcLoss whose fields are in warpctc_loss_param. (yuqj1991/caffe_train, ctc_loss_layer.cpp)"""

    adds = sequences_pb2.PlateLayerParameter

    @property
    def settings(self) -> Any:
        return self.added.warpctc_loss_param


@layer("WarpCTCLoss", dialect="ocr")
class WarpCTCLoss(_CtcLoss):
    """y = mean over sequences of -log p(labels), p the sum over all alignments; dx = d Σ(-log p)/dx, whatever dy is.

    Bottom 0: scores [T, N, classes]. With 2 bottoms: labels [N, L], of which those that are blank_index do not count.
    With 3: indicators [T, N], 0 where a sequence begins, and labels [T, N], negative behind the last; 1 is added to
    them where blank_index is 0. With 4: numbers of steps [N], numbers of labels [N], labels [L, N].
    (senlinuc/caffe_ocr, warp_ctc_loss_layer.cpp)
    """

    adds = sequences_pb2.OcrLayerParameter
    num_bottoms = (2, 4)

    @property
    def blank(self) -> int:
        return int(self.added.ctc_loss_param.blank_index)

    @property
    def ignores_dy(self) -> bool:
        return True

    def check(self, bottoms: Sequence[Shape]) -> None:
        scores, *others = bottoms
        steps, rows = scores[:2]
        if len(others) == 1:
            self.check_rows(others[0], scores)
        elif len(others) == 2 and [shape[:2] for shape in others] != [(steps, rows)] * 2:
            raise self.error(f"expected indicators and labels of shape {(steps, rows)}, found {others}")
        elif len(others) == 3 and (
            [math.prod(shape) for shape in others[:2]] != [rows] * 2 or others[2][1:2] != (rows,) or not others[2][0]
        ):
            raise self.error(f"expected {rows} numbers of steps and of labels, and labels (longest, {rows}): {others}")
        if any(math.prod(shape[2:]) != 1 for shape in others):
            raise self.error(f"expected bottoms of 2 axes beside the scores, found shapes {others}")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        if len(bottoms) == 2 or bottom != len(bottoms) - 1:
            return super().classes(bottom, bottoms) if len(bottoms) == 2 else None
        return bottoms[0][2] - int(len(bottoms) == 3 and self.blank == 0)

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        return np.less(values, 0) if len(self.proto.bottom) == 3 else np.zeros(values.shape, bool)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        steps, rows = bottoms[0][:2]
        if len(bottoms) == 3 and bottom:
            half = (steps + 1) // 2
            marks, labels = np.ones((steps, rows)), random.integers(1, bottoms[0][2], (steps, rows)) - 1.0
            marks[0], labels[half:] = 0, -1
            return marks if bottom == 1 else labels
        if len(bottoms) == 4 and bottom in (1, 2):
            longest = bottoms[3][0]
            return np.full(rows, steps if bottom == 1 else min(longest, (steps + 1) // 2))
        return None

    def targets(self, g: Graph, bottoms: Sequence[str]) -> _Targets:
        if len(bottoms) == 2:
            return super().targets(g, bottoms)
        steps, rows = g.shape(bottoms[0])[:2]
        count = g.shape(bottoms[-1])[0]
        labels = g.declare(g.transpose(g.reshape(bottoms[-1], count, rows), 1, 0), (rows, count))
        if len(bottoms) == 4:
            lengths, times = (g.cast(g.reshape(bottoms[i], rows, 1), np.int64) for i in (2, 1))
            return _Targets(g.declare(g.cast(labels, np.int64), (rows, count), np.int64), lengths, times)
        shift = int(self.blank == 0)
        ended = g.emit("Less", labels, g.constant(0))
        codes = g.cast(g.emit("Add", g.emit("Relu", labels), g.constant(shift + 0.5)), np.int64)
        marks = g.transpose(g.reshape(bottoms[1], steps, rows), 1, 0)
        begins = g.emit("Less", marks, g.constant(0.5))
        others = g.constant(np.arange(steps).reshape(1, -1) > 0, np.bool_)
        times, lengths = _until(g, g.emit("And", begins, others)), _until(g, ended)
        none = g.constant(0, np.int64)
        times = g.emit("Where", g.emit("Equal", lengths, none), none, times)  # without labels a sequence does not count
        return _Targets(g.declare(codes, (rows, count), np.int64), lengths, times)

    def scaled(self, tape: Tape, slope: str, dy: str) -> str:
        return slope


def _until(g: Graph, flags: str) -> str:
    """Emit how many of each row [N, L] stand before the first that is set: [N, 1]."""
    seen = g.emit("CumSum", g.cast(flags, np.int64), g.constant(1, np.int64))
    before = g.emit("Equal", seen, g.constant(0, np.int64))
    return g.emit("ReduceSum", g.cast(before, np.int64), g.ints(1), keepdims=1)


def _decoded(g: Graph, best: str, blank: int, merges: bool) -> tuple[str, str]:
    """Emit the labels of the best path [N, T] int64, blanks (and repeated ones) left out, and their number [N, 1]."""
    kept = g.emit("Not", g.emit("Equal", best, g.constant(blank, np.int64)))
    if merges:
        again = g.emit("Equal", best, _shifted(g, best, 1, g.constant(-1, np.int64)))
        kept = g.emit("And", kept, g.emit("Not", again))
    return _packed(g, best, kept)


def _masked(g: Graph, codes: str, lengths: str) -> str:
    """Emit the codes, -1 behind the last that counts."""
    places = g.constant(np.arange(g.shape(codes)[1]).reshape(1, -1), np.int64)
    masked = g.emit("Where", g.emit("Less", places, lengths), codes, g.constant(-1, np.int64))
    return g.declare(masked, g.shape(codes), np.int64)


@layer("LabelsequenceAccuracy", dialect="warpctc")
class LabelsequenceAccuracy(Layer):
    """The part of sequences whose best path is the label sequence, blanks and repeated labels left out.

    Bottoms: scores [N, T, classes] and labels [N, L]; blanks of these do not count. (xmfbit/warpctc-caffe,
    labelsequence_accuracy_layer.cpp)
    """

    adds = sequences_pb2.LayerParameter
    num_bottoms = (2, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        scores, labels = bottoms
        if len(scores) != 3 or not math.prod(scores):
            raise self.error(f"expected scores of shape (sequences, steps, classes), found {scores}")
        if len(labels) < 2 or labels[0] != scores[0] or math.prod(labels[2:]) != 1 or not labels[1]:
            raise self.error(f"expected labels of shape ({scores[0]}, longest), found {labels}")
        return ((),)

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return bottoms[0][2] if bottom == 1 else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (rows, steps, _), blank = g.shape(bottoms[0]), self.added.labelsequence_accuracy_param.blank_label
        count = g.shape(bottoms[1])[1]
        best = g.declare(g.emit("ArgMax", bottoms[0], axis=2, keepdims=0), (rows, steps), np.int64)
        codes = g.declare(g.cast(g.reshape(bottoms[1], rows, count), np.int64), (rows, count), np.int64)
        kept = g.emit("Not", g.emit("Equal", codes, g.constant(blank, np.int64)))
        longest = max(steps, count)
        rows_of = [
            g.emit("Pad", _masked(g, *found), g.ints(0, 0, 0, longest - size), g.constant(-1, np.int64))
            for found, size in ((_decoded(g, best, blank, True), steps), (_packed(g, codes, kept), count))
        ]
        same = g.cast(g.emit("Equal", *rows_of), np.float32)
        return [g.emit("ReduceMean", g.emit("ReduceMin", same, g.ints(1), keepdims=0), keepdims=0)]


@layer("CTCGreedyDecoder", dialect="ocr")
class CTCGreedyDecoder(Computed):
    """Labels of the best path, blanks and repeated ones left out: top [N, T, 1, 1], -1 behind the last.

    With labels [N, L] as bottom 1: top [1, 2, 1, 1] of accuracies, 1 less the mean edit distance as a part of the
    longer sequence, and the part of sequences that are right. Bottom 0: scores [T, N, classes].
    (senlinuc/caffe_ocr, ctc_decoder_layer.cpp)
    """

    adds = sequences_pb2.OcrLayerParameter
    num_bottoms = (1, 2)

    @property
    def decides(self) -> bool:  # type: ignore[override]  # edit distances are numpy's, decoding is the graph's
        return len(self.proto.bottom) == 2

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        scores = bottoms[0]
        if len(scores) != 3 or not math.prod(scores):
            raise self.error(f"expected scores of shape (steps, sequences, classes), found {scores}")
        if len(bottoms) == 1:
            return ((scores[1], scores[0], 1, 1),)
        if len(bottoms[1]) < 2 or bottoms[1][0] != scores[1] or math.prod(bottoms[1][2:]) != 1:
            raise self.error(f"expected labels of shape ({scores[1]}, longest), found {bottoms[1]}")
        return ((1, 2, 1, 1),)

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return bottoms[0][2] if bottom == 1 else None

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        return np.less(values, 0)

    def blank(self, classes: int) -> int:
        """Return the class of the blank: a negative one is the last."""
        index = int(self.added.ctc_decoder_param.blank_index)
        return index if index >= 0 else classes - 1

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if len(bottoms) == 2:
            return super().lower(g, bottoms, params)
        steps, rows, classes = g.shape(bottoms[0])
        best = g.emit("ArgMax", bottoms[0], axis=2, keepdims=0)
        best = g.declare(g.transpose(best, 1, 0), (rows, steps), np.int64)
        found = _decoded(g, best, self.blank(classes), self.added.ctc_decoder_param.ctc_merge_repeated)
        return [g.reshape(g.cast(_masked(g, *found), np.float32), rows, steps, 1, 1)]

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        scores, labels = bottoms
        blank = self.blank(scores.shape[2])
        right, distances = 0, 0.0
        for path, row in zip(scores.argmax(2).T, labels.reshape(len(labels), -1), strict=True):
            found, target = self.read(path, blank), _target(row, blank)
            longest = max(len(found), len(target))
            if longest:
                distance = _edit_distance(target, found)
                distances += distance / longest
                right += distance == 0
        accuracies = np.array([1 - distances / len(labels), right / len(labels)], np.float32)
        return (accuracies.reshape(1, 2, 1, 1),)

    def read(self, path: np.ndarray, blank: int) -> list[int]:
        """Return the labels of a path."""
        before = np.concatenate([[-1], path[:-1]])
        merges = self.added.ctc_decoder_param.ctc_merge_repeated
        return [
            int(code)
            for code, last in zip(path, before, strict=True)
            if code != blank and not (merges and code == last)
        ]


def _target(row: np.ndarray, blank: int) -> list[int]:
    """Return the labels of a row up to the first negative one, without blanks."""
    codes = row[: np.argmax(row < 0)] if (row < 0).any() else row
    return [code for code in (codes + 0.5).astype(int).tolist() if code != blank]


def _edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many labels are to be added, dropped or changed."""
    row = list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        above, row = row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b)))
    return row[-1]
