"""Models whose file holds one batch: what fails with another one says which."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import caffestat
from caffestat.errors import InputError
from tests.graph.models import model, normal

node = helper.make_node
SIZES = np.array([8, 12])
GROUPS = np.array([4, -1, 3, 5])


def reshaped() -> onnx.ModelProto:
    return model([node("Reshape", ["x", "s"], ["y"])], {"x": ["n", 3, 4]}, ["y"], {"s": SIZES})


def grouped() -> onnx.ModelProto:
    return model([node("Reshape", ["x", "s"], ["y"])], {"x": ["n", 3, 5]}, ["y"], {"s": GROUPS})


def joined() -> onnx.ModelProto:
    return model([node("Concat", ["x", "c"], ["y"], axis=1)], {"x": ["n", 4]}, ["y"], {"c": normal(3, 2)})


def halved() -> onnx.ModelProto:
    """What the runtime finds, not the loading: static there is nothing to say."""
    nodes = [node("Split", ["x", "s"], ["a", "b"]), node("Sub", ["a", "b"], ["y"])]
    return model(nodes, {"x": ["n", 4]}, ["y"], {"s": np.array([2, 2])})


def recurrent() -> onnx.ModelProto:
    """As exporters write it that keep the first state of the batch that they traced."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("GRU", ["t", "w", "r", "", "", "h"], ["y"], hidden_size=3),
    ]
    return model(nodes, {"x": ["n", 5, 4]}, ["y"], {"w": normal(1, 9, 4), "r": normal(1, 9, 3), "h": normal(1, 2, 3)})


MADE = [(reshaped, 8), (grouped, 4), (joined, 3), (halved, 4), (recurrent, 2)]


@pytest.mark.parametrize(("made", "batch"), MADE, ids=[made.__name__ for made, _ in MADE])
def test_an_error_says_with_which_batch_the_model_runs(
    made: Callable[[], onnx.ModelProto], batch: int, tmp_path: Path
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(made(), path)
    words = f"it runs with a batch of {batch}: --batch {batch}$"
    commands: list[Callable[..., Any]] = [
        lambda **options: caffestat.analyze(path, device="cpu", **options),
        lambda **options: caffestat.compare_values(path, path, device="cpu", **options),
        *([partial(caffestat.gradient, path)] if made in (reshaped, grouped, joined) else []),
    ]
    for command in commands:
        with pytest.raises(InputError, match=words):
            command()
        command(batch=batch)


def test_a_batch_is_said_as_the_user_gave_it(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(reshaped(), path)
    shapes = {"x": (3, 3, 4)}
    with pytest.raises(InputError, match=r"\(3, 3, 4\) cannot become \(8, 12\); .* loads with .* 8: --shape x=8,3,4$"):
        caffestat.analyze(path, static=True, shapes=shapes)
    data = normal(40, 3, 4)
    with pytest.raises(InputError, match=r"it runs with a batch of 8: give it arrays of that size$"):
        caffestat.analyze(path, inputs={"x": data})
    with pytest.raises(InputError, match=r"it runs with a batch of 8: --batch 8$"):
        caffestat.calibrate(path, inputs={"x": data}, device="cpu")
    assert caffestat.calibrate(path, inputs={"x": data}, device="cpu", batch=8).batches == 5


def test_no_batch_is_said_where_it_is_not_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(reshaped(), path)
    with pytest.raises(InputError, match="unknown data blob") as caught:
        caffestat.analyze(path, batch=8, inputs={"z": np.float32(3)})
    assert "batch" not in str(caught.value)
    fixed = model([node("Reshape", ["x", "s"], ["y"])], {"x": [2, 3, 4]}, ["y"], {"s": SIZES})
    onnx.save(fixed, path)
    with pytest.raises(InputError, match=r"cannot become \(8, 12\); the inputs are x 2x3x4$"):
        caffestat.analyze(path)
