"""What each ONNX op does to moments, one file per family. Importing this package registers them all."""

from . import elementwise, linear, loss, normalization, pooling, reduce, shape  # noqa: F401  registers their ops
