"""Layer types of forks: as the layers of Caffe that they stand for, and as their own sources say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat import analyze
from caffestat import net as nets
from caffestat.analysis import Runner, draw_feeds
from caffestat.errors import NetError, SourceError
from caffestat.fillers import Stream
from caffestat.layers import layer_dialects
from caffestat.layers.base import layer_types
from caffestat.net.source import net_source
from caffestat.program import from_net
from caffestat.program.lowering import lower
from caffestat.prototext import parse

from ..harness import TEST, TRAIN, make, run

DATA = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 dim: 5 dim: 7 } } }\n'
LOSS = """layer { name: "loss" type: "Reduction" bottom: "y" top: "loss" loss_weight: 1
  reduction_param { operation: SUMSQ } }"""
FIRST = {
    "action": "BNData",
    "c3d": "VideoData",
    "caffe-face": "CenterLoss",
    "cascade": "ROIAlign",
    "cedn": "Unpooling",
    "crfrnn": "MultiStageMeanfield",
    "da-rcnn": "GradientScaler",
    "depth": "AbsLoss",
    "frcnn": "FocalLoss",
    "happynear": "LabelSpecificAdd Resize TripletLoss",
    "mpi": "Warping",
    "nvidia": "L1Loss",
    "ocr": "Lstm Reverse Transpose",
    "p3d": "Pooling3D",
    "pwcnet": "Warp",
    "rcnn": "ROIPooling SmoothL1Loss roi_data_layer.layer.RoIDataLayer rpn.anchor_target_layer.AnchorTargetLayer"
    " rpn.proposal_layer.ProposalLayer rpn.proposal_target_layer.ProposalTargetLayer",
    "rrpn": "RotateROIPooling",
    "rtpose": "CPMData",
    "sq": "BinaryConvolution BinaryInnerProduct",
    "ssd": "DetectionEvaluate DetectionOutput Normalize Permute PriorBox",
    "tsn": "BN",
    "tvg": "ImageLabelData",
    "video-triplet": "RankHardLoss",
    "warpctc": "CtcLoss",
    "xlearn": "MMDLoss",
    "yolo": "RegionLoss Upsample",
    "yolov1": "BoxData DetectionLoss EvalDetection",
}
"""The first dialect of types that have several: that of a layer of which neither fields nor other layers tell it."""
X = np.random.default_rng(3).normal(1, 2, (2, 4, 5, 7)).astype(np.float32)


def build(layers: str, phase: int = TRAIN) -> nets.Net:
    source = net_source(parse((DATA + layers + "\n" + LOSS).encode(), "net.prototxt"))
    return nets.build(source, nets.State(phase), data="synthetic")


def measure(layers: str, phase: int = TRAIN):
    """Return the top `y`, the gradients of the layers' params by order, and the params after the pass."""
    net = build(layers, phase)
    params = nets.draw_params(net, Stream(7))
    runner = Runner(from_net(net), params, fetch=True)
    feeds = draw_feeds(runner, Stream(7), np.random.default_rng(0), {"x": X})
    runner.run(feeds)
    tops = {(node.name, 0): runner.tensors["top", node.index, 0] for node in net.nodes}
    last = next(node for node in reversed(net.nodes) if "y" in [net.blobs[blob].name for blob in node.tops])
    diffs = {
        (net.params[net.nodes[node].params[index]].param.role): value.ravel()
        for (kind, node, index), value in runner.tensors.items()
        if kind == "param_diff"
    }
    return tops[last.name, 0], diffs, params


TSN = """layer { name: "bn" type: "BN" bottom: "x" top: "y" %s
  bn_param { %s slope_filler { type: "uniform" min: 1 max: 3 } bias_filler { type: "constant" value: 0.5 } } }"""
PLAIN = """layer { name: "n" type: "BatchNorm" bottom: "x" top: "n"
  batch_norm_param { eps: %s use_global_stats: false } }
layer { name: "s" type: "Scale" bottom: "n" top: "y"
  scale_param { filler { type: "uniform" min: 1 max: 3 } bias_term: true bias_filler { value: 0.5 } } }"""


