"""Padding that the runtime works out is predicted like the same padding written down."""

from __future__ import annotations

from typing import Any

import pytest

from .graphs import Case, predict


def case(op: str, weight: tuple[int, ...], **attributes: Any) -> Case:
    return Case((3, 4, 11, 9), lambda g, x, p: g.emit(op, x, *p, **attributes), (weight,) if weight else ())


CONV, TRANSPOSED = (6, 4, 3, 5), (4, 6, 3, 5)


@pytest.mark.parametrize(
    ("op", "weight", "implied", "written"),
    [
        ("Conv", CONV, {"auto_pad": "SAME_UPPER"}, {"pads": [1, 2, 1, 2]}),
        ("Conv", CONV, {"auto_pad": "SAME_UPPER", "strides": [2, 3]}, {"pads": [1, 1, 1, 1], "strides": [2, 3]}),
        ("Conv", (6, 4, 2, 4), {"auto_pad": "SAME_LOWER"}, {"pads": [1, 2, 0, 1]}),
        ("Conv", (6, 4, 2, 4), {"auto_pad": "SAME_UPPER"}, {"pads": [0, 1, 1, 2]}),
        (
            "ConvTranspose",
            TRANSPOSED,
            {"output_shape": [22, 18], "strides": [2, 2]},
            {"pads": [1, 2, 0, 1], "strides": [2, 2]},
        ),
        (
            "AveragePool",
            (),
            {"kernel_shape": [3, 5], "auto_pad": "SAME_UPPER"},
            {"kernel_shape": [3, 5], "pads": [1, 2, 1, 2]},
        ),
        (
            "MaxPool",
            (),
            {"kernel_shape": [2, 4], "auto_pad": "SAME_LOWER"},
            {"kernel_shape": [2, 4], "pads": [1, 2, 0, 1]},
        ),
    ],
)
def test_implied_padding(op: str, weight: tuple[int, ...], implied: dict[str, Any], written: dict[str, Any]) -> None:
    without = {name: value for name, value in written.items() if name != "pads"}
    assert predict(case(op, weight, **implied)) == predict(case(op, weight, **written))
    assert predict(case(op, weight, **implied)) != predict(case(op, weight, **without))
