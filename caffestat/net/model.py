"""What a built net consists of: nodes in order, blobs, and parameters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from caffestat.errors import Finding, Place
from caffestat.graph.flow import Flow, Key, resolved
from caffestat.layers import Layer, Param, Shape

__all__ = ["Blob", "Net", "NetParam", "Node", "flow_of"]


@dataclass
class Blob:
    """A named blob; `shape` is None when it comes out of a layer of unknown type."""

    name: str
    shape: Shape | None
    need_backward: bool = False


@dataclass
class NetParam:
    """A parameter in its place: its node, its index within the node, its ParamSpec, and who owns the values.

    owner is the index (in `Net.params`) of the param whose values this one shares, None for an owner.
    """

    node: int
    index: int
    param: Param
    name: str
    lr_mult: float
    decay_mult: float
    owner: int | None

    @property
    def display_name(self) -> str:
        """The ParamSpec's name, else the index: as debug_info prints it."""
        return self.name or str(self.index)


@dataclass
class Node:
    """One layer in its place. Blobs and params are indices into the net's lists.

    bottom_shapes are those at the time the layer runs (None: unknown); flags are Caffe's: does it take part in the
    backward pass, which bottoms get a diff, which params get one.
    """

    index: int
    layer: Layer
    bottoms: tuple[int, ...]
    tops: tuple[int, ...]
    bottom_shapes: tuple[Shape | None, ...]
    top_shapes: tuple[Shape | None, ...]
    params: tuple[int, ...] = ()
    loss_weights: tuple[float, ...] = ()
    need_backward: bool = False
    is_computed: bool = True  # its tops have values; false behind a layer that states a shape only
    bottom_need_backward: list[bool] = field(default_factory=list)
    param_propagate_down: list[bool] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.layer.name

    @property
    def type(self) -> str:
        """The layer's type, as the current format spells it."""
        return str(self.layer.proto.type)

    @property
    def place(self) -> Place:
        """Where the layer is in the user's file."""
        return self.layer.place

    @property
    def has_shapes(self) -> bool:
        """Whether the shapes of all bottoms and tops are known."""
        return None not in self.bottom_shapes and None not in self.top_shapes

    @property
    def is_known(self) -> bool:
        """Whether the layer can be computed: its type and all its bottoms' shapes and values are known."""
        return self.is_computed and self.has_shapes

    @property
    def is_undecided(self) -> bool:
        """Whether decisions that depend on the values of its bottoms are not computed yet."""
        return self.layer.decides and self.layer.decisions is None


def flow_of(nodes: Sequence[Node]) -> Flow[Key]:
    """Return the index of the (node, top) that some nodes read and write; a blob has one value per writer."""
    return Flow(resolved((node.bottoms, node.tops) for node in nodes))


@dataclass
class Net:
    """A net as Caffe builds it: rules applied, splits inserted, backward flags set."""

    name: str
    phase: int
    nodes: list[Node]
    blobs: list[Blob]
    params: list[NetParam]
    outputs: tuple[int, ...]
    findings: tuple[Finding, ...] = ()

    @cached_property
    def flow(self) -> Flow[Key]:
        """Which layers write and read each value."""
        return flow_of(self.nodes)

    def owner(self, number: int) -> int:
        """Return the number of the param that owns the values of a param: its own unless it shares another's."""
        owner = self.params[number].owner
        return number if owner is None else owner
