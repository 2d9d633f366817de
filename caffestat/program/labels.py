"""Labels and indices outside of their range: a run that meets one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caffestat.errors import NetError
from caffestat.lazy import np
from caffestat.net import Node

from .from_net import NetProgram
from .program import Forward, Program

__all__ = ["Labels"]


class Labels:
    """The values of a net's graph that count classes, rows or items from 0. Of a model there are none.

    fed:    those that are inputs of a run
    values: those that a run computes
    """

    def __init__(self, program: Program, forward: Forward) -> None:
        self._counts: dict[tuple[int, int], tuple[str, int]] = {}
        if isinstance(program, NetProgram):
            self._net, net = program.net, program.net
            self._origins = net.flow.origins(lambda index: net.nodes[index].layer.copies)
            self._find(forward)
        checked = {value for value, _ in self._counts.values()}
        self.fed = checked.intersection(forward.graph.inputs)
        self.values = checked - self.fed

    def _find(self, forward: Forward) -> None:
        fed = {feed.row: feed.names for feed in forward.feeds}
        for (index, bottom), value in forward.bottoms.items():
            count = _count(self._net.nodes[index], bottom)
            if count is not None and self._net.nodes[index].is_known:
                node, top = self._source(index, bottom)
                names = fed.get(node.index, ())
                self._counts[index, bottom] = names[top] if top < len(names) and not node.bottoms else value, count

    def check(self, values: Mapping[str, Any]) -> None:
        """Raise NetError for a value out of range, which names it, the range and where it comes from.

        values: inputs or outputs of a run; those that are absent are not looked at
        """
        for (index, bottom), (value, count) in self._counts.items():
            found = np.trunc(np.asarray(values.get(value, 0)))
            layer = self._net.nodes[index].layer
            bad = ~((found >= 0) & (found < count)) & ~layer.is_ignored(found)
            if bad.any():
                raise self._error(index, bottom, float(found[bad][0]), count)

    def _error(self, index: int, bottom: int, label: float, count: int) -> NetError:
        source, top = self._source(index, bottom)
        origin = f"blob {self._net.blobs[source.tops[top]].name!r} of layer {source.name!r} at {source.place}"
        expected = f"expected values from 0 to {count - 1} ({count} values)"
        return self._net.nodes[index].layer.error(f"{expected}, found {label:g} in {origin}")

    def _source(self, index: int, bottom: int) -> tuple[Node, int]:
        """Return the layer and the top that a bottom's values come from, Caffe's Split layers left out."""
        source = self._net.flow.source((index, bottom))
        node, top = self._origins.get(source, source)
        return self._net.nodes[node], top


def _count(node: Node, bottom: int) -> int | None:
    shapes = [shape for shape in node.bottom_shapes if shape is not None]
    return node.layer.classes(bottom, shapes) if len(shapes) == len(node.bottom_shapes) else None
