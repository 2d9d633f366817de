"""Nets to try: those of this repository, and real files of other projects, which lie elsewhere if anywhere."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["CORPUS", "FOLDERS", "REAL", "ROOT", "files_in"]

ROOT = Path(__file__).resolve().parents[1]
CORPUS = Path(os.environ.get("CAFFESTAT_CORPUS", ROOT.parent / "shared" / "corpus"))
FOLDERS = (ROOT / "tests" / "golden", ROOT / "models", CORPUS)


def files_in(folder: Path) -> list[Path]:
    """Return the nets and solvers in a folder, sorted; none where there is no such folder."""
    return [path for path in sorted(folder.rglob("*")) if path.suffix in (".prototxt", ".pt")]


REAL = files_in(CORPUS)
