"""Open sizes of inputs: by input, by name, and suggestions that the model can run."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

import caffestat
from caffestat.errors import InputError
from caffestat.graph.load import load

from .models import model, normal, run

node = helper.make_node


def classifier(shape: list[int | str], width: int = 64) -> onnx.ModelProto:
    """A 7x7 convolution, pooling, and an inner product that wants 4 x 4 places: images of 29 to 34 pixels."""
    nodes = [
        node("Conv", ["x", "w"], ["c"], strides=[2, 2]),
        node("MaxPool", ["c"], ["p"], kernel_shape=[3, 3], strides=[3, 3]),
        node("Flatten", ["p"], ["f"]),
        node("Gemm", ["f", "v"], ["y"], transB=1),
    ]
    return model(nodes, {"x": shape}, ["y"], {"w": normal(4, 3, 7, 7), "v": normal(5, width)})


@pytest.mark.parametrize("shape", [["n", 3, "height", "width"], [-1, 3, -1, -1], ["n", "c", "h", "w"]])
def test_a_suggestion_is_a_shape_that_the_model_runs_with(shape: list[int | str]) -> None:
    proto = classifier(shape)
    with pytest.raises(InputError) as caught:
        load(proto)
    suggested = re.search(r"--shape x=([\d,]+)", str(caught.value))
    assert suggested
    sizes = [int(size) for size in suggested[1].split(",")]
    assert run(proto, {"x": normal(*sizes)})["y"].shape == (1, 5)
    assert load(proto, {"x": sizes}).graph.shape("y") == (1, 5)


@pytest.mark.parametrize("sizes", [["n", "h", "w"], [-1, -1, -1]])
@pytest.mark.parametrize("colors", [1, 3])
def test_images_with_channels_last_get_a_suggestion(sizes: list[int | str], colors: int) -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]), node("Conv", ["t", "w"], ["y"])]
    with pytest.raises(InputError, match=f"for example --shape x=1,224,224,{colors}"):
        load(model(nodes, {"x": [*sizes, colors]}, ["y"], {"w": normal(4, colors, 7, 7)}))


def test_no_suggestion_where_none_is_found() -> None:
    with pytest.raises(InputError, match="no sizes were found that the model accepts"):
        load(classifier(["n", 3, "h", "w"], width=63))


def test_sizes_by_name() -> None:
    proto = classifier(["n", 3, "height", "width"])
    assert load(proto, dims={"height": 30, "width": 33}, batch=2).graph.inputs["x"].shape == (2, 3, 30, 33)
    assert load(proto, dims={"height": 30, "width": 33, "n": 3}).graph.inputs["x"].shape == (3, 3, 30, 33)
    with pytest.raises(InputError, match=r"leaves sizes open .* --shape x=1,3,30,32 \(or --dim width=32\)"):
        load(proto, dims={"height": 30})
    with pytest.raises(InputError, match="--dim depth: the model has no size of that name; expected one of n, height"):
        load(proto, dims={"depth": 3})


def test_suggested_sizes_by_name_run() -> None:
    proto = classifier(["n", 3, "height", "width"])
    with pytest.raises(InputError) as caught:
        load(proto)
    named = {name: int(size) for name, size in re.findall(r"--dim (\w+)=(\d+)", str(caught.value))}
    assert named.keys() == {"height", "width"}
    assert load(proto, dims=named).graph.shape("y") == (1, 5)


@pytest.mark.parametrize("shape", [["n", 3, "height", -1], ["n", "s", "s", 32]])
def test_no_names_are_suggested_where_they_do_not_say_all(shape: list[int | str]) -> None:
    with pytest.raises(InputError, match=r"--shape x=1,3,\d+,\d+$"):
        load(classifier(shape))


def test_the_batch_has_the_same_name_in_recurrent_states() -> None:
    proto = model([node("MatMul", ["x", "s"], ["y"])], {"x": ["batch", 3, 5], "s": [2, 1, "batch", 5, 4]}, ["y"])
    assert load(proto, batch=3).graph.shape("y") == (2, 1, 3, 3, 4)
    assert load(proto, {"x": (7, 3, 5)}).graph.inputs["s"].shape == (2, 1, 7, 5, 4)


def test_states_without_names_get_the_batch() -> None:
    weights = {"w": normal(1, 16, 3), "r": normal(1, 16, 4)}
    nodes = [
        node("Split", ["states"], ["h", "c"], axis=0, num_outputs=2),
        node("LSTM", ["x", "w", "r", "", "", "h", "c"], ["y"], hidden_size=4),
    ]
    proto = model(nodes, {"x": ["", 6, 3], "states": [2, -1, 4]}, ["y"], weights)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "?"
    with pytest.raises(InputError) as caught:
        load(proto, batch=7)
    assert re.search(r"--shape x=7,\d+,3 --shape states=2,7,4$", str(caught.value))


def test_parts_that_do_not_fit_together_are_a_message_and_no_suggestion() -> None:
    pool = {"kernel_shape": [1, 2], "strides": [1, 32]}
    nodes = [
        node("MaxPool", ["x"], ["p"], **pool),
        node("Shape", ["p"], ["s"]),
        node("Gather", ["s", "two"], ["t"]),
        node("Reshape", ["row", "t"], ["r"]),
        node("Concat", ["r", "v"], ["y"], axis=0),
    ]
    arrays = {"two": np.array([2, 3]), "row": normal(8), "v": normal(3, 2)}
    proto = model(nodes, {"x": [1, 3, 4, "width"]}, ["y"], arrays)
    with pytest.raises(InputError, match="--dim width=64"):
        load(proto)
    with pytest.raises(InputError, match=r"Concat \(value y\): \(2, 4\), \(3, 2\) do not fit together; .* x 1x3x2x128"):
        load(model(nodes, {"x": [1, 3, 2, "width"]}, ["y"], arrays), dims={"width": 128})


def test_constants_without_elements_do_not_matter_to_suggestions() -> None:
    empty = helper.make_tensor("empty", onnx.TensorProto.FLOAT, [0], [])
    nodes = [
        node("Constant", [], ["roi"], value=empty),
        node("Resize", ["x", "roi", "scales"], ["r"]),
        node("Relu", ["r"], ["y"]),
    ]
    proto = model(nodes, {"x": [1, 3, "h", "w"]}, ["y"], {"scales": np.array([1, 1, 2, 2], np.float32)})
    with pytest.raises(InputError, match="--shape x=1,3,224,224"):
        load(proto)


def test_parts_of_shapes_without_elements_do_not_matter_to_suggestions() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Slice", ["s", "ends", "ends"], ["none"]),
        node("Concat", ["none", "s"], ["same"], axis=0),
        node("Reshape", ["x", "same"], ["y"]),
    ]
    proto = model(nodes, {"x": [1, "t"]}, ["y"], {"ends": np.array([2])})
    with pytest.raises(InputError, match="for example --shape x=1,224"):
        load(proto)


def test_one_size_is_given_once() -> None:
    proto = classifier(["n", 3, "height", "width"])
    with pytest.raises(InputError, match="--dim width=31: --shape x gives 32 for it"):
        load(proto, {"x": (2, 3, 30, 32)}, dims={"width": 31})
    assert load(proto, {"x": (2, 3, 30, 32)}, dims={"width": 32}).graph.inputs["x"].shape == (2, 3, 30, 32)


def test_a_named_size_is_the_same_in_all_inputs() -> None:
    proto = model([node("Add", ["a", "b"], ["y"])], {"a": ["n", "t"], "b": [1, "t"]}, ["y"])
    assert load(proto, dims={"t": 6}).graph.shape("y") == (1, 6)


def test_an_image_that_is_too_small_is_a_message() -> None:
    with pytest.raises(InputError, match=r"Conv \(value c\): an image of \(1, 3, 5, 6\) is too small .* x 1x3x5x6"):
        load(classifier([1, 3, "h", "w"]), {"x": (1, 3, 5, 6)})


def test_shapes_behind_large_weights_are_checked_without_them() -> None:
    weights = {"w": np.zeros((300, 4000), np.float32)}
    proto = model([node("MatMul", ["x", "w"], ["y"])], {"x": ["n", "t", 300]}, ["y"], weights)
    with pytest.raises(InputError, match="--shape x=1,224,300"):
        load(proto)


def picking(index: int) -> onnx.ModelProto:
    """A model that loads with any size, and runs where the last axis has that index."""
    return model([node("Gather", ["x", "i"], ["y"], axis=2)], {"x": ["n", 3, "width"]}, ["y"], {"i": np.array([index])})


def test_a_suggestion_is_run_where_that_can_be_done(tmp_path: Path) -> None:
    path = tmp_path / "picking.onnx"
    onnx.save(picking(300), path)
    with pytest.raises(InputError, match=r"for example --shape x=1,3,224 \(or --dim width=224\)$"):
        load(path)
    for verb in (partial(caffestat.analyze, device="cpu"), caffestat.gradient):
        with pytest.raises(InputError, match=r"for example --shape x=1,3,320 \(or --dim width=320\)$"):
            verb(path)
    caffestat.analyze(path, dims={"width": 320}, device="cpu")
    with pytest.raises(InputError, match="--shape x=1,3,224"):
        caffestat.analyze(path, static=True)


def test_sizes_that_load_are_told_where_none_run(tmp_path: Path) -> None:
    path = tmp_path / "picking.onnx"
    onnx.save(picking(20_000), path)
    with pytest.raises(InputError, match="no sizes were found with which it runs; it loads with --shape x=1,3,224"):
        caffestat.analyze(path, device="cpu")


def test_a_given_array_says_the_sizes_of_its_input(tmp_path: Path) -> None:
    path = tmp_path / "picking.onnx"
    onnx.save(picking(30), path)
    report = caffestat.analyze(path, inputs={"x": normal(2, 3, 33)}, device="cpu")
    assert report.layers[0].tops[0].shape == (2, 3, 1)
    with pytest.raises(InputError, match="leaves sizes open"):  # four channels are not what the model says
        caffestat.analyze(path, inputs={"x": normal(2, 4, 33)}, device="cpu")
