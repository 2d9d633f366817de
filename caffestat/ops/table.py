"""The facts about every op of ONNX, one line each, and about the runtime's own that we emit."""

from __future__ import annotations

from typing import Any

from . import activations, rules, windows
from .info import Bodies, Combines, Elements, OpInfo, Role, Sign, register
from .recurrent import GATES

DATA, WEIGHT, BIAS, SCALE, SHIFT = Role.DATA, Role.WEIGHT, Role.BIAS, Role.SCALE, Role.SHIFT
STATISTIC, INDEX, CONDITION, SETTING, TYPE = Role.STATISTIC, Role.INDEX, Role.CONDITION, Role.SETTING, Role.TYPE
KEPT, NON_NEGATIVE = Sign.KEPT, Sign.NON_NEGATIVE


def _enter(elements: Elements, *names: str, **facts: Any) -> None:
    for name in names:
        register(OpInfo(name, elements, **facts))


# ---- moved: each element once ----

_enter(Elements.MOVED, "DepthToSpace", "SpaceToDepth", "Transpose", sign=KEPT)
_enter(Elements.MOVED, "Flatten", sign=KEPT, reshapes=True)
_enter(Elements.MOVED, "Identity", sign=KEPT, renames=True)
_enter(Elements.MOVED, "Reshape", "Squeeze", "Unsqueeze", inputs=(DATA, SETTING), sign=KEPT, reshapes=True)
_enter(Elements.MOVED, "ReverseSequence", inputs=(DATA, SETTING), sign=KEPT)

# ---- picked: elements of the input, any number of times ----

_enter(Elements.PICKED, "Concat", sign=KEPT, is_variadic=True)
_enter(
    Elements.PICKED, "CenterCropPad", "Compress", "Expand", "Slice", "Split", "Tile", inputs=(DATA, SETTING), sign=KEPT
)
_enter(Elements.PICKED, "Pad", inputs=(DATA, SETTING, DATA, SETTING), sign=KEPT)
_enter(Elements.PICKED, "Trilu", inputs=(DATA, SETTING), sign=KEPT)
_enter(Elements.PICKED, "Where", inputs=(CONDITION, DATA, DATA), sign=KEPT, selects=True)
_enter(
    Elements.PICKED,
    "Gather",
    inputs=(DATA, INDEX),
    sign=KEPT,
    limits={1: rules.axis_limit},
    fans={0: rules.gather_fans},
)
_enter(Elements.PICKED, "GatherElements", inputs=(DATA, INDEX), sign=KEPT, limits={1: rules.axis_limit})
_enter(Elements.PICKED, "GatherND", inputs=(DATA, INDEX), sign=KEPT, limits={1: rules.smallest_axis_limit})
_enter(Elements.PICKED, "TopK", inputs=(DATA, SETTING), sign=KEPT, distinct={1: lambda call: int(call.get("axis", -1))})
_enter(Elements.PICKED, "Unique", sign=KEPT)
_enter(Elements.PICKED, "MaxUnpool", inputs=(DATA, SETTING), sign=KEPT)
_enter(Elements.PICKED, "Optional", "OptionalGetElement", sign=KEPT)
_enter(Elements.PICKED, "SequenceAt", "SequenceErase", inputs=(DATA, SETTING), sign=KEPT)
_enter(Elements.PICKED, "SequenceInsert", inputs=(DATA, DATA, SETTING), sign=KEPT)
_enter(Elements.PICKED, "ConcatFromSequence", sign=KEPT)
_enter(Elements.PICKED, "SequenceConstruct", sign=KEPT, is_variadic=True)
_enter(Elements.PICKED, "SplitToSequence", inputs=(DATA, SETTING), sign=KEPT)
_enter(Elements.PICKED, "ImageDecoder", sign=NON_NEGATIVE)

# ---- each: a function of the elements at one place ----

