"""Caffe's own types as forks extended them, against the forks' loops written out."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.fillers import Stream
from caffestat.prototext import parse

from ..harness import TEST, TRAIN, make, run

RANDOM = np.random.default_rng(5)
SCORES = RANDOM.normal(size=(4, 3, 2)).astype(np.float32)
LABELS = np.array([[0, 2], [1, 1], [2, 0], [0, 1]], np.float32)
FLT_MIN = np.finfo(np.float32).tiny


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def weighted(weights: np.ndarray, normalizer: float) -> tuple[float, np.ndarray]:
    """softmax_loss_layer.cpp, Forward_cpu and Backward_cpu with a weight for each label: the loss and dx."""
    p = softmax(SCORES.astype(np.float64))
    loss, dx = 0.0, p.copy()
    for n, place in np.ndindex(*LABELS.shape):
        label = int(LABELS[n, place])
        loss -= weights[n, place] * np.log(max(p[n, label, place], FLT_MIN))
        dx[n, label, place] -= 1
        dx[n, :, place] *= weights[n, place]
    return loss / normalizer, dx / normalizer


BY_CLASS = "class_weighting: 0.5 class_weighting: 2 class_weighting: 1.5"


@pytest.mark.parametrize(
    ("param", "weights", "normalizer"),
    [
        (f"weight_by_label_freqs: true {BY_CLASS}", np.array([0.5, 2, 1.5])[LABELS.astype(int)], 8),
        (f"weight_by_label_freqs: true normalize: false {BY_CLASS}", np.array([0.5, 2, 1.5])[LABELS.astype(int)], 4),
        (
            f"weight_by_label_freqs: true ignore_label: 1 {BY_CLASS}",
            np.array([0.5, 0, 1.5])[LABELS.astype(int)],
            5,
        ),
        (BY_CLASS, np.ones((4, 2)), 8),
        ("normalization: PRE_FIXED pre_fixed_normalizer: 7", np.ones((4, 2)), 7),
        ("normalization: PRE_FIXED pre_fixed_normalizer: 0.5", np.ones((4, 2)), 1),
        ("normalization: BATCH_SIZE pre_fixed_normalizer: 7", np.ones((4, 2)), 4),
    ],
)
def test_losses_that_weigh_classes_or_have_a_fixed_normalizer(param, weights, normalizer) -> None:
    text = f'name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "t" top: "l" loss_param {{ {param} }}'
    found = run(made(text), [SCORES, LABELS])
    loss, dx = weighted(weights, normalizer)
    np.testing.assert_allclose(found.tops[0], loss, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], dx, rtol=1e-5, atol=1e-7)


def made(text: str):
    """Return the layer; that it reads a value which Caffe's enum lacks is the matter of the net's builder."""
    layer = make(text.replace("normalization: PRE_FIXED ", ""))
    (layer.text,) = parse(b"layer {" + text.encode() + b"}", "net.prototxt").fields[0].values
    return layer


@pytest.mark.parametrize("scale", [0.1, 3])
def test_a_weight_for_each_label_as_third_bottom(scale: float) -> None:
    weights = np.array([[1, 0], [0.5, 2], [0.25, 1], [3, 0]], np.float32) * np.float32(scale)
    layer = make('name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "t" bottom: "w" top: "l"')
    assert layer.dialect == "happynear"
    found = run(layer, [SCORES, LABELS, weights])
    loss, dx = weighted(weights, max(float(weights.sum()), 1))
    np.testing.assert_allclose(found.tops[0], loss, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], dx, rtol=1e-5, atol=1e-7)
    with pytest.raises(NetError, match="expected a weight for each of 8 labels"):
        layer.tops([SCORES.shape, LABELS.shape, (4, 3)])


def test_a_euclidean_loss_with_weights_leaves_them_out_of_the_gradient_once() -> None:
    a, b, w = (RANDOM.normal(size=(3, 2, 2)).astype(np.float32) for _ in range(3))
    found = run(make('name: "l" type: "EuclideanLoss" bottom: "a" bottom: "b" bottom: "w" top: "l"'), [a, b, w])
    np.testing.assert_allclose(found.tops[0], ((w * (a - b)) ** 2).sum() / 6, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], w * (a - b) / 3, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[1], -w * (a - b) / 3, rtol=1e-5)


@pytest.mark.parametrize("lowest", [False, True])
def test_an_accuracy_of_labels_with_weights(lowest: bool) -> None:
    weights = np.array([1, 0, 0.5, 2], np.float32)
    scores, labels = SCORES[:, :, 0], np.array([1, 0, 2, 2], np.float32)
    param = "accuracy_param { min_is_better: true }" if lowest else ""
    layer = make(f'name: "a" type: "Accuracy" bottom: "x" bottom: "t" bottom: "w" top: "a" {param}')
    best = scores.argmin(1) if lowest else scores.argmax(1)
    expected = (best == labels)[weights != 0].mean()
    np.testing.assert_allclose(run(layer, [scores, labels, weights]).tops[0], expected, rtol=1e-6)


X = np.arange(1, 13, dtype=np.float32).reshape(3, 4)


def test_dropout_in_test() -> None:
    layer = make(
        'name: "d" type: "Dropout" bottom: "x" top: "y" dropout_param { sample_weights_test: true dropout_ratio: 0.4 }',
        TEST,
    )
    found = run(layer, [X])
    (mask,) = layer.draw_feeds(Stream(1), [X.shape])
    assert set(np.unique(mask)) == {np.float32(0), np.float32(1 / (1 - np.float32(0.4)))}
    np.testing.assert_array_equal(found.tops[0], X * mask)
    np.testing.assert_array_equal(found.bottoms[0], mask)


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_dropout_that_scales_in_test(phase: int) -> None:
    text = 'name: "d" type: "Dropout" bottom: "x" top: "y" dropout_param { scale_train: false dropout_ratio: 0.25 }'
    layer = make(text, phase)
    found = run(layer, [X])
    factor = layer.draw_feeds(Stream(1), [X.shape])[0] if phase == TRAIN else 0.75
    assert phase == TEST or set(np.unique(factor)) == {0.0, 1.0}
    np.testing.assert_allclose(found.tops[0], X * factor, rtol=1e-6)
    np.testing.assert_allclose(found.bottoms[0], np.ones_like(X) * factor, rtol=1e-6)


def pooled(x: np.ndarray, method: str, kernel, stride, pad, dilation) -> np.ndarray:
    """pooling_layer.cu, MaxPoolForwardSK and AvePoolForwardSK, of one plane."""
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    axes = list(zip(x.shape, spans, stride, pad, strict=True))
    out = [int(np.ceil((n + 2 * p - span) / s)) + 1 for n, span, s, p in axes]
    out = [o - (any(pad) and (o - 1) * s >= n + p) for o, (n, _, s, p) in zip(out, axes, strict=True)]
    y = np.zeros(out)
    for place in np.ndindex(*out):
        starts = [o * s - p for o, s, p in zip(place, stride, pad, strict=True)]
        ends = [start + span for start, span in zip(starts, spans, strict=True)]
        for axis in (0, 1):
            while ends[axis] > x.shape[axis] + pad[axis]:
                ends[axis] -= dilation[axis]
        taps = [(h, w) for h in range(starts[0], ends[0], dilation[0]) for w in range(starts[1], ends[1], dilation[1])]
        inside = [x[h, w] for h, w in taps if 0 <= h < x.shape[0] and 0 <= w < x.shape[1]]
        y[place] = max(inside) if method == "MAX" else sum(inside) / len(taps)
    return y


@pytest.mark.parametrize("method", ["MAX", "AVE"])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "dilation", "shape"),
    [
        ((2, 2), (1, 1), (0, 0), (2, 2), (9, 7)),
        ((3, 2), (2, 3), (1, 0), (2, 3), (10, 9)),
        ((3, 3), (2, 2), (2, 1), (1, 2), (8, 11)),
        ((2, 3), (3, 2), (1, 2), (4, 2), (11, 8)),
    ],
)
def test_pooling_over_elements_apart(method: str, kernel, stride, pad, dilation, shape) -> None:
    fields = {"kernel": kernel, "stride": stride, "pad": pad}
    sizes = " ".join(f"{name}_h: {value[0]} {name}_w: {value[1]}" for name, value in fields.items())
    apart = " ".join(f"dilation: {value}" for value in (dilation if len(set(dilation)) > 1 else dilation[:1]))
    layer = make(f'name: "p" type: "Pooling" bottom: "x" top: "y" pooling_param {{ pool: {method} {sizes} {apart} }}')
    x = RANDOM.normal(size=(1, 2, *shape)).astype(np.float32)
    found = run(layer, [x])
    expected = np.stack([pooled(plane, method, kernel, stride, pad, dilation) for plane in x[0]])
    np.testing.assert_allclose(found.tops[0][0], expected, rtol=1e-5, atol=1e-6)
    step = np.zeros_like(x)
    step[0, 0, 3, 4] = 1e-2
    slope = (run(layer, [x + step]).tops[0].sum() - run(layer, [x - step]).tops[0].sum()) / 2e-2
    np.testing.assert_allclose(found.bottoms[0][0, 0, 3, 4], slope, rtol=2e-3, atol=2e-3)


def test_batch_norm_with_scale_and_bias() -> None:
    x = RANDOM.normal(2, 3, size=(4, 3, 2)).astype(np.float32)
    scale, bias = np.array([1, 2, -0.5], np.float32), np.array([0.5, 0, 1], np.float32)
    zeros, ones = np.zeros(3, np.float32), np.ones(1, np.float32)
    text = 'name: "b" type: "BatchNorm" bottom: "x" top: "y" batch_norm_param {{ {} }}'
    layer = make(text.format('scale_filler { type: "constant" value: 2 } eps: 1e-7'))
    params = layer.params([x.shape])
    assert [(p.role, p.filler.value, p.written, p.is_statistic) for p in params[2:]] == [
        ("factor", 1, False, True),
        ("scale", 2, True, False),
        ("bias", 0, False, False),
    ]
    found = run(layer, [x], [zeros, zeros, ones, scale, bias])
    mean, variance = x.mean((0, 2), keepdims=True), x.var((0, 2), keepdims=True) + 1e-5
    normal = (x - mean) / np.sqrt(variance)
    np.testing.assert_allclose(found.tops[0], normal * scale[:, None] + bias[:, None], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.params[3], normal.sum((0, 2)), atol=1e-4)
    np.testing.assert_allclose(found.params[4], [8, 8, 8], rtol=1e-6)
    np.testing.assert_allclose(found.updates[0], mean.ravel(), rtol=1e-5)
    np.testing.assert_allclose(found.updates[1], variance.ravel(), rtol=1e-5)
    assert 2 not in found.updates
    tested = run(make(text.format("scale_bias: true"), TEST), [x], [zeros + 1, zeros + 4, ones * 9, scale, bias])
    expected = (x - 1) / np.sqrt(4 + 1e-5) * scale[:, None] + bias[:, None]
    np.testing.assert_allclose(tested.tops[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("fields", "learned"), [("bias_filler { value: 0.5 }", 2), ("bias_term: false", 1)])
def test_intels_batch_norm_learns_a_scale_and_a_bias(fields: str, learned: int) -> None:
    text = 'name: "n" type: "BatchNorm" bottom: "x" top: "y" batch_norm_param { filler { value: 3 } eps: 0.01 %s }'
    layer = make(text % fields, TRAIN)
    assert type(layer).dialect == "intel"
    x, dy = (RANDOM.normal(size=(4, 3, 2, 5)) for _ in "ab")
    params = layer.params([x.shape])
    assert [param.shape for param in params] == [(3,), (3,), (1,), (3,), (3,)][: 3 + learned]
    assert [param.filler.value for param in params[3:]] == [3, 0.5][:learned]
    scale, bias = RANDOM.normal(size=(2, 3, 1, 1))
    values = [np.zeros(3), np.zeros(3), np.zeros(1), scale.ravel(), bias.ravel()][: 3 + learned]
    found = run(layer, [x], values, [dy.astype(np.float32)])
    deviation = np.sqrt(x.var((0, 2, 3), keepdims=True) + 0.01)
    y = (x - x.mean((0, 2, 3), keepdims=True)) / deviation
    np.testing.assert_allclose(found.tops[0], y * scale + (bias if learned == 2 else 0), rtol=1e-4, atol=1e-5)
    d = dy * scale
    dx = d - d.mean((0, 2, 3), keepdims=True) - y * (d * y).mean((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(found.bottoms[0], dx / deviation, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.params[3], (dy * y).sum((0, 2, 3)), rtol=1e-4, atol=1e-5)
    if learned == 2:
        np.testing.assert_allclose(found.params[4], dy.sum((0, 2, 3)), rtol=1e-4, atol=1e-5)
    without = make(text.replace("filler", "bias_filler", 1) % "use_weight_bias: false", TRAIN)
    assert len(without.params([x.shape])) == 3


def test_batch_norm_scale_learns_a_scale_of_1_and_a_bias_of_0() -> None:
    layer = make('name: "n" type: "BatchNormScale" bottom: "x" top: "y" batch_norm_param { eps: 0.01 }', TEST)
    x = RANDOM.normal(size=(4, 3, 2, 5))
    params = layer.params([x.shape])
    assert [param.filler.value for param in params] == [0, 0, 0, 1, 0]
    assert [param.is_statistic for param in params] == [True] * 3 + [False] * 2
    mean, variance, scale, bias = RANDOM.uniform(0.5, 2, size=(4, 3))
    found = run(layer, [x], [mean, variance, np.array([2.0]), scale, bias])
    m, v, s, b = (array[:, None, None] for array in (mean / 2, variance / 2, scale, bias))
    np.testing.assert_allclose(found.tops[0], (x - m) / np.sqrt(v + 0.01) * s + b, rtol=1e-4, atol=1e-5)


def test_pooling_of_volumes_over_elements_apart() -> None:
    sizes = "kernel_size: 1 kernel_size: 2 kernel_size: 3 stride: 1 stride: 2 stride: 1 pad: 0 dilation: 2"
    layer = make(f'name: "p" type: "Pooling" bottom: "x" top: "y" pooling_param {{ {sizes} }}')
    assert type(layer).dialect == "greentea"
    x = RANDOM.normal(size=(1, 2, 3, 9, 8)).astype(np.float32)
    expected = np.stack([pooled(plane, "MAX", (2, 3), (2, 1), (0, 0), (2, 2)) for plane in x.reshape(6, 9, 8)])
    found = run(layer, [x]).tops[0]
    np.testing.assert_allclose(found.reshape(6, *found.shape[3:]), expected, rtol=1e-6)


def test_a_mean_without_the_padding() -> None:
    fields = "pool: AVE_EXC_PAD kernel_h: 3 kernel_w: 2 stride: 2 pad: 1"
    layer = make(f'name: "p" type: "Pooling" bottom: "x" top: "y" pooling_param {{ {fields} }}')
    assert "AVE over the elements that are not padding" in type(layer).read_as
    x = RANDOM.normal(size=(2, 3, 7, 6)).astype(np.float32)
    found = run(layer, [x], dys=[np.ones((2, 3, 4, 4), np.float32)])
    expected, dx = np.empty((2, 3, 4, 4)), np.zeros(x.shape)
    for i, j in np.ndindex(4, 4):
        rows, columns = (slice(max(2 * k - 1, 0), 2 * k - 1 + size) for k, size in ((i, 3), (j, 2)))
        part = x[:, :, rows, columns]
        expected[:, :, i, j] = part.mean((2, 3))
        dx[:, :, rows, columns] += 1 / (part.shape[2] * part.shape[3])
    np.testing.assert_allclose(found.tops[0], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], dx, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "places"), [(2, 1, 0, 7), (3, 1, 1, 7), (3, 2, 1, 4), (4, 1, 1, 7)]
)
def test_pooling_of_darknet_overhangs_where_kernel_minus_stride_is_odd(
    kernel: int, stride: int, pad: int, places: int
) -> None:
    fields = f"pool: MAX kernel_size: {kernel} stride: {stride} pad: {pad}"
    layer = make(f'name: "p" type: "Pooling" bottom: "x" top: "y" pooling_param {{ {fields} }}', dialect="darknet")
    x = RANDOM.normal(size=(2, 3, 7, 7)).astype(np.float32)
    found = run(layer, [x]).tops[0]
    assert found.shape == (2, 3, places, places)
    for i, j in np.ndindex(places, places):
        rows, columns = (slice(max(k * stride - pad, 0), k * stride - pad + kernel) for k in (i, j))
        np.testing.assert_array_equal(found[:, :, i, j], x[:, :, rows, columns].max((2, 3)))


def test_pooling_of_darknet_refuses_empty_windows() -> None:
    text = 'name: "p" type: "Pooling" bottom: "x" top: "y" pooling_param { kernel_size: 3 stride: 2 }'
    with pytest.raises(NetError, match="the last window is empty"):
        make(text, dialect="darknet").tops([(2, 3, 8, 8)])
    assert make(text).tops([(2, 3, 8, 8)]) == ((2, 3, 4, 4),)


def test_words_of_regions_have_no_axis_of_size_1() -> None:
    text = 'name: "e" type: "Embed" bottom: "x" top: "y" embed_param { num_output: 4 input_dim: 6 }'
    layer, words = make(text, dialect="bottom-up"), np.array([[5], [0], [2]], np.float32)
    weight, bias = RANDOM.normal(size=(6, 4)), RANDOM.normal(size=4)
    found = run(layer, [words], [weight, bias])
    np.testing.assert_allclose(found.tops[0], (weight[[5, 0, 2]] + bias).astype(np.float32), rtol=1e-6)
    np.testing.assert_array_equal(found.params[0].sum(1), [4, 0, 4, 0, 0, 4])
    assert layer.tops([(3, 2)]) == ((3, 2, 4),)
