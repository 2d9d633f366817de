"""InnerProduct and Embed against Caffe and numpy."""

import numpy as np
import pytest

from caffestat.errors import NetError

from .golden import check_golden, golden_layers
from .harness import make, run

SHAPE = (2, 3, 4, 5)


def layer(params, type_name="InnerProduct"):
    field = {"InnerProduct": "inner_product_param", "Embed": "embed_param"}[type_name]
    return make(f'name: "l" type: "{type_name}" bottom: "x" top: "y" {field} {{ {params} }}')


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("case", "name"), golden_layers("inner_product embed lenet_like v0net v1net shared_params", "InnerProduct", "Embed")
)
def test_golden(case, name):
    check_golden(case, name)


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("axis", [0, 1, 2, -1, -4])
def test_value_and_gradient(axis, transpose):
    it = layer(f"num_output: 7 axis: {axis} transpose: {str(transpose).lower()}")
    weight, bias = it.params([SHAPE])
    lead = SHAPE[: axis % 4]
    inputs = int(np.prod(SHAPE[axis % 4 :]))
    assert weight.shape == ((inputs, 7) if transpose else (7, inputs))
    assert (weight.fan_in, weight.fan_out, bias.shape) == (inputs, 7, (7,))
    assert it.macs([SHAPE]) == 120 * 7
    x, w, b = values(*SHAPE), values(*weight.shape, seed=1), values(7, seed=2)
    dy = values(*lead, 7, seed=3)
    result = run(it, [x], [w, b], [dy])
    rows, matrix, rows_dy = x.reshape(-1, inputs), (w if transpose else w.T), dy.reshape(-1, 7)
    np.testing.assert_allclose(result.tops[0], (rows @ matrix + b).reshape(*lead, 7), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], (rows_dy @ matrix.T).reshape(SHAPE), rtol=1e-4, atol=1e-5)
    dw = rows.T @ rows_dy
    np.testing.assert_allclose(result.params[0], dw if transpose else dw.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(result.params[1], rows_dy.sum(0), rtol=1e-4, atol=1e-5)


def test_without_bias():
    it = layer("num_output: 7 bias_term: false")
    (weight,) = it.params([SHAPE])
    x, w = values(*SHAPE), values(*weight.shape, seed=1)
    np.testing.assert_allclose(run(it, [x], [w]).tops[0], x.reshape(2, 60) @ w.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_embed(bias):
    it = layer(f"num_output: 3 input_dim: 6 bias_term: {str(bias).lower()}", "Embed")
    params = it.params([(2, 5)])
    assert (params[0].shape, params[0].fan_in, params[0].fan_out) == ((6, 3), 1, 3)
    weights = [values(*p.shape, seed=i) for i, p in enumerate(params)]
    x = np.array([[0, 5, 2, 2, 1], [5.9, 3, 0, 2, 1]])  # 5.9 is cut to 5, as by a cast in C
    dy = values(2, 5, 3, seed=4)
    result = run(it, [x], weights, [dy])
    rows = x.astype(int)
    np.testing.assert_allclose(result.tops[0], weights[0][rows] + (weights[1] if bias else 0), rtol=1e-6)
    expected = np.zeros((6, 3), np.float32)
    np.add.at(expected, rows, dy)
    np.testing.assert_allclose(result.params[0], expected, rtol=1e-5, atol=1e-6)
    assert it.macs([(2, 5)]) == 0


@pytest.mark.parametrize(
    ("type_name", "params", "found"),
    [
        ("InnerProduct", "", "num_output must be positive"),
        ("InnerProduct", "num_output: 3 axis: 4", "axis 4 is out of range for a bottom of 4 axes"),
        ("Embed", "num_output: 3", "must be positive; found 3 and 0"),
        ("Embed", "input_dim: 3", "must be positive; found 0 and 3"),
    ],
)
def test_refuses(type_name, params, found):
    with pytest.raises(NetError, match=rf"net.prototxt:7: layer 'l' \({type_name}\): .*{found}"):
        layer(params, type_name).tops([SHAPE])
