"""Gradients of mixtures of experts, beside torch in double precision."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import caffestat
from caffestat.errors import GradientError

from ..graph.models import model, normal, run

EXPERTS, SIZE, HIDDEN, TOKENS = 4, 6, 5, (2, 3)


def mixture(kind: str, k: int, biased: bool = True, **settings: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    wide = 2 * HIDDEN if kind == "swiglu" else HIDDEN
    arrays = {"w1": normal(EXPERTS, wide, SIZE, seed=1), "w2": normal(EXPERTS, SIZE, HIDDEN, seed=2)}
    if biased:
        arrays |= {"b1": normal(EXPERTS, wide, seed=3), "b2": normal(EXPERTS, SIZE, seed=4)}
    inputs = ["x", "r", "w1", "b1" if biased else "", "w2", "b2" if biased else ""]
    node = helper.make_node("MoE", inputs, ["y"], domain="com.microsoft", k=k, activation_type=kind, **settings)
    proto = model([node], {"x": (*TOKENS, SIZE), "r": (6, EXPERTS)}, ["y"], arrays, 21)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto, arrays


def by_torch(x: Any, r: Any, w: dict[str, Any], kind: str, k: int, settings: dict[str, Any]) -> Any:
    torch = pytest.importorskip("torch")
    f = torch.nn.functional
    likely = torch.softmax(r, 1)
    gates = likely * torch.zeros_like(likely).scatter(1, likely.topk(k).indices, 1.0)
    if settings.get("normalize_routing_weights"):
        gates = gates / gates.sum(1, keepdim=True)
    hidden = torch.einsum("tk,efk->etf", x.reshape(-1, SIZE), w["w1"]) + w["b1"][:, None]
    if kind == "swiglu":
        gate, linear = hidden[..., ::2], hidden[..., 1::2]
        limit = settings.get("swiglu_limit", np.inf)
        gate, linear = gate.clamp(max=limit), linear.clamp(-limit, limit)
        alpha, beta = settings.get("activation_alpha", 1.0), settings.get("activation_beta", 0.0)
        made = gate * torch.sigmoid(alpha * gate) * (linear + beta)
    else:
        forms = {"relu": f.relu, "silu": f.silu, "gelu": lambda v: f.gelu(v, approximate="tanh")}
        made = forms[kind](hidden) if kind in forms else hidden
    each = torch.einsum("etf,ehf->eth", made, w["w2"]) + w["b2"][:, None]
    return torch.einsum("te,eth->th", gates, each).reshape(x.shape)


@pytest.mark.parametrize(
    ("kind", "k", "settings"),
    [
        ("relu", 1, {}),
        ("gelu", 2, {"normalize_routing_weights": 1}),
        ("silu", 2, {}),
        ("identity", EXPERTS, {}),
        ("swiglu", 2, {"swiglu_fusion": 1, "activation_alpha": 1.7, "activation_beta": 1.0, "swiglu_limit": 0.5}),
        ("swiglu", 1, {"swiglu_fusion": 1}),
    ],
)
def test_gradients_of_a_mixture_of_experts(kind: str, k: int, settings: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    proto, arrays = mixture(kind, k, **settings)
    feeds = {"x": normal(*TOKENS, SIZE, seed=5), "r": normal(6, EXPERTS, seed=6)}
    dy = normal(*TOKENS, SIZE, seed=7)
    found = run(caffestat.gradient(proto), {**feeds, "cotangent/y": dy})
    given = feeds | arrays
    exact = {name: torch.tensor(array, dtype=torch.float64).requires_grad_() for name, array in given.items()}
    y = by_torch(exact["x"], exact["r"], exact, kind, k, settings)
    y.backward(torch.tensor(dy, dtype=torch.float64))
    np.testing.assert_allclose(found["y"], y.detach(), rtol=1e-4, atol=1e-4)
    for name, value in exact.items():
        np.testing.assert_allclose(found[f"grad/{name}"], value.grad, rtol=1e-4, atol=1e-4, err_msg=name)


def test_experts_without_biases_have_the_gradients_of_zero_biases() -> None:
    feeds = {"x": normal(*TOKENS, SIZE, seed=5), "r": normal(6, EXPERTS, seed=6), "cotangent/y": normal(*TOKENS, SIZE)}
    plain, full = mixture("silu", 2, biased=False)[0], mixture("silu", 2)[0]
    for tensor in full.graph.initializer:
        if tensor.name in ("b1", "b2"):
            tensor.raw_data = bytes(len(tensor.raw_data))
    found, expected = (run(caffestat.gradient(proto, wrt=["x", "r", "w1"]), feeds) for proto in (plain, full))
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_the_multiply_adds_of_a_mixture_are_those_of_the_chosen_experts(tmp_path: Any) -> None:
    onnx.save(mixture("swiglu", 3, swiglu_fusion=1)[0], tmp_path / "experts.onnx")
    totals = caffestat.analyze(tmp_path / "experts.onnx", static=True).totals
    assert (totals.macs, totals.is_complete) == (6 * 3 * (2 * HIDDEN * SIZE + HIDDEN * SIZE), True)
    assert totals.params == EXPERTS * (2 * HIDDEN * (SIZE + 1) + SIZE * (HIDDEN + 1))


def test_quantized_experts_are_named() -> None:
    node = helper.make_node("QMoE", ["x", "r", "w1", "s1", "", "w2", "s2"], ["y"], domain="com.microsoft", k=1)
    arrays = {"w1": np.ones((2, 8, 8), np.uint8), "s1": normal(2, 8), "w2": np.ones((2, 16, 4), np.uint8)}
    proto = model([node], {"x": (3, 16), "r": (3, 2)}, ["y"], {**arrays, "s2": normal(2, 16)}, 21)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(GradientError, match=r"no gradient rule for op QMoE of com.microsoft \(value y\)"):
        caffestat.gradient(proto, wrt=["x"])
