"""Convolutions by Winograd's minimal filtering: 36 products per 16 places of a 3x3 filter, instead of 144.

The image is cut into tiles of m x m places, which read n x n elements, n = m + r - 1 for r taps. In one dimension

    y = Aᵀ [(G w) ⊙ (Bᵀ x)]

for the tile's places y, taps w and elements x; in two, the same along both axes, and ⊙ becomes one matrix product over
the channels for each of the n² points. The three transforms are small products of their own:

    V = (Bᵀ ⊗ Bᵀ) x    [n², tiles, channels]      a product per axis, or a convolution with n² filters of stride m
    U = (G ⊗ G) w      [n², filters, channels]
    y = (Aᵀ ⊗ Aᵀ) V Uᵀ

The gradient of the image is the convolution with the filters flipped; that of the filters is
(G ⊗ G)ᵀ Σ over tiles of ((A ⊗ A) dy)ᵀ · V.

Largest error, ÷ the largest result: 2e-6 with 3x3 taps, where the runtime's convolution has 0.5e-6; 1e-5 with 5x5, for
which therefore only the gradient of the filters is computed this way. Results beyond 1e38 may become NaN.

Lavin & Gray 2016, "Fast algorithms for convolutional neural networks"; A, B and G by Cook and Toom: Blahut 2010, "Fast
algorithms for signal processing", section 5. The points are those of the least error that a search over 0, ±a, ±b, …
found: half of that with 0, ±1, ±2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from .bodies import either, over_slices
from .convolution import Convolution, known_convolution

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = [
    "GAIN",
    "PLACES",
    "POINTS",
    "Tiles",
    "convolution",
    "convolve",
    "exact",
    "filters_gradient",
    "in_slices",
    "tiles",
    "transforms",
]

C = TypeVar("C", bound=Convolution)
Ints = tuple[int, ...]
Matrix = np.ndarray

GAIN = 0.9
"""Filtering takes at most this part of the time of the runtime's convolution."""
PLACES = 4
"""How many places a tile has along each axis."""
POINTS = {3: (0.0, 0.7, -0.7, 1.4, -1.4), 5: (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0)}
"""The points of the polynomials by the number of taps along an axis, beside infinity."""
_MANY_TILES = 128  # of an image, enough to keep the products busy
_MANY_FOR_FILTERS = 24  # tiles of a batch
_FEW_ALONG_AXIS = 8  # tiles
_CACHED = 1_500_000  # elements of transformed images
_CACHED_FILTERS = 4_000_000  # elements of transformed filters
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

    def slices(self, g: Graph) -> int:
        """Return into how many slices the batch is best cut. Models that are kept take no Scan."""
        most = 1 if g.is_kept else self.batch
        return min((count for count in range(1, most + 1) if self.batch % count == 0), key=self.cost)

    def pays(self, g: Graph) -> bool:
        """Tell whether convolving this way is faster."""
        return self.taps == 3 and self.cost(self.slices(g)) < GAIN

    @property
    def _elements(self) -> int:
        """Of the transformed images, before or behind the product."""
        return self.total * self.points * max(self.channels, self.filters)

    def cost(self, slices: int) -> float:
        """Return the time, ÷ that of the runtime's convolution.

        Measured, on two cores: products; passes over images and results of c channels and k filters a group, which take
        longer where the caches do not hold the transformed images of a slice; and passes of each slice over the
        filters, which do so where they do not hold these. `used` is the part of the tiles' places that is needed.
        """
        used = prod(self.window.out) / (PLACES**2 * prod(self.counts))
        images = 10 + 1.5e-6 * max(self._elements / slices - _CACHED, 0)
        filters = 3 if self.points * prod(self.w_shape[:2]) <= _CACHED_FILTERS else 10
        passes = images * (self.group / self.channels + self.group / self.filters)
        return (0.4 + passes + filters * slices / self.total) / used

    def pays_for_filters(self) -> bool:
        """Tell whether the gradient of the filters is faster this way: 0.4 to 0.85 of the time of the other forms."""
        return self.total >= _MANY_FOR_FILTERS and min(self.channels, self.filters) >= 16 * self.group


def tiles(provider: str, g: Graph, c: Convolution, image: str) -> Tiles | None:
    """Return the tiles of a convolution that can be computed this way, on the CPU, or None.

    image: a value of the images' element type
    """
    win, spec = c.window, g.specs.get(image)
    ones = set(win.strides) == set(win.dilations) == {1}
    is_right = provider == "cpu" and not g.is_strict
    if not (is_right and ones and win.kernel in _KERNELS and spec and spec.dtype == np.float32):
        return None
    pads = (*win.begins, *win.tails)
    fits = min(c.batch, *c.w_shape, *win.out) > 0 and min(pads) >= 0 and max(pads) < win.kernel[0]
    return Tiles(win, c.batch, c.group, c.channels, c.filters) if fits else None


