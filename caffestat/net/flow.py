"""Who writes and who reads each value of a net: one index, made in one pass over its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .model import Net, Node

__all__ = ["Flow"]

Key = tuple[int, int]  # node index, and which top or bottom of it


class Flow:
    """The values of a net: a blob that layers overwrite in place is one value per writer.

    sources  the (node, top) that each (node, bottom) reads
    readers  the first (node, bottom) that reads each (node, top); Caffe's Split layers leave no second one
    """

    def __init__(self, net: Net) -> None:
        self.net = net
        self.sources: dict[Key, Key] = {}
        self.readers: dict[Key, Key] = {}
        writers: dict[int, Key] = {}
        for node in net.nodes:
            for bottom, blob in enumerate(node.bottoms):
                self.sources[node.index, bottom] = writers[blob]
                self.readers.setdefault(writers[blob], (node.index, bottom))
            writers.update({blob: (node.index, top) for top, blob in enumerate(node.tops)})

    def next(self, node: Node) -> Iterator[tuple[Node, int]]:
        """Yield, top by top, the layer that reads it next, and at which of its bottoms."""
        for top in range(len(node.tops)):
            reader = self.readers.get((node.index, top))
            if reader:
                yield self.net.nodes[reader[0]], reader[1]

    def has_weights(self, node: Node) -> bool:
        """Tell whether a layer has weights of its own."""
        return any(self.net.params[number].param.role == "weight" for number in node.params)

    def until(self, node: Node, stops: Callable[[Node], bool]) -> Iterator[tuple[Node, int]]:
        """Yield the first layers behind a node at which `stops` holds, and the bottom by which each is reached first.

        Every layer is visited once, in depth-first order.
        """
        seen: set[int] = set()
        waiting = [self.next(node)]
        while waiting:
            reader, bottom = next(waiting[-1], (None, 0))
            if reader is None:
                waiting.pop()
            elif reader.index not in seen:
                seen.add(reader.index)
                if stops(reader):
                    yield reader, bottom
                else:
                    waiting.append(self.next(reader))
