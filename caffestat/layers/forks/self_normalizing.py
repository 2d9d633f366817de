"""Layers of self-normalizing networks, which keep mean and variance. (Klambauer et al. 2017)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.ops import Nonlinearity, activations
from caffestat.schema.forks import dropouts_pb2

from ..base import layer
from ..neuron import Dropout, Neuron
from ..reread import emit_reread

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["SeLu", "SeLuDropout"]


@layer("SeLu", dialect="snn")
class SeLu(Neuron):
    """y = λ · (x if x > 0 else α(eˣ - 1)); dx = λ · dy · (1 if x > 0 else α eˣ).

    (HolmesShuan/SNNs-Self-Normalizing-Neural-Networks-Caffe-Reimplementation, selu_layer.cpp)
    """

    adds = dropouts_pb2.SelfNormalizingLayerParameter

    @property
    def factors(self) -> tuple[float, float]:
        """α and λ."""
        p = self.added.selu_param
        return p.alpha, getattr(p, "lambda")

    def nonlinearity(self) -> Nonlinearity:
        return activations.selu(*self.factors)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        alpha, gamma = self.factors

        def gradient(tape: Tape, bottom: str, top: str, dy: str) -> str:
            below = tape.emit("Mul", tape.emit("Exp", bottom), tape.constant(alpha))
            slope = tape.emit("Where", tape.emit("Greater", bottom, tape.constant(0)), tape.constant(1), below)
            return tape.emit("Mul", tape.emit("Mul", dy, tape.constant(gamma)), slope)

        return (emit_reread(g, bottoms[0], lambda x: g.emit("Selu", x, alpha=alpha, gamma=gamma), gradient),)


@layer("SeLuDropout", dialect="snn")
class SeLuDropout(Dropout):
    """TRAIN: y = a · (x where the mask's bit is 1, else α) + b, mean and variance kept by a and b; TEST: y = x.

    a = (q + α² q (1 - q))^-½, b = -a (1 - q) α, q = 1 - dropout_ratio the probability of a bit.
    (HolmesShuan/SNNs-Self-Normalizing-Neural-Networks-Caffe-Reimplementation, selu_dropout_layer.cpp)
    """

    adds = dropouts_pb2.SelfNormalizingLayerParameter

    @property
    def settings(self) -> Any:
        return self.added.selu_dropout_param

    @property
    def factor(self) -> float:
        return float((self.keep * (1 + self.settings.alpha**2 * (1 - self.keep))) ** -0.5)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if not self.drops:
            return (bottoms[0],)
        alpha, a = self.settings.alpha, self.factor
        mask = g.input(f"{self.name}/mask", g.shape(bottoms[0]))  # a for each bit of 1
        dropped = g.emit("Mul", g.emit("Sub", g.constant(a), mask), g.constant(alpha))
        rest = g.emit("Add", dropped, g.constant(-a * (1 - self.keep) * alpha))
        return (g.emit("Add", g.emit("Mul", bottoms[0], mask), rest),)
