"""Layers of forks that learn faces: inner products and losses with margins, centers of classes, unit lengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.lazy import np
from caffestat.schema.forks import faces_pb2

from ..base import TRAIN, Layer, Param, Shape, layer, read_param
from ..inner_product import InnerProduct
from ..loss import Loss, class_index, is_label, total
from ..reread import emit_closed
from .passes import emit_count

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "AdaCosAddmScale",
    "CenterLoss",
    "CenterLossOfHappynear",
    "CombinedMargin",
    "CosinAddm",
    "InnerDistance",
    "LabelSpecificAdd",
    "LabelSpecificAddOfOpenvino",
    "LabelSpecificRescale",
    "LargeMarginInnerProduct",
    "MarginInnerProduct",
    "Norm",
    "NormL2",
    "NormalizationL2",
    "NormalizeOfChannels",
    "NormalizeOfSamples",
    "NormalizedInnerProduct",
    "SimpleNormalize",
    "UnitLength",
    "WholeNormalization",
]

OPENVINO = {"AnchorEmbeddingExtractor", "GRN", "ScaleFilter"}  # types that only its training toolbox has
UNIT_EPS = 1e-6  # of weights that are scaled to length 1
SIZE_EPS = 1e-9  # of products of two lengths


def emit_unit_rows(g: Graph, weight: str, inputs: int, eps: float) -> str:
    """Emit a weight whose memory, in rows of `inputs` values, is scaled to length 1: √(Σ w² + eps)."""
    rows = g.reshape(weight, -1, inputs)
    sums = g.emit("ReduceSum", g.emit("Mul", rows, rows), g.ints(1), keepdims=1)
    norm = g.emit("Sqrt", g.emit("Add", sums, g.constant(eps)) if eps else sums)
    return g.declare(g.reshape(g.emit("Div", rows, norm), *g.shape(weight)), g.shape(weight))


def emit_stored_unit(g: Graph, weight: str, inputs: int) -> str:
    """Emit a weight with rows of length 1, which the layer also stores; its gradient is that of the stored one."""
    unit = emit_closed(g, [weight], lambda w: emit_unit_rows(g, w, inputs, UNIT_EPS), lambda tape, dy: [dy])
    g.updates[weight] = g.declare(unit, g.shape(weight))
    return unit


def emit_sums_of_classes(g: Graph, values: str, index: str, classes: int) -> str:
    """Emit the sums [classes, K] of the rows of values [N, K] that have the same class, `index` [N]."""
    shape = g.shape(values)
    places = g.emit("Expand", g.emit("Unsqueeze", index, g.ints(1)), g.ints(*shape))
    zeros = g.constant(np.zeros((classes, shape[1])))
    return g.emit("ScatterElements", zeros, places, values, axis=0, reduction="add")


# ---- inner products --------------------------------------------------------------------------------------------------


@layer("InnerProduct", dialect="happynear")
class NormalizedInnerProduct(InnerProduct):
    """y = x·Wᵀ + b as Caffe's; with `normalize` the weights are scaled to rows of length √(Σ w² + 1e-6) = 1 first.

    The scaled weights are stored, and the gradient is taken as theirs. Further bottoms are used in place of W and b;
    they are never scaled. (happynear/caffe-windows, inner_product_layer.cpp)
    """

    adds = faces_pb2.LayerParameter
    num_bottoms = (1, 3)

    def outputs(self, bottoms: Sequence[Shape]) -> int:
        """Return how many outputs there are: as many as bottom 1 has rows, if there is one."""
        return int(bottoms[1][0] if len(bottoms) > 1 and bottoms[1] else self.proto.inner_product_param.num_output)

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        if len(bottoms) == 1:
            return super().params(bottoms)
        param = self.proto.inner_product_param
        bias = read_param("bias", (self.outputs(bottoms),), param, "bias_filler", 1, 1)
        return (bias,) if param.bias_term and len(bottoms) == 2 else ()

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms) == 1:
            return super().tops(bottoms)
        axis, outputs = self._axis(bottoms[0]), self.outputs(bottoms)
        if not outputs or math.prod(bottoms[1]) != outputs * math.prod(bottoms[0][axis:]):
            raise self.error(f"expected rows of {math.prod(bottoms[0][axis:])} weights, found shape {bottoms[1]}")
        if len(bottoms) == 3 and math.prod(bottoms[2]) != outputs:
            raise self.error(f"expected {outputs} biases, found shape {bottoms[2]}")
        return ((*bottoms[0][:axis], outputs),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        inputs = math.prod(shape[self._axis(shape) :])
        if len(bottoms) == 1:
            scales = self.added.inner_product_param.normalize
            weight = emit_stored_unit(g, params[0], inputs) if scales else params[0]
            return super().lower(g, bottoms, [weight, *params[1:]])
        top = self.tops([g.shape(bottom) for bottom in bottoms])[0]
        is_transposed = self.proto.inner_product_param.transpose
        weight = g.reshape(bottoms[1], *((inputs, top[-1]) if is_transposed else (top[-1], inputs)))
        biases = [g.reshape(value, top[-1]) for value in (*bottoms[2:], *params)]
        rows = math.prod(top[:-1])
        used = biases[:1] if self.proto.inner_product_param.bias_term else []
        y = g.emit("Gemm", g.reshape(bottoms[0], rows, inputs), weight, *used, transB=int(not is_transposed))
        return [g.reshape(g.declare(y, (rows, top[-1])), *top)]


class _Weighted(Layer):
    """A layer with one weight [num_output, K], K the values of the bottom from `axis` on."""

    @property
    def settings(self) -> Any:
        raise NotImplementedError

    def split(self, shape: Shape) -> tuple[int, int]:
        """Return the number of rows of the bottom and K."""
        axis = self.canonical_axis(self.settings.axis, len(shape))
        return math.prod(shape[:axis]), math.prod(shape[axis:])

    def outputs(self, bottoms: Sequence[Shape]) -> int:
        if not self.settings.num_output:
            raise self.error("num_output must be positive; found 0 or none")
        return int(self.settings.num_output)

    def top_shape(self, bottoms: Sequence[Shape]) -> Shape:
        axis = self.canonical_axis(self.settings.axis, len(bottoms[0]))
        return (*bottoms[0][:axis], self.outputs(bottoms))

    def macs(self, bottoms: Sequence[Shape]) -> int:
        rows, inputs = self.split(bottoms[0])
        return rows * inputs * self.outputs(bottoms)


@layer("MarginInnerProduct", dialect="sphereface")
class MarginInnerProduct(_Weighted):
    """y = x·Wᵀ, rows of W scaled to length 1; at the label (|x| ψ(θ) + λ x·w) / (1 + λ), ψ(θ) = (-1)ᵏ cos(mθ) - 2k.

    m is 1 to 4 by type (SINGLE to QUADRUPLE). λ = max(lambda_min, base · (1 + gamma · i)^-power) in pass i, counted
    from iteration + 1. Bottoms x and labels, one for each row; top 1 is λ. The scaled weights are stored; dW = dyᵀ·x.
    At the label dx takes the derivative of |x| ψ, a sum of w and x, with its two factors scaled to length 1.
    (wy1iu/sphereface, margin_inner_product_layer.cpp; Liu et al. 2017)
    """

    adds = faces_pb2.LayerParameter
    num_bottoms = (2, 2)
    num_tops = (1, 2)
    filler_fields: ClassVar[Mapping[str, str]] = {"margin_inner_product_param.weight_filler": "weight"}

    @property
    def settings(self) -> Any:
        return self.added.margin_inner_product_param

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        inputs, outputs = self.split(bottoms[0])[1], self.outputs(bottoms)
        return (read_param("weight", (outputs, inputs), self.settings, "weight_filler", inputs, outputs),)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        rows = self.split(bottoms[0])[0]
        if math.prod(bottoms[1]) != rows:
            raise self.error(f"expected {rows} labels, one for each row of bottom 0, found shape {bottoms[1]}")
        return (self.top_shape(bottoms), (1,))[: self.top_count]

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return self.outputs(bottoms) if bottom == 1 else None

    def annealed(self, g: Graph) -> str:
        """Emit λ, [1]."""
        p = self.settings
        passes = g.emit("Add", emit_count(g, self.name), g.constant(p.iteration + 1))
        grown = g.emit("Add", g.emit("Mul", passes, g.constant(p.gamma)), g.constant(1))
        weight = g.emit("Mul", g.emit("Pow", grown, g.constant(-p.power)), g.constant(p.base))
        return g.declare(g.emit("Max", weight, g.constant(p.lambda_min)), (1,))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        (rows, inputs), outputs = self.split(shape), self.outputs([shape])
        top, weight = self.top_shape([shape]), self.annealed(g)
        made: dict[str, str] = {}

        def forward(x: str, w: str) -> str:
            x, unit = g.reshape(x, rows, inputs), emit_unit_rows(g, w, inputs, 0)
            g.updates[params[0]] = unit
            y = g.declare(g.emit("Gemm", x, unit, transB=1), (rows, outputs))
            made.update(unit=unit, norm=_length(g, x), index=class_index(g, g.reshape(bottoms[1], rows, 1), outputs))
            if self.settings.type:
                chosen = g.emit("GatherElements", y, made["index"], axis=1)
                made["cos"] = g.emit("Div", chosen, made["norm"])
                mixed = self.mixed(g, g.emit("Mul", made["norm"], self.psi(g, made["cos"])[0]), chosen, weight)
                y = g.emit("ScatterElements", y, made["index"], mixed, axis=1)
            return g.reshape(g.declare(y, (rows, outputs)), *top)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            g, dy = tape.graph, tape.reshape(dy, rows, outputs)
            x = g.reshape(tape.stored(bottoms[0]), rows, inputs)
            dw = g.emit("Gemm", dy, x, transA=1)
            along = None
            if self.settings.type:
                at, of_w, of_x = g.emit("GatherElements", dy, made["index"], axis=1), *self.direction(g, made)
                along = g.emit("Div", g.emit("Mul", at, of_x), g.emit("Add", weight, g.constant(1)))
                mixed = self.mixed(g, g.emit("Mul", at, of_w), at, weight)
                dy = g.emit("ScatterElements", dy, made["index"], mixed, axis=1)
            dx = g.emit("MatMul", dy, made["unit"])
            dx = g.emit("Add", dx, g.emit("Mul", along, x)) if along else dx
            return g.reshape(g.declare(dx, (rows, inputs)), *shape), dw

        y = emit_closed(g, [bottoms[0], params[0]], forward, gradient)
        return [y, weight][: self.top_count]

    def mixed(self, g: Graph, value: str, plain: str, weight: str) -> str:
        """Emit (value + λ · plain) / (1 + λ)."""
        both = g.emit("Add", value, g.emit("Mul", plain, weight))
        return g.emit("Div", both, g.emit("Add", weight, g.constant(1)))

    def psi(self, g: Graph, cos: str) -> tuple[str, str]:
        """Emit ψ and dψ/dcos; on a border between two k the sign that tells them apart is 0, as in the reference."""
        sign = g.emit("Sign", cos)
        if self.settings.type == 1:
            square, slope = _poly(g, cos, 0, 0, 2), _poly(g, cos, 0, 4)
            return g.emit("Sub", g.emit("Mul", sign, square), g.constant(1)), g.emit("Mul", sign, slope)
        if self.settings.type == 2:
            flip = g.emit("Sign", g.emit("Sub", g.emit("Abs", cos), g.constant(0.5)))
            lift = g.emit("Sub", g.emit("Mul", sign, g.emit("Add", flip, g.constant(1))), g.constant(2))
            polynomials = _poly(g, cos, 0, -3, 0, 4), _poly(g, cos, -3, 0, 12)
        else:
            flip = g.emit("Mul", sign, g.emit("Sign", _poly(g, cos, -1, 0, 2)))
            lift = g.emit("Sub", g.emit("Add", g.emit("Mul", sign, g.constant(2)), flip), g.constant(3))
            polynomials = _poly(g, cos, 1, 0, -8, 0, 8), _poly(g, cos, 0, -16, 0, 32)
        value, slope = (g.emit("Mul", flip, polynomial) for polynomial in polynomials)
        return g.emit("Add", value, lift), slope

    def direction(self, g: Graph, made: Mapping[str, str]) -> tuple[str, str]:
        """Emit the parts of w and x in the derivative of |x| ψ, divided by √(sum of their squares)."""
        value, of_w = self.psi(g, made["cos"])
        along = g.emit("Sub", value, g.emit("Mul", of_w, made["cos"]))
        of_x = g.emit("Div", along, made["norm"])
        norm = g.emit("Sqrt", g.emit("Add", g.emit("Mul", of_w, of_w), g.emit("Mul", of_x, of_x)))
        return g.emit("Div", of_w, norm), g.emit("Div", of_x, norm)


@layer("LargeMarginInnerProduct", dialect="l-softmax")
class LargeMarginInnerProduct(MarginInnerProduct):
    """y = x·Wᵀ; at the label (|x| |w| ψ(θ) + λ x·w) / (1 + λ).

    Type, ψ and λ are those of MarginInnerProduct; W stays as it is, and dx and dW are the derivatives.
    (wy1iu/LargeMargin_Softmax_Loss, largemargin_inner_product_layer.cpp; Liu et al. 2016)
    """

    filler_fields: ClassVar[Mapping[str, str]] = {"largemargin_inner_product_param.weight_filler": "weight"}

    @property
    def settings(self) -> Any:
        return self.added.largemargin_inner_product_param

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        (rows, inputs), outputs = self.split(shape), self.outputs([shape])
        x, weight = g.reshape(bottoms[0], rows, inputs), self.annealed(g)
        y = g.declare(g.emit("Gemm", x, params[0], transB=1), (rows, outputs))
        if self.settings.type:
            index = class_index(g, g.reshape(bottoms[1], rows, 1), outputs)
            own = g.emit("Gather", _length(g, params[0]), g.reshape(index, rows), axis=0)
            size = g.emit("Add", g.emit("Mul", _length(g, x), own), g.constant(SIZE_EPS))
            chosen = g.emit("GatherElements", y, index, axis=1)
            value = g.emit("Mul", size, self.psi(g, g.emit("Div", chosen, size))[0])
            y = g.emit("ScatterElements", y, index, self.mixed(g, value, chosen, weight), axis=1)
        return [g.reshape(g.declare(y, (rows, outputs)), *self.top_shape([shape])), weight][: self.top_count]


def _poly(g: Graph, x: str, *factors: float) -> str:
    """Emit Σ factors[i] · xⁱ."""
    result = g.constant(factors[-1])
    for factor in reversed(factors[:-1]):
        result = g.emit("Mul", result, x)
        result = g.emit("Add", result, g.constant(factor)) if factor else result
    return result


def _length(g: Graph, x: str) -> str:
    """Emit √(Σ x²) of each row [N, 1]."""
    return g.emit("Sqrt", g.emit("ReduceSum", g.emit("Mul", x, x), g.ints(1), keepdims=1))


@layer("InnerDistance", dialect="happynear")
class InnerDistance(_Weighted):
    """y[m, n] = Σ (x[m] - w[n])² (L2) or Σ |x[m] - w[n]| (L1), w learned or bottom 1.

    `normalize` scales learned w to rows of length √(Σ w² + 1e-6) = 1, which are stored. With update_center_only only
    distances to the label's row, labels being bottom 2, have a gradient to w. As in the reference, where `dy * sign(d)`
    reads `dy * (0 < d) - (d < 0)`, L1 gives dx = Σ (dy where x > w, -1 where x < w), and dw likewise.
    (happynear/caffe-windows, inner_distance_layer.cpp)
    """

    adds = faces_pb2.LayerParameter
    num_bottoms = (1, 3)
    filler_fields: ClassVar[Mapping[str, str]] = {"inner_distance_param.weight_filler": "weight"}

    @property
    def settings(self) -> Any:
        return self.added.inner_distance_param

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom < 2

    def outputs(self, bottoms: Sequence[Shape]) -> int:
        return super().outputs(bottoms) if len(bottoms) == 1 else int(bottoms[1][0])

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        if len(bottoms) > 1:
            return ()
        inputs, outputs = self.split(bottoms[0])[1], self.outputs(bottoms)
        shape = (inputs, outputs) if self.settings.transpose else (outputs, inputs)
        return (read_param("weight", shape, self.settings, "weight_filler", inputs, outputs),)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, (rows, inputs) = self.settings, self.split(bottoms[0])
        if p.distance_type not in ("L1", "L2"):
            raise self.error(f"expected distance_type L1 or L2, found {p.distance_type!r}")
        if len(bottoms) > 1 and (not bottoms[1] or math.prod(bottoms[1]) != bottoms[1][0] * inputs):
            raise self.error(f"expected rows of {inputs} values as bottom 1, found shape {bottoms[1]}")
        if p.update_center_only != (len(bottoms) == 3) or math.prod(bottoms[-1] if bottoms[2:] else [rows]) != rows:
            raise self.error(f"expected three bottoms, the last of {rows} labels, with update_center_only, else fewer")
        return (self.top_shape(bottoms),)

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return self.outputs(bottoms) if bottom == 2 else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shapes = [g.shape(bottom) for bottom in bottoms]
        (rows, inputs), outputs = self.split(shapes[0]), self.outputs(shapes)
        weight = params[0] if params else bottoms[1]
        if params and self.settings.normalize:
            weight = emit_stored_unit(g, weight, inputs)
        x, w = g.reshape(bottoms[0], rows, inputs), g.reshape(weight, outputs, inputs)

        def forward(x: str, w: str) -> str:
            if self.settings.distance_type == "L1":
                return g.emit("ReduceSum", g.emit("Abs", self.differences(g, x, w)), g.ints(2), keepdims=0)
            squares = [g.emit("ReduceSum", g.emit("Mul", v, v), g.ints(1), keepdims=1) for v in (x, w)]
            both = g.emit("Add", squares[0], g.transpose(squares[1], 1, 0))
            return g.emit("Relu", g.emit("Sub", both, g.emit("Mul", g.constant(2), g.emit("Gemm", x, w, transB=1))))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            counted = is_label(tape.graph, bottoms[2], outputs) if len(bottoms) == 3 else None
            shown = tape.emit("Where", counted, dy, tape.constant(0)) if counted else dy
            if self.settings.distance_type == "L1":
                return self.pulled_by_signs(tape, x, w, (dy, shown), counted)
            return _pulled(tape, dy, x, w), _pulled(tape, tape.transpose(shown, 1, 0), w, x)

        y = g.declare(emit_closed(g, [x, w], forward, gradient), (rows, outputs))
        return [g.reshape(y, *self.top_shape(shapes))]

    def pulled_by_signs(self, tape: Tape, x: str, w: str, dys: tuple[str, str], counted: str | None) -> list[str]:
        """Emit dx and dw of L1. dys: for x and for w [M, N]; counted: which of them w's gradient adds up."""
        g, apart = tape.graph, self.differences(tape.graph, x, w)
        over, under = (g.cast(tape.emit(op, apart, tape.constant(0)), np.float32) for op in ("Greater", "Less"))
        each = [tape.emit("Unsqueeze", dy, tape.ints(2)) for dy in dys]
        dx = tape.emit("Sub", tape.emit("Mul", over, each[0]), under)
        if counted:
            over = tape.emit("Mul", over, tape.emit("Unsqueeze", g.cast(counted, np.float32), tape.ints(2)))
        dw = tape.emit("Sub", tape.emit("Mul", under, each[1]), over)
        sums = (tape.emit("ReduceSum", d, tape.ints(axis), keepdims=0) for d, axis in ((dx, 1), (dw, 0)))
        return [tape.declare(d, tape.shape(of)) for d, of in zip(sums, (x, w), strict=True)]

    def differences(self, g: Graph, x: str, w: str) -> str:
        """Emit x[m] - w[n], [M, N, K]."""
        return g.emit("Sub", g.emit("Unsqueeze", x, g.ints(1)), g.emit("Unsqueeze", w, g.ints(0)))


