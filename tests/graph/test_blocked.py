"""Gradient models with ops of the runtime's blocked layout: right with its kernels, and where a runtime has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from caffestat.autodiff import gradient
from caffestat.graph import blocked

from .models import model, normal, run

torch = pytest.importorskip("torch")

DEPTHWISE: dict[str, tuple[int, int, tuple[int, int], dict[str, Any]]] = {  # batch, channels, size
    "channels fill blocks": (3, 16, (9, 7), {"pads": [1, 0, 1, 2]}),
    "only images together do": (4, 12, (8, 11), {"pads": [0, 1, 1, 0]}),
    "strides leave rows unread": (3, 32, (10, 13), {"strides": [2, 3], "pads": [1, 1, 1, 1]}),
    "dilations": (5, 16, (12, 10), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
}


def depthwise(batch: int, channels: int, size: tuple[int, int], **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node("Conv", ["x", "w"], ["y"], group=channels, **attributes)
    return model([node], {"x": (batch, channels, *size)}, ["y"], {"w": normal(channels, 1, 3, 2)})


def feeds_of(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    """Return normal numbers for the inputs of a gradient model."""
    shapes = {v.name: [dim.dim_value for dim in v.type.tensor_type.shape.dim] for v in proto.graph.input}
    return {name: normal(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items(), 1)}


def blocked_nodes(proto: onnx.ModelProto, op: str) -> int:
    return sum(node.domain == blocked.NCHWC and node.op_type == op for node in proto.graph.node)


def without_kernels(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with its blocked ops in a domain of which no runtime has kernels."""
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    for part in (*other.graph.node, *other.functions, *other.opset_import):
        if part.domain == blocked.NCHWC:
            part.domain = "nobody"
    return other


@pytest.mark.parametrize("case", DEPTHWISE.values(), ids=DEPTHWISE)
def test_filters_of_one_channel(case: Any) -> None:
    *sizes, attributes = case
    made = gradient(depthwise(*sizes, **attributes), wrt=["w"])
    assert blocked_nodes(made, "Conv") == 1
    onnx.checker.check_model(made, full_check=True)
    feeds = feeds_of(made)
    x, w = torch.tensor(feeds["x"], dtype=torch.float64), torch.tensor(normal(sizes[1], 1, 3, 2), dtype=torch.float64)
    top, left, bottom, right = attributes["pads"]
    padded = torch.nn.functional.pad(x, (left, right, top, bottom))
    w.requires_grad_()
    how = {"stride": attributes.get("strides", 1), "dilation": attributes.get("dilations", 1), "groups": sizes[1]}
    y = torch.nn.functional.conv2d(padded, w, **how)
    (expected,) = torch.autograd.grad(y, w, torch.tensor(feeds["cotangent/y"], dtype=torch.float64))
    limit = 1e-6 * float(expected.abs().max())
    for proto in (made, without_kernels(made)):
        np.testing.assert_allclose(run(proto, feeds)["grad/w"], expected, rtol=0, atol=limit)


def test_images_that_fill_no_blocks_stay() -> None:
    made = gradient(depthwise(3, 12, (9, 7)), wrt=["w"])
    assert not made.functions
    assert all(node.domain != blocked.NCHWC for node in made.graph.node)
