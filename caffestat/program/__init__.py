"""Programs: the one object behind Caffe nets and ONNX models; and the opening of files."""

from .dataflow import Dataflow, NamedStep
from .from_net import NetProgram, from_net
from .opening import NetFile, is_onnx, open_file
from .program import Forward, Inner, Key, Program, Row, RowParam

__all__ = [
    "Dataflow",
    "Forward",
    "Inner",
    "Key",
    "NamedStep",
    "NetFile",
    "NetProgram",
    "Program",
    "Row",
    "RowParam",
    "from_net",
    "is_onnx",
    "open_file",
]
