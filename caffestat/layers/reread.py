"""Gradients that are not the derivative of the emitted nodes: closed forms, none, and those of overwritten blobs.

Caffe's backward pass reads blobs where they are stored. A later in-place layer may have written over them by then; the
layers that read their top or bottom give gradients accordingly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["BOTTOM", "TOP", "emit_closed", "emit_pulled", "emit_reread", "without_gradient"]

BOTTOM, TOP = "bottom", "top"

Grads = Sequence[str | None]


def emit_closed(
    g: Graph,
    inputs: Sequence[str],
    forward: Callable[..., str],
    gradient: Callable[[Tape, str], Grads],
    slope: Sequence[str] = (),
) -> str:
    """Emit y = forward(*inputs), its gradient given in closed form: `gradient(tape, dy)` returns one per input.

    slope: the op of which it is the derivative, where that is not y; see `Graph.custom_vjp`
    """

    def backward(tape: Tape, dys: Grads) -> Grads:
        assert dys[0] is not None  # the reverse walk asks only where a gradient arrived
        return gradient(tape, dys[0])

    (y,) = g.custom_vjp(inputs, lambda *values: (forward(*values),), backward, slope=slope)
    return y


def emit_pulled(g: Graph, op: str, x: str, reads: str, **attributes: Any) -> str:
    """Emit y = op(x) with the op's own gradient rule, fed from what bottom or top (as `reads` says) hold in the end.

    A rule may read y for the sake of x (Relu: they share the sign), so where the bottom counts it gets both alike.
    """

    def gradient(tape: Tape, dy: str) -> Grads:
        bottom, top = tape.stored(x), tape.stored(y)
        if reads == BOTTOM:
            top = y if bottom == x else bottom
        return tape.pull_op(op, bottom, top, dy, **attributes)

    y = emit_closed(g, (x,), lambda value: g.emit(op, value, **attributes), gradient)
    return y


def emit_reread(
    g: Graph,
    x: str,
    forward: Callable[[str], str],
    gradient: Callable[[Tape, str, str, str], str],
    slope: Sequence[str] = (),
) -> str:
    """Emit y = forward(x), its gradient given by `gradient(tape, bottom, top, dy)` from what is stored in the end.

    slope: see `emit_closed`
    """
    y = emit_closed(g, (x,), forward, lambda tape, dy: (gradient(tape, tape.stored(x), tape.stored(y), dy),), slope)
    return y


def without_gradient(g: Graph, inputs: Sequence[str], forward: Callable[..., Sequence[str]]) -> tuple[str, ...]:
    """Emit `forward(*inputs)`, through which no gradient flows."""
    return g.custom_vjp(inputs, forward, lambda tape, dys: [None] * len(inputs))
