"""HDF5Data layers: rows of data sets. (hdf5_data_layer.cpp)"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caffestat.errors import NetError
from caffestat.files import open_regular
from caffestat.fillers import CRandom

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
        self._h5py = require("h5py", "HDF5")
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
        """Read the file of this number in the order of reading, and go to its first row."""
        self._file, self._row = number, 0
        path = self._paths[self._order[number]]
        try:
            os.close(open_regular(path))
            with self._h5py.File(path, "r", locking=False) as file:
                columns = [self._column(file, name, path) for name in self.layer.proto.top]
        except NetError:
            raise
        except Exception as error:  # of damaged files the library raises almost any
            raise self._error(path, f"cannot be read: {error}") from error
        before = self._columns or columns
        if [data.shape[1:] for data in columns] != [data.shape[1:] for data in before]:
            raise self._error(path, "has rows of other shapes than the first file")
        self._columns = columns
        counts = {len(data) for data in columns}
        if len(counts) > 1 or 0 in counts:
            raise self._error(path, f"has {sorted(counts)} rows in its data sets; expected one number, at least 1")
        self._rows = self._shuffled(list(range(counts.pop())))

    def _column(self, file: Any, name: str, path: Path) -> np.ndarray:
        if name.strip("/") not in file or "/" in name.strip("/"):
            raise self._error(path, f"has no data set {name!r}; it has {', '.join(sorted(file)) or 'none'}")
        if not isinstance(file.get(name, getlink=True), self._h5py.HardLink):
            raise self._error(path, f"has in the place of data set {name!r} a link, which is not followed")
        data = file[name]
        if not isinstance(data, self._h5py.Dataset):
            raise self._error(path, f"has a group {name!r}; expected a data set")
        if data.external or data.is_virtual:
            raise self._error(path, f"keeps data set {name!r} in other files, which are not read")
        if data.dtype.kind not in "fiu" or not data.shape:
            found = f"type {data.dtype} and shape {data.shape}"
            raise self._error(path, f"has in data set {name!r} {found}; expected rows of numbers")
        return np.asarray(data, np.float32)
