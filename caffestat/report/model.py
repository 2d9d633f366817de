"""The Report: everything that is shown of a net, as plain data. The renderers format it and compute nothing."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from caffestat.errors import Finding

if TYPE_CHECKING:
    from caffestat.analysis import Norms
    from caffestat.analysis.curves import Curve
    from caffestat.engine.elements import ElementStats
    from caffestat.engine.histogram import Histogram

__all__ = [
    "FORMAT_VERSION",
    "BottomDiff",
    "Detail",
    "IssueRow",
    "LayerGain",
    "LayerRow",
    "ParamRow",
    "Report",
    "Spread",
    "TopRow",
    "Totals",
]

FORMAT_VERSION = 1

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Spread:
    """What fillers make of a fan n: xavier is uniform on ±scale = ±sqrt(3/n), msra gaussian of msra_std = sqrt(2/n).

    std is that of xavier's values, scale / sqrt(3).
    """

    n: float
    scale: float
    std: float
    msra_std: float


@dataclass(frozen=True)
class TopRow:
    """A value: a top blob after its layer ran.

    id         the value's number in its report. A blob has one value per writer: a layer that works in place makes a
               value of its own
    shape      None behind a layer of unknown type
    mean_abs   None when not measured
    predicted  what theory expects mean_abs to be, None when not asked for or unknown
    histogram  of a sample of its elements, only in detailed reports
    stats      of its elements, where they were asked for
    """

    name: str
    shape: Shape | None
    id: int
    mean_abs: float | None = None
    predicted: float | None = None
    histogram: Histogram | None = None
    stats: ElementStats | None = None
    is_unknown: bool = False


@dataclass(frozen=True)
class BottomDiff:
    """The gradient of a bottom that gets one; mean_abs is None when not measured, predicted as in TopRow.

    bottom: the index of the bottom in its layer
    is_unknown: the net was run, but the gradient depends on a layer that cannot be computed
    stats: as in TopRow
    """

    name: str
    bottom: int
    mean_abs: float | None = None
    predicted: float | None = None
    is_unknown: bool = False
    stats: ElementStats | None = None


@dataclass(frozen=True)
class LayerGain:
    """What a layer with weights and its nonlinearity are predicted to do to second moments.

    forward is n·Var(w) times what the nonlinearity leaves, product that of all layers so far; backward with the fan-out
    and f′², product_backward from the loss down. None where what they are made of is not predicted.
    """

    forward: float | None
    product: float | None
    backward: float | None
    product_backward: float | None


@dataclass(frozen=True)
class ParamRow:
    """A param blob in its layer.

    id               the param's number in its report
    name             the ParamSpec's name, else the index: as debug_info prints it in the forward pass
    filler           what fills it, in words: the type and the settings that differ from Caffe's defaults
    filler_settings  every setting that the filler's type reads
    filler_origin    "file", "default" (the file does not say) or "option" (--assume-filler)
    caffe_fan_*      as Caffe's fillers count, None for a blob without axes; fan_* the true numbers
    variance_norm    the fan that its filler uses, where it is xavier or msra, else FAN_IN
    spreads          by variance norm; empty for a blob without axes
    owner            "layer/index" of the param whose values this one shares, None for an owner; names of layers may
                     repeat
    owner_id         the id of that param
    is_statistic     not learned: BatchNorm's running sums, scales of quantized values
    gets_diff        whether the backward pass writes its gradient
    predicted, diff_predicted  as in TopRow
    diff_is_unknown  as in BottomDiff
    histogram        of its values before the run, only in detailed reports
    stats, diff_stats  as in TopRow
    expected         of each bin of the histogram, the count that the filler's density gives; empty where there is none
    """

    index: int
    name: str
    role: str
    shape: Shape
    count: int
    filler_type: str
    filler: str
    filler_settings: dict[str, float | int | str]
    filler_origin: str
    caffe_fan_in: int | None
    caffe_fan_out: int | None
    fan_in: int
    fan_out: int
    variance_norm: str
    spreads: dict[str, Spread]
    lr_mult: float
    decay_mult: float
    id: int = 0
    owner: str | None = None
    owner_id: int | None = None
    is_statistic: bool = False
    gets_diff: bool = False
    mean_abs: float | None = None
    diff_mean_abs: float | None = None
    predicted: float | None = None
    diff_predicted: float | None = None
    diff_is_unknown: bool = False
    histogram: Histogram | None = None
    expected: tuple[float, ...] = ()
    stats: ElementStats | None = None
    diff_stats: ElementStats | None = None


@dataclass(frozen=True)
class LayerRow:
    """One layer.

    reads     the id of the value behind each of `bottoms`: the edges between rows
    macs      multiply-adds, forward, whole batch; None behind a layer of unknown type
    inserted  whether Caffe adds it by itself: the Splits
    followed_by  of ONNX models: the nonlinearity that the output of a node with weights meets
    gain      of layers with weights, when a prediction was asked for
    last_line where the layer's text ends; 0 when it is not known
    curve     f and f' of an activation, only in detailed reports
    inner     of recurrent layers with `debug_info: true` of their own: the layers of the net inside, once measured; ids
              count the values of that net
    """

    name: str
    type: str
    line: int
    bottoms: tuple[str, ...]
    reads: tuple[int, ...]
    tops: tuple[TopRow, ...]
    bottom_diffs: tuple[BottomDiff, ...]
    params: tuple[ParamRow, ...]
    macs: int | None
    need_backward: bool = False
    inserted: bool = False
    followed_by: str | None = None
    gain: LayerGain | None = None
    last_line: int = 0
    curve: Curve | None = None
    inner: tuple[LayerRow, ...] = ()

    @property
    def learned(self) -> int:
        """How many numbers the layer adds to what the net learns: shared params count at their owner."""
        return sum(param.count for param in self.params if not param.is_statistic and param.owner is None)


@dataclass(frozen=True)
class Totals:
    """Sums over the net.

    params       learnable numbers, shared ones once, statistics not counted
    statistics   BatchNorm's statistics, and the scales of quantized values
    macs         multiply-adds of convolutions and inner products, one forward pass, whole batch
    activations  numbers in all blobs; an in-place blob once, copies by inserted Split layers not counted
    is_complete  False when layers of unknown type are left out of these sums
    """

    params: int
    statistics: int
    macs: int
    activations: int
    is_complete: bool = True


@dataclass(frozen=True)
class IssueRow:
    """What a check finds; `row` is the index of the layer that it is about, `diff` its fix as a unified diff, or ""."""

    code: str
    name: str
    severity: str
    file: str
    line: int
    layer: str
    message: str
    fix: str
    diff: str = ""
    row: int | None = None


@dataclass(frozen=True)
class Detail:
    """What a page shows beside the numbers.

    file    the name of the file that describes the layers, and `text` what is in it
    issues  what `check` finds in it; None when it was not asked
    """

    file: str
    text: str
    issues: tuple[IssueRow, ...] | None = None


@dataclass(frozen=True)
class Report:
    """A net, its sizes and what was measured of it.

    phase   "TRAIN" or "TEST"
    inputs  of ONNX models: the values that come from outside and that a layer reads
    device  "cpu" or "cuda"; None when the net was not run
    norms   None without a backward pass
    errors  what Caffe refuses the net for; what depends on it has no shapes
    notes   what the reader should know about the run, in sentences
    stats   the names of the statistics of elements that were asked for
    detail  the source's text and what `check` finds in it, only in detailed reports
    """

    source: str
    net: str
    phase: str
    seed: int
    device: str | None
    layers: tuple[LayerRow, ...]
    totals: Totals
    inputs: tuple[TopRow, ...] = ()
    norms: Norms | None = None
    findings: tuple[Finding, ...] = ()
    errors: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    stats: tuple[str, ...] = ()
    detail: Detail | None = None
    format_version: int = FORMAT_VERSION

    @cached_property
    def _rows_by_name(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for index, layer in enumerate(self.layers):
            rows.setdefault(layer.name, []).append(index)
        return rows

    def row_of(self, layer: str, line: int = 0) -> int | None:
        """Return the index of a layer by its name; of several, of the one around a line of the file, else the first."""
        rows = self._rows_by_name.get(layer, [])
        around = (row for row in rows if self.layers[row].line <= line <= self.layers[row].last_line)
        return next(around, rows[0] if rows else None)

    def to_html(self) -> str:
        """Return the report as one self-contained page. Raises InputError without the extra `caffestat[report]`."""
        from .html import render

        return render(self)

    def _repr_html_(self) -> str | None:
        """Return the page in a frame, for notebooks; None where it cannot be made, and the notebook shows the repr."""
        from .html import in_frame, is_available

        return in_frame(self.to_html()) if is_available() else None
