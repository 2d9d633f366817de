"""A net's params as files of every format: Caffe's, numpy archives, ONNX models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from caffestat.errors import InputError
from caffestat.lazy import np
from caffestat.net import Net, Node
from caffestat.net.save import WRITERS, Values, Writer

__all__ = ["FORMATS", "save"]


def _save_onnx(path: Path, net: Net, values: Values, nodes: Sequence[Node]) -> None:
    """The whole net, whatever `nodes`."""
    from caffestat.graph.external import save as save_model

    from .export import to_onnx

    save_model(to_onnx(net, values), path)


FORMATS: dict[str, Writer] = {**WRITERS, ".onnx": _save_onnx}
"""How each kind of file is written, by the end of its name."""


def save(net: Net, values: Sequence[np.ndarray], path: str | Path, nodes: Sequence[Node] | None = None) -> None:
    """Write the params of `nodes` (default: all) in the format that the end of the file's name says.

    values: float32 arrays by index in `net.params`. Raises InputError for an unknown format, for what the format cannot
    hold, and when the file cannot be written.
    """
    path = Path(path)
    writer = FORMATS.get(path.suffix)
    if writer is None:
        expected, found = ", ".join(FORMATS), path.suffix or "none"
        raise InputError(f"{path}: expected a name that ends in one of {expected}, found {found}")
    writer(path, net, values, net.nodes if nodes is None else nodes)
