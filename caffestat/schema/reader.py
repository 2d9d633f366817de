"""Messages from the lossless text tree."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from caffestat.errors import Finding, Place, SchemaError
from caffestat.prototext import Document, Field, Message, Scalar
from caffestat.schema.slots import Slot, slots

__all__ = ["Addition", "ForkValue", "UnknownField", "UnknownValue", "from_document", "from_message", "read_addition"]

M = TypeVar("M", bound=Any)
_LONGEST_QUOTE = 60
_DRIVE = re.compile(r"""["'][A-Za-z]:\\""")
_MEANT = {"iter_step": "iter_size"}  # common mistakes that are too unlike the field's name to be guessed


@dataclass(frozen=True)
class UnknownField(Finding):
    """A field that the schema does not know, and that was left out; owner: the type of the message it is in."""

    field: Field
    owner: str


@dataclass(frozen=True)
class UnknownValue(Finding):
    """A value that the schema does not know, of a field that it knows, and that was left out: it changes no number."""


@dataclass(frozen=True)
class ForkValue(UnknownField):
    """A field that the schema knows, with a value that only a fork can have given it; it was left out."""


def from_document(document: Document, cls: type[M]) -> tuple[M, list[Finding]]:
    """Return the message that protobuf's C++ TextFormat reads from the text, and findings for what it refuses.

    A field that the schema does not know gives an UnknownField and is left out. A value that a fork gave to a field
    that is open (see slots.py) gives a finding and leaves the field unset; an unknown V1 layer type does so without a
    finding: types of all generations are checked when the net is built. A string that is not UTF-8 gives a finding,
    and its invalid bytes become \\xNN.

    Raises SchemaError for a value that does not fit its field, for a singular field (scalar or message) given twice,
    and for a required field that is missing. Source: protobuf text_format.cc, which lets no field be overwritten.
    """
    message: M = cls()
    reader = _Reader(document.name)
    reader.fill(message, document.fields, message.DESCRIPTOR.name)
    return message, reader.findings


def from_message(message: Message, cls: type[M], file: str) -> M:
    """Return the message of a class that a part of a text holds; fields that the schema does not know are left out.

    Raises SchemaError as `from_document` does.
    """
    result: M = cls()
    _PartReader(file).fill(result, message.fields, result.DESCRIPTOR.name)
    return result


@dataclass(frozen=True)
class Addition:
    """What the text of a message holds of a fork's own fields.

    message: of the class that has the fork's fields. fields: those that it knows. findings: what is strange in them.
    values: where those stand that it reads, also of fields that Caffe has.
    """

    message: Any
    fields: frozenset[Field] = frozenset()
    findings: tuple[Finding, ...] = ()
    values: frozenset[Place] = frozenset()


def read_addition(text: Message | Document, cls: type[Any], file: str, unknown: Sequence[Field]) -> Addition:
    """Return what a fork adds to a message of Caffe's: its own fields, also those inside of messages that Caffe has.

    cls:     a message with the fork's fields alone
    unknown: the fields of the text that Caffe's schema lacks
    Raises SchemaError as `from_document` does.
    """
    result = cls()
    reader = _PartReader(file, unknown)
    reader.fill(result, text.fields, result.DESCRIPTOR.name)
    added = [field for field in unknown if field in reader.known]
    inside = [field.span for field in added]
    findings = [
        finding
        for finding in reader.findings
        if not isinstance(finding, UnknownField) or any(a <= finding.field.span[0] < b for a, b in inside)
    ]
    read = {value.place for field in reader.known for value in field.values if isinstance(value, Scalar)}
    return Addition(result, frozenset(added), tuple(findings), frozenset(read - {f.place for f in reader.findings}))


@dataclass(frozen=True, slots=True)
class _Level:
    """A message around one field: its name in messages, its type and its fields."""

    name: str
    type: str
    fields: Sequence[Field]

    @property
    def is_layer(self) -> bool:
        return self.type.endswith("LayerParameter")

    @property
    def layer_name(self) -> str:
        values = (value for field in self.fields if field.name == "name" for value in field.values)
        return next((value.text for value in values if isinstance(value, Scalar)), "without a name")


