"""What the table of ops computes from one use of an op: fans, multiply-adds, index ranges, activations."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from caffestat.lazy import np

from . import activations
from .activations import Nonlinearity
from .einsum import sizes_of, terms_of
from .info import Call, Fans, Shape, UnknownShapeError

Attributes = Mapping[str, Any]

# ---- fans ----


def conv_fans(attributes: Attributes, shape: Shape) -> Fans:
    """[outputs, inputs / group, taps…]"""
    taps = prod(shape[2:])
    return shape[1] * taps, shape[0] // attributes.get("group", 1) * taps


def conv_transpose_fans(attributes: Attributes, shape: Shape) -> Fans:
    """[inputs, outputs / group, taps…]; on average, kernels overlap on a stride-th of the taps per axis."""
    taps = prod(shape[2:])
    overlapping = shape[0] // attributes.get("group", 1) * taps / prod(attributes.get("strides", (1,)))
    return max(round(overlapping), 1), shape[1] * taps


def right_fans(attributes: Attributes, shape: Shape) -> Fans:
    """[…, K, N], or the vector [K]; with transB [N, K]"""
    k, n = shape[-2:] if len(shape) > 1 else (shape[0], 1)
    return (n, k) if attributes.get("transB", 0) else (k, n)


def left_fans(attributes: Attributes, shape: Shape) -> Fans:
    """[…, M, K], or the vector [K]; with transA [K, M]"""
    m, k = shape[-2:] if len(shape) > 1 else (1, shape[0])
    return (m, k) if attributes.get("transA", 0) else (k, m)


def gather_fans(attributes: Attributes, shape: Shape) -> Fans:
    """[rows, N]: one row is picked, nothing is summed."""
    return 1, prod(shape[1:])


def gate_fans(gates: int) -> Any:
    """[directions, gates · H, inputs]: each gate is a layer of its own."""
    return lambda attributes, shape: (shape[-1], shape[-2] // gates)


def turned_gate_fans(gates: int) -> Any:
    """[directions, inputs, gates · H]: the quantized op has its weights the other way round."""
    return lambda attributes, shape: (shape[-2], shape[-1] // gates)


def packed_fans(attributes: Attributes, shape: Shape) -> Fans:
    """N rows of K numbers, several in a byte."""
    return attributes["K"], attributes["N"]


def packed_count(attributes: Attributes, shape: Shape) -> int:
    """N rows of K numbers, those that fill the last block left out."""
    return int(attributes["K"] * attributes["N"])


def expert_fans(attributes: Attributes, shape: Shape) -> Fans:
    """[experts, outputs, inputs]"""
    return shape[2], shape[1]


def packed_expert_fans(attributes: Attributes, shape: Shape) -> Fans:
    """[experts, outputs, inputs], several inputs in a byte."""
    return shape[2] * _per_byte(attributes), shape[1]


def picked_block_fans(attributes: Attributes, shape: Shape) -> Fans:
    """Rows of quantized numbers: one is picked, nothing is summed."""
    axis = attributes.get("gather_axis", 0)
    return 1, picked_block_count(attributes, shape) // max(shape[axis], 1)


# ---- packed weights ----


def _per_byte(attributes: Attributes) -> int:
    return 8 // int(attributes.get("expert_weight_bits", 4))


def picked_block_count(attributes: Attributes, shape: Shape) -> int:
    """Several numbers in a byte where the node states bits; see `graph.fused.gather_block_quantized`."""
    return prod(shape) * (8 // int(attributes.get("bits", 8)))


def packed_expert_count(attributes: Attributes, shape: Shape) -> int:
    """Several numbers in a byte."""
    return prod(shape) * _per_byte(attributes)


# ---- shapes ----


def picked_blocks_shape(call: Call) -> Shape:
    """The data's shape with that of the indices in the place of an axis; bytes of several numbers unpacked."""
    data, rows = list(call.input(0)), call.input(1)
    data[-1] *= 8 // int(call.get("bits", 8))
    axis = call.get("gather_axis", 0) % len(data)
    return (*data[:axis], *rows, *data[axis + 1 :])


