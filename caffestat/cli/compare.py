"""`caffestat compare`: two logs, or runs, line by line."""

from __future__ import annotations

import sys
from itertools import islice

import click

from . import terminal

__all__ = ["compare"]


@click.command(short_help="Compare two logs or runs, number by number.")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--rtol", type=float, default=1e-3, show_default=True, help="Relative tolerance.")
@click.option("--atol", type=float, default=1e-9, show_default=True, help="Absolute tolerance.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Differences to print.")
def compare(a: str, b: str, rtol: float, atol: float, limit: int) -> None:
    """Compare the debug_info numbers of A and B, and exit with 1 when they differ.

    A and B are logs or, when they end with .prototxt, nets and solvers, which are run as `caffestat debug` does.

    \b
    Examples:
      caffestat compare before.log after.log
      caffestat compare --rtol 0.05 caffe.log net.prototxt
    """
    from caffestat import api

    found = api.compare(a, b, rtol=rtol, atol=atol)
    shown = list(islice(found, limit))
    for difference in shown:
        terminal.line(difference)
    more = sum(1 for _ in found)
    if more:
        click.echo(f"… and {more} more")
    if not shown:
        click.echo("no differences")
    sys.exit(1 if shown else 0)
