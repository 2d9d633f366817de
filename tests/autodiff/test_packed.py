"""Products with weights of few bits, packed into bytes, and values that are scaled by blocks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import caffestat
from caffestat.errors import GradientError

from ..graph.models import model, normal, run

N, K, BLOCK = 9, 70, 32
BLOCKS = 3  # the last is filled up


def packed(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Return integers as bytes along the last axis, the first in the lowest bits."""
    per = 8 // bits
    return sum(numbers[..., i::per] << (bits * i) for i in range(per)).astype(np.uint8)  # type: ignore[union-attr]


def product(bits: int, zero: str) -> tuple[onnx.ModelProto, np.ndarray, np.ndarray]:
    """Return x wᵀ + b by packed weights, w, and the numbers that each block's scale multiplies."""
    rng = np.random.default_rng(bits)
    q = rng.integers(0, 2**bits, (N, BLOCKS, BLOCK))
    arrays = {"q": packed(q, bits), "scale": rng.uniform(0.01, 0.1, (N, BLOCKS)).astype(np.float32)}
    zeros = np.full((N, BLOCKS), 2.0 ** (bits - 1))
    if zero == "packed":
        whole = rng.integers(0, 2**bits, (N, -(-BLOCKS * bits // 8) * 8 // bits))
        arrays["zero"], zeros = packed(whole, bits), whole[:, :BLOCKS].astype(np.float64)
    if zero == "float":
        zeros = rng.uniform(0, 7, (N, BLOCKS))
        arrays["zero"] = zeros.astype(np.float32)
    arrays["b"] = normal(N)
    inputs = ["x", "q", "scale", "zero" if zero else "", "", "b"]
    settings = {"bits": bits, "N": N, "K": K, "block_size": BLOCK}
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", **settings)
    proto = model([node], {"x": (2, 3, K)}, ["y"], arrays, 21)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    numbers = (q - zeros[:, :, None]).reshape(N, -1)[:, :K]
    return proto, numbers * np.repeat(arrays["scale"], BLOCK, axis=1)[:, :K], numbers


@pytest.mark.parametrize(("bits", "zero"), [(4, ""), (4, "packed"), (4, "float"), (8, "packed"), (2, "packed")])
def test_gradients_of_products_with_packed_weights(bits: int, zero: str) -> None:
    proto, w, numbers = product(bits, zero)
    x, dy = normal(2, 3, K, seed=1), normal(2, 3, N, seed=2)
    found = run(caffestat.gradient(proto, wrt=["x", "scale", "b"]), {"x": x, "cotangent/y": dy})
    np.testing.assert_allclose(found["y"], x @ w.T + run_bias(proto), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["grad/x"], dy @ w, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found["grad/b"], dy.sum((0, 1)), rtol=1e-5)
    each = np.pad(np.einsum("abn,abk->nk", dy, x) * numbers, ((0, 0), (0, BLOCKS * BLOCK - K)))
    np.testing.assert_allclose(found["grad/scale"], each.reshape(N, BLOCKS, BLOCK).sum(2), rtol=1e-4, atol=1e-3)


def run_bias(proto: onnx.ModelProto) -> np.ndarray:
    return next(onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer if tensor.name == "b")


def test_packed_weights_are_counted(tmp_path: Path) -> None:
    onnx.save(product(4, "packed")[0], tmp_path / "packed.onnx")
    report = caffestat.analyze(tmp_path / "packed.onnx", static=True)
    (row,) = (layer for layer in report.layers if layer.params)
    assert (report.totals.params, report.totals.macs, report.totals.is_complete) == (N * K + N, 6 * N * K, True)
    assert (row.params[0].count, row.params[0].fan_in, row.params[0].fan_out) == (N * K, K, N)


def test_packings_without_a_gradient_are_named() -> None:
    with pytest.raises(GradientError, match=r"MatMulNBits \(value y\): no gradient is known of 3 bits"):
        proto = product(8, "")[0]
        next(found for found in proto.graph.node[0].attribute if found.name == "bits").i = 3
        caffestat.gradient(proto, wrt=["x"])


@pytest.mark.parametrize("axis", [0, 1])
def test_gradients_of_scales_of_blocks(axis: int) -> None:
    x = np.random.default_rng(0).integers(-9, 9, (6, 8)).astype(np.int8)
    shape = (2, 8) if axis == 0 else (6, 3)
    block = 3
    scale, zero = normal(*shape, seed=1), np.random.default_rng(2).integers(-3, 3, shape).astype(np.int8)
    node = helper.make_node("DequantizeLinear", ["x", "scale", "zero"], ["y"], axis=axis, block_size=block)
    proto = model([node], {"scale": shape}, ["y"], {"x": x, "zero": zero}, 21)
    dy = normal(6, 8, seed=3)
    found = run(caffestat.gradient(proto, wrt=["scale"]), {"scale": scale, "cotangent/y": dy})
    places = np.arange(x.shape[axis]) // block
    wide = np.take(zero.astype(np.float64), places, axis)
    np.testing.assert_allclose(found["y"], (x - wide) * np.take(scale, places, axis), rtol=1e-6)
    expected = np.zeros(shape)
    index = (places[:, None], slice(None)) if axis == 0 else (slice(None), places)
    np.add.at(expected, (places,) if axis == 0 else index, dy * (x - wide))
    np.testing.assert_allclose(found["grad/scale"], expected, rtol=1e-5)
