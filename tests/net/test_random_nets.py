"""Random nets over all layer types: shapes, lowering, and gradients against finite differences."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

from caffestat import net
from caffestat.analysis import Runner, draw_feeds
from caffestat.fillers import Stream
from caffestat.layers import layer_types
from caffestat.net.source import net_source
from caffestat.program import Forward, from_net
from caffestat.program.gradients import Gradients, differentiate
from caffestat.prototext import parse

from .random_nets import DIFFERENTIABLE, random_net

NETS = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
FROM_FILES = {"Data", "HDF5Data", "HDF5Output", "ImageData", "MemoryData", "Python", "WindowData"}

Arrays = dict[str, np.ndarray]


def build(text: str) -> net.Net:
    return net.build(net_source(parse(text.encode(), "random")))


def run(built: net.Net, seed: int) -> Runner:
    stream = Stream(seed)
    runner = Runner(from_net(built), net.draw_params(built, stream), fetch=True)
    runner.run(draw_feeds(runner, stream, np.random.default_rng(seed)))
    return runner


@settings(NETS, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 14))
def test_what_is_built_runs(seed, layers):
    """The graph is valid ONNX, and every tensor has the shape that building the net gave it."""
    built = build(random_net(Random(seed), layers))
    runner = run(built, seed % 1000)
    graph = runner.forward.graph
    graph.infer()
    # an output without a type is not valid ONNX, and none is known behind the runtime's own ops
    graph.outputs = [name for name in graph.outputs if name in graph.specs]
    onnx.checker.check_model(graph.to_onnx({name: np.zeros(p.shape, np.float32) for name, p in graph.params.items()}))
    for (kind, node, index), tensor in runner.tensors.items():
        layer = built.nodes[node]
        param = built.params[layer.params[index]] if kind == "param_diff" else None
        owner = built.params[param.owner] if param and param.owner is not None else param
        expected = {"top": layer.top_shapes, "bottom_diff": layer.bottom_shapes}.get(kind)
        assert tensor.shape == (owner.param.shape if owner else expected[index]), (layer.name, kind, index)
        assert tensor.dtype == np.float32
    assert {key[1:] for key in runner.tensors if key[0] == "top"} == {
        (node.index, index) for node in built.nodes for index in range(len(node.tops))
    }


def test_all_types_occur():
    """Of the types that need no files, those that a few hundred nets lack are plainly not generated."""
    texts = "".join(random_net(Random(seed)) for seed in range(150))
    known = {name for name in layer_types() if type_is_caffes(name)}
    assert {name for name in known if f'type: "{name}"' not in texts} <= FROM_FILES


def type_is_caffes(name: str) -> bool:
    from caffestat.layers import layer_class

    cls = layer_class(name)
    return cls is not None and not cls.read_as and ".forks" not in cls.__module__


# ---- gradients -------------------------------------------------------------------------------------------------------


class Function:
    """A net's loss and its gradient, as functions of the params' values; in double precision where kernels exist."""

    def __init__(self, text: str, seed: int) -> None:
        built = build(text)
        program = from_net(built)
        forward, stream = program.forward(), Stream(seed)
        values = net.draw_params(built, stream)
        # away from where the fillers leave them: at 0 many functions have a kink
        shift = np.random.default_rng(seed)
        self.params: Arrays = {
            name: values[number] + 0.05 * shift.standard_normal(values[number].shape)
            for number, name in forward.params.items()
        }
        runner = SimpleNamespace(forward=forward)
        self.feeds: Arrays = draw_feeds(runner, stream, np.random.default_rng(seed))
        self.names = self.emit(built, forward, differentiate(program, forward))
        model = forward.graph.to_onnx()
        try:
            self.session, self.dtype = session(in_double(model)), np.float64
        except (state.NotImplemented, state.InvalidGraph, state.Fail):
            self.session, self.dtype = session(model), np.float32

    def emit(self, built: net.Net, forward: Forward, gradients: Gradients) -> list[str]:
        """Emit the loss and the gradients as outputs, take params for inputs, and return those with a gradient."""
        g = forward.graph
        parts = []
        for node in built.nodes:
            for top, weight in enumerate(node.loss_weights):
                if weight:
                    total = g.emit("ReduceSum", g.reshape(forward.tops[node.index, top], -1), keepdims=0)
                    parts.append(g.emit("Mul", total, g.constant(weight)))
        found = {forward.params[number]: diff for number, diff in gradients.owners.items() if diff}
        g.inputs.update(g.params)
        g.params.clear()
        g.outputs = [g.emit("Identity", value) for value in (g.emit("Sum", *parts), *found.values())]
        g.infer()
        return list(found)

    def __call__(self, params: Arrays) -> tuple[float, Arrays]:
        feeds = {name: np.asarray(array, self.dtype) for name, array in (self.feeds | params).items()}
        wanted = {node.name for node in self.session.get_inputs()}
        loss, *grads = self.session.run(None, {name: array for name, array in feeds.items() if name in wanted})
        return float(loss), dict(zip(self.names, grads, strict=True))

    def slope(self, direction: Arrays, step: float) -> float:
        """Return (f(x + h·v) - f(x - h·v)) / 2h."""
        ends = [self({n: x + sign * step * direction.get(n, 0) for n, x in self.params.items()})[0] for sign in (1, -1)]
        return (ends[0] - ends[1]) / (2 * step)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # few runs of small nets
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with float64 wherever it has float32."""
    double = onnx.ModelProto()
    double.CopyFrom(model)
    graph = double.graph
    del graph.value_info[:]
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.DOUBLE
    return double


def norm(arrays: Mapping[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(array, dtype=np.float64).sum() for array in arrays.values())))


def is_conclusive(function: Function, loss: float, grads: Arrays, seed: int) -> bool:
    """Compare one directional derivative; tell whether rounding and kinks leave differences to judge by."""
    rng = np.random.default_rng(seed)
    noise = {name: rng.standard_normal(grad.shape) for name, grad in grads.items()}
    size, noise_size = norm(grads), norm(noise)
    if not np.isfinite(size) or size == 0:
        return False
    # half along the gradient itself, where single precision tells the difference from rounding
    direction = {name: grad / size + noise[name] / noise_size for name, grad in grads.items()}
    step, tolerance, rounding = (1e-6, 1e-4, 1e-15) if function.dtype == np.float64 else (3e-4, 2e-2, 3e-7)
    near, far = (function.slope(direction, h) for h in (step, 4 * step))
    expected = sum(float(np.vdot(grad, direction[name])) for name, grad in grads.items())
    is_lost = rounding * abs(loss) > tolerance / 4 * abs(expected) * step
    if is_lost or not abs(near - far) <= tolerance / 2 * abs(near):
        return False
    assert abs(near - expected) <= tolerance * abs(expected), f"{near} by differences, {expected} by the gradient"
    return True


CONCLUSIVE: list[bool] = []


@settings(NETS, max_examples=200)
@given(st.integers(0, 2**32 - 1), st.integers(1, 10))
def check_gradients(seed, layers):
    function = Function(random_net(Random(seed), layers, DIFFERENTIABLE, tricks=False), seed % 1000)
    if function.names:
        loss, grads = function(function.params)
        CONCLUSIVE.append(is_conclusive(function, loss, grads, seed % 1000))


def test_gradients_are_those_of_the_loss():
    check_gradients()
    assert len(CONCLUSIVE) > 100
    assert np.mean(CONCLUSIVE) > 0.5
