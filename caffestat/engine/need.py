"""Estimates of the memory that a task needs, and its refusal before it starts. Needs no runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from caffestat.errors import InputError

from .device import CPU, Device

__all__ = ["Need", "check_memory", "need_of_draws", "need_of_run"]

_SLACK = 0.95  # of the free memory, for a batch that still fits when it is tried


@dataclass(frozen=True)
class Need:
    """What a task takes, in bytes.

    params  whatever the batch
    blobs   in proportion to the batch
    batch   the first axis of the data; 0 where it cannot be chosen
    """

    params: int
    blobs: int = 0
    batch: int = 0


def need_of_run(params: int, blobs: int, backward: bool, batch: int = 0) -> Need:
    """Return what a pass takes, from the bytes of the params' values and of all blobs.

    Params: the values, the runtime's copy and, backward, the gradients. Of the blobs' gradients only those between two
    layers live at a time, but the runtime keeps blocked and flipped copies: measured peaks lie between one and two
    times the blobs.
    """
    return Need(params * (3 if backward else 2), blobs * (2 if backward else 1), batch)


def need_of_draws(sizes: Sequence[int]) -> Need:
    """Return what drawing arrays of some sizes, in bytes, takes: a filler works on a copy of the array at most."""
    return Need(sum(sizes) + max(sizes, default=0))


def check_memory(need: Need, task: str, device: Device = CPU, advice: str = "") -> None:
    """Raise InputError when a task needs more memory than is available on the device.

    task:   what needs it, for the message: "the run"
    advice: what to do when no smaller batch helps
    """
    available = device.available_bytes()
    total = need.params + need.blobs
    if available is None or total <= available:
        return
    where = "memory" if device == CPU else f"the memory of {device}"
    parts = f" (params {_gib(need.params)}, blobs at batch {need.batch} {_gib(need.blobs)})" if need.batch else ""
    raise InputError(
        f"{task} needs about {_gib(total)}{parts}, but only {_gib(available)} of {where} is free: "
        + _advice(need, available, advice)
    )


def _advice(need: Need, available: int, advice: str) -> str:
    if not need.batch:
        return advice or "use a machine with more memory"
    fitting = int(need.batch * max(available * _SLACK - need.params, 0) / max(need.blobs, 1))
    refused = f"not even a batch of 1 would fit; {advice}" if advice else "not even a batch of 1 would fit"
    return f"--batch {fitting} would fit" if fitting else refused


def _gib(count: int) -> str:
    return f"{count / 2**30:,.1f} GiB"
