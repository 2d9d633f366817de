"""What a fork adds to Caffe's messages.

Made from proto/forks/rcnn.proto by proto/generate.py (`make proto`); do not edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

from caffestat.schema import caffe_pb2

__all__ = [
    "LayerParameter",
    "SmoothL1LossParameter",
]

_FILE = bytes.fromhex(
    "0a10666f726b732f72636e6e2e70726f746f120a63616666652e72636e6e22540a0e4c61796572506172616d65746572"
    "12420a14736d6f6f74685f6c315f6c6f73735f706172616d18d8c7f8032001280b32212e63616666652e72636e6e2e53"
    "6d6f6f74684c314c6f7373506172616d6574657222290a15536d6f6f74684c314c6f7373506172616d6574657212100a"
    "057369676d611801200128023a0131"
)

_POOL = caffe_pb2._POOL
_POOL.AddSerializedFile(_FILE)


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


# The classes come into being at run time; to a type checker each is a class with any attributes.
# mypy: disallow-subclassing-any=False
if TYPE_CHECKING:

    class LayerParameter(Any): ...

    class SmoothL1LossParameter(Any): ...

else:
    LayerParameter = _class("caffe.rcnn.LayerParameter")
    SmoothL1LossParameter = _class("caffe.rcnn.SmoothL1LossParameter")
