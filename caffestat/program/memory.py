"""How much memory the tasks on a program take: running it, and drawing its params and its data."""

from __future__ import annotations

import math
from collections.abc import Iterable

from caffestat.engine.device import CPU, Device
from caffestat.engine.need import Need, check_memory, need_of_draws, need_of_run

from .program import Program

__all__ = ["check_draws", "check_run", "run_need"]

_FLOAT = 4


def run_need(program: Program, backward: bool) -> Need:
    """Return what one pass takes."""
    blobs = _sizes(shape for row in program.rows for shape in row.shapes)
    batches = (shape[0] for row in program.rows if row.is_data for shape in row.shapes[:1] if shape)
    return need_of_run(sum(_params(program)), sum(blobs), backward, max(batches, default=1) if program.is_caffe else 0)


def check_run(program: Program, backward: bool, device: Device) -> None:
    """Raise InputError, with the estimate and the batch that would fit, when a pass needs more memory than is free."""
    advice = "use --static" if program.is_caffe else "use a smaller --batch or --shape, --forward-only or --static"
    check_memory(run_need(program, backward), "the run", device, advice)
    if device != CPU:
        check_draws(program)


def check_draws(program: Program, params: bool = True, data: bool = True) -> None:
    """Raise InputError when the values of all params, or those of the data, do not fit into memory."""
    blobs = _sizes(shape for row in program.rows if row.is_data for shape in row.shapes)
    drawn = {"params": _params(program) * params, "data": blobs * data}
    for what, sizes in drawn.items():
        check_memory(need_of_draws(sizes), f"drawing the {what}", CPU)


def _params(program: Program) -> list[int]:
    return _sizes(param.shape for param in program.params if param.owner is None)


def _sizes(shapes: Iterable[tuple[int, ...] | None]) -> list[int]:
    return [math.prod(shape) * _FLOAT for shape in shapes if shape is not None]
