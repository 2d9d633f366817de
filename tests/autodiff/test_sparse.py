"""Gradients that are rows of their value: kept as rows, joined, and put back at once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from caffestat.autodiff import backward
from caffestat.graph import Graph

from .support import difference, op_gradients, run, torch_gradients

torch = pytest.importorskip("torch")

Build = Callable[..., str]


def values(*shape: int, seed: int = 0) -> np.ndarray:
    """Distinct values from 0 to 1 in random order."""
    size = math.prod(shape)
    return np.asarray((np.random.default_rng(seed).permutation(size).reshape(shape) + 0.5) / size, np.float32)


def check(build: Build, reference: Callable[..., Any], *inputs: np.ndarray, dtype: Any = np.float32) -> None:
    """Compare the gradients of all inputs with torch's in float64."""
    inputs = tuple(array.astype(dtype) for array in inputs)
    shape = reference(*map(torch.tensor, inputs)).shape
    dy = np.asarray(values(*shape, seed=9) - 0.3, dtype)
    found, expected = op_gradients(build, inputs, dy), torch_gradients(reference, inputs, dy)
    assert max(map(difference, found, expected)) < (1e-6 if dtype == np.float32 else 2e-3)


def ops(build: Build, *shapes: tuple[int, ...]) -> Counter[str]:
    """Return the ops of the backward half."""
    graph = Graph()
    names = [graph.input(f"x{i}", shape) for i, shape in enumerate(shapes)]
    y = build(graph, *names)
    graph.infer()
    begin = len(graph.nodes)
    backward(graph, {y: graph.input("dy", graph.shape(y))}, names)
    return Counter(node.op for node in graph.nodes[begin:])


# ---- detections: for each class, the best of the boxes that exceed a bound ----

PLACES, CLASSES, BEST = 7, 3, 2
KEPT = (5, 4, 6)  # that exceed the bound, of each class
SCORES = np.stack([np.random.default_rng(k).permutation(PLACES) / 9 + k / 40 for k in range(CLASSES)], 1)
BOUNDS = [float(np.sort(SCORES[:, k])[-kept]) - 0.01 for k, kept in enumerate(KEPT)]
BOXES = values(PLACES, 4, seed=5)


def detect(g: Graph, scores: str, boxes: str, order: Sequence[int] = range(CLASSES), axis: int = 1) -> str:
    """Return [classes · best, 1 + 4]: scores beside boxes."""
    found = {}
    for k in range(CLASSES):
        score = g.emit("Gather", scores, g.constant(k, np.int64), axis=axis)
        mask = g.emit("Greater", score, g.constant(BOUNDS[k]))
        kept = g.declare(g.emit("NonZero", mask), (1, KEPT[k]), np.int64)
        places = g.transpose(kept, 1, 0)
        best, index = g.emit_many("TopK", g.emit("GatherND", score, places), g.ints(BEST), count=2)
        g.declare(index, (BEST,), np.int64)
        found[k] = best, g.emit("Gather", g.emit("GatherND", boxes, places), index)
    best, boxes = (g.emit("Concat", *(found[k][i] for k in order), axis=0) for i in (0, 1))
    return g.emit("Concat", g.emit("Unsqueeze", best, g.ints(1)), boxes, axis=1)


def detect_by_torch(scores: Any, boxes: Any, order: Sequence[int] = range(CLASSES)) -> Any:
    found = []
    for k in order:
        kept = torch.where(scores[:, k] > BOUNDS[k])[0]
        best, index = scores[:, k][kept].topk(BEST)
        found.append(torch.cat([best[:, None], boxes[kept][index]], 1))
    return torch.cat(found)


def test_the_classes_share_boxes_and_keep_different_numbers() -> None:
    best = [set(np.argsort(SCORES[:, k])[-BEST:]) for k in range(CLASSES)]
    assert len(set.union(*best)) < CLASSES * BEST
    assert tuple((SCORES > BOUNDS).sum(0)) == KEPT


