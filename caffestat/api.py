"""The verbs that the command line and `import caffestat` share.

Importing this module imports neither numpy nor a runtime: each verb takes what it needs when it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caffestat.errors import Finding, InputError

if TYPE_CHECKING:
    import numpy as np

    from caffestat.net import Net, NetSource, Solver, State
    from caffestat.report import Report

__all__ = ["DEFAULT_SEED", "analyze", "debug"]

DEFAULT_SEED = 1701  # when neither the user nor a solver says one; fixed, so that a run can be repeated
_NAMED = 5  # layers that a warning names one by one


def analyze(
    path: str,
    *,
    static: bool = False,
    phase: str | None = None,
    level: int | None = None,
    stages: Sequence[str] = (),
    seed: int | None = None,
    forward_only: bool = False,
    device: str = "auto",
    weights: Sequence[str] = (),
    inputs: Mapping[str, np.ndarray] | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    assume_filler: str | None = None,
    data: str = "auto",
    inputs_hold: str = "noise",
) -> Report:
    """Return what a net or solver prototxt will do to its signal: shapes, fans, fillers, and mean |x| of every blob.

    path:          the file, "-" for the standard input
    static:        do not run the net; measured values are then None
    phase:         "train" or "test"; default: what the file says, else train
    level, stages: the state that include and exclude rules look at; stages join those of the file
    seed:          Caffe's random_seed; default: the solver's, else 1701
    forward_only:  no backward pass; Caffe never runs one in the test phase
    device:        "auto", "cpu" or "cuda"
    weights:       caffemodel files whose blobs replace the fillers' values, layers matched by name; later files win
    inputs:        arrays for data blobs by blob name, in the shape the net gives them
    shapes:        shapes of data blobs by blob name, outermost axis first (N, C, H, W)
    batch:         replaces the first axis of every data blob
    assume_filler: the filler type of weights that have none written, for example "xavier"
    data:          what data layers read: "auto" (the files they name, where these are at hand), "real" (those or an
                   error) or "synthetic" (N(0, 1) noise and labels drawn evenly)
    inputs_hold:   what Input layers hold: "noise" (N(0, 1)) or "zeros" (as under `caffe train`)

    Raises a CaffestatError when the file, the net or an option cannot be used.
    """
    from caffestat import net as nets
    from caffestat import report

    source, solver = _load(path)
    state = _state(source, solver, phase, level, stages)
    net = nets.build(source, state, {name: tuple(shape) for name, shape in (shapes or {}).items()}, batch, data)
    unfilled = [] if weights or assume_filler else _unfilled(net)
    net.findings = (*(solver.findings if solver else ()), *net.findings, *unfilled)
    seed = _seed(solver) if seed is None else seed
    notes: list[str] = []
    measured = None if static else nets.measure(
        net,
        seed=seed,
        device=device,
        weights=weights,
        inputs=inputs or {},
        inputs_hold=inputs_hold,
        assume_filler=assume_filler,
        forward_only=forward_only or net.phase == nets.TEST,
        notes=notes,
    )
    return report.build(net, measured, source=source.name, seed=seed, assume_filler=assume_filler, notes=notes)


def debug(path: str, *, glog: bool = False, inputs_hold: str = "zeros", **options: Any) -> Iterator[str]:
    """Yield the lines that Caffe's debug_info prints in one iteration, in its words and its order, without line ends.

    glog:        put a prefix as glog writes it before each line
    inputs_hold: what Input layers hold: "zeros", as under `caffe train`, or "noise"
    options:     those of `analyze`, except `static`

    Raises a CaffestatError when the file, the net or an option cannot be used.
    """
    from caffestat.report import debug_lines

    return debug_lines(analyze(path, inputs_hold=inputs_hold, **options), glog)


def _load(path: str) -> tuple[NetSource, Solver | None]:
    from caffestat.net import Solver, load

    loaded = load(path)
    return (loaded.net, loaded) if isinstance(loaded, Solver) else (loaded, None)


def _state(
    source: NetSource, solver: Solver | None, phase_name: str | None, level: int | None, stages: Iterable[str]
) -> State:
    """Return the state to build in: the net's own, joined by the solver's for that phase, then by the options."""
    from caffestat.net import TEST, TRAIN, state_of

    phases = {None: None, "train": TRAIN, "test": TEST}
    if phase_name not in phases:
        raise InputError(f"phase is 'train' or 'test', found {phase_name!r}")
    phase = phases[phase_name]
    if solver is None:
        return state_of(source, phase, level, stages)
    if phase != TEST:
        # `caffe train` puts its own --level, 0 by default, in the place of the one that the solver says
        return state_of(source, TRAIN, level or 0, (*solver.message.train_state.stage, *stages))
    for state in solver.message.test_state[:1]:
        stages = (*state.stage, *stages)
        level = state.level if level is None and state.HasField("level") else level
    return state_of(source, TEST, level, stages)


def _seed(solver: Solver | None) -> int:
    # Caffe takes a negative random_seed for none
    return solver.message.random_seed if solver and solver.message.random_seed >= 0 else DEFAULT_SEED


def _unfilled(net: Net) -> list[Finding]:
    """Return one warning about all weights that nothing fills: a file made for use after training has no fillers."""
    from caffestat.net import unfilled

    nodes = unfilled(net)
    if not nodes:
        return []
    names = ", ".join(node.name for node in nodes[:_NAMED]) + (", …" if len(nodes) > _NAMED else "")
    layers = "1 layer has" if len(nodes) == 1 else f"{len(nodes)} layers have"
    message = (
        f"{layers} weights without a weight_filler ({names}): Caffe starts them all at zero, and no signal passes; "
        "use --assume-filler xavier, or --weights FILE for trained ones"
    )
    return [Finding(nodes[0].place, message)]
