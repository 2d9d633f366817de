"""Annotated images: boxes go with the image when it is cut, enlarged and mirrored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from caffestat.data.annotated import AnnotatedReader, _satisfies
from caffestat.data.distortion import Draws, distort
from caffestat.data.images import recompressed, resize
from caffestat.data.reader import DataUnavailableError
from caffestat.errors import NetError
from caffestat.fillers import Stream
from caffestat.fillers.distributions import uniform
from caffestat.schema.forks import ssd_pb2
from tests.layers.harness import TEST, TRAIN, make

from .support import encoded, picture, write_mean

RANDOM = np.random.default_rng(21)
IMAGES = RANDOM.integers(40, 250, (3, 2, 20, 30)).astype(np.uint8)
BOXES = [[(0.1, 0.2, 0.4, 0.6)], [(0.3, 0.3, 0.9, 0.8), (0, 0, 0.2, 0.1)], []]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Make an LMDB of three images with one, two and no boxes."""
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 22) as env, env.begin(write=True) as transaction:
        for number, (image, boxes) in enumerate(zip(IMAGES, BOXES, strict=True)):
            record = ssd_pb2.AnnotatedDatum(type=ssd_pb2.AnnotatedDatum.BBOX)
            record.datum.channels, record.datum.height, record.datum.width = image.shape
            record.datum.data, record.datum.label = image.tobytes(), number
            for label, box in enumerate(boxes, 1):
                group = record.annotation_group.add(group_label=label)
                bbox = group.annotation.add(instance_id=label - 1).bbox
                bbox.xmin, bbox.ymin, bbox.xmax, bbox.ymax = box
            transaction.put(f"{number:08d}".encode(), record.SerializeToString())
    return tmp_path / "db"


def reader(path: Path, settings: str = "", sampler: str = "", batch: int = 2, phase: int = TRAIN) -> AnnotatedReader:
    text = f"""name: "d" type: "AnnotatedData" top: "x" top: "y" transform_param {{ {settings} }}
      data_param {{ source: "{path}" batch_size: {batch} backend: LMDB }} annotated_data_param {{ {sampler} }}"""
    found = AnnotatedReader(make(text, phase))
    found.start({"transformer": 5, "thread": 9}, Stream(0))
    return found


def test_boxes_of_a_batch_are_rows(database: Path) -> None:
    found = reader(database)
    assert found.shapes == ((2, 2, 20, 30), (1, 1, 1, 8))
    images, rows = found.next()
    np.testing.assert_array_equal(images, IMAGES[:2])
    expected = [[0, 1, 0, *BOXES[0][0], 0], [1, 1, 0, *BOXES[1][0], 0], [1, 2, 1, *BOXES[1][1], 0]]
    np.testing.assert_allclose(rows[0, 0], expected, rtol=1e-6)
    images, rows = found.next()
    np.testing.assert_array_equal(images, IMAGES[[2, 0]])
    np.testing.assert_allclose(rows[0, 0], [[1, 1, 0, *BOXES[0][0], 0]], rtol=1e-6)
    alone = reader(database, batch=1)
    assert [alone.next()[1].shape for _ in range(3)] == [(1, 1, 1, 8), (1, 1, 2, 8), (1, 1, 1, 8)]
    np.testing.assert_array_equal(reader(database, batch=3).next()[1][0, 0, :, 0], [0, 1, 1])


def test_a_batch_without_boxes_is_a_row_of_minus_ones(database: Path) -> None:
    found = reader(database, batch=1)
    found.next(), found.next()
    np.testing.assert_array_equal(found.next()[1], np.full((1, 1, 1, 8), -1))


def in_pixels(row: np.ndarray, image: np.ndarray) -> np.ndarray:
    return row[3:7] * np.array(image.shape[:0:-1] * 2)


def test_cut_and_mirrored_boxes_still_frame_the_same_pixels(database: Path) -> None:
    found = reader(database, "crop_size: 14 mirror: true", batch=1)
    for _ in range(6):
        number = [0, 1, 2][_ % 3]
        (image,), rows = found.next()
        places = [
            (top, left, turned)
            for top in range(7)
            for left in range(17)
            for turned in (False, True)
            if np.array_equal(IMAGES[number, :, top : top + 14, left : left + 14][..., :: -1 if turned else 1], image)
        ]
        ((top, left, turned),) = places
        for row in rows[0, 0][rows[0, 0, :, 0] >= 0]:
            x1, y1, x2, y2 = np.array(BOXES[number][int(row[1]) - 1]) * [30, 20, 30, 20] - [left, top, left, top]
            x1, x2 = (14 - x2, 14 - x1) if turned else (x1, x2)
            np.testing.assert_allclose(in_pixels(row, image), np.clip([x1, y1, x2, y2], 0, 14), atol=1e-4)


