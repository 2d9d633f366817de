"""Matching of features, features at detections and the loss of maps, against a few lines of numpy."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run

RANDOM = np.random.default_rng(23)


def test_labeled_matching_compares_with_the_table() -> None:
    layer = make(
        'name: "l" type: "LabeledMatching" bottom: "x" bottom: "t" top: "y" top: "z" '
        "labeled_matching_param { num_classes: 4 momentum: 0.5 }"
    )
    x, w, labels = RANDOM.normal(size=(5, 2, 3)), RANDOM.normal(size=(4, 6)), np.array([0, 3, 4, -2, 1])
    dy = RANDOM.normal(size=(5, 4)).astype(np.float32)
    found = run(layer, [x, labels], [w, np.zeros(4)], [dy, np.zeros(5, np.float32)])
    np.testing.assert_allclose(found.tops[0], x.reshape(5, 6) @ w.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.tops[1], [0, 3, -1, -1, 1])
    np.testing.assert_allclose(found.bottoms[0].reshape(5, 6), dy @ w, rtol=1e-4, atol=1e-5)
    assert not found.params[0].any()
    assert "not updated" in layer.left_out


def test_unlabeled_matching_compares_with_the_queue() -> None:
    layer = make(
        'name: "l" type: "UnlabeledMatching" bottom: "x" bottom: "t" top: "y" '
        "unlabeled_matching_param { queue_size: 3 }"
    )
    x, w = RANDOM.normal(size=(4, 6)), RANDOM.normal(size=(3, 6))
    found = run(layer, [x, np.zeros(4)], [w])
    np.testing.assert_allclose(found.tops[0], x @ w.T, rtol=1e-4, atol=1e-5)
    with pytest.raises(NetError, match="N labels"):
        layer.tops([(4, 6), (3,)])


EXTRACT = (
    'name: "l" type: "AnchorEmbeddingExtractor" bottom: "d" bottom: "a" bottom: "b" bottom: "c" bottom: "e" top: "x" '
    'top: "y" top: "z" embedding_extractor_param { num_anchors: 4 label_src_pos: 8 num_valid_actions: 3 %s }'
)


@pytest.mark.parametrize("kind", ["output_instance_weights", "output_proposals"])
def test_features_are_taken_where_detections_are(kind) -> None:
    layer = make(EXTRACT % f"{kind}: true")
    maps = [RANDOM.normal(size=(2, 3, 4, 5)) for _ in range(4)]
    rows = np.zeros((1, 1, 5, 11), np.float32)
    rows[0, 0] = [
        [1, 0, 0.1, 0.2, 0.3, 0.4, 2, 7, 1, 4, 3],
        [0, 0, 0.5, 0.6, 0.7, 0.8, 0, 7, 2, 0, 2],
        [-1, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0],
        [1, 0, 0.2, 0.2, 0.4, 0.4, 2, 7, 0, 4, 3],
        [1, 0, 0, 0, 0, 0, 1, 7, 3, 0, 0],
    ]
    dys = [RANDOM.normal(size=(3, 3)).astype(np.float32), np.zeros(3, np.float32)]
    further = (
        np.array([0.5, 1, 0.5]) if kind == "output_instance_weights" else rows[0, 0, [0, 1, 3]][:, [0, 2, 3, 4, 5]]
    )
    found = run(layer, [rows, *maps], dys=[*dys, np.zeros(further.shape, np.float32)])
    places = [(2, 1, 3, 4), (0, 0, 2, 0), (2, 1, 3, 4)]
    expected = [maps[a][n, :, i, j] for a, n, i, j in places]
    np.testing.assert_allclose(found.tops[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(found.tops[1], [1, 2, 0])
    np.testing.assert_allclose(found.tops[2], further, rtol=1e-6)
    slopes = np.zeros((4, 2, 3, 4, 5))
    for (a, n, i, j), dy in zip(places, dys[0], strict=True):
        slopes[a, n, :, i, j] += dy
    np.testing.assert_allclose(np.stack(found.bottoms[1:]), slopes, rtol=1e-5, atol=1e-6)
    rows[..., 0] = -1
    empty = run(layer, [rows, *maps])
    np.testing.assert_array_equal(empty.tops[0], np.zeros((1, 3)))
    np.testing.assert_array_equal(empty.tops[1], [-1])
    assert (empty.tops[2] == -1).all()


@pytest.mark.parametrize("weighed", [False, True])
def test_yolo_seg_weighs_classes_by_their_size(weighed) -> None:
    bottoms = 'bottom: "x" bottom: "t"' + ' bottom: "w"' * weighed
    layer = make(f'name: "l" type: "YoloSeg" {bottoms} top: "y" yolo_seg_param {{ object_scale: 0.5 }}')
    x, truth = RANDOM.normal(size=(2, 3, 4, 5)), RANDOM.uniform(size=(2, 3, 4, 5))
    counts = RANDOM.integers(1, 10, (2, 3))
    d = 0.5 * (1 / (1 + np.exp(-x)) - truth)
    if weighed:
        ratio = counts.sum(0) / (20 - counts).sum(0)
        d = np.where(truth > 0.5, d * (2 - ratio).reshape(1, 3, 1, 1), d)
    found = run(layer, [x, truth, *([counts] if weighed else [])], dys=[np.array(3, np.float32)])
    np.testing.assert_allclose(found.tops[0], (d**2).sum() / 2, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], d * 3 / 2, rtol=1e-4, atol=1e-6)
