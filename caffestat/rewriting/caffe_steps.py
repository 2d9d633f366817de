"""What Caffe's layers do to a signal on its way to a nonlinearity."""

from __future__ import annotations

from collections.abc import Hashable

from caffestat.fillers import Filler
from caffestat.ops import LINEAR, Nonlinearity
from caffestat.rewriting.follow import Step

__all__ = ["caffe_step"]

# these keep the sign and the rough shape of the distribution, and pooling lets a nonlinearity behind it decide
_PASSING = frozenset(
    {
        "BN",  # forks' BatchNorm and Scale in one
        "BatchNorm",
        "Bias",
        "Concat",
        "Crop",
        "Dropout",
        "Flatten",
        "Permute",
        "Pooling",
        "Reshape",
        "Scale",
        "Slice",
        "Split",
    }
)
_RECTIFIERS = frozenset(["BNLL", "CReLU", "Clip", "ELU", "ReLU", "ReLU6", "Swish"])
_BOUNDED = frozenset(["Sigmoid", "SigmoidCrossEntropyLoss", "Softmax", "SoftmaxWithLoss", "TanH"])


def caffe_step(
    type_name: str,
    bottoms: tuple[Hashable, ...],
    tops: tuple[Hashable, ...],
    negative_slope: float = 0.0,
    slopes: Filler | None = None,
) -> Step:
    """The step of a layer; `negative_slope` is a ReLU's, `slopes` the filler of a PReLU's."""
    nonlinearity = _nonlinearity(type_name, negative_slope, slopes)
    in_place = not set(bottoms).isdisjoint(tops)
    return Step(bottoms, tops, type_name in _PASSING or in_place, nonlinearity)


def _nonlinearity(type_name: str, negative_slope: float, slopes: Filler | None) -> Nonlinearity | None:
    if type_name == "PReLU":
        return Nonlinearity(True, _second_moment(slopes or Filler(value=0.25)))
    if type_name in _RECTIFIERS:
        return Nonlinearity(True, negative_slope**2)
    return LINEAR if type_name in _BOUNDED else None


def _second_moment(filler: Filler) -> float:
    """E[a²] of what a filler draws."""
    if filler.type == "uniform":
        return (filler.min**2 + filler.min * filler.max + filler.max**2) / 3
    if filler.type == "gaussian":
        return filler.mean**2 + filler.std**2
    return filler.value**2
