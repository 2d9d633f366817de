"""The base class of readers of real data, and the search for the files that a layer names."""

from __future__ import annotations

import importlib
import os.path
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffestat.errors import InputError
from caffestat.files import LARGEST_TEXT, read_regular
from caffestat.lazy import np

if TYPE_CHECKING:
    from caffestat.fillers import Stream
    from caffestat.layers import Layer, Shape

__all__ = ["DataUnavailableError", "Reader", "find", "quoted", "read", "require", "text_lines"]


_SUFFIXES = {".bmp", ".h5", ".hdf5", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


class DataUnavailableError(Exception):
    """The data is not available: a file or an optional package is missing. The message names it, not the layer."""


class Reader:
    """The data that a layer reads, batch by batch; subclasses read one kind of file.

    shapes: of each top, batch axis first; of the first batch, where they vary.
    varies: batches have shapes of their own: images of any size, one at a time, as Caffe takes them.
    Opening raises DataUnavailableError when the data is not available, NetError when it is damaged or does not fit the
    layer.
    """

    shapes: tuple[Shape, ...]
    varies = False
    is_independent = False  # shares no generator with others, so that it may be read ahead

    def __init__(self, layer: Layer, batch: int) -> None:
        self.layer = layer
        self.batch = layer.batch_override or batch
        if self.batch < 1:
            raise layer.error(f"batch_size is {batch}; expected at least 1")

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        """Go to the first record, as at the layer's set-up.

        words:  what the layer drew there, by what each word is for
        stream: gives the C library's generator, which HDF5Data shuffles with
        """
        raise NotImplementedError

    def next(self) -> Sequence[np.ndarray]:
        """Return the next batch: one float32 array per top. After the last record comes the first."""
        raise NotImplementedError

    def new_tops(self, values: Sequence[np.ndarray | int]) -> list[np.ndarray]:
        """Return arrays for a batch that begins with these values."""
        shapes = [(self.batch, *np.shape(value)) for value in values] if self.varies else self.shapes
        return [np.empty(shape, np.float32) for shape in shapes[: len(self.shapes)]]


def find(path: str, layer: Layer, *folders: Path, said: str = "") -> Path:
    """Return the path of a file a layer names: under the working directory as in Caffe, else beside the net's file.

    folders: other places to look in, tried last
    said:    how messages call it; by default the path in quotation marks

    Raises DataUnavailableError when it is in none.
    """
    if not path:
        raise DataUnavailableError("it names no source")
    beside = Path(layer.place.file).parent
    for folder in (Path(), beside, *folders):
        if os.path.exists(folder / path):  # unlike Path's, no error for a name that no file can have
            return folder / path
    also = "" if beside.resolve() == Path().resolve() else f", {str(beside)!r}"
    raise DataUnavailableError(f"file not found: {said or repr(path)} (searched: the working directory{also})")


def require(name: str, what: str, extra: str = "data") -> Any:
    """Return the optional module that reading `what` needs. Raises DataUnavailableError when it is not installed.

    extra: the extra of caffestat that installs it
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        message = f"reading {what} needs a package that is not installed: pip install 'caffestat[{extra}]'"
        raise DataUnavailableError(message) from error


def quoted(name: str, number: int, source: str) -> str:
    """Return the name of a listed file in messages, or its number where that is no data file's name.

    Any text file can be given as a list, and messages must not quote its lines.
    """
    return repr(name) if Path(name).suffix.lower() in _SUFFIXES else f"file {number} of {source!r}"


def read(path: Path, layer: Layer, limit: int = LARGEST_TEXT) -> bytes:
    """Return a file's bytes. Raises NetError for a file that is not regular, is too large or cannot be read."""
    try:
        return read_regular(path, limit)
    except InputError as error:
        raise layer.error(str(error)) from error
    except OSError as error:
        raise layer.error(f"{path}: cannot be read: {error.strerror}") from error


def text_lines(path: Path, layer: Layer) -> list[str]:
    """Return the lines of a list file that are not blank. Raises NetError when it cannot be read or has none."""
    return [line for line in all_lines(path, layer) if line.strip()]


def all_lines(path: Path, layer: Layer) -> list[str]:
    """Return the lines of a list file, blank ones too. Raises NetError when it cannot be read or has no other."""
    text = read(path, layer).decode("utf-8", "surrogateescape")
    if not text.strip():
        raise layer.error(f"{path}: lists nothing")
    return text.removesuffix("\n").split("\n")
