"""Convolutions by Winograd's minimal filtering: 36 products per 16 places of a 3x3 filter, instead of 144.

The image is cut into tiles of m x m places, which read n x n elements, n = m + r - 1 for r taps. In one dimension

    y = Aᵀ [(G w) ⊙ (Bᵀ x)]

for the tile's places y, taps w and elements x; in two, the same along both axes, and ⊙ becomes one matrix product over
the channels for each of the n² points. The three transforms are small products of their own:

    V = (Bᵀ ⊗ Bᵀ) x    [n², channels, tiles]      a convolution with n² filters of stride m, of one channel each
    U = (G ⊗ G) w      [n², filters, channels]
    y = (Aᵀ ⊗ Aᵀ) U V

The gradient of the image is the convolution with the filters flipped; that of the filters is
(G ⊗ G)ᵀ Σ over tiles of (A ⊗ A) dy · Vᵀ.

Largest error, ÷ the largest result: 2e-6 with 3x3 taps, where the runtime's convolution has 0.5e-6; 1e-5 with 5x5, for
which therefore only the gradient of the filters is computed this way. Results beyond 1e38 may become NaN.

Lavin & Gray 2016, "Fast algorithms for convolutional neural networks"; A, B and G by Cook and Toom: Blahut 2010, "Fast
algorithms for signal processing", section 5. The points are those of the least error that a search over 0, ±a, ±b, …
found: half of that with 0, ±1, ±2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .convolution import Convolution, convolution_of

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = ["Tiles", "convolution", "convolve", "filters_gradient", "tiles"]

Ints = tuple[int, ...]
Matrix = np.ndarray

PLACES = 4
"""How many places a tile has along each axis."""
POINTS = {3: (0.0, 0.7, -0.7, 1.4, -1.4), 5: (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0)}
"""The points of the polynomials by the number of taps along an axis, beside infinity."""
_MANY_TILES = 128  # of an image, enough to keep the products busy
_MANY_FOR_FILTERS = 64  # tiles of a batch; fewer, if hardly a place of them is in vain
_SHORT_ROW = 64  # elements
_OUT_OF_CACHE = 1 << 20  # elements
_LARGE = 1 << 23  # elements of a transformed image
_KERNELS = frozenset((taps, taps) for taps in POINTS)


@cache
def transforms(taps: int) -> tuple[Matrix, Matrix, Matrix]:
    """Return Aᵀ [m, n], G [n, r] and Bᵀ [n, n] of so many taps r."""
    points = POINTS[taps]
    n = len(points) + 1
    others = [[q for q in points if q != p] for p in points]
    scale = np.array([prod(p - q for q in rest) for p, rest in zip(points, others, strict=True)])
    a = np.vander(points, PLACES, increasing=True)
    g = np.vander(points, taps, increasing=True) / scale[:, None]
    b = np.zeros((n, n))
    for row, rest in zip(b[:-1], others, strict=True):
        row[: n - 1] = np.poly(rest)[::-1]
    b[-1] = np.poly(points)[::-1]
    return np.vstack([a, np.eye(PLACES)[-1]]).T, np.vstack([g, np.eye(taps)[-1]]), b


def _both_axes(matrix: Matrix) -> Matrix:
    return np.kron(matrix, matrix)


class Tiles(Convolution):
    """A convolution of stride 1 over two axes, cut into tiles."""

    @property
    def taps(self) -> int:
        """Taps along each axis."""
        return self.window.kernel[0]

    @property
    def points(self) -> int:
        """Products per tile, n²."""
        return (PLACES + self.taps - 1) ** 2

    @property
    def counts(self) -> Ints:
        """Tiles along each axis."""
        return tuple(-(-out // PLACES) for out in self.window.out)

    @property
    def total(self) -> int:
        """Tiles of the whole batch."""
        return self.batch * prod(self.counts)

    def pays(self) -> bool:
        """Tell whether convolving this way is faster.

        Its time ÷ that of the runtime's convolution was measured to be (0.3 + 35 (1/c + 1/k)) / used: products and
        transforms. c and k are the channels and filters of a group, `used` the part of the tiles' places that is
        needed. Where the transformed images are large, memory costs more than the products win.
        """
        used = prod(self.window.out) / (PLACES**2 * prod(self.counts))
        overhead = self.group / self.channels + self.group / self.filters
        large = self.total * self.points * max(self.channels, self.filters) > _LARGE
        return self.taps == 3 and self.total >= 32 and not large and 0.3 + 35 * overhead < used

    def pays_for_filters(self) -> bool:
        """Tell whether the gradient of the filters is faster this way: 0.4 to 0.85 of the time of the other forms."""
        are_many = self.total >= _MANY_FOR_FILTERS or self.batch * self.window.places >= 7 * _MANY_FOR_FILTERS
        return are_many and min(self.channels, self.filters) >= 16 * self.group


def tiles(provider: str, g: Graph, c: Convolution, image: str) -> Tiles | None:
    """Return the tiles of a convolution that can be computed this way, on the CPU, or None.

    image: a value of the images' element type
    """
    win, spec = c.window, g.specs.get(image)
    ones = set(win.strides) == set(win.dilations) == {1}
    if not (provider == "cpu" and ones and win.kernel in _KERNELS and spec and spec.dtype == np.float32):
        return None
    pads = (*win.begins, *win.tails)
    fits = min(c.batch, *c.w_shape, *win.out) > 0 and min(pads) >= 0 and max(pads) < win.kernel[0]
    return Tiles(win, c.batch, c.group, c.channels, c.filters) if fits else None


def convolution(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """Define a Conv where this is faster than the runtime's kernel."""
    x, w, *bias = node.inputs
    known = [g.specs.get(value) for value in (x, node.outputs[0], w)]
    if any(spec is None or len(spec.shape) != 4 for spec in known):
        return None
    shapes = (g.shape(value) for value in (x, node.outputs[0], w))
    found = tiles(provider, g, convolution_of(node, *shapes), x)
    return [convolve(g, found, x, w, bias)] if found and found.pays() else None


