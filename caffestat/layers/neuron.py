"""Neuron layers: one value in, one value out, element by element; most of them may work in place."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.fillers import Stream, bernoulli, density, problem
from caffestat.lazy import np
from caffestat.ops import Nonlinearity, activations

from .base import TRAIN, Layer, Param, Shape, default_filler, layer, read_param, to_filler
from .reread import BOTTOM, TOP, emit_pulled, emit_reread, without_gradient

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "BNLL",
    "ELU",
    "AbsVal",
    "Clip",
    "Dropout",
    "Exp",
    "Log",
    "PReLU",
    "Power",
    "ReLU",
    "Sigmoid",
    "Swish",
    "TanH",
    "Threshold",
]


FLOAT = 1  # onnx element type


class Neuron(Layer):
    """y = f(x), of x's shape. (neuron_layer.cpp)"""

    keeps_places = True
    keeps_shapes = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (bottoms[0],)


@layer("ReLU", by_sample=True)
class ReLU(Neuron):
    """y = max(x, 0) + negative_slope · min(x, 0); dx = dy · (1 if x > 0 else negative_slope). (relu_layer.cpp)"""

    def nonlinearity(self) -> Nonlinearity:
        return activations.leaky(self.proto.relu_param.negative_slope)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        slope = self.proto.relu_param.negative_slope
        if g.is_strict:
            return (emit_strict_relu(g, bottoms[0], slope),)
        if not slope:
            return (emit_pulled(g, "Relu", bottoms[0], BOTTOM),)
        return (emit_pulled(g, "LeakyRelu", bottoms[0], BOTTOM, alpha=slope),)


def emit_strict_relu(g: Graph, x: str, slope: float) -> str:
    """Emit Caffe's two terms: where slope is 0, y is not a number of x = -∞, and dx of x not a number is dy · 0."""
    zero, negative = g.constant(0), g.constant(slope)

    def forward(value: str) -> Sequence[str]:
        return [g.emit("Add", g.emit("Relu", value), g.emit("Mul", negative, g.emit("Min", value, zero)))]

    def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
        bottom = tape.stored(x)
        above, below = tape.emit("Greater", bottom, zero), tape.emit("LessOrEqual", bottom, zero)
        at = [tape.emit("Cast", where, to=FLOAT) for where in (above, below)]
        return [tape.emit("Mul", dys[0] or "", tape.emit("Add", at[0], tape.emit("Mul", negative, at[1])))]

    whole = {"op": "LeakyRelu", "alpha": slope} if slope else {"op": "Relu"}
    (y,) = g.custom_vjp((x,), forward, backward, **whole)
    return y


