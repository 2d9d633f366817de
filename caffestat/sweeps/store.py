"""The results of a sweep on disk: a folder of Parquet files, each written as a whole."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from caffestat.errors import InputError

from .rows import COLUMNS, Row, columns_of
from .trial import Trial

__all__ = ["Store", "need_arrow"]


def need_arrow() -> Any:
    """Import pyarrow. Raises InputError that says how to install it."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("sweeps store their results through pyarrow: pip install 'caffestat[sweep]'") from error
    return pyarrow


class Finished:
    """A set of the ids of trials, in eight bytes each."""

    def __init__(self, ids: np.ndarray) -> None:
        self._ids = ids

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, trial: str) -> bool:
        wanted = np.uint64(int(trial, 16))
        at = int(np.searchsorted(self._ids, wanted))
        return at < len(self._ids) and bool(self._ids[at] == wanted)


class Store:
    """A folder that trials are appended to; its files together are one Parquet data set.

    Raises InputError when the folder holds results and `resume` is not asked for, or cannot be used.
    """

    def __init__(self, folder: Path, resume: bool = False) -> None:
        self.folder = folder
        self._arrow = need_arrow()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in folder.glob("part-*.unfinished"):
                path.unlink()
            self.files = sorted(folder.glob("part-*.parquet"))
        except OSError as error:
            raise InputError(f"{folder}: cannot be used for results: {error.strerror or error}") from error
        if self.files and not resume:
            raise InputError(f"{folder}: already holds results; use --resume to continue, or name another folder")
        self._next = 1 + max((int(path.stem.split("-")[1]) for path in self.files), default=-1)

    def finished(self) -> Finished:
        """Return the ids of the trials that are stored whole."""
        found = [np.empty(0, np.uint64)]
        for path in self.files:
            table = self._arrow.parquet.read_table(path, columns=["trial", "kind"])
            kinds = table["kind"].to_pylist()
            names = [n for n, kind in zip(table["trial"].to_pylist(), kinds, strict=True) if kind == "seconds"]
            found.append(np.array([int(name, 16) for name in names], np.uint64))
        return Finished(np.unique(np.concatenate(found)))

    def append(self, results: Sequence[tuple[Trial, Sequence[Row]]]) -> None:
        """Write the rows of some trials: all of them, or after a crash none."""
        if not results:
            return
        path = self.folder / f"part-{self._next:06d}.parquet"
        self._next += 1
        schema = self._arrow.schema([(name, kind) for name, kind in COLUMNS.items()])
        table = self._arrow.table(columns_of(results), schema=schema)
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            self._arrow.parquet.write_table(table, file)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        self.files.append(path)

    def results(self) -> Iterator[tuple[Trial, list[Row]]]:
        """Yield the stored trials file by file, so that memory does not grow with their number."""
        for path in self.files:
            records = self._arrow.parquet.read_table(path).to_pylist()
            for _, group in groupby(records, key=lambda record: record["trial"]):
                rows = list(group)
                yield _trial(rows[0]), [Row(**{name: record[name] for name in _ROW}) for record in rows]


_ROW = [field.name for field in fields(Row)]


def _trial(record: dict[str, Any]) -> Trial:
    rate = None if math.isnan(record["rate"]) else record["rate"]
    changes = tuple(json.loads(record["changes"]).items())
    names = ("net", "seed", "filler", "width", "solver")
    return Trial(**{name: record[name] for name in names}, changes=changes, rate=rate, iterations=record["iterations"])
