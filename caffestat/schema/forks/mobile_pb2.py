"""What a fork adds to Caffe's messages.

Made from proto/forks/mobile.proto by proto/generate.py (`make proto`); do not edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

from caffestat.schema import caffe_pb2

__all__ = [
    "BinaryConvolutionParameter",
    "BinaryInnerProductParameter",
    "InsanityParameter",
    "LayerParameter",
    "QuantParameter",
]

_FILE = bytes.fromhex(
    "0a12666f726b732f6d6f62696c652e70726f746f120c63616666652e6d6f62696c65229b020a0e4c6179657250617261"
    "6d65746572124b0a1862696e6172795f636f6e766f6c7574696f6e5f706172616d1893012001280b32282e6361666665"
    "2e6d6f62696c652e42696e617279436f6e766f6c7574696f6e506172616d65746572124e0a1a62696e6172795f696e6e"
    "65725f70726f647563745f706172616d1894012001280b32292e63616666652e6d6f62696c652e42696e617279496e6e"
    "657250726f64756374506172616d6574657212320a0b7175616e745f706172616d1895012001280b321c2e6361666665"
    "2e6d6f62696c652e5175616e74506172616d6574657212380a0e696e73616e6974795f706172616d18ca012001280b32"
    "1f2e63616666652e6d6f62696c652e496e73616e697479506172616d6574657222560a1a42696e617279436f6e766f6c"
    "7574696f6e506172616d6574657212180a097573655f616c7068611801200128083a0566616c7365121e0a107573655f"
    "62696e6172697a6174696f6e1802200128083a047472756522570a1b42696e617279496e6e657250726f647563745061"
    "72616d6574657212180a097573655f616c7068611801200128083a0566616c7365121e0a107573655f62696e6172697a"
    "6174696f6e1802200128083a04747275652298010a0e5175616e74506172616d65746572121a0a0c666f72776172645f"
    "66756e631801200128093a0468776771121b0a0d6261636b776172645f66756e631802200128093a0472656c7512130a"
    "08636c69705f7468721803200128023a013012190a0e6e656761746976655f736c6f70651804200128023a0130120c0a"
    "0474687273180520032802120f0a0763656e7465727318062003280222320a11496e73616e697479506172616d657465"
    "72120d0a026c621801200128023a0135120e0a0275621802200128023a023130"
)

_POOL = caffe_pb2._POOL
_POOL.AddSerializedFile(_FILE)


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


# The classes come into being at run time; to a type checker each is a class with any attributes.
# mypy: disallow-subclassing-any=False
if TYPE_CHECKING:

    class BinaryConvolutionParameter(Any): ...

    class BinaryInnerProductParameter(Any): ...

    class InsanityParameter(Any): ...

    class LayerParameter(Any): ...

    class QuantParameter(Any): ...

else:
    BinaryConvolutionParameter = _class("caffe.mobile.BinaryConvolutionParameter")
    BinaryInnerProductParameter = _class("caffe.mobile.BinaryInnerProductParameter")
    InsanityParameter = _class("caffe.mobile.InsanityParameter")
    LayerParameter = _class("caffe.mobile.LayerParameter")
    QuantParameter = _class("caffe.mobile.QuantParameter")
