"""Further layers for regions, against loops; gradients against differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.net import build
from caffestat.net.source import net_source
from caffestat.prototext import parse

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(71)
X = RANDOM.normal(size=(2, 3, 7, 9))
ROIS = np.array([[0, 3, 5, 40, 38], [1, 20, 0, 21, 90], [0, 60, 10, 20, 30]], float)
TWO = 'name: "l" type: "%s" bottom: "x" bottom: "r" top: "y" '


@pytest.mark.parametrize("weights", [0, 2])
def test_losses_over_videos(weights: int) -> None:
    """As VisionLearningGroup/R-C3D's smooth_L1_loss_layer.cu, its kernels compiled for the CPU."""
    ends = "".join(f'bottom: "{name}" ' for name in "abio"[: 2 + weights])
    layer = make(f'name: "l" type: "SmoothL1Loss" {ends} top: "y"', dialect="r-c3d")
    arrays = [RANDOM.normal(size=(2, 6, 3, 1, 2)) for _ in range(2 + weights)]

    def forward(a: np.ndarray, b: np.ndarray, *w: np.ndarray) -> np.ndarray:
        d = w[0] * (a - b) if w else a - b
        f = np.where(abs(d) < 1, d * d / 2, abs(d) - 0.5)
        return np.array((f * w[1] if w else f).sum() / 2)

    check_gradients(layer, forward, arrays, [0, 1])
    with pytest.raises(NetError, match="expected bottoms of one shape"):
        layer.tops([(2, 6, 3, 1, 2), (2, 6, 3, 2, 1), *[(2, 6, 3, 1, 2)] * weights])
    with pytest.raises(NetError, match="expected both inside and outside weights"):
        layer.tops([(2, 6, 3, 1, 2)] * 3)


def test_one_sample_in_the_middle_of_each_bin() -> None:
    layer = make(TWO % "ROIAlignment" + "roi_alignment_param { pooled_h: 2 pooled_w: 3 spatial_scale: 0.125 }")

    def forward(x: np.ndarray, rois: np.ndarray) -> np.ndarray:
        y = np.zeros((len(rois), 3, 2, 3))
        for r, (item, *corners) in enumerate(rois):
            x1, y1, x2, y2 = (value * 0.125 for value in corners)
            high, wide = max(y2 - y1 + 1, 1) / 2, max(x2 - x1 + 1, 1) / 3
            for i, j in np.ndindex(2, 3):
                v = sum(min(max(y1 + high * (i + k), 0), 6) for k in (0, 1)) / 2
                u = sum(min(max(x1 + wide * (j + k), 0), 8) for k in (0, 1)) / 2
                for row, column in np.ndindex(7, 9):
                    weight = max(0, 1 - abs(v - row)) * max(0, 1 - abs(u - column))
                    y[r, :, i, j] += weight * x[int(item), :, row, column]
        return y

    check_gradients(layer, forward, [X, ROIS[:1]], [0])  # all of whose samples lie within it
    np.testing.assert_allclose(run(layer, [X, ROIS]).tops[0], forward(X, ROIS), rtol=1e-4, atol=1e-5)


def test_samples_outside_of_their_region_have_no_gradient() -> None:
    """Numbers: leon-liangwu/MaskYolo_Caffe, roi_alignment_layer.cu, its kernels compiled for the CPU.

    The first region ends before it begins; the middles of the second's bins are cut to the features.
    """
    layer = make(TWO % "ROIAlignment" + "roi_alignment_param { pooled_h: 1 pooled_w: 2 spatial_scale: 0.5 }")
    x, regions = np.arange(20).reshape(1, 1, 4, 5), [[0, 6, 1, 0.5, 2], [0, -9, -2, 1, 4]]
    result = run(layer, [x, regions], dys=[np.arange(1, 5).reshape(2, 1, 1, 2)])
    np.testing.assert_allclose(result.tops[0].ravel(), [9.5, 10, 7.5, 8.25])
    dx = np.zeros((4, 5))
    dx[1:3, :2] = [2, 1.5]
    np.testing.assert_allclose(result.bottoms[0], dx[None, None])


