"""What options offer is what registries have: commands name it without importing them."""

from __future__ import annotations

import importlib
import re

import click
import pytest

from caffestat import lint, options, report
from caffestat.cli import main
from caffestat.fillers import VARIANCE_NORMS
from caffestat.program.losses import GIVEN_GRADIENTS, LOSSES


def option(command: str, name: str) -> click.Option:
    found = getattr(importlib.import_module(f"caffestat.cli.{command}"), command)
    return next(one for one in found.params if isinstance(one, click.Option) and name in one.opts)


@pytest.mark.parametrize(
    ("command", "name", "known"),
    [
        ("analyze", "--format", set(report.FORMATS)),
        ("check", "--format", {*lint.FORMATS, "html"}),
        ("check", "--severity", set(options.SEVERITIES)),
        ("calibrate", "--method", set(options.CALIBRATION_METHODS)),
        ("train", "--data", set(options.DATA)),
        ("sweep", "--data", set(options.DATA)),
    ],
)
def test_choices(command: str, name: str, known: set[str]) -> None:
    kind = option(command, name).type
    assert isinstance(kind, click.Choice)
    assert set(kind.choices) == known


@pytest.mark.parametrize(
    ("command", "name", "known"),
    [
        ("rewrite", "--variance-norm", [norm.lower() for norm in VARIANCE_NORMS]),
        ("analyze", "--loss", LOSSES),
        ("train", "--loss", [loss for loss in LOSSES if loss not in GIVEN_GRADIENTS]),
    ],
)
def test_help_names_what_the_option_takes(command: str, name: str, known: list[str]) -> None:
    text = option(command, name).help or ""
    assert [word for word in known if word not in text] == []


NAMES_OF_FILES = re.compile(r"(FILE|FOLDER|NET|SOLVER|LOG|A|B)\b(?!=)")


@pytest.mark.parametrize("command", main.list_commands(click.Context(main)))
def test_no_file_has_an_empty_name(command: str) -> None:
    """`-o "$OUT"` with a variable that is not set must not mean the working directory, or the input itself."""
    found = main.get_command(click.Context(main), command)
    assert found
    for param in found.params:
        if NAMES_OF_FILES.match(param.metavar or ""):
            with pytest.raises(click.BadParameter, match="expected the name of a file, found an empty text"):
                param.type.convert("", param, None)


def test_limits_of_checks_have_options() -> None:
    assert all(option("check", f"--{name.replace('_', '-')}") for name in lint.Limits.names())
