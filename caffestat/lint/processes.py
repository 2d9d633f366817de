"""One function over many files, in one process per core."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, TypeVar

from caffestat.errors import RunError

__all__ = ["each"]

T = TypeVar("T")

_FEW = 8  # files for which no process is worth it

def each(work: Callable[[str], T], files: Sequence[str]) -> Iterator[T]:
    """Yield what a function makes of each file, in their order.

    Of many files one of middling size brings the imports. The others are worked on in forked processes, large ones
    first, so that none is left to one process at the end; the results are pickled. Raises RunError when a process is
    killed, as for its memory.
    """
    count = min(len(os.sched_getaffinity(0)), len(files) // _FEW) if _can_fork() else 1
    if count < 2:
        yield from map(work, files)
        return
    sizes = list(map(_size, files))
    own = sizes.index(sorted(sizes)[len(sizes) // 2])
    found = work(files[own])
    with ProcessPoolExecutor(count, get_context("fork"), _begin, (work,)) as pool:
        try:
            others = sorted(set(range(len(files))) - {own}, key=lambda index: -sizes[index])
            begun = {index: pool.submit(_work, files[index]) for index in others}
            yield from (found if index == own else begun.pop(index).result() for index in range(len(files)))
        except BrokenProcessPool as error:
            raise RunError("a worker process was killed, probably because memory ran out") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size
    except (OSError, ValueError):  # reading it reports the error
        return 0


def _can_fork() -> bool:
    """Tell whether a fork is safe: other systems forbid it, and the locks of other threads would stay locked."""
    return sys.platform == "linux" and threading.active_count() == 1 and "onnxruntime" not in sys.modules


_given: list[Callable[[str], Any]] = []  # what a process was forked for


def _begin(work: Callable[[str], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _given.append(work)


def _work(file: str) -> Any:
    return _given[0](file)
