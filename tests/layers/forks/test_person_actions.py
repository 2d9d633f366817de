"""Actions of detected persons, against the reference's loop by hand."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run

TEXT = """name: "l" type: "Python" bottom: "d" bottom: "a" bottom: "b" top: "y" python_param {
  module: "caffe.custom_layers.actions_detection_output_layer" layer: "ActionsDetectionOutputLayer"
  param_str: '{"num_anchors": %d %s}' }"""
ROWS = np.array(  # image, 1, score, box, anchor, column, row
    [
        (0, 1, 0.6, 0.1, 0.1, 0.5, 0.5, 0, 2, 1),
        (0, 1, 0.9, 0.1, 0.1, 0.5, 0.55, 1, 3, 0),
        (0, 1, 0.7, 0.6, 0.6, 0.9, 0.9, 1, 0, 2),
        (0, 1, 0.3, 0.12, 0.1, 0.5, 0.5, 0, 1, 1),
    ],
    np.float32,
).reshape(1, 1, 4, 10)
SCORES = np.random.default_rng(61).uniform(0, 0.2, size=(2, 1, 3, 4, 5)).astype(np.float32)
for anchor, row, column, action, score in ((0, 1, 2, 3, 0.7), (1, 0, 3, 1, 0.8), (1, 2, 0, 4, 0.5), (0, 1, 1, 3, 0.6)):
    SCORES[anchor, 0, row, column, action] = score


def test_each_detection_gets_the_likeliest_action_of_its_place() -> None:
    found = run(make(TEXT % (2, "")), [ROWS, *SCORES]).tops[0]
    assert found.shape == (1, 1, 4, 8)
    np.testing.assert_array_equal(found[0, 0, :, 1], [3, 1, 4, 3])
    np.testing.assert_allclose(found[0, 0, :, 3], [0.7, 0.8, 0.5, 0.6])
    np.testing.assert_array_equal(found[0, 0, :, 2], ROWS[0, 0, :, 2])
    np.testing.assert_array_equal(found[0, 0, :, 4:], ROWS[0, 0, :, 3:7])


def test_overlapping_detections_vote() -> None:
    found = run(make(TEXT % (2, ', "use_nms": True, "num_valid_actions": 5')), [ROWS, *SCORES]).tops[0][0, 0]
    assert found.shape == (2, 8)
    np.testing.assert_allclose(found[:, 2], [0.9, 0.7])
    np.testing.assert_array_equal(found[:, 1], [3, 4])  # 0.7 + 0.6 for 3 against 1 for 1
    apart = ', "use_nms": True, "num_valid_actions": 5, "min_overlap": 0.95'
    assert len(run(make(TEXT % (2, apart)), [ROWS, *SCORES]).tops[0][0, 0]) == 4


def test_there_are_as_many_anchors_as_stated() -> None:
    with pytest.raises(NetError, match="expected num_anchors to be 2"):
        make(TEXT % (3, "")).tops([ROWS.shape, *[SCORES.shape[1:]] * 2])


def test_places_are_those_of_the_scores() -> None:
    rows = ROWS.copy()
    rows[0, 0, 1, 8] = 5
    with pytest.raises(
        NetError, match=r"'l' \(Python\): cannot work with the values of its bottoms: index 5 is out of"
    ):
        run(make(TEXT % (2, "")), [rows, *SCORES])


def test_votes_need_the_number_of_actions() -> None:
    with pytest.raises(NetError, match="expected num_valid_actions with use_nms"):
        make(TEXT % (2, ', "use_nms": True')).tops([ROWS.shape, *[SCORES.shape[1:]] * 2])
