"""Fillers: what a blob holds before the first iteration. One FillerType per type; `types` registers Caffe's,
`forks` those of its forks.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.fillers.densities import Density
from caffestat.fillers.fans import VARIANCE_NORMS
from caffestat.fillers.stream import Stream
from caffestat.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Filler",
    "FillerType",
    "density",
    "fill",
    "filler_type",
    "filler_types",
    "problem",
    "random_types",
    "register",
    "type_of_gain",
]


@dataclass(frozen=True)
class Filler:
    """A FillerParameter with Caffe's defaults; `sparse` -1 means dense. A type reads only its own fields."""

    type: str = "constant"
    value: float = 0.0
    min: float = 0.0
    max: float = 1.0
    mean: float = 0.0
    std: float = 1.0
    sparse: int = -1
    variance_norm: str = VARIANCE_NORMS[0]
    own: tuple[float | str, ...] = ()  # what the `own_field` of its type holds


Shape = tuple[int, ...]
Draw = Callable[[Stream, Filler, Shape], "NDArray[np.float32]"]

_FIELDS = {field.name for field in fields(Filler)} - {"type", "own"}


@dataclass(frozen=True)
class FillerType:
    """A type of filler. Registering one makes it known everywhere.

    draw       `draw(stream, filler, shape)` -> the float32 values; consumes the words that Caffe would
    density    `density(filler, shape)` -> what it draws from; raises InputError where `draw` does
    reads      the fields of a Filler that it looks at
    required   those without which the type is pointless
    by_fan     what it draws from by the fan n, of a type that derives its spread from one; it reads variance_norm
    of_std     what it draws from with a mean of 0 and a given standard deviation, of a type whose fields can state that
    is_random  whether it draws at all; what it fills is the same every time where not
    upsamples  it makes a Deconvolution interpolate: replaced only where the layer is named
    origin     the fork that has it, and its source; "" for Caffe's own
    own_field  a field of a fork's that it reads, which Caffe's FillerParameter lacks: numbers, or paths if `reads_file`
    why_unknown  returns why the values of a filler are not known, such as a missing file; "" where they are
    """

    name: str
    draw: Draw
    density: Callable[[Filler, Shape], Density]
    reads: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    by_fan: Callable[[float], Density] | None = None
    of_std: Callable[[float], Density] | None = None
    is_random: bool = True
    upsamples: bool = False
    origin: str = ""
    own_field: str = ""
    reads_file: bool = False
    why_unknown: Callable[[Filler], str] = lambda filler: ""

    def __post_init__(self) -> None:
        """Raise ValueError for facts that contradict each other or are missing."""
        for name in ("draw", "density"):
            if not callable(getattr(self, name)):
                raise ValueError(f"filler {self.name!r} needs a function for {name}, found {getattr(self, name)!r}")
        foreign = set(self.reads) - _FIELDS
        if foreign:
            raise ValueError(f"filler {self.name!r} reads {', '.join(sorted(foreign))}; a Filler has {sorted(_FIELDS)}")
        if not set(self.required) <= set(self.reads):
            raise ValueError(f"filler {self.name!r} requires a field that it does not read: {self.required}")
        if (self.by_fan is not None) != ("variance_norm" in self.reads):
            raise ValueError(f"filler {self.name!r} states either both by_fan and variance_norm, or neither")

    @property
    def short(self) -> str | None:
        """The field that a bare number is for: the one that is required, where it is one."""
        return self.required[0] if len(self.required) == 1 else None

    @property
    def gain(self) -> float | None:
        """n · Var(w), of a type that derives its spread from a fan n."""
        return round(self.by_fan(1).variance, 5) if self.by_fan else None

    def density_of(self, filler: Filler, shape: Shape) -> Density:
        """Return what it draws from. Raises InputError where it draws nothing, or does not say what."""
        found = self.density(filler, shape)
        if not isinstance(found, Density):
            raise InputError(f'the density of filler "{self.name}": expected a Density, found {found!r}')
        return found

    def values(self, stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
        """Return what it draws for a blob. Raises InputError where it draws nothing, or something else."""
        found = self.draw(stream, filler, shape)
        if not isinstance(found, np.ndarray) or found.dtype != np.float32 or found.size != math.prod(shape):
            what = f"{found.dtype} of shape {found.shape}" if isinstance(found, np.ndarray) else repr(found)
            raise InputError(f'filler "{self.name}" draws {what}; expected an array of float32 of shape {shape}')
        return found.reshape(shape)

    def is_alike(self, filler: Filler, shape: Shape) -> bool:
        """Tell whether every filter of the blob (along axis 0) gets the same values."""
        if self.is_random:
            return self.density_of(filler, shape).variance == 0
        pair = self.values(Stream(0), filler, (2, *shape[1:]))
        return bool((pair[0] == pair[1]).all())


_TYPES: dict[str, FillerType] = {}


def register(kind: FillerType) -> FillerType:
    """Make a filler type known. Raises ValueError when there is one of that name already."""
    if kind.name in _TYPES:
        raise ValueError(f'a filler of type "{kind.name}" is registered already')
    _TYPES[kind.name] = kind
    return kind


def filler_types() -> tuple[str, ...]:
    """Return the names of Caffe's own filler types, sorted, and of those that were registered without an origin."""
    return tuple(sorted(name for name, kind in _TYPES.items() if not kind.origin))


def random_types() -> tuple[str, ...]:
    """Return the names of `filler_types()` that draw random numbers, which weights without a filler may be given."""
    return tuple(name for name in filler_types() if _TYPES[name].is_random)


def filler_type(name: str) -> FillerType | None:
    """Return the type of this name, None for an unknown one."""
    return _TYPES.get(name)


def type_of_gain(gain: float) -> str | None:
    """Return the name of the first type with n · Var(w) = gain, None when there is none."""
    return next((name for name, kind in _TYPES.items() if kind.gain == gain), None)


def _checked_type(filler: Filler) -> FillerType:
    kind = _TYPES.get(filler.type)
    if kind is None:
        close = difflib.get_close_matches(filler.type.lower(), _TYPES, n=1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        known = ", ".join(filler_types())
        raise InputError(f'unknown filler type "{filler.type}"{hint}; expected one of {known} (case-sensitive)')
    if filler.sparse != -1 and "sparse" not in kind.reads:
        raise InputError(f'sparse is for gaussian fillers only, found sparse {filler.sparse} in type "{filler.type}"')
    return kind


def fill(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    """Return the float32 values that Caffe's `filler` gives a blob of `shape`; () is a scalar blob, of count 1.

    Consumes from `stream` the words that Caffe would; constant and bilinear consume none.
    Raises InputError where Caffe's checks abort. (filler.hpp)
    """
    kind = _checked_type(filler)
    _check_elements(shape)
    return kind.values(stream, filler, shape)


def density(filler: Filler, shape: Shape) -> Density:
    """Return what a filler draws from for a blob of `shape`. Raises InputError where `fill` does."""
    kind = _checked_type(filler)
    _check_elements(shape)
    return kind.density_of(filler, shape)


def _check_elements(shape: Shape) -> None:
    if math.prod(shape) == 0:
        raise InputError(f"a filler needs a blob with elements, found shape {shape}")


def problem(filler: Filler, shape: Shape) -> str:
    """Return why a filler gives a blob of `shape` no numbers (unknown, refused by Caffe, not finite), "" if it does."""
    kind = _TYPES.get(filler.type)
    for name in kind.reads if kind else ():
        value = getattr(filler, name)
        if isinstance(value, float) and not math.isfinite(value):
            return f"{name} of a {filler.type} filler is {value:g}: expected a finite number"
    try:
        density(filler, shape)
    except InputError as error:
        return str(error)
    return ""
