"""What a fork adds to Caffe's messages.

Made from proto/forks/seqface.proto by proto/generate.py (`make proto`); do not edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

from caffestat.schema import caffe_pb2

__all__ = [
    "DSALossParameter",
    "LayerParameter",
    "LiftedStructSimilaritySoftmaxLossParameter",
]

_FILE = bytes.fromhex(
    "0a13666f726b732f736571666163652e70726f746f120d63616666652e736571666163651a0b63616666652e70726f74"
    "6f22b4010a0e4c61796572506172616d6574657212680a246c69667465645f7374727563745f73696d5f736f66746d61"
    "785f6c6f73735f706172616d1893012001280b32392e63616666652e736571666163652e4c6966746564537472756374"
    "53696d696c6172697479536f66746d61784c6f7373506172616d6574657212380a0e6473615f6c6f73735f706172616d"
    "189f012001280b321f2e63616666652e736571666163652e4453414c6f7373506172616d65746572223f0a2a4c696674"
    "656453747275637453696d696c6172697479536f66746d61784c6f7373506172616d6574657212110a066d617267696e"
    "1801200128023a013122be020a104453414c6f7373506172616d6574657212120a0a6661636569645f6e756d18012001"
    "280d12140a0973657169645f6e756d18022001280d3a0130122d0a0d63656e7465725f66696c6c657218032001280b32"
    "162e63616666652e46696c6c6572506172616d65746572120f0a04617869731804200128053a013112130a066c616d62"
    "64611805200128023a03302e3512180a0d64726f706f75745f726174696f1806200128023a013012100a0567616d6d61"
    "1807200128023a013112100a05616c7068611808200128023a0131120f0a04626574611809200128023a0130121c0a0d"
    "7573655f6e6f726d616c697a65180a200128083a0566616c736512100a057363616c65180b200128023a013112160a0b"
    "63656e7465725f69746572180c200128053a013012140a09646966665f69746572180d200128053a0130"
)

_POOL = caffe_pb2._POOL
_POOL.AddSerializedFile(_FILE)


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


# The classes come into being at run time; to a type checker each is a class with any attributes.
# mypy: disallow-subclassing-any=False
if TYPE_CHECKING:

    class DSALossParameter(Any): ...

    class LayerParameter(Any): ...

    class LiftedStructSimilaritySoftmaxLossParameter(Any): ...

else:
    DSALossParameter = _class("caffe.seqface.DSALossParameter")
    LayerParameter = _class("caffe.seqface.LayerParameter")
    LiftedStructSimilaritySoftmaxLossParameter = _class("caffe.seqface.LiftedStructSimilaritySoftmaxLossParameter")
