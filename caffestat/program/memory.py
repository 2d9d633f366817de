"""How much memory the tasks on a program take: running it, and drawing its params and its data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from caffestat.engine.device import CPU, Device
from caffestat.engine.need import Need, check_memory, need_of_draws, need_of_run

from .program import Program

if TYPE_CHECKING:
    from caffestat.graph import Spec
    from caffestat.graph.load import Model

__all__ = ["check_draws", "check_gradient", "check_run", "run_need"]

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


def check_gradient(model: Model) -> None:
    """Raise InputError, with the estimate, when writing a model with its gradients needs more memory than is free.

    The params are held as they are read, in the result, and once more in its bytes. Where shapes are unknown, the model
    is run as well.
    """
    graph = model.graph
    params = sum(_bytes(spec) for spec in graph.params.values())
    names = [name for node in graph.nodes for name in node.outputs if name]
    is_run = any(name not in graph.specs for name in names)
    blobs = sum(_bytes(graph.specs[name]) for name in names if name in graph.specs) if is_run else 0
    check_memory(Need(3 * params, blobs), "writing the gradients", CPU, "use a smaller --batch or --shape")


def check_draws(program: Program, data: bool = True) -> None:
    """Raise InputError when the values of all params, or those of the data, do not fit into memory."""
    blobs = _sizes(shape for row in program.rows if row.is_data for shape in row.shapes)
    drawn = {"params": _params(program), "data": blobs * data}
    for what, sizes in drawn.items():
        check_memory(need_of_draws(sizes), f"drawing the {what}", CPU)


def _bytes(spec: Spec) -> int:
    return math.prod(spec.shape) * spec.dtype.itemsize


def _params(program: Program) -> list[int]:
    return _sizes(param.shape for param in program.params if param.owner is None)


def _sizes(shapes: Iterable[tuple[int, ...] | None]) -> list[int]:
    return [math.prod(shape) * _FLOAT for shape in shapes if shape is not None]
