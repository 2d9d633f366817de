"""Fused ops of the runtime's optimizer, expressed in ops of ONNX. (onnxruntime, ContribOperators.md)

Shapes, costs, predictions and gradients are then those of the single ops.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
from onnx import numpy_helper

from .graph import OPSET, Node
from .upgrade import AdapterContext
from .writer import Writer, definition


@definition("BiasGelu")
def _bias_gelu(w: Writer, node: Node, y: str) -> None:
    """y = gelu(x + b), by the error function."""
    w.emit("Gelu", w.sum(*node.inputs), to=y)


@definition("FastGelu")
def _fast_gelu(w: Writer, node: Node, y: str) -> None:
    """y = gelu(x + b), by the hyperbolic tangent."""
    w.emit("Gelu", w.sum(*node.inputs), to=y, approximate="tanh")


@definition("QuickGelu")
def _quick_gelu(w: Writer, node: Node, y: str) -> None:
    """y = x · sigmoid(α x)."""
    x = node.inputs[0]
    w.emit("Mul", x, w.emit("Sigmoid", w.emit("Mul", x, w.number(node.get("alpha", 1.702)))), to=y)


@definition("GatherBlockQuantized")
def gather_block_quantized(w: Writer, node: Node, y: str) -> None:
    """The same, but that `bits` is stated of bytes alone, which may hold several numbers: then shapes say the rest."""
    kept = {name: value for name, value in node.attributes.items() if name != "bits"}
    spec = w.context.spec(node.inputs[0])
    if spec is not None and spec.dtype == np.uint8:
        kept["bits"] = node.get("bits", 4)
    w.nodes.append(replace(node, attributes=kept))


@definition("FusedConv")
def _fused_conv(w: Writer, node: Node, y: str) -> None:
    """y = f(w ∗ x + b + z)."""
    kept = {name: value for name, value in node.attributes.items() if not name.startswith("activation")}
    x, filters, bias, z = (w.input(position) for position in range(4))
    product = w.emit("Conv", *filter(None, (x, filters, bias)), **kept)
    _activation(w, node, w.sum(product, z), y)


@definition("FusedGemm")
def _fused_gemm(w: Writer, node: Node, y: str) -> None:
    """y = f(α a b + β c)."""
    kept = {name: value for name, value in node.attributes.items() if not name.startswith("activation")}
    _activation(w, node, w.emit("Gemm", *node.inputs, **kept), y)


_BATCH_FLAGS = ("transBatchA", "transBatchB")


def _moves_batch(context: AdapterContext, node: Node) -> bool:
    """Tell whether rows of an operand of known shape stand in front of the batch."""
    return any(node.get(flag, 0) for flag in _BATCH_FLAGS) and None not in map(context.spec, node.inputs)


@definition("FusedMatMul", fits=_moves_batch)
def _fused_matmul(w: Writer, node: Node, y: str) -> None:
    """y = α op(a) · op(b), of operands whose first axis is moved behind the batch."""
    operands = zip(node.inputs, _BATCH_FLAGS, strict=True)
    inputs = tuple(_behind_batch(w, name) if node.get(flag, 0) else name for name, flag in operands)
    kept = {name: value for name, value in node.attributes.items() if name not in _BATCH_FLAGS}
    w.nodes.append(replace(node, inputs=inputs, attributes=kept))


def _behind_batch(w: Writer, value: str) -> str:
    spec = w.context.spec(value)
    assert spec is not None
    last = len(spec.shape) - 1
    return w.emit("Transpose", value, perm=[*range(1, last), 0, last])


def _activation(w: Writer, node: Node, x: str, y: str) -> None:
    """Emit the activation that a node's attributes name; of Gemm its settings have names of their own."""
    op, numbers = node.get("activation", ""), node.get("activation_params", ())
    op = op.decode() if isinstance(op, bytes) else op
    named = {name: value for name in ("alpha", "beta") if (value := node.get(f"activation_{name}")) is not None}
    names = sorted(onnx.defs.get_schema(op, OPSET).attributes) if op else ()
    settings = {**dict(zip(names, numbers, strict=False)), **named}
    bounds = () if names else map(w.number, numbers)  # of a Clip they are inputs
    w.emit(op or "Identity", x, *bounds, to=y, **settings)


def _without_statistics(context: AdapterContext, node: Node) -> bool:
    """Tell whether no node reads the mean or the deviation that a normalization computes."""
    return not any(node.outputs[1:3])


@definition("SkipLayerNormalization", fits=_without_statistics)
def _skip_layer_normalization(w: Writer, node: Node, y: str) -> None:
    """y = the layer normalization of x + skip + b; the fourth output is this sum."""
    x, skip, gamma, beta, bias = (w.input(position) for position in range(5))
    learned = [gamma, beta] if beta else [gamma]
    epsilon = node.get("epsilon", 1e-12)
    w.emit("LayerNormalization", _total(w, x, skip, bias), *learned, to=y, axis=-1, epsilon=epsilon)


@definition("SkipSimplifiedLayerNormalization", fits=_without_statistics)
def _skip_simplified(w: Writer, node: Node, y: str) -> None:
    """As SkipLayerNormalization, without mean and shift."""
    x, skip, gamma, bias = (w.input(position) for position in range(4))
    _by_root_mean_square(w, _total(w, x, skip, bias), gamma, y, -1, node.get("epsilon", 1e-12))


