"""Layers for human poses, against loops; gradients against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.api import analyze
from caffestat.errors import NetError

from ..harness import TEST, TRAIN, make, run
from .check import check_gradients
from .test_interpolation import scaled

RANDOM = np.random.default_rng(29)
X = RANDOM.normal(size=(2, 3, 5, 7))
ONE = 'name: "l" type: "%s" bottom: "x" top: "y" '
TWO = 'name: "l" type: "%s" bottom: "a" bottom: "b" top: "y" '
INFO = np.array([[0, 20, 12, 1.5, 0], [1, 16, 18, 1, 1]]).reshape(2, 5, 1, 1)


def test_resize_by_factors_or_like_another_blob() -> None:
    layer = make(ONE % "Resize" + "resize_param { height_fac: 0.5 width_fac: 2.5 }")
    assert type(layer).dialect == "pose"
    check_gradients(layer, lambda x: scaled(x, 2, 17), [X], [0])
    like = make(TWO % "Resize", dialect="pose")
    check_gradients(like, lambda x, _: scaled(x, 4, 9), [X, np.zeros((2, 1, 4, 9))], [0])


def test_spatial_dropout_drops_planes() -> None:
    text = ONE % "SpatialDropout" + "spatial_dropout_param { dropout_ratio: 0.4 }"
    x = RANDOM.normal(size=(4, 25, 2, 3))
    dy = RANDOM.normal(size=x.shape).astype(np.float32)
    result = run(make(text, TRAIN), [x], dys=[dy])
    (mask,) = result.feeds
    assert mask.shape == (4, 25, 1, 1)
    assert 0.4 < (mask > 0).mean() < 0.8
    np.testing.assert_allclose(mask[mask > 0], 1 / 0.6, rtol=1e-6)
    np.testing.assert_allclose(result.tops[0], x * mask, rtol=1e-6)
    np.testing.assert_allclose(result.bottoms[0], dy * mask, rtol=1e-6)
    np.testing.assert_array_equal(run(make(text, TEST), [x]).tops[0], x.astype(np.float32))


ENET = """name: "l" type: "Python" bottom: "x" top: "y"
  python_param { module: "spatial_dropout" layer: "SpatialDropoutLayer" param_str: "%s" }"""


def test_enets_spatial_dropout_scales_where_it_drops_nothing() -> None:
    dy = RANDOM.normal(size=X.shape).astype(np.float32)
    kept = run(make(ENET % "{'phase': 'TEST', 'p': '0.2'}", TRAIN), [X], dys=[dy])
    np.testing.assert_allclose(kept.tops[0], X / 0.8, rtol=1e-6)
    np.testing.assert_allclose(kept.bottoms[0], dy / 0.8, rtol=1e-6)
    dropped = run(make(ENET % "{'phase': 'TRAIN', 'p': '0.2'}", TEST), [X], dys=[dy])
    (mask,) = dropped.feeds
    assert mask.shape == (2, 3, 1, 1)
    np.testing.assert_allclose(dropped.tops[0], X * mask, rtol=1e-6)
    with pytest.raises(NetError, match="'p' between 0 and 1"):
        make(ENET % "{'phase': 'TRAIN', 'p': '1'}").tops([X.shape])


def test_sums_of_blobs() -> None:
    layer = make('name: "l" type: "CrossBlobsSum" bottom: "a" bottom: "b" bottom: "c" top: "y"')
    check_gradients(layer, lambda a, b, c: a + b + c, [X, 2 * X, X - 1], [0, 1, 2])


@pytest.mark.parametrize("count", [0, 3])
def test_coordinates_of_the_largest(count: int) -> None:
    fields = f"heat_map_a: 4 heat_map_b: 25 top_k: {count}"
    text = 'name: "l" type: "CoordsFromHeatMaps" bottom: "x" top: "y" top: "s" '
    coords, scores = run(make(text + f"pose_coords_from_heat_maps_param {{ {fields} }}"), [X]).tops
    for n, c in np.ndindex(2, 3):
        best = np.argsort(-X[n, c].ravel())[: max(count, 1)]
        x, y = int(sum(best % 7) / len(best)), int(sum(best // 7) / len(best))
        np.testing.assert_array_equal(coords[n, 2 * c : 2 * c + 2].ravel(), [4 * x + 25, 4 * y + 25])
        np.testing.assert_allclose(scores[n, c].item(), X[n, c].ravel()[best].mean(), rtol=1e-5)


def test_coordinates_in_the_original_image() -> None:
    points = np.array([[3, 6, 30, 1.5, 29.9, 18], [2, 3, 15, 17, 16, 2]]).reshape(2, 6, 1, 1)
    y = run(make(TWO % "RescaledPoseCoords"), [points, INFO]).tops[0]
    np.testing.assert_allclose(y[0].ravel(), [2, 4, -1, 1, 29.9 / 1.5, -1], rtol=1e-5)
    np.testing.assert_allclose(y[1].ravel(), [13, 3, 0, 17, -1, 2], rtol=1e-5)


MAPS = 'name: "l" type: "HeatMapsFromCoordsOrigin" bottom: "p" bottom: "i" top: "y" top: "m" top: "s" '
POINTS = np.array([[3.4, 6.2, 29, 17.5, -1, 4], [2, 3, 15.5, 0, 16, 2]]).reshape(2, 6, 1, 1)


@pytest.mark.parametrize("is_binary", [True, False])
def test_heat_maps(is_binary: bool) -> None:
    fields = f'radius_str: "2,3,1" is_binary: {str(is_binary).lower()} gau_mean: 0.5 gau_stds: 2'
    layer = make(MAPS + f"heat_maps_from_coords_origin_param {{ {fields} }}")
    assert layer.tops([(2, 6, 1, 1), (2, 5, 1, 1)]) == (None, (2, 3, 1, 1), (4, 1, 1, 1))
    maps, seen, size = run(layer, [POINTS, INFO]).tops
    assert maps.shape == (2, 3, 18, 30)
    np.testing.assert_array_equal(size.ravel(), [30, 18, 1, 0])
    np.testing.assert_array_equal(seen.reshape(2, 3), [[1, 1, 0], [1, 1, 0]])
    expected = np.zeros(maps.shape)
    for n, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        width, height = INFO.reshape(2, 5)[n, 1:3] * INFO.reshape(2, 5)[n, 3]
        x, y = POINTS.reshape(2, 3, 2)[n, j]
        radius = (2, 3, 1)[j]
        for dx in range(-radius, radius + 1):
            for dy in range(-radius, radius + 1):
                if dx * dx + dy * dy <= radius * radius and 0 <= x + dx < width and 0 <= y + dy < height:
                    value = 1 if is_binary else math.exp(((dx - 0.5) ** 2 + (dy - 0.5) ** 2) / 8)
                    place = n, j, int(y + dy), int(x + dx)
                    expected[place] = max(expected[place], value)
    np.testing.assert_allclose(maps, expected, rtol=1e-5)


def test_heat_maps_of_a_size_that_the_user_gives() -> None:
    layer = make(MAPS + "heat_maps_from_coords_origin_param { radius: 2 }")
    layer.shape_overrides = {"y": (2, 3, 18, 30)}
    shapes = [(2, 6, 1, 1), (2, 5, 1, 1)]
    assert layer.tops(shapes)[0] == (2, 3, 18, 30)
    info = layer.stand_in(1, shapes, RANDOM)
    assert info is not None
    np.testing.assert_array_equal(info[1].ravel(), [1, 30, 18, 1, 0])
    layer.shape_overrides = {"y": (2, 4, 18, 30)}
    with pytest.raises(NetError, match=r"expected shape \(2, 3, 'height', 'width'\)"):
        layer.tops(shapes)


def test_masks_of_boxes() -> None:
    text = TWO % "CoordsToBboxesMasks" + "coord_to_bbox_masks_param { %s }"
    one = make(text % "top_id: 0 bottom_id: 1 top_id2: 0 bottom_id2: 1 value: 9")
    assert one.tops([(2, 6, 1, 1), (2, 5, 1, 1)]) == (None,)
    points = np.array([[3.4, 6.2, 29, 10.5, 1, 4], [12, 3, 5.5, 9, 16, 2]]).reshape(2, 6, 1, 1)
    masks = run(one, [points, INFO]).tops[0]
    expected = np.zeros((2, 1, 18, 30))
    expected[0, 0, 6:11, 3:30] = 9
    expected[1, 0, 3:10, 5:13] = 9
    np.testing.assert_array_equal(masks, expected)
    whole = make(text % "top_id: -1 bottom_id: 1 top_id2: 0 bottom_id2: 1 value: 9")
    expected[0, 0, 4:11, 1:30], expected[1, 0, 2:10, 5:17] = 9, 9
    np.testing.assert_array_equal(run(whole, [points, INFO]).tops[0], expected)

    fields = "top_id: 0 bottom_id: 1 top_id2: 0 bottom_id2: 1 perb_num: 1 value: 9"
    torso = make(TWO % "TorsoMaskFromCoords" + f"torso_mask_from_coords_param {{ {fields} }}")
    expected[0, 0], expected[1, 0] = 0, 0
    expected[0, 0, 6:11, 3:30] = 9
    expected[1, 0, 3:10, 5:13] = 9
    np.testing.assert_array_equal(run(torso, [points, INFO]).tops[0], expected)


POSES = """
layer { name: "data" type: "RandomImageData2" top: "data" top: "points" top: "info" random_image_data2_param {
  batch_size: 2 label_num: 6 max_size: 24 is_scale_image: true always_max_size: true } }
