"""Rewrites many files: finds them, replaces each atomically, and returns its outcome."""

from __future__ import annotations

import difflib
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.errors import CaffestatError, Finding, InputError
from caffestat.escape import shown_error
from caffestat.files import Version, create_file, read_regular, replace_file, search
from caffestat.net.source import STDIN
from caffestat.options import NetOptions
from caffestat.program import NetFile
from caffestat.rewriting.caffemodel import rewrite_caffemodel
from caffestat.rewriting.selection import Change
from caffestat.rewriting.text import Changed, Rewritten, rewrite_text

if TYPE_CHECKING:
    from caffestat.initialization.curves import Curves
    from caffestat.rewriting.onnx_model import OnnxRewrite

__all__ = ["Job", "Outcome", "find_files", "rewrite_file", "targets"]

_PATTERNS = ("*.prototxt", "*.pbtxt", "*.prototext")


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    changes  the params that got, or with `dry_run` would get, other fillers or values
    notes    params that were left alone because a policy could not decide
    error    why the file was left as it is, None when all went well
    diff     a unified diff of the text; empty for binary models
    curves   signal and gradient before and after, where a method chose fillers or weights
    is_selected  False where the globs and types select none of the file's params
    """

    path: str
    target: str
    changes: tuple[Changed, ...] = ()
    notes: tuple[Finding, ...] = ()
    error: str | None = None
    diff: str = ""
    curves: Curves | None = None
    is_selected: bool = True


@dataclass(frozen=True)
class Job:
    """How files are rewritten; `file` has the net of binary models, None for what they hold themselves."""

    change: Change
    seed: int = 0
    file: NetFile | None = None
    net: NetOptions = field(default_factory=NetOptions)
    backup: bool = False
    dry_run: bool = False


def find_files(paths: Iterable[str | Path], recursive: bool) -> list[tuple[Path, Path]]:
    """Return the files to rewrite, each with its path relative to the folder that was given, or its name.

    Folders are searched for texts only: binary models, and links out of a folder, are rewritten when they are named.
    Raises InputError.
    """
    return [found for path in paths for found in _files_at(Path(path), recursive)]


def _files_at(path: Path, recursive: bool) -> Iterator[tuple[Path, Path]]:
    if str(path) == STDIN:
        raise InputError(f"{STDIN}: fillers cannot be written to standard input; name the file")
    if not os.path.isdir(path):  # False for a name that no file can have
        yield path, Path(path.name)
        return
    if not recursive:
        raise InputError(f"{path}: is a folder; use --recursive to rewrite the prototxt files in it")
    yield from ((file, file.relative_to(path)) for file in search(path, _PATTERNS))


def targets(files: Sequence[tuple[Path, Path]], output: Path | None, is_folder: bool) -> list[Path]:
    """Return where each file is written: in place, to the file `output` or into that folder. Raises InputError."""
    if output is None:
        return [path for path, _ in files]
    found = [output / relative for _, relative in files] if is_folder else [output]
    inputs = {os.path.realpath(path) for path, _ in files}
    if (over := next((path for path in found if os.path.realpath(path) in inputs), None)) is not None:
        raise InputError(f"{over}: is also an input, which would be overwritten; choose another output")
    twice = next((path for path, times in Counter(found).items() if times > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: two of the files would be written to this name; rewrite them one by one")
    return found


@dataclass(frozen=True)
class _Task:
    """One file of a job; `since` is the version that is read and replaced, None when the file goes elsewhere."""

    path: Path
    target: Path
    job: Job
    since: Version | None

    @classmethod
    def of(cls, path: Path, target: Path, job: Job) -> _Task:
        is_same = os.path.realpath(path) == os.path.realpath(target)
        return cls(path, target, job, Version.of(path) if is_same and not job.dry_run else None)

    def is_due(self, is_changed: bool) -> bool:
        """Tell whether there is something to write: always when the file goes elsewhere."""
        return not self.job.dry_run and (is_changed or self.since is None)

    def put(self, data: bytes, is_changed: bool) -> None:
        if self.is_due(is_changed):
            self.prepare()
            replace_file(self.target, data, self.since)

    def prepare(self) -> None:
        """Make the target's folder, and the backup of a file that is about to be replaced."""
        try:
            self.target.parent.mkdir(parents=True, exist_ok=True)
            if self.job.backup and self.target.exists():
                _back_up(self.target)
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be created: {error.strerror or error}") from error

    def outcome(self, result: Rewritten | OnnxRewrite, diff: str = "") -> Outcome:
        return Outcome(
            str(self.path),
            str(self.target),
            tuple(result.changes),
            tuple(result.notes),
            diff=diff,
            curves=result.curves,
            is_selected=not isinstance(result, Rewritten) or result.is_selected,  # a model without any is refused
        )


def rewrite_file(path: Path, target: Path, job: Job) -> Outcome:
    """Rewrite one file; an error in the file is in the outcome."""
    try:
        return _rewriter(path)(_Task.of(path, target, job))
    except CaffestatError as error:
        return Outcome(str(path), str(target), error=shown_error(error))


def _rewriter(path: Path) -> Callable[[_Task], Outcome]:
    kinds = {".caffemodel": _caffemodel, ".onnx": _onnx, ".h5": _weights_alone, ".npz": _weights_alone}
    return kinds.get(path.suffix, _text)


def _weights_alone(task: _Task) -> Outcome:
    raise InputError(
        f"{task.path}: expected a prototxt, a .caffemodel or an .onnx model, found weights alone: "
        f"`caffestat fill -o NEW{task.path.suffix} NET` draws weights for a net"
    )


def _text(task: _Task) -> Outcome:
    path, job = task.path, task.job
    old = _read(path)
    result = rewrite_text(old, str(path), job.change, job.net)
    task.put(result.data, bool(result.changes))
    return task.outcome(result, _diff(path, old, result.data))


def _caffemodel(task: _Task) -> Outcome:
    job = task.job
    result = rewrite_caffemodel(task.path, job.change, job.seed, job.file, job.net)
    task.put(result.data, bool(result.changes))
    return task.outcome(result)


def _onnx(task: _Task) -> Outcome:
    from caffestat.rewriting.onnx_model import rewrite_onnx  # the onnx package takes a while to import

    result = rewrite_onnx(task.path, task.job.change, task.job.seed, task.job.net)
    if task.is_due(bool(result.changes)):
        task.prepare()
        result.write(task.target, task.since)
    return task.outcome(result)


def _read(path: Path) -> bytes:
    try:
        return read_regular(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _back_up(path: Path) -> None:
    """Copy a file to the first of FILE.bak, FILE.bak1, … that is not there; none is ever replaced."""
    names = (path.with_name(f"{path.name}.bak{number or ''}") for number in count())
    with path.open("rb") as source:
        create_file(path, names, partial(shutil.copyfileobj, source))


def _diff(path: Path, old: bytes, new: bytes) -> str:
    before, after = ([line.decode(errors="replace") for line in data.splitlines(keepends=True)] for data in (old, new))
    pieces = difflib.unified_diff(before, after, f"a/{path}", f"b/{path}")
    return "".join(piece if piece.endswith("\n") else f"{piece}\n\\ No newline at end of file\n" for piece in pieces)
