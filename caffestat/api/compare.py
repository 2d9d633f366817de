"""`compare`: two logs or runs, number by number."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .debug import debug

if TYPE_CHECKING:
    from caffestat.logs import Difference, Pass

__all__ = ["compare", "passes_of"]

_NETS = (".prototxt", ".pbtxt")


def compare(a: str | Path, b: str | Path, *, rtol: float = 1e-3, atol: float = 1e-9) -> Iterator[Difference]:
    """Yield the debug_info numbers for which |a - b| > atol + rtol·max(|a|, |b|), or that one side lacks.

    a, b: training logs with debug_info lines, "-" for the standard input; or nets and solvers (.prototxt), whose log
          is that of `debug`

    Raises a CaffestatError when a file cannot be used.
    """
    from caffestat import logs

    return logs.compare(passes_of(str(a)), passes_of(str(b)), rtol, atol)


def passes_of(path: str) -> Iterator[Pass]:
    """Yield the passes of a log or, of a net or solver, of the iteration that `debug` runs."""
    from caffestat import logs

    if path.endswith(_NETS):
        return logs.read_passes(line.encode() for line in debug(path))
    return logs.read_log(path)
