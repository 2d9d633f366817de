"""BoxData layers: parts of images, and the boxes of YOLO whose centres lie in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat.data.images import resize
from caffestat.errors import NetError
from caffestat.schema import Datum

from .support import TEST, draws, encoded, picture, started, words, write_lmdb

pytest.importorskip("PIL")
pytest.importorskip("lmdb")

IMAGES = [picture(number, 3, 20, 30) for number in range(2)]
# class, difficult, centre, width and height
BOXES = [[(3, 1, 0.5, 0.4, 0.25, 0.5), (8, 0, 0.05, 0.9, 0.1, 0.2)], [(5, 0, 0.52, 0.41, 0.5, 0.3)]]
TEXT = """type: "BoxData" top: "x" top: "y" %s data_param { source: "db" backend: LMDB batch_size: 2 %s }"""


def write(folder: Path, boxes: list[list[tuple[float, ...]]]) -> None:
    records = []
    for number, (image, rows) in enumerate(zip(IMAGES, boxes, strict=True)):
        values = Datum(data=encoded(image), encoded=True, float_data=np.ravel(rows))
        records.append((f"{number}", values.SerializeToString()))
    write_lmdb(folder / "db", records)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    write(tmp_path, BOXES)
    return tmp_path


def grid(boxes: np.ndarray, side: int) -> np.ndarray:
    """Return the label as the reference's loop writes it."""
    label = np.zeros(7 * side**2, np.float32)
    label[2 * side**2 : 3 * side**2] = -1
    for kind, difficult, *box in boxes:
        place = side * min(int(box[1] * side), side - 1) + min(int(box[0] * side), side - 1)
        label[place], label[side**2 + place], label[2 * side**2 + place] = difficult, 1, kind
        label[3 * side**2 + 4 * place :][:4] = box
    return label


def test_grids_of_whole_images_in_test(database: Path) -> None:
    layer = started(database, TEXT % ('top: "z"', "side: 3 side: 4"), TEST)
    assert layer.setup_words() == ("thread",)
    assert layer.reader.shapes == ((2, 3, 20, 30), (2, 63), (2, 112))
    images, first, second = layer.reader.next()
    np.testing.assert_array_equal(images, IMAGES)
    for number, boxes in enumerate(BOXES):
        np.testing.assert_allclose(first[number], grid(boxes, 3), rtol=1e-6)
        np.testing.assert_allclose(second[number], grid(boxes, 4), rtol=1e-6)


def test_parts_of_images_in_train(database: Path) -> None:
    layer = started(database, TEXT % ("transform_param { mean_value: 100 }", ""))
    assert layer.setup_words() == ("transformer", "transformer", "thread")
    reader = layer.reader
    own = draws(words(2)[1])
    for _ in range(3):
        images, labels = reader.next()
        for image, boxes, found, label in zip(IMAGES, BOXES, images, labels, strict=True):
            kept: list[list[float]] = []
            while not kept:
                scale = np.float32(1 - own.pop(0) % 30 / 100)
                wide, tall = int(np.float32(30) * scale) - 1, int(np.float32(20) * scale) - 1
                left, top = own.pop(0) % (30 - wide), own.pop(0) % (20 - tall)
                for kind, difficult, x, y, w, h in boxes:
                    x, y = int(np.float32(x) * 30) - left, int(np.float32(y) * 20) - top
                    if 0 <= x < wide and 0 <= y < tall:
                        w, h = int(np.float32(w) * 30) / wide, int(np.float32(h) * 20) / tall
                        kept.append([kind, difficult, x / wide, y / tall, w, h])
            part = resize(image[:, top : top + tall, left : left + wide], 20, 30)
            np.testing.assert_array_equal(found, part - 100.0)
            np.testing.assert_allclose(label, grid(kept, 7), rtol=1e-5)


def test_rows_of_yolo_2(tmp_path: Path) -> None:
    many = [(number % 5, 0, 0.5, 0.5, 0.1, number / 100) for number in range(33)]
    write(tmp_path, [many, BOXES[1]])
    labels = started(tmp_path, TEXT % ("", "side: 13"), TEST, dialect="yolo").reader.next()[1]
    assert labels.shape == (2, 150)
    np.testing.assert_allclose(labels[0].reshape(30, 5), np.array(many)[:30, [0, 2, 3, 4, 5]], rtol=1e-6)
    np.testing.assert_allclose(labels[1], [5, 0.52, 0.41, 0.5, 0.3] + [0] * 145, rtol=1e-6)


@pytest.mark.parametrize(
    ("boxes", "phase", "message"),
    [
        ([(0, 0, 0.5)], TEST, "6 values for each box"),
        ([(-1, 0, 0.5, 0.5, 0.1, 0.1)], TEST, "a box of class -1"),
        ([(1, 0, -0.5, 0.5, 0.1, 0.1)], TEST, "centre outside"),
        ([(1, 0, 2.5, 0.5, 0.1, 0.1)], 0, "none of whose boxes"),
    ],
)
def test_boxes_that_the_reference_refuses(boxes, phase: int, message: str, tmp_path: Path) -> None:
    write(tmp_path, [boxes, BOXES[1]])
    with pytest.raises(NetError, match=message):
        started(tmp_path, TEXT % ("", ""), phase).reader.next()
