"""How a kernel slides over an image: the arithmetic that convolution and pooling share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import product
from math import prod
from typing import Any

from caffestat.lazy import np

__all__ = ["Window", "window"]

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Window:
    """A sliding kernel; every field has one number per spatial axis.

    size       the image the kernel slides over
    out        how many places it stops at
    begins     padding before the image
    """

    size: Ints
    out: Ints
    kernel: Ints
    strides: Ints
    dilations: Ints
    begins: Ints

    @property
    def spans(self) -> Ints:
        """Input elements from a kernel's first tap to its last, both included."""
        return tuple(d * (k - 1) + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def needed(self) -> Ints:
        """Elements from the first tap of the first place to the last tap of the last place."""
        return tuple((o - 1) * s + span for o, s, span in zip(self.out, self.strides, self.spans, strict=True))

    @property
    def tails(self) -> Ints:
        """Padding after the image so that the last place just fits; negative where the last elements are never read."""
        return tuple(n - b - size for n, b, size in zip(self.needed, self.begins, self.size, strict=True))

    @property
    def ends(self) -> Ints:
        """Padding after the image, at least zero."""
        return tuple(max(tail, 0) for tail in self.tails)

    @property
    def unread(self) -> Ints:
        """Elements at the end that no place reads."""
        return tuple(max(-tail, 0) for tail in self.tails)

    @property
    def padded(self) -> Ints:
        """The image with both paddings."""
        return tuple(b + size + e for b, size, e in zip(self.begins, self.size, self.ends, strict=True))

    @property
    def places(self) -> int:
        """How many places there are in all."""
        return prod(self.out)

    @property
    def taps(self) -> int:
        """How many elements the kernel has."""
        return prod(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """Whether every place reads the one element at its position."""
        return self.taps == 1 and self.size == self.out and not any(self.begins)

    @property
    def tiles(self) -> bool:
        """Whether the places cover the image exactly, without overlap."""
        covers = all(o * s == size for o, s, size in zip(self.out, self.strides, self.size, strict=True))
        return covers and self.kernel == self.strides and set(self.dilations) == {1} and not any(self.begins)

    def moves(self) -> tuple[tuple[Fraction, Fraction], ...] | None:
        """Return where the places of an image of two axes go: to factor · place + shift of the window's places."""
        axes = zip(self.strides, self.spans, self.begins, strict=True)
        found = tuple((Fraction(1, s), -(Fraction(span - 1, 2) - begin) / s) for s, span, begin in axes)
        return found if len(found) == 2 else None

    def taps_along(self, axis: int) -> np.ndarray:
        """Return the positions in the image that each place's taps have along an axis: [out, kernel]."""
        corners = np.arange(self.out[axis]) * self.strides[axis] - self.begins[axis]
        return np.asarray(corners[:, None] + np.arange(self.kernel[axis]) * self.dilations[axis])

    def taps_below(self, axis: int, limit: int) -> np.ndarray:
        """Return how many of each place's taps lie below a position of the image along an axis: [out]."""
        corners = np.arange(self.out[axis]) * self.strides[axis] - self.begins[axis]
        return np.clip(-((corners - limit) // self.dilations[axis]), 0, self.kernel[axis])

    def offsets(self) -> list[Ints]:
        """Return the offset of each tap of the first place in the padded image, in scan order."""
        return list(product(*(range(0, span, d) for span, d in zip(self.spans, self.dilations, strict=True))))

    def indices(self) -> np.ndarray:
        """Return the flat index into the padded image of each tap of each place: [places, taps]."""
        flat = np.arange(prod(self.padded)).reshape(self.padded)
        corners = flat[tuple(slice(0, (o - 1) * s + 1, s) for o, s in zip(self.out, self.strides, strict=True))]
        taps = [flat[offset] for offset in self.offsets()]
        return corners.reshape(-1, 1) + np.array(taps, np.int64)


def _pads_before(attributes: Mapping[str, Any], totals: Sequence[int]) -> Ints:
    """Split padding in two; the odd element goes to the back for SAME_UPPER only."""
    lower = attributes.get("auto_pad", "NOTSET") != "SAME_UPPER"
    return tuple((max(total, 0) + lower) // 2 for total in totals)


def _is_explicit(attributes: Mapping[str, Any]) -> bool:
    return attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and "output_shape" not in attributes


def window(attributes: Mapping[str, Any], size: Sequence[int], out: Sequence[int], kernel: Sequence[int]) -> Window:
    """Return the window of a convolution or pooling node from an image of `size` to one of `out`.

    A ConvTranspose node walks the other way: `size` is the spatial shape of its output, `out` that of its input.
    Padding that `auto_pad` or `output_shape` leave to the runtime is worked out. (ONNX operators: Conv, ConvTranspose)
    """
    rank = len(size)
    strides = tuple(attributes.get("strides", [1] * rank))
    dilations = tuple(attributes.get("dilations", [1] * rank))
    begins = tuple(attributes.get("pads", [0] * rank)[:rank])
    result = Window(tuple(size), tuple(out), tuple(kernel), strides, dilations, begins)
    if _is_explicit(attributes):
        return result
    extra = attributes.get("output_padding", [0] * rank)
    totals = [n + e - s for n, e, s in zip(result.needed, extra, result.size, strict=True)]
    return replace(result, begins=_pads_before(attributes, totals))
