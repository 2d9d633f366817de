"""Activations that true boxes raise, against loops over places."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run

RANDOM = np.random.default_rng(41)
LAYER = 'name: "l" type: "AssistedExcitation" bottom: "x" bottom: "t" bottom: "m" top: "y"'
X, MEANS = RANDOM.normal(size=(2, 3, 5, 7)), RANDOM.normal(size=(2, 5, 7))


def truths() -> np.ndarray:
    """Make true boxes: two that overlap, a tiny one, one that leaves the image, and one behind the end."""
    labels = np.zeros((2, 1, 300, 5))
    labels[0, 0, :4] = [
        [1, 0.4, 0.52, 0.3, 0.33],
        [0, 0.5, 0.6, 0.3, 0.3],
        [2, 0.11, 0.15, 0.001, 0.001],
        [2, 0.98, 0.9, 0.2, 0.4],
    ]
    labels[0, 0, 5] = [1, 0.5, 0.5, 1, 1]
    labels[1, 0, 0] = [1, 0.5, 0.5, 0.5, 0.5]
    return labels


def test_the_boxes_of_the_first_image_are_raised() -> None:
    def covered(center: float, size: float, count: int) -> range:
        first = min(max(int((center - size / 2) * count), 0), count - 1)
        last = int((center + size / 2) * count + 0.95)
        return range(first, first + 1 if last < first + 1 else min(last, count))

    expected, inside = X.copy(), np.zeros((5, 7), bool)
    for _, x, y, w, h in truths()[0, 0, :4]:
        for i in covered(y, h, 5):
            for j in covered(x, w, 7):
                inside[i, j] = True
    expected[0] += np.where(inside, MEANS[0], 0)
    dy = RANDOM.normal(size=X.shape)
    found = run(make(LAYER), [X, truths(), MEANS], dys=[dy.astype(np.float32)])
    np.testing.assert_allclose(found.tops[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.bottoms[0], dy, rtol=1e-6)
    assert not found.bottoms[2].any()
    assert inside[0, 0]
    assert inside[4, 6]
    assert 8 < inside.sum() < 25


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(2, 3, 5, 7), (2, 1, 30, 5), (2, 5, 7)], r"true boxes of shape \(2, 1, 300, 5\)"),
        ([(2, 3, 5, 7), (2, 1, 300, 5), (2, 5, 6)], r"values to add of shape \(2, 5, 7\)"),
        ([(2, 105), (2, 1, 300, 5), (2, 5, 7)], r"expected a map \(N, C, H, W\)"),
    ],
)
def test_what_it_does_not_take(shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(LAYER).tops(shapes)
