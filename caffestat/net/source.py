"""Reading nets and solvers: from a file's bytes to upgraded layers that know their lines."""

from __future__ import annotations

import os.path
from bisect import bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath
from typing import Any

from caffestat.errors import Finding, InputError, NetError, Place, SolverError, SourceError
from caffestat.files import read_regular, read_stdin
from caffestat.layers import registrations
from caffestat.prototext import Document, Field, Message, parse
from caffestat.schema import ForkValue, NetParameter, SolverParameter, UnknownField, from_document, read_addition

from .dialects import Choice, choose
from .rules import NEVER
from .spellings import take_spellings
from .upgrade import Entry, upgrade

__all__ = [
    "STDIN",
    "NetSource",
    "Solver",
    "as_net",
    "contents",
    "load",
    "not_a_solver",
    "not_found",
    "read_document",
    "read_net",
    "read_settings",
    "read_solver",
    "source_of",
]

STDIN = "-"
ReadNet = Callable[[str], "NetSource"]

_NET_FIELDS = ("net", "net_param", "train_net", "train_net_param")
_SUFFIXES = {".prototxt", ".pbtxt", ".prototext", ".txt"}


@dataclass(frozen=True)
class NetSource:
    """A net as its file describes it, in the current format.

    name      the file's name, as messages print it
    header    the NetParameter without its layers
    layers    the layers of all phases, each with its place
    findings  what was strange but did not stop the reading
    fields    the names of the fields that the text has
    """

    name: str
    header: Any
    layers: tuple[Entry, ...]
    findings: tuple[Finding, ...] = ()
    fields: tuple[str, ...] = ()
    _chosen: dict[str | None, tuple[int, dict[int, Choice]]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )  # by dialect, how many classes there were to choose from and what was chosen

    def choices(self, dialect: str | None = None) -> dict[int, Choice]:
        """Return what each layer is taken for, by the id of its text, as `choose` does; once for all builds."""
        count, chosen = self._chosen.get(dialect, (-1, {}))
        if count != registrations():
            chosen = choose(self.layers, [f for f in self.findings if isinstance(f, UnknownField)], dialect)
            self._chosen[dialect] = registrations(), chosen  # counted anew, for choosing imports the types of forks
        return dict(chosen)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what was chosen: the ids of texts do not hold for a copy."""
        return {**self.__dict__, "_chosen": {}}


@dataclass(frozen=True)
class Solver:
    """A solver file: its text, its message, the net that it trains, and what is strange outside of inline nets."""

    name: str
    message: Any
    net: NetSource
    document: Document
    findings: tuple[Finding, ...] = ()
    inline_findings: tuple[Finding, ...] = ()
    added: Any = field(default_factory=lambda: _ssd_solver()())  # what SSD's Caffe has in a solver beside Caffe's own

    def test_nets(self) -> tuple[NetSource, ...]:
        """Return the nets it tests: those of `named_tests`, then the trained net for what test_iter is left.

        (solver.cpp, InitTestNets)
        """
        named = self.named_tests()
        return (*named, *[self.net] * (len(self.message.test_iter) - len(named)))

    def named_tests(self) -> tuple[NetSource, ...]:
        """Return the test nets that it contains, then those in files."""
        return (*self.inline_tests(), *self.file_tests())

    def inline_tests(self) -> tuple[NetSource, ...]:
        """Return the test nets that it contains (`test_net_param`)."""
        owners = self.document.find("test_net_param")
        pairs = zip(self.message.test_net_param, owners, strict=True)
        return tuple(inline_source(self.name, message, owner, self.inline_findings) for message, owner in pairs)

    def file_tests(self) -> tuple[NetSource, ...]:
        """Return the test nets that it names (`test_net`). Raises what reading them raises."""
        owners = [field for field in self.document.find("test_net") for _ in field.values]
        pairs = zip(self.message.test_net, owners, strict=True)
        return tuple(_named_net(path, owner, read_net) for path, owner in pairs)


def read_bytes(path: str) -> bytes:
    """Return what a file, or for `-` the standard input, holds. Raises InputError when it cannot be read."""
    if path.endswith(".caffemodel"):
        raise InputError(f"{path}: expected a net or solver prototxt, found weights; --weights takes them beside a net")
    try:
        return read_stdin() if path == STDIN else read_regular(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}; expected a net or solver prototxt") from error


def _entries(messages: Any, owner: Document | Message, name: str) -> list[Entry]:
    """Return the layers of a repeated field with their texts; an element of a list stands where the list does."""
    texts = [(f, value) for f in owner.find(name) for value in f.values]
    return [
        Entry(message, value if isinstance(value, Message) else None, f.place if len(f.values) == 1 else value.place)
        for message, (f, value) in zip(messages, texts, strict=True)
    ]


def _source(
    name: str,
    message: Any,
    text: Document | Message,
    place: Place,
    findings: Iterable[Finding],
    inline: bool = False,
) -> NetSource:
    old, new = _entries(message.layers, text, "layers"), _entries(message.layer, text, "layer")
    header, layers, strange = upgrade(message, old, new, place, inline)
    findings = list(findings)
    _bar_unknown_phases(layers, findings)
    notes, understood = take_spellings(layers)
    left = [finding for finding in findings if not (isinstance(finding, UnknownField) and finding.field in understood)]
    return NetSource(name, header, tuple(layers), (*left, *strange, *notes), tuple(f.name for f in text.fields))


def net_source(document: Document) -> NetSource:
    """Return the net that a parsed prototxt describes."""
    message, findings = from_document(document, NetParameter)
    inputs = document.first("input")
    place = inputs.place if inputs else Place(document.name)
    return _source(document.name, message, document, place, findings)


def inline_source(name: str, message: Any, owner: Field, findings: Iterable[Finding] = ()) -> NetSource:
    """Return the net that a solver contains (`net_param`), its layers at their own lines.

    findings: those about the solver's file, of which the net gets its own.
    """
    text = owner.values[0]
    assert isinstance(text, Message)  # from_document has read a message there
    return _source(name, message, text, owner.place, filter(inside([owner]), findings), inline=True)


def inside(owners: Iterable[Field]) -> Callable[[Finding], bool]:
    """Return a function that tells whether a finding is about something inside one of the fields."""
    spans = sorted((_position(o.place), _position(o.last_place)) for o in owners)

    def is_inside(finding: Finding) -> bool:
        where = _position(finding.place)
        index = bisect_right(spans, where, key=lambda span: span[0])
        return index > 0 and where < spans[index - 1][1]

    return is_inside


def _position(place: Place) -> tuple[int, int]:
    return place.line, place.column


def _bar_unknown_phases(entries: Iterable[Entry], findings: Iterable[Finding]) -> None:
    """Make rules for a phase that only a fork has hold in no state."""
    unknown = {id(f.field) for f in findings if isinstance(f, ForkValue) and f.field.name == "phase"}
    for entry in entries if unknown else ():
        for name in ("include", "exclude"):
            texts = [value for field in (entry.text.find(name) if entry.text else ()) for value in field.values]
            for rule, text in zip(getattr(entry.proto, name), texts, strict=False):
                if isinstance(text, Message) and any(id(field) in unknown for field in text.find("phase")):
                    rule.min_level = NEVER


def is_solver(document: Document) -> bool:
    """Tell whether the text is a SolverParameter: it has no layers or inputs, and fields that only solvers have."""
    solver = set(SolverParameter.DESCRIPTOR.fields_by_name) - set(NetParameter.DESCRIPTOR.fields_by_name)
    names = {f.name for f in document.fields}
    return not names & {"layer", "layers", "input"} and bool(names & solver)


def beside(path: str, owner: str) -> str:
    """Resolve a file that another file names: from the working directory as Caffe does, else from the owner's folder.

    A path with folders is also looked for from the folders above: Caffe's own files are meant to be used from its root.
    """
    if os.path.exists(path):  # unlike Path's, no error for a name that no file can have
        return path
    above = Path(owner).resolve().parents if len(Path(path).parts) > 1 else ()
    others = (folder / path for folder in (Path(owner).parent, *above))
    return next((str(other) for other in others if os.path.exists(other)), path)


def not_found(path: str) -> str:
    """Return in words that a file that a solver names does not exist, and where `beside` looked for it."""
    above = " and in the folders above it" if len(Path(path).parts) > 1 else ""
    return f"file not found: {path!r} (searched: the working directory, beside the solver{above})"


def named_weights(solver: Solver) -> list[str]:
    """Return the caffemodel files that a solver names, looked for as its net is; see `weights_at`."""
    return [path for path, _ in weights_at(solver)]


def weights_at(solver: Solver) -> list[tuple[str, Place]]:
    """Return the caffemodel files that a solver names, one or several in a field, and where each is named."""
    places = [value.place for field in solver.document.find("weights") for value in field.values]
    texts = zip(solver.message.weights, places, strict=True)
    named = [(name.strip(), place) for names, place in texts for name in names.split(",")]
    return [(beside(name, solver.name) if name else name, place) for name, place in named]


def missing_weights(solver: Solver) -> list[Finding]:
    """Return a finding for each missing file of weights that a solver names. (net.cpp, CopyTrainedLayersFrom)"""
    missing = [(path, place) for path, place in weights_at(solver) if not os.path.isfile(path)]
    return [
        Finding(place, f"weights: {not_found(path)}; correct the path, or remove the field") for path, place in missing
    ]


def _ssd_solver() -> Any:
    """Return the class of the messages with what SSD's Caffe has in a solver beside Caffe's own."""
    from caffestat.schema.forks import ssd_pb2  # imported here: most runs read nets only

    return ssd_pb2.SolverParameter


def _owner_of_net(document: Document) -> Field:
    """Return the field of a solver that names the net it trains. Raises SolverError when not exactly one does.

    Source: solver.cpp, InitTrainNet.
    """
    found = [field for field in document.fields if field.name in _NET_FIELDS]
    first = {field.name: field for field in found}
    if len(first) == 1:
        return found[0]
    place = list(first.values())[1].place if first else Place(document.name, 1)
    message = f"a solver names its net by one of {', '.join(_NET_FIELDS)}; found {', '.join(first) or 'none of them'}"
    raise SolverError(message, place)


def _solver(document: Document, read: ReadNet) -> Solver:
    message, findings = from_document(document, SolverParameter)
    unknown = [finding.field for finding in findings if isinstance(finding, UnknownField)]
    addition = read_addition(document, _ssd_solver(), document.name, unknown)
    findings = [f for f in findings if not (isinstance(f, UnknownField) and f.field in addition.fields)]
    owner = _owner_of_net(document)
    inline = [f for name in ("net_param", "train_net_param", "test_net_param") for f in document.find(name)]
    is_inline = inside(inline)
    theirs = tuple(filter(is_inline, findings))
    value = getattr(message, owner.name)
    is_named = isinstance(value, str)
    net = _named_net(value, owner, read) if is_named else inline_source(document.name, value, owner, theirs)
    others = tuple(f for f in findings if not is_inline(f))
    return Solver(document.name, message, net, document, others, theirs, addition.message)


def contents(fields: Iterable[str]) -> str:
    """Return in words what a file contains, by the names of its fields, for an error that expected something else."""
    names = list(dict.fromkeys(fields))
    if not names:
        return "an empty file"
    return "a net" if {"layer", "layers"} & set(names) else f"the fields {', '.join(names)}"


def not_a_solver(document: Document) -> SolverError:
    """Return the error for a text that should be that of a solver."""
    found = contents(field.name for field in document.fields)
    return SolverError(f"expected a solver prototxt, found {found}", Place(document.name, 1))


def read_settings(path: str) -> Solver:
    """Read a solver prototxt for its settings alone: the net that it names, if any, is not read.

    Raises InputError when the file cannot be read, SolverError when it is no solver, SchemaError (file:line:column).
    """
    document = read_document(path)
    if not is_solver(document):
        raise not_a_solver(document)
    message, findings = from_document(document, SolverParameter)
    return Solver(document.name, message, NetSource(document.name, NetParameter(), ()), document, tuple(findings))


def _named_net(path: str, owner: Field, read: ReadNet) -> NetSource:
    """Read the net that a field of a solver names."""
    found = beside(path, owner.place.file)
    namesake = Path(owner.place.file).parent / PureWindowsPath(path).name
    if not os.path.exists(found) and os.path.isfile(namesake):
        source = _read_named(str(namesake), path, owner, read)
        note = f"{owner.name}: file not found: {path!r}; took {namesake.name!r} beside the solver"
        return replace(source, findings=(*source.findings, Finding(owner.place, note)))
    if not os.path.exists(found):
        raise NetError(f"{owner.name}: {not_found(path)}", owner.place)
    return _read_named(found, path, owner, read)


def _read_named(found: str, path: str, owner: Field, read: ReadNet) -> NetSource:
    try:
        return read(found)
    except SourceError as error:
        if Path(os.path.realpath(found)).suffix in _SUFFIXES:
            raise
        # without a quotation: any readable file can be named
        message = f"{owner.name}: {path!r} is not a net prototxt (see its line {error.place.line})"
        raise NetError(message, owner.place) from error
    except InputError as error:
        raise NetError(f"{owner.name}: {error}", owner.place) from error


def read_document(path: str) -> Document:
    """Parse a prototxt; `-` is the standard input, and called `<stdin>`.

    Raises InputError when the file cannot be read, PrototextError (file:line:column) when it is broken.
    """
    return parse(read_bytes(path), "<stdin>" if path == STDIN else path)


def source_of(document: Document, read: ReadNet | None = None) -> NetSource | Solver:
    """Return the net or the solver that a parsed prototxt describes. Raises SchemaError (file:line:column).

    read: reads the net that a solver names; `read_net` by default
    """
    return _solver(document, read or read_net) if is_solver(document) else net_source(document)


def load(path: str) -> NetSource | Solver:
    """Read a net or a solver prototxt; see `read_document` and `source_of`."""
    return source_of(read_document(path))


def read_net(path: str) -> NetSource:
    """Read a net prototxt; see `load`. Raises InputError for a solver, whose own net is not looked for."""
    return net_source(as_net(read_document(path)))


def as_net(document: Document) -> Document:
    """Return the text of a net. Raises InputError for that of a solver."""
    if is_solver(document):
        raise InputError(f"{document.name}: expected a net prototxt, found a solver")
    return document


def read_solver(path: str) -> Solver:
    """Read a solver prototxt and the net that it names; see `load`."""
    document = read_document(path)
    if not is_solver(document):
        raise not_a_solver(document)
    return _solver(document, read_net)
