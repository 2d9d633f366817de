"""WindowData layers: sampling, warping, padding, and damage."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat.data import DataUnavailableError, open_reader
from caffestat.data.images import resize
from caffestat.errors import NetError

from .support import encoded, make, opened, picture, words, write_mean

pytest.importorskip("PIL")

FIRST = """# 0
one.png
3 20 30
3
2 0.9 3 4 14 9
5 0.3 0 0 5 5
1 0.4 2 2 20 12
"""
SECOND = """# 1
two.png
3 16 12
1
4 0.5 1 2 8 15
"""


def window_layer(folder: Path, settings: str = "", transform: str = ""):
    return make(
        'type: "WindowData" top: "data" top: "label" '
        f'window_data_param {{ source: "list" batch_size: 7 bg_threshold: 0.35 {settings} }} '
        f"transform_param {{ crop_size: 6 {transform} }}",
        folder,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "one.png").write_bytes(encoded(picture(1, 3, 20, 30)))
    (tmp_path / "two.png").write_bytes(encoded(picture(2, 3, 16, 12)))
    (tmp_path / "list").write_text(FIRST + SECOND)
    return tmp_path


BOXES = {2.0: (1, 3, 4, 14, 9), 4.0: (2, 1, 2, 8, 15), 0.0: (1, 0, 0, 5, 5)}  # by label: the picture, x1, y1, x2, y2


def cut(label: float) -> np.ndarray:
    number, x1, y1, x2, y2 = BOXES[label]
    image = picture(1, 3, 20, 30) if number == 1 else picture(2, 3, 16, 12)
    return image[:, y1 : y2 + 1, x1 : x2 + 1]


def test_background_first_then_foreground_by_fraction(folder):
    layer = window_layer(folder, "fg_fraction: 0.6 scale: 0.5", "mirror: true mean_value: 10")
    assert layer.setup_words() == ("transformer", "windows", "transformer", "thread")
    reader = opened(layer)
    assert reader.shapes == ((7, 3, 6, 6), (7,))
    data, labels = reader.next()
    assert labels[:3].tolist() == [0, 0, 0]
    own = iter(np.random.RandomState(words(2)[1]).randint(0, 1 << 32, 14, np.uint32).tolist())
    for image, label in zip(data, labels, strict=True):
        which, mirror = next(own), next(own) % 2
        if label:
            assert label == (2, 4)[which % 2]
        warped = resize(cut(float(label)), 6, 6).astype(np.float32)
        np.testing.assert_array_equal(image, (warped[:, :, ::-1] if mirror else warped) * 0.5 - 5)


def test_the_mean_lies_around_the_crop(folder):
    mean = np.arange(3 * 8 * 8, dtype=np.float32).reshape(1, 3, 8, 8)
    write_mean(folder / "mean", mean)
    data, labels = opened(window_layer(folder, transform='mean_file: "mean"')).next()
    np.testing.assert_array_equal(data[0], resize(cut(float(labels[0])), 6, 6) - mean[0, :, 1:7, 1:7])


def test_context_outside_the_image_is_zero(folder):
    # 6 / (6 - 2) of 6 pixels around 3: -2 to 8 (halves are rounded away from 0), two of eleven outside
    data, labels = opened(window_layer(folder, "context_pad: 1", "mean_value: 500")).next()
    assert labels[0] == 0
    assert (data[0, :, 0] == 0).all()
    assert (data[0, :, :, 0] == 0).all()
    image = picture(1, 3, 20, 30)[:, :9, :9]
    np.testing.assert_array_equal(data[0, :, 1:, 1:], resize(image, 5, 5) - np.float32(500))


def test_a_square_takes_the_longer_side(folder):
    (folder / "list").write_text(FIRST.replace("0 0 5 5", "10 6 13 13"))
    data, labels = opened(window_layer(folder, 'crop_mode: "square"')).next()
    assert labels[0] == 0
    # centre (12, 10), half a side 4: columns 8 to 16, rows 6 to 14
    np.testing.assert_array_equal(data[0], resize(picture(1, 3, 20, 30)[:, 6:15, 8:17], 6, 6))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FIRST[:30], "is not a window file, or is truncated"),
        ("one.png 3", "has no background window"),
        (SECOND, "image 'two.png' has number 1; expected 0"),
        (FIRST.replace("0.3", "0.45"), "has no background window by the thresholds"),
        (FIRST.replace("0.9", "0.45"), "has no foreground window by the thresholds"),
        (FIRST.replace("2 0.9", "0 0.9"), "has label 0; expected 1 or more"),
    ],
)
def test_lists_that_do_not_fit(text, message, folder):
    (folder / "list").write_text(text)
    with pytest.raises(NetError, match=f"net.prototxt:7: layer 'd' .*{message}"):
        open_reader(window_layer(folder))


def test_missing_images(folder):
    (folder / "two.png").unlink()
    with pytest.raises(DataUnavailableError, match=r"file not found: 'two.png'"):
        open_reader(window_layer(folder))
