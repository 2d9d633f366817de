"""Draws new values for chosen initializers of an ONNX model, with the fans of the ops that use them."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, helper

from caffestat.errors import Finding, InputError
from caffestat.errors import Place as FilePlace
from caffestat.files import Version, replacing
from caffestat.fillers import Stream, fill
from caffestat.graph.check import as_damage, check_model, infer_shapes
from caffestat.graph.external import external_entry, external_path, read_model, save
from caffestat.graph.fans import Use, find_uses
from caffestat.graph.graph import flow_of
from caffestat.graph.nodes import from_proto
from caffestat.graph.tensors import check_sizes, encode, read_tensor
from caffestat.ops import op_info
from caffestat.options import NetOptions
from caffestat.program import Dataflow, NamedStep
from caffestat.program.traits import activation_of, passes_signal
from caffestat.rewriting.policy import Policy, Site, Undecided, Wanted
from caffestat.rewriting.selection import Change, Place
from caffestat.rewriting.text import Changed
from caffestat.rewriting.whole_model import WholeModel

if TYPE_CHECKING:
    from caffestat.initialization.curves import Curves

__all__ = ["OnnxRewrite", "rewrite_onnx"]

_FLOATS = frozenset([TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16])
_SMALL = 4096  # elements of constants that shapes or slopes may depend on


@dataclass
class OnnxRewrite:
    """A model with new initializers in memory.

    moved   those whose old values stand in files of their own
    curves  signal and gradient before and after, where a method chose the weights
    """

    path: Path
    model: onnx.ModelProto
    changes: list[Changed] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    moved: list[TensorProto] = field(default_factory=list)
    curves: Curves | None = None

    def __post_init__(self) -> None:
        self._locations = _locations(self.model)

    def values(self, name: str) -> np.ndarray:
        """Return what an initializer, or a Constant node of that output, holds now."""
        return _read(_tensors(self.model)[name], self.path)

    def write(self, target: Path, since: Version | None = None) -> None:
        """Write the model; its external files follow it to another folder. `since`: as in `files.replacing`.

        New values that belong outside the model stand in a new file before the model that refers to it is replaced.
        """
        if target.resolve().parent != self.path.resolve().parent:
            self._copy_external(target.parent)
        save(self.model, target, self.moved, since)
        if target.resolve() == self.path.resolve():
            self.notes += [self._unused(location) for location in sorted(self._locations - _locations(self.model))]

    def _copy_external(self, folder: Path) -> None:
        for tensor in _external(self.model):
            location = external_entry(tensor, "location")
            source, copy = external_path(tensor, self.path.parent), folder / location
            if not copy.resolve().is_relative_to(folder.resolve()):
                raise InputError(f"{copy}: is outside of {folder}: {self.path} needs {location} beside it")
            if copy.exists() and not filecmp.cmp(source, copy, shallow=False):
                raise InputError(f"{copy}: already exists with other data; {self.path} needs {location} beside it")
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists():
                with replacing(copy) as fresh:
                    shutil.copyfile(source, fresh)

    def _unused(self, location: str) -> Finding:
        where = self.path.parent / location
        return Finding(FilePlace(str(where)), f"{self.path.name} uses it no longer; remove it unless a backup needs it")


def rewrite_onnx(path: Path, change: Change, seed: int, options: NetOptions | None = None) -> OnnxRewrite:
    """Return the model with chosen weights drawn by the policy, in the order in which it lists them; biases by theirs.

    Weights are initializers and the values of Constant nodes.

    options  shapes and batch of the inputs, for methods that look at the whole model

    Raises InputError when the model or its external data cannot be read, and when nothing in it is chosen.
    """
    model = read_model(path)
    if not model.graph.node:
        raise InputError(f"{path}: expected an ONNX model, found one without nodes")
    whole = WholeModel(path, options or NetOptions())
    try:
        with as_damage():
            check_model(model)
            job = _Job(path, model, change, whole)
            drawn = list(job.chosen())
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    result = OnnxRewrite(path, model, notes=job.notes)  # remembers what the model refers to before it changes
    stream = Stream(seed)
    for tensor, place, wanted in drawn:
        before = _read(tensor, path)  # first: a shape that the data do not fill is refused before as much is drawn
        _put(result, tensor, place, wanted, before, fill(stream, wanted.filler, tuple(tensor.dims)))
    if whole.draws:
        given = {place.layer: result.values(place.layer) for _, place, _ in drawn}
        for name, values, method in whole.drawn(given, seed, job.notes):
            tensor = job.floats[name]
            _put(result, tensor, job.place(name), Wanted(method.name), _read(tensor, path), values)
    result.curves = whole.curves
    if not drawn and not whole.draws and not job.notes:
        raise InputError(f"{path}: no weight in it is selected; see --layer and --type")
    return result


def _put(
    result: OnnxRewrite, tensor: TensorProto, place: Place, wanted: Wanted, before: np.ndarray, values: np.ndarray
) -> None:
    """Put new values into a tensor, and remember the change where they are others than before."""
    was_external = tensor.data_location == TensorProto.EXTERNAL
    if _replace_values(tensor, before, values, result.path):
        result.changes.append(Changed(FilePlace(str(result.path)), place, "stored values", wanted))
        result.moved += [tensor] if was_external else []


class _Job:
    """What is to be drawn, and how."""

    def __init__(self, path: Path, model: onnx.ModelProto, change: Change, whole: WholeModel) -> None:
        self.path = path
        self.model = model
        self.change = change
        self.whole = whole
        self.notes: list[Finding] = []
        nodes = [from_proto(proto) for proto in model.graph.node]
        order = flow_of(nodes).order()
        self.nodes = [nodes[index] for index in order]
        self.names = [model.graph.node[index].name for index in order]
        self.floats = {name: t for name, t in _tensors(model).items() if t.data_type in _FLOATS}
        for tensor in self.floats.values():
            check_sizes(tensor)

    @cached_property
    def uses(self) -> dict[str, Use]:
        return find_uses(self.nodes, _shapes(self.model), self.floats)

    def place(self, name: str) -> Place:
        use = self.uses[name]
        node, other = self.nodes[use.node], self.names[use.node]
        recurs, upsamples = node.info.is_recurrent, node.info.upsamples
        return Place(name, node.op, use.role, other_name=other, is_recurrent=recurs, upsamples=upsamples)

    def chosen(self) -> Iterator[tuple[TensorProto, Place, Wanted]]:
        """Yield what fillers draw; what methods choose is given to the whole model first."""
        places = {name: self.place(name) for name in self.floats if name in self.uses}
        policies = {name: self.change.policy(place, None) for name, place in places.items()}
        self.whole.policies = {name: policy for name, policy in policies.items() if policy}
        for name, policy in self.whole.policies.items():
            if not policy.draws_values:
                yield from self.choose(name, places[name], policy)

    def choose(self, name: str, place: Place, policy: Policy) -> Iterator[tuple[TensorProto, Place, Wanted]]:
        use = self.uses[name]
        site = Site(
            None,
            lambda: self.flow.nonlinearity(use.node),
            lambda: (use.fan_in, use.fan_out),
            solve=lambda method: self.whole.std(name, method),
        )
        try:
            # as numbers: Caffe's xavier and msra take the fans from the shape, and ONNX orders the axes otherwise
            wanted = Policy("explicit", base=policy).choose(site)
        except Undecided as error:
            self.notes.append(Finding(FilePlace(str(self.path)), f"{place} not changed: {error}"))
            return
        if wanted is not None:
            yield self.floats[name], place, wanted

    @cached_property
    def flow(self) -> Dataflow:
        constants = {
            name: _read(t, self.path) if np.prod(t.dims) <= _SMALL else np.zeros(0) for name, t in self.floats.items()
        }
        return Dataflow.of_names(
            [
                NamedStep(
                    [name for name in n.inputs if name],
                    [name for name in n.outputs if name],
                    passes_signal(n, constants),
                    activation_of(n, constants),
                )
                for n in self.nodes
            ]
        )


def _tensors(model: onnx.ModelProto) -> dict[str, TensorProto]:
    """Return the constants of the model by the names of their values: initializers, and those of Constant nodes."""
    nodes = [node for node in model.graph.node if op_info(node.op_type, node.domain).is_constant]
    stated = {node.output[0]: a.t for node in nodes for a in node.attribute if a.name == "value"}
    return {**stated, **{tensor.name: tensor for tensor in model.graph.initializer}}


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all values that ONNX can infer, from a copy of the model without its large constants."""
    bare = onnx.ModelProto(ir_version=max(model.ir_version, 4), opset_import=model.opset_import)
    bare.graph.name = "shapes"
    bare.graph.node.extend(model.graph.node)
    bare.graph.input.extend(model.graph.input)
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL and np.prod(tensor.dims) <= _SMALL:
            bare.graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            bare.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    inferred = infer_shapes(bare)
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for info in inferred.graph.value_info:
        dims = info.type.tensor_type.shape.dim
        if info.type.tensor_type.HasField("shape") and all(dim.HasField("dim_value") for dim in dims):
            shapes[info.name] = tuple(dim.dim_value for dim in dims)
    return shapes