class _Reader:
    def __init__(self, file: str) -> None:
        self.file = file
        self.findings: list[Finding] = []
        self.known: set[Field] = set()
        self.path: list[_Level] = []
        self.field: Field | None = None  # the singular one that is read

    def fill(self, message: Any, fields: Sequence[Field], name: str) -> None:
        """Set the fields of a message. No message of the schema holds itself, so the recursion ends by itself."""
        descriptor = message.DESCRIPTOR
        known = slots(descriptor)
        first: dict[str, Field] = {}
        self.path.append(_Level(name, descriptor.name, fields))
        for field in fields:
            slot = known.get(field.name)
            if slot is None:
                self.tell_unknown(field, descriptor.name, known)
                continue
            self.known.add(field)
            if slot.repeated:
                self.extend(getattr(message, slot.name), slot, field)
            elif first.setdefault(slot.name, field) is field:
                self.field = field
                self.set(message, slot, field)
            elif slot.is_list_of_forks:
                text = f"{field.name} in {self.owner}: given several times, as only forks allow; left out"
                self.findings.append(ForkValue(field.place, text, field, descriptor.name))
                message.ClearField(slot.name)
            else:
                raise self.twice(first[slot.name], field)
        self.check_required(message, fields)
        self.path.pop()

    def tell_unknown(self, field: Field, owner: str, known: Collection[str]) -> None:
        text = f"unknown field '{field.name}' in {self.owner}, left out{_hint(field.name, tuple(known))}"
        self.findings.append(UnknownField(field.place, text, field, owner))

    def extend(self, target: Any, slot: Slot, field: Field) -> None:
        for value in field.values:
            if slot.read is None:
                self.fill(target.add(), self.body(slot, value), slot.name)
            elif (converted := self.convert(slot, value)) is not None:
                target.append(converted)

    def set(self, message: Any, slot: Slot, field: Field) -> None:
        if field.is_list:
            self.refuse(slot, "a list", field)
            return
        value = field.values[0]
        if slot.read is None:
            child = getattr(message, slot.name)
            child.SetInParent()  # an empty message counts as given
            self.fill(child, self.body(slot, value), slot.name)
        elif (converted := self.convert(slot, value)) is not None:
            setattr(message, slot.name, converted)

    def body(self, slot: Slot, value: Scalar | Message) -> Sequence[Field]:
        if isinstance(value, Message):
            return value.fields
        raise self.misfit(slot, _shortened(value.text), value)

    def convert(self, slot: Slot, value: Scalar | Message) -> Any:
        """Return the value to set; None when it gives a finding and nothing to set."""
        if isinstance(value, Message):
            raise self.misfit(slot, "a message in braces", value)
        assert slot.read is not None
        try:
            read = slot.read(value)
            if isinstance(read, str) and _is_broken_path(value.text, read):
                text = f"the backslashes of {_shortened(value.text)} begin escapes: use / in paths"
                self.find(f"{slot.name} in {self.owner}: {text}", value)
            return read
        except UnicodeDecodeError:
            self.find(f"{slot.name} in {self.owner}: expected UTF-8, found other bytes, now written \\xNN", value)
            return value.as_bytes().decode(errors="backslashreplace")
        except ValueError as error:
            self.refuse(slot, _shortened(value.text), value, error)
            return None

    def refuse(self, slot: Slot, found: str, where: Field | Scalar, cause: ValueError | None = None) -> None:
        """Raise a misfit, or leave the field unset with a finding where the slot allows it."""
        is_string = isinstance(where, Scalar) and where.kind == "string"
        is_new = slot.is_extended and not _hint(found.upper(), slot.choices)
        if is_string or not (slot.is_open or is_new):
            raise self.misfit(slot, found, where) from cause
        if slot.is_open and slot.name == "type":  # of a V1 layer
            return
        text = f"unknown value {found} of {slot.name} in {self.owner}, left out"
        if slot.is_extended and not slot.is_open and self.field:
            self.findings.append(ForkValue(where.place, text, self.field, self.path[-1].type))
        else:
            self.findings.append(UnknownValue(where.place, text))

    @property
    def owner(self) -> str:
        """The message in words, with the layer that it belongs to."""
        inner = self.path[-1]
        layer = next((level for level in reversed(self.path) if level.is_layer), None)
        if layer is inner:
            return f"layer {inner.layer_name} ({inner.type})"
        name = inner.type if len(self.path) == 1 else f"{inner.name} ({inner.type})"
        return name if layer is None else f"{name} of layer {layer.layer_name}"

    def find(self, text: str, where: Field | Scalar) -> None:
        self.findings.append(Finding(where.place, text))

    def misfit(self, slot: Slot, found: str, where: Field | Scalar | Message) -> SchemaError:
        hint = _hint(found.strip("\"'").upper(), slot.choices)
        if slot.name == "type" and slot.choices and isinstance(where, Scalar) and where.kind == "string":
            text = f"type in {self.owner}: found {found} in quotes, which belongs to `layer`"
            return SchemaError(f"{text}: rename `layers` to `layer`, or write a name without quotes{hint}", where.place)
        return SchemaError(f"{slot.name} in {self.owner}: expected {slot.expected}, found {found}{hint}", where.place)

    def twice(self, first: Field, second: Field) -> SchemaError:
        text = f"{second.name} in {self.owner}: expected once, found in line {first.line} and in line {second.line}"
        return SchemaError(text, second.place)

    def check_required(self, message: Any, fields: Sequence[Field]) -> None:
        if message.IsInitialized():
            return
        missing = ", ".join(message.FindInitializationErrors())
        place = fields[0].place if fields else Place(self.file)
        raise SchemaError(f"{self.owner}: expected {missing}, found nothing of that name", place)


class _PartReader(_Reader):
    """Reads the fields that a schema has and skips others: unknown fields are reported inside of `told` alone."""

    def __init__(self, file: str, told: Iterable[Field] = ()) -> None:
        super().__init__(file)
        self._spans = [field.span for field in told]

    def tell_unknown(self, field: Field, owner: str, known: Collection[str]) -> None:
        if any(start < field.span[0] < end for start, end in self._spans):
            super().tell_unknown(field, owner, known)


def _is_broken_path(written: str, read: str) -> bool:
    """Tell whether a Windows path lost a backslash: what is read of it has control characters."""
    return _DRIVE.match(written) is not None and any(ord(letter) < 32 for letter in read)


@lru_cache(maxsize=1024)
def _hint(name: str, choices: tuple[str, ...]) -> str:
    if _MEANT.get(name) in choices:
        return f"; did you mean {_MEANT[name]}?"
    ending = "_param" if name.endswith("_param") else ""  # an ending that most fields share is no similarity
    stems = {choice.removesuffix(ending): choice for choice in choices if choice.endswith(ending)}
    close = difflib.get_close_matches(name.removesuffix(ending), stems, n=1, cutoff=0.8)
    return f"; did you mean {stems[close[0]]}?" if close else ""


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_QUOTE else text[:_LONGEST_QUOTE] + "..."
