"""The checks by code, and what each needs before it can run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caffestat.errors import InputError, Place
from caffestat.options import SEVERITIES

from .issue import Edits, Issue

if TYPE_CHECKING:
    from .context import Ran

__all__ = ["Check", "Needs", "all_checks", "check", "find_check", "selected"]

Finds = Iterable["Found"]


@dataclass(frozen=True)
class Found:
    """What a check function yields: an Issue without what the registry knows."""

    place: Place
    layer: str
    message: str
    fix: str
    numbers: dict[str, float] | None = None
    edits: Edits | None = None
    severity: str | None = None
    cause: str = ""


class Needs:
    """What must be there before a check can run, the later including the earlier."""

    TEXT, NET, PREDICTION, RUN = range(4)


@dataclass(frozen=True)
class Check:
    """One check: its stable code, its name, how bad what it finds is, and its page in the documentation.

    of_models: it looks at any program that was run, so that it takes ONNX models too
    """

    code: str
    name: str
    severity: str
    needs: int
    find: Callable[[Any], Finds]
    of_models: bool = False

    @property
    def page(self) -> str:
        """What it looks for, why, an example and the fix, as Markdown."""
        return inspect.cleandoc(self.find.__doc__ or "")

    @property
    def summary(self) -> str:
        """The first line of its page."""
        return self.page.partition("\n")[0]

    def issues(self, context: Ran) -> Iterator[Issue]:
        """Yield what it finds."""
        for found in self.find(context):
            severity = found.severity or self.severity
            rest = (found.place, found.layer, found.message, found.fix, found.numbers or {}, found.edits, found.cause)
            yield Issue(self.code, self.name, severity, *rest)


_CHECKS: dict[str, Check] = {}


def check(
    code: str, name: str, severity: str, needs: int, of_models: bool = False
) -> Callable[[Callable[[Any], Finds]], Check]:
    """Register a check; the function's docstring is its page. Raises ValueError when code or name are taken."""

    def register(find: Callable[[Any], Finds]) -> Check:
        if code in _CHECKS or any(other.name == name for other in _CHECKS.values()):
            raise ValueError(f"check {code} or the name {name!r} is registered already")
        if severity not in SEVERITIES:
            raise ValueError(f"unknown severity {severity!r}")
        _CHECKS[code] = Check(code, name, severity, needs, find, of_models)
        return _CHECKS[code]

    return register


def all_checks() -> tuple[Check, ...]:
    """Return all checks by code."""
    from . import checks  # noqa: F401  registers them

    return tuple(_CHECKS[code] for code in sorted(_CHECKS))


def find_check(word: str) -> Check:
    """Return the check of a code or name, in any case. Raises InputError when there is none."""
    for found in all_checks():
        if word.lower() in (found.code.lower(), found.name):
            return found
    first, last = all_checks()[0].code, all_checks()[-1].code
    raise InputError(f"unknown check {word!r}; expected a code from {first} to {last}, or a name")


def selected(select: Iterable[str], ignore: Iterable[str]) -> tuple[Check, ...]:
    """Return the checks to run: those of `select` (all when empty) but not of `ignore`; CS01 selects CS010 to CS019.

    Raises InputError for a word that fits no check.
    """
    wanted, unwanted = (_matching(words) for words in (select, ignore))
    return tuple(c for c in all_checks() if (not wanted or c in wanted) and c not in unwanted)


def _matching(words: Iterable[str]) -> set[Check]:
    found: set[Check] = set()
    for word in words:
        fitting = {c for c in all_checks() if c.code.startswith(word.upper()) or c.name == word.lower()}
        if not fitting:
            raise InputError(f"{word}: matches no check; expected codes (CS012), code prefixes (CS01) or names")
        found |= fitting
    return found
