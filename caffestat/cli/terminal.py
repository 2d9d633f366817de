"""What commands write: results to the standard output or a file, everything else to the standard error."""

from __future__ import annotations

import os
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from caffestat.errors import GradientWarning, InputError
from caffestat.escape import visible
from caffestat.files import replace_file

if TYPE_CHECKING:
    from caffestat.api import DebugLog
    from caffestat.report import Report
    from caffestat.training import Training

__all__ = [
    "StatusLine",
    "diff",
    "line",
    "open_page",
    "page_file",
    "progress",
    "tell",
    "warnings_told",
    "width",
    "write",
    "write_lines",
]

_PIPED_WIDTH = 120
_QUIET_SECONDS = 2.0


def width(output: Path | None) -> int:
    """Return how wide a table may be: the terminal's width, 120 when it goes elsewhere."""
    import shutil

    to_terminal = output is None and sys.stdout.isatty()
    return shutil.get_terminal_size((_PIPED_WIDTH, 24)).columns if to_terminal else _PIPED_WIDTH


def line(text: object, err: bool = False) -> None:
    """Print one line, control characters escaped."""
    click.echo(visible(str(text)), err=err)


def diff(text: str) -> None:
    """Print a diff: as it is, to be applied, or on a terminal with control characters escaped."""
    shown = "\n".join(visible(line, "\t") for line in text.split("\n")) if sys.stdout.isatty() else text
    click.echo(shown, nl=False)


def tell(report: Report | DebugLog | Training) -> None:
    """Print findings and notes to the standard error."""
    for finding in report.findings:
        line(f"warning: {finding}", err=True)
    for note in report.notes:
        line(f"note: {note}", err=True)
    for error in getattr(report, "errors", ())[1:]:  # the command ends with the first one
        line(f"error: {error}", err=True)


@contextmanager
def warnings_told(path: str) -> Iterator[None]:
    """Print the warnings that verbs issue about a file to the standard error, as lines."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", GradientWarning)
        yield
    for one in found:
        if issubclass(one.category, GradientWarning):
            line(f"warning: {path}: {one.message}", err=True)


def write(text: str, output: Path | None) -> None:
    """Write the result. Raises InputError when the file cannot be written."""
    if output is None:
        click.echo(text, nl=False)
    else:
        replace_file(output, text.encode("utf-8", "backslashreplace"))


def write_lines(text: str | Iterable[object], output: Path | None) -> None:
    """Write a whole text as it is or, line by line, with control characters escaped."""
    if isinstance(text, str):
        write(text, output)
    elif output is None:
        for one in text:
            line(one)
    else:
        write("".join(f"{visible(str(one))}\n" for one in text), output)


def page_file(format: str, output: Path | None, opens: bool = False) -> Path | None:
    """Return where a result goes: `output`, or a temporary file for a page that is to be opened.

    Raises InputError for a page without the libraries that make it, or that would go to the terminal.
    """
    if format != "html":
        return output
    from caffestat.report.html import require_extra

    require_extra()
    if output is None and opens:
        import tempfile

        return Path(tempfile.mkdtemp(prefix="caffestat-")) / "report.html"
    if output is None and sys.stdout.isatty():
        raise InputError("--format html: expected -o FILE, --open or a redirected output, found a terminal")
    return output


def open_page(page: Path) -> None:
    """Open a page in the user's browser, and say where it is."""
    import webbrowser

    line(page, err=True)
    webbrowser.open(page.resolve().as_uri())


def _width() -> int:
    """Return the width of the terminal behind the standard error."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80


class StatusLine:
    """A line at the end of the standard error that is written over; none where no terminal can do that.

    It is cut to the terminal's width: what is written over is one line of it.
    """

    def __init__(self) -> None:
        self.is_on = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        self._is_shown = False

    def show(self, text: str) -> None:
        """Put a text in place of the last one."""
        if self.is_on:
            print(f"\r\x1b[K{visible(text)[: _width() - 1]}", end="", file=sys.stderr, flush=True)
            self._is_shown = True

    def clear(self) -> None:
        """Remove the line, before something else is printed."""
        if self._is_shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
            self._is_shown = False


@contextmanager
def progress(what: str) -> Iterator[None]:
    """Show on a terminal what is running and for how many seconds, once it takes more than two."""
    status = StatusLine()
    if not status.is_on:
        yield
        return
    done = threading.Event()
    ticker = threading.Thread(target=_tick, args=(what, status, done), daemon=True)
    ticker.start()
    try:
        yield
    finally:
        done.set()
        ticker.join()


def _tick(what: str, status: StatusLine, done: threading.Event) -> None:
    start = time.monotonic()
    if done.wait(_QUIET_SECONDS):
        return
    while not done.wait(1.0):
        status.show(f"{what}: {time.monotonic() - start:.0f} s")
    status.clear()
