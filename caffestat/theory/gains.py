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
    def kept(self) -> float:
        """The share of the second moment that what follows leaves of the top."""
        return _ratio(self.read.second, self.top.second) if self.top and self.read else 1.0

    @property
    def forward(self) -> float:
        """n·Var(w)·kept"""
        return self.fans[0] * self.weight.second * self.kept

    @property
    def kept_backward(self) -> float | None:
        """The share that what follows leaves of the gradient."""
        if not self.is_backward:
            return None
        return _ratio(self.arriving.second, self.leaving.second) if self.arriving and self.leaving else 1.0

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
    forward          n·Var(w)·kept
    product          of `forward` over this layer and all before it on the way from the data
    kept_backward    the share that what follows leaves of the gradient on its way back to the top
    backward         m·Var(w)·kept_backward; None where no gradient is predicted
    product_backward of `backward` over this layer and all after it, to where the loss begins
    """

    node: int
    layer: str
    fan_in: int
    fan_out: int
    variance: float
    kept: float
    forward: float
    product: float
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


def _products(steps: Sequence[Step]) -> dict[int, float]:
    products: dict[int, float] = {}
    before: dict[int, float] = {}
    for step in steps:
        product = products[step.index] = step.forward * before.get(step.index, 1.0)
        before |= {reader: max(product, before.get(reader, product)) for reader in step.readers}
    return products


def _products_backward(steps: Sequence[Step]) -> dict[int, float | None]:
    products: dict[int, float | None] = {}
    for step in reversed(steps):
        after = [product for product in map(products.get, step.readers) if product is not None]
        products[step.index] = None if step.backward is None else step.backward * max(after, default=1.0)
    return products
