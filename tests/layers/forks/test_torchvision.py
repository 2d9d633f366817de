"""Layers of forks against torchvision's operators, where both compute the same; skipped without torchvision."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from caffestat.layers.forks.boxes import suppress
from tests.autodiff.test_regions import build, gradients

from ..harness import make, run


@pytest.fixture(scope="module")
def ops() -> Any:
    """torchvision's operators; its import fails with other errors than ImportError beside another build of torch."""
    try:
        import torchvision.ops
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"torchvision does not load: {error}")
    return torchvision.ops


RANDOM = np.random.default_rng(19)
ROIS = np.array([[0, 8, 16, 47, 39], [1, 0, 0, 71, 47], [1, 24, 8, 31, 31], [0, 40, 16, 71, 31]], np.float32)
WIDER = ROIS + np.array([0, 0, 0, 1, 1], np.float32)  # torchvision's boxes end behind their last pixel
TEXT = 'name: "p" type: "%s" bottom: "x" bottom: "r" top: "y" '


def compare(text: str, arrays: list[np.ndarray], theirs: Callable[..., Any], wrt: list[int], params: int = 0) -> None:
    """Compare a layer's top and gradients with those of an operator in float64; arrays: bottoms, then params."""
    import torch

    given = [torch.from_numpy(array.astype(np.float64)).requires_grad_(i in wrt) for i, array in enumerate(arrays)]
    y = theirs(*given)
    dy = RANDOM.normal(size=tuple(y.shape)).astype(np.float32)
    y.backward(torch.from_numpy(dy.astype(np.float64)))
    cut = len(arrays) - params
    found = run(make(text), arrays[:cut], arrays[cut:], [dy])
    np.testing.assert_allclose(found.tops[0], y.detach().numpy(), rtol=1e-4, atol=1e-5)
    for index in wrt:
        ours, expected = [*found.bottoms, *found.params][index], given[index].grad.numpy()
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-4 * abs(expected).max())


def test_roi_pooling(ops: Any) -> None:
    text = TEXT % "ROIPooling" + "roi_pooling_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.125 }"
    x = RANDOM.normal(size=(2, 5, 6, 9))
    compare(text, [x, ROIS], lambda x, r: ops.roi_pool(x, r, (2, 3), 0.125), [0])


def test_psroi_pooling(ops: Any) -> None:
    """No region touches the last line or column, which torchvision leaves out."""
    text = TEXT % "PSROIPooling" + "psroi_pooling_param { output_dim: 5 group_size: 3 spatial_scale: 0.125 }"
    x = RANDOM.normal(size=(2, 45, 7, 10))
    compare(text, [x, ROIS], lambda x, r: ops.ps_roi_pool(x, r.new_tensor(WIDER), 3, 0.125), [0])


def test_deformable_convolution(ops: Any) -> None:
    """All taps stay within the image: torchvision reads half a pixel beyond it, the forks' layer does not."""
    text = """name: "d" type: "DeformableConvolution" bottom: "x" bottom: "o" top: "y" deformable_convolution_param {
      num_output: 6 kernel_h: 2 kernel_w: 3 stride: 2 group: 2 deformable_group: 2 weight_filler { type: "xavier" } }"""
    x, w, b = (RANDOM.normal(size=shape) for shape in ((2, 4, 7, 10), (6, 2, 2, 3), (6,)))
    rows, columns = 3, 4
    taps = np.stack(np.broadcast_arrays(*np.ogrid[:2, :3]), -1).reshape(6, 2)
    places = 2 * np.stack(np.broadcast_arrays(*np.ogrid[:rows, :columns]))
    at = np.tile((taps[:, :, None, None] + places).reshape(1, 12, rows, columns), (2, 2, 1, 1))
    end = np.tile(np.array([6, 9] * 12).reshape(1, 24, 1, 1), (2, 1, rows, columns))
    offsets = np.clip(at + RANDOM.normal(0, 0.6, at.shape), 0.01, end - 0.01) - at

    def theirs(x: Any, offsets: Any, w: Any, b: Any) -> Any:
        return ops.deform_conv2d(x, offsets, w, b, stride=2)

    compare(text, [x, offsets, w, b], theirs, [0, 1, 2, 3], params=2)


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_suppression(ops: Any, threshold: float) -> None:
    import torch

    corner, size = RANDOM.uniform(0, 40, (90, 2)), RANDOM.uniform(3, 25, (90, 2))
    boxes, scores = np.hstack([corner, corner + size]).astype(np.float32), RANDOM.permutation(90).astype(np.float32)
    kept = ops.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
    assert list(suppress(boxes, np.argsort(-scores), threshold)) == kept.tolist()


@pytest.mark.parametrize(("mode", "aligned"), [("half_pixel", True), ("output_half_pixel", False)])
def test_the_gradient_of_onnx_roi_align(ops: Any, mode: str, aligned: bool) -> None:
    import torch

    x = RANDOM.normal(size=(2, 4, 9, 11)).astype(np.float32)
    rois = (ROIS[:, 1:] / 8 + 0.3).astype(np.float32)
    feeds = {"x": x, "rois": rois, "items": ROIS[:, 0].astype(np.int64)}
    settings = {"sampling_ratio": 2, "spatial_scale": 0.75, "coordinate_transformation_mode": mode, "opset": 16}
    proto = build("RoiAlign", feeds, output_height=3, output_width=2, **settings)
    dys, grads = gradients(proto, feeds, ["x"])
    wanted = torch.from_numpy(x.astype(np.float64)).requires_grad_()
    given = torch.from_numpy(np.hstack([ROIS[:, :1], rois]).astype(np.float64))
    ops.roi_align(wanted, given, (3, 2), 0.75, 2, aligned).backward(torch.from_numpy(dys["y"].astype(np.float64)))
    np.testing.assert_allclose(grads["x"], wanted.grad.numpy(), rtol=1e-4, atol=1e-5)