def _total(w: Writer, *terms: str) -> str:
    """Emit the sum that is normalized, under the name of the fourth output where the node has it."""
    return w.sum(*terms, to=w.output(3))


@definition("SimplifiedLayerNormalization", fits=_without_statistics, domain="")
@definition("SimplifiedLayerNormalization", fits=_without_statistics)
def _simplified(w: Writer, node: Node, y: str) -> None:
    """y = scale · x / √(mean x² + ε)."""
    x, scale = node.inputs[:2]
    _by_root_mean_square(w, x, scale, y, node.get("axis", -1), node.get("epsilon", 1e-5))


def _by_root_mean_square(w: Writer, x: str, scale: str, y: str, axis: int, epsilon: float) -> None:
    spec = w.context.spec(x)
    axes = range(axis, 0) if axis < 0 or spec is None else range(axis - len(spec.shape), 0)
    mean = w.emit("ReduceMean", w.emit("Mul", x, x), w.context.constant(list(axes), np.int64), keepdims=1)
    root = w.emit("Sqrt", w.emit("Add", mean, w.number(epsilon)))
    w.emit("Mul", w.emit("Div", x, root), scale, to=y)


def _fits_embedding(context: AdapterContext, node: Node) -> bool:
    return context.spec(node.inputs[0]) is not None


@definition("EmbedLayerNormalization", fits=_fits_embedding)
def _embed_layer_normalization(w: Writer, node: Node, y: str) -> None:
    """y = the layer normalization of word, place and segment embeddings; then the mask's lengths, and their sum."""
    words, segments, gamma, beta = (w.input(position) for position in (0, 1, 5, 6))
    places = w.input(8) or w.context.constant([np.arange(w.shape(0)[1])], np.int64)
    pairs = ((w.input(2), words), (w.input(3), places), (w.input(4), segments))
    found = [w.emit("Gather", table, index) for table, index in pairs if table and index]
    total = w.sum(*found, to=w.output(2))
    w.emit("LayerNormalization", total, gamma, beta, to=y, axis=-1, epsilon=node.get("epsilon", 1e-12))
    if w.output(1) and w.input(7):
        w.emit("ReduceSum", w.input(7), w.ints(1), to=w.output(1), keepdims=0)
    elif w.output(1):
        zero = numpy_helper.from_array(np.zeros(1, np.int32))
        w.emit("ConstantOfShape", w.ints(w.shape(0)[0]), to=w.output(1), value=zero)


def _fits_channels(context: AdapterContext, node: Node) -> bool:
    """Tell whether the image has four axes, which ONNX's normalization wants channels of in front."""
    spec = context.spec(node.inputs[0])
    return spec is not None and len(spec.shape) == 4


@definition("GroupNorm", "SkipGroupNorm", fits=_fits_channels)
def _group_norm(w: Writer, node: Node, y: str) -> None:
    """y = f(the group normalization of x, or of x + skip + b), f being nothing or x · sigmoid(x)."""
    x, gamma, beta, skip, bias = (w.input(position) for position in range(5))
    shape, is_last = w.shape(0), bool(node.get("channels_last", 1))
    if skip:
        wide = w.reshape(skip, shape[0], *((1, 1, -1) if is_last else (-1, 1, 1))) if len(w.shape(3)) == 2 else skip
        column = w.reshape(bias, *((-1,) if is_last else (-1, 1, 1))) if bias else ""
        x = w.sum(x, wide, column, to=w.output(1))
    front = w.transpose(x, 0, 3, 1, 2) if is_last else x
    settings = {"num_groups": node.get("groups"), "epsilon": node.get("epsilon", 1e-5)}
    result = w.emit("GroupNormalization", front, gamma, beta, **settings)
    if node.get("activation"):
        result = w.emit("Mul", result, w.emit("Sigmoid", result))
    w.transpose(result, 0, *((2, 3, 1) if is_last else (1, 2, 3)), to=y)


@definition("BiasSplitGelu", fits=lambda context, node: context.spec(node.inputs[1]) is not None)
def _bias_split_gelu(w: Writer, node: Node, y: str) -> None:
    """y = a · gelu(g), a and g being the halves of x + b."""
    half = w.shape(1)[0] // 2
    a, g = w.parts(w.sum(*node.inputs), -1, half, half)
    w.emit("Mul", a, w.emit("Gelu", g), to=y)


@definition("BiasAdd")
def _bias_add(w: Writer, node: Node, y: str) -> None:
    """y = x + b + skip."""
    w.sum(*node.inputs, to=y)


@definition("BiasSoftmax", fits=lambda context, node: context.spec(node.inputs[0]) is not None)
def _bias_softmax(w: Writer, node: Node, y: str) -> None:
    """y = softmax(x + b) over all elements from an axis on."""
    total, shape = w.sum(*node.inputs), w.shape(0)
    axis = node.get("axis", 1) % len(shape)
    if axis == len(shape) - 1:
        w.emit("Softmax", total, to=y, axis=-1)
    else:
        flat = w.reshape(total, *shape[:axis], -1)
        w.reshape(w.emit("Softmax", flat, axis=-1), *shape, to=y)
