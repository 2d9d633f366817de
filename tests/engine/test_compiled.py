"""Compiled graphs: what is an input of every run, what is computed, what stays on the device."""

from __future__ import annotations

import doctest

import numpy as np
import pytest

from caffestat import engine
from caffestat.engine import CPU, Compiled
from caffestat.errors import RunError
from caffestat.graph import Graph

W = np.float32([1, 2, 3])
X = np.float32([[1, 0, 2], [0, 5, -1]])


def product() -> Graph:
    """y = x w, z = -w for x [2, 3] and a param w [3]."""
    g = Graph()
    x, w = g.input("x", (2, 3)), g.param("w", (3,))
    g.outputs = [g.emit("MatMul", x, w, hint="y"), g.emit("Neg", w, hint="z")]
    return g


def test_the_example_of_a_loop() -> None:
    assert doctest.testmod(engine).failed == 0


def test_params_are_inputs_of_every_run() -> None:
    compiled = Compiled(product())
    for w in (W, 2 * W):
        found = compiled.run({"x": X}, {"w": w})
        np.testing.assert_array_equal(found["y"], X @ w)
        np.testing.assert_array_equal(found["z"], -w)


def test_constant_params_stay_what_they_were() -> None:
    compiled = Compiled(product(), CPU, {"w": W})
    np.testing.assert_array_equal(compiled.run({"x": X})["y"], X @ W)
    np.testing.assert_array_equal(compiled.run({"x": X}, {"w": 2 * W})["y"], X @ W)


def test_some_params_constant_and_others_not() -> None:
    g = product()
    v = g.param("v", (2,))
    g.outputs.append(g.emit("Add", "y", v, hint="sum"))
    compiled = Compiled(g, CPU, {"w": W})
    for shift in (0, 4):
        found = compiled.run({"x": X}, {"v": np.full(2, shift, np.float32)})
        np.testing.assert_array_equal(found["sum"], X @ W + shift)


def test_a_run_computes_the_outputs_that_are_asked_for() -> None:
    compiled = Compiled(product())
    found = compiled.run({}, {"w": W}, outputs=["z", "z"])  # y needs x, which is not given
    assert list(found) == ["z"]
    np.testing.assert_array_equal(found["z"], -W)


def test_an_input_that_is_missing_is_named() -> None:
    with pytest.raises(RunError, match="a run needs a value of x"):
        Compiled(product()).run({}, {"w": W})


def test_kept_outputs_are_fed_again() -> None:
    compiled = Compiled(product())
    first = compiled.run({"x": X}, {"w": W}, keep=["z"])
    assert isinstance(first["y"], np.ndarray)
    second = compiled.run({"x": compiled.put(X)}, {"w": first["z"]}, keep=["y"])
    np.testing.assert_array_equal(second["y"].numpy(), X @ -W)
    np.testing.assert_array_equal(first["z"].numpy(), -W)


def test_arrays_of_any_layout_are_taken() -> None:
    wide = np.zeros((3, 4), np.float32)
    wide[:, ::2] = X.T
    transposed = wide[:, ::2].T
    for w in (W, Compiled(product()).put(W)):
        np.testing.assert_array_equal(Compiled(product()).run({"x": transposed}, {"w": w})["y"], X @ W)


def test_params_that_no_output_depends_on_are_left_out() -> None:
    """The runtime drops them from the model, and then refuses their values."""
    g = Graph()
    read, unread = g.param("read", (2,)), g.param("unread", (3,))
    g.emit("Abs", unread)
    g.outputs = [g.emit("Neg", read)]
    arrays = {read: np.float32([1, 2]), unread: np.zeros(3, np.float32)}
    np.testing.assert_array_equal(Compiled(g, CPU, arrays).run({})[g.outputs[0]], [-1, -2])


def test_an_op_that_the_runtime_lacks_is_an_error_that_names_it() -> None:
    g = Graph()
    g.outputs = [g.emit("NoSuchOp", g.input("x", (2,)))]
    with pytest.raises(RunError, match=r"onnxruntime cannot run the model: .*NoSuchOp"):
        Compiled(g).run({"x": np.zeros(2, np.float32)})


def test_an_error_of_a_model_that_is_not_opened_tells_the_node() -> None:
    g = Graph()
    x = g.input("x", (2,))
    g.outputs = [g.emit("StringConcat", x, x, hint="joined")]
    with pytest.raises(RunError, match=r"onnxruntime cannot run the model: .*StringConcat") as caught:
        Compiled(g).run({"x": np.zeros(2, np.float32)})
    assert caught.value.node == "joined"


def test_an_error_of_a_run_tells_the_node() -> None:
    g = Graph()
    rows = g.emit("Gather", g.input("table", (3, 2)), g.input("index", (1,), np.int64), hint="rows")
    g.outputs = [g.emit("Neg", rows)]
    with pytest.raises(RunError, match=r"Gather: .*out of") as caught:
        Compiled(g).run({"table": np.zeros((3, 2), np.float32), "index": np.int64([7])})
    assert caught.value.node == "rows"


def test_outputs_written_into_given_arrays() -> None:
    g = Graph()
    x = g.input("x", (2, 3))
    double, total = g.emit("Add", x, x, hint="double"), g.emit("ReduceSum", x, keepdims=0, hint="total")
    g.outputs = [double, total]
    compiled, array = Compiled(g), np.zeros((2, 3), np.float32)
    for factor in (1, 2):
        x_ = np.arange(6, dtype=np.float32).reshape(2, 3) * factor
        found = compiled.run({"x": x_}, into={double: array})
        assert found[double] is array
        np.testing.assert_array_equal(array, 2 * x_)
        assert found[total] == x_.sum()
