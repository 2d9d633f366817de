"""The options that verbs, commands, checks and sweeps share, validated once. Importing this module is quick."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

from caffestat.errors import InputError

__all__ = [
    "CALIBRATION_METHODS",
    "COMPUTE",
    "DATA",
    "DEFAULT_SEED",
    "DEVICES",
    "INPUTS_HOLD",
    "PHASES",
    "SEVERITIES",
    "STATS",
    "NetOptions",
    "RunOptions",
    "ValueOptions",
    "arrays_by_name",
    "by_name",
    "check_seed",
    "device_of",
    "names",
    "number",
    "one_of",
    "options_of",
    "texts",
    "whole_number",
]

Shape = tuple[int, ...]

PHASES = ("train", "test")
DATA = ("auto", "real", "synthetic")
INPUTS_HOLD = ("noise", "zeros")
STATS = ("mean", "max", "min", "std", "zeros", "inf", "nan")
COMPUTE = ("float32", "float16")
DEVICES = ("auto", "cpu", "cuda", "cuda:N")
SEVERITIES = ("info", "warning", "error")  # from the least to the most severe
CALIBRATION_METHODS = ("minmax", "percentile")

DEFAULT_SEED = 1701  # without a seed from the user or a solver; fixed, so that a run can be repeated
_SEEDS = 2**32


def one_of(option: str, value: str | None, allowed: Sequence[str]) -> None:
    """Raise InputError unless the value is one of the allowed ones, which the message lists."""
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"{option}: expected one of {', '.join(allowed)}, found {value!r}")


def device_of(text: str) -> tuple[str, int]:
    """Return kind and index of a device by its name, one of DEVICES: ("cuda", 1) for "cuda:1". Raises InputError."""
    match = re.fullmatch(r"(auto|cpu|cuda)|cuda:(\d{1,3})", str(text), re.ASCII)
    if match is None:
        raise InputError(f"device: expected one of {', '.join(DEVICES)}, found {text!r}")
    return match[1] or "cuda", int(match[2] or 0)


def texts(values: object) -> tuple[str, ...]:
    """Return one text, one path or a sequence of them as a tuple of texts."""
    return tuple(map(str, values)) if isinstance(values, (tuple, list)) else (str(values),)


def check_seed(seed: object) -> None:
    """Raise InputError unless the value is one that Caffe's random_seed can have."""
    if not (isinstance(seed, Integral) and 0 <= int(seed) < _SEEDS):
        raise InputError(f"seed: expected an integer from 0 to {_SEEDS - 1}, found {seed!r}")


def names(option: str, values: Any) -> tuple[str, ...]:
    """Return one name or a sequence of names as a tuple. Raises InputError for anything else."""
    found = (values,) if isinstance(values, str) else values
    if not (isinstance(found, (tuple, list)) and all(isinstance(name, str) for name in found)):
        raise InputError(f"{option}: expected names, found {values!r}")
    return tuple(found)


def number(option: str, value: Any, least: float = 0.0) -> float:
    """Return the value of an option. Raises InputError unless it is a finite number of `least` or more."""
    if not (isinstance(value, Real) and least <= float(value) < math.inf):
        raise InputError(f"{option}: expected a number of {least:g} or more, found {value!r}")
    return float(value)


def _check_filler(name: str | None) -> None:
    if name is not None:
        from caffestat.fillers import random_types  # numpy only where a filler is named

        one_of("assume_filler", name, random_types())


def _shape(name: str, axes: Sequence[int]) -> Shape:
    shape = tuple(axes) if isinstance(axes, Sequence) and not isinstance(axes, str) else ()
    if not shape or not all(isinstance(axis, Integral) and axis > 0 for axis in shape):
        raise InputError(f"shapes: expected a sequence of sizes of 1 or more for {name!r}, found {axes!r}")
    return shape


def whole_number(option: str, value: Any, least: int = 1) -> int:
    """Return the value of an option. Raises InputError unless it is an integer of `least` or more."""
    if not (isinstance(value, Integral) and int(value) >= least):
        raise InputError(f"{option}: expected an integer of {least} or more, found {value!r}")
    return int(value)


def _level(value: Any) -> int:
    """Return a level. Raises InputError unless NetState.level, an int32, can hold it."""
    if not (isinstance(value, Integral) and -(2**31) <= int(value) < 2**31):
        raise InputError(f"level: expected an integer of 32 bits, found {value!r}")
    return int(value)


def by_name(option: str, values: Any) -> dict[str, Any]:
    """Return a mapping with names as keys, None as an empty one. Raises InputError for anything else."""
    found = {} if values is None else values
    if not (isinstance(found, Mapping) and all(isinstance(name, str) for name in found)):
        raise InputError(f"{option}: expected a mapping of names, found {values!r:.60}")
    return dict(found)


