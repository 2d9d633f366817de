"""Ops whose gradients are checked against the runtime itself: regions, unpooling, columns, and fused ops.

Those that are linear in x have ⟨dy, f(u)⟩ = ⟨dx, u⟩ for every u; the others are held to differences of outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import caffestat

from ..graph.models import model, run, value

RANDOM = np.random.default_rng(7)
CORNERS = np.array([[2, 2, 2, 2], [-3, -2, 4, 3], [1.3, 0.7, 9.1, 7.9], [5, 4, 15, 14], [0, 0, 10, 8]])


@pytest.fixture(autouse=True)
def seeded() -> None:
    RANDOM.bit_generator.state = np.random.default_rng(7).bit_generator.state


def normal(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def build(
    op: str, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] = ("y",), **settings: Any
) -> onnx.ModelProto:
    opset, domain = settings.pop("opset", 22), settings.pop("domain", "")
    node = helper.make_node(op, list(feeds), list(outputs), domain=domain, **settings)
    kinds = {np.dtype(np.int64): TensorProto.INT64}
    inputs = [value(name, array.shape, kinds.get(array.dtype, TensorProto.FLOAT)) for name, array in feeds.items()]
    proto = model([node], inputs, [name for name in outputs if name], opset=opset)
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return proto


def gradients(
    proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray], wrt: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return random gradients of the outputs, and the gradients that follow from them."""
    dys = {name: normal(*array.shape) for name, array in run(proto, feeds).items()}
    found = run(caffestat.gradient(proto, wrt=wrt), {**feeds, **{f"cotangent/{name}": dy for name, dy in dys.items()}})
    return dys, {name: found[f"grad/{name}"] for name in wrt}


def dot(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.vdot(a.astype(np.float64), b))


def check_linear(proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray]) -> None:
    dys, grads = gradients(proto, feeds, ["x"])
    for _ in range(3):
        u = normal(*feeds["x"].shape)
        moved = dot(run(proto, {**feeds, "x": u})["y"], dys["y"])
        assert dot(grads["x"], u) == pytest.approx(moved, rel=1e-5, abs=1e-4)


def check_differences(
    proto: onnx.ModelProto, feeds: Mapping[str, np.ndarray], wrt: Sequence[str], step: float = 1e-2
) -> None:
    dys, grads = gradients(proto, feeds, wrt)
    for name in wrt:
        u = normal(*feeds[name].shape)
        ahead, behind = (run(proto, {**feeds, name: feeds[name] + np.float32(s) * u}) for s in (step, -step))
        slope = sum(dot(ahead[y] - behind[y], dy) for y, dy in dys.items()) / (2 * step)
        assert dot(grads[name], u) == pytest.approx(slope, rel=2e-3, abs=2e-3), name


ALIGN: dict[str, dict[str, Any]] = {
    "two samples": {"sampling_ratio": 2},
    "as many samples as elements": {},
    "before opset 16": {"opset": 10, "spatial_scale": 0.5},
    "no half pixels": {"coordinate_transformation_mode": "output_half_pixel", "sampling_ratio": 3},
}


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("settings", ALIGN.values(), ids=ALIGN.keys())
def test_roi_align(settings: dict[str, Any], batch: int) -> None:
    """Regions of no extent, that stick out of the image, and of the image's size."""
    items = RANDOM.integers(0, batch, len(CORNERS))
    feeds = {"x": normal(batch, 4, 9, 11), "rois": CORNERS.astype(np.float32), "items": items}
    check_linear(build("RoiAlign", feeds, output_height=3, output_width=2, **{"opset": 16, **settings}), feeds)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("settings", ALIGN.values(), ids=ALIGN.keys())
def test_roi_align_of_maxima(settings: dict[str, Any], batch: int) -> None:
    """f(s · x) = s · f(x) for s > 0, and so ⟨dx, x⟩ = ⟨dy, f(x)⟩. (Euler)"""
    feeds = {"rois": CORNERS.astype(np.float32), "items": RANDOM.integers(0, batch, len(CORNERS))}
    how = {"mode": "max", "output_height": 3, "output_width": 2, "opset": 16, **settings}
    for _ in range(3):
        feeds = {"x": normal(batch, 4, 9, 11), **feeds}
        proto = build("RoiAlign", feeds, **how)
        dys, grads = gradients(proto, feeds, ["x"])
        assert dot(grads["x"], feeds["x"]) == pytest.approx(dot(run(proto, feeds)["y"], dys["y"]), rel=1e-5, abs=1e-4)


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("batch", [1, 3])
def test_max_roi_pool(batch: int, scale: float) -> None:
    """Distinct elements: within a small step the largest of a bin stays; the last region's bins are empty."""
    items = RANDOM.integers(0, batch, (len(CORNERS) + 1, 1))
    rois = np.concatenate([items, np.vstack([CORNERS, [40, 40, 50, 50]])], axis=1).astype(np.float32)
    x = RANDOM.permutation(batch * 4 * 9 * 11).reshape(batch, 4, 9, 11).astype(np.float32)
    feeds = {"x": x, "rois": rois}
    check_differences(build("MaxRoiPool", feeds, pooled_shape=[3, 2], spatial_scale=scale, opset=16), feeds, ["x"], 0.1)


