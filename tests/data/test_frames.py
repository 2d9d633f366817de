"""Frames of a video file, as SSD's VideoData reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat.data.frames import FrameReader
from caffestat.data.images import resize
from caffestat.data.reader import DataUnavailableError
from caffestat.errors import NetError
from caffestat.fillers import Stream
from caffestat.layers.data import Images
from tests.layers.harness import TRAIN, make

from .support import picture

cv2 = pytest.importorskip("cv2")

FRAMES = 7


def reader(path: Path, transform: str = "", settings: str = "") -> FrameReader:
    layer = make(
        f"""name: "d" type: "VideoData" top: "x" top: "y" transform_param {{ {transform} }}
        data_param {{ batch_size: 2 }} video_data_param {{ video_type: VIDEO video_file: "{path}" {settings} }}""",
        TRAIN,
    )
    assert isinstance(layer, Images)
    assert layer.setup_words() == (*["transformer"] * 2 * ("mirror" in transform), "thread")
    found = FrameReader(layer)
    found.start({"transformer": 5, "thread": 9}, Stream(0))
    return found


@pytest.fixture
def video(tmp_path: Path) -> Path:
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 32))
    for number in range(FRAMES):
        writer.write(np.ascontiguousarray(resize(picture(number, 3, 4, 6), 32, 48).transpose(1, 2, 0)))
    writer.release()
    return tmp_path / "v.avi"


def decoded(path: Path) -> list[np.ndarray]:
    capture = cv2.VideoCapture(str(path))
    return [capture.read()[1].transpose(2, 0, 1) for _ in range(FRAMES)]


def test_frames_come_in_batches_until_the_end(video: Path) -> None:
    found, frames = reader(video), decoded(video)
    assert found.shapes == ((2, 3, 32, 48), (2,))
    for start in (0, 2, 4):
        images, labels = found.next()
        np.testing.assert_array_equal(images, frames[start : start + 2])
        np.testing.assert_array_equal(labels, [0, 0])
    with pytest.raises(NetError, match=r"the video '.*v\.avi' ends after 7 frames, where the reference stops"):
        found.next()


def test_each_frame_is_transformed_twice(video: Path) -> None:
    """video_data_layer.cpp, load_batch: behind the branch of skip_frames once more, and so it draws twice."""
    found, frames = reader(video, "resize_param { height: 16 width: 20 } mirror: true"), decoded(video)
    stream = Stream(5)
    for start in (0, 2, 4):
        for frame, image in zip(frames[start : start + 2], found.next()[0], strict=True):
            is_mirrored = bool([stream.word() % 2 for _ in range(2)][1])
            np.testing.assert_array_equal(image, resize(frame, 16, 20)[..., :: -1 if is_mirrored else 1])


def test_videos_that_are_not_read(video: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no video")
    with pytest.raises(NetError, match=r"the video '.*text' cannot be decoded"):
        reader(tmp_path / "text")
    with pytest.raises(NetError, match="with skip_frames the reference stops at the first frame"):
        reader(video, settings="skip_frames: 1")
    with pytest.raises(DataUnavailableError, match="file not found"):
        reader(tmp_path / "none")
