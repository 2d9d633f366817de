"""Ranges for quantization, against onnxruntime's own calibration, and read back by its tools."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
from onnxruntime.quantization import calibrate as tools
from onnxruntime.quantization.quant_utils import write_calibration_table

import caffestat
from caffestat.errors import InputError

from ..graph.models import model, normal, run, value

readable = pytest.mark.skipif(
    not hasattr(tools, "load_tensors_data"), reason="the tools of this onnxruntime read no file of ranges"
)

node = helper.make_node
BATCHES = [normal(4, 3, 9, 8, seed=seed) * np.float32(1 + seed) for seed in range(3)]


class Reader(tools.CalibrationDataReader):
    """The batches, as onnxruntime asks for them."""

    def __init__(self, batches: list[np.ndarray]) -> None:
        self._left = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        found = next(self._left, None)
        return None if found is None else {"x": found}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], name="conv", strides=[2, 1]),
        node("Relu", ["c"], ["r"], name="relu"),
        node("GlobalAveragePool", ["r"], ["m"], name="mean"),
        node("Flatten", ["m"], ["f"], name="flat"),
        node("Gemm", ["f", "v"], ["y"], name="dense"),
    ]
    arrays = {"w": normal(6, 3, 3, 2), "b": normal(6, seed=1), "v": normal(6, 5, seed=2)}
    proto = model(nodes, {"x": ["N", 3, 9, 8]}, ["y"], arrays)
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx.shape_inference.infer_shapes(proto).SerializeToString())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file per batch, of which one is an archive."""
    folder = tmp_path / "batches"
    folder.mkdir()
    np.save(folder / "0.npy", BATCHES[0])
    np.savez(folder / "1.npz", x=BATCHES[1], other=np.zeros(3))
    np.save(folder / "2.npy", BATCHES[2])
    (folder / "readme.txt").write_text("not data")
    return folder


def by_tools(path: Path, folder: Path, method: CalibrationMethod, **options: object) -> tools.TensorsData:
    """Return what onnxruntime's own calibration finds."""
    calibrater = tools.create_calibrator(
        path, augmented_model_path=str(folder / "augmented.onnx"), calibrate_method=method, extra_options=options
    )
    calibrater.collect_data(Reader(BATCHES))
    found = calibrater.compute_data()
    assert isinstance(found, tools.TensorsData)
    return found