def same_shape(call: Call) -> Shape:
    """The shape of the first input."""
    return call.input(0)


def broadcast_shape(*positions: int) -> Any:
    """The shape that some inputs have together."""
    return lambda call: np.broadcast_shapes(*map(call.input, positions))


def quantized_gemm_shape(call: Call) -> Shape:
    """[m, n]; without a zero point of the output, it holds floats, and its type is not told."""
    call.input(8)
    return call.input(0)[1 if call.get("transA") else 0], call.input(3)[0 if call.get("transB") else 1]


def quantized_concat_shape(call: Call) -> Shape:
    """Every third input from the third on is a part."""
    parts = [call.input(position) for position in range(2, len(call.inputs), 3)]
    axis = call.get("axis") % len(parts[0])
    return (*parts[0][:axis], sum(part[axis] for part in parts), *parts[0][axis + 1 :])


def global_pool_shape(call: Call) -> Shape:
    """One place per channel, which stand last or in front of the places."""
    batch, *others = call.input(0)
    ones = (1,) * (len(others) - 1)
    return (batch, *ones, others[-1]) if call.get("channels_last") else (batch, others[0], *ones)


def quantized_pool_shape(call: Call) -> Shape:
    """[batch, channels, places…], or the channels last. Raises UnknownShapeError for padding not written."""
    if call.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or call.get("ceil_mode"):
        raise UnknownShapeError("auto_pad")
    batch, *others = call.input(0)
    space, kernel = others[:-1] if call.get("channels_last") else others[1:], call.get("kernel_shape")
    rank = len(kernel)
    pads, strides = call.get("pads", [0] * 2 * rank), call.get("strides", [1] * rank)
    axes = zip(space, pads[:rank], pads[rank:], kernel, strides, strict=True)
    out = [(size + before + after - k) // stride + 1 for size, before, after, k, stride in axes]
    return (batch, *out, others[-1]) if call.get("channels_last") else (batch, others[0], *out)


def packed_shape(call: Call) -> Shape:
    """[..., N] of the runtime's product of [..., K] and N packed rows."""
    return (*call.input(0)[:-1], call.get("N"))


def fused_shape(call: Call) -> Shape:
    """[..., m, n] of the runtime's product of [..., m, k] and [..., k, n], or of transposed matrices.

    With transBatchA the rows stand in front of the batch, [m, ..., k]; with transBatchB those of b, [k, ..., n].
    Raises ValueError for operands that do not fit each other.
    """
    a, b = (
        (*shape[1:-1], shape[0], shape[-1]) if call.get(flag) else shape
        for shape, flag in ((call.input(0), "transBatchA"), (call.input(1), "transBatchB"))
    )
    (m, k), (inner, n) = a[-2:][:: -1 if call.get("transA") else 1], b[-2:][:: -1 if call.get("transB") else 1]
    if k != inner:
        raise ValueError(f"matrices of {k} columns and {inner} rows have no product")
    return (*np.broadcast_shapes(a[:-2], b[:-2]), m, n)


# ---- multiply-adds ----


def conv_macs(call: Call) -> int:
    """One per output element and tap."""
    return prod(call.output()) * prod(call.input(1)[1:])


def quantized_conv_macs(call: Call) -> int:
    """One per output element and tap; scales and zero points stand between the operands."""
    return prod(call.output()) * prod(call.input(3)[1:])


def conv_transpose_macs(call: Call) -> int:
    """One per input element and tap."""
    return prod(call.input(0)) * prod(call.input(1)[1:])


def packed_macs(call: Call) -> int:
    """One per output element and element of a row."""
    return prod(call.input(0)[:-1]) * int(call.get("N") * call.get("K"))


def expert_macs(second: int) -> Any:
    """One per element of a matrix, token and expert that it passes; second: where the experts' second matrix is.

    What a matrix has of inputs is known from the other one, also where several are in a byte.
    """

    def rule(call: Call) -> int:
        *tokens, size = call.input(0)
        outputs, made = call.input(2)[1], call.input(2)[1] // (2 if call.get("activation_type") == "swiglu" else 1)
        return prod(tokens) * int(call.get("k", 1)) * (outputs * size + call.input(second)[1] * made)

    return rule


def matmul_macs(call: Call) -> int:
    """One per output element and element of the summed axis."""
    return prod(call.output()) * call.input(0)[-2 if call.get("transA") else -1]


def einsum_macs(call: Call) -> int:
    """One per combination of all indices; none for a single operand."""
    if len(call.inputs) < 2:
        return 0
    shapes = [call.input(position) for position in range(len(call.inputs))]
    terms, _ = terms_of(call.attributes["equation"], [len(shape) for shape in shapes])
    return prod(sizes_of(terms, shapes).values())


def recurrent_macs(call: Call) -> int:
    """One per element of the weights, step and sample."""
    return prod(call.input(0)[:2]) * (prod(call.input(1)) + prod(call.input(2)))


# ---- ranges of indices ----


def axis_limit(call: Call) -> int:
    """The size of the axis that is indexed."""
    return call.input(0)[call.get("axis", 0)]


def sample_limit(call: Call) -> int:
    """The number of samples."""
    return call.input(0)[0]


def smallest_axis_limit(call: Call) -> int:
    """The smallest of the axes that the last axis of the indices goes over."""
    first, depth = call.get("batch_dims", 0), call.input(1)[-1]
    return min(call.input(0)[first : first + depth])


def class_limit(call: Call) -> int:
    """The number of classes."""
    return call.input(0)[1]


def depth_limit(call: Call) -> int:
    """The depth of a one-hot vector."""
    depth = call.value(1)
    return 1 if depth is None else int(depth.max())


# ---- activations ----


def leaky_relu(call: Call) -> Nonlinearity:
    """max(x, 0) + alpha · min(x, 0)"""
    return activations.leaky(call.get("alpha", 0.01))


def prelu(call: Call) -> Nonlinearity:
    """max(x, 0) + slope · min(x, 0), the slopes as they are stored."""
    slopes = call.value(1)
    if slopes is None or not slopes.size:
        return activations.RELU
    exact = slopes.astype(np.float64)
    return activations.leaky(float(exact.mean()), float(np.mean(exact**2)))


def clip(call: Call) -> Nonlinearity:
    """min(max(x, low), high), the bounds inputs or (before opset 11) attributes; a computed one counts for none."""
    low, high = (_bound(call, position, name) for position, name in ((1, "min"), (2, "max")))
    return activations.clip(-np.inf if low is None else low, np.inf if high is None else high)


def _bound(call: Call, position: int, name: str) -> float | None:
    value = call.value(position)
    return call.get(name) if value is None or not value.size else float(value.flat[0])


def elu(call: Call) -> Nonlinearity:
    """x, or alpha · (eˣ - 1) below 0"""
    return activations.elu(call.get("alpha", 1.0))


def selu(call: Call) -> Nonlinearity:
    """gamma · x, or gamma · alpha · (eˣ - 1) below 0"""
    return activations.selu(call.get("alpha", 1.6732632), call.get("gamma", 1.0507010))


def celu(call: Call) -> Nonlinearity:
    """x, or alpha · (e^(x / alpha) - 1) below 0"""
    return activations.celu(call.get("alpha", 1.0))


def hard_sigmoid(call: Call) -> Nonlinearity:
    """min(max(alpha · x + beta, 0), 1)"""
    return activations.hard_sigmoid(call.get("alpha", 0.2), call.get("beta", 0.5))


def thresholded_relu(call: Call) -> Nonlinearity:
    """x above alpha, else 0"""
    alpha = call.get("alpha", 1.0)
    return activations.rectifier(lambda x: float(x > alpha))


def swish(call: Call) -> Nonlinearity:
    """x · sigmoid(alpha · x)"""
    return activations.swish(call.get("alpha", 1.0))


def always(found: Nonlinearity) -> Any:
    """Return a rule that gives one activation, whatever the attributes."""
    return lambda call: found
