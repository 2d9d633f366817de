"""`caffestat layers`: the layer types that are known."""

from __future__ import annotations

import click

from . import options

__all__ = ["layers"]


@click.command()
@click.argument("types", metavar="[TYPES]…", nargs=-1)
@options.plugin
def layers(types: tuple[str, ...]) -> None:
    """Print what layer types compute and which source they are written after; without TYPES, a list of all.

    A type that forks of Caffe define differently is listed once per dialect. Dialects decide themselves by the fields
    that are written; --dialect of other commands chooses one where they cannot.

    \b
    Examples:
      caffestat layers
      caffestat layers Normalize PriorBox
    """
    from caffestat import api

    click.echo(api.list_layers(*types))
