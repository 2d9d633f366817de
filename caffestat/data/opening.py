"""Which reader a data layer has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .database import DatumReader
from .hdf5 import HDF5Reader
from .image_list import ImageReader
from .reader import AbsentError, Reader
from .windows import WindowReader

if TYPE_CHECKING:
    from caffestat.layers import Layer

__all__ = ["open_reader"]

_READERS: dict[str, type[DatumReader] | type[HDF5Reader] | type[ImageReader] | type[WindowReader]] = {
    "Data": DatumReader,
    "HDF5Data": HDF5Reader,
    "ImageData": ImageReader,
    "WindowData": WindowReader,
}


def open_reader(layer: Layer) -> Reader | None:
    """Return the reader of the data that a layer names; None for a layer whose type names none.

    Raises AbsentError when the data is not at hand, or of other shapes than the user asked for; NetError when it is
    damaged.
    """
    kind = _READERS.get(layer.proto.type)
    reader = kind(layer) if kind else None
    for name, shape in zip(layer.proto.top, reader.shapes if reader else (), strict=False):
        asked = layer.shape_overrides.get(name, shape)
        if asked != shape:
            raise AbsentError(f"blob {name!r} has shape {shape} in the data, not {asked} as asked for")
    return reader
