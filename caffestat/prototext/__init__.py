"""Lossless reader of the protobuf text format: `parse` keeps every byte, and every node knows its place.

Follows protobuf's C++ TextFormat (text_format.cc, io/tokenizer.cc), where only the syntax is looked at: which fields
exist and which values they take is for the caller to judge.
"""

from __future__ import annotations

from caffestat.prototext.edit import Edit, Item, insert, line_break_at, remove, replace, replace_field, replace_value
from caffestat.prototext.parser import MAX_DEPTH, parse
from caffestat.prototext.tokens import Token
from caffestat.prototext.tree import Document, Field, Message, Scalar

__all__ = [
    "MAX_DEPTH",
    "Document",
    "Edit",
    "Field",
    "Item",
    "Message",
    "Scalar",
    "Token",
    "insert",
    "line_break_at",
    "parse",
    "remove",
    "replace",
    "replace_field",
    "replace_value",
]
