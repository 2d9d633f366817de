"""Layers in a row as one layer: their values and gradients are those of the row."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import TEST, TRAIN, make, run

RANDOM = np.random.default_rng(47)
X = RANDOM.normal(size=(2, 4, 9, 8))
ONE = 'name: "l" type: "%s" bottom: "x" top: "y" '
CONVOLUTION = "convolution_param { num_output: 6 kernel_h: 3 kernel_w: 2 group: 2 } "
POOLING = "pooling_param { pool: MAX kernel_size: 3 stride: 2 } "
LRN = "lrn_param { local_size: 3 alpha: 0.5 beta: 0.75 } "


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("ConvolutionReLU", ("Convolution", "ReLU")),
        ("ConvolutionReLUPool", ("Convolution", "ReLU", "Pooling")),
        ("ConvolutionReLUPoolLRN", ("Convolution", "ReLU", "Pooling", "LRN")),
        ("ReLUPooling", ("ReLU", "Pooling")),
    ],
)
def test_a_row_of_layers(kind: str, row: tuple[str, ...]) -> None:
    fields = {"Convolution": CONVOLUTION, "Pooling": POOLING, "LRN": LRN}
    text = ONE % kind + "".join(fields.get(part, "") for part in row)
    layer = make(text, TEST)
    shapes = [param.shape for param in layer.params([X.shape])]
    params = [RANDOM.normal(size=shape) for shape in shapes]
    values, made = [X], []
    for part in row:
        made.append(make(ONE % part + fields.get(part, ""), TEST))
        values.append(run(made[-1], [values[-1]], params if part == row[0] else ()).tops[0])
    dy = RANDOM.normal(size=values[-1].shape).astype(np.float32)
    found = run(layer, [X], params, [dy])
    np.testing.assert_allclose(found.tops[0], values[-1], rtol=1e-5, atol=1e-6)
    assert layer.macs([X.shape]) == made[0].macs([X.shape])
    for index in reversed(range(len(row))):
        step = run(made[index], [values[index]], params if index == 0 else (), [dy])
        dy = step.bottoms[0]
    np.testing.assert_allclose(found.bottoms[0], dy, rtol=1e-4, atol=1e-5)
    for ours, theirs in zip(found.params, step.params, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("slope", [0, 0.25])
@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_nothing_is_dropped_and_the_gradient_knows_no_relu(phase: int, slope: float) -> None:
    """As inner_product_relu_dropout_layer.cpp of ChanganVR/ConstraintAwareCompression, in GEMM mode."""
    fields = f"inner_product_param {{ num_output: 5 }} relu_param {{ negative_slope: {slope} }}"
    layer = make(ONE % "InnerProductReLUDropout" + fields + "dropout_param { dropout_ratio: 0.4 }", phase)
    weight, bias = RANDOM.normal(size=(5, 288)), RANDOM.normal(size=5)
    rows, dy = X.reshape(2, -1), RANDOM.normal(size=(2, 5)).astype(np.float32)
    found = run(layer, [X], [weight, bias], [dy])
    product = rows @ weight.T + bias
    assert 0 < (product < 0).sum() < 10
    np.testing.assert_allclose(found.tops[0], np.where(product > 0, product, slope * product), rtol=1e-4)
    np.testing.assert_allclose(found.bottoms[0], (dy @ weight).reshape(X.shape), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.params[0], dy.T @ rows, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.params[1], dy.sum(0), rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("ConvolutionReLU", "relu_param { negative_slope: 0.1 }", "expected a negative_slope of 0"),
        ("ReLUPooling", "pooling_param { pool: AVE kernel_size: 2 }", "expected pool: MAX"),
        ("ConvolutionReLUPoolLRN", POOLING + "lrn_param { norm_region: WITHIN_CHANNEL }", "expected norm_region"),
    ],
)
def test_what_fused_layers_do_not_take(kind: str, fields: str, message: str) -> None:
    layer = make(ONE % kind + CONVOLUTION + fields)
    assert layer.stops_backward([True])
    with pytest.raises(NetError, match=message):
        layer.tops([X.shape])


@pytest.mark.parametrize("kind", ["Convolution", "ReLU", "Pooling", "LRN", "Concat", "Eltwise"])
def test_layers_of_a_library_are_caffes(kind: str) -> None:
    assert make(ONE % f"MKL{kind}").__class__.__mro__[1] is type(make(ONE % kind))


FUSED = 'name: "l" type: "Convolution" bottom: "x" top: "y" convolution_param { num_output: 6 kernel_h: 3 %s } '
SHAPE = "kernel_w: 2 group: 2 "


def _convolution(text: str, bottoms: int = 1) -> str:
    return text.replace('bottom: "x"', 'bottom: "x" ' + 'bottom: "z" ' * (bottoms - 1))


@pytest.mark.parametrize(
    ("fuse", "bottoms", "slope"),
    [("FUSED_CONV_RELU", 1, 0.25), ("FUSED_CONV_ELTWISE_RELU", 2, 0), ("FUSED_CONV_MAX_POOLING_RELU", 1, 1)],
)
def test_a_convolution_with_a_fuse_type(fuse: str, bottoms: int, slope: float) -> None:
    relu = f"relu_param {{ negative_slope: {slope} }}" if slope != 1 else ""
    fused = make(_convolution(FUSED % f"{SHAPE} fuse_type: {fuse} {relu}", bottoms), TEST)
    shapes = [param.shape for param in fused.params([X.shape, (2, 6, 7, 7)][:bottoms])]
    params = [RANDOM.normal(size=shape) for shape in shapes]
    inner = run(make(FUSED % SHAPE, TEST), [X], params).tops[0]
    other = RANDOM.normal(size=inner.shape)
    total = inner + other if bottoms == 2 else inner
    dy = RANDOM.normal(size=inner.shape).astype(np.float32)
    found = run(fused, [X, other][:bottoms], params, [dy])
    np.testing.assert_allclose(found.tops[0], np.where(total > 0, total, slope * total), rtol=1e-5, atol=1e-5)
    through = dy * np.where(total > 0, 1, slope)
    step = run(make(FUSED % SHAPE, TEST), [X], params, [through.astype(np.float32)])
    np.testing.assert_allclose(found.bottoms[0], step.bottoms[0], rtol=1e-4, atol=1e-5)
    if bottoms == 2:
        np.testing.assert_allclose(found.bottoms[1], through, rtol=1e-5)


def test_what_is_added_has_the_shape_of_the_top() -> None:
    fused = make(_convolution(FUSED % f"{SHAPE} fuse_type: FUSED_CONV_ELTWISE_RELU", 2))
    with pytest.raises(NetError, match=r"expected a bottom 1 of shape \(2, 6, 7, 7\) to add"):
        fused.tops([X.shape, (2, 6, 7, 6)])
    with pytest.raises(NetError, match="expected 2 bottoms, found 1"):
        make(FUSED % f"{SHAPE} fuse_type: FUSED_CONV_ELTWISE_RELU").tops([X.shape])


@pytest.mark.parametrize("fuse", ["UNFUSED", "FUSED_POOL_MAX"])
def test_lrn_with_pooling(fuse: str) -> None:
    fields = f"lrn_param {{ local_size: 3 alpha: 0.5 beta: 0.75 fuse_type: {fuse} {POOLING}}}"
    layer = make(ONE % "LRN" + fields, TEST)
    expected = run(make(ONE % "LRN" + LRN, TEST), [X]).tops[0]
    if fuse != "UNFUSED":
        expected = run(make(ONE % "Pooling" + POOLING, TEST), [expected]).tops[0]
    np.testing.assert_allclose(run(layer, [X]).tops[0], expected, rtol=1e-5)
