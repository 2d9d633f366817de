"""The results of a sweep on disk: a folder of Parquet files, each written as a whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from functools import partial
from itertools import count, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from caffestat.errors import InputError
from caffestat.files import create_file, reserved

from .rows import COLUMNS, Row, columns_of
from .trial import Trial

__all__ = ["Store", "need_arrow", "stored"]


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


@contextmanager
def stored(folder: Path, resume: bool = False) -> Iterator[Store]:
    """Yield the store in a folder, which no other process writes to meanwhile. Raises InputError as `Store` does."""
    with reserved(folder):
        yield Store(folder, resume)


class Store:
    """A folder that trials are appended to; its files together are one Parquet data set.

    Raises InputError when the folder holds results and `resume` is not asked for.
    """

    def __init__(self, folder: Path, resume: bool = False) -> None:
        self.folder = folder
        self._arrow = need_arrow()
        self.files = sorted(folder.glob("part-*.parquet"))
        if self.files and not resume:
            raise InputError(f"{folder}: already holds results; use --resume to continue, or name another folder")

    def finished(self) -> Finished:
        """Return the ids of the trials that are stored whole."""
        return Finished(np.unique(np.concatenate([np.empty(0, np.uint64), *map(self._finished_in, self.files)])))

    def _finished_in(self, path: Path) -> np.ndarray:
        with _parts(path):
            table = self._arrow.parquet.read_table(path, columns=["trial", "kind"])
            kinds = table["kind"].to_pylist()
            names = [n for n, kind in zip(table["trial"].to_pylist(), kinds, strict=True) if kind == "seconds"]
            return np.array([int(name, 16) for name in names], np.uint64)

    def append(self, results: Sequence[tuple[Trial, Sequence[Row]]]) -> None:
        """Write the rows of some trials: all of them, or after a crash none."""
        if not results:
            return
        schema = self._arrow.schema([(name, kind) for name, kind in COLUMNS.items()])
        table = self._arrow.table(columns_of(results), schema=schema)
        names = (self.folder / f"part-{number:06d}.parquet" for number in count(len(self.files)))
        write = partial(self._arrow.parquet.write_table, table)
        self.files.append(create_file(self.folder / "part", names, write))

    def results(self) -> Iterator[tuple[Trial, list[Row]]]:
        """Yield the stored trials file by file, so that memory does not grow with their number."""
        for path in self.files:
            yield from self._results_in(path)

    def _results_in(self, path: Path) -> list[tuple[Trial, list[Row]]]:
        with _parts(path):
            records = self._arrow.parquet.read_table(path).to_pylist()
            groups = [list(group) for _, group in groupby(records, key=itemgetter("trial"))]
            return [(_trial(rows[0]), [Row(**{name: row[name] for name in _ROW}) for row in rows]) for rows in groups]


@contextmanager
def _parts(path: Path) -> Iterator[None]:
    """Raise InputError for a file that holds no results of a sweep."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:  # ValueError: Arrow's own, too
        raise InputError(f"{path}: holds no results of a sweep, or is damaged: {error}; move it away") from error


_ROW = [field.name for field in fields(Row)]


def _trial(record: dict[str, Any]) -> Trial:
    rate = None if math.isnan(record["rate"]) else record["rate"]
    changes = tuple(json.loads(record["changes"]).items())
    names = ("net", "seed", "filler", "width", "solver")
    return Trial(**{name: record[name] for name in names}, changes=changes, rate=rate, iterations=record["iterations"])
