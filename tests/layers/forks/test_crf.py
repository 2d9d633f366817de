"""Mean field inference of CRF-as-RNN: against a lattice worked out point by point, and against sums over all pairs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import caffestat
from caffestat.errors import NetError
from caffestat.fillers import Stream
from caffestat.layers.forks.lattice import Lattice

from ..harness import make, run
from .check import check_gradients

TEXT = 'name: "l" type: "MultiStageMeanfield" bottom: "u" bottom: "q" bottom: "x" top: "y" %s'
FIELDS = "multi_stage_meanfield_param { num_iterations: 3 theta_alpha: 4 theta_beta: 90 theta_gamma: 2 %s }"
SHAPES = [(2, 4, 5, 6), (2, 4, 5, 6), (2, 3, 5, 6)]
RANDOM = np.random.default_rng(7)
IMAGES = RANDOM.uniform(0, 255, SHAPES[2]).astype(np.float32).astype(float)


def simplex(point: np.ndarray) -> list[tuple[tuple[int, ...], float]]:
    """Return the vertices of the simplex around a point of the plane, by Adams' algorithm, and their shares of it."""
    size = len(point)
    corner = np.array([size * math.ceil(value / size - 0.5) for value in point])
    order = np.argsort(corner - point, kind="stable")  # the largest difference first
    excess = corner.sum() // size
    corner[order[size - excess :] if excess > 0 else order[:-excess]] -= size * np.sign(excess)
    order = np.argsort(corner - point, kind="stable")
    vertices = np.repeat(corner[None], size, 0)
    for k in range(size):
        vertices[k, order[: size - k]] += k
        vertices[k, order[size - k :]] += k - size
    system = np.vstack([vertices.T, np.ones(size)])
    shares = np.linalg.lstsq(system, np.append(point, 1), rcond=None)[0]
    return [(tuple(vertex), share) for vertex, share in zip(vertices.tolist(), shares, strict=True)]


