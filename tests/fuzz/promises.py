"""What holds for every file and every command."""

from __future__ import annotations

import csv
import io
import json
import os
import time
import traceback
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

from click.testing import CliRunner, Result

from caffestat.cli import main
from caffestat.errors import CaffestatError
from caffestat.prototext import parse

from .corpus import Case

__all__ = ["broken"]

SECONDS = 20.0  # of the processors, for one command on a small file


def broken(case: Case, folder: Path) -> Iterator[str]:
    """Run a case's commands in an empty folder, and yield every promise that does not hold."""
    for name, data in case.files.items():
        (folder / name).write_bytes(data)
    os.chdir(folder)
    text = case.files[case.changed] if case.changed.endswith(".prototxt") else b""
    if text and (found := _round_trip(text)):
        yield found
    for command in case.commands:
        started = time.process_time()
        result = CliRunner().invoke(main, command)
        yield from (f"{' '.join(command)}: {problem}" for problem in _problems(command, result))
        if time.process_time() - started > SECONDS:
            yield f"{' '.join(command)}: took {time.process_time() - started:.0f} s"
        if command[0] == "rewrite" and result.exit_code == 0 and "--diff" not in command and "-o" not in command:
            yield from _second_run(command)
    if text:
        yield from _upgrade(case.changed)
    left = [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
    if left:
        yield f"left {left}"


def _round_trip(data: bytes) -> str | None:
    try:
        document = parse(data, "n")
    except CaffestatError:
        return None
    return None if bytes(document) == data else "the text does not come back byte for byte"


def _problems(command: tuple[str, ...], result: Result) -> Iterator[str]:
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        yield "".join(traceback.format_exception(result.exception)[-8:])
        return
    if result.exit_code not in (0, 1, 2):
        yield f"exit code {result.exit_code}"
    if result.exit_code == 2 and not any(
        line.startswith(("error: ", "Error: ")) for line in result.stderr.splitlines()
    ):
        yield f"exit code 2 without a message: {result.stderr!r}"
    shown = result.stderr if command[0] == "upgrade" or "--diff" in command else result.output
    odd = next((c for c in shown if not c.isprintable() and c not in "\n\t"), None)
    if odd is not None:
        yield f"shows {odd!r}"
    if result.exit_code in (0, 1):
        yield from _format(command, result.stdout)


def _format(command: tuple[str, ...], text: str) -> Iterator[str]:
    format = command[command.index("--format") + 1] if "--format" in command else ""
    try:
        if format in ("json", "sarif"):
            json.loads(text, parse_constant=_no_constant)
        elif format == "junit":
            ElementTree.fromstring(text)
        elif format == "csv":
            lines = list(csv.reader(io.StringIO(text)))
            if len({len(line) for line in lines}) != 1:
                yield "rows of several lengths"
        elif format == "html":
            yield from _Page.problems(text)
        elif format == "github" and any(not line.startswith("::") for line in text.splitlines()):
            yield "a line that is no command"
    except (ValueError, ElementTree.ParseError) as error:
        yield f"its output is no {format}: {error}"


class _Page(HTMLParser):
    """Elements that are open, and what no page of ours holds: names out of files must not become markup."""

    _EMPTY = frozenset(("area", "base", "br", "col", "hr", "img", "input", "link", "meta", "source", "wbr"))

    def __init__(self) -> None:
        super().__init__()
        self._open: list[str] = []
        self.found: list[str] = []

    @classmethod
    def problems(cls, text: str) -> list[str]:
        page = cls()
        page.feed(text)
        page.close()
        return page.found + ([f"a page with {page._open} still open"] if page._open else [])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name.startswith("on") or (value or "").strip().lower().startswith("javascript:") or name == "hostile":
                self.found.append(f"a page with the attribute {name}={value!r}")
        if tag not in self._EMPTY:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self._EMPTY:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in self._EMPTY:
            return
        if not self._open or self._open.pop() != tag:
            self.found.append(f"a page where {tag} is closed, and is not open")


def _no_constant(name: str) -> None:
    raise ValueError(f"the constant {name}")


def _second_run(command: tuple[str, ...]) -> Iterator[str]:
    before = {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    CliRunner().invoke(main, command)
    after = {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}
    changed = [name for name in after if after[name] != before.get(name)]
    if changed:
        yield f"{' '.join(command)}: a second run changes {changed}"


def _upgrade(name: str) -> Iterator[str]:
    """Yield what an upgrade changes of a net's meaning."""
    original = CliRunner().invoke(main, ("analyze", "--static", "--format", "json", name))
    upgraded = CliRunner().invoke(main, ("upgrade", name, "-o", "upgraded.prototxt"))
    if original.exit_code or upgraded.exit_code or "left out" in upgraded.stderr:
        return
    again = CliRunner().invoke(main, ("analyze", "--static", "--format", "json", "upgraded.prototxt"))
    if again.exit_code:
        yield f"the upgraded text cannot be used: {again.stderr}"
    elif _meaning(original.stdout) != _meaning(again.stdout):
        yield "the upgraded text means something else"
    data = Path("upgraded.prototxt").read_bytes()
    CliRunner().invoke(main, ("upgrade", "--in-place", "upgraded.prototxt"))
    if Path("upgraded.prototxt").read_bytes() != data:
        yield "a second upgrade changes the text"


def _meaning(text: str) -> object:
    data = json.loads(text)
    for layer in data["layers"]:
        for name in ("line", "last_line"):
            layer.pop(name, None)
    return data["net"], data["layers"], data["totals"]
