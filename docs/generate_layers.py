"""Write docs/layers.md, a table of every layer type and its parameters; with --check, only compare it."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

from caffestat.layers import Layer, Source, layer_class, layer_dialects, layer_types, reference_of
from caffestat.layers.fork_fields import FORK_FIELDS, ForkField
from caffestat.layers.forks.staged import Computed
from caffestat.net import read_net
from caffestat.net.dialects import choose
from caffestat.net.spellings import MEANINGS
from caffestat.schema import LayerParameter, UnknownField

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "layers.md"

HEAD = """\
# Layer types

Made by `python docs/generate_layers.py`; do not edit.

*Parameters*: the messages that the type looks at; their fields and defaults are listed below. *TRAIN, TEST*: whether
the type does the same in both. *Gradient*: **ops** (it follows from the ONNX ops), **own** (the type declares it, where
Caffe's is not the derivative of the ops, or a closed form is faster), **none** (it stops here), or — (there is no
bottom). *Golden cases*: nets in `tests/golden/` that have the type, with what Caffe computed. Types of forks are not
Caffe's; their dialect and the source they are written after, or what they are taken for, is said too. A type that forks
define differently has a row per dialect: the fields that are written tell which is meant, or `--dialect` does.

| type | parameters | TRAIN, TEST | gradient | golden cases |
|---|---|---|---|---|
"""
FIELDS_HEAD = """
## Parameters

Names and defaults are those of Caffe's caffe.proto; a field without a default is unset.

| message | fields |
|---|---|
"""
FORKS_HEAD = """
## Parameters of forks

Names and defaults are the forks' own; of a message that Caffe has too, the fields that the fork adds.

| dialect | message | fields |
|---|---|---|
"""
SPELLINGS = """
## Spellings of forks

| field | taken as |
|---|---|
"""
LEFT_OUT = """
## Fields of forks that are not computed

In layers of Caffe's own types. What any other field that Caffe lacks does is not known: of a data layer it makes the
data synthetic; of a layer whose tops keep a bottom's shape, and of a filler, it makes the values unknown (`?`); of any
other layer the shapes as well. Those of `ParamSpec`, `NetStateRule` and of the net change no number of a pass.

| message | fields | what they are | changes | for example |
|---|---|---|---|---|
"""
_EMPTY = '""'
_OWN = re.compile(r"\b(?:custom_vjp|emit_closed|emit_pulled|emit_reread)\(")


def page() -> str:
    """Return the page."""
    classes = [(name, cls) for name in layer_types() for cls in layer_dialects(name)]
    rows = "".join(f"| {' | '.join(_row(name, cls))} |\n" for name, cls in classes)
    own = LayerParameter.DESCRIPTOR.fields_by_name
    messages = {message: own[message].message_type for _, cls in classes for message in _messages(cls, own)}
    fields = "".join(f"| `{name}` | {_fields(kind)} |\n" for name, kind in sorted(messages.items()))
    return (
        HEAD + rows + FIELDS_HEAD + fields + FORKS_HEAD + _fork_fields(classes) + SPELLINGS + _spellings() + _left_out()
    )


def _row(name: str, cls: type[Layer]) -> tuple[str, ...]:
    own = [f"`{field}` (own)" for field in cls.own_fields]
    messages = sorted({*_messages(cls, LayerParameter.DESCRIPTOR.fields_by_name), *_messages(cls, _added(cls))})
    phases = "differ" if "self.phase" in _source(cls) else "same"
    folders = "*/*" if cls.dialect else "*"
    said = [", ".join(_cases(folders).get(cls, []))]
    said += [f"dialect {cls.dialect}: {reference_of(cls)}"] if cls.dialect else []
    said += [f"taken as {cls.read_as}"] if cls.read_as else []
    cases = "; ".join(filter(None, said)) or "—"
    return f"`{name}`", ", ".join([*(f"`{m}`" for m in messages), *own]) or "—", phases, _gradient(cls), cases


def _added(cls: type[Layer]) -> dict[str, Any]:
    """Return the fields that a fork adds to LayerParameter."""
    return dict(cls.adds.DESCRIPTOR.fields_by_name) if cls.adds else {}


def _fork_fields(classes: list[tuple[str, type[Layer]]]) -> str:
    """Return a row for each message that forks add, or add fields to."""
    found = {
        (cls.dialect, message): _added(cls)[message].message_type
        for _, cls in classes
        for message in _messages(cls, _added(cls))
    }
    return "".join(f"| {dialect} | `{name}` | {_fields(kind)} |\n" for (dialect, name), kind in sorted(found.items()))


def _gradient(cls: type[Layer]) -> str:
    if issubclass(cls, Source) or cls.num_bottoms[1] == 0:
        return "—"
    source = _source(cls)
    if cls.num_tops[1] == 0 or issubclass(cls, Computed):
        return "none"
    return "own" if _OWN.search(source) else "none" if "without_gradient(" in source else "ops"


def _messages(cls: type[Layer], known: Any) -> list[str]:
    """Return the parameter messages among the known fields that a type's source names."""
    found = set(re.findall(r"\b\w+_param\b", _source(cls)))
    overridden = {vars(base)["message"] for base in cls.__mro__ if "message" in vars(base)} - {
        getattr(cls, "message", None)
    }
    return sorted((found - overridden) & set(known))


