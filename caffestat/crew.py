"""Processes that work for this one, which alone notices Ctrl-C, and ends them."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_all_start_methods, get_context
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

__all__ = ["Worker", "WorkerDied", "answer", "ended", "fork_server", "replied", "track_resources", "uninterrupted"]

Answer = tuple[Any, Exception | None]
W = TypeVar("W", bound="Worker")


class WorkerDied(Exception):
    """A process ended before it answered, as one that is killed does."""


class Worker:
    """A process that makes something of each item that it is sent; results and items are pickled."""

    def __init__(self, context: Any, work: Callable[[Any], Any]) -> None:
        with uninterrupted():
            self.pipe, there = context.Pipe()
            self._process = context.Process(target=_serve, args=(there, work), daemon=True)
            self._process.start()
            there.close()  # when the process ends, no copy is left, and `recv` raises EOFError

    def send(self, item: Any) -> None:
        """Send an item, the next one once it is answered. Whether the process is dead, `receive` tells."""
        with suppress(OSError):
            self.pipe.send(item)

    def receive(self) -> Answer:
        """Wait for what the process made of an item: the result, or the error. Raises WorkerDied."""
        try:
            answered: Answer = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerDied from error
        return answered

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        self._process.join()
        self.pipe.close()


def _serve(pipe: Connection, work: Callable[[Any], Any]) -> None:
    """Answer item by item, as long as the other process lives."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems where it cannot be blocked
    with suppress(EOFError, OSError):
        while True:
            pipe.send(answer(work, pipe.recv()))


def answer(work: Callable[[Any], Any], item: Any) -> Answer:
    """Return what a function makes of an item, or its error."""
    try:
        return work(item), None
    except Exception as error:
        return None, error


def replied(workers: Iterable[W]) -> list[W]:
    """Wait until some workers have answered or died; return these."""
    by_pipe: dict[Any, W] = {worker.pipe: worker for worker in workers}
    return [by_pipe[pipe] for pipe in wait(list(by_pipe))]


@contextmanager
def ended(crew: Sequence[Worker]) -> Iterator[None]:
    """End the workers that a list then has, however the block is left."""
    try:
        yield
    finally:
        with uninterrupted():
            for worker in crew:
                worker.end()


def fork_server(imported: Sequence[str]) -> Any:
    """Return how workers start: as forks of a process that has made the imports, where the system has that."""
    if "forkserver" not in get_all_start_methods():
        return get_context("spawn")
    from multiprocessing import forkserver

    forkserver.set_forkserver_preload(list(imported))
    track_resources()
    with uninterrupted():
        forkserver.ensure_running()
    return get_context("forkserver")


def track_resources() -> None:
    """Start Python's tracker of resources, which the first process would start and thereby unblock Ctrl-C."""
    from multiprocessing import resource_tracker

    with uninterrupted():
        resource_tracker.ensure_running()


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back until the end of a block. Processes that start in the block never get it."""
    with _deferred(), _blocked():
        yield


@contextmanager
def _deferred() -> Iterator[None]:
    """Hold it back here: the runtime's threads get the signal where the main thread blocks it."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before is None:
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        if came:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _blocked() -> Iterator[None]:
    """Block it, which processes inherit, those that another program replaces as well."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
