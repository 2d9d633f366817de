"""Caffe's memory: which blobs share memory, what a layer overwrites, and what the backward pass reads.

In the graph a value never changes. Caffe keeps one array per blob, of its data and of its diff: a layer in place
writes over its bottom, the tops of Split, Reshape and others are their bottom's memory. The backward pass reads the
arrays as they are then, and a diff that was moved or written over is lost. All of this is here; layers state their part
(`shares_memory`, `shares_diff`, `replaces_diff`, `overwrites_diff`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from .model import Net, Node

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["Memory", "adds_up"]


def adds_up(node: Node, index: int) -> bool:
    """Tell whether the gradient of a node's param is added to what earlier layers or passes left of a shared one."""
    return not node.layer.overwrites_diff(index, [shape or () for shape in node.bottom_shapes])


class Memory:
    """The values that the blobs of a net hold while its layers run in order, and what overwrites earlier ones."""

    def __init__(self, graph: Graph, nodes: Sequence[Node] = ()) -> None:
        self.graph = graph
        self._values: dict[int, str] = {}
        self._written: set[str] = set()
        self._same: dict[tuple[Memory, int], list[tuple[Memory, int]]] = {}  # blobs of this net and of inner ones
        self._overwritten: dict[str, str] = {}
        self._views: defaultdict[str, list[str]] = defaultdict(list)
        self._seen = 0  # nodes of the graph that have been looked at for views
        # the diff of such a blob lies no longer where layers that share memory look for it
        self._moved = {b for node in nodes if node.need_backward for b in node.bottoms[node.layer.replaces_diff]}

    def __contains__(self, blob: int) -> bool:
        return blob in self._values

    def __getitem__(self, blob: int) -> str:
        """Return the value that a blob holds at the moment."""
        return self._values[blob]

    def inside(self, net: Net) -> Memory:
        """Return the memory of a net inside of a layer of this one: what it writes over counts for both."""
        inner = Memory(self.graph, net.nodes)
        inner._overwritten, inner._same = self._overwritten, self._same
        return inner

    def view(self, value: str, seen: str) -> None:
        """Note that a value is another one as a layer reads it, in the same memory."""
        self._views[value].append(seen)

    def hold(self, blob: int, value: str) -> str:
        """Let a blob hold a value, and return it."""
        self._values[blob] = value
        self._written.add(value)
        return value

    def forget(self, blobs: Iterable[int]) -> None:
        """Hold nothing in some blobs: the layer that writes them is left out."""
        for blob in blobs:
            self._values.pop(blob, None)

    def stored(self, value: str) -> str:
        """Return what the memory of a value holds in the end."""
        while value in self._overwritten:
            value = self._overwritten[value]
        return value

    def all_stored(self) -> dict[str, str]:
        """Return what the memory of each value that was written over holds in the end, for the backward pass."""
        return {value: self.stored(value) for value in self._overwritten}

    def write(self, node: Node, tops: Sequence[str], reads: Iterable[str]) -> list[str]:
        """Let a layer write its tops, and return a value of its own for each; reads: those of its bottoms."""
        g, taken = self.graph, {*reads}
        before = {blob: self._values[blob] for blob in node.bottoms}
        values = []
        for value, blob, shape in zip(tops, node.tops, node.top_shapes, strict=True):
            if value in taken or value in self._written or value in g.inputs:
                value = g.emit("Identity", value)  # a gradient of its own, too
            taken.add(value)
            if blob in self._moved and node.layer.shares_diff:
                value = g.detach(value)
            values.append(g.declare(value, shape or ()))
            self.hold(blob, value)
            if blob in before:
                self._write_in_place(blob, before[blob], value)
        for top in node.tops if node.layer.shares_memory else ():
            self.share(top, self, node.bottoms[0])
        return values

    def share(self, blob: int, other: Memory, bottom: int) -> None:
        """Let a blob be the memory of another one, of this net or an inner one."""
        same = self._same.setdefault((other, bottom), [(other, bottom)])
        if (self, blob) not in same:
            same += self._same.get((self, blob), [(self, blob)])
            self._same.update(dict.fromkeys(same, same))

    def _write_in_place(self, blob: int, old: str, new: str) -> None:
        """Write `new` over `old`: every blob in the same memory holds it from now on."""
        self._overwrite(old, new)
        for memory, other in self._same.get((self, blob), ()):
            before = memory[other]
            if before == old:
                memory.hold(other, new)
            elif before != new:
                self._overwrite(before, memory.hold(other, self._seen_through(before, new)))

    def _overwrite(self, old: str, new: str) -> None:
        """Record that `new` is in the memory of `old`, and of what layers have read of it in another shape."""
        g = self.graph
        self._find_views()
        views = list(self._views[old])
        by = g.reshape(new, *g.shape(old))
        if by != old:
            self._overwritten[old] = by
        for view in views:
            self._overwrite(view, g.reshape(new, *g.shape(view)))

    def _find_views(self) -> None:
        """Note the values that are others in another shape, or cut off from the backward pass."""
        g = self.graph
        for node in g.nodes[self._seen :]:
            if (node.info.reshapes and node.outputs[0] in g.specs) or node.outputs[0] in g.detached:
                self.view(node.inputs[0], node.outputs[0])
        self._seen = len(g.nodes)

    def _seen_through(self, before: str, new: str) -> str:
        """Return `new` in the shape of `before`; its gradient is that of `before`: diffs are not overwritten."""
        g = self.graph
        shape = g.shape(before)

        def forward(_: str) -> list[str]:
            return [g.emit("Reshape", g.detach(new), g.ints(*shape))]

        (seen,) = g.custom_vjp((before,), forward, lambda tape, dys: dys)
        return g.declare(seen, shape)