def test_an_enlarged_image_holds_the_old_one(database: Path) -> None:
    found = reader(database, "crop_size: 20 expand_param { prob: 1 max_expand_ratio: 3 }", batch=1)
    item = found._expanded(found._item(found._record()))
    tall, wide = item.image.shape[1:]
    assert tall >= 20
    assert abs(tall / wide - 20 / 30) < 0.05
    ((top, left),) = [
        (y, x)
        for y in range(tall - 19)
        for x in range(wide - 29)
        if np.array_equal(item.image[:, y : y + 20, x : x + 30], IMAGES[0])
    ]
    assert (item.image == 32).sum() >= item.image.size - IMAGES[0].size
    expected = np.array(BOXES[0][0]) * [30, 20, 30, 20] + [left, top, left, top]
    np.testing.assert_allclose(item.boxes[0].box * [wide, tall, wide, tall], expected, rtol=1e-4)


def test_samples_meet_their_constraint(database: Path) -> None:
    sampler = """batch_sampler { max_sample: 1 max_trials: 50 sampler { min_scale: 0.3 max_scale: 1
      min_aspect_ratio: 0.5 max_aspect_ratio: 2 } sample_constraint { min_jaccard_overlap: 0.3 } }"""
    found = reader(database, sampler=sampler, batch=1)
    item = found._item(found._record())
    for _ in range(5):
        (box,) = list(found._samples(found._samplers[0], item))
        assert _satisfies(box, [item.boxes[0].box], found._samplers[0].sample_constraint)
        assert box.min() >= 0
        assert box.max() <= 1
        assert 0.5 - 1e-3 <= (box[2] - box[0]) / (box[3] - box[1]) <= 2 + 1e-3
    cut = found._sampled(item)
    assert cut.image.shape[1] < 20 or cut.image.shape[2] < 30
    x1, y1, x2, y2 = cut.boxes[0].box * np.array(cut.image.shape[:0:-1] * 2)
    assert 0 <= x1 < x2 <= cut.image.shape[2] + 1
    assert 0 <= y1 < y2 <= cut.image.shape[1] + 1


def test_boxes_whose_center_is_cut_off_are_not_emitted(database: Path) -> None:
    every = reader(database, "crop_size: 8", batch=1)
    centered = reader(database, "crop_size: 8 emit_constraint { emit_type: CENTER }", batch=1)
    for _ in range(6):
        all_rows, rows = (found.next()[1][0, 0] for found in (every, centered))
        assert {tuple(row) for row in rows if row[0] >= 0} <= {tuple(row) for row in all_rows}


def encoded_database(folder: Path, sizes: list[tuple[int, int]]) -> list[np.ndarray]:
    """Make an LMDB of PNG files, one box each, and return the images."""
    images = [picture(number, 3, *size) for number, size in enumerate(sizes)]
    with lmdb.open(str(folder / "db"), map_size=1 << 22) as env, env.begin(write=True) as transaction:
        for number, image in enumerate(images):
            record = ssd_pb2.AnnotatedDatum(type=ssd_pb2.AnnotatedDatum.BBOX)
            record.datum.data, record.datum.encoded, record.datum.label = encoded(image), True, number
            record.datum.channels, record.datum.height, record.datum.width = image.shape
            bbox = record.annotation_group.add(group_label=1).annotation.add().bbox
            bbox.xmin, bbox.ymin, bbox.xmax, bbox.ymax = 0.25, 0.5, 0.75, 1
            transaction.put(f"{number:08d}".encode(), record.SerializeToString())
    return images


