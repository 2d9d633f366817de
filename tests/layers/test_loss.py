"""Loss layers against transcriptions of Caffe's loops in float64."""

import itertools

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.schema import caffe_pb2

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
@pytest.mark.parametrize(
    ("shape", "axis", "label_shape"), [((4, 5), 1, (4,)), ((2, 5, 3, 4), 1, (2, 1, 3, 4)), ((2, 3, 5), -1, (2, 3))]
)
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
    np.testing.assert_allclose(
        result.bottoms[0], np.where(counts, 1 / (1 + np.exp(-x64)) - t, 0) * dy / n, rtol=1e-4, atol=1e-6
    )


def test_sigmoid_cross_entropy_refuses():
    with pytest.raises(NetError, match="one target per value"):
        layer("SigmoidCrossEntropyLoss").tops([(3, 2), (3, 1)])


@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_hinge_loss(norm):
    x, label, dy = values(4, 3, 2), labels(4, 1, classes=6), np.float32(0.5)
    x[0, 0, 0] = 1  # a margin of exactly 0 when the label is another class
    x[0, 0, 1] = -1
    result = run(layer("HingeLoss", f"hinge_loss_param {{ norm: {norm} }}"), [x, label], dys=[dy])
    signs = np.ones((4, 6))
    signs[np.arange(4), label.astype(int).ravel()] = -1
    margin = np.maximum(0, 1 + signs * x.reshape(4, 6))
    np.testing.assert_allclose(result.tops[0], (margin.sum() if norm == "L1" else (margin**2).sum()) / 4, rtol=1e-5)
    wanted = signs * dy / 4 * (np.sign(margin) if norm == "L1" else 2 * margin)
    np.testing.assert_allclose(result.bottoms[0], wanted.reshape(x.shape), rtol=1e-5)


@pytest.mark.parametrize("type_name", ["SoftmaxWithLoss", "SigmoidCrossEntropyLoss"])
def test_the_loss_leaves_out_nan_where_the_label_is_ignored(type_name):
    x, label = values(3, 4), np.array([2, 1, 0], np.float32)
    if type_name == "SigmoidCrossEntropyLoss":
        label = np.repeat(label[:, None], 4, 1)
    params = "loss_param { ignore_label: 1 normalization: VALID }"
    expected = run(layer(type_name, params), [x, label]).tops[0]
    x[1, 3] = np.nan
    assert run(layer(type_name, params), [x, label]).tops[0] == expected


def test_hinge_loss_counts_nan_as_0():
    x = np.array([[np.nan, 0.25, -3], [np.nan] * 3], np.float32)
    result = run(layer("HingeLoss"), [x, np.array([1, 2], np.float32)], dys=[np.float32(1)])
    assert result.tops[0] == 0.75 / 2
    np.testing.assert_array_equal(result.bottoms[0], [[0, -0.5, 0], [0, 0, 0]])


def test_multinomial_logistic_loss():
    p = np.abs(values(4, 3, 2))
    p[1] = 0
    label, dy = labels(4, classes=6), np.float32(0.5)
    result = run(layer("MultinomialLogisticLoss"), [p, label], dys=[dy])
    chosen = np.maximum(p.reshape(4, 6)[np.arange(4), label.astype(int)], 1e-20)
    np.testing.assert_allclose(result.tops[0], -np.log(chosen).sum() / 4, rtol=1e-5)
    wanted = np.zeros((4, 6))
    wanted[np.arange(4), label.astype(int)] = -dy / 4 / chosen
    np.testing.assert_allclose(result.bottoms[0], wanted.reshape(p.shape), rtol=1e-5)


