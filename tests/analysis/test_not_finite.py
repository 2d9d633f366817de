"""Where a pass makes infinities or NaN, it runs anew in a graph through which they go as through Caffe's loops."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from caffestat.analysis import Runner, draw_feeds
from caffestat.fillers import Stream
from caffestat.net import draw_params
from caffestat.program import from_net

from .test_runner import build, sessions

NAN, INF = np.nan, np.inf
LOWEST = float(np.finfo(np.float32).min)
SUM = 'layer { name: "l" type: "Reduction" bottom: "y" top: "l" loss_weight: 1 }\n'


def net_of(layer: str, *shapes: tuple[int, ...]) -> str:
    names = [f"x{index}" for index in range(len(shapes))]
    inputs = [
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
        + " ".join(f"dim: {size}" for size in shape)
        + " } } }\n"
        for name, shape in zip(names, shapes, strict=True)
    ]
    bottoms = " ".join(f'bottom: "{name}"' for name in names)
    return "force_backward: true\n" + "".join(inputs) + f'layer {{ name: "y" {bottoms} top: "y" {layer} }}\n' + SUM


def started(text: str, *bottoms: np.ndarray) -> tuple[Runner, dict[str, np.ndarray]]:
    built = build(text)
    runner = Runner(from_net(built), draw_params(built, Stream(1)), changing=True, fetch=True)
    given = {f"x{index}": array for index, array in enumerate(bottoms)}
    return runner, draw_feeds(runner, Stream(1), np.random.default_rng(1), given)


def run(layer: str, *bottoms: list) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the layer's top and its bottoms' gradients, where that of the top is 1 everywhere."""
    arrays = [np.array(bottom, np.float32) for bottom in bottoms]
    runner, feeds = started(net_of(layer, *(array.shape for array in arrays)), *arrays)
    runner.run(feeds)
    row = len(bottoms)
    return runner.tensors["top", row, 0], [runner.tensors["bottom_diff", row, i] for i in range(len(bottoms))]


RELU = 'type: "ReLU" relu_param { negative_slope: %g }'
CLIP = 'type: "Clip" clip_param { min: -1 max: 2 }'
BOTTOM = [NAN, -INF, INF, -0.5, 0.5]


@pytest.mark.parametrize(
    ("layer", "top", "slopes"),
    [
        (RELU % 0, [NAN, NAN, INF, 0, 0.5], [0, 0, 1, 0, 1]),
        (RELU % 0.5, [NAN, -INF, INF, -0.25, 0.5], [0, 0.5, 1, 0.5, 1]),
        (CLIP, [-1, -1, 2, -0.5, 0.5], [0, 0, 0, 1, 1]),
    ],
)
def test_neurons(layer, top, slopes):
    """max(x, 0) + slope · min(x, 0), and comparisons that no NaN meets. (relu_layer.cpp, clip_layer.cpp)"""
    found, diffs = run(layer, [BOTTOM])
    np.testing.assert_array_equal(found, [top])
    np.testing.assert_array_equal(diffs[0], [slopes])


def test_max_pooling():
    """Starts at -FLT_MAX, which NaN and -∞ do not exceed. (pooling_layer.cpp)"""
    image = [[1, NAN, 0, INF], [NAN, 2, 5, NAN], [NAN, NAN, -INF, -INF], [NAN, NAN, -INF, 3]]
    found, diffs = run('type: "Pooling" pooling_param { pool: MAX kernel_size: 2 stride: 2 }', [[image]])
    np.testing.assert_array_equal(found[0, 0], np.array([[2, INF], [LOWEST, 3]], np.float32))
    expected = np.zeros((4, 4))
    expected[1, 1] = expected[0, 3] = expected[3, 3] = 1
    np.testing.assert_array_equal(diffs[0][0, 0], expected)


def test_the_larger_of_two():
    """The second one unless the first is larger. (eltwise_layer.cpp)"""
    found, diffs = run('type: "Eltwise" eltwise_param { operation: MAX }', [[NAN, 1, 3]], [[1, NAN, 2]])
    np.testing.assert_array_equal(found, [[1, NAN, 3]])
    np.testing.assert_array_equal(diffs, [[[0, 0, 1]], [[1, 1, 0]]])


@pytest.mark.parametrize("bias", ["", "bias_term: true"])
def test_a_scale_of_zero_or_not_a_number_makes_zeros(bias):
    """The BLAS that Caffe scales by sets zeros then, of the top and of the bottom's gradient. (scale_layer.cpp)"""
    layer = f'type: "Scale" scale_param {{ axis: 0 {bias} }}'
    found, diffs = run(layer, [[INF, NAN, 2, NAN, INF]], [[0, NAN, NAN, 2, -3]])
    np.testing.assert_array_equal(found, [[0, 0, 0, NAN, -INF]])
    np.testing.assert_array_equal(diffs, [[[0, 0, 0, 2, -3]], [[INF, NAN, 2, NAN, INF]]])


def test_one_graph_more_is_compiled_when_the_first_infinity_comes(monkeypatch):
    opened = sessions(monkeypatch)
    runner, feeds = started(net_of(RELU % 0, (1, 2)), np.ones((1, 2), np.float32))
    runner.run(feeds)
    common = len(opened)
    runner.run({name: array * 0 - np.float32(INF) for name, array in feeds.items()})
    strict = len(opened)
    assert strict > common
    assert np.isnan(runner.tensors["top", 1, 0]).all()
    measured = runner.run(feeds)
    assert len(opened) == strict
    assert measured.loss == 2


def test_running_statistics_change_once():
    """A pass that is run anew has stored nothing before."""
    layer = 'type: "BatchNorm" batch_norm_param { moving_average_fraction: 0.5 }'
    array = np.array([[[3, 5]]], np.float32)
    text = net_of(layer, array.shape).replace('top: "l" loss_weight: 1', 'top: "l" loss_weight: 1e30')
    text = text.replace('type: "Reduction"', 'type: "Reduction" reduction_param { operation: SUMSQ coeff: 1e30 }')
    runner, feeds = started(text, array)
    runner.run(feeds)
    assert runner.forward.graph.is_strict
    assert [values.tolist() for values in runner.values] == [[4], [2], [1]]


def test_sums_of_squares_that_overflow_are_infinite_without_a_warning() -> None:
    text = net_of('type: "Bias" bias_param { filler { value: 1e20 } }', (2, 3))
    built = build(text)
    runner = Runner(from_net(built), draw_params(built, Stream(1)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        norms = runner.run(draw_feeds(runner, Stream(1), np.random.default_rng(1), {})).norms
    assert norms is not None and norms.data_l2 == INF
