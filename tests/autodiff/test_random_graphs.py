"""Gradients of random graphs, with respect to every value in them, are torch's."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from caffestat.autodiff import backward
from caffestat.graph import Graph

from .support import run

if importlib.util.find_spec("torch") is None:
    pytest.skip("needs torch", allow_module_level=True)

import torch

SHAPES = ((2, 3, 4), (3, 4), (2, 1, 4), (3, 1), (4,), (1,), ())
LARGE = 3.0  # what grows beyond it is squeezed, so that no step makes the next ones flat or infinite

Choose = Callable[[int], int]
Made = tuple[str, Any]

UNARY: dict[str, Callable[[Any], Any]] = {
    "Abs": torch.abs,
    "Cos": torch.cos,
    "Elu": torch.nn.functional.elu,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Gelu": torch.nn.functional.gelu,
    "HardSwish": torch.nn.functional.hardswish,
    "Identity": torch.clone,
    "Mish": torch.nn.functional.mish,
    "Neg": torch.neg,
    "Relu": torch.relu,
    "Selu": torch.selu,
    "Sigmoid": torch.sigmoid,
    "Softplus": torch.nn.functional.softplus,
    "Softsign": torch.nn.functional.softsign,
    "Tanh": torch.tanh,
}
BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "Add": torch.add,
    "Max": torch.maximum,
    "Mean": lambda a, b: (a + b) / 2,
    "Min": torch.minimum,
    "Mul": torch.mul,
    "Sub": torch.sub,
}
REDUCED: dict[str, Callable[[Any, int, bool], Any]] = {
    "ReduceL1": lambda x, axis, keep: x.abs().sum(axis, keep),
    "ReduceL2": lambda x, axis, keep: torch.linalg.vector_norm(x, dim=axis, keepdim=keep),
    "ReduceLogSumExp": lambda x, axis, keep: torch.logsumexp(x, axis, keep),
    "ReduceMax": lambda x, axis, keep: x.amax(axis, keep),
    "ReduceMean": lambda x, axis, keep: x.mean(axis, keep),
    "ReduceMin": lambda x, axis, keep: x.amin(axis, keep),
    "ReduceProd": lambda x, axis, keep: x.prod(axis, keep),
    "ReduceSum": lambda x, axis, keep: x.sum(axis, keep),
    "ReduceSumSquare": lambda x, axis, keep: x.square().sum(axis, keep),
}


class RandomGraph:
    """A graph and the torch tensors of its values, both made step by step from a stream of choices."""

    def __init__(self, choose: Choose) -> None:
        self.choose, self.graph = choose, Graph()
        rng = np.random.default_rng(choose(1000))
        self.values: list[Made] = []
        for shape in (SHAPES[choose(len(SHAPES))] for _ in range(3)):
            array = rng.uniform(-2, 2, shape).astype(np.float32)
            tensor = torch.tensor(array, dtype=torch.float64, requires_grad=True)
            self.values.append((self.graph.input("x", shape), tensor))

    def step(self) -> None:
        made = STEPS[self.choose(len(STEPS))](self, *self.pick())
        if made is None:
            return
        name, tensor = made
        if tensor.numel() and float(tensor.detach().abs().max()) > LARGE:
            name, tensor = self.graph.emit("Tanh", name), torch.tanh(tensor)
        if tensor.numel() < 200:
            self.values.append((name, tensor))

    def pick(self) -> Made:
        return self.values[self.choose(len(self.values))]

    def unary(self, x: str, t: Any) -> Made:
        op = sorted(UNARY)[self.choose(len(UNARY))]
        return self.graph.emit(op, x), UNARY[op](t)

    def binary(self, x: str, t: Any) -> Made | None:
        op = sorted(BINARY)[self.choose(len(BINARY))]
        y, u = self.pick()
        return (self.graph.emit(op, x, y), BINARY[op](t, u)) if _broadcast(t.shape, u.shape) else None

    def quotient(self, x: str, t: Any) -> Made | None:
        y, u = self.pick()
        if not _broadcast(t.shape, u.shape):
            return None
        g = self.graph
        below = g.emit("Add", g.emit("Mul", y, y), g.constant(1))
        return g.emit("Div", x, below), t / (u * u + 1)

    def power(self, x: str, t: Any) -> Made | None:
        y, u = self.pick()
        if not _broadcast(t.shape, u.shape):
            return None
        g = self.graph
        base = g.emit("Add", g.emit("Abs", x), g.constant(0.5))
        return g.emit("Pow", base, g.emit("Tanh", y)), (t.abs() + 0.5) ** torch.tanh(u)

    def where(self, x: str, t: Any) -> Made | None:
        (y, u), (z, v) = self.pick(), self.pick()
        if not _broadcast(t.shape, u.shape, v.shape):
            return None
        return self.graph.emit("Where", self.graph.emit("Greater", x, y), z, x), torch.where(t > u, v, t)

    def reduce(self, x: str, t: Any) -> Made | None:
        if not t.dim():
            return None
        op = sorted(REDUCED)[self.choose(len(REDUCED))]
        axis, keep = self.choose(t.dim()) - t.dim() * self.choose(2), bool(self.choose(2))
        return self.graph.emit(op, x, self.graph.ints(axis), keepdims=int(keep)), REDUCED[op](t, axis, keep)

    def softmax(self, x: str, t: Any) -> Made | None:
        if not t.dim():
            return None
        axis = self.choose(t.dim())
        op, function = (("Softmax", torch.softmax), ("LogSoftmax", torch.log_softmax))[self.choose(2)]
        return self.graph.emit(op, x, axis=axis), function(t, axis)

    def running_sum(self, x: str, t: Any) -> Made | None:
        if not t.dim():
            return None
        axis = self.choose(t.dim())
        return self.graph.emit("CumSum", x, self.graph.constant(axis, np.int64)), t.cumsum(axis)

    def transpose(self, x: str, t: Any) -> Made | None:
        if not t.dim():
            return None
        order = list(range(t.dim()))
        perm = [order.pop(self.choose(len(order))) for _ in range(t.dim())]
        return self.graph.emit("Transpose", x, perm=perm), t.permute(perm)

    def reshape(self, x: str, t: Any) -> Made:
        shape = [[-1], [1, -1], [*t.shape, 1], [1, *t.shape]][self.choose(4)]
        return self.graph.emit("Reshape", x, self.graph.ints(*shape)), t.reshape(shape)

    def slice(self, x: str, t: Any) -> Made | None:
        if not t.dim():
            return None
        axis, step, first = self.choose(t.dim()), 1 + self.choose(2), self.choose(2)
        taken = torch.arange(first, t.shape[axis], step)
        parts = (self.graph.ints(n) for n in (first, 2**31, axis, step))
        return (self.graph.emit("Slice", x, *parts), t.index_select(axis, taken)) if len(taken) else None

    def gather(self, x: str, t: Any) -> Made | None:
        if not t.dim():
            return None
        axis = self.choose(t.dim())
        rows = [self.choose(t.shape[axis]) for _ in range(3)]
        return self.graph.emit("Gather", x, self.graph.ints(*rows), axis=axis), t.index_select(axis, torch.tensor(rows))

    def concat(self, x: str, t: Any) -> Made | None:
        y, u = self.pick()
        if not t.dim() or u.shape != t.shape:
            return None
        axis = self.choose(t.dim())
        return self.graph.emit("Concat", x, y, x, axis=axis), torch.cat([t, u, t], axis)

    def pad(self, x: str, t: Any) -> Made | None:
        if not t.dim():
            return None
        widths = [self.choose(3) - 1 if t.shape[-1] > 1 else 0, self.choose(2)]
        zeros = [0] * (t.dim() - 1)
        pads = self.graph.ints(*zeros, widths[0], *zeros, widths[1])
        return self.graph.emit("Pad", x, pads), torch.nn.functional.pad(t, widths)

    def expand(self, x: str, t: Any) -> Made:
        shape = (2, *t.shape)
        return self.graph.emit("Expand", x, self.graph.ints(*shape)), t.expand(shape)

    def matmul(self, x: str, t: Any) -> Made | None:
        y, u = self.pick()
        if t.dim() < 1 or u.dim() < 2 or t.shape[-1] != u.shape[-1] or not _broadcast(t.shape[:-2], u.shape[:-2]):
            return None
        perm = [*range(u.dim() - 2), u.dim() - 1, u.dim() - 2]
        return self.graph.emit("MatMul", x, self.graph.emit("Transpose", y, perm=perm)), torch.matmul(t, u.mT)

    def einsum(self, x: str, t: Any) -> Made | None:
        y, u = self.pick()
        if not t.dim() or t.dim() != u.dim() or t.shape[-1] != u.shape[-1] or not _broadcast(t.shape, u.shape):
            return None
        return self.graph.emit("Einsum", x, y, equation="...i,...i->..."), torch.einsum("...i,...i->...", t, u)


STEPS: tuple[Callable[..., Any], ...] = (
    RandomGraph.unary, RandomGraph.unary, RandomGraph.binary, RandomGraph.binary, RandomGraph.quotient,
    RandomGraph.power, RandomGraph.where, RandomGraph.reduce, RandomGraph.reduce, RandomGraph.softmax,
    RandomGraph.running_sum, RandomGraph.transpose, RandomGraph.reshape, RandomGraph.slice, RandomGraph.gather,
    RandomGraph.concat, RandomGraph.pad, RandomGraph.expand, RandomGraph.matmul, RandomGraph.matmul,
    RandomGraph.einsum,
)  # fmt: skip


def _broadcast(*shapes: Any) -> bool:
    try:
        np.broadcast_shapes(*(tuple(shape) for shape in shapes))
    except ValueError:
        return False
    return True


@settings(derandomize=True, max_examples=50, deadline=None, phases=[Phase.generate])
@given(st.integers(0, 2**32))
def test_gradients_are_torchs(seed: int) -> None:
    random = np.random.default_rng(seed)
    built = RandomGraph(lambda count: int(random.integers(count)))
    for _ in range(10):
        built.step()
    graph, rng = built.graph, np.random.default_rng(1)
    graph.infer()
    for name, tensor in built.values:
        assert graph.shape(name) == tuple(tensor.shape)
    ends = built.values[-3:]
    dys = {name: rng.standard_normal(tuple(tensor.shape)) for name, tensor in ends}
    total = sum((tensor * torch.tensor(dys[name])).sum() for name, tensor in ends)
    tensors = dict(built.values)
    wanted = torch.autograd.grad(total, list(tensors.values()), allow_unused=True)
    found = backward(graph, {name: graph.constant(dy) for name, dy in dys.items()}, list(tensors))
    flowing = {name: grad for name, grad in found.items() if grad}
    graph.outputs = [graph.emit("Identity", grad) for grad in flowing.values()]
    feeds = {name: tensors[name].detach().numpy().astype(np.float32) for name in graph.inputs}
    results = dict(zip(flowing, run(graph, feeds), strict=True))
    for (name, tensor), expected in zip(tensors.items(), wanted, strict=True):
        exact = np.zeros(tuple(tensor.shape)) if expected is None else expected.numpy()
        found_there = results.get(name, np.zeros(exact.shape))
        tolerance = 1e-4 * max(np.abs(exact).max(initial=0.0), 1.0)
        np.testing.assert_allclose(found_there, exact, rtol=0, atol=tolerance, err_msg=name)
