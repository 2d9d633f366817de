"""Runs checks over files."""

from __future__ import annotations

import os.path
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from caffestat.analysis import measure
from caffestat.errors import CaffestatError, Finding, InputError, NetError, Place, SolverError, SourceError
from caffestat.files import search
from caffestat.fillers import Stream
from caffestat.layers import Source
from caffestat.net import Net, NetSource, Node
from caffestat.net.build import UnknownLayer, build
from caffestat.net.dialects import check_dialect
from caffestat.net.rules import State, filter_layers
from caffestat.net.source import STDIN, missing_weights, named_weights
from caffestat.options import COMPUTE, DEFAULT_SEED, SEVERITIES, STATS, NetOptions, RunOptions, ValueOptions, one_of
from caffestat.program import NetFile, is_onnx
from caffestat.program.batches import saying_batch
from caffestat.program.opening import open_model
from caffestat.prototext import Document, Edit
from caffestat.schema import UnknownField
from caffestat.training.nets import shared_layers, solver_nets

from .context import Context, Limits, ModelRun, Outlook, UnknownShape
from .issue import Issue
from .processes import each
from .registry import Check, Needs
from .shared import Built, Shared
from .suppress import suppressions, without_suppressed

__all__ = ["Checked", "Job", "Unchecked", "check_file", "check_files", "check_opened", "find_nets"]

_PATTERNS = ("*.prototxt", "*.pbtxt")


@dataclass(frozen=True)
class Job:
    """What is checked, and how.

    run       run one iteration of each net too
    severity  the least severity that is reported
    net       how nets are built; their phase is train when none is given
    values    what their params hold
    options   of the run: its device, its data and the type to compute in
    shared    what the files have in common
    """

    checks: Sequence[Check]
    limits: Limits = field(default_factory=Limits)
    run: bool = False
    severity: str = "info"
    net: NetOptions = field(default_factory=NetOptions)
    values: ValueOptions = field(default_factory=ValueOptions)
    options: RunOptions = field(default_factory=partial(RunOptions, "cpu", stats=STATS))
    shared: Shared = field(default_factory=Shared)

    def __post_init__(self) -> None:
        one_of("severity", self.severity, SEVERITIES)
        given = {"compute": self.options.compute != COMPUTE[0], "inputs": bool(self.options.inputs)}
        for name in (name for name, is_given in given.items() if is_given and not self.run):
            raise InputError(f"{name}: applies only with a run; add --run or remove {name}")


@dataclass(frozen=True)
class Unchecked:
    """A file that could not be checked, and why."""

    file: str
    error: CaffestatError

    @property
    def place(self) -> Place:
        """Where the mistake is, which may be in a file that the file names; the whole file when that is unknown."""
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

    @property
    def is_bad(self) -> bool:
        """Whether a build should fail: there is more than infos."""
        return any(issue.severity != "info" for issue in self.issues)


def find_nets(paths: Iterable[str], links: bool = True) -> list[str]:
    """Return the files themselves, and of folders all the prototxt files in them, sorted.

    links: those to prototxt files outside of the folder as well
    """
    found: list[str] = []
    for path in paths:
        found += map(str, search(path, _PATTERNS, links)) if os.path.isdir(path) else [path]
    return found


def check_files(paths: Iterable[str], job: Job) -> Checked:
    """Check files, many of them in several processes; one that cannot be read does not keep the others from it.

    A file of a folder that has nothing of Caffe's in it (a label map, another program's graph) is left out. A net that
    several solvers name is reported once, under the name that `paths` gives it.
    Raises InputError for an unknown dialect, and for a shape of a blob that none of the nets has.
    """
    check_dialect(job.net.dialect)
    given = list(paths)
    found = find_nets(given)
    work = partial(_outcome, given=frozenset(given), job=job)
    # a run takes all cores by itself, and the standard input is read once
    outcomes = [one for one in (map(work, found) if job.run or STDIN in found else each(work, found)) if one.file]
    files = [one.file for one in outcomes]
    errors = [Unchecked(one.file, one.error) for one in outcomes if one.error]
    if not errors:
        _refuse_unknown(job.net.shapes, {blob for one in outcomes for blob in one.blobs})
    issues = _respelled((issue for one in outcomes for issue in one.issues), files)
    unique = {(issue.place, issue.code, issue.message): issue for issue in issues}
    return Checked(tuple(files), tuple(unique.values()), tuple(errors))


@dataclass(frozen=True)
class _Outcome:
    """The result for a path: the name of the file, "" for one that is left out, what it says, and its blobs."""

    file: str = ""
    issues: tuple[Issue, ...] = ()
    blobs: frozenset[str] = frozenset()
    error: CaffestatError | None = None


