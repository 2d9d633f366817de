"""Quantized models: a line where gradients are zero, and straight-through gradients against torch's."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_dynamic, quantize_static

import caffestat
from caffestat.cli import main
from caffestat.errors import GradientWarning, InputError

from ..graph.models import model, normal, run

node = helper.make_node
X = normal(2, 3, 9, 8)


class _Batch(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self) -> None:
        self._left = iter([{"x": X}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    nodes = [
        node("Conv", ["x", "w"], ["c"]),
        node("Relu", ["c"], ["r"]),
        node("MaxPool", ["r"], ["p"], kernel_shape=[2, 3]),
        node("Flatten", ["p"], ["f"]),
        node("MatMul", ["f", "v"], ["y"]),
    ]
    path = tmp_path / "float.onnx"
    onnx.save(model(nodes, {"x": X.shape}, ["y"], {"w": normal(6, 3, 3, 2), "v": normal(180, 5, seed=2)}), path)
    return path


def quantized(path: Path, kind: QuantFormat | None) -> Path:
    """Write the model as the runtime's tools quantize it, with ranges found for each batch for None."""
    target = path.with_name(f"{kind.name if kind else 'dynamic'}.onnx")
    if kind is None:
        quantize_dynamic(path, target)
    else:
        quantize_static(path, target, _Batch(), quant_format=kind)
    return target


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (QuantFormat.QDQ, "(QuantizeLinear 5; the first makes 'x_QuantizeLinear_Output'); use straight-through"),
        (QuantFormat.QOperator, "'x_quantized'); no gradient rule for QLinearConv, QLinearMatMul: differentiate"),
        (
            None,
            "(DynamicQuantizeLinear 2; the first makes 'x_quantized'); no gradient rule for ConvInteger",
        ),
    ],
)
def test_one_line_tells_of_zero_gradients_and_what_can_be_done(
    network: Path, kind: QuantFormat | None, words: str
) -> None:
    path = quantized(network, kind)
    with pytest.warns(GradientWarning) as found:
        made = caffestat.gradient(path)
    assert [words in str(one.message) for one in found] == [True]
    assert not run(made, {"x": X, "cotangent/y": normal(2, 5)})["grad/x"].any()
    report = caffestat.analyze(path, device="cpu")
    assert [words in finding.message for finding in report.findings] == [True]
    assert caffestat.analyze(path, device="cpu", forward_only=True).findings == ()


def test_nothing_is_told_where_gradients_pass(network: Path) -> None:
    path = quantized(network, QuantFormat.QDQ)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GradientWarning)
        caffestat.gradient(network)
        caffestat.gradient(path, straight_through=True)
        caffestat.gradient(path, wrt=["y"])  # nothing rounds between y and y


def test_the_command_tells_it_on_the_standard_error(network: Path, tmp_path: Path) -> None:
    path = quantized(network, QuantFormat.QDQ)
    target = str(tmp_path / "out.onnx")
    told = CliRunner().invoke(main, ["convert", "--backward", str(path), "-o", target])
    assert told.exit_code == 0
    assert told.stderr.startswith(f"warning: {path}: the gradient is zero before ")
    assert CliRunner().invoke(main, ["convert", "--backward", "--ste", str(path), "-o", target]).stderr == ""


def test_straight_through_gradients_are_torchs(network: Path) -> None:
    torch = pytest.importorskip("torch")
    path = quantized(network, QuantFormat.QDQ)
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}

    def rounded(value: torch.Tensor, name: str) -> torch.Tensor:
        """Pass the gradient within the range, as FakeQuantWithMinMaxVars of TensorFlow does."""
        scale, zero = float(stored[f"{name}_scale"]), int(stored[f"{name}_zero_point"])
        limits = np.iinfo(stored[f"{name}_zero_point"].dtype)
        clipped = value.clamp((limits.min - zero) * scale, (limits.max - zero) * scale)
        exact = torch.fake_quantize_per_tensor_affine(value, scale, zero, int(limits.min), int(limits.max))
        return clipped + (exact - clipped).detach()

    def weight(name: str) -> torch.Tensor:
        integers = stored[f"{name}_quantized"].astype(np.float32) - stored[f"{name}_zero_point"]
        return torch.from_numpy(integers * stored[f"{name}_scale"])

    x, dy = torch.from_numpy(X).requires_grad_(), normal(2, 5, seed=4)
    hidden = rounded(torch.nn.functional.conv2d(rounded(x, "x"), weight("w")), "r")  # its range cuts as the Relu did
    flat = torch.nn.functional.max_pool2d(hidden, (2, 3), 1).flatten(1)
    rounded(flat @ weight("v"), "y").backward(torch.from_numpy(dy))
    made = caffestat.gradient(path, wrt=["x"], straight_through=True)
    found = run(made, {"x": X, "cotangent/y": dy})["grad/x"]
    assert np.abs(found).max() > 1
    np.testing.assert_allclose(found, x.grad.numpy(), atol=2e-5 * float(np.abs(found).max()))


@pytest.mark.parametrize("per_channel", [False, True])
def test_scales_are_no_params(network: Path, per_channel: bool) -> None:
    target = network.with_name("int8.onnx")
    quantize_static(network, target, _Batch(), quant_format=QuantFormat.QDQ, per_channel=per_channel)
    before, after = (caffestat.analyze(path, static=True).totals for path in (network, target))
    assert (after.params, after.macs) == (before.params, before.macs)


def test_analyze_measures_them(network: Path) -> None:
    path = quantized(network, QuantFormat.QDQ)
    settings = {"inputs": {"x": X}, "loss": "ones", "straight_through": True}
    report = caffestat.analyze(path, device="cpu", **settings)
    assert report.findings == ()
    expected = run(caffestat.gradient(path, wrt=["x", "p"], loss="ones", straight_through=True), {"x": X})
    bottoms = {layer.bottoms[diff.bottom]: diff for layer in report.layers for diff in layer.bottom_diffs}
    for name in ("x", "p"):
        assert bottoms[name].mean_abs == pytest.approx(np.abs(expected[f"grad/{name}"]).mean(), rel=1e-5)
        assert bottoms[name].mean_abs > 0
    with pytest.raises(InputError, match="--ste"):
        caffestat.analyze(path, static=True, straight_through=True)


def test_a_range_found_for_each_batch_lets_all_gradients_pass(tmp_path: Path) -> None:
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("Mul", ["d", "d"], ["y"]),
    ]
    x, dy = normal(4, 5), normal(4, 5, seed=1)
    made = caffestat.gradient(model(nodes, {"x": x.shape}, ["d", "y"]), ["y"], ["x"], straight_through=True)
    out = run(made, {"x": x, "cotangent/y": dy})
    np.testing.assert_allclose(out["grad/x"], 2 * out["d"] * dy, rtol=1e-5)
