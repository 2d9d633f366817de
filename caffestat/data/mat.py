"""Arrays in MATLAB's .mat files, and the blobs in files of DeepLab's MatRead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffestat.fillers import Stream
from caffestat.lazy import np

from .reader import Reader, find, require, text_lines

if TYPE_CHECKING:
    from caffestat.layers import Layer

__all__ = ["MatReader", "array_in"]


def array_in(path: Path, name: str, layer: Layer) -> Any:
    """Return the variable of that name in a .mat file. Raises NetError when it has none or is damaged.

    Files of MATLAB 7.3, which are HDF5, are refused. Raises DataUnavailableError without SciPy.
    """
    scipy = require("scipy.io", ".mat files", "mat")
    try:
        return scipy.loadmat(path, variable_names=(name,))[name]
    except KeyError:
        raise layer.error(f"{path}: expected a variable {name!r}, found none") from None
    except NotImplementedError:
        raise layer.error(f"{path}: is of MATLAB 7.3; save it with -v7") from None
    except Exception as error:  # of damaged files the library raises almost any
        raise layer.error(f"{path}: cannot be read as a .mat file: {error}") from error


class MatReader(Reader):
    """Blobs (N, C, H, W), each item from a file PREFIX NAME _blob_TOP.mat whose `data` is [W, H, C] in MATLAB's order.

    NAME is a word of the source, without the last `strip` characters, or iter_I, counted from 0.
    (TheLegendAli/DeepLab-Context, mat_read_layer.cpp, Blob::FromMat)
    """

    is_independent = True

    def __init__(self, layer: Layer) -> None:
        self._param = layer.added.mat_read_param
        super().__init__(layer, self._param.batch_size)
        self._names = self._listed() if self._param.source else None
        self._next = 0
        self.shapes = tuple((self.batch, *item.shape) for item in self._item(0))

    def _listed(self) -> list[str]:
        names = [line.split()[0] for line in text_lines(find(self._param.source, self.layer), self.layer)]
        strip = self._param.strip
        if strip < 0 or min(map(len, names)) <= strip:
            raise self.layer.error(
                f"strip is {strip}; expected from 0 to less than the length of each name in the list"
            )
        return [name[: len(name) - strip] for name in names]

    def _item(self, index: int) -> list[np.ndarray]:
        name = self._names[index % len(self._names)] if self._names else f"iter_{index}"
        return [self._blob(f"{self._param.prefix}{name}_blob_{top}.mat") for top in range(self.layer.top_count)]

    def _blob(self, path: str) -> np.ndarray:
        found = np.asarray(array_in(find(path, self.layer), "data", self.layer), np.float32)
        blob = found.T.reshape(*(1,) * max(4 - found.ndim, 0), *found.shape[::-1])
        if blob.ndim > 4 or blob.shape[0] != 1:
            raise self.layer.error(
                f"{path}: expected one item of at most 4 axes, found shape {found.shape} (W, H, C, N)"
            )
        return blob[0]

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        self._next = 0

    def next(self) -> Sequence[np.ndarray]:
        items = [self._item(self._next + step) for step in range(self.batch)]
        self._next += self.batch
        for item in items:
            for blob, shape in zip(item, self.shapes, strict=True):
                if blob.shape != shape[1:]:
                    raise self.layer.error(
                        f"expected blobs of shape {shape[1:]}, as the first file has, found {blob.shape}"
                    )
        return [np.stack(blobs) for blobs in zip(*items, strict=True)]
