"""From a Net and what was measured of it to a Report: everything a renderer shows is worked out here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from caffestat.fillers import (
    VARIANCE_NORMS,
    Filler,
    caffe_fans,
    fan,
    filler_type,
    msra_std,
    xavier_spread,
)
from caffestat.fillers.expected import expected_counts
from caffestat.net import Measurement, Net, NetParam, Node, with_assumed_filler
from caffestat.schema import caffe_pb2

from .model import BottomDiff, LayerRow, ParamRow, Report, Spread, TopRow, Totals

if TYPE_CHECKING:
    from caffestat.engine.histogram import Histogram

__all__ = ["build"]


def build(
    net: Net,
    measured: Measurement | None = None,
    *,
    source: str,
    seed: int,
    assume_filler: str | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Return the Report of a net; without a measurement its measured values are None.

    source: the file's name, as messages print it
    seed:   the random seed that the values were drawn with
    assume_filler: the filler type that weights without a written one were given
    """
    ids = _Ids(net)
    layers = tuple(_layer(net, node, measured or Measurement(), assume_filler, ids) for node in net.nodes)
    return Report(
        source=source,
        net=net.name,
        phase=caffe_pb2.Phase.Name(net.phase),
        seed=seed,
        device=measured.device if measured else None,
        layers=layers,
        totals=_totals(net),
        norms=measured.norms if measured else None,
        findings=net.findings,
        notes=tuple(notes),
    )


class _Ids:
    """The number of every value: tops in net order, so that a blob has one per writer.

    tops, reads  by node index
    """

    def __init__(self, net: Net) -> None:
        self.tops: list[tuple[int, ...]] = []
        self.reads: list[tuple[int, ...]] = []
        holds: dict[int, int] = {}  # by blob
        count = 0
        for node in net.nodes:
            self.reads.append(tuple(holds[blob] for blob in node.bottoms))
            self.tops.append(tuple(range(count, count + len(node.tops))))
            holds.update(zip(node.tops, self.tops[-1], strict=True))
            count += len(node.tops)


def _layer(net: Net, node: Node, measured: Measurement, assume_filler: str | None, ids: _Ids) -> LayerRow:
    return LayerRow(
        name=node.name,
        type=node.type,
        line=node.place.line,
        bottoms=tuple(net.blobs[blob].name for blob in node.bottoms),
        reads=ids.reads[node.index],
        tops=tuple(
            TopRow(
                net.blobs[blob].name,
                shape,
                number,
                measured.tops.get((node.index, index)),
                histogram=measured.top_samples.get((node.index, index)),
            )
            for index, (blob, shape, number) in enumerate(
                zip(node.tops, node.top_shapes, ids.tops[node.index], strict=True)
            )
        ),
        bottom_diffs=tuple(
            _bottom_diff(net.blobs[blob].name, index, measured, (node.index, index))
            for index, blob in enumerate(node.bottoms)
            if node.need_backward and node.bottom_need_backward[index]
        ),
        params=tuple(_param(net, node, net.params[number], measured, assume_filler) for number in node.params),
        macs=_macs(node),
        need_backward=node.need_backward,
        inserted=node.layer.is_inserted,
        last_line=node.layer.last_line,
        curve=measured.curves.get(node.index),
        inner=_inner(*measured.inner[node.index]) if node.index in measured.inner else (),
    )


def _inner(net: Net, measured: Measurement) -> tuple[LayerRow, ...]:
    """Return the rows of the net inside of a recurrent layer, of the layers that ran."""
    ran, ids = {node for node, _ in measured.tops}, _Ids(net)
    return tuple(_layer(net, node, measured, None, ids) for node in net.nodes if node.index in ran)


def _bottom_diff(name: str, index: int, measured: Measurement, key: tuple[int, int]) -> BottomDiff:
    is_unknown = measured.norms is not None and key not in measured.bottom_diffs
    return BottomDiff(name, index, measured.bottom_diffs.get(key), is_unknown=is_unknown)


def _macs(node: Node) -> int | None:
    if not node.is_known:
        return None
    return node.layer.macs([shape for shape in node.bottom_shapes if shape is not None])


