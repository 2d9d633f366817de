"""Orthogonal matrices: every output sums over its inputs by a row of a random orthonormal basis.

A. Saxe, J. McClelland, S. Ganguli, *Exact solutions to the nonlinear dynamics of learning in deep linear neural
networks*, 2014: W = g Q with QᵀQ = 1 keeps the norm of every signal and gradient exactly where the net is linear, for
any depth; g makes up for the nonlinearity, √2 for ReLU.
"""

from __future__ import annotations

import math

import numpy as np

__all__ = ["orthogonal"]


def orthogonal(shape: tuple[int, ...], random: np.random.Generator, gain: float = 1.0, groups: int = 1) -> np.ndarray:
    """Return weights [outputs, inputs…] whose rows, or columns where there are fewer, are orthonormal, times the gain.

    groups: blocks of outputs that read inputs of their own, each orthonormal by itself

    Q is uniform over all orthonormal matrices: the signs of R's diagonal are taken into it. (F. Mezzadri, 2007)
    """
    outputs, inputs = shape[0] // groups, math.prod(shape[1:])
    blocks = [_semi_orthogonal(outputs, inputs, random) for _ in range(groups)]
    return (gain * np.concatenate(blocks)).reshape(shape).astype(np.float32)


def _semi_orthogonal(rows: int, columns: int, random: np.random.Generator) -> np.ndarray:
    drawn = random.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(drawn)
    q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
    return np.asarray(q if rows >= columns else q.T)
