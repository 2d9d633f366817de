"""The transformer against its definition pixel by pixel, and what it says of settings that do not fit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat.data.transformer import Transformer
from caffestat.errors import NetError

from .support import SEED, TEST, TRAIN, make, picture, words, write_mean


def transformer(settings: str, folder: Path, phase: int = TRAIN) -> Transformer:
    made = Transformer(make(f'type: "Data" top: "data" transform_param {{ {settings} }}', folder, phase))
    made.start(SEED)
    return made


def expected(image, scale=1.0, mean=None, crop=0, top=0, left=0, mirror=False):
    channels, height, width = image.shape
    rows, columns = (crop, crop) if crop else (height, width)
    out = np.empty((channels, rows, columns), np.float32)
    for c in range(channels):
        for h in range(rows):
            for w in range(columns):
                value = np.float32(image[c, top + h, left + w])
                if mean is not None:
                    value = value - np.float32(mean[c, top + h, left + w])
                out[c, h, columns - 1 - w if mirror else w] = value * np.float32(scale)
    return out


def test_scale_and_one_mean_for_all_channels(tmp_path):
    image = picture(1)
    found = transformer("scale: 0.1 mean_value: 17.3", tmp_path).apply(image)
    np.testing.assert_array_equal(found, expected(image, 0.1, np.full(image.shape, 17.3)))


def test_a_mean_per_channel(tmp_path):
    image = picture(1)
    found = transformer("mean_value: 1 mean_value: 2 mean_value: 3", tmp_path).apply(image)
    np.testing.assert_array_equal(found, expected(image, mean=np.ones((3, 5, 7)) * [[[1]], [[2]], [[3]]]))


def test_crop_and_mirror_of_train_draw_in_caffes_order(tmp_path):
    image = picture(2)
    mean = np.random.default_rng(3).normal(size=(1, 3, 5, 7)).astype(np.float32)
    write_mean(tmp_path / "mean", mean)
    made = transformer('crop_size: 4 mirror: true mean_file: "mean" scale: 0.5', tmp_path)
    drawn = iter(words(60))
    seen = set()
    for _ in range(20):
        mirror, top, left = next(drawn) % 2, next(drawn) % 2, next(drawn) % 4
        seen.add((mirror, top))
        np.testing.assert_array_equal(made.apply(image), expected(image, 0.5, mean[0], 4, top, left, bool(mirror)))
    assert len(seen) == 4


def test_crop_of_test_is_central_and_draws_nothing(tmp_path):
    image = picture(2)
    made = transformer("crop_size: 2", tmp_path, TEST)
    made.start(None)
    np.testing.assert_array_equal(made.apply(image), expected(image, crop=2, top=1, left=2))


def test_floats_are_taken_as_they_are(tmp_path):
    image = np.random.default_rng(4).normal(size=(2, 3, 4)).astype(np.float32)
    np.testing.assert_array_equal(transformer("", tmp_path).apply(image), image)


def test_the_image_is_left_alone(tmp_path):
    image = np.ones((2, 3, 4), np.float32)
    transformer("scale: 3", tmp_path).apply(image)
    assert (image == 1).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("crop_size: 6", "crop_size is 6, but an image is 5 x 7"),
        ("mean_value: 1 mean_value: 2", r"mean_value is given 2 times; expected once, or once per channel \(3\)"),
        ('mean_file: "mean"', r"the mean in 'mean' has shape \(3, 7, 5\), but an image has \(3, 5, 7\)"),
        ('mean_file: "mean" mean_value: 1', "both mean_file and mean_value"),
        ('mean_file: "text"', "expected a binary caffe.BlobProto|expected a binary BlobProto"),
    ],
)
def test_what_does_not_fit(settings, message, tmp_path):
    write_mean(tmp_path / "mean", np.zeros((1, 3, 7, 5)))
    (tmp_path / "text").write_text("data: 1")
    with pytest.raises(NetError, match=f"net.prototxt:7: .*{message}"):
        transformer(settings, tmp_path).apply(picture(1))


def test_a_mean_of_three_axes_is_read_as_caffe_reads_it(tmp_path):
    write_mean(tmp_path / "mean", np.zeros((3, 5, 7)))
    with pytest.raises(NetError, match=r"has shape \(5, 7, 1\)"):
        transformer('mean_file: "mean"', tmp_path).apply(picture(1))
