"""Where the boxes of a drawing lie, and the arrows between them, computed by graphlay.

Blocks are laid out on their own, and once more as one closed box each in the net around them. The page opens a block by
stretching the space that its closed box takes, so it needs no layout of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .net import Block, Box, Drawing

__all__ = ["BOX_WIDTH", "layout"]

BOX_WIDTH, BOX_HEIGHT, STRIP_HEIGHT = 172, 40, 18
BLOCK_HEIGHT, HEADER, MARGIN = 44, 26, 16

_OPTIONS = {
    "direction": "topbottom",
    "routing": {"style": "diagonal"},
    "spacing": {"layer_gap": 30.0, "node_gap": 26.0, "dummy_gap": 14.0, "port_gap": 10.0, "stub": 8.0},
}
# routes of any direction take minutes for 5,342 layers, these about two seconds
_FAST = {"effort": "fast", "routing": {"style": "orthogonal"}, "coords": {"placement": "brandes_koepf"}}
_MANY = 300  # boxes from which on that is too long

Size = tuple[float, float]
Edge = tuple[int, int]


def layout(drawing: Drawing) -> dict[str, Any]:
    """Return the places of everything as plain data.

    boxes   of each box: rows, input, name
    blocks  of each block: name, boxes, size, and like the outer net: places and edges. "in" and "out" of an edge's
            ends are the middle of the block's upper and lower side
    outer   items: ["box" | "block", index]; places: [x, y, width, height] of each item; edges: ends (item indices) and
            points
    """
    inner = [_block(drawing, block) for block in drawing.blocks]
    return {
        "boxes": [{"name": box.name, "rows": box.rows, "input": box.input} for box in drawing.boxes],
        "blocks": inner,
        "outer": _outer(drawing),
    }


def _size(box: Box) -> Size:
    return BOX_WIDTH, BOX_HEIGHT + STRIP_HEIGHT * max(len(box.rows) - 1, 0)


def _block(drawing: Drawing, block: Block) -> dict[str, Any]:
    """Lay out the inside of a block, between a node for what comes in and one for what goes out."""
    local = {box: index for index, box in enumerate(block.boxes)}
    top, bottom = len(local), len(local) + 1
    edges = {(local.get(a, top), local.get(b, bottom)) for a, b in drawing.edges if a in local or b in local}
    sizes = [*(_size(drawing.boxes[box]) for box in block.boxes), (2.0, 2.0), (2.0, 2.0)]
    places, routes = _arrange(sizes, sorted(edges))
    width, height = _extent(places)
    moved = [[x + MARGIN, y + HEADER, w, h] for x, y, w, h in places[: len(local)]]
    return {
        "name": block.name,
        "boxes": list(block.boxes),
        "size": [width + 2 * MARGIN, height + HEADER + MARGIN / 2],
        "places": moved,
        "edges": [
            {"ends": [None if end >= top else end for end in ends], "points": _moved(points, MARGIN, HEADER)}
            for ends, points in routes
        ],
    }


def _moved(points: Sequence[Sequence[float]], dx: float, dy: float) -> list[list[float]]:
    return [[x + dx, y + dy] for x, y in points]


def _extent(places: Iterable[Sequence[float]]) -> Size:
    return max((x + w for x, _, w, _ in places), default=0), max((y + h for _, y, _, h in places), default=0)


def _outer(drawing: Drawing) -> dict[str, Any]:
    block_of = {box: index for index, block in enumerate(drawing.blocks) for box in block.boxes}
    items: dict[tuple[str, int], int] = {}
    for box in range(len(drawing.boxes)):
        items.setdefault(_item(box, block_of), len(items))
    ends = {box: items[_item(box, block_of)] for box in range(len(drawing.boxes))}
    edges = sorted({(ends[a], ends[b]) for a, b in drawing.edges if ends[a] != ends[b]})
    sizes = [_size(drawing.boxes[i]) if kind == "box" else (BOX_WIDTH, BLOCK_HEIGHT) for kind, i in items]
    places, routes = _arrange(sizes, edges)
    return {
        "items": [list(item) for item in items],
        "places": places,
        "edges": [{"ends": list(ends), "points": points} for ends, points in routes],
    }


def _item(box: int, block_of: Mapping[int, int]) -> tuple[str, int]:
    return ("block", block_of[box]) if box in block_of else ("box", box)


def _arrange(sizes: Sequence[Size], edges: Sequence[Edge]) -> tuple[list[list[float]], list[tuple[Edge, Any]]]:
    """Return [x, y, width, height] of each node, from (0, 0) on, and the points of each edge from border to border."""
    import graphlay

    graph = graphlay.Graph()
    for width, height in sizes:
        graph.node(width=width, height=height)
    for source, target in edges:
        graph.edge(source, target)
    found = graphlay.layout(graph, options={**_OPTIONS, **(_FAST if len(sizes) > _MANY else {})})
    left, top = found.bounds["min"]["x"], found.bounds["min"]["y"]
    places = [_place(node, left, top) for node in found.nodes]
    routes = [[[_r(p["x"] - left), _r(p["y"] - top)] for p in edge["points"]] for edge in found.edges]
    return places, list(zip(edges, routes, strict=True))


def _place(node: Mapping[str, Any], left: float, top: float) -> list[float]:
    width, height = node["size"]["width"], node["size"]["height"]
    return [_r(node["center"]["x"] - width / 2 - left), _r(node["center"]["y"] - height / 2 - top), width, height]


def _r(value: float) -> float:
    return round(value, 1)
