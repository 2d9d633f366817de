"""Which reader a data layer has."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING

from .reader import DataUnavailableError, Reader

if TYPE_CHECKING:
    from caffestat.layers import Layer

__all__ = ["KINDS", "open_reader", "register_reader"]

KINDS = {
    "annotated": ("annotated", "AnnotatedReader"),
    "boxes": ("boxes", "BoxReader"),
    "grids": ("boxes", "GridReader"),
    "dense": ("label_maps", "DenseReader"),
    "edges": ("label_maps", "EdgeReader"),
    "snippets": ("videos", "SegmentReader"),
    "segments": ("label_maps", "SegReader"),
    "window_segments": ("label_maps", "WindowSegReader"),
    "flows": ("flow_records", "FlowReader"),
    "frames": ("frames", "FrameReader"),
    "clips": ("videos", "ClipReader"),
    "database": ("database", "DatumReader"),
    "hdf5": ("hdf5", "HDF5Reader"),
    "images": ("image_list", "ImageReader"),
    "mat": ("mat", "MatReader"),
    "scenes": ("scenes", "SceneReader"),
    "windows": ("windows", "WindowReader"),
}
"""The module and the class of each kind of reader, by what `Layer.data_kind` names."""


_ADDED: dict[str, type[Reader]] = {}


def register_reader(kind: str, reader: type[Reader]) -> None:
    """Register a kind of reader from outside of the package. Raises ValueError when the kind is taken."""
    if kind in KINDS or kind in _ADDED:
        raise ValueError(f"a reader of kind {kind!r} is registered already")
    _ADDED[kind] = reader


def open_reader(layer: Layer) -> Reader | None:
    """Return the reader of the data that a layer names; None for a layer whose type names none.

    Raises DataUnavailableError when the data is not available, or of other shapes than the user asked for; NetError
    when it is damaged.
    """
    if layer.why_unread:
        raise DataUnavailableError(layer.why_unread)
    reader = _reader(layer)(layer) if layer.data_kind else None
    for name, shape in zip(layer.proto.top, reader.shapes if reader else (), strict=False):
        asked = layer.shape_overrides.get(name, shape)
        if asked != shape:
            raise DataUnavailableError(f"blob {name!r} has shape {shape} in the data, not {asked} as asked for")
    return reader


def _reader(layer: Layer) -> Callable[[Layer], Reader]:
    kind = layer.data_kind
    if kind in _ADDED:
        return _ADDED[kind]
    if kind not in KINDS:
        known = ", ".join(sorted((*KINDS, *_ADDED)))
        raise layer.error(f"its class {type(layer).__qualname__} names a reader {kind!r}; expected one of {known}")
    # imported only here: most nets that are looked at have no such layer
    module, name = KINDS[kind]
    reader: Callable[[Layer], Reader] = getattr(import_module(f".{module}", __package__), name)
    return reader
