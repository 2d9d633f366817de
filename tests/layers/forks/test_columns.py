"""Columns of features at places, patches and triplets."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(43)


def test_decimals_are_stripped() -> None:
    x = np.array([[-2.7, -0.3, 0.9], [1.0, 2.999, -1.0]])
    found = run(make('name: "s" type: "StripDecimals" bottom: "x" top: "y"'), [x])
    np.testing.assert_array_equal(found.tops[0], [[-2, 0, 0], [1, 2, -1]])
    assert not found.bottoms[0].any()


COLUMNS = 'name: "c" type: "SparseHypercolumnExtractor" bottom: "p" bottom: "a" bottom: "b" top: "y" '


def test_columns_of_maps_at_places() -> None:
    scales, down, across, factors = (1, 4), (0, 0.5), (0.25, 0), (2, 1)

    def columns(places: np.ndarray, *maps: np.ndarray) -> np.ndarray:
        rows = []
        for n, p in np.ndindex(*places.shape[:2]):
            row: list[float] = []
            for x, scale, dy, dx, factor in zip(maps, scales, down, across, factors, strict=True):
                y = min(max((places[n, p, 0] - dy) / scale, 0), x.shape[2] - 1.0001)
                z = min(max((places[n, p, 1] - dx) / scale, 0), x.shape[3] - 1.0001)
                i, j, a, b = int(y), int(z), y % 1, z % 1
                near = (1 - a) * ((1 - b) * x[n, :, i, j] + b * x[n, :, i, j + 1])
                row += list(factor * (near + a * ((1 - b) * x[n, :, i + 1, j] + b * x[n, :, i + 1, j + 1])))
            rows.append(row)
        return np.array(rows)

    fields = (
        "scale: 1 scale: 4 offset_height: 0 offset_height: 0.5 offset_width: 0.25 offset_width: 0 activation_mult: 2"
    )
    layer = make(COLUMNS + f"sparse_hypercolumn_extractor_param {{ {fields} }}")
    places = RANDOM.uniform(-1, 12, (2, 6, 2))
    check_gradients(
        layer, columns, [places, RANDOM.normal(size=(2, 3, 10, 11)), RANDOM.normal(size=(2, 4, 3, 2))], [1, 2]
    )
    assert not run(layer, [places, np.ones((2, 3, 10, 11)), np.ones((2, 4, 3, 2))]).bottoms[0].any()
    maps = RANDOM.normal(size=(2, 3, 10, 11)), RANDOM.normal(size=(2, 4, 3, 2))
    flat, deep = (run(layer, [given, *maps]).tops[0] for given in (places, places[..., None]))
    np.testing.assert_array_equal(flat, deep)
    for shape in ((2, 6, 2), (2, 6, 2, 1)):  # without data, places lie in the first map
        drawn = layer.stand_in(0, [shape, *(x.shape for x in maps)], RANDOM)
        assert drawn is not None and drawn.shape == shape
        assert (drawn.reshape(-1, 2) <= (10, 11)).all()
    with pytest.raises(NetError, match="for each of 3 maps"):
        layer.tops([(2, 6, 2), *[(2, 3, 5, 4)] * 3])


PYTHON = 'name: "s" type: "Python" bottom: "x" bottom: "l" %s python_param { module: "sampling_layers" layer: "%s" %s }'


def test_patches_stay_within_their_image() -> None:
    param = "param_str: \"{'output_size': 5, 'num': 6, 'by_ovlp': 1, 'minsz': 3, 'maxsz': 4}\""
    layer = make(PYTHON % ('top: "p" top: "c"', "RandomSamplingLayer", param))
    labels = RANDOM.integers(0, 9, (2, 1, 12, 13))
    images = np.arange(2).reshape(2, 1, 1, 1) * 100 + np.broadcast_to(labels, (2, 3, 12, 13)) + 1
    found = run(layer, [images, labels])
    patches, classes = found.tops
    assert patches.shape == (6, 3, 5, 5) and classes.shape == (6, 1)
    assert patches[:3].max() < 100 <= patches[3:, :, 2, 2].min()
    np.testing.assert_array_equal(patches[:3, 0, 2, 2], classes[:3, 0] + 1)


@pytest.mark.parametrize("labels", [[3, 1, 3, 1, 3], [2, 2, 2, 2, 2], [1, 2, 3, 4, 5]])
def test_triplets_are_of_their_classes(labels: list[int]) -> None:
    layer = make(PYTHON % ('top: "a" top: "b" top: "c"', "GraphToTripletLayer", ""))
    x = RANDOM.normal(size=(5, 4)).astype(np.float32)
    dys = [RANDOM.normal(size=x.shape).astype(np.float32) for _ in range(3)]
    found = run(layer, [x, np.array(labels)], dys=dys)
    np.testing.assert_array_equal(found.tops[0], x)
    dx = dys[0].copy()
    for item, (alike, unlike) in enumerate(zip(*found.tops[1:], strict=True)):
        (first,) = np.flatnonzero((x == alike).all(1))
        assert labels[first] == labels[item]
        dx[first] += dys[1][item]
        if len(set(labels)) == 1:
            assert not unlike.any()
            continue
        (second,) = np.flatnonzero((x == unlike).all(1))
        assert labels[second] != labels[item]
        dx[second] += dys[2][item]
    np.testing.assert_allclose(found.bottoms[0], dx, rtol=1e-5, atol=1e-6)
