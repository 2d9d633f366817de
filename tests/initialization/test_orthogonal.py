"""Orthonormality by property, and the signal that it keeps."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.initialization import orthogonal


@pytest.mark.parametrize("shape", [(7, 3, 2, 1), (4, 3, 5, 2), (6, 6)])
def test_rows_or_columns_are_orthonormal(shape: tuple[int, ...]) -> None:
    w = orthogonal(shape, np.random.default_rng(1), 1.5).reshape(shape[0], -1).astype(np.float64)
    gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
    assert gram == pytest.approx(1.5**2 * np.eye(len(gram)), abs=1e-5)
    assert orthogonal(shape, np.random.default_rng(1)).dtype == np.float32


def test_groups_are_orthonormal_by_themselves() -> None:
    w = orthogonal((6, 4, 1, 3), np.random.default_rng(2), groups=3).reshape(3, 2, 12)
    for block in w:
        assert block @ block.T == pytest.approx(np.eye(2), abs=1e-5)


def test_a_deep_linear_net_keeps_every_norm() -> None:
    """Saxe et al.: dynamical isometry for any depth, which Gaussian weights of the same size lack."""
    random = np.random.default_rng(3)
    x = random.standard_normal((20, 16))
    y, z = x, x
    for _ in range(100):
        y = y @ orthogonal((16, 16), random).T
        z = z @ (random.standard_normal((16, 16)) / 4)
    ratio = np.linalg.norm(y, axis=1) / np.linalg.norm(x, axis=1)
    assert ratio == pytest.approx(np.ones(20), rel=1e-4)
    spread = np.linalg.norm(z, axis=1) / np.linalg.norm(x, axis=1)
    assert spread.std() / spread.mean() > 0.2


def test_draws_differ_and_are_repeatable() -> None:
    one, same, other = (orthogonal((5, 5), np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.allclose(one, other)


def test_the_distribution_is_uniform_over_rotations() -> None:
    """Without the signs of R every diagonal would be of one sign."""
    diagonals = [orthogonal((2, 2), np.random.default_rng(seed))[0, 0] for seed in range(400)]
    assert abs(np.mean(diagonals)) < 0.1
