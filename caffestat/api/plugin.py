"""`load_plugin`: layer types of the user's own."""

from __future__ import annotations

from pathlib import Path

__all__ = ["load_plugin"]


def load_plugin(path: str | Path) -> None:
    """Run a Python file whose `@layer` classes become layer types; docs/plugins.md shows one.

    Raises InputError, with the line that fails, when it cannot be run.
    """
    from caffestat.layers import load_plugin as load

    load(str(path))
