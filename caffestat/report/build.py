"""Builds a Report from a Program, its measurement and its prediction: all that a renderer shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caffestat.analysis import Measurement
from caffestat.fillers import VARIANCE_NORMS, Filler, filler_type, msra_std, of_norm, xavier_spread
from caffestat.fillers.expected import expected_counts
from caffestat.float32 import plain, rounded
from caffestat.lazy import np
from caffestat.program import Key, Program, Row, RowParam

from .model import BottomDiff, LayerGain, LayerRow, ParamRow, Report, Spread, TopRow, Totals

if TYPE_CHECKING:
    from caffestat.analysis import Prediction
    from caffestat.theory import Moments

__all__ = ["build"]

_CHUNK = 1 << 18


def build(
    program: Program,
    measured: Measurement | None = None,
    predicted: Prediction | None = None,
    *,
    source: str,
    seed: int,
    notes: Sequence[str] = (),
) -> Report:
    """Return the Report of a program; without a measurement its measured values are None, without a prediction its
    predicted ones.

    source: the file's name, as messages print it
    seed:   the random seed that the values were drawn with
    """
    view = _View(program, measured or Measurement(), predicted, _gains(program, predicted))
    rows = [row for row in program.rows if not row.is_input]
    read = {key for row in rows for key in row.reads}
    return Report(
        source=source,
        net=program.name,
        phase=program.phase,
        seed=seed,
        device=measured.device if measured else None,
        layers=tuple(view.layer(row) for row in rows),
        inputs=tuple(view.top(row, 0) for row in program.rows if row.is_input and (row.index, 0) in read),
        totals=_totals(program),
        norms=measured.norms if measured else None,
        findings=(*program.findings, *(measured.findings if measured else ())),
        notes=tuple(dict.fromkeys(notes)),
        stats=next((one.wanted for one in measured.stats.values()), ()) if measured else (),
    )


def _gains(program: Program, predicted: Prediction | None) -> dict[int, LayerGain]:
    if predicted is None:
        return {}
    from caffestat.analysis.layer_gains import gains

    found = gains(program, predicted)
    return {gain.node: LayerGain(gain.forward, gain.product, gain.backward, gain.product_backward) for gain in found}


@dataclass(frozen=True)
class _View:
    """What the rows are made from; `predicted` is None when no prediction was asked for."""

    program: Program
    measured: Measurement
    predicted: Prediction | None
    gains: Mapping[int, LayerGain]

    def layer(self, row: Row) -> LayerRow:
        """Return a layer or node."""
        return LayerRow(
            name=row.name,
            type=row.type,
            line=row.place.line,
            bottoms=row.bottoms,
            reads=tuple(self.program.ids[key] for key in row.reads),
            tops=tuple(self.top(row, index) for index in range(len(row.tops))),
            bottom_diffs=tuple(self._diff(row, bottom) for bottom in row.diffs if self._has_diff((row.index, bottom))),
            params=tuple(map(self._param, row.params)),
            macs=row.macs,
            need_backward=row.need_backward,
            inserted=row.inserted,
            followed_by=self.program.followed_by(row),
            gain=self.gains.get(row.index),
            last_line=row.last_line,
            curve=self.measured.curves.get(row.index),
            inner=_inner(*self.measured.inner[row.index]) if row.index in self.measured.inner else (),
        )

    def top(self, row: Row, index: int) -> TopRow:
        """Return a value."""
        key = row.index, index
        means = self.measured.whole if key in self.measured.whole else self.measured.tops
        return TopRow(
            row.tops[index],
            row.shapes[index],
            self.program.ids[key],
            means.get(key),
            self._expected("tops", key),
            self.measured.top_samples.get(key),
            self.measured.stats.get(("top", *key)),
            bool(self.measured.tops) and key not in means,
        )

    def _has_diff(self, key: Key) -> bool:
        """Tell whether a bottom's gradient is listed: of a model only one that is known."""
        found = (self.measured.bottom_diffs, self.predicted.bottom_diffs if self.predicted else ())
        return self.program.is_caffe or any(key in known for known in found)

    def _diff(self, row: Row, bottom: int) -> BottomDiff:
        key = row.index, bottom
        expected = self._expected("bottom_diffs", key)
        is_unknown = self._measured_back and key not in self.measured.bottom_diffs
        mean_abs, stats = self.measured.bottom_diffs.get(key), self.measured.stats.get(("bottom_diff", *key))
        return BottomDiff(row.bottoms[bottom], bottom, mean_abs, expected, is_unknown, stats)

    @property
    def _measured_back(self) -> bool:
        """Whether there was a backward pass."""
        return self.measured.norms is not None

    def _param(self, number: int) -> ParamRow:
        param = self.program.params[number]
        key = param.row, param.index
        fans = param.caffe_fans
        return ParamRow(
            index=param.index,
            name=param.name,
            role=param.role,
            shape=param.shape,
            count=param.count,
            **_filler(param),
            filler_origin=param.origin,
            caffe_fan_in=fans[0] if fans else None,
            caffe_fan_out=fans[1] if fans else None,
            fan_in=param.fan_in,
            fan_out=param.fan_out,
            spreads=_spreads(*fans) if fans else {},
            lr_mult=param.lr_mult,
            decay_mult=param.decay_mult,
            id=number,
            owner=None if param.owner is None else self._path(param.owner),
            owner_id=param.owner,
            is_statistic=param.is_statistic,
            gets_diff=param.gets_diff,
            mean_abs=self.measured.params.get(key),
            diff_mean_abs=self.measured.param_diffs.get(key) if param.gets_diff else None,
            diff_is_unknown=param.gets_diff and self._measured_back and key not in self.measured.param_diffs,
            predicted=self._expected("params", key),
            diff_predicted=self._expected("param_diffs", key),
            histogram=self.measured.param_samples.get(key),
            expected=self._counts(number),
            stats=self.measured.stats.get(("param", *key)),
            diff_stats=self.measured.stats.get(("param_diff", *key)),
        )

    def _counts(self, number: int) -> tuple[float, ...]:
        """Return what the filler's density gives in each bin of the histogram; nothing for other values."""
        param = self.program.params[number]
        found = self.measured.param_samples.get((param.row, param.index))
        if found is None or param.filler is None or self.program.owner(number) in self.measured.given:
            return ()
        return tuple(
            expected_counts(param.filler, param.shape, found.low, found.high, len(found.counts), found.sampled)
        )

    def _path(self, number: int) -> str:
        param = self.program.params[number]
        return f"{self.program.rows[param.row].name}/{param.index}"

    def _expected(self, kind: str, key: Key) -> float | None:
        found: Mapping[Key, Moments] = getattr(self.predicted, kind) if self.predicted else {}
        return found[key].mean_abs if key in found else None