def _pulled(tape: Tape, dy: str, x: str, w: str) -> str:
    """Emit Σₙ dy[m, n] · 2 (x[m] - w[n])."""
    sums = tape.emit("ReduceSum", dy, tape.ints(1), keepdims=1)
    return tape.emit("Mul", tape.constant(2), tape.emit("Sub", tape.emit("Mul", x, sums), tape.emit("MatMul", dy, w)))


# ---- margins at the label --------------------------------------------------------------------------------------------


class _AtLabel(Layer):
    """Scores [N, …], of which each item's label's is changed; bottom 1 has the labels [N]."""

    adds = faces_pb2.LayerParameter
    num_bottoms = (2, 2)
    passes_signal = True
    skips_negative = False  # labels below 0 change nothing

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        scores, labels = bottoms
        if len(scores) < 2 or not math.prod(scores) or math.prod(labels) != scores[0]:
            raise self.error(f"expected scores (N, …) and N labels, found shapes {scores} and {labels}")
        return (scores, (1,))[: self.top_count]

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return math.prod(bottoms[0][1:]) if bottom == 1 else None

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        return np.less(values, 0) if self.skips_negative else np.zeros(values.shape, bool)

    def changed(self, g: Graph, x: str) -> str:
        """Emit what becomes of the labels' scores [N, 1]."""
        raise NotImplementedError

    def with_changed(self, g: Graph, bottoms: Sequence[str], change: Callable[[str], str]) -> str:
        """Emit the scores with those of the labels changed."""
        shape = g.shape(bottoms[0])
        scores, labels = g.reshape(bottoms[0], shape[0], -1), g.reshape(bottoms[1], shape[0], 1)
        index = class_index(g, labels, math.prod(shape[1:]))
        chosen = g.declare(g.emit("GatherElements", scores, index, axis=1), (shape[0], 1))
        if self.skips_negative:
            counts = g.emit("GreaterOrEqual", labels, g.constant(0))
            known = g.declare(g.emit("Where", counts, chosen, g.constant(0)), (shape[0], 1))
            changed = g.emit("Where", counts, change(known), chosen)
        else:
            changed = change(chosen)
        y = g.emit("ScatterElements", scores, index, changed, axis=1)
        return g.reshape(g.declare(y, (shape[0], math.prod(shape[1:]))), *shape)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return [self.with_changed(g, bottoms, lambda x: self.changed(g, x))]


