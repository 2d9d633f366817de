"""Reading nets and solvers: from a file's bytes to upgraded layers that know their lines."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from caffestat.errors import Finding, InputError, Place
from caffestat.prototext import Document, Field, Message, parse
from caffestat.schema import NetParameter, SolverParameter, from_document

from .upgrade import Entry, upgrade

__all__ = ["NetSource", "Solver", "load", "read_net", "read_solver"]

STDIN = "-"


@dataclass(frozen=True)
class NetSource:
    """A net as its file describes it, in the current format.

    name      the file's name, as messages print it
    header    the NetParameter without its layers
    layers    the layers of all phases, each with its place
    findings  what was strange but did not stop the reading
    """

    name: str
    header: Any
    layers: tuple[Entry, ...]
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class Solver:
    """A solver file: its text, its message, and the net that it trains."""

    name: str
    message: Any
    net: NetSource
    document: Document
    findings: tuple[Finding, ...] = field(default=())

    def test_nets(self) -> tuple[NetSource, ...]:
        """Return the nets that it tests: the inline ones, those in files, then the trained net for what test_iter is left.

        Raises InputError when there is not one test_iter for each. (solver.cpp, InitTestNets)
        """
        m = self.message
        named = [
            *map(partial(inline_source, self.name), m.test_net_param, self.document.find("test_net_param")),
            *(read_net(beside(path, self.name)) for path in m.test_net),
        ]
        generic = len(m.test_iter) - len(named) if m.HasField("net") or m.HasField("net_param") else 0
        if len(named) + max(generic, 0) != len(m.test_iter):
            raise InputError(
                f"{self.name}: expected one test_iter for each test net ({len(named)}), found {len(m.test_iter)}"
            )
        if m.test_state and len(m.test_state) != len(m.test_iter):
            raise InputError(
                f"{self.name}: expected no test_state or one for each test net ({len(m.test_iter)}), "
                f"found {len(m.test_state)}"
            )
        if m.test_iter and m.test_interval < 1:
            raise InputError(f"{self.name}: has test nets, but a test_interval of {m.test_interval}; expected at least 1")
        return (*named, *[self.net] * generic)


def _read(path: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; expected a net or solver prototxt") from error


def _fields_of(owner: Document | Message, name: str) -> Iterable[Field]:
    """Return the field of every element of a repeated message field, those of lists included, in the order of the text."""
    return [f for f in owner.find(name) for _ in f.values]


def _entries(messages: Any, fields: Iterable[Field]) -> list[Entry]:
    return [Entry(message, f, f.place) for message, f in zip(messages, fields, strict=True)]


def net_source(document: Document) -> NetSource:
    """Return the net that a parsed prototxt describes."""
    message, findings = from_document(document, NetParameter)
    old = _entries(message.layers, _fields_of(document, "layers"))
    new = _entries(message.layer, _fields_of(document, "layer"))
    inputs = document.first("input")
    place = inputs.place if inputs else Place(document.name)
    header, layers, strange = upgrade(message, old, new, place)
    return NetSource(document.name, header, tuple(layers), (*findings, *strange))


def inline_source(name: str, message: Any, owner: Field | None) -> NetSource:
    """Return the net that stands inside a solver (`net_param`), its layers at their own lines."""
    text = owner.values[0] if owner else None
    assert owner is not None and isinstance(text, Message)  # from_document has read a message there
    old = _entries(message.layers, _fields_of(text, "layers"))
    new = _entries(message.layer, _fields_of(text, "layer"))
    header, layers, strange = upgrade(message, old, new, owner.place)
    return NetSource(name, header, tuple(layers), tuple(strange))


def is_solver(document: Document) -> bool:
    """Tell whether the text is a SolverParameter: it has no layers or inputs, and fields that only solvers have."""
    solver = set(SolverParameter.DESCRIPTOR.fields_by_name) - set(NetParameter.DESCRIPTOR.fields_by_name)
    names = {f.name for f in document.fields}
    return not names & {"layer", "layers", "input"} and bool(names & solver)


def beside(path: str, owner: str) -> str:
    """Resolve a file that another file names: from the working directory as Caffe does, else from the owner's folder."""
    other = Path(owner).parent / path
    return str(other) if not Path(path).exists() and other.exists() else path


def _solver(document: Document) -> Solver:
    message, findings = from_document(document, SolverParameter)
    named = [name for name in ("net_param", "net", "train_net_param", "train_net") if message.HasField(name)]
    if len(named) != 1:
        found = ", ".join(named) or "none of them"
        raise InputError(f"{document.name}: a solver names its net by one of net, net_param, train_net, train_net_param; found {found}")
    owner = document.first(named[0])
    value = getattr(message, named[0])
    if isinstance(value, str):
        net = read_net(beside(value, document.name))
    else:
        net = inline_source(document.name, value, owner)
    return Solver(document.name, message, net, document, tuple(findings))


def load(path: str) -> NetSource | Solver:
    """Read a net or a solver prototxt; `-` is the standard input.

    Raises InputError when the file cannot be read, PrototextError or SchemaError (file:line:column) when it is broken.
    """
    document = parse(_read(path), "<stdin>" if path == STDIN else path)
    return _solver(document) if is_solver(document) else net_source(document)


def read_net(path: str) -> NetSource:
    """Read a net prototxt; see `load`."""
    source = load(path)
    if isinstance(source, Solver):
        raise InputError(f"{path}: expected a net prototxt, found a solver")
    return source


def read_solver(path: str) -> Solver:
    """Read a solver prototxt and the net that it names; see `load`."""
    source = load(path)
    if isinstance(source, NetSource):
        raise InputError(f"{path}: expected a solver prototxt, found a net")
    return source
