"""The table in docs/onnx.md."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from .measure import Outcome
from .models import MODELS, Entry

__all__ = ["PAGE", "table", "write_table"]

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "onnx.md"
_BEGIN, _END = "<!-- the table that `make onnx-zoo` writes -->\n", "<!-- end of the table -->\n"
_TITLES = ("package", "model", "nodes", "params", "multiply-adds", "static", "run", "gradient", "outputs", "slope")


def table(outcomes: Mapping[Entry, Outcome]) -> str:
    """Return a Markdown table, a row per model."""
    return "".join(map(_line, (_TITLES, ("---",) * len(_TITLES), *map(_row, outcomes, outcomes.values()))))


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _row(entry: Entry, outcome: Outcome) -> tuple[str, ...]:
    commands = (outcome.static, outcome.run, outcome.gradient)
    short = tuple(_short(text).replace("|", "\\|") for text in commands)
    sizes = tuple("?" if size is None else f"{size:,}" for size in (outcome.nodes, outcome.params, outcome.macs))
    return (
        entry.package,
        entry.name,
        *sizes,
        *short,
        _bound(outcome.forward),
        _bound(outcome.slope) if entry.slope else "",
    )


def _short(message: str) -> str:
    """Return the first clause of the last line, without the file's name."""
    last = (message.splitlines() or [""])[-1].rpartition(".onnx: ")[2]
    return last.partition("; ")[0].partition(": ")[0].partition(" (")[0]


def _bound(error: float | None) -> str:
    """Return the power of ten above an error: its digits differ from machine to machine."""
    return "" if error is None else "0" if not error else f"< 1e{math.floor(math.log10(error)) + 1:+03d}"


def write_table(outcomes: Mapping[Entry, Outcome]) -> None:
    """Replace the rows of these models in the page's table, in the order of `MODELS`; the others stay."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    old, _, after = rest.partition(_END)
    lines = old.splitlines(keepends=True) + table(outcomes).splitlines(keepends=True)
    rows = {tuple(line.split(" | ")[:2]): line for line in lines}
    keys = [(f"| {entry.package}", entry.name) for entry in MODELS]
    head = table({})
    PAGE.write_text(
        f"{before}{_BEGIN}{head}{''.join(rows[key] for key in keys if key in rows)}{_END}{after}", encoding="utf-8"
    )
