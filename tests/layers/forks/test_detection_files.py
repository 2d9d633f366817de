"""DetectionOutput's files, compared with those of a build of weiliu89/caffe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import Layer

from ..harness import TEST, make

PRIORS = np.array([[0.1, 0.2, 0.5, 0.65], [0.30303, -0.2, 0.404, 1.3], [0.6, 0.6, 0.9, 0.9]], np.float32)
SCORES = np.array(
    [[[0.1, 0.9, 0], [0, 0.25, 0.5], [0.3, 0, 1e-5]], [[0, 0.125, 0.75], [0, 0, 0], [0, 1, 0]]], np.float32
)
LABELS = """item { name: "none" label: 0 } item { name: "cat" label: 1 }
item { name: "12" label: 2 display_name: "x" } item { name: "unused" label: 7 }"""
SIZES = "a/b 375 500\n000002 40 20\n"
PADDED = "resize_param { resize_mode: FIT_LARGE_SIZE_AND_PAD height: 30 width: 30 }"


def detector(folder: Path, settings: str, labels: str = LABELS, sizes: str = SIZES) -> Layer:
    (folder / "map").write_text(labels)
    (folder / "sizes").write_text(sizes)
    text = f"""name: "d" type: "DetectionOutput" bottom: "l" bottom: "c" bottom: "p" top: "y"
      detection_output_param {{ num_classes: 3 confidence_threshold: 1e-6 save_output_param {{
      output_directory: "{folder}/out" output_name_prefix: "p_" label_map_file: "{folder}/map"
      name_size_file: "{folder}/sizes" {settings} }} }}"""
    return make(text, TEST)


def written(layer: Layer, folder: Path, passes: int = 1, scores: np.ndarray = SCORES) -> dict[str, str]:
    """Return the files that there are after some passes over two images."""
    priors = np.stack([PRIORS.ravel(), np.full(12, 0.1, np.float32)])[None]
    bottoms = [np.zeros((2, 12), np.float32), scores.reshape(2, 9), priors]
    shapes = [bottom.shape for bottom in bottoms]
    layer.tops(shapes)
    for _ in range(passes):
        layer.deciding(bottoms, shapes, np.random.default_rng(0)).save_decisions()
    return {path.name: path.read_text() for path in (folder / "out").iterdir()}


@pytest.mark.parametrize(
    ("resize", "cats", "twelves"),
    [
        (
            "",
            "a/b 0.9 50 75 250 243\na/b 0.25 151 0 201 375\n000002 1 12 24 18 36\n000002 0.125 2 8 10 26\n",
            "a/b 0.5 151 0 201 375\na/b 1e-05 300 225 450 337\n000002 0.75 2 8 10 26\n",
        ),
        (
            PADDED,
            "a/b 0.9 50 37 250 262\na/b 0.25 151 0 201 375\n000002 1 14 24 20 36\n000002 0.125 0 8 10 26\n",
            "a/b 0.5 151 0 201 375\na/b 1e-05 300 237 450 374\n000002 0.75 0 8 10 26\n",
        ),
    ],
)
def test_a_file_for_each_class_as_voc_has_it(tmp_path: Path, resize: str, cats: str, twelves: str) -> None:
    layer = detector(tmp_path, f'output_format: "VOC" {resize}')
    assert not layer.left_out
    assert written(layer, tmp_path) == {"p_cat.txt": cats, "p_12.txt": twelves, "p_unused.txt": ""}


def test_one_file_as_ilsvrc_has_it(tmp_path: Path) -> None:
    text = """a/b 1 0.9 50 37 250 262
