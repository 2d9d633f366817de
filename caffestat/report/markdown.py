"""The table as Markdown, for a pull request or a wiki."""

from __future__ import annotations

from collections.abc import Iterable

from caffestat.escape import markdown

from .columns import footer, heading, used
from .model import Report
from .rows import rows

__all__ = ["render"]


def render(report: Report) -> str:
    """Return the table with exact counts and whole names, its heading above and its totals below."""
    table = list(rows(report))
    columns = used(table)
    lines = [
        f"**{markdown(heading(report))}**",
        "",
        _line(markdown(column.title) for column in columns),
        _line("---:" if column.is_number else "---" for column in columns),
        *(_line(markdown(column.text(row, True)) for column in columns) for row in table),
        "",
        *(f"- {markdown(line)}" for line in footer(report, table)),
    ]
    return "\n".join(lines) + "\n"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
