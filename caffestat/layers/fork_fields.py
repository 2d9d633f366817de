"""What the fields of forks change in layers of Caffe's own types: the one table of them.

Fields that a layer class reads (`own_fields`, `adds`) and those that `net.spellings` translates are computed; they are
not in the table. What a field does that is nowhere is not known: see `effect_of`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from .base import Layer

__all__ = ["FORK_FIELDS", "Effect", "ForkField", "effect_of"]


class Effect(Enum):
    """What a field changes that is not computed; the values are the words of the table in docs/layers.md."""

    NONE = "no number of a pass"
    DATA = "the data: they are synthetic"
    VALUES = "values: ?"
    SHAPES = "shapes and values: ?"


@dataclass(frozen=True)
class ForkField:
    """A field of a fork: what it changes, what it is for, and a fork that has it."""

    effect: Effect
    what: str
    origin: str


def _fields(effect: Effect, what: str, origin: str, message: str, *names: str) -> dict[tuple[str, str], ForkField]:
    return {(message, name): ForkField(effect, what, origin) for name in names}


_THIRD_AXIS = ("kernel_d", "stride_d", "pad_d", "dilation_d", "kernel_depth", "temporal_stride", "temporal_pad")
_LISTS = ("kernel_shape", "stride_shape", "pad_shape")
_LAYER = "LayerParameter"

FORK_FIELDS: Mapping[tuple[str, str], ForkField] = {
    # ---- nothing that a pass computes
    **_fields(Effect.NONE, "how memory is saved", "yjxiong/caffe", "NetParameter", "mem_param", "richness"),
    **_fields(
        Effect.NONE,
        "the number format; computed in float32 here",
        "NVIDIA/caffe",
        "NetParameter",
        *("default_forward_type", "default_backward_type", "default_forward_math", "default_backward_math"),
    ),
    **_fields(
        Effect.NONE,
        "the number format; computed in float32 here",
        "NVIDIA/caffe",
        _LAYER,
        *("forward_type", "backward_type", "forward_math", "backward_math"),
    ),
    **_fields(
        Effect.NONE,
        "how gradients are scaled and exchanged",
        "NVIDIA/caffe",
        "NetParameter",
        *("global_grad_scale", "global_grad_scale_adaptive", "default_conv_algos_override", "reduce_buckets"),
    ),
    **_fields(Effect.NONE, "which device computes the layer", "naibaf7/caffe", _LAYER, "device", "param_bottoms"),
    **_fields(
        Effect.NONE,
        "which share of the batch or of the outputs each device computes",
        "HazyResearch/CaffeConTroll",
        _LAYER,
        *(f"gpu_{device}_{axis}_proportion" for device in range(4) for axis in ("batch", "depth")),
    ),
    **_fields(
        Effect.NONE, "which program of the FPGA computes", "dicecco1/fpga_caffe", _LAYER, "xcl_name", "kernel_name"
    ),
    **_fields(
        Effect.NONE, "how memory is used", "MyCaffe/MyCaffe", "ConvolutionParameter", "cudnn_worspace_allow_on_groups"
    ),
    **_fields(Effect.NONE, "of the old format, for training", "HazyResearch/CaffeConTroll", _LAYER, "blobs_lr"),
    **_fields(Effect.NONE, "of the old format, for training", "HazyResearch/CaffeConTroll", _LAYER, "weight_decay"),
    **_fields(Effect.NONE, "lets images change their size", "TheLegendAli/DeepLab-Context", _LAYER, "strict_dim"),
    **_fields(
        Effect.NONE,
        "whether memory is freed behind the layer",
        "siddharthachandra/gcrf",
        _LAYER,
        *("deletebottom", "deletetop"),
    ),
    **_fields(Effect.NONE, "which library computes", "intel/caffe", "NetParameter", "engine"),
    **_fields(Effect.NONE, "which library computes", "intel/caffe", _LAYER, "engine"),
    **_fields(Effect.NONE, "how layers are joined", "intel/caffe", "ConcatParameter", "per_fla_fuse"),
    **_fields(
        Effect.NONE,
        "values rounded as integers would be, from the second pass on by default: not done here",
        "tidsp/caffe-jacinto",
        "NetParameter",
        *("quantize", "net_quantization_param"),
    ),
    **_fields(
        Effect.NONE,
        "how weights become sparse in training: not done here",
        "tidsp/caffe-jacinto",
        "SolverParameter",
        *("sparse_mode", "sparsity_target", "sparsity_step_factor", "sparsity_step_iter", "sparsity_start_iter"),
        *("sparsity_start_factor", "sparsity_threshold_maxratio", "sparsity_threshold_value_max"),
        *("sparsity_itr_increment_bfr_applying", "display_sparsity"),
    ),
    **_fields(
        Effect.NONE,
        "integers of 8 bits, which one library computes with in TEST; computed in float32 here",
        "intel/caffe",
        _LAYER,
        "quantization_param",
    ),
    **_fields(
        Effect.NONE, "which weights are copied", "zimenglan-sysu-512/pose_action_caffe", _LAYER, "copy_postfix_name"
    ),
    **_fields(Effect.NONE, "debug output", "zimenglan-sysu-512/pose_action_caffe", _LAYER, "is_disp_info"),
    **_fields(
        Effect.NONE,
        "which algorithm convolves",
        "NVIDIA/caffe",
        "ConvolutionParameter",
        *("cudnn_convolution_algo_seeker", "conv_algos_override"),
    ),
    **_fields(Effect.NONE, "which algorithm convolves", "intel/caffe", "ConvolutionParameter", "conv_algorithm"),
    **_fields(Effect.NONE, "which algorithm convolves", "wenwei202/caffe", "ConvolutionParameter", "conv_mode"),
    **_fields(
        Effect.NONE,
        "how products with sparse weights are computed",
        "ChanganVR/ConstraintAwareCompression",
        "InnerProductParameter",
        *("gemm_mode", "spmdm_transpose_in", "spmdm_transpose_out"),
    ),
    **_fields(
        Effect.NONE,
        "loaded weights near 0 become 0, and zero weights stay so in training: not done here",
        "wenwei202/caffe",
        _LAYER,
        "connectivity_mode",
    ),
    **_fields(
        Effect.NONE, "how records are read", "NVIDIA/caffe", "DataParameter", *("threads", "parser_threads", "cache")
    ),
    **_fields(Effect.NONE, "of training", "wenwei202/caffe", "ParamSpec", "force_mult", "regularization_type"),
    **_fields(
        Effect.NONE,
        "of training",
        "ChanganVR/ConstraintAwareCompression",
        "ParamSpec",
        *("kernel_shape_decay_mult", "breadth_decay_mult", "block_group_lasso"),
    ),
    **_fields(
        Effect.NONE,
        "how weights are pruned in training: not done here",
        "MingSun-Tse/Caffe_IncReg",
        _LAYER,
        "prune_param",
    ),
    **_fields(
        Effect.NONE, "learning rates of training", "yeahkun/caffe-yolo", "SolverParameter", "stagelr", "stageiter"
    ),
    **_fields(Effect.NONE, "test output", "zhaoweicai/cascade-rcnn", "SolverParameter", "show_per_class_result"),
    # ---- the data
    **_fields(
        Effect.DATA,
        "how images are distorted or cut",
        "weiliu89/caffe",
        "TransformationParameter",
        *("distort_param", "expand_param", "emit_constraint", "noise_param"),
    ),
    **_fields(
        Effect.DATA,
        "how frames are cut",
        "yjxiong/caffe",
        "TransformationParameter",
        *("scale_ratios", "fix_crop", "more_fix_crop", "multi_scale", "is_flow", "max_distort"),
    ),
    **_fields(Effect.DATA, "the order of records", "Cysu/dgd_person_reid", "DataParameter", "shuffle_pool_size"),
    **_fields(Effect.DATA, "the order of records", "NVIDIA/caffe", "DataParameter", "shuffle"),
    **_fields(Effect.DATA, "the order of images", "happynear/caffe-windows", "ImageDataParameter", "balance_class"),
    **_fields(Effect.DATA, "the order of images", "xiaolonw/caffe-video_triplet", "ImageDataParameter", "pair_size"),
    **_fields(
        Effect.SHAPES,
        "the size of images",
        "weiliu89/caffe",
        "TransformationParameter",
        *("resize_param", "min_resize", "max_resize", "stride"),
    ),
    **_fields(
        Effect.SHAPES,
        "the size of images, of Data alone computed",
        "Cysu/dgd_person_reid",
        "TransformationParameter",
        *("crop_height", "crop_width"),
    ),
    **_fields(Effect.SHAPES, "the shape of labels", "HyeonwooNoh/DeconvNet", "ImageDataParameter", "label_type"),
    # ---- layers
    **_fields(Effect.SHAPES, "a third spatial axis", "facebook/C3D", "ConvolutionParameter", *_THIRD_AXIS),
    **_fields(Effect.SHAPES, "a third spatial axis", "facebook/C3D", "PoolingParameter", *_THIRD_AXIS),
    **_fields(Effect.SHAPES, "a size per axis", "chuckcho/video-caffe", "ConvolutionParameter", *_LISTS),
    **_fields(Effect.SHAPES, "a size per axis", "chuckcho/video-caffe", "PoolingParameter", *_LISTS),
    **_fields(
        Effect.VALUES,
        "an activation computed with the layer",
        "intel/caffe",
        "ConvolutionParameter",
        *("relu", "negative_slope"),
    ),
    **_fields(Effect.VALUES, "an activation computed with the layer", "intel/caffe", "BatchNormParameter", "relu"),
    **_fields(
        Effect.VALUES,
        "parts of the statistics",
        "happynear/caffe-windows",
        "BatchNormParameter",
        *("disable_mean", "disable_variance"),
    ),
    **_fields(
        Effect.VALUES,
        "which scores count, and how much",
        "happynear/caffe-windows",
        "SoftmaxParameter",
        *("normalize_type", "hard_ratio", "hard_mining_label", "cutting_point", "class_weight", "label_smooth_factor"),
    ),
    **_fields(Effect.VALUES, "the weights of classes", "alexgkendall/caffe-segnet", "LossParameter", "class_weighting"),
    **_fields(
        Effect.VALUES, "the weights of classes", "alexgkendall/caffe-segnet", "LossParameter", "weight_by_label_freqs"
    ),
    **_fields(Effect.VALUES, "the weights of classes", "intel/caffe", "LossParameter", "class_weight", "weights"),
    **_fields(Effect.VALUES, "softer labels", "intel/caffe", "LossParameter", "label_smoothing"),
    **_fields(
        Effect.NONE,
        "the normalizer that normalization: PRE_FIXED reads",
        "daijifeng001/caffe-rfcn",
        "LossParameter",
        "pre_fixed_normalizer",
    ),
}
"""By message and field; fields of V1 layers stand with those of `LayerParameter`."""

_ASIDE = ("ParamSpec", "NetStateRule", "NetParameter", "SolverParameter")  # messages that no layer computes with


def effect_of(owner: str, name: str, cls: type[Layer], is_caffes: bool = True) -> Effect:
    """Return what a field of forks changes in a layer whose class does not read it.

    What a field that is not in the table does is not known: of data layers it changes the data, of a filler or of a
    layer that keeps its shapes the values, of any other layer the shapes as well.
    owner: the type of the message that it stands in
    is_caffes: the layer's type is one of Caffe's own; fields of other types change nothing unless the table has them
    """
    owner = owner.replace("V1LayerParameter", _LAYER)
    if owner == "SoftmaxParameter" and not cls.type.startswith("Softmax"):
        return Effect.NONE  # no other layer reads softmax_param
    if found := FORK_FIELDS.get((owner, name)):
        return found.effect
    if owner in _ASIDE or not is_caffes:
        return Effect.NONE
    if cls.is_external:
        return Effect.DATA
    return Effect.VALUES if cls.keeps_shapes or owner == "FillerParameter" else Effect.SHAPES
