"""Every family of ops: prediction against closed forms and against Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from caffestat.graph import Graph
from caffestat.theory import Gradient, Signal, Source, normal, propagate
from caffestat.theory.quadrature import ABS_NORMAL, NODES, cdf
from caffestat.theory.signal import Term, factor

from .graphs import Case, measure, predict


def gated(g: Graph, x: str) -> str:
    """Return tanh of one half times the sigmoid of the other."""
    a, b = g.emit_many("Split", x, count=2, axis=1, num_outputs=2)
    return g.emit("Mul", g.emit("Tanh", a), g.emit("Sigmoid", b))


WINDOW = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}

CASES = {
    "relu": Case((5, 7, 11, 13), lambda g, x, p: g.emit("Relu", x), mean=0.3),
    "leaky": Case((5, 7, 11, 13), lambda g, x, p: g.emit("LeakyRelu", x, alpha=0.25)),
    "tanh": Case((5, 7, 11, 13), lambda g, x, p: g.emit("Tanh", x), std=1.7),
    "sigmoid": Case((5, 7, 11, 13), lambda g, x, p: g.emit("Sigmoid", x), mean=0.5),
    "elu": Case((5, 7, 11, 13), lambda g, x, p: g.emit("Elu", x, alpha=0.7)),
    "swish": Case((5, 7, 11, 13), lambda g, x, p: g.emit("Mul", x, g.emit("Sigmoid", x))),
    "twice": Case((5, 7, 11, 13), lambda g, x, p: g.emit("Add", x, x)),
    "gated by the other half": Case((16, 90), lambda g, x, p: gated(g, g.emit("MatMul", x, *p)), ((90, 160),)),
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
    "sum of squares": Case((6, 8, 12, 10), lambda g, x, p: g.emit("ReduceSumSquare", x, g.ints(2, 3)), mean=0.4),
    "length": Case((6, 8, 12, 10), lambda g, x, p: g.emit("ReduceL2", x, g.ints(2, 3)), std=1.6),
    "sum of sizes": Case((6, 8, 12, 10), lambda g, x, p: g.emit("ReduceL1", x, g.ints(2, 3), keepdims=0), mean=0.4),
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


def test_sums_of_few_terms_have_the_mean_of_products() -> None:
    one = Case((64, 1, 6, 5), lambda g, x, p: g.emit("Conv", x, *p), ((400, 1, 1, 1),))
    top, _ = predict(one)
    assert top.mean_abs == pytest.approx(one.w_std * ABS_NORMAL**2, rel=0.01)  # E|w·x| = E|w| E|x|


def test_batch_norm_forgets_how_channels_differ() -> None:
    def build(g: Graph, x: str, params: Sequence[str]) -> str:
        ones, zeros = (g.constant(np.full(400, value)) for value in (1, 0))
        y = g.emit("Conv", x, *params)
        y, *_ = g.emit_many("BatchNormalization", y, ones, zeros, zeros, ones, count=3, training_mode=1, momentum=0.0)
        return y

    top, _ = predict(Case((64, 1, 6, 5), build, ((400, 1, 1, 1),)))
    assert top.mean_abs == pytest.approx(ABS_NORMAL, rel=0.01)


def test_batch_norm_leaves_gradients_that_cancel_over_a_channel() -> None:
    g = Graph()
    x = g.input("x", (3, 5, 4, 2))
    ones, zeros = (g.constant(np.full(5, value)) for value in (1, 0))
    y, *_ = g.emit_many("BatchNormalization", x, ones, zeros, zeros, ones, count=3, training_mode=1, momentum=0.0)
    g.infer()
    alike = Source(1.0, cross_spatial=0.6)  # places of a sample are, samples are not
    signal = normal(0.0, 1.0)
    dx = propagate(g, {x: signal}, {y: Gradient.of(alike)}).gradient(x)
    assert dx is not None
    samples, places = 3, 8
    space, batch = dx.cross_spatial(0.0), dx.cross_sample(0.0)
    assert batch < 0 < space
    along = dx.second * (1 / samples / places)  # what goes with y is taken out too, of an element by itself
    total = dx.second + (places - 1) * space + (samples - 1) * places * batch
    assert total == pytest.approx(0, abs=3 * along)


def test_what_a_label_sends_back_looks_like_the_weights() -> None:
    g = Graph()
    x, w = g.input("x", (16, 30)), g.param("w", (20, 30))
    y = g.emit("Gemm", x, w, transB=1)
    g.infer()
    uniform = Signal(np.sqrt(3) * (2 * cdf(NODES) - 1), 1.0, 1.0)
    label = Source(1 / 20, 2 / 20 / math.sqrt(1 / 20), one_hot=True)
    dx = propagate(g, {x: normal(0.0, 1.0), w: uniform}, {y: Gradient.of(label)}).gradient(x)
    assert dx is not None
    assert dx.shape == pytest.approx(math.sqrt(3) / 2, rel=0.01)  # E|w| / √E[w²] of a uniform w


def test_the_mean_size_of_a_sparse_and_a_dense_gradient_together() -> None:
    dense, sparse = Source(1.0), Source(0.1)
    rare = np.full_like(NODES, 0.05)  # one in twenty elements, each 20 times as large in square
    gradient = Gradient(
        {dense: factor(np.ones_like(NODES)), sparse: Term(0 * rare, 20 * 20 * rare, 20 * 0.05 + 0 * rare)}
    )
    random = np.random.default_rng(0)
    drawn = random.standard_normal(400_000) + np.where(random.random(400_000) < 0.05, 20.0, 0.0) * math.sqrt(
        0.1
    ) * random.standard_normal(400_000)
    assert gradient.second == pytest.approx((drawn**2).mean(), rel=0.02)
    assert gradient.mean_abs == pytest.approx(np.abs(drawn).mean(), rel=0.01)


@pytest.mark.parametrize("rho", [0.5, 0.95])
def test_kinds_of_channels_are_pooled_one_by_one(rho: float) -> None:
    """The maximum of correlated values is smaller: moments are the means of both kinds', not those at a mean rho."""
    g = Graph()
    a, b = g.input("a", (2, 3, 12, 10)), g.input("b", (2, 6, 12, 10))
    pools = [g.emit("MaxPool", v, kernel_shape=[3, 3]) for v in (a, b, g.emit("Concat", a, b, axis=1))]
    signals = {"a": normal(0.0, 1.0, rho), "b": normal(0.0, 4.0)}
    walk = propagate(g, signals, {})
    one, other, both = (walk.signal(v) for v in pools)
    assert one is not None and other is not None and both is not None
    assert both.second == pytest.approx((one.second + 2 * other.second) / 3, rel=1e-3)
    assert both.cross_spatial == pytest.approx((one.cross_spatial + 2 * other.cross_spatial) / 3, rel=1e-3)
    assert one.second < 0.8 * other.second / 4