@layer("PReLU", by_sample=True)
class PReLU(Neuron):
    """y = max(x, 0) + a · min(x, 0), one a per channel or one for all; da = Σ dy · min(x, 0). (prelu_layer.cpp)"""

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) < 2 or (len(bottoms[0]) > 4 and not self.is_forks):
            raise self.error(f"expected a bottom of 2 to 4 axes (N, C, …), found shape {bottoms[0]}")
        return (bottoms[0],)

    filler_fields: ClassVar[Mapping[str, str]] = {"prelu_param.filler": "slope"}

    def departs(self, bottoms: Sequence[Shape]) -> str:
        return f"its bottom has {len(bottoms[0])} axes, but Caffe expects 2 to 4" if len(bottoms[0]) > 4 else ""

    def nonlinearity(self) -> Nonlinearity:
        proto = self.proto.prelu_param
        filler = to_filler(proto.filler) if proto.HasField("filler") else default_filler("slope")
        if problem(filler, (1,)):
            return activations.RELU
        slope = density(filler, (1,))
        return activations.leaky(slope.mean, slope.mean**2 + slope.variance)

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        proto = self.proto.prelu_param
        shape = () if proto.channel_shared else (bottoms[0][1],)
        return (read_param("slope", shape, proto, "filler", fan_in=1, fan_out=1),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        rank = len(g.shape(bottoms[0]))
        x = g.copy(bottoms[0]) if self.is_in_place() else bottoms[0]  # Caffe keeps a copy
        slope = params[0]
        if not self.proto.prelu_param.channel_shared:
            slope = g.reshape(slope, -1, *(1,) * (rank - 2))
        return (g.emit("PRelu", x, slope),)


@layer("Sigmoid", by_sample=True)
class Sigmoid(Neuron):
    """y = 1 / (1 + e⁻ˣ); dx = dy · y · (1 - y). (sigmoid_layer.cpp)"""

    def nonlinearity(self) -> Nonlinearity:
        return activations.SIGMOID

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            assert dys[0] is not None
            return tape.pull_op("Sigmoid", bottoms[0], tape.stored(y), dys[0])

        (y,) = g.custom_vjp(bottoms[:1], lambda x: [emit_sigmoid(g, x)], backward, "Sigmoid")
        return (y,)


def emit_sigmoid(g: Graph, x: str) -> str:
    """Emit 1 / (1 + e⁻ˣ), exact for very negative x too, where the runtime's Sigmoid rounds to multiples of 6e-8.

    Below 2⁻⁵⁵ it is 0, as in Caffe, which takes it from the tanh in double precision.
    """
    y = g.emit("Reciprocal", g.emit("Add", g.emit("Exp", g.emit("Neg", x)), g.constant(1)))
    return g.emit("Relu", g.emit("Sub", y, g.constant(2.0**-55)))


@layer("TanH", by_sample=True)
class TanH(Neuron):
    """y = tanh(x); dx = dy · (1 - y²). (tanh_layer.cpp)"""

    def nonlinearity(self) -> Nonlinearity:
        return activations.TANH

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_pulled(g, "Tanh", bottoms[0], TOP),)


@layer("ELU", by_sample=True)
class ELU(Neuron):
    """y = x if x > 0 else α(eˣ - 1); dx = dy · (1 if x > 0 else α + y). (elu_layer.cpp)"""

    def nonlinearity(self) -> Nonlinearity:
        return activations.elu(self.proto.elu_param.alpha)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        alpha = self.proto.elu_param.alpha

        def gradient(tape: Tape, bottom: str, top: str, dy: str) -> str:
            positive = tape.emit("Greater", bottom, tape.constant(0))
            slope = tape.emit("Add", top, tape.constant(alpha))
            return tape.emit("Where", positive, dy, tape.emit("Mul", dy, slope))

        return (emit_reread(g, bottoms[0], lambda x: g.emit("Elu", x, alpha=alpha), gradient),)


@layer("Dropout", by_sample=True)
class Dropout(Neuron):
    """TRAIN: y = x · mask / (1 - dropout_ratio), each mask bit 1 with probability 1 - dropout_ratio; TEST: y = x.
    (dropout_layer.cpp)"""

    passes_signal = True

    @property
    def settings(self) -> Any:
        """The message that holds dropout_ratio."""
        return self.proto.dropout_param

    @property
    def drops(self) -> bool:
        """Whether a mask is drawn."""
        return self.phase == TRAIN

    @property
    def keep(self) -> float:
        """The probability of a mask bit."""
        return 1.0 - float(np.float32(self.settings.dropout_ratio))

    @property
    def factor(self) -> float:
        """What the bits of the mask are multiplied by."""
        return 1 / self.keep

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        ratio = self.settings.dropout_ratio
        if self.drops and not 0 <= ratio < 1:
            raise self.error(f"expected a dropout_ratio of at least 0 and below 1, found {ratio:g}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if not self.drops:
            return (bottoms[0],)
        mask = g.input(f"{self.name}/mask", g.shape(bottoms[0]))
        return (g.emit("Mul", bottoms[0], mask),)

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        if not self.drops:
            return ()
        bits = bernoulli(stream, int(np.prod(bottoms[0])), self.keep, np.float64)
        return ((bits * np.float32(self.factor)).reshape(bottoms[0]),)

    def drawn_by(self, bottoms: Sequence[Shape]) -> Hashable:
        return self.drops, self.keep, self.factor, math.prod(bottoms[0])


@layer("AbsVal", by_sample=True)
class AbsVal(Neuron):
    """y = |x|; dx = dy · sign(x). Never in place. (absval_layer.cpp)"""

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_pulled(g, "Abs", bottoms[0], BOTTOM),)


