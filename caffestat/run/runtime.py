"""The one import of onnxruntime: without its telemetry, which writes files below ~/.cache and looks up a host."""

from __future__ import annotations

import importlib
import os
from typing import Any

__all__ = ["onnxruntime"]


def onnxruntime() -> Any:
    """Return the onnxruntime module, imported with its telemetry switched off."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when the module is loaded
    return importlib.import_module("onnxruntime")
