"""GridSample and DequantizeLinear, whose gradients go by way of other ops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from .check import check_grads

try:
    import torch
    from torch.nn import functional as F
except ImportError:
    torch = None

RNG = np.random.default_rng(4)
SIZE = (4, 5)


def points(corners: bool) -> np.ndarray:
    """A grid [2, 3, 4, 2] of points in and around an image of 4 x 5, away from where a sample has a kink."""
    cells = np.stack([RNG.integers(-2, n + 1, (2, 3, 4)) for n in reversed(SIZE)], axis=-1)
    parts = RNG.choice([0.15, 0.3, 0.7, 0.8], cells.shape)
    size = np.array(SIZE[::-1])
    return np.asarray((cells + parts) * 2 / (size - 1) - 1 if corners else ((cells + parts) * 2 + 1) / size - 1)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_grid_sample(mode: str, padding: str, corners: bool) -> None:
    def in_torch(x: Any, grid: Any) -> Any:
        name = mode if mode == "nearest" else f"bi{mode}"
        return F.grid_sample(x, grid, mode=name, padding_mode=padding, align_corners=corners)

    x = RNG.normal(size=(2, 3, *SIZE))
    attributes = {"mode": mode, "padding_mode": padding, "align_corners": int(corners)}
    check_grads("GridSample", x, points(corners), torch=in_torch if torch else None, single=1e-4, **attributes)


@pytest.mark.parametrize("corners", [False, True])
@pytest.mark.parametrize("size", [(2, 3, 4, 5), (2, 3, 1, 4), (2, 2, 3, 4, 2)])
def test_affine_grid(size: tuple[int, ...], corners: bool) -> None:
    axes = len(size) - 2
    theta = RNG.normal(size=(2, axes, axes + 1))
    in_torch = None if torch is None or 1 in size else lambda x: F.affine_grid(x, size, align_corners=corners)
    check_grads("AffineGrid", theta, np.array(size), torch=in_torch, align_corners=int(corners))


@pytest.mark.parametrize(("axis", "count"), [(1, 4), (-1, 5), (0, 0)])
def test_dequantize_linear(axis: int, count: int) -> None:
    """One scale per element of an axis, or one for all (a count of 0)."""
    x = RNG.integers(-9, 9, (3, 4, 5)).astype(np.int8)
    shape = (count,) if count else ()
    zero = RNG.integers(-3, 3, shape).astype(np.int8)
    check_grads("DequantizeLinear", x, RNG.uniform(0.1, 2, shape), zero, axis=axis)