a/b 1 0.25 151 0 201 375
a/b 2 0.5 151 0 201 375
a/b 2 1e-05 300 237 450 374
000002 1 1 14 24 20 36
000002 1 0.125 0 8 10 26
000002 2 0.75 0 8 10 26
"""
    assert written(detector(tmp_path, f'output_format: "ILSVRC" {PADDED}'), tmp_path) == {"p_.txt": text}


def test_one_file_as_coco_has_it(tmp_path: Path) -> None:
    """The fork takes quotation marks away from whatever looks like a number, labels and image ids too."""
    scores = np.where(SCORES < 0.5, np.float32(0), SCORES)
    scores[0, 1, 2] = 1e-5
    text = written(detector(tmp_path, f'output_format: "COCO" {PADDED}'), tmp_path, scores=scores)["p_.json"]
    first, second, third, fourth = text.split("        },\n")
    assert (
        first
        == """[
        {
            "image_id": "a\\/b",
            "category_id": "cat",
            "bbox": [
                50,
                37.5,
                200,
                225
            ],
            "score": 0.899999976
"""
    )
    assert (
        second
        == """        {
            "image_id": "a\\/b",
            "category_id": 12,
            "bbox": [
                151.520004,
                0,
                50.4799995,
                375
            ],
            "score": "9.99999975e-06"
"""
    )
    assert third.splitlines()[1:3] == ['            "image_id": 000002,', '            "category_id": "cat",']
    assert fourth.endswith('            "score": 0.75\n        }\n    \n]\n')


def test_a_round_that_finds_nothing(tmp_path: Path) -> None:
    """The reference stops where COCO's list is empty."""
    nothing = np.zeros_like(SCORES)
    assert written(detector(tmp_path, 'output_format: "COCO"'), tmp_path, scores=nothing)["p_.json"].split() == list(
        "[]"
    )
    assert written(detector(tmp_path, 'output_format: "ILSVRC"'), tmp_path, scores=nothing)["p_.txt"] == ""


def test_files_are_written_when_all_test_images_are_there(tmp_path: Path) -> None:
    layer = detector(tmp_path, 'output_format: "ILSVRC" num_test_image: 1')
    assert set(written(layer, tmp_path)["p_.txt"].split()[::7]) == {"a/b"}
    (tmp_path / "longer").mkdir()
    layer = detector(tmp_path / "longer", 'output_format: "VOC"', sizes=SIZES * 2)
    assert set(written(layer, tmp_path / "longer").values()) == {""}
    assert written(layer, tmp_path / "longer")["p_12.txt"].count("a/b") == 4


@pytest.mark.parametrize(
    ("settings", "labels", "message"),
    [
        ("num_test_image: 3", LABELS, "num_test_image is 3; expected 1 to 2"),
        ("num_test_image: 0", LABELS, "num_test_image is 0; expected 1 to 2"),
        ("resize_param { height: 3 }", LABELS, "expected height and width in resize_param of save_output_param"),
        ("", 'item { name: "a" label: 1 }', "map' lacks label 2"),
        ("", LABELS + ' item { name: "a" label: 1 }', "map' has several items of one label"),
        ("", "item {", "cannot read label_map_file .*map': .*map:1:7: "),
    ],
)
def test_settings_at_which_caffe_stops(tmp_path: Path, settings: str, labels: str, message: str) -> None:
    layer = detector(tmp_path, f'output_format: "VOC" {settings}', labels)
    with pytest.raises(NetError, match=message):
        written(layer, tmp_path)


def test_files_stay_in_their_folder(tmp_path: Path) -> None:
    layer = detector(tmp_path, 'output_format: "VOC"', LABELS.replace('"cat"', '"../cat"'))
    with pytest.raises(NetError, match=r"make 'p_\.\./cat\.txt'; expected the name of a file"):
        written(layer, tmp_path)
    (tmp_path / "out").rmdir()
    (tmp_path / "out").write_text("")
    with pytest.raises(NetError, match=r"output_directory '.*out' cannot be made"):
        written(detector(tmp_path, 'output_format: "VOC"'), tmp_path)


def test_boxes_that_are_no_numbers_cannot_be_written(tmp_path: Path) -> None:
    layer = detector(tmp_path, 'output_format: "VOC"')
    rows = np.array([[0, 1, 0.5, np.nan, 0, 1, 1]], np.float32)
    with pytest.raises(NetError, match="boxes that are no numbers"):
        layer.files.add(rows, 1)  # type: ignore[attr-defined]


def test_files_that_are_not_written_are_told(tmp_path: Path) -> None:
    layer = detector(tmp_path, 'output_format: "TXT"')
    assert layer.left_out == "no files are written: output_format is none of VOC, COCO, ILSVRC"
    layer = detector(tmp_path, 'output_format: "VOC"')
    (tmp_path / "map").unlink()
    assert layer.left_out == f"file not found: '{tmp_path}/map'; no files are written to '{tmp_path}/out'"
    shown = make('name: "d" type: "DetectionOutput" top: "y" detection_output_param { visualize: true }')
    assert shown.left_out == "no images are shown or saved (visualize)"
    assert not make('name: "d" type: "DetectionOutput" top: "y" detection_output_param { num_classes: 3 }').left_out
