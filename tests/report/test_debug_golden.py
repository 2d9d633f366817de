"""The train net alone: the debug_info lines of real Caffe's first iteration, same text, order and numbers."""

from __future__ import annotations

import functools
import os
import re
from itertools import takewhile
from pathlib import Path

import pytest

import caffestat
from caffestat.layers import layer_class
from caffestat.net import Solver, load

GOLDEN = Path(__file__).parent.parent / "golden"
DEVICE = os.environ.get("CAFFESTAT_TEST_DEVICE", "cpu")
CASES = sorted(path.parent.name for path in GOLDEN.glob("*/solver.prototxt"))

NUMBER = re.compile(r"(?<![\w.])(?:-?\d+(?:\.\d+)?(?:e[-+]\d+)?|-?inf|-?nan)(?=$|[,)])")


def solver(case: str) -> Solver:
    """Return the case's solver; skips a case with a layer type that is not registered."""
    loaded = load(str(GOLDEN / case / "solver.prototxt"))
    assert isinstance(loaded, Solver)
    for entry in loaded.net.layers:
        if layer_class(entry.proto.type) is None:
            pytest.skip(f"layer type {entry.proto.type} is not registered")
    return loaded


def caffes(case: str) -> list[str]:
    """Return the debug lines of the first forward and backward pass of the train net."""
    lines = (GOLDEN / case / "caffe.log").read_text().splitlines()
    last = next((index for index, line in enumerate(lines) if "All net params" in line), None)
    upto = lines if last is None else lines[: last + 1]
    return list(takewhile(lambda line: line.startswith("    ["), reversed(upto)))[::-1]


@functools.cache
def ours(case: str) -> list[str]:
    return list(caffestat.debug(str(GOLDEN / case / "solver.prototxt"), device=DEVICE, phase="train"))


@pytest.mark.parametrize("case", CASES)
def test_lines_are_caffes(case: str) -> None:
    solver(case)
    expected = caffes(case)
    if not expected:
        pytest.skip("this log has no debug lines")
    assert [NUMBER.sub("#", line) for line in ours(case)] == [NUMBER.sub("#", line) for line in expected]


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_caffes(case: str) -> None:
    if solver(case).message.test_iter:
        pytest.skip("the test nets draw from the random stream first")
    for mine, theirs in zip(ours(case), caffes(case), strict=False):
        for a, b in zip(NUMBER.findall(mine), NUMBER.findall(theirs), strict=True):
            assert float(a) == pytest.approx(float(b), rel=1e-4, abs=1e-9, nan_ok=True), f"{mine!r} for {theirs!r}"