def test_spans_of_videos() -> None:
    x = RANDOM.normal(size=(2, 3, 6, 8, 9))
    spans = np.array([[0, 5, 30], [1, 16, 17], [1, 60, 70]], float)
    fields = "pooled_l: 2 pooled_h: 3 pooled_w: 2 temporal_scale: 0.125"
    layer = make(TWO % "ROIPooling" + f"roi_pooling_param {{ {fields} }}")
    assert type(layer).dialect == "r-c3d"

    def forward(x: np.ndarray, spans: np.ndarray) -> np.ndarray:
        y = np.zeros((3, 3, 2, 3, 2))
        for r, (item, first, last) in enumerate(spans):
            start, end = math.floor(first / 8 + 0.5), math.floor(last / 8 + 0.5)
            length = max(end - start + 1, 1)
            for i, j, k in np.ndindex(2, 3, 2):
                low = [math.floor(i * length / 2) + start, math.floor(j * 7 / 3), math.floor(k * 7 / 2)]
                high = [math.ceil((i + 1) * length / 2) + start, math.ceil((j + 1) * 7 / 3), math.ceil((k + 1) * 7 / 2)]
                window = x[int(item), :, low[0] : min(high[0], 6), low[1] : high[1], low[2] : high[2]]
                if window.size:
                    y[r, :, i, j, k] = window.reshape(3, -1).max(1)
        return y

    check_gradients(layer, forward, [x, spans], [0])
    with pytest.raises(NetError, match=r"expected features \(N, C, L, H, W\) and spans \(R, 3\)"):
        layer.tops([(2, 3, 6, 8), (3, 3)])


ROUTE = 'name: "l" type: "ScaleRoute" bottom: "r" bottom: "x" top: "a" top: "b" scale_route_param { %s }'


@pytest.mark.parametrize(
    ("fields", "chosen"),
    [
        ("low_scale: 20 high_scale: 50", [0, 3]),
        ("high_scale: 20", [1, 2]),
        ("low_scale: 64", [4]),
        ("low_scale: 60 high_scale: 62", [4]),
        ("low_scale: 200 high_scale: 300", [4]),
    ],
)
def test_regions_of_a_scale(fields: str, chosen: list[int]) -> None:
    boxes = [(0, 0, 19, 19), (3, 4, 12, 13), (50, 5, 40, 9), (1, 1, 40, 40), (0, 0, 63, 63)]
    rois = np.array([(0, *box) for box in boxes], float)
    x = RANDOM.normal(size=(5, 2, 3, 4))
    layer = make(ROUTE % fields)
    assert layer.tops([(5, 5), x.shape]) == ((1, 5, 1, 1), (1, 2, 3, 4))
    a, b = run(layer, [rois, x], dys=None).tops
    np.testing.assert_array_equal(a.reshape(-1, 5), rois[chosen])
    np.testing.assert_array_equal(b, x[chosen].astype(np.float32))


PYTHON = (
    'layer {{ name: "{0}" type: "Python" {1} {2} python_param {{ module: "{3}" layer: "{4}" param_str: "{5}" }} }}\n'
)


@pytest.mark.parametrize(
    ("info", "dialect"), [("", "r-c3d"), ("im_info", "rcnn")], ids=["spans of videos", "boxes of images"]
)
def test_python_code_of_one_name_for_images_or_videos(info: str, dialect: str) -> None:
    layers = [
        ("data", "", f"data {info} gt", "roi_data_layer.layer", "RoIDataLayer"),
        ("targets", f"data gt {info} data", "labels t i o", "rpn.anchor_target_layer", "AnchorTargetLayer"),
        ("rois", f"scores deltas {info}", "rois", "rpn.proposal_layer", "ProposalLayer"),
    ]
    shapes = "shape { dim: 1 dim: 18 dim: 4 dim: 5 } shape { dim: 1 dim: 36 dim: 4 dim: 5 }"
    text = f'layer {{ name: "i" type: "Input" top: "scores" top: "deltas" input_param {{ {shapes} }} }}\n'
    for name, bottoms, tops, module, kind in layers:
        ends = [
            " ".join(f'{end}: "{blob}"' for blob in blobs.split())
            for end, blobs in (("bottom", bottoms), ("top", tops))
        ]
        text += PYTHON.format(name, *ends, module, kind, "'feat_stride': 16")
    net = build(net_source(parse(text.encode(), "net")), faults=[])
    assert {node.layer.dialect for node in net.nodes if node.type == "Python"} == {dialect}


def test_two_tops_of_the_data_layer_are_those_of_videos() -> None:
    text = 'name: "l" type: "Python" %s python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" }'
    videos = make(text % 'top: "data" top: "gt_boxes"')
    assert type(videos).dialect == "r-c3d"
    assert videos.tops([]) == ((1, 3, 512, 112, 112), (1, 3))
    assert type(make(text % 'top: "data" top: "im_info" top: "gt_boxes"')).dialect == "rcnn"