def test_bn_is_batch_norm_and_scale_in_one() -> None:
    top, diffs, params = measure(TSN % ("", "eps: 0.003 momentum: 0.7"))
    plain_top, plain_diffs, plain_params = measure(PLAIN % 0.003)
    np.testing.assert_allclose(top, plain_top, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(params[0].ravel(), plain_params[3])  # drawn alike: no other filler draws
    for role in ("scale", "bias"):
        np.testing.assert_allclose(diffs[role], plain_diffs[role], rtol=1e-4)
    mean, variance = X.mean((0, 2, 3)), X.var((0, 2, 3))
    assert [param.shape for param in params] == [(1, 4)] * 4
    np.testing.assert_allclose(params[2][0], 0.3 * mean, rtol=1e-5)
    np.testing.assert_allclose(params[3][0], 0.3 * variance, rtol=1e-5)


@pytest.mark.parametrize(
    "text",
    [
        'type: "Resize" resize_param { height_fac: inf width_fac: 1 }',
        'type: "ImResize" imresize_param { factor: nan }',
        'type: "MaskResize" mask_resize_param { output_height: 3 output_width: 3 factor_height: inf }',
    ],
)
def test_sizes_that_are_no_numbers_are_refused(text: str) -> None:
    with pytest.raises(NetError, match="cannot work with its settings"):
        build('layer { name: "l" bottom: "x" top: "y" ' + text + " }")


def test_steps_beyond_every_number_are_refused() -> None:
    settings = "inner_product_param { num_output: 4 } quantization_param { fl_layer_in: -100000 }"
    net = build(f'layer {{ name: "l" type: "FcRistretto" bottom: "x" top: "y" {settings} }}', TEST)
    with pytest.raises(NetError, match=r"layer 'l' .*cannot work with its settings"):
        lower(net)


def test_bn_of_nets_with_interp_has_the_params_of_pspnets_weights() -> None:
    enlarged = 'layer { name: "i" type: "Interp" bottom: "y" top: "z" interp_param { zoom_factor: 2 } }'
    net = build(TSN % ("", "") + enlarged)
    assert [param.param.shape for param in net.params] == [(1, 4, 1, 1)] * 4
    assert net.nodes[1].layer.dialect == "deeplab"


def test_frozen_bn_scales_by_what_is_stored_and_learns_nothing() -> None:
    top, diffs, params = measure(TSN % ("", "frozen: true eps: 0.25"))
    scale = params[0].reshape(1, 4, 1, 1)
    np.testing.assert_allclose(top, X * scale / np.sqrt(1.25) + 0.5, rtol=1e-5, atol=1e-6)
    assert diffs == {}
    net = build(TSN % ("param { lr_mult: 1 }", "frozen: true"))
    assert [param.lr_mult for param in net.params] == [0, 0, 0, 0]
    assert [param.lr_mult for param in build(TSN % ("", "")).params] == [1, 1, 0, 0]


def test_bn_uses_what_is_stored_in_the_test_phase() -> None:
    top, _, params = measure(TSN % ("", "eps: 0.04"), TEST)
    np.testing.assert_allclose(top, X * params[0].reshape(1, 4, 1, 1) / 0.2 + 0.5, rtol=1e-5, atol=1e-6)


SEGNET = """layers { name: "bn" type: BN bottom: "x" top: "y"
  bn_param { %s scale_filler { type: "constant" value: 2 } shift_filler { type: "constant" value: 0.5 } } }"""


@pytest.mark.parametrize("phase", [TRAIN, TEST])
def test_bn_of_segnet_has_two_params_and_the_batchs_statistics(phase: int) -> None:
    source = net_source(parse((OLD_DATA + SEGNET % "").encode(), "net.prototxt"))
    assert source.findings and "bn_param" in source.findings[0].message
    net = nets.build(source, nets.State(phase))
    assert [param.param.shape for param in net.params] == [(1, 4, 1, 1)] * 2
    assert [finding.message.partition(",")[0] for finding in net.findings] == ["type 'BN' is a fork's"]
    top = forward(net)
    centered = X - X.mean((0, 2, 3), keepdims=True)
    np.testing.assert_allclose(top, 2 * centered / X.std((0, 2, 3), keepdims=True) + 0.5, rtol=1e-4, atol=1e-5)


def test_bn_of_segnet_for_inference_is_a_scale() -> None:
    net = nets.build(net_source(parse((OLD_DATA + SEGNET % "bn_mode: INFERENCE").encode(), "net.prototxt")))
    np.testing.assert_allclose(forward(net), 2 * X + 0.5, rtol=1e-6)


OLD_DATA = 'input: "x" input_dim: 2 input_dim: 4 input_dim: 5 input_dim: 7\n'


def forward(net: nets.Net) -> np.ndarray:
    runner = Runner(from_net(net), nets.draw_params(net, Stream(7)), forward_only=True, fetch=True)
    runner.run(draw_feeds(runner, Stream(7), np.random.default_rng(0), {"x": X}))
    return runner.tensors["top", len(net.nodes) - 1, 0]


CONV = 'layer { name: "c" type: "%s" bottom: "x" top: "y" convolution_param { %s kernel_size: 3 %s } }'
FILLER = 'weight_filler { type: "xavier" }'


@pytest.mark.parametrize(
    ("fork", "plain"),
    [
        (("DepthwiseConvolution", "num_output: 8"), "num_output: 8 group: 4"),
        (("DepthwiseConv", "num_output: 4 group: 4 stride: 2"), "num_output: 4 group: 4 stride: 2"),
        (("ConvolutionDepthwise", "num_output: 20 pad: 1"), "num_output: 4 group: 4 pad: 1"),
        (("ConvolutionDepthwise", "bias_term: false hole: 2"), "num_output: 4 group: 4 bias_term: false dilation: 2"),
    ],
)
def test_depthwise_convolutions_are_grouped_ones(fork: tuple[str, str], plain: str) -> None:
    top, diffs, params = measure(CONV % (*fork, FILLER))
    plain_top, plain_diffs, plain_params = measure(CONV % ("Convolution", plain, FILLER))
    np.testing.assert_array_equal(top, plain_top)
    assert [param.shape for param in params] == [param.shape for param in plain_params]
    for role, diff in plain_diffs.items():
        np.testing.assert_array_equal(diffs[role], diff)
    grouped = build(CONV % ("Convolution", plain, FILLER))
    assert [p.param for p in build(CONV % (*fork, FILLER)).params] == [p.param for p in grouped.params]


def test_relu6_passes_gradients_strictly_inside() -> None:
    x = np.array([[-1, 0, 0.5, 3], [5.9, 6, 6.1, 9]], np.float32)
    dy = np.arange(2, 10, dtype=np.float32).reshape(2, 4)
    for top in ("y", "x"):
        it = make(f'name: "r" type: "ReLU6" bottom: "x" top: "{top}"')
        result = run(it, [x], dys=[dy])
        np.testing.assert_array_equal(result.tops[0], x.clip(0, 6))
        np.testing.assert_array_equal(result.bottoms[0], np.where((x > 0) & (x < 6), dy, 0))


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("frozen: 2", '3:22: frozen in bn_param (TsnBNParameter) of layer "bn": expected true or false, found 2'),
        ("eps: 'a'", "3:19: eps in bn_param (TsnBNParameter) of layer \"bn\": expected a number, found 'a'"),
        ("momentum { }", "found a message in braces"),
        ("bias_filler { sparse: 0.5 }", "expected an integer"),
    ],
)
def test_settings_that_cannot_be_read(setting: str, expected: str) -> None:
    text = TSN.replace('bias_filler { type: "constant" value: 0.5 }', "") % ("", setting)
    with pytest.raises(SourceError) as caught:
        build(text)
    assert expected in str(caught.value)


