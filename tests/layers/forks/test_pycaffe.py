"""Python layers of examples and of single projects, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import Layer

from ..harness import TRAIN, make, run

RANDOM = np.random.default_rng(44)


def python(name: str, bottoms: int, tops: int, settings: str = "", phase: int = TRAIN, more: str = "") -> Layer:
    module, _, kind = name.rpartition(".")
    blobs = "".join(f'bottom: "b{i}" ' for i in range(bottoms)) + "".join(f'top: "t{i}" ' for i in range(tops))
    param = f'python_param {{ module: "{module}" layer: "{kind}" param_str: "{settings}" }}'
    return make(f'name: "p" type: "Python" {blobs} {more} {param}', phase)


@pytest.mark.parametrize(
    ("name", "tops", "settings", "phase", "shapes"),
    [
        (
            "pascal_multilabel_datalayers.PascalMultilabelDataLayerSync",
            2,
            "{'batch_size': 6, 'im_shape': [27, 31], 'split': 'train'}",
            TRAIN,
            [(6, 3, 27, 31), (6, 20)],
        ),
        ("pascal_multilabel_datalayers.PascalMultilabelDataLayerSync", 2, "{}", TRAIN, [None, None]),
        (
            "SegFlow_davis_fgbg_data_layer.SegFlowDAVISFgBgDataLayer",
            4,
            "",
            TRAIN,
            [(1, 3, 480, 854)] * 2 + [(1, 480, 854)] * 2,
        ),
    ],
)
def test_shapes_of_data(name: str, tops: int, settings: str, phase: int, shapes: list[tuple[int, ...] | None]) -> None:
    assert list(python(name, 0, tops, settings, phase).tops([])) == shapes


@pytest.mark.parametrize(
    ("names", "shapes"),
    [
        ("data im_info gt_boxes face_attrs", [(1, 3, 600, 1000), (1, 3), (1, 5), (1, 40)]),
        (
            "data rois rois_shuffled labels_shuffled face_attrs bbox_targets",
            [(2, 3, 600, 1000), (128, 5), (128, 5), (128,), (2, 40), (128, 28)],
        ),
        ("data im_info gt_boxes", [(1, 3, 600, 1000), (1, 3), (1, 5)]),
    ],
)
def test_attributes_of_faces_are_told_by_their_name(names: str, shapes: list[tuple[int, ...]]) -> None:
    tops = "".join(f'top: "{name}" ' for name in names.split())
    settings = """module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "'num_classes': 7" """
    layer = make(f'name: "d" type: "Python" {tops} python_param {{ {settings} }}')
    assert list(layer.tops([])) == shapes
    assert layer.dialect == ("faces" if "face_attrs" in names else "rcnn")


def test_a_region_is_selected_for_each_class() -> None:
    rois = np.arange(20.0).reshape(4, 5)
    scores = np.array([[0.1, 0.7, 0.2, 0], [0.5, 0.3, 0.2, 0], [0, 0.9, 0.1, 0], [0.2, 0.3, 0.1, 0.4]])
    layer = python("rpn.roi_select_layer.RoISelectLayer", 2, 1, "'num_class': 4")
    assert layer.tops([rois.shape, scores.shape]) == ((3, 5),)
    (found,) = run(layer, [rois, scores]).tops
    np.testing.assert_array_equal(found, rois[[2, 0, 3]])  # none has class 2: 0 and 1 have its highest score alike
    with pytest.raises(NetError, match="expected num_class in param_str"):
        python("rpn.roi_select_layer.RoISelectLayer", 2, 1).tops([(4, 5), (4, 4)])
    with pytest.raises(NetError, match="expected scores of 4 classes"):
        layer.tops([(4, 5), (4, 3)])


def test_layers_of_image_retrieval() -> None:
    x = RANDOM.normal(size=(3, 4, 2, 5))
    (unit,) = run(python("custom_layers.NormalizeLayer", 1, 1), [x]).tops
    np.testing.assert_allclose(unit, x / np.sqrt((x**2).sum(1, keepdims=True)), rtol=1e-5)
    (whole,) = run(python("custom_layers.AggregateLayer", 1, 1), [x]).tops
    np.testing.assert_allclose(whole, x.sum(0, keepdims=True), rtol=1e-5)


def test_ordinals_are_counted_by_pairs() -> None:
    x = RANDOM.normal(size=(2, 7, 3, 4))
    (found,) = run(python("ordinal_decode_layer.OrdinalDecodeLayer", 1, 1), [x]).tops
    expected = sum((x[:, 2 * i + 1] > x[:, 2 * i]).astype(int) for i in range(3))
    np.testing.assert_array_equal(found, expected[:, None])
