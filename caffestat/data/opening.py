"""Which reader a data layer has."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from .reader import AbsentError, Reader

if TYPE_CHECKING:
    from caffestat.layers import Layer

__all__ = ["open_reader"]


def open_reader(layer: Layer) -> Reader | None:
    """Return the reader of the data that a layer names; None for a layer whose type names none.

    Raises AbsentError when the data is not at hand, or of other shapes than the user asked for; NetError when it is
    damaged.
    """
    kind = _kind(layer.proto.type)
    reader = kind(layer) if kind else None
    for name, shape in zip(layer.proto.top, reader.shapes if reader else (), strict=False):
        asked = layer.shape_overrides.get(name, shape)
        if asked != shape:
            raise AbsentError(f"blob {name!r} has shape {shape} in the data, not {asked} as asked for")
    return reader


def _kind(type: str) -> Callable[[Layer], Reader] | None:
    # imported only here: most nets that are looked at have no such layer
    if type == "Data":
        from .database import DatumReader

        return DatumReader
    if type == "HDF5Data":
        from .hdf5 import HDF5Reader

        return HDF5Reader
    if type == "ImageData":
        from .image_list import ImageReader

        return ImageReader
    if type == "WindowData":
        from .windows import WindowReader

        return WindowReader
    return None
