"""Layer types of forks for semantic segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.fillers import Filler

from ..base import Param, Shape, layer
from ..normalization import BatchNorm
from ..scale import emit_affine

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = ["BN"]

TEST = 1


@layer("BN")
class BN(BatchNorm):
    """y = s · (x - mean) / √(variance + eps) + b per channel: BatchNorm and Scale with bias in one. Bottom [N, C, …].

    With slope_filler, bias_filler, momentum, eps and frozen it is that of yjxiong/caffe (bn_layer.cpp): params s, b and
    running mean and variance [1, C]; the statistics are the batch's in TRAIN unless frozen, which also keeps s and b as
    they are. With scale_filler, shift_filler and bn_mode it is that of alexgkendall/caffe-segnet (bn_layer.cpp): params
    s and b [1, C, 1, 1], statistics always the batch's; bn_mode INFERENCE is s · x + b.
    """

    read_as = "BatchNorm and Scale in one, of yjxiong/caffe or, with scale_filler, alexgkendall/caffe-segnet"
    own_fields = ("bn_param",)

    @property
    def is_segnets(self) -> bool:
        """Whether the layer is written for SegNet's Caffe."""
        names = ("scale_filler", "shift_filler", "bn_mode")
        return any(self.written(f"bn_param.{name}") for name in names)

    def setting(self, name: str, kind: Any, default: Any) -> Any:
        """Return a field of bn_param."""
        return (self.own(f"bn_param.{name}", kind) or [default])[0]

    @property
    def eps(self) -> float:
        return 1e-9 if self.is_segnets else float(self.setting("eps", float, 1e-5))

    @property
    def reads_statistics(self) -> bool:
        return not self.is_segnets and (self.is_frozen or self.phase == TEST)

    @property
    def is_frozen(self) -> bool:
        """Whether all params stay as they are, and the running statistics count in TRAIN too."""
        return bool(self.setting("frozen", bool, False))

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        channels = bottoms[0][1]
        shape = (1, channels, 1, 1) if self.is_segnets else (1, channels)
        names = ("scale_filler", "shift_filler") if self.is_segnets else ("slope_filler", "bias_filler")
        fillers = [self.own_filler(f"bn_param.{name}") for name in names]
        scale, bias = (
            Param(role, shape, filler or Filler(), filler is not None, 1, 1, self.is_frozen)
            for role, filler in zip(("scale", "bias"), fillers, strict=True)
        )
        if self.is_segnets:
            return scale, bias
        mean = Param("mean", shape, Filler(), False, 1, 1, is_statistic=True)
        variance = Param("variance", shape, Filler(value=float(self.is_frozen)), False, 1, 1, is_statistic=True)
        return scale, bias, mean, variance

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) < 2:
            raise self.error(f"expected a bottom of at least 2 axes (N, C, …), found shape {bottoms[0]}")
        for name in ("eps", "momentum"):
            self.own(f"bn_param.{name}", float)
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        channels = g.shape(bottoms[0])[1]
        scale, bias, *statistics = (g.reshape(param, channels) for param in params)
        if self.is_frozen:
            scale, bias = g.detach(scale), g.detach(bias)
        y = self.normalized(g, bottoms[0], params[2:], statistics)
        return [emit_affine(g, y, scale, bias, self.name)]

    def normalized(self, g: Graph, x: str, params: Sequence[str], statistics: Sequence[str]) -> str:
        """Emit x, its mean taken off and divided by its deviation; `statistics` are the running ones as [C]."""
        if self.is_segnets:
            infers = any(bytes(mode) == b"INFERENCE" for mode in self.written("bn_param.bn_mode"))
            return x if infers else self.lower_batch(g, x, ())
        if self.reads_statistics:
            return self.lower_stored(g, x, *statistics)
        return self.lower_batch(g, x, params)

    def update(self, g: Graph, params: Sequence[str], mean: str, variance: str, count: int) -> None:
        """Record the running statistics after the pass: momentum · old + (1 - momentum) · the batch's."""
        momentum = self.setting("momentum", float, 0.9)
        for param, new in zip(params, (mean, variance), strict=False):
            shape = g.shape(param)
            kept = g.emit("Mul", param, g.constant(momentum))
            added = g.emit("Mul", g.reshape(new, *shape), g.constant(1 - momentum))
            g.updates[param] = g.declare(g.emit("Add", kept, added, hint=f"{self.name}_statistics"), shape)
