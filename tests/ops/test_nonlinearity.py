"""Derivatives and gains of activations, against differences of what the runtime computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from caffestat.ops import Call, Nonlinearity, op_info, ops

CASES: list[tuple[str, dict[str, Any], list[np.ndarray]]] = [
    ("Celu", {"alpha": 1.7}, []),
    ("Clip", {}, [np.array(-1.5), np.array(0.75)]),
    ("Elu", {"alpha": 0.6}, []),
    ("Gelu", {}, []),
    ("HardSigmoid", {"alpha": 0.3, "beta": 0.4}, []),
    ("HardSwish", {}, []),
    ("LeakyRelu", {"alpha": 0.3}, []),
    ("Mish", {}, []),
    ("PRelu", {}, [np.array([0.4])]),
    ("Relu", {}, []),
    ("Selu", {}, []),
    ("Sigmoid", {}, []),
    ("Softplus", {}, []),
    ("Softsign", {}, []),
    ("Tanh", {}, []),
    ("ThresholdedRelu", {"alpha": 0.4}, []),
]


def described(op: str, attributes: dict[str, Any], constants: list[np.ndarray]) -> Nonlinearity:
    rule = op_info(op).nonlinearity
    assert rule
    found = rule(Call(attributes, [None] * (1 + len(constants)), [None], [None, *constants]))
    assert found
    return found


@pytest.mark.parametrize(("op", "attributes", "constants"), CASES)
def test_derivatives(op: str, attributes: dict[str, Any], constants: list[np.ndarray]) -> None:
    x = np.linspace(-4.05, 4.05, 58, dtype=np.float32)
    found = described(op, attributes, constants)
    names = [f"c{i}" for i in range(len(constants))]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(op, ["x", *names], ["y"], **attributes)],
            op,
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None])],
            [
                helper.make_tensor(n, TensorProto.FLOAT, c.shape, c.ravel())
                for n, c in zip(names, constants, strict=True)
            ],
        ),
        opset_imports=[helper.make_opsetid("", 22)],
        ir_version=10,
    )
    session = ort.InferenceSession(model.SerializeToString())
    step = np.float32(2**-7)
    more, less = (np.asarray(session.run(None, {"x": x + h})[0]) for h in (step, -step))
    expected = (more - less) / (2 * step)
    assert found.derivative
    assert [found.derivative(float(v)) for v in x] == pytest.approx(expected, abs=4e-3)


def test_the_cases_cover_all_activations() -> None:
    activations = {op for op in ops() if op_info(op).nonlinearity}
    assert activations - {op for op, *_ in CASES} == {"LogSoftmax", "Softmax", "Swish"}


def test_gains_keep_the_second_moment() -> None:
    """Of He et al. 2015, eq. 10 and 13, and of Klambauer et al. 2017."""
    assert described("Relu", {}, []).weight_gain == 2
    assert described("LeakyRelu", {"alpha": 0.5}, []).weight_gain == pytest.approx(1.6)
    assert described("PRelu", {}, [np.array([0.0, 1.0])]).weight_gain == pytest.approx(2 / 1.5)
    assert described("Selu", {}, []).weight_gain == 1
    assert described("Tanh", {}, []).weight_gain == 1
    assert described("Elu", {}, []).weight_gain == 2


def test_clip_is_a_rectifier_when_it_cuts_at_zero() -> None:
    assert described("Clip", {}, [np.array(0.0), np.array(6.0)]).rectifies
    assert not described("Clip", {}, [np.array(-1.0), np.array(1.0)]).rectifies
    assert described("Clip", {"min": 0.0, "max": 6.0}, []).rectifies  # of opset 6


def test_where_squashing_functions_are_flat() -> None:
    sigmoid, tanh, relu = (described(op, {}, []) for op in ("Sigmoid", "Tanh", "Relu"))
    assert (sigmoid.squashes, tanh.squashes, relu.squashes) == (True, True, False)
    assert sigmoid.flat_beyond(0.07) == pytest.approx(2.502, abs=1e-3)
    assert tanh.flat_beyond(0.05) == pytest.approx(2.178, abs=1e-3)
    assert relu.flat_beyond(0.07) is None
    assert sigmoid.slope_at_zero == pytest.approx(0.25)
