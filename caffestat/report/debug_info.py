"""Caffe's debug_info lines, word for word and in its order. (net.cpp: ForwardDebugInfo, BackwardDebugInfo, Backward)"""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import datetime

from .model import LayerRow, Report

__all__ = ["ostream", "render"]

Line = tuple[str, str]  # where in Caffe's source it is logged, which log readers may look for; and the text

_TOP, _PARAM, _BOTTOM_DIFF, _PARAM_DIFF, _NORMS = (f"net.cpp:{number}" for number in (593, 605, 621, 632, 721))


def ostream(value: float) -> str:
    """Return a number as C++ streams print a float by default: six significant digits."""
    return f"{value:g}"


def render(report: Report, glog: bool = False) -> Iterator[str]:
    """Yield the lines of one iteration, without line ends; what was not measured has no line.

    glog: put a prefix as glog writes it before each line.
    """
    for place, text in _lines(report):
        yield _prefix(place) + text if glog else text


def _prefix(place: str) -> str:
    """Severity, month and day, time, process, place; to Caffe the line about all params is an error, others are infos."""
    severity = "E" if place == _NORMS else "I"
    return f"{severity}{datetime.now():%m%d %H:%M:%S.%f} {os.getpid():5d} {place}] "


def _lines(report: Report) -> Iterator[Line]:
    for layer in report.layers:
        yield from _forward(layer)
    for layer in reversed(report.layers):
        yield from _backward(layer)
    if report.norms:
        n = report.norms
        l1, l2 = f"{ostream(n.data_l1)}, {ostream(n.diff_l1)}", f"{ostream(n.data_l2)}, {ostream(n.diff_l2)}"
        yield _NORMS, f"    [Backward] All net params (data, diff): L1 norm = ({l1}); L2 norm = ({l2})"


def _forward(layer: LayerRow) -> Iterator[Line]:
    for top in layer.tops:
        if top.mean_abs is not None:
            yield _TOP, f"    [Forward] Layer {layer.name}, top blob {top.name} data: {ostream(top.mean_abs)}"
    for param in layer.params:
        if param.mean_abs is not None:
            yield _PARAM, f"    [Forward] Layer {layer.name}, param blob {param.name} data: {ostream(param.mean_abs)}"


def _backward(layer: LayerRow) -> Iterator[Line]:
    for bottom in layer.bottom_diffs:
        if bottom.mean_abs is not None:
            yield _BOTTOM_DIFF, f"    [Backward] Layer {layer.name}, bottom blob {bottom.name} diff: {ostream(bottom.mean_abs)}"
    for param in layer.params:
        if param.diff_mean_abs is not None:
            # the index here, never the name
            yield _PARAM_DIFF, f"    [Backward] Layer {layer.name}, param blob {param.index} diff: {ostream(param.diff_mean_abs)}"
