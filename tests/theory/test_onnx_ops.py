"""Ops that Caffe has no use for: prediction against Monte Carlo."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from caffestat.graph import Graph
from caffestat.theory import Gradient, Signal, Source, normal, propagate

from .graphs import Case, measure, predict

SHAPE = (5, 7, 11, 13)


def unary(op: str, mean: float = 0.2, std: float = 1.3, **attributes: object) -> Case:
    return Case(SHAPE, lambda g, x, p: g.emit(op, x, **attributes), mean=mean, std=std)


def bounded(g: Graph, x: str, low: float | None, high: float | None) -> str:
    return g.emit("Clip", x, *("" if bound is None else g.constant(bound) for bound in (low, high)))


def batch_norm(g: Graph, x: str, params: Sequence[str]) -> str:
    random = np.random.default_rng(0)
    scale, bias, mean, variance = (
        g.constant(random.uniform(*ends, 900)) for ends in ((0.5, 2), (-1, 1), (-1, 1), (1, 4))
    )
    return g.emit("BatchNormalization", x, scale, bias, mean, variance, epsilon=1e-3)


def group_norm(g: Graph, x: str, params: Sequence[str]) -> str:
    scale, bias = g.constant(np.linspace(0.5, 2, 6)), g.constant(np.linspace(-1, 1, 6))
    return g.declare(g.emit("GroupNormalization", x, scale, bias, num_groups=2), g.shape(x))


def instance_norm(g: Graph, x: str, params: Sequence[str]) -> str:
    return g.emit("InstanceNormalization", x, g.constant(np.linspace(0.5, 2, 7)), g.constant(np.linspace(-1, 1, 7)))


def dropout(g: Graph, x: str, params: Sequence[str]) -> str:
    y, _ = g.emit_many("Dropout", x, g.constant(0.3), g.constant(True, bool), count=2)
    return y


CASES = {
    "asinh": unary("Asinh"),
    "atan": unary("Atan"),
    "celu": unary("Celu", alpha=0.7),
    "cosh": unary("Cosh", std=0.6),
    "hard sigmoid": unary("HardSigmoid", alpha=0.25, beta=0.4, std=2.5),
    "hard swish": unary("HardSwish", std=2.5),
    "erf": unary("Erf"),
    "gelu": unary("Gelu"),
    "mish": unary("Mish"),
    "selu": unary("Selu"),
    "sinh": unary("Sinh", std=0.6),
    "softsign": unary("Softsign"),
    "tan": unary("Tan", mean=0, std=0.15),
    "thresholded relu": unary("ThresholdedRelu", alpha=0.8),
    "clip above only": Case(SHAPE, lambda g, x, p: bounded(g, x, None, 0.5)),
    "clip below only": Case(SHAPE, lambda g, x, p: bounded(g, x, 0.5, None)),
    "cast like": Case(SHAPE, lambda g, x, p: g.emit("CastLike", g.emit("Relu", x), x)),
    "mean of three": Case(SHAPE, lambda g, x, p: g.emit("Mean", x, *p), (SHAPE, SHAPE), w_std=0.8, mean=0.4),
    "sum of three": Case(SHAPE, lambda g, x, p: g.emit("Sum", g.emit("Relu", x), *p), (SHAPE, SHAPE), w_std=0.8),
    "layer norm": Case(
        (4, 9, 150), lambda g, x, p: g.emit("LayerNormalization", x, *p, axis=-1), ((150,), (150,)), mean=2, std=3
    ),
    "layer norm over two axes": Case(
        (4, 9, 15, 12), lambda g, x, p: g.emit("LayerNormalization", x, *p, axis=2), ((15, 12),), mean=2, std=3
    ),
    "instance norm": Case((4, 7, 15, 12), instance_norm, mean=2, std=3),
    "group norm": Case((4, 6, 11, 8), group_norm, mean=2, std=3),
    "batch norm on stored statistics": Case((4, 900, 3, 2), batch_norm, mean=0.3, std=1.5),
    "log softmax": Case((40, 12), lambda g, x, p: g.emit("LogSoftmax", x, axis=1), std=0.7),
    "dropout in inference": Case(SHAPE, lambda g, x, p: g.emit("Dropout", x)),
    "transpose": Case(SHAPE, lambda g, x, p: g.emit("Transpose", g.emit("Relu", x), perm=[0, 2, 3, 1])),
    "product of two values": Case(
        (3, 4, 30, 50), lambda g, x, p: g.emit("MatMul", x, *p), ((3, 4, 50, 20),), w_std=0.7, mean=0.5
    ),
}

SPREAD = {"mean of three": 0.05, "sum of three": 0.05}


@pytest.mark.parametrize("name", CASES)
def test_prediction_agrees_with_monte_carlo(name: str) -> None:
    case = CASES[name]
    (top, dx), (measured, gradient) = predict(case), measure(case, 20)
    assert top.mean == pytest.approx(measured.mean, abs=0.03 * math.sqrt(measured.second))
    assert top.second == pytest.approx(measured.second, rel=0.05)
    assert top.mean_abs == pytest.approx(measured.mean_abs, rel=0.04)
    assert dx is not None
    assert dx.second == pytest.approx(gradient.second, rel=0.08)
    assert dx.mean_abs == pytest.approx(gradient.mean_abs, rel=SPREAD.get(name, 0.04))


def test_a_dropout_in_training_keeps_the_mean_and_adds_to_the_second_moment() -> None:
    g = Graph()
    y = dropout(g, g.input("x", SHAPE), ())
    walk = propagate(g, {"x": normal(0.5, 1.0)}, {y: Gradient.of(Source(1.0))})
    signal, dx = walk.signal(y), walk.gradient("x")
    assert signal is not None
    assert dx is not None
    assert signal.mean == pytest.approx(0.5, rel=0.01)
    assert signal.second == pytest.approx(1.25 / 0.7, rel=0.01)
    assert dx.second == pytest.approx(1 / 0.7, rel=0.01)


def test_statistics_that_follow_the_channels_take_their_spread_out() -> None:
    """What all elements of a channel share is in the stored mean already."""

    def second(mean: Signal) -> float:
        g = Graph()
        names = [g.input("x", (8, 30, 5, 4)), *(g.param(name, (30,)) for name in ("scale", "bias", "mean", "variance"))]
        y = g.emit("BatchNormalization", *names, epsilon=0.0)
        ones, zeros = normal(1.0, 0.0), normal(0.0, 0.0)
        x = normal(0.0, 5.0, 4.0, 4.0)  # 4 of 5 are the channel's own mean
        walk = propagate(g, dict(zip(names, (x, ones, zeros, mean, ones), strict=True)), {})
        found = walk.signal(y)
        assert found is not None
        return found.second

    assert second(normal(0.0, 4.0)) == pytest.approx(1.0, rel=0.05)
    assert second(normal(0.0, 0.0)) == pytest.approx(5.0, rel=0.01)


@pytest.mark.parametrize("lowest", [-math.inf, float(np.finfo(np.float32).min)])
def test_a_causal_mask_leaves_ever_more_places_to_a_softmax(lowest: float) -> None:
    """Row k has k places of 1/k: E[p] = 1/C, E[p²] = (Σ 1/k) / C²."""
    classes = 24
    g = Graph()
    mask = g.constant(np.triu(np.full((classes, classes), lowest), 1))
    y = g.emit("Softmax", g.emit("Add", g.input("x", (3, 4, classes, classes)), mask))
    signal = propagate(g, {"x": normal(0.0, 1e-6)}, {}).signal(y)
    assert signal is not None
    assert signal.mean_abs == pytest.approx(1 / classes, rel=0.02)
    assert signal.second == pytest.approx(sum(1 / k for k in range(1, classes + 1)) / classes**2, rel=0.1)


def test_a_stored_mean_gets_the_gradient_of_all_elements_of_its_channel() -> None:
    g = Graph()
    names = [g.input("x", (8, 30, 5, 4)), *(g.param(name, (30,)) for name in ("scale", "bias", "mean", "variance"))]
    y = g.emit("BatchNormalization", *names, epsilon=0.0)
    ones, zeros = normal(1.0, 0.0), normal(0.0, 0.0)
    signals = dict(zip(names, (normal(0.0, 1.0), ones, zeros, zeros, ones), strict=True))
    walk = propagate(g, signals, {y: Gradient.of(Source(1.0))})
    for name in ("bias", "mean"):
        found = walk.gradient(name)
        assert found is not None
        assert found.second == pytest.approx(8 * 5 * 4, rel=0.01)
