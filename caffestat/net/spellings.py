"""Fields of forks that are other spellings of fields of Caffe.

The schema stays Caffe's: such a field is read from the text, and sets the field that Caffe has for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from caffestat.errors import Finding, SchemaError
from caffestat.prototext import Field, Message
from caffestat.schema import caffe_pb2
from caffestat.schema.slots import boolean

from .upgrade import Entry

__all__ = ["MEANINGS", "take_spellings"]


def _round_mode(param: Any, value: Any) -> None:
    modes = caffe_pb2.PoolingParameter
    param.round_mode = modes.CEIL if boolean(value) else modes.FLOOR


def _round_below(param: Any, value: Any) -> None:
    modes = caffe_pb2.PoolingParameter
    param.round_mode = modes.FLOOR if boolean(value) else modes.CEIL


def _dilation(param: Any, value: Any) -> None:
    param.dilation.append(value.as_int())


# (message of the layer, field) -> what it means in Caffe, and how it is set
_SPELLINGS: dict[tuple[str, str], tuple[str, Callable[[Any, Any], None]]] = {
    ("pooling_param", "ceil_mode"): ("round_mode: CEIL for true, FLOOR for false", _round_mode),
    ("pooling_param", "round_below"): ("round_mode: FLOOR for true, CEIL for false", _round_below),
    ("convolution_param", "hole"): ("dilation", _dilation),  # DeepLab's Caffe
}


MEANINGS = {key: meaning for key, (meaning, _) in _SPELLINGS.items()}
"""What forks' fields are taken as, by the message of the layer and the field."""


def take_spellings(entries: Iterable[Entry]) -> tuple[list[Finding], set[Field]]:
    """Set what forks' fields mean in the layers; return a note on each spelling, at its first use, and the fields.

    Raises SchemaError for a value that the field cannot have.
    """
    notes: dict[tuple[str, str], Finding] = {}
    taken: set[Field] = set()
    for entry in entries:
        for key, field in _spelled(entry.text):
            _take(entry, key, field)
            taken.add(field)
            notes.setdefault(key, Finding(field.place, f"{key[1]} in {key[0]} is a fork's, taken as {MEANINGS[key]}"))
    return list(notes.values()), taken


def _spelled(text: Message | None) -> Iterable[tuple[tuple[str, str], Field]]:
    for owner in text.fields if text else ():
        for value in owner.values:
            for field in value.fields if isinstance(value, Message) else ():
                if (owner.name, field.name) in _SPELLINGS:
                    yield (owner.name, field.name), field


def _take(entry: Entry, key: tuple[str, str], field: Field) -> None:
    _, set_meaning = _SPELLINGS[key]
    for value in field.values:
        try:
            set_meaning(getattr(entry.proto, key[0]), value)
        except (AttributeError, ValueError) as error:  # a message has neither a text nor a number
            found = getattr(value, "text", "a message in braces")
            message = f"{field.name} in {key[0]} of layer {entry.proto.name!r}: cannot be {found}"
            raise SchemaError(message, field.place) from error
