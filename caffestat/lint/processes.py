"""One function over many files, in one process per core."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from caffestat.cores import core_count
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
    found: dict[int, tuple[Any, Exception | None]] = {own: _answer(work, files[own])}
    crew = [_fork(work, files, [index for index in part if index != own]) for part in _parts(sizes, count)]
    try:
        results = _results(crew)
        for index in range(len(files)):
            while index not in found:
                done, answer = next(results)
                found[done] = answer
            result, error = found.pop(index)
            if error:
                raise error
            yield result
    finally:
        for worker in crew:
            worker.process.terminate()
            worker.process.join()


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


@dataclass
class _Worker:
    """A process, the parent's end of its pipe, and the indices that it has to do."""

    process: BaseProcess
    pipe: Connection
    left: deque[int]


def _fork(work: Callable[[str], Any], files: Sequence[str], part: Sequence[int]) -> _Worker:
    context = get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, work, files), daemon=True)
    process.start()
    there.close()  # when the process ends, no copy is left, and `recv` raises EOFError
    return _Worker(process, here, deque(part))


def _serve(pipe: Connection, work: Callable[[str], Any], files: Sequence[str]) -> None:
    """Answer each index with the result for that file, or the error, until there is None."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _take_one_thread()
    gc.freeze()  # what the imports have made stays
    gc.set_threshold(_ALIVE)
    for index in iter(pipe.recv, None):
        pipe.send((index, _answer(work, files[index])))


def _answer(work: Callable[[str], Any], file: str) -> tuple[Any, Exception | None]:
    """Return what a function makes of a file, or its error."""
    try:
        return work(file), None
    except Exception as error:
        return None, error


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


def _results(crew: Sequence[_Worker]) -> Iterator[tuple[int, tuple[Any, Exception | None]]]:
    """Yield indices, with the answers, as they come."""
    try:
        busy = {worker.pipe: worker for worker in crew if _send_next(worker, crew)}
        while busy:
            for pipe in wait(list(busy)):
                assert isinstance(pipe, Connection)
                answer = pipe.recv()
                if not _send_next(busy[pipe], crew):
                    del busy[pipe]
                yield answer
    except (EOFError, ConnectionError) as error:
        raise RunError("a worker process was killed, probably because memory ran out") from error


def _send_next(worker: _Worker, crew: Sequence[_Worker]) -> bool:
    """Give a worker the next of its files or, when it has none, the last of who has most; False when all are given."""
    most = max(crew, key=lambda one: len(one.left)).left
    index = worker.left.popleft() if worker.left else most.pop() if most else None
    worker.pipe.send(index)
    return index is not None
