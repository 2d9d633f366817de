"""The curves of activations, found without knowing their types."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat import net as nets
from caffestat.analysis import measure
from caffestat.analysis.curves import Curve, axis_of
from caffestat.engine.histogram import Histogram
from caffestat.net.source import net_source
from caffestat.options import RunOptions
from caffestat.program import from_net
from caffestat.prototext import parse

DATA = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 5 dim: 3 dim: 6 dim: 2 } } }\n'


def curve_of(layer: str) -> Curve | None:
    text = DATA + f'layer {{ name: "f" bottom: "d" top: "f" {layer} }}\n'
    net = nets.build(net_source(parse(text.encode(), "n.prototxt")))
    return measure(from_net(net), 1, RunOptions("cpu"), samples=100)[1].curves.get(1)


@pytest.mark.parametrize(
    ("layer", "f", "slope"),
    [
        ('type: "ReLU"', lambda x: max(x, 0.0), lambda x: float(x > 0)),
        (
            'type: "ReLU" relu_param { negative_slope: 0.25 }',
            lambda x: x if x > 0 else x / 4,
            lambda x: 1 if x > 0 else 0.25,
        ),
        ('type: "PReLU"', lambda x: x if x > 0 else x / 4, lambda x: 1 if x > 0 else 0.25),
        ('type: "TanH"', math.tanh, lambda x: 1 - math.tanh(x) ** 2),
        ('type: "ELU" elu_param { alpha: 2 }', lambda x: x if x > 0 else 2 * math.expm1(x), None),
        ('type: "BNLL"', lambda x: math.log1p(math.exp(x)), lambda x: 1 / (1 + math.exp(-x))),
        ('type: "AbsVal"', abs, None),
        ('type: "Power" power_param { power: 2 scale: 3 }', lambda x: 9 * x * x, lambda x: 18 * x),
    ],
)
def test_activations_are_computed_by_their_layers(layer: str, f: object, slope: object) -> None:
    found = curve_of(layer)
    assert found is not None
    points = [(x, y, s) for x, y, s in zip(found.x, found.f, found.slope, strict=True) if x != 0]
    assert [y for _, y, _ in points] == pytest.approx([f(x) for x, _, _ in points], rel=1e-5, abs=1e-6)  # type: ignore[operator]
    if slope:
        expected = [slope(x) for x, _, _ in points]  # type: ignore[operator]
        assert [s for _, _, s in points] == pytest.approx(expected, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "layer",
    [
        'type: "Power" power_param { scale: 3 shift: 1 }',
        'type: "Dropout"',
        'type: "LRN"',
        'type: "Softmax"',
        'type: "BatchNorm"',
        'type: "Pooling" pooling_param { kernel_size: 1 }',
        'type: "Scale"',
    ],
)
def test_what_is_linear_or_mixes_elements_has_no_curve(layer: str) -> None:
    assert curve_of(layer) is None


def test_slopes_are_weighted_by_the_inputs() -> None:
    half = curve_of('type: "ReLU"')
    assert half is not None
    assert half.mean_slope == pytest.approx(0.5, abs=0.1)
    assert half.flat == pytest.approx(0.5, abs=0.1)
    assert max(half.x) == 4.0
    assert np.allclose(np.diff(half.x), 0.05)


def test_axes_end_at_the_largest_float32() -> None:
    assert axis_of(Histogram(-3e38, 1, (1, 1), 0, 0, 2, 2)) == np.finfo(np.float32).max
    assert axis_of(Histogram(-5, 1, (1, 1), 0, 0, 2, 2)) == 8


def test_activations_of_models_have_curves() -> None:
    from onnx import helper

    from caffestat.graph.load import load
    from caffestat.program.from_onnx import from_onnx

    from ..graph.models import model

    nodes = [
        helper.make_node("LeakyRelu", ["x"], ["l"], alpha=0.25),
        helper.make_node("PRelu", ["l", "slope"], ["p"]),
        helper.make_node("Mul", ["p", "p"], ["m"]),
        helper.make_node("Clip", ["m", "low", "high"], ["c"]),
        helper.make_node("Reshape", ["c", "whole"], ["r"]),
        helper.make_node("Reshape", ["r", "part"], ["s"]),
        helper.make_node("Softmax", ["s"], ["y"]),
    ]
    slope = np.array([0.5, 0.1, 0.2], np.float32).reshape(3, 1, 1)
    arrays = {"slope": slope, "low": np.array(0, np.float32), "high": np.array(1, np.float32)}
    arrays |= {"whole": np.array([5, 3, 8]), "part": np.array([3, -1])}
    program = from_onnx(load(model(nodes, {"x": [5, 3, 4, 2]}, ["y"], arrays), as_float32=True), "m.onnx")
    found = measure(program, 1, RunOptions("cpu"), samples=100)[1].curves
    by_name = {program.rows[index].type: one for index, one in found.items()}
    assert set(by_name) == {"LeakyRelu", "PRelu", "Clip"}
    for name, low in (("LeakyRelu", 0.25), ("PRelu", 0.5)):
        one = by_name[name]
        assert one.f == pytest.approx([x if x > 0 else low * x for x in one.x], abs=1e-6)
    assert by_name["Clip"].f == pytest.approx([min(max(x, 0), 1) for x in by_name["Clip"].x])
