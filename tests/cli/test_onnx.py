"""The commands on ONNX models: what they print, what they refuse, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from caffestat.cli import main
from caffestat.engine import Device

from ..analysis.test_onnx_measure import image_net
from ..graph.models import model, run
from ..graph.test_load import conditional, external

ROOT = Path(__file__).resolve().parent.parent.parent

NET = """\
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 5 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "ip" top: "ip" }
layer { name: "sum" type: "Softmax" bottom: "ip" top: "out" loss_weight: 1 }
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model.onnx").write_bytes(image_net().SerializeToString())
    (tmp_path / "net.prototxt").write_text(NET)
    return tmp_path


def caffestat(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_analyze() -> None:
    result = caffestat("analyze", "model.onnx", "--batch", "2", "--device", "cpu", "--loss", "ones")
    assert result.exit_code == 0, result.output
    assert "/conv/Conv" in result.stdout
    assert "then" in result.stdout.splitlines()[2]
    assert "note: the gradient of every output is 1" in result.stderr
    found = json.loads(caffestat("analyze", "model.onnx", "--static", "--format", "json").stdout)
    assert found["layers"][0]["followed_by"] == "Relu"
    assert "followed_by" not in found["layers"][1]


@pytest.mark.parametrize("format", ["table", "markdown", "csv", "json"])
def test_predictions_stand_in_every_format_under_the_words_that_nets_have(format: str) -> None:
    words = ("gain", "predicted", "so far", "back") if format in ("table", "markdown") else ("gain", "predicted")
    for path in ("net.prototxt", "model.onnx"):
        result = caffestat("analyze", "--static", "--predict", "--format", format, path)
        assert result.exit_code == 0, result.output
        assert all(word in result.stdout for word in words)


def test_predictions_need_no_runtime(folder: Path) -> None:
    code = (
        "import sys; from caffestat import analyze; analyze('model.onnx', static=True, predict=True)\n"
        "sys.exit('onnxruntime' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, cwd=folder, check=False).returncode == 0


def test_predictions_and_measured_means_stand_side_by_side() -> None:
    result = caffestat("analyze", "model.onnx", "--predict", "--device", "cpu", "--format", "json", "--loss", "ones")
    found = json.loads(result.stdout)
    conv = found["layers"][0]
    assert conv["tops"][0]["forward"].keys() == {"mean_abs", "predicted"}
    assert conv["params"][0]["backward"].keys() == {"mean_abs", "predicted"}
    assert conv["gain"].keys() == {"forward", "product", "backward", "product_backward"}
    assert "gain" not in found["layers"][1]
    assert result.stderr.count("the gradient of every output is 1") == 1


def test_debug() -> None:
    result = caffestat("debug", "model.onnx", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("    [Forward] Layer /conv/Conv, top blob c data: ")


def test_convert_a_net() -> None:
    result = caffestat("convert", "net.prototxt", "-o", "net.onnx", "--backward", "--seed", "5")
    assert result.exit_code == 0, result.output
    model = onnx.load("net.onnx")
    assert [value.name for value in model.graph.input] == ["data"]
    assert [value.name for value in model.graph.output] == ["out", "grad/ip/0", "grad/ip/1"]


def test_convert_a_model() -> None:
    result = caffestat("convert", "model.onnx", "--backward", "-o", "backward.onnx", "--shape", "x=2,3,9,8")
    assert result.exit_code == 0, result.output
    x = np.ones((2, 3, 9, 8), np.float32)
    out = run(onnx.load("backward.onnx"), {"x": x, "cotangent/y": np.ones((2, 5), np.float32)})
    assert out["grad/x"].shape == x.shape


@pytest.mark.parametrize(
    "arguments",
    [
        ("analyze", "model.onnx", "--static", "--format", "json"),
        ("debug", "model.onnx"),
        ("compare", "model.onnx", "model.onnx"),
        ("convert", "model.onnx", "--backward", "-o", "backward.onnx"),
    ],
)
def test_sizes_by_name(arguments: tuple[str, ...]) -> None:
    result = caffestat(*arguments, "--dim", "N=7")
    assert result.exit_code == 0, result.output
    if arguments[0] == "analyze":
        assert json.loads(result.stdout)["inputs"][0]["shape"] == [7, 3, 9, 8]
    if arguments[0] == "convert":
        assert onnx.load("backward.onnx").graph.output[0].type.tensor_type.shape.dim[0].dim_value == 7
    unknown = caffestat(*arguments, "--dim", "M=7")
    assert unknown.exit_code == 2
    assert "--dim M: the model has no size of that name; expected one of N" in unknown.stderr


@pytest.mark.parametrize("command", ["analyze", "debug"])
def test_nets_have_no_names_for_sizes(command: str) -> None:
    result = caffestat(command, "net.prototxt", "--dim", "N=7")
    assert result.exit_code == 2
    assert "--dim N: only .onnx models have named dimensions; use --shape or --batch" in result.stderr


@pytest.mark.parametrize("text", ["N", "N=0", "N=x", "=3"])
def test_a_size_by_name_is_a_number(text: str) -> None:
    assert caffestat("analyze", "model.onnx", "--dim", text).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("convert", "model.onnx", "-o", "out.onnx"), "is already an ONNX model"),
        (("analyze", "net.prototxt", "--loss", "ones"), "--loss is for .onnx models"),
        (("analyze", "model.onnx", "--phase", "test"), "are for Caffe nets"),
        (("analyze", "model.onnx", "--shape", "y=1"), "model.onnx: --shape y: the model has no input of that name"),
        (("analyze", "none.onnx"), "none.onnx: cannot be read: No such file"),
        (("debug", "model.onnx", "--loss", "ghost"), "--loss ghost"),
        (("convert", "net.prototxt", "-o", "out.onnx", "--loss", "ones"), "--loss and --ste are for .onnx models"),
        (
            ("convert", "model.onnx", "--backward", "-o", "out.onnx", "--loss", "ghost"),
            "--loss ghost: the model has no",
        ),
        (
            ("convert", "model.onnx", "--backward", "-o", "out.onnx", "--loss", "c", "--outputs", "y"),
            "loss 'c' is the name of a value, whose sum is the loss: remove outputs",
        ),
    ],
)
def test_what_cannot_be_used(arguments: tuple[str, ...], words: str) -> None:
    result = caffestat(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def _leaving_the_folder(path: Path) -> None:
    external(path.parent, location="../../etc/passwd")


def _cycle(path: Path) -> None:
    model = image_net()
    model.graph.node[0].input[0] = "r"
    path.write_bytes(model.SerializeToString())


def _too_many_nodes(path: Path) -> None:
    model = image_net()
    model.graph.node.extend(helper.make_node("Neg", ["x"], [f"n{index}"]) for index in range(100_000))
    path.write_bytes(model.SerializeToString())


def _claims(path: Path) -> None:
    model = image_net()
    model.graph.initializer[0].CopyFrom(
        TensorProto(name="conv.weight", dims=[10**12], data_type=TensorProto.FLOAT, raw_data=b"\0\0\0\0")
    )
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("spoil", [_truncated, _leaving_the_folder, _cycle, _too_many_nodes, _claims])
def test_hostile_models(folder: Path, spoil: object) -> None:
    assert callable(spoil)
    spoil(folder / "model.onnx")
    result = caffestat("analyze", "model.onnx")
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: model.onnx: ")
    assert len(result.stderr.splitlines()) == 1


def test_compare_a_net_with_its_conversion(tmp_path: Path) -> None:
    net, model = str(ROOT / "models/lenet.prototxt"), str(tmp_path / "lenet.onnx")
    assert caffestat("convert", "--phase", "test", "--seed", "5", "--batch", "2", net, "-o", model).exit_code == 0
    same = caffestat("compare", "--seed", "5", "--batch", "2", net, model)
    assert (same.exit_code, same.stdout.splitlines()[-1]) == (0, "no differences")
    other = caffestat("compare", "--seed", "6", "--batch", "2", net, model)
    assert other.exit_code == 1
    assert "the first: conv1 (Conv): max error" in other.stdout


def test_logs_take_no_options_of_models(tmp_path: Path) -> None:
    result = caffestat("compare", "--all", "a.log", "b.log")
    assert result.exit_code == 2 and "logs are compared as they are" in result.stderr


def test_gradients_of_the_weights_that_a_pattern_matches(tmp_path: Path) -> None:
    model, target = str(tmp_path / "lenet.onnx"), tmp_path / "backward.onnx"
    caffestat("convert", "--phase", "test", "--batch", "2", str(ROOT / "models/lenet.prototxt"), "-o", model)
    found = caffestat("convert", "--backward", model, "-o", str(target), "--wrt", "conv?/0")
    assert found.exit_code == 0, found.stderr
    names = [value.name for value in onnx.load(target).graph.output]
    assert [name for name in names if name.startswith("grad/")] == ["grad/conv1/0", "grad/conv2/0"]
    missing = caffestat("convert", "--backward", model, "-o", str(target), "--wrt", "fc*")
    assert missing.exit_code == 2 and "--wrt fc*: no input, weight or value" in missing.stderr


def cross_entropy(x: np.ndarray, labels: np.ndarray) -> float:
    """The mean softmax cross entropy of `image_net`, in float64."""
    out = run(image_net(), {"x": x})["y"].astype(np.float64)
    return float(np.mean(np.log(np.exp(out).sum(1)) - out[np.arange(len(out)), labels]))


def test_gradients_of_a_cross_entropy() -> None:
    result = caffestat(
        *("convert", "model.onnx", "--backward", "--loss", "cross-entropy", "--dim", "N=3", "-o", "backward.onnx"),
        *("--outputs", "y", "--wrt", "x"),
    )
    assert result.exit_code == 0, result.output
    proto = onnx.load("backward.onnx")
    assert [value.name for value in proto.graph.input] == ["x", "labels"]
    assert [value.name for value in proto.graph.output] == ["y", "loss", "grad/x"]
    random = np.random.default_rng(3)
    x, labels = random.standard_normal((3, 3, 9, 8)).astype(np.float32), np.array([4, 0, 2])
    found = run(proto, {"x": x, "labels": labels})
    assert found["loss"] == pytest.approx(cross_entropy(x, labels), rel=1e-5)
    step = random.standard_normal(x.shape).astype(np.float32) / 64
    slope = cross_entropy(x + step, labels) - cross_entropy(x - step, labels)
    assert 2 * np.sum(found["grad/x"] * step) == pytest.approx(slope, rel=1e-2)


@pytest.mark.parametrize(("loss", "output"), [("ones", "y"), ("c", "c")])
def test_gradients_of_a_sum(loss: str, output: str) -> None:
    for path, more in (("sum.onnx", ("--loss", loss)), ("vjp.onnx", ())):
        result = caffestat("convert", "model.onnx", "--backward", "--batch", "2", "--wrt", "x", "-o", path, *more)
        assert result.exit_code == 0, result.output
    x = np.random.default_rng(4).standard_normal((2, 3, 9, 8)).astype(np.float32)
    proto = onnx.load("sum.onnx")
    assert [value.name for value in proto.graph.input] == ["x"]
    found = run(proto, {"x": x})
    if loss == "ones":
        expected = run(onnx.load("vjp.onnx"), {"x": x, "cotangent/y": np.ones((2, 5), np.float32)})["grad/x"]
        np.testing.assert_allclose(found["grad/x"], expected, rtol=1e-6)
    else:
        changed = run(proto, {"x": x + np.eye(8, dtype=np.float32)[3] / 4})["c"]
        slope = 4 * (changed.astype(np.float64).sum() - found["c"].astype(np.float64).sum())
        assert found["grad/x"][..., 3].sum() == pytest.approx(slope, rel=1e-4)  # a convolution is linear


def test_gradients_of_the_sum_of_outputs_of_the_same_shape(tmp_path: Path) -> None:
    nodes = [helper.make_node("Sin", ["x"], ["a"]), helper.make_node("Exp", ["x"], ["b"])]
    x, *outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 3)) for name in "xab")
    proto = helper.make_model(helper.make_graph(nodes, "g", [x], outputs), opset_imports=[helper.make_opsetid("", 22)])
    proto.ir_version = 10
    path = tmp_path / "two.onnx"
    onnx.save(proto, path)
    assert caffestat("convert", str(path), "--backward", "--loss", "ones", "-o", "sum.onnx").exit_code == 0
    values = np.arange(6, dtype=np.float32).reshape(2, 3) / 4
    found = run(onnx.load("sum.onnx"), {"x": values})["grad/x"]
    np.testing.assert_allclose(found, np.cos(values) + np.exp(values), rtol=1e-6)


