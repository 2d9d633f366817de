"""Affinities, components, the MALIS loss and DetectNet's grid, against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import TEST, make, run

RANDOM = np.random.default_rng(21)


def test_affinity_is_the_smaller_of_neighbours() -> None:
    layer = make(
        'name: "l" type: "Affinity" bottom: "a" bottom: "b" top: "c" top: "d" affinity_param { offset: 1 offset: 0 }'
    )
    bottoms = [RANDOM.normal(size=(2, 2, 4, 5)), RANDOM.normal(size=(1, 3, 3, 6))]
    dys = [RANDOM.normal(size=(1, 2, *b.shape[2:])).astype(np.float32) for b in bottoms]
    found = run(layer, bottoms, dys=dys)
    for index, (x, offset) in enumerate(zip(bottoms, (1, 0), strict=True)):
        y, dx = np.zeros((1, 2, *x.shape[2:])), np.zeros(x.shape)
        for i in range(x.shape[2] - 1):
            for j in range(x.shape[3] - 1):
                y[0, :, i, j] = [min(x[0, offset, i, j], x[0, offset, i + a, j + b]) for a, b in ((1, 0), (0, 1))]
                dx[0, offset, i, j] += dys[index][0, :, i, j].sum()
                dx[0, (offset + 1) % 2, i, j] -= dys[index][0, :, i, j].sum()
        np.testing.assert_allclose(found.tops[index], y, rtol=1e-6)
        np.testing.assert_allclose(found.bottoms[index], dx, rtol=1e-5, atol=1e-6)


def test_components_are_numbered_in_reading_order() -> None:
    layer = make('name: "l" type: "ConnectedComponent" bottom: "x" top: "y"')
    x = np.array([[1, 1, 0, 2, 2], [0, 1, 0, 0, 2], [2, 0, 1, 1, 0]])
    expected = [[3, 3, 0, 4, 4], [0, 3, 0, 0, 4], [5, 0, 6, 6, 0]]
    np.testing.assert_array_equal(run(layer, [np.stack([x, x * 0])[:, None]]).tops[0][:, 0], [expected, x * 0])


def malis(weights, labels, steps, together):
    """Return loss and pulls over all pairs by the widest path between each two places, edges in order of weight."""
    shape = weights.shape[1:]
    places = list(itertools.product(*map(range, shape)))
    groups = {place: {place} for place in places}
    edges = sorted(
        (
            (-weights[(k, *place)], (k, *place), tuple(np.add(place, step)))
            for k, step in enumerate(steps)
            for place in places
            if tuple(np.add(place, step)) in groups
        ),
        key=lambda edge: edge[0],
    )
    pairs = sum(
        (labels[a] == labels[b]) == together for a, b in itertools.combinations(places, 2) if labels[a] and labels[b]
    )
    loss, pull = 0.0, np.zeros(weights.shape)
    for _, edge, end in edges:
        one, other = groups[edge[1:]], groups[end]
        if one is other:
            continue
        count = sum((labels[a] == labels[b]) == together for a in one for b in other if labels[a] and labels[b])
        off = 1 - weights[edge] if together else -weights[edge]
        loss += off * off * count
        pull[edge] = off * count / pairs
        union = one | other
        for place in union:
            groups[place] = union
    return loss / pairs, pull


@pytest.mark.parametrize("with_steps", [False, True])
def test_malis_loss_is_that_of_the_widest_paths(with_steps) -> None:
    steps = [(0, 1, 0), (0, 0, 1), (0, 0, 2)][: 3 if with_steps else 2]
    bottoms = '"a" bottom: "t" bottom: "c"' + ' bottom: "s"' * with_steps
    layer = make(f'name: "l" type: "MalisLoss" bottom: {bottoms} top: "y" top: "z"')
    x, truth = (RANDOM.uniform(size=(2, len(steps), 3, 4)) for _ in range(2))
    components = RANDOM.integers(0, 3, (2, 2, 3, 4))
    arrays = [x, truth, components, *([np.array(steps)] if with_steps else [])]
    loss, slope = 0.0, np.zeros(x.shape)
    for n in range(2):
        parts = [
            malis(f(x[n], truth[n])[:, None], components[n, c][None], steps, together)
            for f, c, together in ((np.maximum, 0, False), (np.minimum, 1, True))
        ]
        loss += sum(part[0] for part in parts) / 4
        slope[:] = 0
        slope[n] = -sum(part[1][:, 0] for part in parts) / 2
    found = run(layer, arrays, dys=[np.array(3, np.float32), np.zeros(x.shape, np.float32)])
    np.testing.assert_allclose(found.tops[0], loss, rtol=1e-5)
    np.testing.assert_allclose(found.tops[1], x, rtol=1e-6)
    np.testing.assert_allclose(found.bottoms[0], slope, rtol=1e-4, atol=1e-7)


def test_malis_loss_of_volumes_and_what_it_refuses() -> None:
    layer = make('name: "l" type: "MalisLoss" bottom: "a" bottom: "t" bottom: "c" top: "y"')
    x, truth = (RANDOM.uniform(size=(1, 3, 2, 3, 4)) for _ in range(2))
    components = RANDOM.integers(0, 3, (1, 1, 2, 3, 4))
    steps = np.eye(3, dtype=int)
    parts = [
        malis(f(x[0], truth[0]), components[0, 0], steps, together)
        for f, together in ((np.maximum, False), (np.minimum, True))
    ]
    found = run(layer, [x, truth, components])
    np.testing.assert_allclose(found.tops[0], (parts[0][0] + parts[1][0]) / 2, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0][0], -(parts[0][1] + parts[1][1]) / 2, rtol=1e-4, atol=1e-7)
    assert run(layer, [x, truth, components * 0]).tops[0] == 0
    with pytest.raises(NetError, match="expected components"):
        layer.tops([(1, 3, 4, 5), (1, 3, 4, 5), (1, 3, 4, 5)])


def test_equal_affinities_join_places_in_the_references_order() -> None:
    """Of a build of malis_loss_layer.cpp with GNU's std::sort; 105 pairs of 15 places."""
    layer = make('name: "l" type: "MalisLoss" bottom: "a" bottom: "t" bottom: "c" top: "y"')
    found = run(layer, [np.full((1, 2, 3, 5), 0.5), np.ones((1, 2, 3, 5)), np.ones((1, 1, 3, 5))])
    down = [[5, 0, 0, 0, 0], [0, 0, 0, 0, 50], [0, 0, 0, 0, 0]]
    right = [[24, 1, 4, 1, 0], [4, 3, 2, 1, 0], [4, 3, 2, 1, 0]]
    np.testing.assert_allclose(found.bottoms[0] * -420, [[down, right]], atol=1e-4)


