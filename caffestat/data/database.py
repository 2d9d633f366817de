"""Data layers: Datum messages out of an LMDB. (data_layer.cpp, util/db_lmdb.cpp)"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError

from caffestat.errors import NetError
from caffestat.schema import Datum, caffe_pb2

from .images import decode
from .reader import AbsentError, Reader, find, require
from .transformer import Transformer

if TYPE_CHECKING:
    from caffestat.fillers import Stream
    from caffestat.layers import Layer

__all__ = ["DatumReader"]


class DatumReader(Reader):
    """The records of an LMDB in the order of their keys; tops: images (N, C, H, W), labels (N)."""

    def __init__(self, layer: Layer) -> None:
        param = layer.proto.data_param
        super().__init__(layer, param.batch_size)
        self._path = find(param.source, layer)
        if param.backend != caffe_pb2.DataParameter.LMDB:
            raise AbsentError(f"{str(self._path)!r} is said to be a LevelDB (the default backend); only LMDB is read")
        self._lmdb = require("lmdb", "LMDB")
        self._transformer = Transformer(layer)
        self._key = b""
        first = self._image(self._records(1)[0])
        self.shapes = ((self.batch, *self._transformer.shape(first.shape)), (self.batch,))[: layer.top_count]

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        self._key = b""
        self._transformer.start(words.get("transformer"))

    def next(self) -> Sequence[np.ndarray]:
        data = np.empty(self.shapes[0], np.float32)
        labels = np.empty(self.batch, np.float32)
        for index, datum in enumerate(self._records(self.batch)):
            image = self._transformer.apply(self._image(datum))
            if image.shape != data.shape[1:]:
                raise self._error(f"holds an image of shape {image.shape}; the first one has {data.shape[1:]}")
            data[index], labels[index] = image, datum.label
        return (data, labels)[: len(self.shapes)]

    def _error(self, message: str) -> NetError:
        return self.layer.error(f"the LMDB {str(self._path)!r} {message}")

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        # opened for each batch: a process may hold an LMDB open only once, and several nets may read the same one
        try:
            # without a lock file: data may lie where nothing can be written
            with (
                self._lmdb.open(str(self._path), subdir=self._path.is_dir(), readonly=True, lock=False) as env,
                env.begin() as transaction,
            ):
                yield transaction.cursor()
        except self._lmdb.Error as error:
            raise self._error(f"cannot be read: {error}") from error

    def _records(self, count: int) -> list[Any]:
        """Return the next records, from the first on again after the last; the place is kept for the next call."""
        records = []
        with self._cursor() as cursor:
            if not cursor.set_range(self._key) and not cursor.first():
                raise self._error("holds no records")
            for _ in range(count):
                records.append(self._parse(cursor.value()))
                if not cursor.next():
                    cursor.first()
            self._key = bytes(cursor.key())
        return records

    def _parse(self, value: bytes) -> Any:
        datum = Datum()
        try:
            datum.ParseFromString(value)
        except DecodeError as error:
            raise self._error("holds a record that is no Datum message") from error
        return datum

    def _image(self, datum: Any) -> np.ndarray:
        """Return the values (C, H, W) that a Datum holds: bytes, floats or a compressed image."""
        if datum.encoded:
            param = self.layer.proto.transform_param
            colour = bool(param.force_color) if param.force_color or param.force_gray else None
            try:
                return decode(datum.data, colour)
            except ValueError as error:
                raise self._error(f"holds a record that {error}") from error
        shape = (datum.channels, datum.height, datum.width)
        values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
        if values.size != np.prod(shape) or not values.size:
            raise self._error(f"holds a record of {values.size} values for shape {shape}")
        return values.reshape(shape)
