"""What a fork adds to Caffe's messages.

Made from proto/forks/lowbits.proto by proto/generate.py (`make proto`); do not edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

from caffestat.schema import caffe_pb2

__all__ = [
    "ConvolutionParameter",
    "InnerProductParameter",
    "LayerParameter",
    "LowPrecisionLayerParameter",
    "LowPrecisionParameter",
]

_FILE = bytes.fromhex(
    "0a13666f726b732f6c6f77626974732e70726f746f120d63616666652e6c6f77626974732293010a0e4c617965725061"
    "72616d65746572123e0a11636f6e766f6c7574696f6e5f706172616d186a2001280b32232e63616666652e6c6f776269"
    "74732e436f6e766f6c7574696f6e506172616d6574657212410a13696e6e65725f70726f647563745f706172616d1875"
    "2001280b32242e63616666652e6c6f77626974732e496e6e657250726f64756374506172616d65746572223d0a14436f"
    "6e766f6c7574696f6e506172616d6574657212110a0273711813200128083a0566616c736512120a05726174696f1814"
    "200128023a03313030223e0a15496e6e657250726f64756374506172616d6574657212110a0273711807200128083a05"
    "66616c736512120a05726174696f1808200128023a0331303022570a1a4c6f77507265636973696f6e4c617965725061"
    "72616d6574657212390a0a6c7066705f706172616d1893012001280b32242e63616666652e6c6f77626974732e4c6f77"
    "507265636973696f6e506172616d6574657222dc010a154c6f77507265636973696f6e506172616d65746572120a0a02"
    "626418012001280d120a0a02616418022001280d12190a0a726f756e645f626961731803200128083a0566616c736512"
    "5b0a0f726f756e64696e675f736368656d6518042001280e32332e63616666652e6c6f77626974732e4c6f7750726563"
    "6973696f6e506172616d657465722e526f756e64696e67536368656d653a0d44455445524d494e495354494322330a0e"
    "526f756e64696e67536368656d6512110a0d44455445524d494e49535449431000120e0a0a53544f4348415354494310"
    "01"
)

_POOL = caffe_pb2._POOL
_POOL.AddSerializedFile(_FILE)


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


# The classes come into being at run time; to a type checker each is a class with any attributes.
# mypy: disallow-subclassing-any=False
if TYPE_CHECKING:

    class ConvolutionParameter(Any): ...

    class InnerProductParameter(Any): ...

    class LayerParameter(Any): ...

    class LowPrecisionLayerParameter(Any): ...

    class LowPrecisionParameter(Any): ...

else:
    ConvolutionParameter = _class("caffe.lowbits.ConvolutionParameter")
    InnerProductParameter = _class("caffe.lowbits.InnerProductParameter")
    LayerParameter = _class("caffe.lowbits.LayerParameter")
    LowPrecisionLayerParameter = _class("caffe.lowbits.LowPrecisionLayerParameter")
    LowPrecisionParameter = _class("caffe.lowbits.LowPrecisionParameter")