@layer("LabelSpecificAdd", dialect="happynear")
class LabelSpecificAdd(_AtLabel):
    """TRAIN: adds `bias` to the label's score where that is above -bias; dx = dy. TEST: y = x.

    With bias_base the bias of pass i, counted from `iteration`, is bias_base + (1 + bias_gamma · i)^bias_power - 1, no
    less than bias_min and no more than bias_max. Top 1 is the bias. (happynear/caffe-windows, label_specific_add.cpp)
    """

    num_tops = (1, 2)

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and OPENVINO.isdisjoint(types)

    def bias(self, g: Graph) -> str:
        """Emit the bias, [1]."""
        p = self.added.label_specific_add_param
        if not p.HasField("bias_base"):
            return g.constant([p.bias])
        passes = g.emit("Add", emit_count(g, self.name), g.constant(p.iteration))
        grown = g.emit("Add", g.emit("Mul", passes, g.constant(p.bias_gamma)), g.constant(1))
        added = g.emit("Sub", g.emit("Pow", grown, g.constant(p.bias_power)), g.constant(1))
        bias = g.emit("Max", g.emit("Add", added, g.constant(p.bias_base)), g.constant(p.bias_min))
        return g.declare(g.emit("Min", bias, g.constant(p.bias_max)), (1,))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if self.phase != TRAIN:
            return [g.emit("Identity", bottoms[0]), g.emit("Identity", g.constant([0]))][: self.top_count]
        bias = self.bias(g)

        def change(x: str) -> str:
            above = g.emit("Greater", x, g.emit("Neg", bias))
            return g.emit("Add", x, g.emit("Where", above, bias, g.constant(0)))

        return [self.with_changed(g, bottoms, change), g.emit("Identity", bias)][: self.top_count]


