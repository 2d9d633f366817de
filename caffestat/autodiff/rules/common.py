"""What the rules share: undoing a broadcast, reading constant inputs, and restoring a reduced axis."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from caffestat.errors import GradientError
from caffestat.graph import Node
from caffestat.ops import Window

from ..engine import Tape
from ..sparse import Grad, scatter_add

__all__ = [
    "axes_of",
    "broadcast_grads",
    "constant_of",
    "cubic_convolution",
    "divided",
    "flat_index",
    "input_of",
    "interpolate_transposed",
    "is_linear",
    "keep_axes",
    "only",
    "sum_to",
    "unbroadcast",
    "window_of",
]

Grads = Sequence[Grad]

_SMALL = 1 << 16  # elements of a constant that never matter


def sum_to(tape: Tape, grad: str, shape: Sequence[int], target: Sequence[int]) -> str:
    """Sum `grad`, of shape `shape`, over the axes along which a value of shape `target` was broadcast to it.

    And over the axes of one element that follow these to the end: the runtime then sums rows, in a tenth of the time.
    """
    if tuple(shape) == tuple(target):
        return grad
    lead = len(shape) - len(target)
    axes = [*range(lead), *(lead + i for i, size in enumerate(target) if size != shape[lead + i])]
    if set(shape[axes[-1] + 1 :]) == {1}:
        axes += range(axes[-1] + 1, len(shape))
    kept = [size for i, size in enumerate(shape) if i not in axes]
    summed = tape.emit("ReduceSum", grad, tape.ints(*axes), keepdims=0)
    return summed if kept == list(target) else tape.reshape(summed, *target)


def unbroadcast(tape: Tape, grad: str, source: str, target: str) -> str:
    """Sum `grad`, which has the shape of `source`, to the shape of `target`, which was broadcast to it."""
    return sum_to(tape, grad, tape.shape(source), tape.shape(target))


def broadcast_grads(tape: Tape, node: Node, *grads: Callable[[], str]) -> Grads:
    """Return each input's gradient, formed only where it is needed and summed to the input's shape."""
    pairs = zip(node.inputs, grads, strict=True)
    return [unbroadcast(tape, grad(), node.outputs[0], x) if tape.needs(x) else None for x, grad in pairs]


def only(node: Node, *grads: Grad) -> Grads:
    """Return the gradients of the first inputs and None for all others."""
    return [*grads, *[None] * (len(node.inputs) - len(grads))]


def input_of(node: Node, position: int) -> str:
    """Return the name of an optional input, empty when the node does not carry it."""
    return node.inputs[position] if position < len(node.inputs) else ""


def constant_of(tape: Tape, node: Node, position: int, default: ArrayLike = ()) -> np.ndarray:
    """Return the array of an input, `default` when the node does not carry it.

    Raises GradientError when the input is computed.
    """
    name = input_of(node, position)
    if not name:
        return np.asarray(default)
    if name not in tape.constants:
        raise GradientError(f"{node.op} (value {node.outputs[0]}): input {position} ({name}) must be a constant")
    return tape.constants[name]


def axes_of(tape: Tape, node: Node) -> tuple[int, ...]:
    """Return the axes that a reduction works on, counted from the front: its axes input, or all axes without one."""
    rank = len(tape.shape(node.inputs[0]))
    axes = constant_of(tape, node, 1)
    if not axes.size:
        return () if node.get("noop_with_empty_axes", 0) else tuple(range(rank))
    return tuple(sorted(int(axis) % rank for axis in axes.ravel()))


def keep_axes(tape: Tape, value: str, source: str, axes: Sequence[int]) -> str:
    """Reshape a value reduced over `axes` of `source` so that those axes have size 1."""
    return tape.reshape(value, *(1 if i in axes else size for i, size in enumerate(tape.shape(source))))


def divided(tape: Tape, value: str, count: int, like: str) -> str:
    """Emit value / count, of the type of the value `like`.

    The runtime multiplies a factor into a convolution before it, and then runs all of its optimizers once more: a tenth
    of the time in which a session is opened.
    """
    return tape.emit("Div", value, tape.scalar(count, like=like))


def flat_index(tape: Tape, indices: str, dims: Sequence[int], shape: Sequence[int]) -> str:
    """Emit rows of indices into axes of the sizes `dims` as positions along one axis that these are flattened into.

    shape: of the result, [batch, rows, width]; each position stands there `width` times
    """
    strides = tape.ints(*(math.prod(dims[i + 1 :]) for i in range(len(dims))))
    wrapped = tape.emit("Mod", indices, tape.ints(*dims))  # negative indices count from the end
    flat = tape.emit("ReduceSum", tape.emit("Mul", wrapped, strides), tape.ints(-1), keepdims=0)
    return tape.emit("Expand", tape.reshape(flat, *shape[:2], 1), tape.ints(*shape))


def window_of(tape: Tape, node: Node) -> Window:
    """Return how the kernel of a pooling node slides over its image."""
    rule = node.info.window
    assert rule is not None
    return rule(tape.graph.call(node))


def is_linear(elements: int, *operands: Sequence[int]) -> bool:
    """Tell whether a constant of so many elements is small, or no larger than operands of these shapes together."""
    return elements <= _SMALL + sum(map(math.prod, operands))


def cubic_convolution(a: float) -> tuple[list[float], list[float]]:
    """Return the weight of a sample within 1 of a position and within 2: polynomials of its distance (Keys 1981)."""
    return [a + 2, -a - 3, 0, 1], [a, -5 * a, 8 * a, -4 * a]


def interpolate_transposed(
    tape: Tape, grad: str, shape: Sequence[int], positions: np.ndarray, weights: np.ndarray, axis: int, size: int
) -> str:
    """Multiply one axis of `grad` by the transpose of a sparse matrix, and return a value with `size` elements there.

    grad:      of shape `shape`
    positions: [shape[axis], taps], the columns that each row of the matrix has weights in
    weights:   likewise, of the type of `grad`

    One product with the dense matrix, or a sum of scattered slices, one per tap, where it would be a large constant.
    """
    rows, taps = positions.shape
    whole = [*shape[:axis], size, *shape[axis + 1 :]]
    if is_linear(rows * size, shape, whole):
        matrix = np.zeros((rows, size), weights.dtype)
        np.add.at(matrix, (np.arange(rows)[:, None], positions), weights)
        return _contract(tape, grad, shape, matrix, axis)
    total = tape.emit("Expand", tape.constant(0, weights.dtype), tape.ints(*whole))
    column = [-1 if i == axis else 1 for i in range(len(shape))]
    for tap in range(taps):
        index = tape.emit("Expand", tape.constant(positions[:, tap].reshape(column), np.int64), tape.ints(*shape))
        part = tape.emit("Mul", grad, tape.constant(weights[:, tap].reshape(column), weights.dtype))
        total = scatter_add(tape, total, index, part, axis, weights.dtype)
    return total


def _contract(tape: Tape, grad: str, shape: Sequence[int], matrix: np.ndarray, axis: int) -> str:
    """Multiply one axis of `grad` (of shape `shape`) by the transpose of a matrix [that axis, the new axis]."""
    if axis == len(shape) - 1:
        return tape.emit("MatMul", grad, tape.constant(matrix, matrix.dtype))
    flat = tape.reshape(grad, math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :]))
    product = tape.emit("MatMul", tape.constant(matrix.T, matrix.dtype), flat)
    return tape.reshape(product, *shape[:axis], matrix.shape[1], *shape[axis + 1 :])
