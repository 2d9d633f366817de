"""Texts of any age in the current format: old layers, inputs and solver types rewritten, all else left as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from caffestat.errors import Finding, NetError
from caffestat.net import NetSource
from caffestat.net.source import inline_source, inside, is_solver, net_source
from caffestat.prototext import Document, Edit, Field, Message, line_break_at, parse, replace, replace_field
from caffestat.schema import SolverParameter, UnknownField, V1LayerParameter, from_document, to_text
from caffestat.schema.slots import slots

__all__ = ["Upgraded", "upgrade_text"]

_INPUTS = ("input", "input_shape", "input_dim")
_INLINE = ("net_param", "train_net_param", "test_net_param")
_SOLVER_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")  # by the enum's numbers


@dataclass(frozen=True)
class Upgraded:
    """A text in the current format; `findings` list what could not be kept."""

    data: bytes
    findings: tuple[Finding, ...]


def upgrade_text(data: bytes, name: str) -> Upgraded:
    """Return a net or solver in the current format: V0 and V1 layers, legacy inputs and `solver_type` are rewritten.

    All between the old parts stays as it is, comments inside of them move before them; a current text is returned
    byte for byte. Fields that Caffe lacks stay when they belong to a layer itself, and are left out with a finding
    when they stand deeper.

    Raises PrototextError, SchemaError or NetError when the text is broken.
    """
    document = parse(data, name)
    if not is_solver(document):
        parts = [_Part(document, document, net_source(document))]
        edits = parts[0].edits()
    else:
        message, findings = from_document(document, SolverParameter)
        parts = list(_inline_parts(document, message, findings))
        edits = [*_solver_type(document, message), *(edit for part in parts for edit in part.edits())]
    return Upgraded(replace(document, edits), tuple(finding for part in parts for finding in part.findings()))


def _inline_parts(document: Document, message: Any, findings: Sequence[Finding]) -> Iterator[_Part]:
    for name in _INLINE:
        value = getattr(message, name)
        for index, owner in enumerate(document.find(name)):
            text = owner.values[0]
            assert isinstance(text, Message)  # from_document has read a message there
            net = value[index] if name == "test_net_param" else value
            yield _Part(document, text, inline_source(document.name, net, owner, findings))


def _solver_type(document: Document, message: Any) -> list[Edit]:
    field = document.first("solver_type")
    if field is None:
        return []
    if message.HasField("type"):
        raise NetError("solver_type is the old form of type; the solver has both: remove one of them", field.place)
    return replace_field(field, "type", f'"{_SOLVER_TYPES[message.solver_type]}"')


@dataclass(frozen=True)
class _Part:
    """A net in a document: the text that its fields are in, and the message that was read of them."""

    document: Document
    text: Document | Message
    source: NetSource

    @property
    def layers(self) -> list[Field]:
        """The layers of old formats."""
        return self.text.find("layers")

    @property
    def inputs(self) -> list[Field]:
        return [field for field in self.text.fields if field.name in _INPUTS]

    def edits(self) -> list[Edit]:
        """Return what makes the net's text current."""
        entries = {id(entry.text): entry for entry in self.source.layers}
        edits = []
        for field in self.layers:
            kept = [value for value in field.values if id(value) in entries]
            pieces = [_layer_text(entries[id(value)].proto, _own_fields(value)) for value in kept]
            edits.append(self.written(*field.span, [*_comments([field]), *pieces]))
        return [*self.input_edits(), *edits]

    def input_edits(self) -> list[Edit]:
        """Return what puts an Input layer in the place of the inputs: before all other layers."""
        if not self.inputs:
            return []
        pieces = _comments(self.inputs)
        first = self.source.layers[0] if self.source.layers else None
        if first and first.text is None:
            pieces.append(_layer_text(first.proto, []))
        (start, end), *others = self.input_runs()
        layer = next((field for field in self.text.fields if field.name in ("layer", "layers")), None)
        if layer is None or start < layer.span[0]:
            edits = [self.written(start, end, pieces)]
        else:
            edits = [self.written(layer.span[0], layer.span[0], [*pieces, b""]), self.written(start, end, [])]
        return [*edits, *(self.written(*run, []) for run in others)]

    def input_runs(self) -> list[tuple[int, int]]:
        """Return where inputs stand, those with nothing between them as one."""
        data, runs = bytes(self.document), [field.span for field in self.inputs]
        for index in range(len(runs) - 1, 0, -1):
            (start, before), (after, end) = runs[index - 1], runs[index]
            if not data[before:after].strip():
                runs[index - 1 : index + 1] = [(start, end)]
        return runs

    def written(self, start: int, end: int, pieces: Sequence[bytes]) -> Edit:
        """Return the edit that puts pieces in the place of a span, each on its own line, indented as the span is.

        Without pieces a line goes with the span when nothing else stands in it.
        """
        data = bytes(self.document)
        lead = data[data.rfind(b"\n", 0, start) + 1 : start]
        if not pieces:
            rest = data[end : data.find(b"\n", end) + 1]
            return (start, end, b"") if lead.strip() or rest.strip() else (start - len(lead), end + len(rest), b"")
        lines = b"\n".join(pieces).split(b"\n")
        return start, end, (line_break_at(data, start) + (b"" if lead.strip() else lead)).join(lines)

    def findings(self) -> Iterator[Finding]:
        """Yield what is strange about the rewritten layers, except the fields that they keep."""
        kept = {id(field) for old in self.layers for value in old.values for field in _own_fields(value)}
        for finding in filter(inside(self.layers), self.source.findings):
            if not (isinstance(finding, UnknownField) and id(finding.field) in kept):
                yield finding


def _layer_text(layer: Any, own: Iterable[Field]) -> bytes:
    """Return a layer as text, with fields that the schema lacks as they are written."""
    lines = "".join(f"  {line}\n" for line in to_text(layer).splitlines()).encode()
    return b"layer {\n" + lines + b"".join(b"  " + bytes(field).rstrip(b",;") + b"\n" for field in own) + b"}"


def _own_fields(layer: Any) -> list[Field]:
    """Return the fields of an old layer's text that the schema lacks."""
    known = slots(V1LayerParameter.DESCRIPTOR)
    return [field for field in layer.fields if field.name not in known]


def _comments(fields: Iterable[Field]) -> list[bytes]:
    """Return the comments that stand inside of fields."""
    lines = (line.strip() for field in fields for line in field.comments.split(b"\n"))
    return [line for line in lines if line]
