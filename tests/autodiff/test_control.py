"""Gradients through If, Scan and Loop against finite differences and against the same model without subgraphs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import caffestat
from caffestat.autodiff import gradient
from caffestat.errors import GradientError, InputError
from caffestat.graph.load import load
from tests.graph.models import model, normal, run, value

node = helper.make_node
BOOL, INT = TensorProto.BOOL, TensorProto.INT64


def body(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    **arrays: np.ndarray,
) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    return helper.make_graph(list(nodes), "body", list(inputs), list(outputs), tensors)


def check_differences(
    proto: onnx.ModelProto, feeds: dict[str, np.ndarray], wrt: Sequence[str]
) -> dict[str, np.ndarray]:
    """Compare every gradient along a random direction with a central difference; return all outputs."""
    random = np.random.default_rng(9)
    differentiated = gradient(proto, wrt=wrt)
    outputs = [output.name for output in proto.graph.output]
    plain = run(proto, feeds)
    cotangents = {name: random.normal(size=plain[name].shape).astype(np.float32) for name in outputs}
    found = run(differentiated, {**feeds, **{f"cotangent/{name}": dy for name, dy in cotangents.items()}})
    for name in outputs:
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-5, atol=1e-6)
    for name in wrt:
        direction = random.normal(size=found[f"grad/{name}"].shape).astype(np.float32)
        slope = float((found[f"grad/{name}"] * direction).sum())
        assert slope == pytest.approx(_slope(proto, feeds, name, direction, cotangents), rel=5e-3, abs=5e-3)
    return found


def _slope(
    proto: onnx.ModelProto,
    feeds: dict[str, np.ndarray],
    name: str,
    direction: np.ndarray,
    cotangents: dict[str, np.ndarray],
) -> float:
    step = 3e-3
    total = 0.0
    for sign in (1, -1):
        moved = onnx.ModelProto()
        moved.CopyFrom(proto)
        fed = dict(feeds)
        if name in fed:
            fed[name] = (fed[name] + sign * step * direction).astype(np.float32)
        for tensor in moved.graph.initializer:
            if tensor.name == name:
                array = numpy_helper.to_array(tensor) + sign * step * direction
                tensor.CopyFrom(numpy_helper.from_array(array.astype(np.float32), name))
        out = run(moved, fed)
        total += sign * sum(float((out[key].astype(np.float64) * dy).sum()) for key, dy in cotangents.items())
    return total / (2 * step)


def an_if(**settings: Any) -> onnx.ModelProto:
    """y = tanh(x·a + s) where c, else x·b: `a` and `s` from outside, `b` inside its branch."""
    then = body(
        [node("MatMul", ["x", "a"], ["p"]), node("Add", ["p", "s"], ["q"]), node("Tanh", ["q"], ["out"])],
        [],
        [value("out", [2, 5])],
    )
    other = body([node("MatMul", ["x", "b"], ["out"])], [], [value("out", [2, 5])], b=normal(3, 5, seed=4))
    nodes = [node("If", ["c"], ["z"], then_branch=then, else_branch=other), node("Mul", ["z", "z"], ["y"])]
    inputs = [value("c", [], BOOL), value("x", [2, 3]), value("s", [5])]
    return model(nodes, inputs, ["y"], {"a": normal(3, 5)}, **settings)


@pytest.mark.parametrize("taken", [True, False])
def test_a_condition_that_depends_on_data_keeps_both_branches(taken: bool) -> None:
    feeds = {"c": np.array(taken), "x": normal(2, 3, seed=1), "s": normal(5, seed=2)}
    found = check_differences(an_if(), feeds, ["x", "s", "a"])
    assert (found["grad/a"] == 0).all() == (not taken)


def test_weights_inside_a_branch_get_gradients_by_default() -> None:
    differentiated = gradient(an_if())
    assert [output.name for output in differentiated.graph.output] == [
        "y", "grad/x", "grad/s", "grad/a", "grad/b"
    ]  # fmt: skip
    feeds = {"c": np.array(False), "x": normal(2, 3, seed=1), "s": normal(5), "cotangent/y": normal(2, 5, seed=6)}
    found = run(differentiated, feeds)
    z = feeds["x"] @ normal(3, 5, seed=4)
    np.testing.assert_allclose(found["grad/b"], feeds["x"].T @ (2 * z * feeds["cotangent/y"]), rtol=1e-4)


def test_a_condition_that_follows_from_shapes_takes_one_branch() -> None:
    then = body([node("Tanh", ["x"], ["out"])], [], [value("out", None)])
    other = body([node("Relu", ["x"], ["out"])], [], [value("out", None)])
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Equal", ["n", "two"], ["c"]),
        node("If", ["c"], ["y"], then_branch=then, else_branch=other),
    ]
    arrays = {"zero": np.array(0, np.int64), "two": np.array(2, np.int64)}
    proto = model(nodes, {"x": (2, 4)}, ["y"], arrays)
    assert "If" not in [n.op_type for n in gradient(proto).graph.node]
    check_differences(proto, {"x": normal(2, 4)}, ["x"])


def a_scan(**how: Any) -> onnx.ModelProto:
    """h' = tanh(h·w + x), outputs h' · h' of every step: states, scanned values and a weight from outside."""
    inner = body(
        [
            node("MatMul", ["h", "w"], ["p"]),
            node("Add", ["p", "x"], ["q"]),
            node("Tanh", ["q"], ["new"]),
            node("Mul", ["new", "new"], ["out"]),
        ],
        [value("h", [2, 3]), value("x", [2, 3])],
        [value("new", [2, 3]), value("out", [2, 3])],
    )
    nodes = [node("Scan", ["h0", "xs"], ["last", "ys"], body=inner, num_scan_inputs=1, **how)]
    axis = how.get("scan_input_axes", [0])[0] % 3
    shape = [2, 3]
    shape.insert(axis, 4)
    return model(nodes, {"h0": (2, 3), "xs": shape}, ["last", "ys"], {"w": normal(3, 3)})


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"scan_input_directions": [1]},
        {"scan_output_directions": [1]},
        {"scan_input_axes": [1], "scan_output_axes": [2]},
        {"scan_input_axes": [-1], "scan_output_axes": [-2], "scan_input_directions": [1]},
    ],
    ids=str,
)
def test_scan(how: dict[str, Any]) -> None:
    proto = a_scan(**how)
    shape = [dim.dim_value for dim in proto.graph.input[1].type.tensor_type.shape.dim]
    check_differences(proto, {"h0": normal(2, 3), "xs": normal(*shape, seed=2)}, ["h0", "xs", "w"])


