"""Which boxes and arrows the drawing of a net has: in-place layers folded, Splits hidden, repeated blocks found."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ..model import LayerRow, Report

__all__ = ["Block", "Box", "Drawing", "drawing"]

_SEPARATOR = re.compile(r"[/_.:-]")
_SMALLEST, _LARGEST = 3, 80  # boxes in a block


@dataclass
class Box:
    """A box of the drawing: a layer, and those that work in place on what it makes.

    rows   indices of the report's layers; empty for an input of an ONNX model
    input  index of the report's input
    """

    name: str
    rows: list[int] = field(default_factory=list)
    input: int | None = None


@dataclass(frozen=True)
class Block:
    """Boxes that share a name's beginning and can be drawn as one."""

    name: str
    boxes: tuple[int, ...]


@dataclass(frozen=True)
class Drawing:
    """The boxes in the order of the net, the arrows between them by index, and the blocks."""

    boxes: tuple[Box, ...]
    edges: tuple[tuple[int, int], ...]
    blocks: tuple[Block, ...]


def drawing(report: Report) -> Drawing:
    """Return what is drawn of a report."""
    boxes, edges = _fold(report)
    return Drawing(tuple(boxes), tuple(edges), tuple(_blocks(boxes, edges)))


def _fold(report: Report) -> tuple[list[Box], list[tuple[int, int]]]:
    boxes = [Box(value.name, input=index) for index, value in enumerate(report.inputs)]
    makers = {value.id: index for index, value in enumerate(report.inputs)}  # the box of each value
    edges: dict[tuple[int, int], None] = {}
    for index, row in enumerate(report.layers):
        sources = [makers[value] for value in row.reads if value in makers]
        if report.inputs and not sources:  # a node of a model that reads stored values only: no signal passes it
            continue
        if row.inserted:
            makers.update((top.id, sources[0]) for top in row.tops)
            continue
        place = sources[0] if _is_in_place(row) and boxes[sources[0]].rows else len(boxes)
        if place == len(boxes):
            boxes.append(Box(row.name))
        boxes[place].rows.append(index)
        makers.update((top.id, place) for top in row.tops)
        edges.update(((source, place), None) for source in sources if source < place)
    return boxes, list(edges)


def _is_in_place(row: LayerRow) -> bool:
    """Tell whether a layer writes its one top over its one bottom."""
    return len(row.tops) == 1 and row.bottoms == (row.tops[0].name,)


def _blocks(boxes: Sequence[Box], edges: Iterable[tuple[int, int]]) -> Iterator[Block]:
    """Yield the blocks, the longest shared names first, that can be drawn as one box without a loop."""
    graph = _Contracted(len(boxes), edges)
    taken: set[int] = set()
    for name, members in _groups(boxes):
        if taken.isdisjoint(members) and graph.is_convex(members):
            graph.contract(members)
            taken.update(members)
            yield Block(name, tuple(members))


def _groups(boxes: Sequence[Box]) -> list[tuple[str, list[int]]]:
    """Return the boxes by beginnings of their names, the longest beginnings first."""
    found: dict[str, list[int]] = defaultdict(list)
    for index, box in enumerate(boxes):
        for name in _beginnings(box.name):
            found[name].append(index)
    fitting = [(name, members) for name, members in found.items() if _SMALLEST <= len(members) <= _LARGEST]
    fitting = [(name, members) for name, members in fitting if len(members) < len(boxes) - 1]
    return sorted(fitting, key=lambda group: (-len(group[0]), group[1][0]))


def _beginnings(name: str) -> Iterator[str]:
    """Yield the name up to each separator, and whole, where these have a number."""
    for separator in _SEPARATOR.finditer(name):
        head = name[: separator.start()]
        if any(c.isdigit() for c in head):
            yield head
    if any(c.isdigit() for c in name):
        yield name


class _Contracted:
    """The drawing's graph, with the blocks found so far as one box each.

    members  the boxes of the block that a box belongs to
    """

    def __init__(self, count: int, edges: Iterable[tuple[int, int]]) -> None:
        self._members: list[Sequence[int]] = [(box,) for box in range(count)]
        self._readers: dict[int, list[int]] = defaultdict(list)
        for source, target in edges:
            self._readers[source].append(target)

    def is_convex(self, members: Sequence[int]) -> bool:
        """Tell whether no path leaves the members and comes back: such a block would be part of a loop."""
        inside, last = set(members), max(members)
        waiting = [reader for member in members for reader in self._readers[member] if reader not in inside]
        seen: set[int] = set()
        while waiting:
            box = waiting.pop()
            if box in inside:
                return False
            block = self._members[box]
            if box not in seen and block[0] <= last:
                seen.update(block)
                waiting.extend(reader for other in block for reader in self._readers[other])
        return True

    def contract(self, members: Sequence[int]) -> None:
        """Draw the members, which are sorted, as one."""
        for member in members:
            self._members[member] = members