@cache
def _source(cls: type[Layer]) -> str:
    """Return the code of a type: its classes, and the functions beside them that they call."""
    texts = {base: _code(base) for base in cls.__mro__ if issubclass(base, Layer) and base is not Layer}
    waiting: list[Any] = list(texts)
    while waiting:
        module = sys.modules[waiting[0].__module__]
        text = texts[waiting.pop(0)]
        for called in {getattr(module, name, None) for name in re.findall(r"\b([a-z_]+)\(", text)}:
            # the names of the functions in reread.py say enough
            if _is_ours(called) and called not in texts and not called.__module__.endswith(".reread"):
                texts[called] = _code(called)
                waiting.append(called)
    return "\n".join(texts.values())


def _code(thing: Any) -> str:
    """Return the code of a class or a function at the top of its module."""
    return _definitions(sys.modules[thing.__module__].__file__ or "")[thing.__name__]


@cache
def _definitions(path: str) -> dict[str, str]:
    """Return the code of all classes and functions of a module: `inspect.getsource` parses it anew for each class."""
    text = Path(path).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            first = min(part.lineno for part in (node, *node.decorator_list))
            found[node.name] = "".join(lines[first - 1 : node.end_lineno])
    return found


def _is_ours(called: Any) -> bool:
    return inspect.isfunction(called) and called.__module__.startswith("caffestat.layers.")


@cache
def _cases(folders: str) -> dict[type[Layer] | None, list[str]]:
    """Return the golden cases in some folders by the classes of their layers."""
    found: dict[type[Layer] | None, list[str]] = {}
    for path in sorted(ROOT.glob(f"tests/golden/{folders}/net.prototxt")):
        source = read_net(str(path))
        unknown = [finding for finding in source.findings if isinstance(finding, UnknownField)]
        choices = choose(source.layers, unknown)
        chosen = [(entry, choices.get(id(entry.text))) for entry in source.layers]
        for cls in {choice.cls if choice else layer_class(entry.proto.type) for entry, choice in chosen}:
            found.setdefault(cls, []).append(path.parent.name)
    return found


def _fields(descriptor: Any) -> str:
    return ", ".join(map(_field, descriptor.fields))


def _field(field: Any) -> str:
    if not field.has_presence:
        return f"`{field.name}` (repeated)"
    if not field.has_default_value:
        return f"`{field.name}`"
    if field.enum_type:
        return f"`{field.name}` = {field.enum_type.values_by_number[field.default_value].name}"
    value = field.default_value
    shown = f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
    return f"`{field.name}` = {shown or _EMPTY}"


def _spellings() -> str:
    return "".join(f"| `{field}` in `{message}` | {meaning} |\n" for (message, field), meaning in MEANINGS.items())


def _left_out() -> str:
    groups: dict[tuple[str, ForkField], list[str]] = {}
    for (message, name), found in sorted(FORK_FIELDS.items(), key=lambda item: item[0][0]):
        groups.setdefault((message, found), []).append(f"`{name}`")
    return LEFT_OUT + "".join(
        f"| `{message}` | {', '.join(names)} | {found.what} | {found.effect.value} | {found.origin} |\n"
        for (message, found), names in groups.items()
    )


def main() -> int:
    """Write the page, or with --check compare it."""
    if "--check" in sys.argv[1:]:
        is_current = TARGET.read_text(encoding="utf-8") == page()
        print("" if is_current else f"{TARGET} is not current: run python docs/generate_layers.py", end="")
        return not is_current
    TARGET.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
