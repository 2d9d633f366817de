"""Where passes and expectations come from besides logs: nets."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

from caffestat.data.synthetic import classes_of
from caffestat.errors import CaffestatError
from caffestat.net import Measurement, Net, NetSource, Solver, build, load, measure, predict, state_of

from .diagnose import GROWTH, Diagnosis, diagnose, expected_values
from .reader import Key, Pass, Unread, read_log

__all__ = ["at_start", "diagnose_log", "measured_pass", "passes_of"]

SEED = 1701
_SKIPPED = 1000  # passes without debug_info that are read ahead to find the size of the data


def diagnose_log(path: str, net: str | None = None, growth: float = GROWTH, **settings: Any) -> Diagnosis:
    """Return what a log says, beside what its net is predicted to do.

    net:    the net's or the solver's file. When the net cannot be built, a warning of the result says why
    growth: as in `diagnose`
    phase, level, stages, shapes, batch: as in `caffestat analyze`

    Raises InputError when a file cannot be read.
    """
    unread = Unread()
    passes = read_log(path, unread)
    if net is None:
        return diagnose(passes, growth=growth, unread=unread)
    source = load(net)
    source = source.net if isinstance(source, Solver) else source
    skipped: list[Pass] = []
    first = _first_with_values(passes, skipped)
    warnings = []
    expected: dict[Key, float] = {}
    try:
        expected = at_start(source, first.values if first else {}, **settings)
    except CaffestatError as error:
        warnings.append(f"nothing is predicted, for the net cannot be used: {error}")
    places = {entry.proto.name: entry.place for entry in source.layers}
    found = diagnose(chain(skipped, passes), expected, places, growth, unread)
    found.warnings = warnings
    return found


def _first_with_values(passes: Iterator[Pass], skipped: list[Pass]) -> Pass | None:
    """Return the first pass that has debug_info lines, and put what was read into `skipped`."""
    for one in passes:
        skipped.append(one)
        if one.values:
            return one
        if len(skipped) >= _SKIPPED:
            break
    return None


def at_start(
    source: NetSource,
    logged: Mapping[Key, float] | None = None,
    phase: str | None = None,
    level: int | None = None,
    stages: tuple[str, ...] = (),
    **settings: Any,
) -> dict[Key, float]:
    """Return what a net is predicted to do at initialisation.

    logged: values of the log's first pass. Data has the size that stands there; standard normal data where none does
    phase, level, stages, shapes, batch: as in `caffestat analyze`

    Raises a CaffestatError when the net cannot be built.
    """
    number = None if phase is None else ("train", "test").index(phase)
    state = state_of(source, number, level, stages)
    net = build(source, state, settings.get("shapes"), settings.get("batch"), "synthetic")
    return expected_values(net, predict(net, input_std=_input_std(net, logged or {})))


def _input_std(net: Net, logged: Mapping[Key, float]) -> float:
    """Return the standard deviation of normal data with the mean |x| of the largest logged data blob."""
    sizes: dict[float, int] = {}
    for node in net.nodes:
        for index, blob in enumerate(node.tops if node.layer.is_external else ()):
            mean = logged.get(Key("forward", node.name, "top", net.blobs[blob].name))
            if mean and math.isfinite(mean) and classes_of(net, blob, node.index + 1) is None:
                sizes[mean] = math.prod(node.top_shapes[index] or ())
    return max(sizes, key=lambda mean: sizes[mean]) * math.sqrt(math.pi / 2) if sizes else 1.0


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
    return Pass(0, values=values, lines=[0] * len(values))


def _enter(values: dict[Key, float], node: int, found: list[tuple[Key, dict[tuple[int, int], float]]]) -> None:
    for index, (key, means) in enumerate(found):
        if (node, index) in means:
            values[key] = means[node, index]
