"""Layers for the actions of persons, against loops; gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(41)
ONE = 'name: "l" type: "%s" bottom: "x" top: "y" '


def test_extract_primary_parts_the_rows_of_each_image() -> None:
    layer = make(
        'name: "l" type: "ExtractPrimary" bottom: "x" top: "p" top: "s" extract_primary_param { ims_per_batch: 2 }'
    )
    x = RANDOM.normal(size=(8, 3, 5)).astype(np.float32)
    assert layer.tops([x.shape]) == ((2, 3, 5, 1), (6, 3, 5, 1))
    dys = [RANDOM.normal(size=shape).astype(np.float32) for shape in ((2, 3, 5, 1), (6, 3, 5, 1))]
    found = run(layer, [x], dys=dys)
    np.testing.assert_array_equal(found.tops[0][..., 0], x[[0, 4]])
    np.testing.assert_array_equal(found.tops[1][..., 0], x[[1, 2, 3, 5, 6, 7]])
    np.testing.assert_array_equal(found.bottoms[0][[0, 4]], dys[0][..., 0])
    np.testing.assert_array_equal(found.bottoms[0][[1, 2, 3, 5, 6, 7]], dys[1][..., 0])
    with pytest.raises(NetError, match="two or more"):
        layer.tops([(2, 3, 5)])


SCORES = "secondary_regions_op_scores_param { n_secondary_regions: %d op_scores: %s } "


def test_secondary_regions_take_the_largest_of_each_image() -> None:
    layer = make(
        'name: "l" type: "SecondaryRegionsOpScores" bottom: "x" top: "y" top: "i" top: "j" ' + SCORES % (3, "MAX")
    )
    x = RANDOM.normal(size=(6, 4)).astype(np.float32)
    x[1] = x[0]  # the first of equal ones counts
    dy = RANDOM.normal(size=(2, 4, 1, 1)).astype(np.float32)
    found = run(layer, [x], dys=[dy, np.zeros_like(dy), np.zeros_like(dy)])
    best = x.reshape(2, 3, 4).argmax(1) + np.array([[0], [3]])
    np.testing.assert_array_equal(found.tops[0][..., 0, 0], x.reshape(2, 3, 4).max(1))
    np.testing.assert_array_equal(found.tops[1][..., 0, 0], best)
    np.testing.assert_array_equal(found.tops[2][..., 0, 0], best * 4 + np.arange(4))
    dx = np.zeros_like(x)
    np.put_along_axis(dx.reshape(2, 3, 4), (best - [[0], [3]])[:, None], dy[..., 0, 0][:, None], axis=1)
    np.testing.assert_array_equal(found.bottoms[0], dx)


@pytest.mark.parametrize(("op", "factor"), [("SUM", 3), ("AVE", 1)])
def test_secondary_regions_sum_with_the_gradient_of_the_mean(op, factor) -> None:
    layer = make(ONE % "SecondaryRegionsOpScores" + SCORES % (4, op))
    layer.added.secondary_regions_op_scores_param.has_scene_branch = True  # 3 rows are left
    x, dy = (RANDOM.normal(size=shape).astype(np.float32) for shape in ((6, 5, 2), (2, 5, 2, 1)))
    found = run(layer, [x], dys=[dy])
    np.testing.assert_allclose(found.tops[0][..., 0], factor * x.reshape(2, 3, 5, 2).mean(1), rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], np.repeat(dy[..., 0] / 3, 3, axis=0), rtol=1e-6)


@pytest.mark.parametrize(("labels", "sign"), [([3, 3], 1), ([3, 1], -1)])
def test_similary_euclidean_loss_pulls_equal_labels(labels, sign) -> None:
    text = 'name: "l" type: "SimilaryEuclideanLoss" bottom: "x" bottom: "t" top: "y" '
    text += "similary_euclidean_loss_param { %s }"
    x = RANDOM.normal(size=(2, 5, 3)).astype(np.float32)
    d = x[0] - x[1]
    loss = sign * (0.7 * (d**2).sum() - 2) / 2
    for threshold, counts in ((loss - 0.1, 1), (loss + 0.1, 0)):
        layer = make(text % f"learn_lr: 0.7 loss_thresh: {threshold}")
        found = run(layer, [x, np.array(labels, np.float32)], dys=[np.float32(1.5)])
        np.testing.assert_allclose(found.tops[0], loss, rtol=1e-5)
        np.testing.assert_allclose(found.bottoms[0][0], counts * sign * 0.7 / 2 * 1.5 * d, rtol=1e-5)
        np.testing.assert_array_equal(found.bottoms[0][1], 0 * d)
    with pytest.raises(NetError, match="expected similary_euclidean_loss_param"):  # similary_euclidean_loss_layer.cpp
        make(text.partition("similary_")[0]).tops([(2, 5, 3), (2,)])


def pooled(x: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """scene_pooling_layer.cpp, Forward_cpu."""
    y = np.empty((*x.shape[:2], rows, columns))
    for i, j in np.ndindex(rows, columns):
        (a, b), (c, d) = (
            (int(np.floor(k * size / count)), min(int(np.ceil((k + 1) * size / count)), size))
            for k, size, count in ((i, x.shape[2], rows), (j, x.shape[3], columns))
        )
        y[:, :, i, j] = x[:, :, a:b, c:d].max((2, 3))
    return y


def test_scene_pooling_pools_the_whole_map() -> None:
    x = RANDOM.permutation(2 * 3 * 7 * 10).reshape(2, 3, 7, 10) / 100
    layer = make(ONE % "ScenePooling" + "scene_pooling_param { pooled_h: 3 pooled_w: 4 }")
    check_gradients(layer, lambda x: pooled(x, 3, 4), [x], [0])
    fine = make(ONE % "ScenePooling" + "scene_pooling_param { pooled_h: 9 pooled_w: 2 }")  # bins of one row
    check_gradients(fine, lambda x: pooled(x, 9, 2), [x], [0])


def test_arg_max_c_tells_the_first_best_channel() -> None:
    x = RANDOM.normal(size=(2, 4, 3, 5)).astype(np.float32)
    x[:, 3] = x[:, 1]
    (y,) = run(make(ONE % "ArgMaxC" + "arg_max_c_param { out_max_val: true }"), [x]).tops
    np.testing.assert_array_equal(y[:, 0], x.argmax(1))
    np.testing.assert_array_equal(y[:, 1], x.max(1))
    result = run(make(ONE % "ArgMaxC"), [x])
    np.testing.assert_array_equal(result.tops[0][:, 0], x.argmax(1))


DATA = """name: "d" type: "Python" top: "x" top: "rois" top: "labels" top: "counts"
  python_param { module: "action_roi_data_layer.layer" layer: "RoIDataLayer" param_str: "'num_classes': 11" }"""


def test_regions_of_actions_follow_the_batch_image_by_image() -> None:
    data = make(DATA)
    assert data.tops([]) == ((2, 3, 600, 1000), (30, 5), (2,), (2,))
    data.batch_override = 3
    assert data.tops([]) == ((3, 3, 600, 1000), (45, 5), (3,), (3,))
    rows = data.example(1, (45, 5), np.random.default_rng(3))
    np.testing.assert_array_equal(rows[:, 0], np.repeat([0, 1, 2], 15))
    assert (rows[:, 1:3] >= 0).all()
    assert (rows[:, 3] < 1000).all()
    assert (rows[:, 4] < 600).all()
    ((shapes, why),) = data.alternatives()
    assert (shapes, "a person and a scene" in why) == ({1: (6, 5)}, True)
    primary = make(
        'name: "e" type: "ExtractPrimary" bottom: "x" top: "a" top: "b" extract_primary_param { ims_per_batch: 2 }'
    )
    primary.peers, primary.batch_override = [data], 3
    assert primary.tops([(45, 7)]) == ((3, 7, 1, 1), (42, 7, 1, 1))
    assert primary.rebatched([(45, 7)]) == "ims_per_batch 2 is taken as 3"


def test_sums_across_blobs_have_four_axes() -> None:
    sums = make('name: "s" type: "CrossBlobsSum" bottom: "a" bottom: "b" bottom: "c" top: "y"')
    random = np.random.default_rng(4)
    arrays = [random.normal(size=shape) for shape in ((2, 3), (2, 3, 1, 1), (2, 3, 1))]
    check_gradients(sums, lambda *parts: sum(part.reshape(2, 3, 1, 1) for part in parts), arrays, (0, 1, 2))
    with pytest.raises(NetError, match=r"one shape of up to 4 axes, found \(2, 3\), \(3, 2\)"):
        sums.tops([(2, 3), (3, 2)])
