"""Which nonlinearity a layer's output meets; knows neither Caffe nor ONNX, only steps that read and write values."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from caffestat.ops import LINEAR, Nonlinearity

__all__ = ["Step", "follow"]


@dataclass(frozen=True)
class Step:
    """A layer or a node: what it reads and writes; it passes its input on, or is a nonlinearity, or neither."""

    bottoms: tuple[Hashable, ...]
    tops: tuple[Hashable, ...]
    passes: bool = False
    nonlinearity: Nonlinearity | None = None


def follow(steps: Sequence[Step], index: int) -> Nonlinearity:
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
