"""What a run measures of a program: the numbers behind Caffe's debug_info lines."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from caffestat.errors import Finding

if TYPE_CHECKING:
    import numpy as np

    from caffestat.engine.elements import ElementStats
    from caffestat.engine.histogram import Histogram
    from caffestat.program import Program

    from .curves import Curve

__all__ = ["Measurement", "Norms", "in_range"]

_LARGEST = float.fromhex("0x1.fffffep127")  # of float32

Key = tuple[int, int]  # row, and which top, bottom or param of it


def in_range(total: float) -> float:
    """Return a sum as Caffe has it, in float32: infinite beyond its range."""
    return math.inf if total > _LARGEST else total


@dataclass(frozen=True)
class Norms:
    """Of all learnable params together: sums of |x|, and Euclidean norms; None where a gradient is unknown."""

    data_l1: float
    diff_l1: float | None
    data_l2: float
    diff_l2: float | None


@dataclass
class Measurement:
    """Mean absolute values (sum |x| / count) after one iteration; a key that is absent was not measured.

    tops          of each top, after its layer ran: (row, top)
    whole         of each top of integers or booleans, likewise
    params        of each param, after the forward pass of its layer: (row, param)
    bottom_diffs  of the gradient of each bottom that needs it: (row, bottom)
    param_diffs   of the gradient of each param; a shared one as accumulated so far in the backward pass: (row, param)
    norms         the "All net params" line; None after a forward pass alone
    loss          the weighted sum of everything that has a loss weight
    outputs       the values of the net's output blobs, flattened, by blob index
    device        what ran it: "cpu" or "cuda"
    findings      what went wrong without stopping it
    inner         the nets inside of recurrent layers that Caffe prints, by row, and what was measured of them
    zeros         of tops of ReLUs, the share of zeros; where asked for
    saturated     of tops of sigmoids and tanhs, the share whose slope is below a twentieth of the largest; likewise

    Only where they were asked for:

    stats         of the elements of each value: ("top" | "param" | "bottom_diff" | "param_diff", row, index)
    top_samples, param_samples  the distribution of each top and each param
    curves        f and f' of the activations, by row
    given         the params with values that weights files hold, by number
    """

    tops: dict[Key, float] = field(default_factory=dict)
    whole: dict[Key, float] = field(default_factory=dict)
    params: dict[Key, float] = field(default_factory=dict)
    bottom_diffs: dict[Key, float] = field(default_factory=dict)
    param_diffs: dict[Key, float] = field(default_factory=dict)
    norms: Norms | None = None
    loss: float = 0.0
    outputs: dict[int, np.ndarray] = field(default_factory=dict)
    device: str = "cpu"
    findings: tuple[Finding, ...] = ()
    inner: dict[int, tuple[Program, Measurement]] = field(default_factory=dict)
    zeros: dict[Key, float] = field(default_factory=dict)
    saturated: dict[Key, float] = field(default_factory=dict)
    stats: dict[tuple[str, int, int], ElementStats] = field(default_factory=dict)
    top_samples: dict[Key, Histogram] = field(default_factory=dict)
    param_samples: dict[Key, Histogram] = field(default_factory=dict)
    curves: dict[int, Curve] = field(default_factory=dict)
    given: frozenset[int] = frozenset()