def test_noise_is_the_default_of_gradients() -> None:
    for path, more in (("a.onnx", ("--loss", "noise")), ("b.onnx", ())):
        assert caffestat("convert", "model.onnx", "--backward", "-o", path, *more).exit_code == 0
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_gradients_that_do_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Device, "available_bytes", lambda device: 1000)
    result = caffestat("convert", "model.onnx", "--backward", "-o", "backward.onnx")
    assert result.exit_code == 2
    assert "writing the gradients needs about" in result.stderr and "of memory is free" in result.stderr
    assert not Path("backward.onnx").exists()


def test_a_prediction_of_an_output_of_unknown_shape_says_so(tmp_path: Path) -> None:
    nodes = [helper.make_node("NonZero", ["x"], ["i"]), helper.make_node("Cast", ["i"], ["y"], to=TensorProto.FLOAT)]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (3, 4))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "n.onnx")
    result = caffestat("analyze", "--static", "--predict", str(tmp_path / "n.onnx"))
    assert result.exit_code == 2
    assert "the shape of 'y' is unknown without a run" in result.stderr
    assert caffestat("analyze", "--static", "--predict", "--forward-only", str(tmp_path / "n.onnx")).exit_code == 0


def test_calibrate_writes_ranges(tmp_path: Path) -> None:
    node = helper.make_node("Neg", ["x"], ["y"])
    (tmp_path / "model.onnx").write_bytes(model([node], {"x": ["N", 3]}, ["y"]).SerializeToString())
    (tmp_path / "data").mkdir()
    np.save(tmp_path / "data" / "a.npy", np.float32([[1, 2, 3], [4, 5, 6]]))
    np.save(tmp_path / "data" / "b.npy", np.float32([7, -8, 9]))
    path, output = str(tmp_path / "model.onnx"), tmp_path / "ranges.json"
    arguments = ["calibrate", "--input", f"x={tmp_path / 'data'}", "--device", "cpu", path]
    printed = CliRunner().invoke(main, arguments)
    assert (printed.exit_code, printed.stderr) == (0, "")
    assert CliRunner().invoke(main, [*arguments, "-o", str(output)]).exit_code == 0
    assert output.read_text(encoding="utf-8") == printed.stdout
    values = json.loads(printed.stdout)["caffestat"]["values"]
    assert {name: (one["min"], one["max"]) for name, one in values.items()} == {"x": (-8, 9), "y": (-9, 8)}
    without = json.loads(CliRunner().invoke(main, [*arguments, "--percentiles", "none"]).stdout)["caffestat"]["values"]
    assert without["x"] == {"min": -8, "max": 9, "percentiles": {}}
    refused = CliRunner().invoke(main, [*arguments, "--percentiles", "many"])
    assert "expected comma-separated numbers or none, found 'many'" in refused.stderr
    refused = CliRunner().invoke(main, ["calibrate", path])
    assert refused.exit_code == 2
    assert "--input" in refused.stderr


