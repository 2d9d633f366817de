"""BoxData layers: encoded images of an LMDB with the boxes of objects in them, for YOLO.

The boxes are a Datum's float_data, six values each: class, difficult, and x and y of the centre, width and height as
shares of the image's. In TRAIN a part of the image is drawn, and scaled up to its size.
(yeahkun/caffe-yolo and gklz1982/caffe-yolov2, box_data_layer.cpp, data_transformer.cpp)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from caffestat.lazy import np
from caffestat.schema import caffe_pb2

from .database import DatumReader
from .images import resize

if TYPE_CHECKING:
    from caffestat.layers import Shape

__all__ = ["BoxReader", "GridReader"]

VALUES = 6  # of a box
MOST_TRIALS = 10_000  # the reference draws without end


class BoxReader(DatumReader):
    """Images (N, C, H, W) and, for each further top, boxes (N, most · 5): class, centre, width, height; then zeros."""

    def _shapes(self, record: Any) -> tuple[Shape, ...]:
        (images, _), layer = super()._shapes(record), self.layer
        further = [layer.further_shape(top, images) for top in range(1, layer.top_count)]  # type: ignore[attr-defined]
        return (images, *further)

    def _read(self, record: Any) -> Sequence[np.ndarray]:
        image, boxes = self._image(record), self._boxes(record)
        if self.layer.phase == caffe_pb2.TRAIN:
            image, boxes = self._part(image, boxes)
        return [self._transformer.apply(image), *(self._label(boxes, top) for top in range(1, len(self.shapes)))]

    def _label(self, boxes: np.ndarray, top: int) -> np.ndarray:
        """Return what a further top holds for an image's boxes."""
        label = np.zeros((self.shapes[top][1] // (VALUES - 1), VALUES - 1), np.float32)
        kept = boxes[: len(label), [0, 2, 3, 4, 5]]  # the reference writes further boxes beyond the row
        label[: len(kept)] = kept
        return label.ravel()

    def _boxes(self, record: Any) -> np.ndarray:
        boxes = np.array(record.float_data, np.float32)
        if not record.encoded or not boxes.size or boxes.size % VALUES:
            raise self._error(f"holds a record without an encoded image and {VALUES} values for each box in float_data")
        boxes = boxes.reshape(-1, VALUES)
        if not (boxes[:, 0] >= 0).all():
            raise self._error(f"holds a box of class {boxes[:, 0].min():g}; expected 0 or more")
        return boxes

    def _part(self, image: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a random part of the image, in the image's size, with the boxes whose centres lie in it."""
        size = np.array(image.shape[:0:-1])  # width, height
        placed = (boxes[:, 2:] * np.tile(size, 2).astype(np.float32)).astype(np.int64)
        draw = self._transformer.draw
        for _ in range(MOST_TRIALS):
            scale = np.float32(1 - draw(30) / 100)
            wide, tall = ((size.astype(np.float32) * scale).astype(np.int64) - 1).tolist()
            left, top = draw(int(size[0]) - wide), draw(int(size[1]) - tall)
            shift = placed[:, :2] - [left, top]
            kept = ((shift >= 0) & (shift < [wide, tall])).all(axis=1)
            if kept.any():
                moved = np.concatenate([shift, placed[:, 2:]], 1)[kept] / np.array([wide, tall] * 2, np.float32)
                part = image[:, top : top + tall, left : left + wide]
                return resize(part, image.shape[1], image.shape[2]), np.concatenate([boxes[kept, :2], moved], 1)
        raise self._error("holds an image none of whose boxes has its centre inside")


class GridReader(BoxReader):
    """Images, and for each further top the fields of a grid: difficult, whether there is an object, class, box."""

    def _label(self, boxes: np.ndarray, top: int) -> np.ndarray:
        side: int = self.layer.sides()[top - 1]  # type: ignore[attr-defined]
        label = np.zeros((7, side * side), np.float32)
        label[2] = -1
        places = np.minimum(np.floor(boxes[:, 2:4] * np.float32(side)), side - 1).astype(np.int64)
        if (places < 0).any():
            raise self._error("holds a box with its centre outside of the image")
        corners = label[3:].reshape(-1, 4)
        for box, (x, y) in zip(boxes, places, strict=True):  # the last one counts
            place = side * y + x
            label[:3, place] = box[1], 1, box[0]
            corners[place] = box[2:]
        return label.ravel()