@pytest.mark.parametrize("order", [range(CLASSES), (2, 0, 1)])
def test_detections(order: Sequence[int]) -> None:
    check(
        lambda g, scores, boxes: detect(g, scores, boxes, order),
        lambda scores, boxes: detect_by_torch(scores, boxes, order),
        SCORES,
        BOXES,
    )


def test_detections_from_scores_of_which_the_first_axis_is_the_classes() -> None:
    check(
        lambda g, scores, boxes: detect(g, scores, boxes, axis=0),
        lambda scores, boxes: detect_by_torch(scores.T, boxes),
        SCORES.T,
        BOXES,
    )


def test_detections_of_halves() -> None:
    halves = [np.round(array * 1024) / 1024 for array in (SCORES, BOXES)]

    def build(g: Graph, *names: str) -> str:
        wide = (g.declare(g.emit("Cast", name, to=1), g.shape(name)) for name in names)
        return g.emit("Cast", detect(g, *wide), to=10)

    check(build, detect_by_torch, *halves, dtype=np.float16)


def test_all_classes_are_put_back_at_once() -> None:
    """A Gather per class finds the places; one scatter serves all boxes, another one all scores."""
    found = ops(detect, (PLACES, CLASSES), (PLACES, 4))
    assert found["ScatterElements"] == 2
    assert found["ScatterND"] == found["Sum"] == found["Pad"] == 0
    assert found["Gather"] == CLASSES


# ---- rows of rows ----

X = values(6, 3) - 0.4


def pick(g: Graph, x: str, *places: int, axis: int = 0, dtype: Any = np.int64) -> str:
    return g.emit("Gather", x, g.constant(np.array(places), dtype), axis=axis)


def test_rows_of_rows_take_one_scatter() -> None:
    def build(g: Graph, x: str) -> str:
        return pick(g, pick(g, x, 5, 0, 3, 3), 2, 0, 2)

    check(build, lambda x: x[[5, 0, 3, 3]][[2, 0, 2]], X)
    found = ops(build, X.shape)
    assert found["ScatterElements"] == found["Gather"] == 1
    assert found["ScatterND"] == 0


def test_places_that_count_from_the_end() -> None:
    check(lambda g, x: pick(g, pick(g, x, -1, 2, -6, 4), -4, 3, -2), lambda x: x[[-1, 2, -6, 4]][[-4, 3, -2]], X)


def one(g: Graph, x: str, place: int, axis: int) -> str:
    return g.emit("Gather", x, g.constant(place, np.int64), axis=axis)


def test_places_from_the_end_of_one_column() -> None:
    check(lambda g, x: pick(g, one(g, x, -2, 1), -1, 3, -1), lambda x: x[:, -2][[-1, 3, -1]], X)


def test_places_from_the_end_of_one_of_several_images() -> None:
    image = values(3, 4, 5, 2)
    check(lambda g, x: pick(g, one(g, x, 1, 0), -1, 2, -4), lambda x: x[1][[-1, 2, -4]], image)
    check(lambda g, x: pick(g, one(g, x, 0, 0), -1, 2, -4), lambda x: x[0][[-1, 2, -4]], image)


def test_one_column_of_one_image_of_several() -> None:
    check(
        lambda g, x: pick(g, one(g, one(g, x, 2, 0), 1, 1), 3, -4, 0),
        lambda x: x[2][:, 1][[3, -4, 0]],
        values(3, 4, 5, 2),
    )


def test_one_column_behind_the_rows() -> None:
    """Rows of y = x[:, :, k] stay rows of x no longer: the whole gradient of y is formed."""
    check(lambda g, x: pick(g, one(g, x, 1, 2), 3, 0, 3), lambda x: x[:, :, 1][[3, 0, 3]], values(4, 5, 2))


