"""Layer types of SSD, the single-shot detector. (weiliu89/caffe, branch ssd)"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.errors import InputError, Place, SourceError
from caffestat.files import read_regular
from caffestat.fillers import Filler
from caffestat.float32 import FLT_MIN, rounded
from caffestat.lazy import np
from caffestat.prototext import parse
from caffestat.schema import from_document
from caffestat.schema.forks import ssd_pb2

from ..base import TEST, Layer, Param, Shape, layer, of_four_axes, to_filler
from ..data import Images
from ..loss import BATCH_SIZE, FULL, NONE, VALID, Normalized, cross_entropies
from ..reread import emit_closed, without_gradient
from .boxes import CORNER, decode, suppress
from .detection_files import FORMATS, DetectionFiles, listed_sizes
from .detections import FAKE_ROW, Size, detect, evaluate
from .multibox import HARD_EXAMPLE, LOGISTIC, Matches, match
from .rois import random_boxes
from .staged import Computed

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "AnnotatedData",
    "DetectionEvaluate",
    "DetectionOutput",
    "DetectionOutputExtended",
    "MultiBoxLoss",
    "Normalize",
    "Permute",
    "PriorBox",
    "PriorBoxClustered",
    "StretchedPriorBox",
    "YoloAnnotatedData",
]

SHARED = -1  # the label of locations that all classes share
L2 = 0
PLACED_ROW = 10  # values of a detection with its anchor, column and row
MOST_PIXELS, LEAST_RATIO = 2**31, 1e-9  # of boxes that are written
BOX_ROW, POINT_ROW = 8, 11  # values of a true box, and of its five points: whether there are any, x and y of each


@layer("Permute", dialect="ssd")
class Permute(Layer):
    """y = x with its axes in `order`, those not named behind them. (weiliu89/caffe, permute_layer.cpp)"""

    adds = ssd_pb2.LayerParameter
    passes_values = True
    ignores_propagate_down = True

    @property
    def shares_memory(self) -> bool:
        named = self.added.permute_param.order
        return list(named) == list(range(len(named)))

    @property
    def replaces_diff(self) -> slice:  # type: ignore[override]
        return slice(1) if self.shares_memory else slice(0)

    def order(self, rank: int) -> tuple[int, ...]:
        """Return the bottom's axis for each axis of the top."""
        named = tuple(self.added.permute_param.order)
        if len(set(named)) < len(named) or not set(named) <= set(range(rank)):
            raise self.error(f"expected different axes from 0 to {rank - 1} as order, found {list(named)}")
        return (*named, *(axis for axis in range(rank) if axis not in named))

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        return (tuple(bottoms[0][axis] for axis in self.order(len(bottoms[0]))),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        return (g.transpose(bottoms[0], *self.order(len(g.shape(bottoms[0])))),)


@layer("Normalize", dialect="ssd")
class Normalize(Layer):
    """y = s · x / √(Σ x² + eps), Σ over the channels or, across_spatial, over all of a sample; s is learned.

    Bottom and top [N, C, …]; s is one number with channel_shared, else [C]. With x̂ = x / norm, dx = s · (dy - x̂ ·
    Σ x̂ · dy) / norm also where s differs by channel, and ds = Σ y · dy / s, as in the reference: not a number where
    s is 0. In place dx is 0. (weiliu89/caffe, normalize_layer.cpp)
    """

    adds = ssd_pb2.LayerParameter
    normalizes = True
    filler_fields: ClassVar[Mapping[str, str]] = {"norm_param.scale_filler": "scale"}

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        proto = self.added.norm_param
        shape = () if proto.channel_shared else (bottoms[0][1],)
        written = proto.HasField("scale_filler")
        filler = to_filler(proto.scale_filler) if written else Filler(value=1)
        return (Param("scale", shape, filler, written, fan_in=1, fan_out=1),)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if not 2 <= len(bottoms[0]) <= 4:
            raise self.error(f"expected a bottom of 2 to 4 axes (N, C, …), found shape {bottoms[0]}")
        return (bottoms[0],)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        proto, rank = self.added.norm_param, len(g.shape(bottoms[0]))
        axes = g.ints(*range(1, rank)) if proto.across_spatial else g.ints(1)
        scale = params[0] if proto.channel_shared else g.reshape(params[0], -1, *(1,) * (rank - 2))
        made: dict[str, str] = {}

        def forward(x: str, s: str) -> str:
            sums = g.emit("ReduceSum", g.emit("Mul", x, x), axes, keepdims=1)
            norm = g.emit("Sqrt", g.emit("Add", sums, g.constant(proto.eps)))
            made["norm"] = norm
            return g.emit("Mul", g.emit("Div", x, norm), s, hint=self.name)

        def pull(tape: Tape, dy: str) -> str:
            if self.is_in_place():
                return str(tape.emit("Mul", dy, tape.constant(0)))  # Caffe subtracts from dy what it wrote over dy
            unit = tape.emit("Div", tape.stored(bottoms[0]), made["norm"])
            across = tape.emit("Mul", unit, tape.emit("ReduceSum", tape.emit("Mul", unit, dy), axes, keepdims=1))
            return str(tape.emit("Div", tape.emit("Mul", tape.emit("Sub", dy, across), scale), made["norm"]))

        def gradient(tape: Tape, dy: str) -> Sequence[str | None]:
            others = tape.ints(0, *range(1 if proto.channel_shared else 2, rank))
            along = tape.emit("ReduceSum", tape.emit("Mul", tape.stored(top), dy), others, keepdims=0)
            return pull(tape, dy), tape.emit("Div", tape.reshape(along, *g.shape(scale)), scale)

        top = emit_closed(g, (bottoms[0], scale), forward, gradient)
        return (top,)


_DENSE = {32: 4, 64: 2, 128: 1}  # FaceBoxes' sizes of squares, and how many of each stand along an axis of a place


class _Priors(Layer):
    """Boxes of fixed sizes at each place of a map (bottom 0), relative to an image (bottom 1): top [1, 2, 4·boxes]."""

    adds = ssd_pb2.LayerParameter
    num_bottoms = (2, 2)

    def sizes(self) -> list[tuple[float, float]]:
        """Return width and height in pixels of each box at one place."""
        raise NotImplementedError

    def count(self) -> int:
        """Return how many boxes stand at one place."""
        return len(self.sizes())

    def shifts(self) -> np.ndarray:
        """Return how far each box of a place stands from its centre, in pixels, x first: [boxes, 2], or one for all."""
        return np.zeros((1, 2))

    def pair(self, one: str, high: str, wide: str) -> tuple[float, float] | None:
        """Return a setting that is given once for both, or for height and width; None when it is not."""
        proto = self.added.prior_box_param
        if not proto.HasField(high) and not proto.HasField(wide):
            value = getattr(proto, one)
            found = (value, value) if proto.HasField(one) else None
        elif proto.HasField(one):
            raise self.error(f"prior_box_param has both {one} and {high}, {wide}; remove one of them")
        else:
            found = (getattr(proto, high), getattr(proto, wide))
        if found and min(found) <= 0:
            raise self.error(f"expected positive {high} and {wide} (or {one}), found {found}")
        return found

    def variances(self) -> np.ndarray:
        """Return the four variances."""
        values = list(self.added.prior_box_param.variance) or [0.1]
        if len(values) not in (1, 4) or min(values) <= 0:
            raise self.error(f"expected one or four positive values of variance, found {values}")
        return np.array(values * (4 // len(values)), np.float32)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        if any(len(shape) > 4 for shape in bottoms):
            found = f"found shapes {bottoms[0]} and {bottoms[1]}"
            raise self.error(f"expected bottoms of at most 4 axes (N, C, H, W), {found}")
        self.pair("img_size", "img_h", "img_w")
        self.pair("step", "step_h", "step_w")
        self.variances()
        return ((1, 2, math.prod(of_four_axes(bottoms[0])[2:]) * self.count() * 4),)

    def boxes(self, places: Shape, image: Shape) -> np.ndarray:
        """Return the boxes [H, W, boxes, 4] for a map of H x W places and an image's size."""
        return self.placed(places, image, self.added.prior_box_param.offset)

    def placed(self, places: Shape, image: Shape, down: float) -> np.ndarray:
        """Return a box of each size at each place, whose centre is `down` rows below the upper edge of the place."""
        proto = self.added.prior_box_param
        image = tuple(map(int, self.pair("img_size", "img_h", "img_w") or image))
        step = self.pair("step", "step_h", "step_w") or np.array(image, np.float32) / np.array(places, np.float32)
        y, x = (
            (np.arange(n, dtype=np.float32) + np.float32(offset)) * np.float32(s)
            for n, s, offset in zip(places, step, (down, proto.offset), strict=True)
        )
        half = np.array(self.sizes(), np.float32).astype(np.float64) / 2
        center = (
            np.stack(np.broadcast_arrays(x[None, :], y[:, None]), -1)[:, :, None].astype(np.float64) + self.shifts()
        )
        scale = np.array(image[::-1] * 2, np.float64)
        boxes = (np.concatenate([center - half, center + half], -1) / scale).astype(np.float32)
        return boxes.clip(0, 1) if proto.clip else boxes

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        places, image = (of_four_axes(g.shape(bottom))[2:] for bottom in bottoms)
        boxes = self.boxes(places, image)
        both = np.stack([boxes.ravel(), np.broadcast_to(self.variances(), boxes.shape).ravel()])
        return without_gradient(g, bottoms, lambda *_: (g.emit("Identity", g.constant(both[None])),))


@layer("PriorBox", dialect="ssd")
class PriorBox(_Priors):
    """At each place of the map a square of each min_size, one of √(min_size · max_size), and one per aspect ratio.

    FaceBoxes' are a pixel smaller, and where 32, 64 and 128 alone are written they are 16, 4 and one: a net is taken
    for that where a layer of the same bottom predicts as many. TextBoxes++'s `denser_prior_boxes` adds to each box one
    on the lower edge of the place.
    (weiliu89/caffe, prior_box_layer.cpp; sfzhang15/FaceBoxes and MhLiao/TextBoxes_plusplus, the same file)
    """

    def departs(self, bottoms: Sequence[Shape]) -> str:
        if any(peer.is_forks and isinstance(peer, PriorBox) for peer in self.peers):
            return "another layer has FaceBoxes' boxes"
        boxes = sum(count**2 for count in _DENSE.values())
        beside = (peer for peer in self.peers if peer.own("bottom", str)[:1] == self.own("bottom", str)[:1])
        if not self.is_dense or all(peer.proto.convolution_param.num_output != 4 * boxes for peer in beside):
            return ""
        return f"SSD has {len(_DENSE)} boxes at a place, and a layer beside it predicts {boxes}"

    @property
    def is_dense(self) -> bool:
        """Whether FaceBoxes has more than one square of a size."""
        p = self.added.prior_box_param
        return list(p.min_size) == list(_DENSE) and not (p.max_size or p.aspect_ratio or p.denser_prior_boxes)

    def count(self) -> int:
        return super().count() * (2 if self.added.prior_box_param.denser_prior_boxes else 1)

    def boxes(self, places: Shape, image: Shape) -> np.ndarray:
        boxes = super().boxes(places, image)
        if not self.added.prior_box_param.denser_prior_boxes:
            return boxes
        return np.stack([boxes, self.placed(places, image, 1.0)], 3).reshape(*places, -1, 4)

    def shifts(self) -> np.ndarray:
        if not (self.is_forks and self.is_dense):
            return super().shifts()
        steps = [(np.arange(count) - count // 2) * (32 / count) for count in _DENSE.values()]
        return np.concatenate([np.stack(np.meshgrid(step, step), -1).reshape(-1, 2) for step in steps])

    def ratios(self) -> list[float]:
        """Return the aspect ratios other than 1, with their inverses when `flip`."""
        found = [1.0]
        for ratio in self.added.prior_box_param.aspect_ratio:
            if all(abs(ratio - other) >= 1e-6 for other in found):
                found += [ratio, rounded(1 / ratio)] if self.added.prior_box_param.flip else [ratio]
        return found[1:]

    def sizes(self) -> list[tuple[float, float]]:
        if self.is_forks and self.is_dense:
            return [(size - 1.0, size - 1.0) for size, count in _DENSE.items() for _ in range(count**2)]
        self.check_sizes()
        proto, sizes = self.added.prior_box_param, []
        least, most = proto.min_size, proto.max_size
        for index, size in enumerate(map(int, least)):  # as Caffe does
            squares = [float(size - self.is_forks), *(math.sqrt(size * int(high)) for high in most[index : index + 1])]
            sizes += [(square, square) for square in squares]
            roots = [rounded(math.sqrt(ratio)) for ratio in self.ratios()]
            sizes += [(rounded(size * root), rounded(size / root)) for root in roots]
        return sizes

    def check_sizes(self) -> None:
        """Raise NetError for sizes that Caffe refuses, and for ratios of which it makes boxes that are no numbers."""
        proto = self.added.prior_box_param
        least, most, ratios = (list(values) for values in (proto.min_size, proto.max_size, proto.aspect_ratio))
        if not least or not all(0 < size < MOST_PIXELS for size in (*least, *most)):
            also = f", and of max_size {most}" if most else ""
            raise self.error(f"expected positive values of min_size, below {MOST_PIXELS}, found {least}{also}")
        if most and (len(most) != len(least) or any(high <= low for low, high in zip(least, most, strict=True))):
            raise self.error(f"expected one max_size above each min_size ({least}), found {most}")
        if not all(LEAST_RATIO < ratio < 1 / LEAST_RATIO for ratio in ratios):
            raise self.error(f"expected positive values of aspect_ratio, found {ratios}")


@layer("PriorBox", dialect="sstd")
class StretchedPriorBox(PriorBox):
    """PriorBox whose boxes are as high as min_size and wider by the aspect ratio; with `flip` also the other way.

    No ratio is the inverse of another one here. (BestSonny/SSTD, prior_box_layer.cpp)
    """

    @classmethod
    def claims(cls, proto: Any, types: Collection[str]) -> bool:
        return not {"MaskPooling", "MaskResize"}.isdisjoint(types)

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and cls.claims(proto, types)

    def departs(self, bottoms: Sequence[Shape]) -> str:
        return ""

    def sizes(self) -> list[tuple[float, float]]:
        self.check_sizes()
        proto, sizes = self.added.prior_box_param, []
        ratios = dict.fromkeys(proto.aspect_ratio)
        for index, size in enumerate(proto.min_size):
            squares = [size, *(rounded(math.sqrt(size * int(high))) for high in proto.max_size[index : index + 1])]
            sizes += [(square, square) for square in squares]
            wide = [(rounded(size * ratio), size) for ratio in ratios if ratio != 1]
            sizes += [*wide, *((high, low) for low, high in wide if proto.flip)]
        return sizes


@layer("PriorBoxClustered", dialect="ssd")
class PriorBoxClustered(_Priors):
    """At each place of the map a box of each width and height.

    (opencv/training_toolbox_caffe, prior_box_clustered_layer.cpp)
    """

    def sizes(self) -> list[tuple[float, float]]:
        proto = self.added.prior_box_param
        if not proto.width or len(proto.width) != len(proto.height):
            raise self.error(f"expected one height per width, found {list(proto.width)} and {list(proto.height)}")
        return list(zip(proto.width, proto.height, strict=True))


class _Predictions(Layer):
    """A layer of locations [N, 4·priors·classes or 4·priors], scores [N, priors·classes], priors [1, 2, 4·priors]."""

    adds = ssd_pb2.LayerParameter

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        raise NotImplementedError

    def check_predictions(self, bottoms: Sequence[Shape]) -> None:
        """Raise NetError unless the bottoms fit."""
        p, (loc, conf, prior) = self.settings, bottoms[:3]
        if not p.HasField("num_classes"):
            raise self.error(f"expected num_classes in {p.DESCRIPTOR.name}, found none")
        if len(prior) < 3 or prior[2] % 4:
            raise self.error(f"expected priors of shape (1, 2, 4 · priors), found {prior}")
        priors = prior[2] // 4
        wanted = (priors * 4 * (1 if p.share_location else p.num_classes), priors * p.num_classes)
        if loc[:1] != conf[:1] or (math.prod(loc[1:2]), math.prod(conf[1:2])) != wanted:
            raise self.error(
                f"expected {wanted[0]} locations and {wanted[1]} scores per image for {priors} priors and "
                f"{p.num_classes} classes, found bottoms of shapes {loc} and {conf}"
            )

    def check_priors(self, priors: np.ndarray) -> None:
        """Raise NetError for priors without a width or height where locations are relative to it. (DecodeBBox)"""
        boxes = priors.reshape(2, -1, 4)[0]
        if self.settings.code_type != CORNER and not (boxes[:, 2:] > boxes[:, :2]).all():
            why = "their min_size is below 1, or clip leaves nothing of them"
            raise self.error(f"some priors have no width or no height: {why}")


@layer("DetectionOutput", dialect="ssd")
class DetectionOutput(Computed, _Predictions):
    """The boxes that predictions describe and that suppression leaves: rows [image, label, score, x1, y1, x2, y2].

    Top [1, 1, boxes, 7]; one row of -1 per image where none is left. RefineDet's has bottoms 3 and 4: scores of object
    or not, below objectness_score of which a prior is background, and locations that move the priors first. Training
    writes the files of save_output_param.
    (weiliu89/caffe, detection_output_layer.cpp; sfzhang15/RefineDet, the same file and bbox_util.cpp)
    """

    num_bottoms = (3, 5)

    @property
    def settings(self) -> Any:
        return self.added.detection_output_param

    @property
    def left_out(self) -> str:
        p = self.settings.save_output_param
        if not self.asks_for_files():
            return "no images are shown or saved (visualize)" if self.settings.visualize else ""
        if p.output_format not in FORMATS:
            return f"no files are written: output_format is none of {', '.join(FORMATS)}"
        missing = [name for name in (p.label_map_file, p.name_size_file) if self.named_file(name) is None]
        return f"file not found: {missing[0]!r}; no files are written to {p.output_directory!r}" if missing else ""

    def asks_for_files(self) -> bool:
        """Tell whether all is named that detections in files take."""
        p = self.settings.save_output_param
        return bool(p.output_directory and p.label_map_file and p.name_size_file)

    @cached_property
    def files(self) -> DetectionFiles | None:
        """What writes the detections to files; None where none are asked for, or those that it takes are missing.

        Raises NetError for files that Caffe refuses.
        """
        if not self.asks_for_files() or self.left_out:
            return None
        p = self.settings.save_output_param
        path = self.named_file(p.label_map_file)
        return DetectionFiles(p, self.label_names(path), _images(self, p.name_size_file), self.error) if path else None

    def label_names(self, path: Path) -> dict[int, str]:
        """Return the name of each label but the background's in a file. (MapLabelToName)"""
        try:
            items = from_document(parse(read_regular(path), str(path)), ssd_pb2.LabelMap)[0].item
        except (OSError, InputError, SourceError) as error:
            raise self.error(f"cannot read label_map_file {str(path)!r}: {error}") from error
        names = {item.label: item.name for item in items}
        background = self.settings.background_label_id
        missing = next((label for label in range(self.settings.num_classes) if label not in {*names, background}), None)
        if len(names) < len(items):
            raise self.error(f"label_map_file {str(path)!r} has several items of one label")
        if missing is not None:
            raise self.error(f"label_map_file {str(path)!r} lacks label {missing}")
        return {label: name for label, name in names.items() if label != background}

    def save_decisions(self) -> None:
        if self.decisions and self.files:
            self.files.add(self.decisions[0][0, 0], self.decided_shapes[0][0])

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return True

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check_predictions(bottoms)
        self.check_settings()
        if self.files:
            self.files.check()
        n, priors = bottoms[0][0], bottoms[2][2] // 4
        counts = [2 * priors, math.prod(bottoms[0][1:])]
        for shape, count in zip(bottoms[3:] if self.refines(len(bottoms)) else (), counts, strict=False):
            if shape[:1] != (n,) or math.prod(shape[1:]) != count:
                raise self.error(f"expected {count} values per image of the first stage, found a bottom of {shape}")
        return ((1, 1, 1, FAKE_ROW),)

    def check_settings(self) -> None:
        """Raise NetError for what Caffe refuses, at set-up or with the first image."""
        p, nms = self.settings, self.settings.nms_param
        if not nms.nms_threshold >= 0:
            raise self.error(f"nms_threshold is {nms.nms_threshold:g}; expected 0 or more")
        if not 0 < nms.eta <= 1:
            raise self.error(f"eta is {nms.eta:g}; expected more than 0 and at most 1")
        if p.share_location and p.background_label_id == SHARED:
            raise self.error(f"with share_location, background_label_id: {SHARED} leaves no locations; use another")

    def refines(self, count: int) -> bool:
        """Tell whether bottoms 3 and 4 are those of RefineDet's first stage; else bottom 3 is an image."""
        return count == 5 or (count == 4 and self.settings.HasField("objectness_score"))

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        loc, conf, prior = bottoms[:3]
        self.check_priors(prior)
        p, n = self.settings, len(bottoms[0])
        boxes, variances = prior.reshape(2, -1, 4)
        scores = conf.reshape(n, len(boxes), -1).transpose(0, 2, 1)
        first = bottoms[3:] if self.refines(len(bottoms)) else ()
        if first:
            is_background = first[0].reshape(n, 1, len(boxes), 2)[..., 1] < np.float32(p.objectness_score)
            empty = (np.arange(scores.shape[1]) == 0).astype(np.float32)[:, None]
            scores = np.where(is_background, empty, scores)
        found = boxes
        for moves in (*first[1:], loc):
            offsets = moves.reshape(n, len(boxes), -1, 4).transpose(0, 2, 1, 3)
            found = decode(offsets, found, None if p.variance_encoded_in_target else variances, p.code_type)
        return (detect(found, scores, p),)

    def summary(self, bottoms: Sequence[Shape]) -> str:
        assert self.decisions
        rows = self.decisions[0]
        return f"finds {int((rows[0, 0, :, 1] >= 0).sum())} boxes in this batch"


@layer("DetectionOutputExtended", dialect="openvino")
class DetectionOutputExtended(Computed, _Predictions):
    """Boxes of one class that suppression leaves: rows [image, 1, score, x1, y1, x2, y2, anchor, column, row].

    Top [1, 1, boxes, 10]; one row of -1 per image where none is left. Locations are [N, H, W, 4 · anchors].
    (openvinotoolkit/training_toolbox_caffe, detection_output_extended_layer.cpp)
    """

    num_bottoms = (3, 3)

    @property
    def settings(self) -> Any:
        return self.added.detection_output_param

    def check_predictions(self, bottoms: Sequence[Shape]) -> None:
        p, (loc, conf, prior) = self.settings, bottoms
        if p.num_classes != 2:
            raise self.error(f"expected num_classes: 2 in detection_output_param, found {p.num_classes}")
        priors, classes = prior[2] // 4 if len(prior) > 2 else 0, 1 if p.share_location else 2
        if len(loc) != 4 or (math.prod(loc[1:]), math.prod(conf[1:])) != (4 * priors * classes, 2 * priors):
            wanted = f"locations (N, H, W, 4 · anchors) and scores of {priors} priors"
            raise self.error(f"expected {wanted}, found shapes {list(bottoms)}")

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check_predictions(bottoms)
        return ((1, 1, 1, PLACED_ROW),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        loc, conf, prior = bottoms
        p, n = self.settings, len(loc)
        boxes, variances = prior.reshape(2, -1, 4)
        offsets = loc.reshape(n, len(boxes), -1, 4)[:, :, -1]
        found = decode(offsets, boxes, None if p.variance_encoded_in_target else variances, p.code_type)
        scores = conf.reshape(n, len(boxes), 2)[..., 1]
        anchors = loc.shape[3] // 4
        rows = [
            (item, 1, scores[item, i], *found[item, i], i % anchors, *divmod(i // anchors, loc.shape[2])[::-1])
            for item in range(n)
            for i in self.kept(found[item], scores[item])
        ]
        rows = rows or [(item, *(-1,) * (PLACED_ROW - 1)) for item in range(n)]
        return (np.array(rows, np.float32).reshape(1, 1, -1, PLACED_ROW),)

    def kept(self, boxes: np.ndarray, scores: np.ndarray) -> list[int]:
        """Return the indices of an image's boxes that are left, the best first."""
        p = self.settings
        order = np.argsort(-scores, kind="stable")
        if p.HasField("confidence_threshold"):
            order = order[scores[order] > np.float32(p.confidence_threshold)]
        if p.nms_param.HasField("top_k") and p.nms_param.top_k > -1:
            order = order[: p.nms_param.top_k]
        left = list(suppress(boxes, order, p.nms_param.nms_threshold, eta=p.nms_param.eta))
        return left[: p.keep_top_k] if p.keep_top_k > -1 else left


@layer("DetectionEvaluate", dialect="ssd")
class DetectionEvaluate(Computed):
    """Rows [image, label, score, true, false positive] of detections (bottom 0) against true boxes (bottom 1).

    First a row [-1, label, true boxes, -1, -1] per class but the background: top [1, 1, classes + detections, 5].
    has_lm: rows of both bottoms end with five points, which do not count. Boxes are compared in pixels of the images
    whose sizes name_size_file lists, in the order of the data.
    (weiliu89/caffe, detection_evaluate_layer.cpp; yuqj1991/caffe_train)
    """

    adds = ssd_pb2.LayerParameter
    num_bottoms = (2, 2)

    def __init__(self, proto: Any, phase: int, place: Place) -> None:
        super().__init__(proto, phase, place)
        self.images = itertools.count()  # numbers of those with detections, from pass to pass

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return True

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Height and width of each image, as far as the file has "name height width"; none without a file."""
        return [size for _, size in _images(self, self.added.detection_evaluate_param.name_size_file)]

    @property
    def left_out(self) -> str:
        name = self.added.detection_evaluate_param.name_size_file
        is_missing = name and self.named_file(name) is None
        return f"file not found: {name!r}; boxes are compared relative to their images" if is_missing else ""

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p = self.added.detection_evaluate_param
        widths = (FAKE_ROW + POINT_ROW - 1, BOX_ROW + POINT_ROW) if p.has_lm else (FAKE_ROW, BOX_ROW)
        for shape, width in zip(bottoms, widths, strict=True):
            if len(shape) != 4 or shape[:2] != (1, 1) or shape[3] != width:
                raise self.error(f"expected a bottom of shape (1, 1, rows, {width}), found {shape}")
        if not p.num_classes:
            raise self.error("expected num_classes of at least 1 in detection_evaluate_param")
        if not p.overlap_threshold > 0:
            raise self.error(f"overlap_threshold is {p.overlap_threshold:g}; expected more than 0")
        if self.sizes and p.HasField("resize_param") and not (p.resize_param.height and p.resize_param.width):
            raise self.error("expected height and width in resize_param of detection_evaluate_param")
        return ((1, 1, p.num_classes - 1 + bottoms[0][2], 5),)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        detections, truth = (bottom[0, 0] for bottom in bottoms)
        self.refuse_background(detections, "detections")
        self.refuse_background(truth, "true boxes")
        sizes = (self.sizes[number % len(self.sizes)] for number in self.images) if self.sizes else None
        p = self.added.detection_evaluate_param
        return (evaluate(detections[:, :FAKE_ROW], truth[:, :BOX_ROW], p, sizes),)

    def refuse_background(self, rows: np.ndarray, what: str) -> None:
        """Raise NetError for boxes of an image, [rows, …], that have the background's label."""
        background = self.added.detection_evaluate_param.background_label_id
        if ((rows[:, 0] != -1) & (rows[:, 1].astype(int) == background)).any():
            raise self.error(f"the {what} hold the background's label, {background}; set another background_label_id")


def _images(layer: Layer, name_size_file: str) -> list[tuple[str, Size]]:
    """Return name, height and width of each image that a file lists; nothing where there is no such file."""
    path = layer.named_file(name_size_file)
    try:
        return listed_sizes(read_regular(path)) if path else []
    except (OSError, InputError) as error:
        raise layer.error(f"cannot read name_size_file {str(path)!r}: {error}") from error


@layer("MultiBoxLoss", dialect="ssd")
class MultiBoxLoss(Normalized, _Predictions):
    """y = (loc_weight · Σ loc loss + Σ class loss) / matches, over matched priors and the hardest of the others.

    Bottoms: locations, scores, priors and true boxes [1, 1, boxes, 8]. A prior is matched with the true box that it
    overlaps most; the loss of locations is smooth L1 or L2, that of scores softmax or logistic. Gradients go to
    locations and scores. RefineDet's second stage has bottoms 4 and 5: scores of object or not of the first one, below
    objectness_score of which a prior is not mined, and locations that move the priors first.
    (weiliu89/caffe, multibox_loss_layer.cpp; sfzhang15/RefineDet, the same file and bbox_util.cpp)
    """

    num_bottoms = (4, 6)
    decides = True

    @property
    def settings(self) -> Any:
        return self.added.multibox_loss_param

    @property
    def replaces_diff(self) -> slice:  # type: ignore[override]  # where all scores count, they are not copied
        return slice(0) if self.settings.mining_type else slice(1, 2)

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        return any(needed[2:4])

    def oddity(self, bottoms: Sequence[Shape]) -> str:
        """A backward pass alone forgets the matches. (multibox_loss_layer.cpp, all_match_indices_)"""
        if self.phase != TEST:
            return ""
        kept = "without a backward pass Caffe keeps the first batch's matches, and stops where they do not fit"
        return f"{kept}; here each batch has its own"

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check_predictions(bottoms)
        self.check_settings()
        if len(bottoms[3]) != 4 or bottoms[3][3] != 8:
            raise self.error(f"expected true boxes of shape (1, 1, boxes, 8), found {bottoms[3]}")
        self.check_first_stage(bottoms)
        return ((),) * self.top_count

    def check_first_stage(self, bottoms: Sequence[Shape]) -> None:
        """Raise NetError unless the bottoms of RefineDet's first stage fit the priors."""
        p, priors = self.settings, bottoms[2][2] // 4
        for shape, values in zip(bottoms[4:], (2, 4), strict=False):
            if math.prod(shape) != bottoms[0][0] * priors * values:
                raise self.error(
                    f"expected {values} values for each of {priors} priors of the first stage, found {shape}"
                )
        if len(bottoms) == 6 and not p.share_location:
            raise self.error("locations of a first stage need share_location: true")
        if len(bottoms) > 4 and p.HasField("nms_param") and p.nms_param.nms_threshold > 0:
            raise self.error("suppression of mined priors does not go with a first stage; remove nms_param")

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if bottom != 3:
            return None
        rows, p = np.zeros((math.prod(bottoms[3]) // 8, 8), np.float32), self.settings
        rows[:, 0] = np.arange(len(rows)) * bottoms[0][0] // len(rows)
        rows[:, 1] = (p.background_label_id + 1) % max(p.num_classes, 1)
        rows[:, 3:7] = random_boxes(len(rows), 1, 1, random) + np.array([0, 0, 1, 1], np.float32)
        return rows.reshape(bottoms[3])

    def check_settings(self) -> None:
        """Raise NetError for what Caffe refuses. (multibox_loss_layer.cpp and bbox_util.cpp)"""
        p = self.settings
        if p.mining_type and not p.share_location:
            raise self.error("mining needs share_location; write mining_type: NONE or share_location: true")
        if p.HasField("do_neg_mining") and p.do_neg_mining != bool(p.mining_type):
            raise self.error("do_neg_mining, an old field, contradicts mining_type, which replaces it; remove it")
        if p.background_label_id >= p.num_classes and (p.mining_type or p.conf_loss_type != LOGISTIC):
            raise self.error(f"background_label_id is {p.background_label_id}; expected 0 to {p.num_classes - 1}")
        if p.mining_type == HARD_EXAMPLE and p.sample_size < 1:
            raise self.error(f"sample_size is {p.sample_size}; expected at least 1")

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        stages = [peer for peer in (self, *self.peers) if isinstance(peer, MultiBoxLoss)]
        refines = any(len(stage.proto.bottom) > 4 for stage in stages)
        if not self.settings.use_prior_for_matching:
            self.check_priors(bottoms[2])
        p, found = self.settings, match(bottoms, self.settings, self.error, joins=refines)
        if p.map_object_to_agnostic and p.num_classes != 2 and found.conf_weights.any():
            raise self.error(f"map_object_to_agnostic needs num_classes: 2, found {p.num_classes}")
        return (*found.arrays, np.array(self.divisor(found), np.float32))

    def divisor(self, found: Matches) -> float:
        """Return what the loss is divided by."""
        images, priors = found.images, found.priors
        counts = {FULL: images * priors, VALID: found.matches, BATCH_SIZE: images, NONE: 1}
        return float(max(counts[self.normalization()], 1))

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        p = self.settings
        targets, loc_weights, scales, labels, conf_weights, divisor = self.input_decisions(g)
        takes = [index >= len(self.proto.propagate_down) or self.proto.propagate_down[index] for index in range(2)]
        shapes = [g.shape(bottom) for bottom in bottoms]
        made: dict[str, str] = {}

        def forward(loc: str, conf: str, *_: str) -> Sequence[str]:
            scaled = g.emit("Mul", g.emit("Sub", g.reshape(loc, *g.shape(targets)), targets), scales)
            difference = g.emit("Mul", scaled, loc_weights)
            loc_loss, made["slope"] = _location_loss(g, difference, p.loc_loss_type == L2)
            scores = g.reshape(conf, -1, p.num_classes)
            conf_loss, made["error"] = _score_loss(g, scores, labels, conf_weights, p.conf_loss_type)
            parts = [g.emit("Mul", loc_loss, g.constant(p.loc_weight)), conf_loss]
            parts = [part for part, taken in zip(parts, takes, strict=True) if taken] or [g.constant(0)]
            loss = parts[0] if len(parts) == 1 else g.emit("Add", *parts)
            return [g.emit("Div", loss, divisor)] * self.top_count

        def backward(tape: Tape, dys: Sequence[str | None]) -> Sequence[str | None]:
            assert dys[0] is not None
            scale = tape.emit("Div", dys[0], divisor)
            weighed = tape.emit("Mul", scale, tape.constant(p.loc_weight))
            dloc = tape.reshape(tape.emit("Mul", made["slope"], weighed), *shapes[0])
            dconf = tape.reshape(tape.emit("Mul", made["error"], scale), *shapes[1])
            return dloc, dconf, *[None] * (len(bottoms) - 2)

        return g.custom_vjp(bottoms, forward, backward)


def _sum(g: Graph, value: str) -> str:
    return g.emit("ReduceSum", value, keepdims=0)


def _location_loss(g: Graph, difference: str, squared: bool) -> tuple[str, str]:
    """Emit Σ f(d) and f'(d), f half the square or smooth L1: |d| - ½ from 1 on."""
    half = g.emit("Mul", g.emit("Mul", difference, difference), g.constant(0.5))
    if squared:
        return _sum(g, half), difference
    size = g.emit("Abs", difference)
    near = g.emit("Less", size, g.constant(1))
    loss = g.emit("Where", near, half, g.emit("Sub", size, g.constant(0.5)))
    return _sum(g, loss), g.emit("Clip", difference, g.constant(-1), g.constant(1))


def _score_loss(g: Graph, scores: str, labels: str, weights: str, kind: int) -> tuple[str, str]:
    """Emit the weighed loss of scores [rows, classes] and its gradient.

    labels: of each row, or with LOGISTIC targets [rows, classes]; weights [rows, 1].
    """
    if kind == LOGISTIC:
        error = g.emit("Sub", g.emit("Sigmoid", scores), labels)
        return _sum(g, g.emit("Mul", cross_entropies(g, scores, labels), weights)), g.emit("Mul", error, weights)
    p = g.emit("Softmax", scores, axis=1)
    chosen = g.emit("GatherElements", p, labels, axis=1)
    logs = g.emit("Neg", g.emit("Log", g.emit("Max", chosen, g.constant(FLT_MIN))))
    less = g.emit("Sub", chosen, g.constant(1))
    error = g.emit("ScatterElements", p, labels, less, axis=1)
    return _sum(g, g.emit("Mul", logs, weights)), g.emit("Mul", error, weights)


@layer("AnnotatedData", dialect="ssd")
class AnnotatedData(Images):
    """Images of a database of AnnotatedDatum, and their true boxes [1, 1, boxes, 8]: [item, label, instance, x1, y1,
    x2, y2, difficult]; with yolo_data_type: 1 [N, 1, 300, 5]: label, x, y, width, height.
    yoloformat: [N, 1, boxes, 8]; has_landmarks: 19 values a box, with five points. Neither is read.
    Top 2 [N, 1, H / seg_scales, W / seg_scales] or of seg_resize_width x seg_resize_height marks objects; it is not
    read, nor known for several classes, whose number is that of the label map.
    (weiliu89/caffe, annotated_data_layer.cpp; eric612/MobileNet-YOLO; yuqj1991/caffe_train)
    """

    adds = ssd_pb2.LayerParameter
    num_tops = (1, 3)
    data_kind = "annotated"

    def is_of_yolo(self) -> bool:
        """Tell whether the boxes are to be YOLO's."""
        return bool(self.added.annotated_data_param.yolo_data_type == 1)

    def counts_images(self) -> bool:
        """Tell whether the first axis of the boxes is that of the images."""
        return self.is_of_yolo() or bool(self.added.annotated_data_param.yoloformat)

    @property
    def why_unread(self) -> str:
        p = self.added.annotated_data_param
        return "its boxes are read without yoloformat and has_landmarks only" if p.yoloformat or p.has_landmarks else ""

    def written_shape(self, index: int) -> Shape | None:
        if not index:
            return self.image_shape()
        if index == 2:
            return self.mask_shape()
        if self.is_of_yolo():
            return (self.batch_size(), 1, 300, 5)
        items = self.batch_size() if self.counts_images() else 1
        return (items, 1, 1, BOX_ROW + POINT_ROW * self.added.annotated_data_param.has_landmarks)

    def top_shape(self, index: int, name: str) -> Shape | None:
        if index and not self.reader:
            shape = self.shape_overrides.get(name, self.written_shape(index))
            counts = name not in self.shape_overrides and (self.counts_images() or index == 2)
            return (self.batch_override, *shape[1:]) if counts and shape and self.batch_override else shape
        return super().top_shape(index, name)

    def image_shape(self) -> Shape | None:
        transform, added = self.proto.transform_param, self.added.transform_param
        crop = (transform.crop_size,) * 2 if transform.crop_size else (added.crop_h, added.crop_w)
        sizes = [*added.resize_param, *added.resize_param_yolo]
        resized = next(((resize.height, resize.width) for resize in sizes), (0, 0))
        size = tuple(cut or whole for cut, whole in zip(crop, resized, strict=True))
        return (self.batch_size(), self.channels(), *size) if all(size) else None

    def mask_shape(self) -> Shape | None:
        """Return the shape of the masks of objects; the reference takes the width for the height."""
        p, images = self.added.annotated_data_param, self.image_shape()
        if not p.single_class or images is None:
            return None
        size = (p.seg_resize_width, p.seg_resize_height)
        return (images[0], 1, *(size if all(size) else (length // p.seg_scales for length in images[2:])))

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        if top == 2:
            return random.integers(0, 2, shape).astype(np.float32)
        if not top or self.is_of_yolo():
            return None
        boxes = np.zeros((math.prod(shape) // shape[-1], shape[-1]), np.float32)
        boxes[:, 1] = 1
        boxes[:, 3:7] = random_boxes(len(boxes), 1, 1, random) + np.array([0, 0, 1, 1], np.float32)
        boxes[:, 0] = np.repeat(np.arange(shape[0]), len(boxes) // shape[0])
        if shape[-1] > BOX_ROW:
            boxes[:, BOX_ROW] = 1
            boxes[:, BOX_ROW + 1 :] = np.tile((boxes[:, 3:5] + boxes[:, 5:7]) / 2, POINT_ROW // 2)
        return boxes.reshape(shape)

    def shape_source(self) -> str:
        return f"in the records of {self.proto.data_param.source!r}"

    def setup_words(self) -> tuple[str, ...]:
        return ("reader", *super().setup_words())


@layer("YoloAnnotatedData", dialect="yolo")
class YoloAnnotatedData(AnnotatedData):
    """Computed as AnnotatedData of eric612/MobileNet-YOLO, with the same fields. (yuqj1991/caffe_train, nets alone)"""

    read_as = "AnnotatedData of eric612/MobileNet-YOLO, which has the same fields; its own source is not public"
