"""`caffestat layers`: the layer types that are known."""

from __future__ import annotations

import click

from . import options

__all__ = ["layers"]


@click.command()
@click.argument("types", metavar="[TYPES]…", nargs=-1)
@options.plugin
def layers(types: tuple[str, ...]) -> None:
    """Print what layer types compute and their reference sources; without TYPES, list all.

    A type that forks of Caffe define differently is listed once per dialect. The fields that
    are written decide which dialect is used; --dialect of other commands chooses one where they do not.

    \b
    Examples:
      caffestat layers
      caffestat layers Normalize PriorBox
    """
    from caffestat import api

    click.echo(api.list_layers(*types))
