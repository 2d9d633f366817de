"""`caffestat compare`: two logs, or runs, line by line."""

from __future__ import annotations

import sys
from itertools import islice
from pathlib import Path

import click

from caffestat.files import refuse_inputs

from . import options, terminal

__all__ = ["compare"]


@click.command(short_help="Compare two logs or runs, number by number.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--rtol", type=float, default=1e-3, show_default=True, help="Relative tolerance.")
@click.option("--atol", type=float, default=1e-9, show_default=True, help="Absolute tolerance.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Differences to print.")
@options.page
@options.output
def compare(a: str, b: str, rtol: float, atol: float, limit: int, format: str, output: Path | None) -> None:
    """Compare the debug_info numbers of A and B, and exit with 1 when they differ.

    A and B are logs or, when they end with .prototxt, nets and solvers, which are run as `caffestat debug` does.

    \b
    Examples:
      caffestat compare before.log after.log
      caffestat compare --rtol 0.05 caffe.log net.prototxt
      caffestat compare --format html -o compare.html before.log after.log
    """
    from caffestat import api
    from caffestat.api.pages import compare_page

    target = terminal.page_file(format, output)
    refuse_inputs(target, [a, b])
    if format == "html":
        comparison, page = compare_page(a, b, rtol=rtol, atol=atol)
        terminal.write(page, target)
        sys.exit(1 if comparison.count else 0)
    found = api.compare(a, b, rtol=rtol, atol=atol)
    shown = list(islice(found, limit))
    more = sum(1 for _ in found)
    rest = [f"… and {more} more"] if more else []
    terminal.write_lines([*shown, *rest] if shown else ["no differences"], target)
    sys.exit(1 if shown else 0)
