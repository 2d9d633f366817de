"""A graph of one shard, run for all shards: what is fed, summed, averaged and put side by side, and how runs end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from caffestat.engine import Statistics
from caffestat.engine.device import CPU
from caffestat.engine.resident import Memory
from caffestat.engine.sharded import Sharded, _run_together, sums_over_shards
from caffestat.errors import RunError
from caffestat.graph import Graph

SHARDS = 3
X = np.random.default_rng(1).standard_normal((6, 5)).astype(np.float32)
W = np.random.default_rng(2).standard_normal((5, 4)).astype(np.float32)


def product() -> Graph:
    """rows = x w, mean = the mean of all elements of it, gradient = xᵀ(x w), for two of six rows of x."""
    g = Graph()
    x, w = g.input("x", (2, 5)), g.param("w", (5, 4))
    rows = g.declare(g.emit("MatMul", x, w, hint="rows"), (2, 4))
    g.declare(g.emit("ReduceMean", rows, keepdims=0, hint="mean"), ())
    g.declare(g.emit("MatMul", g.transpose(x, 1, 0), rows, hint="gradient"), (5, 4))
    g.outputs = ["rows", "mean", "gradient"]
    return g


def compiled() -> tuple[Sharded, Statistics]:
    graph = product()
    sums = sums_over_shards(graph, ["gradient"], SHARDS)
    statistics = Statistics(sums, "statistics_of_sums")
    statistics.sum_abs("l1", "gradient")
    statistics.finish()
    return Sharded(graph, SHARDS, sums, {}, ()), statistics


def test_outputs_are_those_of_the_whole_batch() -> None:
    run, statistics = compiled()
    names = ["rows", "mean", "gradient", "statistics_of_sums"]
    found = run.run({"x": X}, {"w": W}, names)
    np.testing.assert_allclose(found["rows"], X @ W, rtol=1e-5)
    np.testing.assert_allclose(found["mean"], (X @ W).mean(), rtol=1e-5)
    np.testing.assert_allclose(found["gradient"], X.T @ X @ W, rtol=1e-5)
    assert statistics.read(found)["l1"] == pytest.approx(np.abs(X.T @ X @ W).sum(), rel=1e-5)
    assert list(run.run({"x": X}, {"w": W}, ["rows"])) == ["rows"]


def test_sums_go_into_arrays_and_views_again_and_again() -> None:
    run, _ = compiled()
    target, view = np.zeros((5, 4), np.float32), Memory(np.zeros(20, np.float32), CPU).view(0, (5, 4))
    for factor in (1, 2):
        run.run({"x": factor * X}, {"w": W}, ["gradient"], into={"gradient": target})
        np.testing.assert_allclose(target, factor**2 * X.T @ X @ W, rtol=1e-5)
        run.run({"x": factor * X}, {"w": W}, ["gradient"], into={"gradient": view})
        np.testing.assert_allclose(view.numpy(), factor**2 * X.T @ X @ W, rtol=1e-5)


def test_params_may_be_constant() -> None:
    graph = product()
    run = Sharded(graph, SHARDS, sums_over_shards(graph, (), SHARDS), {"w": W}, ())
    np.testing.assert_allclose(run.run({"x": X}, {}, ["rows"])["rows"], X @ W, rtol=1e-5)


def test_what_fails_in_one_shard_is_raised() -> None:
    g = Graph()
    index = g.input("index", (1,), np.int64)
    g.outputs = [g.declare(g.emit("Gather", g.constant(np.arange(4)), index, hint="y"), (1,))]
    run = Sharded(g, 2, sums_over_shards(g, (), 2), {}, ())
    with pytest.raises(RunError, match="out of data bounds"):
        run.run({"index": np.int64([0, 9])}, {}, ["y"])


def test_the_others_end_when_one_fails() -> None:
    ended = threading.Event()

    def run(number: int, call: Callable[[Callable[[Any], Any]], Any]) -> dict[str, Any]:
        if number:
            raise ValueError("one")
        if call(lambda options: ended.wait(0.01) or wait_for(options)):
            ended.set()
        raise RunError("ended from outside")

    with pytest.raises(ValueError, match="one"):
        _run_together(run, 2)
    assert ended.is_set()


def wait_for(options: Any) -> bool:
    """Wait until a run with these options is to end, at most 10 s."""
    for _ in range(1000):
        if options.terminate:
            return True
        threading.Event().wait(0.01)
    return False