def _param(net: Net, node: Node, entry: NetParam, measured: Measurement, assume_filler: str | None) -> ParamRow:
    param = with_assumed_filler(entry.param, assume_filler)
    shape, filler = param.shape, param.filler
    fan_in, fan_out = caffe_fans(shape) if shape else (None, None)
    key = (node.index, entry.index)
    gets_diff = node.need_backward and node.param_propagate_down[entry.index]
    found = measured.param_samples.get(key)
    is_filled = found is not None and net.owner(node.params[entry.index]) not in measured.given
    return ParamRow(
        index=entry.index,
        name=entry.display_name,
        role=param.role,
        shape=shape,
        count=math.prod(shape),
        filler_type=filler.type,
        filler=_words(filler),
        filler_settings={name: _plain(getattr(filler, name)) for name in _read_by(filler)},
        filler_origin="file" if param.written else "default" if param is entry.param else "option",
        caffe_fan_in=fan_in,
        caffe_fan_out=fan_out,
        fan_in=param.fan_in,
        fan_out=param.fan_out,
        variance_norm=filler.variance_norm if "variance_norm" in _read_by(filler) else "FAN_IN",
        spreads={norm: _spread(shape, norm) for norm in VARIANCE_NORMS} if shape else {},
        lr_mult=_short(entry.lr_mult),
        decay_mult=_short(entry.decay_mult),
        owner=None if entry.owner is None else _owner(net, entry.owner),
        is_statistic=param.is_statistic,
        gets_diff=gets_diff,
        mean_abs=measured.params.get(key),
        diff_mean_abs=measured.param_diffs.get(key),
        diff_is_unknown=gets_diff and measured.norms is not None and key not in measured.param_diffs,
        histogram=found,
        expected=_expected(filler, shape, found) if found and is_filled else (),
    )


def _expected(filler: Filler, shape: tuple[int, ...], found: Histogram) -> tuple[float, ...]:
    return tuple(expected_counts(filler, shape, found.low, found.high, len(found.counts), found.sampled))


def _owner(net: Net, number: int) -> str:
    owner = net.params[number]
    return f"{net.nodes[owner.node].name}/{owner.index}"


def _spread(shape: tuple[int, ...], variance_norm: str) -> Spread:
    n = fan(shape, variance_norm)
    scale, std = xavier_spread(n)
    return Spread(float(n), float(scale), std, float(msra_std(n)))


def _short(value: float) -> float:
    """Return the float64 with the shortest decimals that is this float32: 0.01, not 0.009999999776."""
    return float(str(np.float32(value)))


def _plain(value: float | str) -> float | int | str:
    return _short(value) if isinstance(value, float) else value


def _read_by(filler: Filler) -> tuple[str, ...]:
    kind = filler_type(filler.type)
    return kind.reads if kind else ()


def _words(filler: Filler) -> str:
    """Return a filler in few words: its type, the fields that it needs, and the others that are not Caffe's default."""
    kind = filler_type(filler.type)
    needed = kind.required if kind else ()
    words = [f"{getattr(filler, name):g}" for name in needed]
    for name in dict.fromkeys((*_read_by(filler), "sparse", "variance_norm")):  # Caffe refuses a sparse not read
        value = getattr(filler, name)
        if name not in needed and value != getattr(Filler(), name):
            words.append(f"{name} {value:g}" if isinstance(value, (int, float)) else value)
    return " ".join([filler.type, *words])


def _totals(net: Net) -> Totals:
    owners = [entry for entry in net.params if entry.owner is None]
    statistics = [entry for entry in owners if entry.param.is_statistic]
    counted = _count(owners), _count(statistics)
    return Totals(
        params=counted[0] - counted[1],
        statistics=counted[1],
        macs=sum(_macs(node) or 0 for node in net.nodes),
        activations=_activations(net),
        is_complete=all(node.is_known for node in net.nodes),
    )


def _count(entries: Iterable[NetParam]) -> int:
    return sum(math.prod(entry.param.shape) for entry in entries)


def _activations(net: Net) -> int:
    """Return the numbers in all blobs, those that an inserted Split only copies left out."""
    blobs = {blob for node in net.nodes if not node.layer.is_inserted for blob in node.tops}
    return sum(math.prod(shape) for shape in (net.blobs[blob].shape for blob in blobs) if shape is not None)
