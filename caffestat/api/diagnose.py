"""`diagnose`: what a training log says about the net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.options import NetOptions, number

if TYPE_CHECKING:
    from caffestat.logs import Diagnosis

__all__ = ["diagnose"]


def diagnose(
    log: str | Path,
    *,
    net: str | Path | None = None,
    growth: float = 1e3,
    phase: str | None = None,
    level: int | None = None,
    stages: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    dialect: str | None = None,
) -> Diagnosis:
    """Read a training log: the first bad blob of each kind, the trend of each, dead layers, and what losses show.

    log:    the log of any version of Caffe, of any size, as text or compressed; "-" for the standard input
    net:    the net or solver, for its lines and its predicted values at the start
    growth: the factor over its first value at which a blob counts as exploded
    phase, level, stages, shapes, batch, dialect: see `caffestat.options.NetOptions`

    Raises a CaffestatError when a file or an option cannot be used.
    """
    from caffestat import logs

    growth = number("growth", growth, 1.0)
    options = NetOptions(phase, level, stages, shapes or {}, batch, dialect=dialect)
    return logs.diagnose_log(str(log), None if net is None else str(net), growth, options)
