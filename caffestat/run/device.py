"""Which of the runtime's providers a run uses, and the one line that says why."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import sys
from collections.abc import Iterator
from functools import cache

from caffestat.errors import DeviceError
from caffestat.options import DEVICES

from .runtime import onnxruntime

__all__ = ["DEVICES", "choose_device"]

CUDA = "CUDAExecutionProvider"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what native code prints to standard error, and the runtime's Python part to standard output.

    A provider that cannot load says so several times, in red.
    """
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


def _has_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


@cache
def why_no_cuda() -> str:
    """Return why the CUDA provider cannot be used, "" when it can: it is tried with a one-node model."""
    ort = onnxruntime()
    if CUDA not in ort.get_available_providers():
        return "this onnxruntime has no CUDA provider (install onnxruntime-gpu)"
    if not _has_driver():
        return "there is no NVIDIA driver on this machine"
    from caffestat.graph import Graph

    graph = Graph("cuda")
    graph.outputs.append(graph.emit("Neg", graph.input("x", (1,))))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    with quiet():
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds the CUDA and cuDNN libraries that pip installed
        try:
            session = ort.InferenceSession(graph.to_onnx().SerializeToString(), options, providers=[CUDA])
        except Exception as error:  # the runtime raises several private types here
            return f"the CUDA provider does not start: {str(error).splitlines()[0]}"
    if CUDA in session.get_providers():
        return ""
    libraries = "no CUDA and cuDNN libraries: pip install onnxruntime-gpu[cuda,cudnn]"
    return f"the CUDA provider does not load here (no GPU, or {libraries})"


def choose_device(wanted: str) -> tuple[str, str]:
    """Return ("cpu" or "cuda", a line that says why not CUDA or "").

    Raises DeviceError when `wanted` is "cuda" and it cannot be used.
    """
    if wanted not in DEVICES:
        raise DeviceError(f"unknown device {wanted!r}; expected one of {', '.join(DEVICES)}")
    if wanted == "cpu":
        return "cpu", ""
    reason = why_no_cuda()
    if reason and wanted == "cuda":
        raise DeviceError(f"--device cuda was asked for, but {reason}; use --device cpu or auto")
    return ("cpu", f"running on the CPU: {reason}") if reason else ("cuda", "")
