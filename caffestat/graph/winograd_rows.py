"""Convolutions by Winograd's minimal filtering along rows alone: 8 products for 4 places of 5 taps, instead of 20.

The form of `winograd`, y = Aᵀ [(G w) ⊙ (Bᵀ x)], along the last axis, in the runtime's blocked layout:

    V = Bᵀ x    a convolution of stride 4 for each point, one filter per channel
    M = V ∗ U   one convolution with a group for each point, of the taps along the other axis; U = G w
    y = Aᵀ M    one product

Largest error, ÷ the largest result: 5e-7 to 2e-6 with 3x3 and 5x5 taps, where the runtime's convolution has 2e-7.

÷ the time of the runtime's convolution, filters laid out in every run, two threads, result and gradient of the image:
5x5 on 16 x 96 x 27 x 27, 256 filters, two groups 0.58 and 0.55; on 8 x 32 x 28 x 28, 96 filters 0.73 and 0.53; on
8 x 48 x 7 x 7, 128 filters 0.57 and 0.72; 3x3 on 16 x 384 x 13 x 13, 384 filters, two groups 0.85 and 0.83.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from . import blocked
from .convolution import Convolution, known_convolution
from .winograd import GAIN, PLACES, POINTS, exact, in_slices, tiles, transforms

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = ["Rows", "convolution", "convolve", "rows"]

_CACHED = 1_600_000  # elements of transformed images
_MOST_FILTERS = 2_000_000  # elements of transformed filters; to fold more takes longer than some passes win


class Rows(Convolution):
    """A convolution of stride 1 over two axes, whose rows are cut into tiles."""

    @property
    def taps(self) -> int:
        """Taps along a row."""
        return self.window.kernel[1]

    @property
    def points(self) -> int:
        """Products per tile."""
        return PLACES + self.taps - 1

    @property
    def tiles(self) -> int:
        """Tiles of a row."""
        return -(-self.window.out[1] // PLACES)

    @property
    def slices(self) -> int:
        """Into how many slices the batch is cut, so that the caches hold the transformed images of one."""
        elements = self.points * self.window.out[0] * self.tiles * max(self.channels, self.filters)
        divisors = (count for count in range(1, self.batch + 1) if self.batch % count == 0)
        return next((count for count in divisors if self.batch // count * elements <= _CACHED), self.batch)

    def cost(self) -> float:
        """Return the time, ÷ that of the runtime's convolution: products, and passes over images, results and filters.

        As measured for 16 to 384 channels: a pass over an element of the image takes as long as 12 multiply-adds, of
        the results 21, of the filters 10.
        """
        products = 1.1 * self.points * self.tiles / (self.taps * self.window.out[1])
        passes = self.points * (21 + 12 * self.channels / self.filters) * self.group / self.channels
        return products + passes / self.window.taps + 10 / (self.batch * self.window.out[0] * self.tiles)


def rows(g: Graph, c: Convolution, image: str) -> Rows | None:
    """Return the rows of a convolution where they are the fastest form, or None.

    image: a value of the images' element type
    """
    if not _fits(g, c, image):
        return None
    found = Rows(c.window, c.batch, c.group, c.channels, c.filters)
    if found.points * prod(c.w_shape[:3]) > _MOST_FILTERS:
        return None
    whole = tiles("cpu", g, c, image)
    others = whole.cost(whole.slices(g)) if whole and whole.pays(g) else GAIN
    return found if found.cost() < others else None


def _fits(g: Graph, c: Convolution, image: str) -> bool:
    win, spec = c.window, g.specs.get(image)
    if not g.block or g.is_strict or spec is None or spec.dtype != np.float32 or len(win.kernel) != 2:
        return False
    ones = set(win.strides) == set(win.dilations) == {1}
    blocks = all(size % (g.block * c.group) == 0 for size in (c.channels, c.filters))
    within = all(0 <= pad < taps for pad, taps in zip((*win.begins, *win.tails), win.kernel * 2, strict=True))
    return ones and blocks and within and win.kernel[1] in POINTS and min(c.batch, *c.w_shape, *win.out) > 0


def convolution(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """Define a Conv where this is the fastest form."""
    x, w, *bias = node.inputs
    of = known_convolution(g, node)
    found = rows(g, of, x) if of else None
    return [exact(g, node, found, lambda inner: convolve(inner, found, x, w, bias))] if found else None


def convolve(g: Graph, r: Rows, x: str, w: str, bias: Sequence[str] = (), turned: bool = False) -> str:
    """Emit the convolution of x with the filters w: [batch, filters, out…].

    turned: w are the filters of the convolution whose gradient this is, [channels, filters / group, …]
    """
    filters = _filters(g, r, w, turned)
    biases = [_biases(g, r, bias[0])] if bias and bias[0] else []

    def places(inner: Graph, part: Rows, images: str) -> str:
        return _places(inner, part, _products(inner, part, _image(inner, part, images), filters, *biases))

    return in_slices(g, r, r.slices, x, places)


def _products(g: Graph, r: Rows, image: str, *others: str) -> str:
    """Emit the products of all points with filters that are laid out, and perhaps what they add."""
    pads = [r.window.begins[0], 0, r.window.tails[0], 0]
    sliding: dict[str, Any] = {"kernel_shape": [r.window.kernel[0], 1], "pads": pads}
    y = g.emit("Conv", image, *others, domain=blocked.NCHWC, group=r.points * r.group, **sliding)
    return g.emit("ReorderOutput", y, domain=blocked.NCHWC, channels=r.points * r.filters)


def _image(g: Graph, r: Rows, x: str) -> str:
    """Emit what the transform of the image is at each point, blocked: [batch, points · channels, height, tiles]."""
    image = blocked.reorder(g, x)
    points = [_at_point(g, r, image, row) for row in transforms(r.taps)[2]]
    return g.emit("Concat", *points, axis=1)


def _at_point(g: Graph, r: Rows, image: str, row: np.ndarray) -> str:
    """Emit one point of the transform of a blocked image."""
    begin = r.window.begins[1]
    end = PLACES * (r.tiles - 1) + r.points - r.window.size[1] - begin
    filters = np.repeat(row, g.block)[None].repeat(r.channels // g.block, 0).reshape(r.channels, 1, 1, r.points)
    sliding: dict[str, Any] = {"kernel_shape": [1, r.points], "strides": [1, PLACES], "pads": [0, begin, 0, end]}
    return g.emit("Conv", image, g.constant(filters), domain=blocked.NCHWC, group=r.channels, **sliding)


def _filters(g: Graph, r: Rows, w: str, turned: bool) -> str:
    """Lay the transformed filters of all points out, by ops that the runtime folds where filters are constants."""
    matrix = transforms(r.taps)[1]
    first, second = (r.channels, r.filters) if turned else (r.filters, r.channels)
    shape = r.points * first, second // r.group, r.window.kernel[0], 1
    taps = g.transpose(g.reshape(w, prod(shape) // r.points, r.taps), 1, 0)
    spread = g.emit("MatMul", g.constant(matrix[:, ::-1] if turned else matrix), taps)
    spread = g.reshape(g.declare(spread, (r.points, prod(shape) // r.points)), *shape)
    if turned:
        laid, turned_shape = blocked.turned(g, spread, r.points * r.group)
        return g.reshape(laid, *turned_shape)
    return g.reshape(blocked.straight(g, spread, shape), *shape)


def _biases(g: Graph, r: Rows, bias: str) -> str:
    """Emit what each point adds, so that it comes out of the last transform as the bias."""
    shares = np.linalg.pinv(transforms(r.taps)[0]) @ np.ones((PLACES, 1))
    return g.reshape(g.emit("Mul", g.constant(shares), bias), r.points * r.filters)


def _places(g: Graph, r: Rows, products: str) -> str:
    """Emit the places of the tiles, [batch, points · filters, height, tiles] -> [batch, filters, out…]."""
    height, width = r.window.out
    per_point = g.reshape(products, r.batch, r.points, r.filters * height * r.tiles)
    y = g.fused_matmul(per_point, g.constant(transforms(r.taps)[0]), transA=1, transB=1)
    y = g.reshape(y, r.batch, r.filters, height, PLACES * r.tiles)
    if PLACES * r.tiles == width:
        return y
    return g.declare(g.emit("Slice", y, g.ints(0), g.ints(width), g.ints(3)), (r.batch, r.filters, height, width))
