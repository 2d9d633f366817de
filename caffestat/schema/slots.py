"""How each field of a message is read from a scalar of the text; after protobuf's text_format.cc."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from caffestat.prototext import Scalar

__all__ = ["Slot", "boolean", "slots"]

_BOOLEANS = {"true": True, "True": True, "t": True, "false": False, "False": False, "f": False}
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
# Forks added their own layer types, and ways to compute (`engine`, several devices) that change no number. The rest of
# such a file is still worth reading.
_OPEN_FIELDS = frozenset(["caffe.V1LayerParameter.type", "caffe.SolverParameter.device_id"])
# Forks add values to most enums; those of solvers decide what Caffe does, and stay closed.
_CLOSED_ENUMS = ("caffe.SolverParameter.", "caffe.LayerParameter.", "caffe.V0LayerParameter.", "caffe.FillerParameter.")
# Forks pool over any number of axes.
_LISTS_OF_FORKS = frozenset(f"caffe.PoolingParameter.{name}" for name in ("kernel_size", "stride", "pad"))


@dataclass(frozen=True)
class Slot:
    """A field of a message; `read` raises ValueError for a misfit, and is None where the field holds a message.

    An open field may hold what the schema does not know, an extended enum values unlike the known ones, and a field
    that is a list in forks several values; it is then left unset.
    """

    name: str
    repeated: bool
    expected: str
    choices: tuple[str, ...]
    is_open: bool
    is_extended: bool
    is_list_of_forks: bool
    read: Callable[[Scalar], Any] | None


@cache
def slots(descriptor: Descriptor) -> dict[str, Slot]:
    """The fields of a message by name."""
    return {field.name: _slot(field) for field in descriptor.fields}


def _slot(field: FieldDescriptor) -> Slot:
    expected, read = _kind(field)
    return Slot(
        name=field.name,
        # In proto2 a singular field, and no other, has presence; `label` is gone from newer protobuf runtimes.
        repeated=not field.has_presence,
        expected=expected,
        choices=tuple(_numbers(field.enum_type)) if field.enum_type else (),
        is_open=field.name == "engine" or field.full_name in _OPEN_FIELDS,
        is_extended=field.enum_type is not None and not field.full_name.startswith(_CLOSED_ENUMS),
        is_list_of_forks=field.full_name in _LISTS_OF_FORKS,
        read=read,
    )


def _kind(field: FieldDescriptor) -> tuple[str, Callable[[Scalar], Any] | None]:
    """Return what the field expects, in words, and its reader."""
    if field.message_type:
        return "a message in braces", None
    if field.enum_type:
        return f"one of {', '.join(_numbers(field.enum_type))}", _enum(_numbers(field.enum_type))
    if field.cpp_type in _INTEGERS:
        low, high = _INTEGERS[field.cpp_type]
        return f"an integer from {low} to {high}", _integer(low, high)
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return "true or false", boolean
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return "a string in quotes", Scalar.as_bytes if field.type == FieldDescriptor.TYPE_BYTES else _string
    return "a number", Scalar.as_float


def _numbers(enum: EnumDescriptor) -> dict[str, int]:
    return {value.name: value.number for value in enum.values}


def _integer(low: int, high: int) -> Callable[[Scalar], int]:
    def read(scalar: Scalar) -> int:
        value = scalar.as_int()
        if not low <= value <= high:
            raise ValueError(f"{value} is not in {low}..{high}")
        return value

    return read


def _enum(numbers: dict[str, int]) -> Callable[[Scalar], int]:
    known = frozenset(numbers.values())

    def read(scalar: Scalar) -> int:
        number = numbers.get(scalar.text) if scalar.kind == "identifier" else scalar.as_int()
        if number not in known:
            raise ValueError(f"{scalar.text} is not in the enum")
        return number

    return read


_bit = _integer(0, 1)


def boolean(scalar: Scalar) -> bool:
    """Return what a bool field holds. Raises ValueError for another text."""
    value = _BOOLEANS.get(scalar.text) if scalar.kind == "identifier" else bool(_bit(scalar))
    if value is None:
        raise ValueError(f"{scalar.text} is neither true nor false")
    return value


def _string(scalar: Scalar) -> str:
    return scalar.as_bytes().decode()
