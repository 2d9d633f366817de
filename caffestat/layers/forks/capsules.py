"""Capsules: vectors that stand for parts of an image, as CAFFE-CapsNet has them. (Sabour et al. 2017)"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.fillers import Filler
from caffestat.lazy import np
from caffestat.schema.forks import capsules_pb2

from ..base import Layer, Param, Shape, layer, read_param
from ..loss import Loss, is_label, total
from ..reread import emit_closed, without_gradient

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "Cap",
    "CapsuleConvRouting",
    "CapsuleConvTransform",
    "CapsuleLen",
    "CapsuleMask",
    "CapsuleRelu",
    "CapsuleReshape",
    "CapsuleRouting",
    "CapsuleTransform",
    "DynamicRouting",
    "MarginLoss",
    "Squash",
]

EPS = 1e-7
ROUNDS = 3  # of routing, whatever routing_num says


class _Capsules(Layer):
    """A layer whose bottom holds, for each item, capsules of equal size one after the other."""

    adds = capsules_pb2.LayerParameter
    message: ClassVar[str]  # its own parameters

    @property
    def settings(self) -> Any:
        return getattr(self.added, self.message)

    def positive(self, *names: str) -> list[int]:
        """Return some of the settings. Raises NetError unless all are at least 1."""
        values = [int(getattr(self.settings, name)) for name in names]
        for name, value in zip(names, values, strict=True):
            if value < 1:
                raise self.error(f"{self.message} needs a {name} of at least 1")
        return values

    def parts(self, shape: Shape, size: int, what: str) -> int:
        """Return how many parts of a size an item has. Raises NetError unless they fill it."""
        values = math.prod(shape[1:])
        if len(shape) < 2 or not values or values % size:
            raise self.error(f"expected items of a multiple of {size} values ({what}), found shape {shape}")
        return values // size


def _lengths(g: Graph, capsules: str) -> str:
    """Emit √(Σ x² + 1e-7) along the last axis, which stays as 1."""
    sums = g.emit("ReduceSum", g.emit("Mul", capsules, capsules), g.ints(-1), keepdims=1)
    return g.emit("Sqrt", g.emit("Add", sums, g.constant(EPS)))


@layer("Squash", dialect="capsnet")
class Squash(_Capsules):
    """y = (1 - e^-r) · x / r for each capsule x of capsule_dim values, r = √(Σ x² + 2e-7).

    dx = dy · dy/dx of each value by itself: the reference leaves out what its capsule's other values add.
    (chenzhenhua986/CAFFE-CapsNet, squash_layer.cpp)
    """

    message = "squash_param"

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        (size,) = self.positive("capsule_dim")
        self.parts(bottoms[0], size, "capsule_dim")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, (size,) = g.shape(bottoms[0]), self.positive("capsule_dim")
        rows = (shape[0], math.prod(shape[1:]) // size, size)
        made: dict[str, str] = {}

        def forward(x: str) -> str:
            x = g.reshape(x, *rows)
            squares = g.emit("Mul", x, x)
            r = g.emit("Sqrt", g.emit("Add", g.emit("ReduceSum", squares, g.ints(2), keepdims=1), g.constant(2 * EPS)))
            shrunk = g.emit("Exp", g.emit("Neg", r))
            ratio = g.emit("Div", g.emit("Sub", g.constant(1), shrunk), r)
            made.update(squares=squares, r=r, shrunk=shrunk, ratio=ratio)
            return g.reshape(g.declare(g.emit("Mul", ratio, x), rows), *shape)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            # d((1 - e^-r) / r)/dr / r = (e^-r - (1 - e^-r) / r) / r²
            inner = tape.emit("Sub", made["shrunk"], made["ratio"])
            per_square = tape.emit("Div", inner, tape.emit("Mul", made["r"], made["r"]))
            slope = tape.emit("Add", tape.emit("Mul", per_square, made["squares"]), made["ratio"])
            dx = tape.emit("Mul", tape.reshape(dy, *rows), slope)
            return [tape.reshape(tape.declare(dx, rows), *shape)]

        return [emit_closed(g, bottoms, forward, gradient)]


@layer("CapsuleLen", dialect="capsnet")
class CapsuleLen(_Capsules):
    """y = √(Σ x² + 1e-7) of each of num_class capsules: top [N, num_class], without gradient: for accuracy.

    (chenzhenhua986/CAFFE-CapsNet, capsule_len_layer.cpp)
    """

    message = "capsule_len_param"

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return any(needed)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        (count,) = self.positive("num_class")
        self.parts(bottoms[0], count, "num_class")
        return ((bottoms[0][0], count),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (top,) = self.tops([g.shape(bottoms[0])])

        def forward(x: str) -> Sequence[str]:
            lengths = _lengths(g, g.reshape(x, *top, -1))
            return [g.reshape(g.declare(lengths, (*top, 1)), *top)]

        return without_gradient(g, bottoms, forward)


@layer("CapsuleMask", dialect="capsnet")
class CapsuleMask(_Capsules):
    """Keeps the last of class_num capsules, the others become 0; dx likewise.

    The reference means the longest one, but does not keep the length it compares with.
    (chenzhenhua986/CAFFE-CapsNet, capsule_mask_layer.cpp)
    """

    message = "capsule_mask_param"

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        (count,) = self.positive("class_num")
        self.parts(bottoms[0], count, "class_num")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, (count,) = g.shape(bottoms[0]), self.positive("class_num")
        mask = (np.arange(count) == count - 1).reshape(1, -1, 1)
        kept = g.emit("Mul", g.reshape(bottoms[0], shape[0], count, -1), g.constant(mask))
        return [g.reshape(g.declare(kept, (shape[0], count, math.prod(shape[1:]) // count)), *shape)]


@layer("CapsuleRelu", dialect="capsnet")
class CapsuleRelu(_Capsules):
    """In place: capsules of `dim` values that are longer than `thre` become 0; dx = dy.

    (chenzhenhua986/CAFFE-CapsNet, capsule_relu_layer.cpp)
    """

    message = "capsule_relu_param"

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        (size,) = self.positive("dim")
        self.parts(bottoms[0], size, "dim")
        if not self.is_in_place():
            raise self.error("works only in place; otherwise the reference does not write the capsules that it keeps")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, (size,) = g.shape(bottoms[0]), self.positive("dim")

        def forward(x: str) -> str:
            rows = g.reshape(x, shape[0], -1, size)
            is_long = g.emit("Greater", _lengths(g, rows), g.constant(self.settings.thre))
            kept = g.emit("Where", is_long, g.constant(0), rows)
            return g.reshape(g.declare(kept, (shape[0], math.prod(shape[1:]) // size, size)), *shape)

        return [emit_closed(g, bottoms, forward, lambda tape, dy: [dy])]


@layer("CapsuleReshape", dialect="capsnet")
class CapsuleReshape(_Capsules):
    """[N, C, …] as capsules of capsule_dim channels: [N, C / dim, dim, P] turned to [N, C / dim · P, dim].

    (chenzhenhua986/CAFFE-CapsNet, capsule_reshape_layer.cu)
    """

    message = "capsule_reshape_param"
    passes_values = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        (size,) = self.positive("capsule_dim")
        count = self.parts(bottoms[0], size, "capsule_dim")
        if bottoms[0][1] % size:
            raise self.error(f"expected channels in groups of {size} (capsule_dim), found shape {bottoms[0]}")
        return ((bottoms[0][0], count, size),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        (top,) = self.tops([shape])
        size, places = top[2], math.prod(shape[2:])
        groups = g.reshape(bottoms[0], shape[0], shape[1] // size, size, places)
        turned = g.declare(g.transpose(groups, 0, 1, 3, 2), (shape[0], shape[1] // size, places, size))
        return [g.reshape(turned, *top)]


class _Weighted(_Capsules):
    """A layer with a weight, and a bias with bias_term."""

    def filled(self, role: str, shape: Shape, fan_in: int, fan_out: int) -> Param:
        return read_param(role, shape, self.settings, f"{role}_filler", fan_in, fan_out)


@layer("CapsuleTransform", dialect="capsnet")
class CapsuleTransform(_Weighted):
    """y[n, i] = x[n, i] · W[i] + b[i]: each input capsule's predictions of all output capsules.

    Bottom [N, I · input_capsule_dim]; top [N, I, output_capsule_num · output_capsule_dim]; W [I, input_capsule_dim,
    outputs], b [I · outputs]. (chenzhenhua986/CAFFE-CapsNet, capsule_transform_layer.cu)
    """

    message = "capsule_transform_param"
    filler_fields: ClassVar[Mapping[str, str]] = {
        "capsule_transform_param.weight_filler": "weight",
        "capsule_transform_param.bias_filler": "bias",
    }

    def sizes(self, shape: Shape) -> tuple[int, int, int]:
        """Return the number of input capsules, their size, and how many outputs there are."""
        size, out, outs = self.positive("input_capsule_dim", "output_capsule_dim", "output_capsule_num")
        return self.parts(shape, size, "input_capsule_dim"), size, out * outs

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        count, size, outputs = self.sizes(bottoms[0])
        weight = self.filled("weight", (count, size, outputs), size, outputs)
        bias = self.filled("bias", (count * outputs,), 1, 1)
        return (weight, bias) if self.settings.bias_term else (weight,)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        count, _, outputs = self.sizes(bottoms[0])
        return ((bottoms[0][0], count, outputs),)

    def macs(self, bottoms: Sequence[Shape]) -> int:
        return bottoms[0][0] * math.prod(self.sizes(bottoms[0]))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        count, size, outputs = self.sizes(shape)
        x = g.transpose(g.reshape(bottoms[0], shape[0], count, size), 1, 0, 2)
        y = g.declare(g.transpose(g.emit("MatMul", x, params[0]), 1, 0, 2), (shape[0], count, outputs))
        return [g.emit("Add", y, g.reshape(params[1], count, outputs))] if len(params) > 1 else [y]


@layer("CapsuleRouting", dialect="capsnet")
class CapsuleRouting(_Weighted):
    """y[n, o] = Σᵢ w[o, i] · u[n, i, o]: learned weights in place of routing.

    Bottom u [N, input_capsule_num, output_capsule_num · output_capsule_dim]; top [N, output_capsule_num,
    output_capsule_dim]; w [output_capsule_num, input_capsule_num].
    (chenzhenhua986/CAFFE-CapsNet, capsule_routing_layer.cu)
    """

    message = "capsule_routing_param"
    filler_fields: ClassVar[Mapping[str, str]] = {"capsule_routing_param.weight_filler": "weight"}

    def sizes(self) -> list[int]:
        """Return the numbers of input capsules, of output capsules, and the size of these."""
        return self.positive("input_capsule_num", "output_capsule_num", "output_capsule_dim")

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        inputs, outputs, _ = self.sizes()
        return (self.filled("weight", (outputs, inputs), inputs, 1),)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        inputs, outputs, size = self.sizes()
        if len(bottoms[0]) < 2 or math.prod(bottoms[0][1:]) != inputs * outputs * size:
            raise self.error(f"expected items of {inputs} x {outputs} x {size} values, found shape {bottoms[0]}")
        return ((bottoms[0][0], outputs, size),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        inputs, outputs, size = self.sizes()
        u = g.reshape(bottoms[0], g.shape(bottoms[0])[0], inputs, outputs, size)
        weight = g.emit("Unsqueeze", g.transpose(params[0], 1, 0), g.ints(2))
        return [g.emit("ReduceSum", g.emit("Mul", u, weight), g.ints(1), keepdims=0)]


@layer("Cap", dialect="capsnet")
class Cap(_Weighted):
    """y[n, o] = Σᵢ c[n, o, i] · x[n, i] · W[i, o] + b[o], c found by three rounds of routing by agreement.

    c is the softmax over o of r, which begins at 0; a round adds the products of squash(y - b) and x[n, i] · W[i, o].
    Bottom [N, I · input_capsule_dim], top [N, output_capsule_num, output_capsule_dim]; W [I, input_capsule_dim,
    outputs], b [outputs]. The gradients are those of an inner product of x and W, as in the reference, which also goes
    on with r from the batch before; here every batch begins at 0. (chenzhenhua986/CAFFE-CapsNet, cap_layer.cu)
    """

    message = "cap_param"
    filler_fields: ClassVar[Mapping[str, str]] = {
        "cap_param.weight_filler": "weight",
        "cap_param.bias_filler": "bias",
    }

    def sizes(self, shape: Shape) -> tuple[int, int, int, int]:
        """Return the number of input capsules, their size, the number of output capsules and theirs."""
        size, out, outs = self.positive("input_capsule_dim", "output_capsule_dim", "output_capsule_num")
        return self.parts(shape, size, "input_capsule_dim"), size, outs, out

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        count, size, outs, out = self.sizes(bottoms[0])
        weight = self.filled("weight", (count, size, outs * out), count * size, outs * out)
        return (weight, self.filled("bias", (outs * out,), 1, 1)) if self.settings.bias_term else (weight,)

    def mixes_channels(self) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        _, _, outs, out = self.sizes(bottoms[0])
        return ((bottoms[0][0], outs, out),)

    def macs(self, bottoms: Sequence[Shape]) -> int:
        return bottoms[0][0] * math.prod(self.sizes(bottoms[0]))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        count, size, outs, out = self.sizes(shape)
        flat = (shape[0], count * size)

        def forward(x: str, weight: str, *bias: str) -> str:
            moved = g.transpose(g.reshape(x, shape[0], count, size), 1, 0, 2)
            spread = g.declare(g.emit("MatMul", moved, weight, hint=self.name), (count, shape[0], outs * out))
            votes = g.transpose(g.reshape(spread, count, shape[0], outs, out), 1, 2, 3, 0)
            routed = self.routed(g, g.declare(votes, (shape[0], outs, out, count)))
            y = g.reshape(g.declare(routed, (shape[0], outs, out, 1)), shape[0], outs, out)
            return g.emit("Add", y, g.reshape(bias[0], outs, out)) if bias else y

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            rows, weight = tape.reshape(dy, shape[0], -1), tape.reshape(params[0], flat[1], -1)
            dx = tape.reshape(tape.emit("Gemm", rows, weight, transB=1), *shape)
            dw = tape.emit("Gemm", tape.reshape(bottoms[0], *flat), rows, transA=1)
            dw = tape.reshape(dw, count, size, outs * out)
            db = [tape.emit("ReduceSum", rows, tape.ints(0), keepdims=0)] * (len(params) - 1)
            return [dx, dw, *db]

        return [emit_closed(g, [bottoms[0], *params], forward, gradient)]

    @staticmethod
    def routed(g: Graph, votes: str) -> str:
        """Emit the sums of the votes [N, O, size, I] by their agreement, [N, O, size, 1]."""
        n, outs, _, count = g.shape(votes)
        logits = g.constant(np.zeros((n, outs, 1, count)))
        for _ in range(ROUNDS - 1):
            y = g.emit("MatMul", votes, g.transpose(g.emit("Softmax", logits, axis=1), 0, 1, 3, 2))
            square = g.emit("ReduceSum", g.emit("Mul", y, y), g.ints(2), keepdims=1)
            length = g.emit("Sqrt", g.emit("Add", square, g.constant(EPS)))
            squash = g.emit("Div", g.emit("Div", square, g.emit("Add", square, g.constant(1))), length)
            agreed = g.emit("MatMul", g.transpose(g.emit("Mul", y, squash), 0, 1, 3, 2), votes)
            logits = g.declare(g.emit("Add", logits, agreed), (n, outs, 1, count))
        return g.emit("MatMul", votes, g.transpose(g.emit("Softmax", logits, axis=1), 0, 1, 3, 2))


@layer("DynamicRouting", dialect="capsnet")
class DynamicRouting(_Weighted):
    """Routing by agreement, whose reference computes nothing: y and dx are the zeros that Caffe's memory begins with.

    Top [N, output_capsule_num, output_capsule_dim]; a weight [100, output_capsule_num, input_capsule_num] is declared.
    (chenzhenhua986/CAFFE-CapsNet, dynamic_routing_layer.cpp)
    """

    message = "dr_param"

    def sizes(self) -> list[int]:
        return self.positive("input_capsule_num", "output_capsule_num", "output_capsule_dim")

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        count, outs, _ = self.sizes()
        return (Param("weight", (100, outs, count), Filler(), False, count, outs),)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        _, outs, out = self.sizes()
        return ((bottoms[0][0], outs, out),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (top,) = self.tops([g.shape(bottoms[0])])
        read = [bottoms[0], *params]
        shapes = [g.shape(value) for value in read]

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            return [tape.constant(np.zeros(shape, np.float32)) for shape in shapes]

        return [emit_closed(g, read, lambda *values: g.constant(np.zeros(top, np.float32)), gradient)]


class _Windows(_Weighted):
    """A layer over windows of a map of capsules, input_h x input_w of them."""

    def windows(self) -> tuple[int, int]:
        """Return how many windows there are along each axis."""
        high, wide, kh, kw, stride = self.positive("input_h", "input_w", "kh", "kw", "stride")
        if kh > high or kw > wide:
            raise self.error(f"expected a window of at most {high} x {wide}, found {kh} x {kw}")
        return (high - kh) // stride + 1, (wide - kw) // stride + 1

    def capsule(self, name: str) -> tuple[int, int]:
        """Return the rows and columns of a capsule."""
        dims = [int(dim) for dim in getattr(self.settings, name).dim]
        if len(dims) != 2 or min(dims) < 1:
            raise self.error(f"{self.message} needs a {name} of 2 axes")
        return dims[0], dims[1]


@layer("CapsuleConvTransform", dialect="capsnet")
class CapsuleConvTransform(_Windows):
    """Each capsule [r, q] of each window times a matrix [q, output_capsule_num · s] of its place in the window.

    Bottom [N, input_capsule_num, input_h, input_w, r, q], or larger: then the first values of all are read; top [N,
    windows, kh · kw · input_capsule_num, output_capsule_num · r · s]; W [that times output_capsule_num, q, s], b as
    many values as an item of the top. dx of a capsule in several windows is that of the last one alone, as the
    reference overwrites it. (chenzhenhua986/CAFFE-CapsNet, capsule_conv_transform_layer.cpp)
    """

    message = "capsule_conv_transform_param"
    filler_fields: ClassVar[Mapping[str, str]] = {
        "capsule_conv_transform_param.weight_filler": "weight",
        "capsule_conv_transform_param.bias_filler": "bias",
    }

    def sizes(self) -> tuple[int, int, int, int, int]:
        """Return places in a window, output capsules, and r, q and s."""
        kh, kw, inputs, outputs = self.positive("kh", "kw", "input_capsule_num", "output_capsule_num")
        (rows, inner), (out_rows, columns) = self.capsule("input_capsule_shape"), self.capsule("output_capsule_shape")
        if rows != out_rows:
            raise self.error(f"expected as many rows in and out, found {rows} and {out_rows}")
        return kh * kw * inputs, outputs, rows, inner, columns

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        places, outputs, _, inner, columns = self.sizes()
        weight = self.filled("weight", (places * outputs, inner, columns), inner, columns)
        (top,) = self.tops(bottoms)
        bias = self.filled("bias", (math.prod(top[1:]),), 1, 1)
        return (weight, bias) if self.settings.bias_term else (weight,)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        places, outputs, rows, _, columns = self.sizes()
        if len(bottoms[0]) < 2 or math.prod(bottoms[0][1:]) < self.values():
            raise self.error(f"expected items of {self.values()} values, found shape {bottoms[0]}")
        return ((bottoms[0][0], math.prod(self.windows()), places, outputs * rows * columns),)

    def values(self) -> int:
        """Return how many values of an item are read."""
        _, _, rows, inner, _ = self.sizes()
        return math.prod(self.positive("input_h", "input_w", "input_capsule_num")) * rows * inner

    def departs(self, bottoms: Sequence[Shape]) -> str:
        found = math.prod(bottoms[0][1:])
        if found <= self.values():
            return ""
        return f"its items have {found} values, but it reads as if they had {self.values()}: the first of the batch"

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        places, outputs, rows, inner, columns = self.sizes()
        high, wide, inputs, stride, *kernel = self.positive(
            "input_h", "input_w", "input_capsule_num", "stride", "kh", "kw"
        )
        (top,), n, windows = self.tops([g.shape(bottoms[0])]), g.shape(bottoms[0])[0], self.windows()
        x, used = bottoms[0], n * self.values()
        if math.prod(g.shape(x)) > used:
            x = g.declare(g.emit("Slice", g.reshape(x, -1), g.ints(0), g.ints(used)), (used,))
        x = g.reshape(x, n, inputs, high, wide, rows, inner)
        lasts = []
        for axis, count, size in ((2, windows[0], kernel[0]), (4, windows[1], kernel[1])):
            index = np.arange(count).reshape(-1, 1) * stride + np.arange(size)
            x = g.emit("Gather", x, g.constant(index, np.int64), axis=axis)
            lasts.append((np.arange(count).reshape(-1, 1) == count - 1) | (np.arange(size) < stride))
        is_last = (lasts[0][:, :, None, None] & lasts[1])[..., None, None].astype(np.float32)
        x = emit_closed(g, [x], lambda v: g.emit("Identity", v), lambda t, dy: [t.emit("Mul", dy, t.constant(is_last))])
        # [N, S, oh, kh, ow, kw, r, q] to [S, kh, kw, N, oh, ow, r, q]
        x = g.declare(g.transpose(x, 1, 3, 5, 0, 2, 4, 6, 7), (inputs, *kernel, n, *windows, rows, inner))
        weight = g.reshape(params[0], places, inner, outputs * columns)
        y = g.emit("MatMul", g.reshape(x, places, n * math.prod(windows) * rows, inner), weight)
        y = g.reshape(
            g.declare(y, (places, n * math.prod(windows) * rows, outputs * columns)),
            *(places, n, math.prod(windows), rows * outputs * columns),
        )
        y = g.declare(g.transpose(y, 1, 2, 0, 3), top)
        return [g.emit("Add", y, g.reshape(params[1], *top[1:]))] if len(params) > 1 else [y]


@layer("CapsuleConvRouting", dialect="capsnet")
class CapsuleConvRouting(_Windows):
    """y[n, o] = Σₚ w[o, p] · u[n, o, p], o over output capsules and windows, p over the places of a window.

    Bottom u with output_capsule_num · windows · places · r · s values an item, taken in that order; top [N,
    output_capsule_num · windows, r · s]. (chenzhenhua986/CAFFE-CapsNet, capsule_conv_routing_layer.cpp)
    """

    message = "capsule_conv_routing_param"
    filler_fields: ClassVar[Mapping[str, str]] = {"capsule_conv_routing_param.weight_filler": "weight"}

    def sizes(self) -> tuple[int, int, int]:
        """Return output capsules of all windows, places of a window, and values of a capsule."""
        kh, kw, inputs, outputs = self.positive("kh", "kw", "input_capsule_num", "output_capsule_num")
        return outputs * math.prod(self.windows()), kh * kw * inputs, math.prod(self.capsule("output_capsule_shape"))

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        outputs, places, _ = self.sizes()
        return (self.filled("weight", (outputs, places), places, 1),)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        outputs, places, size = self.sizes()
        if len(bottoms[0]) < 2 or math.prod(bottoms[0][1:]) != outputs * places * size:
            raise self.error(f"expected items of {outputs} x {places} x {size} values, found shape {bottoms[0]}")
        return ((bottoms[0][0], outputs, size),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        outputs, places, size = self.sizes()
        u = g.reshape(bottoms[0], g.shape(bottoms[0])[0], outputs, places, size)
        weighed = g.emit("Mul", u, g.emit("Unsqueeze", params[0], g.ints(2)))
        return [g.emit("ReduceSum", weighed, g.ints(2), keepdims=0)]


@layer("MarginLoss", dialect="capsnet")
class MarginLoss(_Capsules, Loss):
    """y = Σ (max(0, m⁺ - r)² at the label, λ · max(0, r - m⁻)² elsewhere) / N, r the length of each class's capsule.

    dx is the derivative of N · y, whatever dy is. Bottoms: num_class capsules an item, labels [N].
    (chenzhenhua986/CAFFE-CapsNet, margin_loss_layer.cpp)
    """

    message = "margin_param"
    num_bottoms = (2, 2)

    @property
    def ignores_dy(self) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        (count,) = self.positive("num_class")
        self.parts(bottoms[0], count, "num_class")
        if math.prod(bottoms[1]) != bottoms[0][0]:
            raise self.error(f"expected one label for each of {bottoms[0][0]} items, found shape {bottoms[1]}")
        return ((),) * self.top_count

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return int(self.settings.num_class) if bottom == 1 else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, shape = self.settings, g.shape(bottoms[0])
        rows = (shape[0], p.num_class, math.prod(shape[1:]) // p.num_class)
        made: dict[str, str] = {}

        def forward(x: str) -> str:
            x = g.reshape(x, *rows)
            r = g.reshape(g.declare(_lengths(g, x), (*rows[:2], 1)), *rows[:2])
            chosen = is_label(g, bottoms[1], p.num_class)
            short = g.emit("Relu", g.emit("Sub", g.constant(p.m_upper_bound), r))
            long = g.emit("Relu", g.emit("Sub", r, g.constant(p.m_lower_bound)))
            weighed = g.emit("Mul", g.emit("Mul", long, long), g.constant(getattr(p, "lambda")))
            pull = g.emit("Where", chosen, g.emit("Neg", short), g.emit("Mul", long, g.constant(getattr(p, "lambda"))))
            made.update(x=x, scale=g.emit("Div", g.emit("Mul", pull, g.constant(2)), r))
            return g.emit(
                "Div", total(g, g.emit("Where", chosen, g.emit("Mul", short, short), weighed)), g.constant(shape[0])
            )

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            dx = tape.emit("Mul", made["x"], tape.emit("Unsqueeze", made["scale"], tape.ints(2)))
            return [tape.reshape(tape.declare(dx, rows), *shape)]

        return [emit_closed(g, bottoms[:1], forward, gradient)]
