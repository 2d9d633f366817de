"""RNN, GRU and LSTM: what they are unrolled into computes what the runtime's own op does, and torch's gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from caffestat.autodiff import gradient
from caffestat.autodiff.engine import Tape
from caffestat.autodiff.rules.recurrent import _unrolled
from caffestat.errors import GradientError
from caffestat.graph import Graph, Node

from ..graph.models import model, normal, run, value

try:
    import torch
except ImportError:
    torch = None

T, N, C, H = 5, 3, 4, 2
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}

FORMS: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("RNN", {}, ()),
    ("RNN", {"activations": ["Relu"], "direction": "reverse"}, ("b",)),
    ("GRU", {}, ("b", "h")),
    ("GRU", {"linear_before_reset": 1, "direction": "bidirectional"}, ("b",)),
    ("GRU", {"clip": 0.4}, ("b", "lengths")),
    ("LSTM", {}, ()),
    ("LSTM", {"direction": "reverse"}, ("b", "h", "c", "lengths")),
    ("LSTM", {"direction": "bidirectional", "clip": 0.3}, ("b", "h", "c", "p")),
    ("LSTM", {"input_forget": 1, "activations": ["HardSigmoid", "Softsign", "Tanh"]}, ("b", "p")),
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


@pytest.mark.parametrize(("op", "attributes", "optional"), FORMS)
def test_unrolled_it_computes_the_same(op: str, attributes: dict[str, Any], optional: tuple[str, ...]) -> None:
    given = arrays(op, attributes, optional)
    graph = Graph()
    for name, array in given.items():
        graph.input(name, array.shape, array.dtype)
    outputs = ("y", "last", "cell")[: 3 if op == "LSTM" else 2]
    node = Node(op, tuple(inputs(given, op)), outputs, {"hidden_size": H, **attributes})
    graph.nodes.append(node)
    graph.outputs = [*outputs, *_unrolled(Tape(graph, (), ()), node)]
    found = list(run(graph.to_onnx(), given).values())
    for own, ours in zip(found[: len(outputs)], found[len(outputs) :], strict=True):
        np.testing.assert_allclose(ours, own, rtol=1e-5, atol=1e-6)


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
        ({"layout": 1}, "layout 1 has no gradient rule"),
        ({"activations": ["ScaledTanh"]}, "activations ScaledTanh with these settings"),
        ({"activations": ["LeakyRelu"], "activation_alpha": [0.2]}, "activations LeakyRelu with these settings"),
    ):
        node = helper.make_node("RNN", ["x", "w", "r"], ["", "y"], hidden_size=H, **attributes)
        proto = model([node], [value("x", (T, N, C), TensorProto.FLOAT)], ["y"], {"w": given["w"], "r": given["r"]})
        with pytest.raises(GradientError, match=message):
            gradient(proto)
