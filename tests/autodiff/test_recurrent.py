"""Gradients of RNN, GRU and LSTM against the operators' equations and against torch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from caffestat.autodiff import gradient
from caffestat.errors import GradientError

from ..graph.models import model, normal, run, value

try:
    import torch
except ImportError:
    torch = None

T, N, C, H = 5, 3, 4, 2
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}

OTHERS = {
    "direction": "bidirectional",
    "activations": ["HardSigmoid", "Elu", "Tanh", "Sigmoid", "LeakyRelu", "HardSigmoid"],
    "activation_alpha": [0.3, 0.6, 0.2, 0.15],
    "activation_beta": [0.4, 0.6],
}
"""The numbers are taken in the order of the activations that have some."""

FORMS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("RNN", {}, ()),
    ("RNN", {"activations": ["Relu"], "direction": "reverse"}, ("b",)),
    ("GRU", {}, ("b", "h")),
    ("GRU", {"linear_before_reset": 1, "direction": "bidirectional"}, ("b",)),
    ("GRU", {"clip": 0.4}, ("b", "lengths")),
    ("LSTM", {}, ()),
    ("LSTM", {"direction": "reverse"}, ("b", "h", "c", "lengths")),
    ("GRU", {"linear_before_reset": 1, "direction": "reverse"}, ("b", "h", "lengths")),
    ("RNN", {"clip": 0.5}, ("h", "lengths")),
    ("LSTM", {"direction": "bidirectional", "clip": 0.3}, ("b", "h", "c", "p")),
    ("LSTM", {"direction": "bidirectional"}, ("b", "c", "p", "lengths")),
    ("LSTM", {"input_forget": 1, "activations": ["HardSigmoid", "Softsign", "Tanh"]}, ("b", "p")),
    ("RNN", {"activations": ["LeakyRelu"], "activation_alpha": [0.3]}, ("b", "h")),
    (
        "GRU",
        {"activations": ["hardsigmoid", "LeakyRelu"], "activation_alpha": [0.3, 0.2], "activation_beta": [0.4]},
        ("b",),
    ),
    ("LSTM", OTHERS, ("b", "h", "c", "p")),
]


def arrays(op: str, attributes: dict[str, Any], optional: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Inputs in the order of the op; "" stands for an absent one."""
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[op] * H
    every = {
        "x": normal(T, N, C),
        "w": normal(directions, rows, C, seed=1),
        "r": normal(directions, rows, H, seed=2),
        "b": normal(directions, 2 * rows, seed=4),
        "lengths": np.array([5, 2, 4], np.int32),
        "h": normal(directions, N, H, seed=5),
        "c": normal(directions, N, H, seed=6),
        "p": normal(directions, 3 * H, seed=7),
    }
    return {name: array for name, array in every.items() if name in ("x", "w", "r", *optional)}


def inputs(given: dict[str, np.ndarray], op: str) -> list[str]:
    names = ["x", "w", "r", "b", "lengths", "h", *(["c", "p"] if op == "LSTM" else [])]
    return [name if name in given else "" for name in names]


ACTIVATIONS: dict[str, Callable[..., np.ndarray]] = {
    "elu": lambda x, alpha: np.where(x > 0, x, alpha * (np.exp(x) - 1)),
    "hardsigmoid": lambda x, alpha=0.2, beta=0.5: np.clip(alpha * x + beta, 0, 1),
    "leakyrelu": lambda x, alpha: np.where(x > 0, x, alpha * x),
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softsign": lambda x: x / (1 + abs(x)),
    "tanh": np.tanh,
}
COUNTS = {"elu": 1, "hardsigmoid": 2, "leakyrelu": 1}  # of what is taken from activation_alpha, then activation_beta
DEFAULTS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


