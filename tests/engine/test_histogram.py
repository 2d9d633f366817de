"""Histograms, and samples that are taken inside a graph."""

from __future__ import annotations

import numpy as np

from caffestat.engine import CPU, Compiled
from caffestat.engine.histogram import Samples, histogram, stride
from caffestat.graph import Graph


def test_a_histogram_counts_every_finite_value() -> None:
    values = np.array([[0.0, 0.0, 1.0], [-2.0, np.nan, np.inf]], np.float32)
    found = histogram(values)
    assert found is not None
    assert (found.low, found.high, sum(found.counts)) == (-2.0, 1.0, 4)
    assert (found.zeros, found.not_finite, found.sampled, found.total) == (2, 2, 6, 6)
    assert (found.counts[0], found.counts[-1]) == (1, 1)


def test_values_that_are_all_the_same_have_one_bin() -> None:
    found = histogram(np.full((3, 2), 0.25, np.float32))
    assert found is not None
    assert (found.low, found.high, max(found.counts)) == (0.25, 0.25, 6)
    assert histogram(np.array([np.nan], np.float32)) is None


def test_values_at_the_ends_of_float32_have_a_histogram() -> None:
    found = histogram(np.array([-3.4e38, 3.4e38, 0], np.float32))
    assert found is not None
    assert sum(found.counts) == 3


def test_a_stride_meets_every_row_and_column() -> None:
    for shape in ((64, 20, 24, 24), (8, 500), (7,), (1, 1)):
        count = int(np.prod(shape))
        step = stride(count, 4096)
        taken = np.unravel_index(np.arange(0, count, step), shape)
        assert len(taken[0]) >= min(count, 4000)
        for places, size in zip(taken, shape, strict=True):
            assert len(set(places.tolist())) == min(size, len(places))


def test_samples_are_elements_of_the_value() -> None:
    graph = Graph()
    y = graph.declare(graph.emit("Neg", graph.input("x", (6, 5, 7))), (6, 5, 7))
    samples: Samples[str] = Samples(graph, 50)
    samples.ask("y", y)
    graph.outputs = samples.outputs
    x = np.arange(210, dtype=np.float32).reshape(6, 5, 7)
    outputs = Compiled(graph, CPU).run({"x": x})
    found = samples.read(outputs)["y"]
    (taken,) = outputs.values()
    assert set(taken.tolist()) <= set((-x).ravel().tolist())
    assert 15 <= found.sampled <= 50
    assert (found.total, found.high) == (210, 0.0)
