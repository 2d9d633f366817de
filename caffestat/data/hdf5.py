"""HDF5Data layers: rows of data sets. (hdf5_data_layer.cpp)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffestat.errors import InputError, NetError
from caffestat.fillers import CRandom
from caffestat.lazy import np

from .hdf5_file import read_array, reading
from .reader import Reader, find, quoted, require, text_lines

if TYPE_CHECKING:
    from caffestat.fillers import Stream
    from caffestat.layers import Layer

__all__ = ["HDF5Reader"]


class HDF5Reader(Reader):
    """The rows of the listed files, one after the other; each top is the data set of its name.

    Shuffled, the files change places, and the rows within each, by the C library's rand.
    """

    def __init__(self, layer: Layer) -> None:
        param = layer.proto.hdf5_data_param
        super().__init__(layer, param.batch_size)
        require("h5py", "HDF5")
        source = find(param.source, layer)
        names = [name for line in text_lines(source, layer) for name in line.split()]
        self._paths = [
            find(name, layer, source.parent, said=quoted(name, number, param.source))
            for number, name in enumerate(names, 1)
        ]
        self._random: CRandom | None = None
        self.is_independent = not param.shuffle
        self._order = list(range(len(self._paths)))
        self._columns: list[np.ndarray] = []
        self._file = self._row = 0
        self._rows: list[int] = []
        self._load(0)
        self.shapes = tuple((self.batch, *data.shape[1:]) for data in self._columns)

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        self._random = stream.c_random if self.layer.proto.hdf5_data_param.shuffle else None
        self._order = self._shuffled(list(range(len(self._paths))))
        self._load(0)

    def next(self) -> Sequence[np.ndarray]:
        tops = [np.empty(shape, np.float32) for shape in self.shapes]
        for index in range(self.batch):
            for top, column in zip(tops, self._columns, strict=True):
                top[index] = column[self._rows[self._row]]
            self._step()
        return tops

    def _error(self, path: Path, message: str) -> NetError:
        return self.layer.error(f"the HDF5 file {str(path)!r} {message}")

    def _shuffled(self, items: list[int]) -> list[int]:
        return self._random.shuffled(items) if self._random else items

    def _step(self) -> None:
        self._row += 1
        if self._row < len(self._rows):
            return
        if len(self._paths) > 1:
            following = (self._file + 1) % len(self._paths)
            if following == 0:
                self._order = self._shuffled(self._order)
            self._load(following)
        self._row = 0
        self._rows = self._shuffled(self._rows)  # Caffe shuffles a file's rows once at loading, and here

    def _load(self, number: int) -> None:
        """Read a file by its number in the order of reading, and go to its first row."""
        self._file, self._row = number, 0
        path = self._paths[self._order[number]]
        with reading(path, partial(self._error, path)) as file:
            columns = [_column(file, name) for name in self.layer.proto.top]
        before = self._columns or columns
        if [data.shape[1:] for data in columns] != [data.shape[1:] for data in before]:
            raise self._error(path, "has rows of other shapes than the first file")
        self._columns = columns
        counts = {len(data) for data in columns}
        if len(counts) > 1 or 0 in counts:
            raise self._error(path, f"has {sorted(counts)} rows in its data sets; expected equal numbers, at least 1")
        self._rows = self._shuffled(list(range(counts.pop())))


def _column(file: Any, name: str) -> np.ndarray:
    bare = name.strip("/")
    if "/" in bare:
        raise InputError(f"has no data set {name!r}; expected one at the top of the file")
    return read_array(file, bare, axes=1)
