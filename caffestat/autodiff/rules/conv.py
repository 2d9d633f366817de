"""Gradients of convolutions, of any number of spatial axes.

A ConvTranspose is a convolution read backwards, so both ops share one description, `Convolution`, in which `x` is
always the image that the kernel slides over and `y` the smaller side: w is [y channels, x channels / group, kernel…].
There are several ways to compute each gradient by ordinary ops. They give the same numbers at very different speeds, so
the gradients are late ops, whose definitions, `conv_image` and `conv_weights`, choose among them, and nothing else in
this file does. Measured by benchmarks/gradients.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from caffestat.graph import (
    Convolution,
    Graph,
    Node,
    blocked,
    convolution_of,
    early,
    late,
    winograd,
    winograd_constant,
    winograd_rows,
)
from caffestat.graph.expand import dilate
from caffestat.graph.phases import by_phases, has_phases
from caffestat.ops import Window

from ..engine import Tape, vjp
from .common import is_linear


def _convolution(tape: Tape, node: Node, x: str, y: str) -> Convolution:
    return convolution_of(node, *(tape.shape(value) for value in (x, y, node.inputs[1])))


@vjp("Conv")
def conv(tape: Tape, node: Node, dy: str) -> list[str | None]:
    """y = x ∗ w + b: dx = dy ∗ᵀ w, dw[m, c, k] = Σ dy[n, m, p] · x[n, c, p · stride + k], db = Σ dy."""
    x, w, *_ = node.inputs
    shape = _convolution(tape, node, x, node.outputs[0])
    dx = tape.emit_late("ConvImage", w, dy, shape=shape.x_shape, like=dy, of=shape) if tape.needs(x) else None
    dw = tape.emit_late("ConvWeights", x, dy, shape=shape.w_shape, like=dy, of=shape) if tape.needs(w) else None
    return [dx, dw, *_bias_gradients(tape, node, dy)]


@vjp("ConvTranspose")
def conv_transpose(tape: Tape, node: Node, dy: str) -> list[str | None]:
    """y = x ∗ᵀ w + b: dx = dy ∗ w, dw as for Conv with the two images' parts swapped, db = Σ dy."""
    x, w, *_ = node.inputs
    shape = _convolution(tape, node, node.outputs[0], x)
    dx = _slide(tape.graph, shape, w, dy) if tape.needs(x) else None
    dw = tape.emit_late("ConvWeights", dy, x, shape=shape.w_shape, like=dy, of=shape) if tape.needs(w) else None
    return [dx, dw, *_bias_gradients(tape, node, dy)]


def _bias_gradients(tape: Tape, node: Node, dy: str) -> list[str | None]:
    """Return db for the bias that the node may have: [filters], the sum over batch and places."""
    shape, biases = tape.shape(node.outputs[0])[1:2], node.inputs[2:]
    return [tape.emit_late("ChannelSum", dy, shape=shape, like=dy) if tape.needs(b) else None for b in biases]


def _slide(g: Graph, c: Convolution, w: str, image: str) -> str:
    """Emit the convolution itself: [batch, channels, size…] -> [batch, filters, out…]."""
    attributes = _attributes(c)
    if any(c.window.unread):
        kept = [size - unread for size, unread in zip(c.window.size, c.window.unread, strict=True)]
        image = _cut(g, image, [0] * len(kept), kept)
    return g.emit("Conv", image, w, pads=[*c.window.begins, *c.window.ends], **attributes)


def _attributes(c: Convolution) -> dict[str, Any]:
    sliding = c.window
    return {
        "kernel_shape": list(sliding.kernel),
        "strides": list(sliding.strides),
        "dilations": list(sliding.dilations),
        "group": c.group,
    }


# ---- the gradient of the image ----

_FILTERS_COST = 4  # passes over the filters and their gradient, that save one pass over dy

ImageForm = Callable[[Graph, Convolution, str, str], str]
WeightForm = Callable[[Graph, Convolution, str, str], str]


def image_form(provider: str, c: Convolution, changing: bool = False) -> ImageForm:
    """Choose how to compute dx from w and dy.

    changing: whether the filters differ from run to run. On few places, swapping the axes of 1x1 filters takes two to
    nine times as long as the product
    """
    if c.is_product and (provider == "cuda" or (changing and c.batch * c.window.places <= 400)):
        return dx_product
    if provider == "cuda" or max(c.window.strides) > 1 or min(_flip_pads(c)) < 0:
        return dx_transpose
    return dx_flip


