"""Resize: linear along each axis, so its gradient is a product with each axis' transposed matrix."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from caffestat.errors import GradientError
from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, constant_of, cubic_convolution, interpolate_transposed, only

Coordinates = Callable[[np.ndarray, "_Axis"], np.ndarray]


@dataclass(frozen=True)
class _Axis:
    """An axis of n elements that becomes one of m; `begin` and `end` of the region of interest, as shares of it."""

    n: int
    m: int
    scale: float
    begin: np.float32
    end: np.float32

    @property
    def stays(self) -> bool:
        """Whether it keeps its elements."""
        return self.n == self.m and self.scale == 1


# (output positions, axis) -> positions in the input
_COORDINATES: dict[str, Coordinates] = {
    "half_pixel": lambda i, a: (i + 0.5) / a.scale - 0.5,
    "half_pixel_symmetric": lambda i, a: a.n / 2 * (1 - a.m / (a.scale * a.n)) + (i + 0.5) / a.scale - 0.5,
    "pytorch_half_pixel": lambda i, a: (i + 0.5) / a.scale - 0.5 if a.m > 1 else 0 * i,
    "asymmetric": lambda i, a: i / a.scale,
    "align_corners": lambda i, a: i * (a.n - 1) / (a.m - 1) if a.m > 1 else 0 * i,
    "tf_half_pixel_for_nn": lambda i, a: (i + 0.5) / a.scale,
    "tf_crop_and_resize": lambda i, a: (
        a.begin * (a.n - 1) + i * (a.end - a.begin) * (a.n - 1) / (a.m - 1)
        if a.m > 1
        else 0 * i + (a.begin + a.end) / 2 * (a.n - 1)
    ),
}
_CROPPING = "tf_crop_and_resize"

_ROUND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


@vjp("Resize")
def resize(t: Tape, node: Node, dy: str) -> Grads:
    x, y = node.inputs[0], node.outputs[0]
    shape, dtype = list(t.shape(y)), t.specs[x].dtype
    if 0 in t.shape(x):  # nothing to return
        return only(node)
    for index, axis in enumerate(_axes(t, node)):
        if axis.stays:
            continue
        positions, weights = _taps(node, axis)
        dy = interpolate_transposed(t, dy, shape, positions, weights.astype(dtype), index, axis.n)
        shape[index] = axis.n
    return only(node, dy)


def _text(node: Node, attribute: str, default: str) -> str:
    value = node.get(attribute, default)
    return value.decode() if isinstance(value, bytes) else str(value)


def _axes(t: Tape, node: Node) -> list[_Axis]:
    """Return what happens to every axis."""
    shape, result = t.shape(node.inputs[0]), t.shape(node.outputs[0])
    chosen = [axis % len(shape) for axis in node.get("axes") or range(len(shape))]
    begins, ends = np.zeros(len(shape), np.float32), np.ones(len(shape), np.float32)
    if _coordinates(node) == _CROPPING:
        region = constant_of(t, node, 1).astype(np.float32)
        if region.size != 2 * len(chosen):
            what = f"its region of interest has {region.size} numbers, expected {2 * len(chosen)}"
            raise GradientError(f"Resize (value {node.outputs[0]}): {what}")
        begins[chosen], ends[chosen] = region.reshape(2, -1)
    scales = np.divide(result, shape)
    scales[chosen] = _scales(t, node, scales[chosen], [shape[axis] for axis in chosen])
    return [_Axis(*axis) for axis in zip(shape, result, scales.tolist(), begins, ends, strict=True)]


def _scales(t: Tape, node: Node, ratios: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Return the scales of the axes that a node names, whose sizes grow by the given ratios."""
    given = constant_of(t, node, 2)
    if given.size:
        return given
    policy = _POLICIES.get(_text(node, "keep_aspect_ratio_policy", "stretch"))
    return ratios if policy is None else policy(constant_of(t, node, 3) / sizes)


_POLICIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {"not_larger": np.min, "not_smaller": np.max}

Taps = tuple[np.ndarray, np.ndarray]


def _coordinates(node: Node) -> str:
    return _text(node, "coordinate_transformation_mode", "half_pixel")


def _taps(node: Node, axis: _Axis) -> Taps:
    """Return which of n elements each of m new ones is made of, and their weights: both [m, taps]."""
    mode, coordinates = _text(node, "mode", "nearest"), _coordinates(node)
    if coordinates not in _COORDINATES:
        what = f"coordinate_transformation_mode {coordinates}"
        raise GradientError(f"Resize (value {node.outputs[0]}): {what} has no gradient rule")
    # positions are rounded in float32, as in the runtime, where they decide which element is the nearest, or outside
    is_rounded = mode == "nearest" or coordinates == _CROPPING
    x = _COORDINATES[coordinates](np.arange(axis.m, dtype=np.float32 if is_rounded else np.float64), axis)
    taps, weights = _interpolated(node, mode, x, axis)
    if coordinates == _CROPPING:  # what lies outside is a constant
        weights = np.where((x >= 0) & (x <= axis.n - 1), weights.T, 0).T
    return np.clip(taps, 0, axis.n - 1).astype(int), weights


def _interpolated(node: Node, mode: str, x: np.ndarray, axis: _Axis) -> Taps:
    """Return taps, some of which may lie outside of the axis, and their weights at positions x."""
    if mode == "nearest":
        return _ROUND[_text(node, "nearest_mode", "round_prefer_floor")](x)[:, None], np.ones((axis.m, 1))
    is_antialiased = bool(node.get("antialias", 0))
    if is_antialiased and axis.n == axis.m:  # the runtime then copies
        return np.arange(axis.m)[:, None], np.ones((axis.m, 1))
    width = max(1 / axis.scale, 1) if is_antialiased else 1
    if mode == "cubic":
        near, far = cubic_convolution(node.get("cubic_coeff_a", -0.75))
        reach, curve = 2, lambda d: np.where(d <= 1, np.polyval(near, d), np.where(d < 2, np.polyval(far, d), 0))
    else:
        x = x if is_antialiased else np.clip(x, 0, axis.n - 1)
        reach, curve = 1, lambda d: np.maximum(1 - d, 0)
    return _filtered(x, axis.n, reach * width, lambda d: curve(d / width), bool(node.get("exclude_outside", 0)))


def _filtered(
    x: np.ndarray, n: int, reach: float, curve: Callable[[np.ndarray], np.ndarray], excludes_outside: bool
) -> Taps:
    """Return the taps within reach of each position, and their weights by their distance: a sum of 1.

    Outside the axis lie copies of its ends; or they are left out.
    """
    taps = np.floor(x)[:, None] + np.arange(-np.ceil(reach), np.ceil(reach) + 1)
    weights = curve(abs(x[:, None] - taps))
    if excludes_outside:
        weights = np.where((taps >= 0) & (taps < n), weights, 0)
    total = weights.sum(1, keepdims=True)
    return taps, weights / np.where(total == 0, 1, total)
