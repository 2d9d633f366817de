"""`upgrade`: a prototxt in the current format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caffestat.rewriting import Upgraded

__all__ = ["upgrade"]


def upgrade(path: str | Path, output: str | Path | None = None) -> Upgraded:
    """Return a net or solver prototxt in the current format: old layers, inputs and solver types are rewritten.

    path:   the file, "-" for the standard input
    output: a file to replace atomically, which may be the same; one that is current already is not replaced

    Raises a CaffestatError when the file is broken, or cannot be read or written.
    """
    from caffestat.files import Version, replace_file
    from caffestat.net.source import read_bytes
    from caffestat.rewriting import upgrade_text

    path = str(path)
    is_same = output is not None and os.path.realpath(output) == os.path.realpath(path)
    since = Version.of(path) if is_same else None
    data = read_bytes(path)
    upgraded = upgrade_text(data, "<stdin>" if path == "-" else path)
    if output is not None and (upgraded.data != data or not is_same):
        replace_file(output, upgraded.data, since)
    return upgraded
