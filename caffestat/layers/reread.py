"""Gradients that read blobs where the framework keeps them: a later in-place layer may have written over them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from caffestat.graph import Graph, Node

if TYPE_CHECKING:
    from caffestat.autodiff import Tape

__all__ = ["BOTTOM", "TOP", "emit_pulled", "emit_reread", "without_gradient"]

BOTTOM, TOP = "bottom", "top"

Gradient = Callable[["Tape", str, str, str], str]


def emit_pulled(g: Graph, op: str, x: str, reads: str, **attributes: Any) -> str:
    """Emit y = op(x) with the op's own gradient rule, fed from memory: from what the bottom holds in the end, or the top.

    A rule may read x or y of an op whose sign they share (Relu), so when the bottom is what counts both are given.
    """

    def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
        bottom, top = tape.stored(x), tape.stored(y)
        if reads == BOTTOM:
            top = y if bottom == x else bottom
        return tape.pull(Node(op, (bottom,), (top,), attributes), dys[0])

    (y,) = g.custom_vjp((x,), lambda value: (g.emit(op, value, **attributes),), backward)
    return y


def emit_reread(g: Graph, x: str, forward: Callable[[str], str], gradient: Gradient) -> str:
    """Emit y = forward(x), its gradient given by `gradient(tape, bottom, top, dy)` from what bottom and top hold in the end."""

    def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
        assert dys[0] is not None
        return (gradient(tape, tape.stored(x), tape.stored(y), dys[0]),)

    (y,) = g.custom_vjp((x,), lambda value: (forward(value),), backward)
    return y


def without_gradient(g: Graph, inputs: Sequence[str], forward: Callable[..., Sequence[str]]) -> tuple[str, ...]:
    """Emit `forward(*inputs)`, through which no gradient flows."""
    return g.custom_vjp(inputs, forward, lambda tape, dys: [None] * len(inputs))
