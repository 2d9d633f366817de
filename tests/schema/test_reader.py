"""Text to message: the values of protobuf's own reader, findings for what forks add, errors with places."""

from pathlib import Path

import pytest
from google.protobuf import text_format

from caffestat import prototext
from caffestat.errors import SchemaError
from caffestat.schema import (
    BlobProto,
    Datum,
    FillerParameter,
    LayerParameter,
    NetParameter,
    SolverParameter,
    UnknownField,
    V1LayerParameter,
    caffe_pb2,
    from_document,
    from_message,
)
from caffestat.schema.forks import flow_pb2

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
CASES = sorted(path for path in GOLDEN.glob("**/*.prototxt") if path.parents[1].name != "ssd")  # fields of a fork


def read(text, cls, name="net.prototxt"):
    data = text if isinstance(text, bytes) else text.encode()
    return from_document(prototext.parse(data, name), cls)


def value(text, cls=LayerParameter):
    message, findings = read(text, cls)
    assert findings == []
    return message


def refusal(text, cls=LayerParameter):
    with pytest.raises(SchemaError) as caught:
        read(text, cls)
    return str(caught.value)


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_golden_cases_read_as_protobuf_reads_them(path):
    cls = SolverParameter if b"base_lr" in path.read_bytes() else NetParameter
    expected = text_format.Parse(path.read_text(), cls())
    assert value(path.read_bytes(), cls) == expected


@pytest.mark.parametrize(
    ("cls", "text"),
    [
        (FillerParameter, "value: 3 min: -2.5 max: 1e39 std: .5f mean: 0.1"),
        (FillerParameter, "value: inf min: -inf max: 3.4028236e38 std: 1e-46 mean: 16777217"),
        (FillerParameter, 'sparse: -0x10 type: \'a\' "b\\n\\x41\\101\\""'),
        (FillerParameter, "sparse: -2147483648 variance_norm: AVERAGE"),
        (FillerParameter, "sparse: 2147483647 variance_norm: 1"),
        (LayerParameter, "bottom: ['a', 'b'] bottom: 'c' top: [] propagate_down: [true, 0, t, False]"),
        (LayerParameter, "convolution_param { pad: 0x10 pad: 010 num_output: 4294967295 }"),
        (LayerParameter, "pooling_param {} relu_param <> param [{lr_mult: 2}, {}] phase: TEST"),
        (LayerParameter, "name: 'gr\u00fc\u00df' type: '\\303\\274' ; loss_weight: 1, loss_weight: -0"),
        (BlobProto, "data: 0.1 double_data: 0.1 shape { dim: -9223372036854775808 dim: 9223372036854775807 }"),
        (Datum, "data: '\\377\\000\\xfe' encoded: True label: -1"),
        (V1LayerParameter, "type: CONVOLUTION blobs_lr: 1 layer { type: 'conv' pool: AVE }"),
    ],
)
def test_values_are_protobufs(cls, text):
    assert value(text, cls) == text_format.Parse(text, cls())


def test_nan_is_read():
    assert value("value: nan", FillerParameter).value != value("value: nan", FillerParameter).value


def test_empty_message_is_given():
    layer = value("pooling_param {}")
    assert layer.HasField("pooling_param")
    assert not layer.HasField("relu_param")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("sparse: 2147483648", "expected an integer from -2147483648 to 2147483647, found 2147483648"),
        ("sparse: -2147483649", "found -2147483649"),
        ("sparse: 1.0", "found 1.0"),
        ("sparse: '1'", "found '1'"),
        ("sparse: many", "found many"),
        ("type: msra", "expected a string in quotes, found msra"),
        ("type: 5", "found 5"),
        ("value: '1'", "expected a number, found '1'"),
        ("value: one", "found one"),
        ("value: 0x10", "found 0x10"),
        ("value: 010", "found 010"),
        ("value { }", "expected a number, found a message in braces"),
        ("value: [1]", "expected a number, found a list"),
        ("variance_norm: 3", "expected one of FAN_IN, FAN_OUT, AVERAGE, found 3"),
        ("variance_norm: 'FAN_IN'", "found 'FAN_IN'; did you mean FAN_IN?"),
        ("variance_norm: fan_out", "found fan_out; did you mean FAN_OUT?"),
        ("variance_norm: AVERGE", "found AVERGE; did you mean AVERAGE?"),
    ],
)
def test_misfits(text, found):
    assert found in refusal(text, FillerParameter)


@pytest.mark.parametrize("number", ["-1", "4294967296", "1e3"])
def test_unsigned_range(number):
    assert f"expected an integer from 0 to 4294967295, found {number}" in refusal(
        f"spp_param {{ pyramid_height: {number} }}"
    )


@pytest.mark.parametrize("word", ["yes", "TRUE", "T", "2", "-1", "'true'", "1.0"])
def test_not_a_boolean(word):
    assert f"expected true or false, found {word}" in refusal(f"propagate_down: {word}")