@layer("LabelSpecificAdd", dialect="openvino")
class LabelSpecificAddOfOpenvino(_AtLabel):
    """TRAIN: takes |bias| off the label's score where that is above |bias|; dx = dy. TEST: y = x.

    (openvinotoolkit/training_toolbox_caffe, label_specific_add.cpp)
    """

    adds = faces_pb2.OpenvinoLayerParameter

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return super().lower(g, bottoms, params) if self.phase == TRAIN else [g.emit("Identity", bottoms[0])]

    def changed(self, g: Graph, x: str) -> str:
        bias = g.constant(abs(self.added.label_specific_add_param.bias))
        return g.emit("Sub", x, g.emit("Where", g.emit("Greater", x, bias), bias, g.constant(0)))


@layer("LabelSpecificRescale", dialect="happynear")
class LabelSpecificRescale(_AtLabel):
    """Label's scores times positive_weight, others' times negative_weight; TEST: y = x without rescale_test.

    (happynear/caffe-windows, label_specific_rescale_layer.cpp)
    """

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, shape = self.added.label_specific_rescale_param, g.shape(bottoms[0])
        if self.phase != TRAIN and not p.rescale_test:
            return [g.emit("Identity", bottoms[0])]
        chosen = is_label(g, bottoms[1], math.prod(shape[1:]))
        weights = g.emit("Where", chosen, g.constant(p.positive_weight), g.constant(p.negative_weight))
        return [g.reshape(g.emit("Mul", g.reshape(bottoms[0], shape[0], -1), weights), *shape)]