def test_encoded_images_are_resized_padded_and_cut_with_their_boxes(tmp_path: Path) -> None:
    (image,) = encoded_database(tmp_path, [(8, 20)])
    resizing = "resize_param { resize_mode: FIT_LARGE_SIZE_AND_PAD height: 12 width: 15 pad_value: 9 }"
    found = reader(tmp_path / "db", resizing + " crop_h: 10 crop_w: 13", batch=2, phase=TEST)
    assert found.shapes == ((2, 3, 10, 13), (1, 1, 1, 8))
    images, rows = found.next()
    expected = np.full((3, 12, 15), 9)
    expected[:, 3:9] = resize(image, 6, 15)
    np.testing.assert_array_equal(images, np.stack([expected[:, 1:11, 1:14]] * 2))
    at = (np.array([0.25 * 15, 6, 0.75 * 15, 9]) - 1) / [13, 10, 13, 10]  # in pixels, then in the crop
    np.testing.assert_allclose(rows[0, 0, :, 3:7], [at, at], rtol=1e-5)


def test_small_sides_give_each_image_its_own_size(tmp_path: Path) -> None:
    encoded_database(tmp_path, [(8, 20), (18, 8)])
    small = "resize_param { resize_mode: FIT_SMALL_SIZE height: 12 width: 15 %s }"
    found = reader(tmp_path / "db", small % "", batch=1)
    assert [found.next()[0].shape for _ in range(2)] == [(1, 3, 12, 30), (1, 3, 33, 15)]
    scaled = reader(tmp_path / "db", small % "height_scale: 6 width_scale: 10", batch=1)
    np.testing.assert_allclose(scaled.next()[1][0, 0, 0, 3:7], [0.75, 1, 2.25, 2], rtol=1e-5)
    with pytest.raises(NetError, match="takes batch_size 1, found 2"):
        reader(tmp_path / "db", small % "", batch=2)
    with pytest.raises(NetError, match="expected pad_value once or once per channel"):
        reader(tmp_path / "db", small % "pad_value: 1 pad_value: 2", batch=1)


def test_encoded_images_are_recompressed_where_the_reference_does(tmp_path: Path) -> None:
    (image,) = encoded_database(tmp_path, [(16, 24)])
    distorting = "distort_param { brightness_prob: 1 brightness_delta: 30 }"
    found = reader(tmp_path / "db", distorting, batch=1)
    draws = Draws(Stream(9), Stream(0))
    p = ssd_pb2.DistortionParameter(brightness_prob=1, brightness_delta=30)
    np.testing.assert_array_equal(found.next()[0][0], recompressed(distort(image, p, draws)))
    enlarged = reader(tmp_path / "db", "mean_value: 50 expand_param { prob: 1 max_expand_ratio: 2 }", batch=1)
    item = enlarged._expanded(enlarged._item(enlarged._record()))
    assert abs(item.image[:, 0, 0].astype(int) - 50).max() < 20
    assert not (item.image == 50).all(axis=0)[0].all()


def test_boxes_whose_center_a_sample_cuts_off_are_gone(tmp_path: Path) -> None:
    encoded_database(tmp_path, [(40, 40)])
    sampler = "batch_sampler { max_sample: 1 max_trials: 1 sampler { min_scale: 0.5 max_scale: 0.5 } }"
    emitted = reader(tmp_path / "db", "emit_constraint { emit_type: CENTER }", sampler, batch=1)
    every = reader(tmp_path / "db", "", sampler, batch=1)
    kept = []
    for _ in range(12):
        item, same = (found._sampled(found._item(found._record())) for found in (emitted, every))
        np.testing.assert_array_equal(item.image, same.image)
        kept.append((len(item.boxes), len(same.boxes)))
    assert (0, 1) in kept
    assert (1, 1) in kept


def test_boxes_of_yolo_are_rows_of_centers_and_sizes(tmp_path: Path) -> None:
    (image, _) = encoded_database(tmp_path, [(8, 20), (8, 20)])
    found = reader(tmp_path / "db", "", "yolo_data_type: 1 yolo_data_jitter: 0")
    assert found.shapes == ((2, 3, 8, 20), (2, 1, 300, 5))
    images, rows = found.next()
    np.testing.assert_array_equal(images[0], image)
    np.testing.assert_array_equal(rows[:, 0, 0], [[0, 0.5, 0.75, 0.5, 0.5]] * 2)
    assert not rows[:, 0, 1:].any()
    for more, message in (("difficult_label_warmup: true", "depends on the iteration"),):
        with pytest.raises(DataUnavailableError, match=message):
            reader(tmp_path / "db", "", f"yolo_data_type: 1 {more}")


