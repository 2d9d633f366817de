"""Images with maps of labels: what the layers of DeepLab, PSPNet, HED and SegNet read, in their order of draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat.data import open_reader
from caffestat.data.images import nearest, resize
from caffestat.errors import NetError

from .support import TEST, draws, encoded, picture, started, words

pytest.importorskip("PIL")

IMAGES = [picture(number, 3, 9 + number, 13 + number) for number in range(3)]
LABELS = [picture(10 + number, 1, 9 + number, 13 + number) for number in range(3)]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    lines = []
    for number, (image, labels) in enumerate(zip(IMAGES, LABELS, strict=True)):
        (tmp_path / f"i{number}.png").write_bytes(encoded(image))
        (tmp_path / f"l{number}.png").write_bytes(encoded(labels))
        lines.append(f"i{number}.png l{number}.png")
    (tmp_path / "list").write_text("\n".join(lines) + "\n")
    return tmp_path


SEG = 'type: "ImageSegData" top: "x" top: "y" top: "z" image_data_param { source: "list" batch_size: 3 %s }'


def test_crops_of_image_and_map_lie_at_one_place(pairs: Path) -> None:
    cut = "transform_param { crop_height: 6 crop_width: 8 mirror: true mean_value: 5 mean_value: 6 mean_value: 7 %s }"
    layer = started(pairs, SEG % "label_type: PIXEL" + cut % "scale: 0.5")
    assert layer.setup_words() == ("transformer", "transformer", "thread")
    assert layer.reader.shapes == ((3, 3, 6, 8), (3, 1, 6, 8), (3, 1, 1, 2))
    images, labels, sizes = layer.reader.next()
    own = draws(words(2)[1])
    mean = np.array([5, 6, 7]).reshape(3, 1, 1)
    for number in range(3):
        turn, down, right = own.pop(0) % 2, own.pop(0) % (4 + number), own.pop(0) % (6 + number)
        window = np.s_[:, down : down + 6, right : right + 8]
        step = -1 if turn else 1
        np.testing.assert_allclose(images[number], ((IMAGES[number] - mean) * 0.5)[window][..., ::step])
        np.testing.assert_array_equal(labels[number], LABELS[number][window][..., ::step])
    np.testing.assert_array_equal(sizes.reshape(3, 2), [[6, 8]] * 3)
    tested = started(pairs, SEG % "label_type: PIXEL" + cut % "", TEST).reader.next()
    np.testing.assert_array_equal(np.sort(tested[1][2].ravel()), np.sort(LABELS[2][:, 2:8, 3:11].ravel()))


def test_small_images_are_filled_up_with_mean_and_ignore_label(pairs: Path) -> None:
    cut = "transform_param { crop_size: 12 %s }"
    layer = started(pairs, SEG % "label_type: PIXEL ignore_label: 250" + cut % "mean_value: 4", TEST)
    images, labels, sizes = layer.reader.next()
    wide = np.zeros((3, 12, 13))
    wide[:, :9] = IMAGES[0] - 4.0
    np.testing.assert_array_equal(images[0], wide[:, :, :12])
    np.testing.assert_array_equal(labels[0][:, :9], LABELS[0][:, :, :12])
    assert (labels[0][:, 9:] == 250).all()
    np.testing.assert_array_equal(sizes.reshape(3, 2), [[9, 12], [10, 12], [11, 12]])
    with pytest.raises(NetError, match=r"image 'i0.png' is smaller than the crop; give mean_value to pad it"):
        started(pairs, SEG % "label_type: PIXEL" + cut % "", TEST).reader.next()


def test_labels_of_whole_images_and_none(pairs: Path) -> None:
    (pairs / "list").write_text("i0.png 7\n")
    labels = started(pairs, SEG % "new_height: 4 new_width: 5").reader.next()[1]
    np.testing.assert_array_equal(labels, np.full((3, 1, 4, 5), 7))
    (pairs / "list").write_text("i0.png\n")
    none = started(pairs, SEG % "label_type: NONE ignore_label: 9").reader.next()[1]
    np.testing.assert_array_equal(none, np.full((3, 1, 9, 13), 9))
    with pytest.raises(NetError, match="expected an image and its map of labels on each line"):
        started(pairs, SEG % "label_type: PIXEL")


def test_scale_factors_draw_between_mirror_and_crop(pairs: Path) -> None:
    text = (
        "transform_param { crop_height: 6 crop_width: 8 scale_factors: 1 scale_factors: 2 mirror: true mean_value: 0 }"
    )
    layer = started(pairs, SEG % "label_type: PIXEL" + text)
    _, labels, _ = layer.reader.next()
    own = draws(words(2)[1])
    for number in range(3):
        turn, factor = own.pop(0) % 2, 1 + own.pop(0) % 2
        large = LABELS[number].repeat(factor, 1).repeat(factor, 2)  # nearest neighbours of twice the size
        down, right = (own.pop(0) % (size - cut + 1) for size, cut in zip(large.shape[1:], (6, 8), strict=True))
        expected = large[:, down : down + 6, right : right + 8]
        np.testing.assert_array_equal(labels[number], expected[..., :: -1 if turn else 1])


def test_maps_of_edges(pairs: Path) -> None:
    text = 'type: "ImageLabelmapData" top: "x" top: "y" image_data_param { source: "list" batch_size: 2 shuffle: true }'
    layer = started(pairs, text + "transform_param { crop_size: 7 mirror: true scale: 0.25 }", TEST)
    assert layer.setup_words() == ("transformer", "shuffle", "transformer", "thread")
    images, edges = layer.reader.next()
    order, own = [0, 1, 2], draws(words(2)[1])
    for last in (2, 1):
        chosen = own.pop(0) // (2**32 // (last + 1))
        order[last], order[chosen] = order[chosen], order[last]
    own = draws(words(3)[2])
    for image, edge, number in zip(images, edges, order, strict=False):
        turn, down, right = own.pop(0) % 2, own.pop(0) % (3 + number), own.pop(0) % (7 + number)
        window = np.s_[:, down : down + 7, right : right + 7]
        step = -1 if turn else 1
        np.testing.assert_allclose(image, IMAGES[number][window][..., ::step] * 0.25)
        shares = LABELS[number][window][..., ::step] / 255
        np.testing.assert_allclose(edge, np.where(shares > 0.5, 1, shares), rtol=1e-6)


DENSE = 'type: "DenseImageData" top: "x" top: "y" dense_image_data_param { source: "list" %s }'


def test_dense_labels_are_mirrored_and_cut_with_their_images(pairs: Path) -> None:
    text = (
        DENSE % "batch_size: 3 mirror: true crop_height: 5 crop_width: 6" + "transform_param { mean_value: 3 scale: 2 }"
    )
    layer = started(pairs, text)
    assert layer.setup_words() == ("cuts",)
    images, labels = layer.reader.next()
    own = draws(words(1)[0])
    for number in range(3):
        step = -1 if own.pop(0) % 2 else 1
        down, right = own.pop(0) % (5 + number), own.pop(0) % (8 + number)
        window = np.s_[:, down : down + 5, right : right + 6]
        np.testing.assert_allclose(images[number], (IMAGES[number][..., ::step][window] - 3.0) * 2)
        np.testing.assert_array_equal(labels[number], LABELS[number][..., ::step][window])


def test_dense_labels_are_read_at_a_fraction_of_the_size(pairs: Path) -> None:
    layer = started(pairs, DENSE % "batch_size: 2 new_height: 18 new_width: 26 label_divide_factor: 2")
    assert layer.reader.shapes == ((2, 3, 18, 26), (2, 1, 9, 13))
    assert layer.setup_words() == ()
    _, labels = layer.reader.next()
    np.testing.assert_array_equal(labels[0], LABELS[0])
    rows = (np.arange(9) * 10 / 9).astype(int)
    columns = (np.arange(13) * 14 / 13).astype(int)
    np.testing.assert_array_equal(labels[1], LABELS[1][:, rows][:, :, columns])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (DENSE % "batch_size: 1" + "transform_param { crop_size: 4 }", "crop_size in transform_param is not supported"),
        (DENSE % "batch_size: 1 crop_height: 40 crop_width: 4", "crop_height 40 and crop_width 4 exceed an image"),
        (SEG % "" + "transform_param { mean_file: 'm' }", "mean_file is not supported"),
    ],
)
def test_what_the_references_refuse(text: str, message: str, pairs: Path) -> None:
    with pytest.raises(NetError, match=message):
        started(pairs, text)


def test_sizes_that_differ_and_files_that_are_missing(pairs: Path) -> None:
    (pairs / "l0.png").write_bytes(encoded(LABELS[1]))
    with pytest.raises(NetError, match=r"image 'i0.png' is 9 x 13, but its map of labels is 10 x 14"):
        started(pairs, SEG % "label_type: PIXEL")
    (pairs / "l0.png").unlink()
    with pytest.raises(NetError, match=r"no real data: file not found: 'l0.png'"):
        started(pairs, SEG % "label_type: PIXEL")
    layer = started(pairs, SEG % "label_type: PIXEL new_height: 4 new_width: 5", data="auto")
    assert layer.reader is None
    assert "file not found: 'l0.png'" in layer.why_synthetic
    assert open_reader(started(pairs, SEG % "label_type: NONE", data="auto")) is not None


WINDOWS = 'type: "%s" top: "x" top: "y" top: "z" image_data_param { source: "windows" batch_size: 2 %s }'


@pytest.fixture
def windows(pairs: Path) -> Path:
    instances = np.arange(9 * 13, dtype=np.uint8).reshape(1, 9, 13) % 4
    (pairs / "n0.png").write_bytes(encoded(instances))
    (pairs / "n2.png").write_bytes(encoded(np.zeros((1, 11, 15), np.uint8)))
    return pairs


def test_windows_of_images_and_maps(windows: Path) -> None:
    (windows / "windows").write_text("i0.png l0.png 2 1 9 7\ni2.png l2.png -3 4 6 12\n")
    text = WINDOWS % ("WindowSegData", "label_type: PIXEL ignore_label: 250 %s")
    layer = started(windows, text % "new_height: 12 new_width: 10" + "transform_param { mean_value: 2 }", TEST)
    assert layer.setup_words() == ()
    assert layer.reader.shapes == ((2, 3, 12, 10), (2, 1, 12, 10), (2, 1, 1, 2))
    images, labels, sizes = layer.reader.next()
    np.testing.assert_array_equal(images[0], resize(IMAGES[0][:, 1:8, 2:10], 12, 10) - 2.0)
    np.testing.assert_array_equal(labels[0], nearest(LABELS[0][:, 1:8, 2:10], 12, 10))
    image, labelled = np.zeros((3, 9, 10), np.uint8), np.full((1, 9, 10), 250, np.uint8)
    image[:, :7, 3:], labelled[:, :7, 3:] = IMAGES[2][:, 4:, :7], LABELS[2][:, 4:, :7]
    np.testing.assert_array_equal(images[1], resize(image, 12, 10) - 2.0)
    np.testing.assert_array_equal(labels[1], nearest(labelled, 12, 10))
    np.testing.assert_array_equal(sizes.reshape(2, 2), [[9, 10], [11, 10]])  # of the whole images


def test_windows_are_cut_at_random_in_training(windows: Path) -> None:
    (windows / "windows").write_text("i0.png 7 2 1 9 7\ni2.png 8 0 0 14 10\n")
    text = WINDOWS % ("WindowSegData", "new_height: 8 new_width: 9")
    layer = started(windows, text + "transform_param { crop_size: 5 mirror: true }")
    assert layer.setup_words() == ("transformer", "transformer")
    images, labels, _ = layer.reader.next()
    own = draws(words(2)[1])
    for number, (image, window) in enumerate([(IMAGES[0], np.s_[:, 1:8, 2:10]), (IMAGES[2], np.s_[:, :11, :15])]):
        turn, down, right = own.pop(0) % 2, own.pop(0) % 4, own.pop(0) % 5
        whole = resize(np.ascontiguousarray(image[window]), 8, 9)[:, down : down + 5, right : right + 5]
        np.testing.assert_array_equal(images[number], whole[..., :: -1 if turn else 1])
        np.testing.assert_array_equal(labels[number], np.full((1, 5, 5), 7 + number))


def test_other_instances_of_a_window_are_left_out(windows: Path) -> None:
    lines = "i0.png l0.png n0.png 0 0 12 8 2\ni2.png l2.png n2.png 0 0 14 10 1\n"
    (windows / "windows").write_text(lines)
    fields = "label_type: PIXEL new_height: 9 new_width: 13 other_object_label: 200"
    layer = started(windows, WINDOWS % ("WindowInstSegData", fields), TEST)
    _, labels, _ = layer.reader.next()
    others = (np.arange(9 * 13).reshape(1, 9, 13) % 4 == 1) | (np.arange(9 * 13).reshape(1, 9, 13) % 4 == 3)
    np.testing.assert_array_equal(labels[0], np.where(others, 200, LABELS[0]))
    np.testing.assert_array_equal(labels[1], nearest(LABELS[2], 9, 13))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("i0.png l0.png 1 2 3", "expected 6 words, the files and the window"),
        ("i0.png l0.png 4 2 3 5", "expected a window of x1 <= x2"),
        ("i0.png l1.png 0 0 3 5", "image 'i0.png' is 9 x 13, but its map of labels is 10 x 14"),
    ],
)
def test_windows_that_do_not_fit(windows: Path, line: str, message: str) -> None:
    (windows / "windows").write_text(line + "\n")
    text = WINDOWS % ("WindowSegData", "label_type: PIXEL new_height: 9 new_width: 13")
    with pytest.raises(NetError, match=message):
        started(windows, text, TEST).reader.next()