_enter(Elements.EACH, "Cast", sign=KEPT, converts=True)
_enter(Elements.EACH, "CastLike", inputs=(DATA, TYPE), sign=KEPT, converts=True)
_enter(Elements.EACH, "DequantizeLinear", inputs=(DATA, SCALE, SHIFT), converts=True)
_enter(Elements.EACH, "DynamicQuantizeLinear", sign=NON_NEGATIVE, rounds=True)
_enter(Elements.EACH, "QuantizeLinear", inputs=(DATA, SETTING), rounds=True)
_enter(Elements.EACH, "Abs", "Cosh", "Exp", "Sqrt", sign=NON_NEGATIVE)
_enter(Elements.EACH, "Acos", "Acosh", sign=NON_NEGATIVE)
_enter(Elements.EACH, "Ceil", "Floor", "Round", sign=KEPT)
_enter(Elements.EACH, "Max", "Min", sign=KEPT, is_variadic=True)
_enter(Elements.EACH, "Pow", inputs=(DATA, DATA), sign=KEPT)
_enter(Elements.EACH, "Asin", "Asinh", "Atan", "Atanh", "Reciprocal", "Sign", "Sinh", sign=KEPT)
_enter(Elements.EACH, "Erf", sign=KEPT, gelu=0.5**0.5)
_enter(Elements.EACH, "Cos", "Log", "Neg", "Sin", "Tan")
_enter(Elements.EACH, "Mod", inputs=(DATA, DATA))
_enter(Elements.EACH, "Add", inputs=(DATA, DATA), sign=KEPT, combines=Combines.SUM)
_enter(Elements.EACH, "Mean", "Sum", sign=KEPT, combines=Combines.SUM, is_variadic=True)
_enter(Elements.EACH, "Sub", inputs=(DATA, DATA), combines=Combines.DIFFERENCE)
_enter(Elements.EACH, "Mul", inputs=(DATA, DATA), sign=KEPT, combines=Combines.PRODUCT)
_enter(Elements.EACH, "Div", inputs=(DATA, DATA), sign=KEPT, combines=Combines.QUOTIENT)
_enter(Elements.EACH, "BitwiseNot")
_enter(Elements.EACH, "BitShift", "BitwiseAnd", "BitwiseOr", "BitwiseXor", inputs=(DATA, DATA))
_enter(Elements.EACH, "IsInf", "IsNaN", "Not", sign=NON_NEGATIVE)
for _op in ("And", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Or", "Xor"):
    _enter(Elements.EACH, _op, inputs=(DATA, DATA), sign=NON_NEGATIVE)
_enter(Elements.EACH, "Dropout", inputs=(DATA, SETTING), sign=KEPT, is_random=True)
_enter(Elements.EACH, "Bernoulli", inputs=(SETTING,), sign=NON_NEGATIVE, is_random=True, kernel_opset=21)
_enter(
    Elements.EACH,
    "BatchNormalization",
    inputs=(DATA, SCALE, SHIFT, STATISTIC, STATISTIC),
    normalizes=True,
)

# activations
_enter(Elements.EACH, "Celu", nonlinearity=rules.celu)
_enter(Elements.EACH, "Clip", inputs=(DATA, SETTING), nonlinearity=rules.clip)
_enter(Elements.EACH, "Elu", nonlinearity=rules.elu)
_enter(Elements.EACH, "Gelu", nonlinearity=rules.always(activations.GELU))
_enter(Elements.EACH, "HardSigmoid", sign=NON_NEGATIVE, nonlinearity=rules.hard_sigmoid)
_enter(Elements.EACH, "HardSwish", nonlinearity=rules.always(activations.HARD_SWISH))
_enter(Elements.EACH, "LeakyRelu", nonlinearity=rules.leaky_relu)
_enter(Elements.EACH, "Mish", nonlinearity=rules.always(activations.MISH))
_enter(Elements.EACH, "PRelu", inputs=(DATA, WEIGHT), nonlinearity=rules.prelu)
_enter(Elements.EACH, "Relu", sign=NON_NEGATIVE, nonlinearity=rules.always(activations.RELU))
_enter(Elements.EACH, "Selu", nonlinearity=rules.selu)
_enter(Elements.EACH, "Shrink")
_enter(Elements.EACH, "Sigmoid", sign=NON_NEGATIVE, nonlinearity=rules.always(activations.SIGMOID))
_enter(Elements.EACH, "Softplus", sign=NON_NEGATIVE, nonlinearity=rules.always(activations.SOFTPLUS))
_enter(Elements.EACH, "Softsign", nonlinearity=rules.always(activations.SOFTSIGN))
_enter(Elements.EACH, "Swish", nonlinearity=rules.swish)
_enter(Elements.EACH, "Tanh", nonlinearity=rules.always(activations.TANH))
_enter(Elements.EACH, "ThresholdedRelu", nonlinearity=rules.thresholded_relu)

# ---- mixed: sums over several places ----

_enter(
    Elements.MIXED,
    "Conv",
    inputs=(DATA, WEIGHT, BIAS),
    is_product=True,
    fans={1: rules.conv_fans},
    macs=rules.conv_macs,
    window=windows.conv_window,
)
_enter(
    Elements.MIXED,
    "ConvTranspose",
    inputs=(DATA, WEIGHT, BIAS),
    is_product=True,
    upsamples=True,
    fans={1: rules.conv_transpose_fans},
    macs=rules.conv_transpose_macs,
    window=windows.conv_transpose_window,
)
_PRODUCT: dict[str, Any] = {
    "is_product": True,
    "fans": {0: rules.left_fans, 1: rules.right_fans},
    "macs": rules.matmul_macs,
}
_enter(Elements.MIXED, "FusedMatMul", inputs=(DATA, DATA), output_shape=rules.fused_shape, **_PRODUCT)
_enter(Elements.MIXED, "MatMul", inputs=(DATA, DATA), **_PRODUCT)
_enter(Elements.MIXED, "Gemm", inputs=(DATA, DATA, BIAS), **_PRODUCT)
_RECURRENT = (DATA, WEIGHT, WEIGHT, BIAS, SETTING, DATA)
for _op, _gates in GATES.items():
    _enter(
        Elements.MIXED,
        _op,
        inputs=_RECURRENT if _op != "LSTM" else (*_RECURRENT, DATA, WEIGHT),
        is_recurrent=True,
        fans=dict.fromkeys((1, 2), rules.gate_fans(_gates)),
        macs=rules.recurrent_macs,
    )
_enter(Elements.MIXED, "Einsum", is_variadic=True, macs=rules.einsum_macs)
_enter(
    Elements.MIXED,
    "ConvInteger",
    inputs=(DATA, WEIGHT, SETTING),
    is_product=True,
    fans={1: rules.conv_fans},
    macs=rules.conv_macs,
)
_enter(Elements.MIXED, "MatMulInteger", inputs=(DATA, DATA, SETTING), **_PRODUCT)
_enter(
    Elements.MIXED,
    "MatMulIntegerToFloat",
    inputs=(DATA, DATA, SETTING),
    output_shape=rules.fused_shape,
    typed_by=2,
    **_PRODUCT,
)
_enter(
    Elements.MIXED,
    "DynamicQuantizeMatMul",
    inputs=(DATA, DATA, SETTING, SETTING, BIAS),
    output_shape=rules.fused_shape,
    **_PRODUCT,
)
_enter(
    Elements.MIXED,
    "MatMulNBits",
    inputs=(DATA, WEIGHT, STATISTIC, STATISTIC, SETTING, BIAS),
    is_product=True,
    fans={1: rules.packed_fans},
    holds={1: rules.packed_count},
    macs=rules.packed_macs,
    output_shape=rules.packed_shape,
)
_enter(
    Elements.MIXED,
    "MatMulBnb4",
    inputs=(DATA, WEIGHT, STATISTIC),
    is_product=True,
    fans={1: rules.packed_fans},
    holds={1: rules.packed_count},
    macs=rules.packed_macs,
    output_shape=rules.packed_shape,
)
_enter(
    Elements.MIXED,
    "GatherBlockQuantized",
    inputs=(WEIGHT, INDEX, STATISTIC, STATISTIC),
    fans={0: rules.picked_block_fans},
    holds={0: rules.picked_block_count},
    limits={1: lambda call: call.input(0)[call.get("gather_axis", 0)]},
    output_shape=rules.picked_blocks_shape,
    typed_by=2,
)
_enter(
    Elements.MIXED,
    "MoE",
    inputs=(DATA, DATA, WEIGHT, BIAS, WEIGHT, BIAS, WEIGHT, BIAS),
    fans=dict.fromkeys((2, 4), rules.expert_fans),
    macs=rules.expert_macs(second=4),
    output_shape=rules.same_shape,
)
_enter(
    Elements.MIXED,
    "QMoE",
    inputs=(DATA, DATA, WEIGHT, STATISTIC, BIAS, WEIGHT, STATISTIC, BIAS, WEIGHT, STATISTIC, BIAS, STATISTIC),
    fans=dict.fromkeys((2, 5), rules.packed_expert_fans),
    holds=dict.fromkeys((2, 5), rules.packed_expert_count),
    macs=rules.expert_macs(second=5),
    output_shape=rules.same_shape,
)
_enter(
    Elements.MIXED,
    "QLinearConv",
    inputs=(DATA, SETTING, SETTING, WEIGHT, SETTING, SETTING, SETTING, SETTING, BIAS),
    is_product=True,
    fans={3: rules.conv_fans},
    macs=rules.quantized_conv_macs,
)
_QUANTIZED_PRODUCT: dict[str, Any] = {
    "inputs": (DATA, SETTING, SETTING, DATA, SETTING, SETTING, BIAS, SETTING),
    "is_product": True,
    "fans": {0: rules.left_fans, 3: rules.right_fans},
    "macs": rules.matmul_macs,
}
_enter(Elements.MIXED, "QGemm", output_shape=rules.quantized_gemm_shape, **_QUANTIZED_PRODUCT)
_enter(Elements.MIXED, "QLinearMatMul", **_QUANTIZED_PRODUCT)
for _op in ("QLinearAdd", "QLinearMul"):
    _enter(
        Elements.EACH,
        _op,
        inputs=(DATA, SETTING, SETTING, DATA, SETTING),
        output_shape=rules.broadcast_shape(0, 3),
    )
_enter(Elements.EACH, "QLinearLeakyRelu", "QLinearSigmoid", inputs=(DATA, SETTING), output_shape=rules.same_shape)
_enter(Elements.MIXED, "QLinearSoftmax", inputs=(DATA, SETTING), output_shape=rules.same_shape)
_enter(Elements.MIXED, "QLinearAveragePool", inputs=(DATA, SETTING), output_shape=rules.quantized_pool_shape)
_enter(Elements.MIXED, "QLinearGlobalAveragePool", inputs=(DATA, SETTING), output_shape=rules.global_pool_shape)
_enter(
    Elements.MIXED,
    "QLinearConcat",
    inputs=(SETTING, SETTING, DATA),
    is_variadic=True,
    output_shape=rules.quantized_concat_shape,
    typed_by=1,
)
_enter(
    Elements.MIXED,
    "QLinearWhere",
    inputs=(CONDITION, DATA, SETTING, SETTING, DATA, SETTING),
    output_shape=rules.broadcast_shape(0, 1, 4),
    typed_by=1,
)
_enter(
    Elements.MIXED,
    "DynamicQuantizeLSTM",
    inputs=(DATA, WEIGHT, WEIGHT, BIAS, SETTING, DATA, DATA, WEIGHT, SETTING),
    fans={1: rules.turned_gate_fans(4), 2: rules.turned_gate_fans(4)},
    macs=rules.recurrent_macs,
)
_enter(Elements.MIXED, "DeformConv", inputs=(DATA, DATA, DATA, DATA, DATA))

_enter(Elements.MIXED, "AveragePool", sign=KEPT, window=windows.pool_window)
_enter(Elements.MIXED, "MaxPool", sign=KEPT, window=windows.pool_window, picks_largest=True)
_enter(Elements.MIXED, "LpPool", sign=NON_NEGATIVE, window=windows.pool_window)
_enter(Elements.MIXED, "GlobalAveragePool", sign=KEPT, window=windows.global_window)
_enter(Elements.MIXED, "GlobalMaxPool", sign=KEPT, window=windows.global_window, picks_largest=True)
_enter(Elements.MIXED, "GlobalLpPool", sign=NON_NEGATIVE, window=windows.global_window, kernel_opset=21)
_enter(Elements.MIXED, "MaxRoiPool", inputs=(DATA, SETTING), sign=KEPT, kernel_opset=21, picks_largest=True)
_enter(
    Elements.MIXED,
    "RoiAlign",
    inputs=(DATA, SETTING, INDEX),
    sign=KEPT,
    limits={2: rules.sample_limit},
    kernel_opset=21,
)
_enter(Elements.MIXED, "Resize", inputs=(DATA, SETTING))
_enter(Elements.MIXED, "GridSample", inputs=(DATA, SETTING))
_enter(Elements.MIXED, "AffineGrid", "Col2Im", inputs=(DATA, SETTING))

_enter(
    Elements.MIXED, "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", inputs=(DATA, SETTING), sign=KEPT
)
_enter(Elements.MIXED, "ReduceL1", "ReduceL2", "ReduceSumSquare", inputs=(DATA, SETTING), sign=NON_NEGATIVE)
_enter(Elements.MIXED, "ReduceLogSum", "ReduceLogSumExp", inputs=(DATA, SETTING))
_enter(Elements.MIXED, "CumSum", inputs=(DATA, SETTING), sign=KEPT)
_enter(Elements.MIXED, "Det")
_enter(Elements.MIXED, "DFT", inputs=(DATA, SETTING))
_enter(Elements.MIXED, "STFT", inputs=(DATA, SETTING, DATA, SETTING), defaults={"onesided": 1})

_enter(Elements.MIXED, "GroupNormalization", "InstanceNormalization", inputs=(DATA, SCALE, SHIFT), normalizes=True)
_enter(Elements.MIXED, "LayerNormalization", inputs=(DATA, SCALE, SHIFT), normalizes=True)
_enter(Elements.MIXED, "MeanVarianceNormalization", normalizes=True)
_enter(Elements.MIXED, "LpNormalization", sign=KEPT, normalizes=True)
_enter(Elements.MIXED, "LRN", sign=KEPT)

_enter(Elements.MIXED, "Hardmax", sign=NON_NEGATIVE)
_enter(Elements.MIXED, "LogSoftmax", nonlinearity=rules.always(activations.SOFTMAX))
_enter(Elements.MIXED, "Softmax", sign=NON_NEGATIVE, nonlinearity=rules.always(activations.SOFTMAX))
_enter(
    Elements.MIXED,
    "NegativeLogLikelihoodLoss",
    "SoftmaxCrossEntropyLoss",
    inputs=(DATA, INDEX, SETTING),
    limits={1: rules.class_limit},
)
_enter(Elements.MIXED, "ScatterElements", inputs=(DATA, INDEX, DATA), limits={1: rules.axis_limit})
_enter(Elements.MIXED, "ScatterND", inputs=(DATA, INDEX, DATA), limits={1: rules.smallest_axis_limit})
_enter(Elements.MIXED, "If", inputs=(CONDITION,), bodies=Bodies.BRANCHES)
_enter(Elements.MIXED, "Loop", inputs=(CONDITION, CONDITION, DATA), bodies=Bodies.LOOP, is_variadic=True)
_enter(Elements.MIXED, "Scan", bodies=Bodies.SCAN, is_variadic=True)
_enter(Elements.MIXED, "SequenceMap", bodies=Bodies.MAP)

# ---- none: not the elements of the inputs ----

_enter(Elements.NONE, "ArgMax", "ArgMin", sign=NON_NEGATIVE)
_enter(Elements.NONE, "NonZero", sign=NON_NEGATIVE, distinct={0: lambda call: 1})
_enter(Elements.NONE, "OneHot", inputs=(INDEX, SETTING), limits={0: rules.depth_limit})
_enter(Elements.NONE, "Shape", "Size", inputs=(TYPE,), sign=NON_NEGATIVE)
_enter(Elements.NONE, "Constant", inputs=(), is_constant=True)
_enter(Elements.NONE, "ConstantOfShape", "EyeLike", "Range", inputs=(SETTING,))
_enter(Elements.NONE, "BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix", inputs=(SETTING,))
_enter(Elements.NONE, "RandomNormal", "RandomUniform", inputs=(), is_random=True, kernel_opset=21)
_enter(Elements.NONE, "RandomNormalLike", "RandomUniformLike", inputs=(TYPE,), is_random=True, kernel_opset=21)
_enter(Elements.NONE, "Multinomial", inputs=(SETTING,), sign=NON_NEGATIVE, is_random=True, kernel_opset=21)
_enter(Elements.NONE, "NonMaxSuppression", inputs=(SETTING,))
_enter(Elements.NONE, "OptionalHasElement", "SequenceLength", inputs=(TYPE,))
_enter(Elements.NONE, "SequenceEmpty", inputs=())
_enter(Elements.NONE, "RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer")
