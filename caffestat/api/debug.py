"""`debug`: the lines of Caffe's debug_info for one iteration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffestat.errors import Finding
from caffestat.options import NetOptions, RunOptions, ValueOptions, options_of

from .analyze import analyze, analyze_file

if TYPE_CHECKING:
    from caffestat.net import Solver

__all__ = ["DebugLog", "debug", "debug_log"]


@dataclass(frozen=True)
class DebugLog:
    """The lines of one iteration, produced as the nets run, and the findings and notes about the file and its nets."""

    lines: Iterator[str]
    findings: Sequence[Finding]
    notes: Sequence[str]


def debug(path: str | Path, *, glog: bool = False, inputs_hold: str = "zeros", **options: Any) -> Iterator[str]:
    """Yield the lines that Caffe's debug_info prints in one iteration, in its words and its order, without line ends.

    A solver's first iteration is that of `caffe train`: its test nets first when they are due, every line about losses
    and rates included. With `phase` or `forward_only` only the one net is run.

    path:        a net, a solver or an .onnx model, "-" for the standard input
    glog:        put a prefix as glog writes it before each line
    inputs_hold: what Input layers hold: "zeros", as under `caffe train`, or "noise"
    options:     those of `analyze`, except `static`

    Raises a CaffestatError when the file, the net or an option cannot be used.
    """
    return debug_log(path, glog=glog, inputs_hold=inputs_hold, **options).lines


def debug_log(path: str | Path, *, glog: bool = False, inputs_hold: str = "zeros", **options: Any) -> DebugLog:
    """Return the lines of `debug` together with the findings and notes about them."""
    from caffestat import report
    from caffestat.program import is_onnx, open_file

    net, values, run = options_of(inputs_hold=inputs_hold, **options)
    if is_onnx(str(path)):
        result = analyze(path, inputs_hold=inputs_hold, **options)
    else:
        file = open_file(str(path))
        if file.solver and not (net.phase or run.forward_only):
            return _solver_log(file.solver, file.seed(values.seed), glog, net, values, run)
        result = analyze_file(file, net, values, run)
    return DebugLog(report.debug_lines(result, glog), result.findings, result.notes)


def _solver_log(
    solver: Solver, seed: int, glog: bool, net: NetOptions, values: ValueOptions, run: RunOptions
) -> DebugLog:
    """Return the first iteration of a solver."""
    from caffestat import report
    from caffestat.program.opening import refuse_model_options
    from caffestat.training import Training

    refuse_model_options(net, run)
    training = Training(solver, net, values, run, seed=seed, debug=True, saves=False)
    lines = report.first_iteration_lines(solver, training.events(), seed, glog)
    return DebugLog(lines, training.findings, training.notes)
