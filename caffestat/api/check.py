"""`check` and `fix`: faults of nets, and the fixes that need no decision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.errors import CaffestatError
from caffestat.escape import shown_error
from caffestat.options import STATS, NetOptions, RunOptions, ValueOptions, texts

if TYPE_CHECKING:
    import numpy as np

    from caffestat.lint import Checked, Fixed

__all__ = ["check", "fix"]


def check(
    paths: str | Path | Sequence[str | Path],
    *,
    run: bool = False,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    severity: str | None = None,
    baseline: str | None = None,
    limits: Mapping[str, float | None] | None = None,
    phase: str | None = None,
    level: int | None = None,
    stages: Sequence[str] = (),
    weights: Sequence[str] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    dialect: str | None = None,
    seed: int | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    compute: str = "float32",
    dims: Mapping[str, int] | None = None,
) -> Checked:
    """Return the mistakes in nets and solvers, from their text, from predictions and from runs.

    paths:    prototxt files, "-" for the standard input, or folders in which all of them are checked; with `run` .onnx
              models too
    run:      run one iteration of each as well
    select, ignore: codes of checks, code prefixes or names; default: all
    severity: the lowest severity to report: "info", "warning" or "error"
    baseline: a file of known findings, which are skipped
    limits:   see `caffestat.lint.Limits`; None for the default
    phase, level, stages, shapes, batch, dialect, dims: see `caffestat.options.NetOptions`
    inputs, compute: of the run; see `caffestat.options.RunOptions`
    weights, seed: see `caffestat.options.ValueOptions`

    Defaults come from the project's caffestat.cfg or setup.cfg. A file that cannot be read is listed in the
    result. Raises a CaffestatError when an option cannot be used.
    """
    from caffestat import lint

    config = lint.find_config(Path.cwd())
    job = lint.Job(
        lint.selected(_commas(select) or config.select, _commas(ignore) or config.ignore),
        config.limits.changed(limits or {}),
        run,
        severity or config.severity or "info",
        NetOptions(phase, level, stages, shapes or {}, batch, dialect=dialect, dims=dims or {}),
        ValueOptions(seed, weights),
        RunOptions("cpu", inputs or {}, stats=STATS, compute=compute),
    )
    checked = lint.check_files(texts(paths), job)
    known = baseline or config.baseline
    if known is None:
        return checked
    return replace(checked, issues=tuple(lint.read_baseline(known).without_known(checked.issues)))


def fix(
    paths: str | Path | Sequence[str | Path],
    *,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    dry_run: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
) -> list[Fixed]:
    """Apply those fixes of `check` that need no decision, and return the changes of each file.

    paths:          prototxt files, or folders in which all of them are fixed; each file is replaced atomically
    select, ignore: as in `check`, the project's settings included
    dry_run:        write nothing
    shapes, batch:  see `caffestat.options.NetOptions`

    Of several files, one that cannot be read or written stays as it is, which its `error` says. Raises a CaffestatError
    when that is the only one, or an option cannot be used.
    """
    from caffestat import lint

    config = lint.find_config(Path.cwd())
    chosen = lint.selected(_commas(select) or config.select, _commas(ignore) or config.ignore)
    job = lint.Job(chosen, config.limits, net=NetOptions(shapes=shapes or {}, batch=batch))
    done = []
    given = texts(paths)
    for path in lint.find_nets(given, links=False):
        try:
            fixed = lint.fix_file(path, job)
            if not dry_run:
                fixed.write()
        except CaffestatError as error:
            if list(given) == [path]:
                raise
            fixed = lint.Fixed(path, error=shown_error(error))
        done.append(fixed)
    return done


def _commas(words: Sequence[str]) -> tuple[str, ...]:
    return tuple(word for text in texts(words) for word in text.replace(",", " ").split())
