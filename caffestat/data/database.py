"""Data layers: Datum messages from an LMDB. (data_layer.cpp, util/db_lmdb.cpp)"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from caffestat.errors import InputError, NetError
from caffestat.lazy import np
from caffestat.schema import Datum, caffe_pb2

from .images import decode
from .lmdb_file import LmdbError, LmdbFile
from .reader import DataUnavailableError, Reader, find
from .transformer import Transformer

if TYPE_CHECKING:
    from caffestat.fillers import Stream
    from caffestat.layers import Layer, Shape

__all__ = ["DatumReader"]


class DatumReader(Reader):
    """The records of an LMDB in the order of their keys; tops: images (N, C, H, W), labels (N)."""

    is_independent = True

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer, layer.proto.data_param.batch_size)
        self._path = self._found()
        self._transformer = Transformer(layer, self._crop())
        self._values: Iterator[bytes] = iter(())
        first = self._record()
        self._values = iter(())
        self.shapes = self._shapes(first)[: layer.top_count]
        self.varies = self.batch == 1 and not self._transformer.cuts

    def _found(self) -> Path:
        """Return where the records are. Raises DataUnavailableError when they are missing or of an unknown format."""
        param = self.layer.proto.data_param
        path = find(param.source, self.layer)
        if param.backend != caffe_pb2.DataParameter.LMDB:
            raise DataUnavailableError(
                f"{str(path)!r} is a LevelDB by its backend field (the default); only LMDB is supported"
            )
        return path

    def _crop(self) -> tuple[int, int] | None:
        """Return height and width of the crop; None for crop_size."""
        return None

    def _shapes(self, record: Any) -> tuple[Shape, ...]:
        """Return the shapes of the tops, as the first record has them."""
        return (self.batch, *self._transformer.shape(self._image(record).shape)), (self.batch,)

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        self._values = iter(())
        self._transformer.start(words.get("transformer"))

    def next(self) -> Sequence[np.ndarray]:
        tops: list[np.ndarray] = []
        for index in range(self.batch):
            values = self._read(self._record())
            tops = tops or self.new_tops(values)
            for top, value in zip(tops, values, strict=False):
                if value.shape != top.shape[1:]:
                    raise self._error(f"holds an image of shape {value.shape}; the first one has {top.shape[1:]}")
                top[index] = value
        return tops

    def _read(self, record: Any) -> Sequence[np.ndarray]:
        """Return the values of each top for a record, as the net gets them."""
        return self._transformer.apply(self._image(record)), np.asarray(record.label, np.float32)

    def _error(self, message: str) -> NetError:
        return self.layer.error(f"the LMDB {str(self._path)!r} {message}")

    def _record(self) -> Any:
        """Return the next record, after the last the first."""
        try:
            value = next(self._values, None)
            if value is None:
                self._values = self._records()
                value = next(self._values, None)
        except (LmdbError, InputError, OSError) as error:
            raise self._error(f"cannot be read: {error}") from error
        if value is None:
            raise self._error("holds no records")
        return self._parse(value)

    def _records(self) -> Iterator[bytes]:
        """Yield the records of a round."""
        return LmdbFile(self._path).values()

    def _parse(self, value: bytes) -> Any:
        datum = Datum()
        try:
            datum.ParseFromString(value)
        except DecodeError as error:
            raise self._error("holds a record that is not a Datum message") from error
        return datum

    def _image(self, datum: Any) -> np.ndarray:
        """Return the values (C, H, W) that a Datum holds: bytes, floats or a compressed image."""
        if datum.encoded:
            param = self.layer.proto.transform_param
            if param.force_color and param.force_gray:
                raise self.layer.error("transform_param has both force_color and force_gray; Caffe takes one of them")
            colour = bool(param.force_color) if param.force_color or param.force_gray else None
            try:
                return decode(datum.data, colour)
            except ValueError as error:
                raise self._error(f"holds a record that {error}") from error
        shape = (datum.channels, datum.height, datum.width)
        values = np.frombuffer(datum.data, np.uint8) if datum.data else np.array(datum.float_data, np.float32)
        if values.size != math.prod(shape) or min(shape) < 1:
            raise self._error(f"holds a record of {values.size} values for shape {shape}")
        return values.reshape(shape)
