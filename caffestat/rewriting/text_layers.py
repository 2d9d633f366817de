"""Layers as a prototxt of any generation writes them, with the places of their fillers.

Reads the text tree and no schema: forks' layers, fields and enum values do not disturb it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import cache, cached_property
from typing import Any

from caffestat.errors import InputError, NetError, SchemaError
from caffestat.fillers import VARIANCE_NORMS, Filler
from caffestat.layers import Layer, fork_type, layer_class, layer_dialects, layer_types
from caffestat.net import TRAIN
from caffestat.net.upgrade import current_type
from caffestat.prototext import Document, Field, Message, Scalar
from caffestat.schema import LayerParameter, from_message, read_addition

__all__ = [
    "FILLER_FIELDS",
    "FillerText",
    "TextLayer",
    "filler_names",
    "message_of",
    "nets",
    "scalar_texts",
    "text_layers",
]

FILLER_FIELDS = {field.name for field in fields(Filler)} - {"own"}
"""The fields of a FillerParameter."""

_NETS = ("net_param", "train_net_param", "test_net_param")
_NORMS = {str(number): name for number, name in enumerate(VARIANCE_NORMS)}
_ROLES = {"weight_filler": "weight", "bias_filler": "bias"}


@cache
def _stated_roles(owner: str) -> dict[str, str]:
    """The roles of the fillers in a layer's parameter message, by field, as the layer types state them."""
    fields = (pair for name in layer_types() for cls in layer_dialects(name) for pair in cls.filler_fields.items())
    paths = ((path.partition("."), role) for path, role in fields)
    return {name: role for (message, _, name), role in paths if message == owner}


@cache
def filler_names() -> frozenset[str]:
    """Return the names of all fields that hold fillers, those of forks too."""
    classes = (cls for name in layer_types() for cls in layer_dialects(name))
    stated = {path.rpartition(".")[2] for cls in classes for path in cls.filler_fields}
    return frozenset({*_ROLES, *stated})


def _roles_of(owner: str) -> dict[str, str]:
    return _stated_roles(owner) or _ROLES


def _descriptor(owner: str) -> Any:
    """Return the descriptor of a layer's parameter message, None for one that Caffe's schema lacks."""
    field = LayerParameter.DESCRIPTOR.fields_by_name.get(owner)
    return field.message_type if field else None


@dataclass(frozen=True)
class FillerText:
    """A place for a filler: the message that holds it (as the field that has the message for its value) and its name.

    `field` is None when no filler is written there.
    """

    owner: Field
    name: str
    role: str
    field: Field | None

    @property
    def current(self) -> Filler | None:
        """The filler as it is written; fields that cannot be read keep Caffe's default."""
        return None if self.field is None else read_filler(message_of(self.field))