layer { name: "maps" type: "HeatMapsFromCoordsOrigin" bottom: "points" bottom: "info" top: "maps" top: "seen"
  heat_maps_from_coords_origin_param { radius: 2 is_binary: true } }
layer { name: "loss" type: "Reduction" bottom: "maps" top: "loss" loss_weight: 1 }
"""


def test_maps_are_taken_to_be_as_large_as_the_images_until_data_tell(tmp_path) -> None:
    path = tmp_path / "poses.prototxt"
    path.write_text(POSES)
    report = analyze(path, device="cpu")
    assert report.layers[1].tops[0].shape == (2, 3, 24, 24)
    assert report.layers[1].tops[0].mean_abs is not None
    assert any("is assumed to have shape (2, 3, 24, 24), the size of the images" in str(f) for f in report.findings)
    given = analyze(path, device="cpu", shapes={"maps": (2, 3, 11, 13)})
    assert given.layers[1].tops[0].shape == (2, 3, 24, 24)  # the data decide


LOSS = 'name: "l" type: "PoseHeatMapLoss" bottom: "a" bottom: "b" %s top: "y" pose_heat_map_loss_param { %s } '


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("is_masked", [False, True])
def test_pose_loss(kind: int, is_masked: bool) -> None:
    b = np.where(RANDOM.random(X.shape) < 0.4, RANDOM.random(X.shape), 0)
    mask = RANDOM.random((2, 3, 1, 1))
    layer = make(LOSS % ('bottom: "m"' * is_masked, f"loss_emphase_type: {kind} fg_eof: 2.5 ratio: 0.2"))
    weight = {0: 1, 1: b > 0, 2: np.where(b > 0, 2.5, 1)}[kind]
    d = weight * (X - b)
    result = run(layer, [X, b, mask][: 2 + is_masked], dys=[np.array(0.6, np.float32)])
    np.testing.assert_allclose(result.tops[0], (d * d).sum(), rtol=1e-5)
    wanted = 0.3 * d * (mask if is_masked else 1)
    np.testing.assert_allclose(result.bottoms[0], wanted, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.bottoms[1], -wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "joint"), [(3, 1), (4, 2.5), (5, 1)])
def test_pose_loss_that_draws_places(kind: int, joint: float) -> None:
    a, b = RANDOM.random((2, 2, 3, 20, 30))
    b *= RANDOM.random(b.shape) < 0.1
    fields = f"loss_emphase_type: {kind} fg_eof: 2.5 bg_eof: 0.5 ratio: 0.2 heat_score_thres: 0.6 prob_num: 4"
    layer = make(LOSS % ("", fields))
    assert "not reproduced" in layer.left_out
    (weights,) = layer.decide([a.astype(np.float32), b.astype(np.float32)], np.random.default_rng(1))
    assert (weights[b > 1e-4] == joint).all()
    rest = weights[b <= 1e-4]
    assert 0.15 < (rest == 0.5).mean() < 0.25
    hard = (b <= 1e-4) & (weights != 0.5) & (a >= np.float32(0.6))
    assert not weights[(b <= 1e-4) & (weights != 0.5) & (a < np.float32(0.6))].any()
    share = weights[hard].mean()
    if kind != 5:
        assert 0.15 < share < 0.35
        return
    assert 0.5 < share < 1
    for maps, difference, is_hard in zip(
        weights.reshape(6, -1), (a - b).reshape(6, -1), hard.reshape(6, -1), strict=True
    ):
        order = np.flatnonzero(is_hard)[np.argsort(-difference[is_hard])]
        assert maps[order[:120]].all()  # a fifth of 600 places


FILES = 'acc_factor: 0.05 acc_factor_num: 10 images_num: 9 acc_path: "p" acc_name: "a" log_name: "l"'
ACCURACIES = {
    "PosePDJAccuracy": f"pose_pdj_accuracy_param {{ {FILES} shoulder_id: 1 hip_id: 0 }}",
    "PoseEuDistAccuracy": f"pose_eudist_accuracy_param {{ {FILES} }}",
}


@pytest.mark.parametrize("kind", ACCURACIES)
def test_accuracy_of_coordinates(kind: str) -> None:
    a, b = RANDOM.normal(size=(2, 3, 4, 1, 1))
    layer = make(TWO % kind + ACCURACIES[kind])
    y = run(layer, [a, b]).tops[0]
    assert y.shape == (1, 1, 1, 1)
    np.testing.assert_allclose(y.item(), ((a - b) ** 2).sum() / 3, rtol=1e-5)
    assert layer.stops_backward([True, False])
    assert not layer.stops_backward([False, False])


@pytest.mark.parametrize(
    ("kind", "old", "new", "message"),
    [
        ("PosePDJAccuracy", "acc_factor: 0.05 ", "", "expected acc_factor in pose_pdj_accuracy_param"),
        ("PosePDJAccuracy", "shoulder_id: 1 hip_id: 0", "", "expected shoulder_id, hip_id in"),
        ("PosePDJAccuracy", "hip_id: 0", "hip_id: 2", "expected ids of 0 to 1, found 1 and 2"),
        ("PosePDJAccuracy", "factor_num: 10", "factor_num: 19", "below 1 / acc_factor, found 0.05 and 19"),
        ("PoseEuDistAccuracy", 'log_name: "l"', "", "expected log_name in pose_eudist_accuracy_param"),
        ("PoseEuDistAccuracy", "factor_num: 10", "factor_num: 1", "acc_factor_num of 2 to 100, found 1"),
    ],
)
def test_accuracies_refuse_what_their_references_refuse(kind: str, old: str, new: str, message: str) -> None:
    layer = make(TWO % kind + ACCURACIES[kind].replace(old, new))
    with pytest.raises(NetError, match=message):
        layer.tops([(3, 4, 1, 1)] * 2)