@pytest.mark.parametrize("legacy", [False, True])
def test_contrastive_loss(legacy):
    a, b, dy = values(7, 3), values(7, 3, 1, 1, seed=1), np.float32(0.5)
    a[5] = b[5, :, 0, 0]
    similar = np.array([0, 1, 0.9, 1.5, -1, 0, 0], np.float32)
    params = f"contrastive_loss_param {{ margin: 2.5 legacy_version: {str(legacy).lower()} }}"
    result = run(layer("ContrastiveLoss", params, bottoms=3), [a, b, similar], dys=[dy])
    loss, da = 0.0, np.zeros(a.shape)
    for i in range(7):
        d = a[i].astype(np.float64) - b[i, :, 0, 0]
        distance = np.sqrt(d @ d)
        gap = 2.5 - (distance**2 if legacy else distance)
        if int(similar[i]):
            loss, da[i] = loss + d @ d, d
        elif gap > 0:
            loss += gap if legacy else gap**2
            da[i] = -d * (1 if legacy else gap / (distance + 1e-4))
    np.testing.assert_allclose(result.tops[0], loss / 14, rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], da * dy / 7, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(result.bottoms[1], -(da * dy / 7).reshape(b.shape), rtol=1e-4, atol=1e-7)
    assert not np.any(result.bottoms[2])
    assert [layer("ContrastiveLoss", bottoms=3).allow_force_backward(i) for i in range(3)] == [True, True, False]


@pytest.mark.parametrize("legacy", ["false", "true"])
def test_no_gradient_pulls_at_dissimilar_pairs_that_are_infinitely_far_apart(legacy):
    a, b = np.array([[np.inf, 1], [3, 0.5]], np.float32), np.array([[1, -np.inf], [3, 0]], np.float32)
    params = f"contrastive_loss_param {{ legacy_version: {legacy} }}"
    similar = np.array([0, 1], np.float32)
    result = run(layer("ContrastiveLoss", params, bottoms=3), [a, b, similar], dys=[np.float32(1)])
    assert result.tops[0] == 0.25 / 4
    np.testing.assert_array_equal(result.bottoms[0], [[0, 0], [0, 0.25]])