@layer("BNLL", by_sample=True)
class BNLL(Neuron):
    """y = log(1 + eˣ); dx = dy · σ(x). (bnll_layer.cpp)"""

    def nonlinearity(self) -> Nonlinearity:
        return activations.SOFTPLUS

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        def forward(x: str) -> Sequence[str]:
            # in double precision, as in Caffe, 1 + eˣ is 1 where eˣ is below 2⁻⁵³
            return [g.emit("Relu", g.emit("Sub", g.emit("Softplus", x), g.constant(2.0**-53)))]

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            return [tape.emit("Mul", dys[0] or "", tape.emit("Sigmoid", tape.stored(bottoms[0])))]

        return g.custom_vjp(bottoms, forward, backward, "Softplus")


@layer("Clip", by_sample=True)
class Clip(Neuron):
    """y = max(min, min(x, max)); dx = dy where min ≤ x ≤ max, else 0. (clip_layer.cpp)

    Of an x that is not a number y is min.
    """

    def nonlinearity(self) -> Nonlinearity:
        return activations.clip(self.proto.clip_param.min, self.proto.clip_param.max)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        proto = self.proto.clip_param
        low, high = g.constant(proto.min), g.constant(proto.max)
        above = g.constant(max(proto.min, proto.max))  # with min > max, Caffe gives min and ONNX max

        def gradient(tape: Tape, bottom: str, top: str, dy: str) -> str:
            inside = tape.emit("And", tape.emit("GreaterOrEqual", bottom, low), tape.emit("LessOrEqual", bottom, high))
            return str(tape.emit("Mul", dy, tape.emit("Cast", inside, to=FLOAT)))  # of an infinite dy not a number

        def forward(x: str) -> str:
            y = g.emit("Clip", x, low, above)
            return g.emit("Where", g.emit("GreaterOrEqual", x, low), y, low) if g.is_strict else y

        return (emit_reread(g, bottoms[0], forward, gradient),)


def scaled(g: Any, value: str, factor: float) -> str:
    """Emit factor · value; nothing for 1."""
    return value if factor == 1 else str(g.emit("Mul", value, g.constant(factor)))


def shifted(g: Any, value: str, shift: float) -> str:
    """Emit value + shift; nothing for 0."""
    return value if shift == 0 else str(g.emit("Add", value, g.constant(shift)))


def log_of_base(layer: Layer, base: float) -> float:
    """Return log(base), where -1 stands for e. Raises NetError unless it is finite."""
    if base != -1 and not 0 < base < math.inf:
        raise layer.error(f"expected a positive base, or -1 for e, found {base:g}")
    return 1.0 if base == -1 else math.log(base)


@layer("Exp", by_sample=True)
class Exp(Neuron):
    """y = base^(shift + scale·x), base -1 standing for e; dx = dy · y · scale · log(base). (exp_layer.cpp)"""

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        log_of_base(self, self.proto.exp_param.base)
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        proto = self.proto.exp_param
        log_base = log_of_base(self, proto.base)
        inner, outer = log_base * proto.scale, math.exp(log_base * proto.shift)

        def gradient(tape: Tape, bottom: str, top: str, dy: str) -> str:
            return scaled(tape, tape.emit("Mul", top, dy), inner)

        return (emit_reread(g, bottoms[0], lambda x: scaled(g, g.emit("Exp", scaled(g, x, inner)), outer), gradient),)


@layer("Log", by_sample=True)
class Log(Neuron):
    """y = log_base(shift + scale·x), base -1 standing for e; dx = dy · scale / (log(base) · (shift + scale·x)).
    (log_layer.cpp)"""

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if log_of_base(self, self.proto.log_param.base) == 0:
            raise self.error("expected a base other than 1, whose logarithm is 0")
        return (bottoms[0],)

    @property
    def ignores_dy(self) -> bool:
        return self.is_in_place()

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        proto = self.proto.log_param
        log_base = log_of_base(self, proto.base)

        def forward(x: str) -> str:
            return scaled(g, g.emit("Log", shifted(g, scaled(g, x, proto.scale), proto.shift)), 1 / log_base)

        def gradient(tape: Tape, bottom: str, top: str, dy: str) -> str:
            inner = shifted(tape, scaled(tape, bottom, proto.scale), proto.shift)
            if not self.is_in_place():
                return str(tape.emit("Div", scaled(tape, dy, proto.scale / log_base), inner))
            slope = tape.emit("Div", tape.constant(proto.scale / log_base), inner)
            return str(tape.emit("Mul", slope, slope))  # Caffe writes the slope over dy before it multiplies the two

        return (emit_reread(g, bottoms[0], forward, gradient),)


