"""What the inputs of a program's graph hold: data, labels, what layers draw; or noise in their place."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from caffestat.errors import InputError
from caffestat.fillers import Filler, Stream
from caffestat.graph import Graph, Node
from caffestat.graph.flow import Flow
from caffestat.layers import Shape
from caffestat.lazy import np
from caffestat.net import Net
from caffestat.net import Node as LayerNode
from caffestat.ops import Role
from caffestat.theory import Signal
from caffestat.theory.sources import data, of_array, of_filler, uniform_integers

from .program import Forward, Program
from .synthetic import classes_of, synthetic_tops

__all__ = ["DrawnFeed", "Feed", "Feeds", "InputFeed", "LayerFeed", "check_given", "fitting"]

_DRAWN = 20_000  # elements of a layer's own draws that are looked at, at least
_MOST_SEEN = 256  # kinds of draws that are kept
_TEXT = "OSTU"  # numpy's kinds of it

_SEEN: dict[Hashable, Sequence[Signal]] = {}


@dataclass
class Feeds:
    """What the graph inputs of one pass hold, drawn in Caffe's order. What is drawn stays drawn.

    stream  the net's own random stream, which DummyData and Dropout draw from
    random  for data that is not available
    given   arrays that the user gives, by name
    zeros   Input layers hold 0, as under `caffe train`
    notes   gets what is worth knowing about the values
    left    what the last pass left in inputs that no pass fills anew, by name
    """

    stream: Stream
    random: np.random.Generator
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    zeros: bool = False
    notes: MutableSequence[str] = field(default_factory=list)
    left: Mapping[str, np.ndarray] = field(default_factory=dict)
    _drawn: dict[Hashable, Sequence[np.ndarray]] = field(default_factory=dict)

    def of(self, forward: Forward, net: Net | None = None) -> dict[str, np.ndarray]:
        """Return the inputs of a program's graph, or of its beginning.

        net: whose layers draw, where it is another one of the same shapes as the graph's

        Raises InputError when a given array does not fit.
        """
        arrays: dict[str, np.ndarray] = {}
        for feed in forward.feeds:
            if feed.key not in self._drawn:
                self._drawn[feed.key] = feed.draw(self, net)
            drawn = zip(feed.names, self._drawn[feed.key], strict=True)
            arrays.update({name: self.left.get(name, array) for name, array in drawn})
        return arrays | fitting(forward, self.given)


class Feed(Protocol):
    """Some inputs of a graph that are drawn together.

    key     the same for the same data in all graphs of a program
    names   the graph's inputs
    given   the names by which a user can give their values; "" for what nobody can give
    source  what makes them, for messages
    row     of the program; None for the inputs of a loss
    """

    key: Hashable
    names: tuple[str, ...]
    given: tuple[str, ...]
    source: str
    row: int | None

    def draw(self, feeds: Feeds, net: Net | None) -> Sequence[np.ndarray]:
        """Return an array for each input, by the layers of `net` where it is given."""
        ...

    def signals(self, mean: float, std: float) -> Sequence[Signal | None]:
        """Return the distribution of each input; mean and std are those of data from outside."""
        ...


class LayerFeed:
    """What a layer of a net declared: data from outside, or its own random numbers."""

    def __init__(self, net: Net, node: LayerNode, names: tuple[str, ...]) -> None:
        self.names = names
        self.given = tuple("" if node.bottoms else net.blobs[blob].name for blob in node.tops)
        self.source = f"layer {node.name!r} at {node.place}"
        self.key: Hashable = node.index
        self.row: int | None = node.index
        self._net, self._node = net, node

    def draw(self, feeds: Feeds, net: Net | None) -> Sequence[np.ndarray]:
        """Return the next batch of the layer's data, noise in its place, or what the layer draws itself."""
        node = self._node if net is None else net.nodes[self._node.index]
        layer = node.layer
        if not layer.is_external or layer.decisions is not None:
            return self._draws(node, feeds.stream)
        if layer.reader:
            return layer.reader.next()
        if feeds.zeros and layer.starts_at_zero:
            return [np.zeros(shape or (), np.float32) for shape in node.top_shapes]
        return synthetic_tops(net or self._net, node, feeds.random)

    def signals(self, mean: float, std: float) -> Sequence[Signal | None]:
        """Return normal data, uniform labels, or the distribution of what the layer draws."""
        if not self._node.layer.is_external:
            return self._drawn()
        classes = [classes_of(self._net, (self._node.index, top)) for top in range(len(self._node.tops))]
        return [data(mean, std) if count is None else uniform_integers(count) for count in classes]

    def _drawn(self) -> list[Signal | None]:
        """Return the distributions of what the layer draws: of its fillers, else of what it draws (masks)."""
        fillers = self._node.layer.feed_fillers()
        if fillers:
            shapes = [shape or () for shape in self._node.top_shapes]
            return [_independent(self._of_filler(f, shape)) for f, shape in zip(fillers, shapes, strict=True)]
        return list(map(_independent, self._seen()))

    def _seen(self) -> Sequence[Signal]:
        """Return the distributions of what the layer draws, known already where an equal one has drawn."""
        layer = self._node.layer
        decided = layer.drawn_by(_bottoms(self._node))
        if decided is None:
            return self._sampled()
        key = type(layer), decided
        if key not in _SEEN:
            while len(_SEEN) >= _MOST_SEEN:
                _SEEN.pop(next(iter(_SEEN)))
            _SEEN[key] = self._sampled()
        return _SEEN[key]

    def _sampled(self) -> list[Signal]:
        """Return the distributions of some of what the layer draws."""
        stream = Stream(0)
        drawn: list[list[np.ndarray]] = []
        count = 0
        while count < _DRAWN:
            drawn.append(list(self._draws(self._node, stream)))
            count += max(sum(array.size for array in drawn[-1]), 1)
        return [of_array(np.concatenate([np.ravel(a) for a in column])) for column in zip(*drawn, strict=True)]

    def _draws(self, node: LayerNode, stream: Stream) -> Sequence[np.ndarray]:
        """Return what a layer draws for one pass. Raises NetError where that is not an array per input."""
        found = node.layer.draw_feeds(stream, _bottoms(node))
        if len(found) != len(self.names):
            words = f"draws {len(found)} arrays for the {len(self.names)} inputs that its `lower` declares"
            raise node.layer.error(f"its class {type(node.layer).__qualname__} {words}")
        return found

    def _of_filler(self, filler: Filler, shape: tuple[int, ...]) -> Signal | None:
        """Return what a filler draws from. Raises NetError where Caffe refuses it."""
        try:
            return of_filler(filler, shape)
        except InputError as error:
            raise self._node.layer.error(str(error)) from error


