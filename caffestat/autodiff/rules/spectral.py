"""Fourier transforms. A complex number is two reals on the last axis; the transpose of a DFT is the inverse's sum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, constant_of, input_of, only


@vjp("DFT")
def dft(t: Tape, node: Node, dy: str) -> Grads:
    """X = Σ x·e^(-iθ): dx = Σ dX·e^(iθ), N times the inverse, and the other way round; of a real x its real part.

    Outputs that a one-sided transform leaves out have no gradient; dx is cut or padded as x was.
    """
    x, inverse = node.inputs[0], node.get("inverse", 0)
    shape, dtype = t.shape(x), t.specs[x].dtype
    axis = int(constant_of(t, node, 2, default=-2).item()) % len(shape)
    if inverse and node.get("onesided", 0):
        return only(node, _of_half(t, dy, shape, axis, t.shape(node.outputs[0])[axis], dtype))
    length = int(constant_of(t, node, 1, default=shape[axis]).item())
    whole = [*shape[:-1], 2]
    whole[axis] = length
    grad = _fit(t, dy, t.shape(node.outputs[0]), axis, length, dtype)
    grad = t.emit("DFT", grad, "", t.constant(axis, np.int64), inverse=1 - inverse)
    t.declare(grad, tuple(whole), dtype)
    scaled = t.emit("Mul", grad, t.scalar(1 / length if inverse else length, like=x))
    fitted = _fit(t, scaled, whole, axis, shape[axis], dtype)
    return only(node, _fit(t, fitted, [*shape[:-1], 2], len(shape) - 1, shape[-1], dtype))


def _of_half(t: Tape, dy: str, shape: Sequence[int], axis: int, length: int, dtype: Any) -> str:
    """Return the gradient of the half of a spectrum that a real signal of a length is made of.

    The other half is its conjugate: all numbers count twice but the first and, of an even length, the last.
    """
    half = length // 2 + 1
    counts = np.array([1 if 2 * i in (0, length) else 2 for i in range(half)])
    column = [-1 if i == axis else 1 for i in range(len(shape))]
    spectrum = t.emit("DFT", dy, "", t.constant(axis, np.int64), onesided=1)
    scaled = t.emit("Mul", spectrum, t.constant(counts.reshape(column) / length, dtype))
    return _fit(t, scaled, [half if i == axis else size for i, size in enumerate(shape)], axis, shape[axis], dtype)


def _fit(t: Tape, value: str, shape: Sequence[int], axis: int, size: int, dtype: Any) -> str:
    """Cut an axis of a value to a size, or pad it with zeros."""
    if shape[axis] == size:
        return value
    pads = [0] * (2 * len(shape))
    pads[len(shape) + axis] = size - shape[axis]
    fitted = [size if i == axis else length for i, length in enumerate(shape)]
    return t.declare(t.emit("Pad", value, t.ints(*pads)), tuple(fitted), dtype)


@vjp("STFT")
def stft(t: Tape, node: Node, dy: str) -> Grads:
    """By its definition: gathered frames, times the window, transformed."""
    return t.through(node, dy, lambda: [_transformed_frames(t, node)])


def _transformed_frames(t: Tape, node: Node) -> str:
    signal, window = node.inputs[0], input_of(node, 2)
    shape = t.shape(signal)
    step = int(constant_of(t, node, 1).item())
    length = int(constant_of(t, node, 3, default=t.shape(window)[0] if window else 0).item())
    if window and t.shape(window) != (length,):
        raise GradientError(f"STFT (value {node.outputs[0]}): the window is not as long as a frame: no gradient rule")
    starts = np.arange(0, shape[1] - length + 1, step)
    parts = shape[2] if len(shape) == 3 else 1
    column = signal if len(shape) == 3 else t.reshape(signal, *shape, 1)
    frames = t.emit("Gather", column, t.constant(starts[:, None] + np.arange(length), np.int64), axis=1)
    t.declare(frames, (shape[0], len(starts), length, parts), t.specs[signal].dtype)
    if window:
        frames = t.emit("Mul", frames, t.reshape(window, length, 1))
        t.declare(frames, (shape[0], len(starts), length, parts), t.specs[signal].dtype)
    return t.emit("DFT", frames, "", t.constant(2, np.int64), onesided=node.get("onesided", 1))