@layer("Power", by_sample=True)
class Power(Neuron):
    """y = (shift + scale·x)^power; dx = dy · power · scale · (shift + scale·x)^(power - 1). (power_layer.cpp)

    For a power other than 1 and 2 Caffe takes the last factor from y / (shift + scale·x): not a number at 0 / 0. In
    place it writes the slope over dy before it multiplies the two: dx is the slope's square, whatever dy is.
    """

    @property
    def ignores_dy(self) -> bool:
        return self.is_in_place()

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (emit_reread(g, bottoms[0], lambda x: self.forward(g, x), self.gradient),)

    def forward(self, g: Graph, x: str) -> str:
        """Emit y, which does not depend on x when power or scale is 0."""
        proto = self.proto.power_param
        if proto.power * proto.scale == 0:
            value = 1.0 if proto.power == 0 else np.power(np.float32(proto.shift), np.float32(proto.power))
            return g.emit("Expand", g.constant(value), g.ints(*g.shape(x)))
        inner = shifted(g, scaled(g, x, proto.scale), proto.shift)
        return inner if proto.power == 1 else g.emit("Pow", inner, g.constant(proto.power))

    def gradient(self, tape: Tape, bottom: str, top: str, dy: str) -> str:
        """Emit dx from what bottom and top hold in the end."""
        proto = self.proto.power_param
        if proto.power * proto.scale == 0:
            return scaled(tape, dy, 0)
        slope = self.slope(tape, bottom, top)
        if self.is_in_place():
            dy = slope = tape.emit("Expand", slope, tape.ints(*tape.shape(bottom)))
        return str(tape.emit("Mul", dy, slope))

    def slope(self, tape: Tape, bottom: str, top: str) -> str:
        """Emit dy/dx, as one number where it is the same everywhere."""
        proto = self.proto.power_param
        factor = proto.power * proto.scale
        if proto.power == 1:
            return str(tape.constant(factor))
        inner = shifted(tape, scaled(tape, bottom, proto.scale), proto.shift)
        return scaled(tape, inner if proto.power == 2 else tape.emit("Div", top, inner), factor)


@layer("Swish", by_sample=True)
class Swish(Neuron):
    """y = x · σ(βx); dx = dy · (βy + s · (1 - βy)) with s = σ(βx), the brackets in double precision. (swish_layer.cpp)

    In float32 it is written as s + βy · (1 - s), from which nothing cancels where s is 1.
    """

    def nonlinearity(self) -> Nonlinearity:
        return activations.swish(self.proto.swish_param.beta)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        beta = self.proto.swish_param.beta
        gates: list[str] = []  # σ(βx), which Caffe keeps a copy of

        def forward(x: str) -> str:
            gates.append(emit_sigmoid(g, scaled(g, x, beta)))
            return g.emit("Mul", x, gates[0])

        def gradient(tape: Tape, bottom: str, top: str, dy: str) -> str:
            rest = tape.emit("Mul", scaled(tape, top, beta), tape.emit("Sub", tape.constant(1), gates[0]))
            return str(tape.emit("Mul", dy, tape.emit("Add", gates[0], rest)))

        return (emit_reread(g, bottoms[0], forward, gradient),)


@layer("Threshold", by_sample=True)
class Threshold(Neuron):
    """y = 1 if x > threshold else 0; no gradient. (threshold_layer.cpp)"""

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return True

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        bound = g.constant(self.proto.threshold_param.threshold)
        return without_gradient(g, bottoms, lambda x: (g.emit("Cast", g.emit("Greater", x, bound), to=FLOAT),))
