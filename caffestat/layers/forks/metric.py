"""Layers of forks that learn how near items are to each other, and aggregate local features."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.errors import Place
from caffestat.lazy import np
from caffestat.schema.forks import faces_pb2, metric_pb2

from ..base import Layer, Param, Shape, layer, read_param
from ..loss import Loss, total
from .evaluated import EvaluatedLoss
from .faces import UnitLength
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = [
    "GeneralContrastiveLoss",
    "Intranorm",
    "Netvlad",
    "NormalizeOfCrn",
    "PairFastLoss",
    "RankHardLoss",
    "RankHardLossOfPlaces",
    "SampleTriplet",
    "Spfilter",
    "TripletLoss",
    "TripletLossOfIndices",
]

POS, NEG = 0, 1
EARTH = 6371.0  # radius in km
NEAR = 0.225  # km within which two places are the same


# ---- triplets --------------------------------------------------------------------------------------------------------


@layer("TripletLoss", dialect="happynear")
class TripletLoss(Loss):
    """y = Σ max(0, margin + Σ (a - p)² - Σ (a - n)²) / 2N. Bottoms a, p and n [N, C].

    (happynear/caffe-windows, triplet_loss_layer.cpp; Schroff et al. 2015)
    """

    adds = metric_pb2.HappynearLayerParameter
    num_bottoms = (3, 3)

    def allow_force_backward(self, bottom: int) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = bottoms[0]
        if len(shape) < 2 or not self.fits_shape(shape) or any(other != shape for other in bottoms):
            raise self.error(f"expected three bottoms of one shape (N, C), found shapes {', '.join(map(str, bottoms))}")
        return ((),) * self.top_count

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and not proto.HasField("threshold_param")

    def fits_shape(self, shape: Shape) -> bool:
        """Tell whether bottoms can have a shape."""
        return math.prod(shape[2:]) == 1

    def margin(self) -> float:
        """Return the distance by which the third bottom lies further away than the second."""
        return float(self.added.triplet_loss_param.margin)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        rows = g.shape(bottoms[0])[0]
        a, p, n = (g.reshape(bottom, rows, -1) for bottom in bottoms)
        near, far = (
            g.emit("ReduceSum", g.emit("Mul", d, d), g.ints(1), keepdims=1)
            for d in (g.emit("Sub", a, p), g.emit("Sub", a, n))
        )
        excess = g.emit("Relu", g.emit("Add", g.emit("Sub", near, far), g.constant(self.margin())))
        return [g.emit("Div", total(g, excess), g.constant(2 * rows))] * self.top_count


@layer("TripletLoss", dialect="mixmatch")
class TripletLossOfMaps(TripletLoss):
    """TripletLoss of bottoms [N, …]; the margin is threshold_param.threshold, by which it is told.

    (XiaohangZhan/mix-and-match, triplet_loss_layer.cpp)
    """

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return len(proto.bottom) == 3 and proto.HasField("threshold_param")

    def fits_shape(self, shape: Shape) -> bool:
        return True

    def margin(self) -> float:
        return float(self.proto.threshold_param.threshold)


@layer("TripletLoss", dialect="caffe-train")
class TripletLossOfIndices(EvaluatedLoss):
    """y = Σ max(0, margin + Σ (a - p)² - Σ (a - n)²) / T, T the triplets there are at set-up; top [1].

    Bottoms: features [N, …] and triplets [T, 3] of rows a, p and n. As in the reference, every triplet counts in the
    gradient, the last that names a row decides about it: 2 (n - p) / T for a, 2 (p - a) / T for p, 2 (a - p) / T for n.
    (yuqj1991/caffe_train, triplet_loss_layer.cpp)
    """

    adds = metric_pb2.LayerParameter
    num_bottoms = (2, 2)
    decisive = slice(None)
    at_setup = 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        features, triplets = bottoms
        if len(features) < 2 or len(triplets) < 1 or math.prod(triplets[1:]) != 3:
            raise self.error(f"expected features (N, …) and triplets (T, 3), found shapes {features} and {triplets}")
        self.at_setup = self.at_setup or triplets[0]
        return ((1,),) * self.top_count

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        return random.integers(0, bottoms[0][0], bottoms[1]).astype(np.float32) if bottom else None

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        x = bottoms[0].reshape(len(bottoms[0]), -1)
        triplets = bottoms[1].reshape(-1, 3).astype(int)[: self.at_setup]
        if triplets.size and not 0 <= triplets.min() <= triplets.max() < len(x):
            raise self.error(f"expected rows of 0 to {len(x) - 1} in the triplets, found {triplets.max()}")
        a, p, n = (x[triplets[:, column]] for column in range(3))
        excess = ((a - p) ** 2).sum(1) - ((a - n) ** 2).sum(1) + np.float32(self.added.triplet_loss_param.margin)
        slope = np.zeros_like(x)
        for rows, parts in zip(triplets, zip(n - p, p - a, a - p, strict=True), strict=True):
            for row, part in zip(rows, parts, strict=True):
                slope[row] = 2 * part
        count = max(self.at_setup, 1)
        return [np.maximum(excess, 0).sum()[None] / count], (slope / count).reshape(bottoms[0].shape)


@layer("SampleTriplet", dialect="caffe-train")
class SampleTriplet(Computed):
    """Triplets [T, 3, 1, 1] of rows: for each pair a, p of a person a random n with Σ (a-n)² - Σ (a-p)² < alpha.

    Bottoms: features [N, …], the rows of a person one after the other, and how many rows each person has. Persons'
    pairs without such an n are left out. (yuqj1991/caffe_train, sample_triplet_layer.cpp)
    """

    adds = metric_pb2.LayerParameter
    num_bottoms = (2, 2)

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms[0]) < 2:
            raise self.error(f"expected features of shape (N, …), found {bottoms[0]}")
        return ((math.prod(bottoms[1]), 3, 1, 1),)

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if not bottom:
            return None
        persons = max(math.prod(bottoms[1]), 1)
        counts = np.full(persons, bottoms[0][0] // persons)
        counts[: bottoms[0][0] % persons] += 1
        return counts.reshape(bottoms[1]) if math.prod(bottoms[1]) else np.zeros(bottoms[1])

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        x = bottoms[0].reshape(len(bottoms[0]), -1)
        counts = bottoms[1].ravel().astype(int)
        if (counts < 0).any() or counts.sum() > len(x):
            raise self.error(f"expected numbers of rows that add up to {len(x)} at most, found {counts.sum()}")
        found, start, alpha = [], 0, np.float32(self.added.sample_triplet_param.alpha)
        for count in counts:
            others = np.r_[0:start, start + count : len(x)]
            for a in range(start, start + count - 1):
                far = ((x[others] - x[a]) ** 2).sum(1)
                for p in range(a + 1, start + count):
                    hard = others[far - ((x[a] - x[p]) ** 2).sum() < alpha]
                    if hard.size:
                        found.append((a, p, random.choice(hard)))
            start += count
        return (np.array(found, np.float32).reshape(-1, 3, 1, 1),)

    def summary(self, bottoms: Sequence[Shape]) -> str:
        assert self.decisions
        return f"finds {len(self.decisions[0])} triplets in this batch"


# ---- pairs -----------------------------------------------------------------------------------------------------------


@layer("GeneralContrastiveLoss", dialect="happynear")
class GeneralContrastiveLoss(EvaluatedLoss):
    """y = Σ (w⁺ · min(outlier, max(0, d - m⁺)) at the label, w⁻ · max(0, m⁻ - d) elsewhere) / N of distances d [N, K].

    Bottoms: distances, labels [N] and optionally the distances that are used in place of the first. The fields choose
    which of the terms count. Top 1 has the mean terms of labels and of others, with add_intra_mae their running mean,
    which then is added to m⁻. (happynear/caffe-windows, general_constrastive_loss_layer.cpp)
    """

    adds = faces_pb2.LayerParameter
    num_bottoms = (2, 3)
    num_tops = (1, 2)

    def __init__(self, proto: Any, phase: int, place: Place) -> None:
        super().__init__(proto, phase, place)
        self.running = [np.float32(0)]  # the mean distance at labels, from pass to pass

    @property
    def settings(self) -> Any:
        return self.added.general_contrastive_loss_param

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shape = bottoms[0]
        if len(shape) < 2 or not math.prod(shape) or math.prod(bottoms[1]) != shape[0]:
            raise self.error(f"expected distances (N, …) and N labels, found shapes {shape} and {bottoms[1]}")
        if len(bottoms) == 3 and math.prod(bottoms[2]) != math.prod(shape):
            raise self.error(f"expected other distances of shape {shape}, found {bottoms[2]}")
        return ((), (2 + self.settings.add_intra_mae,))[: self.top_count]

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return math.prod(bottoms[0][1:]) if bottom == 1 else None

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        p, rows = self.settings, len(bottoms[0])
        d, labels = bottoms[-1 if len(bottoms) == 3 else 0].reshape(rows, -1), bottoms[1].ravel().astype(int)
        margin = np.float32(p.negative_margin) + (self.running[0] if p.add_intra_mae else 0)
        at = (np.arange(rows), labels)
        is_label = np.zeros(d.shape, bool)
        is_label[at] = True
        short = ~is_label & (d < margin)
        terms = np.where(short, (np.exp(-d) if p.exp_negative_weight else margin - d) * p.negative_weight, 0)
        cut = np.clip(d[at] - np.float32(p.positive_margin), 0, p.positive_outlier_thresh)
        terms[at] = cut * p.positive_weight
        hardest, first = self.hardest(terms, short, labels), self.nearest(terms[at])
        skipped = p.positive_first & (d[at] > p.positive_upper_bound)
        slope = np.where(short, np.where(p.exp_negative_weight, -np.exp(-d), -1.0) * p.negative_weight, 0)
        slope[at] = np.where((d[at] > p.positive_margin) & (d[at] < p.positive_outlier_thresh), p.positive_weight, 0)
        kept = np.ones(d.shape, bool)
        if p.max_positive_only:
            kept[at] = np.arange(rows) == first
        if p.max_negative_only:
            kept &= is_label | (np.arange(d.shape[1]) == hardest[:, None])
        others = skipped[:, None] & ~is_label
        terms, slope = np.where(kept & ~others, terms, 0), np.where(kept & ~others, slope, 0)
        slope[at] = np.where(skipped, p.positive_weight, slope[at])
        slope = self.normalized(slope, is_label, skipped)
        negative = np.maximum(margin - d, 0)[short].sum() / rows / max(d.shape[1] - 1, 1)
        self.running[0] = np.float32(min(0.99 * self.running[0] + 0.01 * cut.sum() / rows, p.max_negative_margin))
        means = [cut.sum() / rows, negative, self.running[0]][: 2 + p.add_intra_mae]
        return [abs(terms).sum() / rows, np.array(means)], (slope / rows).reshape(bottoms[0].shape)

    def hardest(self, terms: np.ndarray, short: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return which class's term is the largest of each row's, 0 where none is larger than that of class 0."""
        seen = np.where(short, terms, -np.inf)
        seen[:, 0] = terms[:, 0]
        return np.asarray(seen.argmax(1))

    def nearest(self, terms: np.ndarray) -> int:
        """Return the row whose label's term is the smallest: the reference calls it the largest."""
        return int(terms.argmin())

    def normalized(self, slope: np.ndarray, is_label: np.ndarray, skipped: np.ndarray) -> np.ndarray:
        """Return the slopes, those of others scaled down as normalize_negative says."""
        p = self.settings
        if not p.HasField("normalize_negative"):
            return slope
        pull = abs(slope[~is_label & ~skipped[:, None]].sum()) / p.normalize_negative / len(slope)
        return np.where(~is_label & (pull > p.positive_weight), slope / pull, slope) if pull else slope