def _bottoms(node: LayerNode) -> list[Shape]:
    return [shape for shape in node.bottom_shapes if shape is not None]


class DrawnFeed:
    """What a recurrent layer drew for a param that it shares: its timesteps after the first compute with that."""

    def __init__(self, node: LayerNode, index: int, name: str) -> None:
        self.key: Hashable = (node.index, index)
        self.names: tuple[str, ...] = (name,)
        self.given: tuple[str, ...] = ()
        self.source = f"layer {node.name!r} at {node.place}"
        self.row: int | None = node.index
        self._node, self._index = node, index

    def draw(self, feeds: Feeds, net: Net | None) -> Sequence[np.ndarray]:
        """Return the values that the layer drew at set-up."""
        return [self.values if net is None else net.nodes[self._node.index].layer.own_draws[self._index]]

    @property
    def values(self) -> np.ndarray:
        """The values that the layer drew at set-up."""
        return self._node.layer.own_draws[self._index]

    def signals(self, mean: float, std: float) -> Sequence[Signal | None]:
        """Return the distribution of what its filler draws."""
        shapes = [shape for shape in self._node.bottom_shapes if shape is not None]
        param = self._node.layer.params(shapes)[self._index]
        return [of_filler(param.filler, param.shape)]


def _independent(signal: Signal | None) -> Signal | None:
    """Return the distribution of values of which no two have anything in common."""
    return signal if signal is None or signal.is_constant else Signal(signal.values)


