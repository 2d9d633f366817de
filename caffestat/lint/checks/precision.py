"""Checks of the statistics of elements that one iteration measured (`--run`): of Caffe nets and ONNX models."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from caffestat.analysis import Measurement
from caffestat.engine.elements import FLOAT16_MAX, ElementStats
from caffestat.program import Program, Row

from ..context import Ran
from ..registry import Found, Needs, check

_NAMED = 3  # inputs whose range a message gives


@dataclass(frozen=True)
class _Values:
    """The statistics of the values around the rows of a program."""

    program: Program
    measured: Measurement

    @cached_property
    def backward(self) -> list[Row]:
        """The rows from the loss down."""
        return list(reversed(self.program.rows))

    def tops(self, row: Row) -> Iterator[tuple[str, ElementStats]]:
        """Yield what a row computes, in words."""
        return self._found("top", row.index, {i: f"top {name!r}" for i, name in enumerate(row.tops)})

    def params(self, row: Row) -> Iterator[tuple[str, ElementStats]]:
        """Yield the values of a row's params, in words."""
        return self._found("param", row.index, self._param_names(row))

    def diffs(self, row: Row) -> Iterator[tuple[str, ElementStats]]:
        """Yield the gradients that a row computes, in words."""
        bottoms = {i: f"gradient of bottom {name!r}" for i, name in enumerate(row.bottoms)}
        yield from self._found("bottom_diff", row.index, bottoms)
        params = {i: f"gradient of {name}" for i, name in self._param_names(row).items()}
        yield from self._found("param_diff", row.index, params)

    def inputs(self, row: Row) -> Iterator[tuple[str, ElementStats]]:
        """Yield what a row reads: its bottoms, in words, then its params."""
        for name, (source, top) in zip(row.bottoms, row.reads, strict=True):
            if found := self.measured.stats.get(("top", source, top)):
                yield f"bottom {name!r}", found
        yield from self.params(row)

    def all_diffs(self) -> Iterator[tuple[Row, str, ElementStats]]:
        """Yield all gradients in the order in which they are computed."""
        return ((row, what, stats) for row in self.backward for what, stats in self.diffs(row))

    def _param_names(self, row: Row) -> dict[int, str]:
        params = (self.program.params[number] for number in row.params)
        return {param.index: f"param {param.name!r}" for param in params}

    def _found(self, kind: str, row: int, names: dict[int, str]) -> Iterator[tuple[str, ElementStats]]:
        found = ((words, self.measured.stats.get((kind, row, index))) for index, words in names.items())
        return ((words, stats) for words, stats in found if stats)


def _values(ran: Ran) -> _Values:
    assert ran.measured is not None
    return _Values(ran.program, ran.measured)


@check("CS021", "not-finite", "error", Needs.RUN, of_models=True)
def not_finite(ran: Ran) -> Iterator[Found]:
    """A blob or gradient is not a number, or infinite.

    Only the first one is named, in Caffe's order: forward from the data, then backward from the loss. Later ones are
    consequences. The message counts the elements and gives the range of the layer's inputs, from which the first NaN or
    infinity is computed. Needs `--run`; with `--input` for data of your own, and of .onnx models too.

    Example: Log or Power with a negative exponent at 0; weights so large that a softmax overflows.

    Fix: look at the layer's input: a shift inside `log_param` or `power_param`, or smaller weights before it.
    """
    values = _values(ran)
    forward = ((row, what, stats) for row in values.program.rows for what, stats in values.tops(row))
    for row, what, stats in (*forward, *values.all_diffs()):
        if stats.nan or stats.inf:
            kind = "nan" if stats.nan else "inf"
            message = f"{what} is the first that is {kind}: {_counts(stats)}{_read(values, row)}"
            numbers: dict[str, float] = {"elements": stats.count, "nan": stats.nan, "inf": stats.inf}
            yield Found(row.place, row.name, message, "check its input", numbers)
            return


def _counts(stats: ElementStats) -> str:
    parts = (f"{count:,} {word}" for count, word in ((stats.nan, "NaN"), (stats.inf, "infinite")) if count)
    return f"{' and '.join(parts)} of {stats.count:,} elements"


