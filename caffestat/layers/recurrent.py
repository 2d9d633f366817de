"""Recurrent layers: Caffe unrolls each into a net of inner products, one per timestep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.fillers import Stream, fill
from caffestat.lazy import np
from caffestat.schema import NetParameter, ParamSpec

from .base import Layer, Param, Shape, Unrolled, layer, read_param

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["LSTM", "RNN", "LSTMUnit", "Recurrent"]


class Recurrent(Layer):
    """What LSTM and RNN share: bottoms x [T, N, …], cont [T, N], optionally static [N, …], and the exposed state.

    Without expose_hidden the state starts at zero, and each pass begins where the one before ended. With it, Caffe
    takes the first state from bottoms and gives the last as tops, and passes no gradient through either.
    (recurrent_layer.cpp)
    """

    num_bottoms = (2, None)
    num_tops = (1, None)
    is_recurrent = True
    filler_fields: ClassVar[Mapping[str, str]] = {
        "recurrent_param.weight_filler": "weight",
        "recurrent_param.bias_filler": "bias",
    }
    first_states: ClassVar[tuple[str, ...]]  # blobs that a timestep hands to the next, before the first
    output: ClassVar[str]  # the blob that is the top
    gates: ClassVar[int]  # hidden vectors that the products give: num_output times this
    shares_diff = True
    keeps_blobs = False  # the unrolled net draws all the same
    keeps_drawn = True
    writes_all_diffs = True

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return needed[1]

    @property
    def param(self) -> Any:
        return self.proto.recurrent_param

    def exposed(self) -> int:
        """Return how many state blobs come in as bottoms and go out as tops."""
        return len(self.first_states) if self.param.expose_hidden else 0

    def has_static(self, bottoms: Sequence[Any]) -> bool:
        return len(bottoms) > 2 + self.exposed()

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()  # Caffe gives the top the memory of the unrolled net
        self.check(bottoms)
        steps, streams, size = *bottoms[0][:2], self.param.num_output
        return ((steps, streams, size), *((1, streams, size),) * self.exposed())

    def check(self, bottoms: Sequence[Shape]) -> None:
        """Raise NetError for bottoms that do not fit each other."""
        exposed, size = self.exposed(), self.param.num_output
        if size == 0:
            raise self.error("num_output must be positive; found 0 or none")
        if not 0 <= len(bottoms) - 2 - exposed <= 1 or self.top_count != 1 + exposed:
            expected = f"{2 + exposed} bottoms (one more with a static input) and {1 + exposed} tops"
            raise self.error(f"takes {expected}; found {len(bottoms)} and {self.top_count}")
        x, cont, *others = bottoms
        if len(x) < 3:
            raise self.error(f"expected a bottom 0 of at least 3 axes (timesteps, streams, …), found shape {x}")
        if cont != x[:2]:
            raise self.error(
                f"bottom 1, the continuation marks, must have shape {x[:2]} (timesteps, streams); found {cont}"
            )
        if self.has_static(bottoms) and (len(others[0]) < 2 or others[0][0] != x[1]):
            raise self.error(f"bottom 2, the static input, must have shape ({x[1]}, …) (streams, …); found {others[0]}")
        for shape in others[len(others) - exposed :]:
            if shape != (1, x[1], size):
                raise self.error(f"the first state must have shape {(1, x[1], size)}; found {shape}")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom == 1 else None

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        return np.ones(values.shape, bool)  # the state is multiplied by any cont

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom != 1

    def weight(self, inputs: int, outputs: int) -> Param:
        return read_param("weight", (outputs, inputs), self.param, "weight_filler", inputs, outputs)

    def bias(self, size: int) -> Param:
        return read_param("bias", (size,), self.param, "bias_filler", 1, 1)

    def input_params(self, bottoms: Sequence[Shape]) -> list[Param]:
        """Return the params of the products with the inputs, which stand before the timesteps'."""
        outputs = self.gates * self.param.num_output
        params = [self.weight(prod(bottoms[0][2:]), outputs), self.bias(outputs)]
        return [*params, self.weight(prod(bottoms[2][1:]), outputs)] if self.has_static(bottoms) else params

    def step_params(self) -> list[Param]:
        """Return the params that each timestep uses."""
        raise NotImplementedError

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        return (*self.input_params(bottoms), *self.step_params())

    def draw_params(self, stream: Stream, params: Sequence[Param], bottoms: Sequence[Shape]) -> list[np.ndarray]:
        """Fill the params, those of the timesteps once for each: a copy that is only shared draws as well."""
        values = super().draw_params(stream, params, bottoms)
        for _ in range(bottoms[0][0] - 1):
            for param in params[len(params) - len(self.step_params()) :]:
                fill(stream, param.filler, param.shape)
        return values

    def macs(self, bottoms: Sequence[Shape]) -> int:
        (steps, streams, *_), inputs = bottoms[0], self.input_params(bottoms)
        each_step = sum(prod(p.shape) for p in (inputs[0], *self.step_params()) if p.role == "weight")
        return streams * (steps * each_step + sum(prod(p.shape) for p in inputs[2:]))

    def unrolled(self, bottoms: Sequence[Shape]) -> Unrolled:
        self.check(bottoms)
        steps, streams = bottoms[0][:2]
        state = (1, streams, self.param.num_output)
        inputs = {"x": bottoms[0], "cont": bottoms[1]} | ({"x_static": bottoms[2]} if self.has_static(bottoms) else {})
        net = NetParameter(name=self.name)
        add_input(net, inputs)
        add_input(net, dict.fromkeys(reversed(self.first_states), state))
        self.unroll(net, steps, "x_static" in inputs)
        for inner in net.layer if self.name else ():
            inner.name = f"{self.name}_{inner.name}"
        net.layer.add(
            name=f"{self.output}_pseudoloss",
            type="Reduction",
            bottom=[self.output],
            top=[f"{self.output}_pseudoloss"],
            loss_weight=[1],
        )
        exposed = list(self.first_states) if self.exposed() else []
        pairs = dict(zip(self.first_states, self.last_states(steps), strict=True))
        return Unrolled(net, [*inputs, *exposed], [self.output], pairs, bool(exposed), bool(self.param.debug_info))

    def unroll(self, net: Any, steps: int, has_static: bool) -> None:
        """Add the layers that compute the output from x, cont and the first states. (FillUnrolledNet)"""
        raise NotImplementedError

    def last_states(self, steps: int) -> tuple[str, ...]:
        """Return the blobs that hold the states after the last timestep."""
        raise NotImplementedError

    def add_product(
        self, net: Any, name: str, bottom: str, top: str, params: Sequence[str], axis: int = 2, width: int = 1
    ) -> None:
        """Add an inner product of `width` times num_output; with two params it has a bias."""
        made = net.layer.add(name=name, type="InnerProduct", bottom=[bottom], top=[top])
        made.param.extend(ParamSpec(name=param) for param in params)
        product = made.inner_product_param
        product.num_output, product.axis, product.bias_term = width * self.param.num_output, axis, len(params) > 1
        product.weight_filler.CopyFrom(self.param.weight_filler)
        if product.bias_term:
            product.bias_filler.CopyFrom(self.param.bias_filler)

    def add_inputs(self, net: Any, steps: int, has_static: bool, weight: str, bias: str, width: int) -> None:
        """Add the products with the inputs of all timesteps, and their slices."""
        transformed = f"{weight}_x"
        self.add_product(net, "x_transform", "x", transformed, (weight, bias), width=width)
        net.layer[-1].propagate_down.append(True)
        if has_static:
            static = f"{transformed}_static"
            self.add_product(net, static, "x_static", f"{static}_preshape", (f"{weight}_static",), 1, width)
            net.layer[-1].propagate_down.append(True)
            reshape = net.layer.add(name=f"{static}_reshape", type="Reshape", bottom=[f"{static}_preshape"])
            reshape.top.append(static)
            reshape.reshape_param.shape.dim.extend([1, -1, width * self.param.num_output])
        add_slice(net, f"{transformed}_slice", transformed, [f"{transformed}_{t}" for t in range(1, steps + 1)])