@layer("PairFastLoss", dialect="hdc")
class PairFastLoss(EvaluatedLoss):
    """y = mean over hard pairs of d² (same label) or factor · max(0, margin - d²), those of two labels counted twice.

    Tops: y, the part of triplets in the right order, the number of pairs. The hard_ratio of the largest terms of each
    kind counts, if they are not 0. dx = ± (xᵢ - xⱼ) · dy / pairs, once for each pair, times factor for two labels.
    (PkuRainBow/HDC.caffe, pair_fast_loss_layer.cpp)
    """

    adds = metric_pb2.LayerParameter
    num_bottoms = (2, 2)
    num_tops = (3, 3)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shape, labels = bottoms
        if len(shape) < 2 or math.prod(shape[2:]) != 1 or not math.prod(shape) or math.prod(labels) != shape[0]:
            raise self.error(f"expected features (N, C) and N labels, found shapes {shape} and {labels}")
        return ((), (), ())

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        p, rows = self.added.pair_fast_loss_param, len(bottoms[0])
        x, labels = bottoms[0].reshape(rows, -1), bottoms[1].ravel().astype(int)
        differences = x[:, None] - x[None]
        d = (differences**2).sum(2)
        i, j = np.triu_indices(rows, 1)
        same = labels[i] == labels[j]
        if p.mode == NEG:
            near, far = np.zeros(0, int), np.flatnonzero(~same)
        else:
            near = np.flatnonzero(same & (d[i, j] != 0))
            far = np.flatnonzero(~same) if p.mode != POS else np.zeros(0, int)
        far = np.repeat(far, 2)
        terms = [d[i[near], j[near]], p.factor * np.maximum(np.float32(p.margin) - d[i[far], j[far]], 0)]
        chosen: list[np.ndarray] = []
        loss = 0.0
        for pairs, values in zip((near, far), terms, strict=True):
            order = np.argsort(-values, kind="stable") if p.hard_ratio < 1 else np.arange(len(values))
            hard = order[: int(np.float32(len(values)) * np.float32(p.hard_ratio))]
            loss += values[hard].sum()
            chosen.append(pairs[hard[values[hard] > 0]])
        count = sum(map(len, chosen))
        slope = np.zeros_like(x)
        for pairs, sign in zip(map(np.unique, chosen), (1, -p.factor), strict=True):
            pulled = sign * differences[i[pairs], j[pairs]]
            np.add.at(slope, i[pairs], pulled)
            np.add.at(slope, j[pairs], -pulled)
        with np.errstate(divide="ignore", invalid="ignore"):
            return [np.divide(loss, count), _ranked(d, labels), count], np.divide(slope, count).reshape(
                bottoms[0].shape
            )