def test_jitter_takes_parts_of_the_image(tmp_path: Path) -> None:
    encoded_database(tmp_path, [(40, 60)])
    found = reader(tmp_path / "db", "", "yolo_data_type: 1", batch=1)
    stream = Stream(9)

    def draw(low: float, high: float) -> np.float32:
        return np.float32(uniform(stream, 1, low, high)[0])

    sizes = []
    for _ in range(8):
        item = found._sampled(found._item(found._record()))
        die, jitter = draw(0, 1), np.float32(0.3)
        wide = tall = np.float32(1)
        left = top = np.float32(0)
        if die > np.float32(0.2):
            low = float(np.float32(1) - (jitter / 2 if die <= np.float32(0.4) else jitter))
            wide, tall = draw(low, 1), draw(low, 1)
            left, top = draw(0, float(1 - wide)), draw(0, float(1 - tall))
        stream.word()
        expected = (int(np.float32(top + tall) * 40 - np.float32(top) * 40), int((left + wide) * 60 - left * 60))
        assert item.image.shape[1:] == expected
        sizes.append(expected)
    assert len(set(sizes)) > 4


def test_one_of_several_sizes_is_drawn_for_ten_batches(tmp_path: Path) -> None:
    encoded_database(tmp_path, [(16, 16)])
    two = "resize_param { prob: 0.5 height: 8 width: 9 } resize_param { prob: 0.5 height: 10 width: 12 }"
    found = reader(tmp_path / "db", two, "yolo_data_jitter: 0", batch=1)
    assert found.shapes[0] == (1, 3, 8, 9)
    shapes = [found.next()[0].shape for _ in range(60)]
    assert all(len(set(shapes[start : start + 10])) == 1 for start in range(0, 60, 10))
    stream = Stream(9)
    first = (8, 9) if uniform(stream, 1, 0, 1)[0] <= 0.5 else (10, 12)
    assert shapes[0] == (1, 3, *first)
    assert set(shapes) == {(1, 3, 8, 9), (1, 3, 10, 12)}
    with pytest.raises(NetError, match=r"prob of all resize_param to sum to 1, found 0.5, 0.25"):
        reader(tmp_path / "db", two.replace("0.5 height: 10", "0.25 height: 10"), "yolo_data_jitter: 0")


SAMPLER = "batch_sampler { sampler { %s } }"


@pytest.mark.parametrize(
    ("settings", "sampler", "message"),
    [
        ("resize_param { height: 20 }", "", "expected positive height and width in resize_param"),
        ("resize_param { height: 20 width: 20 }", "", "resize_param, crop_h and crop_w take encoded images only"),
        ("crop_h: 8 crop_w: 8 mirror: true", "", "resize_param, crop_h and crop_w take encoded images only"),
        (
            "noise_param { saltpepper: true saltpepper_param { fraction: 0.1 } }",
            "",
            "saltpepper is true without a value in saltpepper_param",
        ),
        ("expand_param { }", "", "max_expand_ratio is 1; expected more than 1"),
        ("distort_param { hue_prob: 1 hue_delta: -1 }", "", "hue_delta is -1; expected 0 or more"),
        (
            "distort_param { contrast_prob: 1 contrast_lower: 2 }",
            "",
            "contrast_lower is 2 and contrast_upper 0; expected 0 or more, in this order",
        ),
        ("", SAMPLER % "min_scale: 0 max_scale: 0", "min_scale is 0 and max_scale 0; expected more than 0"),
        ("", SAMPLER % "max_scale: 2", "min_scale is 1 and max_scale 2; expected"),
        ("", SAMPLER % "min_aspect_ratio: 0", "min_aspect_ratio is 0 and max_aspect_ratio 1; expected more than 0"),
    ],
)
def test_settings_that_the_reference_refuses(database: Path, settings: str, sampler: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        reader(database, settings, sampler, batch=1)


def test_a_sample_without_a_pixel(database: Path) -> None:
    found = reader(database, sampler=SAMPLER % "min_scale: 0.01 max_scale: 0.01", batch=1)
    with pytest.raises(NetError, match="of which a batch_sampler takes no pixel"):
        found.next()


def test_boxes_keep_the_area_that_they_had_when_they_were_cut(tmp_path: Path) -> None:
    """bbox_util.cpp, BBoxSize: the size that ClipBBox set counts, also after UpdateBBoxByResizePolicy."""
    record = ssd_pb2.AnnotatedDatum(type=ssd_pb2.AnnotatedDatum.BBOX)
    record.datum.data, record.datum.encoded = encoded(picture(1, 3, 20, 60)), True
    record.datum.height, record.datum.width = 20, 60
    bbox = record.annotation_group.add(group_label=1).annotation.add().bbox
    bbox.xmin, bbox.ymin, bbox.xmax, bbox.ymax = 0.2, 0.2, 0.8, 0.8
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 22) as env, env.begin(write=True) as transaction:
        transaction.put(b"0", record.SerializeToString())
    settings = """resize_param { resize_mode: FIT_LARGE_SIZE_AND_PAD height: 24 width: 24 }
      emit_constraint { emit_type: MIN_OVERLAP emit_overlap: 0.5 }"""
    for sampler, label in (("", 1), ("batch_sampler { sampler { } max_trials: 9 max_sample: 1 }", -1)):
        assert reader(tmp_path / "db", settings, sampler, batch=1).next()[1][0, 0, 0, 1] == label


