"""`caffestat explain`: the page of a check."""

from __future__ import annotations

import click

__all__ = ["explain"]


@click.command()
@click.argument("codes", metavar="[CODES]…", nargs=-1)
def explain(codes: tuple[str, ...]) -> None:
    """Print the pages of checks: what each looks for, why, an example and the fix; without CODES, list all.

    \b
    Examples:
      caffestat explain
      caffestat explain CS012
      caffestat explain signal-vanishes
    """
    from caffestat import api

    click.echo(api.explain(*codes))
