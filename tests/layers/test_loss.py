"""Loss layers against transcriptions of Caffe's loops in float64."""

import itertools

import numpy as np
import pytest

from caffestat.errors import NetError

from .harness import make, run

FLT_MIN = float(np.finfo(np.float32).tiny)


def layer(type_name, params="", bottoms=2, tops=1):
    names = " ".join([f'bottom: "b{i}"' for i in range(bottoms)] + [f'top: "t{i}"' for i in range(tops)])
    return make(f'name: "l" type: "{type_name}" {names} {params}')


def values(*shape, seed=0, scale=1.0):
    return (scale * np.random.default_rng(seed).standard_normal(shape)).astype(np.float32)


def labels(*shape, classes, seed=0):
    """Fractional labels, which Caffe cuts to integers."""
    return np.random.default_rng(seed).uniform(0, classes - 0.01, shape).astype(np.float32)


def divisor(mode, outer, inner, valid):
    return max(1, {"FULL": outer * inner, "VALID": valid, "BATCH_SIZE": outer, "NONE": 1}[mode])


def softmax_loss(x, label, axis, ignore, mode, dy):
    """Return loss, dx and p as Caffe's loops compute them."""
    p = np.exp(x.astype(np.float64) - x.max(axis, keepdims=True))
    p /= p.sum(axis, keepdims=True)
    inner_shape = x.shape[:axis] + x.shape[axis + 1 :]
    label = label.reshape(inner_shape).astype(int)
    dx, loss, valid = np.moveaxis(p.copy(), axis, -1), 0.0, 0
    for position in itertools.product(*map(range, inner_shape)):
        if label[position] == ignore:
            dx[position] = 0
            continue
        loss -= np.log(max(dx[position][label[position]], FLT_MIN))
        dx[position][label[position]] -= 1
        valid += 1
    n = divisor(mode, int(np.prod(x.shape[:axis])), int(np.prod(x.shape[axis + 1 :])), valid)
    return loss / n, np.moveaxis(dx, -1, axis) * dy / n, p


@pytest.mark.parametrize("ignore", [None, 2])
@pytest.mark.parametrize("mode", ["FULL", "VALID", "BATCH_SIZE", "NONE"])
@pytest.mark.parametrize(("shape", "axis", "label_shape"), [((4, 5), 1, (4,)), ((2, 5, 3, 4), 1, (2, 1, 3, 4)), ((2, 3, 5), -1, (2, 3))])
def test_softmax_with_loss(shape, axis, label_shape, mode, ignore):
    x, label, dy = values(*shape, scale=3), labels(*label_shape, classes=5), np.float32(0.7)
    ignored = f"ignore_label: {ignore}" if ignore is not None else ""
    params = f"softmax_param {{ axis: {axis} }} loss_param {{ normalization: {mode} {ignored} }}"
    result = run(layer("SoftmaxWithLoss", params, tops=2), [x, label], dys=[dy, values(*shape, seed=3)])
    loss, dx, p = softmax_loss(x, label, axis % len(shape), ignore, mode, dy)
    np.testing.assert_allclose(result.tops[0], loss, rtol=1e-5)
    np.testing.assert_allclose(result.tops[1], p, rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], dx, rtol=1e-4, atol=1e-7)
    assert not np.any(result.bottoms[1])


@pytest.mark.parametrize(
    ("params", "mode"),
    [
        ("", "VALID"),
        ("loss_param { normalize: false }", "BATCH_SIZE"),
        ("loss_param { normalize: true }", "VALID"),
        ("loss_param { normalize: true normalization: NONE }", "NONE"),
    ],
)
def test_softmax_normalization_by_the_older_field(params, mode):
    x, label = values(2, 5, 3), labels(2, 3, classes=5)
    result = run(layer("SoftmaxWithLoss", params), [x, label])
    np.testing.assert_allclose(result.tops[0], softmax_loss(x, label, 1, None, mode, 1)[0], rtol=1e-5)