def test_contrastive_loss_of_two_labels_each():
    a, b, dy = values(5, 3), values(5, 3, seed=1), np.float32(0.5)
    one, other = np.array([0, 7, 2, 3.9, -0.5]), np.array([0, 6, 2.5, 3, 0.5])  # cut to integers as in Caffe
    four, three = layer("ContrastiveLoss", bottoms=4), layer("ContrastiveLoss", bottoms=3)
    assert four.departs([a.shape] * 2 + [(5,)] * 2) == "has 4 bottoms, two of labels, and Caffe takes 3"
    result = run(four, [a, b, one, other], dys=[dy])
    expected = run(three, [a, b, np.array([1, 0, 1, 1, 1])], dys=[dy])
    np.testing.assert_allclose(result.tops[0], expected.tops[0], rtol=1e-6)
    for found, wanted in zip(result.bottoms[:2], expected.bottoms[:2], strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert not np.any(result.bottoms[2]) and not np.any(result.bottoms[3])
    assert [four.allow_force_backward(i) for i in range(4)] == [True, True, False, False]
    with pytest.raises(NetError, match="expected one label for each of 5 pairs, found shape \\(4,\\)"):
        four.tops([(5, 3), (5, 3), (5,), (4,)])


def infogain_loss(x, label, h, ignore, mode, dy):
    """Return loss, dx and p along axis 1 as Caffe's loops compute them."""
    p = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    positions = np.moveaxis(p, 1, -1)
    label = label.reshape(positions.shape[:-1]).astype(int)
    dx, loss, valid = np.zeros(positions.shape), 0.0, 0
    for position in np.ndindex(*label.shape):
        if label[position] != ignore:
            row = h[label[position]]
            loss -= row @ np.log(np.maximum(positions[position], 1e-20))
            dx[position] = positions[position] * row.sum() - row
            valid += 1
    n = divisor(mode, x.shape[0], label.size // x.shape[0], valid)
    return loss / n, np.moveaxis(dx, -1, 1) * dy / n, p


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize(
    ("shape", "ignore", "mode"), [((4, 5), None, "VALID"), ((2, 5, 3, 4), 1, "VALID"), ((2, 5, 3), 2, "BATCH_SIZE")]
)
def test_infogain_loss(shape, ignore, mode, from_file, tmp_path, monkeypatch):
    x, label, dy = values(*shape, scale=2), labels(shape[0], *shape[2:], classes=5), np.float32(0.7)
    h = np.abs(values(5, 5, seed=4))
    ignored = f"ignore_label: {ignore}" if ignore is not None else ""
    params = f"loss_param {{ normalization: {mode} {ignored} }}"
    if from_file:
        blob = caffe_pb2.BlobProto(data=h.ravel(), shape=caffe_pb2.BlobShape(dim=[1, 1, 5, 5]))
        (tmp_path / "h.binaryproto").write_bytes(blob.SerializeToString())
        monkeypatch.chdir(tmp_path)
        params += ' infogain_loss_param { source: "h.binaryproto" }'
    infogain = layer("InfogainLoss", params, bottoms=2 if from_file else 3, tops=2)
    result = run(infogain, [x, label] if from_file else [x, label, h[None]], dys=[dy, values(*shape)])
    loss, dx, p = infogain_loss(x, label, h, ignore, mode, dy)
    np.testing.assert_allclose(result.tops[0], loss, rtol=1e-5)
    np.testing.assert_allclose(result.tops[1], p, rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], dx, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("type_name", ["HingeLoss", "ContrastiveLoss"])
def test_of_more_labels_than_items_the_first_count(type_name):
    pair = [values(4, 3), *([values(4, 3, seed=1)] if type_name == "ContrastiveLoss" else [])]
    label = labels(4, 2, classes=3) if type_name == "HingeLoss" else labels(6, classes=2)
    loss, dy = layer(type_name, bottoms=len(pair) + 1), [np.float32(0.5)]
    result, wanted = (run(loss, [*pair, found], dys=dy) for found in (label, label.ravel()[:4]))
    assert result.tops[0] == wanted.tops[0]
    for found, expected in zip(result.bottoms[: len(pair)], wanted.bottoms, strict=False):
        np.testing.assert_array_equal(found, expected)
    assert not np.any(result.bottoms[-1])
    assert (
        loss.oddity([x.shape for x in (*pair, label)])
        == f"takes the first 4 of {label.size} labels, in the order of memory"
    )
    assert not loss.oddity([x.shape for x in (*pair, label.ravel()[:4])])
    assert not loss.is_by_sample([x.shape for x in (*pair, label)])


REFUSED = [
    ("HingeLoss", "", [(3, 4), (3, 0)], "one label for each of 3 items"),
    ("MultinomialLogisticLoss", "", [(3, 4), (3, 2)], "one label for each of 3 items"),
    ("ContrastiveLoss", "", [(3, 4), (3, 5), (3,)], r"found \(3, 4\) and \(3, 5\)"),
    ("ContrastiveLoss", "", [(3, 4, 2, 1), (3, 4), (3,)], r"one shape \(N, C\)"),
    ("ContrastiveLoss", "", [(3, 4), (3, 4), (2,)], "one similarity for each of 3 pairs"),
    ("ContrastiveLoss", "", [(3, 4), (3, 4), (3, 4)], r"similarities of shape \(N\)"),
    ("InfogainLoss", "", [(3, 4), (3,)], "expected the matrix H"),
    ("InfogainLoss", "", [(3, 4), (3,), (4, 5)], "matrix H of 4 x 4 values, found 20"),
    ("InfogainLoss", "loss_param { normalize: true }", [(3, 4), (3,), (4, 4)], "use normalization"),
]


@pytest.mark.parametrize(("type_name", "params", "shapes", "message"), REFUSED)
def test_refuses(type_name, params, shapes, message):
    with pytest.raises(NetError, match=message):
        layer(type_name, params, bottoms=len(shapes)).tops(shapes)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read the matrix H from 'h'"), (b"\xff", "cannot read"), (b"", "found 0 values")],
)
def test_infogain_refuses_a_bad_file(content, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "h").write_bytes(content)
    with pytest.raises(NetError, match=message):
        run(layer("InfogainLoss", 'infogain_loss_param { source: "h" }'), [values(3, 4), labels(3, classes=4)])
