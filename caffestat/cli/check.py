"""`caffestat check`: faults of nets, with codes, places and fixes, for people and for continuous integration."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffestat.escape import shown_error
from caffestat.files import refuse_inputs
from caffestat.options import SEVERITIES

from . import options, terminal

if TYPE_CHECKING:
    from caffestat.lint import Checked

__all__ = ["check"]

_LIMITS = {
    "vanish": "Ratio of mean |x| to the input's, or of mean |dx| to the loss's, below which it vanishes.",
    "explode": "The same ratio, above which it explodes.",
    "saturated": "Share of inputs in the flat range above which a sigmoid or tanh is saturated.",
    "dead": "Share of zero outputs above which a ReLU is dead.",
    "high-loss": "Multiple of ln K above which an initial softmax loss is high.",
    "deep": "Number of consecutive layers from which a stack is deep.",
    "uneven": "Ratio of the largest to the smallest relative step above which steps are uneven.",
    "fan-factor": "Factor above which a filler's n differs from the true fan-in.",
}


def _limits(function: Any) -> Any:
    for name, text in reversed(_LIMITS.items()):
        function = click.option(f"--{name}", type=float, metavar="X", help=text)(function)
    return function


@click.command()
@click.argument("paths", type=options.FILE, metavar="FILES…", nargs=-1, required=True)
@click.option(
    "--predict/--run", "predict", default=True, help="Predict the signal; with --run, also run one iteration."
)
@click.option(
    "--format",
    type=click.Choice(["text", "json", "github", "sarif", "junit", "html"]),
    default="text",
    show_default=True,
    help="Output format of the findings.",
)
@click.option(
    "--select",
    multiple=True,
    metavar="CODES",
    help="Run only these checks: codes (CS012), code prefixes (CS01) or names.",
)
@click.option("--ignore", multiple=True, metavar="CODES", help="Skip these checks: codes, code prefixes or names.")
@click.option("--severity", type=click.Choice(SEVERITIES), help="Lowest severity to report.  [default: info]")
@click.option("--baseline", type=options.FILE, metavar="FILE", help="Skip the findings listed in this file.")
@click.option(
    "--write-baseline", type=options.TARGET, metavar="FILE", help="Write a baseline of all findings and exit with 0."
)
@_limits
@options.state
@options.dims
@options.weights
@options.seed
@options.arrays
@options.compute
@options.output
def check(
    paths: tuple[str, ...], format: str, write_baseline: Path | None, output: Path | None, **settings: Any
) -> None:
    """Check nets and solvers, and exit with 1 when a warning or an error is found.

    FILES are prototxt files, - for the standard input, or folders, in which all of them are checked; with --run also
    .onnx models, for NaN, infinity and the range of float16. `caffestat explain CODE` explains a finding.
    `# caffestat: ignore[CODE] reason` in a layer silences it there. Settings can be in `[caffestat]` of a
    caffestat.cfg, or `[caffestat:check]` of a setup.cfg.

    \b
    Examples:
      caffestat check models/lenet.prototxt
      caffestat check --format github --severity warning nets/*.prototxt
      caffestat check --run --ignore CS018 net.prototxt
      caffestat check --run --input data=images.npy model.onnx
      caffestat check --run --compute float16 --select CS021 net.prototxt
      caffestat check --format html -o net.html net.prototxt
      caffestat check --write-baseline known.json nets/
    """
    # before numpy comes: the matrices are small, and many files are checked side by side
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from caffestat import api, lint

    output = terminal.page_file(format, output)
    refuse_inputs(output, [*paths, *settings["weights"], settings["baseline"] or ""])
    if write_baseline:
        if output or format != "text":
            raise click.UsageError("--write-baseline reports no findings; remove --output and --format")
        lint.refuse_other(str(write_baseline))
    limits = {name.replace("-", "_"): settings.pop(name.replace("-", "_")) for name in _LIMITS}
    checked = api.check(paths, run=not settings.pop("predict"), limits=limits, **settings)
    if write_baseline:
        terminal.write(lint.to_baseline(checked.issues), write_baseline)
        return
    net = {name: settings[name] for name in ("phase", "level", "stages", "shapes", "batch", "dialect", "dims")}
    terminal.write(_page(checked, net) if format == "html" else lint.render(checked, format), output)
    for unchecked in checked.errors:
        click.echo(f"error: {shown_error(unchecked.error)}", err=True)
    sys.exit(2 if checked.errors else 1 if checked.is_bad else 0)


def _page(checked: Checked, net: dict[str, Any]) -> str:
    from caffestat.api.pages import check_page

    return check_page(checked, **net)
