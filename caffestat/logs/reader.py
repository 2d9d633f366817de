"""Reads the debug_info lines out of training logs, one pass over the net at a time.

Logs may be of any size: nothing but the current pass is kept. What stands before a line (glog's prefix of any version,
time stamps, a rank) and other lines in between do not matter.
"""

from __future__ import annotations

import re
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from caffestat.errors import InputError

__all__ = ["Key", "Pass", "read_log", "read_passes"]

STDIN = "-"

_VALUE = re.compile(rb"\[(Forward|Backward)\] Layer (.+), (top|bottom|param) blob (.+) (data|diff): *(\S+)\s*$")
_NORMS = re.compile(
    rb"\[Backward\] All net params \(data, diff\): L1 norm = \((\S+), (\S+)\); L2 norm = \((\S+), (\S+)\)"
)
_ITERATION = re.compile(rb"Iteration (\d+)(?: \([^)]*\))?, (Testing net|loss)(?: = (\S+))?(?: \(#(\d+)\))?")
_PENDING = 64  # passes that wait for the line that numbers them


class Key(NamedTuple):
    """Which number: direction "forward" or "backward", layer, role "top", "bottom" or "param", blob's name or index."""

    direction: str
    layer: str
    role: str
    blob: str

    def __str__(self) -> str:
        what = "data" if self.direction == "forward" else "diff"
        return f"layer {self.layer}, {self.role} blob {self.blob} {what}"


@dataclass
class Pass:
    """One forward (and backward) pass: mean absolute values in the order of the log.

    iteration  the solver's, None when no line says it
    test_net   the test net's number, None for the train net
    loss       as the solver smoothed it, where it is said
    norms      of all params: data L1, diff L1, data L2, diff L2
    line       where the pass begins in the log, from 1
    """

    line: int
    test_net: int | None = None
    iteration: int | None = None
    loss: float | None = None
    values: dict[Key, float] = field(default_factory=dict)
    norms: tuple[float, float, float, float] | None = None


def read_log(path: str) -> Iterator[Pass]:
    """Yield the passes of a log file; `-` is the standard input.

    Raises InputError when it cannot be read, and when there is no pass in it.
    """
    found = False
    for one in _passes_in(path):
        found = True
        yield one
    if not found:
        name = "<stdin>" if path == STDIN else path
        raise InputError(
            f"{name}: expected a training log with debug_info lines, found none; "
            "Caffe writes them when the solver has `debug_info: true`"
        )


def _passes_in(path: str) -> Iterator[Pass]:
    if path == STDIN:
        yield from read_passes(sys.stdin.buffer)
        return
    try:
        with Path(path).open("rb") as lines:
            yield from read_passes(lines)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; expected a training log") from error


def read_passes(lines: Iterable[bytes]) -> Iterator[Pass]:
    """Yield the passes in lines of a log, each as soon as its iteration is known."""
    reader = _Reader()
    for number, line in enumerate(lines, 1):
        if b"ward] " in line:
            reader.debug(line, number)
        elif b"Iteration " in line:
            reader.iteration(line)
        elif b"Test net output" in line:
            reader.end_tests()
        yield from reader.finished()
    reader.close()
    yield from reader.pending


class _Reader:
    """Gathers lines into passes; a value seen twice begins the next one."""

    def __init__(self) -> None:
        self.current: Pass | None = None
        self.pending: deque[Pass] = deque()
        self.test_net: int | None = None
        self.test_iteration: int | None = None

    def debug(self, line: bytes, number: int) -> None:
        found = _VALUE.search(line)
        if found:
            self.value(found, number)
            return
        norms = _NORMS.search(line)
        if norms and self.current:
            data_l1, diff_l1, data_l2, diff_l2 = (float(text) for text in norms.groups())
            self.current.norms = (data_l1, diff_l1, data_l2, diff_l2)

    def value(self, found: re.Match[bytes], number: int) -> None:
        direction, layer, role, blob, _, text = (part.decode(errors="replace") for part in found.groups())
        key = Key(direction.lower(), layer, role, blob)
        if self.is_new(key):
            self.close()
            self.current = Pass(number, self.test_net, self.test_iteration)
        assert self.current is not None
        try:
            self.current.values[_unique(self.current.values, key)] = float(text)
        except ValueError:
            self.current.values[key] = float("nan")  # "-nan(ind)" and the like

    def is_new(self, key: Key) -> bool:
        """Tell whether a value begins a pass: the first of all, what the pass began with, or forward after backward."""
        if self.current is None:
            return True
        if key.direction == "backward":
            return False
        values = self.current.values
        return key == next(iter(values)) or next(reversed(values)).direction == "backward"

    def iteration(self, line: bytes) -> None:
        found = _ITERATION.search(line)
        if not found:
            return
        self.close()
        number, what, loss, net = found.groups()
        if what == b"Testing net":
            self.test_net, self.test_iteration = int(net or 0), int(number)
            return
        for waiting in self.pending:
            if waiting.iteration is None and waiting.test_net is None:
                waiting.iteration, waiting.loss = int(number), _number(loss)
        self.test_net = self.test_iteration = None

    def end_tests(self) -> None:
        """The tests of a net are over; a line says so before those of the next one begin."""
        self.close()
        self.test_net = self.test_iteration = None

    def close(self) -> None:
        if self.current:
            self.pending.append(self.current)
            self.current = None

    def finished(self) -> Iterator[Pass]:
        """Yield the passes that are complete: numbered, or waiting for too long."""
        while self.pending and (self.pending[0].iteration is not None or len(self.pending) > _PENDING):
            yield self.pending.popleft()


def _unique(values: dict[Key, float], key: Key) -> Key:
    """Return a key of its own for a blob that is written in place and printed again by the same layer name."""
    while key in values:
        key = key._replace(blob=key.blob + "'")
    return key


def _number(text: bytes | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
