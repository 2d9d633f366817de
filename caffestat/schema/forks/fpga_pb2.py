"""What a fork adds to Caffe's messages.

Made from proto/forks/fpga.proto by proto/generate.py (`make proto`); do not edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

from caffestat.schema import caffe_pb2

__all__ = [
    "CPFPConversionParameter",
    "CRParameter",
    "HWCNParameter",
    "LayerParameter",
    "PadParameter",
    "XCLParameter",
]

_FILE = bytes.fromhex(
    "0a10666f726b732f667067612e70726f746f120a63616666652e6670676122e7020a0e4c61796572506172616d657465"
    "7212130a0a6f636c5f656e61626c651893012001280812430a15637066705f636f6e76657273696f6e5f706172616d18"
    "94012001280b32232e63616666652e667067612e43504650436f6e76657273696f6e506172616d6574657212430a1568"
    "616c665f636f6e76657273696f6e5f706172616d1899012001280b32232e63616666652e667067612e43504650436f6e"
    "76657273696f6e506172616d65746572122c0a097061645f706172616d1895012001280b32182e63616666652e667067"
    "612e506164506172616d65746572122a0a0863725f706172616d1896012001280b32172e63616666652e667067612e43"
    "52506172616d65746572122c0a0978636c5f706172616d1897012001280b32182e63616666652e667067612e58434c50"
    "6172616d65746572122e0a0a6877636e5f706172616d1898012001280b32192e63616666652e667067612e4857434e50"
    "6172616d6574657222330a1743504650436f6e76657273696f6e506172616d6574657212180a0a636f6e766572745f74"
    "6f1801200128083a0474727565225a0a0c506164506172616d6574657212110a037061641801200128083a0474727565"
    "12130a077061645f76616c18022001280d3a02313612110a067061645f746f18032001280d3a0130120f0a0461786973"
    "18042001280d3a013322600a0b4352506172616d65746572120f0a0472656c7518012001280d3a0130121a0a0b737761"
    "705f696e707574731802200128083a0566616c736512110a066e756d5f637518032001280d3a013112110a066e756d5f"
    "706518042001280d3a013422490a0c58434c506172616d6574657212120a046f6e63651801200128083a047472756512"
    "100a0878636c5f6e616d6518022001280912130a0b6b65726e656c5f6e616d6518032001280922290a0d4857434e5061"
    "72616d6574657212180a0a636f6e766572745f746f1801200128083a0474727565"
)

_POOL = caffe_pb2._POOL
_POOL.AddSerializedFile(_FILE)


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


# The classes come into being at run time; to a type checker each is a class with any attributes.
# mypy: disallow-subclassing-any=False
if TYPE_CHECKING:

    class CPFPConversionParameter(Any): ...

    class CRParameter(Any): ...

    class HWCNParameter(Any): ...

    class LayerParameter(Any): ...

    class PadParameter(Any): ...

    class XCLParameter(Any): ...

else:
    CPFPConversionParameter = _class("caffe.fpga.CPFPConversionParameter")
    CRParameter = _class("caffe.fpga.CRParameter")
    HWCNParameter = _class("caffe.fpga.HWCNParameter")
    LayerParameter = _class("caffe.fpga.LayerParameter")
    PadParameter = _class("caffe.fpga.PadParameter")
    XCLParameter = _class("caffe.fpga.XCLParameter")
