"""How much each layer with weights strengthens or weakens signal and gradient, and what that makes over depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .signal import Moments

__all__ = ["Gain", "Step", "gains"]


@dataclass(frozen=True)
class Step:
    """A layer with weights, and the way from it to the next ones.

    index    its place in the net
    layer    its name
    fans     n and m: what one output sums over, what one input feeds
    weight   moments of the weights
    top      of what comes out of it; None where that is not predicted, here and below
    read     of what the first of the next layers reads
    readers  the indices of the next layers with weights
    arriving of the gradient of `top`
    leaving  of the gradient of `read`
    is_backward  whether a gradient is predicted
    """

    index: int
    layer: str
    fans: tuple[int, int]
    weight: Moments
    top: Moments | None
    read: Moments | None
    readers: tuple[int, ...]
    arriving: Moments | None
    leaving: Moments | None
    is_backward: bool

    @property
    def kept(self) -> float | None:
        """The share of the second moment that what follows leaves of the top; 1 behind the last layer with weights."""
        if not self.readers:
            return 1.0
        return _ratio(self.read.second, self.top.second) if self.top and self.read else None

    @property
    def forward(self) -> float | None:
        """n·Var(w)·kept"""
        kept = self.kept
        return None if kept is None else self.fans[0] * self.weight.second * kept

    @property
    def kept_backward(self) -> float | None:
        """The share that what follows leaves of the gradient."""
        if not self.is_backward:
            return None
        if not self.readers:
            return 1.0
        return _ratio(self.arriving.second, self.leaving.second) if self.arriving and self.leaving else None

    @property
    def backward(self) -> float | None:
        """m·Var(w)·kept"""
        kept = self.kept_backward
        return None if kept is None else self.fans[1] * self.weight.second * kept


@dataclass(frozen=True)
class Gain:
    """What a layer with weights does to second moments, from its bottom to that of the next one.

    fan_in, fan_out  n and m: what one output sums over, what one input feeds
    variance         of the weights, around 0
    kept             the share of the second moment that what follows (nonlinearity, pooling) leaves of the top
    forward          n·Var(w)·kept; None, as `kept`, where what follows is not predicted
    product          of `forward` over this layer and all before it on the way from the data; None behind an unknown one
    kept_backward    the share that what follows leaves of the gradient on its way back to the top
    backward         m·Var(w)·kept_backward; None where no gradient is predicted
    product_backward of `backward` over this layer and all after it, to where the loss begins
    """

    node: int
    layer: str
    fan_in: int
    fan_out: int
    variance: float
    kept: float | None
    forward: float | None
    product: float | None
    kept_backward: float | None
    backward: float | None
    product_backward: float | None


def gains(steps: Sequence[Step]) -> list[Gain]:
    """Return one Gain per step, given in net order.

    Where the net branches, a layer's way onward is the first one that leads to weights, and its product is that of the
    strongest of the layers before it (forward) or after it (backward).
    """
    products, products_backward = _products(steps), _products_backward(steps)
    return [
        Gain(
            step.index,
            step.layer,
            *step.fans,
            step.weight.second,
            step.kept,
            step.forward,
            products[step.index],
            step.kept_backward,
            step.backward,
            products_backward[step.index],
        )
        for step in steps
    ]


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _products(steps: Sequence[Step]) -> dict[int, float | None]:
    products: dict[int, float | None] = {}
    before: dict[int, float | None] = {}
    for step in steps:
        product = products[step.index] = _times(step.forward, before.get(step.index, 1.0))
        before |= {reader: _strongest([product, before.get(reader, product)]) for reader in step.readers}
    return products


def _times(gain: float | None, product: float | None) -> float | None:
    return None if gain is None or product is None else gain * product


def _strongest(products: Sequence[float | None]) -> float | None:
    """Return the largest; None when one of them is unknown, for that may be larger."""
    known = [product for product in products if product is not None]
    return max(known) if len(known) == len(products) else None


def _products_backward(steps: Sequence[Step]) -> dict[int, float | None]:
    products: dict[int, float | None] = {}
    for step in reversed(steps):
        after = [products[reader] for reader in step.readers if reader in products]
        products[step.index] = _times(step.backward, _strongest(after) if after else 1.0)
    return products
