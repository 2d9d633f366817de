"""Layer types of bilinear pooling: sums over windows, signed roots, and samples of unit length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.schema.forks import scaling_pb2

from ..base import Shape, layer
from ..neuron import Neuron
from ..pooling import AVE, Pooling, Window
from ..reread import emit_reread
from .faces import UnitLength

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["L2Normalize", "SignedSqrt", "SumPooling"]

ROOT_EPS = 0.03
SUM = scaling_pb2.SumPoolingParameter.SUM


@layer("SumPooling", dialect="bilinear")
class SumPooling(Pooling):
    """Pooling by sum_pooling_param, which also has pool: SUM, the sum over each window, without padding.

    (ChaojianYu/Hierarchical-Bilinear-Pooling, sum_pooling_layer.cpp; Yu et al. 2018)
    """

    adds = scaling_pb2.SumPoolingLayerParameter

    @property
    def settings(self) -> Any:
        return self.added.sum_pooling_param

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        window = self.window(self.image(bottoms))
        if self.settings.pool == SUM and any(window.begins):
            raise self.error(f"only pool: MAX and pool: AVE have padding; found pad {list(window.begins)}")
        return super().tops(bottoms)

    def emit(self, g: Graph, x: str, method: int, window: Window, mask: bool = False) -> list[str]:
        if method != SUM:
            return super().emit(g, x, method, window, mask)
        (mean,) = super().emit(g, x, AVE, window)
        high, wide = (window.taps_below(axis, size) for axis, size in enumerate(window.size))
        return [g.declare(g.emit("Mul", mean, g.constant(np.outer(high, wide))), g.shape(mean))]


@layer("SignedSqrt", dialect="bilinear")
class SignedSqrt(Neuron):
    """y = √x where x >= 0, else -√(-x); dx = dy / (2 · (|y| + 0.03)). Never in place.

    (ChaojianYu/Hierarchical-Bilinear-Pooling, signed_sqrt_layer.cpp; Gao et al. 2016)
    """

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()
        return super().tops(bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        def forward(x: str) -> str:
            return g.emit("Mul", g.emit("Sign", x), g.emit("Sqrt", g.emit("Abs", x)), hint=self.name)

        def gradient(tape: Tape, bottom: str, top: str, dy: str) -> str:
            below = tape.emit("Add", tape.emit("Abs", top), tape.constant(ROOT_EPS))
            return tape.emit("Mul", tape.emit("Div", dy, below), tape.constant(0.5))

        return (emit_reread(g, bottoms[0], forward, gradient),)


@layer("L2Normalize", dialect="bilinear")
class L2Normalize(UnitLength):
    """y = x / √(Σ x² + 1e-7), Σ over all of a sample; top [N, C, H, W]; dx = (dy - y · Σ y · dy) / √(Σ x² + 1e-7).

    Never in place. (ChaojianYu/Hierarchical-Bilinear-Pooling, l2_normalize_layer.cpp; Gao et al. 2016)
    """

    eps_of = 1e-7

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()
        return super().tops(bottoms)
