"""Sweeps from files, and the nets that they name."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caffestat.errors import InputError
from caffestat.files import read_regular
from caffestat.layers import loaded_plugins
from caffestat.options import DATA, NetOptions, RunOptions, ValueOptions
from caffestat.program import NetFile, NetProgram, open_file

from .bench import Settings
from .shipped import texts_of
from .trial import Sweep, as_seeds
from .variants import refuse_unknown

__all__ = ["read_sweep", "settings_of"]

_LISTS = {"filler": "fillers", "width": "widths", "lr": "rates", "solver": "solvers"}
_PLAIN = ("iterations", "batch", "shapes", "data")
_TEXT, _WHOLE, _NUMBER = (str,), (int,), (int, float)
_VALUES: dict[str, tuple[tuple[type, ...], str]] = {
    "nets": (_TEXT, "names of nets or solvers"),
    "filler": (_TEXT, "names of fillers"),
    "solver": (_TEXT, "types of solvers"),
    "width": (_NUMBER, "numbers"),
    "lr": (_NUMBER, "numbers"),
}


def read_sweep(path: str) -> dict[str, Any]:
    """Return what a sweep.toml says, as the arguments of `Sweep`. Nets are looked for beside the file.

    Raises InputError when it cannot be read, and for keys that no sweep has.
    """
    try:
        data = _toml(read_regular(path).decode("utf-8-sig"), path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}; expected a sweep.toml") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected a sweep.toml, found bytes that are not UTF-8") from error
    known = ("nets", "seeds", "set", *_LISTS, *_PLAIN)
    for key in data:
        if key not in known:
            raise InputError(f"{path}: unknown key {key!r}; expected one of {', '.join(known)}")
    _check(data, path)
    given: dict[str, Any] = {name: data[name] for name in _PLAIN if name in data}
    given |= {_LISTS[name]: _list(data[name]) for name in _LISTS if name in data}
    if "nets" in data:
        given["nets"] = [str(Path(path).parent / name) for name in _list(data["nets"])]
    if "seeds" in data:
        given["seeds"] = as_seeds(data["seeds"]) if isinstance(data["seeds"], str) else _list(data["seeds"])
    if "set" in data:
        given["changes"] = {name: list(map(_spelled, _list(values))) for name, values in data["set"].items()}
    return given


def _check(data: Mapping[str, Any], path: str) -> None:
    """Raise InputError for a value of another type than its key takes."""

    def expect(key: str, fits: bool, what: str) -> None:
        if not fits:
            raise InputError(f"{path}: {key}: expected {what}, found {data[key]!r}")

    for key, (types, what) in _VALUES.items():
        expect(key, key not in data or all(_is_a(value, types) for value in _list(data[key])), what)
    seeds, shapes, changes = data.get("seeds", 0), data.get("shapes", {}), data.get("set", {})
    expect("seeds", isinstance(seeds, str) or all(map(_is_seed, _list(seeds))), '"0:20" or numbers from 0 to 2**32 - 1')
    expect("iterations", _is_a(data.get("iterations", 0), _WHOLE), "a whole number")
    expect("batch", _is_size(data.get("batch", 1)), "a whole number of 1 or more")
    expect("data", data.get("data", "real") in DATA, f"one of {', '.join(DATA)}")
    is_table = isinstance(shapes, dict) and all(map(_is_shape, shapes.values()))
    expect("shapes", is_table, "a table of blobs, each with its sizes, such as { data = [2, 3, 8, 8] }")
    is_table = isinstance(changes, dict) and all(map(_is_plain, changes.values()))
    expect("set", is_table, 'a table of values by path, such as "conv*.weight_filler.std" = [0.1, 0.2]')


def _is_a(value: Any, types: tuple[type, ...]) -> bool:
    return isinstance(value, types) and not isinstance(value, bool)


def _is_seed(value: Any) -> bool:
    return _is_a(value, _WHOLE) and 0 <= value < 2**32


def _is_size(value: Any) -> bool:
    return _is_a(value, _WHOLE) and value >= 1


def _is_shape(sizes: Any) -> bool:
    return isinstance(sizes, list) and bool(sizes) and all(map(_is_size, sizes))


def _is_plain(values: Any) -> bool:
    return all(isinstance(value, (str, int, float)) for value in _list(values))


def _spelled(value: str | float) -> str:
    """Return a value as prototxt spells it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _toml(text: str, path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: {error}") from error


def _list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def settings_of(sweep: Sweep, device: str = "cpu", data: str = "synthetic", dialect: str | None = None) -> Settings:
    """Read the nets of a sweep. Raises a CaffestatError when one cannot be read or is broken, or an option is wrong.

    data: one of `options.DATA`; with "auto" the nets all of whose data layers have files here read them everywhere
    """
    RunOptions(device=device)
    refuse_unknown(sweep)
    options = NetOptions(shapes=sweep.shapes, batch=sweep.batch, data=data, dialect=dialect)
    files = {name: open_file(name) for name in sweep.nets}
    real = frozenset(name for name, file in files.items() if data != "synthetic" and _has_files(file, options))
    texts = {name: texts_of(file) for name, file in files.items()}
    return Settings(texts, options.shapes, sweep.batch, device, real, dialect, loaded_plugins())


def _has_files(file: NetFile, options: NetOptions) -> bool:
    program = file.program(options, ValueOptions())
    return options.data == "real" or (_reads(program) and not program.synthetic(()))


def _reads(program: NetProgram) -> bool:
    return any(node.layer.reader for node in program.net.nodes)
