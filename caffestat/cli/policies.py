"""The options that say how params are filled, and which: those of rewrite and fill."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["policies"]

F = TypeVar("F", bound=Callable[..., Any])

_POLICIES = (
    click.option(
        "--filler",
        metavar="POLICY",
        help="Filler for weights: xavier, msra, gaussian:std=0.01, uniform:min=-0.1,max=0.1, constant:value=0, "
        "bilinear, positive_unitball, auto (by the nonlinearity that follows), explicit or explicit:POLICY (numbers), "
        "autoinit (std solved from predicted moments); weights only: orthogonal, lsuv, krahenbuhl (scaled on data).",
    ),
    click.option("--bias", metavar="POLICY", help="Filler for biases, for example constant:0."),
    click.option(
        "--variance-norm",
        metavar="NORM",
        help="Which fan divides the variance of xavier and msra: fan_in, fan_out or average.  [default: fan_in]",
    ),
    click.option("--layer", "layers", multiple=True, metavar="GLOB", help="Only layers of this name; repeatable."),
    click.option("--type", "types", multiple=True, metavar="TYPE", help="Only layers of this type; repeatable."),
    click.option("--exclude", "excludes", multiple=True, metavar="GLOB", help="No layers of this name; repeatable."),
)


def policies(function: F) -> F:
    """Add the options that say which fillers to use, and for which layers."""
    for option in reversed(_POLICIES):
        function = option(function)
    return function
