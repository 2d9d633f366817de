"""Checks that the tests of forks' layers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from caffestat.layers import Layer

from ..harness import run


def check_gradients(
    layer: Layer,
    forward: Callable[..., np.ndarray],
    arrays: Sequence[np.ndarray],
    wrt: Sequence[int],
    params: int = 0,
    rtol: float = 1e-4,
) -> None:
    """Compare a layer with `forward`, in float64, and its gradients with differences of it.

    arrays: bottoms, then as many params as `params` says; `forward` gets them all and returns the first top
    wrt:    the arrays whose gradients are compared
    """
    arrays = [np.asarray(array, np.float64) for array in arrays]
    cut = len(arrays) - params
    expected = forward(*arrays)
    random = np.random.default_rng(11)
    dy = random.normal(size=expected.shape)
    result = run(layer, arrays[:cut], arrays[cut:], [dy.astype(np.float32)])
    scale = abs(expected).max()
    np.testing.assert_allclose(result.tops[0], expected, rtol=rtol, atol=1e-5 * scale)
    found = [*result.bottoms, *result.params]
    for index in wrt:
        direction = random.normal(size=arrays[index].shape)
        moved = [
            forward(*(array + step * direction if i == index else array for i, array in enumerate(arrays)))
            for step in (1e-6, -1e-6)
        ]
        slope = ((moved[0] - moved[1]) * dy).sum() / 2e-6
        np.testing.assert_allclose((found[index] * direction).sum(), slope, rtol=1e-3, atol=1e-4 * scale)
