"""Images with maps of labels as FCN's Python layers read them, and blobs out of .mat files."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caffestat.errors import NetError
from caffestat.layers import Layer

from .support import started

RANDOM = np.random.default_rng(40)
COLOURS = RANDOM.integers(0, 256, (5, 7, 3), np.uint8)
LABELS = RANDOM.integers(0, 21, (5, 7), np.uint8)
SIFT = "spatial_envelope_256x256_static_8outdoorcategories"


def saved(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def listed(path: Path, *names: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(names) + "\n")


def matlab(path: Path, **variables: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy = pytest.importorskip("scipy.io")  # here, for each process of the tests imports this module
    scipy.savemat(path, variables)


def scenes(folder: Path, code: str, settings: dict[str, Any], tops: int = 2) -> Layer:
    module, name = code.split(".")
    text = "".join(f'top: "t{i}" ' for i in range(tops))
    python = f'python_param {{ module: "{module}" layer: "{name}" param_str: "{settings}" }}'
    return started(folder, f'type: "Python" {text} {python}', dialect="fcn")


def bgr(pixels: np.ndarray, mean: tuple[float, ...]) -> np.ndarray:
    return (pixels[:, :, ::-1] - np.array(mean)).transpose(2, 0, 1)[None]


def test_voc_in_order_and_at_random(tmp_path: Path) -> None:
    pictures = [COLOURS, COLOURS[::-1].copy(), COLOURS[:, ::-1].copy()]
    for index, pixels in enumerate(pictures):
        saved(tmp_path / f"voc/JPEGImages/{index}.png", pixels)
        (tmp_path / f"voc/JPEGImages/{index}.png").rename(tmp_path / f"voc/JPEGImages/{index}.jpg")  # without loss
        colored = Image.fromarray(LABELS + index).convert("L")
        colored.putpalette(list(range(256)) * 3)
        saved(tmp_path / f"voc/SegmentationClass/{index}.png", np.zeros((1, 1), np.uint8))
        colored.save(tmp_path / f"voc/SegmentationClass/{index}.png")
    for split in ("val", "train"):
        listed(tmp_path / f"voc/ImageSets/Segmentation/{split}.txt", "0", "1", "2")
    settings = {"voc_dir": "voc", "split": "val", "seed": 9, "mean": (10.5, 20, 30)}
    layer = scenes(tmp_path, "voc_layers.VOCSegDataLayer", settings)
    assert layer.tops([]) == ((1, 3, 5, 7), (1, 1, 5, 7))
    for index in (0, 1, 2, 0):
        image, labels = layer.reader.next()
        np.testing.assert_allclose(image, bgr(pictures[index], (10.5, 20, 30)))
        np.testing.assert_array_equal(labels[0, 0], LABELS + index)
    layer = scenes(tmp_path, "voc_layers.VOCSegDataLayer", {**settings, "split": "train"})
    drawn = Random(9)
    for _ in range(6):
        np.testing.assert_array_equal(layer.reader.next()[1][0, 0], LABELS + int(drawn.random() * 3))


def test_a_net_has_images_of_one_size(tmp_path: Path) -> None:
    for index, pixels in enumerate((COLOURS, COLOURS[:4])):
        saved(tmp_path / f"voc/JPEGImages/{index}.jpg", pixels)
        saved(tmp_path / f"voc/SegmentationClass/{index}.png", pixels[:, :, 0])
    listed(tmp_path / "voc/ImageSets/Segmentation/val.txt", "0", "1")
    layer = scenes(tmp_path, "voc_layers.VOCSegDataLayer", {"voc_dir": "voc", "split": "val", "mean": (1, 2, 3)})
    layer.reader.next()
    with pytest.raises(NetError, match="image '1' is 4 x 7; expected 5 x 7 as the first"):
        layer.reader.next()
    with pytest.raises(NetError, match="param_str lacks mean; expected voc_dir, split, mean"):
        scenes(tmp_path, "voc_layers.VOCSegDataLayer", {"voc_dir": "voc", "split": "val"})


def test_boundaries_are_in_mat_files(tmp_path: Path) -> None:
    saved(tmp_path / "sbdd/img/a.jpg", np.full((5, 7, 3), 90, np.uint8))
    matlab(tmp_path / "sbdd/cls/a.mat", GTcls={"Segmentation": LABELS, "Boundaries": 0})
    listed(tmp_path / "sbdd/val.txt", "a")
    layer = scenes(tmp_path, "voc_layers.SBDDSegDataLayer", {"sbdd_dir": "sbdd", "split": "val", "mean": (1, 2, 3)})
    image, labels = layer.reader.next()
    np.testing.assert_allclose(image[0, :, 2, 3], [89, 88, 87])
    np.testing.assert_array_equal(labels[0, 0], LABELS)


def test_parts_of_nyud(tmp_path: Path) -> None:
    depth = RANDOM.integers(1, 9000, (5, 7)).astype(np.uint16)
    saved(tmp_path / "nyud/data/images/img_3.png", COLOURS)
    saved(tmp_path / "nyud/data/hha/img_3.png", COLOURS)
    saved(tmp_path / "nyud/data/depth/img_3.png", depth)
    matlab(tmp_path / "nyud/segmentation/img_3.mat", segmentation=LABELS)
    listed(tmp_path / "nyud/test.txt", "3")
    settings = {"nyud_dir": "nyud", "split": "test", "tops": ["hha", "depth", "color", "label"]}
    layer = scenes(tmp_path, "nyud_layers.NYUDSegDataLayer", settings, 4)
    hha, depths, image, labels = layer.reader.next()
    np.testing.assert_allclose(
        hha[0], COLOURS.transpose(2, 0, 1) - np.array([[[132.431]], [[94.076]], [[118.477]]]), 1e-5
    )
    np.testing.assert_allclose(depths[0, 0], np.log(depth) - 7.844, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(image, bgr(COLOURS, (116.190, 97.203, 92.318)), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(labels[0, 0], (LABELS.astype(int) - 1) % 256)
    with pytest.raises(NetError, match="for each of 2 tops"):
        scenes(tmp_path, "nyud_layers.NYUDSegDataLayer", settings)


def test_labels_of_context_and_of_geometry(tmp_path: Path) -> None:
    saved(tmp_path / "pascal/VOC2010/JPEGImages/b.jpg", COLOURS)
    listed(tmp_path / "pascal/VOC2010/ImageSets/Main/val.txt", "b")
    listed(tmp_path / "context/labels.txt", "1: sky", "2: table", "3: grass land")
    listed(tmp_path / "context/59_labels.txt", "1: grass land", "2: diningtable")
    matlab(tmp_path / "context/trainval/b.mat", LabelMap=np.array([[1, 2, 3], [3, 2, 1]]))
    settings = {"voc_dir": "pascal", "context_dir": "context", "split": "val"}
    layer = scenes(tmp_path, "pascalcontext_layers.PASCALContextSegDataLayer", settings)
    np.testing.assert_array_equal(layer.reader.next()[1], [[[[0, 2, 1], [1, 2, 0]]]])
    saved(tmp_path / f"sift/Images/{SIFT}/c.jpg", COLOURS)
    listed(tmp_path / "sift/test.txt", "c")
    matlab(tmp_path / f"sift/SemanticLabels/{SIFT}/c.mat", S=np.array([[33, 0], [1, 2]]))
    matlab(tmp_path / f"sift/GeoLabels/{SIFT}/c.mat", S=np.array([[-1, 0], [1, 3]]))
    layer = scenes(tmp_path, "siftflow_layers.SIFTFlowSegDataLayer", {"siftflow_dir": "sift", "split": "test"}, 3)
    _, semantic, geometric = layer.reader.next()
    np.testing.assert_array_equal(semantic, [[[[32, 255], [0, 1]]]])
    np.testing.assert_array_equal(geometric, [[[[255, 255], [0, 2]]]])


def blobs(folder: Path, fields: str, tops: int = 2) -> Layer:
    names = "".join(f'top: "t{i}" ' for i in range(tops))
    return started(folder, f'type: "MatRead" {names} mat_read_param {{ {fields} }}')


def test_blobs_in_mat_files(tmp_path: Path) -> None:
    first, second = RANDOM.normal(size=(2, 3, 4, 5)).astype(np.float32), RANDOM.normal(size=(2, 6)).astype(np.float32)
    for index, name in enumerate(("one", "two")):
        matlab(tmp_path / f"{name}_blob_0.mat", data=first[index].T)
        matlab(tmp_path / f"{name}_blob_1.mat", data=second[index][:, None])
    listed(tmp_path / "list", "one.jpg 7", "two.jpg")
    layer = blobs(tmp_path, 'prefix: "" source: "list" strip: 4 batch_size: 3')
    assert layer.tops([]) == ((3, 3, 4, 5), (3, 1, 1, 6))
    for order in ((0, 1, 0), (1, 0, 1)):
        images, rows = layer.reader.next()
        np.testing.assert_array_equal(images, first[list(order)])
        np.testing.assert_array_equal(rows[:, 0, 0], second[list(order)])
    matlab(tmp_path / "p_iter_0_blob_0.mat", data=first[0].T)
    assert blobs(tmp_path, 'prefix: "p_"', 1).tops([]) == ((1, 3, 4, 5),)


def test_mat_files_that_cannot_be_read(tmp_path: Path) -> None:
    matlab(tmp_path / "a_iter_0_blob_0.mat", other=1)
    with pytest.raises(NetError, match="expected a variable 'data', found none"):
        blobs(tmp_path, 'prefix: "a_"', 1)
    (tmp_path / "b_iter_0_blob_0.mat").write_bytes(b"nothing of MATLAB's" * 30)
    with pytest.raises(NetError, match=r"cannot be read as a \.mat file"):
        blobs(tmp_path, 'prefix: "b_"', 1)
    listed(tmp_path / "list", "x")
    with pytest.raises(NetError, match="strip is 4; expected from 0"):
        blobs(tmp_path, 'source: "list" strip: 4', 1)
