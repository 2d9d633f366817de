"""Softmax, its logarithm, and the losses over it."""

from __future__ import annotations

import numpy as np

from caffestat.graph import Node

from ..engine import Tape, vjp
from .common import Grads, input_of, only


@vjp("Softmax")
def softmax(t: Tape, node: Node, dy: str) -> Grads:
    y = _replaced_nan(t, node.outputs[0])
    inner = t.emit("ReduceSum", t.emit("Mul", dy, y), t.ints(node.get("axis", -1)), keepdims=1)
    return [t.emit("Mul", t.emit("Sub", dy, inner), y)]


def _replaced_nan(t: Tape, y: str) -> str:
    """Return y with zeros for NaN where the model selects other values for some of it, and reads it nowhere else.

    That is how exporters leave out rows of attention whose keys are all masked: of such rows the softmax is NaN, and no
    gradient comes back.
    """
    nodes = t.graph.nodes

    def passes(index: int, position: int = 0) -> bool:
        return nodes[index].info.renames or nodes[index].info.converts

    uses = [(nodes[index], position) for index, position in t.flow.through(y, passes) if not passes(index)]
    readers = [(node, position) for node, position in uses if any(map(t.needs, node.outputs))]
    if not readers or not all(node.info.selects and position for node, position in readers):
        return y
    return t.declare(t.emit("Where", t.emit("IsNaN", y), t.scalar(0, like=y), y), t.shape(y), t.specs[y].dtype)


@vjp("LogSoftmax")
def log_softmax(t: Tape, node: Node, dy: str) -> Grads:
    return [_log_softmax_grad(t, node.outputs[0], dy, node.get("axis", -1))]


def _log_softmax_grad(t: Tape, y: str, dy: str, axis: int) -> str:
    total = t.emit("ReduceSum", dy, t.ints(axis), keepdims=1)
    return t.emit("Sub", dy, t.emit("Mul", t.emit("Exp", y), total))


@vjp("NegativeLogLikelihoodLoss")
def negative_log_likelihood(t: Tape, node: Node, dy: str) -> Grads:
    return only(node, _likelihood_grad(t, node, dy))


@vjp("SoftmaxCrossEntropyLoss")
def softmax_cross_entropy(t: Tape, node: Node, dy: str) -> Grads:
    grads = [_likelihood_grad(t, node, dy)]
    if len(node.outputs) == 2 and (direct := t.cotangent(node.outputs[1])):
        grads.append(direct)
    y = t.emit("LogSoftmax", node.inputs[0], axis=1)
    return only(node, _log_softmax_grad(t, y, grads[0] if len(grads) == 1 else t.emit("Sum", *grads), 1))


def _likelihood_grad(t: Tape, node: Node, dy: str) -> str:
    """Return the gradient of the log-probabilities [N, C, d1, …]: -weight at each label, for a mean over their sum."""
    weights = _label_weights(t, node)
    reduction = node.get("reduction", "mean")
    if reduction in ("none", b"none"):
        dy = t.emit("Unsqueeze", dy, t.ints(1))
    elif reduction in ("mean", b"mean"):
        dy = t.emit("Div", dy, t.emit("ReduceSum", weights, keepdims=0))
    return t.emit("Neg", t.emit("Mul", weights, dy))


def _label_weights(t: Tape, node: Node) -> str:
    """Return, shaped as the scores, the class weight at each sample's label and 0 elsewhere.

    The weights of classes get no gradient, as in torch, and are constants for second derivatives.
    """
    scores, labels, weight = node.inputs[0], node.inputs[1], input_of(node, 2)
    shape = t.shape(scores)
    dtype = t.specs[labels].dtype
    column = [1, shape[1], *[1] * (len(shape) - 2)]
    label = t.emit("Unsqueeze", labels, t.ints(1))
    chosen = t.emit("Equal", label, t.constant(np.arange(shape[1]).reshape(column), dtype))
    ignored = node.get("ignore_index")
    if ignored is not None:
        kept = t.emit("Not", t.emit("Equal", label, t.constant(ignored, dtype)))
        chosen = t.emit("And", chosen, kept)
    per_class = t.reshape(t.graph.detach(weight), *column) if weight else t.scalar(1, like=scores)
    return t.emit("Where", chosen, per_class, t.scalar(0, like=scores))
