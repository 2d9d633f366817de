"""Layers that learn faces, against loops written from their references."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from caffestat import net as nets
from caffestat.analysis import Runner, draw_feeds
from caffestat.errors import NetError
from caffestat.fillers import Stream
from caffestat.net.source import net_source
from caffestat.program import from_net
from caffestat.prototext import parse

from ..harness import TEST, make, run
from .check import check_gradients

RANDOM = np.random.default_rng(6)
ROWS, INPUTS, CLASSES = 5, 6, 4
X = RANDOM.normal(size=(ROWS, INPUTS))
W = RANDOM.normal(size=(CLASSES, INPUTS))
LABELS = np.array([2, 0, 3, 2, 1], np.float32)
DY = RANDOM.normal(size=(ROWS, CLASSES)).astype(np.float32)
AT = (np.arange(ROWS), LABELS.astype(int))
TEXT = 'name: "l" type: "%s" bottom: "x" %s top: "y" '


def unit(w: np.ndarray, eps: float = 0) -> np.ndarray:
    return w / np.sqrt((w * w).sum(1, keepdims=True) + eps)


def test_inner_product_with_weights_of_unit_length() -> None:
    text = TEXT % ("InnerProduct", "") + "inner_product_param { num_output: 4 normalize: true }"
    layer, bias = make(text), RANDOM.normal(size=CLASSES)
    assert layer.dialect == "happynear"
    found = run(layer, [X], [W, bias], [DY])
    scaled = unit(W, 1e-6)
    np.testing.assert_allclose(found.tops[0], X @ scaled.T + bias, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], DY @ scaled, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.params[0], DY.T @ X, rtol=1e-4, atol=1e-6)  # not through the scaling
    np.testing.assert_allclose(found.updates[0], scaled, rtol=1e-5)


def test_transposed_weights_are_scaled_where_they_lie_in_memory() -> None:
    text = TEXT % ("InnerProduct", "") + "inner_product_param { num_output: 4 normalize: true transpose: true }"
    found = run(make(text), [X], [W.reshape(INPUTS, CLASSES), np.zeros(CLASSES)])
    scaled = unit(W, 1e-6).reshape(INPUTS, CLASSES)
    np.testing.assert_allclose(found.tops[0], X @ scaled, rtol=1e-5, atol=1e-6)


def test_inner_product_with_weights_from_bottoms() -> None:
    text = TEXT % ("InnerProduct", 'bottom: "w" bottom: "b"')
    layer = make(text)
    bias = RANDOM.normal(size=CLASSES)
    check_gradients(layer, lambda x, w, b: x @ w.T + b, [X, W, bias], [0, 1, 2])
    learned = make(TEXT % ("InnerProduct", 'bottom: "w"'))
    check_gradients(learned, lambda x, w, b: x @ w.T + b, [X, W, bias], [0, 1, 2], params=1)
    plain = make(TEXT % ("InnerProduct", "") + "inner_product_param { num_output: 4 }")
    assert plain.dialect == ""


def psi(kind: int, cos: float) -> tuple[float, float]:
    """(-1)^k cos(m θ) - 2 k and its derivative by cos θ."""
    m, theta = kind + 1, math.acos(cos)
    k = int(theta * m / math.pi)
    return (-1) ** k * math.cos(m * theta) - 2 * k, (-1) ** k * m * math.sin(m * theta) / math.sin(theta)


def margin(kind: int, weight: float) -> tuple[np.ndarray, np.ndarray]:
    """The reference's loops: y and dx."""
    w = unit(W)
    y, dx = X @ w.T, DY @ w
    for row, label in enumerate(LABELS.astype(int)):
        size = np.linalg.norm(X[row])
        value, slope = psi(kind, y[row, label] / size)
        along = (value - slope * y[row, label] / size) / size
        scale = math.hypot(slope, along)
        dy = DY[row, label] / (1 + weight)
        dx[row] += dy * ((slope / scale + weight) * w[label] + along / scale * X[row]) - DY[row, label] * w[label]
        y[row, label] = (size * value + weight * y[row, label]) / (1 + weight)
    return y, dx


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_margin_inner_product(kind: int) -> None:
    name = ("SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE")[kind]
    text = 'bottom: "t" top: "y" top: "lambda" margin_inner_product_param { num_output: 4 type: %s %s }'
    layer = make('name: "l" type: "MarginInnerProduct" bottom: "x" ' + text % (name, "base: 8 gamma: 0.5 iteration: 3"))
    weight = 8 / (1 + 0.5 * 4)
    found = run(layer, [X, LABELS], [W], [DY, np.zeros(1, np.float32)])
    y, dx = margin(kind, weight)
    np.testing.assert_allclose(found.tops[0], y, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.tops[1], [weight], rtol=1e-6)
    np.testing.assert_allclose(found.bottoms[0], dx, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.params[0], DY.T @ X, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.updates[0], unit(W), rtol=1e-5)


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_large_margin_inner_product(kind: int) -> None:
    name = ("SINGLE", "DOUBLE", "TRIPLE", "QUADRUPLE")[kind]
    text = TEXT + "largemargin_inner_product_param { num_output: 4 type: %s base: 8 gamma: 0.5 }"
    layer = make(text % ("LargeMarginInnerProduct", 'bottom: "t"', name))
    weight = 8 / (1 + 0.5)

    def reference(x: np.ndarray, labels: np.ndarray, w: np.ndarray) -> np.ndarray:
        y = x @ w.T
        for row, label in enumerate(labels.astype(int)):
            size = np.linalg.norm(x[row]) * np.linalg.norm(w[label])
            value = size * psi(kind, y[row, label] / size)[0]
            y[row, label] = (value + weight * y[row, label]) / (1 + weight)
        return y

    check_gradients(layer, reference, [X, LABELS, W], [0, 2], params=1)


