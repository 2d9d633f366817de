"""Scale and Bias against Caffe and numpy's broadcasting."""

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.fillers import Filler

from .golden import check_golden, golden_layers
from .harness import make, run

SHAPE = (2, 3, 4, 5)


def layer(type_name, params="", bottoms=1):
    names = " ".join(f'bottom: "x{i}"' for i in range(bottoms))
    field = {"Scale": "scale_param", "Bias": "bias_param"}[type_name]
    return make(f'name: "l" type: "{type_name}" {names} top: "y" {field} {{ {params} }}')


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("case", "name"), golden_layers("scale_bias batchnorm inplace shared_params", "Scale", "Bias"))
def test_golden(case, name):
    check_golden(case, name)


FORMS = [
    ("", SHAPE, (3,), (3, 1, 1)),
    ("axis: 1 num_axes: 2", SHAPE, (3, 4), (3, 4, 1)),
    ("axis: 0 num_axes: -1", SHAPE, SHAPE, SHAPE),
    ("axis: -2 num_axes: -1", SHAPE, (4, 5), (4, 5)),
    ("num_axes: 0", SHAPE, (), ()),
    ("axis: 0", SHAPE, (2,), (2, 1, 1, 1)),
    ("", (4, 3), (3,), (3,)),
    ("", (2, 3, 40, 17), (3,), (3, 1, 1)),
]


def reduced(gradient, shape):
    """Sum over the axes along which an operand of `shape` was broadcast."""
    full = (1,) * (gradient.ndim - len(shape)) + tuple(shape)
    axes = tuple(i for i, size in enumerate(full) if size == 1)
    return gradient.sum(axes, keepdims=True).reshape(shape)


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
@pytest.mark.parametrize("two_bottoms", [False, True])
@pytest.mark.parametrize("form", ["scale", "affine", "bias"])
@pytest.mark.parametrize(("params", "shape", "small", "broad"), FORMS)
def test_forms(params, shape, small, broad, form, two_bottoms, provider):
    type_name = "Bias" if form == "bias" else "Scale"
    text = params + (" bias_term: true" if form == "affine" else "")
    it = layer(type_name, text, 1 + two_bottoms)
    operands = [values(*small, seed=i) for i in range(1 + (form == "affine"))]
    x, dy = values(*shape, seed=5), values(*shape, seed=6)
    bottoms, weights = ([x, operands[0]], operands[1:]) if two_bottoms else ([x], operands)
    assert [p.shape for p in it.params([b.shape for b in bottoms])] == [w.shape for w in weights]
    result = run(it, bottoms, weights, [dy], provider=provider)
    a = operands[0].reshape(broad)
    expected = x + a if form == "bias" else x * a
    if form == "affine":
        expected = expected + operands[1].reshape(broad)
    np.testing.assert_allclose(result.tops[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(result.bottoms[0], dy if form == "bias" else dy * a, rtol=1e-5, atol=1e-6)
    gradients = [reduced(dy if form == "bias" else dy * x, broad), reduced(dy, broad)]
    for found, gradient in zip([*result.bottoms[1:], *result.params], gradients, strict=False):
        np.testing.assert_allclose(found, gradient.reshape(small), rtol=1e-4, atol=1e-4)


def test_first_values():
    """A scale starts at 1 where no filler is written; written without a type it is constant 0, as a bias is."""
    scale, bias = layer("Scale", "bias_term: true").params([SHAPE])
    assert (scale.role, scale.filler, scale.written, scale.fan_in) == ("scale", Filler(value=1), False, 1)
    assert (bias.role, bias.filler, bias.written) == ("bias", Filler(), False)
    (scale,) = layer("Scale", "filler { }").params([SHAPE])
    assert (scale.filler, scale.written) == (Filler(), True)
    (bias,) = layer("Bias", 'filler { type: "gaussian" std: 2 }').params([SHAPE])
    assert (bias.filler.type, bias.filler.std, bias.written) == ("gaussian", 2, True)


def test_scalar_second_bottom_ignores_the_axis():
    assert layer("Scale", "axis: 7", 2).tops([SHAPE, ()]) == (SHAPE,)


@pytest.mark.parametrize(
    ("params", "bottoms", "found"),
    [
        ("num_axes: -2", [SHAPE], "-2 axes from axis 1 on do not fit"),
        ("axis: 2 num_axes: 3", [SHAPE], "3 axes from axis 2 on do not fit"),
        ("axis: 4", [SHAPE], "axis 4 is out of range"),
        ("axis: 1", [SHAPE, (4, 5)], r"must have shape \(3, 4\), .* from axis 1 on; found \(4, 5\)"),
        ("axis: 3", [SHAPE, (5, 2)], "2 axes from axis 3 on do not fit"),
    ],
)
@pytest.mark.parametrize("type_name", ["Scale", "Bias"])
def test_refuses(type_name, params, bottoms, found):
    with pytest.raises(NetError, match=rf"net.prototxt:7: layer 'l' \({type_name}\): .*{found}"):
        layer(type_name, params, len(bottoms)).tops(bottoms)
