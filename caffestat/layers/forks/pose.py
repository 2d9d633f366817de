"""Layer types for human poses: heat maps of joints and their coordinates. (zimenglan-sysu-512/pose_action_caffe)

"Info" of images is a blob [N, 5, 1, 1] of index, width, height, scale, and whether the image is mirrored. Sizes of some
tops stand there: they are unknown until data is read, unless the user gives them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.fillers import Stream, bernoulli
from caffestat.lazy import np
from caffestat.schema.forks import pose_pb2

from ..base import TRAIN, Layer, Move, Shape, layer, of_four_axes
from ..loss import Loss, total
from ..neuron import Neuron
from ..reread import emit_closed, without_gradient
from ..shape import Sink
from .flow import check_images
from .interpolation import Resize
from .proposals import read_settings

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "CoordsFromHeatMaps",
    "CoordsToBboxesMasks",
    "CrossBlobsSum",
    "HeatMapsFromCoordsOrigin",
    "PoseEuDistAccuracy",
    "PoseHeatMapLoss",
    "PosePDJAccuracy",
    "PoseResize",
    "RescaledPoseCoords",
    "SpatialDropout",
    "SpatialDropoutOfEnet",
    "TorsoMaskFromCoords",
    "Visualized",
]

INFO = (5, 1, 1)
VISIBLE = np.float32(1e-4)  # above it a place of a heat map counts as one of the joint


def check_coordinates(layer: Layer, shape: Shape) -> Shape:
    """Return the shape of a bottom of x and y. Raises NetError unless it is (N, 2 · joints, 1, 1)."""
    if len(shape) not in (2, 4) or math.prod(shape[2:]) != 1 or shape[1] % 2 or min(shape) < 1:
        raise layer.error(f"expected coordinates (N, 2 · joints, 1, 1), found shape {shape}")
    return shape


def check_info(layer: Layer, shape: Shape, n: int) -> None:
    """Raise NetError unless a bottom is the info of n images."""
    if shape[:1] != (n,) or (*shape[1:], 1, 1)[:3] != INFO or math.prod(shape[2:]) != 1:
        raise layer.error(f"expected info of shape {(n, *INFO)}, found {shape}")


@layer("Resize", dialect="pose")
class PoseResize(Resize):
    """Bilinear interpolation at y · H / H', x · W / W'; neighbours beyond the last row or column count as 0.

    The size is that of bottom 1, or height and width, or height_fac and width_fac times the bottom's.
    (zimenglan-sysu-512/pose_action_caffe, resize_layer.cpp and util_img.cpp)
    """

    adds = pose_pb2.LayerParameter
    num_bottoms = (1, 2)
    like: Shape | None = None  # the shape of bottom 1

    def size(self, shape: Shape) -> tuple[int, int]:
        if self.like:
            return self.like[2], self.like[3]
        p = self.added.resize_param
        if p.HasField("height") and p.HasField("width"):
            return p.height, p.width
        if not (p.HasField("height_fac") and p.HasField("width_fac")):
            raise self.error("expected a second bottom, height and width, or height_fac and width_fac in resize_param")
        return self.times(shape, p.height_fac, p.width_fac)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if len(bottoms) == 2:
            if math.prod(bottoms[1]) == 4:
                raise self.error("a second bottom of four values, which hold the size, is not supported")
            self.like = check_images(self, bottoms[1])
        return super().tops(bottoms[:1])

    def place_map(self, bottoms: Sequence[Shape]) -> Move | None:
        (out,) = self.tops(bottoms)
        return tuple((Fraction(new, old), Fraction(0)) for new, old in zip(out[2:], bottoms[0][2:], strict=True))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        self.like = g.shape(bottoms[1]) if len(bottoms) == 2 else None
        return super().lower(g, bottoms[:1], params)


@layer("SpatialDropout", dialect="pose")
class SpatialDropout(Neuron):
    """TRAIN: y = x · mask / (1 - dropout_ratio), one mask bit for each plane; TEST: y = x.

    (zimenglan-sysu-512/pose_action_caffe, spatial_dropout_layer.cpp)
    """

    adds = pose_pb2.LayerParameter
    passes_signal = True

    def ratio(self) -> float:
        """Return the share of planes that are dropped. Raises NetError for one that no dropout can have."""
        ratio = self.added.spatial_dropout_param.dropout_ratio
        if not 0 <= ratio < 1:
            raise self.error(f"expected a dropout_ratio of at least 0 and below 1, found {ratio:g}")
        return float(np.float32(ratio))

    def drops(self) -> bool:
        """Tell whether planes are dropped in this phase."""
        return self.phase == TRAIN

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.ratio()
        return (check_images(self, bottoms[0]),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if not self.drops():
            return (bottoms[0],)
        mask = g.input(f"{self.name}/mask", (*g.shape(bottoms[0])[:2], 1, 1))
        return (g.emit("Mul", bottoms[0], mask),)

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        if not self.drops():
            return ()
        keep = 1.0 - self.ratio()
        bits = bernoulli(stream, math.prod(bottoms[0][:2]), keep, np.float64)
        return ((bits * np.float32(1 / keep)).astype(np.float32).reshape(*bottoms[0][:2], 1, 1),)


@layer("spatial_dropout.SpatialDropoutLayer", dialect="enet")
class SpatialDropoutOfEnet(SpatialDropout):
    """y = x · mask / (1 - p), one mask bit for each plane, with 'phase': 'TRAIN' in param_str; else y = x / (1 - p).

    What numpy draws is not reproduced. (TimoSaemann/caffe-enet, spatial_dropout.py)
    """

    adds = None  # type: ignore[assignment]  # python_param holds all

    def settings(self) -> dict[str, Any]:
        """Return the settings of param_str."""
        return read_settings(self.proto.python_param.param_str)

    def ratio(self) -> float:
        try:
            ratio = float(self.settings()["p"])
        except (KeyError, TypeError, ValueError):
            ratio = -1.0
        if not 0 < ratio < 1:
            raise self.error("expected a param_str with 'p' between 0 and 1")
        return ratio

    def drops(self) -> bool:
        return self.settings().get("phase") == "TRAIN"

    @property
    def left_out(self) -> str:
        return "the random planes that numpy drops are not reproduced; others are dropped" if self.drops() else ""

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        if self.drops():
            return super().lower(g, bottoms, params)
        return (g.emit("Mul", bottoms[0], g.constant(1 / (1 - self.ratio()))),)


@layer("CrossBlobsSum", dialect="pose")
class CrossBlobsSum(Layer):
    """y = the sum of all bottoms, of one shape but for axes of size 1 at the end; y has 4 axes.

    (zimenglan-sysu-512/pose_action_caffe, cross_blobs_sum_layer.cpp)
    """

    num_bottoms = (1, None)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        shapes = set(map(of_four_axes, bottoms))
        if len(shapes) > 1 or len(max(shapes)) > 4:
            raise self.error(f"expected bottoms of one shape of up to 4 axes, found {', '.join(map(str, bottoms))}")
        return tuple(shapes)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (shape,) = self.tops([g.shape(bottom) for bottom in bottoms])
        return (g.emit("Sum", *(g.reshape(bottom, *shape) for bottom in bottoms), hint=self.name),)


@layer("CoordsFromHeatMaps", dialect="pose")
class CoordsFromHeatMaps(Layer):
    """x and y of the largest element of each heat map, times heat_map_a, plus heat_map_b: [N, 2C, 1, 1]; and its value.

    With top_k both are the means over the largest, cut to integers. Bottom 1 holds a and b in their stead. No gradient.
    (zimenglan-sysu-512/pose_action_caffe, coords_from_heat_map_layer.cpp)
    """

    adds = pose_pb2.LayerParameter
    num_bottoms = (1, 2)
    num_tops = (1, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        n, joints, _, _ = check_images(self, bottoms[0])
        if len(bottoms) == 2 and (self.added.HasField("pose_coords_from_heat_maps_param") or math.prod(bottoms[1]) < 2):
            raise self.error("expected a second bottom of two values or pose_coords_from_heat_maps_param, not both")
        return ((n, 2 * joints, 1, 1), (n, joints, 1, 1))[: self.top_count]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        n, joints, height, width = g.shape(bottoms[0])
        p, count = self.added.pose_coords_from_heat_maps_param, height * width

        def forward(x: str, *numbers: str) -> Sequence[str]:
            maps = g.reshape(x, n, joints, count)
            most = g.ints(min(p.top_k, count) if p.top_k > 0 else 1)
            values, index = g.emit_many("TopK", maps, most, count=2, axis=2)
            places = g.cast(index, np.float32)
            row = g.emit("Floor", g.emit("Div", g.emit("Add", places, g.constant(0.25)), g.constant(width)))
            column = g.emit("Sub", places, g.emit("Mul", row, g.constant(width)))
            shift = g.constant(0.25 / max(p.top_k, 1))  # so that no rounding error crosses a whole number
            means = [g.emit("ReduceMean", part, g.ints(2), keepdims=1) for part in (column, row)]
            means = [g.emit("Floor", g.emit("Add", mean, shift)) for mean in means]
            both = g.emit("Concat", *means, axis=2)
            a, b = self.numbers(g, numbers)
            top = g.emit("Add", g.emit("Mul", both, a), b)
            score = g.emit("ReduceMean", values, g.ints(2), keepdims=1)
            return [g.reshape(top, n, 2 * joints, 1, 1), g.reshape(score, n, joints, 1, 1)][: self.top_count]

        return without_gradient(g, bottoms, forward)

    def numbers(self, g: Graph, given: Sequence[str]) -> list[str]:
        """Emit a and b."""
        p = self.added.pose_coords_from_heat_maps_param
        if not given:
            return [g.constant(p.heat_map_a), g.constant(p.heat_map_b)]
        flat = g.cast(g.cast(g.reshape(given[0], -1), np.int64), np.float32)
        return [g.emit("Gather", flat, g.constant(index, np.int64), axis=0) for index in (0, 1)]


@layer("RescaledPoseCoords", dialect="pose")
class RescaledPoseCoords(Layer):
    """x and y divided by the image's scale, mirrored back where it is mirrored; -1 for those outside of it.

    Bottoms: coordinates and info. No gradient.
    (zimenglan-sysu-512/pose_action_caffe, rescaled_pose_coords_layer.cpp)
    """

    num_bottoms = (2, 2)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        check_info(self, bottoms[1], check_coordinates(self, bottoms[0])[0])
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape = g.shape(bottoms[0])

        def forward(points: str, info: str) -> Sequence[str]:
            of_image = g.reshape(info, shape[0], 5, 1)
            width, height, scale, mirrored = (
                g.emit("Gather", of_image, g.constant(index, np.int64), axis=1) for index in (1, 2, 3, 4)
            )
            pairs = g.emit("Div", g.reshape(points, shape[0], -1, 2), g.emit("Unsqueeze", scale, g.ints(1)))
            x, y = (g.emit("Gather", pairs, g.constant(index, np.int64), axis=2) for index in (0, 1))
            back = g.emit("Sub", g.emit("Sub", width, g.constant(1)), x)
            is_mirrored = g.emit("Not", g.emit("Equal", mirrored, g.constant(0)))
            parts = []
            for value, place, most in ((g.emit("Where", is_mirrored, back, x), x, width), (y, y, height)):
                is_outside = g.emit("GreaterOrEqual", place, most)
                shown = g.emit("Where", is_outside, g.constant(-1), value)
                parts.append(g.emit("Unsqueeze", shown, g.ints(2)))
            return (g.reshape(g.emit("Concat", *parts, axis=2), *shape),)

        return without_gradient(g, bottoms, forward)


class _Sized(Layer):
    """A layer whose top 0 has the size that the info of the images says: the largest width and height times scale."""

    adds = pose_pb2.LayerParameter
    num_bottoms = (2, 2)
    decides = True
    sized_by_images = True

    def shape_source(self) -> str:
        return f"in the values of {self.proto.bottom[1]!r}"

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape | None, ...]:
        n = check_coordinates(self, bottoms[0])[0]
        check_info(self, bottoms[1], n)
        if self.decisions is not None:
            return tuple(array.shape for array in self.decisions)[: self.top_count]
        wanted = (n, self.maps(bottoms[0]))
        maps = self.map_shape(wanted)
        if maps is not None and (len(maps) != 4 or maps[:2] != wanted):
            raise self.error(f"expected shape {(*wanted, 'height', 'width')} for its top, found {maps}")
        return (maps, *self.others(bottoms[0]))[: self.top_count]

    def map_shape(self, wanted: Shape) -> Shape | None:
        """Return the shape of top 0 until it is decided: the user's, else that of maps as large as the images."""
        assumed = (*wanted, *self.image_size) if self.image_size else None
        return self.shape_overrides.get(self.proto.top[0], assumed)

    def maps(self, points: Shape) -> int:
        """Return how many maps each item has."""
        raise NotImplementedError

    def others(self, points: Shape) -> Sequence[Shape]:
        """Return the shapes of further tops."""
        return ()

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return self.input_decisions(g)[: self.top_count]

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        maps = self.map_shape((1, 1))
        if maps is None:
            return None
        if bottom == 0:
            share = random.uniform(0.1, 0.9, (math.prod(bottoms[0]) // 2, 2))
            return np.asarray(share * (maps[3], maps[2])).reshape(bottoms[0])
        info = [(item, maps[3], maps[2], 1, 0) for item in range(bottoms[1][0])]
        return np.array(info, np.float32).reshape(bottoms[1])

    def size(self, info: np.ndarray) -> tuple[int, int]:
        """Return height and width of the top."""
        scaled = info[:, 1:3] * info[:, 3:4]
        width, height = (int(value) for value in scaled.max(0))
        if min(width, height) < 1:
            raise self.error(f"expected a positive size of the images, found {width} x {height}")
        return height, width


@layer("HeatMapsFromCoordsOrigin", dialect="pose")
class HeatMapsFromCoordsOrigin(_Sized):
    """A disc around each joint: 1, or exp((dx² + dy²) / -2σ²) around gau_mean; 0 elsewhere. No gradient.

    Top 1 [N, joints, 1, 1] tells which joints lie in their image; top 2 [4, 1, 1, 1] holds width, height, 1, 0.
    Bottoms: coordinates and info. The reference's exponent has the sign of its square, as it is divided by -2σ² and
    negated: the disc's values grow towards its edge.
    (zimenglan-sysu-512/pose_action_caffe, heat_maps_from_coords_origin_layer.cpp)
    """

    num_tops = (2, 3)

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.heat_maps_from_coords_origin_param

    def radii(self, joints: int) -> list[int]:
        """Return the radius of each joint's disc."""
        p = self.settings
        if p.HasField("radius") == p.HasField("radius_str"):
            raise self.error("expected either radius or radius_str in heat_maps_from_coords_origin_param")
        written = p.radius_str.split(",") if p.HasField("radius_str") else [str(p.radius)] * joints
        if len(written) != joints or not all(part.strip().isdigit() for part in written):
            raise self.error(f"expected a radius for each of {joints} joints, found {p.radius_str!r}")
        return [int(part) for part in written]

    def maps(self, points: Shape) -> int:
        return len(self.radii(points[1] // 2))

    def others(self, points: Shape) -> Sequence[Shape]:
        return (points[0], points[1] // 2, 1, 1), (4, 1, 1, 1)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        points, info = bottoms[0].reshape(len(bottoms[0]), -1, 2), bottoms[1].reshape(-1, 5)
        (height, width), joints = self.size(info), points.shape[1]
        maps, seen = np.zeros((len(points), joints, height, width), np.float32), np.ones((len(points), joints, 1, 1))
        for (item, joint), radius in zip(np.ndindex(points.shape[:2]), self.radii(joints) * len(points), strict=True):
            most = info[item, 1:3] * info[item, 3]
            center = points[item, joint]
            is_inside = bool(((center >= 0) & (center < most)).all())
            seen[item, joint] = is_inside and self.draw(maps[item, joint], center, most, radius)
        return maps, seen.astype(np.float32), np.array([width, height, 1, 0], np.float32).reshape(4, 1, 1, 1)

    def draw(self, target: np.ndarray, center: np.ndarray, most: np.ndarray, radius: int) -> bool:
        """Draw a disc; return whether any of it lies in the image."""
        p = self.settings
        steps = np.arange(-radius, radius + 1)
        dy, dx = (part.ravel() for part in np.meshgrid(steps, steps, indexing="ij"))
        x, y = center[0] + dx.astype(np.float32), center[1] + dy.astype(np.float32)
        kept = (dx**2 + dy**2 <= radius**2) & (x >= 0) & (x < most[0]) & (y >= 0) & (y < most[1])
        square = (dx - p.gau_mean) ** 2 + (dy - p.gau_mean) ** 2
        values = np.ones(len(x)) if p.is_binary else np.exp(-square / (p.gau_stds**2 * -2))
        place = y[kept].astype(int), x[kept].astype(int)
        np.maximum.at(target, place, values[kept].astype(np.float32))
        return bool(kept.any())


@layer("CoordsToBboxesMasks", dialect="pose")
class CoordsToBboxesMasks(_Sized):
    """A mask [N, 1, H, W] of `value` in a box, 0 elsewhere: that of two joints, or of all where an id is negative.

    One of two pairs of joints is drawn, and perturb_num moves its corners; the random numbers are not the reference's.
    Bottoms: coordinates and info. No gradient.
    (zimenglan-sysu-512/pose_action_caffe, coords_to_bboxes_masks_layer.cpp)
    """

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.coord_to_bbox_masks_param

    @property
    def left_out(self) -> str:
        return "its random numbers are not reproduced: the pair of joints and the shifts of corners differ"

    def pairs(self) -> list[tuple[int, int]]:
        """Return the pairs of joints whose box is masked; none for the box of all."""
        p = self.settings
        ids = p.top_id, p.top_id2, p.bottom_id, p.bottom_id2
        if not all(p.HasField(name) for name in ("top_id", "top_id2", "bottom_id", "bottom_id2", "value")):
            raise self.error("expected top_id, top_id2, bottom_id, bottom_id2 and value in coord_to_bbox_masks_param")
        if min(ids) < 0 or p.top_id == p.bottom_id or p.top_id2 == p.bottom_id2:
            return []
        return [(p.top_id, p.bottom_id), (p.top_id2, p.bottom_id2)]

    def maps(self, points: Shape) -> int:
        if any(index >= points[1] // 2 for pair in self.pairs() for index in pair):
            raise self.error(f"expected ids below {points[1] // 2}, found {self.pairs()}")
        return 1

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        points, info = bottoms[0].reshape(len(bottoms[0]), -1, 2), bottoms[1].reshape(-1, 5)
        height, width = self.size(info)
        masks, pairs = np.zeros((len(points), 1, height, width), np.float32), self.pairs()
        for item, joints in enumerate(points):
            chosen = joints[list(pairs[1 - int(random.integers(2))])] if pairs else joints
            corners = np.concatenate([chosen.min(0), chosen.max(0)]) if not pairs else chosen.ravel().copy()
            if (corners <= 0).all() or (corners >= np.array([width, height] * 2)).all():
                continue
            x, y = np.sort((corners + self.moves(random)).reshape(2, 2), axis=0).T
            if x[0] >= 0 and x[1] < width and y[0] >= 0 and y[1] < height:
                masks[item, 0, int(y[0]) : math.floor(y[1]) + 1, int(x[0]) : math.floor(x[1]) + 1] = self.settings.value
        return (masks,)

    def moves(self, random: np.random.Generator) -> np.ndarray:
        """Return by how much the corners x1, y1, x2, y2 move."""
        most = self.settings.perturb_num
        if most <= 0:
            return np.zeros(4)
        a, b, c, d = random.integers(-most, most + 1, 4)
        kinds = [(a, 0, 0, 0), (0, a, 0, 0), (0, 0, a, 0), (0, 0, 0, a)]
        more = [(a, a, 0, 0), (0, 0, a, a), (a, a, b, b), (a, b, c, d)]
        kind = int(random.integers(20))
        if 1 <= kind <= 8:
            return np.array(kinds[(kind - 1) // 2])
        return np.array(more[(kind - 11) // 2]) if 11 <= kind <= 18 else np.zeros(4)


@layer("TorsoMaskFromCoords", dialect="pose")
class TorsoMaskFromCoords(CoordsToBboxesMasks):
    """CoordsToBboxesMasks whose corners all move, each by up to perb_num, where that is written and above 1.

    (zimenglan-sysu-512/pose_action_caffe, torso_mask_from_coords.cpp)
    """

    @property
    def settings(self) -> Any:
        return self.added.torso_mask_from_coords_param

    def moves(self, random: np.random.Generator) -> np.ndarray:
        p = self.settings
        most = p.perb_num if p.HasField("perb_num") and p.perb_num > 1 else 0
        return random.integers(-most, most + 1, 4)


@layer("PoseHeatMapLoss", dialect="pose")
class PoseHeatMapLoss(Loss):
    """y = Σ d², d = w · (a - b); da = -db = d · dy / N, times the mask of bottom 2 [N, joints, 1, 1].

    w depends on loss_emphase_type. 0: 1. 1: 1 for joints (b > 1e-4), else 0. 2: fg_eof for joints, else 1. 3: 1 for
    joints, bg_eof for a drawn share `ratio` of the rest; of others 1 for one in prob_num of those that a takes for
    joints, else 0. 4: 3 with fg_eof for joints. 5: 3, but of those that a takes for joints the largest d, at most
    `ratio` of the map, are all kept. The random numbers are not the reference's.
    (zimenglan-sysu-512/pose_action_caffe, pose_heat_map_loss_layer.cpp)
    """

    adds = pose_pb2.LayerParameter
    num_bottoms = (2, 3)
    decides = True
    decisive = slice(0, 2)

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.pose_heat_map_loss_param

    @property
    def left_out(self) -> str:
        draws = self.settings.loss_emphase_type > 2
        return "its random numbers are not reproduced: the selected places differ" if draws else ""

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom < 2

    def check(self, bottoms: Sequence[Shape]) -> None:
        p = self.settings
        n, joints, _, _ = check_images(self, bottoms[0])
        if bottoms[0] != bottoms[1]:
            raise self.error(f"expected two bottoms of one shape, found {bottoms[0]} and {bottoms[1]}")
        if len(bottoms) == 3 and (bottoms[2][:2] != (n, joints) or math.prod(bottoms[2][2:]) != 1):
            raise self.error(f"expected a mask of shape {(n, joints, 1, 1)}, found {bottoms[2]}")
        if p.HasField("ratio") == p.HasField("bg_num") or p.prob_num < 1:
            raise self.error("expected either ratio or bg_num, and a positive prob_num, in pose_heat_map_loss_param")
        if p.loss_emphase_type > 5:
            raise self.error(f"expected a loss_emphase_type of at most 5, found {p.loss_emphase_type}")

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        found, wanted = bottoms
        p, is_joint = self.settings, wanted > VISIBLE
        kind, weights = p.loss_emphase_type, np.ones(found.shape, np.float32)
        if kind == 1:
            weights = is_joint.astype(np.float32)
        elif kind == 2:
            weights[is_joint] = p.fg_eof
        elif kind > 2:
            weights = self.drawn(found, wanted, is_joint, random)
        return (weights,)

    def drawn(
        self, found: np.ndarray, wanted: np.ndarray, is_joint: np.ndarray, random: np.random.Generator
    ) -> np.ndarray:
        """Return the weights of the types that draw some places outside of joints."""
        p, size = self.settings, found[0, 0].size
        ratio = p.ratio if p.HasField("ratio") else p.bg_num / size
        is_chosen = random.random(found.shape) < ratio
        is_hard = ~is_joint & ~is_chosen & (found >= np.float32(p.heat_score_thres))
        stays = random.integers(0, p.prob_num, found.shape) == 0
        if p.loss_emphase_type == 5:
            differences = np.where(is_hard, found - wanted, -np.inf).reshape(-1, size)
            order = np.argsort(-differences, axis=1, kind="stable")
            rank = np.empty_like(order)
            np.put_along_axis(rank, order, np.broadcast_to(np.arange(size), order.shape), 1)
            stays |= (rank < int(size * ratio)).reshape(found.shape)
        weight = p.fg_eof if p.loss_emphase_type == 4 else 1
        rest = np.where(is_chosen, p.bg_eof, is_hard & stays)
        return np.where(is_joint, weight, rest).astype(np.float32)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (weights,), n, made = self.input_decisions(g), g.shape(bottoms[0])[0], dict[str, str]()

        def forward(a: str, b: str, *_: str) -> str:
            made["d"] = g.emit("Mul", g.emit("Sub", a, b), weights)
            return total(g, g.emit("Mul", made["d"], made["d"]))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            da = tape.emit("Mul", made["d"], tape.emit("Div", dy, tape.constant(n)))
            if len(bottoms) == 3:
                mask = tape.reshape(bottoms[2], *tape.shape(bottoms[0])[:2], 1, 1)
                da = tape.emit("Mul", da, mask)
            return [da, tape.emit("Neg", da), None][: len(bottoms)]

        return (emit_closed(g, bottoms, forward, gradient),)


class _PoseAccuracy(Layer):
    """The squared distance of coordinates, and what the shares of detected joints need that the reference writes."""

    adds = pose_pb2.LayerParameter
    num_bottoms = (2, 2)
    message: ClassVar[str]  # its own parameters
    required: ClassVar[tuple[str, ...]] = (  # fields that the file must have, whatever their defaults
        "acc_factor",
        "acc_factor_num",
        "images_num",
        "acc_path",
        "acc_name",
        "log_name",
    )

    @property
    def settings(self) -> Any:
        return getattr(self.added, self.message)

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return any(needed)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        missing = [name for name in self.required if not self.settings.HasField(name)]
        if missing:
            raise self.error(f"expected {', '.join(missing)} in {self.message}")
        check_coordinates(self, bottoms[0])
        if bottoms[0] != bottoms[1]:
            raise self.error(f"expected two bottoms of one shape, found {bottoms[0]} and {bottoms[1]}")
        self.check_settings(bottoms[0][1] // 2)
        return ((1, 1, 1, 1),)

    def check_settings(self, joints: int) -> None:
        """Raise NetError for settings that the reference refuses."""
        raise NotImplementedError

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        n = g.shape(bottoms[0])[0]

        def forward(a: str, b: str) -> Sequence[str]:
            d = g.emit("Sub", a, b)
            return (g.reshape(g.emit("Div", total(g, g.emit("Mul", d, d)), g.constant(n)), 1, 1, 1, 1),)

        return without_gradient(g, bottoms, forward)


@layer("PosePDJAccuracy", dialect="pose")
class PosePDJAccuracy(_PoseAccuracy):
    """y = Σ (a - b)² / N of coordinates, [1, 1, 1, 1]; no gradient.

    The shares of detected joints that the reference writes to a file are left out.
    (zimenglan-sysu-512/pose_action_caffe, pose_pdj_accuracy_layer.cpp)
    """

    message = "pose_pdj_accuracy_param"
    required = (*_PoseAccuracy.required, "shoulder_id", "hip_id")

    def check_settings(self, joints: int) -> None:
        p = self.settings
        most = int(1 / p.acc_factor) if 0 < p.acc_factor <= 1 else 0
        if not 0 < p.acc_factor_num < most:
            raise self.error(
                "expected an acc_factor above 0, up to 1, and an acc_factor_num of at least 1, below 1 / acc_factor, "
                f"found {p.acc_factor:g} and {p.acc_factor_num}"
            )
        if not (0 <= p.shoulder_id < joints and 0 <= p.hip_id < joints):
            raise self.error(f"expected ids of 0 to {joints - 1}, found {p.shoulder_id} and {p.hip_id}")


@layer("PoseEuDistAccuracy", dialect="pose")
class PoseEuDistAccuracy(_PoseAccuracy):
    """y = Σ (a - b)² / N of coordinates, [1, 1, 1, 1]; no gradient.

    The shares of detected joints that the reference writes to a file are left out.
    (zimenglan-sysu-512/pose_action_caffe, pose_eudist_accuracy_layer.cpp)
    """

    message = "pose_eudist_accuracy_param"

    def check_settings(self, joints: int) -> None:
        if not 1 < self.settings.acc_factor_num <= 100:
            raise self.error(f"expected an acc_factor_num of 2 to 100, found {self.settings.acc_factor_num}")


@layer("VisualizedHeatMaps2", "VisualizedPoseCoords", dialect="pose")
class Visualized(Sink):
    """No top: the reference writes pictures, this does not. The last bottom is info.

    (zimenglan-sysu-512/pose_action_caffe, visualized_heat_maps2_layer.cpp)
    """

    adds = pose_pb2.LayerParameter
    num_bottoms = (2, None)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        check_info(self, bottoms[-1], bottoms[0][0] if bottoms[0] else 0)
        return ()
