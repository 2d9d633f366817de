"""Batches read ahead in a thread, so that a training loop does not wait for files."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from queue import Empty, Full, Queue

from caffestat.lazy import np

from .reader import Reader

__all__ = ["Prefetch"]

_AHEAD = 3  # batches, as in Caffe, whose own default is 4
_PATIENCE = 0.1  # seconds between two checks for the end


class Prefetch(Reader):
    """A reader whose next batches are read in a thread; they come in the same order.

    waited: seconds for which `next` had to wait
    """

    def __init__(self, reader: Reader) -> None:
        self.layer, self.batch, self.shapes, self.varies = reader.layer, reader.batch, reader.shapes, reader.varies
        self.waited = 0.0
        self._reader = reader
        self._batches: Queue[Sequence[np.ndarray] | Exception] = Queue(_AHEAD)
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True, name=f"reader of {reader.layer.name}")
        self._thread.start()

    def next(self) -> Sequence[np.ndarray]:
        """Return the next batch. Raises what reading it raised."""
        began = time.perf_counter()
        found = self._batches.get()
        self.waited += time.perf_counter() - began
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """End the thread; batches that were read ahead are lost."""
        self._ends.set()
        while not self._batches.empty():
            try:
                self._batches.get_nowait()
            except Empty:
                break
        self._thread.join()

    def _read(self) -> None:
        while not self._ends.is_set():
            try:
                batch: Sequence[np.ndarray] | Exception = self._reader.next()
            except Exception as error:  # for the loop, which asks for the batch
                batch = error
            self._put(batch)
            if isinstance(batch, Exception):
                return

    def _put(self, batch: Sequence[np.ndarray] | Exception) -> None:
        while not self._ends.is_set():
            try:
                self._batches.put(batch, timeout=_PATIENCE)
                return
            except Full:
                continue
