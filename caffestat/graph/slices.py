"""Chains of ops that work on each sample by itself, run for one slice of the batch after the other.

What a chain computes of a slice stays in the caches; of a large batch each op would write it to memory, and the next
one read it there. A chain ends where something is asked of the whole batch: its sums are added up over the slices. It
becomes a Scan, whose slices are no copies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING

from caffestat.lazy import np
from caffestat.ops.samples import is_of_elements, samples_of, summed_samples_of

from .bodies import close_body, with_captured
from .convolution import Convolution
from .graph import Node
from .late import LATE, branch
from .nodes import bodies_of
from .nodes import renamed as rename_body
from .order import live, without_views_of_views
from .repeats import renamed, without_repeats

if TYPE_CHECKING:
    from .graph import Graph

__all__ = ["Chain", "append_chain", "chains", "large"]

LARGE = 3_000_000
"""Elements of a value that the caches do not hold beside others of its kind."""

MEASURED_LARGE = 1_500_000
"""The same where normalizations by sums and statistics of values put more passes between two convolutions."""

_SLICE = 800_000
"""At least so many elements of the largest value are in a slice: fewer do not keep two cores busy."""

_LONG = 16_384
"""Elements of a sum over slices from which on the form of the addition counts."""

Define = Callable[["Graph", Sequence[Node]], None]


@dataclass(frozen=True)
class _Use:
    """How a node works on a batch: which values hold its samples, which it reads whole, how many elements one has."""

    batch: int
    samples: frozenset[str]
    shared: frozenset[str]
    is_sum: bool
    largest: int


@dataclass
class Chain:
    """Nodes in the order in which they run for each slice.

    batch:   how many samples there are
    samples: the values that hold one part per sample, read or made
    shared:  the values that are read whole for every sample
    sums:    the values that are sums over the samples
    made:    what the nodes compute
    largest: elements of the largest value
    """

    batch: int
    nodes: list[Node] = field(default_factory=list)
    samples: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)
    sums: set[str] = field(default_factory=set)
    made: set[str] = field(default_factory=set)
    largest: int = 0

    def add(self, node: Node, use: _Use) -> None:
        """Append a node."""
        self.nodes.append(node)
        self.made.update(node.outputs)
        self.samples |= use.samples
        self.shared |= use.shared
        self.sums.update(node.outputs if use.is_sum else ())
        self.largest = max(self.largest, use.largest)

    def takes(self, use: _Use) -> bool:
        """Tell whether a node may read in the chain what it reads: sums are not there yet."""
        mixed = (use.samples & self.shared) | (use.shared & self.samples)
        return use.batch == self.batch and not mixed and self.sums.isdisjoint(use.samples | use.shared)

    def count(self) -> int:
        """Return into how many slices the batch is cut."""
        most = min(max(self.largest // _SLICE, 1), self.batch)
        return next(count for count in range(most, 0, -1) if self.batch % count == 0)

    def parts(self) -> list[Node | Chain]:
        """Return the chain, or its nodes where nothing would stay in the caches."""
        return [self] if len(self.nodes) > 1 and self.count() > 1 else [*self.nodes]


def chains(g: Graph, nodes: Sequence[Node]) -> Iterator[Node | Chain]:
    """Yield nodes, and chains of others of them, in an order in which they can run."""
    least = large(g) if g.scaled and g.scaled.affine else LARGE
    chain: Chain | None = None
    behind: list[Node] = []  # nodes that wait for the chain
    awaited: set[str] = set()  # what they compute
    for node in nodes:
        use, read = _use(g, node, least), {*node.inputs, *node.captured}
        if chain and use and not (chain.takes(use) and read.isdisjoint(awaited)):
            yield from [*chain.parts(), *behind]
            chain, behind, awaited = None, [], set()
        if use:
            chain = chain or Chain(use.batch)
            chain.add(node, use)
        elif chain and not read.isdisjoint(awaited | chain.made):
            behind.append(node)
            awaited.update(node.outputs)
        else:
            yield node
    yield from [*(chain.parts() if chain else ()), *behind]


def large(g: Graph) -> int:
    """Return from how many elements on a value that is normalized by sums is large."""
    return MEASURED_LARGE if g.statistics else LARGE


def _use(g: Graph, node: Node, least: int) -> _Use | None:
    """Return how a node works on slices of a batch of at least so many elements; None: not at all."""
    read, is_sum = _read_by_sample(g, node)
    if not read or node.captured or sum(map(bool, node.outputs)) != 1:
        return None
    values = {*read, *(() if is_sum else node.outputs[:1])}
    if not g.specs.keys() >= {*filter(None, node.inputs), *node.outputs[:1]} or not _are_images(g, values):
        return None
    largest = max(prod(g.shape(value)) for value in values)
    shared = frozenset(node.inputs) - values
    return _Use(g.shape(read[0])[0], frozenset(values), shared, is_sum, largest) if largest >= least else None


def _are_images(g: Graph, values: Collection[str]) -> bool:
    """Tell whether values, of known shape, all hold the same number of images, more than one, and no param is one."""
    batches = {g.shape(value)[:1] for value in values}
    are_right = all(g.specs[value].dtype == np.float32 and len(g.shape(value)) > 2 for value in values)
    is_given = any(value in g.constants or value in g.params for value in values)
    return are_right and not is_given and len(batches) == 1 and max(batches) > (1,)


def _read_by_sample(g: Graph, node: Node) -> tuple[list[str], bool]:
    """Return the inputs that a node reads sample by sample, and whether it adds up what it makes of the samples."""
    if node.domain not in ("", LATE) or node.get("training_mode", 0):
        return [], False
    summed = summed_samples_of(node.op)
    if positions := summed or samples_of(node.op):
        return [node.inputs[position] for position in positions], bool(summed)
    if not is_of_elements(node.op) or any(name not in g.specs for name in (*node.inputs, node.outputs[0])):
        return [], False
    rank = len(g.shape(node.outputs[0]))
    return [name for name in node.inputs if len(g.shape(name)) == rank > 0 and g.shape(name)[0] > 1], False


def append_chain(g: Graph, chain: Chain, asked: Collection[str], define: Define) -> None:
    """Append a Scan that runs a chain, what is the same for all slices in front of it, and the sums behind it.

    asked:  the values that are read elsewhere
    define: appends to a graph what nodes become for the runtime
    """
    outputs = [name for node in chain.nodes for name in node.outputs if name in asked]
    count = chain.count()
    inner = _slice(g, chain, count, outputs, define)
    _move_shared(g, inner)
    values, slices = _read_by_slices(g, inner, count)
    results = _results(inner, outputs)
    body = close_body(inner, g, slices, results, "slice", copies=False)
    found = g.emit_many("Scan", *values, count=len(outputs), body=body, num_scan_inputs=len(values))
    g.nodes[-1] = with_captured(g.nodes[-1])
    for name, result, end in zip(outputs, results, found, strict=True):
        g.declare(end, (count, *inner.shape(result)), g.specs[name].dtype)
        g.statistics.update([end] if name in g.statistics else ())
        g.nodes.append(_of_all(g, name, end, count, name in chain.sums))


def _of_all(g: Graph, name: str, slices: str, count: int, is_sum: bool) -> Node:
    """Return the node that makes a value of the whole batch of those of its slices.

    Large ones, the gradients of filters, are added up by a product with ones: 0.1 to 0.3 of the time of ReduceSum.
    """
    shape = g.shape(name)
    if is_sum and prod(shape) >= _LONG:
        ones = g.constant(np.ones((1, count)), g.specs[name].dtype)
        slices = g.emit("MatMul", ones, g.reshape(slices, count, prod(shape)))
    elif is_sum:
        return Node("ReduceSum", (g.reshape(slices, count, *shape), g.ints(0)), (name,), {"keepdims": 0})
    return Node("Reshape", (slices, g.ints(*shape)), (name,))


def _slice(g: Graph, chain: Chain, count: int, outputs: Sequence[str], define: Define) -> Graph:
    """Return the graph of one slice of a chain.

    There the runtime does not lay constant filters out: they are laid out as those that change, before the first slice.
    """
    size = chain.batch // count
    inner = branch(g)
    inner.specs.update((name, replace(g.specs[name], shape=(size, *g.shape(name)[1:]))) for name in chain.samples)
    inner.inputs = {name: inner.specs[name] for name in chain.samples - chain.made}
    inner.held = g.params.keys() - g.changing
    inner.changing = g.changing | inner.held
    define(inner, [_of_batch(node, size) for node in chain.nodes])
    nodes = without_views_of_views(inner, inner.nodes)
    inner.nodes = live(without_repeats(nodes, outputs), outputs)
    g.constants.update((name, array) for name, array in inner.constants.items() if name not in g.constants)
    return inner


def _of_batch(node: Node, size: int) -> Node:
    """Return the same node for a batch of another size."""
    described = {name: replace(of, batch=size) for name, of in node.attributes.items() if isinstance(of, Convolution)}
    return replace(node, attributes=node.attributes | described)


def _move_shared(g: Graph, inner: Graph) -> None:
    """Move the nodes that read nothing of a slice to the graph outside, as far as they compute known shapes."""
    inside: set[str] = set(inner.inputs)
    kept = []
    for node in inner.nodes:
        is_known = inner.specs.keys() >= set(node.outputs)
        if is_known and inside.isdisjoint((*node.inputs, *node.captured)):
            g.nodes.append(node)
            g.specs.update((name, inner.specs[name]) for name in node.outputs)
        else:
            kept.append(node)
            inside.update(node.outputs)
    inner.nodes = kept


def _read_by_slices(g: Graph, inner: Graph, count: int) -> tuple[list[str], list[str]]:
    """Emit what a Scan reads, [slices, …], and return it and the names that a slice of each has in the body.

    Views of what a body reads would be copies there: a slice of a view of the whole is none.
    """
    is_view = [_is_view(inner, node) for node in inner.nodes]
    views = [node for node, found in zip(inner.nodes, is_view, strict=True) if found]
    inner.nodes = [node for node, found in zip(inner.nodes, is_view, strict=True) if not found]
    used = {name for node in inner.nodes for name in (*node.inputs, *node.captured)}
    direct = sorted(used.intersection(inner.inputs))
    names = {name: inner.unique(name) for name in direct}  # the whole has the name outside
    inner.specs.update((new, inner.specs[old]) for old, new in names.items())
    inner.nodes = [_renamed(node, names) for node in inner.nodes]
    read = [(node.inputs[0], node.outputs[0]) for node in views] + list(names.items())
    return [g.reshape(whole, count, *inner.shape(part)) for whole, part in read], [part for _, part in read]


def _renamed(node: Node, names: Mapping[str, str], results: bool = False) -> Node:
    """Return the node that reads other names, its branches too, and with `results` computes them."""
    node = renamed(renamed(node, names), names, results)
    if names.keys().isdisjoint(node.captured):
        return node
    bodies = {name: rename_body(body, names) for name, body in bodies_of(node).items()}
    return with_captured(replace(node, attributes=node.attributes | bodies))


def _is_view(inner: Graph, node: Node) -> bool:
    """Tell whether a node gives something of a slice that a body reads another shape, which is known."""
    if not node.info.reshapes or node.outputs[0] not in inner.specs:
        return False
    return node.inputs[0] in inner.inputs and inner.constants.keys() >= set(node.inputs[1:])


def _results(inner: Graph, outputs: Sequence[str]) -> list[str]:
    """Return what a body returns for each output: what it is a view of, where no other one is; the view is a copy."""
    nodes, flow = inner.nodes, inner.flow()

    def is_view(index: int) -> bool:
        return nodes[index].info.reshapes and nodes[index].inputs[0] in inner.specs

    sources = [
        next(s for s in reversed(list(flow.chain(name, is_view))) if flow.writer(s) is not None) for name in outputs
    ]
    ends = [s if sources.count(s) == 1 else name for name, s in zip(outputs, sources, strict=True)]
    names = {name: inner.unique(name) for name in ends}  # the output has the name outside
    inner.specs.update((new, inner.specs[old]) for old, new in names.items())
    inner.nodes = live([_renamed(node, names, results=True) for node in nodes], names.values())
    return list(names.values())