class _ArcMargin(_AtLabel):
    """The label's score, a cosine, becomes cos(θ + m), or cos θ - m · sin(π - m) where θ + m would be above π."""

    @property
    def margin(self) -> float:
        raise NotImplementedError

    def changed(self, g: Graph, x: str) -> str:
        m = self.margin
        made: dict[str, str] = {}

        def forward(x: str) -> str:
            cos = g.emit("Min", x, g.constant(1))
            sin = g.emit("Sqrt", g.emit("Relu", g.emit("Sub", g.constant(1), g.emit("Mul", cos, cos))))
            is_far = g.emit("LessOrEqual", cos, g.constant(math.cos(math.pi - m)))
            moved = g.emit(
                "Sub", g.emit("Mul", cos, g.constant(math.cos(m))), g.emit("Mul", sin, g.constant(math.sin(m)))
            )
            made.update(cos=cos, sin=sin, far=is_far)
            return g.emit("Where", is_far, g.emit("Sub", cos, g.constant(math.sin(math.pi - m) * m)), moved)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            is_flat = tape.emit("Equal", made["sin"], tape.constant(0))
            one = tape.constant(1)
            ratio = tape.emit("Div", made["cos"], tape.emit("Where", is_flat, one, made["sin"]))
            slope = tape.emit("Add", tape.emit("Mul", ratio, tape.constant(math.sin(m))), tape.constant(math.cos(m)))
            plain = tape.emit("Or", is_flat, made["far"])
            return [tape.emit("Mul", dy, tape.emit("Where", plain, one, slope))]

        return emit_closed(g, [x], forward, gradient)


