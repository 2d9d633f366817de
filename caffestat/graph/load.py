"""External ONNX models as Graphs: one opset, functions inlined, shapes fixed, shape arithmetic computed ahead.

Models are untrusted: the sizes that a file states are checked before memory is allocated.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import ArrayLike
from onnx import TensorProto, helper, numpy_helper

from caffestat.errors import InputError
from caffestat.ops import Bodies, Role

from . import attention, deviating, fused, newer  # noqa: F401  register what says ops by others
from .bodies import compute_outputs, computed_names, is_scannable, scan_body, trip_count, with_captured
from .check import all_nodes, as_damage, check_model
from .external import read_model
from .fans import find_uses
from .graph import OPSET, Graph, Node, Shape, Spec, flow_of
from .infer import FOLDED, branch_taken, infer_node
from .nodes import default_of, expand_function, from_proto, given_names, renamed, to_proto
from .sequences import Sequences
from .sizes import Trial, fixed_shapes, infers
from .straight import pass_straight_through
from .tensors import dtype_of, read_sparse, read_tensor
from .upgrade import OLDEST, upgrade
from .writer import is_defined, written

__all__ = ["Model", "ModelNode", "load", "settings_of"]

_MOST_ELEMENTS = 1 << 42
_MOST_UNROLLED = 10_000  # nodes of the trips of Loops
_MASKED = -65504  # the lowest float16

_WIDE_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
_LEARNED = (Role.SCALE, Role.SHIFT, Role.STATISTIC)
_NAMED_BY_RUNTIME = ("gemm_input_shape", "gemm_output_shape")
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type", "softmax_precision")


@dataclass(frozen=True)
class ModelNode:
    """A node as the model's file has it, and the graph's nodes that compute it: `first` to `last` (exclusive).

    name: the node's own, or its op and its index in the file.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    first: int
    last: int


