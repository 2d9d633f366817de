"""The loss and the regions of a YOLO with masks and key points of its objects."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from caffestat.lazy import np
from caffestat.schema.forks import yolo_pb2

from ..base import Layer, Shape, layer
from ..data import Images
from .darknet import intersection_over_union
from .data import _Files
from .evaluated import EvaluatedLoss
from .squash import sigmoid, softmax
from .staged import Computed
from .yolo import random_truth

__all__ = ["DecodeRois", "KpsBoxData", "MaskBoxData", "RegionLossOfMaskYolo", "RoiGen"]

BOX = 4
POINTS = 17  # of a person
POINT_ROW = 1 + 2 * POINTS  # its instance, then x and y of each point
OVERLAP = 0.4  # above which the less likely box is left out
EXCLUDED = 255  # in a mask of instances: such places are not learned
FAR = 4.6052  # ln 100: beyond it a Gaussian counts as 0


@dataclass(frozen=True)
class _Labels:
    """What is known of one image.

    boxes:     rows of x, y, width, height, class and, with masks, instance, up to the first whose x is 0
    instances: a mask [mask_h, mask_w], or None
    points:    rows [·, 35], or None
    """

    boxes: np.ndarray
    instances: np.ndarray | None
    points: np.ndarray | None


class _MaskYolo(Layer):
    """Bottoms: a map [N, num_object · (5 + num_class), H, W] and labels: boxes, then a mask, then key points."""

    adds = yolo_pb2.MaskYoloLayerParameter
    num_bottoms = (2, 2)

    @property
    def settings(self) -> Any:
        raise NotImplementedError

    def row(self) -> int:
        """Return how many values a box has."""
        return BOX + 1 + bool(self.settings.with_mask)

    def most_boxes(self, labels: Shape) -> int:
        """Return for how many boxes there is room in labels [N, …]."""
        count, p = math.prod(labels[1:]), self.settings
        if not p.with_mask:
            return count // self.row()
        return (count - p.mask_w * p.mask_h) // (self.row() + POINT_ROW * bool(p.with_kps))

    def check(self, bottoms: Sequence[Shape]) -> None:
        p, (x, labels) = self.settings, bottoms
        channels = p.num_object * (p.num_coord + 1 + p.num_class)
        if len(x) != 4 or x[1] != channels or p.num_coord != BOX or not labels or labels[0] != x[0]:
            raise self.error(f"expected a map of {channels} channels and labels of as many images, found {bottoms}")
        if not len(p.anchor_x) == len(p.anchor_y) == p.num_object:
            found = f"found {len(p.anchor_x)} and {len(p.anchor_y)}"
            raise self.error(f"expected anchor_x and anchor_y num_object times ({p.num_object}), {found}")
        used = self.row() * self.most_boxes(labels) + (p.mask_w * p.mask_h if p.with_mask else 0)
        used += POINT_ROW * self.most_boxes(labels) if p.with_mask and p.with_kps else 0
        if self.most_boxes(labels) < 1 or used != math.prod(labels[1:]):
            raise self.error(f"expected labels of whole rows of {self.row()} values, found shape {labels}")

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        if not bottom:
            return None
        items, most = bottoms[1][0], self.most_boxes(bottoms[1])
        labels = np.zeros((items, math.prod(bottoms[1][1:])), np.float32)
        truth = random_truth(items, most, self.settings.num_class, random)[..., [1, 2, 3, 4, 0]]
        rows = np.zeros((items, most, self.row()), np.float32)
        rows[..., : BOX + 1] = truth
        rows[..., BOX + 1 :] = np.arange(1, most + 1)[:, None]
        labels[:, : most * self.row()] = rows.reshape(items, -1)
        return labels.reshape(bottoms[1])

    def images(self, labels: np.ndarray) -> Iterator[_Labels]:
        """Yield what is known of each image. Raises NetError for a class that there is not."""
        p, most = self.settings, self.most_boxes(labels.shape)
        end = most * self.row()
        area = p.mask_w * p.mask_h
        for values in labels.reshape(len(labels), -1):
            rows = values[:end].reshape(most, self.row())
            ends = np.flatnonzero(rows[:, 0] == 0)
            rows = rows[: ends[0]] if ends.size else rows
            if ((rows[:, BOX] < 0) | (rows[:, BOX] >= max(p.num_class, 1))).any():
                raise self.error(f"expected classes of 0 to {max(p.num_class, 1) - 1}, found {rows[:, BOX].tolist()}")
            mask = values[end : end + area].reshape(p.mask_h, p.mask_w) if p.with_mask else None
            points = values[end + area :].reshape(-1, POINT_ROW) if p.with_mask and p.with_kps else None
            yield _Labels(rows, mask, points)

    def boxes(self, x: np.ndarray) -> np.ndarray:
        """Return the boxes [anchors, H, W, 4] that values [anchors, 5 or more, H, W] mean."""
        high, wide = x.shape[2:]
        row, column = np.indices((high, wide))
        anchors = np.array([self.settings.anchor_x, self.settings.anchor_y])[:, :, None, None]
        with np.errstate(over="ignore"):
            sizes = np.exp(x[:, 2:4]) * anchors.swapaxes(0, 1) / np.array([wide, high])[:, None, None]
        places = [(column + sigmoid(x[:, 0])) / wide, (row + sigmoid(x[:, 1])) / high, sizes[:, 0], sizes[:, 1]]
        return np.stack(places, -1)

    def found(self, x: np.ndarray) -> np.ndarray:
        """Return the boxes [·, 4] of one image's map that are likely, by anchor and place; suppressed without classes.

        The reference reads the map as if it had no classes, and suppresses none where it has.
        """
        p, (high, wide) = self.settings, x.shape[1:]
        values = x.astype(float).ravel()[: p.num_object * (BOX + 1) * high * wide]
        values = values.reshape(p.num_object, BOX + 1, high, wide)
        boxes, sure = self.boxes(values).reshape(-1, BOX), sigmoid(values[:, BOX]).ravel()
        kept = sure > np.float32(p.thresh)
        if not p.num_class:
            order = np.argsort(-sure, kind="stable")
            for place, index in enumerate(order):
                if kept[index]:
                    later = order[place + 1 :]
                    kept[later[intersection_over_union(boxes[index], boxes[later]) > OVERLAP]] = False
        return boxes[kept]


@layer("RegionLoss", dialect="maskyolo")
class RegionLossOfMaskYolo(_MaskYolo, EvaluatedLoss):
    """y = (class + center + size + object losses) / boxes + loss of no object / other places, dx = pulls · dy / N.

    Bottoms: a map [N, num_object · (5 + num_class), H, W] and labels: rows of x, y, width, height and class up to the
    first whose x is 0, with with_mask of instance too and then a mask, whose places of 255 are not learned. A true box
    pulls the anchor of its size in its cell; other confidences are pulled to 0 unless the box overlaps a true one by
    more than thresh. softmax is, as in the reference, over num_class values that follow each other in memory.
    (leon-liangwu/MaskYolo_Caffe, caffe-maskyolo/src/caffe/layers/region_loss_layer.cpp)
    """

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and {"BoxData", "AnnotatedData", "YoloAnnotatedData"}.isdisjoint(types)

    @property
    def settings(self) -> Any:
        return self.added.region_loss_param

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        return ((),) * self.top_count

    def evaluate(
        self, bottoms: Sequence[np.ndarray], random: np.random.Generator
    ) -> tuple[Sequence[np.ndarray | float], np.ndarray]:
        p = self.settings
        values = bottoms[0].astype(float)
        x = values.reshape(len(values), p.num_object, -1, *values.shape[2:])
        outputs = self.activated(values, x.shape)
        pull = np.zeros_like(x)
        sums = np.zeros(3)  # of classes, boxes and objects
        nothing = count = 0.0
        for item, known in enumerate(self.images(bottoms[1])):
            predicted = self.boxes(x[item])
            free = self.free(predicted, known)
            sure = outputs[item, :, 4]
            nothing += p.noobject_scale * (np.where(free, sure, 0) ** 2).sum()
            pull[item, :, 4] = np.where(free, p.noobject_scale * sure * sure * (1 - sure), 0)
            for row in known.boxes:
                sums += self.learn(row, item, predicted, x, outputs, pull)
                count += 1
        places = pull[:, :, 4].size - (count + 0.01)
        return [float(sums.sum() / (count + 0.01) + nothing / places)], (pull / len(x)).reshape(bottoms[0].shape)

    def activated(self, values: np.ndarray, shape: Shape) -> np.ndarray:
        """Return the map with confidences and, with softmax, classes as likelihoods."""
        classes = self.settings.num_class
        outputs = values.reshape(shape).copy()
        outputs[:, :, 4] = sigmoid(outputs[:, :, 4])
        if self.settings.softmax and classes:
            flat = outputs.reshape(-1)
            starts = np.moveaxis(np.arange(flat.size).reshape(shape)[:, :, 5], 1, -1)
            for start in starts.ravel():  # those that begin near each other share values
                flat[start : start + classes] = softmax(flat[start : start + classes], 0)
        return outputs

    def free(self, predicted: np.ndarray, known: _Labels) -> np.ndarray:
        """Return which predictions [anchors, H, W] are learned to be nothing."""
        best = np.zeros(predicted.shape[:3])
        for row in known.boxes:
            best = np.fmax(best, intersection_over_union(predicted, row[:BOX].astype(float)))
        free = best <= np.float32(self.settings.thresh)
        if known.instances is None:
            return free
        high, wide = free.shape[1:]
        rows, columns = (
            ((np.arange(size) + 0.5) * room / size).astype(int)
            for size, room in zip((high, wide), known.instances.shape, strict=True)
        )
        return np.asarray(free & (known.instances[rows[:, None], columns] != EXCLUDED))

    def learn(
        self, row: np.ndarray, item: int, predicted: np.ndarray, x: np.ndarray, outputs: np.ndarray, pull: np.ndarray
    ) -> np.ndarray:
        """Pull at the values of one true box; return its losses of class, box and object."""
        p, (high, wide) = self.settings, x.shape[3:]
        box = row[:BOX].astype(float)
        column, line = int(row[0] * wide), int(row[1] * high)
        if not (0 <= column < wide and 0 <= line < high):
            raise self.error(f"expected centers of true boxes within the image, found {row[0]:g}, {row[1]:g}")
        anchors = np.array([p.anchor_x, p.anchor_y]).T
        sizes = anchors / [wide, high] if p.bias_match else predicted[:, line, column, 2:]
        shapes = np.concatenate([np.zeros_like(sizes), sizes], 1)
        overlaps = np.nan_to_num(intersection_over_union(shapes, np.array([0, 0, *box[2:]])))
        n = int(overlaps.argmax())
        # the reference writes to the first place of all where no anchor overlaps
        at = (item, n, slice(None), line, column) if overlaps[n] > 0 else (0, 0, slice(None), 0, 0)
        near, size = sigmoid(x[at][:2]), x[at][2:4]
        off = np.array([box[0] * wide - column, box[1] * high - line]) - near
        grown = np.log(box[2:] * [wide, high] / anchors[n]) - size
        missing = (np.arange(p.num_class) == int(row[BOX])) - outputs[at][5:]
        sure = outputs[at][4]
        pull[at][:2] = -p.coord_scale * off * near * (1 - near)
        pull[at][2:4] = -p.coord_scale * grown
        pull[at][4] = -p.object_scale * (1 - sure) * sure * (1 - sure)
        pull[at][5:] = -p.class_scale * missing
        boxes = p.coord_scale * ((off**2).sum() + (grown**2).sum())
        return np.array([p.class_scale * (missing**2).sum(), boxes, p.object_scale * (1 - sure) ** 2])


@layer("DecodeRois", dialect="maskyolo")
class DecodeRois(_MaskYolo, Computed):
    """Regions [R, 5] of a YOLO's boxes, R = prop_num, and what is to be learned of them; no gradient.

    Those that overlap a true box by more than a half come first; random ones, as far from all true boxes, fill up.
    Tops: regions in pixels of net_w x net_h, whether there is an object [R], targets of boxes and two weights [R, 4 ·
    classes], masks [R, target_size, target_size] and key points, with sigma as 18 maps. The labels are RegionLoss's.
    (leon-liangwu/MaskYolo_Caffe, caffe-maskyolo/src/caffe/layers/decode_rois_layer.cpp)
    """

    num_tops = (7, 7)

    @property
    def settings(self) -> Any:
        return self.added.decode_rois_param

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check(bottoms)
        p = self.settings
        square, boxes = (p.target_size, p.target_size), (p.prop_num, BOX * max(p.num_class, 1))
        points = (p.prop_num, POINTS + 1, *square) if p.sigma > 0 else (p.prop_num, *square)
        return (p.prop_num, 5), (p.prop_num,), boxes, boxes, boxes, (p.prop_num, *square), points

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        p = self.settings
        shapes = self.tops_at_setup([bottom.shape for bottom in bottoms])
        regions, classes, targets, inside, outside, masks, points = (np.zeros(shape, np.float32) for shape in shapes)
        known = list(self.images(bottoms[1]))
        chosen = self.chosen(bottoms[0], known, random)
        for index, (item, box, has_object) in enumerate(chosen):
            size = np.array([p.net_w, p.net_h], np.float32)
            low, high = np.clip(box[:2] - box[2:] / 2, 0, None), np.clip(box[:2] + box[2:] / 2, None, 1)
            regions[index] = [item, *(low * size), *(high * size)]
            if has_object:
                classes[index] = 1
                region = np.concatenate([(low + high) / 2, high - low])
                truth = known[item].boxes[self.nearest(region, known[item])]
                at = slice(BOX * int(truth[BOX]), BOX * int(truth[BOX]) + BOX)
                shift, growth = (truth[:2] - region[:2]) / region[2:], np.log(truth[2:BOX] / region[2:])
                targets[index, at], inside[index, at], outside[index, at] = [*shift, *growth], 1, 1
                self.draw(index, region, known[item], truth, masks, points)
        return regions, classes, targets, inside, outside, masks, points

    def nearest(self, box: np.ndarray, known: _Labels) -> int:
        overlaps = np.nan_to_num(intersection_over_union(box, known.boxes[:, :BOX].astype(float)))
        return int(overlaps.argmax())

    def chosen(
        self, x: np.ndarray, known: Sequence[_Labels], random: np.random.Generator
    ) -> list[tuple[int, np.ndarray, bool]]:
        """Return image and box (center and size) of each region, and whether it is near to a true one."""
        p = self.settings
        near: list[tuple[int, np.ndarray, bool]] = []
        far: list[tuple[int, np.ndarray, bool]] = []
        for item, labels in enumerate(known):
            for box in self.found(x[item]):
                boxes = labels.boxes[:, :BOX].astype(float)
                overlap = np.nan_to_num(intersection_over_union(box, boxes)).max(initial=0)
                (near if overlap > 0.5 else far).append((item, box, bool(overlap > 0.5)))
        regions = [*near, *far][: p.prop_num]
        while len(regions) < p.prop_num:
            item = int(random.integers(len(known)))
            center = random.random(2)
            box = np.concatenate([center, random.random(2) * 2 * np.minimum(center, 1 - center)])
            if np.nan_to_num(intersection_over_union(box, known[item].boxes[:, :BOX])).max(initial=0) <= 0.5:
                regions.append((item, box, False))
        return regions

    def draw(
        self, index: int, region: np.ndarray, known: _Labels, truth: np.ndarray, masks: np.ndarray, points: np.ndarray
    ) -> None:
        """Draw the mask and the key points of a region's object."""
        if known.instances is None:
            return
        p, room = self.settings, np.array([self.settings.mask_w, self.settings.mask_h])
        corner, size = (region[:2] - region[2:] / 2) * room, region[2:] * room
        (left, top), (wide, high) = corner.astype(int), size.astype(int)
        if wide > 0 and high > 0:
            shown = known.instances[top : top + high, left : left + wide].astype(int) == int(truth[BOX + 1])
            masks[index] = _shrunk(shown.astype(float), p.target_size) >= 0.5
        if known.points is None:
            return
        if p.sigma >= 0.1:
            self.draw_gaussians(points[index], known.points, truth, corner, size)
        else:
            self.draw_points(points.reshape(-1), index, known.points, truth, corner, size)

    def draw_points(
        self, flat: np.ndarray, index: int, rows: np.ndarray, truth: np.ndarray, corner: np.ndarray, size: np.ndarray
    ) -> None:
        """Number the key points at their places; the reference looks at every 35th row of points only."""
        side = self.settings.target_size
        row = next((row for row in rows[::POINT_ROW] if row[0] in (truth[BOX + 1], 0)), None)
        if row is None or row[0] == 0:
            return
        for number, place in self.seen(row):
            x, y = np.trunc((place - corner) * side / size + np.copysign(0.5, place - corner)).astype(int)
            if 0 <= x <= (corner + size)[0] and 0 <= y <= (corner + size)[1]:
                at = index * side * side + y * side + x
                flat[at : at + 1] = number + 1

    def draw_gaussians(
        self, maps: np.ndarray, rows: np.ndarray, truth: np.ndarray, corner: np.ndarray, size: np.ndarray
    ) -> None:
        """Add a Gaussian at each key point to its map [18, side, side]; the last map is what none covers."""
        p = self.settings
        row = next((row for row in rows if row[0] in (truth[BOX + 1], 0)), None)
        if row is None or row[0] == 0:
            return
        y, x = np.indices(maps.shape[1:])
        for number, place in self.seen(row):
            at = place - corner
            if (at < 0).any() or (at > corner + size).any():
                continue
            at = at * p.target_size / size
            exponent = ((x - at[0]) ** 2 + (y - at[1]) ** 2) / 2 / p.sigma**2
            maps[number] = np.minimum(maps[number] + np.where(exponent > FAR, 0, np.exp(-exponent)), 1)
        maps[POINTS] = np.maximum(1 - maps[:POINTS].max(axis=0), 0)

    def seen(self, row: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield number and place in the mask of each key point that is known."""
        places = row[1:].reshape(POINTS, 2).astype(float)
        for number, place in enumerate(places):
            if place.any():
                yield number, place * [self.settings.mask_w, self.settings.mask_h]


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image [H, W] as side x side pixels, by bilinear interpolation between pixel centers."""
    for axis, old in enumerate(image.shape):
        at = np.clip((np.arange(side) + 0.5) * old / side - 0.5, 0, old - 1)
        before = np.minimum(at.astype(int), max(old - 2, 0))
        share = (at - before).reshape(-1, *(1,) * (1 - axis))
        after = np.minimum(before + 1, old - 1)
        image = image.take(before, axis) * (1 - share) + image.take(after, axis) * share
    return image


@layer("RoiGen", dialect="maskyolo")
class RoiGen(_MaskYolo, Computed):
    """Regions [R, 5] of a YOLO's likely boxes, R = prop_num, and whether there is one [R]: 0 behind the last.

    A region is an item and the corners of a box in pixels of net_w x net_h; no gradient.
    (leon-liangwu/MaskYolo_Caffe, caffe-maskyolo/src/caffe/layers/roi_gen_layer.cpp)
    """

    num_bottoms = (1, 1)
    num_tops = (2, 2)

    @property
    def settings(self) -> Any:
        return self.added.roi_gen_param

    def tops_at_setup(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, x = self.settings, bottoms[0]
        if len(x) != 4 or x[1] != p.num_object * (p.num_coord + 1 + p.num_class) or p.num_coord != BOX:
            raise self.error(f"expected a map of {p.num_object * (BOX + 1 + p.num_class)} channels, found shape {x}")
        if not len(p.anchor_x) == len(p.anchor_y) == p.num_object:
            found = f"found {len(p.anchor_x)} and {len(p.anchor_y)}"
            raise self.error(f"expected anchor_x and anchor_y num_object times ({p.num_object}), {found}")
        return (p.prop_num, BOX + 1), (p.prop_num,)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        p, size = self.settings, np.array([self.settings.net_w, self.settings.net_h] * 2)
        regions, classes = (np.zeros(shape, np.float32) for shape in self.tops_at_setup([bottoms[0].shape]))
        boxes = [(item, box) for item, x in enumerate(bottoms[0]) for box in self.found(x)]
        for index, (item, box) in enumerate(boxes[: p.prop_num]):
            low, high = np.maximum(box[:2] - box[2:] / 2, 0), np.minimum(box[:2] + box[2:] / 2, 1)
            regions[index] = [item, *(np.concatenate([low, high]) * size)]
            classes[index] = 1
        return regions, classes


@layer("MaskBoxData", dialect="maskyolo")
class MaskBoxData(_Files):
    """Images, and labels [N, 6 · max_box_num + H · W]: rows of x, y, width, height, class and instance, then a mask.

    (leon-liangwu/MaskYolo_Caffe, caffe-maskyolo/src/caffe/layers/mask_box_data_layer.cpp)
    """

    adds = yolo_pb2.MaskYoloLayerParameter
    num_tops = (1, 2)
    points = 0  # values of the key points of an instance

    @property
    def settings(self) -> Any:
        return self.proto.data_param

    def size(self) -> tuple[int, int] | None:
        p = self.added.transform_param
        return (p.resize_h, p.resize_w) if p.resize_h and p.resize_w else super().size()

    def resized(self) -> tuple[int, int] | None:
        return None

    def channels(self) -> int:
        return Images.channels(self)

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        rows = self.added.data_param.max_box_num
        return (images[0], rows * (BOX + 2 + self.points) + math.prod(images[2:]))

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        if not top:
            return None
        most = self.added.data_param.max_box_num
        labels = np.zeros(shape, np.float32)
        rows = labels[:, : most * (BOX + 2)].reshape(shape[0], most, BOX + 2)
        rows[:, :2, :2] = random.uniform(0.3, 0.7, (shape[0], 2, 2))
        rows[:, :2, 2:BOX] = random.uniform(0.1, 0.4, (shape[0], 2, 2))
        rows[:, :2, BOX + 1] = [1, 2]
        labels[:, : most * (BOX + 2)] = rows.reshape(shape[0], -1)
        return labels

    def shape_source(self) -> str:
        return f"in the records of {self.settings.source!r}"


@layer("KpsBoxData", dialect="maskyolo")
class KpsBoxData(MaskBoxData):
    """MaskBoxData with rows of an instance and x and y of its 17 key points behind the mask, 35 values each.

    (leon-liangwu/MaskYolo_Caffe, caffe-maskyolo/src/caffe/layers/kps_box_data_layer.cpp)
    """

    points = POINT_ROW
