"""Predictions for the first pass of variants: a mean, and the deviation over draws of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from caffestat.analysis.prediction import Prediction, predict
from caffestat.errors import CaffestatError
from caffestat.fillers import Stream
from caffestat.initialization.methods import parse_method
from caffestat.program import NetProgram, RowParam, from_net
from caffestat.program.feeds import Feeds
from caffestat.theory import Signal
from caffestat.theory.heuristics.draw_deviation import channel_excess, deviation
from caffestat.theory.sources import of_filler

from .bench import Bench, Settings
from .rows import Row, rows_of
from .spread import Band, Value
from .trial import Trial

__all__ = ["bands"]

_FEW = 2  # elements, below which nothing is known of how a value deviates


def bands(settings: Settings, variants: Iterable[Trial]) -> dict[Value, Band]:
    """Return the band of each number of the first pass.

    Those of methods that draw values (orthogonal, lsuv, krahenbuhl) and of nets that cannot be predicted have none.
    """
    bench = Bench(settings)
    return {value: band for variant in variants for value, band in _of_variant(bench, settings, variant)}


def _of_variant(bench: Bench, settings: Settings, variant: Trial) -> Iterator[tuple[Value, Band]]:
    method = parse_method(variant.filler)
    if method and not method.is_solved:
        return
    try:
        program = from_net(bench.variant(variant).build(settings.options(variant.net)))
        found = predict(program, inputs=_first_batch(program) if variant.net in settings.real else None)
    except CaffestatError:  # the trials report it as their errors
        return
    for row, around in _rows(program, found):
        where = Value(replace(variant, seed=0), 0, row.depth, row.layer, row.name, row.kind)
        yield where, Band(row.value, around)


def _first_batch(program: NetProgram) -> dict[str, np.ndarray]:
    """Return what the data layers read first, by the names of their tops."""
    feeds = Feeds(Stream(0), np.random.default_rng(0))
    nodes = program.net.nodes
    read = [feed for feed in program.forward().feeds if feed.row is not None and nodes[feed.row].layer.reader]
    pairs = (pair for feed in read for pair in zip(feed.given, feed.draw(feeds, None), strict=True))
    return {name: array for name, array in pairs if name}


def _rows(program: NetProgram, found: Prediction) -> Iterator[tuple[Row, float | None]]:
    parts = {"x": found.tops, "dx": found.bottom_diffs, "w": found.params, "dw": found.param_diffs}
    means = {kind: {key: m.mean_abs for key, m in moments.items()} for kind, moments in parts.items()}
    excesses = _excesses(program)
    for key, row in rows_of(0, program, means):
        signal = found.signals.get(key) if row.kind == "x" else None
        shape = program.rows[key[0]].shapes[key[1]] if signal else None
        yield row, None if signal is None or shape is None else _deviation(signal, shape, excesses[key[0]])


def _deviation(x: Signal, shape: Sequence[int], excess: float) -> float | None:
    """Return how far mean |x| of one draw lies around the mean over draws; None of a single number, such as a loss."""
    elements = math.prod(shape)
    if elements < _FEW:
        return None
    channels = shape[1] if len(shape) > 1 else elements
    return deviation(x.values, x.rho_other, x.finite_width or 1.0, channels, excess, elements)


def _excesses(program: NetProgram) -> list[float]:
    """Return by row what the weights add to the deviation of a channel; rows without weights keep what they read."""
    found: list[float] = []
    for row in program.rows:
        params = (program.params[number] for number in row.params)
        weights = [param for param in params if param.role == "weight" and len(param.shape) > 1]
        own = (_excess(param) for param in weights)
        found.append(max(own if weights else (found[source] for source, _ in row.reads), default=0.0))
    return found


def _excess(weight: RowParam) -> float:
    w = of_filler(weight.filler, weight.shape) if weight.filler else None
    return 0.0 if w is None else channel_excess(w.values, weight.fan_in)