def test_the_gradient_of_a_gradient_through_scan() -> None:
    once = gradient(a_scan(), outputs=["last"], wrt=["w"])
    feeds = {"h0": normal(2, 3), "xs": normal(4, 2, 3, seed=2), "cotangent/last": normal(2, 3, seed=5)}
    kept = onnx.ModelProto()
    kept.CopyFrom(once)
    del kept.graph.output[:]
    kept.graph.output.extend(output for output in once.graph.output if output.name == "grad/w")
    check_differences(kept, feeds, ["xs", "cotangent/last"])


def a_loop(count: np.ndarray | None = None, condition: str = "cond") -> onnx.ModelProto:
    """v' = v·w + i, three times, outputs of every trip too."""
    inner = body(
        [
            node("Identity", ["cond_in"], ["cond"]),
            node("MatMul", ["v", "w"], ["p"]),
            node("Cast", ["i"], ["fi"], to=TensorProto.FLOAT),
            node("Add", ["p", "fi"], ["next"]),
            node("Tanh", ["next"], ["each"]),
            node("Less", ["fi", "limit"], ["few"]),
            node("ReduceMax", ["next"], ["top"], keepdims=0),
            node("Less", ["top", "limit"], ["small"]),
        ],
        [value("i", [], INT), value("cond_in", [], BOOL), value("v", [2, 3])],
        [value(condition, [], BOOL), value("next", [2, 3]), value("each", [2, 3])],
        limit=np.array(1.5, np.float32),
    )
    inputs = [value("v0", [2, 3])] + ([value("trips", [], INT)] if count is None else [])
    arrays = {"w": normal(3, 3) / 3} | ({} if count is None else {"trips": count})
    return model([node("Loop", ["trips", "", "v0"], ["last", "ys"], body=inner)], inputs, ["last", "ys"], arrays)