def test_message_wanted():
    assert "expected a message in braces, found 3" in refusal("pooling_param: 3")


def test_error_tells_place_layer_and_schema():
    text = 'layer { name: "a" }\nlayer {\n  pooling_param {\n    pool: MAXX\n  }\n  name: "p1"\n}'
    assert refusal(text, NetParameter) == (
        'net.prototxt:4:11: pool in pooling_param (PoolingParameter) of layer "p1": '
        "expected one of MAX, AVE, STOCHASTIC, found MAXX; did you mean MAX?"
    )


def test_long_values_are_quoted_in_part():
    assert refusal("sparse: '" + "x" * 5000 + "'", FillerParameter).endswith("x...")


@pytest.mark.parametrize("again", ["name: 'a'\nname: 'a'", "pooling_param { }\npooling_param { }"])
def test_singular_given_twice(again):
    name = again.split()[0].rstrip(":")
    message = refusal(again)
    assert message.startswith(f"net.prototxt:2:1: {name} in layer ")
    assert "expected once, found in line 1 and in line 2" in message


def test_required_fields():
    assert value("clip_param { min: -1 max: 2 }").clip_param.max == 2
    assert "clip_param (ClipParameter) of layer 'c': expected max" in refusal("name: 'c' clip_param { min: 1 }")


def test_unknown_fields_are_findings():
    text = (
        'layer {\n  name: "p"\n  pooling_param { ceil_mode: false pool: AVE }\n'
        "  flow_field { a { b: [1, {}] } }\n}\nitem: 3"
    )
    net, findings = read(text, NetParameter)
    assert net == NetParameter(layer=[{"name": "p", "pooling_param": {"pool": caffe_pb2.PoolingParameter.AVE}}])
    assert [str(finding) for finding in findings] == [
        "net.prototxt:3:19: unknown field 'ceil_mode' in pooling_param (PoolingParameter) of layer \"p\", left out",
        "net.prototxt:4:3: unknown field 'flow_field' in layer \"p\" (LayerParameter), left out",
        "net.prototxt:6:1: unknown field 'item' in NetParameter, left out",
    ]


def test_unknown_field_with_a_close_name():
    _, [finding] = read("convolution_param { kernal_size: 3 }", LayerParameter)
    assert isinstance(finding, UnknownField)
    assert finding.field.name == "kernal_size"
    assert finding.message.endswith("left out; did you mean kernel_size?")


@pytest.mark.parametrize("written", ["FANCY", "777"])
def test_unknown_v1_layer_type_is_left_to_the_builder(written):
    net = value(f"layers {{ name: 'x' type: {written} top: 'y' }}", NetParameter)
    assert net == NetParameter(layers=[{"name": "x", "top": ["y"]}])
    assert not net.layers[0].HasField("type")


@pytest.mark.parametrize(
    ("text", "cls", "found"),
    [
        ("convolution_param { engine: MKL2017 }", LayerParameter, "MKL2017 of engine in convolution_param"),
        ("loss_param { normalization: PRE_FIXED }", LayerParameter, "PRE_FIXED of normalization in loss_param"),
        ("resample_param { type: LANCZOS }", flow_pb2.LayerParameter, "LANCZOS of type in resample_param"),
        ("device_id: [0, 1]", SolverParameter, "a list of device_id in SolverParameter"),
    ],
)
def test_what_forks_put_into_known_fields_is_a_finding(text, cls, found):
    message, [finding] = read(text, cls)
    assert not message.ByteSize() or not message.ListFields()[0][1].ByteSize()
    assert finding.message.startswith(f"unknown value {found}")
    assert finding.message.endswith("left out")
    assert finding.place.line == 1


@pytest.mark.parametrize("written", ["VALIDD", "BATCHSIZE", "'FULL'"])
def test_typo_in_an_extended_enum_is_an_error(written):
    assert "did you mean" in refusal(f"loss_param {{ normalization: {written} }}")


def test_part_of_a_text():
    document = prototext.parse(b"bn_param { slope_filler { type: 'constant' value: 2 odd: 1 } }", "net.prototxt")
    owner = document.fields[0].values[0].fields[0].values[0]
    assert from_message(owner, FillerParameter, "net.prototxt") == FillerParameter(type="constant", value=2)


def test_v1_layer_type_in_quotes_is_an_error():
    assert "did you mean CONVOLUTION?" in refusal("layers { type: 'Convolution' }", NetParameter)


def test_text_that_is_not_utf8():
    layer, [finding] = read(b"name: 'a\xc4\xe3b' top: '\xe4\xbd\xa0'", LayerParameter)
    assert (layer.name, list(layer.top)) == ("a\\xc4\\xe3b", ["\u4f60"])
    assert "expected UTF-8" in finding.message


def test_deep_unknown_messages_are_one_finding():
    depth = prototext.MAX_DEPTH
    net, findings = read("a{" * depth + "}" * depth, NetParameter)
    assert (net, len(findings)) == (NetParameter(), 1)