def _ranked(d: np.ndarray, labels: np.ndarray) -> float:
    """Return the part of triplets whose other label is farther away than the same label, seen from both of the pair."""
    right = triplets = 0
    for a, p in zip(*np.triu_indices(len(labels), 1), strict=True):
        if labels[a] == labels[p]:
            others = labels != labels[a]
            triplets += 2 * others.sum()
            right += (d[a, others] > d[a, p]).sum() + (d[p, others] > d[a, p]).sum()
    return right / triplets if triplets else math.nan


class _RankHardLoss(EvaluatedLoss):
    """What the two kinds of RankHardLoss share: pairs (i, i + 1) against hard and random rows j, by -x·xⱼ."""

    adds = metric_pb2.LayerParameter

    @property
    def settings(self) -> Any:
        return self.added.rank_param

    @property
    def ignores_dy(self) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, shape = self.settings, bottoms[0]
        if len(shape) < 2 or not math.prod(shape) or any(math.prod(other) != shape[0] for other in bottoms[1:]):
            raise self.error(f"expected features (N, …) and N values each, found shapes {', '.join(map(str, bottoms))}")
        if p.pair_size < 2 or shape[0] % p.pair_size:
            raise self.error(f"expected a pair_size of at least 2 that divides {shape[0]} items, found {p.pair_size}")
        return ((),) * self.top_count

    def candidates(self, i: int, d: np.ndarray, sides: Sequence[np.ndarray]) -> Sequence[int]:
        """Return the rows that the pair of row i may be compared with."""
        raise NotImplementedError

    def chosen(self, rows: Sequence[int], d: np.ndarray, random: np.random.Generator) -> Sequence[int]:
        """Return some of the nearest rows and some random others."""
        p = self.settings
        if len(rows) <= p.neg_num:
            return rows
        order = sorted(rows, key=lambda row: (d[row], row))
        hard = random.permutation(order[: p.neg_num])
        count = int(np.float32(p.neg_num) * np.float32(p.hard_ratio))
        rest = random.permutation([*order[p.neg_num :], *hard[count:]])
        return [*hard[:count], *rest[: int(np.float32(p.neg_num) * np.float32(p.rand_ratio))]]

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        p, rows = self.settings, len(bottoms[0])
        x, margin = bottoms[0].reshape(rows, -1), np.float32(p.margin)
        d = -(x @ x.T)
        np.fill_diagonal(d, 0)
        count = p.neg_num * rows // p.pair_size * 2
        loss, slope = 0.0, np.zeros_like(x)
        for i in range(0, rows, p.pair_size):
            for j in self.chosen(self.candidates(i, d, bottoms[1:]), d[i], random):
                for one, other in ((i, i + 1), (i + 1, i)):
                    excess = d[i, i + 1] - d[one, j] + margin
                    if excess > 0:
                        loss += excess
                        slope[one] += x[j] - x[other]
                        slope[other] -= x[one]
                        slope[j] += x[one]
        with np.errstate(divide="ignore", invalid="ignore"):
            return [np.divide(loss, count)], np.divide(slope, count).reshape(bottoms[0].shape)


