"""The Python layers of SSH and of what was made from it: single-stage detectors of faces."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

from caffestat.errors import NetError
from caffestat.lazy import np

from ..base import TRAIN, Shape, layer
from ..data import Count
from .boxes import overlaps, suppress
from .proposals import (
    OF_FACES,
    AnchorTargetLayer,
    Drop,
    ProposalLayer,
    RoIDataLayer,
    Settings,
    anchors,
    at_places,
    by_place,
    clipped,
    from_deltas,
    large,
    target_maps,
    thin,
    to_deltas,
)
from .squash import softmax

__all__ = [
    "AnchorTargetOfSsh",
    "MultiLayerAnchorLayer",
    "ProposalsOfSmallhardface",
    "ProposalsOfSsh",
    "RoIDataOfSmallhardface",
]

NOTHING = [[0, 0, 0, 16, 16]]  # the one row where no box is left


def _harder(object_scores: np.ndarray) -> Drop:
    """Return what drops the anchors whose label is easy to tell, by the scores of being an object [anchors]."""

    def drop(found: np.ndarray, count: int, label: int) -> np.ndarray:
        easy = object_scores[found] if label else -object_scores[found]
        return found[np.argsort(-easy, kind="stable")[:count]]

    return drop


@layer("SSH.layers.proposal_layer.ProposalLayer", dialect="ssh")
class ProposalsOfSsh(ProposalLayer):
    """The best boxes that scores and deltas of anchors describe: in TRAIN 300 after suppression, in TEST 1000 without.

    param_str: feat_stride, base_size, ratios, scales; the rest is that of default_config.yml.
    (mahyarnajibi/SSH, SSH/layers/proposal_layer.py)
    """

    def limits(self) -> tuple[int, int, float, float]:
        return (1000, 300, 0.3, 4) if self.phase == TRAIN else (1000, 0, 1, 0)


@layer("SSH.layers.anchor_target_layer.AnchorTargetLayer", dialect="ssh")
class AnchorTargetOfSsh(AnchorTargetLayer):
    """AnchorTargetLayer where an overlap of 0.5 makes an object; of 256 anchors 64 are objects at most.

    Bottom 4, if there is one, holds scores [1, 2A, H, W]: the anchors count whose labels are the hardest to tell.
    Without an anchor inside the image all count. (mahyarnajibi/SSH, SSH/layers/anchor_target_layer.py)
    """

    num_bottoms = (3, 5)
    each_has_one = False

    def sampling(self) -> tuple[int, int, float, float]:
        return 256, 64, self.settings.get("positive_overlap", 0.5), 0.3

    def inside(self, boxes: np.ndarray, image: np.ndarray, border: int) -> np.ndarray:
        found = super().inside(boxes, image, border)
        return found if found.size else np.arange(len(boxes))

    def dropping(self, bottoms: Sequence[np.ndarray], inside: np.ndarray, random: np.random.Generator) -> Drop:
        if len(bottoms) < 5:
            return super().dropping(bottoms, inside, random)
        scores = bottoms[4][:, len(self.anchors()) :]
        return _harder(by_place(scores, 1)[inside, 0])


# ---- smallhardface ---------------------------------------------------------------------------------------------------


def _shifted(s: Settings, at: Sequence[int]) -> np.ndarray:
    """Return anchors by ratio, by those of the scales and strides `at`, and by shifts of parts of a stride."""
    scales, strides = ([s[name][index] for index in at] for name in ("scales", "feat_stride"))
    shifts = np.asarray(s["shifts"], np.float64)
    y, x = (part.ravel() for part in np.meshgrid(shifts, shifts, indexing="ij"))
    grid = np.stack([x, y, x, y], 1) * np.array(strides, np.float64)[:, None, None]
    boxes = anchors(s["base_size"], s["ratios"], scales).reshape(-1, len(at), 1, 4)
    return (boxes + grid).reshape(-1, 4)


class _Listed:
    """Settings that are lists, an element for each scale."""

    settings: Settings
    error: Callable[[str], NetError]

    def stride(self) -> int:
        """Return the first stride: those of one map are alike."""
        return int(self.settings["feat_stride"][0])

    def anchors(self) -> np.ndarray:
        """Return the anchors of all scales."""
        scales, strides = self.settings["scales"], self.settings["feat_stride"]
        try:
            return _shifted(self.settings, range(len(scales)))
        except (TypeError, ValueError, IndexError) as error:
            raise self.error(f"expected a scale and a stride for each map, found {scales} and {strides}") from error


@layer("lib.layers.proposal_layer.ProposalLayer", dialect="smallhardface")
class ProposalsOfSmallhardface(_Listed, ProposalLayer):
    """The boxes of anchors whose score in TEST is 0.002 or more, 10000 of them at most, the best first; else the best.

    Bottoms: deltas [1, 4A, H, W] that are applied after the others, any number; scores [1, classes · A, H, W], deltas,
    image [1, 3]. Tops: rows [0, x1, y1, x2, y2] and scores [n, classes]. The reference's least score is not defined in
    TRAIN, and one box is left. (bairdzhang/smallhardface, lib/layers/proposal_layer.py)
    """

    config: ClassVar[Settings] = {**ProposalLayer.config, "shifts": [0], "subsampled": True, "num_feats": 1}
    num_bottoms = (3, None)

    def bottom_kinds(self) -> tuple[str, ...]:
        return (*("",) * (len(self.proto.bottom) - 1), "image")

    def check(self, bottoms: Sequence[Shape]) -> None:
        scores, deltas, count = bottoms[-3], bottoms[-2], self.settings["num_feats"] * len(self.anchors())
        if scores[:1] != (1,) or len(scores) != 4 or scores[1] % count:
            raise self.error(f"expected scores (1, classes · {count}, H, W), of one image; found shape {scores}")
        if deltas != (1, 4 * count, *scores[2:]):
            raise self.error(f"expected {4 * count} deltas per place for {count} anchors, found shape {deltas}")
        s = self.settings
        if s["subsampled"] and len(self.anchors()) > len(s["feat_stride"]) * len(s["shifts"]) ** 2:
            raise self.error("expected 'subsampled': False: with several ratios the reference finds no stride for some")

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        s, image = self.settings, bottoms[-1].reshape(-1)
        base, (height, width) = self.anchors(), bottoms[-3].shape[2:]
        boxes = np.repeat(at_places(base, height, width, self.stride()).astype(np.float32), s["num_feats"], 0)
        score = self.scores(bottoms[-3], len(base) * s["num_feats"])
        boxes = from_deltas(boxes, by_place(bottoms[-2], 4))
        for deltas in bottoms[:-3]:
            boxes = from_deltas(boxes - np.array([0, 0, 1, 1], boxes.dtype), by_place(deltas, 4))
        chosen = self.chosen(height, width)
        boxes, score = clipped(boxes, image)[chosen], score[chosen]
        is_large = large(boxes, (4 if self.phase == TRAIN else 0) * image[2])
        boxes, score = boxes[is_large], score[is_large]
        best = score[:, 1:].max(1, initial=0)
        kept = list(self.kept(boxes, np.argsort(-best, kind="stable"), best))
        rows = np.concatenate([np.zeros((len(kept), 1)), boxes[kept]], 1) if kept else np.array(NOTHING)
        return [rows.astype(np.float32), score[kept].astype(np.float32)][: self.top_count]

    def scores(self, scores: np.ndarray, count: int) -> np.ndarray:
        """Return the scores of all classes [places · anchors, classes]."""
        _, channels, height, width = scores.shape
        parts = scores.reshape(channels // count, count, height, width)
        return parts.transpose(2, 3, 1, 0).reshape(-1, channels // count)

    def chosen(self, height: int, width: int) -> np.ndarray:
        """Return which boxes count: of scales with a larger stride those at every second place, say."""
        s = self.settings
        if not s["subsampled"]:
            return np.arange(height * width * s["num_feats"] * len(self.anchors()))
        steps = np.array([stride // self.stride() for stride in s["feat_stride"]]).repeat(len(s["shifts"]) ** 2)
        y, x = np.indices((height, width))[..., None]
        return np.flatnonzero((y % steps == 0) & (x % steps == 0))

    def kept(self, boxes: np.ndarray, order: np.ndarray, best: np.ndarray) -> Iterable[int]:
        """Yield the boxes that are left, the best first."""
        if self.phase == TRAIN:
            return islice(suppress(boxes, order[:1], 0.3, extra=1), 300)
        count = max(int((best >= np.float32(0.002)).sum()), 1)
        return order[: min(count, 10000)]


@layer(OF_FACES, dialect="smallhardface")
class MultiLayerAnchorLayer(_Listed, AnchorTargetLayer):
    """Labels of anchors on several maps, and how their deltas should be: four tops for each map.

    Bottoms: maps of scores [1, classes · A, H, W], `source` names that of each scale; true boxes [G, 5], image [1, 3],
    data, index. An anchor has the class of the true box that it overlaps by 0.5 or more, 0 where it overlaps none by
    0.3; of 256 on a map a quarter are objects, with `ohem` those that are the hardest to tell. Deltas count where the
    overlap is 0.3 or more; their targets elsewhere are -1 within the image. Numbers of configs/default.toml;
    positive_overlap, a list like scales, fg_fraction and anchors_per_batch may be written.
    (bairdzhang/smallhardface, lib/layers/multi_layer_anchor_layer.py)
    """

    config: ClassVar[Settings] = {
        **ProposalLayer.config,
        "shifts": [0],
        "ohem": False,
        "source": [0],
        "fg_fraction": 0.25,
        "anchors_per_batch": 256,
    }
    num_bottoms: ClassVar[Count] = (5, None)
    num_tops: ClassVar[Count] = (4, None)

    @property
    def settings(self) -> Settings:  # type: ignore[override]
        """The settings by name."""
        found = super().settings
        count = len(found["source"]) if isinstance(found["source"], list | tuple) else 1
        return {"positive_overlap": [0.5] * count, **found}

    def check_lists(self) -> None:
        """Raise NetError unless all settings that are lists have a number for each scale."""
        source = self.settings["source"]
        for name in ("source", "scales", "feat_stride", "allowed_border", "positive_overlap"):
            found = self.settings.get(name)
            numbers = found if isinstance(found, list | tuple) else ()
            if len(numbers) != np.size(source) or not all(isinstance(number, int | float) for number in numbers):
                raise self.error(f"expected as many numbers in {name} as in source, {source}, found {found}")
        if any(bottom not in range(len(self.proto.bottom) - 2) for bottom in source):
            raise self.error(f"expected bottoms in source, from 0 to {len(self.proto.bottom) - 3}, found {source}")

    def levels(self) -> Mapping[int, Sequence[int]]:
        """Return the scales of each map, by its bottom."""
        source = self.settings["source"]
        return {bottom: [at for at, of in enumerate(source) if of == bottom] for bottom in dict.fromkeys(source)}

    def bottom_kinds(self) -> tuple[str, ...]:
        return (*("",) * len(self.levels()), "boxes", "image")

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check_lists()
        tops: list[Shape] = []
        for bottom, at in self.levels().items():
            count, x = len(_shifted(self.settings, at)), bottoms[bottom]
            if len(x) != 4 or x[0] != 1 or x[1] % count:
                raise self.error(f"expected maps (1, classes · {count}, H, W), of one image; found shape {x}")
            tops += [(1, 1, count * x[2], x[3]), *[(1, 4 * count, *x[2:])] * 3]
        return tuple(tops)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        levels = self.levels()
        truth, image = bottoms[len(levels)].reshape(-1, 5).astype(np.float64), bottoms[len(levels) + 1].reshape(-1)
        return [top for bottom, at in levels.items() for top in self.level(bottoms[bottom], at, truth, image, random)]

    def level(
        self, scores: np.ndarray, at: Sequence[int], truth: np.ndarray, image: np.ndarray, random: np.random.Generator
    ) -> Sequence[np.ndarray]:
        """Return the four tops of one map."""
        base, (height, width) = _shifted(self.settings, at), scores.shape[2:]
        boxes = at_places(base, height, width, self.settings["feat_stride"][at[0]])
        inside = self.inside(boxes, image, self.settings["allowed_border"][at[0]])
        inside = inside if inside.size else np.arange(len(boxes))
        table = overlaps(boxes[inside], truth[:, :4], 1)
        nearest, most = table.argmax(1), table.max(1)
        drop = _harder(_object_scores(scores, len(base))[inside]) if self.settings["ohem"] else _at_random(random)
        is_near = most >= 0.3
        targets = np.zeros((3, len(boxes), 4))
        targets[0, inside] = np.where(is_near[:, None], to_deltas(boxes[inside], truth[nearest, :4]), -1)
        targets[1, inside[is_near]] = 1
        targets[2, inside[is_near]] = 1 / max(is_near.sum(), 1)
        labels = np.full(len(boxes), -1.0)
        labels[inside] = self.classes_of(most, truth[nearest, 4], self.settings["positive_overlap"][at[0]], drop)
        return target_maps(labels, targets, height, width)

    def classes_of(self, most: np.ndarray, classes: np.ndarray, least: float, drop: Drop) -> np.ndarray:
        """Return the labels of anchors by how much they overlap a true box: its class from `least` on."""
        share, count = self.settings["fg_fraction"], self.settings["anchors_per_batch"]
        kind = np.where(most >= least, 1, np.where(most < 0.3, 0, -1))
        thin(kind, 1, int(share * count) if share >= 0 else len(kind), drop)
        thin(kind, 0, count - int((kind == 1).sum()), drop)
        return np.where(kind == 1, classes, kind)


def _object_scores(scores: np.ndarray, count: int) -> np.ndarray:
    """Return by anchor what the softmax of scores [1, classes · count, H, W] gives to all classes but the first."""
    _, channels, height, width = scores.shape
    parts = scores.reshape(channels // count, count, height, width).astype(np.float64)
    return (1 - softmax(parts, 0)[0]).transpose(1, 2, 0).ravel()


def _at_random(random: np.random.Generator) -> Drop:
    return lambda found, count, label: random.choice(found, count, replace=False)


@layer("roi_data_layer.layer.RoIDataLayer", dialect="smallhardface")
class RoIDataOfSmallhardface(RoIDataLayer):
    """An image of 2000 x 2000 at most, its size (height, width, scale), its true boxes, and its number.

    (bairdzhang/smallhardface, lib/roi_data_layer/layer.py)
    """

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return len(proto.top) == 4 and OF_FACES in types

    def written_shape(self, index: int) -> Shape | None:
        return ((1, 3, 2000, 2000), (1, 3), (1, 5), (1,))[index]
