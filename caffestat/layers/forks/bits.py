"""CASENet's losses, whose labels are bits: each tells whether a place belongs to a class (Yu et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence

from caffestat.lazy import np

from ..base import Shape, layer
from .evaluated import EvaluatedLoss

__all__ = ["MultiChannelReweightedSigmoidCrossEntropyLoss", "MultiChannelSigmoidCrossEntropyLoss"]

BITS = 32  # of a label; the last one of the last channel says that a place does not count


class _BitLoss(EvaluatedLoss):
    """Bottoms: scores [N, C, H, W] and labels [N, K, H, W] whose floats are read as 32 bits each."""

    def labels_for(self, classes: int) -> int | None:
        """Return how many channels the labels have; None for any that hold a bit more than there are classes."""
        return None

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        x, labels = bottoms
        if len(x) != 4 or len(labels) != 4 or labels[0] != x[0] or labels[2:] != x[2:]:
            raise self.error(f"expected scores and labels (N, C, H, W) of one size, found shapes {x} and {labels}")
        if not 0 < x[1] < BITS * labels[1] or labels[1] != (self.labels_for(x[1]) or labels[1]):
            raise self.error(f"expected a bit for each of {x[1]} classes and one more, found labels of shape {labels}")
        return ((),) * self.top_count

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return (random.uniform(0, 1, bottoms[1]) < 0.1).astype(np.uint32).view(np.float32) if bottom else None

    def weights(self, bits: np.ndarray, counts: np.ndarray, classes: int) -> np.ndarray:
        """Return the weights [N, 2] of scores of what is not and of what is; bits [N, K, H, W]."""
        return np.ones((len(bits), 2))

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        x, bits = bottoms[0].astype(float), np.ascontiguousarray(bottoms[1], np.float32).view(np.uint32)
        classes = np.arange(x.shape[1])
        is_true = (bits[:, classes // BITS] >> (classes % BITS).astype(np.uint32)[:, None, None]) & 1 == 1
        counts = bits[:, -1:] >> np.uint32(BITS - 1) == 0
        weights = self.weights(bits, counts[:, 0], len(classes))
        weight = np.where(is_true, weights[:, 1, None, None, None], weights[:, 0, None, None, None]) * counts
        losses = np.logaddexp(0, np.where(is_true, -x, x))
        slope = 1 / (1 + np.exp(-np.clip(x, -80, 80))) - is_true
        return [(weight * losses).sum() / len(x)], weight * slope / len(x)


@layer("MultiChannelSigmoidCrossEntropyLoss", dialect="seal")
class MultiChannelSigmoidCrossEntropyLoss(_BitLoss):
    """y = -Σ log(p) / N, p the sigmoid of x, or of -x where the class's bit of the label is 0.

    Labels [N, 1, H, W]; places whose highest bit is 1 do not count.
    (Chrisding/seal, multichannel_sigmoid_cross_entropy_loss_layer.cpp)
    """

    def labels_for(self, classes: int) -> int | None:
        return 1


@layer("MultiChannelReweightedSigmoidCrossEntropyLoss", dialect="seal")
class MultiChannelReweightedSigmoidCrossEntropyLoss(_BitLoss):
    """y = -Σ w log(p) / N, p the sigmoid of x, or of -x where the class's bit of the label is 0.

    w is the share of an image's places that are of no class where the bit is 1, else the share of the others. Labels
    [N, K, H, W] of more than C / 32 floats; places whose highest bit of the last is 1 do not count.
    (Chrisding/seal, multichannel_reweighted_sigmoid_cross_entropy_loss_layer.cpp)
    """

    def weights(self, bits: np.ndarray, counts: np.ndarray, classes: int) -> np.ndarray:
        is_any = (bits[:, : classes // BITS + 1] != 0).any(1)
        true, other = ((part & counts).sum((1, 2)) for part in (is_any, ~is_any))
        return np.stack([true, other], 1) / np.maximum(true + other, 1)[:, None]
