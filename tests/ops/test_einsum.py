"""Equations of Einsum, also of operands that do not fit."""

from __future__ import annotations

import pytest

from caffestat.ops import UnknownShapeError
from caffestat.ops.einsum import sizes_of, terms_of


def test_terms() -> None:
    assert terms_of("bij, jk -> bik", [3, 2]) == (["bij", "jk"], "bik")
    assert terms_of(b"ij,jk", [2, 2]) == (["ij", "jk"], "ik")
    assert terms_of("...i,i->...", [3, 1]) == (["abi", "i"], "ab")
    assert terms_of("a...,...->...a", [3, 1]) == (["abc", "c"], "bca")
    assert sizes_of(["ab", "b"], [(2, 1), (5,)]) == {"a": 2, "b": 5}


@pytest.mark.parametrize(("equation", "ranks"), [("ij,jk->ik", [3, 2]), ("ij", [2, 2]), ("ij...->i", [1])])
def test_operands_that_do_not_fit(equation: str, ranks: list[int]) -> None:
    with pytest.raises(UnknownShapeError):
        terms_of(equation, ranks)