@early("ConvImage")
def _image_by_scaled_filters(g: Graph, node: Node, provider: str) -> list[str] | None:
    taken, shape, w = _factors_of(g, node, provider), node.attributes["of"], node.inputs[0]
    if taken is None:
        return None
    dy, factors = taken
    scaled = g.declare(g.emit("Mul", w, factors), shape.w_shape, g.specs[w].dtype)
    g.changing.add(scaled)
    return [g.emit_late("ConvImage", scaled, dy, shape=shape.x_shape, like=dy, of=shape)]


@late("ConvImage")
def conv_image(g: Graph, node: Node, provider: str) -> list[str]:
    """dx from w and dy."""
    shape: Convolution = node.attributes["of"]
    w, dy = node.inputs
    if provider == "cpu" and (read := _of_read(shape)):
        dx = g.emit_late("ConvImage", w, dy, shape=read.x_shape, like=dy, of=read)
        return [dilate(g, dx, shape.x_shape, shape.window.strides)]
    if winograd_constant.pays(g, shape.turned(), w, provider):
        return [dx_flip(g, shape, w, dy)]
    if rows := winograd_rows.rows(g, shape.turned(), dy):
        return [winograd_rows.convolve(g, rows, dy, w, turned=True)]
    tiles = winograd.tiles(provider, g, shape, dy)
    if tiles and (back := tiles.turned()).pays(g):
        return [winograd.convolve(g, back, dy, w, turned=True)]
    if provider == "cpu" and has_phases(g, shape, w):
        return [by_phases(g, shape, w, dy)]
    form = dx_blocked if _is_blocked(g, shape, w) else image_form(provider, shape, w in g.changing)
    return [form(g, shape, w, dy)]


def _of_read(c: Convolution) -> Convolution | None:
    """Return the convolution of the elements that are read, where 1x1 filters of two axes leave some out.

    Two convolutions that read the same elements have their gradients added before zeros come between them: 0.72 of the
    time on 28 x 28 places, 1.0 on 7 x 7.
    """
    win = c.window
    if len(win.size) != 2 or win.taps > 1 or max(win.strides) == 1 or any(win.begins) or max(win.tails) > 0:
        return None
    return replace(c, window=replace(win, size=win.out, strides=(1, 1)))


def _factors_of(g: Graph, node: Node, provider: str) -> tuple[str, str] | None:
    """Return (other, factors) where dy is another value times a vector, and multiplying the filters is quicker.

    The factors are [filters, 1, …], as the filters have axes. Only filters that change from run to run, for the runtime
    lays constant ones out beforehand.
    """
    c, dy = node.attributes["of"], node.inputs[1]
    is_larger = prod((c.batch, *c.window.out)) > _FILTERS_COST * prod(c.w_shape[1:])
    if provider != "cpu" or not g.scaled or dy not in g.changing or not is_larger or dy not in g.scaled.values:
        return None
    other, vector = g.scaled.values[dy]
    return other, g.reshape(vector, c.filters, *(1,) * (len(c.w_shape) - 1))


def _is_blocked(g: Graph, c: Convolution, w: str) -> bool:
    """Tell whether dx has a blocked form, and this is faster: all but 1x1 on many places, or turned once for slices."""
    if max(c.window.strides) > 1 or len(c.window.size) != 2 or min(_flip_pads(c)) < 0:
        return False
    few = c.batch * c.window.places < 20_000 and w not in g.held
    return (c.window.taps > 1 or few) and c.channels >= g.block and blocked.fits(g, w, c.group, c.x_shape)


def dx_transpose(g: Graph, c: Convolution, w: str, dy: str) -> str:
    """dx by the op that undoes a convolution; elements that nothing read come back as output_padding.

    cuDNN wants the same padding on both sides, so other paddings are cut off afterwards.
    """
    win = c.window
    extra = [b - tail for b, tail in zip(win.begins, win.tails, strict=True)]
    if all(0 <= e < max(s, 1) for e, s in zip(extra, win.strides, strict=True)):
        return g.emit("ConvTranspose", dy, w, pads=[*win.begins] * 2, output_padding=extra, **_attributes(c))
    whole = g.emit("ConvTranspose", dy, w, output_padding=list(win.unread), **_attributes(c))
    return _cut(g, whole, win.begins, [b + size for b, size in zip(win.begins, win.size, strict=True)])


def _flip_pads(c: Convolution) -> list[int]:
    spans = c.window.spans * 2
    return [span - 1 - pad for span, pad in zip(spans, [*c.window.begins, *c.window.tails], strict=True)]


def dx_flip(g: Graph, c: Convolution, w: str, dy: str) -> str:
    """Stride 1: dx as the convolution of dy with flipped filters, which are constant-folded when the session opens."""
    return g.emit("Conv", dy, _turned_filters(g, c, w), pads=_flip_pads(c), **_attributes(c))


