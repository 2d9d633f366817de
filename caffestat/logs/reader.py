"""Reads training logs one pass over the net at a time: debug_info lines, losses and outputs.

Logs may be of any size: nothing but the current pass is kept. What stands before a line (glog's prefix of any version,
time stamps, a rank) and other lines in between do not matter.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from caffestat.errors import InputError

from .opening import STDIN, log_lines

__all__ = ["Key", "Output", "Pass", "Unread", "parse_number", "read_log", "read_passes"]

_NORMS = re.compile(
    rb"\[Backward\] All net params \(data, diff\): L1 norm = \((\S+), (\S+)\); L2 norm = \((\S+), (\S+)\)"
)
_ITERATION = re.compile(
    rb"Iteration (\d{1,18})(?: \([^)]{0,200}\))?, (?:[^\s,]{1,80}ep, )?(Testing net|loss)(?: = ([^\s,]+))?"
    rb"(?: \(#(\d{1,9})\))?"
)
_RATE = re.compile(rb"Iteration (\d{1,18})(?: \([^)]{0,200}\))?, lr = ([^\s,]+)")
_CLIP = re.compile(rb"Gradient clipping: .{0,100}\(L2 norm (\S+) > \S+\) by scale factor (\S+)")
_UPDATE = re.compile(rb"\[Update\] Layer (.{1,1000}), param (.{1,1000}) data: (.{1,100}); diff: (.{1,100})")
_OUTPUT = re.compile(rb"(Train|Test) net output(?: mAP)? #\d+: ([^=]{1,1000}) = (\S+)(?: \(\* (\S+) = (\S+) loss\))?")
_SCORE = re.compile(rb"Test score #(\d{1,9}): (\S+)")  # of Caffe 1.0-rc1
_PROCESS = re.compile(rb"\[\d{1,6}(?:,\d{1,6})?\](?=[ <])")  # what MPI puts before the lines of each process
_COLOUR = re.compile(rb"\x1b\[[\d;]{0,20}[mK]")
_FINITE = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PENDING = 64  # passes that wait for the line that numbers them
_KNOWN_HEADS = 1 << 17  # texts before the number, each read once
_QUOTED = 160  # characters of a line in a message
_LONGEST_NUMBER = 64


class Key(NamedTuple):
    """Which number: direction "forward" or "backward", layer, role "top", "bottom" or "param", blob's name or index.

    Of a loss or an output: its role and name alone.
    """

    direction: str
    layer: str
    role: str
    blob: str

    def __str__(self) -> str:
        if not self.direction:
            return f"{self.role} {self.blob}".strip()
        what = "data" if self.direction == "forward" else "diff"
        return f"layer {self.layer}, {self.role} blob {self.blob} {what}"


class Output(NamedTuple):
    """One element of an output blob: value, and its weight in the loss, 0 for none."""

    name: str
    value: float
    weight: float


@dataclass
class Pass:
    """One forward (and backward) pass: mean absolute values in the order of the log.

    iteration  the solver's, None when no line says it
    test_net   the test net's number, None for the train net
    loss       as the solver smoothed it, where it is said
    outputs    of the net, where they are said; of a test net after its last batch, the means over all batches
    values     empty in a log without debug_info
    lines      where each of the values stands in the log, from 1, in their order
    norms      of all params: data L1, diff L1, data L2, diff L2
    line       where the pass begins in the log, from 1
    rate       the learning rate, where it is said
    clip       the norm of the gradients, and what clipping multiplied them by: of this pass or one that is not logged
    updates    what older versions log of params in the update, by (backward, layer, param, index): |w|, |update|
    solver     its type, where the log begins with the solver's settings
    types      the layers' types by name, where the log begins with the net; "" for a ReLU with a slope below 0
    accumulated  how many passes of the iteration the gradients of params are added up over
    signals    by a direction of its own: what a run measures, or `clues` tell
    """

    line: int
    test_net: int | None = None
    iteration: int | None = None
    loss: float | None = None
    outputs: list[Output] = field(default_factory=list)
    values: dict[Key, float] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)
    norms: tuple[float, float, float, float] | None = None
    rate: float | None = None
    clip: tuple[float, float] | None = None
    updates: dict[Key, tuple[float, float]] = field(default_factory=dict)
    solver: str = ""
    types: Mapping[str, str] = field(default_factory=dict)
    accumulated: int = 1
    signals: dict[Key, float] = field(default_factory=dict)


@dataclass
class Unread:
    """Lines that begin like debug_info and cannot be read: how many, and the first one.

    process  the process whose lines are read, where several wrote the log, "" else
    others   how many lines the other ones wrote
    """

    count: int = 0
    line: int = 0
    text: str = ""
    process: str = ""
    others: int = 0

    def add(self, line: bytes, number: int) -> None:
        """Count a line."""
        self.count += 1
        if self.count == 1:
            self.line, self.text = number, line.strip()[:_QUOTED].decode(errors="replace")

    def __str__(self) -> str:
        more = f" (and {self.count - 1} more lines)" if self.count > 1 else ""
        return (
            f"cannot read the debug_info line {self.text!r}{more}; "
            "expected '[Forward] Layer NAME, top blob NAME data: VALUE'"
        )


def read_log(path: str, unread: Unread | None = None) -> Iterator[Pass]:
    """Yield the passes of a log file; `-` is the standard input.

    unread: counts the debug_info lines that cannot be read
    Raises InputError when the file cannot be read, and when there is neither a pass nor a loss in it.
    """
    unread = Unread() if unread is None else unread
    found = False
    for one in read_passes(log_lines(path), unread):
        found = True
        yield one
    if found:
        return
    name = "<stdin>" if path == STDIN else path
    if unread.count:
        raise InputError(f"{name}:{unread.line}: {unread}")
    raise InputError(
        f"{name}: expected a training log with debug_info lines or losses, found neither; "
        "Caffe writes debug_info when the solver has `debug_info: true`"
    )


def read_passes(lines: Iterable[bytes], unread: Unread | None = None) -> Iterator[Pass]:
    """Yield the passes in lines of a log, each as soon as it is complete."""
    unread = Unread() if unread is None else unread
    reader = _Reader(unread)
    for number, line in _of_one_process(map(_plain, lines), unread):
        if b"ward] " in line:
            reader.debug(line, number)
        elif b"Iteration " in line:
            reader.iteration(line, number)
            reader.rate(line)
        elif b"Gradient clipping: " in line:
            reader.clip(line)
        elif b"[Update] " in line:
            reader.update(line)
        elif line.startswith((b"base_lr: ", b"type: ", b"solver_type: ")):
            reader.setting(line)
        elif line.startswith((b'  name: "', b'  type: "', b"    negative_slope: ")):
            reader.layer(line)
        elif b" net output " in line:
            reader.output(line)
        elif b"Test score #" in line:
            reader.score(line)
        yield from reader.finished()
    reader.close()
    yield from reader.pending


def _plain(line: bytes) -> bytes:
    """Return a line without the colours of a terminal."""
    return _COLOUR.sub(b"", line) if b"\x1b" in line else line


def _of_one_process(lines: Iterable[bytes], unread: Unread) -> Iterator[tuple[int, bytes]]:
    """Yield numbered lines; of those that MPI marks, the first process's only, for the passes of several interleave."""
    first = b""
    for number, line in enumerate(lines, 1):
        mark = _PROCESS.match(line)
        if mark is None or mark[0] == (first := first or mark[0]):
            yield number, line
        else:
            unread.process, unread.others = first.decode(), unread.others + 1