def test_labels_of_records_without_annotations(tmp_path: Path) -> None:
    """annotated_data_layer.cpp: label_shape(4, 1)"""
    changed_database(tmp_path, 3, lambda record: record.ClearField("type"))
    found = reader(tmp_path / "db", batch=3)
    assert found.shapes == ((3, 3, 12, 20), (3, 1, 1, 1))
    np.testing.assert_array_equal(found.next()[1], np.arange(3).reshape(3, 1, 1, 1))


def changed_database(folder: Path, count: int, change: Callable[[Any], None]) -> list[np.ndarray]:
    """Make an LMDB as `encoded_database` does, of images of 12 x 20, and change its records."""
    images = encoded_database(folder, [(12, 20)] * count)
    with lmdb.open(str(folder / "db"), map_size=1 << 22) as env, env.begin(write=True) as transaction:
        for key, value in list(transaction.cursor()):
            record = ssd_pb2.AnnotatedDatum.FromString(value)
            change(record)
            transaction.put(key, record.SerializeToString())
    return images


def test_records_without_a_type_need_a_cut(tmp_path: Path) -> None:
    """CropImage and ExpandImage set it, where anno_type says that there are boxes."""
    changed_database(tmp_path, 1, lambda record: record.ClearField("type"))
    sampler = "anno_type: BBOX batch_sampler { max_sample: 1 max_trials: 1 }"
    assert reader(tmp_path / "db", "", sampler, batch=1).next()[1][0, 0, 0, 1] == 1
    with pytest.raises(NetError, match="holds a record without a type"):
        reader(tmp_path / "db", "", "anno_type: BBOX", batch=1).next()


def test_records_without_a_size_cannot_be_resized(tmp_path: Path) -> None:
    """data_transformer.cpp: CHECK_GT(img_height, 0); what was encoded anew has a size."""

    def change(record: Any) -> None:
        record.datum.ClearField("height")

    changed_database(tmp_path, 1, change)
    resizing = "resize_param { height: 6 width: 10 }"
    with pytest.raises(NetError, match="holds a record without height and width, by which resize_param moves"):
        reader(tmp_path / "db", resizing, batch=1).next()
    for settings in ("", resizing + " distort_param { }"):
        np.testing.assert_allclose(
            reader(tmp_path / "db", settings, batch=1).next()[1][0, 0, 0, 3:7], [0.25, 0.5, 0.75, 1]
        )


def test_boxes_go_by_the_size_that_the_record_states(tmp_path: Path) -> None:
    def change(record: Any) -> None:
        record.datum.height, record.datum.width = 20, 20

    changed_database(tmp_path, 1, change)
    fitted = "resize_param { resize_mode: FIT_LARGE_SIZE_AND_PAD height: 20 width: 20 }"
    np.testing.assert_allclose(reader(tmp_path / "db", fitted, batch=1).next()[1][0, 0, 0, 3:7], [0.25, 0.5, 0.75, 1])