def test_margin_inner_product_without_margin() -> None:
    text = TEXT % ("MarginInnerProduct", 'bottom: "t"') + "margin_inner_product_param { num_output: 4 }"
    found = run(make(text), [X, LABELS], [W], [DY])
    np.testing.assert_allclose(found.tops[0], X @ unit(W).T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], DY @ unit(W), rtol=1e-4, atol=1e-5)


NET = """layer { name: "x" type: "Input" top: "x" top: "t"
  input_param { shape { dim: 5 dim: 6 } shape { dim: 5 } } }
layer { name: "m" type: "MarginInnerProduct" bottom: "x" bottom: "t" top: "y" top: "lambda"
  margin_inner_product_param { num_output: 4 type: DOUBLE base: 60 gamma: 1 lambda_min: 14
    weight_filler { type: "xavier" } } }"""


def test_lambda_falls_from_pass_to_pass() -> None:
    net = nets.build(net_source(parse(NET.encode(), "net.prototxt")))
    values = list(nets.draw_params(net, Stream(7)))
    runner = Runner(from_net(net), values, forward_only=True, fetch=True, changing=True)
    found = []
    for _ in range(5):
        runner.run(draw_feeds(runner, Stream(7), np.random.default_rng(0), {"x": X.astype(np.float32), "t": LABELS}))
        found.append(float(runner.tensors["top", 1, 1][0]))
    np.testing.assert_allclose(found, [30, 20, 15, 14, 14], rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(values[0], axis=1), 1, rtol=1e-5)


DISTANCE = 'inner_distance_param { num_output: 4 distance_type: "%s" %s }'


def distances(kind: str) -> Any:
    def forward(x: np.ndarray, w: np.ndarray, *_: Any) -> np.ndarray:
        difference = x[:, None] - w[None]
        return (difference**2 if kind == "L2" else abs(difference)).sum(2)

    return forward


