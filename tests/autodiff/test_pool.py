"""Gradients of pooling against their definitions."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from caffestat.autodiff import backward
from caffestat.graph import Graph

from .support import difference, largest_constant, op_gradients, run

RANDOM = np.random.default_rng(3)
WINDOWS = [
    # image, kernel, strides, begins, ends, ceil_mode
    ((9, 7), (3, 2), (2, 1), (0, 0), (0, 0), 0),
    ((9, 8), (3, 3), (2, 3), (1, 0), (1, 2), 0),
    ((8, 6), (2, 3), (2, 3), (0, 0), (0, 0), 0),
    ((8, 7), (3, 3), (2, 2), (0, 1), (0, 1), 1),
    ((7, 6), (2, 2), (3, 4), (0, 0), (0, 0), 0),
    ((6, 5), (3, 4), (1, 1), (1, 2), (1, 0), 0),
    ((5, 6), (5, 6), (1, 1), (0, 0), (0, 0), 0),
    ((5, 7), (2, 2), (2, 2), (0, 0), (1, 1), 0),
    ((11,), (4,), (3,), (2,), (1,), 0),
    ((5, 4, 6), (2, 3, 2), (2, 1, 2), (1, 0, 0), (0, 1, 0), 0),
]


def attributes(kernel: Any, strides: Any, begins: Any, ends: Any, ceil_mode: int, **more: Any) -> dict[str, Any]:
    pads = [*begins, *ends]
    return {"kernel_shape": list(kernel), "strides": list(strides), "pads": pads, "ceil_mode": ceil_mode, **more}


def forward(op: str, x: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    graph = Graph()
    graph.outputs = [graph.emit(op, graph.input("x", x.shape), **how)]
    return run(graph, {"x": x})[0]


def places(size: Any, out: Any, how: dict[str, Any]) -> Any:
    """Yield (place, the image's elements it sees, in scan order)."""
    axes = range(len(size))
    strides, begins, dilations = how["strides"], how["pads"], how.get("dilations", [1] * len(size))
    for place in np.ndindex(*out):
        taps = product(*(range(k) for k in how["kernel_shape"]))
        seen = (tuple(place[i] * strides[i] - begins[i] + tap[i] * dilations[i] for i in axes) for tap in taps)
        yield place, [at for at in seen if all(0 <= i < n for i, n in zip(at, size, strict=True))]


def first_maximum(x: np.ndarray, dy: np.ndarray, how: dict[str, Any]) -> np.ndarray:
    dx = np.zeros_like(x)
    for n, c in np.ndindex(*x.shape[:2]):
        for place, seen in places(x.shape[2:], dy.shape[2:], how):
            best = max(seen, key=lambda at: x[n, c][at])  # max keeps the first of equals
            dx[n, c][best] += dy[n, c][place]
    return dx


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_max_pool_gives_dy_to_the_first_largest(case: Any, provider: str) -> None:
    size, *window = case
    x = RANDOM.integers(0, 4, (2, 3, *size)).astype(np.float32)  # few values: ties in almost every window
    how = attributes(*window)
    y = forward("MaxPool", x, how)
    dy = RANDOM.normal(size=y.shape).astype(np.float32)
    actual = op_gradients(lambda g, x: g.emit("MaxPool", x, **how), [x], dy, provider)
    assert difference(actual[1], first_maximum(x, dy, how)) < 1e-6


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_max_pool_with_dilation(provider: str) -> None:
    x = RANDOM.integers(0, 5, (2, 3, 9, 8)).astype(np.float32)
    how = attributes((3, 2), (2, 1), (1, 0), (1, 1), 0, dilations=[2, 3])
    dy = RANDOM.normal(size=forward("MaxPool", x, how).shape).astype(np.float32)
    actual = op_gradients(lambda g, x: g.emit("MaxPool", x, **how), [x], dy, provider)
    assert difference(actual[1], first_maximum(x, dy, how)) < 1e-6


def test_max_pool_of_negative_numbers_ignores_padding() -> None:
    x = -1 - RANDOM.random((2, 3, 5, 4)).astype(np.float32)
    how = attributes((3, 3), (2, 2), (1, 1), (1, 1), 0)
    dy = np.ones(forward("MaxPool", x, how).shape, np.float32)
    actual = op_gradients(lambda g, x: g.emit("MaxPool", x, **how), [x], dy, "cuda")
    assert difference(actual[1], first_maximum(x, dy, how)) == 0


def test_max_pool_survives_nan() -> None:
    x = RANDOM.normal(size=(2, 3, 6, 5)).astype(np.float32)
    x[0, 1] = np.nan
    for window in (((2, 1), (2, 1)), ((3, 3), (2, 2))):
        how = attributes(*window, (0, 0), (0, 0), 0)
        dy = np.ones(forward("MaxPool", x, how).shape, np.float32)
        dx = op_gradients(lambda g, x: g.emit("MaxPool", x, **how), [x], dy)[1]  # noqa: B023  called at once
        assert difference(dx[1], first_maximum(x, dy, how)[1]) == 0


def divisor(size: Any, place: Any, seen: int, how: dict[str, Any]) -> int:
    if not how["count_include_pad"]:
        return seen
    rank, count = len(size), 1
    dilations = how.get("dilations", [1] * rank)
    for axis, position in enumerate(place):
        start = position * how["strides"][axis] - how["pads"][axis]
        taps = (start + t * dilations[axis] for t in range(how["kernel_shape"][axis]))
        count *= sum(at < size[axis] + how["pads"][rank + axis] for at in taps)
    return count


def mean_and_gradient(x: np.ndarray, dy: np.ndarray, how: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    y, dx = np.zeros_like(dy), np.zeros_like(x)
    for place, seen in places(x.shape[2:], dy.shape[2:], how):
        by = divisor(x.shape[2:], place, len(seen), how)
        for at in seen:
            y[(..., *place)] += x[(..., *at)] / by
            dx[(..., *at)] += dy[(..., *place)] / by
    return y, dx


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize("include", [0, 1])
@pytest.mark.parametrize("case", WINDOWS, ids=str)
def test_average_pool_spreads_dy_over_each_window(case: Any, include: int, provider: str) -> None:
    size, *window = case
    x = RANDOM.normal(size=(2, 3, *size)).astype(np.float32)
    how = attributes(*window, count_include_pad=include)
    dy = RANDOM.normal(size=forward("AveragePool", x, how).shape).astype(np.float32)
    y, dx = op_gradients(lambda g, x: g.emit("AveragePool", x, **how), [x], dy, provider)
    expected = mean_and_gradient(x, dy, how)
    assert difference(y, expected[0]) < 1e-5
    assert difference(dx, expected[1]) < 1e-5


def test_average_pool_with_dilation() -> None:
    x = RANDOM.normal(size=(2, 3, 9, 8)).astype(np.float32)
    how = attributes((3, 2), (1, 1), (1, 0), (1, 1), 0, dilations=[2, 3], count_include_pad=1)
    dy = RANDOM.normal(size=forward("AveragePool", x, how).shape).astype(np.float32)
    dx = op_gradients(lambda g, x: g.emit("AveragePool", x, **how), [x], dy)[1]
    assert difference(dx, mean_and_gradient(x, dy, how)[1]) < 1e-5


@pytest.mark.parametrize("auto_pad", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_automatic_padding_is_worked_out(op: str, auto_pad: str) -> None:
    x = RANDOM.normal(size=(2, 3, 8, 7)).astype(np.float32)
    begins = [0, 1] if auto_pad == "SAME_UPPER" else [1, 1]  # 8 wants 1 in all, 7 wants 2
    explicit = attributes((3, 3), (2, 2), begins, [1 - begins[0], 1], 0)
    automatic = {name: value for name, value in explicit.items() if name != "pads"} | {"auto_pad": auto_pad}
    dy = RANDOM.normal(size=forward(op, x, explicit).shape).astype(np.float32)
    expected = op_gradients(lambda g, x: g.emit(op, x, **explicit), [x], dy)
    actual = op_gradients(lambda g, x: g.emit(op, x, **automatic), [x], dy)
    assert difference(actual[0], expected[0]) < 1e-6
    assert difference(actual[1], expected[1]) < 1e-6


@pytest.mark.parametrize("size", [(5, 4), (7,), (3, 2, 4)])
def test_global_pooling(size: tuple[int, ...]) -> None:
    x = RANDOM.integers(0, 4, (2, 3, *size)).astype(np.float32)
    dy = RANDOM.normal(size=(2, 3, *[1] * len(size))).astype(np.float32)
    whole = attributes(size, [1] * len(size), [0] * len(size), [0] * len(size), 0)
    largest = op_gradients(lambda g, x: g.emit("GlobalMaxPool", x), [x], dy)[1]
    mean = op_gradients(lambda g, x: g.emit("GlobalAveragePool", x), [x], dy)[1]
    assert difference(largest, first_maximum(x, dy, whole)) < 1e-6
    assert difference(mean, np.broadcast_to(dy, x.shape) / np.prod(size)) < 1e-6


def test_constants_stay_linear_on_long_axes() -> None:
    """A band matrix per axis would have 1.6 M elements."""
    x = RANDOM.normal(size=(2, 3, 2000)).astype(np.float32)

    def build(g: Graph, name: str) -> str:
        return g.emit("AveragePool", name, kernel_shape=[900], strides=[3], pads=[7, 5], count_include_pad=0)

    y = op_gradients(build, [x], np.zeros((2, 3, 371), np.float32))[0]
    dy = RANDOM.normal(size=y.shape).astype(np.float32)
    (_, dx) = op_gradients(build, [x], dy)
    assert difference(dx, _spread(dy, 2000, 900, 3, 7)) < 1e-5
    assert largest_constant(build, [x]) <= 2 * 2 * 3 * 2000


def _spread(dy: np.ndarray, size: int, kernel: int, stride: int, pad: int) -> np.ndarray:
    """Give each window's dy in equal shares to the elements of the image that it covers."""
    dx = np.zeros((*dy.shape[:2], size))
    for place in range(dy.shape[2]):
        first, last = max(place * stride - pad, 0), min(place * stride - pad + kernel, size)
        dx[:, :, first:last] += dy[:, :, place : place + 1] / (last - first)
    return dx


@pytest.mark.parametrize("p", [1, 2, 3])
@pytest.mark.parametrize(
    "how",
    [
        {"kernel_shape": [2, 3]},
        {"kernel_shape": [2, 3], "strides": [2, 3]},
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 2, 1]},
        {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1},
        {"kernel_shape": [2, 2], "dilations": [2, 3]},
    ],
    ids=str,
)
def test_pooling_by_a_norm(p: int, how: dict[str, Any]) -> None:
    x = RANDOM.normal(size=(2, 3, 8, 9)).astype(np.float32)
    x[0, 1, :4, :5] = 0  # windows of zeros have no slope
    dy = RANDOM.normal(size=forward("LpPool", x, {**how, "p": p}).shape).astype(np.float32)
    y, dx = op_gradients(lambda g, name: g.emit("LpPool", name, p=p, **how), [x], dy)
    where = windows(x.shape, how, y.shape)
    parts = [np.where(w >= 0, x.reshape(6, -1)[:, np.maximum(w, 0)], 0) for w in where]
    norms = np.stack([(np.abs(part) ** p).sum(1) ** (1 / p) for part in parts], 1)
    np.testing.assert_allclose(y.reshape(norms.shape), norms, rtol=1e-4, atol=1e-5)
    expected = np.zeros((6, 72))
    for number, (w, part) in enumerate(zip(where, parts, strict=True)):
        norm = norms[:, number, None]
        slope = np.sign(part) * np.abs(part) ** (p - 1) / np.where(norm, norm, 1) ** (p - 1)
        for row in range(6):
            np.add.at(expected[row], np.maximum(w, 0), slope[row] * (w >= 0) * dy.reshape(6, -1)[row, number])
    np.testing.assert_allclose(dx.reshape(6, -1), expected, rtol=1e-3, atol=1e-4)


def windows(image: tuple[int, ...], how: dict[str, Any], out: tuple[int, ...]) -> list[np.ndarray]:
    """Return the flat positions that each place's taps have in the image, -1 outside of it."""
    found = []
    pads, strides, dilations = how.get("pads", [0] * 4), how.get("strides", [1, 1]), how.get("dilations", [1, 1])
    for row in range(out[2]):
        for column in range(out[3]):
            at = [
                start * stride - pad + dilation * np.arange(k)
                for start, stride, pad, dilation, k in zip(
                    (row, column), strides, pads, dilations, how["kernel_shape"], strict=False
                )
            ]
            inside = [(a >= 0) & (a < size) for a, size in zip(at, image[2:], strict=True)]
            flat = at[0][:, None] * image[3] + at[1]
            found.append(np.where(np.outer(*inside), flat, -1).ravel())
    return found


@pytest.mark.parametrize("p", [1, 2, 3])
def test_the_norm_of_a_whole_image(p: int) -> None:
    x, dy = RANDOM.normal(size=(2, 3, 4, 5)), RANDOM.normal(size=(2, 3, 1, 1))
    x[1, 2] = 0
    y, dx = op_gradients(
        lambda g, name: g.emit("GlobalLpPool", name, p=p), [x.astype(np.float32)], dy.astype(np.float32)
    )
    norm = (np.abs(x) ** p).sum((2, 3), keepdims=True) ** (1 / p)
    np.testing.assert_allclose(y, norm, rtol=1e-5)
    slope = np.sign(x) * np.abs(x) ** (p - 1) / np.where(norm, norm, 1) ** (p - 1)
    np.testing.assert_allclose(dx, dy * slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("op", ["GlobalAveragePool", "ReduceMean"])
def test_the_mean_leaves_no_factor_for_the_convolution_before(op: str) -> None:
    """The runtime would multiply it into the filters, and run all of its optimizers once more."""
    graph = Graph()
    x = graph.input("x", (2, 3, 4, 5))
    mean = graph.emit(op, x) if op == "GlobalAveragePool" else graph.emit(op, x, graph.ints(2, 3))
    y = graph.emit("Conv", mean, graph.constant(np.ones((6, 3, 1, 1))))
    graph.infer()
    begin = len(graph.nodes)
    backward(graph, {y: graph.input("dy", (2, 6, 1, 1))}, [x])
    found = [node.op for node in graph.nodes[begin:]]
    assert ("Div" in found, "Mul" in found) == (True, False)
