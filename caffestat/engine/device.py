"""The device that a graph runs on: which of the runtime's providers it is, and how much memory it has."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from caffestat.errors import DeviceError
from caffestat.options import device_of

from . import memory
from .runtime import onnxruntime, open_session, session_options

__all__ = ["CPU", "Device", "choose_device"]

CUDA = "CUDAExecutionProvider"

_OLDEST = (1, 30)
"""The first onnxruntime whose CUDA kernel of AveragePool knows padding of one side only."""

_FAILURE = re.compile(r"CUDA failure \d+: (.+?) ;")

_CUDA_OPTIONS = {
    "use_tf32": "0",  # parity with Caffe's float32
    "cudnn_conv_algo_search": "HEURISTIC",  # an exhaustive search takes seconds and wins nothing on ResNet-50
    "arena_extend_strategy": "kSameAsRequested",  # by powers of two, a pass takes up to twice the memory
}


@dataclass(frozen=True)
class Device:
    """A device of some kind ("cpu" or "cuda"); index: which of several of that kind."""

    kind: str
    index: int = 0

    def __str__(self) -> str:
        return f"{self.kind}:{self.index}" if self.index else self.kind

    def available_bytes(self) -> int | None:
        """Return the memory that a run can take on the device; None where the system does not say."""
        return memory.host_bytes() if self.kind == "cpu" else memory.cuda_bytes(self.index)

    @property
    def providers(self) -> list[Any]:
        """What a session is told: the providers in the order in which they are asked for each node."""
        first = [(CUDA, {"device_id": str(self.index), **_CUDA_OPTIONS})] if self.kind == "cuda" else []
        return [*first, "CPUExecutionProvider"]


CPU = Device("cpu")


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


@cache
def why_no_cuda(index: int = 0) -> str:
    """Return why the CUDA provider cannot be used, "" when it can: it is tried with a one-node model."""
    ort = onnxruntime()
    if CUDA not in ort.get_available_providers():
        return "this onnxruntime has no CUDA provider (install onnxruntime-gpu)"
    if tuple(int(part) for part in ort.__version__.split(".")[:2]) < _OLDEST:
        return f"onnxruntime {ort.__version__} computes some averages wrong on CUDA (install 1.30 or newer)"
    driver = memory.cuda_driver()
    if driver is None:
        return "there is no NVIDIA driver on this machine"
    count = memory.cuda_count(driver)
    if index and index >= count:
        return f"this machine has {count} CUDA devices, counted from 0"
    return _why_not_loaded(ort, Device("cuda", index))


def _why_not_loaded(ort: Any, device: Device) -> str:
    from caffestat.graph import Graph

    graph = Graph()
    graph.outputs.append(graph.emit("Neg", graph.input("x", (1,))))
    with quiet():
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # finds the CUDA and cuDNN libraries that pip installed
        try:
            session = open_session(graph.to_onnx(), session_options(), device.providers[:1])
        except Exception as error:  # the runtime raises several private types here
            return f"the CUDA provider does not start: {_reason(str(error))}"
    if CUDA in session.get_providers():
        return ""
    libraries = "no CUDA and cuDNN libraries: pip install onnxruntime-gpu[cuda,cudnn]"
    return f"the CUDA provider does not load here (no GPU, or {libraries})"


def _reason(text: str) -> str:
    """Return what CUDA says of a failure, without the runtime's lines of code around it."""
    said = _FAILURE.search(text)
    return said[1] if said else text.splitlines()[0]


def choose_device(wanted: str) -> tuple[Device, str]:
    """Return the device for "auto", "cpu", "cuda" or "cuda:1", and a line that says why it is not CUDA, or "".

    Raises InputError when `wanted` is none of these, DeviceError when it asks for CUDA and that cannot be used.
    """
    kind, index = device_of(wanted)
    if kind == "cpu":
        return CPU, ""
    reason = why_no_cuda(index)
    if reason and wanted != "auto":
        raise DeviceError(f"--device {wanted} was asked for, but {reason}; use --device cpu or auto")
    return (CPU, f"running on the CPU: {reason}") if reason else (Device("cuda", index), "")
