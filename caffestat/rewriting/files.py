"""Rewrites many files: finds them, writes each in one step, and says what became of it."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from caffestat.errors import CaffestatError, Finding, InputError
from caffestat.files import replace_file
from caffestat.layers import Shape
from caffestat.net import NetSource
from caffestat.rewriting.caffemodel import rewrite_caffemodel
from caffestat.rewriting.selection import Change
from caffestat.rewriting.text import Changed, rewrite_text

__all__ = ["Job", "Outcome", "find_files", "rewrite_file", "targets"]

_PATTERNS = ("*.prototxt", "*.pbtxt", "*.prototext")


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    changes  the params that got, or with `dry_run` would get, other fillers or values
    notes    params that were left alone because a policy could not decide
    error    why the file was left as it is, None when all went well
    diff     a unified diff of the text; empty for binary models
    """

    path: str
    target: str
    changes: tuple[Changed, ...] = ()
    notes: tuple[Finding, ...] = ()
    error: str | None = None
    diff: str = ""


@dataclass(frozen=True)
class Job:
    """How files are rewritten; `source` is the net of binary models, None for what they hold themselves."""

    change: Change
    seed: int = 0
    source: NetSource | None = None
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    batch: int | None = None
    backup: bool = False
    dry_run: bool = False


def find_files(paths: Iterable[str | Path], recursive: bool) -> list[tuple[Path, Path]]:
    """The files to rewrite, each with its path relative to the folder that was given, or its name.

    Folders are searched for texts only: binary models are rewritten when they are named. Raises InputError.
    """
    return [found for path in paths for found in _files_at(Path(path), recursive)]


def _files_at(path: Path, recursive: bool) -> Iterator[tuple[Path, Path]]:
    if not path.is_dir():
        yield path, Path(path.name)
        return
    if not recursive:
        raise InputError(f"{path}: is a folder; say --recursive to rewrite the prototxt files in it")
    found = {file for pattern in _PATTERNS for file in path.rglob(pattern) if file.is_file()}
    yield from ((file, file.relative_to(path)) for file in sorted(found))


def targets(files: Sequence[tuple[Path, Path]], output: Path | None, is_folder: bool) -> list[Path]:
    """Where each file is written: in place, to the file `output`, or into the folder `output`. Raises InputError."""
    if output is None:
        return [path for path, _ in files]
    if not is_folder:
        return [output]
    found = [output / relative for _, relative in files]
    twice = next((path for path, count in Counter(found).items() if count > 1), None)
    if twice is not None:
        raise InputError(f"{twice}: two of the files would be written there; rewrite them one by one")
    return found


def rewrite_file(path: Path, target: Path, job: Job) -> Outcome:
    """Rewrite one file; an error that the file is to blame for is in the outcome."""
    try:
        return _rewriter(path)(path, target, job)
    except CaffestatError as error:
        return Outcome(str(path), str(target), error=str(error))


def _rewriter(path: Path) -> Callable[[Path, Path, Job], Outcome]:
    return {".caffemodel": _caffemodel, ".onnx": _onnx}.get(path.suffix, _text)


def _text(path: Path, target: Path, job: Job) -> Outcome:
    old = _read(path)
    result = rewrite_text(old, str(path), job.change, job.shapes, job.batch)
    _put(path, target, result.data, bool(result.changes), job)
    diff = _diff(path, old, result.data)
    return Outcome(str(path), str(target), tuple(result.changes), tuple(result.notes), diff=diff)


def _caffemodel(path: Path, target: Path, job: Job) -> Outcome:
    result = rewrite_caffemodel(path, job.change, job.seed, job.source, job.shapes, job.batch)
    _put(path, target, result.data, bool(result.changes), job)
    return Outcome(str(path), str(target), tuple(result.changes), tuple(result.notes))


def _onnx(path: Path, target: Path, job: Job) -> Outcome:
    from caffestat.rewriting.onnx_model import rewrite_onnx  # the onnx package takes a while to import

    result = rewrite_onnx(path, job.change, job.seed)
    if _is_due(path, target, bool(result.changes), job):
        _prepare(path, target, job)
        result.write(target)
    return Outcome(str(path), str(target), tuple(result.changes), tuple(result.notes))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from error


def _put(path: Path, target: Path, data: bytes, is_changed: bool, job: Job) -> None:
    if _is_due(path, target, is_changed, job):
        _prepare(path, target, job)
        replace_file(target, data)


def _is_due(path: Path, target: Path, is_changed: bool, job: Job) -> bool:
    """Whether there is something to write: always when the file goes elsewhere."""
    return not job.dry_run and (is_changed or path != target)


def _prepare(path: Path, target: Path, job: Job) -> None:
    """Make the target's folder, and the backup of a file that is about to be replaced."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target.parent}: cannot be made: {error.strerror or error}") from error
    if job.backup and target.exists():
        replace_file(_backup_name(target), _read(target))


def _backup_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.bak{number or ''}") for number in range(10**6))
    return next(name for name in names if not name.exists())


def _diff(path: Path, old: bytes, new: bytes) -> str:
    before, after = ([line.decode(errors="replace") for line in data.splitlines(keepends=True)] for data in (old, new))
    pieces = difflib.unified_diff(before, after, f"a/{path}", f"b/{path}")
    return "".join(piece if piece.endswith("\n") else f"{piece}\n\\ No newline at end of file\n" for piece in pieces)
