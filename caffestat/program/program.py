"""The one object behind Caffe nets and ONNX models: rows, params, and the graph that computes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, ClassVar

from caffestat.errors import CaffestatError, Finding, Place
from caffestat.fillers import Filler, Stream
from caffestat.ops import Nonlinearity

from .dataflow import Dataflow

if TYPE_CHECKING:
    import numpy as np

    from caffestat.autodiff import Stop
    from caffestat.engine import Device
    from caffestat.graph import Graph, Node

    from .feeds import Feed, Feeds
    from .from_net import NetProgram

__all__ = ["Alone", "Forward", "Inner", "Key", "Program", "Row", "RowParam"]

Key = tuple[int, int]  # row, and which top, bottom or param of it
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """A layer of a net, a node of a model, or an input of a model.

    index     its place in `Program.rows`
    bottoms   their names
    reads     the (row, top) that each bottom holds
    tops      their names; every top is a value of its own, in-place ones included
    shapes    of the tops, None for an unknown one
    memory    of each top: those of one number overwrite each other
    params    numbers in `Program.params`
    diffs     the bottoms that get a gradient, as far as the file tells
    macs      multiply-adds, forward, whole batch; None where they are not known
    passes    whether the sign and the rough shape of the signal's distribution are kept
    activation  the nonlinearity that the row is, None for any other
    is_data   the tops are data from outside
    is_input  a value from outside, no layer
    inserted  Caffe adds it by itself: the Splits
    last_line  where its text ends; 0 when that is not known
    """

    index: int
    name: str
    type: str
    place: Place
    bottoms: tuple[str, ...]
    reads: tuple[Key, ...]
    tops: tuple[str, ...]
    shapes: tuple[Shape | None, ...]
    memory: tuple[int, ...]
    params: tuple[int, ...] = ()
    diffs: tuple[int, ...] = ()
    macs: int | None = 0
    need_backward: bool = False
    passes: bool = False
    activation: Nonlinearity | None = None
    is_data: bool = False
    is_input: bool = False
    inserted: bool = False
    last_line: int = 0


@dataclass(frozen=True)
class RowParam:
    """A param as one row uses it.

    row, index    its place
    name          as debug_info prints it, or that of a model's initializer
    filler        what fills it; None for values that are stored in the model
    origin        of the filler: "file", "default" or "option"
    caffe_fans    as fillers count; None for a blob without axes. `fan_in` and `fan_out` are the true ones
    owner         the number of the param whose values this one shares, None for an owner
    adds_up       whether its gradient is added to what rows behind it, or earlier passes, left of a shared one
    stored        the values, of a model's params
    packed        how many numbers it holds where they are packed into fewer elements
    """

    row: int
    index: int
    name: str
    role: str
    shape: Shape
    fan_in: int
    fan_out: int
    caffe_fans: tuple[int, int] | None
    filler: Filler | None = None
    origin: str = "file"
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    owner: int | None = None
    is_statistic: bool = False
    gets_diff: bool = False
    adds_up: bool = True
    stored: np.ndarray | None = None
    packed: int | None = None

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        return prod(self.shape) if self.packed is None else self.packed


@dataclass
class Forward:
    """A program's forward graph, and which of its values is what.

    tops, bottoms  the value of each (row, top) and (row, bottom) that is computed and holds numbers of float32
    whole          the value of each (row, top) that is computed and holds integers or booleans
    params         the graph's param of each owner, by number
    uses           the value that each (row, param) reads: a name of its own for each reader of a shared param
    feeds          what the graph's inputs hold
    spans          the first and last (exclusive) of the graph's nodes of each row
    seeds          the gradient that values start with: a number everywhere, or the graph input that holds it
    wanted, wanted_params  those of `bottoms` and `uses` whose gradients are wanted
    unwanted       values whose gradient nobody asks for
    stored         what the memory of values that Caffe writes over holds in the end
    lent           the (row, param) whose memory is also the row's first top, where layers behind it may write
    left           of the graph's inputs that no pass fills anew and layers write over: what the next pass finds there
    outputs        what a run returns of a net's output blobs, by blob
    written        the values that a layer writes to a file, by row
    losses         the weights in the loss of the values that have one
    loss_nodes     nodes that are not the program's own, but those of a loss that was chosen for it
    inner          the nets inside of recurrent layers, by row
    notes          on where the backward pass starts, in sentences
    shards         of how many equal shards of a batch the graph computes one; the feeds are those of the whole batch
    """

    graph: Graph
    tops: dict[Key, str] = field(default_factory=dict)
    bottoms: dict[Key, str] = field(default_factory=dict)
    whole: dict[Key, str] = field(default_factory=dict)
    params: dict[int, str] = field(default_factory=dict)
    uses: dict[Key, str] = field(default_factory=dict)
    feeds: list[Feed] = field(default_factory=list)
    spans: dict[int, tuple[int, int]] = field(default_factory=dict)
    seeds: dict[str, float | str] = field(default_factory=dict)
    wanted: dict[Key, str] = field(default_factory=dict)
    wanted_params: dict[Key, str] = field(default_factory=dict)
    unwanted: set[str] = field(default_factory=set)
    stored: dict[str, str] = field(default_factory=dict)
    lent: set[Key] = field(default_factory=set)
    left: dict[str, str] = field(default_factory=dict)
    outputs: dict[int, str] = field(default_factory=dict)
    written: dict[int, Sequence[str]] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    loss_nodes: Sequence[Node] = ()
    inner: dict[int, Inner] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    shards: int = 1

    def fed_shape(self, name: str) -> Shape:
        """Return the shape of what an input of the graph is fed with, that of the whole batch."""
        first, *others = self.graph.inputs[name].shape or (1,)
        return (self.shards * first, *others) if self.shards > 1 else self.graph.inputs[name].shape

    def value_rows(self) -> dict[str, int]:
        """Return the row whose forward pass computes each value."""
        nodes = self.graph.nodes
        return {v: row for row, (first, last) in self.spans.items() for node in nodes[first:last] for v in node.outputs}


@dataclass(frozen=True)
class Inner:
    """The net that a recurrent layer runs, and its values.

    prints  whether Caffe prints its lines
    kept    the inner params that hold what the layer drew, by number, and their index among those of the layer around
    """

    program: NetProgram
    forward: Forward
    prints: bool
    kept: Mapping[int, int] = field(default_factory=dict)

    @property
    def owners(self) -> list[int]:
        """The inner params that are those of the layer around, by number, in order."""
        params = enumerate(self.program.params)
        return [number for number, param in params if param.owner is None and number not in self.kept]


@dataclass(frozen=True)
class Alone:
    """A row as a graph of its own, from the value x to the value y; params: the values of the graph's params."""

    graph: Graph
    x: str
    y: str
    params: Mapping[str, np.ndarray]


