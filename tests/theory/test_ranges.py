"""Variances, probabilities and correlations stay in their range, whatever rounding or odd settings do."""

from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest

from caffestat import net as nets
from caffestat.analysis import Prediction, gains, predict
from caffestat.net.source import net_source
from caffestat.program import Program, from_net
from caffestat.prototext import parse
from caffestat.theory import Gradient, Signal, Source
from caffestat.theory.quadrature import NODES, clip_unit, variance
from caffestat.theory.rules.pooling import positive_or_normal
from caffestat.theory.signal import Term, factor
from caffestat.theory.sums import finite_width_of_sum

from ..net.random_nets import random_net


def predicted(text: str) -> tuple[Program, Prediction]:
    program = from_net(nets.build(net_source(parse(text.encode(), "net.prototxt"))))
    return program, predict(program)


def assert_in_range(prediction: Prediction) -> None:
    for found in (prediction.tops, prediction.params, prediction.bottom_diffs, prediction.param_diffs):
        for key, moments in found.items():
            size = math.sqrt(moments.second)
            assert moments.mean_abs >= 0, key
            assert max(abs(moments.mean), moments.mean_abs) <= size * (1 + 1e-6), key


def test_a_gate_that_is_all_but_constant_has_no_correlation() -> None:
    """Of a softmax's gradient behind a dropout and wide maps, rounding made a variance ratio of -2.85."""
    gate = Term(np.ones_like(NODES), 1 + 1e-8 * NODES, np.ones_like(NODES) * math.sqrt(0.5))
    dy = Gradient({Source(1.0, one_hot=True): gate})
    for rho in (0.1, 0.5, 0.9):
        width, spread = finite_width_of_sum(dy, Signal(NODES, rho), 128.0, False)
        assert 0 < width <= 1
        assert 0 <= spread <= 1 + 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_random_nets(seed: int) -> None:
    net, prediction = predicted(random_net(Random(seed), 6))
    assert_in_range(prediction)
    assert all(gain.forward >= 0 for gain in gains(net, prediction))


@pytest.mark.parametrize("eps", ["-1", "0"])
def test_batch_norm_of_a_constant_without_eps(eps: str) -> None:
    text = (
        'layer { name: "d" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } } }\n'
        f'layer {{ name: "b" type: "BatchNorm" bottom: "x" top: "y" batch_norm_param {{ eps: {eps} }} }}\n'
        f'layer {{ name: "m" type: "MVN" bottom: "x" top: "z" mvn_param {{ eps: {eps} }} }}\n'
    )
    _, prediction = predicted(text)
    assert (1, 0) in prediction.tops
    assert (2, 0) not in prediction.tops


def test_what_rounding_carries_out_of_range_is_brought_back() -> None:
    signal = Signal(NODES, 1 + 1e-12, -1e-12, rho_lag=np.array([1.1, math.nan, -0.1]), finite_width=1.2)
    assert (signal.rho_spatial, signal.rho_sample, signal.finite_width) == (1.0, 0.0, 1.0)
    assert signal.rho_lag is not None
    assert signal.rho_lag.tolist() == [1.0, 0.0, 0.0]
    source = Source(2.0, 1.5, 2.5, -3.0, spatial_variance=-2.85, cross_lag=np.array([2.0, 4.0, -4.0]))
    assert (source.shape, source.cross_spatial, source.cross_sample, source.spatial_variance) == (1.0, 2.0, -2.0, 0.0)
    assert source.cross_lag is not None
    assert source.cross_lag.tolist() == [2.0, 2.0, -2.0]
    assert Source(-1e-18).second == 0.0


def test_two_ways_that_cancel_leave_no_negative_second_moment() -> None:
    one = factor(NODES)
    rest = one.plus(factor(-NODES * (1 + 1e-9)))
    assert np.all(rest.second >= rest.mean**2)


def test_variance_of_a_large_constant_with_noise_is_not_negative() -> None:
    values = 1e8 + 1e-3 * NODES
    assert variance(values) == pytest.approx(1e-6, rel=1e-3)


def test_clip_unit_takes_no_number_for_zero() -> None:
    assert [clip_unit(v) for v in (-1e-9, 0.25, 1 + 1e-9, math.nan, math.inf)] == [0.0, 0.25, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(("mean", "second"), [(1.0, 0.5), (1e-200, 0.0), (1e38, 1.0), (2.0, 4.0)])
def test_moments_that_rounding_made_impossible(mean: float, second: float) -> None:
    assert np.isfinite(positive_or_normal(mean, second, True)).all()
