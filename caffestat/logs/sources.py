"""Where passes and expectations come from besides logs: nets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from caffestat.errors import Place
from caffestat.net import Measurement, Net, Solver, build, load, measure, predict, state_of

from .diagnose import expected_values
from .reader import Key, Pass, read_log

__all__ = ["at_start", "measured_pass", "passes_of"]

SEED = 1701


def at_start(
    path: str, phase: str | None = None, level: int | None = None, stages: tuple[str, ...] = (), **settings: Any
) -> tuple[dict[Key, float], dict[str, Place]]:
    """Return what a net or solver is predicted to do at initialisation, and where its layers stand.

    phase, level, stages, shapes, batch: as in `caffestat analyze`. Raises a CaffestatError when it cannot be used.
    """
    source = load(path)
    net = source.net if isinstance(source, Solver) else source
    number = None if phase is None else ("train", "test").index(phase)
    built = build(net, state_of(net, number, level, stages), settings.get("shapes"), settings.get("batch"), "synthetic")
    return expected_values(built, predict(built))


def passes_of(path: str) -> Iterator[Pass]:
    """Yield the passes of a log or, of a prototxt, of one iteration of its train net that is run now.

    The run's seed is the solver's, else 1701; Input layers hold zeros, as under `caffe train`.
    """
    if not path.endswith((".prototxt", ".pbtxt")):
        yield from read_log(path)
        return
    source = load(path)
    seed = source.message.random_seed if isinstance(source, Solver) and source.message.random_seed >= 0 else SEED
    net = build(source.net if isinstance(source, Solver) else source)
    yield measured_pass(net, measure(net, seed=seed, inputs_hold="zeros"))


def measured_pass(net: Net, measured: Measurement) -> Pass:
    """Return a measurement as the pass that a log would have: forward in net order, then backward."""
    values: dict[Key, float] = {}
    for node in net.nodes:
        tops = [(Key("forward", node.name, "top", net.blobs[blob].name), measured.tops) for blob in node.tops]
        names = [net.params[number].display_name for number in node.params]
        params = [(Key("forward", node.name, "param", name), measured.params) for name in names]
        _enter(values, node.index, tops)
        _enter(values, node.index, params)
    for node in reversed(net.nodes):
        bottoms = [Key("backward", node.name, "bottom", net.blobs[blob].name) for blob in node.bottoms]
        diffs = [Key("backward", node.name, "param", str(index)) for index in range(len(node.params))]
        _enter(values, node.index, [(key, measured.bottom_diffs) for key in bottoms])
        _enter(values, node.index, [(key, measured.param_diffs) for key in diffs])
    return Pass(0, values=values)


def _enter(values: dict[Key, float], node: int, found: list[tuple[Key, dict[tuple[int, int], float]]]) -> None:
    for index, (key, means) in enumerate(found):
        if (node, index) in means:
            values[key] = means[node, index]
