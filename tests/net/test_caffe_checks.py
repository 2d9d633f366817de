"""What Caffe refuses when it sets a net up, and what it takes although it looks wrong: its CHECKs, one by one.

Each case stands for a CHECK or LOG(FATAL) of BVLC's sources (commit 9b89154), or for the absence of one. Lenience that
forks need is marked: such a net is built, with a warning.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

import caffestat
from caffestat import net as nets
from caffestat.errors import CaffestatError, NetError
from caffestat.fillers import Stream
from caffestat.layers.data import DummyData
from caffestat.net.source import net_source
from caffestat.prototext import parse

REFUSED, TAKEN, WARNED = "refused", "taken", "taken, with a warning"
FORKS = WARNED  # Caffe refuses it, its forks do not, or a layer of theirs may be meant
STRICTER = REFUSED  # Caffe takes it, and computes noise


@dataclass(frozen=True)
class Case:
    """A layer below Input layers of some shapes.

    source   the file of Caffe's that decides
    bottoms  their shapes: "2,3 2" are b0 and b1; "" is a scalar, in the place of a shape
    top      "t", several names, or "b0" for work in place
    """

    source: str
    type: str
    bottoms: str
    fields: str
    verdict: str
    tops: str = "t"

    @property
    def text(self) -> str:
        shapes = self.bottoms.split()
        inputs = [
            f'layer {{ name: "i{n}" type: "Input" top: "b{n}" input_param {{ shape {{ {_dims(shape)} }} }} }}\n'
            for n, shape in enumerate(shapes)
        ]
        bottoms = "".join(f' bottom: "b{n}"' for n in range(len(shapes)))
        tops = "".join(f' top: "{name}"' for name in self.tops.split())
        return "".join(inputs) + f'layer {{ name: "l" type: "{self.type}"{bottoms}{tops} {self.fields} }}\n'

    def __str__(self) -> str:
        return f"{self.type}-{self.bottoms}-{self.fields}-{self.tops}".replace(" ", "")


def _dims(shape: str) -> str:
    return " ".join(f"dim: {size}" for size in shape.split(",") if size != "scalar")


IMAGES = "2,3,6,5"


def _conv(fields: str) -> str:
    return f"convolution_param {{ {fields} }}"


LAYERS = [
    # blob.cpp, blob.hpp
    Case("blob.cpp", "Input", "", "input_param { shape { dim: 0 dim: 3 } }", TAKEN),
    Case("blob.cpp", "Input", "", "input_param { shape { dim: -1 dim: 3 } }", REFUSED),
    Case("blob.cpp", "Input", "", f"input_param {{ shape {{ {'dim: 1 ' * 32} }} }}", TAKEN),
    Case("blob.cpp", "Input", "", f"input_param {{ shape {{ {'dim: 1 ' * 33} }} }}", REFUSED),
    Case("blob.cpp", "Input", "", "input_param { shape { dim: 65536 dim: 32768 } }", REFUSED),
    Case("blob.cpp", "Input", "", "input_param { shape { dim: 65535 dim: 32768 } }", TAKEN),
    Case("blob.cpp", "Input", "", "input_param { shape { } }", TAKEN),
    Case("filler.hpp", "DummyData", "", "dummy_data_param { shape { dim: 0 dim: 3 } }", REFUSED),
    Case(
        "filler.hpp", "DummyData", "", 'dummy_data_param { data_filler { type: "gaussian" } shape { dim: 0 } }', REFUSED
    ),
    # input_layer.cpp, dummy_data_layer.cpp
    Case("input_layer.cpp", "Input", "", "", WARNED),
    Case("input_layer.cpp", "Input", "", "input_param { shape { dim: 2 } }", TAKEN, "t u v"),
    Case("input_layer.cpp", "Input", "", "input_param { shape { dim: 2 } shape { dim: 3 } }", REFUSED, "t u v"),
    Case("dummy_data_layer.cpp", "DummyData", "", "", REFUSED),
    Case("dummy_data_layer.cpp", "DummyData", "", "dummy_data_param { shape { dim: 2 } num: 1 }", REFUSED),
    Case("dummy_data_layer.cpp", "DummyData", "", "dummy_data_param { num: 1 channels: 2 height: 3 }", REFUSED),
    Case("dummy_data_layer.cpp", "DummyData", "", "dummy_data_param { num: 1 channels: 2 height: 3 width: 4 }", TAKEN),
    Case(
        "dummy_data_layer.cpp",
        "DummyData",
        "",
        "dummy_data_param { shape { dim: 2 } data_filler { } data_filler { } }",
        REFUSED,
        "t u v",
    ),
    Case("filler.hpp", "DummyData", "", 'dummy_data_param { shape { dim: 2 } data_filler { type: "no" } }', REFUSED),
    # layer.hpp: numbers of bottoms and tops
    Case("layer.hpp", "ReLU", "2,3 2,3", "", REFUSED),
    Case("layer.hpp", "ReLU", "2,3", "", REFUSED, "t u"),
    Case("layer.hpp", "Concat", "", "", FORKS),
    Case("layer.hpp", "Eltwise", "2,3", "", FORKS),
    Case("layer.hpp", "SoftmaxWithLoss", "2,3 2", "", FORKS, "t u v"),
    Case("layer.hpp", "Accuracy", "2,3 2", "", FORKS, "t u v"),
    Case("layer.hpp", "MVN", "2,3,4,5", "", REFUSED, "t u"),
    Case("layer.hpp", "Convolution", "2,3,6,5 2,3,6,5", _conv("num_output: 4 kernel_size: 3"), REFUSED, "t"),
    Case("layer.hpp", "Convolution", "2,3,6,5 2,3,6,5", _conv("num_output: 4 kernel_size: 3"), TAKEN, "t u"),
    Case("layer.hpp", "ReLU", "2,3", "loss_weight: 1 loss_weight: 2", REFUSED),
    Case("layer.hpp", "ReLU", "2,3", "loss_weight: 1", TAKEN),
    Case("layer.hpp", "ReLU", "2,3", "loss_weight: 1", WARNED, "b0"),
    # net.cpp
    Case("net.cpp", "ReLU", "2,3", "propagate_down: true propagate_down: false", REFUSED),
    Case("net.cpp", "ReLU", "2,3", "param { }", REFUSED),
    Case(
        "net.cpp", "InnerProduct", "2,3", "inner_product_param { num_output: 4 } param { } param { } param { }", REFUSED
    ),
    Case("net.cpp", "ReLU", "2,3", 'bottom: "lost"', REFUSED),
    # in place: over what is still read, or in another shape
    Case("inner_product_layer.cpp", "InnerProduct", "2,3", "inner_product_param { num_output: 4 }", STRICTER, "b0"),
    Case("inner_product_layer.cpp", "InnerProduct", "2,3", "inner_product_param { num_output: 3 }", STRICTER, "b0"),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 2 stride: 2 }", STRICTER, "b0"),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 3 pad: 1 }", STRICTER, "b0"),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 3 kernel_size: 3"), STRICTER, "b0"),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 3 kernel_size: 3 pad: 1"), TAKEN, "b0"),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 3 kernel_size: 1"), STRICTER, "b0"),
    Case(
        "base_conv_layer.cpp",
        "Deconvolution",
        f"{IMAGES} {IMAGES}",
        _conv("num_output: 3 kernel_size: 1"),
        STRICTER,
        "t b1",
    ),
    Case("concat_layer.cpp", "Concat", "2,3 2,4", "", STRICTER, "b0"),
    Case("concat_layer.cpp", "Concat", "2,3", "", TAKEN, "b0"),
    Case("crop_layer.cpp", "Crop", "2,3,6,5 2,3,4,4", "", STRICTER, "b0"),
    Case("crop_layer.cpp", "Crop", f"{IMAGES} {IMAGES}", "", STRICTER, "b0"),
    Case("im2col_layer.cpp", "Im2col", IMAGES, _conv("kernel_size: 1"), STRICTER, "b0"),
    Case("batch_reindex_layer.cpp", "BatchReindex", "2,3 2", "", STRICTER, "b0"),
    Case("recurrent_layer.cpp", "LSTM", "4,2,3 4,2", "recurrent_param { num_output: 3 }", STRICTER, "b0"),
    Case("tile_layer.cpp", "Tile", "2,3", "tile_param { tiles: 2 }", STRICTER, "b0"),
    Case("reduction_layer.cpp", "Reduction", "2,3", "", STRICTER, "b0"),
    Case("net.cpp", "ReLU", "2,3", "include { phase: TRAIN } exclude { phase: TEST }", REFUSED),
    Case("layer_factory.cpp", "Relu", "2,3", "", FORKS),
    Case("layer_factory.cpp", "", "2,3", "", FORKS),
    # absval_layer.cpp, accuracy_layer.cpp, argmax_layer.cpp
    Case("absval_layer.cpp", "AbsVal", "2,3", "", REFUSED, "b0"),
    Case("accuracy_layer.cpp", "Accuracy", "2,3 2", "accuracy_param { top_k: 4 }", REFUSED),
    Case("accuracy_layer.cpp", "Accuracy", "2,3 2", "accuracy_param { top_k: 3 }", TAKEN),
    Case("accuracy_layer.cpp", "Accuracy", "2,3 2", "accuracy_param { top_k: 0 }", TAKEN),
    Case("accuracy_layer.cpp", "Accuracy", "2,3 3", "", REFUSED),
    Case("accuracy_layer.cpp", "Accuracy", "2,3,4 2,4", "", TAKEN),
    Case("accuracy_layer.cpp", "Accuracy", "2,3,4 8", "", TAKEN),
    Case("accuracy_layer.cpp", "Accuracy", "2,3 2", "accuracy_param { axis: 2 }", REFUSED),
    Case("argmax_layer.cpp", "ArgMax", "2,3", "argmax_param { top_k: 0 }", REFUSED),
    Case("argmax_layer.cpp", "ArgMax", "2,3", "argmax_param { top_k: 4 }", REFUSED),
    Case("argmax_layer.cpp", "ArgMax", "2,3,4", "argmax_param { top_k: 12 }", TAKEN),
    Case("argmax_layer.cpp", "ArgMax", "2,3,4", "argmax_param { top_k: 4 axis: 1 }", REFUSED),
    Case("argmax_layer.cpp", "ArgMax", "2,3,4", "argmax_param { axis: 3 }", REFUSED),
    # base_conv_layer.cpp, im2col_layer.cpp
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("kernel_size: 3"), REFUSED),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4"), REFUSED),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_size: 0"), REFUSED),
    Case(
        "base_conv_layer.cpp",
        "Convolution",
        IMAGES,
        _conv("num_output: 4 kernel_size: 3 kernel_h: 3 kernel_w: 3"),
        REFUSED,
    ),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_h: 3"), REFUSED),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_h: 3 kernel_w: 2"), TAKEN),
    Case("base_conv_layer.cpp", "Convolution", "2,3,6", _conv("num_output: 4 kernel_h: 3 kernel_w: 2"), REFUSED),
    Case("base_conv_layer.cpp", "Convolution", "2,3,6", _conv("num_output: 4 kernel_size: 3"), TAKEN),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_size: 3 kernel_size: 2"), TAKEN),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4" + " kernel_size: 3" * 3), REFUSED),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_size: 3 stride: 0"), REFUSED),
    Case(
        "base_conv_layer.cpp",
        "Convolution",
        IMAGES,
        _conv("num_output: 4 kernel_size: 3 stride: 2 stride_h: 2"),
        REFUSED,
    ),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_size: 3 stride_h: 2"), REFUSED),
    Case(
        "base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_size: 3" + " stride: 1" * 3), REFUSED
    ),
    Case(
        "base_conv_layer.cpp",
        "Convolution",
        IMAGES,
        _conv("num_output: 4 kernel_size: 3 pad: 1 pad_h: 1 pad_w: 1"),
        REFUSED,
    ),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_size: 3 pad_h: 1"), TAKEN),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_size: 3" + " pad: 1" * 3), REFUSED),
    Case(
        "base_conv_layer.cpp",
        "Convolution",
        IMAGES,
        _conv("num_output: 4 kernel_size: 3" + " dilation: 1" * 3),
        REFUSED,
    ),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_size: 3 dilation: 0"), STRICTER),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_size: 3 group: 2"), REFUSED),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_size: 3 group: 3"), REFUSED),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 6 kernel_size: 3 group: 3"), TAKEN),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_size: 7"), REFUSED),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_size: 3 axis: 4"), REFUSED),
    Case("base_conv_layer.cpp", "Convolution", IMAGES, _conv("num_output: 4 kernel_size: 3 axis: -3"), TAKEN),
    Case(
        "base_conv_layer.cpp", "Convolution", "2,3,6,5 2,3,6,4", _conv("num_output: 4 kernel_size: 3"), REFUSED, "t u"
    ),
    Case("base_conv_layer.cpp", "Deconvolution", IMAGES, _conv("num_output: 4 kernel_size: 3"), TAKEN),
    Case("base_conv_layer.cpp", "Deconvolution", IMAGES, _conv("num_output: 4 kernel_size: 3 group: 2"), REFUSED),
    Case(
        "filler.hpp",
        "Deconvolution",
        IMAGES,
        _conv('num_output: 3 group: 3 kernel_h: 3 kernel_w: 2 weight_filler { type: "bilinear" }'),
        REFUSED,
    ),
    Case("im2col_layer.cpp", "Im2col", IMAGES, _conv("kernel_size: 3"), TAKEN),
    Case("im2col_layer.cpp", "Im2col", IMAGES, _conv("kernel_size: 0"), REFUSED),
    Case("im2col_layer.cpp", "Im2col", IMAGES, _conv(""), REFUSED),
    Case("im2col_layer.cpp", "Im2col", IMAGES, _conv("kernel_size: 3 stride: 0"), REFUSED),
    Case("im2col_layer.cpp", "Im2col", "2,3", _conv("kernel_size: 3"), REFUSED),
    # batch_norm_layer.cpp, batch_reindex_layer.cpp, bias_layer.cpp
    Case("batch_norm_layer.cpp", "BatchNorm", IMAGES, "param { lr_mult: 1 }", REFUSED),
    Case("batch_norm_layer.cpp", "BatchNorm", IMAGES, "param { lr_mult: 0 }", TAKEN),
    Case("batch_norm_layer.cpp", "BatchNorm", "4", "", REFUSED),
    Case("batch_reindex_layer.cpp", "BatchReindex", "2,3 4,1", "", REFUSED),
    Case("batch_reindex_layer.cpp", "BatchReindex", "2,3 4", "", TAKEN),
    Case("filler.hpp", "Bias", "2,0", "", REFUSED),
    Case("filler.hpp", "InnerProduct", "2,0", "inner_product_param { num_output: 4 }", REFUSED),
    Case("bias_layer.cpp", "Bias", "2,3,4", "bias_param { axis: 1 num_axes: 3 }", REFUSED),
    Case("bias_layer.cpp", "Bias", "2,3,4", "bias_param { axis: 1 num_axes: -2 }", REFUSED),
    Case("bias_layer.cpp", "Bias", "2,3,4", "bias_param { axis: 1 num_axes: 0 }", TAKEN),
    Case("bias_layer.cpp", "Bias", "2,3,4 3,4", "bias_param { axis: 1 }", TAKEN),
    Case("bias_layer.cpp", "Bias", "2,3,4 4,3", "bias_param { axis: 1 }", REFUSED),
    Case("bias_layer.cpp", "Bias", "2,3,4 3,4,1", "bias_param { axis: 1 }", REFUSED),
    Case("bias_layer.cpp", "Bias", "2,3,4 scalar", "bias_param { axis: 0 }", TAKEN),
    Case("bias_layer.cpp", "Bias", "2,3,4 4", "bias_param { axis: 3 }", REFUSED),
    # clip_layer.cpp, concat_layer.cpp, contrastive_loss_layer.cpp, crop_layer.cpp
    Case("clip_layer.cpp", "Clip", "2,3", "clip_param { min: 2 max: 1 }", TAKEN),
    Case("clip_layer.cpp", "Clip", "2,3", "clip_param { min: 2 }", REFUSED),  # required in caffe.proto
    Case("concat_layer.cpp", "Concat", "2,3 2,4", "", TAKEN),
    Case("concat_layer.cpp", "Concat", "2,3", "", TAKEN),
    Case("concat_layer.cpp", "Concat", "2,3 2,4", "concat_param { axis: 0 }", REFUSED),
    Case("concat_layer.cpp", "Concat", "2,3 2,4,1", "", FORKS),
    Case("concat_layer.cpp", "Concat", "2,3 2,4", "concat_param { axis: 2 }", REFUSED),
    Case("concat_layer.cpp", "Concat", "2,3 2,4", "concat_param { axis: -1 }", TAKEN),
    Case("concat_layer.cpp", "Concat", "2,3 2,4", "concat_param { axis: 1 concat_dim: 1 }", REFUSED),
    Case("concat_layer.cpp", "Concat", "2,3 2,4", "concat_param { concat_dim: 2 }", REFUSED),
    Case("concat_layer.cpp", "Concat", "2,3 2,4", "concat_param { concat_dim: 4294967295 }", REFUSED),
    Case("contrastive_loss_layer.cpp", "ContrastiveLoss", "2,3 2,3 2", "", TAKEN),
    Case("contrastive_loss_layer.cpp", "ContrastiveLoss", "2,3 2,4 2", "", REFUSED),
    Case("contrastive_loss_layer.cpp", "ContrastiveLoss", "2,3,1,1 2,3,1,1 2,1,1,1", "", TAKEN),
    Case("contrastive_loss_layer.cpp", "ContrastiveLoss", "2,3,4,1 2,3,4,1 2", "", REFUSED),
    Case("contrastive_loss_layer.cpp", "ContrastiveLoss", "2,3 2,3 2,2", "", REFUSED),
    Case("contrastive_loss_layer.cpp", "ContrastiveLoss", "2,3 2,3 3", "", WARNED),
    Case("contrastive_loss_layer.cpp", "ContrastiveLoss", "2,3 2,3 1,2", "", REFUSED),
    Case("blob.hpp", "ContrastiveLoss", "2,3,1,1,1 2,3,1,1,1 2", "", REFUSED),
    Case("crop_layer.cpp", "Crop", "2,3,6,5 2,3,4,4", "crop_param { offset: 1 }", TAKEN),
    Case("crop_layer.cpp", "Crop", "2,3,6,5 2,3,4,4", "crop_param { offset: 2 }", REFUSED),
    Case("crop_layer.cpp", "Crop", "2,3,6,5 2,3,4,4", "crop_param { axis: 4 }", REFUSED),
    Case("crop_layer.cpp", "Crop", "2,3,6,5 2,3,4,4", "crop_param { axis: 2 offset: 1 offset: 1 offset: 0 }", REFUSED),
    Case("crop_layer.cpp", "Crop", "2,3,6,5 2,3,4,4", "crop_param { axis: 2 offset: 2 offset: 1 }", TAKEN),
    # eltwise_layer.cpp, embed_layer.cpp, euclidean_loss_layer.cpp, exp_layer.cpp
    Case("eltwise_layer.cpp", "Eltwise", "2,3 2,3", "", TAKEN),
    Case("eltwise_layer.cpp", "Eltwise", "2,3 2,4", "", REFUSED),
    Case("eltwise_layer.cpp", "Eltwise", "2,3 2,3", "eltwise_param { coeff: 1 }", REFUSED),
    Case("eltwise_layer.cpp", "Eltwise", "2,3 2,3", "eltwise_param { operation: PROD coeff: 1 coeff: 2 }", REFUSED),
    Case("eltwise_layer.cpp", "Eltwise", "2,3 2,3", "eltwise_param { operation: MAX coeff: 1 coeff: 2 }", TAKEN),
    Case("embed_layer.cpp", "Embed", "2,3", "embed_param { num_output: 4 }", REFUSED),
    Case("embed_layer.cpp", "Embed", "2,3", "embed_param { input_dim: 4 }", REFUSED),
    Case("embed_layer.cpp", "Embed", "2,3", "embed_param { input_dim: 4 num_output: 5 }", TAKEN),
    Case("euclidean_loss_layer.cpp", "EuclideanLoss", "2,3 2,3", "", TAKEN),
    Case("euclidean_loss_layer.cpp", "EuclideanLoss", "2,3 2,4", "", REFUSED),
    Case("euclidean_loss_layer.cpp", "EuclideanLoss", "2,3,4 2,12", "", TAKEN),
    Case("blob.hpp", "EuclideanLoss", "2,3,4,1,2 2,24", "", FORKS),
    Case("loss_layer.cpp", "EuclideanLoss", "2,3 3,2", "", REFUSED),
    Case("exp_layer.cpp", "Exp", "2,3", "exp_param { base: 0 }", REFUSED),
    Case("exp_layer.cpp", "Exp", "2,3", "exp_param { base: -2 }", REFUSED),
    Case("exp_layer.cpp", "Exp", "2,3", "exp_param { base: -1 }", TAKEN),
    Case("exp_layer.cpp", "Exp", "2,3", "exp_param { base: 1 }", TAKEN),
    Case("exp_layer.cpp", "Exp", "2,3", "exp_param { base: inf }", REFUSED),
    # filter_layer.cpp, flatten_layer.cpp
    Case("filter_layer.cpp", "Filter", "2,3 2", "", TAKEN),
    Case("filter_layer.cpp", "Filter", "2,3 2", "", REFUSED, "t u"),
    Case("filter_layer.cpp", "Filter", "2,3 2,2", "", REFUSED),
    Case("filter_layer.cpp", "Filter", "2,3 3", "", REFUSED),
    Case("flatten_layer.cpp", "Flatten", "2,3,4", "", REFUSED, "b0"),
    Case("flatten_layer.cpp", "Flatten", "2,3,4", "flatten_param { axis: 3 }", REFUSED),
    Case("flatten_layer.cpp", "Flatten", "2,3,4", "flatten_param { axis: 2 end_axis: 1 }", TAKEN),
    Case("flatten_layer.cpp", "Flatten", "2,3,4", "flatten_param { axis: 2 end_axis: 0 }", REFUSED),
    # hinge_loss, infogain_loss, inner_product, log, lrn
    Case("hinge_loss_layer.cpp", "HingeLoss", "2,3 2", "", TAKEN),
    Case("blob.hpp", "HingeLoss", "2,3,1,2,2 2", "", FORKS),
    Case("hinge_loss_layer.cpp", "HingeLoss", "2,3 3", "", REFUSED),
    Case("hinge_loss_layer.cpp", "HingeLoss", "2,3 2,2", "", WARNED),
    Case("infogain_loss_layer.cpp", "InfogainLoss", "2,3 2 3,3", "", TAKEN),
    Case("infogain_loss_layer.cpp", "InfogainLoss", "2,3 2 3,2", "", REFUSED),
    Case("infogain_loss_layer.cpp", "InfogainLoss", "2,3 2 1,1,3,3", "", TAKEN),
    Case("infogain_loss_layer.cpp", "InfogainLoss", "2,3 2", "", REFUSED),
    Case("infogain_loss_layer.cpp", "InfogainLoss", "2,3 2 3,3", "loss_param { normalize: true }", REFUSED),
    Case("infogain_loss_layer.cpp", "InfogainLoss", "2,3 2,2 3,3", "", REFUSED),
    Case("inner_product_layer.cpp", "InnerProduct", "2,3", "", REFUSED),
    Case("inner_product_layer.cpp", "InnerProduct", "2,3", "inner_product_param { num_output: 4 axis: 2 }", REFUSED),
    Case("inner_product_layer.cpp", "InnerProduct", "2,3", "inner_product_param { num_output: 4 axis: 0 }", TAKEN),
    Case("inner_product_layer.cpp", "InnerProduct", "2,3", "inner_product_param { num_output: 4 axis: -1 }", TAKEN),
    Case(
        "filler.hpp",
        "InnerProduct",
        "2,3",
        'inner_product_param { num_output: 4 weight_filler { type: "x" } }',
        REFUSED,
    ),
    Case("log_layer.cpp", "Log", "2,3", "log_param { base: 0 }", REFUSED),
    Case("log_layer.cpp", "Log", "2,3", "log_param { base: 1 }", REFUSED),
    Case("log_layer.cpp", "Log", "2,3", "log_param { base: 2 }", TAKEN),
    Case("lrn_layer.cpp", "LRN", IMAGES, "lrn_param { local_size: 4 }", REFUSED),
    Case("lrn_layer.cpp", "LRN", IMAGES, "lrn_param { local_size: 0 }", REFUSED),
    Case("lrn_layer.cpp", "LRN", "2,3,6", "", REFUSED),
    Case("lrn_layer.cpp", "LRN", IMAGES, "lrn_param { local_size: 3 norm_region: WITHIN_CHANNEL }", TAKEN),
    # multinomial_logistic_loss_layer.cpp
    Case("multinomial_logistic_loss_layer.cpp", "MultinomialLogisticLoss", "2,3 2", "", TAKEN),
    Case("multinomial_logistic_loss_layer.cpp", "MultinomialLogisticLoss", "2,3 2,2", "", REFUSED),
    Case("multinomial_logistic_loss_layer.cpp", "MultinomialLogisticLoss", "2,3 3", "", REFUSED),
    Case("multinomial_logistic_loss_layer.cpp", "MultinomialLogisticLoss", "2,3 2,1,1,1", "", TAKEN),
    Case("blob.hpp", "MultinomialLogisticLoss", "2,3,1,1,2 2", "", FORKS),
    # pooling_layer.cpp
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 0 }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_h: 2 }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_h: 2 kernel_w: 3 }", TAKEN),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 2 kernel_h: 2 kernel_w: 3 }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 2 kernel_h: 2 }", TAKEN),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { global_pooling: true }", TAKEN),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { global_pooling: true kernel_size: 2 }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { global_pooling: true stride: 2 }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { global_pooling: true pad: 1 }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 2 pad: 2 }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 2 pad: 1 pad_h: 1 }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 2 pad_h: 1 }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 2 pad_h: 1 pad_w: 0 }", TAKEN),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 2 stride: 1 stride_h: 1 }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 2 stride_w: 1 }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 2 pad: 1 pool: STOCHASTIC }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", "2,3,6", "pooling_param { kernel_size: 2 }", REFUSED),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 2 }", TAKEN, "t u"),
    Case("pooling_layer.cpp", "Pooling", IMAGES, "pooling_param { kernel_size: 2 pool: AVE }", REFUSED, "t u"),
    # prelu, recurrent, reduction, reshape
    Case("prelu_layer.cpp", "PReLU", "2", "", REFUSED),
    Case("prelu_layer.cpp", "PReLU", "2,3", "", TAKEN),
    Case("recurrent_layer.cpp", "LSTM", "4,2,3 4,2", "recurrent_param { num_output: 5 }", TAKEN),
    Case("recurrent_layer.cpp", "LSTM", "4,2,3 4,2", "", REFUSED),
    Case("recurrent_layer.cpp", "LSTM", "4,2,3 4", "recurrent_param { num_output: 5 }", REFUSED),
    Case("recurrent_layer.cpp", "LSTM", "4,2,3 3,2", "recurrent_param { num_output: 5 }", REFUSED),
    Case("recurrent_layer.cpp", "LSTM", "4 4", "recurrent_param { num_output: 5 }", REFUSED),
    Case("recurrent_layer.cpp", "LSTM", "4,2,3 4,2 2,7", "recurrent_param { num_output: 5 }", TAKEN),
    Case("recurrent_layer.cpp", "LSTM", "4,2,3 4,2 3,7", "recurrent_param { num_output: 5 }", REFUSED),
    Case("recurrent_layer.cpp", "RNN", "4,2,3 4,2", "recurrent_param { num_output: 5 expose_hidden: true }", REFUSED),
    Case(
        "recurrent_layer.cpp",
        "RNN",
        "4,2,3 4,2 1,2,5",
        "recurrent_param { num_output: 5 expose_hidden: true }",
        TAKEN,
        "t u",
    ),
    Case(
        "recurrent_layer.cpp",
        "RNN",
        "4,2,3 4,2 1,2,6",
        "recurrent_param { num_output: 5 expose_hidden: true }",
        REFUSED,
        "t u",
    ),
    Case("lstm_unit_layer.cpp", "LSTMUnit", "1,2,3 1,2,12 1,2", "", TAKEN, "t u"),
    Case("lstm_unit_layer.cpp", "LSTMUnit", "1,2,3 1,2,11 1,2", "", REFUSED, "t u"),
    Case("lstm_unit_layer.cpp", "LSTMUnit", "2,2,3 2,2,12 2,2", "", REFUSED, "t u"),
    Case("reduction_layer.cpp", "Reduction", "2,3", "reduction_param { axis: 2 }", REFUSED),
    Case("reduction_layer.cpp", "Reduction", "2,3", "reduction_param { axis: -2 }", TAKEN),
    Case("reshape_layer.cpp", "Reshape", "2,3,4", "reshape_param { shape { dim: 0 dim: -1 } }", TAKEN),
    Case("reshape_layer.cpp", "Reshape", "2,3,4", "reshape_param { shape { dim: 0 dim: -1 } }", REFUSED, "b0"),
    Case("reshape_layer.cpp", "Reshape", "2,3,4", "reshape_param { shape { dim: -1 dim: -1 } }", REFUSED),
    Case("reshape_layer.cpp", "Reshape", "2,3,4", "reshape_param { shape { dim: 5 dim: -1 } }", REFUSED),
    Case("reshape_layer.cpp", "Reshape", "2,3,4", "reshape_param { shape { dim: 2 dim: 3 } }", REFUSED),
    Case("reshape_layer.cpp", "Reshape", "2,3,4", "reshape_param { shape { dim: -2 dim: -12 } }", REFUSED),
    Case("reshape_layer.cpp", "Reshape", "2,3,4", "reshape_param { axis: 3 shape { dim: 1 } }", TAKEN),
    Case("reshape_layer.cpp", "Reshape", "2,3,4", "reshape_param { axis: 4 shape { dim: 1 } }", REFUSED),
    Case("reshape_layer.cpp", "Reshape", "2,3,4", "reshape_param { axis: -4 num_axes: 0 shape { dim: 1 } }", TAKEN),
    Case("reshape_layer.cpp", "Reshape", "2,3,4", "reshape_param { axis: -5 shape { dim: 1 } }", REFUSED),
    Case("reshape_layer.cpp", "Reshape", "2,3,4", "reshape_param { axis: 1 num_axes: 3 shape { dim: 12 } }", REFUSED),
    Case("reshape_layer.cpp", "Reshape", "2,3,4", "reshape_param { axis: 1 num_axes: -2 shape { dim: 12 } }", REFUSED),
    Case("reshape_layer.cpp", "Reshape", "2,3,4", "reshape_param { shape { dim: 2 dim: 3 dim: 4 dim: 0 } }", REFUSED),
    # scale, sigmoid_cross_entropy, slice, softmax, split, spp, tile
    Case("scale_layer.cpp", "Scale", "2,3,4", "scale_param { axis: 1 num_axes: 3 }", REFUSED),
    Case("scale_layer.cpp", "Scale", "2,3,4", "scale_param { axis: 1 num_axes: -2 }", REFUSED),
    Case("scale_layer.cpp", "Scale", "2,3,4 3", "", TAKEN),
    Case("scale_layer.cpp", "Scale", "2,3,4 4", "", REFUSED),
    Case("scale_layer.cpp", "Scale", "2,3,4 3,4,1", "", REFUSED),
    Case("scale_layer.cpp", "Scale", "2,3,4", "scale_param { num_axes: 0 }", TAKEN),
    Case("scale_layer.cpp", "Scale", "2,3,4", "scale_param { num_axes: -1 }", TAKEN),
    Case("sigmoid_cross_entropy_loss_layer.cpp", "SigmoidCrossEntropyLoss", "2,3 2,3", "", TAKEN),
    Case("sigmoid_cross_entropy_loss_layer.cpp", "SigmoidCrossEntropyLoss", "2,3 2,4", "", REFUSED),
    Case("sigmoid_cross_entropy_loss_layer.cpp", "SigmoidCrossEntropyLoss", "2,6 2,3,2", "", TAKEN),
    Case("slice_layer.cpp", "Slice", "2,6", "", TAKEN, "t u"),
    Case("slice_layer.cpp", "Slice", "2,6", "", TAKEN),
    Case("slice_layer.cpp", "Slice", "2,7", "", REFUSED, "t u"),
    Case("slice_layer.cpp", "Slice", "2,7", "slice_param { slice_point: 3 }", TAKEN, "t u"),
    Case("slice_layer.cpp", "Slice", "2,7", "slice_param { slice_point: 3 slice_point: 3 }", REFUSED, "t u v"),
    Case("slice_layer.cpp", "Slice", "2,7", "slice_param { slice_point: 0 }", REFUSED, "t u"),
    Case("slice_layer.cpp", "Slice", "2,7", "slice_param { slice_point: 7 }", TAKEN, "t u"),
    Case("slice_layer.cpp", "Slice", "2,7", "slice_param { slice_point: 8 }", REFUSED, "t u"),
    Case("slice_layer.cpp", "Slice", "2,7", "slice_param { slice_point: 3 }", REFUSED, "t u v"),
    Case("slice_layer.cpp", "Slice", "2,2", "slice_param { slice_point: 1 slice_point: 2 }", REFUSED, "t u v"),
    Case("slice_layer.cpp", "Slice", "2,6", "slice_param { axis: 1 slice_dim: 1 }", REFUSED, "t u"),
    Case("slice_layer.cpp", "Slice", "2,6", "slice_param { slice_dim: 2 }", REFUSED, "t u"),
    Case("slice_layer.cpp", "Slice", "2,6", "slice_param { axis: -3 }", REFUSED, "t u"),
    Case("softmax_layer.cpp", "Softmax", "2,3", "softmax_param { axis: 2 }", REFUSED),
    Case("softmax_layer.cpp", "Softmax", "4", "", REFUSED),
    Case("softmax_loss_layer.cpp", "SoftmaxWithLoss", "2,3 2", "", TAKEN),
    Case("softmax_loss_layer.cpp", "SoftmaxWithLoss", "2,3 2,1,1,1", "", TAKEN),
    Case("softmax_loss_layer.cpp", "SoftmaxWithLoss", "2,3,4 8", "", REFUSED),  # loss_layer.cpp: the first dimension
    Case("softmax_loss_layer.cpp", "SoftmaxWithLoss", "2,3,4 2,4", "", TAKEN),
    Case("softmax_loss_layer.cpp", "SoftmaxWithLoss", "2,3 2,2", "", REFUSED),
    Case("softmax_loss_layer.cpp", "SoftmaxWithLoss", "2,3 2", "softmax_param { axis: 3 }", REFUSED),
    Case("split_layer.cpp", "Split", "2,3", "", REFUSED, "b0"),
    Case("split_layer.cpp", "Split", "2,3", "", TAKEN, "t u"),
    Case("spp_layer.cpp", "SPP", IMAGES, "spp_param { pyramid_height: 2 }", TAKEN),
    Case("spp_layer.cpp", "SPP", "2,3,6", "spp_param { pyramid_height: 2 }", REFUSED),
    Case("tile_layer.cpp", "Tile", "2,3", "", REFUSED),
    Case("tile_layer.cpp", "Tile", "2,3", "tile_param { tiles: 0 }", REFUSED),
    Case("tile_layer.cpp", "Tile", "2,3", "tile_param { tiles: -1 }", REFUSED),
    Case("tile_layer.cpp", "Tile", "2,3", "tile_param { tiles: 2 axis: 2 }", REFUSED),
    Case("tile_layer.cpp", "Tile", "2,3", "tile_param { tiles: 2 axis: -1 }", TAKEN),
    # dropout, memory data, batch norm on zero sizes
    Case("dropout_layer.cpp", "Dropout", "2,3", "dropout_param { dropout_ratio: 0.5 }", TAKEN),
    Case(
        "memory_data_layer.cpp",
        "MemoryData",
        "",
        "memory_data_param { batch_size: 2 channels: 3 height: 6 }",
        REFUSED,
        "t u",
    ),
    Case(
        "memory_data_layer.cpp",
        "MemoryData",
        "",
        "memory_data_param { batch_size: 2 channels: 3 height: 6 width: 5 }",
        TAKEN,
        "t u",
    ),
    Case(
        "memory_data_layer.cpp",
        "MemoryData",
        "",
        "memory_data_param { batch_size: 2 channels: 3 height: 6 width: 5 }",
        WARNED,
    ),
    # zero sizes: blobs have them, params do not
    Case("blob.cpp", "ReLU", "0,3", "", TAKEN),
    Case("blob.cpp", "InnerProduct", "0,3", "inner_product_param { num_output: 4 }", TAKEN),
    Case("filler.hpp", "InnerProduct", "2,0", "inner_product_param { num_output: 4 }", REFUSED),
    Case("blob.cpp", "Concat", "2,0 2,4", "", TAKEN),
    Case("blob.cpp", "Convolution", "0,3,6,5", _conv("num_output: 4 kernel_size: 3"), TAKEN),
]


def _padded(padding: str, layer: str) -> str:
    return f"""input: "x" input_dim: 2 input_dim: 3 input_dim: 6 input_dim: 5
