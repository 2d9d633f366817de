"""Convolutions by Winograd's minimal filtering whose filters are constants: 18 or 9 products for 4 places, not 36.

The form of `winograd`, y = Aᵀ [(G w) ⊙ (Bᵀ x)], along rows alone or along both axes, made of convolutions:

    v = Bᵀ x    per point a convolution of stride 4, one filter per channel; for both axes one after the other
    m = v ∗ u   per point a convolution with what is left of the kernel, 3 taps or 1; u = G w
    y = Aᵀ m    a matrix product over the points

The runtime keeps v and m in its blocked layout and works u out once, when a session opens, which takes longer than one
run gains: this is for graphs that are kept. Largest error, ÷ the largest result: along rows that of the runtime's
convolution, along both axes 2e-6.

÷ the time of the runtime's convolution and ReLU, one thread, constant filters, along rows and along both axes:
2 x 64 x 64 x 64, 64 filters 0.7 and 0.87; 4 x 128 x 28 x 28, 128 filters 0.62 and 0.49; 4 x 256 x 14 x 14, 256 filters
0.69 and 0.54; 4 x 512 x 7 x 7, 512 filters 0.7 and 0.71; 2 x 32 x 128 x 128, 32 filters 0.95. With the one product of
`winograd`, whose filters are transformed in every run: 0.95, 0.73, 0.77, 1.1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .blocked import BLOCK
from .convolution import Convolution, known_convolution
from .winograd import PLACES, transforms

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = ["convolution", "pays"]

_TAPS = 3
_POINTS = PLACES + _TAPS - 1
_GAIN = 0.8  # at most this part of the time of a form with fewer nodes


@dataclass(frozen=True)
class _Form:
    """A convolution that is filtered along some axes: the last `count` ones."""

    of: Convolution
    count: int

    @property
    def axes(self) -> range:
        """The axes that are filtered."""
        return range(2 - self.count, 2)

    @property
    def tiles(self) -> tuple[int, ...]:
        """Places of the products along each axis: tiles where it is filtered."""
        return tuple(-(-out // PLACES) if axis in self.axes else out for axis, out in enumerate(self.of.window.out))

    @property
    def points(self) -> int:
        """Points in all."""
        return int(_POINTS**self.count)

    def cost(self) -> float:
        """Return the time per place and filter, in that of one multiply-add of the runtime's convolution.

        Products; passes over the image and over the results; what each node takes; reading the filters. Measured, as
        the numbers are, for 64 to 512 channels on 7 x 7 to 128 x 128 places.
        """
        c, places = self.of, self.of.batch * self.of.window.places
        read, written, nodes = ((0, 0, 1), (28, 65, 18), (71, 148, 85))[self.count]
        whole = [size for axis, size in enumerate(c.window.kernel) if axis not in self.axes]
        weights = self.points * prod(whole) * c.channels / c.group
        products = weights * c.batch * prod(self.tiles) / places
        passes = read * c.channels / c.filters + written
        return products + passes + (570_000 * nodes / c.filters + 15 * weights) / places


def convolution(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """Define a Conv of constant filters where this is faster than the runtime's kernel."""
    x, w, *bias = node.inputs
    of = known_convolution(g, node)
    form = _form(g, of, w, provider) if of else None
    return [_convolve(g, form, x, w, bias)] if form else None


def pays(g: Graph, c: Convolution, w: str, provider: str) -> bool:
    """Tell whether a convolution with filters that are made of w is faster this way."""
    return _form(g, c, w, provider) is not None


def _form(g: Graph, c: Convolution, w: str, provider: str) -> _Form | None:
    is_constant = w not in g.changing and g.specs[w].dtype == np.float32
    return _best(c) if provider == "cpu" and g.is_kept and is_constant and _fits(c) else None


def _fits(c: Convolution) -> bool:
    if len(c.window.kernel) != 2:
        return False
    win = c.window
    ones = set(win.strides) == set(win.dilations) == {1}
    pads = (*win.begins, *win.tails)
    blocks = all(size % (BLOCK * c.group) == 0 for size in (c.channels, c.filters))
    return ones and blocks and win.kernel[1] == _TAPS and min(c.batch, *c.w_shape, *win.out) > 0 and min(pads) >= 0


def _best(c: Convolution) -> _Form | None:
    """Return the fastest form, None for the convolution as it is."""
    best = _Form(c, 0)
    for count in (1, 2) if c.window.kernel[0] == _TAPS else (1,):
        form = _Form(c, count)
        if form.cost() < _GAIN * best.cost():
            best = form
    return best if best.count else None


