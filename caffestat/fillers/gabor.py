"""Gabor filters for the first layers of four nets. (intel/caffe, gabor.hpp)"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.fillers.densities import Density, Sample
from caffestat.fillers.fillers import Filler, FillerType, register
from caffestat.fillers.stream import Stream
from caffestat.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

Shape = tuple[int, ...]
PI = math.pi


@dataclass(frozen=True)
class _Wave:
    """height · exp(-(x² + y²) / 2 width²) · cos(frequency · u + phase), u the place along an angle; times red, …"""

    height: float = 1
    width: float = 0.6
    frequency: float = PI
    phase: float = 0
    angle: float = 0
    colours: tuple[float, float, float] = (1, 1, 1)

    def filter(self, size: int) -> NDArray[np.float64]:
        """Return the filter [3, size, size], of places from -1 to 1."""
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
        u = x * math.cos(self.angle) - y * math.sin(self.angle)
        envelope = np.exp(-(x * x + y * y) / (2 * self.width**2))
        values = self.height * envelope * np.cos(u * self.frequency + self.phase)
        return np.asarray(np.array(self.colours)[:, None, None] * values)


Family = Sequence[tuple[int, Callable[[int, float], _Wave]]]
"""Which wave a filter is by its number and the frequency of a whole turn, up to a number."""

_CIFAR: Family = (
    (8, lambda i, f: _Wave(0.5, frequency=f, angle=i % 8 * PI / 8)),
    (14, lambda i, f: _Wave(0.5, frequency=f / 2, angle=(i - 2) % 6 * PI / 6 + PI / 12)),
    (16, lambda i, f: _Wave(0.5, 0.75, f / 8, i % 2 * PI, colours=(1, -1, 1))),
    (20, lambda i, f: _Wave(0.5, 0.6, f / 4, PI / 2, i % 4 * PI / 2 + PI * 3 / 8)),
    (24, lambda i, f: _Wave(0.5, 0.6, f / 4, PI / 2, i % 4 * PI / 2 + PI * 3 / 8, (1, 0, -1))),
    (28, lambda i, f: _Wave(0.5, 0.6, f / 4, PI / 2, i % 4 * PI / 2 + PI * 3 / 8, (-1, 1, 1))),
    (30, lambda i, f: _Wave(0.5, 0.6, f / 4, PI / 2, i % 2 * PI / 2 + PI / 8, (-1, 1, -1))),
    (32, lambda i, f: _Wave(0.5, 0.6, f / 4, PI / 2, i % 2 * PI / 2 + PI * 3 / 8, (1, 1, 0))),
)


def _graded(i: int, f: float, height: float, width: float, turn: float) -> _Wave:
    """Return one of eight frequencies at one of several angles."""
    step = i % 8
    phase = i % 2 * PI + PI * 12 / 32
    return _Wave(height / (1 + step / 8), width + 0.2 * step / 8, f / (1 + step / 2), phase, i // 8 * turn)


_GOOGLENET: Family = (
    (32, lambda i, f: _graded(i, f, 1, 0.4, PI / 4)),
    (40, lambda i, f: _Wave(0.5, 0.45, f, PI, i % 8 * PI / 8)),
    (46, lambda i, f: _spot(1, (i - 1) // 3, (i - 1) % 3)),
    (48, lambda i, f: _Wave(2 / 3, 1, f / 12, PI / 2, i % 8 * PI + PI / 8, (1, 0.1, -0.5))),
    (56, lambda i, f: _Wave(2 / 3, 1, f / 12, PI / 2, i % 8 * PI / 4 + PI / 32, (-0.5, 0.1, 1))),
    (60, lambda i, f: _Wave(1, 1, f / 12, PI / 2, i % 8 * PI / 2 + PI / 8, (0.25, -1, 1))),
    (64, lambda i, f: _Wave(2 / 3, 1, f / 12, PI / 2, i % 8 * PI / 2 + PI / 8, (-1, -1, 1))),
)

_ALEXNET: Family = (
    (48, lambda i, f: _graded(i, f, 1 / 3, 0.5, PI / 6)),
    (56, lambda i, f: _spot(1 / 3, i // 4, i % 4)),
    (60, lambda i, f: _Wave(2 / 9, 0.75, f / 8, PI / 2, i % 4 * PI / 2 + PI / 8, (-1, 1, -0.5))),
    (64, lambda i, f: _Wave(1 / 9, 2, f / 8, PI / 2, i % 4 * PI / 2 + PI / 8, (1, -0.5, -0.75))),
    (72, lambda i, f: _Wave(2 / 9, 0.75, f / 4, PI / 2, i % 8 * PI / 4 + PI / 32, (1, 0.1, -0.75))),
    (80, lambda i, f: _Wave(2 / 9, 1, f / 12, PI / 2, i % 8 * PI / 4 + PI / 32, (-0.5, 0.1, 1))),
    (88, lambda i, f: _Wave(2 / 15, 1, f / 8, PI / 2, i % 8 * PI / 4 + PI / 32, (-1, -1, 1))),
    (92, lambda i, f: _Wave(1 / 3, 0.6, f / 16, PI / 2, i % 4 * PI / 2 + PI / 16)),
    (96, lambda i, f: _Wave(1 / 12, 0.75, f / 4, PI / 2, i % 8 * PI / 4 + PI / 32, (-1, -1, 1))),
)


def _spot(height: float, phase: int, size: int) -> _Wave:
    """Return a spot of one of several sizes."""
    return _Wave(height / (1 + size / 2), 1 / (2.5 - size / 2), PI / 4, phase * PI, colours=(0.25, -1, 1))


_FAMILIES = {(32, 5): _CIFAR, (64, 7): _GOOGLENET, (64, 3): _GOOGLENET, (96, 11): _ALEXNET}  # by filters and side


def _draw(stream: Stream, filler: Filler, shape: Shape) -> NDArray[np.float32]:
    """Return filters of CIFAR-10's, GoogLeNet's, VGG's or AlexNet's first layer; VGG's are GoogLeNet's of width 1."""
    count, channels, height, width = (*shape, 0, 0, 0, 0)[:4]
    family = _FAMILIES.get((count, width))
    if len(shape) != 4 or channels != 3 or height != width or family is None:
        known = ", ".join(f"{filters} of 3x{side}x{side}" for filters, side in _FAMILIES)
        raise InputError(f"a gabor filler makes filters of {known}, found shape {shape}")
    waves = [next(wave(i, PI * (width - 1) / 2) for end, wave in family if i < end) for i in range(count)]
    if width == 3:
        waves = [_Wave(w.height, 1, w.frequency, w.phase, w.angle, w.colours) for w in waves]
    return np.stack([wave.filter(width) for wave in waves]).astype(np.float32)


def _density(filler: Filler, shape: Shape) -> Density:
    return Sample(_draw(Stream(0), filler, shape).ravel())


register(FillerType("gabor", _draw, _density, is_random=False, origin="intel/caffe, filler.hpp and gabor.hpp"))
