"""The Report as JSON; docs/json.md describes every field."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from caffestat.errors import Finding
from caffestat.escape import json_text

from .model import Detail, LayerRow, ParamRow, Report, Spread, TopRow

if TYPE_CHECKING:
    from caffestat.analysis.curves import Curve
    from caffestat.engine.elements import ElementStats
    from caffestat.engine.histogram import Histogram

__all__ = ["number", "render", "to_dict"]

_DIGITS = 9  # enough to give back every float32


def render(report: Report) -> str:
    """Return the report as one JSON object; a value that is not finite becomes a string, one that is absent null."""
    return json_text(to_dict(report))


def to_dict(report: Report) -> dict[str, Any]:
    """Return the report as dicts, lists, strings and numbers."""
    totals, norms = report.totals, report.norms
    return {
        "format_version": report.format_version,
        "source": report.source,
        "net": report.net,
        "phase": report.phase,
        "seed": report.seed,
        "device": report.device,
        "inputs": [_top(value) for value in report.inputs],
        "layers": [_layer(layer) for layer in report.layers],
        "totals": {
            "params": totals.params,
            "statistics": totals.statistics,
            "macs": totals.macs,
            "activations": totals.activations,
            "is_complete": totals.is_complete,
        },
        "norms": norms and {name: number(value) for name, value in vars(norms).items()},
        "findings": [_finding(finding) for finding in report.findings],
        "errors": [_finding(error) for error in report.errors],
        "notes": list(report.notes),
        **({"detail": _detail(report.detail)} if report.detail else {}),
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {"file": finding.place.file, "line": finding.place.line, "message": finding.message}


def _detail(detail: Detail) -> dict[str, Any]:
    issues = None if detail.issues is None else [vars(issue) for issue in detail.issues]
    return {"file": detail.file, "text": detail.text, "issues": issues}


def _layer(layer: LayerRow) -> dict[str, Any]:
    return {
        "name": layer.name,
        "type": layer.type,
        "line": layer.line,
        "inserted": layer.inserted,
        "need_backward": layer.need_backward,
        "bottoms": list(layer.bottoms),
        "reads": list(layer.reads),
        "tops": [_top(top) for top in layer.tops],
        "bottom_diffs": [
            {"name": diff.name, "bottom": diff.bottom, **_mean_abs(diff.mean_abs, diff.predicted, diff.stats)}
            for diff in layer.bottom_diffs
        ],
        "params": [_param(param) for param in layer.params],
        "macs": layer.macs,
        **({"gain": {name: number(value) for name, value in vars(layer.gain).items()}} if layer.gain else {}),
        **({"followed_by": layer.followed_by} if layer.followed_by else {}),
        **({"last_line": layer.last_line} if layer.last_line else {}),
        **({"curve": _curve(layer.curve)} if layer.curve else {}),
    }


def _top(top: TopRow) -> dict[str, Any]:
    forward = _mean_abs(top.mean_abs, top.predicted, top.stats)
    shown = _histogram(top.histogram)
    return {"id": top.id, "name": top.name, "shape": _shape(top.shape), "forward": forward, **shown}


def _histogram(found: Histogram | None, expected: tuple[float, ...] = ()) -> dict[str, Any]:
    """Return the histogram of a detailed report, nothing without one."""
    if found is None:
        return {}
    told = {"expected": [number(count) for count in expected]} if expected else {}
    numbers = {"low": number(found.low), "high": number(found.high), "counts": list(found.counts)}
    sizes = {name: getattr(found, name) for name in ("zeros", "not_finite", "sampled", "total")}
    return {"histogram": {**numbers, **sizes, **told}}


def _curve(curve: Curve) -> dict[str, Any]:
    points = {name: [number(value) for value in getattr(curve, name)] for name in ("x", "f", "slope")}
    return {**points, "mean_slope": number(curve.mean_slope), "flat": number(curve.flat)}


def _param(param: ParamRow) -> dict[str, Any]:
    return {
        "index": param.index,
        "name": param.name,
        "role": param.role,
        "shape": list(param.shape),
        "count": param.count,
        "id": param.id,
        "owner": param.owner,
        "owner_id": param.owner_id,
        "is_statistic": param.is_statistic,
        "lr_mult": number(param.lr_mult),
        "decay_mult": number(param.decay_mult),
        "filler": {"type": param.filler_type, **_settings(param), "origin": param.filler_origin},
        "caffe_fan_in": param.caffe_fan_in,
        "caffe_fan_out": param.caffe_fan_out,
        "fan_in": param.fan_in,
        "fan_out": param.fan_out,
        "xavier": {norm.lower(): _xavier(spread) for norm, spread in param.spreads.items()},
        "msra": {norm.lower(): {"std": number(spread.msra_std)} for norm, spread in param.spreads.items()},
        "forward": _mean_abs(param.mean_abs, param.predicted, param.stats),
        "backward": _mean_abs(param.diff_mean_abs, param.diff_predicted, param.diff_stats),
        **_histogram(param.histogram, param.expected),
    }


def _settings(param: ParamRow) -> dict[str, Any]:
    settings = param.filler_settings.items()
    return {name: number(value) if isinstance(value, float) else value for name, value in settings}


def _xavier(spread: Spread) -> dict[str, Any]:
    return {"n": number(spread.n), "scale": number(spread.scale), "std": number(spread.std)}


def _mean_abs(value: float | None, predicted: float | None, stats: ElementStats | None) -> dict[str, Any]:
    """Return the mean |x|, what was predicted of it, and the statistics of the elements, where there are any."""
    expected = {} if predicted is None else {"predicted": number(predicted)}
    return {"mean_abs": number(value), **expected, **({"stats": _stats(stats)} if stats else {})}


def _stats(stats: ElementStats) -> dict[str, Any]:
    numbers = {name: getattr(stats, name) for name in stats.wanted}
    shown = {name: n if isinstance(n, int) else number(n) for name, n in numbers.items()}
    return {**shown, "below_normal": stats.below_normal, "float16": stats.float16 or None}


def number(value: float | None) -> float | str | None:
    """Return a number as JSON has it, nine digits; NaN and infinity become the strings "nan", "inf" and "-inf"."""
    if value is None or math.isfinite(value):
        return value if value is None else float(f"{value:.{_DIGITS}g}")
    return str(value)


def _shape(shape: tuple[int, ...] | None) -> list[int] | None:
    return None if shape is None else list(shape)
