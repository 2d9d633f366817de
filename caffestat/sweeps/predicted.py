"""What is predicted of the first pass of variants: a mean, and how far draws of the weights lie around it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from caffestat.analysis.prediction import Prediction, predict
from caffestat.errors import CaffestatError
from caffestat.fillers import Stream
from caffestat.initialization.methods import parse_method
from caffestat.program import NetProgram, from_net
from caffestat.program.feeds import Feeds
from caffestat.theory import Signal

from .bench import Bench, Settings
from .rows import Row, rows_of
from .spread import Band, Value
from .trial import Trial

__all__ = ["bands"]


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
    except CaffestatError:  # the trials say it as their errors
        return
    for row, deviation in _rows(program, found):
        where = Value(replace(variant, seed=0), 0, row.depth, row.layer, row.name, row.kind)
        yield where, Band(row.value, deviation)


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
    for key, row in rows_of(0, program, means):
        signal = found.signals.get(key) if row.kind == "x" else None
        shape = program.rows[key[0]].shapes[key[1]] if signal else None
        yield row, None if signal is None or shape is None else _deviation(signal, math.prod(shape))


def _deviation(x: Signal, elements: int) -> float:
    """Return how far mean |x| of one draw lies around the mean over draws.

    E[√S] / √E[S], S the second moment of one draw of the weights, is exp(-v / 8) to first order, v = Var(S) / E[S]²,
    and √S deviates by √v / 2. The elements of one draw, taken for independent, add Var(|x|) / elements.
    """
    of_weights = -2 * math.log(max(x.finite_width or 1.0, 1e-9)) * x.mean_abs**2
    return math.sqrt(of_weights + max(x.second - x.mean_abs**2, 0.0) / max(elements, 1))
