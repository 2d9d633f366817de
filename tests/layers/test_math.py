"""Layers that combine values, against numpy transcriptions of Caffe's loops."""

import numpy as np
import pytest

from caffestat.errors import NetError

from .harness import make, run

SHAPE = (2, 3, 4, 5)


def layer(type_name, params="", bottoms=1, top="y"):
    names = " ".join(f'bottom: "b{i}"' for i in range(bottoms))
    return make(f'name: "l" type: "{type_name}" {names} top: "{top}" {params}')


def values(seed=0, shape=SHAPE):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("coeffs", [[], [1, -0.5, 2]])
def test_eltwise_sum(coeffs):
    bottoms, dy = [values(i) for i in range(3)], values(9)
    params = f"eltwise_param {{ {' '.join(f'coeff: {c}' for c in coeffs)} }}"
    result = run(layer("Eltwise", params, 3), bottoms, dys=[dy])
    weights = coeffs or [1, 1, 1]
    np.testing.assert_allclose(
        result.tops[0], sum(c * b for c, b in zip(weights, bottoms, strict=True)), rtol=1e-5, atol=1e-6
    )
    for c, got in zip(weights, result.bottoms, strict=True):
        np.testing.assert_allclose(got, c * dy)


@pytest.mark.parametrize("stable", [True, False])
@pytest.mark.parametrize("count", [2, 3])
def test_eltwise_product(stable, count):
    bottoms, dy = [values(i) for i in range(count)], values(9)
    bottoms[1][0, 0, 0, 0] = 0
    params = f"eltwise_param {{ operation: PROD stable_prod_grad: {str(stable).lower()} }}"
    result = run(layer("Eltwise", params, count), bottoms, dys=[dy])
    product = np.prod(bottoms, axis=0)
    np.testing.assert_allclose(result.tops[0], product, rtol=1e-5)
    for i, got in enumerate(result.bottoms):
        with np.errstate(invalid="ignore"):
            others = np.prod([b for j, b in enumerate(bottoms) if j != i], axis=0) if stable else product / bottoms[i]
        np.testing.assert_allclose(got, dy * others, rtol=1e-5)
    assert np.isnan(result.bottoms[1][0, 0, 0, 0]) != stable


@pytest.mark.parametrize("stable", [True, False])
def test_eltwise_product_in_place_reads_the_product_and_writes_over_dy(stable):
    a, b, dy = values(0), values(1), values(9)
    params = f"eltwise_param {{ operation: PROD stable_prod_grad: {str(stable).lower()} }}"
    result = run(layer("Eltwise", params, 2, top="b0"), [a, b], dys=[dy])
    da = b * b if stable else np.ones(SHAPE)
    np.testing.assert_allclose(result.bottoms[0], da, rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[1], da * (a * b if stable else a), rtol=1e-5)


def test_eltwise_maximum_with_ties():
    rng = np.random.default_rng(0)
    bottoms = [rng.integers(0, 3, SHAPE).astype(np.float32) for _ in range(4)]
    dy = values(9)
    result = run(layer("Eltwise", "eltwise_param { operation: MAX }", 4), bottoms, dys=[dy])
    best, winner = np.where(bottoms[0] > bottoms[1], bottoms[0], bottoms[1]), np.where(bottoms[0] > bottoms[1], 0, 1)
    for i in (2, 3):
        best, winner = np.where(bottoms[i] > best, bottoms[i], best), np.where(bottoms[i] > best, i, winner)
    np.testing.assert_array_equal(result.tops[0], best)
    for i, got in enumerate(result.bottoms):
        np.testing.assert_array_equal(got, np.where(winner == i, dy, 0))


@pytest.mark.parametrize(
    ("params", "bottoms", "message"),
    [
        ("", [(2, 3), (2, 4)], r"bottom 1 \('b1'\) has shape \(2, 4\)"),
        ("eltwise_param { coeff: 1 }", [(2, 3), (2, 3)], "one coeff per bottom .2., found 1"),
        ("eltwise_param { operation: PROD coeff: 1 coeff: 2 }", [(2, 3), (2, 3)], "for SUM only"),
    ],
)
def test_eltwise_refuses(params, bottoms, message):
    with pytest.raises(NetError, match=message):
        layer("Eltwise", params, 2).tops(bottoms)


