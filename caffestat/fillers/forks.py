"""Fillers that forks of Caffe add."""

from __future__ import annotations

import math
import os
from functools import partial
from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.files import read_regular
from caffestat.fillers.densities import Density, Normal, Sample
from caffestat.fillers.fillers import Filler, FillerType, register
from caffestat.fillers.gaussian import gaussian
from caffestat.fillers.stream import Stream
from caffestat.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Shape = tuple[int, ...]

# ---- gaussian_unitball ----


def _draw_gaussian_unitball(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    """Draw rows over axis 0 of N(0, 1) values, each divided by its Euclidean norm."""
    _check_rows(shape)
    rows = gaussian(stream, math.prod(shape), 0.0, 1.0).reshape(shape[0], -1)
    squares = np.sum(np.square(rows, dtype=np.float64), axis=1, keepdims=True) + 1e-12
    return rows * (np.float32(1) / np.sqrt(squares.astype(np.float32)))


def _gaussian_unitball_density(filler: Filler, shape: Shape) -> Density:
    """The variance is exact; the form is nearly normal for long rows."""
    _check_rows(shape)
    size = math.prod(shape[1:])
    return Normal(0.0, size**-0.5, is_exact=False) if size > 1 else Sample(np.array([-1, 1], np.float32))


def _check_rows(shape: Shape) -> None:
    if not 1 <= len(shape) <= 4:
        raise InputError(f"a gaussian_unitball filler needs a blob of 1 to 4 axes, found shape {shape}")


register(
    FillerType(
        "gaussian_unitball",
        _draw_gaussian_unitball,
        _gaussian_unitball_density,
        origin="happynear/caffe-windows, filler.hpp",
    )
)

# ---- diagonal ----


def _draw_diagonal(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    """diag_val, or 1, / kernel area in the kernel of each filter's own channel, 0 in the others."""
    filters, channels = _legacy(shape)[:2]
    return np.repeat(_diagonal(filler, shape), math.prod(shape) // (filters * channels)).reshape(shape)


def _diagonal(filler: Filler, shape: Shape) -> NDArray[np.float32]:
    """Return the value of each kernel [filters, channels], of equal elements."""
    filters, channels = _legacy(shape)[:2]
    values = np.zeros((filters, channels), np.float32)
    for own in range(min(filters, channels)):
        values[own, own] = np.float32(filler.own[own] if own < len(filler.own) else 1) / _area(shape)
    return values


def _diagonal_density(filler: Filler, shape: Shape) -> Density:
    """One value per kernel, all of whose elements are equal."""
    return Sample(_diagonal(filler, shape).ravel())


def _legacy(shape: Shape) -> Shape:
    if not 1 <= len(shape) <= 4:
        raise InputError(f"a diagonal filler needs a blob of 1 to 4 axes, found shape {shape}")
    return (*shape, *[1] * (4 - len(shape)))


def _area(shape: Shape) -> np.float32:
    return np.float32(math.prod(_legacy(shape)[2:]))


register(
    FillerType(
        "diagonal",
        _draw_diagonal,
        _diagonal_density,
        is_random=False,
        origin="lmb-freiburg/flownet2, filler.hpp",
        own_field="diag_val",
    )
)

# ---- identity ----


def _draw_identity(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    """1 in each filter's own channel, at the centre of the kernel; 0 elsewhere."""
    filters, channels, height, width = _square(shape)
    values = np.zeros((filters, channels, height, width), np.float32)
    own = np.arange(filters)
    values[own, own, height // 2, width // 2] = 1
    return values.reshape(shape)


def _identity_density(filler: Filler, shape: Shape) -> Density:
    filters = _square(shape)[0]
    return Sample(_draw_identity(Stream(0), filler, shape).reshape(filters, -1)[0])


def _square(shape: Shape) -> tuple[int, int, int, int]:
    filters, channels, height, width = _legacy(shape)
    if len(shape) < 2 or filters != channels:
        raise InputError(f"an identity filler needs as many filters as channels, found shape {shape}")
    return filters, channels, height, width


register(
    FillerType(
        "identity",
        _draw_identity,
        _identity_density,
        is_random=False,
        origin="torrvision/caffe-tvg, filler.hpp; of kernels of one element that of happynear/caffe-windows too",
    )
)

# ---- DCT ----


def _draw_dct(stream: Stream, filler: Filler, shape: Shape, side: int) -> NDArray[np.float32]:
    """Return the kernels of the orthonormal DCT-II of side x side values, along diagonals; 0 behind the last.

    The reference reads them from files that have ten decimals.
    """
    places = np.arange(side)
    rows = np.cos(np.pi * places[:, None] * (2 * places + 1) / (2 * side)) * np.sqrt(2 / side)
    rows[0] = np.sqrt(1 / side)
    pairs = [(k, s - k) for s in range(2 * side - 1) for k in range(min(s, side - 1), max(0, s - side + 1) - 1, -1)]
    kernels = np.concatenate([np.outer(rows[k], rows[j]).ravel() for k, j in pairs]).round(10)
    values = np.zeros(math.prod(shape), np.float32)
    values[: kernels.size] = kernels[: values.size]
    return values.reshape(shape)


def _dct_density(filler: Filler, shape: Shape, side: int) -> Density:
    return Sample(_draw_dct(Stream(0), filler, shape, side).ravel())


for _side in range(2, 9):
    register(
        FillerType(
            f"dct{_side}",
            partial(_draw_dct, side=_side),
            partial(_dct_density, side=_side),
            is_random=False,
            origin="GuanshuoXu/caffe_deep_learning_for_steganalysis, filler.hpp",
        )
    )

# ---- numbers of a file ----


def _why_no_file(filler: Filler) -> str:
    """Return why there are no numbers: the file is not available."""
    path = _path(filler)
    return "" if os.path.exists(path) else f"reads numbers from the text file {path!r}, which is not available"


def _path(filler: Filler) -> str:
    return str(filler.own[-1]) if filler.own else ""


def _draw_file(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    """Return the numbers of a text file; zeros without the file, for layers that show no values then."""
    return np.zeros(shape, np.float32) if _why_no_file(filler) else _numbers(filler, shape)


def _numbers(filler: Filler, shape: Shape) -> NDArray[np.float32]:
    """Return the numbers of the file, in order; the last one again where there are too few."""
    path = _path(filler)
    try:
        words = read_regular(path).split()
        numbers = [float(word) for word in words[: math.prod(shape)]]
    except OSError as error:
        raise InputError(f"a file filler cannot read {path!r}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"a file filler reads numbers, found other text in {path!r}") from error
    if not numbers:
        raise InputError(f"a file filler needs at least one number, found none in {path!r}")
    numbers += [numbers[-1]] * (math.prod(shape) - len(numbers))
    return np.array(numbers, np.float32).reshape(shape)


def _file_density(filler: Filler, shape: Shape) -> Density:
    return Sample(_numbers(filler, shape).ravel())


register(
    FillerType(
        "file",
        _draw_file,
        _file_density,
        is_random=False,
        origin="daerduoCarey/SpatialTransformerLayer, filler.hpp",
        own_field="file",
        reads_file=True,
        why_unknown=_why_no_file,
    )
)