def test_a_loop_with_a_fixed_trip_count() -> None:
    proto = a_loop(np.array(3, np.int64))
    check_differences(proto, {"v0": normal(2, 3)}, ["v0", "w"])
    loaded = load(proto)
    assert [node.op for node in loaded.graph.nodes] == ["Scan"]
    assert [(node.name, node.op) for node in loaded.nodes] == [("Loop_0", "Loop")]


@pytest.mark.parametrize(("most", "trips"), [(7, 3), (2, 2)])
def test_a_loop_whose_condition_counts_trips(most: int, trips: int) -> None:
    """It ends when i >= 1.5: after three trips, or after fewer where the node says so."""
    proto = a_loop(np.array(most, np.int64), "few")
    x = {"v0": normal(2, 3)}
    assert run(proto, x)["ys"].shape == (trips, 2, 3)
    check_differences(proto, x, ["v0", "w"])


def a_while(step: float = 1.0) -> onnx.ModelProto:
    """What TensorFlow exports: no trip count, n and a matrix are states that pass through, k < n is computed."""
    inner = body(
        [
            node("Add", ["k", "one"], ["k_next"]),
            node("Less", ["k_next", "n"], ["goes_on"]),
            node("MatMul", ["v", "m"], ["p"]),
            node("Tanh", ["p"], ["next"]),
            node("Identity", ["next"], ["each"]),
        ],
        [
            value("i", [], INT),
            value("cond_in", [], BOOL),
            value("k", []),
            value("v", [2, 3]),
            value("n", []),
            value("m", [3, 3]),
        ],
        [
            value("goes_on", [], BOOL),
            value("k_next", []),
            value("next", [2, 3]),
            value("n", []),
            value("m", [3, 3]),
            value("each", [2, 3]),
        ],
        one=np.array(step, np.float32),
    )
    nodes = [
        node("Shape", ["xs"], ["shape"], start=0, end=1),
        node("Squeeze", ["shape"], ["size"]),
        node("Cast", ["size"], ["n0"], to=TensorProto.FLOAT),
        node("Less", ["k0", "n0"], ["begins"]),
        node("ReduceSum", ["xs", "first"], ["v0"], keepdims=0),
        node("Loop", ["", "begins", "k0", "v0", "n0", "w"], ["k_last", "last", "n_last", "w_last", "ys"], body=inner),
    ]
    arrays = {"w": normal(3, 3) / 2, "k0": np.array(0, np.float32), "first": np.array([0])}
    return model(nodes, {"xs": (4, 2, 3)}, ["last", "ys", "w_last", "n_last"], arrays)


def test_a_loop_that_counts_up_to_a_size() -> None:
    proto, x = a_while(), {"xs": normal(4, 2, 3)}
    assert run(proto, x)["ys"].shape == (4, 2, 3)
    graph = load(proto).graph
    assert [node.op for node in graph.nodes if node.captured or node.op == "Scan"] == ["Scan"]
    assert graph.shape("ys") == (4, 2, 3)
    check_differences(proto, x, ["xs", "w"])
    made = caffestat.gradient(proto, outputs=["w_last"], wrt=["w"])
    found = run(made, {**x, "cotangent/w_last": normal(3, 3, seed=4)})
    for name, expected in run(proto, x).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["grad/w"], normal(3, 3, seed=4))


def test_a_loop_without_an_end_in_sight_is_no_scan() -> None:
    with pytest.raises(GradientError, match=r"Loop \(value k_last\)"):
        caffestat.gradient(a_while(step=1e-5), outputs=["last"], wrt=["w"])


def test_a_loop_whose_end_depends_on_data_is_refused() -> None:
    for proto in (a_loop(), a_loop(np.array(3, np.int64), "small")):
        with pytest.raises(GradientError, match=r"Loop \(value last\)"):
            caffestat.gradient(proto, outputs=["last"], wrt=["v0"])


def test_an_output_of_unknown_shape_is_never_left_out() -> None:
    nodes = [node("MatMul", ["x", "w"], ["z"]), node("Compress", ["z", "k"], ["y"], axis=0)]
    proto = model(nodes, [value("x", [4, 3]), value("k", [4], BOOL)], ["y"], {"w": normal(3, 5)})
    with pytest.raises(InputError, match="the shape of output 'y' is not known: Compress decides it"):
        gradient(proto)
    chosen = np.array([True, False, True, True])
    found = caffestat.gradient(proto, inputs={"k": chosen})
    dy = normal(3, 5, seed=8)
    grads = run(found, {"x": normal(4, 3), "k": chosen, "cotangent/y": dy})
    expected = np.zeros((4, 5), np.float32)
    expected[chosen] = dy
    np.testing.assert_allclose(grads["grad/x"], expected @ normal(3, 5).T, rtol=1e-5)


