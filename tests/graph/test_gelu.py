"""GELUs of single ops become one op, and the values and gradients stay those of torch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from caffestat.autodiff import gradient, hessian_product
from caffestat.graph.gelu import fold_gelus
from caffestat.graph.load import load

from .models import model, normal, run

torch = pytest.importorskip("torch")

node = helper.make_node
SHAPE = (3, 5, 7)
HEAD = [node("Div", ["x", "root"], ["u"]), node("Erf", ["u"], ["e"]), node("Add", ["e", "one"], ["a"])]
FORMS: dict[str, list[onnx.NodeProto]] = {
    "half last": [*HEAD, node("Mul", ["x", "a"], ["p"]), node("Mul", ["p", "half"], ["y"])],
    "half of x": [*HEAD, node("Mul", ["x", "half"], ["h"]), node("Mul", ["h", "a"], ["y"])],
    "half first": [*HEAD, node("Mul", ["half", "a"], ["c"]), node("Mul", ["c", "x"], ["y"])],
    "a factor in the place of a divisor": [
        node("Mul", ["factor", "x"], ["u"]),
        node("Erf", ["u"], ["e"]),
        node("Add", ["one", "e"], ["a"]),
        node("Mul", ["a", "x"], ["p"]),
        node("Mul", ["p", "half"], ["y"]),
    ],
}
OTHERS: dict[str, list[onnx.NodeProto]] = {
    "another divisor": [node("Div", ["x", "two"], ["u"]), *FORMS["half last"][1:]],
    "another term": [*HEAD[:2], node("Add", ["e", "two"], ["a"]), *FORMS["half last"][3:]],
    "another factor": [*FORMS["half last"][:4], node("Mul", ["p", "two"], ["y"])],
    "x twice": [*HEAD, node("Mul", ["x", "a"], ["p"]), node("Mul", ["p", "x"], ["y"])],
    "another image": [*HEAD, node("Mul", ["z", "a"], ["p"]), node("Mul", ["p", "half"], ["y"])],
    "read twice": [*FORMS["half last"][:4], node("Mul", ["p", "half"], ["q"]), node("Add", ["q", "a"], ["y"])],
    "wider": [*HEAD, node("Mul", ["x", "a"], ["p"]), node("Mul", ["p", "halves"], ["y"])],
}


def built(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    numbers = {"root": 1.41421354, "factor": math.sqrt(0.5), "one": 1, "half": 0.5, "two": 2}
    arrays = {name: np.array(number, np.float32) for name, number in numbers.items()}
    arrays["halves"] = np.full((1, 1, 1, 1), 0.5, np.float32)
    used = {name for made in nodes for name in made.input}
    inputs = {name: SHAPE for name in ("x", "z") if name in used}
    return model(nodes, inputs, ["y"], {name: array for name, array in arrays.items() if name in used})


def folded(proto: onnx.ModelProto, kept: Any = ()) -> int:
    graph = load(proto).graph
    graph.infer()
    return fold_gelus(graph, kept)


@pytest.mark.parametrize("nodes", FORMS.values(), ids=FORMS)
def test_single_ops_become_one(nodes: list[onnx.NodeProto]) -> None:
    assert folded(built(nodes)) == 1


@pytest.mark.parametrize("nodes", OTHERS.values(), ids=OTHERS)
def test_other_products_stay(nodes: list[onnx.NodeProto]) -> None:
    assert folded(built(nodes)) == 0


@pytest.mark.parametrize("kept", ["e", "a", "p"])
def test_a_value_that_is_asked_for_stays(kept: str) -> None:
    assert folded(built(FORMS["half last"]), {kept}) == 0


@pytest.mark.parametrize("nodes", [*FORMS.values(), [node("Gelu", ["x"], ["y"])]], ids=[*FORMS, "one op"])
def test_values_and_gradients_are_those_of_torch(nodes: list[onnx.NodeProto]) -> None:
    proto = built(nodes)
    x, dy, vector = 3 * normal(*SHAPE), normal(*SHAPE, seed=5), normal(*SHAPE, seed=6)
    x.reshape(-1)[:6] = 0, -0.0, 12, -12, 1e-30, 5.9
    feeds = {"x": x, "cotangent/y": dy}
    found = run(gradient(proto, wrt=["x"]), feeds)
    found |= run(hessian_product(proto, wrt=["x"]), {**feeds, "vector/x": vector})
    wide = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y = torch.nn.functional.gelu(wide)
    (dx,) = torch.autograd.grad(y, wide, torch.tensor(dy, dtype=torch.float64), create_graph=True)
    (curved,) = torch.autograd.grad(dx, wide, torch.tensor(vector, dtype=torch.float64))
    for name, expected in {"y": y, "grad/x": dx, "hessian/x": curved}.items():
        np.testing.assert_allclose(found[name], expected.detach().numpy(), rtol=2e-6, atol=2e-6, err_msg=name)
