"""Two layer types of the SSD fork (weiliu89/caffe, branch ssd), for `caffestat --plugin`."""

from collections.abc import Sequence

from caffestat.fillers import Filler
from caffestat.graph import Graph
from caffestat.layers import Layer, Param, Shape, layer


@layer("Permute")
class Permute(Layer):
    """y = x with its axes in permute_param.order, those not named behind them. (permute_layer.cpp)"""

    own_fields = ("permute_param",)

    def order(self, rank: int) -> tuple[int, ...]:
        named = self.own("permute_param.order", int)
        if len(set(named)) < len(named) or not set(named) <= set(range(rank)):
            raise self.error(f"expected different axes from 0 to {rank - 1} as order, found {named}")
        return (*named, *(axis for axis in range(rank) if axis not in named))

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (tuple(bottoms[0][axis] for axis in self.order(len(bottoms[0]))),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (g.transpose(bottoms[0], *self.order(len(g.shape(bottoms[0])))),)


@layer("Normalize")
class Normalize(Layer):
    """y = s · x / √(Σ x² + eps), Σ over the channels or, across_spatial, over all of a sample. (normalize_layer.cpp)

    Bottom and top [N, C, …]; s is learned: one number with channel_shared, else one per channel.
    """

    own_fields = ("norm_param",)

    def setting(self, name: str, default: bool) -> bool:
        return (self.own(f"norm_param.{name}", bool) or [default])[0]

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        shape = () if self.setting("channel_shared", True) else (bottoms[0][1],)
        filler = self.own_filler("norm_param.scale_filler")
        return (Param("scale", shape, filler or Filler(value=1), filler is not None, fan_in=1, fan_out=1),)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        x, rank = bottoms[0], len(g.shape(bottoms[0]))
        (eps,) = self.own("norm_param.eps", float) or [1e-10]
        axes = g.ints(*range(1, rank)) if self.setting("across_spatial", True) else g.ints(1)
        sums = g.emit("ReduceSum", g.emit("Mul", x, x), axes, keepdims=1)
        unit = g.emit("Div", x, g.emit("Sqrt", g.emit("Add", sums, g.constant(eps))))
        scale = params[0] if not g.shape(params[0]) else g.reshape(params[0], -1, *(1,) * (rank - 2))
        return (g.emit("Mul", unit, scale, hint=self.name),)