def _inner(program: Program, measured: Measurement) -> tuple[LayerRow, ...]:
    """Return the rows of the net inside of a recurrent layer, of the layers that ran."""
    view, ran = _View(program, measured, None, {}), {row for row, _ in measured.tops}
    return tuple(view.layer(row) for row in program.rows if row.index in ran)


def _filler(param: RowParam) -> dict[str, Any]:
    """Return what fills a param, in words and settings; of stored values their mean and standard deviation."""
    filler = param.filler
    if filler is None:
        stored = {} if param.packed else _moments_of(param.stored)
        words = "packed" if param.packed else f"std {stored['std']:.3g}"
        return {"filler_type": "stored", "filler": words, "filler_settings": stored, "variance_norm": VARIANCE_NORMS[0]}
    return {
        "filler_type": filler.type,
        "filler": _words(filler),
        "filler_settings": {name: _plain(getattr(filler, name)) for name in _read_by(filler)},
        "variance_norm": filler.variance_norm if "variance_norm" in _read_by(filler) else VARIANCE_NORMS[0],
    }


def _moments_of(array: np.ndarray | None) -> dict[str, float]:
    """Return mean and standard deviation, chunk by chunk so that no large temporary is made."""
    flat = np.zeros(0) if array is None else array.reshape(-1)
    total = square = 0.0
    for first in range(0, flat.size, _CHUNK):
        chunk = flat[first : first + _CHUNK].astype(np.float64)
        total += float(chunk.sum())
        square += float(np.dot(chunk, chunk))
    mean = total / max(flat.size, 1)
    return {"mean": mean, "std": math.sqrt(max(square / max(flat.size, 1) - mean * mean, 0.0))}


def _spreads(fan_in: int, fan_out: int) -> dict[str, Spread]:
    return {norm: _spread(rounded(max(of_norm((fan_in, fan_out), norm), 1))) for norm in VARIANCE_NORMS}


def _spread(n: float) -> Spread:
    scale, std = xavier_spread(n)
    return Spread(n, scale, std, msra_std(n))


def _plain(value: float | str) -> float | int | str:
    return plain(value) if isinstance(value, float) else value


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


def _totals(program: Program) -> Totals:
    owners = [param for param in program.params if param.owner is None]
    rows = [row for row in program.rows if not row.is_input]
    blobs = {
        number: shape for row in rows if not row.inserted for number, shape in zip(row.memory, row.shapes, strict=True)
    }
    return Totals(
        params=sum(param.count for param in owners if not param.is_statistic),
        statistics=sum(param.count for param in owners if param.is_statistic),
        macs=sum(row.macs or 0 for row in rows),
        activations=_count(blobs.values()),
        is_complete=all(row.macs is not None and None not in row.shapes for row in rows),
    )


def _count(shapes: Iterable[tuple[int, ...] | None]) -> int:
    return sum(math.prod(shape) for shape in shapes if shape is not None)
