"""Python layers that compare videos seen by a person with videos of that person. (lferrer/iccv2017, layers)"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.lazy import np

from ..base import Layer, Shape, layer
from ..reread import emit_closed, without_gradient
from ..shape import Sink
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["CyclicLossLayer", "DataSwitchLayer", "LabelParseLayer", "LabelSplitLayer", "MVNLayer", "SaveFeaturesLayer"]

CLIP = (3, 16, 112, 112)
NO_LABEL = 11  # what a text without digits is taken for


@layer("data_switch.DataSwitchLayer", dialect="egocentric")
class DataSwitchLayer(Layer):
    """Both clips [N, 3, 16, 112, 112], in their order; every second pass exchanges them, which is not done here.

    No gradient passes. (lferrer/iccv2017, layers/data_switch.py)
    """

    num_bottoms = (2, 2)
    num_tops = (2, 2)

    @property
    def left_out(self) -> str:
        return "every second pass exchanges its bottoms: here none does"

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        for shape in bottoms:
            if not shape or math.prod(shape[1:]) != math.prod(CLIP):
                raise self.error(f"expected clips of {CLIP}, found shape {shape}")
        return tuple((shape[0], *CLIP) for shape in bottoms)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return without_gradient(
            g,
            bottoms,
            lambda *clips: [g.reshape(clip, g.shape(x)[0], *CLIP) for clip, x in zip(clips, bottoms, strict=True)],
        )


class _Labels(Computed):
    """Numbers [N, 1] out of the digits of a label."""

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not bottoms[0] or not math.prod(bottoms[0]):
            raise self.error(f"expected labels (N, …), found shape {bottoms[0]}")
        return ((bottoms[0][0], 1),) * self.top_count

    def parts(self, label: float) -> Sequence[int]:
        """Return what the tops say of a label."""
        raise NotImplementedError

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        found = [self.parts(float(row.flat[0])) for row in bottoms[0].reshape(len(bottoms[0]), -1)]
        return [np.array(column, np.float32)[:, None] for column in zip(*found, strict=True)]


@layer("label_parse.LabelParseLayer", dialect="egocentric")
class LabelParseLayer(_Labels):
    """The scene, all digits of a label but the last two, or the action, these two; 11 for none: param_str says which.

    (lferrer/iccv2017, layers/label_parse.py)
    """

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if self.proto.python_param.param_str not in ("Scene", "Action"):
            raise self.error(f"expected param_str Scene or Action, found {self.proto.python_param.param_str!r}")
        return super().tops_at_setup(bottoms)

    def parts(self, label: float) -> Sequence[int]:
        digits = str(int(label))
        part = digits[:-2] if self.proto.python_param.param_str == "Scene" else digits[-2:]
        return (_number(part or str(NO_LABEL), self, label),)


@layer("label_split.LabelSplitLayer", dialect="egocentric")
class LabelSplitLayer(_Labels):
    """The two labels that the digits of one hold: of 6 digits three each, of 8 four each; of 7 the first is the longer
    one where it begins with 10.

    (lferrer/iccv2017, layers/label_split.py)
    """

    num_tops = (2, 2)

    def parts(self, label: float) -> Sequence[int]:
        digits = f"{label:06.0f}"
        if label < 1e6:
            cut = 3
        elif label < 1e7:
            cut = 4 if digits.startswith("10") else 3
        else:
            cut = 4
        return tuple(_number(part, self, label) for part in (digits[:cut], digits[cut:]))


def _number(digits: str, layer: Layer, label: float) -> int:
    """Return the number that digits spell. Raises NetError for a label of other signs."""
    if not digits.isdigit():
        raise layer.error(f"expected a label of digits, found {label:g}")
    return int(digits)


@layer("save_features.SaveFeaturesLayer", dialect="egocentric")
class SaveFeaturesLayer(Sink):
    """No top: the reference writes its bottoms to a file, which is not done here.

    (lferrer/iccv2017, layers/save_features.py)
    """


@layer("cyclic_loss.CyclicLossLayer", dialect="egocentric")
class CyclicLossLayer(Layer):
    """y = (Σ F² + Σ G²) / 2N, F = x₁ - x₂, G = x₀ - x₃; dx₀ = dx₁ = (F + G) / N = -dx₂ = -dx₃, whatever dy is.

    (lferrer/iccv2017, layers/cyclic_loss.py)
    """

    num_bottoms = (4, 4)

    @property
    def ignores_dy(self) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not bottoms[0] or any(shape != bottoms[0] for shape in bottoms):
            raise self.error(f"expected four bottoms of one shape, found {list(bottoms)}")
        return ((1,),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])

        def forward(a: str, b: str, c: str, d: str) -> str:
            differences = [g.emit("Sub", b, c), g.emit("Sub", a, d)]
            sums = [g.emit("ReduceSumSquare", x, g.ints(*range(len(shape))), keepdims=0) for x in differences]
            return g.reshape(g.emit("Mul", g.emit("Add", *sums), g.constant(0.5 / shape[0])), 1)

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            a, b, c, d = (tape.stored(bottom) for bottom in bottoms)
            whole = tape.emit("Add", tape.emit("Sub", b, c), tape.emit("Sub", a, d))
            slope = tape.emit("Mul", whole, tape.constant(1 / shape[0]))
            less = tape.emit("Neg", slope)
            return [slope, slope, less, less]

        return [emit_closed(g, bottoms, forward, gradient)]


@layer("mvn.MVNLayer", dialect="egocentric")
class MVNLayer(Layer):
    """y = x / √(Σ x²) of each item, and the derivative of it; x [N, D]. (lferrer/iccv2017, layers/mvn.py)"""

    keeps_shapes = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) != 2:
            raise self.error(f"expected rows (N, D), found shape {bottoms[0]}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        squares = g.emit("ReduceSum", g.emit("Mul", bottoms[0], bottoms[0]), g.ints(1), keepdims=1)
        return [g.emit("Div", bottoms[0], g.emit("Sqrt", squares))]
