"""Which nonlinearity a layer's output meets; knows neither Caffe nor ONNX, only steps that read and write values."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

__all__ = ["LINEAR", "Follower", "Step", "follow"]


@dataclass(frozen=True)
class Follower:
    """A nonlinearity: whether it cuts or shrinks one half of its input, and E[slope²] of that half."""

    is_rectifier: bool
    slope_square: float = 0.0


LINEAR = Follower(False)
"""What neither cuts nor shrinks a half: nothing at all, tanh, sigmoid, softmax."""


@dataclass(frozen=True)
class Step:
    """A layer or a node: what it reads and writes; it passes its input on, or is a nonlinearity, or neither."""

    bottoms: tuple[Hashable, ...]
    tops: tuple[Hashable, ...]
    passes: bool = False
    nonlinearity: Follower | None = None


def follow(steps: Sequence[Step], index: int) -> Follower:
    """The first nonlinearity that reads what step `index` writes, straight or through steps that pass it on.

    Steps stand in the order in which they run; one that writes over a value in place is read by those after it.
    """
    values = set(steps[index].tops)
    for step in steps[index + 1 :]:
        reads = not values.isdisjoint(step.bottoms)
        if reads and step.nonlinearity is not None:
            return step.nonlinearity
        if reads and step.passes:
            values.update(step.tops)
        else:
            values.difference_update(step.tops)
    return LINEAR
