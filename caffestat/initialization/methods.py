"""The methods by name: how they are written, their fields, and how they fill the weights of a program."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from caffestat.engine import CPU
from caffestat.errors import InputError
from caffestat.fillers import Constant, Density, filler_type, filler_types, stated
from caffestat.program import Program

if TYPE_CHECKING:
    from caffestat.program.feeds import Feeds

__all__ = ["METHODS", "Method", "draw", "filler_of", "parse_method"]

Reader = Callable[[str], Any]


@dataclass(frozen=True)
class Method:
    """A method and its fields, those that are not given included."""

    name: str
    fields: tuple[tuple[str, Any], ...] = ()

    @property
    def is_solved(self) -> bool:
        """Whether it gives numbers, which a filler can state; else it draws values."""
        return self.name == "autoinit"

    @property
    def is_measured(self) -> bool:
        """Whether it runs the net on data."""
        return self.name in ("lsuv", "krahenbuhl")

    def __getitem__(self, name: str) -> Any:
        """Return a field."""
        return dict(self.fields)[name]

    def density(self, std: float) -> Density:
        """Return the distribution that a solved std gives, 0 for a std of 0."""
        return _OF_STD[self["distribution"]](std) if std else Constant(0.0)


def _number(least: float, is_open: bool, words: str) -> Reader:
    def read(text: str) -> float:
        value = float(text)
        if not math.isfinite(value) or value < least or (is_open and value == least):
            raise ValueError(words)
        return value

    read.__doc__ = words
    return read


def _choice(*names: str) -> Reader:
    def read(text: str) -> str:
        if text not in names:
            raise ValueError(text)
        return text

    read.__doc__ = " or ".join((", ".join(names[:-1]), names[-1]))
    return read


def _yes(text: str) -> bool:
    """0 or 1"""
    return {"0": False, "1": True}[text]


def _count(text: str) -> int:
    """a count of 1 or more"""
    if int(text) < 1:
        raise ValueError(text)
    return int(text)


def _target(text: str) -> float | str:
    """a number above 0, or input"""
    return text if text == "input" else _positive(text)


_positive = _number(0.0, True, "a number above 0")
_any = _number(-math.inf, False, "a number")

_OF_STD = {name: kind.of_std for name in filler_types() if (kind := filler_type(name)) and kind.of_std}

METHODS: Mapping[str, Mapping[str, tuple[Reader, Any]]] = {
    "autoinit": {
        "target": (_target, 1.0),
        "distribution": (_choice(*_OF_STD), "gaussian"),
        "fixup": (_yes, False),
    },
    "orthogonal": {"gain": (_positive, None)},
    "lsuv": {
        "tolerance": (_number(0.0, False, "a number of 0 or more"), 0.0),
        "iterations": (_count, 20),
        "mean": (_yes, False),
        "start": (_choice("orthogonal", "file"), "orthogonal"),
    },
    "krahenbuhl": {
        "first": (_choice("gaussian", "pca", "kmeans"), "gaussian"),
        "bias": (_any, 0.1),
        "between": (_yes, True),
    },
}
"""The fields of each method: how each is read, and its default."""


def parse_method(text: str) -> Method | None:
    """Read "lsuv" or "lsuv:tolerance=0.02,mean=1"; return None for a text that names no method. Raises InputError."""
    kind, _, rest = text.partition(":")
    if kind not in METHODS:
        return None
    given = dict(_field(kind, part) for part in rest.split(",") if part)
    return Method(kind, tuple((name, given.get(name, default)) for name, (_, default) in METHODS[kind].items()))


def _field(kind: str, text: str) -> tuple[str, Any]:
    name, _, value = text.partition("=")
    if name not in METHODS[kind]:
        raise InputError(f"{kind} has no field {name!r}; expected {', '.join(METHODS[kind])}")
    read, _ = METHODS[kind][name]
    try:
        return name, read(value)
    except (ValueError, KeyError):
        raise InputError(f"{name} of {kind}: expected {read.__doc__}, found {value!r}") from None


def filler_of(std: float, method: Method) -> str:
    """Return the filler that states a solved std, as prototxt has it: five digits of an expectation."""
    kind, fields = stated(method.density(std))
    return " ".join([f'type: "{kind}"', *(f"{name}: {value:.5g}" for name, value in fields.items())])


def draw(
    program: Program,
    methods: Mapping[int, Method],
    values: Sequence[np.ndarray],
    feeds: Feeds,
    seed: int,
    notes: MutableSequence[str],
) -> list[int]:
    """Overwrite weights by those of methods that draw values, in place; return the numbers of the params filled.

    methods  by the number of the weight; of a shared one, its owner's counts
    values   by number, as `program.values` returns them
    feeds    of the data that lsuv and krahenbuhl measure
    seed     of the matrices
    notes    gets lines about layers that could not be treated

    Raises a CaffestatError when the program cannot be run.
    """
    program = program.settle(values, CPU, feeds)
    owned = {program.owner(number): method for number, method in methods.items()}
    filled = [number for number, method in owned.items() if method.name in ("orthogonal", "lsuv")]
    _orthogonal(program, {number: owned[number] for number in filled}, values, seed)
    for method in dict.fromkeys(owned.values()):
        if method.is_measured:
            numbers = [number for number, other in owned.items() if other == method]
            filled += _measured(program, method, numbers, values, feeds, seed, notes)
    return sorted(set(filled))


def _orthogonal(program: Program, methods: Mapping[int, Method], values: Sequence[np.ndarray], seed: int) -> None:
    from .layout import layouts
    from .orthogonal import orthogonal

    found = layouts(program.forward(), list(methods)) if methods else {}
    for number, layout in found.items():
        method = methods[number]
        if method.name == "lsuv" and method["start"] == "file":
            continue
        gain = 1.0 if method.name == "lsuv" else method["gain"] or _gain(program, number)
        matrix = layout.matrix(values[number])
        groups, outputs = matrix.shape[:2]
        random = np.random.default_rng([seed, number])
        drawn = orthogonal((groups * outputs, *matrix.shape[2:]), random, gain, groups)
        layout.store(values[number], drawn.reshape(matrix.shape))


def _gain(program: Program, number: int) -> float:
    """Return what makes up for the nonlinearity that follows."""
    return math.sqrt(program.flow.nonlinearity(program.params[number].row).weight_gain)


def _measured(
    program: Program,
    method: Method,
    numbers: Sequence[int],
    values: Sequence[np.ndarray],
    feeds: Feeds,
    seed: int,
    notes: MutableSequence[str],
) -> list[int]:
    """Run a method that measures, and return the numbers of the params that it filled."""
    from .krahenbuhl import KrahenbuhlOptions, krahenbuhl
    from .linear import linear_rows
    from .lsuv import LsuvOptions, lsuv

    forward = program.forward()
    arrays = feeds.of(forward)
    options = {name: value for name, value in method.fields if name != "start"}
    if method.name == "krahenbuhl":
        random = np.random.default_rng([seed, 1])
        found = KrahenbuhlOptions(**options)
        return krahenbuhl(program, values, numbers, arrays, random, options=found, notes=notes)
    biases = [linear.bias for linear in linear_rows(program, program.forward(), numbers) if linear.bias is not None]
    lsuv(program, values, numbers, arrays, forward, options=LsuvOptions(**options), notes=notes)
    return [*numbers, *(biases if options["mean"] else ())]
