"""The Report as JSON; docs/json.md describes every field."""

from __future__ import annotations

import math
from typing import Any

from caffestat.escape import json_text

from .model import LayerRow, ParamRow, Report, Spread, TopRow

__all__ = ["render", "to_dict"]

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
        "norms": norms and {name: _number(value) for name, value in vars(norms).items()},
        "findings": [{"file": f.place.file, "line": f.place.line, "message": f.message} for f in report.findings],
        "notes": list(report.notes),
    }


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
            {"name": diff.name, "bottom": diff.bottom, **_mean_abs(diff.mean_abs, diff.predicted)}
            for diff in layer.bottom_diffs
        ],
        "params": [_param(param) for param in layer.params],
        "macs": layer.macs,
        **({"gain": {name: _number(value) for name, value in vars(layer.gain).items()}} if layer.gain else {}),
        **({"followed_by": layer.followed_by} if layer.followed_by else {}),
    }


def _top(top: TopRow) -> dict[str, Any]:
    forward = _mean_abs(top.mean_abs, top.predicted)
    return {"id": top.id, "name": top.name, "shape": _shape(top.shape), "forward": forward}


def _param(param: ParamRow) -> dict[str, Any]:
    return {
        "index": param.index,
        "name": param.name,
        "role": param.role,
        "shape": list(param.shape),
        "count": param.count,
        "owner": param.owner,
        "is_statistic": param.is_statistic,
        "lr_mult": _number(param.lr_mult),
        "decay_mult": _number(param.decay_mult),
        "filler": {"type": param.filler_type, **_settings(param), "origin": param.filler_origin},
        "caffe_fan_in": param.caffe_fan_in,
        "caffe_fan_out": param.caffe_fan_out,
        "fan_in": param.fan_in,
        "fan_out": param.fan_out,
        "xavier": {norm.lower(): _xavier(spread) for norm, spread in param.spreads.items()},
        "msra": {norm.lower(): {"std": _number(spread.msra_std)} for norm, spread in param.spreads.items()},
        "forward": _mean_abs(param.mean_abs, param.predicted),
        "backward": _mean_abs(param.diff_mean_abs, param.diff_predicted),
    }


def _settings(param: ParamRow) -> dict[str, Any]:
    settings = param.filler_settings.items()
    return {name: _number(value) if isinstance(value, float) else value for name, value in settings}


def _xavier(spread: Spread) -> dict[str, Any]:
    return {"n": _number(spread.n), "scale": _number(spread.scale), "std": _number(spread.std)}


def _mean_abs(value: float | None, predicted: float | None) -> dict[str, Any]:
    """Return the mean |x|, and what was predicted of it, where it was."""
    return {"mean_abs": _number(value), **({} if predicted is None else {"predicted": _number(predicted)})}


def _number(value: float | None) -> float | str | None:
    """JSON has no nan and no infinity: they become the strings "nan", "inf" and "-inf"."""
    if value is None or math.isfinite(value):
        return value if value is None else float(f"{value:.{_DIGITS}g}")
    return str(value)


def _shape(shape: tuple[int, ...] | None) -> list[int] | None:
    return None if shape is None else list(shape)
