"""Annotated data layers: images with boxes out of an LMDB of AnnotatedDatum, cut, enlarged and mirrored with them.

(weiliu89/caffe, branch ssd: annotated_data_layer.cpp, data_transformer.cpp, util/sampler.cpp; eric612/MobileNet-YOLO,
the same files, where the layer has fields of that fork)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from caffestat.fillers import Stream
from caffestat.lazy import np
from caffestat.schema import caffe_pb2
from caffestat.schema.forks import ssd_pb2

from .database import DatumReader
from .distortion import Draws, add_noise, distort, fitted_box, new_size, resized
from .images import recompressed
from .reader import DataUnavailableError
from .transformer import mean_values

if TYPE_CHECKING:
    from caffestat.layers import Layer, Shape

__all__ = ["AnnotatedReader", "Item"]

MOST_BOXES = 300  # in an image, of YOLO's rows
OF_MOBILENET_YOLO = ("yolo_data_type", "yolo_data_jitter", "train_diffcult", "single_class", "difficult_label_warmup")
UNFILLED = ord(" ")  # border of an enlarged image, unless it is an encoded one with mean_value


@dataclass(frozen=True)
class _Annotation:
    """A true box. area: as it was when the box was last cut, which the reference keeps while it is resized."""

    label: int
    instance: int
    box: Any
    difficult: bool
    area: Any = None


@dataclass(frozen=True)
class Item:
    """An image (C, H, W) with its boxes.

    stated    the shape that its Datum states, by which boxes go; that of a compressed image may lack it
    is_raw    whether it is not stored as a compressed file
    is_typed  whether it says what its annotations are
    """

    image: np.ndarray
    boxes: tuple[_Annotation, ...]
    stated: tuple[int, ...]
    is_raw: bool
    is_typed: bool


class AnnotatedReader(DatumReader):
    """Images (N, C, H, W) and boxes (1, 1, boxes, 8), whose number differs from batch to batch.

    An encoded image is compressed as JPEG after each change before the cut, as in the reference.
    """

    is_independent = False  # its layer asks for more than the next batch

    def __init__(self, layer: Layer) -> None:
        self._settings = layer.added.transform_param
        self._samplers = layer.added.annotated_data_param.batch_sampler
        self._draws = Draws(Stream(0), Stream(0))
        self._fork = layer.added.annotated_data_param
        self._is_mobilenets = any(self._fork.HasField(name) for name in OF_MOBILENET_YOLO)
        self._is_mobilenets |= len(self._settings.resize_param) > 1
        self._policy = 0  # which resize_param counts
        self._batches = 0
        if layer.top_count > 2:
            raise DataUnavailableError("its masks of objects are not read")
        if self._fork.difficult_label_warmup:
            raise DataUnavailableError("difficult_label_warmup depends on the iteration")
        super().__init__(layer)
        self.varies = True  # in the number of boxes

    def _shapes(self, record: Any) -> tuple[Shape, ...]:
        self._has_boxes = record.HasField("type") or self.layer.added.annotated_data_param.HasField("anno_type")
        item = self._item(record)
        self._check(item)
        boxes = (self.batch, 1, MOST_BOXES, 5) if self._is_yolos() else (1, 1, max(len(item.boxes), 1), 8)
        return (self.batch, *self._shape(item)), boxes if self._has_boxes else (self.batch, 1, 1, 1)

    def _is_yolos(self) -> bool:
        return bool(self._fork.yolo_data_type == 1)

    def _resizing(self) -> Sequence[Any]:
        """Return the resize_param that counts, in a list; an empty one without."""
        return self._settings.resize_param[self._policy : self._policy + 1]

    def _check(self, item: Item) -> None:
        """Raise DataUnavailableError for what is not reproduced, NetError for what the reference refuses."""
        p, channels = self._settings, len(item.image)
        if self._is_mobilenets and p.resize_param and abs(sum(one.prob for one in p.resize_param) - 1) > 0.01:
            found = ", ".join(f"{one.prob:g}" for one in p.resize_param)
            raise self.layer.error(f"expected prob of all resize_param to sum to 1, found {found}")
        for what, values in (
            *(("pad_value", one.pad_value) for one in p.resize_param),
            ("value of saltpepper_param", p.noise_param.saltpepper_param.value),
        ):
            if len(values) not in (0, 1, channels):
                found = f"found {len(values)} for {channels} channels"
                raise self.layer.error(f"expected {what} once or once per channel, {found}")
        if fault := next(_faults(p, self._samplers), ""):
            raise self.layer.error(fault)
        if self._is_fitted_small() and self.batch != 1:
            raise self.layer.error(f"resize_mode FIT_SMALL_SIZE takes batch_size 1, found {self.batch}")
        if item.is_raw:
            self._check_raw(item)
        else:
            self._check_encoded()

    def _check_raw(self, item: Item) -> None:
        if self._shape(item) != item.image.shape and not self.layer.proto.transform_param.crop_size:
            what = "resize_param, crop_h and crop_w take encoded images only"
            raise self.layer.error(f"{what}, and of others crop_size alone cuts a part, as in the reference")

    def _check_encoded(self) -> None:
        transform, p = self.layer.proto.transform_param, self._settings
        if all(self._crop()) and self.layer.phase == caffe_pb2.TRAIN and not self.layer.is_random():  # type: ignore[attr-defined]
            raise self.layer.error("crop_h and crop_w draw the place of the crop, for which Caffe takes mirror: true")
        if transform.mean_file and p.HasField("expand_param") and p.expand_param.prob > 0:
            raise self.layer.error(
                "expand_param goes with mean_value; a mean_file would have to be as large as an enlarged image"
            )
        if transform.mean_file and any(self._crop()):
            raise DataUnavailableError("the effect of mean_file on cropped encoded images is not supported")
        if p.noise_param.convert_to_lab:
            raise DataUnavailableError("convert_to_lab in noise_param is not supported")

    def _is_fitted_small(self) -> bool:
        return any(p.resize_mode == ssd_pb2.ResizeParameter.FIT_SMALL_SIZE for p in self._settings.resize_param)

    def _crop(self) -> tuple[int, int]:
        """Return height and width of the crop, zero for one that is not cut."""
        side, p = self.layer.proto.transform_param.crop_size, self._settings
        return (side, side) if side else (p.crop_h, p.crop_w)

    def _shape(self, item: Item) -> tuple[int, int, int]:
        """Return the shape (C, H, W) that the net gets an image in, without a draw. (InferBlobShape)"""
        sizes = [new_size(p, item.image.shape) for p in self._resizing()]
        size = sizes[0] if sizes else item.image.shape[1:]
        return self._transformer.shape((len(item.image), *size))

    def _parse(self, value: bytes) -> Any:
        datum = ssd_pb2.AnnotatedDatum()
        try:
            datum.ParseFromString(value)
        except DecodeError as error:
            raise self._error("holds a record that is not an AnnotatedDatum message") from error
        return datum

    def _image(self, datum: Any) -> np.ndarray:
        return super()._image(datum.datum)

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        super().start(words, stream)
        self._draws = Draws(Stream(words["thread"]), stream)
        self._policy = self._batches = 0

    def next(self) -> Sequence[np.ndarray]:
        self._choose_size()
        images: list[np.ndarray] = []
        labels = []
        found: list[Sequence[_Annotation]] = []
        wanted: Shape = ()
        for _ in range(self.batch):
            record = self._record()
            item = self._item(record)
            wanted = wanted or self._shape(item)
            image, boxes = self._transformed(self._sampled(self._expanded(self._distorted(item))))
            if image.shape != wanted and not self._is_fitted_small():
                raise self._error(f"holds an image of shape {image.shape}; the first one of its batch has {wanted}")
            images.append(image)
            labels.append(record.datum.label)
            found.append(boxes)
        rows = self._rows(found) if self._has_boxes else np.array(labels, np.float32).reshape(-1, 1, 1, 1)
        return (np.stack(images), rows)[: len(self.shapes)]

    def _choose_size(self) -> None:
        """Draw which resize_param counts, for ten batches each; only MobileNet-YOLO draws."""
        if self._is_mobilenets and self._settings.resize_param and self._batches % 10 == 0:
            self._policy = self._draws.weighted([one.prob for one in self._settings.resize_param])
        self._batches += 1

    def _rows(self, found: Sequence[Sequence[_Annotation]]) -> np.ndarray:
        """Return the boxes of all images of a batch, as its net takes them."""
        if self._is_yolos():
            rows = np.zeros((len(found), 1, MOST_BOXES, 5), np.float32)
            for item, boxes in zip(rows[:, 0], found, strict=True):
                kept = [a for a in boxes if self._fork.train_diffcult or not a.difficult][:MOST_BOXES]
                for row, a in zip(item, kept, strict=False):
                    row[:] = [a.label - 1, *((a.box[:2] + a.box[2:]) / 2), *(a.box[2:] - a.box[:2])]
            return rows
        listed = [(i, a.label, a.instance, *a.box, a.difficult) for i, boxes in enumerate(found) for a in boxes]
        return np.array(listed or [(-1,) * 8], np.float32)[None, None]

    def _item(self, record: Any) -> Item:
        boxes = tuple(
            _Annotation(
                group.group_label,
                annotation.instance_id,
                np.array([getattr(annotation.bbox, side) for side in ("xmin", "ymin", "xmax", "ymax")], np.float32),
                annotation.bbox.difficult,
            )
            for group in record.annotation_group
            for annotation in group.annotation
        )
        image, datum = self._image(record), record.datum
        stated = (len(image), datum.height, datum.width)
        return Item(image, boxes, stated, not datum.encoded, record.HasField("type"))

    def _stored(self, item: Item) -> Item:
        """Return the item as the next step finds it: an encoded image is compressed again."""
        image = item.image if item.is_raw else recompressed(item.image)
        return replace(item, image=image, stated=image.shape)

    def _changed(self, change: Callable[..., np.ndarray], image: np.ndarray, p: Any) -> np.ndarray:
        try:
            return change(image, p, self._draws)
        except ValueError as error:
            raise self._error(f"holds an image {error}") from error

    def _distorted(self, item: Item) -> Item:
        """Return the item with other colours, an encoded one only. (DistortImage)"""
        if item.is_raw or not self._settings.HasField("distort_param"):
            return item
        return self._stored(replace(item, image=self._changed(distort, item.image, self._settings.distort_param)))

    def _expanded(self, item: Item) -> Item:
        """Return the item in the middle of a larger image, or as it is. (ExpandImage)"""
        p = self._settings.expand_param
        if not self._settings.HasField("expand_param") or self._draws.between(0, 1) > np.float32(p.prob):
            return item
        if abs(p.max_expand_ratio - 1) < 1e-2:
            return item
        ratio, (channels, height, width) = self._draws.between(1, p.max_expand_ratio), item.image.shape
        tall, wide = int(height * ratio), int(width * ratio)
        top, left = (
            int(np.floor(self._draws.between(0, large - size))) for large, size in ((tall, height), (wide, width))
        )
        image = np.full((channels, tall, wide), 0, item.image.dtype)
        image[...] = UNFILLED if item.is_raw else self._surround(channels)
        image[:, top : top + height, left : left + width] = item.image
        corners = [-left / width, -top / height, (wide - left) / width, (tall - top) / height]
        boxes = self._cut_boxes(item.boxes, np.array(corners, np.float32))
        return self._stored(replace(item, image=image, boxes=tuple(boxes), is_typed=True))

    def _surround(self, channels: int) -> np.ndarray:
        """Return the border of an encoded image that is enlarged: the mean of each channel."""
        return np.clip(np.rint(mean_values(self.layer, channels)), 0, 255).astype(np.uint8)

    def _sampled(self, item: Item) -> Item:
        """Return a part of the image with its boxes, or all of it. (GenerateBatchSamples, CropImage)"""
        found = [
            box for sampler in self._samplers if sampler.use_original_image for box in self._samples(sampler, item)
        ]
        if self._is_mobilenets and not self._samplers and self._fork.yolo_data_jitter:
            found = [self._jittered()]
        if not found:
            return item
        box = np.clip(found[self._draws.below(len(found))], np.float32(0), np.float32(1))
        (left, top), (right, bottom) = (box.reshape(2, 2) * np.array(item.image.shape[:0:-1], np.float32)).tolist()
        tall, wide = int(np.float32(bottom) - np.float32(top)), int(np.float32(right) - np.float32(left))
        if not tall or not wide:
            raise self._error(f"holds an image of shape {item.image.shape}, of which a batch_sampler takes no pixel")
        image = item.image[:, int(top) : int(top) + tall, int(left) : int(left) + wide]
        boxes = tuple(self._cut_boxes(item.boxes, box))
        return self._stored(replace(item, image=image, boxes=boxes, is_typed=True))

    def _jittered(self) -> Any:
        """Return a box of nearly the whole image, which may be narrower by yolo_data_jitter. (GenerateJitterSamples)"""
        strength = self._draws.weighted([0.2, 0.2, 0.6])
        if not strength:
            return np.array([0, 0, 1, 1], np.float32)
        jitter = np.float32(self._fork.yolo_data_jitter) / np.float32(2 if strength == 1 else 1)
        wide = self._draws.between(float(np.float32(1) - jitter), 1)
        keeps_aspect = any(p.resize_mode == ssd_pb2.ResizeParameter.FIT_LARGE_SIZE_AND_PAD for p in self._resizing())
        tall = wide if keeps_aspect else self._draws.between(float(np.float32(1) - jitter), 1)
        left, top = (self._draws.between(0, float(np.float32(1) - side)) for side in (wide, tall))
        return np.array([left, top, left + wide, top + tall], np.float32)

    def _samples(self, sampler: Any, item: Item) -> Iterator[Any]:
        """Yield the boxes that a sampler finds. (GenerateSamples)"""
        found = 0
        for _ in range(sampler.max_trials):
            if sampler.HasField("max_sample") and found >= sampler.max_sample:
                return
            box = self._sample(sampler.sampler)
            if _satisfies(box, [a.box for a in item.boxes], sampler.sample_constraint):
                found += 1
                yield box

    def _sample(self, p: Any) -> Any:
        """Return a random box. (SampleBBox)"""
        scale = self._draws.between(p.min_scale, p.max_scale)
        ratio = self._draws.between(p.min_aspect_ratio, p.max_aspect_ratio)
        square = float(scale) ** 2
        ratio = np.float32(min(max(ratio, np.float32(square)), np.float32(1 / square)))
        root = np.sqrt(ratio)
        wide, tall = np.float32(scale * root), np.float32(scale / root)
        left, top = (self._draws.between(0, max(float(np.float32(1) - side), 0)) for side in (wide, tall))
        return np.array([left, top, left + wide, top + tall], np.float32)

    def _transformed(self, item: Item) -> tuple[np.ndarray, list[_Annotation]]:
        """Return the image as the net gets it, with its boxes. (Transform, TransformAnnotation)"""
        self._check_stated(item)
        image, mean = item.image, None
        mirror = bool(self.layer.proto.transform_param.mirror and self._transformer.draw(2))
        for p in self._resizing() if not item.is_raw else ():
            image = self._changed(resized, image, p)
        if self._settings.HasField("noise_param") and not item.is_raw:
            image = self._changed(add_noise, image, self._settings.noise_param)
        if self.layer.proto.transform_param.mean_file and mirror and not item.is_raw:
            mean = self._transformer.mean_of(image.shape)[..., ::-1]  # of an encoded image it is not mirrored
        _, height, width = self._transformer.shape(image.shape)
        top, left = self._transformer.offsets(image.shape)
        down, across = np.float32(image.shape[1]), np.float32(image.shape[2])
        corners = [left / across, top / down, (left + width) / across, (top + height) / down]
        boxes = self._boxes_of_net(item.boxes, item.stated, np.array(corners, np.float32), mirror)
        return self._transformer.cut(image, mirror, top, left, mean), boxes

    def _check_stated(self, item: Item) -> None:
        """Raise NetError for an item that lacks what the reference makes boxes of."""
        if self._has_boxes and not item.is_typed:
            raise self._error("holds a record without a type, at which Caffe stops; set it to BBOX in all records")
        if item.boxes and self._resizing() and not all(item.stated):
            raise self._error("holds a record without height and width, by which resize_param moves its boxes")

    def _boxes_of_net(
        self, boxes: Sequence[_Annotation], image: Sequence[int], cut: Any, mirror: bool
    ) -> list[_Annotation]:
        """Return the boxes of an image (C, H, W) as they lie once it is resized, cut and mirrored."""
        for p in self._resizing():
            boxes = [replace(a, box=fitted_box(a.box, p, image)) for a in boxes]
        found = list(self._cut_boxes(boxes, cut))
        if mirror:
            turned = [np.array([1 - a.box[2], a.box[1], 1 - a.box[0], a.box[3]], np.float32) for a in found]
            found = [replace(a, box=box) for a, box in zip(found, turned, strict=True)]
        for p in self._resizing():
            found = [replace(a, box=self._scaled_box(a.box, p, image, cut)) for a in found]
        return found

    def _scaled_box(self, box: Any, p: Any, image: Sequence[int], cut: Any) -> Any:
        """Return a box in units of width_scale and height_scale, where FIT_SMALL_SIZE has them. (ExtrapolateBBox)"""
        if not self._is_fitted_small() or not p.height_scale or not p.width_scale:
            return box
        aspect, size = np.float32(image[2]) / np.float32(image[1]), np.array([p.width, p.height], np.float32)
        size = np.array([size[0], size[0] / aspect] if aspect < size[0] / size[1] else [size[1] * aspect, size[1]])
        size = size.astype(np.float32) * (cut[2:] - cut[:2])
        scale = np.array([p.width_scale, p.height_scale], np.float32)
        if (size < scale).any():
            found = f"the crop is {size[0]:g} x {size[1]:g}"
            raise self.layer.error(f"width_scale and height_scale {scale.tolist()} exceed it: {found}")
        return box * np.tile(size, 2) / np.tile(scale, 2)

    def _cut_boxes(self, boxes: Sequence[_Annotation], cut: Any) -> Iterator[_Annotation]:
        """Return the boxes that a part of the image keeps, as they lie in it. (TransformAnnotation)"""
        return _projected([a for a in boxes if self._is_emitted(cut, a)], cut)

    def _is_emitted(self, cut: Any, annotation: _Annotation) -> bool:
        """Tell whether a box is kept when the image is cut. (MeetEmitConstraint)"""
        p, box = self._settings.emit_constraint, annotation.box
        if not self._settings.HasField("emit_constraint"):
            return True
        if p.emit_type == ssd_pb2.EmitConstraint.CENTER:
            center = (box[:2] + box[2:]) / 2
            return bool((center >= cut[:2]).all() and (center <= cut[2:]).all())
        return bool(_coverage(box, cut, annotation.area) > np.float32(p.emit_overlap))


def _faults(p: Any, samplers: Sequence[Any]) -> Iterator[str]:
    """Yield what the reference refuses of a transform_param and of samplers, at the start or in the first batch.

    (data_transformer.cpp, DataTransformer; im_transforms.cpp, RandomBrightness …; sampler.cpp, SampleBBox)
    """
    if any(not (one.height and one.width) for one in p.resize_param):
        yield "expected positive height and width in resize_param"
    if p.HasField("expand_param") and not p.expand_param.max_expand_ratio > 1:
        yield f"max_expand_ratio is {p.expand_param.max_expand_ratio:g}; expected more than 1"
    if (
        p.noise_param.saltpepper
        and p.noise_param.saltpepper_param.fraction > 0
        and not p.noise_param.saltpepper_param.value
    ):
        yield "saltpepper is true without a value in saltpepper_param"
    d = p.distort_param
    for what in ("brightness", "hue"):
        if getattr(d, f"{what}_prob") > 0 and not getattr(d, f"{what}_delta") >= 0:
            yield f"{what}_delta is {getattr(d, f'{what}_delta'):g}; expected 0 or more"
    for what in ("contrast", "saturation"):
        low, high = getattr(d, f"{what}_lower"), getattr(d, f"{what}_upper")
        if getattr(d, f"{what}_prob") > 0 and not 0 <= low <= high:
            yield f"{what}_lower is {low:g} and {what}_upper {high:g}; expected 0 or more, in this order"
    for s in (one.sampler for one in samplers if one.use_original_image):
        if not 0 < s.min_scale <= s.max_scale <= 1:
            yield f"min_scale is {s.min_scale:g} and max_scale {s.max_scale:g}; expected more than 0, in order, to 1"
        if not 0 < s.min_aspect_ratio <= s.max_aspect_ratio < np.inf:
            ratios = f"min_aspect_ratio is {s.min_aspect_ratio:g} and max_aspect_ratio {s.max_aspect_ratio:g}"
            yield f"{ratios}; expected more than 0, in order"


def _area(box: Any) -> np.float32:
    size = box[2:] - box[:2]
    return np.float32(0) if (size < 0).any() else np.float32(size[0] * size[1])


def _common(a: Any, b: Any) -> np.float32:
    """Return the area that two boxes share."""
    size = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    return np.float32(size[0] * size[1]) if (size > 0).all() else np.float32(0)


def _overlap(a: Any, b: Any) -> np.float32:
    """Return intersection over union."""
    common = _common(a, b)
    return np.float32(common / (_area(a) + _area(b) - common)) if common > 0 else np.float32(0)


def _coverage(box: Any, by: Any, area: Any = None) -> np.float32:
    """Return the share of a box, of another area if given, that another covers."""
    common = _common(box, by)
    return np.float32(common / (_area(box) if area is None else area)) if common > 0 else np.float32(0)


def _satisfies(box: Any, others: Sequence[Any], p: Any) -> bool:
    """Tell whether a sampled box is near enough to one of the objects. (SatisfySampleConstraint)

    Of several measures that are constrained the reference looks at the first: once it is met, no other can fail.
    """
    tests = (
        ("jaccard_overlap", _overlap),
        ("sample_coverage", _coverage),
        ("object_coverage", lambda sample, other: _coverage(other, sample)),
    )
    asked = [(name, measure) for name, measure in tests if p.HasField(f"min_{name}") or p.HasField(f"max_{name}")]
    if not asked:
        return True
    name, measure = asked[0]
    values = [measure(box, other) for other in others]
    low = np.float32(getattr(p, f"min_{name}")) if p.HasField(f"min_{name}") else -np.inf
    high = np.float32(getattr(p, f"max_{name}")) if p.HasField(f"max_{name}") else np.inf
    return any(low <= value <= high for value in values)


def _projected(boxes: Sequence[_Annotation], cut: Any) -> Iterator[_Annotation]:
    """Yield the boxes as they lie in a part of the image, those outside of it left out. (ProjectBBox)"""
    size = np.tile(cut[2:] - cut[:2], 2)
    for annotation in boxes:
        box = annotation.box
        if (box[:2] >= cut[2:]).any() or (box[2:] <= cut[:2]).any():
            continue
        inside = np.clip((box - np.tile(cut[:2], 2)) / size, np.float32(0), np.float32(1)).astype(np.float32)
        if (area := _area(inside)) > 0:
            yield replace(annotation, box=inside, area=area)