def add_input(net: Any, shapes: Mapping[str, Shape]) -> None:
    made = net.layer.add(type="Input", top=list(shapes))
    for shape in shapes.values():
        made.input_param.shape.add().dim.extend(shape)


def add_slice(net: Any, name: str, bottom: str, tops: Sequence[str]) -> None:
    net.layer.add(name=name, type="Slice", bottom=[bottom], top=list(tops)).slice_param.axis = 0


def add_marked(net: Any, step: int) -> None:
    """Add the layer that flushes the state where a sequence begins: cont_t * h_{t-1}."""
    name = f"h_conted_{step - 1}"
    made = net.layer.add(name=name, type="Scale", bottom=[f"h_{step - 1}", f"cont_{step}"], top=[name])
    made.scale_param.axis = 0


@layer("RNN")
class RNN(Recurrent):
    """h = tanh(W_hh·(cont · h') + W_xh·x + b_h), top o = tanh(W_ho·h + b_o), h' being h one timestep before.

    A static input s adds W_s·s to each timestep. Params: W_xh, b_h, W_s if any, W_hh, W_ho, b_o. (rnn_layer.cpp)
    """

    first_states = ("h_0",)
    output = "o"
    gates = 1

    def step_params(self) -> list[Param]:
        size = self.param.num_output
        return [self.weight(size, size), self.weight(size, size), self.bias(size)]

    def last_states(self, steps: int) -> tuple[str, ...]:
        return (f"h_{steps}",)

    def unroll(self, net: Any, steps: int, has_static: bool) -> None:
        add_slice(net, "cont_slice", "cont", [f"cont_{t}" for t in range(1, steps + 1)])
        self.add_inputs(net, steps, has_static, "W_xh", "b_h", 1)
        for t in range(1, steps + 1):
            add_marked(net, t)
            self.add_product(net, f"W_hh_h_{t - 1}", f"h_conted_{t - 1}", f"W_hh_h_{t - 1}", ("W_hh",))
            terms = [f"W_hh_h_{t - 1}", f"W_xh_x_{t}", *["W_xh_x_static"] * has_static]
            net.layer.add(name=f"h_input_sum_{t}", type="Eltwise", bottom=terms, top=[f"h_neuron_input_{t}"])
            net.layer.add(name=f"h_neuron_{t}", type="TanH", bottom=[f"h_neuron_input_{t}"], top=[f"h_{t}"])
            self.add_product(net, f"W_ho_h_{t}", f"h_{t}", f"W_ho_h_{t}", ("W_ho", "b_o"))
            net.layer.add(name=f"o_neuron_{t}", type="TanH", bottom=[f"W_ho_h_{t}"], top=[f"o_{t}"])
        outputs = [f"o_{t}" for t in range(1, steps + 1)]
        net.layer.add(name="o_concat", type="Concat", bottom=outputs, top=["o"]).concat_param.axis = 0


