"""CustomData layers: records of an LMDB whose channels are images, flow and masks, each in an encoding of its own.

(lmb-freiburg/flownet2, src/caffe/layers/custom_data_layer.cpp, DecodeData)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.schema.forks.data_pb2 import FlowDataParameter

from .database import DatumReader
from .lmdb_file import LmdbFile
from .reader import DataUnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from caffestat.layers import Layer, Shape

__all__ = ["FlowReader"]

UNKNOWN = 2**15 - 1  # stands for unknown flow, which is NaN
STEPS = 32  # of flow in a pixel
NOT_READ = ("rand_permute", "preselection_file", "permute_every_iter", "subtract")


class FlowReader(DatumReader):
    """A top for each slice of the channels (N, C, H, W), and with one more top labels (N, 1, 1, 1).

    Records are taken in the order of their keys, from range_start to range_end.
    """

    def __init__(self, layer: Layer) -> None:
        self._param = layer.added.data_param
        transform = layer.proto.transform_param
        written = [name for name in NOT_READ if getattr(self._param, name)]
        written += [name for name in ("mean_file", "mean_value", "mirror") if getattr(transform, name)]
        if written:
            raise DataUnavailableError(f"{' and '.join(written)} of its records is not supported")
        super().__init__(layer)

    def _records(self) -> Iterator[bytes]:
        first, last = self._param.range_start, self._param.range_end
        return islice(LmdbFile(self._path).values(), first, last + 1 if last >= 0 else None)

    def _shapes(self, record: Any) -> tuple[Shape, ...]:
        slices = self._slices(record)
        if self.layer.top_count not in (len(slices), len(slices) + 1):
            raise self.layer.error(f"expected {len(slices)} tops, one for each slice, or one more of labels")
        shapes = [(self.batch, len(part), *self._transformer.shape(part.shape)[1:]) for part in slices]
        return (*shapes, (self.batch, 1, 1, 1))

    def _read(self, record: Any) -> Sequence[np.ndarray]:
        parts = []
        for part in self._slices(record):
            _, height, width = self._transformer.shape(part.shape)
            top, left = ((old - new) // 2 for old, new in zip(part.shape[1:], (height, width), strict=True))
            scale = np.float32(self.layer.proto.transform_param.scale)
            parts.append(part[:, top : top + height, left : left + width] * scale)
        return [*parts, np.full((1, 1, 1), record.label)]

    def _slices(self, record: Any) -> list[NDArray[np.float32]]:
        """Return the values (C, H, W) of each slice of a record."""
        ends = [*self._param.slice_point, record.channels]
        counts = np.diff([0, *ends])
        if (counts < 1).any() or min(record.height, record.width) < 1:
            raise self._error(f"holds a record of {record.channels} channels, for slices up to {ends[:-1]}")
        if record.float_data:
            values = np.array(record.float_data, np.float32)
            if values.size != record.channels * record.height * record.width:
                raise self._error(f"holds a record of {values.size} values for {record.channels} channels")
            return np.split(values.reshape(record.channels, record.height, record.width), ends[:-1])
        return self._decoded(record, counts.tolist())

    def _decoded(self, record: Any, counts: Sequence[int]) -> list[NDArray[np.float32]]:
        data, parts, place = np.frombuffer(record.data, np.uint8), [], 0
        for index, count in enumerate(counts):
            encodings = self._param.encoding
            encoding = encodings[index] if index < len(encodings) else FlowDataParameter.UINT8
            shape = (count, record.height, record.width)
            size = _size(encoding, shape)
            part = data[place : place + size]
            if part.size < size:
                raise self._error(f"holds a record of {data.size} bytes that ends within slice {index}")
            parts.append(_values(encoding, part, shape))
            place += size
        return parts


def _size(encoding: int, shape: tuple[int, int, int]) -> int:
    """Return how many bytes a slice takes; a mask is one bit a pixel, and one channel."""
    if encoding == FlowDataParameter.BOOL1:
        return -(-shape[1] * shape[2] // 8)
    return math.prod(shape) * (2 if encoding == FlowDataParameter.UINT16FLOW else 1)


def _values(encoding: int, data: NDArray[np.uint8], shape: tuple[int, int, int]) -> NDArray[np.float32]:
    if encoding == FlowDataParameter.BOOL1:
        bits = np.unpackbits(data, bitorder="little")[: shape[1] * shape[2]]
        return np.broadcast_to(bits.reshape(1, *shape[1:]).astype(np.float32), shape)
    if encoding == FlowDataParameter.UINT16FLOW:
        steps = data.view("<i2").reshape(shape)
        return np.where(steps == UNKNOWN, np.float32(np.nan), steps.astype(np.float32) / STEPS).astype(np.float32)
    return data.reshape(shape).astype(np.float32)
