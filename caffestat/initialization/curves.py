"""The signal and the gradient over the depth of a net, before and after its weights were initialised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caffestat.analysis import Runner
from caffestat.analysis.prediction import predict
from caffestat.program import Program
from caffestat.program.feeds import Feeds

__all__ = ["Curve", "Curves", "measured_curve", "predicted_curve"]

Point = tuple[float | None, float | None]

_NAME = 28


@dataclass(frozen=True)
class Curve:
    """Mean |x| behind each layer with weights, and mean |dx| in front of it, by layer; None where there is none."""

    points: Mapping[str, Point]


@dataclass(frozen=True)
class Curves:
    """Two curves of one net; `kind` says how they come about: "measured" or "predicted"."""

    kind: str
    before: Curve
    after: Curve

    def lines(self) -> Iterator[str]:
        """Yield a table: a line per layer with weights."""
        yield f"{self.kind:<{_NAME}}  {'mean |x| before':>16}{'after':>12}  {'mean |dx| before':>16}{'after':>12}"
        for name, (x, dx) in self.after.points.items():
            old_x, old_dx = self.before.points.get(name, (None, None))
            shown = name if len(name) <= _NAME else name[: _NAME - 1] + "…"
            yield f"{shown:<{_NAME}}  {_text(old_x):>16}{_text(x):>12}  {_text(old_dx):>16}{_text(dx):>12}"


def _text(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def predicted_curve(program: Program, values: Sequence[np.ndarray] | None = None) -> Curve:
    """Predict the curve of a program; values: of the params, in the place of what their fillers draw."""
    found = predict(program, values=values)
    tops = {key: moments.mean_abs for key, moments in found.tops.items()}
    return _curve(program, tops, {key: moments.mean_abs for key, moments in found.bottom_diffs.items()})


def measured_curve(program: Program, values: Sequence[np.ndarray], feeds: Feeds) -> Curve:
    """Measure the curve of a program in one forward and backward pass. Raises a CaffestatError when it cannot run."""
    own = [v.copy() if param.is_statistic else v for v, param in zip(values, program.params, strict=True)]
    runner = Runner(program, own)
    found = runner.run(feeds.of(runner.forward))
    return _curve(program, found.tops, found.bottom_diffs)


def _curve(program: Program, tops: Mapping[tuple[int, int], float], diffs: Mapping[tuple[int, int], float]) -> Curve:
    rows = [row for row in program.rows if program.weight(row)]
    first = {row.index: next((diffs[row.index, b] for b in row.diffs if (row.index, b) in diffs), None) for row in rows}
    return Curve({row.name: (tops.get((row.index, 0)), first[row.index]) for row in rows})