def _outcome(path: str, given: Collection[str], job: Job) -> _Outcome:
    """Check a file, and return what can be sent to another process."""
    try:
        if job.run and is_onnx(path):
            # a shape of what is no input of the model is an error
            return _Outcome(path, tuple(check_model(path, job)), frozenset(job.net.shapes))
        file = _open(path, job.shared)
        if path not in given and _is_foreign(file.source):
            return _Outcome()
        blobs = frozenset(top for entry in file.source.layers for top in entry.proto.top)
        texts = {file.text.name: file.text}
        issues = tuple(_sent(issue, texts, job.shared) for issue in check_opened(file, job))
        return _Outcome(_shown(path), issues, blobs)
    except CaffestatError as error:
        return _Outcome(_shown(path), error=error)


def _shown(path: str) -> str:
    return "<stdin>" if path == STDIN else path


def _sent(issue: Issue, texts: dict[str, Document], shared: Shared) -> Issue:
    """Return the issue with its edits made, for functions cannot be sent; texts: those that are known by now."""
    if issue.edits is None:
        return issue
    name = issue.place.file
    if name not in texts:
        texts[name] = shared.document(name)
    return replace(issue, edits=partial(_made, edits=tuple(issue.edits(texts[name]))))


def _made(document: Document, edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    return edits


def _is_foreign(net: NetSource) -> bool:
    unknown = {finding.field.name for finding in net.findings if isinstance(finding, UnknownField)}
    return not net.layers and bool(net.fields) and unknown >= set(net.fields)


def _refuse_unknown(shapes: Iterable[str], blobs: set[str]) -> None:
    unknown = sorted(set(shapes) - blobs)
    if unknown:
        raise InputError(f"--shape names {unknown[0]!r}, which no layer of these files produces")


def _respelled(issues: Iterable[Issue], files: Iterable[str]) -> Iterator[Issue]:
    """Yield the issues, a file that one names otherwise called as in `files` or, from the working directory on."""
    spelled = {os.path.realpath(file): file for file in files}
    for issue in issues:
        old = issue.place.file
        new = spelled.get(os.path.realpath(old)) or _from_here(old)
        place = replace(issue.place, file=new)
        yield issue if new == old else replace(issue, place=place, message=issue.message.replace(old, new))


def _from_here(file: str) -> str:
    path, here = Path(file), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else file


def check_file(path: str, job: Job) -> list[Issue]:
    """Return what the checks find in a net or solver prototxt, comments that silence findings heeded; sorted by place.

    path: the file, "-" for the standard input

    Of a solver, the net that it trains is checked too. Raises a CaffestatError when the file cannot be read or its text
    is broken.
    """
    return check_opened(_open(path, Shared()), job)


def _open(path: str, shared: Shared) -> NetFile:
    if is_onnx(path):
        raise InputError(
            f"{path}: without --run, check is for Caffe nets only; `caffestat analyze --predict {path}` shows "
            "where signal and gradient of an ONNX model grow or fade"
        )
    return shared.open(path)


def check_opened(file: NetFile, job: Job) -> list[Issue]:
    """Return what the checks find in an opened prototxt; see `check_file`."""
    context = _context(file, job)
    issues = [issue for check in job.checks if _can(check, context) for issue in check.issues(context)]
    least = SEVERITIES.index(job.severity)
    left = [issue for issue in issues if SEVERITIES.index(issue.severity) >= least]
    net, text = file.source, file.text
    of_net = text if net.name == text.name else job.shared.document(net.name)
    for document in {net.name: of_net, text.name: text}.values():
        left = without_suppressed(left, document.name, suppressions(document))
    return sorted(left, key=lambda issue: (issue.place.file, issue.place.line, issue.place.column, issue.code))


def check_model(path: str, job: Job) -> list[Issue]:
    """Run one iteration of an ONNX model, and return what the checks of any program find.

    Raises a CaffestatError when the model cannot be read or run, or an option has no meaning for it.
    """
    seed = DEFAULT_SEED if job.values.seed is None else job.values.seed
    with saying_batch(path, job.net, lambda: job.options.inputs):
        program, run = open_model(path, job.net, job.values, job.options, backward=True)
        ran = ModelRun(*measure(program, seed, run))
    found = [issue for check in job.checks if check.of_models for issue in check.issues(ran)]
    return [issue for issue in found if SEVERITIES.index(issue.severity) >= SEVERITIES.index(job.severity)]


def _can(check: Check, context: Context) -> bool:
    if check.needs == Needs.TEXT:
        return True
    if check.needs == Needs.RUN:
        return context.measured is not None
    return context.outlook is not None


def _context(file: NetFile, job: Job) -> Context:
    """Return what the checks look at.

    Data of unknown size are taken for what likely fits, so that what does not depend on it is checked.
    """
    own = None if job.values.weights else file.solver  # given weights replace those of the solver
    weights = tuple(named_weights(own)) if own else job.values.weights
    missing = tuple(missing_weights(own)) if own else ()
    findings = (*file.source.findings, *file.findings)
    context = Context(file.source, job.limits, file.solver, findings=findings, missing_weights=missing)
    try:
        built = _built(file, job, sizes=not (job.run or weights))
    except NetError as error:
        context.error = error
        context.findings = (*_findings(file, job), *file.findings)
        return context
    net, context.outlook = built.outlook.net, built.outlook
    context.test_error = _test_error(file, built, job)
    context.unknown_shapes = (*(UnknownShape(one.node, one.shape) for one in built.assumed), *_unknown(net))
    stated = {shape.node.layer.why_unknown for shape in context.unknown_shapes}
    context.findings = tuple(f for f in (*net.findings, *file.findings) if f.message not in stated)
    if weights or job.run:
        _fill(context, net, weights, job, file.seed(job.values.seed))
    return context


def _findings(file: NetFile, job: Job) -> Sequence[Finding]:
    """Return what is strange in a net that Caffe refuses, without the fields that layers of forks read."""
    try:
        return file.build(_options(file, job), []).findings
    except CaffestatError:
        return file.source.findings


def _options(file: NetFile, job: Job) -> NetOptions:
    """Return how the net is built: in the test phase where it has no data in the other, else to train.

    Shapes are those of its own blobs.
    """
    options = replace(job.net, phase=job.net.phase or "train")
    entries = filter_layers(file.source.layers, file.state(options))
    if job.net.phase is None and file.solver is None and all(entry.proto.bottom for entry in entries):
        options = replace(job.net, phase="test")
        entries = filter_layers(file.source.layers, file.state(options))
    blobs = {top for entry in entries for top in entry.proto.top}
    return replace(options, shapes={name: shape for name, shape in options.shapes.items() if name in blobs})


def _built(file: NetFile, job: Job, sizes: bool) -> Built:
    """Return the net; with `sizes`, data of unknown size get a likely one.

    Raises NetError where Caffe would stop.
    """
    options = _options(file, job)

    def build() -> Built:
        faults: list[NetError] = []
        net, assumed = file.assuming(options, faults) if sizes else (file.build(options), [])
        return Built(Outlook(net, job.shared.memo), tuple(faults), tuple(assumed))

    built = job.shared.built(file.source, file.state(options), sizes, build)
    if built.faults:
        raise built.faults[0]
    return built


def _test_error(file: NetFile, train: Built, job: Job) -> NetError | None:
    """Return why Caffe would stop at a test net of the solver; None where it takes them all, or the phase is given.

    Params of likely sizes are not compared.
    """
    if file.solver is None or job.net.phase is not None:
        return None
    try:
        _, *tests = solver_nets(file.solver)
    except SourceError:
        return None  # a file that cannot be read is reported as the solver's fault
    try:
        for source, state in tests:
            test = _test_net(source, state, job)
            list(shared_layers(train.outlook.net, test) if not train.assumed else ())
    except NetError as error:
        return error
    return None


def _test_net(source: NetSource, state: State, job: Job) -> Net:
    """Return a test net, data of unknown size left unknown. Raises NetError where Caffe would stop."""
    blobs = {top for entry in filter_layers(source.layers, state) for top in entry.proto.top}
    shapes = {name: shape for name, shape in job.net.shapes.items() if name in blobs}

    def built() -> Built:
        net = build(source, state, shapes, job.net.batch, job.net.data, job.net.dialect)
        return Built(Outlook(net, job.shared.memo), (), ())

    return job.shared.built(source, state, False, built).outlook.net


def _unknown(net: Net) -> tuple[UnknownShape, ...]:
    return tuple(UnknownShape(node, None) for node in net.nodes if node.layer.why_unknown and _is_source(node))


def _is_source(node: Node) -> bool:
    return isinstance(node.layer, Source) and not isinstance(node.layer, UnknownLayer)


def _fill(context: Context, net: Net, weights: Sequence[str], job: Job, seed: int) -> None:
    """Give the params their values, and run one iteration where that is asked for.

    Missing weights that the solver names leave the values unknown. Raises SolverError if a run needs them.
    """
    for fault in context.missing_weights:
        if job.run:
            raise SolverError(fault.message, fault.place)
        context.given = frozenset(range(len(net.params)))
        return
    context.outlook = outlook = Outlook(net, job.shared.memo, tuple(weights))
    if weights:
        taken = set[int]()
        outlook.values = outlook.program.values(Stream(seed), [], taken)
        context.given = frozenset(taken)
    if job.run and any(node.bottoms and node.is_known for node in net.nodes):
        _, context.measured = measure(context.program, seed, job.options)
        stats = context.measured.stats.items()
        context.zeros = {key[1:]: one.zeros / one.count for key, one in stats if key[0] == "top"}