@dataclass
class Model:
    """An ONNX model as a Graph. Values keep the names that they have in the file.

    arrays        the values of the graph's params
    initializers  names of the file's floating-point initializers, in its order
    pinned        inputs whose given values became constants, because they decide which nodes run
    folded        the nodes whose values have become constants
    held          names of the values that Constant nodes of the file hold
    replaced      names of the types that are computed in float32 in their place
    """

    name: str
    graph: Graph
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    nodes: list[ModelNode] = field(default_factory=list)
    initializers: tuple[str, ...] = ()
    pinned: set[str] = field(default_factory=set)
    folded: list[Node] = field(default_factory=list)
    held: tuple[str, ...] = ()
    replaced: set[str] = field(default_factory=set)

    def unpinned(self, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the given values of inputs that a run still has to be fed."""
        return {name: array for name, array in given.items() if name not in self.pinned}

    def put_first(self, nodes: Sequence[Node]) -> None:
        """Put nodes before those of the graph, each as a node of the file."""
        count = len(nodes)
        self.graph.nodes[:0] = nodes
        moved = (replace(node, first=node.first + count, last=node.last + count) for node in self.nodes)
        added = (ModelNode(n.outputs[0], n.op, n.inputs, n.outputs, i, i + 1) for i, n in enumerate(nodes))
        self.nodes = [*added, *moved]

    def pass_straight_through(self) -> None:
        """Let gradients pass pairs of QuantizeLinear and DequantizeLinear as if nothing was rounded."""
        starts = pass_straight_through(self.graph)
        self.nodes = [replace(node, first=starts[node.first], last=starts[node.last]) for node in self.nodes]
        self.graph.infer()

    @property
    def weights(self) -> list[str]:
        """The floating-point initializers, then weights in Constant nodes or in subgraphs."""
        floats = [name for name, spec in self.graph.params.items() if spec.is_float]
        return list(dict.fromkeys((*self.initializers, *floats)))


def load(
    source: str | Path | onnx.ModelProto,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    as_float32: bool = False,
    given: Mapping[str, np.ndarray] | None = None,
    dims: Mapping[str, int] | None = None,
    runs: Callable[[Model], bool] | None = None,
) -> Model:
    """Return a model of opset 7 or newer as a Graph of opset 22 whose inputs have fixed shapes.

    shapes:     shapes of inputs by name, needed where the model leaves sizes open
    batch:      the first axis of every input that leaves it open; 1 by default
    as_float32: compute in float32 what the model computes in float16, bfloat16 or float64
    given:      values of inputs by name. One on which the branch of an If or the trip count of a Loop depends becomes
                a constant; the others say the sizes that their inputs leave open
    dims:       sizes by the names that the model has for them
    runs:       tells whether a model can be run, for the suggestion of sizes; without it these are such that it loads

    Raises InputError when the model cannot be read, is damaged, or leaves sizes open; then it suggests some.
    """
    proto, folder = _proto(source)
    try:
        with as_damage():
            check_model(proto)
            loader = _Loader(_renamed(_dense(_inlined(proto), folder)), folder, as_float32, given or {}, runs)
            loader.declare_inputs(shapes or {}, batch, dims or {})
            loader.pin()
            loader.declare_initializers()
            loader.add_nodes()
            return loader.finish()
    except InputError as error:
        raise error if folder is None else InputError(f"{source}: {error}") from error


def _proto(source: str | Path | onnx.ModelProto) -> tuple[onnx.ModelProto, Path | None]:
    if isinstance(source, onnx.ModelProto):
        return source, None
    return read_model(source), Path(source).parent


def _inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the functions that it defines inlined."""
    if not proto.functions:
        return proto
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    bare.graph.ClearField("initializer")  # the inliner copies the model, which may be large
    declared = {value.name for value in bare.graph.input}
    for tensor in proto.graph.initializer:
        if tensor.name not in declared:
            bare.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    _state_defaults(bare)
    try:
        inlined = onnx.inliner.inline_local_functions(bare, convert_version=_has_other_opsets(proto))
    except RuntimeError as error:  # the converter has no way back for some ops
        words = f"a function of another opset cannot be brought to the model's, {_opset(proto)}"
        raise InputError(f"{words}: export the model with one opset ({error})") from error
    inlined.graph.initializer.extend(proto.graph.initializer)
    return inlined


def _has_other_opsets(model: onnx.ModelProto) -> bool:
    """Tell whether a function is written in another opset than the model: as it is, the inliner passes it by."""
    imports = (item for function in model.functions for item in function.opset_import)
    return any(item.version != _opset(model) for item in imports if item.domain in ("", "ai.onnx"))


def _state_defaults(model: onnx.ModelProto) -> None:
    """Give each call of a function the attributes that it leaves to their defaults: the inliner leaves them out."""
    functions = {(function.domain, function.name): function for function in model.functions}
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in all_nodes(nodes):
            called = functions.get((node.domain, node.op_type))
            given = {attribute.name for attribute in node.attribute}
            if called is not None:
                node.attribute.extend(found for found in called.attribute_proto if found.name not in given)


def _dense(proto: onnx.ModelProto, folder: Path | None) -> onnx.ModelProto:
    """Return the model with its sparse initializers as dense ones."""
    if not proto.graph.sparse_initializer:
        return proto
    result = onnx.ModelProto()
    result.CopyFrom(proto)
    result.graph.ClearField("sparse_initializer")
    for tensor in proto.graph.sparse_initializer:
        result.graph.initializer.append(numpy_helper.from_array(read_sparse(tensor, folder), tensor.values.name))
    return result


def _renamed(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with other names for shapes that the runtime's optimizer named when it wrote the file.

    It fails where it makes such a shape again.
    """
    stored = (tensor.name for tensor in proto.graph.initializer)
    names = {name: f"file/{name}" for name in stored if name.startswith(_NAMED_BY_RUNTIME)}
    if not names:
        return proto
    result = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import)
    result.graph.CopyFrom(renamed(proto.graph, names))
    return result


def _opset(proto: onnx.ModelProto) -> int:
    found = next((item.version for item in proto.opset_import if item.domain in ("", "ai.onnx")), OPSET)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= found <= newest:
        raise InputError(f"the model has opset {found}; expected {OLDEST} to {newest}: export it again")
    return found


class _Loader:
    """A graph under construction from a model; the AdapterContext of its upgrades."""

    def __init__(
        self,
        proto: onnx.ModelProto,
        folder: Path | None,
        as_float32: bool,
        given: Mapping[str, np.ndarray],
        runs: Callable[[Model], bool] | None,
    ) -> None:
        self.proto, self.folder, self.as_float32, self.given, self.runs = proto, folder, as_float32, given, runs
        self.opset = _opset(proto)
        self.graph = Graph()
        self.model = Model(proto.graph.name, self.graph)
        self.graph.domains |= {
            item.domain: item.version for item in proto.opset_import if item.domain not in ("", "ai.onnx")
        }
        self.nodes = _sorted([from_proto(node) for node in proto.graph.node])
        _check_values(proto.graph, self.nodes)
        for name in _names(proto.graph):
            self.graph.unique(name)
        self.used = given_names(proto.graph) | {name for node in self.nodes for name in node.outputs}

    def constant(self, value: ArrayLike, dtype: Any) -> str:
        return self.graph.constant(value, dtype)

    def unique(self, hint: str) -> str:
        return self.graph.unique(hint)

    def spec(self, value: str) -> Spec | None:
        return self.graph.specs.get(value)

    def known(self, value: str) -> np.ndarray | None:
        return self.graph.constants.get(value)

    def declare_inputs(self, shapes: Mapping[str, Sequence[int]], batch: int | None, dims: Mapping[str, int]) -> None:
        """Give every input its type and a fixed shape; a symbol has the same size wherever it stands."""
        found = fixed_shapes(self.proto, shapes, batch, dims, self.given, self.tried)
        for value in self.proto.graph.input:
            if value.name in found:
                dtype = dtype_of(self.type(value.type.tensor_type.elem_type), f"input {value.name!r}")
                self.graph.inputs[value.name] = Spec(found[value.name], dtype)
        self.graph.specs |= self.graph.inputs

    def tried(self, shapes: Mapping[str, Shape]) -> Trial:
        """Load the model with inputs of these shapes, and run it where that can be done.

        Where not, shape inference tells more than loading. It is mistaken about some ops.
        """
        if self.runs is None and not infers(self.proto, shapes):
            return Trial.FAILS
        other = _Loader(self.proto, self.folder, self.as_float32, self.given, self.runs)
        try:
            other.declare_inputs(shapes, None, {})
            other.pin()
            other.declare_initializers()
            other.add_nodes()
        except InputError:
            return Trial.FAILS
        return Trial.RUNS if self.runs is None or self.runs(other.finish()) else Trial.LOADS

    def pin(self) -> None:
        """Make constants of the given inputs that decide which nodes run."""
        decisive = _decisive(self.nodes)
        for name in decisive.intersection(self.given, self.graph.inputs):
            spec = self.graph.inputs.pop(name)
            self.model.pinned.add(name)
            array = np.asarray(self.given[name], spec.dtype)
            self.add_constant(name, array.reshape(spec.shape) if array.size == prod(spec.shape) else array)

    def declare_initializers(self) -> None:
        """Make floating-point tensors params, settings and small integers constants."""
        settings = {name for node in self.nodes for name in settings_of(node)}
        floats = []
        for tensor in self.proto.graph.initializer:
            array = self.array(tensor)
            is_float = Spec(array.shape, array.dtype).is_float
            if is_float:
                floats.append(tensor.name)
            if array.size > FOLDED or (tensor.name not in settings and _is_weight(array)):
                self.add_param(tensor.name, array)
            else:
                self.add_constant(tensor.name, array)
        self.model.initializers = tuple(floats)

    def array(self, tensor: TensorProto) -> np.ndarray:
        array = read_tensor(tensor, self.folder)
        return array if self.type(tensor.data_type) == tensor.data_type else array.astype(np.float32)

    def add_param(self, name: str, array: np.ndarray) -> None:
        self.graph.params[name] = self.graph.specs[name] = Spec(array.shape, array.dtype)
        self.model.arrays[name] = array

    def add_constant(self, name: str, array: np.ndarray) -> None:
        self.graph.constants[name] = array
        self.graph.specs[name] = Spec(array.shape, array.dtype)

    def type(self, elem_type: int) -> int:
        """Return the element type that the graph computes a value of the model in."""
        if not (self.as_float32 and elem_type in _WIDE_FLOATS):
            return elem_type
        self.model.replaced.add(helper.tensor_dtype_to_np_dtype(elem_type).name)
        return TensorProto.FLOAT

    def add_nodes(self) -> None:
        """Append each node of the model as nodes of opset 22, except constants."""
        self.names = _node_names(self.proto.graph)
        self.counts: Counter[str] = Counter()
        self.unrollable = _MOST_UNROLLED
        self.sequences = Sequences(self.graph)
        for node in self.nodes:
            self.append(node)
        for node in self.sequences.made(value.name for value in self.proto.graph.output):
            self.keep(self.name(node, node.op), node.op, node, [node])
        for value, spec in self.graph.specs.items():
            if math.prod(spec.shape) > _MOST_ELEMENTS:
                raise InputError(f"value {value!r} has shape {spec.shape}, which no machine can hold")

    def append(self, original: Node, op: str = "") -> None:
        """Append a node as nodes of opset 22; of an If or a Loop that is known, the nodes that it runs.

        op: of the file's node, where this one does the work of another
        """
        opened = self.opened(original)
        if opened is not None:
            for inner in opened:
                stands_for_it = _runs(inner, Bodies.SCAN) and inner.outputs == original.outputs
                self.append(inner, original.op if stands_for_it else "")
            return
        op = op or original.op
        name = self.name(original, op)
        original = original if is_defined(self, original) else self.with_all_outputs(original)
        current = self.current(self.typed(original))
        plain = (node for new in current for node in self.sequences.lower(new))
        self.keep(name, op, original, (node for new in plain for node in written(self, new)))

    def name(self, node: Node, op: str) -> str:
        return self.names.get(node.outputs, "") or f"{op}_{self.counts[op]}"

    def keep(self, name: str, op: str, original: Node, nodes: Iterable[Node]) -> None:
        """Add the nodes that a node of the file becomes."""
        first = len(self.graph.nodes)
        for node in nodes:
            self.add(node)
        self.counts[op] += 1
        last = len(self.graph.nodes)
        if last > first:
            self.model.nodes.append(ModelNode(name, op, original.inputs, original.outputs, first, last))

    def with_all_outputs(self, node: Node) -> Node:
        """Return the node with a name for each output that it leaves out before one that it has."""
        kept = node.outputs
        while kept and not kept[-1]:
            kept = kept[:-1]
        if all(kept):
            return replace(node, outputs=kept)
        names = (name or self.graph.unique(f"{node.op}/unused") for name in kept)
        return replace(node, outputs=tuple(names))

    def taken(self, node: Node) -> onnx.GraphProto | None:
        """Return the branch that an If takes, None where that depends on data."""
        return branch_taken(self.graph, node) if _runs(node, Bodies.BRANCHES) else None

    def opened(self, node: Node) -> list[Node] | None:
        """Return what stands for a node with subgraphs: the taken branch of an If, a Scan for a Loop, or all its trips.

        None for other nodes, and where data decides. Only states that keep their shapes are those of a Scan.
        """
        branch = self.taken(node)
        if branch is not None:
            return self.inlined(node, branch)
        count = self.trips(node) if _runs(node, Bodies.LOOP) else None
        if not count:
            return None
        body, states = node.attributes["body"], [self.spec(name) for name in node.inputs[2:]]
        is_plain = self.sequences.elements.keys().isdisjoint(node.inputs[2:])
        if is_plain and is_scannable(body, states, self.graph, self.opset):
            return [self.scanned(node, count)]
        self.unrollable -= count * len(list(all_nodes(body.node)))
        return self.unrolled(node, count) if self.unrollable >= 0 else None

    def scanned(self, node: Node, count: int) -> Node:
        """Return a Loop of so many trips as a Scan over their numbers."""
        trips = self.graph.constant(np.arange(count), np.int64)
        attributes = {"body": scan_body(node.attributes["body"]), "num_scan_inputs": 1}
        return with_captured(Node("Scan", (*node.inputs[2:], trips), node.outputs, attributes))

    def unrolled(self, node: Node, count: int) -> list[Node]:
        """Return the nodes of all trips of a Loop; what its body stores is there once."""
        body, states = node.attributes["body"], list(node.inputs[2:])
        trip, condition, *before = (value.name for value in body.input)
        stored = {name: self.free(name) for name in _stored(body)}
        rows: list[list[str]] = []
        nodes: list[Node] = []
        for number in range(count):
            numbers = {trip: self.graph.constant(number, np.int64), condition: self.graph.constant(True, np.bool_)}
            fresh = {name: self.free(name) for name in computed_names(body) if name not in stored}
            copy = renamed(body, {**stored, **fresh, **numbers, **dict(zip(before, states, strict=True))})
            if number:
                del copy.initializer[:]
            nodes += [new for new in self.inside(body, copy, f"/{number}") if not (number and new.info.is_constant)]
            after = [value.name for value in copy.output[1:]]
            states, rows = after[: len(before)], [*rows, after[len(before) :]]
        nodes += [Node("Identity", (name,), (y,)) for name, y in zip(states, node.outputs, strict=False) if y]
        for parts, y in zip(zip(*rows, strict=True), node.outputs[len(before) :], strict=False):
            nodes += self.stacked(parts, y) if y else []
        return _sorted(nodes)

    def stacked(self, parts: Sequence[str], name: str) -> list[Node]:
        """Return nodes that put values of one shape side by side along a new first axis."""
        row = self.graph.unique(f"{name}/rows")
        stack = Node("ConcatFromSequence", (row,), (name,), {"axis": 0, "new_axis": 1})
        return [Node("SequenceConstruct", tuple(parts), (row,)), stack]

    def trips(self, node: Node) -> int | None:
        """Return how many trips a Loop takes, None where that depends on data."""
        constants = self.graph.constants
        most, condition = (*node.inputs[:2], "", "")[:2]
        if (most and most not in constants) or (condition and condition not in constants):
            return None
        if condition and not constants[condition].item():
            return 0
        count = int(constants[most].item()) if most else None
        return trip_count(node.attributes["body"], node.inputs[2:], self.graph, count, self.opset)

    def inlined(self, node: Node, branch: onnx.GraphProto) -> list[Node]:
        """Return the nodes of a branch with names that nothing else has, then those that give the If its outputs."""
        fresh = {name: self.free(name) for name in computed_names(branch)}
        body = renamed(branch, fresh)
        pairs = zip(body.output, node.outputs, strict=False)
        return [*_sorted(self.inside(branch, body)), *(Node("Identity", (v.name,), (y,)) for v, y in pairs)]

    def inside(self, body: onnx.GraphProto, copy: onnx.GraphProto, which: str = "") -> list[Node]:
        """Return the nodes of a subgraph that is no longer one: a copy of it with names of the graph.

        which: what is appended to the names of nodes
        """
        for tensor in copy.initializer:
            array = self.array(tensor)
            place = self.add_param if array.size > FOLDED or _is_weight(array) else self.add_constant
            place(tensor.name, array)
        for proto, before in zip(copy.node, body.node, strict=True):
            self.names[tuple(proto.output)] = before.name and before.name + which
        return [from_proto(proto) for proto in copy.node]

    def free(self, name: str) -> str:
        """Return the name, or a new one when the graph already has a value of that name."""
        if name in self.used:
            return self.graph.unique(name)
        self.used.add(name)
        return name

    def add(self, node: Node) -> None:
        """Append a node, unless its value is a constant."""
        tensor = node.get("value") if node.info.is_constant else None
        if isinstance(tensor, TensorProto):
            array = self.array(tensor)
            place = self.add_constant if array.size <= FOLDED else self.add_param
            place(node.outputs[0], array)
        elif infer_node(self.graph, node):
            self.model.folded.append(node)
        else:
            self.check_axis(node)
            self.check_sizes(node)
            self.graph.nodes.append(node)

    def check_axis(self, node: Node) -> None:
        """Raise InputError when a node's axis is none of its input's, nor one that it adds."""
        spec, axis = self.graph.specs.get(next(iter(node.inputs), "")), node.attributes.get("axis")
        if spec is None or not spec.shape or not isinstance(axis, int) or node.domain or node.info.converts:
            return
        rank, result = len(spec.shape), self.graph.specs.get(node.outputs[0])
        most = max(rank, len(result.shape)) if result else rank
        if not -most <= axis < most + node.info.reshapes:
            raise InputError(
                f"{node.op} (value {node.outputs[0]}): axis {axis} is out of range for an input of {rank} axes"
            )

    def check_sizes(self, node: Node) -> None:
        """Raise InputError where an image is too small for its kernel, or the parts of a Concat do not fit together."""
        specs, axis = self.graph.specs, node.attributes.get("axis")
        if node.info.concatenates and axis is not None:  # a sequence has no axis
            parts = [specs[name].shape for name in node.inputs if name in specs and 0 not in specs[name].shape]
            if len({_without_axis(shape, axis) for shape in parts}) > 1:
                words = f"{', '.join(map(str, parts))} do not fit together; {self.given_sizes()}"
                raise InputError(f"{node.op} (value {node.outputs[0]}): {words}")
        self.check_elements(node)
        if node.info.window is None:
            return
        image, result = (specs.get(name) for name in (node.inputs[0], node.outputs[0]))
        if image and result and min(image.shape, default=1) > 0 and min(result.shape, default=1) < 1:
            raise InputError(
                f"{node.op} (value {node.outputs[0]}): an image of {image.shape} is too small for the kernel; "
                f"{self.given_sizes()}: make them larger with --shape"
            )

    def check_elements(self, node: Node) -> None:
        """Raise InputError where a node would give its input a shape of another number of elements."""
        if not node.info.reshapes:
            return
        x, y = (self.graph.specs.get(name) for name in (node.inputs[0], node.outputs[0]))
        if x and y and prod(x.shape) != prod(y.shape):
            words = f"{x.shape} cannot become {y.shape}; {self.given_sizes()}"
            raise InputError(f"{node.op} (value {node.outputs[0]}): {words}")

    def given_sizes(self) -> str:
        given = ", ".join(f"{name} {'x'.join(map(str, s.shape))}" for name, s in self.graph.inputs.items())
        return f"the inputs are {given}"

    def current(self, node: Node) -> Iterable[Node]:
        """Return the node as nodes of opset 22."""
        if node.domain:
            return (node,)
        return upgrade(self, node, self.opset) if self.opset <= OPSET else self.older(node)

    def older(self, node: Node) -> Iterator[Node]:
        """Yield a node of a newer opset in ops of opset 22."""
        try:
            newer = onnx.defs.get_schema(node.op, self.opset, "")
        except onnx.defs.SchemaError:
            yield node
            return
        try:
            schema = onnx.defs.get_schema(node.op, OPSET, "")
        except onnx.defs.SchemaError:
            for inner in self.expanded(node):
                yield from self.older(self.typed(inner))
            return
        known, now = schema.attributes, newer.attributes
        strange = [n for n, v in node.attributes.items() if n not in known and v != default_of(now[n])]
        if strange or len(node.inputs) > schema.max_input:
            what = f"attribute {strange[0]}" if strange else "its last input"
            raise _newer(node, f"{what} is")
        kept = {name: value for name, value in node.attributes.items() if name in schema.attributes}
        yield replace(node, attributes=kept)

    def expanded(self, node: Node) -> list[Node]:
        """Return the nodes that define one of an op that opset 22 lacks. Raises InputError where none do."""
        if is_defined(self, node):
            return written(self, node)
        nodes = expand_function(node, self.graph.specs, self.graph.unique, self.opset)
        if nodes is None:
            raise _newer(node, "the op is")
        return nodes

    def typed(self, node: Node) -> Node:
        """Return the node with its subgraphs in opset 22, and its type attributes as the graph computes them."""
        kept = {name: value for name, value in node.attributes.items() if not _is_empty(value)}
        if node.info.is_constant and "sparse_value" in kept:
            kept = {"value": numpy_helper.from_array(read_sparse(kept["sparse_value"], self.folder))}
        attributes = dict(node.info.defaults) | {name: self.attribute(name, value) for name, value in kept.items()}
        return with_captured(replace(node, attributes=attributes))

    def attribute(self, name: str, value: Any) -> Any:
        if isinstance(value, onnx.GraphProto):
            return self.subgraph(value)
        if not self.as_float32:
            return value
        if isinstance(value, TensorProto) and value.data_type in _WIDE_FLOATS:
            return numpy_helper.from_array(self.array(value), value.name)
        return self.type(value) if name in _TYPE_ATTRIBUTES else value

    def subgraph(self, graph: onnx.GraphProto) -> onnx.GraphProto:
        """Return a branch or a body with its nodes as nodes of opset 22, its weights as params of the graph."""
        graph = self.hoisted(graph)
        result = onnx.GraphProto(name=graph.name)
        for source, target in ((graph.input, result.input), (graph.output, result.output)):
            target.extend(source)
            for value in target:
                if value.type.HasField("tensor_type"):
                    value.type.tensor_type.elem_type = self.type(value.type.tensor_type.elem_type)
        result.initializer.extend(numpy_helper.from_array(self.array(t), t.name) for t in graph.initializer)
        inner = _InnerLoader(self)
        for node in _sorted([from_proto(proto) for proto in graph.node]):
            current = list(inner.current(self.typed(node)))
            result.node.extend(map(to_proto, (*inner.take(), *current)))
        compute_outputs(result)
        return result

    def hoisted(self, graph: onnx.GraphProto) -> onnx.GraphProto:
        """Return a subgraph without its weights, which become params: they have gradients like all others.

        All names inside are names that nothing else has.
        """
        own = [value.name for value in graph.input]
        result = renamed(graph, {name: self.free(name) for name in (*own, *computed_names(graph))})
        kept = [tensor for tensor in result.initializer if not self.hoist(tensor)]
        del result.initializer[:]
        result.initializer.extend(kept)
        return result

    def hoist(self, tensor: TensorProto) -> bool:
        """Make a tensor of a subgraph a param if it is a weight, and tell whether it was."""
        array = self.array(tensor)
        if _is_weight(array):
            self.add_param(tensor.name, array)
        return _is_weight(array)

    def finish(self) -> Model:
        graph = self.graph
        graph.outputs = [value.name for value in self.proto.graph.output]
        self.model.held = tuple(name for node in self.nodes if node.info.is_constant for name in node.outputs)
        self._promote()
        return self.model

    def _promote(self) -> None:
        """Make constants that serve as weights params: exporters write weights as Constant nodes, too."""
        graph = self.graph
        integers = _quantized(graph.nodes)
        stored = self._stored()
        kept = {
            name
            for name, array in graph.constants.items()
            if name in stored and (_is_weight(array) or (name in integers and array.ndim))
        }
        shapes = {name: spec.shape for name, spec in graph.specs.items()}
        used = {*find_uses(graph.nodes, shapes, kept | graph.params.keys()), *_of_normalizations(graph.nodes)}
        for name in kept.intersection(used):
            self.add_param(name, graph.constants.pop(name))

    def _stored(self) -> set[str]:
        """Return the constants that the model holds, not those that are computed from others, as anchors are."""
        computed: set[str] = set()
        for node in self.model.folded:
            if not node.info.passes_weight or computed.intersection(node.inputs) or not node.inputs:
                computed.update(node.outputs)
        return self.graph.constants.keys() - computed


def _quantized(nodes: Sequence[Node]) -> set[str]:
    """Return the values that nodes take for quantized weights, also where rows are picked from them first."""
    found = {node.inputs[0] for node in nodes if node.info.converts}
    for node in nodes:
        held = node.info.fans if node.info.is_product else node.info.holds
        found.update(n for at, n in enumerate(node.inputs) if at in held or node.info.role(at) is Role.BIAS)
    for node in reversed(nodes):
        if node.info.moves and not found.isdisjoint(node.outputs):
            found.add(node.inputs[0])
    return found


def _of_normalizations(nodes: Iterable[Node]) -> Iterator[str]:
    """Yield what normalizations scale and shift by, and their statistics; not the scales of quantized values."""
    for node in nodes:
        if not node.info.converts:
            yield from (name for position, name in enumerate(node.inputs) if node.info.role(position) in _LEARNED)


def _stored(body: onnx.GraphProto) -> list[str]:
    """Return the values that a subgraph holds."""
    nodes = [from_proto(proto) for proto in body.node]
    constants = [name for node in nodes if node.info.is_constant for name in node.outputs]
    return [*constants, *(tensor.name for tensor in body.initializer)]


class _InnerLoader(_Loader):
    """Upgrades nodes of a subgraph: constants become Constant nodes, and shapes are not known."""

    def __init__(self, outer: _Loader) -> None:
        self.graph, self.opset, self.folder = outer.graph, outer.opset, outer.folder
        self._pending: list[Node] = []

    def spec(self, value: str) -> Spec | None:
        return None

    def known(self, value: str) -> np.ndarray | None:
        return None

    def constant(self, value: ArrayLike, dtype: Any) -> str:
        name = self.graph.unique("constant")
        tensor = numpy_helper.from_array(np.asarray(value, dtype))
        self._pending.append(Node("Constant", (), (name,), {"value": tensor}))
        return name

    def take(self) -> list[Node]:
        taken, self._pending = self._pending, []
        return taken


def _without_axis(shape: Shape, axis: int) -> Shape:
    axis %= max(len(shape), 1)
    return (*shape[:axis], *shape[axis + 1 :])


def _newer(node: Node, what: str) -> InputError:
    return InputError(
        f"{node.op} (value {node.outputs[0]}): {what} newer than opset {OPSET}; export the model with that one"
    )


def _is_empty(value: Any) -> bool:
    return isinstance(value, list) and not value  # protobuf cannot say of what type an empty list is


def _is_weight(array: np.ndarray) -> bool:
    return Spec(array.shape, array.dtype).is_float and bool(array.ndim) and not _is_mask(array)


def _is_mask(array: np.ndarray) -> bool:
    """Tell whether the numbers mask elements of a softmax: those of masks are near the least of their type."""
    return bool(array.size) and bool(array.min() <= _MASKED)


def settings_of(node: Node) -> Iterator[str]:
    """Yield the floats that are settings of a node: no signal flows through them."""
    return (name for position, name in enumerate(node.inputs) if node.info.role(position) is Role.SETTING)


def _names(graph: onnx.GraphProto) -> set[str]:
    """Return the names of all values, those inside subgraphs included."""
    names = given_names(graph) | {value.name for value in graph.output}
    for node in graph.node:
        names.update(node.input, node.output)
        for attribute in node.attribute:
            names.update(*map(_names, [attribute.g] if attribute.HasField("g") else attribute.graphs))
    return names - {""}


def _node_names(graph: onnx.GraphProto) -> dict[tuple[str, ...], str]:
    return {tuple(node.output): node.name for node in graph.node}


def _runs(node: Node, bodies: Bodies) -> bool:
    return not node.domain and node.info.bodies is bodies


def _decisive(nodes: Sequence[Node]) -> set[str]:
    """Return the values on which the branches of Ifs and the trip counts of Loops depend."""
    decisive: set[str] = set()
    for node in reversed(nodes):
        roles = [(node.info.role(position), name) for position, name in enumerate(node.inputs)]
        if node.info.bodies:
            decisive.update(name for role, name in roles if role is Role.CONDITION)
        if not decisive.isdisjoint(node.outputs):
            read = (name for role, name in roles if role is not Role.TYPE)  # the shape is known without the values
            decisive.update((*read, *node.captured))
    return decisive - {""}


def _sorted(nodes: list[Node]) -> list[Node]:
    """Return the nodes in an order in which they can run, the file's where it is one. Raises InputError for a cycle."""
    order = flow_of(nodes).order()
    if len(order) < len(nodes):
        stuck = nodes[min({*range(len(nodes))}.difference(order))]
        raise InputError(f"the graph has a cycle: {stuck.op} computes {stuck.outputs[0]} from itself")
    return [nodes[index] for index in order]


def _check_values(graph: onnx.GraphProto, nodes: Sequence[Node]) -> None:
    given = given_names(graph)
    for name, count in Counter(tensor.name for tensor in graph.initializer).items():
        if count > 1:
            raise InputError(f"initializer {name!r} is stored more than once; in ONNX every value has one source")
    computed = Counter(name for node in nodes for name in node.outputs if name)
    for name, count in computed.items():
        if count > 1 or name in given:
            raise InputError(f"value {name!r} is computed more than once; in ONNX every value has one source")
    read = [name for node in nodes for name in (*node.inputs, *node.captured)]
    for name in (*read, *(value.name for value in graph.output)):
        if name and name not in computed and name not in given:
            raise InputError(f"value {name!r} is read, but nothing computes it: the model is damaged")
