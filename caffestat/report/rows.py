"""The lines of a table, shared by the formats that show one: which blob stands beside which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest

from .model import BottomDiff, LayerRow, ParamRow, Report, Spread, TopRow

__all__ = ["Row", "rows"]


@dataclass(frozen=True)
class Row:
    """One line: a top, a weight and a gradient of a layer. A layer with several of them has several lines."""

    layer: LayerRow
    is_first: bool
    top: TopRow | None
    param: ParamRow | None
    diff: BottomDiff | None

    @property
    def name(self) -> str:
        """The layer's name, on its first line only."""
        return self.layer.name if self.is_first else ""

    @property
    def type(self) -> str:
        """The layer's type, on its first line only."""
        return self.layer.type if self.is_first else ""

    @property
    def params(self) -> int | None:
        """How many numbers the layer adds to what the net learns, on its first line only; None for none."""
        return self.layer.learned or None if self.is_first else None

    @property
    def macs(self) -> int | None:
        """The layer's multiply-adds, on its first line only; None for none."""
        return self.layer.macs or None if self.is_first else None

    @property
    def fans(self) -> ParamRow | None:
        """The param, when its fans mean something: a matrix, or a vector whose filler depends on them."""
        has_fans = self.param and (len(self.param.shape) > 1 or "variance_norm" in self.param.filler_settings)
        return self.param if has_fans else None

    @property
    def spread(self) -> Spread | None:
        """What xavier makes of the param, by the variance norm that its filler uses."""
        return self.fans.spreads.get(self.fans.variance_norm) if self.fans else None


def rows(report: Report) -> Iterator[Row]:
    """Yield the lines of all layers of the file; the Split layers that Caffe inserts add nothing and are left out."""
    for layer in report.layers:
        if not layer.inserted:
            weights = [param for param in layer.params if _is_shown(param)]
            blobs = zip_longest(layer.tops or (None,), weights, layer.bottom_diffs)
            for index, (top, param, diff) in enumerate(blobs):
                yield Row(layer, index == 0, top, param, diff)


def _is_shown(param: ParamRow) -> bool:
    """Biases and statistics have no line of their own; JSON has them."""
    return not param.is_statistic and (param.index == 0 or len(param.shape) > 1)
