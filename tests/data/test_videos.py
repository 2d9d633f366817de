"""Videos: clips for 3-D convolutions, and snippets of the temporal segment networks, in their order of draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat.data.images import resize
from caffestat.errors import NetError

from .support import TEST, draws, encoded, picture, started, words, write_mean

pytest.importorskip("PIL")

CLIP = """type: "VideoData" top: "x" top: "y" video_data_param {
  source: "list" root_folder: "v/" batch_size: 2 new_length: 3 %s }"""
HIGH, WIDE = 10, 14


def frame(video: int, number: int, channels: int = 3) -> np.ndarray:
    """Return a flat image: a JPEG file holds it as it is."""
    return np.full((channels, HIGH, WIDE), 40 * video + 4 * number, np.uint8)


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image))


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for video in range(2):
        for number in range(1, 8):
            save(tmp_path / f"v/c{video}/image_{number:04d}.jpg", picture(10 * video + number, 3, HIGH, WIDE))
    (tmp_path / "list").write_text("c0 2 5\nc1 4 6\n")
    return tmp_path


def test_clips_are_cut_and_mirrored_as_a_whole(clips: Path) -> None:
    layer = started(clips, CLIP % "" + "transform_param { crop_size: 6 mirror: true mean_value: 9 scale: 0.5 }")
    assert layer.setup_words() == ("transformer", "transformer", "thread")
    assert layer.reader.shapes == ((2, 3, 3, 6, 6), (2,))
    data, labels = layer.reader.next()
    own = draws(words(2)[1])
    for video, first in enumerate((2, 4)):
        turn, down, right = own.pop(0) % 2, own.pop(0) % 5, own.pop(0) % 9
        expected = np.stack([picture(10 * video + number, 3, HIGH, WIDE) for number in range(first, first + 3)], 1)
        expected = (expected[..., down : down + 6, right : right + 6] - 9.0) * 0.5
        np.testing.assert_allclose(data[video], expected[..., :: -1 if turn else 1])
    np.testing.assert_array_equal(labels, [5, 6])


def test_the_mean_of_a_cube_has_a_frame_for_each(clips: Path) -> None:
    mean = np.arange(3 * 4 * HIGH * WIDE, dtype=np.float32).reshape(1, 3, 4, HIGH, WIDE)
    write_mean(clips / "mean", mean)
    data, _ = started(clips, CLIP % "" + 'transform_param { mean_file: "mean" }').reader.next()
    expected = np.stack([picture(number, 3, HIGH, WIDE) for number in (2, 3, 4)], 1) - mean[0, :, :3]
    np.testing.assert_array_equal(data[0], expected)
    write_mean(clips / "mean", mean[:, :, :2])
    with pytest.raises(NetError, match="has 2 frames; expected 3"):
        started(clips, CLIP % "" + 'transform_param { mean_file: "mean" }')


def test_frames_out_of_a_video_file(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    (tmp_path / "v").mkdir()
    writer = cv2.VideoWriter(str(tmp_path / "v/film.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    assert writer.isOpened()
    for level in range(20, 220, 20):
        writer.write(np.full((48, 64, 3), level, np.uint8))
    writer.release()
    (tmp_path / "list").write_text("film.avi 4 1\n")
    data, _ = started(tmp_path, CLIP % "new_height: 4 new_width: 5").reader.next()
    assert data.shape == (2, 3, 3, 4, 5)
    np.testing.assert_allclose(data[0, 0, :, 0, 0], [60, 80, 100], atol=3)  # one frame before the fourth
    gray = started(tmp_path, CLIP % "is_color: false").reader.next()[0]
    assert gray.shape == (2, 1, 3, 48, 64)
    (tmp_path / "list").write_text("film.avi 10 1\n")
    with pytest.raises(NetError, match="expected frames 10 to 12, found 10 frames"):
        started(tmp_path, CLIP % "")
    (tmp_path / "v/film.avi").write_text("no video")
    with pytest.raises(NetError, match="found no video that OpenCV decodes"):
        started(tmp_path, CLIP % "")


SNIPPETS = """type: "VideoData" top: "x" top: "y" video_data_param { source: "list" batch_size: 2 new_length: 2
  num_segments: 3 %s }"""


@pytest.fixture
def flows(tmp_path: Path) -> Path:
    for video in range(2):
        for number in range(1, 14):
            for axis in (0, 1):
                image = picture(100 * video + 2 * number + axis, 1, HIGH, WIDE)
                save(tmp_path / f"w{video}/flow_{'xy'[axis]}_{number:04d}.jpg", image)
    (tmp_path / "list").write_text("w0 13 4\nw1 12 2\n")
    return tmp_path


def stacked(video: int, starts: list[int]) -> np.ndarray:
    numbers = [start + index for start in starts for index in (1, 2)]
    return np.concatenate([picture(100 * video + 2 * n + axis, 1, HIGH, WIDE) for n in numbers for axis in (0, 1)])


def test_snippets_of_flow_are_drawn_in_their_parts(flows: Path) -> None:
    text = "transform_param { crop_size: 6 mirror: true is_flow: true mean_value: 7 mean_value: 11 }"
    layer = started(flows, SNIPPETS % "shuffle: false" + text)
    assert layer.setup_words() == ("transformer", "frames", "transformer")
    assert layer.reader.shapes == ((2, 12, 6, 6), (2, 1, 1, 1))
    data, labels = layer.reader.next()
    places, own = draws(words(2)[1])[3:], draws(words(3)[2])
    for video in range(2):
        expected = stacked(video, [places.pop(0) % 3 + 4 * part for part in range(3)]).astype(float)
        turn, down, right = own.pop(0) % 2, own.pop(0) % 5, own.pop(0) % 9
        expected = expected[:, down : down + 6, right : right + 6]
        if turn:
            expected[::2] = 255 - expected[::2]
        expected -= np.tile([7, 11], 6).reshape(12, 1, 1)
        np.testing.assert_array_equal(data[video], expected[..., :: -1 if turn else 1])
    np.testing.assert_array_equal(labels.ravel(), [4, 2])


def test_in_test_snippets_and_crops_are_central(flows: Path) -> None:
    data, _ = started(flows, SNIPPETS % "" + "transform_param { crop_size: 6 }", TEST).reader.next()
    expected = stacked(0, [1, 5, 9])[:, 2:8, 4:10]
    np.testing.assert_array_equal(data[0], expected)


def test_crops_of_several_scales_at_fixed_places(flows: Path) -> None:
    text = "transform_param { crop_size: 6 multi_scale: true fix_crop: true more_fix_crop: true max_distort: 1 }"
    data, _ = started(flows, SNIPPETS % "" + text).reader.next()
    places, own = draws(words(2)[1])[3:], draws(words(3)[2])
    lengths = [10, 6, 6, 6]  # 10, 8.75, 7.5 and 6.6 of 10 rows, of which what is nearer than 3 to 6 is 6
    pairs = [(lengths[i], lengths[j]) for i in range(4) for j in range(4) if abs(i - j) <= 1]
    quarters = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2), (0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3)]
    for video in range(2):
        frames = stacked(video, [places.pop(0) % 3 + 4 * part for part in range(3)])
        height, width = pairs[own.pop(0) % len(pairs)]
        i, j = quarters[own.pop(0) % 13]
        top, left = i * ((HIGH - height) // 4), j * ((WIDE - width) // 4)
        part = frames[:, top : top + height, left : left + width]
        np.testing.assert_array_equal(data[video], resize(part, 6, 6) if (height, width) != (6, 6) else part)


def test_short_videos_begin_at_their_first_frame_and_patterns(flows: Path) -> None:
    (flows / "list").write_text("w0 5 4\n")
    layer = started(flows, SNIPPETS % 'name_pattern: "flow_%c_%04d.jpg"')
    np.testing.assert_array_equal(layer.reader.next()[0][0], stacked(0, [0, 0, 0]))
    for pattern in ("%d", "%s%q%d", "%c"):
        with pytest.raises(NetError, match="expected a name_pattern with %c for x or y and %d for the frame"):
            started(flows, SNIPPETS % f'name_pattern: "{pattern}"')
    (flows / "list").write_text("w0 5\n")
    with pytest.raises(NetError, match="line 1 of 'list': expected a video, a number and a label"):
        started(flows, SNIPPETS % "")


def test_colour_and_gray_snippets(clips: Path) -> None:
    (clips / "list").write_text("v/c0 7 1\n")
    text = SNIPPETS.replace("num_segments: 3", "num_segments: 2") % "modality: RGB %s"
    data, _ = started(clips, text % "name_pattern: 'image_%04d.jpg'", TEST).reader.next()
    expected = np.concatenate([picture(number, 3, HIGH, WIDE) for number in (2, 3, 5, 6)])
    np.testing.assert_array_equal(data[0], expected)
    gray = started(clips, text % "grayscale: true", TEST).reader.next()[0]
    assert gray.shape == (2, 4, HIGH, WIDE)