def test_eltwise_sum_in_place_leaves_its_first_bottom_out():
    a, b, c, dy = values(0), values(1), values(2), values(9)
    params = "eltwise_param { coeff: 3 coeff: 0.5 coeff: -1 }"
    result = run(layer("Eltwise", params, 3, top="b0"), [a, b, c], dys=[dy])
    np.testing.assert_allclose(result.tops[0], 0.5 * b - c, rtol=1e-5, atol=1e-6)
    for got, factor in zip(result.bottoms, (3, 0.5 * 3, -3), strict=True):
        np.testing.assert_allclose(got, factor * dy, rtol=1e-6)


def test_eltwise_maximum_in_place_leaves_its_first_bottom_out():
    bottoms, dy = [values(i) for i in range(3)], values(9)
    result = run(layer("Eltwise", "eltwise_param { operation: MAX }", 3, top="b0"), bottoms, dys=[dy])
    np.testing.assert_array_equal(result.tops[0], np.maximum(bottoms[1], bottoms[2]))
    for got in result.bottoms:
        np.testing.assert_array_equal(got, np.zeros(SHAPE))


def test_eltwise_in_place_tells_what_does_not_count():
    assert "does not count" in layer("Eltwise", "", 2, top="b0").oddity([SHAPE] * 2)
    assert not layer("Eltwise", "eltwise_param { operation: PROD }", 2, top="b0").oddity([SHAPE] * 2)
    assert not layer("Eltwise", "", 2).oddity([SHAPE] * 2)
    with pytest.raises(NetError, match="clears the top before"):
        layer("Eltwise", "", 1, top="b0").tops([(2, 3)])


@pytest.mark.parametrize(("axis", "in_place"), [(1, False), (2, False), (-1, False), (1, True)])
def test_softmax(axis, in_place):
    x, dy = values(), values(1)
    result = run(layer("Softmax", f"softmax_param {{ axis: {axis} }}", top="b0" if in_place else "y"), [x], dys=[dy])
    e = np.exp(x - x.max(axis, keepdims=True))
    y = e / e.sum(axis, keepdims=True)
    np.testing.assert_allclose(result.tops[0], y, rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], y * (dy - (dy * y).sum(axis, keepdims=True)), rtol=1e-4, atol=1e-6)


def test_softmax_refuses():
    with pytest.raises(NetError, match="axis 1 is out of range for a bottom of 1 axes"):
        layer("Softmax").tops([(3,)])


@pytest.mark.parametrize("axis", [0, 2, -1])
@pytest.mark.parametrize(("operation", "coeff"), [("SUM", 1), ("ASUM", 0.5), ("SUMSQ", -2), ("MEAN", 3)])
def test_reduction(operation, coeff, axis):
    x = values()
    x[0, 0, 0, 0] = 0
    rows = x.reshape(*SHAPE[: axis % 4], -1).astype(np.float64)
    dy = values(1, rows.shape[:-1])
    result = run(
        layer("Reduction", f"reduction_param {{ operation: {operation} coeff: {coeff} axis: {axis} }}"), [x], dys=[dy]
    )
    function = {
        "SUM": np.sum,
        "MEAN": np.mean,
        "ASUM": lambda r, a: np.abs(r).sum(a),
        "SUMSQ": lambda r, a: (r * r).sum(a),
    }[operation]
    np.testing.assert_allclose(result.tops[0], coeff * function(rows, -1), rtol=1e-5, atol=1e-6)
    slope = {"SUM": np.ones(rows.shape), "MEAN": 1 / rows.shape[-1], "ASUM": np.sign(rows), "SUMSQ": 2 * rows}[
        operation
    ]
    wanted = np.broadcast_to(coeff * dy[..., None] * slope, rows.shape).reshape(SHAPE)
    np.testing.assert_allclose(result.bottoms[0], wanted, rtol=1e-5)
