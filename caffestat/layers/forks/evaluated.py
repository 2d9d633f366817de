"""Layers that numpy evaluates with their gradient, as their reference computes both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.lazy import np

from ..loss import Loss

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["EvaluatedLoss"]


class EvaluatedLoss(Loss):
    """A loss whose tops, and whose first top's slope for its first bottom, `evaluate` returns; dx = slope · dy."""

    decides = True

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        """Return the tops, at least as many as the layer has, and the slope, of bottom 0's shape."""
        raise NotImplementedError

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        tops, slope = self.evaluate(bottoms, random)
        return [*(np.asarray(top, np.float32) for top in tops[: self.top_count]), np.asarray(slope, np.float32)]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        *tops, slope = self.input_decisions(g)

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            if self.ignores_dy or dys[0] is None:
                return [slope if self.ignores_dy else None]
            return [tape.emit("Mul", slope, tape.reshape(dys[0], *(1,) * len(tape.shape(slope))))]

        return g.custom_vjp(bottoms[:1], lambda _: [g.emit("Identity", top) for top in tops], backward)