layers {{ layer {{ name: "p" type: "padding" pad: 1 }} {padding} }}
layers {{ layer {{ name: "c" num_output: 4 kernelsize: 3 {layer} }} bottom: "p" top: "c" }}"""


WHOLE = {
    "upgrade_proto.cpp: padding": (_padded('bottom: "x" top: "p"', 'type: "conv"'), TAKEN),
    "upgrade_proto.cpp: padding before relu": (_padded('bottom: "x" top: "p"', 'type: "relu"'), REFUSED),
    "upgrade_proto.cpp: padding without a bottom": (_padded('top: "p"', 'type: "conv"'), REFUSED),
    "upgrade_proto.cpp: padding of two": (_padded('bottom: "x" bottom: "x" top: "p"', 'type: "conv"'), REFUSED),
    "upgrade_proto.cpp: padding with two tops": (_padded('bottom: "x" top: "p" top: "q"', 'type: "conv"'), REFUSED),
    "upgrade_proto.cpp: a second bottom": (
        _padded('bottom: "x" top: "p"', 'type: "conv"').replace('bottom: "p"', 'bottom: "p" bottom: "x"'),
        REFUSED,
    ),
    "upgrade_proto.cpp: a negative size": (
        'layers { layer { name: "c" type: "images" new_height: -1 } top: "i" top: "l" }',
        REFUSED,
    ),
    "upgrade_proto.cpp: old and new layers": (
        'layer { name: "r" type: "ReLU" bottom: "x" top: "y" }\nlayers { name: "s" type: RELU bottom: "y" top: "z" }',
        REFUSED,
    ),
    "insert_splits.cpp: an unknown bottom": ('layer { name: "r" type: "ReLU" bottom: "x" top: "y" }', REFUSED),
}


def judged(text: str) -> str:
    """Return what becomes of a net: read, built, and its values drawn, which Caffe does when it sets it up."""
    try:
        net = nets.build(net_source(parse(text.encode(), "net.prototxt")))
        stream = Stream(1)
        nets.draw_params(net, stream)
        for node in net.nodes:
            if isinstance(node.layer, DummyData):
                node.layer.draw_feeds(stream, [])
    except CaffestatError:
        return REFUSED
    return WARNED if net.findings else TAKEN


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layers(case: Case) -> None:
    assert judged(case.text) == case.verdict, case.source


@pytest.mark.parametrize("name", WHOLE)
def test_whole_nets(name: str) -> None:
    text, verdict = WHOLE[name]
    assert judged(text) == verdict


def test_an_empty_input_is_built_and_not_run(tmp_path: Path) -> None:
    file = tmp_path / "net.prototxt"
    file.write_text(Case("blob.cpp", "InnerProduct", "0,3", "inner_product_param { num_output: 4 }", TAKEN).text)
    report = caffestat.analyze(file, static=True)
    assert [layer.tops[0].shape for layer in report.layers] == [(0, 3), (0, 4)]
    with pytest.raises(NetError, match=r"top 'b0' of shape \(0, 3\) has no elements"):
        caffestat.analyze(file, device="cpu")
    assert caffestat.analyze(file, device="cpu", batch=2).layers[1].tops[0].mean_abs is not None


def test_a_net_with_v0_layers_has_no_state():
    """Caffe's upgrade carries name, inputs and force_backward over, and nothing else. (upgrade_proto.cpp)"""
    head = "state { phase: TEST }\ndebug_info: true\nforce_backward: true\n"
    source = net_source(parse((head + _padded('bottom: "x" top: "p"', 'type: "conv"')).encode(), "net.prototxt"))
    assert (source.header.HasField("state"), source.header.debug_info, source.header.force_backward) == (0, 0, 1)
    assert [finding.message.split()[0] for finding in source.findings] == ["state", "debug_info"]
    assert nets.build(source).phase == nets.TRAIN