def test_softmax_of_hopeless_scores_is_clamped():
    x = np.array([[200, 0, -200]], np.float32)
    result = run(layer("SoftmaxWithLoss"), [x, np.array([2])])
    np.testing.assert_allclose(result.tops[0], -np.log(FLT_MIN), rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], [[1, 0, -1]], atol=1e-6)


def test_softmax_without_a_valid_label_is_zero():
    result = run(layer("SoftmaxWithLoss", "loss_param { ignore_label: 255 }"), [values(3, 4), np.full(3, 255)])
    assert result.tops[0] == 0
    assert not np.any(result.bottoms[0])


def test_softmax_refuses():
    with pytest.raises(NetError, match=r"expected 24 labels, .* outside axis 1, found 2 \(shape \(2,\)\)"):
        layer("SoftmaxWithLoss").tops([(2, 5, 3, 4), (2,)])
    with pytest.raises(NetError, match=r"same first axis, found shapes \(2, 5\) and \(3,\)"):
        layer("SoftmaxWithLoss").tops([(2, 5), (3,)])


def test_weights_and_tops():
    loss = make('name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "t"')
    assert loss.top_count == 1
    assert loss.loss_weight(0) == 1
    assert [loss.allow_force_backward(i) for i in (0, 1)] == [True, False]
    weighted = layer("SoftmaxWithLoss", "loss_weight: 0.25", tops=2)
    assert [weighted.loss_weight(i) for i in (0, 1)] == [0.25, 0]
    assert [layer("SoftmaxWithLoss", tops=2).loss_weight(i) for i in (0, 1)] == [1, 0]


def test_euclidean_loss():
    a, b, dy = values(3, 2, 4), values(3, 8, seed=1), np.float32(0.5)
    result = run(layer("EuclideanLoss"), [a, b], dys=[dy])
    difference = a.astype(np.float64) - b.reshape(a.shape)
    np.testing.assert_allclose(result.tops[0], (difference**2).sum() / 6, rtol=1e-6)
    np.testing.assert_allclose(result.bottoms[0], difference * dy / 3, rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[1], (-difference * dy / 3).reshape(b.shape), rtol=1e-5)
    assert layer("EuclideanLoss").allow_force_backward(1)
    with pytest.raises(NetError, match=r"same count, found shapes \(3, 2\) and \(3, 3\)"):
        layer("EuclideanLoss").tops([(3, 2), (3, 3)])


@pytest.mark.parametrize(
    ("params", "mode", "ignore"),
    [
        ("", "BATCH_SIZE", None),
        ("loss_param { normalize: true ignore_label: 1 }", "VALID", 1),
        ("loss_param { normalization: FULL ignore_label: -1 }", "FULL", -1),
        ("loss_param { normalization: NONE }", "NONE", None),
        ("loss_param { normalization: VALID }", "VALID", None),
    ],
)
def test_sigmoid_cross_entropy(params, mode, ignore):
    x, dy = values(3, 2, 4, scale=4), np.float32(0.5)
    t = np.random.default_rng(1).choice([-1.5, 0, 0.3, 1, 1.7], (3, 8)).astype(np.float32)
    result = run(layer("SigmoidCrossEntropyLoss", params), [x, t], dys=[dy])
    x64, t = x.astype(np.float64), t.reshape(x.shape)
    counts = np.trunc(t) != ignore if ignore is not None else np.ones(x.shape, bool)
    terms = np.log1p(np.exp(-np.abs(x64))) + np.maximum(x64, 0) - x64 * t
    n = divisor(mode, 3, 8, counts.sum())
    np.testing.assert_allclose(result.tops[0], terms[counts].sum() / n, rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], np.where(counts, 1 / (1 + np.exp(-x64)) - t, 0) * dy / n, rtol=1e-4, atol=1e-6)


def test_sigmoid_cross_entropy_refuses():
    with pytest.raises(NetError, match="one target per value"):
        layer("SigmoidCrossEntropyLoss").tops([(3, 2), (3, 1)])
