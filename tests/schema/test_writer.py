"""Message to text and back, for messages with anything in them."""

import math

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caffestat import prototext
from caffestat.schema import (
    BlobProto,
    Datum,
    FillerParameter,
    LayerParameter,
    NetParameter,
    SolverParameter,
    caffe_pb2,
    from_document,
    to_text,
)

SCALARS = {
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_FLOAT: st.floats(width=32, allow_nan=False),
    FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_STRING: st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=8),
}


def values(field):
    if field.enum_type is not None:
        return st.sampled_from([choice.number for choice in field.enum_type.values])
    return SCALARS[field.type]


@st.composite
def messages(draw, cls):
    message = cls()
    fill(draw, message)
    return message


def fill(draw, message):
    fields = list(message.DESCRIPTOR.fields)
    for index in draw(st.sets(st.integers(0, len(fields) - 1), max_size=3)):
        field = fields[index]
        target = getattr(message, field.name)
        if field.has_presence and field.message_type is None:
            setattr(message, field.name, draw(values(field)))
        elif field.has_presence:
            target.SetInParent()
            fill(draw, target)
        elif field.message_type is None:
            target.extend(draw(st.lists(values(field), max_size=3)))
        else:
            for _ in range(draw(st.integers(0, 2))):
                fill(draw, target.add())
    for name in message.FindInitializationErrors():
        if "." not in name and "[" not in name:
            setattr(message, name, 0.5)


@pytest.mark.parametrize("cls", [NetParameter, SolverParameter, LayerParameter, BlobProto, Datum])
def test_text_reads_back(cls):
    @settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(messages(cls))
    def reads_back(message):
        text = to_text(message)
        assert text_format.Parse(text, cls()) == message
        for written in (text, text_format.MessageToString(message, as_utf8=True), text_format.MessageToString(message)):
            assert from_document(prototext.parse(written.encode()), cls) == (message, [])
        assert cls.FromString(message.SerializeToString()) == message

    reads_back()


def test_layout():
    net = NetParameter(name='a"b', force_backward=True, input=["x\n", "gr\u00fcn"])
    layer = net.layer.add(name="ip", phase=caffe_pb2.TEST)
    layer.inner_product_param.weight_filler.std = 0.01
    layer.pooling_param.SetInParent()
    assert to_text(net) == (
        'name: "a\\"b"\ninput: "x\\n"\ninput: "gr\u00fcn"\nforce_backward: true\n'
        'layer {\n  name: "ip"\n  phase: TEST\n'
        "  inner_product_param {\n    weight_filler {\n      std: 0.01\n    }\n  }\n  pooling_param {\n  }\n}\n"
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (-0.0, "-0"),
        (0.1, "0.1"),
        (1e-5, "1e-05"),
        (1 / 3, "0.33333334"),
        (16777217, "16777216"),
        (1234567, "1234567"),
        (3.4028234663852886e38, "3.4028235e+38"),
        (1e-45, "1.4013e-45"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, "nan"),
    ],
)
def test_floats_are_short(value, text):
    assert to_text(FillerParameter(value=value)) == f"value: {text}\n"


def test_doubles_are_short():
    assert to_text(BlobProto(double_data=[0.1, 1 / 3])) == "double_data: 0.1\ndouble_data: 0.3333333333333333\n"


def test_bytes_are_escaped():
    assert to_text(Datum(data=b"\xff\x00a'")) == 'data: "\\377\\000a\\\'"\n'
