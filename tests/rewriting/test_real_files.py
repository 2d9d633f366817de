"""Every policy on every net at hand: only fillers differ, once is enough, and the result loads."""

from __future__ import annotations

import re
from bisect import bisect_left
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format

from caffestat.errors import CaffestatError
from caffestat.net import Net, Solver, build, load
from caffestat.net.source import is_solver
from caffestat.options import NetOptions
from caffestat.prototext import Document, Message, parse
from caffestat.rewriting import change_of, rewrite_text
from caffestat.rewriting.net_fans import TextFans
from caffestat.rewriting.text_layers import text_layers
from caffestat.schema import NetParameter, SolverParameter

from ..corpus import FOLDERS, files_in

FILES = [path for folder in FOLDERS for path in files_in(folder)]
POLICIES = [
    {"filler": "xavier", "variance_norm": "average"},
    {"filler": "msra", "only_missing": True},
    {"filler": "gaussian:std=0.01", "bias": "constant:0.1"},
    {"filler": "uniform:min=-0.125,max=0.125"},
    {"filler": "auto"},
    {"filler": "explicit"},
    {"filler": "explicit:auto", "variance_norm": "fan_out", "bias": "constant:0.1"},
]


def parsed(path: Path) -> Document | None:
    try:
        return parse(path.read_bytes(), str(path))
    except CaffestatError:
        return None


def filler_lines(net: Document | Message, ends: list[int]) -> set[int]:
    """The lines of all messages that hold fillers directly: those that may change, or get new lines.

    ends: where the lines of the text end
    """
    lines: set[int] = set()
    for field in net.fields:
        for value in field.values:
            if isinstance(value, Message):
                if field.name.endswith("_param") or field.name == "layer":
                    start, end = field.span
                    lines.update(range(bisect_left(ends, start), bisect_left(ends, end) + 1))
                else:
                    lines |= filler_lines(value, ends)
    return lines


def without_fillers(data: bytes) -> Any:
    """Protobuf's own reading of the text, fillers cleared."""
    kind = SolverParameter if is_solver(parse(data)) else NetParameter
    message = text_format.Parse(data.decode("utf-8", "replace"), kind(), allow_unknown_field=True)
    for net in nets(message):
        clear_fillers(net)
    return message


def nets(message: Any) -> list[Any]:
    if message.DESCRIPTOR.name == "NetParameter":
        return [message]
    return [message.net_param, message.train_net_param, *message.test_net_param]


def clear_fillers(net: Any) -> None:
    for layer in (*net.layer, *net.layers):
        core = layer.layer if layer.DESCRIPTOR.name == "V1LayerParameter" and layer.HasField("layer") else layer
        for descriptor, value in core.ListFields():
            if descriptor.name.endswith("_filler"):
                core.ClearField(descriptor.name)
            elif descriptor.message_type is not None and descriptor.has_presence:
                for name in ("weight_filler", "bias_filler", "filler"):
                    if name in descriptor.message_type.fields_by_name:
                        value.ClearField(name)


@pytest.fixture
def read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read each text, its layers and its nets once: all policies read the same, and what one writes is read again."""
    once = cache(parse)

    @cache
    def built_once(document: Document) -> tuple[list[Net], list[str]]:
        fans = TextFans(document, NetOptions())
        return list(fans._build()), fans._problems

    def nets_of(fans: TextFans) -> list[Net]:
        found, fans._problems = built_once(fans._document)
        return found

    monkeypatch.setattr(TextFans, "_nets", property(nets_of))
    monkeypatch.setattr("caffestat.rewriting.text.parse", once)
    monkeypatch.setattr("caffestat.rewriting.text.text_layers", cache(text_layers))
    monkeypatch.setitem(globals(), "parse", once)


def test_there_are_files() -> None:
    assert len(FILES) > 50


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_only_fillers_change_and_only_once(
    path: Path, tmp_path: Path, read_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = parsed(path)
    if document is None:
        pytest.skip("does not parse")
    before = bytes(document)
    results = {str(options["filler"]): rewritten(path, before, options) for options in POLICIES}
    check_rest(before, results["gaussian:std=0.01"])
    monkeypatch.chdir(path.parent)
    check_built(path, [results["auto"], results["explicit:auto"]], tmp_path / path.name)


def rewritten(path: Path, before: bytes, options: dict[str, Any]) -> bytes:
    """Return the text with the fillers of a policy, after which there is nothing left to change."""
    change = change_of(**options)
    result = rewrite_text(before, str(path), change)
    assert (result.data != before) == bool(result.changes)
    if result.changes:  # else the same text would be rewritten in the same way
        again = rewrite_text(result.data, str(path), change)
        assert again.data == result.data, options
        assert not again.changes, options
        assert other_lines(result.data, path) == other_lines(before, path)
    return result.data


@lru_cache(maxsize=2)  # of one file before and after
def other_lines(data: bytes, path: Path) -> list[bytes]:
    """Return the lines outside the messages that hold fillers, in order."""
    ends = [match.start() for match in re.finditer(rb"\n", data)]
    touched = filler_lines(parse(data, str(path)), ends)
    return [line for number, line in enumerate(data.split(b"\n")) if number not in touched]


def check_rest(before: bytes, after: bytes) -> None:
    """Protobuf reads the same net but for its fillers; of what does not fit the schema it reads nothing."""
    try:
        expected = without_fillers(before)
    except (text_format.ParseError, CaffestatError):
        return
    assert without_fillers(after) == expected


def check_built(path: Path, texts: list[bytes], copy: Path) -> None:
    """A net that builds has the same layers, shapes and params with other fillers."""
    try:
        net = built(path)
    except CaffestatError:
        return
    for text in texts:
        if text != path.read_bytes():
            copy.write_bytes(text)
            after = built(copy)
            for one, other in zip(after.nodes, net.nodes, strict=True):
                assert (one.name, one.top_shapes) == (other.name, other.top_shapes)
            assert [param.param.shape for param in after.params] == [param.param.shape for param in net.params]


def built(path: Path) -> Net:
    source = load(str(path))
    return build(source.net if isinstance(source, Solver) else source)
