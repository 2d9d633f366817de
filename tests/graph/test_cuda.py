"""What the CUDA provider gets computes what the ops themselves do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from caffestat.engine import Compiled
from caffestat.graph import CONTRIB, OPSET, Graph
from caffestat.graph.expand import expand

Emit = Callable[..., str]


def check(emit: Emit, *arrays: np.ndarray, gone: Sequence[str]) -> Graph:
    """Assert that what CUDA gets computes what `emit(graph, *names)` does, without some ops, and return it."""
    g = Graph()
    feeds = {f"x{number}": array for number, array in enumerate(arrays)}
    y = emit(g, *(g.input(name, array.shape, array.dtype) for name, array in feeds.items()))
    g.infer()
    g.outputs = [y]
    of_cuda = expand(g, [y], "cuda")
    assert not {node.op for node in of_cuda.nodes}.intersection(gone)
    expected, found = Compiled(g).run(feeds)[y], Compiled(of_cuda).run(feeds)[y]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected[np.isfinite(expected)]).max())
    return of_cuda


def normal(*shape: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(len(shape)).standard_normal(shape, np.float32) + np.float32(0.2))


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean"])
@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axes", [(0, 2, 3), (0, -2, -1)])
def test_sums_over_all_but_channels(op: str, keepdims: int, axes: Sequence[int]) -> None:
    of_cuda = check(lambda g, x: g.emit(op, x, g.ints(*axes), keepdims=keepdims), normal(5, 7, 20, 31), gone=())
    assert "MatMul" in {node.op for node in of_cuda.nodes}


@pytest.mark.parametrize("axes", [(0, 1, 3), (2, 3), (0, 1, 2, 3)])
def test_other_sums_stay(axes: Sequence[int]) -> None:
    check(lambda g, x: g.emit("ReduceSum", x, g.ints(*axes)), normal(5, 7, 20, 31), gone=["MatMul"])


@pytest.mark.parametrize("pads", [(0, 0, 1, 2, 0, 0, 3, 0), (1, 0, 0, 0, 0, 2, 0, 1), (0,) * 8])
@pytest.mark.parametrize("fill", [None, -np.inf, 2.0])
def test_padding(pads: Sequence[int], fill: float | None) -> None:
    def emit(g: Graph, x: str) -> str:
        more = [] if fill is None else [g.constant(fill)]
        return g.emit("Abs", g.emit("Pad", x, g.ints(*pads), *more))

    check(emit, normal(3, 7, 29, 31), gone=["Pad"])


def test_padding_by_other_rules_stays() -> None:
    check(lambda g, x: g.emit("Pad", x, g.ints(0, 1, 0, 2), mode="reflect"), normal(130, 140), gone=["Concat"])
    check(lambda g, x: g.emit("Pad", x, g.ints(0, -1, 0, 2)), normal(130, 140), gone=["Concat"])


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 0, 0, 1)])
def test_rounding_up_becomes_padding(op: str, pads: Sequence[int]) -> None:
    how: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 3], "pads": list(pads), "ceil_mode": 1}
    of_cuda = check(lambda g, x: g.emit(op, x, **how), normal(2, 3, 8, 12), gone=())
    assert [node.get("ceil_mode", 0) for node in of_cuda.nodes] == [0]
    assert of_cuda.to_onnx(provider="cuda").opset_import[0].version == 21
    assert of_cuda.to_onnx().opset_import[0].version == OPSET


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 0, 0, 1)])
def test_indices_are_those_of_the_first_row(pads: Sequence[int]) -> None:
    x = np.random.default_rng(0).integers(0, 2, (2, 3, 7, 9)).astype(np.float32)  # most windows have equal elements
    how: dict[str, Any] = {"kernel_shape": [3, 2], "strides": [2, 3], "pads": list(pads), "ceil_mode": 1}
    for output in range(2):
        of_cuda = check(lambda g, x, n=output: g.emit_many("MaxPool", x, count=2, **how)[n], x, gone=())
        assert all(len(node.outputs) == 1 for node in of_cuda.nodes)


def test_dilated_windows_get_a_padded_image() -> None:
    how: dict[str, Any] = {"kernel_shape": [2, 3], "dilations": [1, 2], "pads": [0, 1, 0, 2]}
    of_cuda = check(lambda g, x: g.emit("MaxPool", x, **how), normal(2, 3, 8, 12), gone=())
    assert [node.attributes["pads"] for node in of_cuda.nodes if "dilations" in node.attributes] == [[0] * 4]


def test_a_divisor_that_counts_padding_keeps_its_rounding() -> None:
    how: dict[str, Any] = {"kernel_shape": [3], "strides": [2], "ceil_mode": 1, "count_include_pad": 1}
    of_cuda = check(lambda g, x: g.emit("AveragePool", x, **how), normal(2, 3, 8), gone=())
    assert of_cuda.to_onnx(provider="cuda").opset_import[0].version == OPSET


@pytest.mark.parametrize("bias", [True, False])
def test_pointwise_convolutions_are_products(bias: bool) -> None:
    arrays = [normal(2, 5, 4, 6), normal(7, 5, 1, 1), normal(7)][: 3 if bias else 2]
    check(lambda g, *names: g.emit("Conv", *names), *arrays, gone=["Conv"])


def test_strides_of_a_single_place_do_not_matter() -> None:
    arrays = normal(2, 5, 1, 1), normal(7, 5, 1, 1)
    check(lambda g, *names: g.emit("Conv", *names, strides=[2, 3]), *arrays, gone=["Conv"])


def test_other_convolutions_stay() -> None:
    for attributes, channels in (({"strides": [2, 2]}, 5), ({"group": 5}, 1), ({"pads": [0, 1, 1, 0]}, 5)):
        arrays = normal(2, 5, 4, 6), normal(10, channels, 1, 1)
        check(lambda g, *names, how=attributes: g.emit("Conv", *names, **how), *arrays, gone=["MatMul"])


def test_integers_are_clipped_by_max_and_min() -> None:
    x = np.arange(-7, 8, dtype=np.int32)
    check(lambda g, x: g.emit("Clip", x, g.constant(-3, np.int32), g.constant(4, np.int32)), x, gone=["Clip"])
    check(lambda g, x: g.emit("Clip", x, "", g.constant(4, np.int32)), x, gone=["Clip", "Max"])


@pytest.mark.parametrize("of_unknown_shape", [False, True])
def test_integers_are_clipped_whose_shape_is_not_known(of_unknown_shape: bool) -> None:
    """As in what a late op emits."""
    g = Graph()
    total = g.emit("Add", g.input("x", (3,), np.int32), g.constant(1, np.int32))
    if not of_unknown_shape:
        g.declare(total, (3,), np.int32)
    g.outputs = [g.emit("Clip", total, g.constant(0, np.int32))]
    assert [node.op for node in expand(g, g.outputs, "cuda").nodes] == ["Add", "Max"]


def test_integers_are_padded_by_concatenation() -> None:
    x = np.arange(6).reshape(2, 3)
    check(lambda g, x: g.emit("Pad", x, g.ints(0, 1, 2, 0), g.constant(-1, np.int64)), x, gone=["Pad"])


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
@pytest.mark.parametrize(("axis", "keepdims"), [(1, 1), (-1, 0), (0, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_the_place_of_an_extreme(op: str, last: int, axis: int, keepdims: int, dtype: Any) -> None:
    x = np.random.default_rng(0).integers(-2, 2, (3, 5, 7)).astype(dtype)
    attributes = {"axis": axis, "keepdims": keepdims, "select_last_index": last}
    check(lambda g, x: g.emit(op, x, **attributes), x, gone=[op])


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [0, 1])
def test_samples_of_a_grid(mode: str, padding: str, corners: int) -> None:
    grid = np.random.default_rng(1).uniform(-1.3, 1.3, (2, 4, 5, 2)).astype(np.float32)
    attributes = {"mode": mode, "padding_mode": padding, "align_corners": corners}
    of_cuda = check(lambda g, x, grid: g.emit("GridSample", x, grid, **attributes), normal(2, 3, 6, 7), grid, gone=())
    assert {node.domain for node in of_cuda.nodes} == {CONTRIB}


def test_normalization_by_groups() -> None:
    arrays = normal(2, 6, 4, 5), normal(6), normal(6)
    check(lambda g, *names: g.emit("GroupNormalization", *names, num_groups=3), *arrays, gone=["GroupNormalization"])


def test_mean_of_inputs() -> None:
    check(lambda g, *names: g.emit("Mean", *names), *(normal(3, 4) * k for k in (1, 2, 5)), gone=["Mean"])


def test_the_tail_of_softplus() -> None:
    x = np.float32([-80, -30, -17.5, -5, -0.1, 0, 0.3, 4, 30, 800])
    check(lambda g, x: g.emit("Softplus", x), x, gone=["Softplus"])
    g = Graph()
    g.outputs = [g.emit("Softplus", g.input("x", x.shape))]
    (found,) = Compiled(expand(g, g.outputs, "cuda")).run({"x": x}).values()
    np.testing.assert_allclose(found[1:], np.logaddexp(0, x[1:].astype(np.float64)), rtol=2e-3)
