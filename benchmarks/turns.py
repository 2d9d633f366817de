"""Steps of several programs that take turns in one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["medians"]

_PAUSE = 0.2  # seconds between two steps


def medians(
    steps: Sequence[Callable[[], Any]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
    prepare: Callable[[int, int], object] = lambda step, number: None,
) -> list[float]:
    """Return each step's median seconds; the steps take turns, each after a pause.

    The threads of one runtime wait in a loop for a while, on the core where the next one's work.

    prepare: called with the number of a step and of a round before each pause
    """
    taken: list[list[float]] = [[] for _ in steps]
    for number in range(rounds):
        for index, step in enumerate(steps):
            prepare(index, number)
            time.sleep(_PAUSE)
            start = clock()
            step()
            taken[index].append(clock() - start)
    return [statistics.median(times) for times in taken]
