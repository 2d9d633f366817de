"""Which class each layer of a file is of, where forks of Caffe gave one type name different fields or meanings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from caffestat.errors import InputError, SchemaError
from caffestat.fillers import filler_type
from caffestat.layers import Layer, layer_dialects, layer_types, own_class, reference_of, type_name
from caffestat.prototext import Field, Message, Scalar
from caffestat.schema import Addition, UnknownField, read_addition

from .upgrade import Entry

__all__ = ["Choice", "choose", "known_dialects"]


@dataclass(frozen=True)
class Choice:
    """The class that a layer is taken for, and what its text holds for it.

    addition: what the class reads beside Caffe's own fields
    others:   the choices of the dialects that the text fits as well
    outvoted: those that it fits but that fewer other layers of the net are of
    """

    cls: type[Layer]
    addition: Addition
    others: tuple[Choice, ...] = ()
    outvoted: tuple[Choice, ...] = ()

    @cached_property
    def note(self) -> str:
        """The note to the user about the choice, "" for a layer of Caffe's own."""
        cls = self.cls
        if not (cls.dialect or cls.read_as):
            return ""
        taken = cls.read_as or f"that of dialect {cls.dialect} ({reference_of(cls)})"
        others = " or ".join(other.cls.dialect for other in self.others)
        also = f"; it may be that of {others}: choose with --dialect" if others else ""
        return f"is a fork's, taken as {taken}{also}"


def known_dialects() -> tuple[str, ...]:
    """Return the names of all dialects, sorted."""
    return tuple(sorted({cls.dialect for name in layer_types() for cls in layer_dialects(name)} - {""}))


def check_dialect(dialect: str | None) -> None:
    """Raise InputError for a dialect that no type has."""
    if dialect is not None and dialect not in known_dialects():
        raise InputError(f"unknown dialect {dialect!r}; expected one of {', '.join(known_dialects())}")


def choose(layers: Collection[Entry], unknown: Sequence[UnknownField], dialect: str | None = None) -> dict[int, Choice]:
    """Return the choices by the id of the layer's text; unknown types have none.

    A layer is of the dialect that is asked for, if its type has it; else of the one that knows most of the fields that
    Caffe lacks; among equals, of the one that most other layers of the net are of; else of the first.

    unknown: the fields of the file that Caffe's schema lacks
    Raises InputError for a dialect that no type has, SchemaError for a value that does not fit its field.
    """
    check_dialect(dialect)
    types = {entry.proto.type for entry in layers}
    best = {id(entry.text): _best(entry, entry.text, types, unknown, dialect) for entry in layers if entry.text}
    votes = Counter(choices[0].cls.dialect for choices in best.values() if len(choices) == 1)
    return {key: _elected(choices, votes) for key, choices in best.items() if choices}


def _best(
    entry: Entry, text: Message, types: Collection[str], unknown: Sequence[UnknownField], dialect: str | None
) -> list[Choice]:
    """Return the choices that leave the fewest fields of a layer unexplained."""
    start, end = text.span
    fields = [found.field for found in unknown if start <= found.field.span[0] < end]
    own = own_class(type_name(entry.proto))
    claiming = _claiming(entry, types)
    if own and own.fits(entry.proto, types) and not (own.adds or fields or dialect or claiming):
        return [Choice(own, Addition(None, frozenset()))]
    classes = claiming or layer_dialects(type_name(entry.proto))
    fitting = tuple(cls for cls in classes if cls.fits(entry.proto, types))
    if not fitting and type_name(entry.proto) != entry.proto.type:  # other code of the same name
        fitting = layer_dialects(entry.proto.type)
    classes = fitting or classes
    classes = tuple(cls for cls in classes if cls.dialect == dialect) or classes
    choices, errors = [], []
    for cls in classes:
        try:
            choices.append(Choice(cls, _read(cls, text, fields, entry.place.file)))
        except SchemaError as error:
            errors.append(error)
    left = [_unexplained(choice, fields) for choice in choices]
    if errors and (not choices or min(left)):  # it is not that another dialect has these fields
        raise errors[0]
    return [choice for choice, count in zip(choices, left, strict=True) if count == min(left)]


def _claiming(entry: Entry, types: Collection[str]) -> tuple[type[Layer], ...]:
    """Return the dialects that claim a layer, of a net with types of forks."""
    if all(own_class(name) for name in types):
        return ()
    return tuple(cls for cls in layer_dialects(type_name(entry.proto)) if cls.claims(entry.proto, types))


def _read(cls: type[Layer], text: Message, fields: Sequence[Field], file: str) -> Addition:
    fillers = _fields_of_fillers(cls, text)
    if cls.adds:
        addition = read_addition(text, cls.adds, file, [field for field in fields if field not in fillers])
        return replace(addition, fields=addition.fields | fillers)
    own = {path.rpartition(".")[2] for path in cls.own_fields}
    return Addition(None, fillers.union(field for field in fields if field.name in own and _takes(cls, field)))


def _fields_of_fillers(cls: type[Layer], text: Message) -> frozenset[Field]:
    """Return the fields of a layer's fillers that Caffe lacks and their types read."""
    fillers = (filler for path in cls.filler_fields for filler in text.at(path) if isinstance(filler, Message))
    return frozenset(field for filler in fillers for field in filler.find(_own_field(filler)))


def _own_field(filler: Message) -> str:
    """Return the name of the field that a fork's type of filler adds, "" for other types."""
    values = [value for value in filler.at("type") if isinstance(value, Scalar) and value.kind == "string"]
    kind = filler_type(values[-1].as_bytes().decode("utf-8", "replace")) if values else None
    return kind.own_field if kind else ""


def _takes(cls: type[Layer], field: Field) -> bool:
    """Tell whether a class reads the values of one of its own fields: all, of a field without `own_values`."""
    known = cls.own_values.get(field.name)
    return known is None or {getattr(value, "text", "") for value in field.values} <= set(known)


def _unexplained(choice: Choice, fields: Sequence[Field]) -> int:
    inside = sum(isinstance(finding, UnknownField) for finding in choice.addition.findings)
    return len(fields) - len(choice.addition.fields) + inside


def _elected(choices: list[Choice], votes: Counter[str]) -> Choice:
    """Return the choice that fits the rest of the net: Caffe's own where it is among them."""
    first, *others = sorted(choices, key=lambda choice: (bool(choice.cls.dialect), -votes[choice.cls.dialect]))
    if not first.cls.dialect or not others:
        return first
    if votes[first.cls.dialect] > votes[others[0].cls.dialect]:
        return replace(first, outvoted=tuple(others))
    return replace(first, others=tuple(others))
