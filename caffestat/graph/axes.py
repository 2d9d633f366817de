"""The meaning of a value's axes."""

from __future__ import annotations

__all__ = ["all_but_channels"]


def all_but_channels(rank: int) -> tuple[int, ...]:
    """Return the axes of a value [N, C, …] without the channels' axis: (0, 2, 3) for rank 4."""
    return tuple(axis for axis in range(rank) if axis != 1)
