"""Layers as a prototxt of any generation writes them, with the places of their fillers.

Reads the text tree and no schema: forks' layers, fields and enum values do not disturb it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property

from caffestat.errors import InputError
from caffestat.fillers import VARIANCE_NORMS, Filler
from caffestat.net.upgrade import current_type
from caffestat.prototext import Document, Field, Message, Scalar

__all__ = ["FILLER_FIELDS", "FillerText", "TextLayer", "message_of", "nets", "scalar_texts", "text_layers"]

FILLER_FIELDS = {field.name for field in fields(Filler)}
"""The fields of a FillerParameter."""

_NETS = ("net_param", "train_net_param", "test_net_param")
_ROLES = {"weight_filler": "weight", "bias_filler": "bias"}
_ROLES_OF = {
    "scale_param": {"filler": "scale", "bias_filler": "bias"},
    "bias_param": {"filler": "bias"},
    "prelu_param": {"filler": "slope"},
}
_BIAS_IS_OFF_BY_DEFAULT = frozenset(["scale_param"])

# where a filler may be added; Im2col, too, has a convolution_param, and no weights
_WEIGHTED = {
    "convolution_param": "num_output",
    "inner_product_param": "num_output",
    "embed_param": "num_output",
    "recurrent_param": "num_output",
    "scale_param": "",
    "bias_param": "",
    "prelu_param": "",
}
_UNWEIGHTED_TYPES = frozenset(["Im2col", "IM2COL", "im2col"])
_WEIGHTED_V0 = frozenset(["Convolution", "InnerProduct"])


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
        return written if self.field.name == "layer" else current_type(written)

    @cached_property
    def bottoms(self) -> tuple[str, ...]:
        return tuple(texts(self.message, "bottom"))

    @cached_property
    def tops(self) -> tuple[str, ...]:
        return tuple(texts(self.message, "top"))

    def number(self, owner: str, name: str, default: float) -> float:
        """A number of the layer's `owner` message."""
        field = self._core.first(owner)
        return next(iter(_numbers(message_of(field), name)), default) if field else default

    def fillers(self) -> Iterator[FillerText]:
        """Every filler that is written, and every place where one may be added."""
        if self.old:
            yield from self._in(self.old, _ROLES, self.type in _WEIGHTED_V0)
            return
        for owner in self.message.fields:
            if owner.name.endswith("_param") and len(owner.values) == 1 and isinstance(owner.values[0], Message):
                yield from self._in(owner, _ROLES_OF.get(owner.name, _ROLES), self._may_add(owner))

    def _in(self, owner: Field, roles: dict[str, str], may_add: bool) -> Iterator[FillerText]:
        message = message_of(owner)
        for name, role in roles.items():
            found = message.find(name)
            if len(found) > 1 or any(not isinstance(v, Message) for f in found for v in f.values):
                raise InputError(f"{found[-1].place}: layer {self.name!r}: expected one {name} in braces")
            if found or (may_add and (role != "bias" or _has_bias(owner))):
                yield FillerText(owner, name, role, found[0] if found else None)

    def _may_add(self, owner: Field) -> bool:
        size = _WEIGHTED.get(owner.name)
        if size is None or self.type in _UNWEIGHTED_TYPES:
            return False
        return not size or message_of(owner).first(size) is not None

    def is_frozen(self, role: str) -> bool:
        """Whether the learning rate of the param with this role is 0."""
        stands_alone = self.type == "Bias" or (self.type == "Scale" and len(self.bottoms) > 1)
        index = int(role == "bias" and not stands_alone)
        rates = list(_numbers(self._core, "blobs_lr"))
        for spec in self.message.find("param"):
            rates += [next(iter(_numbers(v, "lr_mult")), 1.0) for v in spec.values if isinstance(v, Message)]
        return index < len(rates) and rates[index] == 0


def message_of(field: Field) -> Message:
    """The message of a field that is known to have one."""
    value = field.values[0]
    assert isinstance(value, Message)
    return value


def scalar_texts(field: Field) -> Iterator[str]:
    """The scalar values of a field: strings without their quotes, anything else as written."""
    for value in field.values:
        if isinstance(value, Scalar):
            is_string = value.kind == "string"
            yield value.as_bytes().decode(errors="backslashreplace") if is_string else value.text


def texts(message: Message, name: str) -> Iterator[str]:
    """The scalar values of all fields of that name."""
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
    if written is None:
        return owner.name not in _BIAS_IS_OFF_BY_DEFAULT
    return written not in ("false", "False", "f", "0")


def read_filler(message: Message) -> Filler:
    """The filler that a FillerParameter's text describes; a value that cannot be read counts as NaN."""
    values: dict[str, object] = {}
    for name in FILLER_FIELDS & {field.name for field in message.fields}:
        written = next(iter(texts(message, name)), "")
        if name == "type":
            values[name] = written
        elif name == "variance_norm":
            values[name] = VARIANCE_NORMS[int(written)] if written in ("0", "1", "2") else written
        else:
            values[name] = next(iter(_numbers(message, name)), float("nan"))
    return Filler(**values)  # type: ignore[arg-type]


def nets(document: Document) -> Iterator[tuple[Field | None, Document | Message]]:
    """The nets that a text holds: itself, or those inside a solver, each with the field that it is the value of."""
    yield None, document
    for name in _NETS:
        for field in document.find(name):
            yield from ((field, value) for value in field.values if isinstance(value, Message))


def text_layers(net: Document | Message) -> list[TextLayer]:
    """The layers of a net, in order."""
    fields: Iterable[Field] = (f for f in net.fields if f.name in ("layer", "layers"))
    return [TextLayer(field, value) for field in fields for value in field.values if isinstance(value, Message)]
