"""The gradient rules, one module per family of ops. Importing this package registers them all."""

from . import (
    activations,
    conv,
    einsum,
    elementwise,
    free,
    gather,
    layernorm,
    matmul,
    normalization,
    pool,
    recurrent,
    reduce,
    resample,
    shape,
    softmax,
)

__all__ = [
    "activations",
    "conv",
    "einsum",
    "elementwise",
    "free",
    "gather",
    "layernorm",
    "matmul",
    "normalization",
    "pool",
    "recurrent",
    "reduce",
    "resample",
    "shape",
    "softmax",
]