@layer("CosinAddm", dialect="arcface")
class CosinAddm(_ArcMargin):
    """y = cos(θ + m) at the label, θ = arccos x, or x - m · sin(π - m) where x ≤ cos(π - m); y = x elsewhere.

    Both phases alike: transform_test is not looked at. (xialuxi/arcface-caffe, cosin_add_m_layer.cpp; Deng et al. 2019)
    """

    @property
    def margin(self) -> float:
        return float(self.added.cosin_add_m_param.m)


@layer("AdaCosAddmScale", dialect="arcface")
class AdaCosAddmScale(_ArcMargin):
    """y = s times what CosinAddm gives; s = log(Σ e^(s' x) / N) / cos(min(π/4, mean of arccos x)).

    The labels' x count as 0 in the first sum. s' is the s of the pass before, √2 · log(num_classes - 1) at first; no
    gradient flows through s. Labels below 0 change nothing.
    (xialuxi/arcface-caffe, adacos_add_m_scale_layer.cpp; Zhang et al. 2019)
    """

    skips_negative = True

    @property
    def margin(self) -> float:
        return float(self.added.adacos_add_m_scale_param.m)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        y = self.with_changed(g, bottoms, lambda x: self.changed(g, x))
        return [g.emit("Mul", y, g.detach(self.scale(g, bottoms)))]

    def scale(self, g: Graph, bottoms: Sequence[str]) -> str:
        """Emit s, [1]."""
        shape = g.shape(bottoms[0])
        first = g.constant([math.sqrt(2) * math.log(self.added.adacos_add_m_scale_param.num_classes - 1)])
        beyond = g.state(f"{self.name}/scale", (1,))  # the first s, of which the state holds how far it has moved
        scores = g.reshape(bottoms[0], shape[0], -1)
        is_chosen = is_label(g, bottoms[1], math.prod(shape[1:]))
        if self.skips_negative:
            known = g.emit("GreaterOrEqual", g.reshape(bottoms[1], shape[0], 1), g.constant(0))
            is_chosen = g.emit("And", is_chosen, known)
        others = g.emit("Where", is_chosen, g.constant(0), scores)
        powers = g.emit("Exp", g.emit("Mul", others, g.emit("Add", first, beyond)))
        mean = g.emit("ReduceMean", g.emit("Acos", scores), keepdims=0)
        cos = g.emit("Cos", g.emit("Min", mean, g.constant(math.pi / 4)))
        logs = g.emit("Log", g.emit("Div", total(g, powers), g.constant(shape[0])))
        scale = g.declare(g.emit("Reshape", g.emit("Div", logs, cos), g.ints(1)), (1,))
        g.carry(beyond, g.declare(g.emit("Sub", scale, first), (1,)))
        return scale


@layer("CombinedMargin", dialect="arcface")
class CombinedMargin(_AtLabel):
    """y = cos(m1 · arccos x + m2) - m3 at the label, y = x elsewhere. Labels below 0 change nothing.

    (xialuxi/arcface-caffe, combined_margin_layer.cpp)
    """

    skips_negative = True

    def changed(self, g: Graph, x: str) -> str:
        p = self.added.combined_margin_param
        angle = g.emit("Add", g.emit("Mul", g.emit("Acos", x), g.constant(p.m1)), g.constant(p.m2))
        return g.emit("Sub", g.emit("Cos", angle), g.constant(p.m3))