def test_a_given_input_takes_a_branch_for_good() -> None:
    found = caffestat.gradient(an_if(), inputs={"c": np.array(False)})
    assert [i.name for i in found.graph.input] == ["x", "s", "cotangent/y"]
    assert "If" not in [n.op_type for n in found.graph.node]


def test_outputs_that_a_recurrent_node_leaves_out() -> None:
    w, r = normal(1, 12, 3), normal(1, 12, 3, seed=5)
    nodes = [node("LSTM", ["x", "w", "r"], ["", "h"], hidden_size=3), node("Neg", ["h"], ["y"])]
    proto = model(nodes, {"x": (4, 2, 3)}, ["y"], {"w": w, "r": r})
    check_differences(proto, {"x": normal(4, 2, 3)}, ["x", "w", "r"])


def test_a_branch_that_is_never_taken_does_not_matter() -> None:
    """Inside an If on data another one asks for the size of x: only what it takes has a shape, and a gradient."""
    zeros = np.zeros(2, np.int64)
    odd = body([node("NonZero", ["x"], ["where"]), node("Cast", ["where"], ["y"], to=1)], [], [value("y", None)])
    mean = body(
        [node("ReduceMean", ["x"], ["m"], axes=[1], keepdims=0), node("Exp", ["m"], ["z"])], [], [value("z", None)]
    )
    deep = body(
        [
            node("Shape", ["x"], ["shape"]),
            node("Size", ["shape"], ["rank"]),
            node("Equal", ["rank", "three"], ["is_three"]),
            node("If", ["is_three"], ["inner"], then_branch=odd, else_branch=mean),
            node("Unsqueeze", ["inner", "front"], ["a"]),
        ],
        [],
        [value("a", None)],
        three=np.array(3),
        front=zeros[:1],
    )
    plain = body(
        [node("ReduceMean", ["x"], ["s"], axes=[1], keepdims=0), node("Unsqueeze", ["s", "front2"], ["b"])],
        [],
        [value("b", None)],
        front2=zeros[:1],
    )
    nodes = [
        node("ReduceMax", ["x"], ["top"], keepdims=0),
        node("Greater", ["top", "limit"], ["c"]),
        node("If", ["c"], ["y"], then_branch=deep, else_branch=plain),
    ]
    proto = model(nodes, {"x": (4, 5)}, ["y"], {"limit": np.array(0.5, np.float32)}, opset=17)
    for sign in (1, -1):
        check_differences(proto, {"x": sign * np.abs(normal(4, 5))}, ["x"])


def test_branches_of_other_shapes_refuse_a_gradient_of_the_wrong_one() -> None:
    """The result is made for the branch that one run took; data that takes the other one has no gradient in it."""
    twice = body([node("Concat", ["x", "x"], ["t"], axis=0)], [], [value("t", None)])
    once = body([node("Neg", ["x"], ["e"])], [], [value("e", None)])
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Less", ["s", "most"], ["c"]),
        node("If", ["c"], ["y"], then_branch=twice, else_branch=once),
    ]
    proto = model(nodes, {"x": (3, 4)}, ["y"], {"most": np.array(100, np.float32)})
    x = np.ones((3, 4), np.float32)
    found = caffestat.gradient(proto, wrt=["x"])
    dy = normal(6, 4)
    np.testing.assert_allclose(run(found, {"x": x, "cotangent/y": dy})["grad/x"], dy[:3] + dy[3:], rtol=1e-6)
    with pytest.raises(Exception, match="Reshape"):
        run(found, {"x": 100 * x, "cotangent/y": dy})


