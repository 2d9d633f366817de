"""The Report as a table of plain text that fits a given width."""

from __future__ import annotations

from collections.abc import Sequence

from .columns import Column, footer, heading, used
from .model import Report
from .rows import Row, rows

__all__ = ["ellipsize", "render"]

_SHORTEST = 9  # no name is cut below this many characters


def render(report: Report, width: int = 120) -> str:
    """Return the table with its heading and totals, no wider than `width` where its widest columns allow that.

    Counts are exact when they fit, else three digits and a unit; what is still too wide loses the middle of its names.
    Where that is not enough, the columns stand in several tables, one below the other.
    """
    table = list(rows(report))
    text = [heading(report)]
    for titles, *lines in _fit(used(table), table, width) if table else ():
        rule = "-" * max(map(len, [titles, *lines]))
        text += ["", titles, rule, *lines, rule]
    return "\n".join([*text, *footer(report, table), ""])


def _fit(columns: Sequence[Column], table: Sequence[Row], width: int) -> list[list[str]]:
    """Return the lines of one table or, in a narrow width, of several."""
    for exact, gap in ((True, 2), (False, 2), (False, 1)):
        titles = [column.title for column in columns]
        cells = [titles, *([column.cell(row, exact) for column in columns] for row in table)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        if _total(widths, gap) <= width:
            break
    else:
        widths = _shrunk(columns, widths, width, gap)
    return [_lines(columns, cells, widths, gap, block) for block in _blocks(widths, gap, width)]


def _total(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * (len(widths) - 1)


def _shrunk(columns: Sequence[Column], widths: Sequence[int], width: int, gap: int) -> list[int]:
    """Return widths that fit, the widest columns of names cut; where none would, those of columns in several tables."""
    found = list(widths)
    names = [index for index, column in enumerate(columns) if column.is_name]
    while _total(found, gap) > width:
        widest = max(names, key=lambda index: found[index])
        if found[widest] <= _SHORTEST:
            longest = max(_SHORTEST, width // 2)
            return [min(one, longest) if index in names else one for index, one in enumerate(widths)]
        found[widest] -= 1
    return found


def _blocks(widths: Sequence[int], gap: int, width: int) -> list[list[int]]:
    """Return the columns of each table: all in one, else as many as fit behind the first, which names the layers."""
    blocks = [[0]]
    for index in range(1, len(widths)):
        if len(blocks[-1]) > 1 and _total([widths[i] for i in (*blocks[-1], index)], gap) > width:
            blocks.append([0])
        blocks[-1].append(index)
    return blocks


def _lines(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], widths: Sequence[int], gap: int, block: Sequence[int]
) -> list[str]:
    """Return the lines of a table of some columns; without those that are empty there."""
    chosen, sizes = [columns[index] for index in block], [widths[index] for index in block]
    lines = (_line(chosen, [line[index] for index in block], sizes, gap) for line in cells)
    return [line for line in lines if line]


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
