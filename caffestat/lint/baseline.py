"""Baselines: the findings of today, so that only new ones fail a build."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable

from caffestat.errors import InputError
from caffestat.files import read_regular

from .issue import Issue

__all__ = ["Baseline", "read_baseline", "refuse_other", "to_baseline"]

VERSION = 1

Key = tuple[str, str, str, str]


class Baseline:
    """How often each finding is known, regardless of its line and its numbers."""

    def __init__(self, known: Counter[Key]) -> None:
        self._known = known

    def without_known(self, issues: Iterable[Issue]) -> list[Issue]:
        """Return the issues beyond those that are known."""
        left = self._known.copy()
        new = []
        for issue in issues:
            key = _key(issue)
            if left[key] > 0:
                left[key] -= 1
            else:
                new.append(issue)
        return new


def _key(issue: Issue) -> Key:
    """Return the issue's key, its file with forward slashes so that a baseline serves on every system."""
    file, *rest = issue.key
    return (file.replace(os.sep, "/"), *rest)  # type: ignore[return-value]


def to_baseline(issues: Iterable[Issue]) -> str:
    """Return the text of a baseline file that knows these issues."""
    counts = Counter(_key(issue) for issue in issues)
    known = [
        {"file": file, "code": code, "layer": layer, "message": message, "count": count}
        for (file, code, layer, message), count in sorted(counts.items())
    ]
    return json.dumps({"version": VERSION, "findings": known}, indent=2, ensure_ascii=False) + "\n"


def refuse_other(path: str) -> None:
    """Raise InputError for an existing file that is not a baseline, as in `--write-baseline *.prototxt`."""
    if os.path.isfile(path):
        try:
            read_baseline(path)
        except InputError as error:
            raise InputError(f"{path}: is not a baseline, and was not overwritten; name another file") from error


def read_baseline(path: str) -> Baseline:
    """Read a baseline file. Raises InputError when it cannot be read or is none."""
    try:
        data = json.loads(read_regular(path))
        entries = {(e["file"], e["code"], e["layer"], e["message"]): int(e["count"]) for e in data["findings"]}
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; create it with --write-baseline {path}") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(f"{path}: is not a baseline; create one with --write-baseline {path}") from error
    return Baseline(Counter(entries))