def lattice_filter(features: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the normalized filter over points [R, d] as a function of values [R, C]."""
    d = features.shape[1]
    elevation = np.triu(np.ones((d + 1, d))) - np.diag(np.arange(1.0, d + 1), -1)[:, :d]
    elevation *= math.sqrt(2 / 3) * (d + 1) / np.sqrt(np.arange(1, d + 1) * np.arange(2, d + 2))
    around = [simplex(elevation @ feature) for feature in features]
    vertices = {vertex for corners in around for vertex, _ in corners}

    def raw(values: np.ndarray) -> np.ndarray:
        sums: dict[tuple[int, ...], np.ndarray] = defaultdict(lambda: np.zeros(values.shape[1]))
        for corners, value in zip(around, values, strict=True):
            for vertex, share in corners:
                sums[vertex] = sums[vertex] + share * value
        for axis in range(d + 1):
            step = np.ones(d + 1, int) - (d + 1) * np.eye(d + 1, dtype=int)[axis]
            old = dict(sums)
            for vertex in vertices:
                sides = [old.get(tuple((vertex + sign * step).tolist()), 0) for sign in (-1, 1)]
                sums[vertex] = old[vertex] + 0.5 * (sides[0] + sides[1])
        sliced = [sum(share * sums[vertex] for vertex, share in corners) for corners in around]
        return np.array(sliced) / (1 + 2.0**-d)

    norm = raw(np.ones((len(features), 1)))
    return lambda values: raw(values) / norm


def features(image: np.ndarray, spread: float, colour: float | None = None) -> np.ndarray:
    y, x = np.indices(image.shape[1:])
    parts = [x / spread, y / spread, *(image / colour if colour else ())]
    return np.stack(parts, -1).reshape(-1, len(parts))


FILTERS = [(lattice_filter(features(image, 2)), lattice_filter(features(image, 4, 90))) for image in IMAGES]


def meanfield(unary, first, images, *weights) -> np.ndarray:
    spatial, bilateral, compatibility = (weight[0, 0] for weight in weights[:3])
    result = []
    for scores, q, filters in zip(unary, first, FILTERS, strict=False):
        u, q = (value.reshape(len(value), -1).T for value in (scores, q))
        for _ in range(3):
            e = np.exp(q - q.max(1, keepdims=True))
            p = e / e.sum(1, keepdims=True)
            message = filters[0](p) @ spatial.T + filters[1](p) @ bilateral.T
            q = u - message @ compatibility.T
        result.append(q.T.reshape(scores.shape))
    return np.array(result)


def test_forward_and_gradients() -> None:
    layer = make(TEXT % FIELDS % "")
    params = [RANDOM.normal(size=(1, 1, 4, 4)) for _ in range(3)]
    arrays = [RANDOM.normal(size=SHAPES[0]), RANDOM.normal(size=SHAPES[1]), IMAGES, *params]
    check_gradients(layer, meanfield, arrays, (0, 1, 3, 4, 5), params=3)


def test_the_filter_is_near_to_a_sum_over_all_pairs() -> None:
    smooth = np.kron(RANDOM.uniform(0, 255, (3, 3, 4)), np.ones((8, 8))) + RANDOM.normal(0, 4, (3, 24, 32))
    at = features(smooth, 6, 30)
    values = RANDOM.normal(size=(len(at), 3))
    lattice = Lattice.of(at)
    found = lattice.filtered(values) * lattice.norm
    weights = np.exp(-((at[:, None] - at[None]) ** 2).sum(-1) / 2)
    expected = weights @ values / weights.sum(1, keepdims=True)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.99
    assert abs(found - expected).mean() < 0.12 * abs(expected).mean()


def test_weights_out_of_files_or_the_usual_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    layer = make(TEXT % FIELDS % "")
    declared = layer.params(SHAPES)
    spatial, bilateral, compatibility = layer.draw_params(Stream(1), declared, SHAPES)
    assert [param.shape for param in declared] == [(1, 1, 4, 4)] * 3
    np.testing.assert_array_equal(spatial[0, 0], 3 * np.eye(4))
    np.testing.assert_array_equal(bilateral[0, 0], 5 * np.eye(4))
    np.testing.assert_array_equal(compatibility[0, 0], -np.eye(4))
    assert layer.left_out == "file not found: spatial.par and bilateral.par; the usual weights 3 and 5 are used"
    (tmp_path / "spatial.par").write_text("1 2 3\n4 5\n")
    np.testing.assert_array_equal(layer.draw_params(Stream(1), declared, SHAPES)[0][0, 0], np.diag([1, 2, 3, 4]))
    (tmp_path / "bilateral.par").write_text("1 2 x")
    assert layer.left_out == ""
    with pytest.raises(NetError, match=r"bilateral.par: expected 4 numbers: could not convert"):
        layer.draw_params(Stream(1), declared, SHAPES)
    (tmp_path / "bilateral.par").write_text("1 2 3")
    with pytest.raises(NetError, match=r"expected 4 numbers, one for each class, found 3"):
        layer.draw_params(Stream(1), declared, SHAPES)


@pytest.mark.parametrize(
    ("beta", "message"),
    [("1e-3", "theta_beta 0.001, .*: the features of points spread over .* steps"), ("nan", "theta_beta nan, .* NaN$")],
)
def test_colours_without_a_lattice(beta: str, message: str) -> None:
    layer = make(TEXT % FIELDS.replace("90", beta) % "")
    with pytest.raises(NetError, match=message):
        layer.decide([IMAGES], RANDOM)


TVG = 'top: "z" ' + FIELDS
WEIGHTS = 'spatial_filter_weights_str: "1 2 3 4" bilateral_filter_weights_str: "0.5 0.25 2 1"'


@pytest.mark.parametrize("alike", [False, True])
def test_the_layer_of_tvg(alike: bool) -> None:
    layer = make(TEXT % TVG % (WEIGHTS + " is_no_class_weights: true" * alike))
    shapes = [(1, *shape[1:]) for shape in SHAPES]
    assert layer.tops(shapes) == (shapes[0], (1, 1, 1, 200))
    declared = layer.params(shapes)
    assert [param.shape for param in declared] == [(1, 1, 4, 4)] * 3 + [(1, 1, 1, 4)] * 2 + [(1, 1, 1, 1)] * 2
    params = layer.draw_params(Stream(1), declared, shapes)
    np.testing.assert_array_equal(params[0][0, 0], np.diag([1, 0, 0, 0] if alike else [1, 2, 3, 4]))
    bottoms = [RANDOM.normal(size=shapes[0]), RANDOM.normal(size=shapes[1]), IMAGES[:1]]
    result = run(layer, bottoms, params)
    eye = np.eye(4)[None, None]
    weights = [1 * eye, 0.5 * eye, -eye] if alike else params[:3]
    np.testing.assert_allclose(result.tops[0], meanfield(*bottoms, *weights), rtol=2e-4, atol=1e-4)
    assert not result.tops[1].any()
    assert bool(result.params[2].any()) is not alike


@pytest.mark.parametrize(
    ("fields", "shapes", "message"),
    [
        (FIELDS % "", [*SHAPES[:2], (2, 3, 6, 6)], "expected scores"),
        ("", SHAPES, "num_iterations above 1"),
        (TVG % WEIGHTS, SHAPES, "scores of one image, found 2"),
    ],
)
def test_what_does_not_fit(fields: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(TEXT % fields).tops(shapes)


NET = """layer { name: "x" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 1 dim: 3 dim: 6 dim: 7 } shape { dim: 1 dim: 1 dim: 6 dim: 7 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { %s }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "y" bottom: "label" top: "loss" }
"""


def test_in_a_net_every_value_is_computed(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    layer = TEXT.replace('"u"', '"c"').replace('"q"', '"c"') % (FIELDS % "" + " param { lr_mult: 0.1 }" * 3)
    net.write_text(NET % layer)
    report = caffestat.analyze(net, device="cpu", seed=1)
    assert all(top.mean_abs is not None for layer in report.layers for top in layer.tops)
    (crf,) = [layer for layer in report.layers if layer.name == "l"]
    assert all(param.diff_mean_abs for param in crf.params)
    solver = tmp_path / "solver.prototxt"
    solver.write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 2 random_seed: 1')
    assert len(list(caffestat.train(solver, device="cpu", data="synthetic"))) > 0


def test_detections_that_are_not_read_leave_no_values(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    layer = TEXT.replace('"u"', '"c"').replace('"q"', '"c"')
    net.write_text(NET % (layer % TVG % (WEIGHTS + " detection_potentials_enabled: true")))
    report = caffestat.analyze(net, device="cpu", seed=1)
    assert any("files of its detections or superpixels are not read" in f.message for f in report.findings)
    tops = {layer.name: layer.tops[0] for layer in report.layers}
    assert tops["loss"].mean_abs is None
    assert tops["c"].mean_abs is not None


@pytest.mark.parametrize("as_log", [False, True])
def test_dense_crf_infers_within_the_image(as_log: bool) -> None:
    fields = "max_iter: 2 pos_w: 3 pos_xy_std: 2 bi_w: 5 bi_xy_std: 4 bi_rgb_std: 90 output_probability: "
    layer = make(
        'name: "l" type: "DenseCRF" bottom: "u" bottom: "d" bottom: "x" top: "y" '
        f"dense_crf_param {{ {fields}{str(not as_log).lower()} }}"
    )
    u = RANDOM.normal(size=(2, 4, 5, 6))
    sizes = np.array([[9, 9], [4, 5]]).reshape(2, 1, 1, 2)
    expected = np.zeros(u.shape)
    for n, (high, wide) in enumerate(((5, 6), (4, 5))):
        image = IMAGES[0][:, :high, :wide]
        filters = [(3, lattice_filter(features(image, 2))), (5, lattice_filter(features(image, 4, 90)))]
        scores = u[n][:, :high, :wide].reshape(4, -1).T
        logits = scores
        for _ in range(2):
            q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            logits = scores + sum(weight * apply(q) for weight, apply in filters)
        q = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        expected[n][:, :high, :wide] = (np.log(q) if as_log else q).T.reshape(4, high, wide)
    (found,) = run(layer, [u, sizes, IMAGES]).tops
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-5)