def convolve(g: Graph, t: Tiles, x: str, w: str, bias: Sequence[str] = (), turned: bool = False) -> str:
    """Emit the convolution of x with the filters w: [batch, filters, out…].

    turned: w are the filters of the convolution whose gradient this is, [channels, filters / group, …]
    """
    spread = g.reshape(_of_image(g, t, x), t.points, t.group, t.channels // t.group, t.total)
    u = _of_filters(g, t, w, turned)
    product = g.fused_matmul(u, spread, transA=1) if turned else g.emit("MatMul", u, spread)
    y = _places(g, t, product)
    return g.emit("Add", y, g.reshape(bias[0], t.filters, 1, 1)) if bias else y


def filters_gradient(g: Graph, t: Tiles, x: str, dy: str) -> str:
    """Emit the gradient of the filters from the image and the gradient of the result.

    Images of many tiles go one by one, which takes the memory of one.
    """
    if t.batch > 1 and prod(t.counts) >= _MANY_TILES:
        one = replace(t, batch=1)
        pairs = ([_image(g, value, number) for value in (x, dy)] for number in range(t.batch))
        product = g.emit("Sum", *(_per_point(g, one, *pair) for pair in pairs))
    else:
        product = _per_point(g, t, x, dy)
    filters, channels = t.filters, t.channels // t.group
    rows = g.reshape(product, t.points, filters * channels)
    back = g.fused_matmul(rows, g.constant(_both_axes(transforms(t.taps)[1])), transA=1)
    return g.reshape(back, filters, channels, *t.window.kernel)


def _image(g: Graph, images: str, number: int) -> str:
    one = g.emit("Slice", images, g.ints(number), g.ints(number + 1), g.ints(0))
    return g.declare(one, (1, *g.shape(images)[1:]))


def _per_point(g: Graph, t: Tiles, x: str, dy: str) -> str:
    """Emit what the gradient of the filters is at each point: [n², group, filters / group, channels / group]."""
    ends = [PLACES * count - out for count, out in zip(t.counts, t.window.out, strict=True)]
    grads = _spread(g, t, dy, transforms(t.taps)[0].T, (0, 0, *ends))
    grads = g.reshape(grads, t.points, t.group, t.filters // t.group, t.total)
    image = g.reshape(_of_image(g, t, x), t.points, t.group, t.channels // t.group, t.total)
    return g.fused_matmul(grads, image, transB=1)


def _of_image(g: Graph, t: Tiles, x: str) -> str:
    """Emit V: [n² · channels · batch, tiles of one image].

    Once for the convolution and the gradient of its filters, where the image changes from run to run: 0.95 to 0.98 of a
    training iteration on ResNet-50 and GoogLeNet. A pass with constant params gains nothing, and takes more memory.
    """
    sizes = zip(t.counts, t.window.size, t.window.begins, strict=True)
    ends = [PLACES * count + t.taps - 1 - size - begin for count, size, begin in sizes]
    key = x, t.window
    if key not in g.spread or x not in g.changing:
        g.spread[key] = _spread(g, t, x, transforms(t.taps)[2], (*t.window.begins, *ends))
    return g.spread[key]


def _spread(g: Graph, t: Tiles, image: str, matrix: Matrix, pads: Ints) -> str:
    """Emit what a transform makes of each tile of an image: [n² · channels · batch, tiles of one]."""
    batch, channels, *size = g.shape(image)
    reads = matrix.shape[1]
    lanes, tiles = batch * channels, prod(t.counts)
    is_large = _is_large(t, channels)
    images = _images_last(g, image) if is_large else image
    filters = g.constant(_both_axes(matrix).reshape(t.points, 1, reads, reads))
    sliding: dict[str, Any] = {"kernel_shape": [reads] * 2, "strides": [PLACES] * 2, "pads": list(pads)}
    points = g.emit("Conv", g.reshape(images, lanes, 1, *size), filters, **sliding)
    points = g.declare(points, (lanes, t.points, *t.counts))
    if is_large:
        return g.transpose(g.reshape(points, lanes, t.points, tiles), 1, 0, 2)
    return _swap(g, points, batch, channels, t.points, tiles)


def _is_large(t: Tiles, channels: int) -> bool:
    """Tell whether transformed images are too large for the caches: then tiles are swapped in the order of channels.

    Their rows then follow each other, which Transpose moves in 1 ms, where Gather takes 5 for 16 x 384 images of 13x13.
    The images themselves have to be swapped for it, too.
    """
    return t.total * t.points * channels > _OUT_OF_CACHE and prod(t.counts) <= _SHORT_ROW


def _images_last(g: Graph, images: str) -> str:
    """Emit [a, b, …] as [b, a, …]."""
    a, b, *size = g.shape(images)
    return g.reshape(images if 1 in (a, b) else _swap(g, images, a, b, prod(size)), b, a, *size)


def _swap(g: Graph, value: str, *sizes: int) -> str:
    """Emit [a · b · c, columns] as [c · b · a, columns]; Gather copies rows on all threads, Transpose on one."""
    *axes, columns = sizes
    order = np.arange(prod(axes)).reshape(axes).T
    rows = g.reshape(value, prod(axes), columns)
    return g.declare(g.emit("Gather", rows, g.constant(order.reshape(-1), np.int32), axis=0), (prod(axes), columns))


def _of_filters(g: Graph, t: Tiles, w: str, turned: bool) -> str:
    """Emit U: [n², group, filters / group, channels / group], or with the last two swapped where they are turned.

    A FusedMatMul, which the runtime does not fold where filters are constant: U takes four times the filters' memory.
    """
    matrix = transforms(t.taps)[1]
    per_group = t.filters // t.group, t.channels // t.group
    both = g.constant(_both_axes(matrix[:, ::-1] if turned else matrix))
    flat = g.reshape(w, t.group * prod(per_group), t.taps**2)
    return g.reshape(g.fused_matmul(both, flat, transB=1), t.points, t.group, *per_group[:: -1 if turned else 1])


def _places(g: Graph, t: Tiles, product: str) -> str:
    """Emit the places of the tiles, [n², group, filters / group, tiles] -> [batch, filters, out…]."""
    back = g.constant(_both_axes(transforms(t.taps)[0]))
    rows = g.emit("MatMul", back, g.reshape(product, t.points, t.filters * t.total))
    is_large, lanes = _is_large(t, t.filters), t.filters * t.batch
    if is_large:
        tiles = g.transpose(g.reshape(rows, PLACES**2, lanes, prod(t.counts)), 1, 0, 2)
    else:
        tiles = _swap(g, rows, PLACES**2, t.filters, t.batch, prod(t.counts))
    y = g.emit("DepthToSpace", g.reshape(tiles, lanes, PLACES**2, *t.counts), blocksize=PLACES)
    full, found = [PLACES * count for count in t.counts], (t.filters, t.batch) if is_large else (t.batch, t.filters)
    y = g.reshape(y, *found, *full)
    if full != [*t.window.out]:
        y = g.emit("Slice", y, g.ints(0, 0), g.ints(*t.window.out), g.ints(2, 3))
    y = g.declare(y, (*found, *t.window.out))
    return _images_last(g, y) if is_large else y
