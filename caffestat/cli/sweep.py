"""`caffestat sweep`: many variants of nets, here or on a Dask cluster."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffestat.cores import core_count
from caffestat.errors import InputError
from caffestat.files import refuse_inputs
from caffestat.options import DEVICES

from . import options, terminal

if TYPE_CHECKING:
    from caffestat.sweeps.summary import Summary

__all__ = ["sweep"]


def _numbers(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[float]:
    try:
        return [float(part) for part in options.split_commas(ctx, param, value)]
    except ValueError:
        raise click.BadParameter(f"expected comma-separated numbers, found {','.join(value)!r}") from None


def _fillers(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> list[str]:
    """Split "xavier,gaussian:std=0.01,mean=1" at the commas that a filler's name follows."""
    found: list[str] = []
    for part in options.split_commas(ctx, param, value):
        if "=" in part and ":" not in part and found:
            found[-1] += f",{part}"
        else:
            found.append(part)
    return found


def _changes(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, list[str]]:
    changes = {}
    for text in value:
        path, equals, values = text.partition("=")
        if not (path and equals and values):
            raise click.BadParameter(f"expected LAYERS.FIELD=VALUE,VALUE, found {text!r}")
        changes[path] = values.split(",")
    return changes


@click.command()
@click.argument("paths", type=options.FILE, metavar="NET|SWEEP.toml...", nargs=-1, required=True)
@click.option("--seeds", metavar="0:20|1,2,7", help="Values of random_seed.  [default: 1701]")
@click.option(
    "--filler",
    "fillers",
    multiple=True,
    callback=_fillers,
    metavar="TYPE[:FIELD=VALUE],…",
    help="Fillers of all weights; also autoinit, orthogonal, lsuv and krahenbuhl.",
)
@click.option(
    "--set",
    "changes",
    multiple=True,
    callback=_changes,
    metavar="LAYERS.FIELD=VALUE,…",
    help="Values of a field, in the layers that match a pattern; repeatable.",
)
@click.option(
    "--width",
    "widths",
    multiple=True,
    callback=_numbers,
    metavar="N,…",
    help="Factors for num_output of hidden layers.",
)
@click.option("--lr", "rates", multiple=True, callback=_numbers, metavar="N,…", help="Learning rates.")
@click.option(
    "--solver", "solvers", multiple=True, callback=options.split_commas, metavar="TYPE,…", help="Solver types."
)
@click.option(
    "--iterations", type=click.IntRange(min=0), metavar="N", help="Iterations to train.  [default: 0, first pass]"
)
@click.option(
    "--workers", type=click.IntRange(min=1), metavar="N", help="Number of processes.  [default: one per core]"
)
@click.option("--scheduler", metavar="ADDRESS", help="Dask scheduler to run on, such as tcp://host:8786.")
@click.option("--local-cluster", type=click.IntRange(min=1), metavar="N", help="Start N Dask workers here.")
@click.option("--tls-ca-file", type=options.FILE, metavar="FILE", help="For a scheduler at tls://.")
@click.option("--tls-client-cert", type=options.FILE, metavar="FILE", help="For a scheduler at tls://.")
@click.option("--tls-client-key", type=options.FILE, metavar="FILE", help="For a scheduler at tls://.")
@click.option(
    "--resource", multiple=True, metavar="NAME=N", help="Resource that each Dask worker must have, such as GPU=1."
)
@click.option("-o", "--output", type=options.FOLDER, metavar="FOLDER", help="Folder for the results.")
@click.option("--resume", is_flag=True, help="Resume FOLDER; finished trials are not run again.")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["table", "csv", "html"]),
    default="table",
    show_default=True,
    help="Output format of the summary.",
)
@options.report_page("Also write an HTML page: spreads, order, coordinate check, heat maps.")
@click.option("--predict/--no-predict", default=True, help="Also predict each variant's first pass.  [default: yes]")
@options.shapes
@options.batch
@options.plugin
@options.dialect
@options.data(None)
@click.option("--device", metavar="|".join(DEVICES), help="Device of each process.  [default: cpu]")
def sweep(paths: tuple[str, ...], kind: str, page: Path | None, **settings: Any) -> None:
    """Run every combination of seeds, fillers, fields, widths and learning rates, and summarize.

    NET is a net or solver prototxt; a SWEEP.toml holds the same settings as keys (nets, seeds, filler, set, width, lr,
    solver, iterations, batch, shapes, data), and options replace its values. The summary has each layer's spread over
    the seeds, the variants in order, how the signal depends on the width, and what two parameters do together. With -o
    all numbers are stored as Parquet.

    \b
    Examples:
      caffestat sweep net.prototxt --seeds 0:20 --filler xavier,msra,gaussian:std=0.01
      caffestat sweep net.prototxt --seeds 0:5 --width 0.5,1,2,4
      caffestat sweep net.prototxt --set 'conv*.weight_filler.std=0.01,0.02,0.05' -o results
      caffestat sweep solver.prototxt --lr 0.1,0.01,0.001 --iterations 50 --workers 4
      caffestat sweep net.prototxt --filler xavier,msra --seeds 0:5 --report sweep.html
      caffestat sweep sweep.toml --scheduler tcp://host:8786 -o results --resume
    """
    from caffestat import api

    _check_page(kind, page)  # before the work
    refuse_inputs(page, list(paths))
    with ExitStack() as stack:
        given = _given(paths, settings, stack)
        progress = stack.enter_context(_progress())
        summary = api.sweep(**given, progress=progress)
    title = ", ".join(paths)
    if page:
        terminal.write_lines(_shown(summary, "html", title), page)
    terminal.write_lines(_shown(summary, kind, title), None)
    if summary.failed == summary.trials > 0:
        raise InputError(f"{title}: no trial succeeded; the first failed with: {summary.errors[0][1]}")


