"""Caffe's debug_info lines, in its words and its order. (net.cpp: ForwardDebugInfo, BackwardDebugInfo, Backward)"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from datetime import datetime

from caffestat.escape import visible

from .model import LayerRow, Report

__all__ = ["ostream", "prefix", "render", "signed"]

Line = tuple[str, str]  # where in Caffe's source it is logged, which log readers may look for; and the text

_TOP, _PARAM, _BOTTOM_DIFF, _PARAM_DIFF, _NORMS = (f"net.cpp:{number}" for number in (593, 605, 621, 632, 721))

_UNKNOWN = "?"


def ostream(value: float) -> str:
    """Return a number as C++ streams print a float by default: six significant digits."""
    return f"{value:g}"


def signed(value: float) -> str:
    """Return a number as `ostream` does, a NaN with the sign bit that arithmetic on current CPUs gives it.

    Means and sums of |x| lose the sign.
    """
    return "-nan" if math.isnan(value) else ostream(value)


def render(report: Report, glog: bool = False, inner_only: bool = False) -> Iterator[str]:
    """Yield the lines of one iteration, without line ends; what was not measured has no line, "?" is unknown.

    glog:       put a prefix as glog writes it before each line
    inner_only: leave out all but the lines of recurrent layers that print their own
    """
    for place, text in _lines(report, inner_only):
        yield prefix(place) + text if glog else text


def prefix(place: str) -> str:
    """Return severity, month and day, time, process, place; Caffe logs the line about all params as an error."""
    severity = "E" if place == _NORMS else "I"
    return f"{severity}{datetime.now():%m%d %H:%M:%S.%f} {os.getpid():5d} {place}] "


def _lines(report: Report, inner_only: bool) -> Iterator[Line]:
    for layer in report.layers:
        for inner in layer.inner:
            yield from _forward(inner)
        yield from () if inner_only else _forward(layer)
    for layer in reversed(report.layers):
        for inner in reversed(layer.inner):
            yield from _backward(inner)
        yield from () if inner_only else _backward(layer)
    if report.norms and not inner_only:
        n = report.norms
        l1, l2 = f"{ostream(n.data_l1)}, {_norm(n.diff_l1)}", f"{signed(n.data_l2)}, {_norm(n.diff_l2, signed)}"
        yield _NORMS, f"    [Backward] All net params (data, diff): L1 norm = ({l1}); L2 norm = ({l2})"


def _forward(layer: LayerRow) -> Iterator[Line]:
    for top in layer.tops:
        yield from _line(_TOP, "Forward", layer, f"top blob {top.name} data", _shown(top.mean_abs, top.is_unknown))
    for param in layer.params:
        yield from _line(_PARAM, "Forward", layer, f"param blob {param.name} data", param.mean_abs)


def _backward(layer: LayerRow) -> Iterator[Line]:
    for bottom in layer.bottom_diffs:
        value = _shown(bottom.mean_abs, bottom.is_unknown)
        yield from _line(_BOTTOM_DIFF, "Backward", layer, f"bottom blob {bottom.name} diff", value)
    for param in layer.params:
        # the index here, never the name
        value = _shown(param.diff_mean_abs, param.diff_is_unknown)
        yield from _line(_PARAM_DIFF, "Backward", layer, f"param blob {param.index} diff", value)


def _shown(value: float | None, is_unknown: bool) -> float | str | None:
    return _UNKNOWN if is_unknown else value


def _norm(value: float | None, shown: Callable[[float], str] = ostream) -> str:
    return _UNKNOWN if value is None else shown(value)


def _line(place: str, direction: str, layer: LayerRow, what: str, value: float | str | None) -> Iterator[Line]:
    if value is not None:
        shown = value if isinstance(value, str) else ostream(value)
        yield place, visible(f"    [{direction}] Layer {layer.name}, {what}: {shown}")
