"""Annotated images: boxes go with the image when it is cut, enlarged and mirrored."""

from __future__ import annotations

from pathlib import Path

import lmdb
import numpy as np
import pytest

from caffestat.data.annotated import AnnotatedReader, _satisfies
from caffestat.data.reader import DataUnavailableError
from caffestat.fillers import Stream
from caffestat.schema.forks import ssd_pb2
from tests.layers.harness import TRAIN, make

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


def test_boxes_of_yolo_are_not_read(database: Path) -> None:
    with pytest.raises(DataUnavailableError, match="as its yolo_data_type asks for"):
        reader(database, sampler="yolo_data_type: 1")
