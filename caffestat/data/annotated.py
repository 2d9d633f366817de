"""Annotated data layers: images with boxes out of an LMDB of AnnotatedDatum, cut, enlarged and mirrored with them.

(weiliu89/caffe, branch ssd: annotated_data_layer.cpp, data_transformer.cpp, util/sampler.cpp)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf.message import DecodeError

from caffestat.fillers import Stream
from caffestat.fillers.distributions import uniform
from caffestat.schema.forks import ssd_pb2

from .database import DatumReader
from .images import resize
from .reader import DataUnavailableError

if TYPE_CHECKING:
    from caffestat.layers import Layer

__all__ = ["AnnotatedReader"]

UNFILLED = ord(" ")  # what a larger image holds around the old one, unless it is an encoded one with mean_value


@dataclass(frozen=True)
class _Annotation:
    label: int
    instance: int
    box: Any
    difficult: bool


@dataclass(frozen=True)
class _Item:
    """An image (C, H, W) with its boxes; `is_raw` for one that is not stored as a compressed file."""

    image: np.ndarray
    boxes: tuple[_Annotation, ...]
    is_raw: bool


class AnnotatedReader(DatumReader):
    """Images (N, C, H, W) and boxes (1, 1, boxes, 8), whose number differs from batch to batch."""

    is_independent = False  # its layer asks for more than the next batch

    def __init__(self, layer: Layer) -> None:
        self._settings = layer.added.transform_param
        self._samplers = layer.added.annotated_data_param.batch_sampler
        self._stream = Stream(0)
        if layer.added.annotated_data_param.yolo_data_type == 1:
            raise DataUnavailableError("boxes as its yolo_data_type asks for are not read")
        super().__init__(layer)
        record = self._record()
        self._values = iter(())
        self._has_boxes = record.HasField("type") or layer.added.annotated_data_param.HasField("anno_type")
        item = self._item(record)
        if self._settings.HasField("distort_param") and not item.is_raw:
            raise DataUnavailableError("its distort_param is not reproduced")
        count = max(len(item.boxes), 1)
        image = self._transformer.shape(self._resized(item.image, item.is_raw).shape)
        labels = (1, 1, count, 8) if self._has_boxes else (self.batch,)
        self.shapes = ((self.batch, *image), labels)[: layer.top_count]

    def _parse(self, value: bytes) -> Any:
        datum = ssd_pb2.AnnotatedDatum()
        try:
            datum.ParseFromString(value)
        except DecodeError as error:
            raise self._error("holds a record that is no AnnotatedDatum message") from error
        return datum

    def _image(self, datum: Any) -> np.ndarray:
        return super()._image(datum.datum)

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        super().start(words, stream)
        self._stream = Stream(words["thread"])

    def next(self) -> Sequence[np.ndarray]:
        data, labels = np.empty(self.shapes[0], np.float32), []
        rows: list[tuple[float, ...]] = []
        for index in range(self.batch):
            record = self._record()
            image, boxes = self._transformed(self._sampled(self._expanded(self._item(record))))
            if image.shape != data.shape[1:]:
                raise self._error(f"holds an image of shape {image.shape}; the first one has {data.shape[1:]}")
            data[index] = image
            labels.append(record.datum.label)
            rows += [(index, a.label, a.instance, *a.box, a.difficult) for a in boxes]
        found = np.array(rows or [(-1,) * 8], np.float32)[None, None]
        return (data, found if self._has_boxes else np.array(labels, np.float32))[: len(self.shapes)]

    def _item(self, record: Any) -> _Item:
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
        return _Item(self._image(record), boxes, not record.datum.encoded)

    def _draw(self, low: float, high: float) -> np.float32:
        """Return a number of the prefetching thread's own stream."""
        return np.float32(uniform(self._stream, 1, low, high)[0])

    def _expanded(self, item: _Item) -> _Item:
        """Return the item in the middle of a larger image, or as it is. (ExpandImage)"""
        p = self._settings.expand_param
        if not self._settings.HasField("expand_param") or self._draw(0, 1) > np.float32(p.prob):
            return item
        if abs(p.max_expand_ratio - 1) < 1e-2:
            return item
        ratio, (channels, height, width) = self._draw(1, p.max_expand_ratio), item.image.shape
        tall, wide = int(height * ratio), int(width * ratio)
        top, left = (int(np.floor(self._draw(0, large - size))) for large, size in ((tall, height), (wide, width)))
        image = np.full((channels, tall, wide), 0, item.image.dtype)
        image[...] = UNFILLED if item.is_raw else self._surround(channels)
        image[:, top : top + height, left : left + width] = item.image
        corners = [-left / width, -top / height, (wide - left) / width, (tall - top) / height]
        return replace(item, image=image, boxes=tuple(_projected(item.boxes, np.array(corners, np.float32))))

    def _surround(self, channels: int) -> np.ndarray:
        """Return what stands around an encoded image that is made larger: the mean of each channel."""
        means = np.array(self.layer.proto.transform_param.mean_value or [0], np.float32)
        return np.broadcast_to(means, channels).reshape(-1, 1, 1).astype(np.uint8)

    def _sampled(self, item: _Item) -> _Item:
        """Return a part of the image with its boxes, or all of it. (GenerateBatchSamples, CropImage)"""
        found = [
            box for sampler in self._samplers if sampler.use_original_image for box in self._samples(sampler, item)
        ]
        if not found:
            return item
        box = np.clip(found[self._stream.word() % len(found)], np.float32(0), np.float32(1))
        (left, top), (right, bottom) = (box.reshape(2, 2) * np.array(item.image.shape[:0:-1], np.float32)).tolist()
        tall, wide = int(np.float32(bottom) - np.float32(top)), int(np.float32(right) - np.float32(left))
        image = item.image[:, int(top) : int(top) + tall, int(left) : int(left) + wide]
        return replace(item, image=image, boxes=tuple(_projected(item.boxes, box)))

    def _samples(self, sampler: Any, item: _Item) -> Iterator[Any]:
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
        scale = self._draw(p.min_scale, p.max_scale)
        ratio = self._draw(p.min_aspect_ratio, p.max_aspect_ratio)
        square = float(scale) ** 2
        ratio = np.float32(min(max(ratio, np.float32(square)), np.float32(1 / square)))
        root = np.sqrt(ratio)
        wide, tall = np.float32(scale * root), np.float32(scale / root)
        left, top = (self._draw(0, max(float(np.float32(1) - side), 0)) for side in (wide, tall))
        return np.array([left, top, left + wide, top + tall], np.float32)

    def _resized(self, image: np.ndarray, is_raw: bool) -> np.ndarray:
        """Return the image in the size of resize_param: an encoded one only."""
        settings = self._settings.resize_param
        if is_raw or not settings:
            return image
        p = settings[0]
        if len(settings) > 1:
            raise DataUnavailableError("it has several resize_param, one of which is drawn for each batch")
        if p.resize_mode != ssd_pb2.ResizeParameter.WARP or set(p.interp_mode) - {ssd_pb2.ResizeParameter.LINEAR}:
            raise DataUnavailableError("its resize_param is not reproduced: only WARP with LINEAR is")
        return resize(image, p.height, p.width)

    def _transformed(self, item: _Item) -> tuple[np.ndarray, list[_Annotation]]:
        """Return the image as the net gets it, with its boxes. (Transform, TransformAnnotation)"""
        image = self._resized(item.image, item.is_raw)
        mirror, top, left = self._transformer.place(image.shape)
        height, width = self._transformer.shape(image.shape)[1:]
        down, across = np.float32(image.shape[1]), np.float32(image.shape[2])
        corners = [left / across, top / down, (left + width) / across, (top + height) / down]
        cut = np.array(corners, np.float32)
        boxes = list(_projected([a for a in item.boxes if self._is_emitted(cut, a.box)], cut))
        if mirror:
            turned = [np.array([1 - a.box[2], a.box[1], 1 - a.box[0], a.box[3]], np.float32) for a in boxes]
            boxes = [replace(a, box=box) for a, box in zip(boxes, turned, strict=True)]
        return self._transformer.cut(image, mirror, top, left), boxes

    def _is_emitted(self, cut: Any, box: Any) -> bool:
        """Tell whether a box is kept when the image is cut. (MeetEmitConstraint)"""
        p = self._settings.emit_constraint
        if not self._settings.HasField("emit_constraint"):
            return True
        if p.emit_type == ssd_pb2.EmitConstraint.CENTER:
            center = (box[:2] + box[2:]) / 2
            return bool((center >= cut[:2]).all() and (center <= cut[2:]).all())
        return bool(_coverage(box, cut) > np.float32(p.emit_overlap))


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


def _coverage(box: Any, by: Any) -> np.float32:
    """Return the share of a box that another covers."""
    common = _common(box, by)
    return np.float32(common / _area(box)) if common > 0 else np.float32(0)


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
        if _area(inside) > 0:
            yield replace(annotation, box=inside)
