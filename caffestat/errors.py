"""Every error that caffestat raises on purpose.

CaffestatError                 the base; the command line prints its message and exits with 2
├── SourceError                something is wrong at a place in a user's file: file:line:column
│   ├── PrototextError         the text does not follow the protobuf text format
│   ├── SchemaError            the text parses, but a value does not fit Caffe's schema
│   ├── NetError               the net does not fit together: unknown bottom, duplicate top, wrong shape
│   │   └── RefusedError       the same, with the Report of what stands before and beside the faults
│   └── SolverError            a solver that Caffe refuses: unknown policy, missing field, contradiction
├── InputError                 a file, an option or an array that the user gave cannot be used
│   └── RunError               the runtime cannot compile or run what the file describes
├── GradientError              an ONNX op has no gradient rule
└── DeviceError                the device that was asked for cannot be used

GradientWarning, a UserWarning: gradients are zero for a reason that the caller should know
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "CaffestatError",
    "DeviceError",
    "Finding",
    "GradientError",
    "GradientWarning",
    "InputError",
    "NetError",
    "Place",
    "PrototextError",
    "RefusedError",
    "RunError",
    "SchemaError",
    "SolverError",
    "SourceError",
]


@dataclass(frozen=True)
class Place:
    """A place in a user's file; line and column count from 1, 0 means unknown."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        parts = [self.file, *(str(n) for n in (self.line, self.column) if n)]
        return ":".join(parts)


@dataclass(frozen=True)
class Finding:
    """Something worth telling that stops nothing: a warning with the place it is about."""

    place: Place
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class CaffestatError(Exception):
    """Base of all errors that caffestat raises on purpose."""


class SourceError(CaffestatError):
    """An error at a place in a user's file.

    `str(error)` is `file:line:column: message`.
    """

    def __init__(self, message: str, place: Place) -> None:
        super().__init__(f"{place}: {message}")
        self.message = message
        self.place = place

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.place)


class PrototextError(SourceError):
    """The text does not follow the protobuf text format."""


class SchemaError(SourceError):
    """A value does not fit Caffe's schema: an enum typo, a string for a number."""


class NetError(SourceError):
    """The layers do not fit together."""


class RefusedError(NetError):
    """A net that Caffe refuses, of which a part is known nevertheless.

    errors: all that it would stop at, the first of which this is
    report: the `caffestat.report.Report` of the rest
    """

    def __init__(self, errors: Sequence[NetError], report: Any) -> None:
        super().__init__(errors[0].message, errors[0].place)
        self.errors = tuple(errors)
        self.report = report

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.errors, self.report)


class SolverError(SourceError):
    """A solver that Caffe refuses, or that cannot train."""


class InputError(CaffestatError):
    """A file, an option or an array that the user gave cannot be used."""


class RunError(InputError):
    """The runtime cannot compile or run a graph; node: the node that fails, "" when the runtime does not say."""

    def __init__(self, message: str, node: str = "") -> None:
        super().__init__(message)
        self.node = node


class GradientError(CaffestatError):
    """An ONNX op on the way from a loss has no gradient rule."""


class GradientWarning(UserWarning):
    """Gradients are zero because a model rounds values to integers."""


class DeviceError(CaffestatError):
    """The device that was asked for cannot be used."""