def slopes_of_l1(x: np.ndarray, w: np.ndarray, dy: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the reference's `dy * sign(d)`, a macro without outer parentheses, adds up: dy * (0 < d) - (d < 0)."""
    dx, dw = np.zeros_like(x), np.zeros_like(w)
    for m, n, k in np.ndindex(len(x), *w.shape):
        dx[m, k] += dy[m, n] * (x[m, k] > w[n, k]) - (x[m, k] < w[n, k])
        dw[n, k] += counts[m, n] * (dy[m, n] * (w[n, k] > x[m, k]) - (w[n, k] < x[m, k]))
    return dx, dw


@pytest.mark.parametrize("kind", ["L1", "L2"])
def test_inner_distances(kind: str) -> None:
    derived = [0, 1] if kind == "L2" else []
    check_gradients(make(TEXT % ("InnerDistance", "") + DISTANCE % (kind, "")), distances(kind), [X, W], derived, 1)
    pair = make(TEXT % ("InnerDistance", 'bottom: "w"') + DISTANCE % (kind, ""))
    check_gradients(pair, distances(kind), [X, W], derived)
    centers = make(TEXT % ("InnerDistance", 'bottom: "w" bottom: "t"') + DISTANCE % (kind, "update_center_only: true"))
    check_gradients(centers, distances(kind), [X, W, LABELS], derived[:1])
    found = run(centers, [X, W, LABELS], dys=[DY])
    only = np.zeros_like(DY)
    only[AT] = 1
    if kind == "L2":
        expected = ((only * DY)[..., None] * 2 * (W[None] - X[:, None])).sum(0)
    else:
        dx, expected = slopes_of_l1(X, W, DY, only)
        np.testing.assert_allclose(found.bottoms[0], dx, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.bottoms[1], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("bottoms", "fields", "dw"),
    [
        ('bottom: "w"', "", [[-1, 1, 2.5], [4, -1, 3]]),
        ('bottom: "w" bottom: "t"', "update_center_only: true", [[0, -1, 0.5], [0, 0, -1]]),
    ],
)
def test_the_gradient_of_l1_distances(bottoms: str, fields: str, dw: Any) -> None:
    """Numbers: happynear/caffe-windows, inner_distance_layer.cu, its kernels compiled for the CPU."""
    layer = make(TEXT % ("InnerDistance", bottoms) + DISTANCE % ("L1", fields))
    x, w, labels = [[1, -2, 0.5], [0, 3, -1]], [[0, -1, 2], [1, -2, 0]], [1, 0]
    found = run(layer, [x, w, labels][: len(layer.proto.bottom)], dys=[np.array([[2, -3], [0.5, 4]])])
    np.testing.assert_allclose(found.tops[0], [[3.5, 0.5], [7, 7]])
    np.testing.assert_allclose(found.bottoms[0], [[2, -1, -4], [-1, 4.5, -2]])
    np.testing.assert_allclose(found.bottoms[1], dw)


def test_inner_distances_of_scaled_weights() -> None:
    found = run(make(TEXT % ("InnerDistance", "") + DISTANCE % ("L2", "normalize: true")), [X], [W])
    np.testing.assert_allclose(found.tops[0], distances("L2")(X, unit(W, 1e-6)), rtol=1e-4)
    np.testing.assert_allclose(found.updates[0], unit(W, 1e-6), rtol=1e-5)


SCORES = RANDOM.uniform(-0.95, 0.95, (ROWS, CLASSES))
SCORES[AT] = [0.9, 0.3, -0.8, -0.99, 0.1]


def changed(change: Any) -> Any:
    def forward(x: np.ndarray, _: Any) -> np.ndarray:
        y = x.copy()
        y[AT] = [change(value) for value in x[AT]]
        return y

    return forward


ADD = TEXT % ("LabelSpecificAdd", 'bottom: "t"') + "label_specific_add_param { %s }"


@pytest.mark.parametrize(
    ("fields", "dialect", "change"),
    [
        ("bias: -0.35", "happynear", lambda x: x - 0.35 if x > 0.35 else x),
        ("bias: 0.25", "happynear", lambda x: x + 0.25 if x > -0.25 else x),
        ("bias: 0.25", "openvino", lambda x: x - 0.25 if x > 0.25 else x),
        (
            "bias_base: 0.1 bias_gamma: 0.5 bias_power: 2 iteration: 1 bias_min: 0 bias_max: 5",
            "happynear",
            lambda x: x + 1.35 if x > -1.35 else x,
        ),
        (
            "bias_base: 0.1 bias_gamma: 9 bias_power: 2 iteration: 1 bias_max: 0.2",
            "happynear",
            lambda x: x + 0.2 * (x > -0.2),
        ),
    ],
)
def test_label_specific_add(fields: str, dialect: str, change: Any) -> None:
    check_gradients(make(ADD % fields, dialect=dialect), changed(change), [SCORES, LABELS], [0])
    at_test = run(make(ADD % fields, TEST, dialect), [SCORES, LABELS], dys=[DY])
    np.testing.assert_array_equal(at_test.tops[0], SCORES.astype(np.float32))
    np.testing.assert_array_equal(at_test.bottoms[0], DY)


def test_openvino_s_own_types_tell_its_dialect() -> None:
    text = """layer { name: "x" type: "Input" top: "x" top: "t"
  input_param { shape { dim: 5 dim: 4 } shape { dim: 5 } } }
layer { name: "l" type: "LabelSpecificAdd" bottom: "x" bottom: "t" top: "y" label_specific_add_param { bias: 0.2 } }
layer { name: "g" type: "%s" bottom: "y" top: "z" }"""
    for other, dialect in (("GRN", "openvino"), ("ReLU", "happynear")):
        source = net_source(parse((text % other).encode(), "net.prototxt"))
        net = nets.build(source)
        assert net.nodes[1].layer.dialect == dialect


def cos_add(x: float, m: float = 0.5) -> float:
    if x <= math.cos(math.pi - m):
        return x - math.sin(math.pi - m) * m
    return math.cos(math.acos(x) + m)


def test_cosine_margin() -> None:
    layer = make(TEXT % ("CosinAddm", 'bottom: "t"') + "cosin_add_m_param { m: 0.5 }")
    check_gradients(layer, changed(cos_add), [SCORES, LABELS], [0])
    above = SCORES.copy()
    above[0, 2] = 1.5
    found = run(layer, [above, LABELS], dys=[DY])
    np.testing.assert_allclose(found.tops[0][0, 2], math.cos(0.5), rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0][0, 2], DY[0, 2], rtol=1e-6)


