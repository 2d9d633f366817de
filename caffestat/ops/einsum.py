"""The equation of an Einsum."""

from __future__ import annotations

import string
from collections.abc import Sequence

from .info import UnknownShapeError

__all__ = ["sizes_of", "terms_of"]


def terms_of(equation: str | bytes, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Return one string of indices per operand, and the result's; an ellipsis becomes letters not in use.

    Raises UnknownShapeError when the operands do not fit the equation.
    """
    text = equation.decode() if isinstance(equation, bytes) else equation
    left, arrow, right = text.replace(" ", "").replace("...", ".").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks) or any(
        rank < len(term) - 1 if "." in term else rank != len(term) for term, rank in zip(terms, ranks, strict=False)
    ):
        raise UnknownShapeError(text)
    hidden = max((rank - len(term) + 1 for term, rank in zip(terms, ranks, strict=True) if "." in term), default=0)
    letters = [c for c in string.ascii_letters if c not in left][:hidden]
    if not arrow:
        right = "." + "".join(sorted(c for c in set(left) - {",", "."} if left.count(c) == 1))
    lengths = [rank - len(term) + 1 for term, rank in zip(terms, ranks, strict=True)]
    full = [term.replace(".", "".join(letters[hidden - n :])) for term, n in zip(terms, lengths, strict=True)]
    return full, right.replace(".", "".join(letters))


def sizes_of(terms: Sequence[str], shapes: Sequence[Sequence[int]]) -> dict[str, int]:
    """Return the size of each index."""
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        for index, size in zip(term, shape, strict=True):
            sizes[index] = max(size, sizes.get(index, 1))
    return sizes
