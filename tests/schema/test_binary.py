"""Binary files: what Caffe writes is read, anything else is refused by name."""

from pathlib import Path

import pytest

from caffestat.errors import InputError
from caffestat.schema import BlobProto, BlobProtoVector, Datum, NetParameter, SolverState, read_binary

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SNAPSHOTS = sorted(GOLDEN.glob("*/snap_iter_1.caffemodel"))

BLOB = {"shape": {"dim": [2, 3]}, "data": [0.1, -2, 3, 4, 5, 6]}
MESSAGES = [
    NetParameter(name="net", layer=[{"name": "ip", "type": "InnerProduct", "blobs": [BLOB]}]),
    SolverState(iter=7, learned_net="net_iter_7.caffemodel", history=[BLOB], current_step=2),
    BlobProto(num=1, channels=3, height=4, width=5, data=[0.5] * 60),
    BlobProtoVector(blobs=[BLOB, BLOB]),
    Datum(channels=3, height=1, width=2, data=b"\x00\xff\x10\x80\x7f\x01", label=4),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.DESCRIPTOR.name)
def test_reads_back(tmp_path, message):
    path = tmp_path / "file"
    path.write_bytes(message.SerializeToString())
    assert read_binary(path, type(message)) == message
    assert read_binary(str(path), type(message)) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.DESCRIPTOR.name)
def test_cut_short(tmp_path, message):
    path = tmp_path / "file"
    path.write_bytes(message.SerializeToString()[:-1])
    if message.DESCRIPTOR.name in ("Datum", "SolverState"):
        path.write_bytes(message.SerializeToString()[:-5])
    with pytest.raises(InputError, match=rf"file: expected a binary caffe.{message.DESCRIPTOR.name}, found "):
        read_binary(path, type(message))


@pytest.mark.parametrize("path", SNAPSHOTS, ids=lambda path: path.parent.name)
def test_reads_caffes_snapshots(path):
    net = read_binary(path, NetParameter)
    blobs = [blob for layer in net.layer for blob in layer.blobs]
    assert blobs
    for blob in blobs:
        count = 1
        for dim in blob.shape.dim:
            count *= dim
        assert len(blob.data) == count


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (b"", "an empty file"),
        (b'name: "net"\nlayer { name: "x" }\n', "what looks like text"),
        (b"input: 'data'\n", "what looks like text"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "an HDF5 file"),
        (b"\x1f\x8b\x08" + bytes(20), "other or incomplete data"),
    ],
)
def test_other_files(tmp_path, data, found):
    path = tmp_path / "a.caffemodel"
    path.write_bytes(data)
    with pytest.raises(InputError, match=rf"a\.caffemodel: expected a binary caffe\.NetParameter, found {found}"):
        read_binary(path, NetParameter)


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.caffemodel: cannot be read .*No such file"):
        read_binary(tmp_path / "none.caffemodel", NetParameter)


def test_directory(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_binary(tmp_path, NetParameter)


def test_too_large(tmp_path):
    path = tmp_path / "huge.caffemodel"
    with path.open("wb") as file:
        file.truncate(2**31)  # a sparse file takes no room
    with pytest.raises(InputError, match=r"huge\.caffemodel: expected at most 2147483647 bytes.*found 2147483648"):
        read_binary(path, NetParameter)
