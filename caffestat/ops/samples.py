"""Which ops work on the samples of a batch one by one, and read which of their inputs so."""

from __future__ import annotations

__all__ = ["is_of_elements", "samples_of", "summed_samples_of"]

Positions = tuple[int, ...]

_SAMPLES: dict[str, Positions] = {
    "AddAffine": (0, 1),
    "Affine": (0,),
    "AveragePool": (0,),
    "AveragePoolImage": (0,),
    "BatchNormalization": (0,),
    "ChannelScale": (0,),
    "Conv": (0,),
    "ConvImage": (1,),
    "MaxPool": (0,),
    "MaxPoolImage": (0, 1),
    "Relu": (0,),
    "Step": (0,),
}
_SUMS: dict[str, Positions] = {
    "ChannelAbs": (0,),
    "ChannelDot": (0, 1),
    "ChannelSum": (0,),
    "ConvWeights": (0, 1),
    "LongSum": (0,),
}
_ELEMENTS = {"Add", "Mul", "Sub", "Sum"}


def samples_of(op: str) -> Positions:
    """Return the inputs of which each sample makes one of the output; other inputs are the same for all samples.

    op: of ONNX, outside of training mode, or a late op
    """
    return _SAMPLES.get(op, ())


def summed_samples_of(op: str) -> Positions:
    """Return the inputs over whose samples the output is a sum."""
    return _SUMS.get(op, ())


def is_of_elements(op: str) -> bool:
    """Tell whether the output has an element for each of the inputs', so that a part of it needs parts of them."""
    return op in _ELEMENTS
