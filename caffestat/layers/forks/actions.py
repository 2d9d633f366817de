"""Layers for the actions of persons: a region of the person beside many around it. (R*CNN, Gkioxari et al. 2015)"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.schema.forks import pose_pb2

from ..base import Layer, Shape, layer, of_four_axes
from ..data import Python
from ..loss import Loss, total
from ..reread import emit_closed, without_gradient
from .flow import check_images
from .proposals import read_settings
from .rois import bins, random_boxes

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "ActionRoIData",
    "ArgMaxC",
    "ExtractPrimary",
    "ScenePooling",
    "SecondaryRegionsOpScores",
    "SimilaryEuclideanLoss",
]

MAX, SUM = 0, 1


def first_largest(g: Graph, x: str, axis: int) -> str:
    """Emit the index of the first largest element along an axis, which stays with size 1; no gradient passes."""
    return without_gradient(g, [x], lambda value: [g.emit("ArgMax", value, axis=axis, keepdims=1)])[0]


@layer("action_roi_data_layer.layer.RoIDataLayer", dialect="pose")
class ActionRoIData(Python):
    """Images, 15 regions of each [regions, 5], labels [images], how many regions each has, and targets of boxes.

    Sizes are those of the configuration: two images of 600 x 1000. Its database is not read.
    (zimenglan-sysu-512/pose_action_caffe, lib/action_roi_data_layer/layer.py and lib/fast_rcnn/config_action.py)
    """

    IMAGES, REGIONS = 2, 15

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return 3 <= len(proto.top) <= 6

    def top_shape(self, index: int, name: str) -> Shape | None:
        if name in self.shape_overrides:
            return self.shape_overrides[name]
        images = self.batch_override or self.IMAGES
        regions = images * self.REGIONS
        width = 4 * int(read_settings(self.proto.python_param.param_str).get("num_classes", 21))
        return ((images, 3, 600, 1000), (regions, 5), (images,), (images,), *[(regions, width)] * 2)[index]

    def batches(self) -> Sequence[int]:
        return (self.IMAGES,)

    def alternatives(self) -> Iterable[tuple[Mapping[int, Shape], str]]:
        regions = 2 * (self.batch_override or self.IMAGES)
        widths = (shape[1:] for shape in self.tops([])[4:] if shape)
        shapes = {1: (regions, 5), **{index: (regions, *width) for index, width in enumerate(widths, 4)}}
        yield shapes, "by BATCH_SIZE in the configuration, for images with a person and a scene each"

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        images = self.top_shape(0, self.proto.top[0])
        if top != 1 or not images or len(shape) != 2 or shape[0] % images[0]:
            return None
        item = np.repeat(np.arange(images[0]), shape[0] // images[0])[:, None]
        return np.concatenate([item, random_boxes(len(item), images[2], images[3], random)], 1).astype(np.float32)


@layer("ExtractPrimary", dialect="pose")
class ExtractPrimary(Layer):
    """Of k rows for each of ims_per_batch images the first, [images, C, H, W], and the others, [(k - 1) images, …].

    (zimenglan-sysu-512/pose_action_caffe, extract_primary_layer.cpp)
    """

    adds = pose_pb2.LayerParameter
    num_tops = (2, 2)
    foreign_bottoms = (2, 2)
    passes_values = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        images, rows = self.in_batch(self.added.extract_primary_param.ims_per_batch), bottoms[0][:1]
        if not rows or len(bottoms[0]) > 4 or images < 1 or rows[0] % images or rows[0] == images:
            expected = f"rows for each of ims_per_batch {images} images, two or more"
            raise self.error(f"expected a bottom of up to 4 axes with {expected}, found shape {bottoms[0]}")
        rest = of_four_axes(bottoms[0])[1:]
        return (images, *rest), (rows[0] - images, *rest)

    def rebatched(self, bottoms: Sequence[Shape]) -> str:
        written = self.added.extract_primary_param.ims_per_batch
        taken = self.in_batch(written)
        return f"ims_per_batch {written} is taken as {taken}" if taken != written else ""

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        primary, secondary = self.tops([g.shape(bottoms[0])])
        images = primary[0]
        grouped = g.reshape(bottoms[0], images, -1, *primary[1:])
        most = g.shape(bottoms[0])[0] // images
        parts = [g.emit("Slice", grouped, g.ints(a), g.ints(b), g.ints(1)) for a, b in ((0, 1), (1, most))]
        return [g.reshape(part, *shape) for part, shape in zip(parts, (primary, secondary), strict=True)]


@layer("SecondaryRegionsOpScores", dialect="pose")
class SecondaryRegionsOpScores(Layer):
    """y = maximum, sum or mean of x over the n_secondary_regions rows of each image.

    Top 1 holds the row of the largest, top 2 its place among all of x. dx goes to the first largest, or to all rows,
    dy / n each, for the sum too. has_scene_branch takes one row off n. Bottom [n · images, …], tops [images, C, H, W].
    (zimenglan-sysu-512/pose_action_caffe, secondary_regions_op_scores_layer.cpp)
    """

    adds = pose_pb2.LayerParameter
    num_tops = (1, 3)
    foreign_bottoms = (2, 2)

    def regions(self) -> int:
        """Return how many rows each image has."""
        p = self.added.secondary_regions_op_scores_param
        return int(p.n_secondary_regions) - bool(p.has_scene_branch)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        count, p = self.regions(), self.added.secondary_regions_op_scores_param
        if not bottoms[0] or len(bottoms[0]) > 4 or count < 1 or bottoms[0][0] % count:
            raise self.error(f"expected a multiple of {count} rows of up to 4 axes, found shape {bottoms[0]}")
        if self.top_count > 1 and p.op_scores != MAX:
            raise self.error(f"has {self.top_count} tops; expected one, or op_scores: MAX")
        shape = of_four_axes(bottoms[0])
        return ((shape[0] // count, *shape[1:]),) * self.top_count

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = self.tops([g.shape(bottoms[0])])[0]
        grouped = g.reshape(bottoms[0], shape[0], self.regions(), *shape[1:])
        if self.added.secondary_regions_op_scores_param.op_scores != MAX:
            return [self.lower_mean(g, grouped)]
        best = first_largest(g, grouped, 1)
        y = g.reshape(g.emit("GatherElements", grouped, best, axis=1), *shape)
        return [y, *self.lower_places(g, g.reshape(best, *shape), shape)][: self.top_count]

    def lower_mean(self, g: Graph, grouped: str) -> str:
        is_sum = self.added.secondary_regions_op_scores_param.op_scores == SUM
        op, count = "ReduceSum" if is_sum else "ReduceMean", self.regions()

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            part = tape.emit("Unsqueeze", tape.emit("Div", dy, tape.constant(count)), tape.ints(1))
            return (tape.emit("Expand", part, tape.ints(*tape.shape(grouped))),)

        return emit_closed(g, [grouped], lambda x: g.emit(op, x, g.ints(1), keepdims=0), gradient)

    def lower_places(self, g: Graph, best: str, shape: Shape) -> Sequence[str]:
        """Emit the row of each largest element, and its place among all."""
        size = math.prod(shape[1:])
        first = np.arange(shape[0]).reshape(-1, *(1,) * 3) * self.regions()
        row = g.emit("Add", g.cast(best, np.float32), g.constant(first))
        within = np.arange(size).reshape(1, *shape[1:])
        return row, g.emit("Add", g.emit("Mul", row, g.constant(size)), g.constant(within))


@layer("SimilaryEuclideanLoss", dialect="pose")
class SimilaryEuclideanLoss(Loss):
    """y = s (learn_lr |a - b|² - loss_bias) / 2 for two rows a, b; s is 1 where their labels are equal, else -1.

    da = -db = s · learn_lr (a - b) · dy / 2 where y >= loss_thresh, else 0. The reference gives row 1 its gradient only
    where labels get one too, which they never do: db is 0.
    (zimenglan-sysu-512/pose_action_caffe, similary_euclidean_loss_layer.cpp)
    """

    adds = pose_pb2.LayerParameter

    def check(self, bottoms: Sequence[Shape]) -> None:
        if bottoms[0][:1] != (2,) or math.prod(bottoms[1]) != 2:
            raise self.error(f"expected two rows and two labels, found shapes {bottoms[0]} and {bottoms[1]}")
        if not self.added.HasField("similary_euclidean_loss_param"):
            raise self.error("expected similary_euclidean_loss_param, which may be empty")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 2 if bottom == 1 else None

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p, shape = self.added.similary_euclidean_loss_param, g.shape(bottoms[0])
        made: dict[str, str] = {}

        def forward(x: str, labels: str) -> str:
            rows, labels = g.reshape(x, 2, -1), g.cast(g.reshape(labels, 2), np.int64)
            a, b = (g.emit("Gather", rows, g.constant(i, np.int64), axis=0) for i in (0, 1))
            one, other = (g.emit("Gather", labels, g.constant(i, np.int64), axis=0) for i in (0, 1))
            sign = g.emit("Where", g.emit("Equal", one, other), g.constant(1), g.constant(-1))
            d = g.emit("Sub", a, b)
            pull = g.emit("Mul", total(g, g.emit("Mul", d, d)), g.constant(p.learn_lr))
            y = g.emit("Mul", g.emit("Mul", sign, g.constant(0.5)), g.emit("Sub", pull, g.constant(p.loss_bias)))
            made.update(d=d, sign=sign, y=y)
            return y

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            counts = tape.emit("GreaterOrEqual", made["y"], tape.constant(p.loss_thresh))
            scale = tape.emit("Mul", tape.emit("Mul", dy, made["sign"]), tape.constant(p.learn_lr / 2))
            da = tape.emit("Mul", made["d"], tape.emit("Where", counts, scale, tape.constant(0)))
            both = tape.emit("Mul", tape.emit("Unsqueeze", da, tape.ints(0)), tape.constant([[1], [0]]))
            return tape.reshape(tape.declare(both, (2, math.prod(shape[1:]))), *shape), None

        return [emit_closed(g, bottoms, forward, gradient)] * self.top_count


@layer("ScenePooling", dialect="pose")
class ScenePooling(Layer):
    """y = max of x over each of pooled_h · pooled_w bins of the whole map; dx goes to the first largest.

    (zimenglan-sysu-512/pose_action_caffe, scene_pooling_layer.cu)
    """

    adds = pose_pb2.LayerParameter
    passes_signal = True

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.scene_pooling_param

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        size = self.settings.pooled_h, self.settings.pooled_w
        if min(size) < 1:
            raise self.error(f"expected positive pooled_h and pooled_w, found {size}")
        return ((*check_images(self, bottoms[0])[:2], *size),)

    def places(self, height: int, width: int) -> np.ndarray:
        """Return the places of each bin [pooled_h · pooled_w, most]; a bin's first stands for those that it lacks."""
        sides = zip((height, width), (self.settings.pooled_h, self.settings.pooled_w), strict=True)
        edges = [bins(np.zeros(1, np.float32), np.array([size], np.float32), count, size) for size, count in sides]
        (tops, bottoms), (lefts, rights) = ((low[0], high[0]) for low, high in edges)
        found = [
            (np.arange(a, b)[:, None] * width + np.arange(c, d)).ravel()
            for a, b in zip(tops, bottoms, strict=True)
            for c, d in zip(lefts, rights, strict=True)
        ]
        most = max(map(len, found))
        return np.array([np.concatenate([one, np.full(most - len(one), one[0])]) for one in found])

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        n, channels, height, width = g.shape(bottoms[0])
        flat = g.reshape(bottoms[0], n, channels, height * width)
        gathered = g.emit("Gather", flat, g.constant(self.places(height, width), np.int64), axis=2)
        best = first_largest(g, gathered, 3)
        return [g.reshape(g.emit("GatherElements", gathered, best, axis=3), *self.tops([g.shape(bottoms[0])])[0])]


@layer("ArgMaxC", dialect="pose")
class ArgMaxC(Layer):
    """The first channel with the largest value at each place, [N, 1, H, W], and with out_max_val that value.

    No gradient.
    (zimenglan-sysu-512/pose_action_caffe, argmaxc_layer.cpp)
    """

    adds = pose_pb2.LayerParameter

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, _, height, width = check_images(self, bottoms[0])
        return ((n, 1 + self.added.arg_max_c_param.out_max_val, height, width),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        def forward(x: str) -> Sequence[str]:
            best = g.cast(g.emit("ArgMax", x, axis=1, keepdims=1), np.float32)
            if not self.added.arg_max_c_param.out_max_val:
                return (best,)
            return (g.emit("Concat", best, g.emit("ReduceMax", x, g.ints(1), keepdims=1), axis=1),)

        return without_gradient(g, bottoms, forward)
