"""A net's initial values, with what decided them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from caffestat.errors import Finding, InputError
from caffestat.escape import visible
from caffestat.fillers import Density, Filler, Normal, Stream, Uniform, density, fan, filler_type
from caffestat.net import Net, Node, draw_params
from caffestat.program.save import save
from caffestat.rewriting.methods import apply_to_net
from caffestat.rewriting.net_params import place_of, refill
from caffestat.rewriting.selection import Change

if TYPE_CHECKING:
    from caffestat.initialization.curves import Curves

__all__ = ["Filled", "FilledParam", "fill_net", "table"]

_SHOWN = 4
_HEADER = ("layer", "type", "param", "shape", "filler", "n", "scale", "std", "first values")


@dataclass(frozen=True)
class FilledParam:
    """One param: its filler and its float32 values.

    n      what xavier and msra divide by: Caffe's fan, from the blob's shape; None for other fillers
    scale  half the width of a uniform distribution, None for others
    std    the standard deviation of what the filler draws from; that of the values where there is no formula
    """

    layer: str
    type: str
    index: int
    role: str
    filler: Filler
    values: np.ndarray

    @property
    def n(self) -> float | None:
        kind = filler_type(self.filler.type)
        return float(fan(self.values.shape, self.filler.variance_norm)) if kind and kind.by_fan else None

    @property
    def _density(self) -> Density | None:
        """What the filler draws from; None for methods that are no filler of Caffe's."""
        return density(self.filler, self.values.shape) if filler_type(self.filler.type) else None

    @property
    def scale(self) -> float | None:
        found = self._density
        return found.scale if isinstance(found, Uniform) and found.is_exact else None

    @property
    def std(self) -> float:
        if self.scale is not None:
            return self.scale / math.sqrt(3)
        found = self._density
        if isinstance(found, Normal):
            return found.std if found.kept == 1 else math.sqrt(found.variance)
        return float(np.std(self.values, dtype=np.float64))


@dataclass(frozen=True)
class Filled:
    """A net and its values by index in `net.params`.

    nodes   the layers that were asked for
    notes   what could not be decided or done
    curves  signal and gradient before and after, where a method chose the weights
    """

    net: Net
    values: Sequence[np.ndarray]
    nodes: Sequence[Node]
    notes: Sequence[Finding | str]
    curves: Curves | None = None

    @property
    def params(self) -> list[FilledParam]:
        """The params of the chosen layers, in Caffe's order."""
        return list(self._params())

    def _params(self) -> Iterator[FilledParam]:
        for node in self.nodes:
            for index, number in enumerate(node.params):
                param = self.net.params[number].param
                yield FilledParam(node.name, node.type, index, param.role, param.filler, self.values[number])

    def save(self, path: str | Path) -> None:
        """Write a .caffemodel, .npz, .h5 or .onnx; see `program.save`."""
        save(self.net, self.values, path, self.nodes)

    def __str__(self) -> str:
        return table(self.params)


def table(params: Sequence[FilledParam]) -> str:
    """Return the params as text: a line each."""
    rows = [_HEADER, *(_row(param) for param in params)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "".join(f"{line.rstrip()}\n" for line in lines)


def _row(param: FilledParam) -> tuple[str, ...]:
    values = param.values.ravel()
    more = " …" if values.size > _SHOWN else ""
    return (
        visible(param.layer),
        visible(param.type),
        f"{param.index} {param.role}",
        "×".join(str(axis) for axis in param.values.shape) or "1",
        visible(param.filler.type),
        _text(param.n),
        _text(param.scale),
        _text(param.std),
        " ".join(f"{value:.6g}" for value in values[:_SHOWN]) + more,
    )


def _text(number: float | None) -> str:
    return "–" if number is None else f"{number:.6g}"


def fill_net(net: Net, change: Change, seed: int, assume_filler: str | None = None) -> Filled:
    """Draw a net's initial values as Caffe does with this random_seed.

    change         policies that replace fillers of the file, and which layers are wanted: all when it selects none
    assume_filler  the type for weights that have no filler, as in `net.draw_params`

    Raises InputError when no layer is selected, NetError when a filler cannot fill its blob.
    """
    refilled = refill(net, change)
    notes: list[str] = []
    nodes = net.nodes if not change.is_selective else [node for node in net.nodes if _is_wanted(net, node, change)]
    if not nodes:
        raise InputError("no layer with params is selected; see --layer, --type and --exclude")
    values = draw_params(net, Stream(seed), assume_filler)
    applied = apply_to_net(net, change, values, seed, notes)
    return Filled(net, values, nodes, [*refilled.notes, *notes], applied.curves or refilled.curves)


def _is_wanted(net: Net, node: Node, change: Change) -> bool:
    return any(change.selects(place_of(net, number)) for number in node.params)