def test_a_captured_value_of_unknown_shape_is_refused() -> None:
    branch = body([node("ReduceSum", ["kept"], ["out"], keepdims=0)], [], [value("out", ())])
    nodes = [
        node("Compress", ["x", "k"], ["kept"], axis=0),
        node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),
    ]
    proto = model(nodes, [value("x", (3, 2)), value("k", (3,), BOOL), value("c", (), BOOL)], ["y"])
    with pytest.raises(GradientError, match=r"If \(value y\): the shape of kept is not known"):
        gradient(proto, wrt=["x"])
    found = caffestat.gradient(proto, wrt=["x"])
    feeds = {"x": normal(3, 2), "k": np.ones(3, bool), "c": np.array(True), "cotangent/y": np.array(2, np.float32)}
    np.testing.assert_array_equal(run(found, feeds)["grad/x"], np.full((3, 2), 2, np.float32))


def typeless(*names: str) -> list[onnx.ValueInfoProto]:
    return [onnx.ValueInfoProto(name=name) for name in names]


def a_simple_loop(nodes: Sequence[onnx.NodeProto], initial: Sequence[str]) -> onnx.NodeProto:
    """y = the state of a Loop after some trips: `nodes` make `after` from `before` and the number `i`."""
    kept = node("Identity", ["c"], ["c2"])
    inside = body(
        [kept, *nodes], [value("i", (), INT), value("c", (), BOOL), *typeless("before")], typeless("c2", "after")
    )
    return node("Loop", ["trips", "", *initial], ["y"], body=inside)


def a_growing_loop(stores: bool) -> onnx.ModelProto:
    """Rows are appended to a matrix. The body stores the weights, as an initializer and as a node, or reads them."""
    w1, w2 = normal(5, 5) / 2, normal(5, 5, seed=2)
    settings = {"last": np.array([-1]), "end": np.array([9]), "axis": np.array([1])}
    nodes = [
        node("Identity", ["c"], ["c2"]),
        node("Cast", ["i"], ["number"], to=TensorProto.FLOAT),
        node("Slice", ["before", "last", "end", "axis"], ["row"]),
        node("MatMul", ["row", "w1"], ["p"]),
        node("MatMul", ["p", "w2"], ["q"]),
        node("Add", ["q", "number"], ["r"]),
        node("Sin", ["r"], ["each"]),
        node("Concat", ["before", "each"], ["after"], axis=1),
    ]
    if stores:
        nodes.insert(0, node("Constant", [], ["w2"], value=numpy_helper.from_array(w2)))
    given = [value("i", (), INT), value("c", (), BOOL), *typeless("before", "kept")]
    inside = body(nodes, given, typeless("c2", "after", "kept", "each"), **settings, **({"w1": w1} if stores else {}))
    loop = node("Loop", ["trips", "", "x", "k"], ["y", "kept_last", "rows"], body=inside)
    arrays = {"trips": np.array(3)} | ({} if stores else {"w1": w1, "w2": w2})
    return model([loop], {"x": (2, 3, 5), "k": (4,)}, ["y", "kept_last", "rows"], arrays)


def test_a_loop_whose_state_grows() -> None:
    feeds = {"x": normal(2, 3, 5), "k": normal(4)}
    reads, stores = a_growing_loop(stores=False), a_growing_loop(stores=True)
    loaded = load(stores)
    assert [op.op for op in loaded.graph.nodes].count("MatMul") == 6
    assert sorted(loaded.graph.params) == ["w1", "w2"]
    assert loaded.graph.shape("rows") == (3, 2, 1, 5)
    check_differences(reads, feeds, ["x", "k", "w1", "w2"])
    dys = {"cotangent/y": normal(2, 6, 5), "cotangent/kept_last": normal(4), "cotangent/rows": normal(3, 2, 1, 5)}
    found, expected = (run(gradient(proto, wrt=["x", "w1", "w2"]), {**feeds, **dys}) for proto in (stores, reads))
    for name in expected:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


def test_a_loop_that_ends_when_its_state_has_grown() -> None:
    """Its condition reads the shape of what it has gathered: how many trips it takes follows without the values."""
    nodes = [
        node("Gather", ["x", "i"], ["row"]),
        node("Unsqueeze", ["row", "first"], ["rows"]),
        node("Concat", ["before", "rows"], ["after"], axis=0),
        node("Shape", ["after"], ["sizes"], end=1),
        node("Less", ["sizes", "four"], ["is_short"]),
        node("Squeeze", ["is_short"], ["goes_on"]),
    ]
    given = [value("i", (), INT), value("c", (), BOOL), *typeless("before")]
    inside = body(nodes, given, typeless("goes_on", "after"), first=np.array([0]), four=np.array([4]))
    loop = node("Loop", ["", "yes", "start"], ["y"], body=inside)
    proto = model([loop], {"x": (5, 3)}, ["y"], {"yes": np.array(True), "start": normal(1, 3)})
    feeds = {"x": normal(5, 3, seed=4)}
    assert check_differences(proto, feeds, ["x", "start"])["y"].shape == (4, 3)


