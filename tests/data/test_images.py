"""Decoding and resizing, against values that OpenCV gave."""

from __future__ import annotations

import io

import numpy as np
import pytest

from caffestat.data.images import decode, resize

from .support import encoded, picture

Image = pytest.importorskip("PIL.Image")

PATTERN = ((np.arange(60).reshape(5, 4, 3) * 37) % 256).astype(np.uint8).transpose(2, 0, 1)


def file_of(image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("image", "size", "opencvs"),
    [
        (
            PATTERN,
            (3, 7),
            [
                [
                    [63, 72, 86, 144, 189, 106, 54],
                    [120, 160, 223, 159, 94, 157, 197],
                    [177, 156, 122, 130, 139, 105, 84],
                ],
                [
                    [100, 109, 123, 95, 67, 82, 91],
                    [157, 105, 22, 68, 131, 194, 234],
                    [43, 83, 147, 167, 176, 142, 121],
                ],
                [
                    [51, 91, 154, 132, 104, 119, 128],
                    [194, 142, 59, 105, 150, 67, 15],
                    [81, 120, 184, 119, 55, 118, 157],
                ],
            ],
        ),
        (
            PATTERN[:1],
            (8, 3),
            [
                [
                    *([18, 166, 101], [82, 137, 71], [162, 102, 42], [146, 140, 133]),
                    *([117, 137, 157], [75, 95, 115], [152, 124, 96], [216, 150, 85]),
                ]
            ],
        ),
        (PATTERN[:1, :4], (2, 2), [[[86, 116], [142, 108]]]),
    ],
)
def test_resize_as_opencv_does(image, size, opencvs):
    assert resize(image, *size).tolist() == opencvs


def test_resize_to_the_same_size_changes_nothing():
    image = picture(1)
    np.testing.assert_array_equal(resize(image, 5, 7), image)


@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_channels_are_blue_green_red(kind):
    image = picture(2)
    np.testing.assert_array_equal(decode(encoded(image, kind), True), image)
    np.testing.assert_array_equal(decode(encoded(image, kind), None), image)


def test_gray_of_a_png_is_rounded_down_and_that_of_others_to_the_nearest():
    blue, green, red = (plane.astype(int) for plane in picture(3))
    data = encoded(picture(3), "PNG")
    np.testing.assert_array_equal(decode(data, False)[0], (9797 * red + 19234 * green + 3737 * blue) // 32768)
    data = encoded(picture(3), "BMP")
    exact = (4899 * red + 9617 * green + 1868 * blue) / 16384
    np.testing.assert_array_equal(decode(data, False)[0], np.floor(exact + 0.5))


def test_gray_of_a_jpeg_is_its_luminance():
    image = Image.fromarray(np.repeat(picture(4, 1)[0][:, :, None], 3, axis=2))
    data = file_of(image, "JPEG", quality=100)
    assert np.abs(decode(data, False)[0].astype(int) - picture(4, 1)[0]).max() <= 2


def test_a_gray_file_has_one_channel_unless_colour_is_asked_for():
    image = picture(5, 1)
    data = encoded(image)
    np.testing.assert_array_equal(decode(data, None), image)
    np.testing.assert_array_equal(decode(data, False), image)
    np.testing.assert_array_equal(decode(data, True), np.repeat(image, 3, axis=0))


def test_transparency_is_a_fourth_channel_only_of_the_file_as_it_is():
    image = picture(6, 4)
    data = file_of(Image.fromarray(np.ascontiguousarray(image[[2, 1, 0, 3]].transpose(1, 2, 0)), "RGBA"))
    np.testing.assert_array_equal(decode(data, None), image)
    np.testing.assert_array_equal(decode(data, True), image[:3])


def test_of_sixteen_bits_the_upper_eight_are_kept():
    deep = (np.arange(12, dtype=np.uint16) * 5000).reshape(3, 4)
    data = file_of(Image.fromarray(deep))
    np.testing.assert_array_equal(decode(data, False), (deep >> 8)[None])
    np.testing.assert_array_equal(decode(data, True), np.repeat((deep >> 8)[None], 3, axis=0))


def test_a_photo_is_turned_upright_as_its_exif_says_unless_taken_as_it_is():
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its left side
    data = file_of(Image.fromarray(picture(7)[::-1].transpose(1, 2, 0).copy()), "PNG", exif=exif)
    np.testing.assert_array_equal(decode(data, True), np.rot90(picture(7), -1, axes=(1, 2)))
    np.testing.assert_array_equal(decode(data, None), picture(7))


def test_what_is_no_image():
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(b"no image", True)
    with pytest.raises(ValueError, match="cannot be decoded"):
        decode(encoded(picture(1))[:60], True)
