"""How much memory the tasks on a net take: running it, and drawing its params and its data."""

from __future__ import annotations

import math
from collections.abc import Iterable

from caffestat.engine.device import CPU, Device
from caffestat.engine.need import Need, check_memory, need_of_draws, need_of_run

from .model import Net

__all__ = ["check_draws", "check_run", "run_need"]

_FLOAT = 4


def run_need(net: Net, backward: bool) -> Need:
    """Return what one pass takes."""
    blobs = _sizes(shape for node in net.nodes for shape in node.top_shapes)
    batches = (shape[0] for node in net.nodes if not node.bottoms for shape in node.top_shapes[:1] if shape)
    return need_of_run(sum(_params(net)), sum(blobs), backward, max(batches, default=1))


def check_run(net: Net, backward: bool, device: Device) -> None:
    """Raise InputError, with the estimate and the batch that would fit, when a pass needs more memory than is free."""
    check_memory(run_need(net, backward), "the run", device, "use --static")
    if device != CPU:
        check_draws(net)


def check_draws(net: Net, params: bool = True, data: bool = True) -> None:
    """Raise InputError when the values of all params, or those of the data layers' blobs, do not fit into memory."""
    blobs = _sizes(shape for node in net.nodes if not node.bottoms for shape in node.top_shapes)
    drawn = {"params": _params(net) * params, "data": blobs * data}
    for what, sizes in drawn.items():
        check_memory(need_of_draws(sizes), f"drawing the {what}", CPU)


def _params(net: Net) -> list[int]:
    return _sizes(param.param.shape for param in net.params if param.owner is None)


def _sizes(shapes: Iterable[tuple[int, ...] | None]) -> list[int]:
    return [math.prod(shape) * _FLOAT for shape in shapes if shape is not None]
