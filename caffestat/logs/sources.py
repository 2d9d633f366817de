"""A log beside what its net is predicted to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from itertools import chain

from caffestat.analysis import predict
from caffestat.errors import CaffestatError
from caffestat.net import Net
from caffestat.options import NetOptions, ValueOptions
from caffestat.program import NetProgram, open_file
from caffestat.program.synthetic import classes_of

from .clues import Background, background_of
from .diagnose import GROWTH, Diagnosis, diagnose, expected_values
from .reader import Key, Pass, Unread, read_log

__all__ = ["diagnose_log"]

_SKIPPED = 1000  # passes without debug_info that are read ahead to find the size of the data


def diagnose_log(
    path: str,
    net: str | None = None,
    growth: float = GROWTH,
    options: NetOptions | None = None,
    watch: Callable[[Iterator[Pass]], Iterator[Pass]] = iter,
) -> Diagnosis:
    """Return what a log says, beside what its net is predicted to do.

    net:     the net's or the solver's file. When the net cannot be built, a warning of the result says why
    growth:  as in `diagnose`
    options: how the net is built
    watch:   sees the passes on their way: it is called with them and yields them

    Raises InputError when a file cannot be read.
    """
    unread = Unread()
    passes = watch(read_log(path, unread))
    if net is None:
        return diagnose(passes, growth=growth, unread=unread)
    file = open_file(net)
    skipped: list[Pass] = []
    first = _first_with_values(passes, skipped)
    warnings: list[str] = []
    expected: dict[Key, float] = {}
    background: Background | None = None
    try:
        program = file.program(options or NetOptions(), ValueOptions())
        background = background_of(program, file.solver)
        expected = _predicted(program, file.seed(), first.values if first else {}, warnings)
    except CaffestatError as error:
        warnings.append(f"no predictions, because the net cannot be built: {error}")
    places = {entry.proto.name: entry.place for entry in file.source.layers}
    found = diagnose(chain(skipped, passes), expected, places, growth, unread, background)
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


def _predicted(
    program: NetProgram, seed: int, logged: Mapping[Key, float], notes: MutableSequence[str]
) -> dict[Key, float]:
    prediction = predict(program, values=program.trained_values(seed), input_std=_input_std(program.net, logged))
    notes.extend(prediction.notes)
    return expected_values(program, prediction)


def _input_std(net: Net, logged: Mapping[Key, float]) -> float:
    """Return the standard deviation of normal data with the mean |x| of the largest logged data blob."""
    sizes: dict[float, int] = {}
    for node in net.nodes:
        for index, blob in enumerate(node.tops if node.layer.is_external else ()):
            mean = logged.get(Key("forward", node.name, "top", net.blobs[blob].name))
            if mean and math.isfinite(mean) and classes_of(net, (node.index, index)) is None:
                sizes[mean] = math.prod(node.top_shapes[index] or ())
    return max(sizes, key=lambda mean: sizes[mean]) * math.sqrt(math.pi / 2) if sizes else 1.0
