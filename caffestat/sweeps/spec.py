"""Sweeps from files, and the nets that they name."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from caffestat.errors import InputError
from caffestat.files import read_regular
from caffestat.program import open_file

from .bench import Settings
from .trial import Sweep, as_seeds

__all__ = ["read_sweep", "settings_of"]

_LISTS = {"filler": "fillers", "width": "widths", "lr": "rates", "solver": "solvers"}
_PLAIN = ("iterations", "batch", "shapes")


def read_sweep(path: str) -> dict[str, Any]:
    """Return what a sweep.toml says, as the arguments of `Sweep`. Nets are looked for beside the file.

    Raises InputError when it cannot be read, and for keys that no sweep has.
    """
    try:
        data = _toml(read_regular(path).decode(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}; expected a sweep.toml") from error
    known = ("nets", "seeds", "set", *_LISTS, *_PLAIN)
    for key in data:
        if key not in known:
            raise InputError(f"{path}: unknown key {key!r}; expected one of {', '.join(known)}")
    given: dict[str, Any] = {name: data[name] for name in _PLAIN if name in data}
    given |= {_LISTS[name]: _list(data[name]) for name in _LISTS if name in data}
    if "nets" in data:
        given["nets"] = [str(Path(path).parent / name) for name in _list(data["nets"])]
    if "seeds" in data:
        given["seeds"] = as_seeds(data["seeds"]) if isinstance(data["seeds"], str) else _list(data["seeds"])
    if "set" in data:
        given["changes"] = {name: list(map(str, _list(values))) for name, values in data["set"].items()}
    return given


def _toml(text: str, path: str) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        try:
            import tomli as tomllib
        except ImportError as error:
            raise InputError("sweep files need tomli: pip install 'caffestat[sweep]'") from error
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: {error}") from error


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def settings_of(sweep: Sweep, device: str = "cpu") -> Settings:
    """Read the nets of a sweep. Raises a CaffestatError when one cannot be read or is broken."""
    return Settings({name: _texts(name) for name in sweep.nets}, _shapes(sweep.shapes), sweep.batch, device)


def _texts(path: str) -> tuple[bytes, ...]:
    file = open_file(path)
    texts = [bytes(file.text)]
    named: Iterable[str] = (file.source.name,) if file.solver is not None else ()
    return (*texts, *(read_regular(name) for name in named if name != path))


def _shapes(shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(shape) for name, shape in shapes.items()}
