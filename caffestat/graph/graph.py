"""The graph that everything is built into: layers emit their forward nodes, autodiff emits the backward half."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from caffestat.ops import CONTRIB, Call, OpInfo, Window, op_info

from .flow import Flow
from .late import LATE, for_provider

if TYPE_CHECKING:
    import onnx

__all__ = ["CONTRIB", "OPSET", "Graph", "Node", "Normal", "Region", "Scaled", "Spec", "flow_of", "steps_of"]

OPSET = 22  # below it the onnx package infers wrong shapes for ceil-mode MaxPool; every runtime since 1.20 runs it
IR_VERSION = 10

FLOAT = np.dtype(np.float32)

Shape = tuple[int, ...]
Backward = Callable[[Any, "tuple[str | None, ...]"], "Sequence[str | None]"]  # of the reverse walk's tape


@dataclass(frozen=True)
class Spec:
    """Shape and element type of a value."""

    shape: Shape
    dtype: np.dtype[Any] = FLOAT

    @property
    def is_float(self) -> bool:
        """Whether gradients of such values are defined; bfloat16 is no type of numpy's own."""
        return self.dtype.kind == "f" or self.dtype.name == "bfloat16"


@dataclass
class Node:
    """One ONNX op: `outputs = op(inputs, **attributes)`; an absent optional input is the empty name.

    captured: values that the node's subgraphs (of If, Loop, Scan) read beside its inputs.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    captured: tuple[str, ...] = ()

    def get(self, attribute: str, default: Any = None) -> Any:
        """Return the attribute's value, or `default` when the node does not carry it."""
        return self.attributes.get(attribute, default)

    @property
    def info(self) -> OpInfo:
        """The facts about the node's op."""
        return op_info(self.op, self.domain)


def steps_of(nodes: Iterable[Node]) -> Iterator[tuple[Sequence[str], Sequence[str]]]:
    """Yield the values that each node reads, those of its subgraphs behind its inputs, and those that it computes."""
    return (((*node.inputs, *node.captured), [name for name in node.outputs if name]) for node in nodes)


def flow_of(nodes: Iterable[Node]) -> Flow[str]:
    """Return the index of the values of some nodes."""
    return Flow(steps_of(nodes))


@dataclass(frozen=True)
class Region:
    """Nodes `first` to `last` (exclusive) whose gradient is given as a whole, instead of node by node.

    `whole` is the one op, where the region has a name for it, that they compute together. `slope` is the op of which
    the gradient is the derivative, where that is not so of what the nodes compute: of values with few levels, say.
    """

    first: int
    last: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    backward: Backward
    whole: Node | None = None
    slope: Node | None = None


class Normal(NamedTuple):
    """What a value is the normalization of: x per channel, with mean and variance [C].

    affine: scale · value + bias, which is computed from x as well, with (scale, bias)
    """

    x: str
    mean: str
    variance: str
    epsilon: float
    affine: str
    scale: str
    bias: str


@dataclass
class Scaled:
    """Values that are others times a vector per channel, each with (other, vector); and those others.

    normal: values that are normalizations, and that are only computed where something reads them
    sums:   Σ |x| per channel of the others, once they are computed
    rectified: max(x, 0) by x, a normalization by the batch's statistics, scaled and shifted; with the shifts, [C]
    affine: what values are affine maps of, with slopes and shifts, [C]
    """

    values: dict[str, tuple[str, str]] = field(default_factory=dict)
    others: set[str] = field(default_factory=set)
    normal: dict[str, Normal] = field(default_factory=dict)
    sums: dict[str, str] = field(default_factory=dict)
    rectified: dict[str, tuple[str, str]] = field(default_factory=dict)
    affine: dict[str, tuple[str, str, str]] = field(default_factory=dict)

    def add(self, value: str, other: str, vector: str) -> None:
        """Record value = other · vector."""
        self.values[value] = other, vector
        self.others.add(other)