def test_combined_margin() -> None:
    layer = make(TEXT % ("CombinedMargin", 'bottom: "t"') + "combined_margin_param { m1: 1.1 m2: 0.2 m3: 0.3 }")
    check_gradients(layer, changed(lambda x: math.cos(1.1 * math.acos(x) + 0.2) - 0.3), [SCORES, LABELS], [0])
    labels = LABELS.copy()
    labels[0] = -1
    np.testing.assert_allclose(run(layer, [SCORES, labels]).tops[0][0], SCORES[0], rtol=1e-6)


def test_adaptive_scale() -> None:
    layer = make(TEXT % ("AdaCosAddmScale", 'bottom: "t"') + "adacos_add_m_scale_param { m: 0.5 num_classes: 4 }")
    others = SCORES.copy()
    others[AT] = 0
    powers = np.exp(math.sqrt(2) * math.log(3) * others).sum()
    scale = math.log(powers / ROWS) / math.cos(min(math.pi / 4, np.arccos(SCORES).mean()))
    found = run(layer, [SCORES, LABELS], dys=[DY])
    np.testing.assert_allclose(found.tops[0], scale * changed(cos_add)(SCORES, None), rtol=1e-5)
    plain = run(make(TEXT % ("CosinAddm", 'bottom: "t"')), [SCORES, LABELS], dys=[DY])
    np.testing.assert_allclose(found.bottoms[0], scale * plain.bottoms[0], rtol=1e-4)


CENTER = TEXT % ("CenterLoss", 'bottom: "t"') + "center_loss_param { num_output: 4 %s }"
COUNTS = np.array([1, 1, 2, 1])[:, None]


@pytest.mark.parametrize(
    ("fields", "dialect", "share"),
    [
        ("", "caffe-face", 1 / (1 + COUNTS)),
        ("", "happynear", COUNTS / (1 + COUNTS)),
        ('distance_type: "L1"', None, COUNTS / (1 + COUNTS)),
    ],
)
def test_center_loss(fields: str, dialect: str | None, share: np.ndarray) -> None:
    is_l1 = bool(fields)

    def forward(x: np.ndarray, _: Any, centers: np.ndarray) -> np.ndarray:
        distance = x - centers[AT[1]]
        return abs(distance).sum() / ROWS if is_l1 else (distance**2).sum() / 2 / ROWS

    layer = make(CENTER % fields, dialect=dialect)
    check_gradients(layer, forward, [X, LABELS, W], [0], params=1)
    found = run(layer, [X, LABELS], [W], [np.float32(3)])
    distance = X - W[AT[1]]
    sums = np.zeros_like(W)
    np.add.at(sums, AT[1], -(np.sign(distance) if is_l1 else distance))
    np.testing.assert_allclose(found.params[0], sums * share, rtol=1e-4, atol=1e-6)


IMAGES = RANDOM.normal(size=(2, 3, 4, 5))


