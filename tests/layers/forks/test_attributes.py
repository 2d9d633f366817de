"""Number plates, faces and the cosines between them, against a few lines of numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import layer_class

from ..harness import TEST, make, run
from .check import check_gradients

RANDOM = np.random.default_rng(8)


def largest(scores) -> int:
    """Return the first place of the largest value above 0, else 0."""
    best, place = 0.0, 0
    for i, score in enumerate(scores):
        if score > best:
            best, place = score, i
    return place


def test_plates_are_read_and_judged_as_in_the_reference() -> None:
    bottoms = " ".join(f'bottom: "{letter}"' for letter in "abcdefg")
    layer = make(
        f'name: "l" type: "DetectionCcpdOutput" {bottoms} top: "y" '
        "lp_det_param { num_chinese: 5 num_english: 4 num_letter: 3 }"
    )
    scores = [RANDOM.normal(size=(2, count)) for count in (5, 4, 3, 3, 3, 3, 3)]
    scores[3] = -abs(scores[3])
    (found,) = run(layer, scores).tops
    expected = [
        [max([(v, -i) for i, v in enumerate(s[n]) if v > 0] or [(0, 0)])[1] * -1 for s in scores] for n in (0, 1)
    ]
    np.testing.assert_array_equal(found, [[expected]])
    with pytest.raises(NetError, match="expected scores of"):
        layer.tops([(2, 5)] * 7)

    judge = make('name: "l" type: "LpEvaluate" bottom: "a" bottom: "b" top: "y" lp_evaluate_param { num_chinese: 5 }')
    labels = RANDOM.integers(0, 9, (4, 7)).astype(float)
    read = labels.copy()
    read[0, 2] += 1
    read[3, 6] += 1
    np.testing.assert_array_equal(run(judge, [read, labels]).tops[0].ravel(), [0, 1, 1, 1])
    np.testing.assert_array_equal(run(judge, [labels[None, None], labels]).tops[0], [[[[1]]]])


def test_faces_are_judged_as_in_the_reference() -> None:
    layer = make(
        'name: "l" type: "FaceAttriEvaluate" bottom: "a" bottom: "b" top: "y" '
        "face_evaluate_param { facetype: FACEATTRIBUTE }"
    )
    read, truth = RANDOM.uniform(0, 1, (3, 18)), RANDOM.uniform(0, 1, (3, 17))
    read[:, 13:17] = [[0.1, 0.9, 0.3, 0.2], [0.7, 0.2, 0.3, 0.8], [-1, -2, -3, -1]]
    truth[:, 13:] = [[0, 1, 30, 40], [0, 0, 20, 50], [1, 0, 60, 10]]
    expected = []
    sex = glasses = 0
    for a, b in zip(read, truth, strict=True):
        wide, high = b[15:]
        row = [
            math.hypot((a[j] - b[j]) * wide, (a[j + 5] - b[j + 5]) * high) / math.hypot(wide, high) for j in range(5)
        ]
        best = [largest(a[first : first + 2]) for first in (13, 15)]
        sex, glasses = int(sex or best[0] == b[13]), int(glasses or best[1] == b[14])
        expected.append([*row, sex, glasses, *(math.cos((a[j] - b[j]) / 180 * math.pi) for j in (10, 11, 12))])
    np.testing.assert_allclose(run(layer, [read, truth]).tops[0], [[expected]], rtol=1e-5)
    short = run(layer, [read.reshape(-1)[:45].reshape(3, 15), truth]).tops[0]
    np.testing.assert_allclose(short[0, 0, 0, 7:], expected[0][7:], rtol=1e-5)


def test_labels_of_plates_and_faces_have_their_shapes() -> None:
    text = (
        'name: "l" type: "%s" top: "data" top: "label" data_param { source: "x" batch_size: 3 backend: LMDB } '
        "transform_param { resize_param { height: 16 width: 24 } }"
    )
    assert make(text % "ccpdData").tops([]) == ((3, 3, 16, 24), (3, 7))
    face = make(text % "faceAttributeData")
    assert face.tops([]) == ((3, 3, 16, 24), (3, 15))
    assert make(text % "faceAttributeData", TEST).tops([]) == ((3, 3, 16, 24), (3, 17))
    face.batch_override = 2
    assert face.tops([])[1] == (2, 15)
    assert face.example(1, (2, 15), RANDOM).shape == (2, 15)


def test_identity2verify_pairs_neighbours() -> None:
    layer = make('name: "l" type: "Identity2Verify" bottom: "x" bottom: "t" top: "a" top: "b" top: "c"')
    x, labels = RANDOM.normal(size=(6, 2, 3)), np.array([4, 4, 1, 2, 0, 0])
    dys = [RANDOM.normal(size=(3, 2, 3)).astype(np.float32) for _ in range(2)] + [np.zeros(3, np.float32)]
    found = run(layer, [x, labels], dys=dys)
    np.testing.assert_allclose(found.tops[0], x[::2], rtol=1e-6)
    np.testing.assert_allclose(found.tops[1], x[1::2], rtol=1e-6)
    np.testing.assert_array_equal(found.tops[2], [1, 0, 1])
    np.testing.assert_allclose(found.bottoms[0], np.stack(dys[:2], 1).reshape(6, 2, 3), rtol=1e-6)


def test_cosin_l2_normalize_adds_the_margin_at_the_label() -> None:
    layer = make(
        'name: "l" type: "CosinL2Normalize" bottom: "x" bottom: "t" top: "y" '
        'cosin_loss_param { num_output: 5 margin: -0.4 scale: 3 cosin_filler { type: "xavier" } }'
    )
    labels = np.array([1, 4, 0])

    def forward(x, t, w):
        x = x.reshape(3, 4)
        cosines = (x / np.linalg.norm(x, axis=1)[:, None]) @ (w / np.linalg.norm(w, axis=1)[:, None]).T
        cosines[np.arange(3), labels] -= 0.4
        return 3 * cosines

    check_gradients(layer, forward, [RANDOM.normal(size=(3, 2, 2)), labels, RANDOM.normal(size=(5, 4))], [0, 2], 1)


def test_multibox_ssd_loss_is_that_of_ssd() -> None:
    found, known = layer_class("MultiBoxSSDLoss"), layer_class("MultiBoxLoss")
    assert found
    assert known
    assert issubclass(found, known)
