"""The documentation is true: commands print what it shows, links lead somewhere, nothing is left out."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pkgutil
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from glob import glob
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import caffestat
from caffestat.cli import main

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("models/**/*.md")])
FENCE = re.compile(r"^```(console|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)(?:#[^)]*)?\)")
SHELL = re.compile(r"[|<>;&$`]|--plugin")  # and plugins register what this process would keep
REGISTERS = re.compile(r"^@|plugin|register", re.MULTILINE)  # code that leaves something in the process
# nets of models/ that take long to check
LARGE = ("googlenet.prototxt", "mobilenet.prototxt", "resnet50.prototxt", "squeezenet.prototxt", "vgg16.prototxt")
NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?|-?\d+e[-+]\d+")


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, kind: str) -> list[str]:
    return [body for found, body in FENCE.findall(page.read_text(encoding="utf-8")) if found == kind]


def split(block: str) -> Iterator[tuple[str, str]]:
    """Yield the commands of a console block, each with the output that it shows ("" for none)."""
    for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def run(command: str, folder: Path) -> str:
    """Run a shell command as a reader would, in a folder with our models, and return what it prints.

    Commands and Python files of ours run in this process, which saves the start of one; the shell gets what they are
    piped into.
    """
    ours, _, rest = command.partition(" | ")
    program, *arguments = shlex.split(ours)
    if program == "python" and arguments[0].endswith(".py") and not SHELL.search(command):
        return in_python(folder / arguments[0], arguments[1:], folder)
    if program != "caffestat" or SHELL.search(ours):
        return in_shell(re.sub(r"\bcaffestat (?=\w)", f"{sys.executable} -m caffestat ", command), folder)
    arguments = [name for argument in arguments for name in sorted(glob(argument, root_dir=folder)) or [argument]]
    with contextlib.chdir(folder):
        result = CliRunner().invoke(main, arguments, prog_name="caffestat")
    assert result.exit_code == 0, result.output
    return in_shell(rest, folder, result.stdout) if rest else result.stdout


def in_python(file: Path, arguments: list[str], folder: Path) -> str:
    """Run a Python file in this process and return what it prints."""
    output = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(output), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(file), *arguments])
        runpy.run_path(str(file), run_name="__main__")
    return output.getvalue()


def in_shell(command: str, folder: Path, stdin: str = "") -> str:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, input=stdin.encode(), capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def same(shown: str, printed: str) -> bool:
    """Whether two outputs agree, measured numbers to a percent: processors round differently."""
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(float(a) == pytest.approx(float(b), rel=0.01) for a, b in pairs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like the checkout to what the documentation runs, but for nets that no page names."""
    shutil.copytree(ROOT / "models", tmp_path / "models", ignore=shutil.ignore_patterns(*LARGE))
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "console")], ids=page_name)
def test_commands_print_what_is_shown(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    text = page.read_text(encoding="utf-8")
    for block in blocks(page, "console"):
        fresh = ""
        for command, shown in split(block):
            printed = run(command, folder)
            assert not shown or request.config.getoption("--refresh") or same(shown, printed), printed
            fresh += f"$ {command}\n" + (printed if shown else "")
        text = text.replace(block, fresh)
    if request.config.getoption("--refresh"):
        page.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=page_name)
def test_python_runs(page: Path, folder: Path) -> None:
    code = "\n".join(blocks(page, "python"))
    (folder / "page.py").write_text(code, encoding="utf-8")
    run(f"{sys.executable if REGISTERS.search(code) else 'python'} page.py", folder)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_resolve(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def commands() -> dict[str, click.Command]:
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in main.list_commands(context)}
    return {name: command for name, command in found.items() if command}


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name, command in commands().items():
        assert f"## caffestat {name}\n" in text
        options = [option for param in command.params if isinstance(param, click.Option) for option in param.opts]
        assert [option for option in options if f"`{option}`" not in text] == []


def test_no_option_is_documented_that_is_not_there() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    known = {option for command in commands().values() for param in command.params for option in param.opts}
    assert set(re.findall(r"^\| `(--?[\w-]+)`", text, re.MULTILINE)) <= known


def test_every_field_of_the_json_is_documented(folder: Path) -> None:
    import json

    text = (ROOT / "docs" / "json.md").read_text(encoding="utf-8")
    report = json.loads(run("caffestat analyze --format json --device cpu models/lenet.prototxt", folder))
    missing = {name for name in field_names(report) if not re.search(rf"`(?:[\w.]+\.)?{name}(?:\[\]|\.\w+)?`", text)}
    assert missing == set()


def field_names(value: object) -> set[str]:
    """Return the names of all fields, at any depth."""
    if isinstance(value, dict):
        return set(value).union(*map(field_names, value.values()))
    return set().union(*map(field_names, value)) if isinstance(value, list) else set()


def test_every_make_target_is_explained() -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.MULTILINE)
    assert set(phony.split()) == set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))


MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(caffestat.__path__, "caffestat.")
    if module.name != "caffestat.__main__"
)


def test_what_modules_export_exists() -> None:
    for name in ("caffestat", *MODULES):
        module = importlib.import_module(name)
        exported = getattr(module, "__all__", ())
        assert len(set(exported)) == len(exported), name
        assert [attribute for attribute in exported if not hasattr(module, attribute)] == [], name


def test_public_modules_say_what_they_export() -> None:
    for name in ("caffestat", *(name for name in MODULES if name.count(".") == 1)):
        module = importlib.import_module(name)
        assert module.__all__, name
        assert module.__doc__, name


def test_version_is_in_the_changelog_or_ahead_of_it() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", text, re.MULTILINE)
    assert "## [Unreleased]" in text
    assert not released or caffestat.__version__ == released[0]
