"""Every rule against finite differences and torch: several attribute sets, ranks and broadcasts each."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffestat.autodiff import backward, engine
from caffestat.autodiff import rules as _registered  # noqa: F401
from caffestat.errors import GradientError
from caffestat.graph import Graph

from .check import check_grads, evaluator
from .support import difference, largest_constant, op_gradients, torch_gradients

try:
    import torch
    from torch.nn import functional as F
except ImportError:
    torch = None

INT_MAX, INT_MIN = 2**63 - 1, -(2**63)


def X(*shape: int, seed: int = 0, spread: float = 1.5) -> np.ndarray:
    """Distinct values around 0 in random order, none of them near 0 or near another."""
    n = math.prod(shape)
    values = (np.arange(n) - n / 2 + 0.37) * 2 * spread / n
    return np.asarray(np.random.default_rng(seed).permutation(values).reshape(shape))


def P(*shape: int, seed: int = 0) -> np.ndarray:
    """Distinct values from 0.3 to 2.3."""
    return np.asarray(X(*shape, seed=seed, spread=1.0) + 1.3)


def away(*shape: int) -> np.ndarray:
    """Distinct values from -2.3 to 2.3 that stay 0.3 away from 0."""
    x = X(*shape, spread=2.0)
    return np.asarray(x + 0.3 * np.sign(x))


class Case:
    def __init__(self, build: Any, *inputs: Any, name: str = "", **keywords: Any) -> None:
        self.build, self.inputs, self.keywords = build, inputs, keywords
        self.name = name or build

    def __str__(self) -> str:
        return self.name


def each(op: str, *arrays: Any, torch: Callable[..., Any] | None = None, **attributes: Any) -> list[Case]:
    """One case per tuple of inputs."""
    return [Case(op, *(a if isinstance(a, tuple) else (a,)), torch=torch, **attributes) for a in arrays]


PAIRS = [
    (P(2, 3, 4), P(2, 3, 4, seed=1)),
    (P(2, 3, 4), P(3, 1, seed=1)),
    (P(4), P(2, 3, 4, seed=1)),
    (P(2, 1, 4), P(3, 1, seed=1)),
    (P(), P(3, 2, seed=1)),
    (P(1, 3), P(1, 1, seed=1)),
]

BINARY = [
    *each("Add", *PAIRS, torch=lambda a, b: a + b),
    *each("Sub", *PAIRS, torch=lambda a, b: a - b),
    *each("Mul", *PAIRS, torch=lambda a, b: a * b),
    *each("Div", *PAIRS, (X(3, 4), away(3, 4)), torch=lambda a, b: a / b),
    *each("Pow", *PAIRS, torch=lambda a, b: a**b),
    *each("Pow", (X(3, 4), 2.0), torch=lambda a: a**2),
    *each("Pow", (X(3, 4), 3), torch=lambda a: a**3),
    *each("Pow", (X(3, 4), np.array([0, 1, 2, 3], np.int32)), torch=lambda a: a ** torch.arange(4.0)),
    *each("Pow", (np.zeros((2, 3)), np.array([0, 1, 2], np.float32)), torch=lambda a: a ** torch.arange(3.0)),
    *each("Pow", (P(3, 4), -0.5), torch=lambda a: a**-0.5),
    *each(
        "Mod",
        (X(3, 4, spread=3), P(4, seed=1)),
        (X(4, spread=5), away(3, 4)),
        fmod=1,
        torch=lambda a, b: torch.fmod(a, b),
    ),
    *each("Max", *PAIRS[:4], (X(2, 3), X(3, seed=1), X(2, 1, seed=2)), torch=lambda *x: largest(torch.maximum, x)),
    *each("Min", *PAIRS[:4], (X(2, 3), X(3, seed=1), X(2, 1, seed=2)), torch=lambda *x: largest(torch.minimum, x)),
    *each("Max", X(2, 3)),
    *each("Sum", *PAIRS, X(2, 3), (X(2, 3), X(3, seed=1), X(2, 1, seed=2)), torch=lambda *x: sum(x)),
    *each(
        "Mean",
        *PAIRS,
        X(2, 3),
        (X(2, 3), X(3, seed=1), X(2, 1, seed=2)),
        torch=lambda *x: sum(x) / len(x),
        reference=lambda *x: sum(x) / len(x),
    ),
    *each("PRelu", (X(2, 3, 4), P(3, 1, seed=1)), (X(2, 3, 4), P(1, seed=1)), (X(2, 3), P(2, 3, seed=1))),
    Case("PRelu", X(2, 3, 4, 5), P(3, 1, 1, seed=1), torch=lambda x, a: F.prelu(x, a.reshape(3))),
]


def largest(function: Any, values: Any) -> Any:
    result = values[0]
    for value in values[1:]:
        result = function(result, value)
    return result


erf = np.vectorize(math.erf)  # the runtime's own is exact to seven digits only


def gelu(x: np.ndarray) -> np.ndarray:
    return x * (1 + erf(x * math.sqrt(0.5))) / 2


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


SHAPES = [X(2, 3, 4), X(5), X()]

UNARY = [
    *each("Neg", *SHAPES, torch=lambda x: -x),
    *each("Abs", *SHAPES, torch=lambda x: x.abs()),
    *each("Reciprocal", away(2, 3, 4), torch=lambda x: 1 / x),
    *each("Sqrt", P(2, 3), torch=lambda x: x.sqrt()),
    *each("Exp", *SHAPES, torch=lambda x: x.exp()),
    *each("Log", P(2, 3), torch=lambda x: x.log()),
    *each("Erf", *SHAPES, torch=lambda x: torch.erf(x), reference=erf),
    *each("Sin", *SHAPES, torch=lambda x: x.sin()),
    *each("Cos", *SHAPES, torch=lambda x: x.cos()),
    *each("Tan", X(2, 3, 4, spread=1.0), torch=lambda x: x.tan()),
    *each("Asin", X(2, 3, 4, spread=0.8), torch=lambda x: x.asin()),
    *each("Acos", X(2, 3, 4, spread=0.8), torch=lambda x: x.acos()),
    *each("Atan", *SHAPES, torch=lambda x: x.atan()),
    *each("Sinh", *SHAPES, torch=lambda x: x.sinh()),
    *each("Cosh", *SHAPES, torch=lambda x: x.cosh()),
    *each("Tanh", *SHAPES, torch=lambda x: x.tanh()),
    *each("Asinh", *SHAPES, torch=lambda x: x.asinh()),
    *each("Acosh", P(2, 3) + 1, torch=lambda x: x.acosh()),
    *each("Atanh", X(2, 3, 4, spread=0.8), torch=lambda x: x.atanh()),
    *each("Identity", *SHAPES, torch=lambda x: x),
    *each("Relu", *SHAPES, torch=lambda x: F.relu(x)),
    *each("LeakyRelu", *SHAPES, torch=lambda x: F.leaky_relu(x, 0.01), double=1e-6),
    *each("LeakyRelu", *SHAPES, torch=lambda x: F.leaky_relu(x, 0.25), alpha=0.25),
    *each("LeakyRelu", *SHAPES, torch=lambda x: torch.where(x > 0, x, -0.5 * x), alpha=-0.5),
    *each("ThresholdedRelu", *SHAPES, torch=lambda x: torch.where(x > 1, x, 0)),
    *each("ThresholdedRelu", *SHAPES, torch=lambda x: torch.where(x > -0.5, x, 0), alpha=-0.5),
    *each("Elu", *SHAPES, torch=lambda x: F.elu(x)),
    *each("Elu", *SHAPES, torch=lambda x: F.elu(x, 0.5), alpha=0.5),
    *each("Elu", *SHAPES, torch=lambda x: torch.where(x > 0, x, -0.5 * torch.expm1(x)), alpha=-0.5),
    *each("Selu", *SHAPES, torch=lambda x: F.selu(x), double=1e-7),
    *each("Selu", *SHAPES, torch=lambda x: 1.5 * torch.where(x > 0, x, 0.5 * torch.expm1(x)), alpha=0.5, gamma=1.5),
    *each("Celu", *SHAPES, torch=lambda x: F.celu(x)),
    *each("Celu", *SHAPES, torch=lambda x: F.celu(x, 0.5), alpha=0.5),
    *each("Sigmoid", *SHAPES, torch=lambda x: x.sigmoid()),
    *each("HardSigmoid", *SHAPES, X(3, 4, spread=4), double=1e-6),
    *each("HardSigmoid", X(3, 4, spread=4), alpha=0.25, beta=0.375, torch=lambda x: (0.25 * x + 0.375).clamp(0, 1)),
    *each("HardSwish", X(3, 4, spread=5), torch=lambda x: F.hardswish(x)),
    *each("Softplus", *SHAPES, torch=lambda x: F.softplus(x)),
    *each("Softsign", *SHAPES[:2], torch=lambda x: F.softsign(x)),
    *each("Mish", *SHAPES, torch=lambda x: F.mish(x)),
    *each("Gelu", *SHAPES, torch=lambda x: F.gelu(x), reference=gelu, double=1e-7),
    *each("Gelu", *SHAPES, torch=lambda x: F.gelu(x, approximate="tanh"), reference=gelu_tanh, approximate="tanh"),
    Case("Clip", X(3, 4), torch=lambda x: x),
    Case("Clip", X(3, 4), -0.5, 0.75, torch=lambda x: x.clamp(-0.5, 0.75)),
    Case("Clip", X(3, 4), None, 0.75, torch=lambda x: x.clamp(max=0.75)),
    Case("Clip", X(3, 4), -0.5, torch=lambda x: x.clamp(min=-0.5)),
    Case("Clip", X(3, 4), np.array(-0.51), np.array(0.76), torch=lambda x, low, high: x.clamp(low, high)),
    Case("Clip", X(3, 4), None, np.array(0.76), torch=lambda x, high: x.clamp(max=high)),
    Case(
        "Where", X(2, 3) > 0, X(2, 3), X(2, 3, seed=1), torch=lambda a, b: torch.where(torch.tensor(X(2, 3) > 0), a, b)
    ),
    Case(
        "Where", X(3, 1) > 0, X(4), X(2, 1, 1, seed=1), torch=lambda a, b: torch.where(torch.tensor(X(3, 1) > 0), a, b)
    ),
    Case("Where", X(2, 3) > 0, X(), 1.5, torch=lambda a: torch.where(torch.tensor(X(2, 3) > 0), a, 1.5)),
    Case("Dropout", X(3, 4), torch=lambda x: x),
    Case("Dropout", X(3, 4), 0.25, False, torch=lambda x: x),
]

SHAPE = [
    Case("Reshape", X(2, 3, 4), [4, -1], torch=lambda x: x.reshape(4, 6)),
    Case("Reshape", X(2, 3, 4), [0, 0, 2, 2], torch=lambda x: x.reshape(2, 3, 2, 2)),
    Case("Reshape", X(1), np.zeros(0, np.int64), torch=lambda x: x.reshape(())),
    *(Case("Flatten", X(2, 3, 4, 5), axis=axis) for axis in (0, 1, 2, 4, -1)),
    Case("Flatten", X(2, 3, 4), torch=lambda x: x.flatten(1)),
    Case("Squeeze", X(2, 1, 3, 1), torch=lambda x: x.squeeze()),
    Case("Squeeze", X(2, 1, 3, 1), [-1], torch=lambda x: x.squeeze(-1)),
    Case("Unsqueeze", X(2, 3), [0, 3], torch=lambda x: x[None, :, :, None]),
    Case("Transpose", X(2, 3, 4), torch=lambda x: x.permute(2, 1, 0)),
    Case("Transpose", X(2, 3, 4, 5), perm=[2, 0, 3, 1], torch=lambda x: x.permute(2, 0, 3, 1)),
    Case("Transpose", X(2, 3), perm=[0, 1], torch=lambda x: x),
    Case("Expand", X(3, 1), [2, 1, 4], torch=lambda x: x.expand(2, 3, 4)),
    Case("Expand", X(2, 3), [1, 1], torch=lambda x: x),
    Case("Expand", X(), [2, 3], torch=lambda x: x.expand(2, 3)),
    Case("Tile", X(2, 3, 4), [2, 1, 3], torch=lambda x: x.tile(2, 1, 3)),
    Case("Concat", X(2, 3, 4), X(2, 1, 4, seed=1), X(2, 2, 4, seed=2), axis=1, torch=lambda *x: torch.cat(x, 1)),
    Case("Concat", X(2, 3), X(2, 4, seed=1), axis=-1, torch=lambda *x: torch.cat(x, -1)),
    Case("Concat", X(2, 3), axis=0, torch=lambda x: x),
    *(
        Case(
            lambda g, x, sizes: g.emit_many("Split", x, sizes, count=3, axis=1),
            X(2, 6, 3),
            [1, 3, 2],
            outputs=outputs,
            torch=lambda x: x.split([1, 3, 2], 1),
            name=f"Split {outputs}",
        )
        for outputs in ([0, 1, 2], [1], [2, 0])
    ),
    Case(lambda g, x: g.emit_many("Split", x, count=2, axis=-1, num_outputs=2), X(3, 5), name="Split uneven"),
    Case(lambda g, x: g.emit_many("Split", x, count=2, num_outputs=2), X(4, 3), name="Split default axis"),
    Case("Slice", X(4, 5), [1], [3], torch=lambda x: x[1:3]),
    Case("Slice", X(4, 5, 6), [1, -4], [INT_MAX, -1], [2, 1], torch=lambda x: x[:, -4:-1, 1:]),
    Case("Slice", X(4, 7), [1], [6], [1], [2], torch=lambda x: x[:, 1:6:2]),
    Case("Slice", X(4, 7), [0], [99], [-1], [3], torch=lambda x: x[:, ::3]),
    Case("Slice", X(4, 7), [-1, 3], [INT_MIN, 0], [1, 0], [-2, -1], torch=lambda x: x.flip(1)[:, ::2].flip(0)[:3]),
    Case("Slice", X(4, 7), [0, 0], [4, 7], torch=lambda x: x),
    Case("Slice", X(4, 7), [2], [2], [0], torch=lambda x: x[2:2]),
    Case("Slice", X(4, 7), [6], [2], [1], torch=lambda x: x[:, 6:2]),
    Case("Pad", X(2, 3), [0, 1, 2, 0], torch=lambda x: F.pad(x, (1, 0, 0, 2))),
    Case("Pad", X(4, 5), [1, -2, -1, 3], torch=lambda x: F.pad(x, (-2, 3, 1, -1))),
    Case("Pad", X(4, 5), [-1, -2, 0, -1], torch=lambda x: x[1:, 2:-1]),
    Case("Pad", X(2, 3, 4), [1, 2, 0, 3], 1.5, [-1, 0], torch=lambda x: F.pad(x, (1, 0, 0, 0, 2, 3), value=1.5)),
    Case("Pad", X(4, 5), [1, -2, 0, 3], X(seed=1), torch=lambda x, v: filled(x, v, (-2, 3, 1, 0))),
    Case("Pad", X(4, 5), [1, 0], X(1, seed=1), [1], torch=lambda x, v: filled(x, v, (1, 0, 0, 0))),
    Case(
        "Pad",
        X(2, 3, 4, 5),
        [0, 0, 1, 2, 0, 0, 3, 4],
        mode="reflect",
        torch=lambda x: F.pad(x, (2, 4, 1, 3), "reflect"),
    ),
    Case(
        "Pad", X(2, 3, 4, 5), [0, 0, 1, 2, 0, 0, 3, 6], mode="edge", torch=lambda x: F.pad(x, (2, 6, 1, 3), "replicate")
    ),
    Case(
        "Pad",
        X(2, 3, 4, 5),
        [1, 4, 3, 2],
        None,
        [2, 3],
        mode="wrap",
        torch=lambda x: F.pad(x, (4, 2, 1, 3), "circular"),
    ),
    Case("Pad", X(4, 5), [2, 0, 1, 0], mode="edge"),
    *(
        Case("Trilu", X(2, 4, 5), k, upper=upper, torch=lambda x, f=f, k=k: getattr(torch, f)(x, k))
        for upper, f in ((1, "triu"), (0, "tril"))
        for k in (0, 1, -2)
    ),
    Case("Trilu", X(4, 5), torch=lambda x: torch.triu(x)),
    Case("SpaceToDepth", X(2, 3, 4, 6), blocksize=2),
    Case("DepthToSpace", X(2, 12, 3, 5), blocksize=2),
    Case("DepthToSpace", X(2, 12, 3, 5), blocksize=2, mode="DCR"),
    Case("DepthToSpace", X(2, 12, 3, 5), blocksize=2, mode="CRD", torch=lambda x: F.pixel_shuffle(x, 2)),
    Case("DepthToSpace", X(1, 9, 2, 4), blocksize=3, mode="CRD", torch=lambda x: F.pixel_shuffle(x, 3)),
    Case(lambda g, x: g.cast(g.emit("Neg", x), np.float64), X(2, 3), name="Cast", single=1e-5),
    Case(lambda g, x: g.emit("Mul", x, g.cast(g.cast(x, np.int64), g.specs[x].dtype)), X(2, 3) * 3, name="Cast to int"),
    Case("CastLike", X(2, 3), 1.0, torch=lambda x: x),
    *[
        Case("ReverseSequence", X(*shape), np.array(lengths), time_axis=time, batch_axis=1 - time)
        for shape, lengths, time in (((5, 3), [4, 1, 5], 0), ((3, 5, 2), [2, 5, 3], 1))
    ],
    *each("Pad", *[(X(4, 5), np.array(pads)) for pads in ([-1, 0, 2, 0], [1, -2, -1, 3])], mode="edge"),
    *each("Pad", (X(6, 5), np.array([-2, 1, 3, -1])), mode="reflect"),
]


def filled(x: Any, value: Any, pads: Any) -> Any:
    mask = F.pad(torch.ones_like(x), pads)
    return F.pad(x, pads) + (1 - mask) * value


TABLE = np.array([[0, 2, -1], [1, 1, 0]])


def scatter(
    x: np.ndarray, indices: list[list[int]], updates: np.ndarray, axis: int, reduction: str, torch_name: str
) -> Case:
    index = np.array(indices)
    return Case(
        "ScatterElements",
        x,
        index,
        updates,
        axis=axis,
        reduction=reduction,
        torch=lambda x, u: x.scatter_reduce(axis, torch.tensor(index % x.shape[axis]), u, torch_name),
    )


GATHER = [
    Case("Gather", X(4, 5), TABLE, torch=lambda x: x[torch.tensor(TABLE)]),
    Case("Gather", X(2, 3, 4), TABLE, axis=1, torch=lambda x: x[:, torch.tensor(TABLE)]),
    Case("Gather", X(2, 3, 4), np.array([3, -2, 3], np.int32), axis=-1, torch=lambda x: x[..., [3, -2, 3]]),
    Case("Gather", X(2, 3, 4), np.array(-1), axis=1, torch=lambda x: x[:, -1]),
    Case(lambda g, x: g.emit("Gather", x, g.constant(-2, np.int64), axis=1), X(2, 3, 4), name="Gather one"),
    Case(lambda g, x: g.emit("Gather", x, g.ints(1, 2), axis=0), X(4, 3), name="Gather a stretch"),
    Case(lambda g, x: g.emit("Gather", x, g.ints(3, 0, 2), axis=0), X(4, 3), name="Gather different rows"),
    Case(lambda g, x: g.emit("Gather", x, g.ints(3, -1, 2), axis=0), X(4, 3), name="Gather a row twice"),
    Case(
        lambda g, x, s: g.emit("GatherND", x, g.transpose(g.declare(g.emit("NonZero", s), (1, 3), np.int64), 1, 0)),
        X(5, 2),
        np.array([1, 0, 1, 1, 0]),
        name="GatherND by a mask",
    ),
    Case(
        lambda g, x, s: g.emit("Gather", x, g.declare(g.emit_many("TopK", s, g.ints(2), count=2)[1], (2,), np.int64)),
        X(4, 3),
        np.array([3, 7, 1, 5]),
        name="Gather the largest",
    ),
    Case(
        lambda g, x, i: g.emit("Gather", x, g.emit("Neg", i)), X(4, 5), np.array([1, 0, 3, 1]), name="Gather computed"
    ),
    Case("GatherElements", X(3, 4), TABLE, torch=lambda x: x.gather(0, torch.tensor(TABLE % 3))),
    Case("GatherElements", X(2, 4), TABLE, axis=1, torch=lambda x: x.gather(1, torch.tensor(TABLE % 4))),
    Case("GatherND", X(3, 4, 5), np.array([[0, 1], [-1, -2], [0, 1]]), torch=lambda x: x[[0, -1, 0], [1, -2, 1]]),
    Case("GatherND", X(3, 4), np.array([[[2, 1]], [[0, 0]]]), torch=lambda x: x[[[2], [0]], [[1], [0]]]),
    Case("GatherND", X(3, 4, 5), np.array([[1], [1], [-1]]), torch=lambda x: x[[1, 1, -1]]),
    Case(
        "GatherND",
        X(2, 3, 4, 5),
        np.array([[[2], [0], [2]], [[1], [-1], [1]]]),
        batch_dims=1,
        torch=lambda x: torch.stack([x[0][[2, 0, 2]], x[1][[1, -1, 1]]]),
    ),
    Case("GatherND", X(2, 3, 4), np.array([[[2], [0], [-1]], [[1], [3], [3]]]), batch_dims=2),
    Case(
        "ScatterElements",
        X(3, 4),
        np.array([[0, 2, 1], [2, 0, 0]]),
        X(2, 3, seed=1),
        torch=lambda x, u: x.scatter(0, torch.tensor([[0, 2, 1], [2, 0, 0]]), u),
    ),
    Case(
        "ScatterElements",
        X(3, 4),
        np.array([[0, -1], [2, 1]]),
        X(2, 2, seed=1),
        axis=-1,
        torch=lambda x, u: x.scatter(1, torch.tensor([[0, 3], [2, 1]]), u),
    ),
    Case(
        "ScatterElements",
        X(3, 4),
        np.array([[0, 2, 2], [2, 0, 2]]),
        X(2, 3, seed=1),
        reduction="add",
        torch=lambda x, u: x.scatter_add(0, torch.tensor([[0, 2, 2], [2, 0, 2]]), u),
    ),
    Case("ScatterND", X(4, 5), np.array([[1], [-1]]), X(2, 5, seed=1)),
    Case("ScatterND", X(4, 5), np.array([[1, 2], [0, 4], [3, 0]]), X(3, seed=1)),
    Case("ScatterND", X(4, 5), np.array([[1], [1]]), X(2, 5, seed=1), reduction="add"),
    *(
        case
        for reduction, name in (("mul", "prod"), ("max", "amax"), ("min", "amin"))
        for case in (
            scatter(X(3, 4), [[0, 2, 2], [2, 0, 2]], X(2, 3, seed=1), 0, reduction, name),
            scatter(X(3, 4), [[0, -1, 0], [1, 1, 2]], X(2, 3, seed=1), 1, reduction, name),
            Case("ScatterND", X(4, 5), np.array([[1], [1], [-1]]), X(3, 5, seed=1), reduction=reduction),
            Case("ScatterND", X(4, 5, 2), np.array([[1, 2], [-3, 2], [3, -1]]), X(3, 2, seed=1), reduction=reduction),
        )
    ),
    scatter(np.array([[0, 2, 3, 0.0]]), [[0, 1, 1, 2]], np.array([[5.0, 0, 7, 0]]), 1, "mul", "prod"),
    scatter(np.array([[4, 2, 3, 0.0]]), [[0, 0, 1, 3]], np.array([[0.0, 0, 7, 5]]), 1, "mul", "prod"),
    *(
        Case(
            lambda g, x, k, a=attributes: g.emit_many("TopK", x, k, count=2, **a),
            X(3, 5),
            [2],
            outputs=[0],
            name="TopK",
            torch=lambda x, a=attributes: x.topk(2, a.get("axis", -1), bool(a.get("largest", 1)))[0],
        )
        for attributes in ({}, {"axis": 0}, {"largest": 0})
    ),
    Case("OneHot", np.array([1, 0, 2, -1]), 3, X(2)),
    Case("OneHot", np.array([[1, -2, 9]]), 4, X(2), axis=1),
    Case(
        lambda g, start, limit, step: g.declare(g.emit("Range", start, limit, step), (4,), g.specs[start].dtype),
        np.array(0.3),
        3.0,
        np.array(0.7),
        name="Range",
    ),
]


def reductions(op: str, make: Callable[..., np.ndarray], function: Any) -> list[Case]:
    """All axes, some axes, none; kept or not."""
    return [
        Case(op, make(2, 3, 4), torch=lambda x: function(x, (0, 1, 2), True)),
        Case(op, make(2, 3, 4), keepdims=0, torch=lambda x: function(x, (0, 1, 2), False)),
        Case(op, make(2, 3, 4), [1], torch=lambda x: function(x, (1,), True)),
        Case(op, make(2, 3, 4), [-1, 0], keepdims=0, torch=lambda x: function(x, (0, 2), False)),
        Case(op, make(2, 3, 4, 5), [0, 2, 3], keepdims=0, torch=lambda x: function(x, (0, 2, 3), False)),
        Case(op, make(2, 3), np.zeros(0, np.int64), keepdims=0, torch=lambda x: function(x, (0, 1), False)),
        Case(op, make(5), [0], keepdims=0, torch=lambda x: function(x, (0,), False)),
    ]


def product(x: Any, axes: Any, keep: bool) -> Any:
    for axis in reversed(axes):
        x = x.prod(axis, keepdim=keep)
    return x


REDUCE = [
    *reductions("ReduceSum", X, lambda x, axes, keep: x.sum(axes, keepdim=keep)),
    *reductions("ReduceMean", X, lambda x, axes, keep: x.mean(axes, keepdim=keep)),
    *reductions("ReduceMax", X, lambda x, axes, keep: x.amax(axes, keepdim=keep)),
    *reductions("ReduceMin", X, lambda x, axes, keep: x.amin(axes, keepdim=keep)),
    *reductions("ReduceProd", P, product),
    *reductions("ReduceL1", X, lambda x, axes, keep: x.abs().sum(axes, keepdim=keep)),
    *reductions("ReduceL2", X, lambda x, axes, keep: x.square().sum(axes, keepdim=keep).sqrt()),
    *reductions("ReduceSumSquare", X, lambda x, axes, keep: x.square().sum(axes, keepdim=keep)),
    *reductions("ReduceLogSum", P, lambda x, axes, keep: x.sum(axes, keepdim=keep).log()),
    *reductions("ReduceLogSumExp", X, lambda x, axes, keep: x.logsumexp(axes, keepdim=keep)),
    *(
        Case(op, X(2, 3), noop_with_empty_axes=1, torch=lambda x: x)
        for op in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd")
    ),
    Case("ReduceSumSquare", X(2, 3), noop_with_empty_axes=1, reference=lambda x: x**2, name="ReduceSumSquare noop"),
    *(
        Case("CumSum", X(2, 3, 4), axis, exclusive=exclusive, reverse=reverse)
        for axis in (0, 1, -1)
        for exclusive in (0, 1)
        for reverse in (0, 1)
    ),
    Case("CumSum", X(2, 3), 1, torch=lambda x: x.cumsum(1)),
]

LABELS = np.array([[2, 0], [1, 1], [0, 2]])  # [3, 2]
WEIGHTS = [0.5, 1.5, 1.0]


def losses(op: str, function: Any) -> list[Case]:
    """[N, C] and [N, C, d] scores; all reductions, class weights, and ignored labels in and out of range."""
    out = np.where(LABELS == 1, -100, LABELS)
    cases = []
    for reduction in ("mean", "sum", "none"):
        for weights in (None, WEIGHTS):
            for labels, ignore in ((LABELS, None), (LABELS, 1), (out, -100)):
                keywords = {"reduction": reduction, **({} if ignore is None else {"ignore_index": ignore})}
                extra = () if weights is None else (weights,)

                def call(x: Any, labels: Any = labels, weights: Any = weights, keywords: Any = keywords) -> Any:
                    weight = None if weights is None else torch.tensor(weights, dtype=torch.float64)
                    return function(x, torch.tensor(labels), weight=weight, **keywords)

                cases.append(Case(op, X(3, 3, 2), labels, *extra, torch=call, **keywords))
    cases.append(
        Case(op, X(3, 4), LABELS[:, 0].astype(np.int32), torch=lambda x: function(x, torch.tensor(LABELS[:, 0])))
    )
    return cases


def with_log_prob(g: Any, x: str, labels: str) -> list[str]:
    return g.emit_many("SoftmaxCrossEntropyLoss", x, labels, count=2)


SOFTMAX = [
    *(Case("Softmax", X(2, 3, 4), axis=a, torch=lambda x, a=a: x.softmax(a)) for a in (0, 1, -1)),
    *(Case("LogSoftmax", X(2, 3, 4), axis=a, torch=lambda x, a=a: x.log_softmax(a)) for a in (0, 1, -1)),
    Case("Softmax", X(2, 3), torch=lambda x: x.softmax(-1)),
    Case("LogSoftmax", X(2, 3), torch=lambda x: x.log_softmax(-1)),
    *losses("SoftmaxCrossEntropyLoss", lambda *a, **k: F.cross_entropy(*a, **k)),
    *losses("NegativeLogLikelihoodLoss", lambda *a, **k: F.nll_loss(*a, **k)),
    *(
        Case(
            with_log_prob,
            X(3, 3, 2),
            LABELS,
            outputs=outputs,
            torch=lambda x: (F.cross_entropy(x, torch.tensor(LABELS)), x.log_softmax(1)),
            name=f"SoftmaxCrossEntropyLoss outputs {outputs}",
        )
        for outputs in ([0, 1], [1])
    ),
]


def group_norm(x: np.ndarray, groups: int, scale: np.ndarray, bias: np.ndarray, epsilon: float) -> np.ndarray:
    parts = x.reshape(len(x), groups, -1)
    y = (parts - parts.mean(2, keepdims=True)) / np.sqrt(parts.var(2, keepdims=True) + epsilon)
    return y.reshape(x.shape) * scale[:, None, None] + bias[:, None, None]


NORMALIZE = [
    Case(
        "LayerNormalization", X(2, 3, 4), P(4, seed=1), X(4, seed=2), torch=lambda x, w, b: F.layer_norm(x, (4,), w, b)
    ),
    Case("LayerNormalization", X(2, 3, 4), P(4, seed=1), torch=lambda x, w: F.layer_norm(x, (4,), w)),
    Case(
        lambda g, x, w: g.emit_many("LayerNormalization", x, w, count=3),
        X(2, 3, 4),
        P(4, seed=1),
        torch=lambda x, w: (
            F.layer_norm(x, (4,), w),
            x.mean(-1, keepdim=True),
            (x.var(-1, keepdim=True, unbiased=False) + 1e-5).rsqrt(),
        ),
        name="LayerNormalization, all outputs",
    ),
    Case(
        "LayerNormalization",
        X(2, 3, 4),
        P(3, 4, seed=1),
        X(3, 4, seed=2),
        axis=1,
        epsilon=0.1,
        torch=lambda x, w, b: F.layer_norm(x, (3, 4), w, b, 0.1),
    ),
    Case(
        "InstanceNormalization",
        X(2, 3, 4, 5),
        P(3, seed=1),
        X(3, seed=2),
        torch=lambda x, w, b: F.instance_norm(x, weight=w, bias=b),
    ),
    Case("InstanceNormalization", X(2, 3, 4), P(3, seed=1), X(3, seed=2), epsilon=0.1),
    *(
        Case(
            "GroupNormalization",
            X(2, 6, 4, 5),
            P(6, seed=1),
            X(6, seed=2),
            num_groups=groups,
            epsilon=1 / 64,
            torch=lambda x, w, b, groups=groups: F.group_norm(x, groups, w, b, 1 / 64),
            reference=lambda x, w, b, groups=groups: group_norm(x, groups, w, b, 1 / 64),
        )
        for groups in (1, 2, 6)
    ),
    *(
        Case("LpNormalization", X(2, 3, 4), axis=axis, p=p, torch=lambda x, axis=axis, p=p: F.normalize(x, p, axis))
        for axis in (0, 1, -1)
        for p in (1, 2)
    ),
    Case("LpNormalization", X(2, 3), torch=lambda x: F.normalize(x, 2, -1)),
]


def einsum(equation: str, *arrays: np.ndarray) -> Case:
    case = Case("Einsum", *arrays, equation=equation, torch=lambda *x: torch.einsum(equation, *x))
    case.name = f"Einsum {equation}"
    return case


EINSUM = [
    einsum("ij,jk->ik", X(2, 3), X(3, 4, seed=1)),
    einsum("bij,bjk->bik", X(2, 3, 4), X(2, 4, 5, seed=1)),
    einsum("ij,jk", X(2, 3), X(3, 4, seed=1)),
    einsum("ij->ji", X(2, 3)),
    einsum("ij->i", X(2, 3)),
    einsum("ij->", X(2, 3)),
    einsum("i,j->ij", X(2), X(3, seed=1)),
    einsum("i,i->", X(3), X(3, seed=1)),
    einsum("ik,j->i", X(2, 4), X(3, seed=1)),
    einsum("...ij,...jk->...ik", X(2, 3, 4), X(2, 4, 5, seed=1)),
    einsum("...ij,jk->...ik", X(2, 6, 3, 4), X(4, 5, seed=1)),
    einsum("...i,...i->...", X(2, 3), X(1, 3, seed=1)),
    einsum("bhid,bhjd->bhij", X(2, 3, 4, 5), X(2, 3, 2, 5, seed=1)),
    einsum("ij,jk,kl->il", X(2, 3), X(3, 4, seed=1), X(4, 5, seed=2)),
    einsum("ij,jk->ik", X(2, 3), X(1, 4, seed=1)),
    einsum("...ij,...jk->...ik", X(1, 5, 2, 3), X(4, 1, 3, 2, seed=1)),
    einsum("ii", X(3, 3)),
    einsum("iji->j", X(3, 4, 3)),
    einsum("iii->i", X(3, 3, 3)),
    einsum("iijj->ij", X(3, 3, 4, 4)),
    einsum("...ii->...i", X(2, 5, 3, 3)),
    einsum("bii,bij,jj->bj", X(2, 3, 3), X(2, 3, 4, seed=1), X(4, 4, seed=2)),
]


def resize(scales: list[float] | None, sizes: list[int] | None = None, **attributes: Any) -> Case:
    given = None if scales is None else np.array(scales, np.float32)
    case = Case("Resize", X(2, 3, 4, 5), None, given, sizes, **attributes)
    case.name = "Resize " + " ".join(map(str, attributes.values()))
    return case


RESIZE = [
    *(
        resize([1, 1, 2, 3], mode="nearest", nearest_mode=rounding, coordinate_transformation_mode=coordinates)
        for rounding in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")
        for coordinates in ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
    ),
    *(
        resize(scales, mode="linear", coordinate_transformation_mode=coordinates)
        for scales in ([1, 1, 2, 3], [1, 1, 1.5, 0.5])
        for coordinates in ("half_pixel", "asymmetric", "pytorch_half_pixel", "half_pixel_symmetric")
    ),
    resize([1, 1, 2, 3], mode="linear", coordinate_transformation_mode="align_corners"),
    resize(None, [2, 3, 6, 2], mode="linear", coordinate_transformation_mode="align_corners"),
    resize([1, 1, 0.6, 1.7], mode="nearest"),
    resize(None, [2, 3, 7, 2], mode="nearest"),
    resize(None, [2, 3, 7, 9], mode="linear"),
    resize([1, 1, 2, 3], mode="cubic", double=1e-6),
    resize(None, [2, 3, 7, 2], mode="cubic", double=1e-6, coordinate_transformation_mode="align_corners"),
    resize([1, 1, 0.6, 2], mode="cubic", double=1e-6, coordinate_transformation_mode="asymmetric", cubic_coeff_a=-1),
    resize([1, 1, 2, 1.7], mode="cubic", double=1e-6, exclude_outside=1),
    resize([2.0, 3.0], mode="nearest", axes=[2, 3]),
    resize([1, 1, 2, 2], mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    resize([2, 1, 1, 2], mode="nearest"),
    Case("Resize", X(2, 3, 7), None, np.array([1, 1, 2], np.float32), mode="linear", name="Resize one axis"),
]

DET = [
    *(
        Case("Det", X(*shape), double=1e-6, torch=lambda x: torch.linalg.det(x), name=f"Det {shape}")
        for shape in ((1, 1), (5, 1, 1), (2, 2), (3, 3), (2, 3, 4, 4))
    ),
    Case("Det", X(2, 3).T @ X(2, 3), name="Det of a matrix without an inverse"),
]

CASES = [*BINARY, *UNARY, *SHAPE, *GATHER, *REDUCE, *SOFTMAX, *NORMALIZE, *EINSUM, *RESIZE, *DET]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_gradient(case: Case) -> None:
    check_grads(case.build, *case.inputs, **{k: v for k, v in case.keywords.items() if torch or k != "torch"})


def test_every_rule_has_a_case() -> None:
    texts = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_*.py"))
    untested = [op for op in engine._RULES if f'"{op}"' not in texts]
    assert untested == []


def gradient(build: Any, *arrays: Any, dy: Any = None) -> list[np.ndarray]:
    """Return the float32 gradients of `build(graph, *names)`, of ones or of `dy`."""
    graph = Graph()
    xs = [graph.input("x", np.shape(a)) for a in arrays]
    y = build(graph, *xs)
    graph.infer()
    seed = graph.constant(np.ones(graph.shape(y)) if dy is None else dy)
    graph.outputs = [name for name in backward(graph, {y: seed}, xs).values() if name]
    return evaluator(graph)([np.asarray(a, np.float32) for a in arrays])


@pytest.mark.parametrize(
    ("op", "x", "dy", "dx"),
    [
        # 0 at 0 and 1 right above it
        ("Relu", [-1, 0, -0.0, 1e-38, 1e38, np.inf], [2, 3, 4, 5, 6, 7], [0, 0, 0, 5, 6, 7]),
        ("LeakyRelu", [-2, 0, 1e-38], [100, 100, 7], [1, 1, 7]),
        ("Abs", [-2, 0, 3], [5, 6, 7], [-5, 0, 7]),
        ("Softplus", [-200, 0, 200], [2, 2, 2], [0, 1, 2]),
        ("Sigmoid", [-200, 0, 200], [4, 4, 4], [0, 1, 0]),
        ("Tanh", [-200, 0, 200], [4, 4, 4], [0, 4, 0]),
        ("HardSigmoid", [-2.5, 0, 2.5], [5, 5, 5], [0, 1, 0]),
        ("ThresholdedRelu", [1, 1.5], [2, 2], [0, 2]),
        ("Elu", [-200, 0, 200], [3, 3, 3], [0, 3, 3]),
        ("Mish", [-200, 200], [3, 3], [0, 3]),
    ],
)
def test_gradient_at_the_edges(op: str, x: Any, dy: Any, dx: Any) -> None:
    np.testing.assert_allclose(gradient(lambda g, v: g.emit(op, v), x, dy=dy)[0], dx, rtol=1e-6)


def test_the_clip_lets_the_gradient_pass_at_its_bounds() -> None:
    found = gradient(lambda g, x: g.emit("Clip", x, g.constant(-1.0), g.constant(2.0)), [-2, -1, 0, 2, 3])
    np.testing.assert_array_equal(found[0], [0, 1, 1, 1, 0])


def test_the_clip_in_front_of_a_product_lets_the_same_pass() -> None:
    """There dy is multiplied by 0 or 1; elsewhere it may be infinite, and is chosen."""
    weight = np.array([[2, -3], [5, 7]])

    def build(g: Graph, x: str) -> str:
        return g.emit("MatMul", g.emit("Clip", x, g.constant(-1.0), g.constant(2.0)), g.constant(weight, np.float32))

    (dx,) = gradient(build, [[-1.5, -1], [0.5, 2], [2.5, np.nan]], dy=[[1, 10], [100, 1000], [3, 4]])
    dy = np.array([[1, 10], [100, 1000], [3, 4]]) @ weight.T
    np.testing.assert_array_equal(dx, dy * [[0, 1], [1, 1], [0, 0]])
    (dx,) = gradient(lambda g, x: g.emit("Sqrt", g.emit("Clip", x, g.constant(0.0))), [-1, 4])
    np.testing.assert_array_equal(dx, [0, 0.25])


@pytest.mark.parametrize("op", ["Max", "Min"])
def test_equal_inputs_share_the_gradient(op: str) -> None:
    a, b, c = gradient(lambda g, *x: g.emit(op, *x), [1, 5], [1, 5], [1, 5], dy=[6, 9])
    np.testing.assert_array_equal([a, b, c], [[2, 3]] * 3)


@pytest.mark.parametrize("op", ["ReduceMax", "ReduceMin"])
def test_equal_elements_share_the_gradient(op: str) -> None:
    (dx,) = gradient(lambda g, x: g.emit(op, x, g.ints(1), keepdims=0), [[3, 3, 3], [2, 2, 2]], dy=[6, 9])
    np.testing.assert_array_equal(dx, [[2, 2, 2], [3, 3, 3]])


def test_a_product_with_zeros() -> None:
    x = [[2, 0, 4, 0.5], [3, 0, 0, 5], [1, 2, 3, 4]]
    (dx,) = gradient(lambda g, x: g.emit("ReduceProd", x, g.ints(1), keepdims=0), x)
    np.testing.assert_allclose(dx, [[0, 4, 0, 0], [0, 0, 0, 0], [24, 12, 8, 6]])


def test_the_norm_of_zeros_has_no_slope() -> None:
    (dx,) = gradient(lambda g, x: g.emit("ReduceL2", x, g.ints(1), keepdims=0), [[0, 0], [3, 4]])
    np.testing.assert_allclose(dx, [[0, 0], [0.6, 0.8]], rtol=1e-6)


def test_zeros_stay_zeros_when_normalized() -> None:
    (dx,) = gradient(lambda g, x: g.emit("LpNormalization", x), [[0, 0], [3, 4]], dy=[[1, 2], [3, 4]])
    np.testing.assert_allclose(dx, [[0, 0], [0, 0]], atol=1e-6)


def test_a_power_of_zero() -> None:
    found = gradient(lambda g, x, p: g.emit("Pow", x, p), [0, 0, 0, 2], [0, 1, 2, 3])
    np.testing.assert_allclose(found, [[0, 1, 0, 12], [0, 0, 0, 8 * np.log(2)]], rtol=1e-6)


def test_dropout_in_training_uses_its_own_mask() -> None:
    graph = Graph()
    x = graph.input("x", (40, 50))
    y = graph.emit("Dropout", x, graph.constant(0.2), graph.constant(True, np.bool_), seed=3)
    dx = backward(graph, {y: graph.constant(np.full((40, 50), 3.0))}, [x])[x]
    graph.outputs = [y, dx or ""]
    found, grad = evaluator(graph)([np.ones((40, 50), np.float32)])
    np.testing.assert_allclose(grad, 3 * found)
    assert 0.1 < np.mean(found == 0) < 0.3


def test_no_contribution_is_lost_when_many_indices_meet() -> None:
    indices = np.random.default_rng(0).integers(0, 3, 20000)
    (dx,) = gradient(lambda g, x: g.emit("Gather", x, g.constant(indices, np.int64)), np.zeros((3, 8)))
    np.testing.assert_array_equal(dx[:, 0], np.bincount(indices))


CORNERS = {"coordinate_transformation_mode": "align_corners"}
CROP = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": 3.0}


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda g, x: g.emit("Resize", x, g.constant([0, 1.0]), "", g.ints(2, 3), **CROP), "Resize.*has 2 numbers"),
        (lambda g, x: g.emit("ReduceSum", x, g.emit("Identity", g.ints(0))), "ReduceSum.*must be a constant"),
    ],
)
def test_what_a_rule_cannot_do_is_refused(build: Any, match: str) -> None:
    graph = Graph()
    x = graph.input("x", (4, 4))
    y = build(graph, x)
    with pytest.raises(GradientError, match=match):
        backward(graph, {y: graph.constant(np.ones(4))}, [x])


@pytest.mark.parametrize(
    ("given", "attributes"),
    [
        *(
            ({"scales": scales}, {"mode": mode, "antialias": 1, "exclude_outside": excluded})
            for mode in ("linear", "cubic")
            for excluded in (0, 1)
            for scales in ([1, 1, 0.3, 1.7], [1, 1, 0.5, 1])
        ),
        (
            {"sizes": [2, 3, 3, 2]},
            {"mode": "linear", "antialias": 1, "coordinate_transformation_mode": "align_corners"},
        ),
        ({"sizes": [2, 3, 3, 2]}, {"mode": "cubic", "antialias": 1, "cubic_coeff_a": -0.5}),
        *(
            ({"roi": [0.1, -0.2, 0.9, 1.3], "sizes": [7, 4]}, {"mode": mode, "axes": [2, 3], **CROP, **more})
            for mode, more in (
                ("nearest", {}),
                ("linear", {}),
                ("cubic", {}),
                ("linear", {"antialias": 1}),
                ("cubic", {"antialias": 1}),
                ("cubic", {"exclude_outside": 1}),
            )
        ),
        ({"roi": [0.5, 0.2, 1, 0.7], "sizes": [4, 1]}, {"mode": "linear", "axes": [3, 2], **CROP}),
        *(
            ({"sizes": [4, 9]}, {"mode": mode, "axes": [3, 2], "keep_aspect_ratio_policy": policy})
            for mode in ("nearest", "cubic")
            for policy in ("not_larger", "not_smaller", "stretch")
        ),
    ],
    ids=str,
)
def test_the_gradient_of_a_resize_is_the_transpose_of_what_the_runtime_does(
    given: dict[str, list[float]], attributes: dict[str, Any]
) -> None:
    kinds = {"roi": np.float32, "scales": np.float32, "sizes": np.int64}

    def build(g: Graph, name: str) -> str:
        settings = [g.constant(given[key], kind) if key in given else "" for key, kind in kinds.items()]
        return g.emit("Resize", name, *(settings if settings[2] else settings[:2]), **attributes)

    x = np.zeros((2, 3, 5, 8), np.float32)
    offset = output(build, x)
    dy = np.random.default_rng(6).normal(size=offset.shape).astype(np.float32)
    _, dx = op_gradients(build, [x], dy)
    expected = np.zeros_like(x)
    for place in np.ndindex(5, 8):
        x[...] = 0
        x[(..., *place)] = 1  # both outer axes stay
        expected[(..., *place)] = ((output(build, x) - offset) * dy).sum((2, 3))
    np.testing.assert_allclose(dx, expected, atol=1e-5)
    assert np.abs(dx).max() > 0.1


def output(build: Any, x: np.ndarray) -> np.ndarray:
    graph = Graph()
    graph.outputs = [build(graph, graph.input("x", x.shape))]
    return evaluator(graph)([x])[0]


@pytest.mark.skipif(torch is None, reason="needs torch")
@pytest.mark.parametrize(("mode", "name"), [("linear", "bilinear"), ("cubic", "bicubic")])
@pytest.mark.parametrize("sizes", [(3, 4), (2, 11), (9, 13)])
def test_the_gradient_of_an_antialiased_resize_is_that_of_torch(mode: str, name: str, sizes: tuple[int, int]) -> None:
    settings = {"mode": mode, "antialias": 1, "exclude_outside": 1, "cubic_coeff_a": -0.5}
    x = X(2, 3, 5, 8).astype(np.float32)
    dy = X(2, 3, *sizes, seed=1).astype(np.float32)
    found = op_gradients(lambda g, v: g.emit("Resize", v, "", "", g.ints(2, 3, *sizes), **settings), [x], dy)
    wanted = torch_gradients(lambda v: F.interpolate(v, sizes, mode=name, antialias=True), [x], dy)
    assert max(map(difference, found, wanted)) < 1e-5


def test_a_resize_of_nothing_has_no_gradient() -> None:
    graph = Graph()
    x = graph.input("x", (2, 0))
    y = graph.declare(graph.emit("Resize", x, "", "", graph.ints(2, 3)), (2, 3))
    assert backward(graph, {y: graph.constant(np.ones((2, 3)))}, [x])[x] is None


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_of_a_long_axis_has_linear_constants(mode: str) -> None:
    x = np.random.default_rng(5).normal(size=(2, 1, 1, 3000)).astype(np.float32)
    scales = np.array([1, 1, 1, 0.31], np.float32)

    def build(g: Graph, name: str) -> str:
        return g.emit("Resize", name, "", g.constant(scales), mode=mode)

    dy = np.random.default_rng(6).normal(size=(2, 1, 1, 930)).astype(np.float32)
    _, dx = op_gradients(build, [x], dy)
    assert largest_constant(build, [x]) <= 2 * 3000
    # the transpose of a linear map: <dy, A v> = <dx, v>
    v = np.random.default_rng(7).normal(size=x.shape).astype(np.float32)
    y, _ = op_gradients(build, [v], dy)
    assert float((dy * y).sum()) == pytest.approx(float((dx * v).sum()), rel=1e-3)


def test_padding_by_reflection_of_a_long_axis_has_linear_constants() -> None:
    x = np.random.default_rng(5).normal(size=(3, 2000)).astype(np.float32)

    def build(g: Graph, name: str) -> str:
        return g.emit("Pad", name, g.ints(0, 3, 0, 5), mode="reflect")

    dy = np.random.default_rng(6).normal(size=(3, 2008)).astype(np.float32)
    _, dx = op_gradients(build, [x], dy)
    expected = dy[:, 3:2003].copy()
    expected[:, 1:4] += dy[:, 2::-1]
    expected[:, 1994:1999] += dy[:, :2002:-1]
    assert difference(dx, expected) < 1e-6
    assert largest_constant(build, [x]) <= 2 * 2008