def test_each_batch_has_its_own_size(tmp_path: Path) -> None:
    images = encoded_database(tmp_path, [(8, 20), (18, 8)])
    found = reader(tmp_path / "db", batch=1)
    for image in images:
        np.testing.assert_array_equal(found.next()[0][0], image)
    with pytest.raises(NetError, match=r"image of shape \(3, 18, 8\); the first one of its batch has \(3, 8, 20\)"):
        reader(tmp_path / "db", batch=2).next()


def test_a_crop_of_one_side_begins_at_the_edge(tmp_path: Path) -> None:
    (image,) = encoded_database(tmp_path, [(8, 20)])
    found = reader(tmp_path / "db", "crop_h: 6", batch=1)
    (cut,), rows = found.next()
    np.testing.assert_array_equal(cut, image[:, :6])
    np.testing.assert_allclose(rows[0, 0, 0, 3:7], [0.25, 4 / 6, 0.75, 1], rtol=1e-6)
    turned = reader(tmp_path / "db", "crop_w: 7 mirror: true", batch=1)
    images = [turned.next()[0][0] for _ in range(8)]
    assert {np.array_equal(one, image[..., :7]) for one in images} == {True, False}
    assert all(np.array_equal(one, image[..., :7]) or np.array_equal(one, image[..., 6::-1]) for one in images)
    with pytest.raises(NetError, match="draw the place of the crop, for which Caffe takes mirror: true"):
        reader(tmp_path / "db", "crop_h: 6 crop_w: 7", batch=1)
    assert reader(tmp_path / "db", "crop_h: 6 crop_w: 7", batch=1, phase=TEST).shapes[0] == (1, 3, 6, 7)


def test_raw_images_are_cut_by_crop_size_whatever_resize_param_says(database: Path) -> None:
    found = reader(database, "crop_size: 12 resize_param { height: 15 width: 15 }", batch=1, phase=TEST)
    np.testing.assert_array_equal(found.next()[0][0], IMAGES[0][:, 4:16, 9:21])


def test_the_mean_of_an_encoded_image_is_not_mirrored(tmp_path: Path) -> None:
    (image,) = encoded_database(tmp_path, [(8, 20)])
    mean = RANDOM.uniform(0, 9, (1, 3, 8, 20)).astype(np.float32)
    write_mean(tmp_path / "mean", mean)
    settings = f'mirror: true mean_file: "{tmp_path}/mean" '
    found = reader(tmp_path / "db", settings, batch=1)
    images = [found.next()[0][0] for _ in range(8)]
    wanted = [image - mean[0], image[..., ::-1] - mean[0]]
    places = [[np.allclose(one, other) for other in wanted].index(True) for one in images]
    assert set(places) == {0, 1}
    with pytest.raises(DataUnavailableError, match="the effect of mean_file on cropped encoded images"):
        reader(tmp_path / "db", settings + "crop_size: 6", batch=1)
    with pytest.raises(NetError, match="expand_param goes with mean_value"):
        reader(tmp_path / "db", settings + "expand_param { max_expand_ratio: 2 }", batch=1)
    assert reader(tmp_path / "db", settings + "expand_param { prob: 0 max_expand_ratio: 2 }", batch=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "distort_param { hue_prob: 1 hue_delta: 3 }",
            "of 1 channels; expected three for distort_param's saturation and hue",
        ),
        ("distort_param { random_order_prob: 1 }", "of 1 channels; expected three for random_order_prob"),
        ("noise_param { decolorize: true }", "of 1 channels; expected three for decolorize and convert_to_hsv"),
        ("resize_param { resize_mode: FIT_LARGE_SIZE_AND_PAD height: 1 width: 1 }", "leaves 0 x 1 pixels"),
        ("mean_value: 1 mean_value: 2 expand_param { max_expand_ratio: 3 }", "mean_value is given 2 times"),
    ],
)
def test_images_that_opencv_does_not_take(tmp_path: Path, settings: str, message: str) -> None:
    pytest.importorskip("cv2")
    encoded_database(tmp_path, [(8, 20)])
    with pytest.raises(NetError, match=message):
        reader(tmp_path / "db", "force_gray: true " + settings, batch=1).next()


def test_conversion_to_lab_is_refused_at_the_start(tmp_path: Path) -> None:
    encoded_database(tmp_path, [(8, 20)])
    with pytest.raises(DataUnavailableError, match="convert_to_lab"):
        reader(tmp_path / "db", "noise_param { convert_to_lab: true }", batch=1)
