"""The graph as the runtime gets it: late ops defined, ops whose kernels are slow or lacking replaced by others."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial, reduce
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from . import batch_statistics, blocked, cuda, normalized, phases, winograd, winograd_constant, winograd_rows
from .gelu import gelu
from .graph import Scaled, flow_of
from .late import LATE, Definition, append, branch, late
from .order import in_order, live, without_copies, without_views_of_views
from .repeats import renamed, without_repeats
from .slices import Chain, append_chain, chains

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = [
    "DECOMPOSED",
    "by_fewer_products",
    "by_images",
    "dilate",
    "expand",
    "lrn_base",
    "lrn_power",
    "sum_channels",
]

_SMALL = 1 << 16  # elements of a band matrix that never matter
_BLOCK = 16  # channels that are summed up together
_FEW_ROWS = range(8, 49)
_LARGE_WEIGHTS = 500_000
_FEW_ROWS_OF_GRADS = range(16, 65)
_VERY_LARGE_WEIGHTS = 8_000_000


def _band(channels: int, size: int) -> np.ndarray:
    """Return 1 where two channels are at most (size - 1) / 2 apart: [C, C]."""
    position = np.arange(channels)
    return (abs(position - position[:, None]) <= (size - 1) // 2).astype(np.float64)


def sum_channels(g: Graph, x: str, shape: tuple[int, ...], size: int, factor: float, dtype: Any) -> str:
    """Emit factor · Σ x over `size` channels around each, for x of [N, C, places]."""
    return g.declare(g.emit("SumChannels", x, domain=LATE, shape=shape, size=size, factor=factor), shape, dtype)


@late("SumChannels")
def _sum_channels(g: Graph, node: Node, provider: str) -> list[str]:
    """A product with a band matrix: a third of the time of AveragePool with a (size, 1) kernel.

    On the CPU in blocks of channels where there are many: a third to a half of the time for 192 and 256 channels.
    AveragePool serves where the matrix would be larger than x.
    """
    x, dtype = node.inputs[0], g.specs[node.outputs[0]].dtype
    shape, size, factor = (node.attributes[name] for name in ("shape", "size", "factor"))
    batch, channels, places = shape
    reach = (size - 1) // 2
    if provider == "cpu" and channels % _BLOCK == 0 and channels >= 4 * (_BLOCK + 2 * reach):
        return [_sum_blocks(g, x, shape, reach, _band(channels, size) * factor, dtype)]
    if channels**2 <= _SMALL + prod(shape):
        return [g.emit("MatMul", g.constant(_band(channels, size) * factor, dtype), x)]
    columns = g.reshape(x, batch, 1, channels, places)
    pads: dict[str, Any] = {"kernel_shape": [size, 1], "pads": [reach, 0, reach, 0], "count_include_pad": 1}
    sums = g.emit("Mul", g.emit("AveragePool", columns, **pads), g.constant(size * factor, dtype))
    return [g.reshape(sums, batch, channels, places)]


def _sum_blocks(g: Graph, x: str, shape: tuple[int, ...], reach: int, band: np.ndarray, dtype: Any) -> str:
    """Emit band · x by blocks of channels, each of which reads `reach` channels more on both sides."""
    batch, channels, places = shape
    starts = np.arange(0, channels, _BLOCK)[:, None]
    read = starts + np.arange(-reach, _BLOCK + reach)  # [blocks, channels of one and around it]
    inside = (read >= 0) & (read < channels)
    read = read.clip(0, channels - 1)
    matrices = band[(starts + np.arange(_BLOCK))[:, :, None], read[:, None]] * inside[:, None]
    rows = g.emit("Gather", x, g.constant(read.reshape(-1), np.int32), axis=1)
    blocks = g.emit("MatMul", g.constant(matrices, dtype), g.reshape(rows, batch, *read.shape, places))
    return g.reshape(blocks, *shape)


def lrn_base(g: Graph, x: str, node: Node) -> str:
    """Emit s = k + α/n Σ x² of an LRN node, the sum over n channels, for x of [N, C, places]."""
    size, alpha, spec = node.attributes["size"], node.get("alpha", 1e-4), g.specs[x]
    mean = sum_channels(g, g.emit("Mul", x, x), spec.shape, size, alpha / size, spec.dtype)
    return g.declare(g.emit("Add", mean, g.constant(node.get("bias", 1.0), spec.dtype)), spec.shape, spec.dtype)


def lrn_power(g: Graph, base: str, node: Node) -> str:
    """Emit s^β; the usual β = 3/4 as √s · √√s, a third of Pow's time."""
    beta = node.get("beta", 0.75)
    if beta != 0.75:
        return g.emit("Pow", base, g.constant(beta, g.specs[base].dtype))
    root = g.emit("Sqrt", base)
    return g.emit("Mul", root, g.emit("Sqrt", root))


