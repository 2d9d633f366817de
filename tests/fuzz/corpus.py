"""The cases by kind and seed."""

from __future__ import annotations

import random
from collections.abc import Callable

from . import nets, stored, trained
from .cases import Case

__all__ = ["KINDS", "Case", "case"]

KINDS: dict[str, Callable[[random.Random], Case]] = {
    "net": nets.net,
    "solver": nets.solver,
    "caffemodel": stored.caffemodel,
    "onnx": stored.onnx,
    "log": trained.log,
    "images": stored.images,
    "hdf5": stored.rows,
    "lmdb": stored.records,
    "settings": nets.settings,
    "array": stored.array,
    "old": nets.old,
    "fork": nets.fork,
    "state": trained.state,
    "snapshot": trained.snapshot,
    "sweep": trained.sweep,
}


def case(kind: str, seed: int) -> Case:
    """Return the case of a kind and a seed, always the same."""
    return KINDS[kind](random.Random(f"{kind}{seed}"))
