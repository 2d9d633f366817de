"""The shapes of a model's inputs: those in the file, the user's values for open sizes, and sizes that would work."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from math import prod
from typing import Any

import onnx
from onnx import helper, shape_inference

from caffestat.errors import InputError
from caffestat.ops import op_info

from .graph import Shape

__all__ = ["Trial", "fixed_shapes", "infers"]

_TRIED = (224, 64, 32, 48, 128, 256, 16, 8, 299, 320, 512, 640, 1024, 4, 1, 16000)
_CHANNELS = (3, 1)
_SMALL = 1 << 12  # elements of an initializer that may say a shape


class Trial(Enum):
    """The result of trying a model with inputs of some shapes."""

    FAILS = 0
    LOADS = 1
    RUNS = 2


def fixed_shapes(
    proto: onnx.ModelProto,
    shapes: Mapping[str, Sequence[int]],
    batch: int | None,
    dims: Mapping[str, int],
    given: Mapping[str, Any],
    trial: Callable[[Mapping[str, Shape]], Trial],
) -> dict[str, Shape]:
    """Return the shape of every input of a model.

    shapes: of inputs by name; batch: the first axis of inputs that leave it open, 1 by default
    dims:   sizes by the name that the model has for them; a named size is the same wherever it stands
    given:  arrays of inputs by name: they say sizes that are open
    trial:  tries the model with inputs of some shapes, for suggestions

    Raises InputError for a name that the model lacks, a shape that does not fit, a name with two sizes, and sizes left
    open: then with sizes that the model can take, where any are found.
    """
    stored = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in stored]
    _check_names("--shape", shapes, [value.name for value in inputs], "input")
    known = [_name(dim) for value in inputs for dim in value.type.tensor_type.shape.dim if _name(dim)]
    _check_names("--dim", dims, known, "size")
    shapes = {**{value.name: given[value.name].shape for value in inputs if _takes(value, given)}, **shapes}
    symbols = {**_batches(inputs, batch or 1), **_symbols(inputs, shapes, dims), **dims}
    found = {value.name: _shape(value, shapes.get(value.name), symbols, batch) for value in inputs}
    for value in inputs:
        if None in found[value.name]:
            raise _open_error(inputs, found, value, batch or 1, trial)
    return {name: tuple(size or 0 for size in shape) for name, shape in found.items()}


def _takes(value: onnx.ValueInfoProto, given: Mapping[str, Any]) -> bool:
    """Tell whether an input leaves sizes open, and its given array fits the others."""
    dims = value.type.tensor_type.shape.dim
    shape = given[value.name].shape if value.name in given else ()
    said = [(dim.dim_value, size) for dim, size in zip(dims, shape, strict=False) if _is_fixed(dim)]
    return len(dims) == len(shape) > len(said) and all(one == other for one, other in said)


def _check_names(option: str, given: Iterable[str], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            expected = f"expected one of {', '.join(dict.fromkeys(known))}" if known else "it has none"
            raise InputError(f"{option} {name}: the model has no {what} of that name; {expected}")


def _symbols(
    inputs: Iterable[onnx.ValueInfoProto], shapes: Mapping[str, Sequence[int]], dims: Mapping[str, int]
) -> dict[str, int]:
    """Return the sizes of the named sizes in the shapes that the user gave."""
    symbols: dict[str, int] = {}
    for value in inputs:
        for dim, size in zip(value.type.tensor_type.shape.dim, shapes.get(value.name, ()), strict=False):
            said = dims.get(_name(dim), size)
            if said != size:
                raise InputError(f"--dim {_name(dim)}={said}: --shape {value.name} gives {size} for it")
            if _name(dim):
                symbols[_name(dim)] = size
    return symbols


def _batches(inputs: Iterable[onnx.ValueInfoProto], batch: int) -> dict[str, int]:
    """Return the batch by the names of open first axes: the same names occur elsewhere, as in recurrent states."""
    firsts = (value.type.tensor_type.shape.dim[:1] for value in inputs)
    return {_name(dim): batch for dims in firsts for dim in dims if _name(dim)}


def _name(dim: Any) -> str:
    """Return the name of an open size; "?" is none, which some exporters write for all of them."""
    return "" if _is_fixed(dim) or dim.dim_param == "?" else str(dim.dim_param)


def _shape(
    value: onnx.ValueInfoProto, said: Sequence[int] | None, symbols: Mapping[str, int], batch: int | None
) -> list[int | None]:
    """Return the shape of an input, None for a size that is open."""
    if not value.type.HasField("tensor_type"):
        raise InputError(f"input {value.name!r} is a {value.type.WhichOneof('value')}; only tensors can be fed")
    kind = value.type.tensor_type
    if said is None and not kind.HasField("shape"):
        raise InputError(f"input {value.name!r} has no shape in the model: give it with --shape {value.name}=…")
    if said is None:
        return [_size(axis, dim, symbols, batch) for axis, dim in enumerate(kind.shape.dim)]
    if kind.HasField("shape"):
        _check_said(value, said)
    return list(said)


def _is_fixed(dim: Any) -> bool:
    """Tell whether a size is a number; some exporters write -1 for an open one."""
    return bool(dim.HasField("dim_value") and dim.dim_value >= 0)


def _size(axis: int, dim: Any, symbols: Mapping[str, int], batch: int | None) -> int | None:
    if _is_fixed(dim):
        return int(dim.dim_value)
    if _name(dim) in symbols:
        return symbols[_name(dim)]
    return (batch or 1) if axis == 0 else None


def _check_said(value: onnx.ValueInfoProto, said: Sequence[int]) -> None:
    dims = value.type.tensor_type.shape.dim
    fits = len(dims) == len(said) and all(
        axis == 0 or not _is_fixed(dim) or dim.dim_value == size
        for axis, (dim, size) in enumerate(zip(dims, said, strict=True))
    )
    if not fits:
        raise InputError(f"--shape {value.name}: {tuple(said)} does not fit the model, which expects {_words(value)}")


def _words(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return "x".join(str(dim.dim_value) if _is_fixed(dim) else dim.dim_param or "?" for dim in dims)


def _open_error(
    inputs: Sequence[onnx.ValueInfoProto],
    found: Mapping[str, Sequence[int | None]],
    value: onnx.ValueInfoProto,
    batch: int,
    trial: Callable[[Mapping[str, Shape]], Trial],
) -> InputError:
    advice = "no sizes were found that the model accepts; give them with --shape"
    best, shapes = _best(_candidates(inputs, found, batch), trial)
    if best is Trial.RUNS:
        advice = f"for example {_options(inputs, found, shapes)}"
    elif best is Trial.LOADS:
        advice = f"no sizes were found with which it runs; it loads with {_options(inputs, found, shapes)}"
    return InputError(f"input {value.name!r} leaves sizes open ({_words(value)}): {advice}")


def _best(
    tried: Iterable[dict[str, Shape]], trial: Callable[[Mapping[str, Shape]], Trial]
) -> tuple[Trial, dict[str, Shape]]:
    """Return the first shapes with which the model does best."""
    best: tuple[Trial, dict[str, Shape]] = (Trial.FAILS, {})
    for shapes in tried:
        found = trial(shapes)
        if found is Trial.RUNS:
            return found, shapes
        if found.value > best[0].value:
            best = found, shapes
    return best


def _options(
    inputs: Sequence[onnx.ValueInfoProto], found: Mapping[str, Sequence[int | None]], shapes: Mapping[str, Shape]
) -> str:
    """Return the options that say the open sizes: by input and, where all of them have names, by name."""
    open_ones = [name for name, shape in found.items() if None in shape]
    words = " ".join(f"--shape {name}={','.join(map(str, shapes[name]))}" for name in open_ones)
    named = _by_name(inputs, found, shapes)
    return words + (f" (or {' '.join(f'--dim {name}={size}' for name, size in named.items())})" if named else "")


def _by_name(
    inputs: Sequence[onnx.ValueInfoProto], found: Mapping[str, Sequence[int | None]], works: Mapping[str, Shape]
) -> dict[str, int]:
    """Return the open sizes by their names; {} where one has no name, or the same name has two sizes."""
    named: dict[str, int] = {}
    for value in inputs:
        sizes = zip(value.type.tensor_type.shape.dim, found[value.name], works[value.name], strict=True)
        for dim, known, size in sizes:
            if known is None and (not _name(dim) or named.setdefault(_name(dim), size) != size):
                return {}
    return named


def _candidates(
    inputs: Sequence[onnx.ValueInfoProto], found: Mapping[str, Sequence[int | None]], batch: int
) -> Iterator[dict[str, Shape]]:
    """Yield shapes with sizes in the place of open ones.

    The second of four axes is taken for channels, unless the last one is; that between two fixed ones, as in recurrent
    states, for the batch.
    """
    has_channels = any(_has_channels(found[value.name]) and found[value.name][1] is None for value in inputs)
    for channels in _CHANNELS if has_channels else _CHANNELS[:1]:
        for size in _TRIED:
            yield {name: _filled(shape, batch, channels, size) for name, shape in found.items()}


def _filled(shape: Sequence[int | None], batch: int, channels: int, size: int) -> Shape:
    if len(shape) == 3 and shape[1] is None and None not in (shape[0], shape[2]) and shape[0] != 1:
        return tuple(batch if known is None else known for known in shape)
    others = [channels if axis == 1 and _has_channels(shape) else size for axis in range(len(shape))]
    return tuple(other if known is None else known for known, other in zip(shape, others, strict=True))


def _has_channels(shape: Sequence[int | None]) -> bool:
    """Tell whether the second axis of a shape may be channels: not in images that hold colours in the last one."""
    return len(shape) == 4 and shape[3] not in _CHANNELS


def infers(proto: onnx.ModelProto, shapes: Mapping[str, Shape]) -> bool:
    """Tell whether shape inference finds no fault with inputs of these shapes, and no computed value is empty."""
    bare = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    bare.graph.CopyFrom(_without_weights(proto.graph))
    for value in bare.graph.input:
        if value.name in shapes:
            value.CopyFrom(helper.make_tensor_value_info(value.name, _type_of(value), shapes[value.name]))
    try:
        inferred = shape_inference.infer_shapes(bare, strict_mode=True, data_prop=True)
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        return False
    constants = {
        name for node in inferred.graph.node if op_info(node.op_type, node.domain).is_constant for name in node.output
    }
    values = [v for v in (*inferred.graph.value_info, *inferred.graph.output) if v.name not in constants]
    dims = (dim for value in values if not _is_shape(value) for dim in value.type.tensor_type.shape.dim)
    return all(not dim.HasField("dim_value") or dim.dim_value > 0 for dim in dims)


def _is_shape(value: onnx.ValueInfoProto) -> bool:
    """Tell whether a value may be a part of a shape, which may be empty."""
    return _type_of(value) == onnx.TensorProto.INT64 and len(value.type.tensor_type.shape.dim) == 1


def _type_of(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)


def _without_weights(graph: onnx.GraphProto) -> onnx.GraphProto:
    """Return the graph with its large initializers as inputs: only their shapes matter."""
    bare = onnx.GraphProto(name=graph.name, node=graph.node, input=graph.input)
    bare.output.extend(onnx.ValueInfoProto(name=value.name) for value in graph.output)
    declared = {value.name for value in graph.input}
    for tensor in graph.initializer:
        if prod(tensor.dims) <= _SMALL and not tensor.external_data:
            bare.initializer.append(tensor)
        elif tensor.name not in declared:
            bare.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return bare