class InputFeed:
    """An input of a model: N(0, 1), indices in the range that their readers allow, or ones.

    Integers that index nothing are 1, booleans true: masks that hide nothing.

    rows_read: how many rows its integers may choose from; None where they index nothing
    """

    def __init__(self, graph: Graph, flow: Flow[str], name: str, row: int | None) -> None:
        self.key: Hashable = name
        self.names: tuple[str, ...] = (name,)
        self.given: tuple[str, ...] = ("" if row is None else name,)
        self.row = row
        self.source = "the model"
        self._name, self._spec, self.rows_read = name, graph.inputs[name], _rows_of(graph, flow, name)

    def draw(self, feeds: Feeds, net: Net | None) -> Sequence[np.ndarray]:
        """Return noise, indices or ones. Raises InputError for a type that cannot be drawn and is not given."""
        name, spec = self._name, self._spec
        if spec.is_float:
            return [feeds.random.standard_normal(spec.shape).astype(spec.dtype)]
        if self.given[0] in feeds.given:
            return [np.zeros(spec.shape, spec.dtype)]
        if spec.dtype.kind not in "iub":
            kind = "text" if spec.dtype.kind in _TEXT else spec.dtype
            raise InputError(f"input {name!r} holds {kind}, which cannot be drawn: use --input {name}=FILE.npy")
        if self.rows_read is not None:
            return [feeds.random.integers(0, self.rows_read, spec.shape).astype(spec.dtype)]
        what = "true" if spec.dtype.kind == "b" else "ones"
        feeds.notes.append(f"input {name} is all {what}; --input {name}=FILE.npy gives it other values")
        return [np.ones(spec.shape, spec.dtype)]

    def signals(self, mean: float, std: float) -> Sequence[Signal | None]:
        """Return the distribution of what is drawn."""
        if self._spec.is_float:
            return [data(mean, std)]
        return [uniform_integers(self.rows_read) if self.rows_read is not None else of_array(np.ones(1))]


def _rows_of(graph: Graph, flow: Flow[str], name: str) -> int | None:
    """Return how many rows an input of integers may choose from, behind ops that move it; None: it indexes nothing."""
    nodes = graph.nodes
    uses = flow.through(name, lambda index, position: _moves(nodes[index], position))
    rules = ((nodes[index], nodes[index].info.limits.get(position)) for index, position in uses)
    limit = min((rule(graph.call(node)) for node, rule in rules if rule), default=None)
    return None if limit is None else max(limit, 1)


def _moves(node: Node, position: int) -> bool:
    return node.info.moves and node.info.role(position) is Role.DATA


def check_given(program: Program, given: Iterable[str]) -> None:
    """Raise InputError for an array whose name no data of the program has."""
    known = [name for row in program.rows if row.is_data for name in row.tops]
    for name in given:
        if name not in known:
            raise InputError(f"--input {name}: unknown data blob; expected one of {', '.join(known)}")


def fitting(forward: Forward, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays that the user gives for the feeds, by the names of the graph's inputs and in their types.

    Raises InputError when one does not fit.
    """
    feeds = forward.feeds
    known = {own: (name, feed) for feed in feeds for own, name in zip(feed.given, feed.names, strict=False) if own}
    return {known[own][0]: _fit(own, array, forward, *known[own]) for own, array in given.items() if own in known}


def _fit(own: str, array: np.ndarray, forward: Forward, name: str, feed: Feed) -> np.ndarray:
    shape = forward.fed_shape(name)
    if not array.ndim:
        array = np.broadcast_to(array, shape)
    if array.shape != shape:
        raise InputError(f"--input {own}: has shape {array.shape}; {feed.source} expects {shape} (see --shape)")
    dtype = forward.graph.inputs[name].dtype
    if (array.dtype.kind in _TEXT) != (dtype.kind in _TEXT):
        held, expected = ("text" if kind in _TEXT else "numbers" for kind in (array.dtype.kind, dtype.kind))
        raise InputError(f"--input {own}: holds {held}; {feed.source} expects {expected}")
    return np.asarray(array, dtype, order="C")
