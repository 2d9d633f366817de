"""LSTM with convolutions in place of products. (Shi et al. 2015, Convolutional LSTM Network)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.fillers import Filler, Stream
from caffestat.lazy import np
from caffestat.schema import NetParameter, ParamSpec
from caffestat.schema.forks import sequences_pb2

from ..base import Layer, Param, Shape, Unrolled, layer, read_param
from ..recurrent import Recurrent, add_input, add_marked, add_slice, emit_unit

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["ConvLSTM", "ConvLSTMReLU", "ConvLSTMReLUUnit", "ConvLSTMUnit"]

PEEPHOLES = ("input", "forget", "output")


@layer("ConvLSTM", dialect="wta")
class ConvLSTM(Recurrent):
    """LSTM of maps x [T, N, C, H, W]: both products are convolutions, and each gate but g adds w · c, one w a place.

    Top [T, N, num_output, H, W], cont [T, N]; with expose_hidden the states are bottoms and tops [1, N, num_output, H,
    W], and the gradient passes through them. Of two lstm_conv_param one says type: "input" or "hidden". Params: the
    kernels of x, kernels and bias of h, w of the gates i, f, o (1 at first). lstm_debug_param leaves out w or x.
    (t2mhanh/caffe_convLSTM_WTA, conv_lstm_layer.cpp)
    """

    adds = sequences_pb2.ConvLSTMLayerParameter
    filler_fields: ClassVar[Mapping[str, str]] = {
        "lstm_conv_param.weight_filler": "weight",
        "lstm_conv_param.bias_filler": "bias",
    }
    first_states = ("h_0", "c_0")
    output = "h"
    gates = 4
    unit: ClassVar[str] = "ConvLSTMUnit"

    @property
    def debug(self) -> Any:
        return self.added.lstm_debug_param

    @property
    def has_peepholes(self) -> bool:
        """Whether the gates see the cell."""
        return not self.debug.disable_hadamard

    def conv(self, kind: str) -> Any:
        """Return the convolution of the "input" or the "hidden" maps."""
        found = self.added.lstm_conv_param
        other = {"input": "hidden", "hidden": "input"}[kind]
        return found[1] if found[0].type == other and len(found) > 1 else found[0]

    def state(self, bottoms: Sequence[Shape]) -> Shape:
        """Return the shape of the states."""
        return (1, bottoms[0][1], self.conv("input").num_output, *bottoms[0][3:])

    def check(self, bottoms: Sequence[Shape]) -> None:
        found, exposed = self.added.lstm_conv_param, self.exposed()
        if not 1 <= len(found) <= 2 or len({p.num_output for p in found}) != 1 or not found[0].num_output:
            raise self.error("expected one or two lstm_conv_param of one positive num_output")
        if self.debug.expose or len(bottoms) != 2 + exposed or self.top_count != 1 + exposed:
            expected = f"{2 + exposed} bottoms, {1 + exposed} tops and no `expose`"
            raise self.error(f"expected {expected}; found {len(bottoms)} and {self.top_count}")
        if len(bottoms[0]) != 5 or bottoms[1] != bottoms[0][:2]:
            raise self.error(f"expected bottoms (T, N, C, H, W) and (T, N), found {bottoms[0]} and {bottoms[1]}")
        if any(shape != self.state(bottoms) for shape in bottoms[2:]):
            raise self.error(f"expected states of shape {self.state(bottoms)}, found {bottoms[2]} and {bottoms[3]}")

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        state = self.state(bottoms)
        return ((bottoms[0][0], *state[1:]), *(state,) * self.exposed())

    def kernels(self, kind: str, channels: int) -> Param:
        """Return the weights of a convolution."""
        p = self.conv(kind)
        sides = list(p.kernel_size) * (2 if len(p.kernel_size) == 1 else 1)
        shape = (4 * p.num_output, channels // p.group, *sides)
        return read_param("weight", shape, p, "weight_filler", prod(shape[1:]), shape[0] * prod(sides) // p.group)

    def input_params(self, bottoms: Sequence[Shape]) -> list[Param]:
        return [] if self.debug.ignore_x else [self.kernels("input", bottoms[0][2])]

    def hidden_params(self, state: Shape) -> list[Param]:
        """Return the params that each timestep uses."""
        p = self.conv("hidden")
        bias = [read_param("bias", (4 * p.num_output,), p, "bias_filler", 1, 1)] if p.bias_term else []
        seen = state[self.debug.axis_hadamard :][: self.debug.num_axes_hadamard]
        peephole = Param("scale", seen, Filler(value=1.0), False, 1, 1)
        return [self.kernels("hidden", p.num_output), *bias, *[peephole] * (3 * self.has_peepholes)]

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        return (*self.input_params(bottoms), *self.hidden_params(self.state(bottoms)))

    def draw_params(self, stream: Stream, params: Sequence[Param], bottoms: Sequence[Shape]) -> list[np.ndarray]:
        """Fill the params, those of the timesteps once for each: a copy that is only shared draws as well."""
        values = Layer.draw_params(self, stream, params, bottoms)
        for _ in range(bottoms[0][0] - 1):
            Layer.draw_params(self, stream, self.hidden_params(self.state(bottoms)), bottoms)
        return values

    def macs(self, bottoms: Sequence[Shape]) -> int:
        kernels = [*self.input_params(bottoms)[:1], self.hidden_params(self.state(bottoms))[0]]
        return prod(bottoms[0][:2]) * prod(bottoms[0][3:]) * sum(prod(param.shape) for param in kernels)

    def unrolled(self, bottoms: Sequence[Shape]) -> Unrolled:
        self.check(bottoms)
        steps, state = bottoms[0][0], self.state(bottoms)
        net = NetParameter(name=self.name)
        add_input(net, {"x": bottoms[0], "cont": bottoms[1]})
        add_input(net, dict.fromkeys(reversed(self.first_states), state))
        self.unroll(net, steps, False)
        for inner in net.layer if self.name else ():
            inner.name = f"{self.name}_{inner.name}"
        for blob in [*["h_T", "c_T"] * bool(self.exposed()), "h"]:
            name = f"{blob}_pseudoloss"
            net.layer.add(name=name, type="Reduction", bottom=[blob], top=[name], loss_weight=[1])
        exposed = list(self.first_states) if self.exposed() else []
        pairs = {"h_0": "h_T", "c_0": "c_T"}
        debug = bool(self.param.debug_info)
        return Unrolled(net, ["x", "cont", *exposed], ["h"], pairs, bool(exposed), debug, passes=True)

    def unroll(self, net: Any, steps: int, has_static: bool) -> None:
        add_slice(net, "cont_slice", "cont", [f"cont_{t}" for t in range(1, steps + 1)])
        if self.debug.ignore_x:
            net.layer.add(name="silence", type="Silence", bottom=["x"])
        else:
            self.add_convolution(net, "input", "x_transform", "x", "x_gates", ("x_transform",))
            add_slice(net, "x_slice", "x_gates", [f"x_gates_{t}" for t in range(1, steps + 1)])
        for t in range(1, steps + 1):
            add_marked(net, t)
            names = ("h_transform", "h_transform_bias")[: 1 + self.conv("hidden").bias_term]
            self.add_convolution(net, "hidden", f"h_transform_{t}", f"h_conted_{t - 1}", f"h_gates_{t}", names)
            terms = [f"h_gates_{t}", *[f"x_gates_{t}"] * (not self.debug.ignore_x)]
            terms += self.add_peepholes(net, t) if self.has_peepholes else []
            gates = terms[0]
            if len(terms) > 1:
                gates = f"gate_input_{t}"
                net.layer.add(name=gates, type="Eltwise", bottom=terms, top=[gates])
            tops = [f"c_{t}", f"h_{t}"]
            net.layer.add(name=f"unit_{t}", type=self.unit, bottom=[f"c_{t - 1}", gates, f"cont_{t}"], top=tops)
        for made in net.layer:  # the reference forces the backward pass to the first states
            if not set(self.first_states).isdisjoint(made.bottom):
                made.propagate_down[:] = ["cont" not in bottom for bottom in made.bottom]
        hidden = [f"h_{t}" for t in range(1, steps + 1)]
        net.layer.add(name="h_concat", type="Concat", bottom=hidden, top=["h"]).concat_param.axis = 0
        for state in "hc":
            net.layer.add(name=f"{state}_last", type="Split", bottom=[f"{state}_{steps}"], top=[f"{state}_T"])

    def add_convolution(self, net: Any, kind: str, name: str, bottom: str, top: str, params: Sequence[str]) -> None:
        p = self.conv(kind)
        made = net.layer.add(name=name, type="Convolution", bottom=[bottom], top=[top], propagate_down=[True])
        made.param.extend(ParamSpec(name=param) for param in params)
        conv = made.convolution_param
        conv.num_output, conv.axis, conv.group, conv.bias_term = 4 * p.num_output, 2, p.group, len(params) > 1
        for field in ("kernel_size", "pad", "stride", "dilation"):
            getattr(conv, field).extend(getattr(p, field))
        conv.weight_filler.CopyFrom(p.weight_filler)
        conv.bias_filler.CopyFrom(p.bias_filler)

    def add_peepholes(self, net: Any, t: int) -> list[str]:
        """Add w · c for the gates i, f, o, and zeros for g, joined; return the blob."""
        parts = []
        for gate in PEEPHOLES:
            parts.append(f"peephole_{gate}_{t}")
            made = net.layer.add(name=parts[-1], type="Scale", bottom=[f"c_{t - 1}"], top=parts[-1:])
            made.param.add(name=f"peephole.{gate}")
            made.scale_param.axis, made.scale_param.num_axes = self.debug.axis_hadamard, self.debug.num_axes_hadamard
        made = net.layer.add(name=f"no_peephole_{t}", type="Power", bottom=[f"c_{t - 1}"], top=[f"no_peephole_{t}"])
        made.power_param.scale = 0
        top = f"peepholes_{t}"
        net.layer.add(name=top, type="Concat", bottom=[*parts, made.top[0]], top=[top]).concat_param.axis = 2
        return [top]


@layer("ConvLSTMReLU", dialect="wta")
class ConvLSTMReLU(ConvLSTM):
    """ConvLSTM with max(x, 0) in place of both tanh. (t2mhanh/caffe_convLSTM_WTA, conv_lstm_relu_layer.cpp)"""

    unit = "ConvLSTMReLUUnit"


@layer("ConvLSTMUnit", dialect="wta")
class ConvLSTMUnit(Layer):
    """LSTMUnit of maps: bottoms c' [1, N, C, H, W], gates [1, N, 4C, H, W], cont [1, N]; tops c and h, like c'.

    (t2mhanh/caffe_convLSTM_WTA, conv_lstm_unit_layer.cpp)
    """

    num_bottoms = (3, 3)
    num_tops = (2, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        cell, gates, cont = bottoms
        if len(cell) != 5 or cell[0] != 1 or gates != (*cell[:2], 4 * cell[2], *cell[3:]) or cont != cell[:2]:
            raise self.error(
                f"expected bottoms (1, N, C, H, W), (1, N, 4 C, H, W), (1, N); found {cell}, {gates}, {cont}"
            )
        return (cell, cell)

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom == 2 else None

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom != 2

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        n, size = shape[1], prod(shape[2:])
        before, gates = g.reshape(bottoms[0], 1, n, size), g.reshape(bottoms[1], 1, n, 4 * size)
        cont = g.reshape(g.detach(bottoms[2]), 1, n, 1)
        return [g.reshape(value, *shape) for value in self.emit(g, before, gates, cont, (1, n, size))]

    def emit(self, g: Graph, before: str, gates: str, cont: str, shape: Shape) -> Sequence[str]:
        """Emit c and h of this shape."""
        return emit_unit(g, before, gates, cont)


@layer("ConvLSTMReLUUnit", dialect="wta")
class ConvLSTMReLUUnit(ConvLSTMUnit):
    """ConvLSTMUnit with max(x, 0) in place of both tanh.

    (t2mhanh/caffe_convLSTM_WTA, conv_lstm_relu_unit_layer.cpp)
    """

    def emit(self, g: Graph, before: str, gates: str, cont: str, shape: Shape) -> Sequence[str]:
        i, f, o, x = g.emit_many("Split", gates, count=4, axis=-1, num_outputs=4)
        i, f, o = (g.emit("Sigmoid", value) for value in (i, f, o))
        kept = g.emit("Mul", g.emit("Mul", f, cont), before)
        cell = g.declare(g.emit("Add", kept, g.emit("Mul", i, g.emit("Relu", x))), shape)
        return cell, g.declare(g.emit("Mul", o, g.emit("Relu", cell)), shape)
