"""`caffestat upgrade`: nets and solvers of any age, written in Caffe's current format."""

from __future__ import annotations

from pathlib import Path

import click

from caffestat.files import refuse_inputs

from . import options, terminal

__all__ = ["upgrade"]


@click.command()
@options.net_argument
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=options.TARGET,
    help="Write to FILE, atomically, instead of standard output.",
)
@click.option("--in-place", is_flag=True, help="Replace NET in place.")
def upgrade(path: str, output: Path | None, in_place: bool) -> None:
    """Write V0 and V1 layers, legacy inputs and a solver's solver_type in the current format.

    NET is a net or a solver prototxt; - is the standard input. Comments are kept; those inside old layers move
    before them. Layers in the current format do not change.

    \b
    Examples:
      caffestat upgrade old.prototxt -o new.prototxt
      caffestat upgrade --in-place deploy.prototxt
      caffestat upgrade old.prototxt | diff old.prototxt -
    """
    from caffestat import api

    if in_place and output:
        raise click.UsageError("--in-place replaces NET; remove it or --output")
    if in_place and path == "-":
        raise click.UsageError("--in-place replaces NET: expected a file, found the standard input")
    refuse_inputs(output, [path])
    upgraded = api.upgrade(path, path if in_place else output)
    for finding in upgraded.findings:
        terminal.line(f"warning: {finding}", err=True)
    if not in_place and not output:
        click.echo(upgraded.data, nl=False)
