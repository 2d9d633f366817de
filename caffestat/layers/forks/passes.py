"""How many passes a layer has seen, which schedules of forks read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["emit_count"]


def emit_count(g: Graph, name: str) -> str:
    """Emit how many passes there were before this one, [1]."""
    count = g.state(f"{name}/passes", (1,))
    g.carry(count, g.declare(g.emit("Add", count, g.constant(1)), (1,)))
    return count
