"""The models that the onnx package tests single ops with: each loads, runs, and has a gradient.

The check is of the whole way: load, upgrade, forward values, gradients that the stock runtime computes.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from caffestat.autodiff import COTANGENT, gradient
from caffestat.errors import InputError
from caffestat.graph import Spec
from caffestat.graph.load import load

NAMES = """
Abs Add AveragePool BatchNormalization Cast Ceil Celu Clip Concat Conv ConvTranspose Cos CumSum DepthToSpace Det Div
Dropout Einsum Elu Erf Exp Expand Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm GlobalAveragePool
GlobalMaxPool GridSample GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization LRN LSTM
LayerNormalization LeakyRelu Log LogSoftmax LpNormalization MatMul Max MaxPool Mean Min Mish Mul Neg PRelu Pad Pow RNN
Reciprocal ReduceL1 ReduceL2 ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu
Reshape Resize Round ScatterElements ScatterND Selu Shape Sigmoid Sign Sin Slice Softmax Softplus Softsign SpaceToDepth
Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile Transpose Trilu Unsqueeze Where
"""
OPS = NAMES.split()
NEW_NAMES = "CausalConvWithState CumProd LinearAttention RMSNormalization RotaryEmbedding SwiGLU Swish TensorScatter"
NEWER = NEW_NAMES.split()
"""Ops that came after opset 22, some of which the installed package may lack."""

DIFFERENT = "test_resize_downsample_scales_(cubic|linear)_align_corners"  # the runtime's scales are its own

# no kernel for the type; a layout or a type that the runtime or its Python part does not know
UNABLE = "NOT_IMPLEMENTED|INVALID_GRAPH|Exception during initialization|Numpy.type|Unable to handle"

SETTINGS = onnxruntime.SessionOptions()
SETTINGS.log_severity_level = 4
SETTINGS.intra_op_num_threads = 1


@cache
def cases() -> dict[str, list[Any]]:
    from onnx.backend.test.case.node import collect_testcases

    found: dict[str, list[Any]] = {op: [] for op in (*OPS, *NEWER, "Attention")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in collect_testcases(None):
            nodes = case.model.graph.node
            if len(nodes) == 1 and nodes[0].op_type in found and not nodes[0].domain:
                found[nodes[0].op_type].append(case)
    return found


def frozen(case: Any) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """Return the model with integers, and what says sizes, as initializers, and what the other inputs are fed with."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    feeds, inputs = {}, []
    node = model.graph.node[0]
    settings = set(node.input[1:3]) if node.op_type in ("Dropout", "Resize") else set()
    for value, given in zip(model.graph.input, case.data_sets[0][0], strict=True):
        array = numpy_helper.to_array(given) if isinstance(given, onnx.TensorProto) else np.asarray(given)
        if Spec(array.shape, array.dtype).is_float and value.name not in settings:
            feeds[value.name] = array
            inputs.append(value)
        else:
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return model, feeds


def session(model: onnx.ModelProto) -> Any:
    return onnxruntime.InferenceSession(model.SerializeToString(), SETTINGS, providers=["CPUExecutionProvider"])


def outcome(case: Any) -> str:
    """Return "gradient", "integers" (no output has one), or "not run".

    That is what the runtime has no kernel for, or no tensor.
    """
    try:
        model, feeds = frozen(case)
        loaded = load(model)
        loaded.graph.infer()
        found = session(loaded.graph.to_onnx(loaded.arrays)).run(None, feeds)
    except InputError:
        return "not run"
    except Exception as error:  # the runtime raises private types
        assert re.search(UNABLE, str(error)), f"{case.name}: {error}"
        return "not run"
    compare(case, found)
    if not any(loaded.graph.specs[name].is_float for name in loaded.graph.outputs):
        with pytest.raises(InputError, match="no floating-point output"):
            gradient(model)
        return "integers"
    gradients = gradient(model)
    onnx.checker.check_model(gradients)
    shapes = {value.name: value for value in gradients.graph.input if value.name.startswith(COTANGENT)}
    for name, value in shapes.items():
        kind = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        feeds[name] = np.ones([dim.dim_value for dim in kind.shape.dim], dtype)
    session(gradients).run(None, feeds)
    return "gradient"


def compare(case: Any, found: list[np.ndarray]) -> None:
    if case.model.graph.node[0].op_type in ("Cast", "Dropout") or re.fullmatch(DIFFERENT, case.name):
        return  # types that numpy cannot compare; random masks
    for a, b in zip(found, case.data_sets[0][1], strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("op", OPS)
def test_every_model_of_the_op_has_a_gradient(op: str) -> None:
    counts = Counter(outcome(case) for case in cases()[op])
    assert counts["gradient"] + counts["integers"] > 0


@pytest.mark.parametrize("op", NEWER)
def test_every_model_of_an_op_that_is_newer_has_a_gradient(op: str) -> None:
    if not cases()[op]:
        pytest.skip(f"onnx {onnx.__version__} has no {op}")
    assert {outcome(case) for case in cases()[op]} - {"integers"} == {"gradient"}


def test_attention_has_a_gradient() -> None:
    """Every seventh of 93 forms: masks, groups, pasts, caps, types."""
    found = [case for case in cases()["Attention"] if not case.name.endswith("bf16")][::7]
    if not found:
        pytest.skip(f"onnx {onnx.__version__} has no Attention")
    assert {outcome(case) for case in found} == {"gradient"}