def convolution(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """Define a Conv where this is faster than the runtime's kernel."""
    x, w, *bias = node.inputs
    of = known_convolution(g, node)
    found = tiles(provider, g, of, x) if of else None
    if not found or not found.pays(g):
        return None
    if g.is_kept:
        return [convolve(g, found, x, w, bias)]
    if found.slices(g) == 1:
        _of_image(g, found, x)  # the gradient of the filters reads it, too
    return [exact(g, node, found, lambda inner: convolve(inner, found, x, w, bias))]


def exact(g: Graph, node: Node, c: Convolution, filtered: Callable[[Graph], str]) -> str:
    """Emit a Conv as `filtered` emits it, or by the runtime's kernel where the filters see only zeros somewhere."""
    spec = g.specs[node.outputs[0]]

    def plain(inner: Graph) -> str:
        return inner.declare(inner.emit(node.op, *node.inputs, **node.attributes), spec.shape, spec.dtype)

    def quick(inner: Graph) -> str:
        return inner.declare(filtered(inner), spec.shape, spec.dtype)

    return either(g, _sees_only_zeros(g, c, node.inputs[0]), plain, quick, copies=False)


def _sees_only_zeros(g: Graph, c: Convolution, x: str) -> str:
    """Emit whether the filters see nothing but zeros at some place.

    There the convolution is 0 without a bias, and rounding may not make it anything else: ReLU passes no gradient at 0.
    Images with a black background and wide padding have such places. A product adds up Σ |x| over the channels: 1 / 2
    to 1 / 20 of the time of ReduceMax or ReduceSum.
    """
    channels = c.channels // c.group
    magnitudes = g.emit("Abs", g.reshape(x, c.batch * c.group, channels, prod(c.window.size)))
    total = g.emit("MatMul", g.constant(np.ones((1, channels))), magnitudes)
    image = g.reshape(total, c.batch, c.group, *c.window.size)
    pads = [*c.window.begins, *c.window.tails]
    seen = g.emit("MaxPool", image, kernel_shape=list(c.window.kernel), pads=pads)
    return g.emit("Equal", g.emit("ReduceMin", seen, keepdims=0), g.constant(0))


def convolve(g: Graph, t: Tiles, x: str, w: str, bias: Sequence[str] = (), turned: bool = False) -> str:
    """Emit the convolution of x with the filters w: [batch, filters, out…].

    turned: w are the filters of the convolution whose gradient this is, [channels, filters / group, …]
    """
    u = _of_filters(g, t, w, turned)

    def places(inner: Graph, part: Tiles, images: str) -> str:
        spread = _of_image(inner, part, images)
        product = inner.emit("MatMul", spread, u) if turned else inner.fused_matmul(spread, u, transB=1)
        return _places(inner, part, product)

    y = in_slices(g, t, t.slices(g), x, places)
    return g.emit("Add", y, g.reshape(bias[0], t.filters, 1, 1)) if bias else y


def in_slices(g: Graph, c: C, slices: int, x: str, places: Callable[[Graph, C, str], str]) -> str:
    """Emit what `places` makes of a convolution's images, slice by slice: [batch, filters, out…]."""
    part = replace(c, batch=c.batch // slices)

    def convolved(inner: Graph, images: str) -> str:
        return inner.declare(places(inner, part, images), (part.batch, c.filters, *c.window.out))

    if slices == 1:
        return convolved(g, x)
    images = g.reshape(x, slices, part.batch, c.channels, *c.window.size)
    return g.reshape(over_slices(g, [images], convolved, "tiles"), c.batch, c.filters, *c.window.out)


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
    filters, channels = t.filters // t.group, t.channels // t.group
    rows = g.reshape(product, t.points, t.group * filters * channels)
    back = g.fused_matmul(rows, g.constant(_both_axes(transforms(t.taps)[1])), transA=1)
    if _is_swapped(t):
        back = g.transpose(g.reshape(back, t.group, channels, filters, t.taps**2), 0, 2, 1, 3)
    return g.reshape(back, t.filters, channels, *t.window.kernel)


def _is_swapped(t: Tiles) -> bool:
    """Tell whether the product for the filters' gradient has the image on the left, which is faster where it is small.

    16 x 96 x 27 x 27 in two groups, 256 filters of 5x5: 14.7 to 11.5 ms.
    """
    return 2 * t.channels <= t.filters


def _image(g: Graph, images: str, number: int) -> str:
    one = g.emit("Slice", images, g.ints(number), g.ints(number + 1), g.ints(0))
    return g.declare(one, (1, *g.shape(images)[1:]))


def _per_point(g: Graph, t: Tiles, x: str, dy: str) -> str:
    """Emit what the gradient of the filters is at each point: [n², group, filters / group, channels / group].

    The last two the other way around where they are swapped.
    """
    grads, image = _spread(g, t, dy, transforms(t.taps)[0].T, (0, 0)), _of_image(g, t, x)
    return g.fused_matmul(*((image, grads) if _is_swapped(t) else (grads, image)), transA=1)


def _of_image(g: Graph, t: Tiles, x: str) -> str:
    """Emit V: [n², group, tiles · batch, channels / group].

    Once for the convolution and the gradient of its filters, where the image changes from run to run: 0.95 to 0.98 of a
    training iteration on ResNet-50 and GoogLeNet. A pass with constant params gains nothing, and takes more memory.
    """
    key = x, t.window
    if key not in g.spread or x not in g.changing:
        g.spread[key] = _spread(g, t, x, transforms(t.taps)[2], t.window.begins)
    return g.spread[key]


def _spread(g: Graph, t: Tiles, image: str, matrix: Matrix, begins: Ints) -> str:
    """Emit what a transform makes of each tile of an image: [n², group, tiles · batch, channels / group].

    Channels stand side by side, as they do in no image, for then every step moves long rows on all threads. With the
    tiles of one channel side by side a training iteration of ResNet-50 took 1.04 times as long.
    """
    channels = g.shape(image)[1] // t.group
    form = _by_axes if max(t.counts) <= _FEW_ALONG_AXIS else _by_convolution
    points = g.reshape(form(g, t, image, matrix, begins), t.points, t.total, t.group, channels)
    return g.reshape(_swap(g, t, points), t.points, t.group, t.total, channels)


def _swap(g: Graph, t: Tiles, value: str) -> str:
    """Emit [a, b, c, …] as [a, c, b, …], where there are groups."""
    return g.transpose(value, 0, 2, 1, 3) if t.group > 1 else value


def _by_axes(g: Graph, t: Tiles, image: str, matrix: Matrix, begins: Ints) -> str:
    """Emit [n², tiles, batch, channels] by a product along each axis.

    The convolution as a whole takes 0.85 to 1 of its time with `_by_convolution`. The products' matrices are mostly
    zeros, so for many tiles it is slower.
    """
    batch, channels, height, width = g.shape(image)
    (down, right), n, lanes = t.counts, len(matrix), batch * channels
    first = g.reshape(g.transpose(g.reshape(image, lanes, height * width), 1, 0), height, width * lanes)
    rows = g.emit("MatMul", g.constant(_along(matrix, down, height, begins[0])), first)
    rows = g.reshape(g.declare(rows, (n * down, width * lanes)), n * down, width, lanes)
    points = g.emit("MatMul", g.constant(_along(matrix, right, width, begins[1])), rows)
    points = g.declare(g.reshape(points, n, down, n, right * lanes), (n, down, n, right * lanes))
    return g.transpose(points, 0, 2, 1, 3)


def _along(matrix: Matrix, tiles: int, size: int, begin: int) -> Matrix:
    """Return the transform of all tiles along an axis, [n · tiles, size]: what they read of the padding is left out."""
    read = np.arange(tiles)[:, None] * PLACES + np.arange(matrix.shape[1]) - begin
    return np.tensordot(matrix, read[..., None] == np.arange(size), (1, 1)).reshape(-1, size)


def _by_convolution(g: Graph, t: Tiles, image: str, matrix: Matrix, begins: Ints) -> str:
    """Emit [n², tiles, batch, channels] by a convolution of one channel."""
    batch, channels, *size = g.shape(image)
    reads, lanes = matrix.shape[1], batch * channels
    filters = g.constant(_both_axes(matrix).reshape(t.points, 1, reads, reads))
    ends = [PLACES * (c - 1) + reads - s - b for c, s, b in zip(t.counts, size, begins, strict=True)]
    sliding: dict[str, Any] = {"kernel_shape": [reads] * 2, "strides": [PLACES] * 2, "pads": [*begins, *ends]}
    points = g.emit("Conv", g.reshape(image, lanes, 1, *size), filters, **sliding)
    points = g.declare(points, (lanes, t.points, *t.counts))
    return g.transpose(g.reshape(points, lanes, t.points * prod(t.counts)), 1, 0)


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
    """Emit the places of the tiles, [n², group, tiles · batch, filters / group] -> [batch, filters, out…]."""
    back = g.constant(_both_axes(transforms(t.taps)[0]))
    points = g.reshape(product, t.points, t.group, t.total, t.filters // t.group)
    rows = g.emit("MatMul", back, g.reshape(_swap(g, t, points), t.points, t.total * t.filters))
    (down, right), lanes = t.counts, t.batch * t.filters
    y, x = np.ogrid[: t.window.out[0], : t.window.out[1]]
    order = ((y % PLACES * PLACES + x % PLACES) * down + y // PLACES) * right + x // PLACES
    rows = g.reshape(rows, PLACES**2 * down * right, lanes)
    rows = g.emit("Gather", rows, g.constant(order.reshape(-1), np.int32), axis=0)
    return g.reshape(g.transpose(rows, 1, 0), t.batch, t.filters, *t.window.out)
