"""What a fork adds to Caffe's messages.

Made from proto/forks/octree.proto by proto/generate.py (`make proto`); do not edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

from caffestat.schema import caffe_pb2

__all__ = [
    "LayerParameter",
    "OctreeParameter",
]

_FILE = bytes.fromhex(
    "0a12666f726b732f6f63747265652e70726f746f120c63616666652e6f637472656522460a0e4c61796572506172616d"
    "6574657212340a0c6f63747265655f706172616d1893012001280b321d2e63616666652e6f63747265652e4f63747265"
    "65506172616d6574657222a2020a0f4f6374726565506172616d6574657212120a0a637572725f646570746818012001"
    "280d121a0a0b66756c6c5f6f63747265651802200128083a0566616c736512150a0a62617463685f73697a6518032001"
    "280d3a0131121a0a0b69735f61646170746976651804200128083a0566616c736512160a086175746f5f706164180520"
    "0128083a0474727565120c0a046d61736b18062003280512140a0c636f6e74656e745f666c616718082001280912150a"
    "0d64726f706f75745f646570746818092003280d12150a0d64726f706f75745f726174696f180a2003280212120a0a74"
    "696c655f6465707468180b2001280d12190a0e7369676e616c5f6368616e6e656c180c2001280d3a013312130a0b6164"
    "6170745f6465707468180d2001280d"
)

_POOL = caffe_pb2._POOL
_POOL.AddSerializedFile(_FILE)


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


# The classes come into being at run time; to a type checker each is a class with any attributes.
# mypy: disallow-subclassing-any=False
if TYPE_CHECKING:

    class LayerParameter(Any): ...

    class OctreeParameter(Any): ...

else:
    LayerParameter = _class("caffe.octree.LayerParameter")
    OctreeParameter = _class("caffe.octree.OctreeParameter")
