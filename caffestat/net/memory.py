"""How much memory a run will take, and a refusal in time. Needs no runtime."""

from __future__ import annotations

import math
import os
from pathlib import Path

from caffestat.errors import InputError

from .model import Net

__all__ = ["available_bytes", "check_memory", "estimate_bytes"]

_FLOAT = 4
_SLACK = 0.95  # of the free memory, for a batch that still fits when it is tried


def estimate_bytes(net: Net, backward: bool) -> tuple[int, int]:
    """Return the bytes that params and activations take.

    Backward doubles the params (their gradients); of the activations' gradients only those between two layers live at a
    time, but the runtime keeps blocked and flipped copies: measured peaks lie between one and two times the tops.
    """
    params = sum(math.prod(p.param.shape) for p in net.params if p.owner is None) * _FLOAT
    tops = sum(math.prod(shape) for node in net.nodes for shape in node.top_shapes if shape is not None) * _FLOAT
    return params * (3 if backward else 2), tops * (2 if backward else 1)


def available_bytes() -> int | None:
    """Return the memory that can be had without swapping, None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        return found["MemAvailable"]
    except (OSError, KeyError, ValueError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def check_memory(net: Net, backward: bool, available: int | None) -> None:
    """Raise InputError, with the estimate and the batch that would fit, when a run needs more memory than there is."""
    params, activations = estimate_bytes(net, backward)
    if available is None or params + activations <= available:
        return
    batch = max(
        (node.top_shapes[0] or (1,))[0]
        for node in net.nodes
        if not node.bottoms and node.top_shapes and node.top_shapes[0]
    )
    fitting = int(batch * max(available * _SLACK - params, 0) / max(activations, 1))
    advice = f"--batch {fitting} would fit" if fitting else "not even a batch of 1 would fit; use --static"
    raise InputError(
        f"the run needs about {_gib(params + activations)} "
        f"(params {_gib(params)}, blobs at batch {batch} {_gib(activations)}), "
        f"but only {_gib(available)} of memory is free: {advice}"
    )


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"
