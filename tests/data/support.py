"""Data layers made for a test, and the files they read."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from google.protobuf import text_format

from caffestat.data import Reader, open_reader
from caffestat.errors import Place
from caffestat.fillers import Stream
from caffestat.layers import Layer, layer_class
from caffestat.net import State, build, read_net
from caffestat.schema import BlobProto, Datum, LayerParameter, caffe_pb2

TRAIN, TEST = caffe_pb2.TRAIN, caffe_pb2.TEST
SEED = 1701


def make(text: str, folder: Path, phase: int = TRAIN) -> Layer:
    """Return the layer that the insides of `layer {}` describe, as if they stood in folder/net.prototxt."""
    proto = text_format.Parse(text, LayerParameter())
    proto.name = proto.name or "d"
    cls = layer_class(proto.type)
    assert cls is not None
    return cls(proto, phase, Place(str(folder / "net.prototxt"), 7))


def opened(layer: Layer) -> Reader:
    """Return the layer's reader, the layer set up with the words of SEED."""
    layer.reader = open_reader(layer)
    assert layer.reader is not None
    layer.draw_setup(Stream(SEED))
    return layer.reader


def started(folder: Path, text: str, phase: int = TRAIN, data: str = "real", dialect: str | None = None) -> Layer:
    """Return the only layer of folder/net.prototxt, set up with the words of SEED; text: what is in `layer {}`."""
    (folder / "net.prototxt").write_text(f'layer {{ name: "d" {text} }}')
    layer = build(read_net(str(folder / "net.prototxt")), State(phase), data=data, dialect=dialect).nodes[0].layer
    layer.draw_setup(Stream(SEED))
    return layer


def draws(seed: int, count: int = 60) -> list[int]:
    """Return the first words of a seed's stream."""
    return [int(word) for word in np.random.RandomState(seed).randint(0, 1 << 32, count, np.uint32)]


def words(count: int) -> list[int]:
    """Return the first words of SEED's stream."""
    return draws(SEED, count)


def picture(seed: int, channels: int = 3, height: int = 5, width: int = 7) -> np.ndarray:
    """Return bytes (C, H, W) that differ from place to place."""
    return np.random.default_rng(seed).integers(0, 256, (channels, height, width), np.uint8)


def datum(image: np.ndarray, label: int) -> Datum:
    """Return a Datum of an image (C, H, W): bytes or floats, as its type is."""
    channels, height, width = image.shape
    values = {"data": image.tobytes()} if image.dtype == np.uint8 else {"float_data": image.ravel()}
    return Datum(channels=channels, height=height, width=width, label=label, **values)


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    """Return an image file; of three channels (C, H, W) the first is blue."""
    from PIL import Image

    pixels = image[::-1].transpose(1, 2, 0) if len(image) == 3 else image[0]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, kind)
    return buffer.getvalue()


def write_lmdb(path: Path, records: Sequence[tuple[str, bytes]]) -> None:
    import lmdb

    with lmdb.open(str(path), map_size=1 << 20) as env, env.begin(write=True) as transaction:
        for key, value in records:
            transaction.put(key.encode(), value)
    (path / "lock.mdb").unlink()


def write_mean(path: Path, values: np.ndarray) -> None:
    path.write_bytes(BlobProto(shape={"dim": values.shape}, data=values.ravel()).SerializeToString())