def test_long_loops_whose_states_grow_stay() -> None:
    step = [node("Concat", ["before", "x"], ["after"], axis=0)]
    proto = model([a_simple_loop(step, ["x"])], {"x": (1, 3)}, ["y"], {"trips": np.array(5001)})
    with pytest.raises(GradientError, match=r"no gradient flows through the subgraphs of Loop .value y."):
        caffestat.gradient(proto)
    found = caffestat.gradient(proto, wrt=[])
    assert run(found, {"x": normal(1, 3), "cotangent/y": normal(5002, 3)})["y"].shape == (5002, 3)


@pytest.mark.parametrize("stacks", [0, 1])
def test_a_loop_that_fills_a_sequence(stacks: int) -> None:
    """The newest square stands in front."""
    step = [
        node("Cast", ["i"], ["number"], to=TensorProto.FLOAT),
        node("Mul", ["x", "number"], ["scaled"]),
        node("Mul", ["scaled", "x"], ["square"]),
        node("SequenceInsert", ["before", "square", "front"], ["after"]),
    ]
    nodes = [
        node("SequenceEmpty", [], ["none"]),
        a_simple_loop(step, ["none"]),
        node("ConcatFromSequence", ["y"], ["z"], axis=1, new_axis=stacks),
        node("SequenceAt", ["y", "front"], ["newest"]),
        node("SequenceErase", ["y", "front"], ["others"]),
        node("SequenceAt", ["others", "front"], ["next"]),
        node("SequenceLength", ["others"], ["length"]),
    ]
    arrays = {"trips": np.array(3), "front": np.array(0)}
    proto = model(nodes, {"x": (2, 3)}, ["z", "newest", "next"], arrays)
    assert load(proto).graph.shape("z") == ((2, 3, 3) if stacks else (2, 9))
    check_differences(proto, {"x": normal(2, 3)}, ["x"])
    proto.graph.output.append(value("length", (), INT))
    assert run(caffestat.gradient(proto, wrt=[], outputs=["z"]), run_feeds(proto))["length"] == 2


def run_feeds(proto: onnx.ModelProto) -> dict[str, np.ndarray]:
    x = normal(2, 3)
    return {"x": x, "cotangent/z": np.zeros_like(run(proto, {"x": x})["z"])}


def test_a_sequence_that_is_read_as_a_whole_is_made() -> None:
    """A Loop whose length depends on data takes it, the model returns it, and its elements still have gradients."""
    step = [node("SequenceInsert", ["before", "x"], ["after"])]
    nodes = [
        node("Tanh", ["x"], ["t"]),
        node("SequenceConstruct", ["x", "t"], ["both"]),
        a_simple_loop(step, ["both"]),
        node("SequenceEmpty", [], ["none"]),
        node("Loop", ["trips", "", "none"], ["more"], body=a_simple_loop(step, ["none"]).attribute[0].g),
        node("ConcatFromSequence", ["y"], ["z"], axis=0),
        node("ConcatFromSequence", ["both"], ["pair"], axis=1),
    ]
    proto = model(nodes, [value("x", (2, 3)), value("trips", (), INT)], ["z", "more", "both", "pair"])
    made = caffestat.gradient(proto, outputs=["pair"], inputs={"trips": np.array(2)}, wrt=["x"])
    feeds = {"x": normal(2, 3), "cotangent/pair": np.ones((2, 6), np.float32)}
    found = run(made, feeds)
    np.testing.assert_allclose(found["grad/x"], 2 - np.tanh(feeds["x"]) ** 2, rtol=1e-5)
    assert len(found["both"]) == len(found["more"]) == 2
    assert found["z"].shape == (8, 3)


