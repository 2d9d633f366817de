"""docs/architecture.md is true: it lists every folder, and imports run from its floors downwards only."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "caffestat"
TEXT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PARTS = sorted(path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists())
OUTSIDE = {"__init__", "__main__"}  # the doors: they say what the house is called


def floors() -> dict[str, int]:
    """Return each part's floor, the ground being 0."""
    match = re.search(r"^(errors · .*?)\.$", TEXT, re.MULTILINE | re.DOTALL)
    assert match
    return {name.strip(): n for n, floor in enumerate(match[1].split("·")) for name in floor.split(",")}


def imported_parts(path: Path) -> set[str]:
    """Return the parts of the package that a file imports, inside functions and for type checkers as well."""
    found = set()
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom):
            continue
        base = package[: len(package) - node.level + 1] if node.level else ()
        module = (*base, *(node.module or "").split(".")) if node.module else base
        if module[0] == "caffestat":
            found |= {module[1]} if len(module) > 1 else {alias.name for alias in node.names}
    return found - OUTSIDE - {"__version__"}


@pytest.mark.parametrize("part", sorted(set(PARTS) - OUTSIDE))
def test_imports_run_downwards(part: str) -> None:
    floor = floors()
    files = (PACKAGE / part).rglob("*.py") if (PACKAGE / part).is_dir() else [PACKAGE / f"{part}.py"]
    for path in files:
        upwards = {name for name in imported_parts(path) - {part} if floor[name] >= floor[part]}
        assert upwards == set(), path


def test_every_part_has_a_floor_and_a_line() -> None:
    assert set(floors()) == set(PARTS) - OUTSIDE
    assert [part for part in floors() if not re.search(rf"^\| `caffestat/{part}(/|\.py)` ", TEXT, re.MULTILINE)] == []


def test_what_is_listed_exists() -> None:
    assert [
        name for name in re.findall(r"^\| `([\w.]+[/.][\w/.]*)` \|", TEXT, re.MULTILINE) if not (ROOT / name).exists()
    ] == []


def test_tests_are_skipped_where_torch_is_missing() -> None:
    """`make test` does not install it."""
    texts = {path.relative_to(ROOT).as_posix(): path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")}
    before = {name: re.split(r"^(?:import|from) torch\b", text, maxsplit=1, flags=re.M) for name, text in texts.items()}
    assert [name for name, parts in before.items() if len(parts) > 1 and "skip(" not in parts[0]] == []