def _check_page(kind: str, page: Path | None) -> None:
    """Raise InputError where a page cannot be made, or would go to the terminal."""
    from caffestat.report.html import require_extra

    if page or kind == "html":
        require_extra()
    if kind == "html" and sys.stdout.isatty():
        raise InputError("--format html: expected --report FILE or a redirected output, found a terminal")


def _shown(summary: Summary, kind: str, title: str) -> str | Iterator[str]:
    from caffestat.report import sweep_text

    if kind == "table":
        return sweep_text.lines(summary)
    if kind == "csv":
        return sweep_text.render_csv(summary)
    from caffestat.report.html.from_sweep import render_sweep

    return render_sweep(summary, title)


def _given(paths: tuple[str, ...], settings: dict[str, Any], stack: ExitStack) -> dict[str, Any]:
    """Return the arguments of `api.sweep`: those of the file, replaced by those of the options."""
    from caffestat.sweeps import as_seeds
    from caffestat.sweeps.spec import read_sweep

    files = [path for path in paths if path.endswith(".toml")]
    if files and len(paths) > 1:
        raise InputError("expected one SWEEP.toml or nets, found both or several")
    given: dict[str, Any] = read_sweep(files[0]) if files else {"nets": list(paths)}
    names = ["fillers", "changes", "widths", "rates", "solvers", "iterations", "shapes", "batch"]
    names += ["data", "device", "dialect"]
    given |= {name: settings[name] for name in names if settings[name]}
    if settings["seeds"]:
        given["seeds"] = as_seeds(settings["seeds"])
    if "nets" not in given:
        raise InputError(f'{files[0]}: expected nets = ["net.prototxt"], found none')
    client = _client(settings, stack)
    resources = _resources(settings["resource"])
    if client is not None:
        _note_absent(client, resources)
    return given | {
        "client": client,
        "workers": 1 if client else settings["workers"] or core_count(),
        "resources": resources,
        "output": settings["output"],
        "resume": settings["resume"],
        "predict": settings["predict"],
    }


def _resources(texts: tuple[str, ...]) -> dict[str, float]:
    pairs = (text.partition("=") for text in texts)
    try:
        return {name: float(number) for name, _, number in pairs}
    except ValueError:
        raise InputError(f"--resource: expected NAME=N, such as GPU=1, found {', '.join(texts)}") from None


def _note_absent(client: Any, resources: dict[str, float]) -> None:
    from caffestat.sweeps.executors import waits_for_workers

    if waits_for_workers(client, resources):
        wanted = "".join(f" with {name}={amount:g}" for name, amount in resources.items())
        terminal.line(f"note: the cluster has no worker{wanted}; the trials start when one joins", err=True)


def _client(settings: dict[str, Any], stack: ExitStack) -> Any:
    from caffestat.sweeps.executors import connect, local_cluster

    security = {name: settings[name] for name in ("tls_ca_file", "tls_client_cert", "tls_client_key")}
    if settings["scheduler"] and settings["local_cluster"]:
        raise InputError("give --scheduler or --local-cluster, not both")
    if settings["scheduler"]:
        return stack.enter_context(connect(settings["scheduler"], **security))
    if settings["local_cluster"]:
        return stack.enter_context(local_cluster(settings["local_cluster"]))
    return None


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal how many trials are finished, and for how long the others will take."""
    status = terminal.StatusLine()
    first: list[tuple[int, float]] = []  # when the first results came: stored ones took no time

    def progress(done: int, count: int) -> None:
        first.append((done, time.monotonic())) if not first else None
        (before, then), now = first[0], time.monotonic()
        left = f", {(now - then) / (done - before) * (count - done):.0f} s left" if done > before else ""
        status.show(f"{done} of {count} trials{left}")

    try:
        yield progress
    finally:
        status.clear()
