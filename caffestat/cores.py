"""How many cores there are to work on."""

from __future__ import annotations

import os

__all__ = ["core_count"]


def core_count() -> int:
    """Return how many cores this process may use, as far as the system tells; else how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
