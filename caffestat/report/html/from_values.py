"""The page of two models compared value by value: the errors along the first model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from caffestat.analysis.values import ValueDifference

from .charts import Chart, Line, embed
from .from_history import bare_page
from .page import require_extra, write

__all__ = ["render_values"]

_SECTION = ("depth", "Over depth")


def render_values(found: Sequence[ValueDifference], a: str, b: str, words: Sequence[str]) -> str:
    """Return how far the values of model b are from those of model a as one HTML file.

    words: sentences about the result

    Raises InputError where the extra `caffestat[report]` is not installed.
    """
    require_extra()
    page = bare_page() | {"title": f"{a} and {b}", "about": [f"A: {a}", f"B: {b}", *words]}
    return write(page, embed(list(_charts(found)), [], []))


def _charts(found: Sequence[ValueDifference]) -> Iterator[Chart]:
    names, x = [one.name for one in found], range(len(found))
    marks = [index for index, one in enumerate(found) if one.parts][:1]
    errors = [
        Line("largest |a|", [one.largest for one in found], "measured", x),
        Line("limit", [one.limit for one in found], "limit", x),
        Line("largest |a − b|", [one.max_error for one in found], "predicted", x),
        Line("mean |a − b|", [one.mean_error for one in found], "third", x),
    ]
    title, note = "values and their errors", "the mark is at the first value that differs" if marks else ""
    yield Chart(title, errors, _SECTION, note, marks=marks, x_title="value", names=names)
    ratios = [one.sqnr if math.isfinite(one.sqnr) else None for one in found]
    line = Line("SQNR", ratios, "measured", x)
    yield Chart("signal to quantization noise, dB", [line], _SECTION, is_log=False, x_title="value", names=names)
    cosines = Line("cosine", [one.cosine for one in found], "measured", x)
    yield Chart("cosine of the angle between a and b", [cosines], _SECTION, is_log=False, x_title="value", names=names)
