"""Opening of files: path and options in, net, seed and state out."""

from .opening import NetFile, is_onnx, open_file

__all__ = ["NetFile", "is_onnx", "open_file"]