@pytest.mark.parametrize(
    ("kind", "dialect", "axes", "eps"),
    [
        ("Normalize", "mpi", (1, 2, 3), 0),
        ("Normalize", "happynear", (1,), 1e-6),
        ("SimpleNormalize", None, (1, 2, 3), 0),
        ("NormL2", None, (1, 2, 3), 1e-7),
        ("Normalization", None, (1, 2, 3), 0),
        ("Norm", None, (1,), 0),
    ],
)
def test_unit_lengths(kind: str, dialect: str | None, axes: Sequence[int], eps: float) -> None:
    layer = make(TEXT % (kind, ""), dialect=dialect)

    def forward(x: np.ndarray) -> np.ndarray:
        return x / np.sqrt((x * x).sum(tuple(axes), keepdims=True) + eps)

    check_gradients(layer, forward, [IMAGES], [0])
    assert layer.tops([(4, 3)]) == (((4, 3) if kind == "Normalization" else (4, 3, 1, 1)),)
    assert layer.normalizes


@pytest.mark.parametrize("bp_norm", [False, True])
@pytest.mark.parametrize("kind", ["L1", "L2"])
def test_normalize_and_its_norm(kind: str, bp_norm: bool) -> None:
    fields = f'normalize_param {{ normalize_type: "{kind}" bp_norm: {str(bp_norm).lower()} }}'
    layer = make('name: "l" type: "Normalize" bottom: "x" top: "y" top: "n" ' + fields)

    def parts(x: np.ndarray) -> list[np.ndarray]:
        size = abs(x).sum(1, keepdims=True) + 1e-6 if kind == "L1" else np.sqrt((x * x).sum(1, keepdims=True) + 1e-6)
        return [x / size, size]

    dys = [RANDOM.normal(size=part.shape).astype(np.float32) for part in parts(IMAGES)]
    found = run(layer, [IMAGES], dys=dys)
    direction = RANDOM.normal(size=IMAGES.shape)
    slope = 0.0
    for index, dy in enumerate(dys):
        np.testing.assert_allclose(found.tops[index], parts(IMAGES)[index], rtol=1e-5)
        if index == 0 or bp_norm:
            ends = [parts(IMAGES + step * direction)[index] for step in (1e-6, -1e-6)]
            slope += ((ends[0] - ends[1]) * dy).sum() / 2e-6
    np.testing.assert_allclose((found.bottoms[0] * direction).sum(), slope, rtol=1e-4)


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        (TEXT % ("MarginInnerProduct", 'bottom: "t"'), [(5, 6), (5,)], "num_output must be positive"),
        (ADD % "", [(5, 4), (4,)], r"scores \(N, …\) and N labels"),
        (CENTER % 'distance_type: "L3"', [(5, 4), (5,)], "distance_type L1 or L2, found 'L3'"),
        (CENTER % "axis: 2", [(5, 4, 2), (5,)], "expected axis 1, found 2"),
        (TEXT % ("InnerDistance", "") + DISTANCE % ("L2", "update_center_only: true"), [(5, 6)], "three bottoms"),
        (TEXT % ("NormL2", ""), [(5,)], "a bottom of 2 to 4 axes"),
        (TEXT % ("InnerProduct", 'bottom: "w"'), [(5, 6), (4, 5)], "rows of 6 weights"),
    ],
)
def test_bottoms_that_do_not_fit(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(text).tops(shapes)


def test_label_specific_rescale_weighs_labels_and_others() -> None:
    text = (
        'name: "l" type: "LabelSpecificRescale" bottom: "x" bottom: "t" top: "y" '
        "label_specific_rescale_param { positive_weight: 0.5 negative_weight: 3 %s }"
    )
    x, labels = np.random.default_rng(2).normal(size=(3, 4)), np.array([2, 0, 3])
    weights = np.full((3, 4), 3.0)
    weights[np.arange(3), labels] = 0.5
    found = run(make(text % ""), [x, labels])
    np.testing.assert_allclose(found.tops[0], x * weights, rtol=1e-6)
    np.testing.assert_allclose(found.bottoms[0], weights, rtol=1e-6)
    np.testing.assert_allclose(run(make(text % "", TEST), [x, labels]).tops[0], x, rtol=1e-6)
    np.testing.assert_allclose(
        run(make(text % "rescale_test: true", TEST), [x, labels]).tops[0], x * weights, rtol=1e-6
    )