class _Reader:
    """Gathers lines into passes; a value seen twice begins the next one."""

    def __init__(self, unread: Unread) -> None:
        self.current: Pass | None = None
        self.pending: deque[Pass] = deque()
        self.test_net: int | None = None
        self.test_iteration: int | None = None
        self._test_line = 0
        self._heads: dict[bytes, Key | None] = {}
        self._first: Key | None = None
        self._last: Key | None = None
        self._repeats: dict[Key, int] = {}
        self._reported: Pass | None = None  # whose losses and outputs are being read
        self._unread = unread
        self.solver = ""
        self._types: dict[str, str] = {}
        self._layer = ""  # of the net's settings, the last one named

    def debug(self, line: bytes, number: int) -> None:
        start = line.find(b"[Forward] ")
        start = line.find(b"[Backward] ") if start < 0 else start
        if start < 0:
            return
        if line.rstrip().endswith((b"?", b"?)")):
            return  # caffestat's own word for a gradient that is unknown
        head, colon, tail = line[start:].rpartition(b": ")
        if b"All net params" in head or not colon:
            self._norms(line, number)
            return
        key, value = self._key(head), _mean(tail)
        if key is not None and value is not None:
            self.value(key, value, number)
        else:
            self._unread.add(line, number)

    def _norms(self, line: bytes, number: int) -> None:
        norms = _NORMS.search(line)
        if norms is None:
            self._unread.add(line, number)
        elif self.current:
            data_l1, diff_l1, data_l2, diff_l2 = (parse_number(text) or 0.0 for text in norms.groups())
            self.current.norms = (data_l1, diff_l1, data_l2, diff_l2)

    def _key(self, head: bytes) -> Key | None:
        if head not in self._heads:
            if len(self._heads) >= _KNOWN_HEADS:
                self._heads.clear()
            self._heads[head] = _read_head(head)
        return self._heads[head]

    def value(self, key: Key, value: float, number: int) -> None:
        if self.is_new(key):
            self.close()
            self.current = Pass(number, self.test_net, self.test_iteration)
            self._first = key
            self._repeats.clear()
        assert self.current is not None
        self._last = key
        self.current.values[self._unique(key)] = value
        self.current.lines.append(number)

    def is_new(self, key: Key) -> bool:
        """Tell whether a value begins a pass: the first of all, what the pass began with, or forward after backward."""
        if self.current is None or self._last is None or key == self._first:
            return True
        return key.direction == "forward" and self._last.direction == "backward"

    def _unique(self, key: Key) -> Key:
        """Return a key of its own for what a layer of the same name printed before in this pass."""
        assert self.current is not None
        if key not in self.current.values:
            return key
        count = self._repeats[key] = self._repeats.get(key, 0) + 1
        return key._replace(blob=f"{key.blob}'{count if count > 1 else ''}")

    def iteration(self, line: bytes, number: int) -> None:
        found = _ITERATION.search(line)
        if not found:
            return
        self.close()
        at, what, loss, net = found.groups()
        if what == b"Testing net":
            self.test_net, self.test_iteration, self._test_line = int(net or 0), int(at), number
            self._reported = None
            return
        waiting = [one for one in self.pending if one.iteration is None and one.test_net is None]
        if not waiting:
            waiting = [Pass(number)]
            self.pending.extend(waiting)
        for count, one in enumerate(waiting, 1):
            one.iteration, one.loss, one.accumulated = int(at), parse_number(loss), count
            one.solver, one.types = self.solver, self._types
        self._reported = waiting[-1]
        self.test_net = self.test_iteration = None

    def setting(self, line: bytes) -> None:
        """Take the type out of the solver's settings, in their order; SGD is not written. A layer's are indented."""
        name, _, value = line.partition(b": ")
        self.solver = "SGD" if name == b"base_lr" else value.strip(b'" \r').decode(errors="replace")

    def layer(self, line: bytes) -> None:
        """Take a layer's name, type or slope out of the net's settings."""
        name, _, value = line.strip().partition(b": ")
        text = value.strip(b'"').decode(errors="replace")
        if name == b"name":
            self._layer = text
        elif self._layer:
            self._types[self._layer] = text if name == b"type" else ""

    def rate(self, line: bytes) -> None:
        found = _RATE.search(line)
        if found and self._reported is not None and self._reported.iteration == int(found[1]):
            self._reported.rate = parse_number(found[2])

    def clip(self, line: bytes) -> None:
        found = _CLIP.search(line)
        norm, scale = (parse_number(text) for text in found.groups()) if found else (None, None)
        if self._reported is not None and self._reported.clip is None and norm is not None and scale is not None:
            self._reported.clip = norm, scale

    def update(self, line: bytes) -> None:
        found = _UPDATE.search(line)
        if found is None or self._reported is None:
            return
        layer, param = (found[group].decode(errors="replace") for group in (1, 2))
        data, diff = _mean(found[3]), _mean(found[4])
        if data is not None and diff is not None:
            self._reported.updates[Key("backward", layer, "param", param)] = data, diff

    def output(self, line: bytes) -> None:
        found = _OUTPUT.search(line)
        if found is None:
            return
        phase, name, value, weight, _ = found.groups()
        if phase == b"Test":
            self.end_tests()
        number = parse_number(value)
        if self._reported is not None and number is not None:
            self._reported.outputs.append(Output(name.decode(errors="replace"), number, parse_number(weight) or 0.0))

    def score(self, line: bytes) -> None:
        found = _SCORE.search(line)
        number = parse_number(found[2]) if found else None
        self.end_tests()
        if found and number is not None and self._reported is not None:
            self._reported.outputs.append(Output(f"#{int(found[1])}", number, 0.0))

    def end_tests(self) -> None:
        """End the tests of a net; their results belong to the last of its passes."""
        self.close()
        if self.test_iteration is None:
            return
        same = [one for one in self.pending if one.test_net is not None]
        if not same:
            same = [Pass(self._test_line, self.test_net, self.test_iteration)]
            self.pending.extend(same)
        self._reported = same[-1]
        self.test_net = self.test_iteration = None

    def close(self) -> None:
        if self.current:
            self.pending.append(self.current)
            self.current = None

    def finished(self) -> Iterator[Pass]:
        """Yield the passes that are complete: numbered and without further lines to come, or waiting for too long."""
        while self.pending and (self._is_complete(self.pending[0]) or len(self.pending) > _PENDING):
            yield self.pending.popleft()

    def _is_complete(self, one: Pass) -> bool:
        return one.iteration is not None and one is not self._reported


