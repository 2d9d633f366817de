"""What each ONNX op does to moments, one file per family. Importing this package registers them all."""

from . import (  # noqa: F401  registers their ops
    einsum,
    elementwise,
    inference,
    linear,
    loss,
    normalization,
    pooling,
    products,
    quantize,
    random,
    recurrent,
    reduce,
    shape,
    spectral,
    standardize,
)