def arrays_by_name(values: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the arrays of the option `inputs`. Raises InputError for a value that is no array."""
    found = by_name("inputs", values)
    for name, array in found.items():
        if not (hasattr(array, "shape") and hasattr(array, "dtype")):
            raise InputError(f"inputs: expected an array for {name!r}, found {array!r:.60}")
    return found


@dataclass(frozen=True)
class NetOptions:
    """How a net is built from its file. Raises InputError for a value that is not allowed.

    phase          one of PHASES; None: the file's own, else train
    level, stages  for include and exclude rules; stages join those of the file
    shapes         of data blobs, by blob name, outermost axis first (N, C, H, W)
    batch          replaces the first axis of every data blob
    data           source of data layers: "auto" (files if available, else noise), "real" (files or an error) or
                   "synthetic" (noise)
    dialect        the fork whose layer types to use where forks define a type differently ("ssd", …)
    dims           of an .onnx model: sizes by the names that it has for them ("batch", "width")
    """

    phase: str | None = None
    level: int | None = None
    stages: Sequence[str] = ()
    shapes: Mapping[str, Any] = field(default_factory=dict)
    batch: int | None = None
    data: str = "auto"
    dialect: str | None = None
    dims: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.phase is not None:
            one_of("phase", self.phase, PHASES)
        one_of("data", self.data, DATA)
        if self.level is not None:
            object.__setattr__(self, "level", _level(self.level))
        if self.dialect is not None and not isinstance(self.dialect, str):
            raise InputError(f"dialect: expected a name, found {self.dialect!r}")
        if self.batch is not None:
            whole_number("batch", self.batch)
        object.__setattr__(self, "stages", names("stages", self.stages))
        shapes = {name: _shape(name, axes) for name, axes in by_name("shapes", self.shapes).items()}
        object.__setattr__(self, "shapes", shapes)
        dims = {name: whole_number(f"dims: {name}", size) for name, size in by_name("dims", self.dims).items()}
        object.__setattr__(self, "dims", dims)

    @property
    def caffe_only(self) -> tuple[object, ...]:
        """The values given for options that have no meaning for an ONNX model."""
        return tuple(value for value in (self.phase, self.level, *self.stages, self.dialect) if value is not None)


@dataclass(frozen=True)
class ValueOptions:
    """What params hold at the start. Raises InputError for a value that is not allowed.

    seed           Caffe's random_seed; None: the solver's, else DEFAULT_SEED
    weights        caffemodel files that replace the fillers' values, layers matched by name; later files win
    assume_filler  the filler type of weights without a weight_filler, one of `caffestat.fillers.random_types()`
    """

    seed: int | None = None
    weights: Sequence[str] = ()
    assume_filler: str | None = None

    def __post_init__(self) -> None:
        _check_filler(self.assume_filler)
        if self.seed is not None:
            check_seed(self.seed)
        object.__setattr__(self, "weights", texts(self.weights))

    @property
    def caffe_only(self) -> tuple[object, ...]:
        """The values given for options that have no meaning for an ONNX model."""
        return (*self.weights, *([self.assume_filler] if self.assume_filler else []))


@dataclass(frozen=True)
class RunOptions:
    """How a net is run. Raises InputError for a value that is not allowed.

    device        one of DEVICES
    inputs        arrays for data blobs, by blob name, in the shape that the net gives them
    inputs_hold   what Input layers hold: "noise" (N(0, 1)) or "zeros" (as under `caffe train`)
    loss          of an ONNX model: "noise" (also when None), "ones", "cross-entropy" or the name of a value to sum
    forward_only  no backward pass
    stats         statistics of the elements of every value, beside mean |x|: some of STATS
    compute       the type in which everything but statistics is computed, one of COMPUTE
    straight_through  of an ONNX model: gradients pass pairs of QuantizeLinear and DequantizeLinear as if nothing was
                  rounded
    """

    device: str = "auto"
    inputs: Mapping[str, Any] = field(default_factory=dict)
    inputs_hold: str = "noise"
    loss: str | None = None
    forward_only: bool = False
    stats: Sequence[str] = ()
    compute: str = "float32"
    straight_through: bool = False

    def __post_init__(self) -> None:
        device_of(self.device)
        one_of("inputs_hold", self.inputs_hold, INPUTS_HOLD)
        one_of("compute", self.compute, COMPUTE)
        if self.loss is not None and not isinstance(self.loss, str):
            raise InputError(f"loss: expected a name, found {self.loss!r}")
        object.__setattr__(self, "inputs", arrays_by_name(self.inputs))
        object.__setattr__(self, "stats", texts(self.stats))
        for name in self.stats:
            one_of("stats", name, STATS)


def options_of(**given: Any) -> tuple[NetOptions, ValueOptions, RunOptions]:
    """Return the options of the three kinds that keywords give. Raises TypeError for a keyword of none of them."""
    kinds = (NetOptions, ValueOptions, RunOptions)
    named = [{f.name: given.pop(f.name) for f in fields(kind) if f.name in given} for kind in kinds]
    if given:
        raise TypeError(f"unknown option {next(iter(given))!r}")
    return NetOptions(**named[0]), ValueOptions(**named[1]), RunOptions(**named[2])