def test_ops_of_classical_machine_learning_are_named(folder: Path) -> None:
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["x"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            coefficients=[1.0, 2.0, -1.0, 0.5],
            intercepts=[0.0, 1.0],
            classlabels_ints=[0, 1],
            multi_class=0,
        ),
        helper.make_node("ZipMap", ["scores"], ["each"], domain="ai.onnx.ml", classlabels_int64s=[0, 1]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 2])]
    each = onnx.ValueInfoProto(name="each")
    each.type.sequence_type.elem_type.map_type.key_type = TensorProto.INT64
    each.type.sequence_type.elem_type.map_type.value_type.tensor_type.elem_type = TensorProto.FLOAT
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [3, 2]), each]
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    onnx.save(
        helper.make_model(helper.make_graph(nodes, "g", inputs, outputs), opset_imports=sets, ir_version=8), "m.onnx"
    )
    result = caffestat("convert", "--backward", "m.onnx", "-o", "out.onnx")
    assert "output 'each' of ZipMap is not a tensor: choose other outputs (--outputs NAME)" in result.stderr
    result = caffestat("convert", "--backward", "--outputs", "scores", "m.onnx", "-o", "out.onnx")
    assert "no gradient rule for op LinearClassifier of ai.onnx.ml (value label)" in result.stderr
    result = caffestat("analyze", "--forward-only", "--device", "cpu", "m.onnx")
    assert result.exit_code == 0


