"""Convolutions in the runtime's blocked layout, whose filters are inputs of a run.

In an image of this layout the channels stand side by side in blocks of 8 or 16, as the processor's registers hold them;
filters are laid out to match. The runtime chooses it by itself where filters are constants; where they change from
run to run the graph has to do it, with the same ops of the domain `NCHWC`, of which the CPU alone has kernels.

Measured on 2 cores (AVX-512), ÷ the time of Conv, the layout of filters and images included: depthwise 0.2 to 0.4, 3x3
and 5x5 0.7 to 1.0, the first convolution 0.8 to 1.4, 1x1 1.0 to 1.6. With the filters flipped, against flipping
them for Conv: 0.45 to 0.9; 1x1 on more than 20,000 places 1.1. Depending on the
addresses of its operands, Conv may take twice its usual time; the blocked layout does not.
Layouts: onnxruntime, nchwc_transformer.cc and mlas/lib/reorder.cpp.

The kernels also compute affine maps per channel of plain images: a row of one channel is then a row of places, whose
channels, as many as a block has, share one filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np

if TYPE_CHECKING:
    import onnx

    from .graph import Graph, Node

__all__ = [
    "BLOCK",
    "NCHWC",
    "affine",
    "convolution",
    "dots",
    "fits",
    "fits_images",
    "fits_rows",
    "functions",
    "is_depthwise",
    "is_reorder",
    "reorder",
    "slide",
    "straight",
    "turned",
    "turned_depthwise",
    "unit",
]

NCHWC = "com.microsoft.nchwc"
"""The domain of the ops that work on blocked images."""

BLOCK = 16
"""Channels that fill the blocks of every processor."""

_REORDER = "ReorderInput"

Ints = tuple[int, ...]


def fits(g: Graph, w: str, group: int, image: Sequence[int]) -> bool:
    """Tell whether a convolution with the filters `w`, [filters, channels / group, height, width], has a blocked form.

    image: the shape of what they slide over, [batch, channels, height, width]
    """
    spec = g.specs.get(w)
    if not g.block or w not in g.changing or spec is None or spec.dtype != np.float32 or len(spec.shape) != 4:
        return False
    filters, channels = spec.shape[0] // group, spec.shape[1]
    if 0 in (*image, *spec.shape) or spec.shape[0] % g.block:
        return False
    if is_depthwise(spec.shape, group) or _reads_image(g, spec.shape, group):
        return True
    return filters % g.block == channels % g.block == 0


def unit(g: Graph) -> int:
    """Return how many channels fill blocks; 0: the graph takes no blocked layout.

    A graph that is kept does not know the processor. It may hold ops that read whole blocks, whatever their size:
    where the runtime has no kernels of them, `functions` say what they compute.
    """
    return g.block or (BLOCK if g.is_kept else 0)


def fits_images(g: Graph, x: str, channels: int) -> bool:
    """Tell whether an image of so many channels, made of x, [batch, channels, height, width], has a blocked form.

    Of the size of a block no number of the graph may depend, unless the graph has `block`.
    """
    spec = g.specs.get(x)
    is_image = spec is not None and spec.dtype == np.float32 and len(spec.shape) == 4 and 0 not in spec.shape
    return is_image and unit(g) > 0 and channels % unit(g) == 0


def fits_rows(g: Graph, x: str) -> bool:
    """Tell whether the places of each channel of x, [batch, channels, …], fill blocks."""
    spec = g.specs.get(x)
    if not g.block or spec is None or spec.dtype != np.float32 or 0 in spec.shape:
        return False
    return len(spec.shape) > 2 and prod(spec.shape[2:]) % g.block == 0


def affine(g: Graph, x: str, scale: str, bias: str, *added: str, **activation: Any) -> str:
    """Emit scale · x + bias, vectors [C], plus a value that may be given, where `fits_rows`; then an activation.

    In one pass on all threads, which overwrites that value where nothing else reads it: a fifth to a half of the time
    of BatchNormalization and Add.
    """
    shape, b = g.shape(x), g.block
    image = _rows(g, shape)

    def per_lane(vector: str) -> str:
        wide = g.emit("Expand", g.reshape(vector, 1, shape[1], 1), g.ints(*shape[:2], b))
        return g.declare(wide, (*shape[:2], b))

    filters, biases = g.reshape(per_lane(scale), image[1], 1, 1, 1), g.reshape(per_lane(bias), image[1])
    inputs = g.reshape(x, *image), filters, biases, *(g.reshape(value, *image) for value in added)
    return g.reshape(_per_lane(g, inputs, 1, image[3], **activation), *shape)


def dots(g: Graph, a: str, b: str) -> str:
    """Emit partial sums of a · b, images [batch, channels, …], where `fits_rows`: [batch, channels, lanes].

    Each channel of b is a filter that covers the image: in one pass on all threads, 0.2 to 0.4 of the time of products
    of single rows, whose call costs more than a row of 800.
    """
    shape = g.shape(a)
    _, lanes, _, length = image = _rows(g, shape)
    sums = _per_lane(g, (g.reshape(a, *image), g.reshape(b, lanes, 1, 1, length)), length, 1)
    return g.reshape(sums, *shape[:2], g.block)


def _rows(g: Graph, shape: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the shape of an image whose channels are the lanes of the rows of another one, as it lies in memory."""
    return 1, prod(shape[:2]) * g.block, 1, prod(shape[2:]) // g.block