# ---- centers of classes ----------------------------------------------------------------------------------------------


@layer("CenterLoss", dialect="caffe-face")
class CenterLoss(Loss):
    """y = Σ (x - c[label])² / 2N; dx = (x - c[label]) · dy / N, dc = Σ (c - x) / (1 + n) over the n items of a class.

    Bottoms x [N, …] and N labels; the centers c [num_output, K] are learned, their gradient does not depend on dy.
    (ydwen/caffe-face, center_loss_layer.cpp; Wen et al. 2016)
    """

    adds = faces_pb2.FaceLayerParameter
    filler_fields: ClassVar[Mapping[str, str]] = {"center_loss_param.center_filler": "center"}

    @property
    def settings(self) -> Any:
        return self.added.center_loss_param

    @property
    def distance(self) -> str:
        return "L2"

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        shape = (self.settings.num_output, math.prod(bottoms[0][1:]))
        return (read_param("center", shape, self.settings, "center_filler", 1, 1),)

    def check(self, bottoms: Sequence[Shape]) -> None:
        if not self.settings.num_output or not math.prod(bottoms[0]):
            raise self.error(f"expected a num_output of at least 1 and items, found bottom {bottoms[0]}")
        if self.canonical_axis(self.settings.axis, len(bottoms[0])) != 1:
            raise self.error(f"expected axis 1, found {self.settings.axis}")
        if math.prod(bottoms[1]) != bottoms[0][0]:
            raise self.error(f"expected one label for each of {bottoms[0][0]} items, found shape {bottoms[1]}")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return int(self.settings.num_output) if bottom == 1 else None

    def share(self, g: Graph, counts: str) -> str:
        """Emit what the sum over a class's items is multiplied with, [classes, 1]."""
        return g.emit("Reciprocal", g.emit("Add", counts, g.constant(1)))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, (classes, inputs) = g.shape(bottoms[0]), g.shape(params[0])
        rows = shape[0]
        index = class_index(g, g.reshape(bottoms[1], rows), classes)
        made: dict[str, str] = {}

        def forward(x: str, centers: str) -> str:
            distance = g.emit("Sub", g.reshape(x, rows, inputs), g.emit("Gather", centers, index, axis=0))
            made["slope"] = g.emit("Sign", distance) if self.distance == "L1" else distance
            if self.distance == "L1":
                return g.emit("Div", total(g, g.emit("Abs", distance)), g.constant(rows))
            return g.emit("Div", total(g, g.emit("Mul", distance, distance)), g.constant(2 * rows))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            g = tape.graph
            slopes = g.declare(g.emit("Neg", made["slope"]), (rows, inputs))
            sums = emit_sums_of_classes(g, slopes, index, classes)
            counts = emit_sums_of_classes(g, g.constant(np.ones((rows, 1))), index, classes)
            dx = g.emit("Mul", made["slope"], g.emit("Div", dy, g.constant(rows)))
            return g.reshape(g.declare(dx, (rows, inputs)), *shape), g.emit("Mul", sums, self.share(g, counts))

        return [emit_closed(g, [bottoms[0], params[0]], forward, gradient)]


@layer("CenterLoss", dialect="happynear")
class CenterLossOfHappynear(CenterLoss):
    """y = Σ (x - c[label])² / 2N (L2) or Σ |x - c[label]| / N (L1); dc = -n / (1 + n) · Σ of d/dx over n items.

    Bottoms x [N, …] and N labels; the centers c [num_output, K] are learned, their gradient does not depend on dy; the
    n items are those of a class. (happynear/caffe-windows, center_loss_layer.cpp)
    """

    adds = faces_pb2.LayerParameter

    @property
    def distance(self) -> str:
        return str(self.settings.distance_type)

    def check(self, bottoms: Sequence[Shape]) -> None:
        super().check(bottoms)
        if self.distance not in ("L1", "L2"):
            raise self.error(f"expected distance_type L1 or L2, found {self.distance!r}")

    def share(self, g: Graph, counts: str) -> str:
        return g.emit("Div", counts, g.emit("Add", counts, g.constant(1)))


# ---- unit length -----------------------------------------------------------------------------------------------------