def test_places_of_several_axes_and_of_32_bits() -> None:
    table = np.array([[1, 4], [0, 1], [5, 5]])
    check(
        lambda g, x: pick(g, g.emit("Gather", x, g.constant(table, np.int32)), 2, 0, dtype=np.int32),
        lambda x: x[torch.tensor(table)][[2, 0]],
        X,
    )
    check(
        lambda g, x: g.emit("Gather", pick(g, x, 3, 1, 2, 0, 0, 4, dtype=np.int32), g.constant(table, np.int32)),
        lambda x: x[[3, 1, 2, 0, 0, 4]][torch.tensor(table)],
        X,
    )


@pytest.mark.parametrize(("axis", "x"), [(0, X), (1, X.T), (None, X[:, 0])])
def test_rows_of_what_a_mask_keeps(axis: int | None, x: np.ndarray) -> None:
    mask = np.array([1, 0, 1, 1, 0, 1], bool)
    along = axis or 0

    def build(g: Graph, x: str) -> str:
        kept = g.emit("Compress", x, g.constant(mask, bool), **({} if axis is None else {"axis": axis}))
        g.declare(kept, tuple(4 if i == along else size for i, size in enumerate(g.shape(x))))
        return pick(g, kept, 3, 1, 3, axis=along)

    check(build, lambda x: x.movedim(along, 0)[mask][[3, 1, 3]].movedim(0, along), x)


def test_a_value_that_is_also_read_as_a_whole() -> None:
    def build(g: Graph, x: str) -> str:
        y = pick(g, x, 5, 0, 3, 3)
        return g.emit("Concat", pick(g, y, 2, 0, 2), g.emit("Mul", y, y), axis=0)

    check(build, lambda x: torch.cat([x[[5, 0, 3, 3]][[2, 0, 2]], x[[5, 0, 3, 3]] ** 2]), X)


def test_the_gradient_of_what_is_passed_by_as_rows() -> None:
    graph = Graph()
    x = graph.input("x", X.shape)
    y = pick(graph, x, 5, 0, 3, 3)
    z = pick(graph, y, 2, 0, 2)
    graph.infer()
    grads = backward(graph, {z: graph.input("dz", (3, 3))}, [x, y])
    graph.outputs = [grads[x] or "", grads[y] or ""]
    dz = values(3, 3, seed=2)
    dx, dy = run(graph, {"x": X, "dz": dz})
    np.testing.assert_allclose(dy, [dz[1], 0 * dz[0], dz[0] + dz[2], 0 * dz[0]], rtol=1e-6)
    np.testing.assert_allclose(dx, [0 * dz[0]] * 3 + [dz[0] + dz[2], 0 * dz[0], dz[1]], rtol=1e-6)


def test_rows_and_columns_of_one_value() -> None:
    """Two rows, one column and a stretch of rows: each is put back by itself, and they are added up."""
    check(
        lambda g, x: g.emit(
            "Concat",
            *(g.reshape(part, -1) for part in (pick(g, x, 4, 1), pick(g, one(g, x, 2, 1), 0, 0), pick(g, x, 1, 2))),
            axis=0,
        ),
        lambda x: torch.cat([x[[4, 1]].ravel(), x[:, 2][[0, 0]], x[[1, 2]].ravel()]),
        X,
    )


def test_the_gradient_of_the_gradient() -> None:
    """The Hessian of Σ z³/6, z = x[5, 0, 3, 3][2, 0, 2]: z where x was picked, as often as it was."""
    graph = Graph()
    x, vector = graph.input("x", X.shape), graph.input("v", X.shape)
    z = pick(graph, pick(graph, x, 5, 0, 3, 3), 2, 0, 2)
    y = graph.emit("Mul", graph.emit("Mul", z, z), graph.emit("Mul", z, graph.constant(1 / 6)))
    graph.infer()
    dx = backward(graph, {y: graph.constant(np.ones((3, 3)))}, [x])[x] or ""
    graph.outputs = [backward(graph, {dx: vector}, [x])[x] or ""]
    v = values(*X.shape, seed=3)
    expected = v * X * np.array([0, 0, 0, 2, 0, 1])[:, None]
    np.testing.assert_allclose(run(graph, {"x": X, "v": v})[0], expected, rtol=1e-5)