def by_images(g: Graph, values: Sequence[str], build: Callable[..., str]) -> str:
    """Emit what `build(graph, *values)` makes of images of one shape, [N, C, …], where they are [N, C, places].

    On the CPU, some images after the other: 0.55 of the time for 8 images of 192 x 56 x 56.
    """
    from .bodies import over_slices, slices_that_fit

    n, channels, *space = g.shape(values[0])
    places = prod(space)
    slices = slices_that_fit(n, channels * places) if g.block else 1
    flat = (n // slices, channels, places)
    if slices == 1:
        result = build(g, *(g.reshape(value, *flat) for value in values))
    else:
        result = over_slices(g, [g.reshape(value, slices, *flat) for value in values], build, "images")
    return g.reshape(result, n, channels, *space)


def _lrn(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """y = x / s^β: a sixth of the time of the LRN kernel."""
    if node.inputs[0] not in g.specs:
        return None

    def divided(inner: Graph, x: str) -> str:
        spec = inner.specs[x]
        power = lrn_power(inner, lrn_base(inner, x, node), node)
        return inner.declare(inner.emit("Div", x, power), spec.shape, spec.dtype)

    return [by_images(g, node.inputs[:1], divided)]


def _lp_normalization(g: Graph, node: Node, *_: Any) -> Sequence[str] | None:
    """y = x / ‖x‖ₚ, 0 where that is 0: onnxruntime 1.24 has no kernel for the op of this opset."""
    x, spec = node.inputs[0], g.specs.get(node.inputs[0])
    if spec is None:
        return None
    zero, one = (g.constant(value, spec.dtype) for value in (0, 1))
    norm = g.emit("ReduceL2" if node.get("p", 2) == 2 else "ReduceL1", x, g.ints(node.get("axis", -1)), keepdims=1)
    return [g.emit("Div", x, g.emit("Where", g.emit("Equal", norm, zero), one, norm))]


_REWRITES: dict[str, Definition] = {"LRN": _lrn, "LpNormalization": _lp_normalization}
DECOMPOSED = frozenset({*_REWRITES, "BatchNormalization"})
"""Ops that become several, whose values in between need the range of float32."""


def _convolution(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """By fewer products, or in the blocked layout, where that is faster."""
    forms = winograd_rows.convolution, winograd.convolution, blocked.convolution
    return next((outputs for form in forms if (outputs := form(g, node, provider))), None)


def dilate(g: Graph, x: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> str:
    """Emit an image of this shape with an element of x at every stride along both axes, and zeros between."""
    return g.emit_late("Dilate", x, shape=shape, like=x, strides=strides)


@late("Dilate")
def _dilate(g: Graph, node: Node, provider: str) -> list[str]:
    """By ConvTranspose with the filter 1 for each channel: 0.4 to 0.9 of the time of Pad, Resize or products."""
    (x,), y, strides = node.inputs, node.outputs[0], node.attributes["strides"]
    channels, *sizes = g.shape(y)[1:]
    ones = g.constant(np.ones((channels, 1, 1, 1)), g.specs[x].dtype)
    counts = g.shape(x)[2:]
    ends = [size - 1 - (count - 1) * step for size, count, step in zip(sizes, counts, strides, strict=True)]
    sliding: dict[str, Any] = {"kernel_shape": [1, 1], "strides": list(strides), "output_padding": ends}
    g.dilated[y] = x, strides
    return [g.emit("ConvTranspose", x, ones, group=channels, **sliding)]


def _sum(g: Graph, node: Node, provider: str) -> Sequence[str]:
    """By Add, which works on all threads, Sum on one: 0.75 to 0.9 of the time, and the same numbers.

    Images that are dilated alike are added before.
    """
    apart = [g.dilated[part] for part in node.inputs if part in g.dilated]
    if len(apart) < len(node.inputs) or len({strides for _, strides in apart}) > 1:
        return [_added(g, node.inputs)]
    (x, strides), shape = apart[0], g.shape(node.inputs[0])
    total = g.declare(_added(g, [part for part, _ in apart]), g.shape(x), g.specs[x].dtype)
    return [dilate(g, total, shape, strides)]


def _added(g: Graph, parts: Sequence[str]) -> str:
    return reduce(lambda total, part: g.emit("Add", total, part), parts)


def _few_rows(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """x · wᵀ + b as (w · xᵀ)ᵀ + b where x has few rows and w is large: the runtime lays out only the right operand.

    0.6 to 0.8 of the time for 8 to 32 rows.
    """
    x, w, *bias = node.inputs
    if not _is_plain(node) or not _has_few_rows(g, x, w, _FEW_ROWS, _LARGE_WEIGHTS):
        return None
    y = g.transpose(g.emit("MatMul", w, g.transpose(x, 1, 0)), 1, 0)
    return [g.emit("Add", y, bias[0]) if bias and bias[0] else y]


def _few_rows_of_grads(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    """dy · w as (wᵀ · dyᵀ)ᵀ where dy has few rows and w is very large: 0.85 of the time for 16 to 64 rows."""
    dy, w = node.inputs
    if not _has_few_rows(g, dy, w, _FEW_ROWS_OF_GRADS, _VERY_LARGE_WEIGHTS):
        return None
    return [g.transpose(g.fused_matmul(w, g.transpose(dy, 1, 0), transA=1), 1, 0)]


def _has_few_rows(g: Graph, x: str, w: str, rows: range, weights: int) -> bool:
    """Tell whether x and w are matrices of float32, with a number of rows in `rows` and at least so many weights."""
    specs = [g.specs.get(value) for value in (x, w)]
    if not all(spec and len(spec.shape) == 2 and spec.dtype == np.float32 for spec in specs):
        return False
    return g.shape(x)[0] in rows and prod(g.shape(w)) >= weights


def _is_plain(node: Node) -> bool:
    """Tell whether a Gemm is x · wᵀ + b."""
    factors = {node.get("alpha", 1.0), node.get("beta", 1.0)}
    return factors == {1.0} and node.get("transB", 0) == 1 and not node.get("transA", 0)


_ON_CPU: dict[str, Definition] = {
    "Conv": _convolution,
    "ConvTranspose": phases.conv_transpose,
    "Gemm": _few_rows,
    "MatMul": _few_rows_of_grads,
    "Sum": _sum,
}
_EARLY_ON_CPU: dict[str, Definition] = {
    "BatchNormalization": normalized.batch_normalization,
    "Relu": normalized.relu,
}
_BY_SUMS: dict[str, Definition] = {"BatchNormalization": batch_statistics.by_sums, "Relu": batch_statistics.relu}
_BY_PROVIDER: dict[str, dict[str, Definition]] = {
    "cpu": {**_REWRITES, **_ON_CPU},
    "cuda": {**_REWRITES, **cuda.REWRITES},
}


def _fewer_products(g: Graph, node: Node, provider: str) -> Sequence[str] | None:
    return winograd_constant.convolution(g, node, provider) or winograd.convolution(g, node, provider)


def by_fewer_products(g: Graph, exact: Collection[str] = ()) -> Graph:
    """Return the graph with convolutions by minimal filtering where that is faster on the CPU; of plain ops.

    And with GELUs of the ops that their gradients compute.

    exact: outputs of convolutions that stay as they are, see `graph.exact`
    """

    def filtered(result: Graph, node: Node, provider: str) -> Sequence[str] | None:
        return None if node.outputs[0] in exact else _fewer_products(result, node, provider)

    result = branch(g)
    result.changing, result.is_kept = set(g.inputs), True
    for node in g.nodes:
        append(result, node, "cpu", {"Conv": filtered, "Gelu": gelu})
    result.nodes = _under_names_of_results(result)
    return result


def _under_names_of_results(g: Graph) -> list[Node]:
    """Return the nodes without copies that only give a result its name: what computes it takes the name."""
    captured = (name for node in g.nodes for name in node.captured)
    movable = {name for node in g.nodes for name in node.outputs}.difference(g.outputs, captured)
    names: dict[str, str] = {}
    for node in g.nodes:
        if node.info.renames and node.outputs[0] in g.outputs and node.inputs[0] in movable:
            names.setdefault(node.inputs[0], node.outputs[0])
    kept = (node for node in g.nodes if not (node.info.renames and names.get(node.inputs[0]) == node.outputs[0]))
    return [renamed(node, names, results=True) for node in kept]


def _append_all(
    g: Graph, nodes: Sequence[Node], provider: str, rewrites: Mapping[str, Definition], is_early: bool = False
) -> None:
    for node in nodes:
        if not g.changing.isdisjoint((*node.inputs, *node.captured)):
            g.changing.update(node.outputs)
        append(g, node, provider, rewrites, is_early)


def _append_by_slices(g: Graph, nodes: Sequence[Node]) -> None:
    """Append nodes for the CPU, chains of them as one that runs by slices of the batch."""
    _append_all(g, nodes, "cpu", _BY_SUMS, is_early=True)
    g.nodes = live(without_repeats(g.nodes, g.outputs), g.outputs)
    nodes, g.nodes = in_order(g).nodes, []
    flow = flow_of(nodes)

    def is_asked(name: str, chain: Chain) -> bool:
        readers = (nodes[step] for step, _ in flow.readers(name))
        return name in g.outputs or any(chain.made.isdisjoint(node.outputs) for node in readers)

    define = partial(_append_all, provider="cpu", rewrites=_BY_PROVIDER["cpu"])
    for item in chains(g, nodes):
        if isinstance(item, Chain):
            append_chain(g, item, {name for name in item.made if is_asked(name, item)}, define)
        else:
            define(g, [item])


def expand(
    g: Graph,
    outputs: Sequence[str],
    provider: str = "cpu",
    block: int = 0,
    fed: Collection[str] = (),
    threads: int = 0,
    by_slices: bool = False,
) -> Graph:
    """Return the graph of some outputs as a provider of the runtime should get it; `g` stays as it is.

    Late ops and slow ones are replaced; what no output needs is left out: nodes, params, inputs, constants.

    block:   of the provider's blocked layout, 0 when it has none
    fed:     params that are inputs of every run
    threads: how many work on an op, 0: one per core
    by_slices: run chains of ops on large batches by slices, see `graph.slices`; on the CPU
    """
    result = branch(g)
    result.outputs, result.domains = list(outputs), dict(g.domains)
    result.block, result.threads, result.changing, result.scaled = block, threads, set(fed), Scaled()
    nodes = without_copies(live(g.nodes, outputs), outputs)
    _append_all(result, nodes, provider, _EARLY_ON_CPU if provider == "cpu" else {}, is_early=True)
    nodes, result.nodes = live(result.nodes, outputs), []
    if by_slices:
        _append_by_slices(result, nodes)
    else:
        _append_all(result, nodes, provider, _BY_PROVIDER[provider])
    nodes = without_views_of_views(result, result.nodes)
    result.nodes = live(without_repeats(nodes, outputs), outputs)
    read = {name for node in result.nodes for name in (*node.inputs, *node.captured)}.union(outputs)
    result.params = {name: spec for name, spec in g.params.items() if name in read}
    result.inputs = {name: spec for name, spec in g.inputs.items() if name in read}
    result.constants = {name: array for name, array in result.constants.items() if name in read}
    return result