def test_equal_elements_of_a_region_give_the_gradient_to_the_first() -> None:
    feeds = {"x": np.ones((1, 1, 4, 4), np.float32), "rois": np.array([[0, 0, 1, 3, 3]], np.float32)}
    proto = build("MaxRoiPool", feeds, pooled_shape=[1, 2], opset=16)
    dys, grads = gradients(proto, feeds, ["x"])
    expected = np.zeros((4, 4))
    expected[1, [0, 2]] = dys["y"][0, 0, 0]
    np.testing.assert_array_equal(grads["x"][0, 0], expected)


def test_max_unpool() -> None:
    places = [RANDOM.choice(16, 4, replace=False) + 16 * image for image in range(6)]
    feeds = {"x": normal(2, 3, 2, 2), "i": np.reshape(places, (2, 3, 2, 2))}
    check_linear(build("MaxUnpool", feeds, kernel_shape=[2, 2], strides=[2, 2]), feeds)


@pytest.mark.parametrize(
    ("size", "kernel", "places", "settings"),
    [
        ((7, 7), (2, 3), 4 * 5, {"pads": [1, 0, 1, 2], "dilations": [1, 2], "strides": [2, 1]}),
        ((5, 6), (2, 2), 4 * 5, {}),
        ((7, 5), (3, 2), 3 * 2, {"strides": [2, 2]}),
        ((4, 5, 6), (2, 1, 3), 3 * 5 * 4, {}),
    ],
)
def test_col2im(size: tuple[int, ...], kernel: tuple[int, ...], places: int, settings: dict[str, Any]) -> None:
    x = normal(2, 3 * int(np.prod(kernel)), places)
    node = helper.make_node("Col2Im", ["x", "size", "kernel"], ["y"], **settings)
    proto = model([node], {"x": x.shape}, ["y"], {"size": np.array(size), "kernel": np.array(kernel)})
    check_linear(proto, {"x": x})


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("group", [1, 2])
def test_deform_conv(group: int, parts: int) -> None:
    """Offsets that stay 0.1 away from where a sample has a kink."""
    whole = RANDOM.integers(-2, 3, (2, parts * 12, 4, 8))
    offset = (whole + RANDOM.uniform(0.1, 0.9, whole.shape)).astype(np.float32)
    feeds = {
        "x": normal(2, 4, 7, 8),
        "w": normal(6, 4 // group, 3, 2),
        "offset": offset,
        "b": normal(6),
        "mask": normal(2, parts * 6, 4, 8),
    }
    settings = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1], "group": group, "offset_group": parts}
    check_differences(build("DeformConv", feeds, **settings), feeds, list(feeds), 1e-2)


FUSED = {
    "BiasGelu": {"b": (5,)},
    "FastGelu": {"b": (5,)},
    "QuickGelu": {},
    "SkipLayerNormalization": {"skip": (2, 3, 5), "gamma": (5,), "beta": (5,), "b": (5,)},
    "SkipSimplifiedLayerNormalization": {"skip": (2, 3, 5), "gamma": (5,), "b": (5,)},
    "SimplifiedLayerNormalization": {"gamma": (5,)},
}


@pytest.mark.parametrize("op", FUSED)
def test_ops_that_the_optimizer_makes(op: str) -> None:
    feeds = {"x": normal(2, 3, 5), **{name: normal(*shape) for name, shape in FUSED[op].items()}}
    outputs = ["y", "", "", "sum"] if "skip" in feeds else ["y"]
    domain = "" if op.startswith("Simplified") else "com.microsoft"
    check_differences(build(op, feeds, outputs, domain=domain), feeds, list(feeds))


def test_a_normalization_without_shift() -> None:
    feeds = {"x": normal(2, 3, 5), "skip": normal(2, 3, 5), "gamma": normal(5)}
    proto = build("SkipLayerNormalization", feeds, domain="com.microsoft", epsilon=0.1)
    check_differences(proto, feeds, list(feeds))