def _read_head(head: bytes) -> Key | None:
    """Return what precedes the number: "[Forward] Layer NAME, top blob NAME data"; None for something else."""
    direction, _, rest = head.partition(b"] Layer ")
    what = {b"[Forward": b" data", b"[Backward": b" diff"}.get(direction)
    if what is None or not rest.endswith((b" data", b" diff")):
        return None
    found = [(rest.rfind(b", " + role + b" blob "), role) for role in (b"top", b"bottom", b"param")]
    at, role = max(found)
    if at < 0:
        return None
    layer, blob = rest[:at], rest[at + len(b", " + role + b" blob ") : -len(what)]
    return Key(direction[1:].decode().lower(), *(part.decode(errors="replace") for part in (layer, role, blob)))


def _mean(text: bytes) -> float | None:
    """Return the mean |x| of "MEAN" or, as Caffe 1.0-rc1 prints it, "SUM (MEAN)"; None for something else."""
    words = text.split()
    if len(words) == 2 and words[1][:1] == b"(" and words[1][-1:] == b")":
        return parse_number(words[1][1:-1])
    return parse_number(words[0]) if len(words) == 1 else None


def parse_number(text: bytes | None) -> float | None:
    """Return a number as any C library prints it, "-1.#IND" and "-nan(ind)" included; None where there is none."""
    if text is None or len(text) > _LONGEST_NUMBER:
        return None
    if _FINITE.fullmatch(text):
        return float(text)
    word = text.lower()
    if b"nan" in word or b"#ind" in word or b"#qnan" in word or b"#snan" in word:
        return float("nan")
    if b"inf" in word:
        return float("-inf") if word.startswith(b"-") else float("inf")
    return None
