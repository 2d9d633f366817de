"""The settings of a project: `[caffestat]` in caffestat.cfg, or `[caffestat:check]` in setup.cfg.

The nearest caffestat.cfg or setup.cfg with such a section counts, from the working directory upwards to the folder that
holds `.git`.
"""

from __future__ import annotations

import configparser
from dataclasses import dataclass, field
from pathlib import Path

from caffestat.errors import InputError
from caffestat.files import read_regular
from caffestat.options import SEVERITIES, number, one_of

from .context import Limits
from .registry import selected

__all__ = ["Config", "find_config", "read_config"]

_SECTIONS = {"caffestat.cfg": "caffestat", "setup.cfg": "caffestat:check"}
_KEYS = ("select", "ignore", "severity", "baseline")


@dataclass(frozen=True)
class Config:
    """What a project's file says; paths in it are relative to its folder."""

    select: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    severity: str | None = None
    baseline: str | None = None
    limits: Limits = field(default_factory=Limits)


def find_config(folder: Path) -> Config:
    """Return the settings that hold in a folder; the defaults when no file has any."""
    for place in (folder, *folder.parents):
        for name in _SECTIONS:
            found = read_config(place / name)
            if found is not None:
                return found
        if (place / ".git").exists():
            break
    return Config()


def read_config(path: Path) -> Config | None:
    """Return the settings of a file, None when it is not there or has no section for caffestat.

    Raises InputError for a key or value that means nothing, and for a section that has another name.
    """
    parser = configparser.ConfigParser(interpolation=None)
    if not path.exists():
        return None
    try:
        parser.read_string(read_regular(path).decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except configparser.ParsingError as error:
        line = getattr(error, "lineno", None) or error.errors[0][0]
        raise InputError(f"{path}:{line}: expected [section] or key = value") from error
    except (configparser.Error, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    section = _SECTIONS.get(path.name, "caffestat")
    if section in parser:
        return _config(path, dict(parser[section]))
    if meant := [name for name in parser.sections() if path.name != "setup.cfg" or name.startswith("caffestat")]:
        raise InputError(f"{path}: expected a section [{section}], found [{meant[0]}]")
    return None


def _config(path: Path, values: dict[str, str]) -> Config:
    limits = {name.replace("-", "_"): text for name, text in values.items() if name not in _KEYS}
    unknown = [name for name in limits if name not in Limits.names()]
    if unknown:
        known = ", ".join((*_KEYS, *Limits.names()))
        raise InputError(f"{path}: unknown key {unknown[0]!r}; expected one of {known}")
    severity = values.get("severity")
    if severity is not None:
        one_of(f"{path}: severity", severity, SEVERITIES)
    baseline = values.get("baseline")
    select, ignore = (_words(values.get(key, "")) for key in ("select", "ignore"))
    try:
        selected(select, ignore)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return Config(
        select,
        ignore,
        severity,
        str(path.parent / baseline) if baseline else None,
        Limits(**{name: _number(path, name, text) for name, text in limits.items()}),
    )


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _number(path: Path, name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise InputError(f"{path}: {name}: expected a number, found {text!r}") from None
    return number(f"{path}: {name}", value)