@layer("RankHardLoss", dialect="video-triplet")
class RankHardLoss(_RankHardLoss):
    """y = (Σ max(0, margin - x·p + x·n) + Σ max(0, margin - x·p + p·n)) / count, over pairs x, p and rows n.

    The rows n have other labels. Pairs are the first two of each pair_size rows; count is 2 · neg_num · N / pair_size.
    Of each pair's rows with a first term above 0, hard_ratio of the neg_num nearest count and, of all others,
    neg_num · rand_ratio random ones: other random ones than the reference's. dx does not depend on dy. Bottoms:
    features [N, …] and labels [N]. (xiaolonw/caffe-video_triplet, rank_hard_loss_layer.cpp; Wang, Gupta 2015)
    """

    num_bottoms = (2, 2)

    def candidates(self, i: int, d: np.ndarray, sides: Sequence[np.ndarray]) -> Sequence[int]:
        labels = sides[0].ravel()
        excess = d[i, i + 1] - d[i] + np.float32(self.settings.margin)
        return [int(row) for row in np.flatnonzero((labels != labels[i]) & (excess > 0))]


@layer("RankHardLoss", dialect="crn")
class RankHardLossOfPlaces(_RankHardLoss):
    """RankHardLoss with latitudes and longitudes [N] in radians in place of labels: n lies more than 225 m from x.

    The two rows behind the pair count at any distance.
    (hyojinie/crn, rank_hard_loss_layer.cpp)
    """

    num_bottoms = (3, 3)

    def candidates(self, i: int, d: np.ndarray, sides: Sequence[np.ndarray]) -> Sequence[int]:
        lat, lon = (side.ravel().astype(float) for side in sides)
        u, v = np.sin((lat[i] - lat) / 2), np.sin((lon[i] - lon) / 2)
        km = 2 * EARTH * np.arcsin(np.sqrt(u * u + np.cos(lat) * np.cos(lat[i]) * v * v))
        excess = d[i, i + 1] - d[i] + np.float32(self.settings.margin)
        places = np.arange(len(lat))
        far = (km >= NEAR) | (places == i + 2) | (places == i + 3)
        return [int(row) for row in np.flatnonzero(far & (excess > 0))]