def test_a_type_of_a_fork_is_told_of_once() -> None:
    relu6 = 'layer { name: "%s" type: "ReLU6" bottom: "%s" top: "%s" }\n'
    net = build(relu6 % ("a", "x", "a") + relu6 % ("b", "a", "y"))
    assert [str(finding) for finding in net.findings] == [
        "net.prototxt:2:1: type 'ReLU6' is a fork's, taken as Clip from 0 to 6"
    ]


def test_python_code_of_a_known_name_that_takes_other_blobs_is_any_code() -> None:
    code = 'python_param { module: "rpn.proposal_layer" layer: "ProposalLayer" }'
    net = build(f'layer {{ name: "p" type: "Python" top: "y" {code} }}')
    assert net.nodes[1].top_shapes == (None,)
    assert type(net.nodes[1].layer).__name__ == "Python"


LSTM = """layer { name: "sum" type: "InnerProduct" bottom: "x" top: "s" inner_product_param { num_output: 3 %s } }
layer { name: "l" type: "Lstm" bottom: "s" top: "y" lstm_param { num_output: 2 } }"""


@pytest.mark.parametrize(("axis", "dialect", "top"), [("", "junhyukoh", (2, 2)), ("axis: 2", "ocr", (2, 4, 2))])
def test_shapes_tell_dialects_apart_where_fields_do_not(axis: str, dialect: str, top: tuple[int, ...]) -> None:
    net = build(LSTM % axis)
    node = net.nodes[2]
    assert type(node.layer).dialect == dialect
    assert node.top_shapes == (top,)
    said = [finding.message for finding in net.findings if "bottoms of these shapes" in finding.message]
    assert len(said) == (dialect == "junhyukoh")