@layer("LSTM")
class LSTM(Recurrent):
    """(i, f, o, g) = W_hc·(cont · h') + W_xc·x + b_c, then LSTMUnit gives c and the top h; h' is h one timestep before.

    A static input s adds W_s·s to each timestep. Params: W_xc, b_c, W_s if any, W_hc. (lstm_layer.cpp)
    """

    first_states = ("h_0", "c_0")
    output = "h"
    gates = 4

    def step_params(self) -> list[Param]:
        size = self.param.num_output
        return [self.weight(size, 4 * size)]

    def last_states(self, steps: int) -> tuple[str, ...]:
        return f"h_{steps}", "c_T"

    def unroll(self, net: Any, steps: int, has_static: bool) -> None:
        add_slice(net, "cont_slice", "cont", [f"cont_{t}" for t in range(1, steps + 1)])
        self.add_inputs(net, steps, has_static, "W_xc", "b_c", 4)
        for t in range(1, steps + 1):
            add_marked(net, t)
            self.add_product(net, f"transform_{t}", f"h_conted_{t - 1}", f"W_hc_h_{t - 1}", ("W_hc",), width=4)
            terms = [f"W_hc_h_{t - 1}", f"W_xc_x_{t}", *["W_xc_x_static"] * has_static]
            net.layer.add(name=f"gate_input_{t}", type="Eltwise", bottom=terms, top=[f"gate_input_{t}"])
            unit = [f"c_{t - 1}", f"gate_input_{t}", f"cont_{t}"]
            net.layer.add(name=f"unit_{t}", type="LSTMUnit", bottom=unit, top=[f"c_{t}", f"h_{t}"])
        net.layer.add(type="Split", bottom=[f"c_{steps}"], top=["c_T"])
        hidden = [f"h_{t}" for t in range(1, steps + 1)]
        net.layer.add(name="h_concat", type="Concat", bottom=hidden, top=["h"]).concat_param.axis = 0


