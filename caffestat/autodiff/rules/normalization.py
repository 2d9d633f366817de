"""Gradients of the normalizations that look across channels or across the batch: LRN and BatchNormalization."""

from __future__ import annotations

from math import prod

from caffestat.graph import Graph, Node, all_but_channels, late
from caffestat.graph.expand import by_images, lrn_base, lrn_power, sum_channels

from ..engine import Tape, vjp
from .common import Grads

Ints = tuple[int, ...]


@vjp("LRN")
def lrn(tape: Tape, node: Node, dy: str) -> Grads:
    """y = x · s^-β with s = k + α/n Σ x² over the n channels around: dx = dy · s^-β - 2αβ/n · x · Σ dy · y / s.

    y is read, not computed again: in a Caffe net, another layer may have overwritten it.
    """
    (x,), y = node.inputs, node.outputs[0]
    return [tape.emit_late("LRNImage", x, y, dy, shape=tape.shape(x), like=x, of=node)]


@late("LRNImage")
def lrn_image(g: Graph, node: Node, provider: str) -> list[str]:
    """dx from x, y and dy. Where images are not worked on in turn, the runtime shares s with the forward pass."""
    of: Node = node.attributes["of"]
    alpha, beta, size = of.get("alpha", 1e-4), of.get("beta", 0.75), of.attributes["size"]

    def gradient(inner: Graph, x: str, y: str, dy: str) -> str:
        spec = inner.specs[x]
        base = lrn_base(inner, x, of)
        share = inner.emit("Div", inner.emit("Mul", dy, y), base)
        around = sum_channels(inner, share, spec.shape, size, -2 * alpha * beta / size, spec.dtype)
        direct = inner.emit("Div", dy, lrn_power(inner, base, of))
        return inner.declare(inner.emit("Add", direct, inner.emit("Mul", x, around)), spec.shape, spec.dtype)

    return [by_images(g, node.inputs, gradient)]


@vjp("BatchNormalization")
def batch_normalization(tape: Tape, node: Node, dy: str) -> Grads:
    """y = scale · x̂ + bias, x̂ = (x - mean) / √(var + ε) with given statistics, or with the batch's in training mode.

    x is [N, C, …], everything else [C]. The further outputs in training mode are running statistics.
    """
    return _batch_grads(tape, node, dy) if node.get("training_mode", 0) else _given_grads(tape, node, dy)


def _per_channel(tape: Tape, node: Node) -> tuple[Ints, str]:
    """Return the shape [1, C, 1, …] and the axes to sum over to get there."""
    rank = len(tape.shape(node.inputs[0]))
    column = (1, -1, *[1] * (rank - 2))
    return column, tape.ints(*all_but_channels(rank))


def _given_grads(tape: Tape, node: Node, dy: str) -> Grads:
    """With std = √(var + ε): dx = dy · scale / std, dscale = Σ dy · x̂ = (Σ dy · x - mean · Σ dy) / std, dbias = Σ dy.

    And for the statistics: dmean = -dbias · scale / std, dvar = -dscale · scale / (2 std²). Centering the sums in the
    place of x saves a third of dscale's time.
    """
    x, scale, _, mean, var = node.inputs
    column, axes = _per_channel(tape, node)
    std = tape.emit("Sqrt", tape.emit("Add", var, tape.scalar(node.get("epsilon", 1e-5), like=var)))
    slope = tape.emit("Div", scale, std)
    dx = tape.emit("Mul", dy, tape.reshape(slope, *column)) if tape.needs(x) else None
    dscale = dvar = dbias = dmean = None
    if any(map(tape.needs, node.inputs[1:])):
        dbias = tape.emit("ReduceSum", dy, axes, keepdims=0)
    if dbias and (tape.needs(scale) or tape.needs(var)):
        product = tape.emit("ReduceSum", tape.emit("Mul", dy, x), axes, keepdims=0)
        dscale = tape.emit("Div", tape.emit("Sub", product, tape.emit("Mul", mean, dbias)), std)
        half = tape.emit("Div", tape.emit("Mul", dscale, slope), std)
        dvar = tape.emit("Mul", half, tape.scalar(-0.5, like=x))
    if dbias and tape.needs(mean):
        dmean = tape.emit("Neg", tape.emit("Mul", dbias, slope))
    return [dx, dscale, dbias, dmean, dvar]


def _batch_grads(tape: Tape, node: Node, dy: str) -> Grads:
    """With f = 1/√(batch variance + ε): dx = scale · f · (dy - mean(dy) - x̂ · mean(dy · x̂)).

    dscale = Σ dy · x̂, dbias = Σ dy.
    """
    x, scale = node.inputs[:2]
    column, axes = _per_channel(tape, node)
    mean = tape.emit("ReduceMean", x, axes, keepdims=1)
    centered = tape.emit("Sub", x, mean)
    var = tape.emit("ReduceMean", tape.emit("Mul", centered, centered), axes, keepdims=1)
    std = tape.emit("Sqrt", tape.emit("Add", var, tape.scalar(node.get("epsilon", 1e-5), like=x)))
    factor = tape.emit("Reciprocal", std)
    standard = tape.emit("Mul", centered, factor)
    dbias = tape.emit("ReduceSum", dy, axes, keepdims=1)
    dscale = tape.emit("ReduceSum", tape.emit("Mul", dy, standard), axes, keepdims=1)
    share = tape.scalar(tape.shape(x)[1] / prod(tape.shape(x)), like=x)
    slope = tape.emit("Mul", tape.reshape(scale, *column), factor)
    inner = tape.emit("Sub", dy, tape.emit("Mul", standard, tape.emit("Mul", dscale, share)))
    dx = tape.emit("Mul", tape.emit("Sub", inner, tape.emit("Mul", dbias, share)), slope) if tape.needs(x) else None
    further, given = _running_grads(tape, node, centered, share)
    dx = tape.emit("Sum", dx, *further) if dx and further else dx
    return [dx, *(tape.reshape(total, tape.shape(x)[1]) for total in (dscale, dbias)), *given]


def _running_grads(tape: Tape, node: Node, centered: str, share: str) -> tuple[list[str], list[str | None]]:
    """Return what the running statistics add to dx, and the gradients of those that are given.

    Each is momentum · the given one + (1 - momentum) · that of the batch, whose mean has the slope 1/n, the variance
    2 (x - mean)/n.
    """
    column, _ = _per_channel(tape, node)
    momentum = node.get("momentum", 0.9)
    new, two = (tape.scalar(value, like=node.inputs[0]) for value in (1 - momentum, 2))
    further: list[str] = []
    given: list[str | None] = [None, None]
    for index, name in enumerate(node.outputs[1:3]):
        d = tape.cotangent(name) if name else None
        if d:
            given[index] = tape.emit("Mul", d, tape.scalar(momentum, like=node.inputs[0]))
            of_batch = tape.reshape(tape.emit("Mul", tape.emit("Mul", d, new), share), *column)
            further.append(tape.emit("Mul", of_batch, tape.emit("Mul", centered, two)) if index else of_batch)
    return further, given
