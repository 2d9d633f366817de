"""Recurrent layers of forks, and others that work on sequences."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.fillers import Filler, Stream, fill
from caffestat.lazy import np
from caffestat.schema.forks import sequences_pb2

from ..base import Layer, Param, Shape, layer, read_param
from ..recurrent import LSTM, gate_slope, tanh_slope
from .scans import emit_scan

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["SLLSTM", "ContinuationIndicator", "Convert", "Lstm", "LstmOfOcr", "LstmSimple", "ReverseSequences"]


@dataclass(frozen=True)
class _Cell:
    """An LSTM over T steps of N sequences with H hidden values; gates lie in the order i, f, o, g.

    weight   of the state [4 H, H]
    kept     1 where a sequence goes on, 0 where it begins: [T, N, 1]; states before its first step do not count there
    first    h and c before the first step, [N, H]
    limit    of the gradient of what the gates sum up; 0 for none
    masks_weight_gradient  whether the weight's gradient leaves the states out that do not count
    """

    weight: str
    kept: str
    first: tuple[str, str]
    limit: float = 0.0
    masks_weight_gradient: bool = True

    def emit(self, g: Graph, sums: str) -> tuple[str, str]:
        """Emit all h and c [T, N, H] of what the inputs give to the gates, [T, N, 4 H]."""
        made: dict[str, Any] = {}

        def forward(sums: str, weight: str) -> Sequence[str]:
            states = self.run(g, sums, weight)
            made.update(zip(("h", "c", "gates"), states, strict=True))
            return states[:2]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            d = self.back(tape, made, dys[0] or tape.zeros_like(made["h"]))
            return d, self.weight_gradient(tape, made, d, tape.stored(h))

        h, c = g.custom_vjp([sums, self.weight], forward, backward)
        return h, c

    def run(self, g: Graph, sums: str, weight: str) -> list[str]:
        turned = g.declare(g.transpose(weight, 1, 0), tuple(reversed(g.shape(weight))))

        def step(g: Graph, states: Sequence[str], slices: Sequence[str]) -> tuple[list[str], list[str]]:
            h, c = (g.emit("Mul", state, slices[1]) for state in states)
            split = g.emit_many(
                "Split", g.emit("Add", slices[0], g.emit("MatMul", h, turned)), count=4, axis=1, num_outputs=4
            )
            i, f, o = (g.emit("Sigmoid", total) for total in split[:3])
            inward = g.emit("Tanh", split[3])
            new_c = g.emit("Add", g.emit("Mul", f, c), g.emit("Mul", i, inward))
            new_h = g.emit("Mul", o, g.emit("Tanh", new_c))
            return [new_h, new_c], [new_h, new_c, g.emit("Concat", i, f, o, inward, axis=1)]

        return emit_scan(g, step, self.first, [sums, self.kept], [turned])[2:]

    def back(self, tape: Tape, made: Mapping[str, Any], dh: str) -> str:
        """Emit the gradient of what the gates sum up, [T, N, 4 H]."""
        g, (_, rows, hidden) = tape.graph, tape.shape(made["h"])
        i, f, o, inward = g.emit_many("Split", made["gates"], count=4, axis=2, num_outputs=4)
        squashed = g.emit("Tanh", made["c"])
        before = g.emit("Mul", _before(g, made["c"], self.first[1]), self.kept)
        parts = [
            g.emit("Mul", factor, slope)
            for factor, slope in (
                (inward, gate_slope(g, i)),
                (before, gate_slope(g, f)),
                (squashed, gate_slope(g, o)),
                (i, tanh_slope(g, inward)),
            )
        ]
        by_gate = g.emit("Concat", *parts, axis=2)
        into_c, keep = g.emit("Mul", o, tanh_slope(g, squashed)), g.emit("Mul", f, self.kept)
        for value, width in ((by_gate, 4 * hidden), (into_c, hidden), (keep, hidden)):
            g.declare(value, (*tape.shape(made["h"])[:2], width))

        def step(g: Graph, states: Sequence[str], slices: Sequence[str]) -> tuple[list[str], list[str]]:
            dy, into_c, by_gate, keep, kept = slices
            dh = g.emit("Add", states[0], dy)
            dc = g.emit("Add", states[1], g.emit("Mul", dh, into_c))
            d = g.emit("Mul", g.emit("Concat", dc, dc, dh, dc, axis=1), by_gate)
            if self.limit > 0:
                d = g.emit("Clip", d, g.constant(-self.limit), g.constant(self.limit))
            return [g.emit("Mul", g.emit("MatMul", d, self.weight), kept), g.emit("Mul", dc, keep)], [d]

        zero = g.constant(np.zeros((rows, hidden)))
        scanned = [dh, into_c, by_gate, keep, self.kept]
        return emit_scan(g, step, [zero, zero], scanned, [self.weight], reverse=True)[2]

    def weight_gradient(self, tape: Tape, made: Mapping[str, Any], d: str, h: str) -> str:
        """Emit the gradient of the weight. h: what stands in the top by then."""
        g, (steps, rows, hidden) = tape.graph, tape.shape(made["h"])
        before = g.declare(_before(g, h, self.first[0]), (steps, rows, hidden))
        if self.masks_weight_gradient:
            before = g.declare(g.emit("Mul", before, self.kept), (steps, rows, hidden))
        else:  # of the states before the first step only the first sequence's count
            counts = np.ones((steps, rows, 1))
            counts[0, 1:] = 0
            before = g.declare(g.emit("Mul", before, g.constant(counts)), (steps, rows, hidden))
        turned = g.transpose(g.reshape(d, steps * rows, 4 * hidden), 1, 0)
        return g.emit("MatMul", turned, g.reshape(before, steps * rows, hidden))


def _before(g: Graph, values: str, first: str) -> str:
    """Emit the values [T, N, H] one step before each, `first` before the first."""
    steps = g.shape(values)[0]
    earlier = g.emit("Slice", values, g.ints(0), g.ints(steps - 1), g.ints(0))
    return g.emit("Concat", g.emit("Unsqueeze", first, g.ints(0)), earlier, axis=0)


class _LstmLayer(Layer):
    """A layer of LSTM cells with weights of its own."""

    is_recurrent = True
    message: ClassVar[str]  # its own parameters

    @property
    def settings(self) -> Any:
        raise NotImplementedError

    def sizes(self, bottoms: Sequence[Shape]) -> tuple[int, int, int]:
        """Return the numbers of steps, of sequences and of inputs. Raises NetError where the bottoms do not fit."""
        raise NotImplementedError

    def hidden(self) -> int:
        """Return how many values the state has."""
        if not self.settings.num_output:
            raise self.error(f"{self.message} needs a num_output of at least 1")
        return int(self.settings.num_output)

    def weight(self, inputs: int) -> Param:
        gates = 4 * self.hidden()
        return read_param("weight", (gates, inputs), self.settings, "weight_filler", inputs, gates)

    def bias(self) -> Param:
        return read_param("bias", (4 * self.hidden(),), self.settings, "bias_filler", 1, 1)

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom != 1

    def macs(self, bottoms: Sequence[Shape]) -> int:
        steps, rows, inputs = self.sizes(bottoms)
        return steps * rows * 4 * self.hidden() * (inputs + self.hidden())

    def sums(self, g: Graph, x: str, weight: str, bias: str, sizes: tuple[int, int, int]) -> str:
        """Emit what the inputs give to the gates, [T, N, 4 H]."""
        steps, rows, inputs = sizes
        product = g.emit("Gemm", g.reshape(x, steps * rows, inputs), weight, bias, transB=1)
        gates = 4 * self.hidden()
        return g.reshape(g.declare(product, (steps * rows, gates)), steps, rows, gates)


@layer("Lstm", dialect="ocr")
class LstmOfOcr(_LstmLayer):
    """c = f · c' + i · g, h = o · tanh(c), with (i, f, o, g) = W_x·x + b + W_h·h', σ of three and tanh of g.

    Bottoms x [T, N, …] and optionally marks [T·N], not 0 where a sequence goes on; without them the state is 0 before
    the first step, with them each pass begins where the one before ended. Top [T, N, num_output]; params W_x, W_h, b.
    The gradient of what the gates sum up is clipped at clipping_threshold, if that is positive; W_h's holds the states
    before a sequence too, where there are marks. As in the reference, step t of sequence n reads mark t + n.
    (senlinuc/caffe_ocr, lstm_layer_Junhyuk.cpp)
    """

    adds = sequences_pb2.OcrLayerParameter
    message = "lstm_param"
    num_bottoms = (1, 2)
    filler_fields: ClassVar[Mapping[str, str]] = {
        "lstm_param.weight_filler": "weight",
        "lstm_param.bias_filler": "bias",
    }

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and not proto.HasField("recurrent_param")  # that is MyCaffe's

    @property
    def settings(self) -> Any:
        return self.added.lstm_param

    def sizes(self, bottoms: Sequence[Shape]) -> tuple[int, int, int]:
        x = bottoms[0]
        if len(x) < 3:
            raise self.error(f"expected a bottom of at least 3 axes (steps, sequences, …), found shape {x}")
        return x[0], x[1], math.prod(x[2:])

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        return self.weight(self.sizes(bottoms)[2]), self.weight(self.hidden()), self.bias()

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        steps, rows, inputs = self.sizes(bottoms)
        if not steps * rows * inputs:
            raise self.error(f"expected steps, sequences and inputs, found shape {bottoms[0]}")
        if len(bottoms) == 2 and (math.prod(bottoms[1]) != steps * rows or bottoms[1][:1] != (steps * rows,)):
            raise self.error(f"expected marks of shape ({steps * rows},), found {bottoms[1]}")
        return (self.top_shape(steps, rows),)

    def top_shape(self, steps: int, rows: int) -> Shape:
        return steps, rows, self.hidden()

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom == 1 else None

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        return np.ones(values.shape, bool)  # any value but 0 counts as 1

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        sizes = self.sizes([g.shape(bottom) for bottom in bottoms])
        steps, rows, _ = sizes
        sums = self.sums(g, bottoms[0], params[0], params[2], sizes)
        kept = g.constant((np.arange(steps) > 0).reshape(-1, 1, 1) * np.ones((steps, rows, 1)))
        first = zero = g.constant(np.zeros((rows, self.hidden())))
        names = [first, zero]
        if len(bottoms) == 2:
            kept = self.marks(g, bottoms[1], steps, rows)
            names = [g.state(f"{self.name}/{name}_0", (rows, self.hidden())) for name in "hc"]
        cell = _Cell(params[1], kept, (names[0], names[1]), self.settings.clipping_threshold, False)
        h, c = cell.emit(g, sums)
        for state, value in zip(names, (h, c), strict=True):
            last = g.emit("Gather", value, g.constant(steps - 1, np.int64), axis=0)
            g.carry(state, g.declare(last, (rows, self.hidden())))
        return [g.reshape(g.declare(h, (steps, rows, self.hidden())), *self.top_shape(steps, rows))]

    def marks(self, g: Graph, marks: str, steps: int, rows: int) -> str:
        places = np.arange(steps).reshape(-1, 1) + np.arange(rows)
        read = g.emit("Gather", g.reshape(marks, steps * rows), g.constant(places, np.int64), axis=0)
        kept = g.cast(g.emit("Not", g.emit("Equal", read, g.constant(0))), np.float32)
        return g.reshape(g.declare(kept, (steps, rows)), steps, rows, 1)


@layer("Lstm", dialect="junhyukoh")
class Lstm(LstmOfOcr):
    """c = f · c' + i · g, h = o · tanh(c), with (i, f, o, g) = W_x·x + b + W_h·h', σ of three and tanh of g.

    Bottoms x [T·N, …], N the batch_size, and optionally marks [T·N], not 0 where a sequence goes on; without them the
    state is 0 before the first step, with them each pass begins where the one before ended. Top [T·N, num_output];
    params W_x, W_h, b. The gradient of what the gates sum up is clipped at clipping_threshold, if that is positive;
    W_h's holds the states before a sequence too, where there are marks. As in the reference, step t of sequence n reads
    mark t + n. The gradient is that of the GPU code: on the CPU the reference adds all sequences' to the first's.
    (junhyukoh/caffe-lstm, lstm_layer.cu)
    """

    adds = sequences_pb2.LayerParameter

    def sizes(self, bottoms: Sequence[Shape]) -> tuple[int, int, int]:
        x, rows = bottoms[0], int(self.settings.batch_size)
        if not x or not rows or x[0] % rows:
            raise self.error(f"expected a bottom whose first axis the batch_size {rows} divides, found shape {x}")
        return x[0] // rows, rows, math.prod(x[1:])

    def top_shape(self, steps: int, rows: int) -> Shape:
        return steps * rows, self.hidden()


@layer("Lstm", dialect="mycaffe")
class MyCaffeLstm(LSTM):
    """LSTM, whose name MyCaffe reads in any letters. cuDNN's with more than one layer is not computed.

    (MyCaffe/MyCaffe, LSTMLayer.cs, LayerParameter.cs)
    """

    own_fields = tuple(f"recurrent_param.{name}" for name in ("engine", "num_layers", "dropout_ratio", "dropout_seed"))

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and bool(proto.HasField("recurrent_param"))

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if (layers := max(self.own("recurrent_param.num_layers", int), default=1)) > 1:
            raise self.error(f"the num_layers {layers} of cuDNN's LSTM are not computed; write a layer for each")
        return super().tops(bottoms)


@layer("LstmSimple", dialect="mycaffe")
class LstmSimple(Lstm):
    """Lstm of junhyukoh/caffe-lstm, by lstm_simple_param; fillers: xavier and constant 0.1, unless the file says.

    enable_clockwork_forgetgate_bias: the biases of the forget gates begin at 5. (MyCaffe/MyCaffe, LSTMSimpleLayer.cs)
    """

    message = "lstm_simple_param"
    filler_fields: ClassVar[Mapping[str, str]] = {
        "lstm_simple_param.weight_filler": "weight",
        "lstm_simple_param.bias_filler": "bias",
    }

    @property
    def settings(self) -> Any:
        return self.added.lstm_simple_param

    def weight(self, inputs: int) -> Param:
        param = super().weight(inputs)
        return param if param.written else replace(param, filler=Filler("xavier"))

    def bias(self) -> Param:
        param = super().bias()
        return param if param.written else replace(param, filler=Filler(value=0.1))

    def draw_params(self, stream: Stream, params: Sequence[Param], bottoms: Sequence[Shape]) -> list[np.ndarray]:
        values = super().draw_params(stream, params, bottoms)
        if self.settings.enable_clockwork_forgetgate_bias:
            values[2][self.hidden() : 2 * self.hidden()] = 5
        return values


@layer("SLLSTM", dialect="action")
class SLLSTM(_LstmLayer):
    """c = f · c' + i · g, h = o · tanh(c), with (i, f, o, g) = W_x·x + b + U·h' + W_s·s, σ of three and tanh of g.

    Bottoms x [T, N, I], optionally marks [T, N], positive where a sequence goes on, and s [N, I]. Before the first step
    the state is 0. Top [T, N, num_output]; params U, b, W_x, W_s if there is s. Where no bottom needs a gradient the
    params get none either. (Lyp100208/Caffe_action, sllstm_layer.cpp)
    """

    message = "recurrent_param"
    num_bottoms = (1, 3)
    filler_fields: ClassVar[Mapping[str, str]] = {
        "recurrent_param.weight_filler": "weight",
        "recurrent_param.bias_filler": "bias",
    }

    @property
    def settings(self) -> Any:
        return self.proto.recurrent_param

    def overwrites_diff(self, param: int, bottoms: Sequence[Shape]) -> bool:
        return True

    def sizes(self, bottoms: Sequence[Shape]) -> tuple[int, int, int]:
        x, *others = bottoms
        if len(x) != 3 or not math.prod(x):
            raise self.error(f"expected a bottom of shape (steps, sequences, inputs), found {x}")
        if others and math.prod(others[0]) != x[0] * x[1]:
            raise self.error(f"expected marks of shape {x[:2]}, found {others[0]}")
        if len(others) == 2 and math.prod(others[1]) != x[1] * x[2]:
            raise self.error(f"expected a static input of shape {x[1:]}, found {others[1]}")
        return x

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        inputs = self.sizes(bottoms)[2]
        weights = [self.weight(inputs)] * max(len(bottoms) - 1, 1)
        return (self.weight(self.hidden()), self.bias(), *weights)

    def draw_params(self, stream: Stream, params: Sequence[Param], bottoms: Sequence[Shape]) -> list[np.ndarray]:
        order = [*range(2, len(params)), 0, 1]  # W_x and W_s before U and b
        drawn = {index: fill(stream, params[index].filler, params[index].shape) for index in order}
        return [drawn[index] for index in range(len(params))]

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return ((*self.sizes(bottoms)[:2], self.hidden()),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        sizes = self.sizes([g.shape(bottom) for bottom in bottoms])
        steps, rows, inputs = sizes
        sums = self.sums(g, bottoms[0], params[2], params[1], sizes)
        if len(bottoms) == 3:
            static = g.emit("Gemm", g.reshape(bottoms[2], rows, inputs), params[3], transB=1)
            sums = g.declare(g.emit("Add", sums, static), (steps, rows, 4 * self.hidden()))
        kept = g.constant((np.arange(steps) > 0).reshape(-1, 1, 1) * np.ones((steps, rows, 1)))
        if len(bottoms) > 1:
            marks = g.emit("Greater", g.reshape(bottoms[1], steps, rows, 1), g.constant(0))
            kept = g.declare(g.emit("Mul", kept, g.cast(marks, np.float32)), (steps, rows, 1))
        zero = g.constant(np.zeros((rows, self.hidden())))
        return _Cell(params[0], kept, (zero, zero)).emit(g, sums)[:1]


@layer("ContinuationIndicator", dialect="warpctc")
class ContinuationIndicator(Layer):
    """Marks [time_step, batch_size]: 0 at the first step, 1 at all others. (xmfbit/warpctc-caffe,
    continuation_indicator_layer.cpp)
    """

    adds = sequences_pb2.LayerParameter
    num_bottoms = (0, 0)
    foreign_bottoms = (1, 1)  # some forks read flags or the batch size from one

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.added.continuation_indicator_param
        if not p.time_step or not p.batch_size:
            raise self.error(f"expected time_step and batch_size of at least 1, found {p.time_step} and {p.batch_size}")
        return ((p.time_step, self.in_batch(p.batch_size)),)

    def rebatched(self, bottoms: Sequence[Shape]) -> str:
        written = self.added.continuation_indicator_param.batch_size
        taken = self.in_batch(written)
        return f"batch_size {written} is taken as {taken}" if taken != written else ""

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return [g.emit("Identity", emit_marks(g, *self.tops([])[0]))]


@layer("Convert", dialect="curve-text")
class Convert(Layer):
    """x [N, C, …, W] as a sequence along its last axis [W, N, C], and marks [W, N]: 0 at the first step, else 1.

    The axes between are of size 1. (Yuliang-Liu/Curve-Text-Detector, convert_layer.cpp)
    """

    num_tops = (2, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = bottoms[0]
        if len(shape) < 3 or math.prod(shape[2:-1]) != 1:
            raise self.error(f"expected a bottom (N, C, W) or (N, C, 1, W), found shape {shape}")
        return ((shape[-1], *shape[:2]), (shape[-1], shape[0]))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        x = g.transpose(g.reshape(bottoms[0], *shape[:2], shape[-1]), 2, 0, 1)
        return [x, g.emit("Identity", emit_marks(g, shape[-1], shape[0]))]


def emit_marks(g: Graph, steps: int, rows: int) -> str:
    """Emit 0 for the first step of sequences [T, N], 1 for all others."""
    marks = np.ones((steps, rows))
    marks[0] = 0
    return g.constant(marks)


@layer("Reverse", dialect="action")
class ReverseSequences(Layer):
    """Each sequence of x [T, N, …] backwards; bottom 0 [T, N] has minus its length where it begins and 1 in the rest.

    From the first 0 on the top is 0. (Lyp100208/Caffe_action, reverse_layer.cpp)
    """

    num_bottoms = (2, 2)
    decides = True
    decisive = slice(0, 1)

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 1

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        marks, x = bottoms
        if len(marks) < 2 or math.prod(marks[2:]) != 1 or x[:2] != marks[:2]:
            raise self.error(f"expected marks (steps, sequences) and values of these, found shapes {marks} and {x}")
        return (x,)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if bottom:
            return None
        marks = np.ones(bottoms[0])
        marks[0] = -bottoms[0][0]
        return marks

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        marks = bottoms[0].reshape(bottoms[0].shape[:2])
        steps = len(marks)
        order = np.full(marks.shape, steps, np.int64)  # behind the last: zeros
        for row, column in enumerate(marks.T):
            start = 0
            while start < steps and column[start]:
                end = start + 1
                while end < steps and column[end] == 1:
                    end += 1
                if int(-column[start]) != end - start:
                    raise self.error(f"sequence {row} is marked as {-column[start]:g} steps long, found {end - start}")
                order[start:end, row] = np.arange(start, end)[::-1]
                start = end
        return (order,)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (order,) = self.input_decisions(g)
        steps, rows, *rest = shape = g.shape(bottoms[1])
        size = math.prod(rest)
        x = g.reshape(bottoms[1], steps, rows, size)
        padded = g.emit("Concat", x, g.constant(np.zeros((1, rows, size))), axis=0)
        index = g.emit("Expand", g.emit("Unsqueeze", order, g.ints(2)), g.ints(steps, rows, size))
        moved = g.declare(g.emit("GatherElements", padded, index, axis=0), (steps, rows, size))
        return [g.reshape(moved, *shape)]
