"""One function over many files, in one process per core."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from itertools import accumulate
from multiprocessing import get_context
from typing import TypeVar

from caffestat.cores import core_count
from caffestat.crew import Answer, Worker, WorkerDied, answer, ended, replied
from caffestat.errors import RunError

__all__ = ["each"]

T = TypeVar("T")

_FEW = 8  # files for which no process is worth it
_ALIVE = 200_000  # objects made between two looks for cycles: texts and nets are trees of many that stay for a while


def each(work: Callable[[str], T], files: Sequence[str]) -> Iterator[T]:
    """Yield what a function makes of each file, in their order.

    Of many files one of middling size brings the imports. The others are worked on in forked processes, each of which
    gets neighbours: what these have in common it works out once. The results are pickled. An error of the function is
    raised in its file's turn. Raises RunError when a process is killed, as for its memory.
    """
    count = min(core_count(), len(files) // _FEW) if _can_fork() else 1
    if count < 2:
        yield from map(work, files)
        return
    sizes = list(map(_size, files))
    own = sizes.index(sorted(sizes)[len(sizes) // 2])
    found = {own: answer(work, files[own])}
    crew: list[_Worker] = []
    with ended(crew):
        for part in _parts(sizes, count):
            crew.append(_Worker(work, files, [index for index in part if index != own]))
        results = _results(crew)
        for index in range(len(files)):
            while index not in found:
                done, answered = next(results)
                found[done] = answered
            result, error = found.pop(index)
            if error:
                raise error
            yield result


def _size(file: str) -> int:
    try:
        return os.stat(file).st_size
    except (OSError, ValueError):  # reading it reports the error
        return 0


def _parts(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Divide indices into runs of about equal total size; of each the large ones come first."""
    ends, whole = list(accumulate(size + 1 for size in sizes)), sum(sizes) + len(sizes) + 1
    parts: list[list[int]] = [[] for _ in range(count)]
    for index, end in enumerate(ends):
        parts[end * count // whole].append(index)
    return [sorted(part, key=lambda index: -sizes[index]) for part in parts]


def _can_fork() -> bool:
    """Tell whether a fork is safe: other systems forbid it, and the locks of other threads would stay locked."""
    return sys.platform == "linux" and threading.active_count() == 1 and "onnxruntime" not in sys.modules


class _Worker(Worker):
    """A process, the index that it does, and those that it has to do."""

    def __init__(self, work: Callable[[str], T], files: Sequence[str], part: Sequence[int]) -> None:
        super().__init__(get_context("fork"), partial(_work_on, work, files))
        self.left = deque(part)
        self.doing = -1


def _work_on(work: Callable[[str], T], files: Sequence[str], index: int) -> T:
    _settle()
    return work(files[index])


@cache
def _settle() -> None:
    """Make a process ready for many files, before the first."""
    _take_one_thread()
    gc.freeze()  # what the imports have made stays
    gc.set_threshold(_ALIVE)


def _take_one_thread() -> None:
    """Let numpy's matrix products take one thread: other processes use the other cores.

    OPENBLAS_NUM_THREADS is read when numpy is imported, which callers of `caffestat.check` often have done. With a BLAS
    that lacks the function nothing changes.
    """
    umath = sys.modules.get("numpy._core._multiarray_umath")
    library = ctypes.CDLL(umath.__file__) if umath else None  # with OpenBLAS, which it is linked to
    for name in ("scipy_openblas_set_num_threads64_", "openblas_set_num_threads"):
        if hasattr(library, name):
            getattr(library, name)(1)


def _results(crew: Sequence[_Worker]) -> Iterator[tuple[int, Answer]]:
    """Yield indices, with the answers, as they come."""
    try:
        busy = [worker for worker in crew if _send_next(worker, crew)]
        while busy:
            for worker in replied(busy):
                done, answered = worker.doing, worker.receive()
                if not _send_next(worker, crew):
                    busy.remove(worker)
                yield done, answered
    except WorkerDied as error:
        raise RunError("a worker process was killed, probably because memory ran out") from error


def _send_next(worker: _Worker, crew: Sequence[_Worker]) -> bool:
    """Give a worker the next of its files or, when it has none, the last of who has most; False when all are given."""
    most = max(crew, key=lambda one: len(one.left)).left
    if not most:
        return False
    worker.doing = worker.left.popleft() if worker.left else most.pop()
    worker.send(worker.doing)
    return True
