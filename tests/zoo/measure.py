"""What the commands do with one model, beside what the stock runtime computes."""

from __future__ import annotations

import math
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import caffestat
from caffestat.errors import CaffestatError, GradientWarning
from caffestat.graph.load import load

from .models import OK, Entry

__all__ = ["Outcome", "measure"]

Arrays = dict[str, np.ndarray]
_STEPS = (1e-2, 1e-3, 1e-4)  # of the mean |x|, for slopes: the best counts, between bends and rounding
_FORWARD, _SLOPE = 1e-3, 0.1  # relative errors that are taken for wrong


@dataclass
class Outcome:
    """What was found about a model. Errors are relative; None where nothing was measured.

    static, run, gradient: OK or the message of the error
    forward  of the outputs of the model with gradients, against the file's own
    slope    of the gradient, against a difference of outputs along it
    """

    static: str = ""
    run: str = ""
    gradient: str = ""
    nodes: int = 0
    params: int = 0
    macs: int | None = None
    forward: float | None = None
    slope: float | None = None

    def faults(self, entry: Entry) -> list[str]:
        """Return what is not as expected."""
        expected = {"static": entry.static, "run": entry.run, "gradient": entry.gradient}
        faults = [
            f"{what}: expected {words!r}, found {found!r}"
            for what, words in expected.items()
            if not (found := str(getattr(self, what))).startswith(words)
        ]
        if self.forward is not None and not self.forward < _FORWARD:
            faults.append(f"outputs are off by {self.forward:.2g}")
        if entry.slope and self.slope is not None and not self.slope < _SLOPE:
            faults.append(f"the slope is off by {self.slope:.2g}")
        return faults


def measure(path: Path, entry: Entry) -> Outcome:
    """Analyze a model with and without a run, differentiate it, and compare with the stock runtime."""
    outcome = Outcome()
    sizes: dict[str, Any] = {"dims": entry.dims, "shapes": entry.shapes}
    specs = load(path, entry.shapes, dims=entry.dims).graph.inputs
    given = {name: np.full(specs[name].shape, value) for name, value in entry.given.items() if name in specs}

    def static() -> str:
        report = caffestat.analyze(path, static=True, inputs=given, **sizes)
        outcome.nodes, outcome.params = len(report.layers), report.totals.params
        outcome.macs = report.totals.macs
        return OK

    def run() -> str:
        report = caffestat.analyze(path, device="cpu", inputs=given, **sizes)
        means = [top.mean_abs for layer in report.layers for top in layer.tops]
        if not all(math.isfinite(mean) for mean in means if mean is not None):
            return "a mean is not finite"
        return "; ".join(finding.message for finding in report.findings) or OK

    def gradient() -> str:
        warnings.simplefilter("ignore", GradientWarning)  # `run` tells it
        result = caffestat.gradient(path, inputs=given, straight_through=entry.ste, **sizes)
        _compare(path, result, _feeds(path, given, sizes), outcome)
        return OK

    outcome.static, outcome.run, outcome.gradient = map(_outcome, (static, run, gradient))
    return outcome


def _outcome(attempt: Callable[[], str]) -> str:
    try:
        return attempt()
    except CaffestatError as error:
        return str(error)
    except Exception:  # what must not happen: shown whole
        return traceback.format_exc()


def _feeds(path: Path, given: Mapping[str, np.ndarray], sizes: Mapping[str, Any]) -> Arrays:
    """Return inputs of a model: N(0, 1), given integers, other integers 1."""
    random = np.random.default_rng(0)
    feeds: Arrays = {}
    for name, spec in load(path, sizes["shapes"], dims=sizes["dims"]).graph.inputs.items():
        drawn = random.standard_normal(spec.shape) if spec.is_float else np.full(spec.shape, 1)
        feeds[name] = np.broadcast_to(given.get(name, drawn), spec.shape).astype(spec.dtype)
    return feeds


def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.enable_mem_reuse = False  # sets up long models in a fraction of the time
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, feeds: Mapping[str, np.ndarray]) -> Arrays:
    names = {value.name for value in session.get_inputs()}
    outputs = [value.name for value in session.get_outputs()]
    return dict(zip(outputs, session.run(None, {n: a for n, a in feeds.items() if n in names}), strict=True))


def _compare(path: Path, result: onnx.ModelProto, feeds: Arrays, outcome: Outcome) -> None:
    """Compare the outputs with the file's own, and the gradient by the floats with the slope along it."""
    own = _session(path.read_bytes())
    before = _run(own, feeds)
    random = np.random.default_rng(1)
    weights = {name: random.standard_normal(array.shape) for name, array in before.items() if array.dtype.kind == "f"}
    cotangents = {f"cotangent/{name}": array.astype(before[name].dtype) for name, array in weights.items()}
    found = _run(_session(result.SerializeToString()), {**feeds, **cotangents})
    outcome.forward = max(_error(found[name], before[name]) for name in before)
    for name, array in found.items():  # that of a scalar may be: the exponent of a negative number
        if name.startswith("grad/") and array.ndim and not np.isfinite(array).all():
            raise CaffestatError(f"{name} is not finite")
    grads = {name: found[f"grad/{name}"].astype(np.float64) for name in feeds if f"grad/{name}" in found}
    grads = {name: grad for name, grad in grads.items() if grad.ndim}
    length = math.sqrt(sum(float((grad**2).sum()) for grad in grads.values()))
    if not length:
        return
    largest = max(float(np.abs(grad).max()) for grad in grads.values())

    def value(move: float) -> float:
        moved = {n: np.asarray(feeds[n] + move * grad).astype(feeds[n].dtype) for n, grad in grads.items()}
        outputs = _run(own, {**feeds, **moved})
        return sum(float((outputs[name].astype(np.float64) * weight).sum()) for name, weight in weights.items())

    moves = [step * max(float(np.abs(feeds[name]).mean()) for name in grads) / largest for step in _STEPS]
    outcome.slope = min(abs((value(move) - value(-move)) / (2 * move * length**2) - 1) for move in moves)


def _error(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest error as a share of the largest value, of 0.001 at least: probabilities may all be tiny."""
    a, b = found.astype(np.float64), expected.astype(np.float64)
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return math.nan
    return float(np.nan_to_num(np.abs(a - b)).max(initial=0) / max(np.nan_to_num(np.abs(b)).max(initial=0), 1e-3))
