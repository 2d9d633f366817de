"""What `caffe train` logs of a solver's first iteration. (solver.cpp, sgd_solver.cpp)"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from caffestat.escape import visible
from caffestat.net import TEST, Solver
from caffestat.net.solver import BeginTest, Clip, Event, Loss, MeanTestLoss, Pass, Rate, Score

from .build import build
from .debug_info import ostream, prefix, render

__all__ = ["solver_lines"]


def solver_lines(solver: Solver, events: Iterable[Event], seed: int, glog: bool = False) -> Iterator[str]:
    """Yield the lines of a solver's first iteration as its events come, without line ends.

    They are those of `debug_info: true` and, where the solver has no `display`, of `display: 1`.

    seed: the random seed that the values were drawn with
    glog: put a prefix as glog writes it before each line
    """
    for event in events:
        if isinstance(event, Pass):
            yield from render(build(event.net, event.measured, source=solver.name, seed=seed), glog)
        else:
            place, text = _line(event, solver.message.display or 1)
            yield prefix(place) + text if glog else text


def _line(event: Event, display: int) -> tuple[str, str]:
    """Return where in Caffe's source a line is logged, and the line."""
    match event:
        case BeginTest(number):
            return "solver.cpp:347", f"Iteration 0, Testing net (#{number})"
        case MeanTestLoss(value):
            return "solver.cpp:401", f"Test loss: {ostream(value)}"
        case Loss(value, seconds):
            pace = f"0 iter/s, {ostream(seconds)}s/{display} iters"
            return "solver.cpp:239", f"Iteration 0 ({pace}), loss = {ostream(value)}"
        case Rate(value):
            return "sgd_solver.cpp:112", f"Iteration 0, lr = {ostream(value)}"
        case Clip(norm, limit):
            scale = ostream(limit / norm)
            norms = f"L2 norm {ostream(norm)} > {ostream(limit)}"
            return "sgd_solver.cpp:99", f"Gradient clipping: scaling down gradients ({norms}) by scale factor {scale}"
        case Score():
            return _score(event)
    raise TypeError(f"unknown event {event!r}")


def _score(score: Score) -> tuple[str, str]:
    place, kind = ("solver.cpp:414", "Test") if score.phase == TEST else ("solver.cpp:258", "Train")
    text = f"    {kind} net output #{score.number}: {visible(score.name)} = {ostream(score.value)}"
    if score.weight:
        loss = np.float32(score.weight) * np.float32(score.value)
        text += f" (* {ostream(score.weight)} = {ostream(float(loss))} loss)"
    return place, text
