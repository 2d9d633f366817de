"""The Report as a table of plain text that fits a given width."""

from __future__ import annotations

from collections.abc import Sequence

from .columns import Column, footer, heading, used
from .model import Report
from .rows import Row, rows

__all__ = ["ellipsize", "render"]

_SHORTEST = 9  # no name is cut below this many characters


def render(report: Report, width: int = 120) -> str:
    """Return the table with its heading and totals, no wider than `width` where names can be shortened that far.

    Counts are exact when they fit, else three digits and a unit; what is still too wide loses the middle of its names.
    """
    table = list(rows(report))
    columns = used(table)
    lines = _fit(columns, table, width)
    rule = "-" * max(map(len, lines))
    return "\n".join([heading(report), "", lines[0], rule, *lines[1:], rule, *footer(report, table), ""])


def _fit(columns: Sequence[Column], table: Sequence[Row], width: int) -> list[str]:
    for exact, gap in ((True, 2), (False, 2), (False, 1)):
        titles = [column.title for column in columns]
        cells = [titles, *([column.cell(row, exact) for column in columns] for row in table)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        if sum(widths) + gap * (len(widths) - 1) <= width:
            break
    else:
        _shrink(columns, widths, width - gap * (len(widths) - 1))
    return [_line(columns, line, widths, gap) for line in cells]


def _shrink(columns: Sequence[Column], widths: list[int], available: int) -> None:
    """Take characters from the widest column of names until the sum fits, or no name can be cut further."""
    names = [index for index, column in enumerate(columns) if column.is_name]
    while sum(widths) > available:
        widest = max(names, key=lambda index: widths[index])
        if widths[widest] <= _SHORTEST:
            return
        widths[widest] -= 1


def _line(columns: Sequence[Column], cells: Sequence[str], widths: Sequence[int], gap: int) -> str:
    padded = []
    for column, cell, width in zip(columns, cells, widths, strict=True):
        text = ellipsize(cell, width)
        padded.append(text.rjust(width) if column.is_number else text.ljust(width))
    return (" " * gap).join(padded).rstrip()


def ellipsize(text: str, width: int) -> str:
    """Return the text, its middle replaced by … when it is longer than `width`."""
    if len(text) <= width:
        return text
    head = width // 2
    return f"{text[:head]}…{text[len(text) - (width - head - 1) :]}"
