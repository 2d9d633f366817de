"""Layer types from outside: in Python files that the user names, and in installed packages that announce them."""

from __future__ import annotations

import importlib.util
import os.path
import sys
from functools import cache

from caffestat.errors import CaffestatError, InputError

__all__ = ["GROUP", "blame", "load_entry_points", "load_plugin", "loaded_plugins"]

GROUP = "caffestat.layers"

_places: dict[str, str] = {}  # files of plugins, and folders of those that are packages, as the user named them

_files: list[str] = []


def loaded_plugins() -> tuple[str, ...]:
    """Return the files of the plugins that were loaded, for other processes that are to know the same layer types."""
    return tuple(_files)


@cache
def load_plugin(path: str) -> None:
    """Run a Python file, once; the classes that it decorates with `@layer` are known from then on.

    Raises InputError with the line that fails.
    """
    place = os.path.realpath(path)
    if place in _places:
        return
    name = f"caffestat_plugin_{len(_places)}"
    spec = importlib.util.spec_from_file_location(name, place)
    if spec is None or spec.loader is None or not os.path.isfile(place):
        raise InputError(f"{path}: expected a Python file with layer types, named *.py")
    _places[place] = path
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        where = blame(error) or f"{path}: {_words(error)}"
        del _places[place]  # the file may be mended and loaded again
        if isinstance(error, CaffestatError):
            raise
        raise InputError(where) from error
    _files.append(place)


@cache
def load_entry_points() -> None:
    """Import what installed packages announce in the group `caffestat.layers`, once.

    Raises InputError with the line that fails.
    """
    from importlib import metadata  # here, for it takes long, and few nets need it

    for point in metadata.entry_points(group=GROUP):
        spec = importlib.util.find_spec(point.module.partition(".")[0])
        if spec and spec.origin:
            is_package = spec.submodule_search_locations is not None
            place = os.path.dirname(spec.origin) if is_package else spec.origin
            _places[os.path.realpath(place)] = place
        try:
            point.load()
        except CaffestatError:
            raise
        except (Exception, SystemExit) as error:
            where = blame(error) or _words(error)
            raise InputError(f"entry point {point.name!r} of group {GROUP} ({point.value}): {where}") from error


def blame(error: BaseException) -> str | None:
    """Return what went wrong in a plugin, and the line of it that was last run; None when it was not in a plugin."""
    if isinstance(error, SyntaxError) and error.filename and (file := _in_plugin(error.filename)):
        return f"{file}:{error.lineno}: {error.msg}"
    import traceback

    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if file := _in_plugin(frame.filename):
            return f"{file}:{frame.lineno}: in {frame.name}: {_words(error)}"
    return None


def _in_plugin(file: str) -> str | None:
    """Return the file's name for messages when it belongs to a plugin."""
    real = os.path.realpath(file)
    for place, named in _places.items():
        if real == place or real.startswith(place + os.sep):
            return named + real[len(place) :]
    return None


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