# ---- local features --------------------------------------------------------------------------------------------------


@layer("Netvlad", dialect="crn")
class Netvlad(Layer):
    """y[n, k] = Σₚ a[n, k, p] · (x[n, p] + c[k]) over the places p of a map: residuals by soft assignments a.

    Bottoms a [N, cluster_num, H, W] and x [N, local_dim, H, W]; top [N, cluster_num · local_dim]; c [cluster_num,
    local_dim], whose gradient overwrites what is there. (hyojinie/crn, netvlad_layer.cpp; Arandjelović et al. 2016)
    """

    adds = metric_pb2.LayerParameter
    num_bottoms = (2, 2)
    filler_fields: ClassVar[Mapping[str, str]] = {"netvlad_param.weight_filler": "weight"}

    def overwrites_diff(self, param: int, bottoms: Sequence[Shape]) -> bool:
        return True

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        p = self.added.netvlad_param
        return (read_param("weight", (p.cluster_num, p.local_dim), p, "weight_filler", 1, 1),)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        (a, x), p = bottoms, self.added.netvlad_param
        if len(a) != 4 or a[1] != p.cluster_num or x != (a[0], p.local_dim, *a[2:]):
            wanted = f"(N, {p.cluster_num}, H, W) and (N, {p.local_dim}, H, W)"
            raise self.error(f"expected bottoms of shapes {wanted}, found {a} and {x}")
        if p.vlad_dim != p.cluster_num * p.local_dim:
            raise self.error(f"expected a vlad_dim of {p.cluster_num * p.local_dim}, found {p.vlad_dim}")
        return ((a[0], p.vlad_dim),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        n, clusters, *places = g.shape(bottoms[0])
        size, area = g.shape(bottoms[1])[1], math.prod(places)
        a, x = g.reshape(bottoms[0], n, clusters, area), g.reshape(bottoms[1], n, size, area)
        summed = g.emit("ReduceSum", a, g.ints(2), keepdims=1)
        y = g.emit("Add", g.emit("MatMul", a, g.transpose(x, 0, 2, 1)), g.emit("Mul", summed, params[0]))
        return [g.reshape(g.declare(y, (n, clusters, size)), n, clusters * size)]


@layer("Intranorm", dialect="crn")
class Intranorm(Layer):
    """y = x / √(Σ x² + 1e-12) for each of cluster_num parts of an item. (hyojinie/crn, intranorm_layer.cpp)"""

    adds = metric_pb2.LayerParameter
    normalizes = True

    @property
    def eps(self) -> float:
        return 1e-12

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        count, values = self.added.intranorm_param.cluster_num, math.prod(bottoms[0][1:])
        if not 2 <= len(bottoms[0]) <= 4 or not count or values % count:
            raise self.error(f"expected 2 to 4 axes, items of {count} equal parts (cluster_num); found {bottoms[0]}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, count = g.shape(bottoms[0]), self.added.intranorm_param.cluster_num
        rows = (shape[0], count, math.prod(shape[1:]) // count)
        x = g.reshape(bottoms[0], *rows)
        sums = g.emit("ReduceSum", g.emit("Mul", x, x), g.ints(2), keepdims=1)
        y = g.emit("Div", x, g.emit("Sqrt", g.emit("Add", sums, g.constant(self.eps))))
        return [g.reshape(g.declare(y, rows), *shape)]


@layer("Normalize", dialect="crn")
class NormalizeOfCrn(UnitLength):
    """y = x / √(Σ x² + 1e-12), Σ over all of a sample. (hyojinie/crn, normalize_layer.cpp)"""

    eps_of = 1e-12
    has_four_axes = False


@layer("Spfilter", dialect="crn")
class Spfilter(Layer):
    """Each top is a bottom [N, C, H, W] times the last bottom, H · W values an item, at each place.

    (hyojinie/crn, spfilter_layer.cpp)
    """

    num_bottoms = (2, None)
    num_tops = (1, None)

    def multiplies(self) -> bool:
        return True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        *maps, mask = bottoms
        if len(maps) != self.top_count:
            raise self.error(f"expected a top for each of {len(maps)} bottoms before the last, found {self.top_count}")
        for shape in maps:
            if len(shape) != 4 or mask[:1] != shape[:1] or math.prod(mask[1:]) != math.prod(shape[2:]):
                raise self.error(f"expected maps (N, C, H, W) and a last bottom (N, H · W), found {shape} and {mask}")
        return tuple(maps)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shapes = [g.shape(bottom) for bottom in bottoms[:-1]]
        return [
            g.emit("Mul", x, g.reshape(bottoms[-1], shape[0], 1, *shape[2:]))
            for x, shape in zip(bottoms, shapes, strict=False)
        ]
