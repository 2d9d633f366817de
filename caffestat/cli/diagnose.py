"""`caffestat diagnose`: what a training log with debug_info says about the net."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffestat.files import refuse_inputs

from . import options, terminal

if TYPE_CHECKING:
    from caffestat.logs import Diagnosis

__all__ = ["diagnose"]


@click.command()
@click.argument("log", type=options.FILE, metavar="LOG")
@click.option(
    "--net",
    type=options.FILE,
    metavar="NET",
    help="Net or solver of the log: adds line numbers and predicted initial values.",
)
@click.option("--all", "all_trends", is_flag=True, help="Also show params.")
@click.option(
    "--growth",
    type=float,
    default=1e3,
    show_default=True,
    help="Factor over a blob's first value from which it has exploded.",
)
@options.page
@options.output
@options.state
def diagnose(log: str, all_trends: bool, format: str, output: Path | None, **settings: Any) -> None:
    """Find what went wrong in a training log: the first bad blob, the trend of each, dead layers, losses whose value
    shows the cause.

    LOG is the log of any version of Caffe, of any size, as text or compressed with gzip, bzip2 or xz; - is the standard
    input. Without debug_info lines only the losses are checked. Exits with 1 when it finds a problem.

    \b
    Examples:
      caffestat diagnose train.log
      caffestat diagnose --net train_val.prototxt train.log
      caffestat diagnose train.log.gz
      caffestat diagnose --net train_val.prototxt --format html -o train.html train.log
      ssh trainer cat train.log | caffestat diagnose -
    """
    from caffestat import api, logs

    target = terminal.page_file(format, output)
    refuse_inputs(target, [log, settings["net"] or ""])
    found, text = _page(log, **settings) if format == "html" else (api.diagnose(log, **settings), None)
    for warning in found.warnings:
        terminal.line(f"warning: {warning}", err=True)
    terminal.write_lines(logs.diagnosis_lines(found, all_trends) if text is None else text, target)
    sys.exit(0 if found.is_healthy else 1)


def _page(log: str, **settings: Any) -> tuple[Diagnosis, str]:
    from caffestat.api.pages import diagnose_page

    with terminal.progress(f"reading {log}"):
        return diagnose_page(log, **settings)
