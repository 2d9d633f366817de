"""Rewrites the fillers of a prototxt and nothing else."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from caffestat.errors import Finding, InputError, SchemaError
from caffestat.errors import Place as FilePlace
from caffestat.fillers import Filler, filler_type
from caffestat.net.source import is_solver
from caffestat.options import NetOptions
from caffestat.program import Dataflow, NamedStep
from caffestat.prototext import (
    Document,
    Edit,
    Field,
    Item,
    Message,
    insert,
    parse,
    remove,
    replace,
    replace_field,
    replace_value,
)
from caffestat.rewriting.net_fans import TextFans
from caffestat.rewriting.policy import Policy, Site, Undecided, Wanted
from caffestat.rewriting.selection import Change, Place, is_changed
from caffestat.rewriting.text_layers import (
    FILLER_FIELDS,
    FillerText,
    TextLayer,
    filler_names,
    message_of,
    nets,
    scalar_texts,
    text_layers,
)
from caffestat.schema import NetParameter, SolverParameter, from_document

if TYPE_CHECKING:
    from caffestat.initialization.curves import Curves

__all__ = ["Changed", "Rewritten", "rewrite_text"]


@dataclass(frozen=True)
class Changed:
    """One param that gets another filler: the file and line, the param, what it had before, and the new filler."""

    where: FilePlace
    place: Place
    before: str
    after: Wanted

    def __str__(self) -> str:
        return f"{self.where}: {self.place}: {self.before} -> {self.after}"


@dataclass
class Rewritten:
    """The new bytes, what changed in them, what could not be decided, and the curves of what a method chose.

    is_selected  False where the globs and types of the change select none of the text's params
    """

    data: bytes
    changes: list[Changed] = field(default_factory=list)
    notes: list[Finding] = field(default_factory=list)
    curves: Curves | None = None
    is_selected: bool = True


def rewrite_text(data: bytes, name: str, change: Change, options: NetOptions | None = None) -> Rewritten:
    """Return the text with other fillers: only their bytes differ, and a second run changes nothing.

    name     the file's name, for messages
    options  how nets are built, for policies that need fans: shapes and batch count

    Raises PrototextError when the text does not parse, InputError for a method that draws values.
    """
    drawing = next((policy.type for policy in (change.filler, change.bias) if policy and policy.draws_values), None)
    if drawing:
        raise InputError(
            f"{name}: {drawing} draws values, and a prototxt states no values: `caffestat fill --filler {drawing} "
            "-o WEIGHTS NET` writes weights, and `rewrite` changes those of a .caffemodel or an .onnx model"
        )
    document = parse(data, name)
    fans = TextFans(document, options or NetOptions(), change)
    job = _Job(document, change, fans)
    edits = [edit for _, net in nets(document) for edit in job.net(net)]
    result = Rewritten(replace(document, edits), job.changes, job.notes, is_selected=job.is_selected)
    if edits:
        _verify(document, result.data)
        result.curves = fans.curves()
    return result


def filler_edits(document: Document, layer: FilePlace, wanted: Wanted) -> list[Edit]:
    """Return the edits that give the weight of the layer at a place this filler; none without a weight.

    Fields that the new type does not read stay.
    """
    job = _Job(document, Change(), TextFans(document, NetOptions()))
    text, models = _layers_by_place(document).get(layer, (None, _Models(())))
    found = next((filler for filler in text.fillers() if filler.role == "weight"), None) if text else None
    return job.give(found, wanted, models, keep=True) if found else []


@lru_cache(maxsize=1)  # the findings of a file come one after the other
def _layers_by_place(document: Document) -> dict[FilePlace, tuple[TextLayer, _Models]]:
    """The layers of all nets of a text, each with the fillers of its net."""
    found: dict[FilePlace, tuple[TextLayer, _Models]] = {}
    for _, net in nets(document):
        layers = text_layers(net)
        models = _models(layers)
        found |= {layer.field.place: (layer, models) for layer in layers}
    return found


class _Job:
    """One document being rewritten."""

    def __init__(self, document: Document, change: Change, fans: TextFans) -> None:
        self.document = document
        self.change = change
        self.fans = fans
        self.changes: list[Changed] = []
        self.notes: list[Finding] = []
        self.is_selected = not change.is_selective

    def net(self, net: Document | Message) -> Iterator[Edit]:
        layers = text_layers(net)
        flow = Dataflow.of_names([step_of(layer) for layer in layers])
        models = _models(layers)
        for index, layer in enumerate(layers):
            for filler in layer.fillers():
                yield from self.filler(layer, filler, flow, index, models)

    def filler(self, layer: TextLayer, filler: FillerText, flow: Dataflow, index: int, models: _Models) -> list[Edit]:
        place = _place(layer, filler.role)
        self.is_selected |= self.change.selects(place)
        policy = self.change.policy(place, filler.current)
        mixes = layer.layer is not None and layer.layer.mixes_channels()
        site = Site(
            filler.current,
            lambda: flow.nonlinearity(index),
            lambda: self.fans(layer, filler.role),
            mixes,
            lambda method: self.fans.std(layer, filler.role, method),
        )
        wanted = self.choose(policy, site, layer, place) if policy else None
        if wanted is None or not is_changed(place, filler.current, wanted.filler):
            return []
        where = (filler.field or layer.field).place
        self.changes.append(Changed(where, place, filler.current.type if filler.current else "no filler", wanted))
        return self.give(filler, wanted, models)

    def give(self, filler: FillerText, wanted: Wanted, models: _Models, keep: bool = False) -> list[Edit]:
        """Write a filler where none is, or change the one that is written."""
        return self.fit(filler.field, wanted, keep) if filler.field else [self.add(filler, wanted, models)]

    def choose(self, policy: Policy, site: Site, layer: TextLayer, place: Place) -> Wanted | None:
        try:
            return policy.choose(site)
        except Undecided as error:
            self.notes.append(Finding(layer.field.place, f"{place} not changed: {error}"))
            return None

    def add(self, filler: FillerText, wanted: Wanted, models: _Models) -> Edit:
        """Insert a new filler, written like the nearest one; weights come before biases."""
        fields = message_of(filler.owner).fields
        like = models.nearest(filler.owner)
        quote = _quote(like)
        item: Item = (filler.name, [("type", quote + wanted.type + quote), *wanted.fields])
        bias = next((i for i, f in enumerate(fields) if f.name == "bias_filler"), 0)
        after = fields[bias - 1] if bias and filler.role != "bias" else None
        return insert(self.document, filler.owner, item, after=after, like=like)

    def fit(self, owner: Field, wanted: Wanted, keep: bool = False) -> list[Edit]:
        """Give an existing filler the wanted type and fields, with as few changes as can be.

        keep: fields that the type does not read stay
        """
        quote = _quote(owner)
        values = {"type": quote + wanted.type + quote, **dict(wanted.fields)}
        edits: list[Edit] = []
        stale: list[Field] = []
        for old in message_of(owner).fields:
            if old.name in values:
                text = values.pop(old.name)
                if not _is_written(old, text):
                    edits.append(replace_value(old, text))
            elif not keep and old.name in FILLER_FIELDS and not _is_default(old, wanted.type):
                stale.append(old)
        missing = [(name, text) for name, text in values.items() if (name, wanted.type) != ("type", Filler().type)]
        for old, (name, text) in zip(stale, missing, strict=False):
            edits += replace_field(old, name, text)
        edits += [remove(self.document, old) for old in stale[len(missing) :]]
        added = missing[len(stale) :]
        return [*edits, insert(self.document, owner, *added)] if added else edits


def _place(layer: TextLayer, role: str) -> Place:
    known = layer.layer
    recurs, upsamples = (known.is_recurrent, known.upsamples) if known else (False, False)
    return Place(layer.name, layer.type, role, layer.is_frozen(role), is_recurrent=recurs, upsamples=upsamples)


def step_of(layer: TextLayer) -> NamedStep:
    """Return the step of a layer; one of an unknown type that works in place passes its input on."""
    known = layer.layer
    in_place = not set(layer.bottoms).isdisjoint(layer.tops)
    nonlinearity = known.nonlinearity() if known else None
    return NamedStep(layer.bottoms, layer.tops, known.passes() if known else in_place, nonlinearity)


def _models(layers: Sequence[TextLayer]) -> _Models:
    written = (f.field for layer in layers for f in layer.written_fillers() if f.field)
    return _Models(field for field in written if message_of(field).fields)


class _Models:
    """Fillers of the text, after which new ones are written."""

    def __init__(self, fields: Iterable[Field]) -> None:
        self._fields = sorted(fields, key=lambda field: field.span[0])
        self._starts = [field.span[0] for field in self._fields]

    def nearest(self, owner: Field) -> Field | None:
        """Return the filler that stands nearest before the end of `owner`, else the first one behind it."""
        before = bisect_left(self._starts, owner.span[1])
        return self._fields[max(before - 1, 0)] if self._fields else None


def _quote(filler: Field | None) -> str:
    kind = message_of(filler).first("type") if filler else None
    first = bytes(kind.values[0])[:1] if kind else b""
    return "'" if first == b"'" else '"'


def _is_written(old: Field, text: str) -> bool:
    """Tell whether the field has this value already, however it is spelled."""
    found = next(scalar_texts(old), None)
    if found == text.strip("\"'"):
        return True
    try:
        return found is not None and float(found) == float(text)
    except ValueError:
        return False


def _is_default(old: Field, type_name: str) -> bool:
    """Tell whether a field that the wanted filler lacks may stay: its type reads it, and it is the default."""
    kind = filler_type(type_name)
    return kind is not None and old.name in kind.reads and _is_written(old, str(getattr(Filler(), old.name)))


def _verify(before: Document, data: bytes) -> None:
    """Raise InputError unless the new text means the same as the old one, except for its fillers."""
    after = parse(data, before.name)
    if _outline(before.fields) != _outline(after.fields) or not _same_message(before, after):
        raise InputError(
            f"{before.name}: the rewritten text would differ in more than its fillers; the file is left as it is. "
            "This is an error of caffestat: please report it with the file"
        )


def _outline(fields: Sequence[Field]) -> list[Any]:
    """Return the tree without its fillers, values as they are written."""
    return [
        (f.name, [_outline(v.fields) if isinstance(v, Message) else v.text for v in f.values])
        for f in fields
        if not _is_filler(f)
    ]


def _is_filler(field: Field) -> bool:
    return field.name in filler_names()


def _same_message(before: Document, after: Document) -> bool:
    """Compare what Caffe's schema makes of both texts; a text that does not fit it is judged by its outline alone."""
    cls = SolverParameter if is_solver(before) else NetParameter
    try:
        old, _ = from_document(before, cls)
    except SchemaError:
        return True
    try:
        new, _ = from_document(after, cls)
    except SchemaError:
        return False
    _clear_fillers(old)
    _clear_fillers(new)
    return bool(old == new)


def _clear_fillers(message: Any) -> None:
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        if descriptor.name in filler_names():
            message.ClearField(descriptor.name)
        else:
            for child in [value] if descriptor.has_presence else value:
                _clear_fillers(child)