def test_patterns_leave_integers_out(tmp_path: Path) -> None:
    """Weights of few bits have no gradient; the keys of the past are none at first."""
    nodes = [
        onnx.helper.make_node("Concat", ["past", "x"], ["keys"], axis=0),
        onnx.helper.make_node("DequantizeLinear", ["wq", "ws"], ["w"]),
        onnx.helper.make_node("MatMul", ["keys", "w"], ["y"]),
    ]
    arrays = {"wq": np.arange(-6, 6, dtype=np.int8).reshape(3, 4), "ws": np.array(0.5, np.float32)}
    proto = model(nodes, {"past": ["before", 3], "x": (2, 3)}, ["y"], arrays)
    onnx.save(proto, tmp_path / "net.onnx")
    path, target = str(tmp_path / "net.onnx"), tmp_path / "back.onnx"
    np.save(tmp_path / "past.npy", np.zeros((0, 3), np.float32))
    assert caffestat("analyze", "--input", f"past={tmp_path / 'past.npy'}", path).exit_code == 0
    done = caffestat("convert", "--backward", path, "-o", str(target), "--dim", "before=5", "--wrt", "w*")
    assert done.exit_code == 0, done.stderr
    assert [value.name for value in onnx.load(target).graph.output] == ["y", "grad/ws", "grad/w"]


