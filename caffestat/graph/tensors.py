"""Tensors of ONNX models as arrays. A tensor's sizes are checked before memory is allocated for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import SparseTensorProto, TensorProto, helper, numpy_helper

from caffestat.errors import InputError

from .external import external_entry, external_path

__all__ = ["check_sizes", "dtype_of", "encode", "read_sparse", "read_tensor"]

_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data")
_FLOATS: dict[int, str] = {TensorProto.FLOAT: "<f4", TensorProto.DOUBLE: "<f8", TensorProto.FLOAT16: "<f2"}
_BITS = {TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128}
_MOST_DENSE = 1 << 26  # elements of a sparse tensor that is made dense
_PACKED = frozenset(["FLOAT4E2M1", "INT2", "INT4", "UINT2", "UINT4"])  # several elements to a byte


def read_tensor(tensor: TensorProto, folder: Path | None = None) -> np.ndarray:
    """Return a tensor's values; large external ones are mapped, not read.

    folder: where the model's file stands, None for a model that has none.
    Raises InputError when there are fewer or more bytes than the shape says, or external data is not available.
    """
    check_sizes(tensor)
    if tensor.data_location == TensorProto.EXTERNAL:
        return _external(tensor, folder)
    if tensor.data_type == TensorProto.STRING:
        _check(tensor, len(tensor.string_data), math.prod(tensor.dims), "strings")
    elif tensor.HasField("raw_data"):
        _check(tensor, len(tensor.raw_data), _bytes(tensor), "bytes")
    else:
        _check_fields(tensor)
    return _array(tensor)


def check_sizes(tensor: TensorProto) -> None:
    """Raise InputError for a negative size."""
    if any(size < 0 for size in tensor.dims):
        raise _error(tensor, f"has a negative size in its shape {tuple(tensor.dims)}")


def read_sparse(tensor: SparseTensorProto, folder: Path | None = None) -> np.ndarray:
    """Return a sparse tensor as a dense array. Its indices count elements, or hold one number per axis.

    Raises InputError for indices that do not fit the shape or the values, and for a shape too large to be made dense.
    """
    values, indices = read_tensor(tensor.values, folder), read_tensor(tensor.indices, folder)
    shape = tuple(tensor.dims)
    if any(size < 0 for size in shape) or math.prod(shape) > _MOST_DENSE:
        raise _error(tensor.values, f"is sparse and of shape {shape}, which cannot be made dense")
    flat = np.reshape(np.zeros(shape, values.dtype), -1)
    places = indices.reshape(-1, 1) if indices.ndim < 2 else indices
    sizes = (flat.size,) if indices.ndim < 2 else shape
    fits = places.shape == (values.size, len(sizes)) and (places >= 0).all() and (places < np.array(sizes)).all()
    if not fits:
        raise _error(tensor.values, f"is sparse, but its indices do not fit its shape {shape} or its values")
    flat[np.ravel_multi_index(tuple(places.T), sizes)] = values.ravel()
    return flat.reshape(shape)


def encode(values: np.ndarray, data_type: int) -> bytes:
    """Return float32 values as a tensor's raw data in one of the floating-point types, rounded to the nearest."""
    if data_type == TensorProto.BFLOAT16:  # not by onnx.helper, whose numpy type differs from version to version
        bits = values.astype("<f4").view("<u4")
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    with np.errstate(over="ignore"):
        return values.astype(_FLOATS[data_type]).tobytes()


def _array(tensor: TensorProto) -> np.ndarray:
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise _error(tensor, f"cannot be read: {error}") from error


def _error(tensor: TensorProto, what: str) -> InputError:
    return InputError(f"initializer {tensor.name!r} {what}")


def _check(tensor: TensorProto, found: int, expected: int, unit: str) -> None:
    if found != expected:
        shape = "x".join(map(str, tensor.dims)) or "scalar"
        raise _error(tensor, f"of shape {shape} needs {expected:,} {unit}, but the file holds {found:,}: it is damaged")


def dtype_of(elem_type: int, of: str) -> np.dtype[Any]:
    """Return the numpy type of an ONNX element type. Raises InputError, about `of`, for one that is none."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(elem_type))
    except KeyError:
        raise InputError(f"{of} has an unknown element type {elem_type}") from None


def _dtype(tensor: TensorProto) -> np.dtype[Any]:
    return dtype_of(tensor.data_type, f"initializer {tensor.name!r}")


def _bits(tensor: TensorProto) -> int:
    name = _type_name(tensor)
    if name in _PACKED:
        return 2 if name.endswith("INT2") else 4
    return _dtype(tensor).itemsize * 8


def _type_name(tensor: TensorProto) -> str:
    _dtype(tensor)
    return str(TensorProto.DataType.Name(tensor.data_type))


def _bytes(tensor: TensorProto) -> int:
    return -(-math.prod(tensor.dims) * _bits(tensor) // 8)


def _check_fields(tensor: TensorProto) -> None:
    """Typed fields hold one element each, two for complex numbers; packed types share an int32."""
    found = sum(len(getattr(tensor, name)) for name in _FIELDS)
    count = math.prod(tensor.dims)
    if _type_name(tensor) in _PACKED:
        count = -(-count * _bits(tensor) // 8)
    _check(tensor, found, count * (2 if tensor.data_type in _BITS else 1), "values")


def _external(tensor: TensorProto, folder: Path | None) -> np.ndarray:
    path = external_path(tensor, folder)
    try:
        offset, length = int(external_entry(tensor, "offset", "0")), _bytes(tensor)
        said = int(external_entry(tensor, "length", str(length)))
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise _error(tensor, f"keeps its data in {path}, which cannot be read: {error}") from error
    if offset < 0:
        raise _error(tensor, f"has a negative offset into {path}")
    _check(tensor, said, length, "bytes")
    _check(tensor, max(min(size - offset, length), 0), length, "bytes")
    return _mapped(tensor, path, offset, length)


def _mapped(tensor: TensorProto, path: Path, offset: int, length: int) -> np.ndarray:
    dtype = _dtype(tensor)
    if not length:
        return np.zeros(tuple(tensor.dims), dtype)
    data = np.memmap(path, np.uint8, "r", offset, (length,))
    if _type_name(tensor) in _PACKED:
        loaded = onnx.TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=data.tobytes())
        return _array(loaded)
    return np.asarray(data).view(dtype).reshape(tuple(tensor.dims))
