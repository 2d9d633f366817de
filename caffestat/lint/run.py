"""Runs checks over files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from caffestat.errors import CaffestatError, InputError, NetError, Place, SourceError
from caffestat.fillers import Stream
from caffestat.layers import Shape
from caffestat.net import (
    TRAIN,
    Net,
    NetSource,
    Runner,
    Solver,
    build,
    copy_weights,
    draw_params,
    load,
    state_of,
)
from caffestat.net.measure import Feeds
from caffestat.net.settle import settle
from caffestat.prototext import parse

from .context import Context, Limits
from .issue import SEVERITIES, Issue
from .registry import Check, Needs
from .suppress import suppressions, without_suppressed

__all__ = ["Checked", "Job", "Unchecked", "check_file", "check_files", "find_nets"]

STDIN = "-"
_PATTERNS = ("*.prototxt", "*.pbtxt")


@dataclass(frozen=True)
class Job:
    """What is checked, and how.

    run       run one iteration of each net too
    severity  the least severity that is reported
    phase     TRAIN (also when None) or TEST; the others as in `caffestat analyze`
    """

    checks: Sequence[Check]
    limits: Limits = field(default_factory=Limits)
    run: bool = False
    severity: str = "info"
    phase: int | None = None
    level: int | None = None
    stages: Sequence[str] = ()
    weights: Sequence[str] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    batch: int | None = None
    seed: int = 1701
    device: str = "cpu"


@dataclass(frozen=True)
class Unchecked:
    """A file that could not be checked, and why."""

    file: str
    error: CaffestatError

    @property
    def place(self) -> Place:
        """Where the mistake is, which may be in a file that the file names; the file as a whole when nothing tells."""
        return self.error.place if isinstance(self.error, SourceError) else Place(self.file)

    @property
    def message(self) -> str:
        """What is wrong, without the place where that is known."""
        return self.error.message if isinstance(self.error, SourceError) else str(self.error)


@dataclass(frozen=True)
class Checked:
    """All files that were looked at, what was found in them, and which of them could not be checked."""

    files: tuple[str, ...]
    issues: tuple[Issue, ...]
    errors: tuple[Unchecked, ...] = ()


def find_nets(paths: Iterable[str]) -> list[str]:
    """Return the files themselves, and of folders all the prototxt files in them, sorted."""
    found: list[str] = []
    for path in paths:
        inside = {file for pattern in _PATTERNS for file in Path(path).rglob(pattern) if file.is_file()}
        found += [str(file) for file in sorted(inside)] if Path(path).is_dir() else [path]
    return found


def check_files(paths: Iterable[str], job: Job) -> Checked:
    """Check files one by one; one that cannot be read does not keep the others from it."""
    files, issues, errors = find_nets(paths), list[Issue](), list[Unchecked]()
    for path in files:
        try:
            issues += check_file(path, job)
        except CaffestatError as error:
            errors.append(Unchecked(path, error))
    unique = {(issue.place, issue.code, issue.message): issue for issue in issues}  # a solver and its net, say
    return Checked(tuple(files), tuple(unique.values()), tuple(errors))


def check_file(path: str, job: Job) -> list[Issue]:
    """Return what the checks find in a net or solver prototxt, comments that silence findings heeded; sorted by place.

    Of a solver, the net that it trains is checked. Raises a CaffestatError when the file cannot be read or its text is
    broken.
    """
    if path == STDIN:
        raise InputError("checks need a file: findings and comments that silence them stand in lines of it")
    source = load(path)
    net = source.net if isinstance(source, Solver) else source
    context = _context(net, job)
    issues = [issue for check in job.checks if _can(check, context) for issue in check.issues(context)]
    least = SEVERITIES.index(job.severity)
    loud = [issue for issue in issues if SEVERITIES.index(issue.severity) >= least]
    text = parse(Path(net.name).read_bytes(), net.name)
    left = without_suppressed(loud, suppressions(text))
    return sorted(left, key=lambda issue: (issue.place.line, issue.place.column, issue.code))


def _can(check: Check, context: Context) -> bool:
    if check.needs == Needs.TEXT:
        return True
    if check.needs == Needs.RUN:
        return context.measured is not None
    return context.net is not None


def _context(source: NetSource, job: Job) -> Context:
    context = Context(source, job.limits, given_weights=bool(job.weights))
    try:
        state = state_of(source, TRAIN if job.phase is None else job.phase, job.level, job.stages)
        net = build(source, state, job.shapes, job.batch, "synthetic")
    except NetError as error:
        context.error = error
        return context
    context.net, context.findings = net, net.findings
    if job.weights or job.run:
        values = draw_params(net, Stream(job.seed))
        copy_weights(net, values, job.weights)
        context.values = values if job.weights else None
        if job.run:
            _run(context, net, values, job)
    return context


def _run(context: Context, net: Net, values: list[np.ndarray], job: Job) -> None:
    """Measure one iteration, and the share of zeros in every top."""
    stream = Stream(job.seed)
    draw_params(net, stream)
    values = [value.copy() for value in values]
    feeds = Feeds(stream, np.random.default_rng(job.seed))
    runner = Runner(settle(net, values, job.device, feeds), values, job.device, fetch=True)
    context.measured = runner.run(feeds.of(runner.net, runner.lowered))
    tops = {key[1:]: array for key, array in runner.tensors.items() if key[0] == "top"}
    context.zeros = {key: float(np.mean(array == 0)) for key, array in tops.items() if array.size}
