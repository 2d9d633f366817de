"""`caffestat rewrite`: other fillers in prototxt files, other weights in models, and nothing else changed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from . import options, terminal
from .policies import policies

if TYPE_CHECKING:
    from caffestat.rewriting import Outcome

__all__ = ["rewrite"]

_CHANGED, _FAILED = 1, 2


@click.command()
@click.argument("paths", type=options.FILE, metavar="FILES…", nargs=-1, required=True)
@policies
@click.option("--fix-check", is_flag=True, help="Apply the fixes of `caffestat check` instead of a policy.")
@click.option("--only-missing/--replace", default=False, help="Add missing fillers and keep existing ones.")
@click.option("--diff", is_flag=True, help="Print a unified diff and write nothing.")
@click.option("--check", is_flag=True, help="Write nothing; exit with 1 when something would change.")
@click.option(
    "-o", "--output", type=options.FILE_OR_FOLDER, metavar="FILE|DIR", help="Write here and keep the original files."
)
@click.option("--backup", is_flag=True, help="Keep the original as FILE.bak.")
@click.option("-r", "--recursive", is_flag=True, help="Search folders for prototxt files.")
@click.option(
    "--net", type=options.FILE, metavar="NET", help="Net of a .caffemodel.  [default: the layers in the model]"
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**32 - 1),
    metavar="N",
    help="Caffe's random_seed, for models.  [default: 1701]",
)
@options.shapes
@options.batch
@options.plugin
def rewrite(paths: tuple[str, ...], fix_check: bool, diff: bool, check: bool, **settings: Any) -> None:
    """Change the fillers of nets and solvers in place, and change no other byte.

    FILES are prototxt files of any age, .caffemodel or .onnx models whose weights are redrawn, or with --recursive
    folders. Frozen params, bilinear upsampling and recurrent layers are skipped unless --layer or --type names them.

    \b
    Examples:
      caffestat rewrite --filler auto --diff net.prototxt
      caffestat rewrite --filler xavier --bias constant:0 --recursive models
      caffestat rewrite --filler msra --only-missing --check deploy.prototxt
      caffestat rewrite --fix-check --diff net.prototxt
      caffestat rewrite --filler explicit --shape data=1,3,227,227 net.prototxt
      caffestat rewrite --filler xavier --layer 'fc*' --seed 7 --net net.prototxt -o new.caffemodel old.caffemodel
    """
    from caffestat import api

    if fix_check:
        sys.exit(_fix(paths, diff, check, settings))
    show = _Show(diff)
    outcomes = api.rewrite(paths, dry_run=diff or check, watch=show, **settings)
    if outcomes and not any(outcome.is_selected or outcome.error for outcome in outcomes):
        terminal.line("warning: --layer, --type and --exclude select no layer of these files", err=True)
    show.summary(outcomes, diff or check)
    changed = check and any(outcome.changes for outcome in outcomes)
    failed = any(outcome.error for outcome in outcomes)
    sys.exit(_FAILED if failed else _CHANGED if changed else 0)


def _fix(paths: tuple[str, ...], diff: bool, check: bool, settings: dict[str, Any]) -> int:
    """Apply the fixes of findings, print what they are, and return the exit code."""
    from caffestat import api

    given = {"shapes": settings.pop("shapes"), "batch": settings.pop("batch")}
    del settings["recursive"]  # folders are searched in any case, as `caffestat check` does
    if any(value for value in settings.values()):
        allowed = "--diff, --check, --recursive, --shape and --batch"
        raise click.UsageError(f"--fix-check can be combined with {allowed} only")
    done = api.fix(paths, dry_run=diff or check, **given)
    for fixed in done:
        if fixed.error:
            click.echo(f"error: {fixed.error}", err=True)
        if diff:
            terminal.diff(fixed.diff)
        for issue in () if diff else fixed.issues:
            terminal.line(f"{issue.place}: {issue.code} {issue.layer}: {issue.fix}")
    count = sum(len(fixed.issues) for fixed in done)
    click.echo(f"{_number_of(len(done), 'file')}: {count} fix{'es' * (count != 1)}", err=True)
    return _FAILED if any(fixed.error for fixed in done) else _CHANGED if check and count else 0


class _Show:
    """Prints the outcome of each file, and on a terminal how many are done."""

    def __init__(self, diff: bool) -> None:
        self.diff = diff
        self.done = 0
        self.status = terminal.StatusLine()

    def __call__(self, outcome: Outcome, total: int) -> None:
        self.done += 1
        self.status.clear()
        if self.diff and outcome.diff:
            terminal.diff(outcome.diff)
        else:
            for change in outcome.changes:
                terminal.line(change)
        for text in outcome.curves.lines() if outcome.curves else ():
            terminal.line(text, err=self.diff)  # a diff is to be applied
        for note in outcome.notes:
            terminal.line(f"note: {note}", err=True)
        if outcome.error:
            click.echo(f"error: {outcome.error}", err=True)
        if self.done < total:
            self.status.show(f"{self.done} of {total} files")

    def summary(self, outcomes: Sequence[Outcome], dry_run: bool) -> None:
        changed = [outcome for outcome in outcomes if outcome.changes]
        failed = sum(1 for outcome in outcomes if outcome.error)
        params = sum(len(outcome.changes) for outcome in changed)
        verb = "would change" if dry_run else "changed"
        unchanged = len(outcomes) - len(changed) - failed
        counts = [f"{len(changed)} {verb} ({_number_of(params, 'filler')})", f"{unchanged} unchanged"]
        counts += [f"{failed} failed"] if failed else []
        click.echo(f"{_number_of(len(outcomes), 'file')}: {', '.join(counts)}", err=True)


def _number_of(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
