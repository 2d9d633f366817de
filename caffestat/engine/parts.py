"""Graphs are cut into parts that run one after the other.

The runtime orders the nodes of a session by a search from its last result: statistics and gradients of params, which
nothing reads but that result, come last, and until then all that they read is kept. Parts run in our order. The
runtime's set-up is quadratic in the nodes, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy

from caffestat.graph import Graph, Node
from caffestat.graph.nodes import subgraphs

__all__ = ["count_nodes", "cut"]

# Nodes of a part by those of the graph. In the runtime's own order small parts save memory: a third on VGG-16. In that
# by priority, which graphs of 2,000 to 12,000 nodes get, larger ones take as little, and less time.
_SIZES = {2_000: 150, 12_000: 600}
_LARGEST = 2_000


def cut(g: Graph, longest: int) -> list[Graph]:
    """Return the parts of a graph in the order in which they run, the graph itself up to `longest` nodes.

    A part's outputs are what later parts read and what the graph returns; its inputs, beside those of the graph, are
    what earlier parts computed.
    """
    nodes = count_nodes(g)
    return [g] if nodes <= longest else _parts(g, _chunks(g, _size(nodes)))


def count_nodes(g: Graph) -> int:
    """Return how many nodes a graph has, those of bodies and branches among them."""
    return len(g.nodes) + sum(len(body.node) for node in g.nodes for body in subgraphs(node))


def _size(nodes: int) -> int:
    """Return the nodes of a part of a graph of so many."""
    return next((size for limit, size in _SIZES.items() if nodes <= limit), _LARGEST)


def _chunks(g: Graph, size: int) -> list[list[Node]]:
    """Cut the nodes, `size` each, where every value that crosses has a known shape: it becomes an input of a part.

    What another part computes in another shape is brought into this shape again: both crossing would be a copy.
    """
    flow = g.flow()
    chunks: list[list[Node]] = [[]]
    unknown: set[str] = set()
    views: dict[str, Node] = {}
    there: set[str] = set()  # the views of this chunk
    for index, node in enumerate(g.nodes):
        if len(chunks[-1]) >= size and not unknown:
            chunks.append([])
            there = set()
        chunks[-1] += [*_missing(node, views, there), node]
        if node.info.reshapes and node.inputs[0] in g.specs and g.constants.keys() >= set(node.inputs[1:]):
            views[node.outputs[0]] = node
            there.add(node.outputs[0])
        unknown.update(name for name in node.outputs if name and name not in g.specs and flow.readers(name))
        unknown -= {name for name in flow.reads(index) if flow.readers(name)[-1][0] == index}
    return chunks


def _missing(node: Node, views: Mapping[str, Node], there: set[str]) -> list[Node]:
    """Return the views that a node reads and that its chunk lacks, with those that they are views of."""
    found = []
    for name in (*node.inputs, *node.captured):
        if name in views and name not in there:
            there.add(name)
            found += [*_missing(views[name], views, there), views[name]]
    return found


def _parts(g: Graph, chunks: Sequence[Sequence[Node]]) -> list[Graph]:
    reads = [{name for node in nodes for name in (*node.inputs, *node.captured)} for nodes in chunks]
    passed = set(g.outputs) - {name for node in g.nodes for name in node.outputs}  # the first part returns them
    reads[0] |= passed
    wanted, parts = set(g.outputs), []
    for nodes, read in zip(reversed(chunks), reversed(reads), strict=True):
        computed = [name for node in nodes for name in node.outputs if name]
        outputs = [name for name in computed if name in wanted]
        if not outputs and nodes is not chunks[0]:
            continue  # it has only views, which later parts make themselves
        part = copy(g)
        part.nodes, part.outputs = list(nodes), outputs
        outside = read.difference(computed)
        part.params = {name: spec for name, spec in g.params.items() if name in read}
        part.constants = {name: array for name, array in g.constants.items() if name in read}
        known = g.params.keys() | g.constants.keys() | {""}
        part.inputs = {name: g.specs[name] for name in sorted(outside - known)}
        wanted = wanted.difference(computed) | outside
        parts.append(part)
    parts[-1].outputs += sorted(passed)
    return parts[::-1]
