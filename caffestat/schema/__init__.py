"""Caffe's messages, and their readers and writers."""

from __future__ import annotations

from caffestat.schema import caffe_pb2
from caffestat.schema.binary import read_binary
from caffestat.schema.caffe_pb2 import (
    BlobProto,
    BlobProtoVector,
    BlobShape,
    Datum,
    FillerParameter,
    LayerParameter,
    NetParameter,
    NetState,
    NetStateRule,
    ParamSpec,
    SolverParameter,
    SolverState,
    TransformationParameter,
    V0LayerParameter,
    V1LayerParameter,
)
from caffestat.schema.reader import (
    Addition,
    ForkValue,
    UnknownField,
    UnknownValue,
    from_document,
    from_message,
    read_addition,
)
from caffestat.schema.writer import to_text

__all__ = [
    "Addition",
    "BlobProto",
    "BlobProtoVector",
    "BlobShape",
    "Datum",
    "FillerParameter",
    "ForkValue",
    "LayerParameter",
    "NetParameter",
    "NetState",
    "NetStateRule",
    "ParamSpec",
    "SolverParameter",
    "SolverState",
    "TransformationParameter",
    "UnknownField",
    "UnknownValue",
    "V0LayerParameter",
    "V1LayerParameter",
    "caffe_pb2",
    "from_document",
    "from_message",
    "read_addition",
    "read_binary",
    "to_text",
]
