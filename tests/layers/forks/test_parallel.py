"""Layers spread over processes are, in one, the layers of Caffe; and pooling over samples, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(14)
X = RANDOM.normal(size=(6, 4, 3, 5))
TEXT = 'name: "l" type: "%s" bottom: "x" top: "y" %s'


@pytest.mark.parametrize(
    ("kind", "plain", "fields"),
    [
        ("ConvolutionData", "Convolution", "convolution_param { num_output: 6 group: 2 kernel_size: 3 }"),
        ("InnerProductAll", "InnerProduct", "inner_product_param { num_output: 7 }"),
        ("InnerProductData", "InnerProduct", "inner_product_param { num_output: 7 axis: 2 }"),
        ("PReLUData", "PReLU", "prelu_param { filler { value: 0.3 } }"),
    ],
)
def test_one_process(kind: str, plain: str, fields: str) -> None:
    ours, theirs = (make(TEXT % (name, fields)) for name in (kind, plain))
    assert ours.params([X.shape]) == theirs.params([X.shape])
    params = [RANDOM.normal(size=p.shape) for p in ours.params([X.shape])]
    a, b = run(ours, [X], params), run(theirs, [X], params)
    for mine, other in zip([*a.tops, *a.bottoms, *a.params], [*b.tops, *b.bottoms, *b.params], strict=True):
        np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize("shape", [(6, 4, 3, 5), (6, 4)])
@pytest.mark.parametrize("method", ["MAX", "AVE"])
def test_pooling_over_samples(method: str, shape: tuple[int, ...]) -> None:
    layer = make(TEXT % ("PoolingNum", f"pooling_num_param {{ pool: {method} kernel_size: 3 }}"))

    def forward(x: np.ndarray) -> np.ndarray:
        parts = x.reshape(2, 3, 4, -1)
        return (parts.max((1, 3)) if method == "MAX" else parts.mean((1, 3))).reshape(2, 4, 1, 1)

    check_gradients(layer, forward, [RANDOM.normal(size=shape)], [0])


def test_what_is_not_computed_or_does_not_fit() -> None:
    layer = make(TEXT % ("PoolingNum", "pooling_num_param { pool: STOCHASTIC kernel_size: 2 }"))
    assert layer.tops([X.shape]) == ((3, 4, 1, 1),)
    assert "of a GPU" in layer.why_uncomputed
    with pytest.raises(NetError, match="that kernel_size divides, found 4"):
        make(TEXT % ("PoolingNum", "pooling_num_param { kernel_size: 4 }")).tops([X.shape])