@dataclass
class Program:
    """A net or a model; see `from_net` and `from_onnx`.

    name      its own
    phase     "TRAIN" or "TEST"
    rows      in the order in which they run
    params    one per (row, param)
    findings  what is strange about it
    narrow    the types of its file that are computed in float32 in their place
    is_caffe  whether it is a Caffe net: its file tells which gradients there are
    """

    name: str
    phase: str
    rows: list[Row]
    params: list[RowParam]
    findings: tuple[Finding, ...] = ()
    narrow: tuple[str, ...] = ()

    is_caffe: ClassVar[bool]

    def forward(self, carries: bool = False, strict: bool = False) -> Forward:
        """Return a new forward graph.

        carries: the graph keeps the states of recurrent layers from run to run
        strict:  infinities and NaN go through it as through Caffe's loops, see `Graph.is_strict`

        Raises NetError when nothing can be computed.
        """
        raise NotImplementedError

    def forward_of_shard(self, count: int) -> Forward | None:
        """Return a new forward graph of one of `count` equal shards of the batch; None where layers mix samples.

        What it computes holds samples, or is a mean over them (`net.shards`).
        """
        return None

    def values(self, stream: Stream, notes: MutableSequence[str], taken: set[int] | None = None) -> list[np.ndarray]:
        """Return the initial values of every param by its number; those from weights files join `taken`.

        Raises NetError, InputError.
        """
        raise NotImplementedError

    def settle(
        self, values: Sequence[np.ndarray], device: Device, feeds: Feeds, notes: MutableSequence[str] | None = None
    ) -> Program:
        """Return the program with the shapes that it has for one batch; itself when none depends on the data.

        values: one array per param; they are not changed
        feeds:  of the pass, drawn as far as it takes
        notes:  gets a line about each layer that selects
        """
        raise NotImplementedError

    @property
    def is_trained(self) -> bool:
        """Whether its params get values from elsewhere than its file."""
        return False

    def trained_values(self, seed: int) -> list[np.ndarray] | None:
        """Return the values of the params where some are trained; None where the fillers say all of them."""
        return self.values(Stream(seed), []) if self.is_trained else None

    def synthetic(self, given: Collection[str]) -> list[str]:
        """Return a line about each row that gets noise in the place of its data, unless all of it is given."""
        return []

    def at(self, row: int | None, error: CaffestatError) -> CaffestatError:
        """Return an error with the place of the row that it is about, where that is known."""
        return error

    def alone(self, row: Row, shape: Shape, values: Sequence[np.ndarray]) -> Alone | None:
        """Return a row of one bottom and one top as a graph of its own; None where that cannot be.

        shape:  of its bottom, with the same axes and channels as in the program
        values: one array per param
        """
        return None

    def stopped(self, forward: Forward, stops: Sequence[Stop], rounds: Sequence[Node]) -> list[Finding]:
        """Return a warning about each node that no gradient passes, and one about those that round."""
        return []

    @cached_property
    def flow(self) -> Dataflow:
        """Who writes and who reads each value."""
        return Dataflow(self.rows)

    @cached_property
    def ids(self) -> dict[Key, int]:
        """The number of every value, by the (row, top) that writes it."""
        keys = ((row.index, top) for row in self.rows for top in range(len(row.tops)))
        return {key: number for number, key in enumerate(keys)}

    def owner(self, number: int) -> int:
        """Return the number of the param that owns the values of a param: its own unless it shares another's."""
        owner = self.params[number].owner
        return number if owner is None else owner

    def weight(self, row: Row) -> RowParam | None:
        """Return the first weight of a row, None when it has none."""
        return next((self.params[n] for n in row.params if self.params[n].role == "weight"), None)

    def followed_by(self, row: Row) -> str | None:
        """Return the type of the nonlinearity behind a model's node with params; Caffe's nets have theirs in view."""
        index = None if self.is_caffe or not row.params else self.flow.activation(row.index)
        return None if index is None else self.rows[index].type
