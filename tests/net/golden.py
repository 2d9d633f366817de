"""The golden cases: nets with what real Caffe printed and computed for them."""

from __future__ import annotations

import functools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffestat import layers, net
from caffestat.analysis import Measurement, Runner, draw_feeds
from caffestat.engine import choose_device
from caffestat.fillers import Stream
from caffestat.program import from_net

FOLDER = Path(__file__).parent.parent / "golden"
DEVICE = os.environ.get("CAFFESTAT_TEST_DEVICE", "cpu")
SEED = 1701

CASES = sorted(path.parent.name for path in FOLDER.glob("*/topology.json"))


def topology(case: str) -> dict[str, Any]:
    """Return what Caffe built from the case's net, TRAIN phase."""
    return json.loads((FOLDER / case / "topology.json").read_text())


@functools.cache
def tensors(case: str) -> dict[str, np.ndarray]:
    """Return Caffe's arrays by name, see tests/golden/INDEX.md."""
    with np.load(FOLDER / case / "tensors.npz") as arrays:
        return dict(arrays)


def built(case: str) -> net.Net:
    """Return our net of the case, in the state its topology was built in; skips a case with an unregistered type."""
    folder = FOLDER / case
    source = net.read_net(str(folder / "net.prototxt"))
    for entry in source.layers:
        if layers.layer_class(entry.proto.type) is None:
            pytest.skip(f"layer type {entry.proto.type} is not registered")
    state = {"rules": net.State(net.TRAIN, 2, ("deep",))}.get(case)
    return net.build(source, state)


@functools.cache
def run(case: str) -> tuple[net.Net, list[np.ndarray], Runner, Measurement]:
    """Return the net, its initial params, and one iteration of it with all tensors fetched."""
    graph_net = built(case)
    stream = Stream(SEED)
    values = net.draw_params(graph_net, stream)
    initial = [array.copy() for array in values]
    runner = Runner(from_net(graph_net), values, choose_device(DEVICE)[0], fetch=True)
    feeds = draw_feeds(runner, stream, np.random.default_rng(SEED), zeros=True)
    return graph_net, initial, runner, runner.run(feeds)


def assert_close(ours: np.ndarray, caffes: np.ndarray, what: str, around: float = 0.0) -> None:
    """Compare two tensors to 1e-4 of the largest value of Caffe's.

    around: the size of what flows around it; a tensor that is zero but for rounding is compared to that.
    """
    assert ours.shape == caffes.shape, what
    largest = float(np.abs(caffes).max(initial=0.0))
    worst = float(np.abs(ours - caffes).max(initial=0.0))
    assert worst <= 1e-4 * largest + 2e-7 * around + 1e-12, (
        f"{what}: off by {worst:g} where the largest value is {largest:g}"
    )