class Graph:
    """An ONNX graph under construction; values are names.

    inputs   what a run must feed, by name
    params   weights: their arrays stay outside the model and join it when a session is opened
    updates  params that the graph itself changes (running statistics, states): the value each has afterwards
    states   params that are zero in the first run
    carries  whether states are kept from run to run
    is_strict  infinities and NaN go through as through Caffe's loops; forms that are faster need not do that
    statistics  values that are statistics of others: computed right behind these, and in float32 whatever they are in
    specs    shape and type of every value known so far (`infer` completes it)
    is_settled  whether a run has found shapes. Models then state all shapes: of values of unknown shape the runtime
             finds out one by one which may share memory
    decided  the values whose shapes do not follow from those of others: data decided them in that run
    domains  versions of the op sets beside ONNX's own

    Of the graph that the runtime gets (see `expand`):
    block    how many channels stand side by side in the blocked layout of its kernels; 0: they have none
    threads  how many of the processor's threads work on an op; 0: one per core
    changing values that differ from run to run, and `held`
    held     params of a body that are the same in every run: the runtime does not lay them out as it does those outside
    scaled   values that are others times a vector; None where each value is computed as it is, for instance rounded
    spread   the transformed tiles of images by the image and the window that slides over it (`winograd`)
    dilated  images with zeros between the elements of others: these, and the strides
    is_kept  whether a session of it runs many times with the same params: what makes runs faster may then take time
             when the session opens
    """

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.inputs: dict[str, Spec] = {}
        self.params: dict[str, Spec] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.outputs: list[str] = []
        self.specs: dict[str, Spec] = {}
        self.is_settled = False
        self.decided: set[str] = set()
        self.regions: list[Region] = []
        self.detached: set[str] = set()
        self.updates: dict[str, str] = {}
        self.statistics: set[str] = set()
        self.states: list[str] = []
        self.carries = False
        self.is_strict = False
        self.domains = {CONTRIB: 1}
        self.block = 0
        self.threads = 0
        self.changing: set[str] = set()
        self.held: set[str] = set()
        self.scaled: Scaled | None = None
        self.spread: dict[tuple[str, Window], str] = {}
        self.dilated: dict[str, tuple[str, Shape]] = {}
        self.is_kept = False
        self._constant_names: dict[tuple[str, Shape, bytes], str] = {}
        self._taken: dict[str, int] = {}

    def inner(self) -> Graph:
        """Return an empty graph for a subgraph: none of its names will hide one of this graph."""
        graph = Graph()
        graph.domains, graph._taken = self.domains, self._taken
        return graph

    def fork(self) -> Graph:
        """Return a graph of the same nodes and arrays that can grow by itself."""
        result = copy(self)
        for name, value in vars(self).items():
            if isinstance(value, (dict, list, set)):
                setattr(result, name, value.copy())
        return result

    def unique(self, hint: str) -> str:
        """Return `hint`, or `hint_2`, `hint_3`, … when that name is taken; the name is taken from then on."""
        count = self._taken.get(hint, 0) + 1
        self._taken[hint] = count
        return hint if count == 1 else self.unique(f"{hint}_{count}")

    def input(self, name: str, shape: Shape, dtype: Any = FLOAT) -> str:
        """Declare a value that every run feeds."""
        name = self.unique(name)
        self.inputs[name] = self.specs[name] = Spec(tuple(shape), np.dtype(dtype))
        return name

    def param(self, name: str, shape: Shape, dtype: Any = FLOAT) -> str:
        """Declare a weight, constant during a run."""
        name = self.unique(name)
        self.params[name] = self.specs[name] = Spec(tuple(shape), np.dtype(dtype))
        return name

    def state(self, name: str, shape: Shape) -> str:
        """Return a value that is zero in the first run, and later what `carry` says; zero always without `carries`."""
        if not self.carries:
            return self.constant(np.zeros(shape))
        name = self.param(name, shape)
        self.states.append(name)
        return name

    def carry(self, state: str, value: str) -> None:
        """Let a state hold `value` in the next run."""
        if state in self.states:
            self.updates[state] = value

    def constant(self, value: ArrayLike, dtype: Any = FLOAT) -> str:
        """Return the name of a constant; equal constants share one name."""
        array = np.ascontiguousarray(value, dtype=dtype).reshape(np.shape(value))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constant_names:
            name = self.unique("constant")
            self.constants[name] = array
            self.specs[name] = Spec(array.shape, array.dtype)
            self._constant_names[key] = name
        return self._constant_names[key]

    def ints(self, *values: int) -> str:
        """Return a constant int64 vector: shapes, axes, pads."""
        return self.constant(np.array(values, np.int64), np.int64)

    def emit_many(
        self, op: str, *inputs: str, count: int, domain: str = "", hint: str = "", **attributes: Any
    ) -> list[str]:
        """Append a node with `count` outputs and return their names."""
        outputs = [self.unique(hint or op) for _ in range(count)]
        self.nodes.append(Node(op, inputs, tuple(outputs), attributes, domain))
        return outputs

    def emit(self, op: str, *inputs: str, domain: str = "", hint: str = "", **attributes: Any) -> str:
        """Append a node with one output and return its name (`hint` when given and free)."""
        return self.emit_many(op, *inputs, count=1, domain=domain, hint=hint, **attributes)[0]

    def emit_late(self, op: str, *inputs: str, shape: Shape, like: str, **settings: Any) -> str:
        """Append a late op (see `graph.late`), whose output has the given shape and the element type of `like`."""
        output = self.emit(op, *inputs, domain=LATE, **settings)
        return self.declare(output, shape, self.specs[like].dtype)

    def reshape(self, value: str, *shape: int) -> str:
        """Emit a Reshape to a fixed shape (one axis may be -1); nothing when it has that shape already."""
        spec = self.specs.get(value)
        if spec is not None and spec.shape == shape:
            return value
        # Reshape reads 0 as "copy the input's axis" unless told otherwise
        attributes: dict[str, Any] = {"allowzero": 1} if 0 in shape else {}
        result = self.emit("Reshape", value, self.ints(*shape), **attributes)
        if spec is not None and (whole := _whole(shape, prod(spec.shape))) is not None:
            self.specs[result] = Spec(whole, spec.dtype)
        return result

    def transpose(self, value: str, *perm: int) -> str:
        """Emit a Transpose; nothing for the identity permutation."""
        if list(perm) == sorted(perm):
            return value
        result, spec = self.emit("Transpose", value, perm=list(perm)), self.specs.get(value)
        return self.declare(result, tuple(spec.shape[axis] for axis in perm), spec.dtype) if spec else result

    def cast(self, value: str, dtype: Any) -> str:
        """Emit a Cast to a numpy type; nothing when the value is known to have it."""
        from onnx import helper

        if value in self.specs and self.specs[value].dtype == dtype:
            return value
        return self.emit("Cast", value, to=int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))

    def fused_matmul(self, a: str, b: str, **attributes: Any) -> str:
        """Emit the runtime's MatMul with transposed operands (`transA`, `transB`, `alpha`); CPU and CUDA have it."""
        result = self.emit("FusedMatMul", a, b, domain=CONTRIB, **attributes)
        node = self.nodes[-1]
        if node.info.output_shape and a in self.specs and b in self.specs:
            self.declare(result, node.info.output_shape(self.call(node)), self.specs[a].dtype)
        return result

    def detach(self, value: str) -> str:
        """Return the same value, through which no gradient flows."""
        result = self.copy(value)
        self.detached.add(result)
        return result

    def custom_vjp(
        self,
        inputs: Sequence[str],
        forward: Callable[..., Sequence[str]],
        backward: Backward,
        op: str = "",
        slope: Sequence[str] = (),
        **attributes: Any,
    ) -> tuple[str, ...]:
        """Emit `forward(*inputs)` as one region whose gradient is `backward`, not that of its nodes.

        For operations whose gradient in the framework is not the derivative of their nodes (clamps, ties), or for which
        a closed form is cheaper. `backward(tape, dys)` gets one gradient name (or None for zero) per output and returns
        one (or None) per input. `op` and `attributes` name what the region computes as a whole, for those who look at
        the graph without running it; `slope` names the op, and its inputs behind the first of the region, of which
        `backward` is the derivative, where it is not that of the values.
        """
        first = len(self.nodes)
        # the gradient of an input that is passed through as it is must not count for the output too
        outputs = tuple(self.emit("Identity", y) if y in inputs else y for y in forward(*inputs))
        whole = Node(op, tuple(inputs), outputs, attributes) if op else None
        derived = Node(slope[0], (inputs[0], *slope[1:]), outputs[:1], {}) if slope else None
        self.regions.append(Region(first, len(self.nodes), tuple(inputs), outputs, backward, whole, derived))
        return outputs

    def copy(self, value: str) -> str:
        """Return the same value under another name."""
        result = self.emit("Identity", value)
        if value in self.specs:
            self.specs[result] = self.specs[value]
        return result

    def shape(self, value: str) -> Shape:
        """Return the value's shape; KeyError when it is not known yet (see `infer`)."""
        return self.specs[value].shape

    def flow(self) -> Flow[str]:
        """Return who computes and who reads each value, of the nodes so far."""
        return flow_of(self.nodes)

    def call(self, node: Node) -> Call:
        """Return what is known of a node's use of its op: shapes and constants."""
        inputs, outputs = ([self._known_shape(v) for v in values] for values in (node.inputs, node.outputs))
        return Call(node.attributes, inputs, outputs, [self.constants.get(name) for name in node.inputs])

    def _known_shape(self, value: str) -> Shape | None:
        return self.specs[value].shape if value in self.specs else None

    def declare(self, value: str, shape: Shape, dtype: Any = FLOAT) -> str:
        """Record what is known of a value's shape."""
        self.specs[value] = Spec(tuple(shape), np.dtype(dtype))
        return value

    def infer(self) -> None:
        """Complete `specs` for every value, by ONNX shape inference."""
        from .convert import infer_specs

        self.specs = {**infer_specs(self), **self.specs}

    def to_onnx(
        self, arrays: Mapping[str, np.ndarray] | None = None, fed: Collection[str] = (), provider: str = "cpu"
    ) -> onnx.ModelProto:
        """Return the ONNX model: `arrays` are embedded as initializers, params in `fed` are inputs, others external.

        provider: for which of the runtime's ("cpu" or "cuda") late ops are defined, any of them runs any definition,
        and the opset is chosen
        """
        from .convert import to_onnx
        from .cuda import newest_opset

        newest = newest_opset(self.nodes) if provider == "cuda" else OPSET
        return to_onnx(for_provider(self, provider), arrays or {}, fed, newest)


def _whole(shape: tuple[int, ...], elements: int) -> tuple[int, ...] | None:
    """Return a shape with the size that -1 stands for, of a value of so many elements; None where any would fit."""
    if -1 not in shape:
        return shape
    others = -prod(shape)
    return tuple(elements // others if size == -1 else size for size in shape) if others else None
