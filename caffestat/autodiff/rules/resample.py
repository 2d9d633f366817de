"""Resize: linear along each axis, so its gradient is a product with each axis' transposed matrix."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, constant_of, cubic_convolution, interpolate_transposed, only

Coordinates = Callable[[np.ndarray, float, int, int], np.ndarray]

# (output positions, scale, input size, output size) -> positions in the input
_COORDINATES: dict[str, Coordinates] = {
    "half_pixel": lambda i, scale, n, m: (i + 0.5) / scale - 0.5,
    "half_pixel_symmetric": lambda i, scale, n, m: n / 2 * (1 - m / (scale * n)) + (i + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda i, scale, n, m: (i + 0.5) / scale - 0.5 if m > 1 else 0 * i,
    "asymmetric": lambda i, scale, n, m: i / scale,
    "align_corners": lambda i, scale, n, m: i * (n - 1) / (m - 1) if m > 1 else 0 * i,
}

_ROUND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@vjp("Resize")
def resize(t: Tape, node: Node, dy: str) -> Grads:
    """Nearest, linear and cubic; antialiased and cropping resizes have no rule."""
    x, y = node.inputs[0], node.outputs[0]
    shape, dtype = list(t.shape(y)), t.specs[x].dtype
    scales = _scales(t, node)
    for axis, (size, scale) in enumerate(zip(t.shape(x), scales, strict=True)):
        if size == shape[axis] and scale == 1:
            continue
        positions, weights = _taps(node, size, shape[axis], scale)
        dy = interpolate_transposed(t, dy, shape, positions, weights.astype(dtype), axis, size)
        shape[axis] = size
    return only(node, dy)


def _text(node: Node, attribute: str, default: str) -> str:
    value = node.get(attribute, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _refuse(node: Node, what: str) -> GradientError:
    return GradientError(f"Resize (value {node.outputs[0]}): {what} has no gradient rule")


def _scales(t: Tape, node: Node) -> list[float]:
    """Return the scale of every axis."""
    shape, result = t.shape(node.inputs[0]), t.shape(node.outputs[0])
    ratios = [m / n for n, m in zip(shape, result, strict=True)]
    given = constant_of(t, node, 2)
    if not given.size:
        if _text(node, "keep_aspect_ratio_policy", "stretch") != "stretch":
            raise _refuse(node, "keep_aspect_ratio_policy")
        return ratios
    axes = node.get("axes") or range(len(shape))
    for axis, scale in zip(axes, given, strict=True):
        ratios[axis] = float(scale)
    return ratios


Taps = tuple[np.ndarray, np.ndarray]


def _taps(node: Node, n: int, m: int, scale: float) -> Taps:
    """Return which of n elements each of m new ones is made of, and their weights: both [m, taps]."""
    mode, coordinates = _text(node, "mode", "nearest"), _text(node, "coordinate_transformation_mode", "half_pixel")
    if node.get("antialias", 0):
        raise _refuse(node, "antialias")
    if coordinates not in _COORDINATES:
        raise _refuse(node, f"coordinate_transformation_mode {coordinates}")
    # positions are rounded in float32, as in the runtime, where they decide which element is the nearest
    x = _COORDINATES[coordinates](np.arange(m, dtype=np.float32 if mode == "nearest" else np.float64), scale, n, m)
    if mode == "nearest":
        picked = _ROUND[_text(node, "nearest_mode", "round_prefer_floor")](x)
        return np.clip(picked, 0, n - 1).astype(int)[:, None], np.ones((m, 1))
    if mode == "cubic":
        return _cubic(x, n, node.get("cubic_coeff_a", -0.75), bool(node.get("exclude_outside", 0)))
    x = np.clip(x, 0, n - 1)
    low = np.floor(x).astype(int)
    weight = x - low
    return np.stack([low, np.minimum(low + 1, n - 1)], 1), np.stack([1 - weight, weight], 1)


def _cubic(x: np.ndarray, n: int, a: float, excludes_outside: bool) -> Taps:
    """Return the taps of a cubic convolution at m positions: the two elements on either side.

    Outside the axis lie copies of its ends; or they are left out, and the other weights grow to a sum of 1.
    """
    taps = np.floor(x)[:, None] + np.arange(-1, 3)
    d = abs(x[:, None] - taps)
    near, far = cubic_convolution(a)
    weights = np.where(d <= 1, np.polyval(near, d), np.polyval(far, d))
    if excludes_outside:
        weights = np.where((taps >= 0) & (taps < n), weights, 0)
        weights /= weights.sum(1, keepdims=True)
    return np.clip(taps, 0, n - 1).astype(int), weights
