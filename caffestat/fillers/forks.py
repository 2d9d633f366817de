"""Fillers that forks of Caffe add."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from caffestat.errors import InputError
from caffestat.fillers.densities import Density, Normal, Sample
from caffestat.fillers.fillers import Filler, FillerType, register
from caffestat.fillers.gaussian import gaussian
from caffestat.fillers.stream import Stream

Shape = tuple[int, ...]

# ---- gaussian_unitball ----


def _draw_gaussian_unitball(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    """Rows over axis 0 of N(0, 1) values, each divided by its Euclidean norm."""
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
    """1 / kernel area in the kernel of each filter's own channel, 0 in the others; its diag_val is not read."""
    values = np.zeros(shape, np.float32)
    own = np.arange(min(_legacy(shape)[:2]))
    values.reshape(*_legacy(shape)[:2], -1)[own, own] = _share(shape)
    return values


def _diagonal_density(filler: Filler, shape: Shape) -> Density:
    """One value per kernel, all of whose elements are equal."""
    filters, channels = _legacy(shape)[:2]
    return Sample(np.eye(filters, channels, dtype=np.float32).ravel() * _share(shape))


def _legacy(shape: Shape) -> Shape:
    if not 1 <= len(shape) <= 4:
        raise InputError(f"a diagonal filler needs a blob of 1 to 4 axes, found shape {shape}")
    return (*shape, *[1] * (4 - len(shape)))


def _share(shape: Shape) -> np.float32:
    return np.float32(1) / np.float32(math.prod(_legacy(shape)[2:]))


register(
    FillerType(
        "diagonal", _draw_diagonal, _diagonal_density, is_random=False, origin="lmb-freiburg/flownet2, filler.hpp"
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

# ---- values in files ----


def _no_values(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    return np.zeros(shape, np.float32)


def _register_unknown(name: str, what: str, origin: str) -> None:
    """Register a type whose values nobody here knows; layers that it fills show none."""

    def density(filler: Filler, shape: Shape) -> Density:
        raise InputError(f"a filler of type {name} {what}")

    register(FillerType(name, _no_values, density, is_random=False, origin=origin, why_unknown=what))


_register_unknown("file", "copies numbers from a text file", "daerduoCarey/SpatialTransformerLayer, filler.hpp")
for _number in range(2, 9):
    _register_unknown(
        f"dct{_number}",
        "copies the kernels of a transform from a text file of its authors",
        "GuanshuoXu/caffe_deep_learning_for_steganalysis, filler.hpp",
    )
_register_unknown("gabor", "makes filters by a table that is not reproduced", "intel/caffe, filler.hpp and gabor.hpp")