def _read(values: _Values, row: Row) -> str:
    """Return the ranges of what a row reads."""
    parts = [f"{what} {_range(stats)}" for what, stats in values.inputs(row)]
    more = ", …" if len(parts) > _NAMED else ""
    return f"; it reads {', '.join(parts[:_NAMED])}{more}" if parts else ""


def _range(stats: ElementStats) -> str:
    """Return the range of a value; what is not finite in it has been read from a param."""
    told = f" ({_counts(stats)})" if stats.nan or stats.inf else ""
    return f"in [{stats.min:.3g}, {stats.max:.3g}]{told}"


@check("CS035", "float16-range", "info", Needs.RUN, of_models=True)
def float16_range(ran: Ran) -> Iterator[Found]:
    """A value is outside of the range of float16.

    float16 ends at 65504: what is larger becomes infinite. Below 2⁻¹⁴ = 6.1e-05, its smallest normal number, it loses
    precision; below 2⁻²⁵ values become 0. A layer is reported when max |x| of what it computes, or of its params,
    exceeds 65504 and nothing that it reads does, so that the first one in a row is named; likewise when a tenth or more
    of the nonzero elements are below 2⁻¹⁴. Of gradients one finding names the first that overflows, another the one
    that loses most. Needs `--run`; of .onnx models too. `caffestat analyze --stats max,min,zeros` shows the numbers of
    all values.

    Example: a product with weights of 1000 over 1000 inputs; gradients of 1e-6 after ten layers.

    Fix: scale the data, or keep that layer in float32; scale the loss for gradients that are too small.
    """
    values = _values(ran)
    for row in values.program.rows:
        if not row.inserted:
            yield from _out_of_range(values, row)
    yield from _large_gradient(values)
    yield from _small_gradients(values)


def _out_of_range(values: _Values, row: Row) -> Iterator[Found]:
    """Yield where a row overflows or underflows though nothing that it reads does."""
    read = {stats.float16 for _, stats in values.inputs(row) if _is_finite(stats)}
    computed = (found for found in values.tops(row) if found[1].float16 not in read)
    for what, stats in (*values.params(row), *computed):
        if stats.float16 == "overflow" and _is_finite(stats):
            told = "" if what.startswith("param") else _read(values, row)
            message = f"{what}: max |x| is {stats.largest:.3g}, which overflows in float16{told}"
            yield Found(row.place, row.name, message, _KEEP, {"max_abs": stats.largest})
        elif stats.float16 == "underflow":
            message = (
                f"{what}: {stats.small_share:.0%} of the nonzero elements are below 6.1e-05, "
                "the smallest normal float16"
            )
            yield Found(row.place, row.name, message, _KEEP, {"share": stats.small_share})


_KEEP = "scale it, or keep this layer in float32"


def _is_finite(stats: ElementStats) -> bool:
    """Tell whether a value holds no infinity: CS021 reports those."""
    return math.isfinite(stats.largest)


def _large_gradient(values: _Values) -> Iterator[Found]:
    for row, what, stats in values.all_diffs():
        if stats.float16 == "overflow" and _is_finite(stats) and not row.inserted:
            message = f"{what} is the first that overflows in float16: max |dx| is {stats.largest:.3g}"
            yield Found(row.place, row.name, message, "scale the loss down", {"max_abs": stats.largest})
            return


def _small_gradients(values: _Values) -> Iterator[Found]:
    """Yield the gradient that loses most, with the largest power of two that the loss can be scaled by."""
    found = [one for one in values.all_diffs() if not one[0].inserted and one[2].count > one[2].zeros]
    small = [one for one in found if one[2].float16 == "underflow"]
    if not small:
        return
    row, what, stats = max(small, key=lambda one: one[2].small_share)
    message = (
        f"{len(small)} of {len(found)} gradients underflow in float16; worst is {what}: {stats.small_share:.0%} of its "
        "nonzero elements are below 6.1e-05"
    )
    largest = max(stats.largest for _, _, stats in found)
    room = math.floor(math.log2(FLOAT16_MAX / largest)) if 0 < largest < FLOAT16_MAX else 0
    fix = f"scale the loss by up to 2^{room}" if room else "keep these gradients in float32"
    yield Found(row.place, row.name, message, fix, {"share": stats.small_share, "gradients": len(small)})