def _turned_filters(g: Graph, c: Convolution, w: str) -> str:
    """Emit the filters with channels and filters swapped in each group, and the taps turned around."""
    taps, per_group = c.window.taps, (c.filters // c.group, c.channels // c.group)
    if c.is_depthwise:
        return _turned_around(g, c, w) if taps > 1 else w
    if c.group == 1:
        turned = g.transpose(w, 1, 0, *range(2, len(c.w_shape)))
    else:
        turned = g.transpose(g.reshape(w, c.group, *per_group, taps), 0, 2, 1, 3)
    if taps > 1:
        rows = g.reshape(turned, c.channels, per_group[0], taps)
        turned = g.emit("Gather", rows, g.ints(*range(taps)[::-1]), axis=2)
        turned = g.declare(turned, (c.channels, per_group[0], taps), g.specs[w].dtype)
    return g.reshape(turned, c.channels, per_group[0], *c.window.kernel)


def _turned_around(g: Graph, c: Convolution, w: str) -> str:
    """Emit the filters with the taps turned around; one node, and quick where filters are small."""
    space = len(c.window.kernel)
    ends = (g.ints(*[bound] * space) for bound in (-1, np.iinfo(np.int64).min))
    turned = g.emit("Slice", w, *ends, g.ints(*range(2, 2 + space)), g.ints(*[-1] * space))
    return g.declare(turned, c.w_shape, g.specs[w].dtype)


def dx_product(g: Graph, c: Convolution, w: str, dy: str) -> str:
    """1x1: dx[n] = wᵀ · dy[n]."""
    rows = g.reshape(dy, c.batch, c.filters, c.window.places)
    return g.reshape(g.fused_matmul(g.reshape(w, c.filters, c.channels), rows, transA=1), *c.x_shape)


def dx_blocked(g: Graph, c: Convolution, w: str, dy: str) -> str:
    """Stride 1: like `dx_flip`, in the runtime's blocked layout, which filters that change do not get by themselves."""
    turned = blocked.turned_depthwise(g, w) if c.is_depthwise else blocked.turned(g, w, c.group)
    return blocked.slide(g, dy, *turned, (), {"pads": _flip_pads(c), **_attributes(c)})


# ---- the gradient of the weights ----


_FEW = 8  # channels
_LONG_ROW = 1024  # elements


def weight_form(provider: str, c: Convolution) -> WeightForm:
    """Choose how to compute dw from x and dy.

    On the CPU, ÷ torch's time: 1x1 0.4 to 0.7; 3x3 1.1 to 1.4, 0.8 on 7x7 images, 0.9 on 224x224; 3x3 stride 2 1.1
    to 1.3; two groups 1.3; few channels 0.5 (3x3) to 1.6 (7x7); depthwise 2.5 to 5, where `dw_blocked` cannot serve.
    Tried and slower: slices with channels last, im2col by slices, in cache-sized chunks or in two steps, products with
    the operands' roles swapped, Einsum, the swapped convolution for more than a few channels, and for depthwise sums of
    elementwise products, one group per image and channel, and blocks of columns (a tenth faster at best).
    """
    win = c.window
    if not _constants_are_linear(c):
        return dw_swap
    if c.is_depthwise and len(win.size) == 2:
        return dw_depthwise if provider == "cuda" else _depthwise_form(c)
    if c.group > 1:
        return dw_split if c.group <= 4 else dw_gather_images
    if provider == "cuda":  # the swapped convolution's filters are too large for cuDNN
        sums_are_small = c.channels * c.filters <= (c.channels + c.filters) * win.places
        return dw_taps if c.is_product and sums_are_small else dw_gather
    if c.channels <= _FEW and len(win.size) == 2 and win.taps <= 49 and is_linear(_line_count(c), c.x_shape):
        return dw_lines
    if c.channels <= 4:
        return dw_swap if win.taps >= 49 else dw_gather
    if win.taps == 1 and win.places > 14 * 14:
        return dw_taps
    if c.is_product:
        return dw_rows
    if max(win.strides) > 1 or win.places <= 20 * 20 or c.channels >= 512:
        return dw_gather
    return dw_taps if win.places <= 56 * 56 else dw_pitch


def _depthwise_form(c: Convolution) -> WeightForm:
    """Choose the form for one filter per channel.

    ÷ the time of `dw_depthwise`, 3x3 by themselves on one core: `dw_pitch` 0.35 to 0.5 (56x56 places and more), 0.85
    (28x28), 2 (14x14); `dw_phases` with stride 2 0.45 (56x56), 0.7 (28x28), 1.5 (14x14); `dw_swap` of one image, which
    has a third of the nodes, 0.3 to 1.0 (up to 7x7), 1.6 (10x10).
    """
    win = c.window
    if win.places <= 24 * 24:
        return dw_swap if c.batch == 1 and win.places <= 7 * 7 else dw_depthwise
    if set(win.strides) == {1}:
        return dw_pitch
    return dw_phases if set(win.strides) == {2} and set(win.dilations) == {1} else dw_depthwise


@early("ConvWeights")
def _weights_of_scaled(g: Graph, node: Node, provider: str) -> list[str] | None:
    taken, shape, x = _factors_of(g, node, provider), node.attributes["of"], node.inputs[0]
    if taken is None:
        return None
    dy, factors = taken
    return [g.emit("Mul", g.emit_late("ConvWeights", x, dy, shape=shape.w_shape, like=dy, of=shape), factors)]


@late("ConvWeights")
def conv_weights(g: Graph, node: Node, provider: str) -> list[str]:
    """dw from x and dy."""
    x, dy = node.inputs
    return [_weights_gradient(g, node.attributes["of"], x, dy, provider)]


def _weights_gradient(g: Graph, c: Convolution, x: str, dy: str, provider: str) -> str:
    tiles = winograd.tiles(provider, g, c, dy)
    if tiles and tiles.pays_for_filters():
        return winograd.filters_gradient(g, tiles, x, dy)
    if provider == "cpu" and (read := _of_read(c)):
        places = _cut(g, x, (0, 0), c.window.size, c.window.strides)
        return _weights_gradient(g, read, g.declare(places, read.x_shape, g.specs[x].dtype), dy, provider)
    form = _blocked_weight_form(g, c, x) or weight_form(provider, c)
    return form(g, c, x, dy)


def _blocked_weight_form(g: Graph, c: Convolution, x: str) -> WeightForm | None:
    """Choose the form in the runtime's blocked layout where there is one that is faster.

    For few channels, ÷ the time of `dw_swap` or `dw_gather`: 11x11 stride 4 0.7, 3x3 stride 2 0.6, 7x7 stride 2 0.6,
    3x3 0.4 to 0.9, 5x5 0.2 to 0.6.
    """
    if c.is_depthwise:
        return dw_blocked if blocked.fits_images(g, x, c.batch * c.channels) else None
    few = c.group == 1 and c.channels <= 4 and (c.batch < g.block or c.batch % max(g.block, 1) == 0)
    return dw_blocked_swap if g.block and few and blocked.fits_images(g, x, c.filters) else None


def _constants_are_linear(c: Convolution) -> bool:
    """Tell whether the index table of `_columns` and the matrix of `_diagonals` are no larger than the two images."""
    win, images = c.window, (c.x_shape, (c.batch, c.filters, *c.window.out))
    needed = win.places * win.taps
    if c.is_depthwise and len(win.size) == 2:
        needed = win.out[1] * win.size[1] * win.kernel[1]
    return is_linear(needed, *images)


def _cut(
    g: Graph, image: str, starts: Sequence[int], ends: Sequence[int], steps: Sequence[int] = (), axis: int = 2
) -> str:
    """Emit a Slice along the axes from `axis` on."""
    axes = range(axis, axis + len(starts))
    steps_input = [g.ints(*steps)] if steps else []
    return g.emit("Slice", image, g.ints(*starts), g.ints(*ends), g.ints(*axes), *steps_input)


def _pad(g: Graph, image: str, win: Window, leading: int, trailing: int = 0) -> str:
    """Emit zeros around the spatial axes, which follow `leading` others and precede `trailing` ones."""
    if not any(win.begins + win.ends):
        return image
    before, after = [0] * leading, [0] * trailing
    return g.emit("Pad", image, g.ints(*before, *win.begins, *after, *before, *win.ends, *after))


def _padded(g: Graph, c: Convolution, x: str) -> tuple[Convolution, str]:
    """Return the convolution of the padded image, and that image."""
    win = c.window
    padded = g.declare(_pad(g, x, win, 2), (*c.x_shape[:2], *win.padded), g.specs[x].dtype)
    return replace(c, window=replace(win, size=win.padded, begins=(0,) * len(win.size))), padded


def _sum_batch(g: Graph, parts: str, batch: int) -> str:
    return g.emit("ReduceSum", parts, g.ints(0), keepdims=0) if batch > 1 else parts


def _taps(g: Graph, c: Convolution, x: str) -> list[str]:
    """Emit, for each tap of the kernel, what it sees: [batch, channels, out…]."""
    if c.window.is_pointwise:
        return [x]
    padded, strides = _pad(g, x, c.window, 2), c.window.strides
    reach = [(o - 1) * s + 1 for o, s in zip(c.window.out, strides, strict=True)]
    steps = strides if max(strides) > 1 else ()
    return [_cut(g, padded, at, [a + r for a, r in zip(at, reach, strict=True)], steps) for at in c.window.offsets()]


def _stack(g: Graph, c: Convolution, products: list[str]) -> str:
    """Join one [batch, group, filters / group, channels / group] product per tap to the weights' shape."""
    if c.is_depthwise:
        return g.reshape(_sum_batch(g, g.emit("Concat", *products, axis=3), c.batch), *c.w_shape)
    per_tap = [_sum_batch(g, product, c.batch) for product in products]
    if len(per_tap) == 1:
        return g.reshape(per_tap[0], *c.w_shape)
    columns = [g.reshape(part, *c.w_shape[:2], 1) for part in per_tap]
    return g.reshape(g.emit("Concat", *columns, axis=2), *c.w_shape)


def dw_taps(g: Graph, c: Convolution, x: str, dy: str) -> str:
    """Per tap: what it sees (a slice of x) times dy, one product per image, summed over the batch."""
    flat = g.reshape(dy, c.batch, c.group, c.filters // c.group, c.window.places)
    seen = (g.reshape(tap, c.batch, c.group, c.channels // c.group, c.window.places) for tap in _taps(g, c, x))
    rows = c.filters // c.group, c.channels // c.group
    return _stack(g, c, [_times_transposed(g, flat, tap, rows, c.window.places) for tap in seen])


def _times_transposed(g: Graph, a: str, b: str, rows: tuple[int, int], length: int) -> str:
    """Emit a · bᵀ for [batch, group, m, k] and [batch, group, n, k]; over long rows the larger one goes first.

    rows: (m, n); length: k

    ÷ the time of the other order, on one core: 0.8 for 64 and 147 rows of 12,544, 0.5 for 16 and 96. Of 784 elements or
    fewer both orders take the same time.
    """
    if length < _LONG_ROW or rows[0] >= rows[1]:
        return g.fused_matmul(a, b, transB=1)
    return g.transpose(g.fused_matmul(b, a, transB=1), 0, 1, 3, 2)


def dw_pitch(g: Graph, c: Convolution, x: str, dy: str) -> str:
    """Stride 1: like `dw_taps`, but dy's rows get as long as the padded x's: a tap's slice is one stretch of memory."""
    win, per_group = c.window, (c.filters // c.group, c.channels // c.group)
    unfit = [0] + [p - o for p, o in zip(win.padded[1:], win.out[1:], strict=True)]
    flat = np.arange(prod(win.padded)).reshape(win.padded)
    length = int(flat[tuple(o - 1 for o in win.out)]) + 1
    rows = g.emit("Pad", dy, g.ints(*[0] * (4 + len(unfit)), *unfit)) if any(unfit) else dy
    rows = g.reshape(rows, c.batch, c.group, per_group[0], -1)
    rows = _cut(g, rows, [0], [length], axis=3)
    image = g.reshape(_pad(g, x, win, 2), c.batch, c.group, per_group[1], flat.size)
    starts = (int(flat[offset]) for offset in win.offsets())
    seen = (_cut(g, image, [start], [start + length], axis=3) for start in starts)
    return _stack(g, c, [g.fused_matmul(rows, tap, transB=1) for tap in seen])


def dw_phases(g: Graph, c: Convolution, x: str, dy: str) -> str:
    """One filter per channel, strides: like `dw_pitch`, where the rows and columns that a tap reads stand together."""
    win, lanes = c.window, (c.batch, c.channels)
    phases, (rows, columns) = _phases(g, c, x)
    length = (win.out[0] - 1) * columns + win.out[1]
    grads = g.emit("Pad", dy, g.ints(*[0] * 7, columns - win.out[1])) if columns > win.out[1] else dy
    flat = _cut(g, g.reshape(grads, *lanes, 1, win.out[0] * columns), [0], [length], axis=3)
    images = [g.reshape(phase, *lanes, 1, rows * columns) for phase in phases]
    seen = []
    for at in win.offsets():
        (down, row), (right, column) = (divmod(offset, stride) for offset, stride in zip(at, win.strides, strict=True))
        start = down * columns + right
        seen.append(_cut(g, images[row * win.strides[1] + column], [start], [start + length], axis=3))
    return _stack(g, c, [g.fused_matmul(flat, tap, transB=1) for tap in seen])


def _phases(g: Graph, c: Convolution, x: str) -> tuple[list[str], tuple[int, ...]]:
    """Emit the places of each phase, [batch, channels, rows, 1, columns], and return its number of rows and columns.

    A transpose of the last two axes is several times as fast as one that also moves the rows.
    """
    win, (down, right) = c.window, c.window.strides
    counts = tuple(-(-size // stride) for size, stride in zip(win.padded, win.strides, strict=True))
    sizes = zip(win.strides, counts, win.begins, win.size, strict=True)
    ends = [stride * count - begin - size for stride, count, begin, size in sizes]
    padded = g.emit("Pad", x, g.ints(0, 0, *win.begins, 0, 0, *ends)) if any((*win.begins, *ends)) else x
    apart = g.reshape(padded, c.batch * c.channels * counts[0], down, counts[1], right)
    apart = g.reshape(g.transpose(apart, 0, 1, 3, 2), c.batch, c.channels, counts[0], down * right, counts[1])
    return [_cut(g, apart, [phase], [phase + 1], axis=3) for phase in range(down * right)], counts


def _columns(g: Graph, c: Convolution, x: str) -> str:
    """im2col, channels last so that copies are long: [batch · group, places, taps · channels / group]."""
    win, channels = c.window, c.channels // c.group
    split = g.reshape(x, c.batch * c.group, channels, *win.size)
    last = _pad(g, g.transpose(split, 0, *range(2, 2 + len(win.size)), 1), win, 1, 1)
    rows = g.reshape(last, c.batch * c.group, prod(win.padded), channels)
    if not win.is_pointwise:
        rows = g.emit("Gather", rows, g.constant(win.indices().reshape(-1), np.int64), axis=1)
    return g.reshape(rows, c.batch * c.group, win.places, win.taps * channels)


def dw_rows(g: Graph, c: Convolution, x: str, dy: str) -> str:
    """1x1: one product over batch and places, [filters, batch · places] · [channels, batch · places]ᵀ."""
    rows = (_rows(g, c, *value) for value in ((dy, c.filters), (x, c.channels)))
    return g.reshape(g.fused_matmul(*rows, transB=1), *c.w_shape)


def _rows(g: Graph, c: Convolution, value: str, channels: int) -> str:
    """Emit [batch, channels, …], of as many elements as there are places, as [channels, batch · places]."""
    first = value if c.batch == 1 else _channels_first(g, value)
    return g.reshape(first, channels, c.batch * c.window.places)


def _channels_first(g: Graph, value: str) -> str:
    """Emit [batch, channels, …] as [channels, batch, …]."""
    batch, channels, *size = g.shape(value)
    if 1 in (batch, channels):
        return g.reshape(value, channels, batch, *size)
    return g.transpose(value, 1, 0, *range(2, 2 + len(size)))


def dw_gather(g: Graph, c: Convolution, x: str, dy: str) -> str:
    """No groups: im2col, then one product over batch and places.

    [filters, batch · places] · [batch · places, taps · channels]
    """
    rows = _rows(g, c, dy, c.filters)
    columns = g.reshape(_columns(g, c, x), c.batch * c.window.places, c.window.taps * c.channels)
    return _kernel_last(g, c, g.emit("MatMul", rows, columns))


def dw_lines(g: Graph, c: Convolution, x: str, dy: str) -> str:
    """Few channels: im2col by lines of places, then one product per image.

    [filters, places] · [channels · taps, places]ᵀ. ÷ the time of `dw_gather` or `dw_swap`, on one core: 3x3 0.3 to 0.6,
    with stride 2 0.3 (3 channels) to 0.9 (8 channels), 5x5 0.5 to 0.9, 7x7 stride 2 0.9; 11x11 and 16x16 patches 1.3.
    """
    win, lanes = c.window, c.batch * c.channels
    lines = g.reshape(_line_images(g, c, x), lanes * win.padded[0] * win.kernel[1], win.out[1])
    image, tap, column, place = np.ogrid[:lanes, : win.kernel[0], : win.kernel[1], : win.out[0]]
    row = place * win.strides[0] + tap * win.dilations[0]
    order = (image * win.padded[0] + row) * win.kernel[1] + column
    seen = g.emit("Gather", lines, g.constant(order.reshape(-1), np.int32), axis=0)
    columns = c.channels * win.taps
    seen = g.reshape(seen, c.batch, 1, columns, win.places)
    grads = g.reshape(dy, c.batch, 1, c.filters, win.places)
    products = _times_transposed(g, grads, seen, (c.filters, columns), win.places)
    return g.reshape(_sum_batch(g, products, c.batch), *c.w_shape)


def _line_count(c: Convolution) -> int:
    """Return how many lines of places `dw_lines` puts together."""
    return c.batch * c.channels * c.window.taps * c.window.out[0]


def _line_images(g: Graph, c: Convolution, x: str) -> str:
    """Emit, for each row of the padded image and each kernel column, the elements that a row of places reads there.

    [batch · channels · rows, kernel columns · out columns]
    """
    win, stride = c.window, c.window.strides[1]
    columns = -(-win.padded[1] // stride)
    after = [win.ends[0], columns * stride - win.begins[1] - win.size[1]]
    padded = g.emit("Pad", x, g.ints(0, 0, *win.begins, 0, 0, *after)) if any((*win.begins, *after)) else x
    rows = c.batch * c.channels * win.padded[0]
    if stride > 1:  # the columns of each phase together
        padded = g.transpose(g.reshape(padded, rows, columns, stride), 0, 2, 1)
    flat = g.reshape(padded, rows, stride * columns)
    starts = []
    for tap in range(win.kernel[1]):
        first, phase = divmod(tap * win.dilations[1], stride)
        starts.append(phase * columns + first)
    parts = [_cut(g, flat, [start], [start + win.out[1]], axis=1) for start in starts]
    return g.emit("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]


def _kernel_last(g: Graph, c: Convolution, product: str) -> str:
    """[filters, taps, channels / group] -> the weights' shape."""
    taps_first = g.reshape(product, c.filters, c.window.taps, c.channels // c.group)
    return g.reshape(g.transpose(taps_first, 0, 2, 1), *c.w_shape)


def dw_gather_images(g: Graph, c: Convolution, x: str, dy: str) -> str:
    """im2col, then one product per image and group, and a sum over the batch.

    [filters / group, places] · [places, taps · channels / group]
    """
    rows = g.reshape(dy, c.batch * c.group, c.filters // c.group, c.window.places)
    product = g.reshape(g.emit("MatMul", rows, _columns(g, c, x)), c.batch, c.filters, -1)
    return _kernel_last(g, c, _sum_batch(g, product, c.batch))


def dw_split(g: Graph, c: Convolution, x: str, dy: str) -> str:
    """A few groups: each by itself. One product over the whole batch beats one per image and group by a quarter."""
    alone = replace(c, group=1, channels=c.channels // c.group, filters=c.filters // c.group)
    dtype = g.specs[dy].dtype
    images = g.emit_many("Split", x, count=c.group, axis=1, num_outputs=c.group)
    images = [g.declare(image, alone.x_shape, dtype) for image in images]
    grads = g.emit_many("Split", dy, count=c.group, axis=1, num_outputs=c.group)
    grads = [g.declare(grad, (c.batch, alone.filters, *c.window.out), dtype) for grad in grads]
    pairs = zip(images, grads, strict=True)
    parts = [g.emit_late("ConvWeights", *pair, shape=alone.w_shape, like=dy, of=alone) for pair in pairs]
    return g.emit("Concat", *parts, axis=0)


def dw_swap(g: Graph, c: Convolution, x: str, dy: str) -> str:
    """A convolution again, with batch and channels swapped, and stride and dilation too.

    Per group, [channels / group, batch, size…] ∗ [filters / group, batch, out…]: [channels / group, filters, kernel…].
    """
    win = c.window
    per_group = c.channels // c.group
    lanes, images = (c.batch, c.group, per_group), x
    if sum(size > 1 for size in lanes) > 1:
        images = g.transpose(g.reshape(x, *lanes, prod(win.size)), 2, 1, 0, 3)
    images = g.reshape(images, per_group, c.group * c.batch, *win.size)
    wide = g.emit("Conv", images, _channels_first(g, dy), kernel_shape=list(win.out), group=c.group, **_swapped(c))
    wide = g.declare(_read(g, c, wide), (per_group, c.filters, *win.kernel), g.specs[dy].dtype)
    return _channels_first(g, wide)


def dw_depthwise(g: Graph, c: Convolution, x: str, dy: str) -> str:
    """One filter per channel: products of rows instead of products of channels.

    For kernel row i, S[c] = Σ over images and rows r of dy[r]ᵀ · x[r · stride + i · dilation] is [out width, width];
    dw[c, i, j] is the sum of one of its diagonals, which a product with a 0/1 matrix takes. More sums than needed, but
    all of them in matrix products. Rows and columns of the padding are left out: 0.9 of the time with them.
    """
    win, images = c.window, _channel_rows(g, c, x)
    grads = _channel_rows(g, c, dy)
    sums = [_row_products(g, c, images, grads, tap) for tap in range(win.kernel[0])]
    stacked = g.emit("Concat", *sums, axis=1) if len(sums) > 1 else sums[0]
    stacked = g.reshape(stacked, c.channels, win.kernel[0], win.out[1] * win.size[1])
    return g.reshape(g.emit("MatMul", stacked, g.constant(_diagonals(win), g.specs[x].dtype)), *c.w_shape)


def _channel_rows(g: Graph, c: Convolution, value: str) -> str:
    """Emit [batch, channels, height, width] as [channels, batch, height, width], without the axis of one image."""
    return g.reshape(value, *g.shape(value)[1:]) if c.batch == 1 else _channels_first(g, value)


def _row_products(g: Graph, c: Convolution, images: str, grads: str, tap: int) -> str:
    """Emit S of a kernel row from images and gradients with the channels first: [channels, out width, width]."""
    win, step = c.window, c.window.strides[0]
    shift = tap * win.dilations[0] - win.begins[0]
    first, last = max(-(shift // step), 0), min((win.size[0] - 1 - shift) // step, win.out[0] - 1)
    if last < first:
        zero = g.constant(0, g.specs[images].dtype)
        return g.emit("Expand", zero, g.ints(c.channels, win.out[1], win.size[1]))
    axis = len(g.shape(images)) - 2

    def rows(value: str, start: int, end: int, steps: Sequence[int], width: int) -> str:
        if (start, end, *steps) != (0, g.shape(value)[axis]):
            value = _cut(g, value, [start], [end], steps, axis)
        return value if c.batch == 1 else g.reshape(value, c.channels, -1, width)

    grads = rows(grads, first, last + 1, (), win.out[1])
    steps = [step] if step > 1 else []
    images = rows(images, first * step + shift, last * step + shift + 1, steps, win.size[1])
    return g.fused_matmul(grads, images, transA=1)


def dw_blocked(g: Graph, c: Convolution, x: str, dy: str) -> str:
    """One filter per channel: each channel of each image by itself, dy its filter, in the runtime's blocked layout.

    A fifth of the time of `dw_depthwise` and `dw_pitch`. [1, batch · channels, size…] ∗ [batch · channels, 1, out…].
    """
    images = c.batch * c.channels
    image, filters = _one_image(g, c, x), _one_image(g, c, dy)
    # a filter per channel has an image's layout
    shape, settings = (images, 1, *c.window.out), {**_swapped(c), "group": images}
    wide = _read(g, c, blocked.slide(g, image, filters, shape, (), settings, reorders=False))
    return g.reshape(_sum_batch(g, g.reshape(wide, c.batch, c.channels, *c.window.kernel), c.batch), *c.w_shape)


def _one_image(g: Graph, c: Convolution, value: str) -> str:
    """Emit [batch, channels, …] as blocked [1, batch · channels, …].

    Where channels fill blocks it is reordered as the forward convolution and dx do it, so that it is done once.
    """
    size = g.shape(value)[2:]
    if c.channels % blocked.unit(g) == 0:
        return g.reshape(blocked.reorder(g, value), 1, c.batch * c.channels, *size)
    return blocked.reorder(g, g.reshape(value, 1, c.batch * c.channels, *size))


def dw_blocked_swap(g: Graph, c: Convolution, x: str, dy: str) -> str:
    """`dw_swap` in the runtime's blocked layout, for few channels and no groups.

    [channels, batch, size…] ∗ [filters, batch, out…]: [channels, filters, kernel…]. The image is padded first: 0.62 of
    the time for 7x7 stride 2, for the runtime takes places that read padding one by one.
    """
    c, x = _padded(g, c, x)
    win, b = c.window, g.block
    images = g.transpose(g.reshape(x, c.batch, c.channels, prod(win.size)), 1, 0, 2)
    images = g.reshape(images, c.channels, c.batch, *win.size)
    rows = g.reshape(blocked.reorder(g, dy), c.batch, c.filters // b, win.places * b)
    filters = g.transpose(rows, 1, 0, 2)
    if c.batch >= b:
        tiles = g.reshape(filters, c.filters // b, c.batch // b, b, win.places, b)
        filters = g.transpose(tiles, 0, 1, 3, 2, 4)
    shape = (c.filters, c.batch, *win.out)
    wide = blocked.slide(g, images, filters, shape, (), _swapped(c), reorders=c.batch >= b)
    return g.transpose(_read(g, c, wide), 1, 0, 2, 3)


def _swapped(c: Convolution) -> dict[str, Any]:
    """Return the attributes of the convolution whose filter is dy."""
    win = c.window
    return {"strides": list(win.dilations), "dilations": list(win.strides), "pads": [*win.begins, *win.ends]}


def _read(g: Graph, c: Convolution, wide: str) -> str:
    """Cut off the taps of a swapped convolution that elements which no place reads have added."""
    return _cut(g, wide, [0] * len(c.window.kernel), c.window.kernel) if any(c.window.unread) else wide


def _diagonals(win: Window) -> np.ndarray:
    """Return 1 where kernel column j meets (place, column): [out width · width, kernel width]."""
    place, column, tap = np.ogrid[: win.out[1], : win.size[1], : win.kernel[1]]
    meets = column == place * win.strides[1] + tap * win.dilations[1] - win.begins[1]
    return meets.reshape(-1, win.kernel[1])
