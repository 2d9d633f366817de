"""The description of a convolution that its gradients and its forms share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from caffestat.ops import Window, window

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = ["Convolution", "convolution_of", "known_convolution"]

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Convolution:
    """What a convolution computes: y = x ∗ w.

    x is [batch, channels, window.size…], y is [batch, filters, window.out…].
    """

    window: Window
    batch: int
    group: int
    channels: int
    filters: int

    @property
    def x_shape(self) -> Ints:
        """Shape of the image."""
        return (self.batch, self.channels, *self.window.size)

    @property
    def w_shape(self) -> Ints:
        """Shape of the weights."""
        return (self.filters, self.channels // self.group, *self.window.kernel)

    @property
    def is_depthwise(self) -> bool:
        """Whether every channel has a filter of its own."""
        return self.group == self.channels == self.filters

    @property
    def is_product(self) -> bool:
        """Whether it is one matrix product per image."""
        return self.group == 1 and self.window.is_pointwise

    def turned(self) -> Self:
        """Return the convolution of stride 1 that takes gradients back to the image."""
        win = self.window
        begins = tuple(span - 1 - b for span, b in zip(win.spans, win.begins, strict=True))
        back = replace(win, size=win.out, out=win.size, begins=begins)
        return replace(self, window=back, channels=self.filters, filters=self.channels)


def convolution_of(node: Node, x: Sequence[int], y: Sequence[int], w: Sequence[int]) -> Convolution:
    """Return what a Conv or ConvTranspose node computes, from the shapes of image, smaller side and weights.

    A ConvTranspose is a convolution read backwards: x is the shape of its output, y that of its input.
    """
    return Convolution(window(node.attributes, x[2:], y[2:], w[2:]), x[0], node.get("group", 1), x[1], y[1])


def known_convolution(g: Graph, node: Node) -> Convolution | None:
    """Return what a Conv node over two axes computes, None where a shape is not known."""
    specs = [g.specs.get(value) for value in (node.inputs[0], node.outputs[0], node.inputs[1])]
    shapes = [spec.shape for spec in specs if spec and len(spec.shape) == 4]
    return convolution_of(node, *shapes) if len(shapes) == len(specs) else None
