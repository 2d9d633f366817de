"""Ranges for quantization as onnxruntime's tools store them: what `load_tensors_data` of its package reads."""

from __future__ import annotations

import json
from typing import Any

from caffestat.analysis.calibration import Calibration

__all__ = ["render_calibration"]

_METHODS = {"minmax": "MinMax", "percentile": "Percentile"}


def render_calibration(calibration: Calibration) -> str:
    """Return the JSON; what the tools do not read is under "caffestat".

    Source: onnxruntime/quantization/calibrate.py, save_tensors_data and CalibrationCacheEncoder.
    """
    data = {
        name: {"lowest": _array(one.lowest, one.dtype), "highest": _array(one.highest, one.dtype), "CLS": "TensorData"}
        for name, one in calibration.ranges.items()
    }
    values = {
        name: {"min": one.low, "max": one.high, "percentiles": {f"{p:g}": v for p, v in one.percentiles.items()}}
        for name, one in calibration.ranges.items()
    }
    method = calibration.method
    shown: dict[str, Any] = {
        "CLS": "TensorsData",
        "data": data,
        "calibration_method": {"CLS": "CalibrationMethod", "value": f"CalibrationMethod.{_METHODS[method.name]}"},
        "smooth_quant": False,
        "caffestat": {"batches": calibration.batches, "symmetric": method.symmetric, "values": values},
    }
    return json.dumps(shown, indent=1, ensure_ascii=False) + "\n"


def _array(value: float, dtype: str) -> dict[str, Any]:
    return {"data": value, "dtype": dtype, "CLS": "numpy.array"}