@readable
def test_extremes_are_those_of_the_tools(path: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "ranges.json"
    found = caffestat.calibrate(path, output, inputs={"x": folder}, device="cpu")
    assert found.batches == 3
    expected = by_tools(path, tmp_path, CalibrationMethod.MinMax)
    read = tools.load_tensors_data(output)
    assert read.calibration_method == CalibrationMethod.MinMax
    assert set(read.keys()) == set(expected.keys()) == {"x", "c", "r", "m", "f", "y"}
    for name, data in expected.items():
        np.testing.assert_allclose(read[name].range_value, np.ravel(data.range_value), rtol=1e-5, atol=1e-6)
        assert read[name].lowest.dtype == np.float32


@readable
@pytest.mark.parametrize("symmetric", [False, True])
def test_percentiles_are_those_of_the_tools(path: Path, folder: Path, tmp_path: Path, symmetric: bool) -> None:
    output = tmp_path / "ranges.json"
    settings = {"method": "percentile", "percentile": 97.0, "symmetric": symmetric}
    found = caffestat.calibrate(path, output, inputs={"x": folder}, device="cpu", **settings)
    expected = by_tools(path, tmp_path, CalibrationMethod.Percentile, percentile=97.0, symmetric=symmetric)
    read = tools.load_tensors_data(output)
    assert read.calibration_method == CalibrationMethod.Percentile
    x = np.concatenate(BATCHES)
    inner = np.quantile(np.abs(x), 0.97) if symmetric else np.quantile(x, 0.985)
    assert float(read["x"].highest) == pytest.approx(inner, rel=0.01) != x.max()
    for name, data in expected.items():
        # the tools' bins are as wide; they begin elsewhere in the symmetric case, and add batches up as they come
        width = 2 * found.ranges[name].high / 2048 + 2 * -min(found.ranges[name].low, 0) / 2048
        np.testing.assert_allclose(read[name].highest, data.highest, atol=2 * width)
        lowest = -read[name].highest if symmetric else data.lowest  # the tools cut symmetric ranges at the extremes
        np.testing.assert_allclose(read[name].lowest, lowest, atol=2 * width)


@readable
def test_models_quantized_with_it_are_those_of_the_tools(path: Path, folder: Path, tmp_path: Path) -> None:
    ranges, ours, theirs = (tmp_path / name for name in ("ranges.json", "ours.onnx", "theirs.onnx"))
    caffestat.calibrate(path, ranges, inputs={"x": folder}, device="cpu")
    settings = {"calibrate_method": CalibrationMethod.MinMax, "weight_type": QuantType.QInt8}
    quantize_static(path, ours, None, calibration_cache_path=ranges, **settings)
    quantize_static(path, theirs, Reader(BATCHES), **settings)
    feeds = {"x": BATCHES[1]}
    exact, found, expected = (run(onnx.load(str(one)), feeds)["y"] for one in (path, ours, theirs))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert 0 < np.abs(found - exact).max() < 0.1 * np.abs(exact).max()
    table = tmp_path / "table"
    table.mkdir()
    write_calibration_table(tools.load_tensors_data(ranges).data, str(table))
    assert {file.name for file in table.iterdir()} >= {"calibration.json", "calibration.cache"}


def test_percentiles_stand_in_the_file(path: Path, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "ranges.json"
    caffestat.calibrate(path, output, inputs={"x": folder}, percentiles=[5, 50], device="cpu")
    told = json.loads(output.read_text(encoding="utf-8"))["caffestat"]
    x = np.concatenate(BATCHES)
    assert told["batches"] == 3
    assert told["values"]["x"]["max"] == pytest.approx(x.max(), rel=1e-6)
    found = told["values"]["x"]["percentiles"]
    assert list(found) == ["5", "50"]
    np.testing.assert_allclose([found["5"], found["50"]], np.percentile(x, [5, 50]), atol=2 * np.abs(x).max() / 1024)


def test_without_percentiles_each_batch_is_run_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("caffestat.analysis.calibration.Histograms", None)
    found = caffestat.calibrate(path, inputs={"x": BATCHES}, percentiles=(), device="cpu").ranges
    assert (found["x"].highest, found["x"].percentiles) == (max(one.max() for one in BATCHES), {})


def test_large_arrays_are_run_in_batches(path: Path, tmp_path: Path) -> None:
    x = np.concatenate(BATCHES)
    np.savez(tmp_path / "x.npz", first=x[:5], second=x[5:])
    for source in (x, [*x], tmp_path / "x.npz"):
        found = caffestat.calibrate(path, inputs={"x": source}, batch=5, device="cpu")
        assert (found.ranges["x"].low, found.ranges["x"].high) == (x.min(), x.max())
        assert found.batches == {np.ndarray: 3, list: 12}.get(type(source), 3)
    assert caffestat.calibrate(path, inputs={"x": x}, device="cpu").batches == 1


def test_samples_are_put_together_to_batches_of_a_fixed_size(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model([node("Neg", ["x"], ["y"])], {"x": [4, 3]}, ["y"]).SerializeToString())
    x = normal(11, 3)
    found = caffestat.calibrate(path, inputs={"x": [*x[:3], x[3:9], *x[9:]]}, device="cpu")
    assert found.batches == 2
    assert found.notes == ("--input x: the model takes batches of 4; the last 3 samples fill none and are left out",)
    assert (found.ranges["x"].low, found.ranges["x"].high) == (x[:8].min(), x[:8].max())
    x[10] = 50
    assert caffestat.calibrate(path, inputs={"x": x}, device="cpu").ranges["y"].low == -x[:8].max()


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    nodes = [node("Log", ["x"], ["l"]), node("Div", ["z", "z"], ["n"]), node("Add", ["l", "n"], ["y"])]
    path = tmp_path / "model.onnx"
    path.write_bytes(model(nodes, {"x": [2, 3], "z": [2, 3]}, ["y"]).SerializeToString())
    x = np.array([[0, 1, np.e], [np.inf, -1, np.e**2]], np.float32)
    found = caffestat.calibrate(path, inputs={"x": x, "z": np.zeros((2, 3), np.float32)}, device="cpu").ranges
    assert (found["x"].low, found["l"].low) == (-1, 0)
    assert found["l"].high == pytest.approx(2)
    assert (found["z"].low, found["z"].high, found["z"].percentiles[50]) == (0, 0, 0)
    assert {"n", "y"}.isdisjoint(found)


def test_computed_constants_have_ranges(tmp_path: Path) -> None:
    nodes = [node("Exp", ["a"], ["e"]), node("Mul", ["x", "e"], ["y"])]
    path = tmp_path / "model.onnx"
    path.write_bytes(model(nodes, {"x": [2, 3]}, ["y"], {"a": np.float32([0, 1, 2])}).SerializeToString())
    found = caffestat.calibrate(path, inputs={"x": normal(2, 3)}, device="cpu").ranges
    assert (found["e"].low, found["e"].high) == (1, pytest.approx(np.e**2))


@readable
def test_constants_of_nodes_have_ranges_that_the_tools_ask_for(tmp_path: Path) -> None:
    """Exporters write weights and factors as Constant nodes; an operand of an op to quantize needs a range."""
    filters, factor = (numpy_helper.from_array(array) for array in (normal(2, 3, 3, 3), np.float32(-0.5)))
    nodes = [
        node("Constant", [], ["w"], value=filters),
        node("Constant", [], ["f"], value=factor),
        node("Conv", ["x", "w"], ["c"]),
        node("Mul", ["c", "f"], ["y"]),
    ]
    path, ranges, output = (tmp_path / name for name in ("model.onnx", "ranges.json", "int8.onnx"))
    path.write_bytes(model(nodes, {"x": [4, 3, 9, 8]}, ["y"]).SerializeToString())
    found = caffestat.calibrate(path, ranges, inputs={"x": BATCHES}, device="cpu").ranges
    assert (found["f"].low, found["f"].high) == (-0.5, -0.5)
    assert found["w"].high == numpy_helper.to_array(filters).max()
    quantize_static(path, output, None, calibration_cache_path=ranges, calibrate_method=CalibrationMethod.MinMax)
    feeds = {"x": BATCHES[1]}
    exact, rounded = (run(onnx.load(str(one)), feeds)["y"] for one in (path, output))
    np.testing.assert_allclose(rounded, exact, atol=0.03 * np.abs(exact).max())


def test_a_net_has_the_names_of_its_conversion(root: Path, tmp_path: Path) -> None:
    net = root / "models/deploy/lenet_deploy.prototxt"
    images = normal(5, 1, 28, 28)
    found = caffestat.calibrate(net, inputs={"data": images}, batch=2, seed=3, device="cpu")
    caffestat.convert(net, tmp_path / "lenet.onnx", batch=2, seed=3)
    names = {n for proto in onnx.load(str(tmp_path / "lenet.onnx")).graph.node for n in proto.output}
    assert {"data", "conv1", "prob"} <= found.ranges.keys() <= names | {"data"}
    assert found.batches == 3
    assert found.ranges["data"].high == images.max()


def test_labels_of_a_net_follow_the_size_of_each_batch(root: Path) -> None:
    inputs = {"data": normal(40, 1, 28, 28)}
    found = caffestat.calibrate(root / "models/lenet.prototxt", inputs=inputs, percentiles=(), device="cpu")
    assert found.batches == 2
    assert found.ranges["loss"].low > 0


def test_data_that_decides_by_its_shape_alone_is_data(tmp_path: Path) -> None:
    size = [
        node("Shape", ["x"], ["s"]),
        node("ReduceSum", ["s"], ["n"], keepdims=0),
        node("Equal", ["n", "five"], ["c"]),
    ]
    inner = [node("Neg", ["x"], ["inner"])]
    branch = helper.make_graph(inner, "branch", [], [value("inner", None)])
    nodes = [*size, node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)]
    path = tmp_path / "model.onnx"
    path.write_bytes(model(nodes, {"x": [2, 3]}, ["y"], {"five": np.array(5)}).SerializeToString())
    first, second = normal(2, 3), normal(2, 3, seed=7) * np.float32(9)
    found = caffestat.calibrate(path, inputs={"x": [first, second]}, device="cpu").ranges
    assert found["x"].high == max(first.max(), second.max())
    assert found["y"].low == -found["x"].high


@readable
def test_float16_values_keep_their_type(tmp_path: Path) -> None:
    path, output = tmp_path / "model.onnx", tmp_path / "ranges.json"
    proto = model([node("Neg", ["x"], ["y"])], [value("x", (2, 3), onnx.TensorProto.FLOAT16)], ["y"])
    proto.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    path.write_bytes(proto.SerializeToString())
    x = normal(2, 3).astype(np.float16)
    caffestat.calibrate(path, output, inputs={"x": x}, device="cpu")
    read = tools.load_tensors_data(output)["y"]
    assert read.lowest.dtype == np.float16
    assert read.range_value == ((-x).min(), (-x).max())


@pytest.mark.parametrize(
    ("inputs", "settings", "words"),
    [
        ({}, {}, "expected data for an input"),
        ({"z": BATCHES}, {}, "--input z: expected one of x"),
        ({"x": [normal(3, 9)]}, {}, r"expected arrays of shape \?x3x9x8, found one of \(3, 9\)"),
        ({"x": "missing.npz"}, {}, "missing.npz: cannot be read"),
        ({"x": BATCHES}, {"method": "entropy"}, "method: expected one of minmax, percentile"),
        ({"x": BATCHES}, {"percentile": 101}, "expected a number from 0 to 100, found 101"),
        ({"x": BATCHES}, {"weights": "a.caffemodel"}, "weights files and fillers are for Caffe nets"),
    ],
)
def test_what_cannot_be_used_is_refused(path: Path, inputs: object, settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        caffestat.calibrate(path, inputs=inputs, device="cpu", **settings)


def test_batches_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(model([node("Add", ["x", "z"], ["y"])], {"x": [2, 3], "z": [2, 3]}, ["y"]).SerializeToString())
    with pytest.raises(InputError, match="x: expected at least one batch, found none"):
        caffestat.calibrate(path, inputs={"x": normal(1, 3)}, device="cpu")
    with pytest.raises(InputError, match="x, z have different numbers of batches"):
        caffestat.calibrate(path, inputs={"x": normal(4, 3), "z": normal(2, 3)}, device="cpu")


def test_values_that_are_all_zero_and_models_without_floats_of_the_types(tmp_path: Path) -> None:
    double = model([node("Add", ["x", "x"], ["y"])], {"x": (2, 3)}, ["y"])
    onnx.save(double, tmp_path / "m.onnx")
    found = caffestat.calibrate(tmp_path / "m.onnx", inputs={"x": np.zeros((2, 3), np.float32)}, device="cpu").ranges
    assert {name: (one.low, one.high) for name, one in found.items()} == {"x": (0, 0), "y": (0, 0)}
    for item in (*double.graph.input, *double.graph.output):
        item.type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    onnx.save(double, tmp_path / "m.onnx")
    with pytest.raises(
        InputError, match="no value with elements is of float16 or float32: there are no ranges to find"
    ):
        caffestat.calibrate(tmp_path / "m.onnx", inputs={"x": np.zeros((2, 3))}, device="cpu")
