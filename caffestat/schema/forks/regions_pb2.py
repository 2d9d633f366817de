"""What a fork adds to Caffe's messages.

Made from proto/forks/regions.proto by proto/generate.py (`make proto`); do not edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

from caffestat.schema import caffe_pb2

__all__ = [
    "LayerParameter",
    "ROIAlignmentParameter",
    "ROIPoolingParameter",
    "ScaleRouteParameter",
]

_FILE = bytes.fromhex(
    "0a13666f726b732f726567696f6e732e70726f746f120d63616666652e726567696f6e7322d4010a0e4c617965725061"
    "72616d65746572123e0a11726f695f706f6f6c696e675f706172616d18c9012001280b32222e63616666652e72656769"
    "6f6e732e524f49506f6f6c696e67506172616d65746572123e0a117363616c655f726f7574655f706172616d189a0120"
    "01280b32222e63616666652e726567696f6e732e5363616c65526f757465506172616d6574657212420a13726f695f61"
    "6c69676e6d656e745f706172616d18ae022001280b32242e63616666652e726567696f6e732e524f49416c69676e6d65"
    "6e74506172616d657465722289010a13524f49506f6f6c696e67506172616d6574657212130a08706f6f6c65645f6818"
    "012001280d3a013012130a08706f6f6c65645f7718022001280d3a013012180a0d7370617469616c5f7363616c651803"
    "200128023a013112130a08706f6f6c65645f6c18042001280d3a013012190a0e74656d706f72616c5f7363616c651805"
    "200128023a0131223c0a135363616c65526f757465506172616d6574657212110a096c6f775f7363616c651801200128"
    "0212120a0a686967685f7363616c65180220012802225b0a15524f49416c69676e6d656e74506172616d657465721213"
    "0a08706f6f6c65645f6818012001280d3a013012130a08706f6f6c65645f7718022001280d3a013012180a0d73706174"
    "69616c5f7363616c651803200128023a0131"
)

_POOL = caffe_pb2._POOL
_POOL.AddSerializedFile(_FILE)


def _class(name: str) -> Any:
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(name))


# The classes come into being at run time; to a type checker each is a class with any attributes.
# mypy: disallow-subclassing-any=False
if TYPE_CHECKING:

    class LayerParameter(Any): ...

    class ROIAlignmentParameter(Any): ...

    class ROIPoolingParameter(Any): ...

    class ScaleRouteParameter(Any): ...

else:
    LayerParameter = _class("caffe.regions.LayerParameter")
    ROIAlignmentParameter = _class("caffe.regions.ROIAlignmentParameter")
    ROIPoolingParameter = _class("caffe.regions.ROIPoolingParameter")
    ScaleRouteParameter = _class("caffe.regions.ScaleRouteParameter")