def _convolve(g: Graph, form: _Form, x: str, w: str, bias: Sequence[str]) -> str:
    """Emit the convolution of x with the filters w: [batch, filters, out…]."""
    c, kernel, pads = form.of, list(form.of.window.kernel), [0, 0, 0, 0]
    for axis in range(2):
        if axis in form.axes:
            kernel[axis] = 1
        else:
            pads[axis], pads[axis + 2] = c.window.begins[axis], c.window.tails[axis]
    biases = _biases(g, form, bias[0]) if bias and bias[0] else []
    parts = []
    for number, (image, filters) in enumerate(zip(_images(g, form, x), _filters(g, form, w, kernel), strict=True)):
        own = biases[number : number + 1]
        parts.append(g.emit("Conv", image, filters, *own, kernel_shape=kernel, pads=pads, group=c.group))
    return _places(g, form, g.emit("Concat", *parts, axis=1))


def _images(g: Graph, form: _Form, x: str) -> Iterator[str]:
    """Emit what the transform of the image is at each point: [batch, channels, tiles…]."""
    if form.count == 1:
        yield from (_at_point(g, form, x, 1, point) for point in range(_POINTS))
        return
    for row in range(_POINTS):
        rows = _at_point(g, form, x, 0, row)
        yield from (_at_point(g, form, rows, 1, point) for point in range(_POINTS))


def _at_point(g: Graph, form: _Form, x: str, axis: int, point: int) -> str:
    """Emit one point of the transform along one axis."""
    win, channels = form.of.window, form.of.channels
    end = PLACES * form.tiles[axis] + _TAPS - 1 - win.size[axis] - win.begins[axis]

    def along(value: int, other: int) -> list[int]:
        return [value if i == axis else other for i in range(2)]

    row = transforms(_TAPS)[2][point].reshape(1, 1, *along(_POINTS, 1))
    sliding: dict[str, Any] = {"kernel_shape": along(_POINTS, 1), "strides": along(PLACES, 1)}
    pads = along(win.begins[axis], 0) + along(end, 0)
    return g.emit("Conv", x, g.constant(np.tile(row, (channels, 1, 1, 1))), group=channels, pads=pads, **sliding)


def _filters(g: Graph, form: _Form, w: str, kernel: Sequence[int]) -> list[str]:
    """Emit the transformed filters of each point, [filters, channels / group, kernel…]."""
    filters, channels = form.of.w_shape[:2]
    taps = _TAPS**form.count
    rows = g.reshape(w, filters * channels * prod(kernel), taps)
    spread = g.emit("MatMul", rows, g.constant(_kron(transforms(_TAPS)[1], form.count).T))
    spread = g.reshape(spread, filters, channels, kernel[0], form.points)
    return g.emit_many("Split", spread, count=form.points, axis=3, num_outputs=form.points)


def _biases(g: Graph, form: _Form, bias: str) -> list[str]:
    """Emit what each point adds, so that it comes out of the last transform as the bias."""
    back = transforms(_TAPS)[0]
    shares = _kron(np.linalg.pinv(back) @ np.ones((PLACES, 1)), form.count)
    spread = g.reshape(g.emit("Mul", g.constant(shares), bias), form.points * form.of.filters)
    return g.emit_many("Split", spread, count=form.points, axis=0, num_outputs=form.points)


def _kron(matrix: np.ndarray, count: int) -> np.ndarray:
    return matrix if count == 1 else np.kron(matrix, matrix)


def _places(g: Graph, form: _Form, products: str) -> str:
    """Emit the places of the tiles, [batch, points · filters, tiles…] -> [batch, filters, out…]."""
    c, (rows, columns) = form.of, form.tiles
    back = g.constant(_kron(transforms(_TAPS)[0], form.count))
    points = g.reshape(products, c.batch, form.points, c.filters * rows * columns)
    if form.count == 1:
        y = g.fused_matmul(points, back, transA=1, transB=1)
    else:
        places = g.reshape(g.emit("MatMul", back, points), c.batch, PLACES**2 * c.filters, rows, columns)
        y = g.emit("DepthToSpace", places, blocksize=PLACES)
    full = [PLACES * tiles if axis in form.axes else tiles for axis, tiles in enumerate(form.tiles)]
    y = g.reshape(y, c.batch, c.filters, *full)
    if full == [*c.window.out]:
        return y
    return g.emit("Slice", y, g.ints(0, 0), g.ints(*c.window.out), g.ints(2, 3))
