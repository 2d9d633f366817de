"""`caffestat train`: Caffe's training loop on onnxruntime."""

from __future__ import annotations

import importlib.util
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from caffestat.errors import InputError
from caffestat.files import refuse_inputs, refuse_same

from . import options, terminal

if TYPE_CHECKING:
    from caffestat.logs import Alert, Watch
    from caffestat.report import TrainingLog
    from caffestat.report.history import History
    from caffestat.training import Training
    from caffestat.training.events import Event
    from caffestat.training.statistics import SignalFile

__all__ = ["train"]

_WATCHED = 10  # iterations between two whose signals are watched, without --stats
_ACTIONS = click.Choice(["snapshot", "stop", "none"])


class _Command(click.Command):
    """A command whose --watch may stand without a value."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        following = [*args[1:], ""]
        is_bare = [
            arg == "--watch" and after not in ("stop", "report") for arg, after in zip(args, following, strict=True)
        ]
        return super().parse_args(
            ctx, ["--watch=stop" if bare else arg for arg, bare in zip(args, is_bare, strict=True)]
        )


@click.command(cls=_Command)
@click.argument("path", type=options.FILE, metavar="SOLVER")
@click.option(
    "--snapshot", type=options.FILE, metavar="FILE", help="Snapshot to resume from: a .solverstate or .solverstate.h5."
)
@click.option(
    "--iterations",
    type=click.IntRange(min=0),
    metavar="N",
    help="Number of iterations to run.  [default: up to max_iter]",
)
@click.option(
    "--log",
    type=options.TARGET,
    callback=options.text_output,
    metavar="FILE",
    help="Also write Caffe's log to FILE.",
)
@click.option("--glog", is_flag=True, help="Print glog's prefix before each line, for scripts that parse Caffe's logs.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["log", "csv", "jsonl"]),
    default="log",
    show_default=True,
    help="Standard output: Caffe's log, or losses, outputs and learning rate of every iteration.",
)
@options.report_page("Write an HTML page about the run to FILE: curves, signals by layer, events.")
@click.option("--sigint", type=_ACTIONS, default="stop", show_default=True, help="Action on an interrupt (SIGINT).")
@click.option(
    "--sighup", type=_ACTIONS, default="snapshot", show_default=True, help="Action on a hang-up signal (SIGHUP)."
)
@click.option("--solver", type=options.FILE, metavar="SOLVER", help="For .onnx models: the solver prototxt.")
@click.option("--freeze", multiple=True, metavar="GLOB", help="For .onnx models: initializers to freeze; repeatable.")
@click.option("--stats", type=click.IntRange(min=1), metavar="N", help="Record the signals of every Nth iteration.")
@click.option(
    "--stats-file",
    type=options.FILE,
    metavar="FILE",
    help="File for --stats: .npz or .parquet.  [default: the snapshot prefix and _stats.parquet, .npz without pyarrow]",
)
@click.option(
    "--watch",
    type=click.Choice(["stop", "report"]),
    help="Apply rules during training: stop with exit code 1 at the first that fires, or only report.  "
    "[without a value: stop]",
)
@options.training
@options.inputs_hold("zeros")
def train(
    path: str,
    log: Path | None,
    glog: bool,
    kind: str,
    page: Path | None,
    sigint: str,
    sighup: str,
    stats: int | None,
    stats_file: str | None,
    watch: str | None,
    **settings: Any,
) -> None:
    """Train the net of a solver as `caffe train` does: the same losses, log lines and snapshots.

    SOLVER is a solver prototxt; - is the standard input. An .onnx model is trained by the solver that --solver names,
    with a --loss and arrays for its inputs; snapshots are models. An interrupt stops after the current iteration and,
    unless snapshot_after_train is false, writes a snapshot; a second one ends immediately.

    \b
    Examples:
      caffestat train models/lenet_solver.prototxt
      caffestat train solver.prototxt --weights bvlc_alexnet.caffemodel --log train.log
      caffestat train solver.prototxt --snapshot snap_iter_2000.solverstate
      caffestat train solver.prototxt --iterations 100 --format csv > curve.csv
      caffestat train solver.prototxt --report train.html
      caffestat train model.onnx --solver solver.prototxt --loss cross-entropy --input data=x.npy --input label=y.npy
    """
    from caffestat import report
    from caffestat.api.train import training_of
    from caffestat.logs import Watch

    if stats_file and not stats:
        raise InputError("--stats-file names the file for --stats: add --stats N, or remove it")
    for target in (log, page, stats_file):
        refuse_inputs(target, [path, settings["solver"] or "", settings["snapshot"] or "", *settings["weights"]])
    refuse_same(log, page, stats_file)
    terminal.page_file("html" if page else "log", page)
    with ExitStack() as stack:
        requested = stack.enter_context(_signals(sigint, sighup))
        interval = stats or (_WATCHED if watch or page else 0)
        with terminal.progress(f"building the nets of {path}"):
            training, seed = training_of(path, requested=requested, stats=interval, **settings)
        terminal.tell(training)
        lines = report.TrainingLog(training.solver, seed, glog)
        file = stack.enter_context(_opened(log, append=bool(settings["snapshot"]))) if log else None
        signals = stack.enter_context(_recorded(stats_file, training)) if stats else None
        history = stack.enter_context(_paged(page, path, settings)) if page else None
        rules = Watch() if watch else None
        shown = _Show(kind, lines, file, signals, history, rules, _Counter(training.last))
        if kind == "csv":
            click.echo(report.CSV_HEADER)
        for event in training.events():
            shown.event(event)
            for _ in shown.alerts(event):
                if watch == "stop":
                    sys.exit(1)
        shown.counter.clear()


@dataclass
class _Show:
    """Where the events of a run go: the standard output, a log, a file of signals, a page, the terminal."""

    kind: str
    lines: TrainingLog
    file: TextIO | None
    signals: SignalFile | None
    history: History | None
    rules: Watch | None
    counter: _Counter

    def event(self, event: Event) -> None:
        """Write an event everywhere."""
        from caffestat import report

        logged = list(self.lines.lines(event))
        if self.file:
            _append(self.file, logged)
        self.counter.clear()
        for text in logged if self.kind == "log" else report.CURVE_FORMATS[self.kind](event):
            click.echo(text)
        self.counter.show(event)
        if self.history:
            self.history.enter(event)
        if self.signals is not None:
            _record(self.signals, event)

    def alerts(self, event: Event) -> Iterator[Alert]:
        """Write each alert that the rules raise at an event, and yield it."""
        for alert in self.rules.see(event) if self.rules else ():
            self.counter.clear()
            if self.history:
                self.history.alert(alert)
            terminal.line(f"watch: {alert}", err=True)
            yield alert


def _record(signals: SignalFile, event: Event) -> None:
    from caffestat.training.events import Saved, Statistics

    if isinstance(event, Statistics):
        signals.add(event.iteration, event.values)
    elif isinstance(event, Saved):
        signals.save()  # a killed run keeps them up to its last snapshot


@contextmanager
def _paged(page: Path, path: str, settings: dict[str, Any]) -> Iterator[History]:
    """Yield the history of the run; its page is written at the end, also after an error."""
    from caffestat.api.pages import training_page
    from caffestat.report.history import History

    history = History()
    try:
        yield history
    finally:
        net = {name: settings[name] for name in ("level", "stages", "shapes", "batch", "dialect", "dims")}
        terminal.write(training_page(history, path, **net), page)


@contextmanager
def _recorded(path: str | None, training: Training) -> Iterator[SignalFile]:
    """Yield the file of signals; it is written at the end, also after an error."""
    from caffestat.training.statistics import SignalFile

    kind = "parquet" if importlib.util.find_spec("pyarrow") else "npz"
    since = f"_from_{training.iteration}" if training.iteration else ""  # of a resumed run
    file = SignalFile(path or f"{training.prefix}_stats{since}.{kind}")
    try:
        yield file
    finally:
        file.save()


def _append(file: TextIO, lines: Sequence[str]) -> None:
    try:
        for line in lines:
            print(line, file=file, flush=True)
    except OSError as error:
        with suppress(OSError):  # which writes the rest once more
            file.close()
        raise InputError(f"{file.name}: cannot be written: {error.strerror or error}") from error


@contextmanager
def _opened(path: Path, append: bool) -> Iterator[TextIO]:
    """Open a log that is written during the run; a resumed run appends to it."""
    try:
        file = path.open("a" if append else "w", encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror or error}") from error
    with file:
        yield file


@contextmanager
def _signals(sigint: str, sighup: str) -> Iterator[Callable[[], str]]:
    """Catch the two signals; yield what returns each signal's action once. (util/signal_handler.cpp)"""
    effects = {signal.SIGINT: sigint} | ({signal.SIGHUP: sighup} if hasattr(signal, "SIGHUP") else {})
    asked: list[str] = []

    def catch(number: int, frame: object) -> None:
        if number == signal.SIGINT and "stop" in asked:
            raise KeyboardInterrupt
        asked.append(effects[signal.Signals(number)])

    before = {number: signal.signal(number, catch) for number in effects}
    try:
        yield lambda: asked.pop(0) if asked else "none"
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Counter:
    """A line on the terminal with loss, learning rate, speed and time left, while nothing else is printed."""

    def __init__(self, last: int) -> None:
        self._last = last
        self._status = terminal.StatusLine()
        self._start: tuple[float, int] | None = None
        self._printed = 0.0

    def show(self, event: Event) -> None:
        """Show where the run is, at most five times a second."""
        from caffestat.training.events import Iteration

        now = time.monotonic()
        if not self._status.is_on or not isinstance(event, Iteration):
            return
        if self._start is None:
            self._start = now, event.iteration
        elif now - self._printed > 0.2:
            pace = (event.iteration - self._start[1]) / (now - self._start[0])
            left = (self._last - event.iteration) / pace
            self._status.show(
                f"iteration {event.iteration} of {self._last}: loss {event.smoothed:.4g}, lr {event.rate:.4g}, "
                f"{pace:.3g} iter/s, {left:.0f} s left"
            )
            self._printed = now

    def clear(self) -> None:
        """Remove the line."""
        self._status.clear()