def _external(model: onnx.ModelProto) -> list[TensorProto]:
    """Return the tensors whose data are in files beside the model's."""
    return [t for t in _tensors(model).values() if t.data_location == TensorProto.EXTERNAL]


def _locations(model: onnx.ModelProto) -> set[str]:
    return {external_entry(tensor, "location") for tensor in _external(model)}


def _replace_values(tensor: TensorProto, before: np.ndarray, values: np.ndarray, path: Path) -> bool:
    """Put the values into a tensor, in its own type; return whether they are others than before."""
    kept = TensorProto()
    kept.CopyFrom(tensor)
    for name in ("float_data", "int32_data", "double_data", "external_data", "data_location"):
        tensor.ClearField(name)
    tensor.raw_data = encode(values, tensor.data_type)
    after = _read(tensor, path)
    if not np.allclose(after.astype(np.float64), values, rtol=2**-8, atol=2**-24):  # half a step of the coarsest types
        raise InputError(f"{path}: {tensor.name!r}: its type of numbers cannot hold the new values")
    if before.tobytes() == after.tobytes():
        tensor.CopyFrom(kept)
        return False
    return True


def _read(tensor: TensorProto, path: Path) -> np.ndarray:
    try:
        return read_tensor(tensor, path.parent)
    except InputError as error:
        raise InputError(f"{path}: the data of {tensor.name!r} cannot be read: {error}") from error
