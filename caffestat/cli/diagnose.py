"""`caffestat diagnose`: what a training log with debug_info says about the net."""

from __future__ import annotations

import sys
from typing import Any

import click

from . import options, terminal

__all__ = ["diagnose"]


@click.command(short_help="Find what went wrong in a training log.")
@click.argument("log", metavar="LOG")
@click.option("--net", metavar="NET", help="The net or solver, for its lines and what it should do at the start.")
@click.option("--all", "all_trends", is_flag=True, help="Show params too.")
@click.option(
    "--growth", type=float, default=1e3, show_default=True, help="Factor over its first value at which a blob explodes."
)
@options.state
def diagnose(log: str, all_trends: bool, **settings: Any) -> None:
    """Read a training log and tell what went wrong: the first bad blob, the trend of each, dead layers, losses that
    give away their cause.

    LOG is what Caffe of any version wrote, of any size, as text or compressed with gzip, bzip2 or xz; - is the standard
    input. Without debug_info lines only the losses are judged. Exits with 1 when something is bad.

    \b
    Examples:
      caffestat diagnose train.log
      caffestat diagnose --net train_val.prototxt train.log
      caffestat diagnose train.log.gz
      ssh trainer cat train.log | caffestat diagnose -
    """
    from caffestat import api, logs

    found = api.diagnose(log, **settings)
    for warning in found.warnings:
        terminal.line(f"warning: {warning}", err=True)
    for line in logs.diagnosis_lines(found, all_trends):
        terminal.line(line)
    sys.exit(0 if found.is_healthy else 1)
