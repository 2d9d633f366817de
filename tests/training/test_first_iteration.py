"""The log of iteration 0 of every golden solver: the same lines in the same order, numbers within 1e-4."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from caffestat import layers, net
from caffestat.options import NetOptions, RunOptions, ValueOptions
from caffestat.report import first_iteration_lines
from caffestat.training import Training

from ..net.golden import DEVICE, FOLDER, SEED
from .golden import numbers_of, text_of

CASES = sorted(path.parent.name for path in FOLDER.glob("*/caffe.log"))
NOISE = 5e-8  # of gradients that are zero but for rounding: those of a bias in front of BatchNorm


def caffes_lines(case: str) -> Iterator[str]:
    """Yield the lines up to those that end iteration 0: of the learning rate and, with it, of clipped gradients."""
    lines = (FOLDER / case / "caffe.log").read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if line.startswith("Iteration 0, lr = ")) + 1
    yield from lines[: end + lines[end].startswith("Gradient clipping")]


def our_lines(case: str) -> list[str]:
    solver = net.read_solver(str(FOLDER / case / "solver.prototxt"))
    for source in (solver.net, *solver.test_nets()):
        for entry in source.layers:
            if layers.layer_class(entry.proto.type) is None:
                pytest.skip(f"layer type {entry.proto.type} is not registered")
    run = RunOptions(device=DEVICE, inputs_hold="zeros")
    training = Training(solver, NetOptions(), ValueOptions(), run, seed=SEED, debug=True, saves=False)
    return list(first_iteration_lines(solver, training.events(), SEED))


@pytest.mark.parametrize("case", CASES)
def test_first_iteration(case: str) -> None:
    ours, caffes = our_lines(case), list(caffes_lines(case))
    if case == "fillers":  # its log was kept without the 72944 elements of the net's outputs
        ours = [line for line in ours if "Train net output" not in line]
    assert [text_of(line) for line in ours] == [text_of(line) for line in caffes]
    for our, caffe in zip(ours, caffes, strict=True):
        assert numbers_of(our) == pytest.approx(numbers_of(caffe), rel=1e-4, abs=NOISE, nan_ok=True), f"{our}\n{caffe}"
