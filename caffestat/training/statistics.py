"""Signals of a training run: mean |x| of blobs, gradients, weights and updates, and the file that keeps them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from caffestat.analysis import Measurement
from caffestat.errors import InputError
from caffestat.files import refuse_unwritable, replacing
from caffestat.net import Net

__all__ = ["QUANTITIES", "Signal", "SignalFile", "Sizes", "put_update", "signals_of"]

Sizes = dict[int, tuple[float, float]]
"""Mean |update| and mean |w| behind the update, by param."""

QUANTITIES = {
    "top": "mean |x| of a top blob",
    "bottom_diff": "mean |dx| of a bottom blob",
    "param": "mean |w| of a param",
    "param_diff": "mean |dw| of a param, before clipping, averaging and weight decay",
    "update": "mean |update| of a param: what was subtracted",
    "update_ratio": "mean |update| / mean |w|",
    "zeros": "share of zeros in the top of a ReLU",
    "saturated": "share of the top of a sigmoid or tanh where the slope is below a twentieth of the largest",
}
"""What is recorded."""


class Signal(NamedTuple):
    """Which number: a quantity of QUANTITIES, a layer, and a blob's name or a param's index."""

    quantity: str
    layer: str
    name: str

    def __str__(self) -> str:
        return f"{self.quantity}/{self.layer}/{self.name}"


def signals_of(net: Net, measured: Measurement, sizes: Sizes) -> dict[Signal, float]:
    """Return the signals of one iteration; an in-place layer's top replaces the one that it works on.

    sizes: of the updates, by owner param
    """
    found: dict[Signal, float] = {}
    for node in net.nodes:
        for top, blob in enumerate(node.tops):
            name = net.blobs[blob].name
            for quantity, source in (
                ("top", measured.tops),
                ("zeros", measured.zeros),
                ("saturated", measured.saturated),
            ):
                _put(found, Signal(quantity, node.name, name), source.get((node.index, top)))
        for index, blob in enumerate(node.bottoms):
            _put(
                found,
                Signal("bottom_diff", node.name, net.blobs[blob].name),
                measured.bottom_diffs.get((node.index, index)),
            )
        for index, number in enumerate(node.params):
            _put(found, Signal("param", node.name, str(index)), measured.params.get((node.index, index)))
            if net.params[number].param.is_statistic:
                continue  # it has no gradient
            _put(found, Signal("param_diff", node.name, str(index)), measured.param_diffs.get((node.index, index)))
            if number in sizes:
                put_update(found, node.name, index, *sizes[number])
    return found


def _put(found: dict[Signal, float], signal: Signal, value: float | None) -> None:
    if value is not None:
        found[signal] = value


def put_update(found: dict[Signal, float], layer: str, index: int, size: float, weight: float) -> None:
    """Add the signals of a param's update: mean |update| and its ratio to mean |w|."""
    found[Signal("update", layer, str(index))] = size
    if weight:
        found[Signal("update_ratio", layer, str(index))] = size / weight


class SignalFile:
    """Signals by iteration, written as one table: Parquet when the file's name says so, else a NumPy archive.

    The archive holds `iteration` [R], `quantity`, `layer` and `name` [S], and `values` [R, S], NaN where a signal was
    not measured. The Parquet table has a column `iteration` and one called quantity/layer/name for each signal.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix == ".parquet":
            _pyarrow(self.path)
        elif self.path.suffix != ".npz":
            raise InputError(f"{path}: expected a name that ends in .npz or .parquet")
        refuse_unwritable(path)
        self._iterations: list[int] = []
        self._rows: list[np.ndarray] = []  # each as long as there were signals by then
        self._signals: dict[Signal, int] = {}

    def add(self, iteration: int, values: Mapping[Signal, float]) -> None:
        """Add the signals of one iteration."""
        for signal in values:
            self._signals.setdefault(signal, len(self._signals))
        row = np.full(len(self._signals), np.nan, np.float32)
        row[[self._signals[signal] for signal in values]] = list(values.values())
        self._iterations.append(iteration)
        self._rows.append(row)

    def save(self) -> None:
        """Write all that was added; the file is replaced atomically. Raises InputError when it cannot be written."""
        table = np.full((len(self._rows), len(self._signals)), np.nan, np.float32)
        for number, row in enumerate(self._rows):
            table[number, : len(row)] = row
        with replacing(self.path) as fresh:
            (self._save_parquet if self.path.suffix == ".parquet" else self._save_npz)(fresh, table)

    def _save_npz(self, path: Path, table: np.ndarray) -> None:
        with path.open("wb") as file:
            columns = {field: np.array([getattr(s, field) for s in self._signals], str) for field in Signal._fields}
            np.savez_compressed(file, iteration=np.array(self._iterations), values=table, **columns)  # type: ignore[arg-type]

    def _save_parquet(self, path: Path, table: np.ndarray) -> None:
        arrow = _pyarrow(self.path)
        columns = {"iteration": np.array(self._iterations, np.int64)}
        columns |= {str(signal): table[:, column] for signal, column in self._signals.items()}
        importlib.import_module("pyarrow.parquet").write_table(arrow.table(columns), str(path))


def _pyarrow(path: Path) -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise InputError(f"{path}: Parquet needs pyarrow: pip install 'caffestat[parquet]', or write .npz") from error