def test_a_scan_whose_inner_shapes_are_unknown_is_refused() -> None:
    """Slices from the number of the trip on have any length, as far as inference tells."""
    nodes = [
        node("Identity", ["c"], ["c2"]),
        node("Unsqueeze", ["i", "zero"], ["first"]),
        node("Slice", ["x", "first", "most"], ["part"]),
        node("ReduceSum", ["part", "zero"], ["sum"], keepdims=0),
    ]
    inside = body(nodes, [value("i", (), INT), value("c", (), BOOL)], typeless("c2", "sum"))
    arrays = {"trips": np.array(2), "zero": np.array([0]), "most": np.array([9])}
    proto = model([node("Loop", ["trips", ""], ["y"], body=inside)], {"x": (4, 3)}, ["y"], arrays)
    with pytest.raises(GradientError, match=r"Scan \(value y\): the shape of sum is not known"):
        caffestat.gradient(proto, wrt=["x"])


def test_a_branch_that_returns_what_it_stores() -> None:
    stored = body([], [], [value("kept", (2,))], kept=np.array([3, 4], np.float32))
    computed = body([node("Mul", ["x", "x"], ["square"])], [], [value("square", (2,))])
    proto = model(
        [node("If", ["c"], ["y"], then_branch=stored, else_branch=computed)],
        [value("x", (2,)), value("c", (), BOOL)],
        ["y"],
    )
    found = gradient(proto)
    for flag, expected in (
        (True, {"grad/kept": [1, 5], "grad/x": [0, 0]}),
        (False, {"grad/kept": [0, 0], "grad/x": [4, 30]}),
    ):
        feeds = {"x": np.array([2, 3], np.float32), "c": np.array(flag), "cotangent/y": np.array([1, 5], np.float32)}
        out = run(found, feeds)
        assert {name: out[name].tolist() for name in expected} == expected


@pytest.mark.parametrize("is_scan", [False, True])
def test_a_subgraph_that_draws_is_refused(is_scan: bool) -> None:
    """Its gradient would compute it again, with other draws."""
    name, shape = ("slice", (3,)) if is_scan else ("x", (2, 3))
    inputs = [value(name, shape)] if is_scan else []
    nodes = [node("RandomNormalLike", [name], ["drawn"]), node("Mul", ["drawn", name], ["out"])]
    draws = body(nodes, inputs, [value("out", shape)])
    if is_scan:
        proto = model([node("Scan", ["x"], ["y"], body=draws, num_scan_inputs=1)], {"x": (2, 3)}, ["y"], opset=21)
    else:
        split = node("If", ["c"], ["y"], then_branch=draws, else_branch=draws)
        proto = model([split], [value("x", (2, 3)), value("c", (), BOOL)], ["y"], opset=21)
    with pytest.raises(GradientError, match=r"RandomNormalLike .*: what a subgraph draws is not drawn again alike"):
        gradient(proto)


def test_a_dropout_of_inference_inside_a_scan_passes_the_gradient() -> None:
    nodes = [node("Dropout", ["slice"], ["kept"]), node("Mul", ["kept", "slice"], ["out"])]
    inside = body(nodes, [value("slice", (3,))], [value("out", (3,))])
    proto = model([node("Scan", ["x"], ["y"], body=inside, num_scan_inputs=1)], {"x": (2, 3)}, ["y"])
    feeds = {"x": normal(2, 3), "cotangent/y": normal(2, 3, seed=5)}
    found = run(gradient(proto), feeds)["grad/x"]
    np.testing.assert_allclose(found, 2 * feeds["x"] * feeds["cotangent/y"], rtol=1e-6)


def test_a_branch_with_constants_of_several_elements() -> None:
    """Only the third input of a Dropout says whether it draws; that of another op may have any elements."""
    ends = {"s": np.array([0, 1]), "e": np.array([2, 3])}
    cut = body([node("Slice", ["x", "s", "e"], ["part"])], [], [value("part", (2, 2))], **ends)
    split = node("If", ["c"], ["y"], then_branch=cut, else_branch=cut)
    proto = model([split], [value("x", (2, 3)), value("c", (), BOOL)], ["y"])
    feeds = {"x": normal(2, 3), "c": np.array(True), "cotangent/y": normal(2, 2, seed=5)}
    np.testing.assert_array_equal(run(gradient(proto), feeds)["grad/x"], np.pad(feeds["cotangent/y"], ((0, 0), (1, 0))))
