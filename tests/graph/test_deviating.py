"""Settings that the runtime takes otherwise than ONNX states."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper

from caffestat.autodiff import gradient

from .models import model, normal, run


@pytest.mark.parametrize("padding", ["SAME_UPPER", "SAME_LOWER"])
@pytest.mark.parametrize("op", ["AveragePool", "LpPool", "MaxPool"])
def test_dilated_pools_that_pad_themselves(op: str, padding: str) -> None:
    """Their shape is not what ONNX states; the gradient is that of what the runtime computes, along a direction."""
    how = {"kernel_shape": [3, 2], "strides": [1, 2], "dilations": [2, 3], "auto_pad": padding}
    proto = model([helper.make_node(op, ["x"], ["y"], **how)], {"x": (2, 3, 8, 7)}, ["y"])
    x, v = np.random.default_rng(0).permutation(336).reshape(2, 3, 8, 7).astype(np.float32) / 50, normal(2, 3, 8, 7)
    y = run(proto, {"x": x})["y"]
    dy = normal(*y.shape, seed=4)
    found = run(gradient(proto), {"x": x, "cotangent/y": dy})
    np.testing.assert_allclose(found["y"], y, rtol=1e-5)
    ends = [run(proto, {"x": x + np.float32(step) * v})["y"].astype(np.float64) for step in (2e-3, -2e-3)]
    slope = ((ends[0] - ends[1]) * dy).sum() / 4e-3
    assert (found["grad/x"] * v).sum() == pytest.approx(slope, rel=2e-3, abs=2e-2)
