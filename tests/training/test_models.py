"""ONNX models trained by Caffe's solvers, against numpy in double precision; batches, frozen params, snapshots."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import caffestat
from caffestat.errors import InputError
from caffestat.net.source import read_settings
from caffestat.options import NetOptions, RunOptions
from caffestat.training.events import Iteration, Saved, Statistics
from caffestat.training.models import ModelTraining
from caffestat.training.statistics import Signal

SAMPLES, BATCH, INPUTS, CLASSES = 10, 4, 5, 3
SOLVER = (
    'base_lr: 0.5 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.01 max_iter: 7 snapshot: 4 snapshot_prefix: "m" '
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    weights = {"w": random.normal(size=(INPUTS, CLASSES)), "b": random.normal(size=CLASSES), "unused": np.ones(2)}
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["product"]), helper.make_node("Add", ["product", "b"], ["logits"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", INPUTS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    monkeypatch.chdir(tmp_path)
    onnx.save(model, "model.onnx")
    Path("solver.prototxt").write_text(SOLVER)


def inputs() -> dict[str, np.ndarray]:
    random = np.random.default_rng(2)
    return {"x": random.normal(size=(SAMPLES, INPUTS)), "label": random.integers(0, CLASSES, SAMPLES)}


def train(**more) -> list:
    options = {
        "solver": "solver.prototxt",
        "loss": "cross-entropy",
        "inputs": inputs(),
        "batch": BATCH,
        "device": "cpu",
    }
    return list(caffestat.train("model.onnx", **{**options, **more}))


def test_the_batch_by_its_name() -> None:
    assert [e.loss for e in train(batch=None, dims={"batch": BATCH}) if isinstance(e, Iteration)] == [
        e.loss for e in train() if isinstance(e, Iteration)
    ]


def stored(path: str) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def reference(iterations: int) -> tuple[list[float], dict[str, np.ndarray]]:
    """Return the losses and the params of softmax regression, batch by batch round the samples."""
    params = {name: array.astype(np.float64) for name, array in stored("model.onnx").items()}
    history = {name: np.zeros_like(array) for name, array in params.items()}
    data, losses = inputs(), []
    for iteration in range(iterations):
        rows = np.arange(iteration * BATCH, (iteration + 1) * BATCH) % SAMPLES
        x, label = data["x"][rows].astype(np.float32).astype(np.float64), data["label"][rows]
        scores = x @ params["w"] + params["b"]
        share = np.exp(scores - scores.max(1, keepdims=True))
        share /= share.sum(1, keepdims=True)
        losses.append(-np.log(share[np.arange(BATCH), label]).mean())
        share[np.arange(BATCH), label] -= 1
        for name, gradient in {"w": x.T @ share / BATCH, "b": share.sum(0) / BATCH}.items():
            history[name] = 0.5 * (gradient + 0.01 * params[name]) + 0.9 * history[name]
            params[name] -= history[name]
    return losses, params


def test_losses_and_params_are_those_of_the_formulas() -> None:
    losses, params = reference(7)
    found = train()
    assert [event.loss for event in found if isinstance(event, Iteration)] == pytest.approx(losses, rel=1e-5)
    assert [event.model for event in found if isinstance(event, Saved)] == ["m_iter_4.onnx", "m_iter_7.onnx"]
    for name, array in stored("m_iter_7.onnx").items():
        np.testing.assert_allclose(array, params[name], rtol=1e-4, atol=1e-6)
    assert stored("m_iter_7.onnx")["unused"].tolist() == [1, 1]  # weight decay leaves alone what no gradient reaches


def test_a_run_that_goes_on() -> None:
    train()
    (first,) = (event for event in train(iterations=1) if isinstance(event, Iteration))
    again = [event for event in train(snapshot="m_iter_4.solverstate") if isinstance(event, Iteration)]
    assert [event.iteration for event in again] == [4, 5, 6]
    assert again[0].loss < first.loss  # the same batch, as the data begin anew


def test_frozen_params_stay() -> None:
    train(freeze=["w*"])
    before, after = stored("model.onnx"), stored("m_iter_7.onnx")
    np.testing.assert_array_equal(after["w"], before["w"])
    assert (after["b"] != before["b"]).all()
    with pytest.raises(InputError, match="nothing to train"):
        train(freeze=["*"])
    with pytest.raises(InputError, match=r"--freeze 'conv\*' matches no initializer of model\.onnx; expected one of"):
        train(freeze=["w*", "conv*"])


def test_signals_by_node_and_value() -> None:
    (event,) = (event for event in train(iterations=1, stats=1) if isinstance(event, Statistics))
    names = {signal.name for signal in event.values if signal.quantity == "top"}
    assert {"product", "logits"} <= names
    (ratio,) = (
        v for s, v in event.values.items() if s.quantity == "update_ratio" and s.name == "0" and "MatMul" in s.layer
    )
    assert 0 < ratio < 1
    assert Signal("top", "x", "x") in event.values


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"solver": None}, "needs a solver prototxt: --solver FILE"),
        ({"loss": None}, "training needs a loss: --loss cross-entropy"),
        ({"loss": "ones"}, "training needs a loss: --loss cross-entropy"),
        ({"loss": "nothing"}, "the model has no such value"),
        (
            {"inputs": {"x": np.zeros((4, INPUTS))}},
            "expected one --input label=FILE.npy, found 0; expected arrays for x, label",
        ),
        (
            {"inputs": {**inputs(), "labels": np.zeros(SAMPLES)}},
            "expected one --input label=FILE.npy, found 2; expected arrays for x, label",
        ),
        (
            {"inputs": {"x": np.zeros((4, INPUTS)), "y": np.zeros(4)}},
            "--input y: the model has no such input; expected arrays for x, label",
        ),
        (
            {"inputs": {**inputs(), "label": np.full(SAMPLES, 3)}},
            "--input label: expected integers from 0 to 2, found 3",
        ),
        ({"inputs": {**inputs(), "label": np.full(SAMPLES, -1)}}, "label: expected integers from 0 to 2, found -1"),
        ({"inputs": {**inputs(), "label": np.full(SAMPLES, 0.5)}}, "label: expected integers, found 0.5"),
        ({"inputs": {**inputs(), "label": np.array(1)}}, r"label: has shape \(\); the model takes \(4,\) at a time"),
        (
            {"inputs": {"x": np.zeros((0, INPUTS)), "label": np.zeros(0)}},
            "expected arrays of samples, found none in x, label",
        ),
        (
            {"inputs": {"x": np.zeros((4, 6)), "label": np.zeros(4)}},
            r"--input x: has shape \(4, 6\); the model takes \(4, 5\)",
        ),
        ({"inputs": {"x": np.zeros((4, 5)), "label": np.zeros(3)}}, "different numbers of samples: x 4, label 3"),
        ({"weights": ["a.caffemodel"]}, "an .onnx model has none"),
    ],
)
def test_what_cannot_be_used(more: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        train(**more)


@pytest.mark.parametrize(("own", "label"), [("label", "labels"), ("labels", "label")])
def test_a_model_whose_own_input_is_called_like_the_labels(own: str, label: str) -> None:
    model = onnx.load("model.onnx")
    model.graph.input[0].name = model.graph.node[0].input[0] = own
    onnx.save(model, "model.onnx")
    given = inputs()
    found = [e.loss for e in train(inputs={own: given["x"], label: given["label"]}) if isinstance(e, Iteration)]
    assert found == pytest.approx(reference(7)[0], rel=1e-5)
    with pytest.raises(InputError, match=f"expected one --input {label}=FILE.npy, found 0; .* for {own}, {label}$"):
        train(inputs={own: given["x"]})


def test_a_scalar_input_is_in_every_batch() -> None:
    model = onnx.load("model.onnx")
    model.graph.node[1].output[0] = "sum"
    model.graph.node.append(helper.make_node("Mul", ["sum", "factor"], ["logits"]))
    model.graph.input.append(helper.make_tensor_value_info("factor", TensorProto.FLOAT, []))
    onnx.save(model, "model.onnx")
    found = [
        [e.loss for e in train(inputs={**inputs(), "factor": np.array(f)}, iterations=2) if isinstance(e, Iteration)]
        for f in (1.0, 0.0)
    ]
    assert found[0] == pytest.approx(reference(2)[0], rel=1e-5)
    assert found[1] == pytest.approx([np.log(CLASSES)] * 2)


def test_a_mask_over_the_axes_of_a_sample_is_in_every_batch() -> None:
    model = onnx.load("model.onnx")
    model.graph.node[0].input[0] = "mixed"
    model.graph.node.insert(0, helper.make_node("MatMul", ["x", "mask"], ["mixed"]))
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [INPUTS, INPUTS]))
    onnx.save(model, "model.onnx")
    mask = np.tril(np.ones((INPUTS, INPUTS)))
    found = [e.loss for e in train(inputs={"mask": np.eye(INPUTS), **inputs()}) if isinstance(e, Iteration)]
    assert found == pytest.approx(reference(7)[0], rel=1e-5)
    mixed = [e.loss for e in train(inputs={"mask": mask, **inputs()}, iterations=1) if isinstance(e, Iteration)]
    assert mixed != found[:1]
    with pytest.raises(InputError, match=r"--input mask: has shape \(4, 5\); the model takes \(5, 5\) at a time"):
        train(inputs={"mask": mask[:4], **inputs()})


def test_a_loss_whose_shape_data_decides_is_refused() -> None:
    model = onnx.load("model.onnx")
    nodes = [
        helper.make_node("Greater", ["logits", "b"], ["high"]),
        helper.make_node("Compress", ["logits", "high"], ["kept"]),
        helper.make_node("ArgMax", ["logits"], ["best"]),
    ]
    model.graph.node.extend(nodes)
    onnx.save(model, "model.onnx")
    data = {"x": inputs()["x"]}
    with pytest.raises(InputError, match=r"--loss kept: the shape of 'kept' is unknown without a run, .*Compress"):
        train(loss="kept", inputs=data)
    with pytest.raises(InputError, match="--loss best: the value holds int64; expected floats"):
        train(loss="best", inputs=data)


def test_a_solver_that_is_refused_and_one_with_test_nets() -> None:
    Path("solver.prototxt").write_text(SOLVER.replace("fixed", "step"))
    with pytest.raises(caffestat.CaffestatError, match=r"solver\.prototxt:1:.*gamma is missing"):
        train()
    Path("solver.prototxt").write_text('net: "gone.prototxt" test_iter: 1 test_interval: 1 ' + SOLVER)
    with pytest.raises(InputError, match="remove test_iter"):
        train()


def normalizing_model() -> None:
    """Write a model whose BatchNormalization, in training mode, keeps running statistics."""
    random = np.random.default_rng(3)
    arrays = {
        "scale": np.ones(INPUTS),
        "shift": np.zeros(INPUTS),
        "mean": np.zeros(INPUTS),
        "variance": np.ones(INPUTS),
    }
    arrays["w"] = random.normal(size=(INPUTS, CLASSES))
    graph = helper.make_graph(
        [
            helper.make_node(
                "BatchNormalization",
                ["x", "scale", "shift", "mean", "variance"],
                ["y", "new_mean", "new_variance"],
                training_mode=1,
                momentum=0.75,
            ),
            helper.make_node("MatMul", ["y", "w"], ["logits"]),
        ],
        "normalizing",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", INPUTS])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "model.onnx")


def test_running_statistics_are_kept_and_resumed_unless_they_are_frozen() -> None:
    normalizing_model()
    mean, variance = np.zeros(INPUTS), np.ones(INPUTS)
    for iteration in range(7):
        x = inputs()["x"][np.arange(iteration * BATCH, (iteration + 1) * BATCH) % SAMPLES]
        mean, variance = 0.75 * mean + 0.25 * x.mean(0), 0.75 * variance + 0.25 * x.var(0)
        if iteration == 3:
            middle = mean
    train(freeze=["varia*"])
    saved = stored("m_iter_7.onnx")
    np.testing.assert_allclose(saved["mean"], mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(saved["variance"], np.ones(INPUTS))
    assert not np.array_equal(saved["scale"], np.ones(INPUTS))
    train()
    np.testing.assert_allclose(stored("m_iter_7.onnx")["variance"], variance, rtol=1e-5)
    np.testing.assert_allclose(stored("m_iter_4.onnx")["mean"], middle, rtol=1e-5, atol=1e-6)
    train(snapshot="m_iter_4.solverstate", iterations=1)
    x = inputs()["x"][:BATCH]  # batches start over
    np.testing.assert_allclose(stored("m_iter_5.onnx")["mean"], 0.75 * middle + 0.25 * x.mean(0), rtol=1e-5, atol=1e-6)


def test_params_on_the_device_give_the_same_model() -> None:
    normalizing_model()
    settings, given = read_settings("solver.prototxt"), {"x": inputs()["x"], "labels": inputs()["label"]}
    run = RunOptions(device="cpu", loss="cross-entropy", inputs=given)
    found = []
    for resident in (False, True):
        training = ModelTraining(
            "model.onnx", settings, run, NetOptions(batch=BATCH), ["shift"], seed=1, stats=2, resident=resident
        )
        signals = [event.values for event in training.events() if isinstance(event, Statistics)]
        found.append((stored("m_iter_7.onnx"), signals))
    (host, expected), (device, signals) = found
    for name, array in host.items():
        np.testing.assert_allclose(device[name], array, rtol=1e-5, atol=1e-6, err_msg=name)
    assert (device["shift"] == 0).all() and (device["mean"] != 0).all()
    for mine, other in zip(signals, expected, strict=True):
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-7)
        assert {signal.quantity for signal in mine} >= {"update", "update_ratio"}


def test_packed_weights_stay_integers() -> None:
    """A product with 4-bit weights trains its bias; what it unpacks is no number to be learned."""
    random = np.random.default_rng(5)
    settings = {"K": 16, "N": CLASSES, "bits": 4, "block_size": 16}
    arrays = {
        "w": random.integers(0, 255, (CLASSES, 1, 8)).astype(np.uint8),
        "scale": np.full(CLASSES, 0.1, np.float32),
        "b": np.zeros(CLASSES, np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("MatMulNBits", ["x", "w", "scale"], ["product"], domain="com.microsoft", **settings),
            helper.make_node("Add", ["product", "b"], ["logits"]),
        ],
        "packed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [BATCH, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [BATCH, CLASSES])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), "model.onnx")
    train(inputs={"x": random.normal(size=(BATCH, 16)), "label": np.array([0, 1, 2, 0])}, batch=None)
    after = stored("m_iter_7.onnx")
    assert (after["b"] != 0).any()
    np.testing.assert_array_equal(after["w"], arrays["w"])