def reference(op: str, attributes: dict[str, Any], given: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The equations of the ONNX operators, step by step in float64: Y and the last states."""
    count = given["w"].shape[0]
    runs = [direction(op, attributes, given, index) for index in range(count)]
    states = zip(*(r[1] for r in runs), strict=True)
    return [np.stack([r[0] for r in runs], 1), *map(np.stack, states)]


def functions(op: str, attributes: dict[str, Any]) -> list[Callable[[np.ndarray], np.ndarray]]:
    given = [list(attributes.get(f"activation_{name}", ())) for name in ("alpha", "beta")]
    found = []
    for name in map(str.lower, attributes.get("activations", DEFAULTS[op] * 2)):
        numbers = [values.pop(0) for values in given[: COUNTS.get(name, 0)] if values]
        found.append(partial(_call, ACTIVATIONS[name], numbers))
    return found


def _call(function: Callable[..., np.ndarray], numbers: list[float], x: np.ndarray) -> np.ndarray:
    return function(x, *numbers)


def direction(op: str, attributes: dict[str, Any], given: dict[str, np.ndarray], d: int) -> tuple[np.ndarray, Any]:
    x, w, r = given["x"], given["w"][d], given["r"][d]
    b = given.get("b", np.zeros((d + 1, 2 * GATES[op] * H)))[d]
    count = len(DEFAULTS[op])
    f, g, h2 = [*functions(op, attributes)[d * count :][:count], None, None][:3]
    clip = attributes.get("clip", np.inf)
    lengths = given.get("lengths", np.full(N, T))
    states = [given[name][d] if name in given else np.zeros((N, H)) for name in ("h", "c")[: 2 if op == "LSTM" else 1]]
    peephole = np.split(given["p"][d] if "p" in given else np.zeros(3 * H), 3)
    y = np.zeros((T, N, H))
    backwards = attributes.get("direction") == "reverse" or d == 1
    for place in reversed(range(T)) if backwards else range(T):
        new = step(op, attributes, x[place], states, (w, r, b, peephole), (f, g, h2, clip))
        inside = (place < lengths)[:, None]
        states = [np.where(inside, after, before) for after, before in zip(new, states, strict=True)]
        y[place] = np.where(inside, new[0], 0)
    return y, states


def step(op: str, attributes: dict[str, Any], x: np.ndarray, states: Any, weights: Any, functions: Any) -> Any:
    (w, r, b, peephole), (f, g, h2, clip), h = weights, functions, states[0]
    bw, br = np.split(b, 2)

    def act(function: Any, value: np.ndarray) -> np.ndarray:
        return function(np.clip(value, -clip, clip))

    of_x, of_h = np.split(x @ w.T + bw, GATES[op], 1), np.split(h @ r.T + br, GATES[op], 1)
    if op == "RNN":
        return [act(f, of_x[0] + of_h[0])]
    if op == "GRU":
        z, reset = act(f, of_x[0] + of_h[0]), act(f, of_x[1] + of_h[1])
        later = reset * of_h[2]
        if not attributes.get("linear_before_reset"):
            later = (reset * h) @ r[2 * H :].T + br[2 * H :]
        return [(1 - z) * act(g, of_x[2] + later) + z * h]
    c, (pi, po, pf) = states[1], peephole
    i, n = act(f, of_x[0] + of_h[0] + pi * c), act(g, of_x[3] + of_h[3])
    forget = 1 - i if attributes.get("input_forget") else act(f, of_x[2] + of_h[2] + pf * c)
    c = forget * c + i * n
    return [act(f, of_x[1] + of_h[1] + po * c) * h2(c), c]


@pytest.mark.parametrize(("op", "attributes", "optional"), FORMS)
def test_gradients_are_those_of_the_equations(op: str, attributes: dict[str, Any], optional: tuple[str, ...]) -> None:
    """Along a random direction of each input, against central differences in float64."""
    given = arrays(op, attributes, optional)
    outputs = ["y", "last", "cell"][: 3 if op == "LSTM" else 2]
    node = helper.make_node(op, inputs(given, op), outputs, hidden_size=H, **attributes)
    fed = [value(n, a.shape, TensorProto.INT32 if n == "lengths" else TensorProto.FLOAT) for n, a in given.items()]
    expected = reference(op, attributes, given)
    dys = [normal(*y.shape, seed=9 + index) for index, y in enumerate(expected)]
    feeds = given | {f"cotangent/{name}": dy for name, dy in zip(outputs, dys, strict=True)}
    found = run(gradient(model([node], fed, outputs)), feeds)
    for name, y in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(found[name], y, rtol=1e-4, atol=1e-5)
    for name in given.keys() - {"lengths"}:
        move = normal(*given[name].shape, seed=20).astype(np.float64)
        ends = [reference(op, attributes, given | {name: given[name] + e * move}) for e in (1e-5, -1e-5)]
        slope = sum(float(((a - b) * dy).sum()) for a, b, dy in zip(*ends, dys, strict=True)) / 2e-5
        assert float((found[f"grad/{name}"] * move).sum()) == pytest.approx(slope, rel=1e-3, abs=1e-3), name


@pytest.mark.parametrize("op", list(GATES))
def test_the_batch_may_be_the_first_axis(op: str) -> None:
    """The runtime has no kernel for layout 1; values and gradients are those of layout 0, the axes swapped."""
    given = arrays(op, {}, ("b", "lengths", "h", "c")[: 4 if op == "LSTM" else 3])
    turned = [name for name in ("x", "h", "c") if name in given]
    outputs = ["y", "last", "cell"][: 3 if op == "LSTM" else 2]
    found = []
    for layout in (0, 1):
        fed = given | {name: given[name].swapaxes(0, 1) for name in turned if layout}
        node = helper.make_node(op, inputs(given, op), ["", *outputs[1:]], hidden_size=H, layout=layout)
        whole = helper.make_node(op, inputs(given, op), ["y"], hidden_size=H, layout=layout)
        kinds = {"lengths": TensorProto.INT32}
        ends = [value(name, array.shape, kinds.get(name, TensorProto.FLOAT)) for name, array in fed.items()]
        dys = {"y": normal(T, 1, N, H).transpose((2, 0, 1, 3) if layout else (0, 1, 2, 3))}
        dys |= {name: normal(1, N, H, seed=5).swapaxes(0, layout) for name in outputs[1:]}
        cotangents = {f"cotangent/{name}": dy for name, dy in dys.items()}
        found.append(run(gradient(model([node, whole], ends, outputs, opset=14)), fed | cotangents))
    old, new = found
    for name in new:
        is_turned = name in outputs or name.removeprefix("grad/") in turned
        array = new[name].transpose(1, 2, 0, 3) if name == "y" else new[name].swapaxes(0, int(is_turned))
        np.testing.assert_allclose(array, old[name], rtol=1e-5, atol=1e-6)


def test_a_long_sequence_takes_few_nodes() -> None:
    given = arrays("LSTM", {}, ("b",)) | {"x": normal(400, N, C)}
    node = helper.make_node("LSTM", ["x", "w", "r", "b"], ["y"], hidden_size=H)
    long = gradient(model([node], {"x": (400, N, C)}, ["y"], {name: given[name] for name in ("w", "r", "b")}))
    assert len(long.graph.node) < 200


# torch's gates i f n o and r z n, as rows of ONNX's i o f n and z r n
ORDER = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}


@pytest.mark.skipif(torch is None, reason="needs torch")
@pytest.mark.parametrize("op", list(GATES))
def test_gradients_are_torchs(op: str) -> None:
    torch.manual_seed(0)
    cell = getattr(torch.nn, op)(C, H)

    def rows(array: np.ndarray) -> np.ndarray:
        parts = np.split(array, GATES[op])
        return np.concatenate([parts[index] for index in ORDER[op]])[None]

    p = {name: param.detach().numpy() for name, param in cell.named_parameters()}
    given = {
        "w": rows(p["weight_ih_l0"]),
        "r": rows(p["weight_hh_l0"]),
        "b": np.concatenate([rows(p["bias_ih_l0"]), rows(p["bias_hh_l0"])], axis=1),
    }
    node = helper.make_node(
        op, ["x", "w", "r", "b"], ["y"], hidden_size=H, **({"linear_before_reset": 1} if op == "GRU" else {})
    )
    x, dy = normal(T, N, C), normal(T, 1, N, H, seed=8)
    out = run(gradient(model([node], {"x": x.shape}, ["y"], given)), {"x": x, "cotangent/y": dy})
    tensor = torch.tensor(x, requires_grad=True)
    cell(tensor)[0].backward(torch.tensor(dy[:, 0]))
    grads = {name: param.grad.numpy() for name, param in cell.named_parameters()}
    np.testing.assert_allclose(out["grad/x"], tensor.grad.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out["grad/w"], rows(grads["weight_ih_l0"]), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(out["grad/r"], rows(grads["weight_hh_l0"]), rtol=1e-4, atol=1e-6)
    bias = np.concatenate([rows(grads["bias_ih_l0"]), rows(grads["bias_hh_l0"])], axis=1)
    np.testing.assert_allclose(out["grad/b"], bias, rtol=1e-4, atol=1e-6)


def test_what_is_refused() -> None:
    given = arrays("RNN", {}, ())
    for attributes, message in (
        ({"activations": ["ScaledTanh"]}, "activations ScaledTanh has no gradient rule"),
        ({"activations": ["Affine"], "activation_alpha": [0.2]}, "activations Affine has no gradient rule"),
    ):
        node = helper.make_node("RNN", ["x", "w", "r"], ["", "y"], hidden_size=H, **attributes)
        proto = model([node], [value("x", (T, N, C), TensorProto.FLOAT)], ["y"], {"w": given["w"], "r": given["r"]})
        with pytest.raises(GradientError, match=message):
            gradient(proto)
