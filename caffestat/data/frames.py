"""Frames of one video file, resized and cut as SSD does it. (weiliu89/caffe, branch ssd: video_data_layer.cpp)"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffestat.errors import NetError
from caffestat.lazy import np

from .annotated import AnnotatedReader, Item
from .reader import find, require

if TYPE_CHECKING:
    from caffestat.layers import Shape

__all__ = ["FrameReader"]


class FrameReader(AnnotatedReader):
    """Frames (N, C, H, W) from the first on, and labels of 0 (N). At the end of the video the reference stops."""

    def _found(self) -> Path:
        p = self.layer.added.video_data_param
        if p.skip_frames:
            raise self.layer.error("with skip_frames the reference stops at the first frame; remove it")
        return find(p.video_file, self.layer)

    def _error(self, message: str) -> NetError:
        return self.layer.error(f"the video {str(self._path)!r} {message}")

    def _shapes(self, record: Any) -> tuple[Shape, ...]:
        self._has_boxes = False
        item = self._item(record)
        self._check(item)
        return (self.batch, *self._shape(item)), (self.batch,)

    def _records(self) -> Iterator[Any]:
        video = require("cv2", "videos", "opencv").VideoCapture(str(self._path))
        count = 0
        while (frame := video.read()[1]) is not None:
            yield np.ascontiguousarray(np.atleast_3d(frame).transpose(2, 0, 1))
            count += 1
        raise self._error(f"ends after {count} frames, where the reference stops" if count else "cannot be decoded")

    def _parse(self, value: Any) -> Any:
        return value

    def _item(self, record: Any) -> Item:
        return Item(record, (), record.shape, is_raw=False, is_typed=True)

    def next(self) -> Sequence[np.ndarray]:
        images = []
        for _ in range(self.batch):
            item = self._item(self._record())
            self._transformed(item)  # the reference does it twice, and draws twice
            images.append(self._transformed(item)[0])
        return (np.stack(images), np.zeros(self.batch, np.float32))[: len(self.shapes)]
