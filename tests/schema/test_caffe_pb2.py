"""The generated classes: Caffe's facts, and at peace with another Caffe in the process."""

import subprocess
import sys
from pathlib import Path

import pytest

from caffestat.schema import caffe_pb2

ROOT = Path(__file__).resolve().parents[2]

FACTS = [
    ("BlobShape", "dim", 1, None),
    ("BlobProto", "num", 1, 0),
    ("BlobProto", "data", 5, None),
    ("BlobProto", "shape", 7, None),
    ("BlobProto", "double_diff", 9, None),
    ("Datum", "label", 5, 0),
    ("Datum", "encoded", 7, False),
    ("FillerParameter", "type", 1, "constant"),
    ("FillerParameter", "max", 4, 1.0),
    ("FillerParameter", "std", 6, 1.0),
    ("FillerParameter", "sparse", 7, -1),
    ("FillerParameter", "variance_norm", 8, 0),
    ("NetParameter", "layers", 2, None),
    ("NetParameter", "input", 3, None),
    ("NetParameter", "input_dim", 4, None),
    ("NetParameter", "input_shape", 8, None),
    ("NetParameter", "layer", 100, None),
    ("NetState", "phase", 1, 1),
    ("NetStateRule", "phase", 1, 0),
    ("ParamSpec", "lr_mult", 3, 1.0),
    ("LayerParameter", "blobs", 7, None),
    ("LayerParameter", "phase", 10, 0),
    ("LayerParameter", "convolution_param", 106, None),
    ("LayerParameter", "python_param", 130, None),
    ("LayerParameter", "batch_norm_param", 139, None),
    ("LayerParameter", "clip_param", 148, None),
    ("ConvolutionParameter", "group", 5, 1),
    ("ConvolutionParameter", "axis", 16, 1),
    ("ConvolutionParameter", "dilation", 18, None),
    ("BatchNormParameter", "moving_average_fraction", 2, 0.999),
    ("BatchNormParameter", "eps", 3, 1e-5),
    ("PoolingParameter", "round_mode", 13, 0),
    ("EltwiseParameter", "operation", 1, 1),
    ("LossParameter", "normalization", 3, 1),
    ("LRNParameter", "local_size", 1, 5),
    ("LRNParameter", "beta", 3, 0.75),
    ("MVNParameter", "eps", 3, 1e-9),
    ("ReductionParameter", "operation", 1, 1),
    ("CropParameter", "axis", 1, 2),
    ("ExpParameter", "base", 1, -1.0),
    ("DataParameter", "prefetch", 10, 4),
    ("SolverParameter", "momentum2", 39, 0.999),
    ("SolverParameter", "type", 40, "SGD"),
    ("SolverParameter", "random_seed", 20, -1),
    ("SolverParameter", "snapshot_format", 37, 1),
    ("SolverParameter", "weights", 42, None),
    ("V1LayerParameter", "type", 5, 0),
    ("V1LayerParameter", "blob_share_mode", 1002, None),
    ("V0LayerParameter", "hdf5_output_param", 1001, None),
    ("V0LayerParameter", "concat_dim", 65, 1),
]

PACKED = {("BlobShape", "dim"), *(("BlobProto", name) for name in ("data", "diff", "double_data", "double_diff"))}


@pytest.mark.parametrize(("message", "name", "number", "default"), FACTS)
def test_field(message, name, number, default):
    field = getattr(caffe_pb2, message).DESCRIPTOR.fields_by_name[name]
    assert field.number == number
    if default is not None:
        # some runtimes round a default to float32, some do not
        expected = default if isinstance(default, str) else pytest.approx(default, rel=1e-6, abs=0)
        assert field.default_value == expected


def message_classes():
    return [getattr(caffe_pb2, name) for name in caffe_pb2.__all__ if name not in ("TRAIN", "TEST", "Phase")]


def test_every_field_is_there():
    fields = {cls.DESCRIPTOR.name: len(cls.DESCRIPTOR.fields) for cls in message_classes()}
    assert (len(fields), sum(fields.values())) == (63, 423)
    assert fields["LayerParameter"] == 60
    assert fields["SolverParameter"] == 42
    assert fields["V1LayerParameter"] == 43
    assert fields["V0LayerParameter"] == 38


def test_packed_are_the_blob_arrays_only():
    fields = [field for cls in message_classes() for field in cls.DESCRIPTOR.fields]
    packed = {(field.containing_type.name, field.name) for field in fields if field.GetOptions().packed}
    assert packed == PACKED


def test_enums():
    assert (caffe_pb2.TRAIN, caffe_pb2.TEST) == (0, 1)
    assert caffe_pb2.Phase.Name(1) == "TEST"
    assert caffe_pb2.V1LayerParameter.LayerType.Value("CONTRASTIVE_LOSS") == 37
    assert len(caffe_pb2.V1LayerParameter.LayerType.items()) == 40
    assert caffe_pb2.ReductionParameter.SUM == 1
    assert caffe_pb2.HingeLossParameter.L2 == 2
    assert caffe_pb2.SolverParameter.ADAM == 5
    assert caffe_pb2.LossParameter.NONE == 3


def test_only_clip_has_required_fields():
    assert caffe_pb2.ClipParameter().FindInitializationErrors() == ["min", "max"]
    assert [cls for cls in message_classes() if not cls().IsInitialized()] == [caffe_pb2.ClipParameter]


def test_caffe_bytes_of_a_blob():
    blob = caffe_pb2.BlobProto(shape={"dim": [2, 3]}, data=[1.0])
    assert blob.SerializeToString() == bytes.fromhex("2a04 0000803f 3a04 0a020203")


CLASH = """
import sys
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

def register_fork(data):
    file = descriptor_pb2.FileDescriptorProto.FromString(data)
    net = next(message for message in file.message_type if message.name == "NetParameter")
    net.field.add(name="fancy", number=77, label=1, type=5)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.NetParameter"))

data = bytes.fromhex(sys.stdin.read())
if sys.argv[1] == "before":
    fork = register_fork(data)
from caffestat.schema import NetParameter
if sys.argv[1] == "after":
    fork = register_fork(data)
print(fork(fancy=5).fancy, hasattr(NetParameter(), "fancy"), NetParameter(name="n").name)
"""


@pytest.mark.parametrize("order", ["before", "after"])
def test_lives_beside_a_fork_in_the_default_pool(order):
    command = [sys.executable, "-c", CLASH, order]
    done = subprocess.run(command, check=False, input=caffe_pb2._FILE.hex(), capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("5 False n\n", "")