class UnitLength(Layer):
    """y = x / √(Σ x² + eps), Σ over some axes."""

    normalizes = True
    eps_of: ClassVar[float] = 0.0
    has_four_axes: ClassVar[bool] = True  # the top has: [N, C, 1, 1] of a bottom [N, C]

    @property
    def eps(self) -> float:
        return self.eps_of

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = bottoms[0]
        least, most = (2, 4) if self.has_four_axes else (1, len(shape))
        if not least <= len(shape) <= most:
            raise self.error(f"expected a bottom of 2 to 4 axes (N, C, …), found shape {shape}")
        return (self.as_four(shape) if self.has_four_axes else shape,)

    def as_four(self, shape: Shape) -> Shape:
        """Return the shape with ones at its end."""
        return (*shape, *(1,) * (4 - len(shape)))

    def axes(self, rank: int) -> Sequence[int]:
        """Return the axes that are summed over: by default all of a sample's."""
        return range(1, rank)

    def norm(self, g: Graph, x: str, rank: int) -> str:
        """Emit what is divided by."""
        sums = g.emit("ReduceSum", g.emit("Mul", x, x), g.ints(*self.axes(rank)), keepdims=1)
        return g.emit("Sqrt", g.emit("Add", sums, g.constant(self.eps)) if self.eps else sums)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (top,) = self.tops([g.shape(bottoms[0])])
        x = g.reshape(bottoms[0], *top)
        return [g.emit("Div", x, self.norm(g, x, len(top)), hint=self.name)]


@layer("Normalize", dialect="mpi")
class NormalizeOfSamples(UnitLength):
    """y = x / √(Σ x²), Σ over all of a sample; top [N, C, H, W]. (yjxiong/caffe, normalize_layer.cpp)"""


@layer("Normalize", dialect="happynear")
class NormalizeOfChannels(UnitLength):
    """y = x / √(Σ x² + 1e-6), or with normalize_type "L1" y = x / (Σ |x| + 1e-6), Σ over the channels.

    Top [N, C, H, W]; top 1 is what is divided by, [N, 1, H, W], which has a gradient only with bp_norm.
    (happynear/caffe-windows, normalize_layer.cpp)
    """

    adds = faces_pb2.LayerParameter
    num_tops = (1, 2)
    eps_of = UNIT_EPS

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        kind = self.added.normalize_param.normalize_type
        if kind not in ("L1", "L2"):
            raise self.error(f"expected normalize_type L1 or L2, found {kind!r}")
        (top,) = super().tops(bottoms)
        return (top, (top[0], 1, *top[2:]))[: self.top_count]

    def axes(self, rank: int) -> Sequence[int]:
        return (1,)

    def norm(self, g: Graph, x: str, rank: int) -> str:
        if self.added.normalize_param.normalize_type == "L2":
            return super().norm(g, x, rank)
        sums = g.emit("ReduceSum", g.emit("Abs", x), g.ints(1), keepdims=1)
        return g.emit("Add", sums, g.constant(self.eps))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        top, *others = self.tops([g.shape(bottoms[0])])
        x = g.reshape(bottoms[0], *top)
        norm = self.norm(g, x, len(top))
        y = g.emit("Div", x, norm, hint=self.name)
        if not others:
            return [y]
        g.declare(norm, others[0])
        return [y, g.emit("Identity", norm) if self.added.normalize_param.bp_norm else g.detach(norm)]


@layer("SimpleNormalize", dialect="caffe-train")
class SimpleNormalize(UnitLength):
    """y = x / √(Σ x²), Σ over all of a sample; top [N, C, H, W]. (yuqj1991/caffe_train, simplenormalize_layer.cpp)"""


@layer("NormL2", dialect="arcface")
class NormL2(UnitLength):
    """y = x / √(Σ x² + 1e-7), Σ over all of a sample; top [N, C, H, W]. (xialuxi/arcface-caffe, normL2_layer.cpp)"""

    eps_of = 1e-7


@layer("NormalizationL2", dialect="ram")
class NormalizationL2(UnitLength):
    """y = x / √(Σ x² + 1e-10), Σ over all of a sample. (liu-xb/RAM, normalization_l2_layer.cu)"""

    has_four_axes = False
    eps_of = 1e-10


@layer("Normalization", dialect="hdc")
class WholeNormalization(UnitLength):
    """y = x / √(Σ x²), Σ over all of a sample. (PkuRainBow/HDC.caffe, normalization_layer.cpp)"""

    has_four_axes = False


@layer("Norm", dialect="video-triplet")
class Norm(UnitLength):
    """y = x / (√s + 1e-6), s = Σ x² over the channels; dx = (s · dy - x · Σ x·dy) / (s √s + 1e-6). Top [N, C, H, W].

    (xiaolonw/caffe-video_triplet, norm_layer.cpp)
    """

    def axes(self, rank: int) -> Sequence[int]:
        return (1,)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (top,) = self.tops([g.shape(bottoms[0])])
        made: dict[str, str] = {}

        def forward(x: str) -> str:
            made["s"] = g.emit("ReduceSum", g.emit("Mul", x, x), g.ints(1), keepdims=1)
            made["root"] = g.emit("Sqrt", made["s"])
            return g.emit("Div", x, g.emit("Add", made["root"], g.constant(UNIT_EPS)), hint=self.name)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            along = tape.emit("ReduceSum", tape.emit("Mul", x, dy), tape.ints(1), keepdims=1)
            across = tape.emit("Sub", tape.emit("Mul", made["s"], dy), tape.emit("Mul", x, along))
            cube = tape.emit("Add", tape.emit("Mul", made["s"], made["root"]), tape.constant(UNIT_EPS))
            return [tape.emit("Div", across, cube)]

        x = g.reshape(bottoms[0], *top)
        return [emit_closed(g, [x], forward, gradient)]