DETECTNET = (
    'name: "l" type: "DetectNetTransformation" bottom: "x" bottom: "t" top: "y" top: "g" '
    "detectnet_groundtruth_param { stride: 4 scale_cvg: 0.5 gridbox_type: %s min_cvg_len: 5 max_cvg_len: 9 obj_norm: "
    "true image_size_x: 32 image_size_y: 24 object_class { src: 1 dst: 0 } object_class { src: 8 dst: 1 } } "
    "detectnet_augmentation_param { hue_rotation_prob: 0.5 } transform_param { mean_value: 127 }"
)


@pytest.mark.parametrize("kind", ["GRIDBOX_MIN", "GRIDBOX_MAX"])
def test_detectnet_says_where_objects_are(kind) -> None:
    layer = make(DETECTNET % kind)
    assert "random augmentation" in layer.left_out
    images = RANDOM.uniform(0, 255, (2, 3, 20, 38))
    labels = np.zeros((2, 1, 4, 16))
    labels[:, 0, 0, :2] = [[2, 16], [1, 16]]
    labels[0, 0, 1, [0, 1, 2, 3, 5]] = [2, -3, 13.5, 17, 1]
    labels[0, 0, 2, [0, 1, 2, 3, 5]] = [14, 5, 12, 13, 8]
    labels[1, 0, 1, [0, 1, 2, 3, 5]] = [5, 5, 12, 13, 3]
    found = run(layer, [images, labels], dys=None)
    np.testing.assert_allclose(found.tops[0][:, :, 2:22], images[:, :, :, 3:35] - 127, rtol=1e-5, atol=1e-4)
    assert not found.tops[0][:, :, [0, 1, 22, 23]].any()
    expected = np.zeros((2, 10, 6, 8))
    for x, y, wide, high, coverage in ((2, -3, 13.5, 17, 0), (14, 5, 12, 13, 1)):
        low, end = np.clip([x - 3, y + 2], 0, None), np.array([x - 3 + wide, y + 2 + high])
        size = end - low
        inner = np.clip(size / 2, 5, size) if kind == "GRIDBOX_MIN" else np.minimum(size / 2, 9)
        start, stop = (low + end - inner) / 2, (low + end + inner) / 2
        for row in range(6):
            for column in range(8):
                at = np.array([column, row]) * 4
                if (np.minimum(at + 4, stop) > np.maximum(at, start)).all():
                    expected[0, :, row, column] = [1, *(low - at), *(end - at), *1 / size, 16 / inner.prod(), 0, 0]
                    expected[0, 8 + coverage, row, column] = 1
    np.testing.assert_allclose(found.tops[1], expected, rtol=1e-5, atol=1e-6)


def test_detectnet_resizes_in_the_test_phase() -> None:
    layer = make(DETECTNET % "GRIDBOX_MIN", TEST)
    labels = np.zeros((1, 1, 2, 16))
    labels[0, 0, 0] = 1
    labels[0, 0, 1, [0, 1, 2, 3, 5]] = [2, 3, 8, 6, 1]
    images = RANDOM.uniform(0, 255, (1, 3, 12, 16)).astype(np.float32)
    image, grid = run(layer, [images, labels]).tops
    cv2 = pytest.importorskip("cv2")
    expected = [cv2.resize(channel - 127, (32, 24), interpolation=cv2.INTER_CUBIC) for channel in images[0]]
    np.testing.assert_allclose(image[0], expected, rtol=1e-4, atol=1e-3)
    assert grid[0, 0, 3, 3] == 1
    np.testing.assert_allclose(grid[0, 1:5, 3, 3], [4 - 12, 6 - 12, 20 - 12, 18 - 12])