@layer("LSTMUnit")
class LSTMUnit(Layer):
    """c = cont · σ(f) · c' + σ(i) · tanh(g), h = σ(o) · tanh(c), with i, f, o, g the quarters of bottom 1.

    Bottoms c' [1, N, D], gates [1, N, 4 D], cont [1, N]; tops c and h [1, N, D]. (lstm_unit_layer.cpp)
    """

    num_bottoms = (3, 3)
    num_tops = (2, 2)

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return needed[2]

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        cell, gates, cont = bottoms
        expected = f"(1, N, D), (1, N, 4 D) and (1, N); found {cell}, {gates} and {cont}"
        if len(cell) != 3 or cell[0] != 1 or gates != (*cell[:2], 4 * cell[2]) or cont != cell[:2]:
            raise self.error(f"expected bottoms of shapes {expected}")
        return (cell, cell)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        cell, gates, cont = bottoms
        return emit_unit(g, cell, gates, g.reshape(g.detach(cont), *g.shape(cont), 1))

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom == 2 else None

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        return np.ones(values.shape, bool)  # the state is multiplied by any cont

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom != 2


def emit_unit(g: Graph, before: str, gates: str, cont: str) -> Sequence[str]:
    """Emit (c, h) from the cell before, the gates' inputs and cont [N, 1].

    Caffe's forget gate f holds cont already, also in its gradient f · (1 - f): the derivative where cont is 0 or 1.
    """
    inner: dict[str, str] = {}

    def forward(before: str, gates: str) -> Sequence[str]:
        inner.update(_emit_gates(g, gates, cont))
        kept = g.emit("Mul", inner["f"], before)
        cell = g.emit("Add", kept, g.emit("Mul", inner["i"], inner["g"]))
        return [g.declare(v, g.shape(before)) for v in (cell, g.emit("Mul", inner["o"], g.emit("Tanh", cell)))]

    def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
        # Caffe computes the gates once more, from what an in-place layer may have written over their inputs
        held = tape.stored(gates)
        at = inner if held == gates else _emit_gates(tape.graph, held, cont)
        dh = dys[1] or tape.zeros_like(hidden)
        squashed = tape.emit("Tanh", tape.stored(cell))
        through = tape.emit("Mul", tape.emit("Mul", dh, at["o"]), tanh_slope(tape, squashed))
        dc = tape.emit("Add", through, dys[0]) if dys[0] else through
        sides = {"i": (dc, at["g"]), "f": (dc, tape.stored(before)), "o": (dh, squashed)}
        parts = [_gate_grad(tape, *sides[gate], at[gate]) for gate in "ifo"]
        inward = tape.emit("Mul", tape.emit("Mul", dc, at["i"]), tanh_slope(tape, at["g"]))
        return [tape.emit("Mul", dc, at["f"]), tape.emit("Concat", *parts, inward, axis=-1)]

    cell, hidden = g.custom_vjp([before, gates], forward, backward)
    return cell, hidden


def _emit_gates(g: Graph, inputs: str, cont: str) -> dict[str, str]:
    """Emit the gates i, cont · f, o and g from the quarters of their inputs."""
    i, f, o, g_ = g.emit_many("Split", inputs, count=4, axis=-1, num_outputs=4)
    i, f, o = (g.emit("Sigmoid", value) for value in (i, f, o))
    return {"i": i, "f": g.emit("Mul", f, cont), "o": o, "g": g.emit("Tanh", g_)}


def tanh_slope(g: Graph | Tape, y: str) -> str:
    """Emit 1 - y²."""
    return g.emit("Sub", g.constant(1), g.emit("Mul", y, y))


def gate_slope(g: Graph | Tape, y: str) -> str:
    """Emit y · (1 - y)."""
    return g.emit("Mul", y, g.emit("Sub", g.constant(1), y))


def _gate_grad(tape: Tape, dy: str, factor: str, gate: str) -> str:
    """Emit dy · factor · s · (1 - s), s being a gate that multiplies `factor`."""
    return tape.emit("Mul", tape.emit("Mul", dy, factor), gate_slope(tape, gate))
