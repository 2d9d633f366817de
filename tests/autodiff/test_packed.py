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


CODES = (
    [0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4, 0, -1 / 192, -2 / 3, -1, -1 / 3, -1 / 2, -1 / 6, -1 / 4],
    [
        *(-1, -0.69619, -0.52507, -0.39492, -0.28444, -0.18477, -0.09105, 0),
        *(0.07958, 0.16093, 0.24611, 0.33792, 0.44071, 0.56262, 0.72296, 1),
    ],
)


@pytest.mark.parametrize(("kind", "columns"), [(0, 32), (1, 21)])
def test_gradients_of_products_with_codes_of_bitsandbytes(kind: int, columns: int, tmp_path: Path) -> None:
    rows, block = 5, 16
    blocks = -(-rows * columns // block)  # go on from row to row
    codes = np.random.default_rng(kind).integers(0, 16, rows * columns + rows * columns % 2)
    arrays = {"q": (codes[0::2] << 4 | codes[1::2]).astype(np.uint8), "most": abs(normal(blocks)) + 0.1}
    settings = {"K": columns, "N": rows, "block_size": block, "quant_type": kind}
    node = helper.make_node("MatMulBnb4", ["x", "q", "most"], ["y"], domain="com.microsoft", **settings)
    proto = model([node], {"x": (2, 3, columns)}, ["y"], arrays, 21)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    x, dy = normal(2, 3, columns, seed=1), normal(2, 3, rows, seed=2)
    found = run(caffestat.gradient(proto, wrt=["x", "most"]), {"x": x, "cotangent/y": dy})
    numbers = np.array(CODES[kind])[codes[: rows * columns]].reshape(rows, columns)
    w = numbers * np.repeat(arrays["most"], block)[: rows * columns].reshape(rows, columns)
    np.testing.assert_allclose(found["y"], x @ w.T, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found["grad/x"], dy @ w, rtol=1e-3, atol=1e-4)
    each = np.pad((np.einsum("abn,abk->nk", dy, x) * numbers).ravel(), (0, blocks * block - rows * columns))
    np.testing.assert_allclose(found["grad/most"], each.reshape(blocks, block).sum(1), rtol=1e-3, atol=1e-3)
    onnx.save(proto, tmp_path / "codes.onnx")
    totals = caffestat.analyze(tmp_path / "codes.onnx", static=True).totals
    assert (totals.params, totals.macs, totals.is_complete) == (rows * columns, 6 * rows * columns, True)


def rows_of_blocks(form: str) -> tuple[onnx.ModelProto, np.ndarray, int]:
    """Return a model that picks rows of numbers in blocks of 16, the numbers less their zeros, and its axis."""
    rng, axis, along = np.random.default_rng(7), 0, 1
    shape, blocks, settings = (7, 40), (7, 3), dict[str, int]()
    tensors, zeros = [], np.zeros(blocks)
    if form.startswith("bytes"):
        bits = int(form[5:])
        q, settings = rng.integers(0, 2**bits, shape), {"bits": bits}
        zeros += 2 ** (bits - 1)
        tensors.append(onnx.numpy_helper.from_array(packed(q, bits), "q"))
        if bits == 4:
            whole = rng.integers(0, 16, (7, 4))
            zeros = whole[:, :3]
            tensors.append(onnx.numpy_helper.from_array(packed(whole, 4), "zero"))
    elif form == "uint4":
        q = rng.integers(0, 16, shape)
        tensors.append(helper.make_tensor("q", onnx.TensorProto.UINT4, shape, q.ravel().tolist()))
    else:  # blocks along the axis before the one that is picked from
        shape, blocks, axis, along = (40, 7, 2), (3, 7, 2), 1, 0
        q, zeros = rng.integers(-8, 8, shape), rng.integers(-8, 8, blocks)
        kind = onnx.TensorProto.INT4
        tensors.append(helper.make_tensor("q", kind, shape, q.ravel().tolist()))
        tensors.append(helper.make_tensor("zero", kind, blocks, zeros.ravel().tolist()))
    settings |= {"block_size": 16, "gather_axis": axis, "quantize_axis": along}
    names = ["q", "rows", "scale", *(["zero"] if len(tensors) > 1 else [])]
    node = helper.make_node("GatherBlockQuantized", names, ["y"], domain="com.microsoft", **settings)
    proto = model([node], {"scale": blocks}, ["y"], {"rows": np.array([[0, 6, 2], [6, 6, 1]])}, 21)
    proto.graph.initializer.extend(tensors)
    proto.ir_version = 10
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    wide = np.take(zeros, np.arange(40) // 16, along)
    return proto, q - wide, axis


@pytest.mark.parametrize("form", ["bytes2", "bytes4", "bytes8", "uint4", "int4"])
def test_gradients_of_picked_rows_of_blocks(form: str) -> None:
    proto, numbers, axis = rows_of_blocks(form)
    rows, along = np.array([[0, 6, 2], [6, 6, 1]]), 1 - axis
    blocks = [dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim]
    scale = abs(normal(*blocks)) + 0.5
    wide = np.take(scale, np.arange(40) // 16, along)
    y = np.take(numbers * wide, rows, axis)
    dy = normal(*y.shape, seed=2)
    found = run(caffestat.gradient(proto, wrt=["scale"]), {"scale": scale, "cotangent/y": dy})
    np.testing.assert_allclose(found["y"], y, rtol=1e-5, atol=1e-6)
    each = np.zeros(numbers.shape)
    np.add.at(each, (slice(None),) * axis + (rows,), dy)
    expected = np.add.reduceat(each * numbers, [0, 16, 32], along)
    np.testing.assert_allclose(found["grad/scale"], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("form", "params"), [("bytes4", 280), ("bytes8", 280), ("uint4", 280), ("int4", 560)])
def test_picked_rows_of_blocks_are_counted(form: str, params: int, tmp_path: Path) -> None:
    proto = rows_of_blocks(form)[0]
    onnx.save(proto, tmp_path / "rows.onnx")
    report = caffestat.analyze(tmp_path / "rows.onnx", static=True)
    assert [param.count for layer in report.layers for param in layer.params] == [params]


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


@pytest.mark.parametrize("kind", [onnx.TensorProto.UINT4, onnx.TensorProto.INT4])
def test_models_with_weights_of_four_bits_run(kind: int, tmp_path: Path) -> None:
    """The runtime takes no arrays of 4 bits: they stand in the model."""
    q = np.random.default_rng(5).integers(0, 8, (6, 10))
    scale, x = abs(normal(3, 10)) + 0.1, normal(2, 6, seed=1)
    made = [
        helper.make_node("DequantizeLinear", ["q", "scale"], ["w"], axis=0, block_size=2),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    proto = model(made, {"x": (2, 6)}, ["y"], {"scale": scale}, 21)
    proto.graph.initializer.append(helper.make_tensor("q", kind, q.shape, q.ravel().tolist()))
    proto.ir_version = 10
    onnx.save(proto, tmp_path / "small.onnx")
    report = caffestat.analyze(tmp_path / "small.onnx", device="cpu", inputs={"x": x})
    y = x @ (q * np.repeat(scale, 2, axis=0))
    assert report.layers[-1].tops[0].mean_abs == pytest.approx(abs(y).mean(), rel=1e-5)
    assert not any(one.max_error for one in caffestat.compare_values(tmp_path / "small.onnx", tmp_path / "small.onnx"))