@dataclass(frozen=True)
class TextLayer:
    """A layer of any generation; `type` is in the current spelling."""

    field: Field
    message: Message

    @cached_property
    def old(self) -> Field | None:
        """The field of a V0 layer's inner message."""
        inner = self.message.first("layer")
        return inner if inner and isinstance(inner.values[0], Message) else None

    @cached_property
    def _core(self) -> Message:
        return message_of(self.old) if self.old else self.message

    @cached_property
    def name(self) -> str:
        return next(iter(texts(self._core, "name")), "")

    @cached_property
    def type(self) -> str:
        written = next(iter(texts(self._core, "type")), "")
        if self.field.name == "layer":
            return written
        current = current_type(written)
        return fork_type(current) or current

    @cached_property
    def bottoms(self) -> tuple[str, ...]:
        return tuple(texts(self.message, "bottom"))

    @cached_property
    def tops(self) -> tuple[str, ...]:
        return tuple(texts(self.message, "top"))

    @cached_property
    def layer(self) -> Layer | None:
        """The layer, with the parameters that can be read; None for an unknown type."""
        cls = layer_class(self.type)
        if cls is None:
            return None
        proto = LayerParameter(name=self.name, type=self.type, bottom=self.bottoms, top=self.tops)
        for field in self._core.fields:
            value = field.values[0] if field.values else None
            if field.name.endswith("_param") and _descriptor(field.name) and isinstance(value, Message):
                target = getattr(proto, field.name)
                with suppress(SchemaError):
                    target.CopyFrom(from_message(value, type(target), self.field.place.file))
        layer = cls(proto, TRAIN, self.field.place)
        if cls.adds:
            with suppress(SchemaError):
                layer.added = read_addition(self._core, cls.adds, self.field.place.file, ()).message
        return layer

    def fillers(self) -> Iterator[FillerText]:
        """Yield every filler that is written, and every place where one may be added."""
        for filler in self._places():
            if filler.field or (self._may_add(filler.owner) and (filler.role != "bias" or _has_bias(filler.owner))):
                yield filler

    def written_fillers(self) -> Iterator[FillerText]:
        """Return every filler that is written; the layer itself is not looked at."""
        return (filler for filler in self._places() if filler.field)

    def _places(self) -> Iterator[FillerText]:
        """Yield every place that a field of the schema gives a filler, whether or not the layer reads it."""
        if self.old:
            yield from self._in(self.old, _ROLES)
            return
        for owner in self.message.fields:
            if owner.name.endswith("_param") and len(owner.values) == 1 and isinstance(owner.values[0], Message):
                yield from self._in(owner, _roles_of(owner.name))

    def _in(self, owner: Field, roles: dict[str, str]) -> Iterator[FillerText]:
        message = message_of(owner)
        for name, role in roles.items():
            found = message.find(name)
            if len(found) > 1 or any(not isinstance(v, Message) for f in found for v in f.values):
                raise InputError(f"{found[-1].place}: layer {self.name!r}: expected one {name} in braces")
            yield FillerText(owner, name, role, found[0] if found else None)

    @cached_property
    def _own_roles(self) -> dict[str, str]:
        """The roles of the layer's params that a filler fills, by field; nothing for an unknown type."""
        roles = dict(self.layer.filler_fields) if self.layer else {}
        return {path: role for path, role in roles.items() if not (role == "scale" and len(self.bottoms) > 1)}

    def _may_add(self, owner: Field) -> bool:
        """Tell whether a filler may be written into a message that has none."""
        if owner is self.old:
            return "weight" in self._own_roles.values()
        descriptor = _descriptor(owner.name)
        is_own = not self.layer or any(path.startswith(f"{owner.name}.") for path in self.layer.filler_fields)
        if descriptor is None or not is_own or not _stated_roles(owner.name):
            return False
        is_sized = "num_output" in descriptor.fields_by_name
        return not is_sized or message_of(owner).first("num_output") is not None

    def is_frozen(self, role: str) -> bool:
        """Tell whether the learning rate of the param with this role is 0."""
        roles = list(dict.fromkeys(self._own_roles.values())) or list(_ROLES.values())
        index = roles.index(role) if role in roles else 0
        rates = list(_numbers(self._core, "blobs_lr"))
        for spec in self.message.find("param"):
            rates += [next(iter(_numbers(v, "lr_mult")), 1.0) for v in spec.values if isinstance(v, Message)]
        return index < len(rates) and rates[index] == 0


def message_of(field: Field) -> Message:
    """Return the message of a field. Raises NetError when it holds something else."""
    value = field.values[0] if field.values else None
    if not isinstance(value, Message):
        raise NetError(f"{field.name}: expected a message in braces, found a list or a value", field.place)
    return value


def scalar_texts(field: Field) -> Iterator[str]:
    """Yield the scalar values of a field: strings without their quotes, anything else as written."""
    for value in field.values:
        if isinstance(value, Scalar):
            is_string = value.kind == "string"
            yield value.as_bytes().decode(errors="backslashreplace") if is_string else value.text


def texts(message: Message, name: str) -> Iterator[str]:
    """Return the scalar values of all fields of that name."""
    return (text for field in message.find(name) for text in scalar_texts(field))


def _numbers(message: Message, name: str) -> Iterator[float]:
    for field in message.find(name):
        for value in field.values:
            if isinstance(value, Scalar):
                yield _number(value)


def _number(value: Scalar) -> float:
    try:
        return value.as_float()
    except ValueError:
        return float("nan")


def _has_bias(owner: Field) -> bool:
    message = message_of(owner)
    written = next((text for name in ("bias_term", "biasterm") for text in texts(message, name)), None)
    if written is not None:
        return written not in ("false", "False", "f", "0")
    descriptor = _descriptor(owner.name)
    term = descriptor.fields_by_name.get("bias_term") if descriptor else None
    return term is None or bool(term.default_value)


def read_filler(message: Message) -> Filler:
    """Return the filler that a FillerParameter's text describes; a value that cannot be read counts as NaN."""
    values: dict[str, object] = {}
    for name in FILLER_FIELDS & {field.name for field in message.fields}:
        written = next(iter(texts(message, name)), "")
        if name == "type":
            values[name] = written
        elif name == "variance_norm":
            values[name] = _NORMS.get(written, written)
        else:
            values[name] = next(iter(_numbers(message, name)), float("nan"))
    return Filler(**values)  # type: ignore[arg-type]


def nets(document: Document) -> Iterator[tuple[Field | None, Document | Message]]:
    """Return the nets in a text: itself, or those inside a solver, each with the field that it is the value of."""
    yield None, document
    for name in _NETS:
        for field in document.find(name):
            yield from ((field, value) for value in field.values if isinstance(value, Message))


def text_layers(net: Document | Message) -> list[TextLayer]:
    """Return the layers of a net, in order."""
    fields: Iterable[Field] = (f for f in net.fields if f.name in ("layer", "layers"))
    return [TextLayer(field, value) for field in fields for value in field.values if isinstance(value, Message)]
