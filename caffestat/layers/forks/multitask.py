"""Layers of MNC, the multi-task network cascade: regions, their masks, regions moved again, and the loss of masks.

Python layers of its train nets, which have more tops, are not computed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from caffestat.lazy import np

from ..base import Layer, Shape, layer
from ..loss import Loss, cross_entropies, total
from ..reread import emit_closed
from .proposals import ProposalLayer, clipped, from_deltas
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = ["MaskLayer", "StageBridgeLayer", "UnscoredProposalLayer", "WeightedSigmoidCrossEntropyLoss"]


@layer("pylayer.proposal_layer.ProposalLayer", dialect="mnc")
class UnscoredProposalLayer(ProposalLayer):
    """ProposalLayer without a top of scores; param_str: feat_stride. (daijifeng001/MNC, lib/pylayer/proposal_layer.py)

    The gradient that the reference gives the deltas is left out: only MNC's train nets, with a second top, ask for it.
    """

    num_tops = (1, 1)


@layer("pylayer.mask_layer.MaskLayer", dialect="mnc")
class MaskLayer(Layer):
    """Masks [R, M · M] as images [R, 1, M, M]. (daijifeng001/MNC, lib/pylayer/mask_layer.py)"""

    passes_values = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        size = math.prod(bottoms[0][1:])
        side = math.isqrt(size)
        if not bottoms[0] or side * side != size:
            raise self.error(f"expected square masks (R, M · M), found shape {bottoms[0]}")
        return ((bottoms[0][0], 1, side, side),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (top,) = self.tops([g.shape(bottoms[0])])
        return [g.reshape(bottoms[0], *top)]


@layer("pylayer.stage_bridge_layer.StageBridgeLayer", dialect="mnc")
class StageBridgeLayer(Computed):
    """Regions [R, 5] moved by the deltas of the class of highest score, within the image.

    Bottoms: regions, deltas [R, 4 · classes], scores [R, classes], image [1, 3].
    (daijifeng001/MNC, lib/pylayer/stage_bridge_layer.py)
    """

    num_bottoms = (4, 4)
    num_tops = (1, 1)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        rois, deltas, scores, image = bottoms
        rows = rois[:1]
        if len(scores) != 2 or scores[:1] != rows or deltas != (*rows, 4 * scores[1]) or rois != (*rows, 5):
            raise self.error(
                f"expected regions (R, 5), deltas (R, 4 · classes) and scores (R, classes), "
                f"found shapes {rois}, {deltas} and {scores}"
            )
        if len(image) != 2 or image[1] < 2:
            raise self.error(f"expected height and width of the image (1, 3), found shape {image}")
        return ((1, 5),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        rois, deltas, scores, image = bottoms
        best = scores.argmax(1)
        chosen = deltas.reshape(len(rois), -1, 4)[np.arange(len(rois)), best]
        boxes = clipped(from_deltas(rois[:, 1:].astype(np.float32), chosen), image[0])
        return [np.concatenate([np.zeros((len(rois), 1)), boxes], 1).astype(np.float32)]


@layer("SigmoidCrossEntropyLoss", dialect="mnc")
class WeightedSigmoidCrossEntropyLoss(Loss):
    """y = Σ w · (log(1 + e^-|x|) + max(x, 0) - x·t) / Σ w, 0 without weights; dx = w · (σ(x) - t) · dy / Σ w.

    Bottoms x, t and w. (daijifeng001/caffe-mnc, sigmoid_cross_entropy_loss_layer.cpp)
    """

    num_bottoms = (3, 3)
    takes_targets = True

    def check(self, bottoms: Sequence[Shape]) -> None:
        if len({math.prod(shape) for shape in bottoms}) > 1:
            raise self.error(f"expected a target and a weight per value, found shapes {list(bottoms)}")

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])
        targets, weights = (g.reshape(name, *shape) for name in bottoms[1:])
        made: dict[str, str] = {}

        def forward(x: str, *_: str) -> str:
            all_weights = total(g, weights)
            made["some"] = g.emit("Greater", all_weights, g.constant(0))
            made["divisor"] = g.emit("Where", made["some"], all_weights, g.constant(1))
            y = g.emit("Div", total(g, g.emit("Mul", weights, cross_entropies(g, x, targets))), made["divisor"])
            return g.emit("Where", made["some"], y, g.constant(0))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            error = tape.emit("Mul", weights, tape.emit("Sub", tape.emit("Sigmoid", bottoms[0]), targets))
            return [tape.emit("Mul", error, tape.emit("Div", dy, made["divisor"])), None, None]

        return [emit_closed(g, bottoms, forward, gradient)]