@pytest.mark.parametrize(("number", "slope"), [("1", -2.0), ("0", 0.0)])
def test_a_number_for_an_input_takes_a_branch_for_good(folder: Path, number: str, slope: float) -> None:
    onnx.save(conditional(), folder / "branch.onnx")
    result = caffestat("convert", "--backward", "--input", f"c={number}", "branch.onnx", "-o", "back.onnx")
    assert result.exit_code == 0, result.output
    converted = onnx.load(folder / "back.onnx")
    assert [given.name for given in converted.graph.input] == ["x", "cotangent/z"]
    ones = np.ones((2, 3), np.float32)
    np.testing.assert_array_equal(run(converted, {"x": ones, "cotangent/z": ones})["grad/x"], slope * ones)


def test_a_number_fills_an_input(folder: Path) -> None:
    nodes = [helper.make_node("Abs", ["x"], ["y"])]
    onnx.save(model(nodes, {"x": (2, 3)}, ["y"]), folder / "abs.onnx")
    found = caffestat("analyze", "--device", "cpu", "--format", "json", "--input", "x=-0.5", "abs.onnx")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["layers"][0]["tops"][0]["forward"]["mean_abs"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--input", "nope=1", "--backward", "model.onnx"), "--input nope: unknown input; expected one of"),
        (("--input", "data=1", "net.prototxt"), "--input, --loss and --ste are for .onnx models"),
    ],
)
def test_inputs_that_convert_cannot_use_are_refused(arguments: tuple[str, ...], words: str) -> None:
    result = caffestat("convert", "--batch", "2", *arguments, "-o", "out.onnx")
    assert result.exit_code == 2
    assert words in result.stderr