def test_a_layer_that_fits_no_dialect_is_taken_as_of_the_first() -> None:
    text = """layer { name: "p" type: "Reduction" bottom: "x" top: "p" reduction_param { axis: 0 } }
layer { name: "l" type: "Lstm" bottom: "p" top: "y" lstm_param { num_output: 0 } }"""
    net = build(text)
    assert any("at least 3 axes" in finding.message for finding in net.findings)
    assert net.nodes[2].top_shapes == (None,)


def test_a_dialect_claims_layers_by_the_types_of_their_net(tmp_path: Path) -> None:
    words = 'layer { name: "i" type: "Input" top: "w" top: "x" top: "r" input_param { shape { dim: 3 dim: 1 } '
    words += "shape { dim: 1 dim: 2 dim: 8 dim: 8 } shape { dim: 3 dim: 5 } } }\n"
    embed = 'layer { name: "e" type: "Embed" bottom: "w" top: "e" embed_param { num_output: 4 input_dim: 6 } }\n'
    pool = 'layer { name: "p" type: "Pooling" bottom: "x" top: "p" pooling_param { kernel_size: 2 stride: %d } }\n'
    rois = 'layer { name: "o" type: "ROIPooling" bottom: "x" bottom: "r" top: "o" '
    rois += "roi_pooling_param { pooled_h: 2 pooled_w: 2 } }\n"
    larger = 'layer { name: "u" type: "Upsample" bottom: "p" top: "u" upsample_param { scale: 2 } }\n'

    def tops(text: str, *names: str) -> list[object]:
        path = tmp_path / "net.prototxt"
        path.write_text(words + text)
        shapes = {layer.name: layer.tops[0].shape for layer in analyze(str(path), static=True).layers}
        return [shapes[name] for name in names]

    assert tops(embed + pool % 1, "e", "p") == [(3, 1, 4), (1, 2, 7, 7)]
    assert tops(embed + pool % 1 + rois, "e", "p") == [(3, 4), (1, 2, 7, 7)]
    assert tops(embed + pool % 1 + larger, "e", "p", "u") == [(3, 1, 4), (1, 2, 8, 8), (1, 2, 16, 16)]
    assert tops(pool % 2 + larger, "p") == [(1, 2, 4, 4)]


def test_the_first_dialect_of_a_type_does_not_change_with_imports() -> None:
    found = {name: layer_dialects(name) for name in layer_types()}
    firsts = {name: classes[0].dialect for name, classes in found.items() if len(classes) > 1 and classes[0].dialect}
    assert firsts == {name: dialect for dialect, names in FIRST.items() for name in names.split()}
