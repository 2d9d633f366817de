"""Every family of ops: prediction against closed forms and against Monte Carlo."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.graph import Graph
from caffestat.theory.quadrature import ABS_NORMAL

from .graphs import Case, measure, predict

WINDOW = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}

CASES = {
    "relu": Case((5, 7, 11, 13), lambda g, x, p: g.emit("Relu", x), mean=0.3),
    "leaky": Case((5, 7, 11, 13), lambda g, x, p: g.emit("LeakyRelu", x, alpha=0.25)),
    "tanh": Case((5, 7, 11, 13), lambda g, x, p: g.emit("Tanh", x), std=1.7),
    "sigmoid": Case((5, 7, 11, 13), lambda g, x, p: g.emit("Sigmoid", x), mean=0.5),
    "elu": Case((5, 7, 11, 13), lambda g, x, p: g.emit("Elu", x, alpha=0.7)),
    "swish": Case((5, 7, 11, 13), lambda g, x, p: g.emit("Mul", x, g.emit("Sigmoid", x))),
    "twice": Case((5, 7, 11, 13), lambda g, x, p: g.emit("Add", x, x)),
    "affine": Case((5, 7, 11, 13), lambda g, x, p: g.emit("Add", g.emit("Mul", x, g.constant(3)), g.constant(1))),
    "conv": Case((4, 6, 9, 8), lambda g, x, p: g.emit("Conv", x, *p, pads=[1, 1, 1, 1]), ((24, 6, 3, 3),)),
    "strided conv": Case(
        (4, 6, 9, 8), lambda g, x, p: g.emit("Conv", x, *p, pads=[1] * 4, strides=[2, 2]), ((24, 6, 3, 3),)
    ),
    "dilated conv": Case(
        (4, 6, 9, 12), lambda g, x, p: g.emit("Conv", x, *p, pads=[2] * 4, dilations=[2, 2]), ((24, 6, 3, 3),)
    ),
    "grouped conv": Case((4, 8, 9, 7), lambda g, x, p: g.emit("Conv", x, *p, group=4), ((24, 2, 3, 3),)),
    "conv with bias": Case((4, 6, 9, 8), lambda g, x, p: g.emit("Conv", x, *p), ((24, 6, 3, 3), (24,))),
    "transposed conv": Case(
        (4, 24, 6, 5), lambda g, x, p: g.emit("ConvTranspose", x, *p, strides=[2, 2], pads=[1] * 4), ((24, 12, 4, 4),)
    ),
    "gemm": Case((40, 60), lambda g, x, p: g.emit("Gemm", x, *p, transB=1), ((50, 60),)),
    "max pool": Case((6, 8, 13, 11), lambda g, x, p: g.emit("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])),
    "overlapping max pool": Case(
        (6, 8, 13, 11), lambda g, x, p: g.emit("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    ),
    "average pool": Case((6, 8, 12, 10), lambda g, x, p: g.emit("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])),
    "padded average pool": Case(
        (6, 8, 12, 10), lambda g, x, p: g.emit("AveragePool", x, count_include_pad=1, **WINDOW)
    ),
    "lrn": Case((6, 16, 7, 5), lambda g, x, p: g.emit("LRN", x, size=5, alpha=0.5, beta=0.75, bias=1.0), std=2.0),
    "mean": Case((6, 8, 12, 10), lambda g, x, p: g.emit("ReduceMean", x, g.ints(2, 3), keepdims=1)),
    "concat": Case(
        (6, 8, 12, 10), lambda g, x, p: g.emit("Concat", g.emit("Relu", x), g.emit("Mul", x, g.constant(3)), axis=1)
    ),
    "relu then max pool": Case(
        (6, 8, 12, 10), lambda g, x, p: g.emit("MaxPool", g.emit("Relu", x), kernel_shape=[2, 2], strides=[2, 2])
    ),
    "max pool then relu": Case(
        (6, 8, 12, 10), lambda g, x, p: g.emit("Relu", g.emit("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    ),
}

# |x| of sums that keep the sign, or of single terms, is off by a few percent where the second moment is right
LOOSE = {"twice": 0.06, "lrn": 0.08, "concat": 0.04, "overlapping max pool": 0.06}


@pytest.mark.parametrize("name", CASES)
def test_prediction_agrees_with_monte_carlo(name: str) -> None:
    case, tolerance = CASES[name], LOOSE.get(name, 0.03)
    (top, dx), (measured, gradient) = predict(case), measure(case, 30)
    assert top.mean == pytest.approx(measured.mean, abs=0.03 * math.sqrt(measured.second))
    assert top.second == pytest.approx(measured.second, rel=0.05)
    assert top.mean_abs == pytest.approx(measured.mean_abs, rel=tolerance)
    assert dx is not None
    assert dx.second == pytest.approx(gradient.second, rel=0.08)
    assert dx.mean_abs == pytest.approx(gradient.mean_abs, rel=tolerance)


def test_relu_leaves_half_of_the_second_moment_and_of_the_gradient() -> None:
    top, dx = predict(CASES["relu"].__class__((5, 7), lambda g, x, p: g.emit("Relu", x), std=2.0))
    assert top.second == pytest.approx(2.0)
    assert top.mean_abs == pytest.approx(2 / math.sqrt(2 * math.pi), rel=1e-3)
    assert dx is not None
    assert dx.second == pytest.approx(0.5)
    assert dx.mean_abs == pytest.approx(0.5 * ABS_NORMAL)


def test_equal_inputs_of_a_sum_count_squared() -> None:
    top, dx = predict(CASES["twice"])
    assert top.second == pytest.approx(4.0)
    assert dx is not None
    assert dx.second == pytest.approx(4.0)


def test_padding_counts_the_taps_inside_the_image() -> None:
    # on 2 x 2 places a padded 3 x 3 window holds 4 of its 9 taps, wherever it stands
    top, _ = predict(
        Case((3, 5, 2, 2), lambda g, x, p: g.emit("Conv", x, *p, pads=[1] * 4), ((7, 5, 3, 3),), w_std=0.1)
    )
    assert top.second == pytest.approx(5 * 4 * 0.01)


def test_batch_norm_gives_second_moment_one_and_divides_the_gradient_by_the_deviation() -> None:
    def build(g: Graph, x: str, params: object) -> str:
        ones, zeros = (g.constant(np.full(8, value)) for value in (1, 0))
        attributes = {"epsilon": 1e-5, "training_mode": 1, "momentum": 0.0}
        y, *_ = g.emit_many("BatchNormalization", x, ones, zeros, zeros, ones, count=3, **attributes)
        return y

    top, dx = predict(Case((16, 8, 6, 5), build, mean=3.0, std=2.0))
    assert top.mean == pytest.approx(0, abs=1e-9)
    assert top.second == pytest.approx(1, rel=0.01)
    assert dx is not None
    assert dx.second == pytest.approx(0.25, rel=0.02)


def test_softmax_loss_has_the_gradient_of_small_logits() -> None:
    def build(g: Graph, x: str, params: object) -> str:
        forward = lambda z: (g.emit("ReduceSum", g.emit("Softmax", z, axis=1), keepdims=0),)  # noqa: E731
        (loss,) = g.custom_vjp(
            (x,), forward, lambda tape, dys: [None], "SoftmaxCrossEntropyLoss", axis=1, normalizer=16
        )
        return g.declare(loss, ())

    classes, batch = 20, 16
    top, dx = predict(Case((batch, classes), build, std=1e-3))
    assert top.mean == pytest.approx(math.log(classes), rel=1e-3)
    assert dx is not None
    assert dx.second == pytest.approx((1 / classes) * (1 - 1 / classes) / batch**2, rel=1e-3)
    assert dx.mean_abs == pytest.approx(2 * (classes - 1) / classes**2 / batch, rel=1e-3)


def test_a_concat_after_itself_keeps_its_distribution() -> None:
    top, _ = predict(Case((3, 5, 4, 2), lambda g, x, p: g.emit("Concat", x, x, axis=1)))
    assert top.mean_abs == pytest.approx(ABS_NORMAL, rel=0.01)