def _per_lane(g: Graph, inputs: Sequence[str], taps: int, places: int, **activation: Any) -> str:
    """Emit the convolution of rows with a filter of so many taps for each lane: [1, lanes, 1, places]."""
    lanes = g.shape(inputs[0])[1]
    g.domains[NCHWC] = 1
    y = g.emit("Conv", *inputs, domain=NCHWC, kernel_shape=[1, taps], group=lanes, **activation)
    return g.declare(y, (1, lanes, 1, places))


def is_depthwise(shape: Sequence[int], group: int) -> bool:
    """Tell whether filters of this shape are one per channel."""
    return group == shape[0] and shape[1] == 1


def convolution(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """Define a Conv whose filters change, where the blocked form is faster."""
    x, w = node.inputs[:2]
    image, filters, group = g.specs.get(x), g.specs.get(w), node.get("group", 1)
    if image is None or filters is None or not _pays(g, node, image.shape, filters.shape):
        return None
    if _reads_image(g, filters.shape, group):
        laid = _columns(g, w, filters.shape)
        return [slide(g, x, laid, filters.shape, node.inputs[2:], node.attributes, reorders=False)]
    laid = _columns(g, w, filters.shape) if is_depthwise(filters.shape, group) else straight(g, w, filters.shape)
    return [slide(g, x, laid, filters.shape, node.inputs[2:], node.attributes)]


def _pays(g: Graph, node: Node, image: Ints, filters: Ints) -> bool:
    """Tell whether the blocked form is possible and was measured to be faster."""
    taps = int(np.prod(filters[2:]))
    if not fits(g, node.inputs[1], node.get("group", 1), image) or taps == 1:
        return False
    return not _reads_image(g, filters, node.get("group", 1)) or taps >= 49 or max(node.get("strides", [1])) > 1


def _reads_image(g: Graph, filters: Ints, group: int) -> bool:
    """Tell whether the runtime reads the image as it is: it has fewer channels than a block."""
    return group == 1 and len(filters) == 4 and filters[1] < g.block


def slide(
    g: Graph,
    x: str,
    filters: str,
    shape: Ints,
    bias: Sequence[str],
    attributes: Any,
    reorders: bool = True,
) -> str:
    """Emit a convolution with filters that are laid out already.

    shape:    of the filters, as Conv has it
    reorders: bring the image into the blocked layout
    """
    image = reorder(g, x) if reorders else x
    settings = {**attributes, "kernel_shape": list(shape[2:])}
    g.domains[NCHWC] = 1
    y = g.emit("Conv", image, g.reshape(filters, *shape), *bias, domain=NCHWC, **settings)
    return g.emit("ReorderOutput", y, domain=NCHWC, channels=shape[0])


def reorder(g: Graph, image: str) -> str:
    """Emit an image, [batch, channels, height, width], in the blocked layout."""
    g.domains[NCHWC] = 1
    return g.emit(_REORDER, image, domain=NCHWC)


def is_reorder(node: Node) -> bool:
    """Tell whether a node brings an image into the blocked layout."""
    return node.domain == NCHWC and node.op == _REORDER


def _columns(g: Graph, w: str, shape: Ints) -> str:
    """Lay filters out as [filters / block, channels · taps, filters in block], for images read as they are."""
    per_filter = int(np.prod(shape[1:]))
    return g.transpose(g.reshape(w, shape[0] // g.block, g.block, per_filter), 0, 2, 1)


def _taps_first(g: Graph, w: str, shape: Ints) -> str:
    """Emit [filters, taps, channels]."""
    taps = int(np.prod(shape[2:]))
    rows = g.reshape(w, shape[0], shape[1], taps)
    return g.transpose(rows, 0, 2, 1) if taps > 1 else rows


def straight(g: Graph, w: str, shape: Ints) -> str:
    """Lay filters out as [filters / block, channels / block, taps, channels in block, filters in block].

    Transposes of two axes are several times as fast as one of five.
    """
    b, taps = g.block, int(np.prod(shape[2:]))
    tiles = shape[0] // b, taps, shape[1] // b
    rows = g.reshape(_taps_first(g, w, shape), tiles[0], b, taps * shape[1])
    columns = g.reshape(g.transpose(rows, 0, 2, 1), int(np.prod(tiles)), b * b)
    return _in_order(g, columns, np.arange(np.prod(tiles)).reshape(tiles).transpose(0, 2, 1))


def turned(g: Graph, w: str, group: int, kept: Sequence[range] = ()) -> tuple[str, Ints]:
    """Lay filters out as the convolution that takes gradients back needs them, and return them and their shape there.

    Per group, channels and filters change places, and the taps are flipped:
    [channels / block, filters / block, taps, filters in block, channels in block].
    kept: the taps along each axis that are wanted; all where none are given
    """
    shape, b = g.shape(w), g.block
    filters, channels, taps = shape[0] // group, shape[1], int(np.prod(shape[2:]))
    per_tile = g.reshape(_taps_first(g, w, shape), shape[0] // b, b, taps * (channels // b), b)
    tiles = g.reshape(g.transpose(per_tile, 0, 2, 1, 3), shape[0] // b * taps * (channels // b), b * b)
    numbers = np.arange(shape[0] // b * taps * (channels // b)).reshape(group, filters // b, taps, channels // b)
    flipped, kernel = _flipped(shape, kept)
    order = numbers[:, :, flipped].transpose(0, 3, 1, 2)
    return _in_order(g, tiles, order), (group * channels, filters, *kernel)


def turned_depthwise(g: Graph, w: str, kept: Sequence[range] = ()) -> tuple[str, Ints]:
    """Lay one filter per channel out with its taps flipped: [channels / block, taps, channels in block]."""
    shape = g.shape(w)
    flipped, kernel = _flipped(shape, kept)
    taps = g.emit("Gather", _columns(g, w, shape), g.ints(*flipped), axis=1)
    g.declare(taps, (shape[0] // g.block, len(flipped), g.block), g.specs[w].dtype)
    return taps, (*shape[:2], *kernel)


def _flipped(shape: Ints, kept: Sequence[range]) -> tuple[list[int], Ints]:
    """Return the numbers of the taps that are kept, the last one first, and how many there are along each axis."""
    numbers = np.arange(prod(shape[2:])).reshape(shape[2:])[np.ix_(*(kept or map(range, shape[2:])))]
    return numbers.reshape(-1)[::-1].tolist(), numbers.shape


def _in_order(g: Graph, tiles: str, numbers: np.ndarray) -> str:
    """Emit the tiles in the order of their numbers, perhaps not all of them."""
    order = numbers.reshape(-1)
    if np.array_equal(order, np.arange(g.shape(tiles)[0])):
        return tiles
    found = g.emit("Gather", tiles, g.constant(order, np.int64), axis=0)
    return g.declare(found, (order.size, *g.shape(tiles)[1:]), g.specs[tiles].dtype)


def functions() -> list[onnx.FunctionProto]:
    """Return what the ops of whole blocks compute, for runtimes that have no kernels of them.

    There images stay as they are. A runtime that has the kernels takes these.
    """
    from onnx import AttributeProto, helper

    from .graph import OPSET

    kinds = dict.fromkeys(("kernel_shape", "strides", "dilations", "pads"), AttributeProto.INTS)
    settings = {**kinds, "group": AttributeProto.INT}
    opset = [helper.make_opsetid("", OPSET)]
    conv = helper.make_node("Conv", ["x", "w", "b"], ["y"])
    conv.attribute.extend(AttributeProto(name=n, ref_attr_name=n, type=kind) for n, kind in settings.items())
    same = helper.make_node("Identity", ["x"], ["y"])
    return [
        helper.make_function(NCHWC, "Conv", ["x", "w", "b"], ["y"], [conv], opset, [*settings]),
        helper.make_function(NCHWC, _REORDER, ["x"], ["y"], [same], opset),
        helper.make_function(NCHWC, "ReorderOutput", ["x"], ["y"], [same], opset, ["channels"]),
    ]
