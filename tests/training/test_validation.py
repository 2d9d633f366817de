"""Every fault of a solver, with its place; `train`, `debug` and `check` refuse alike."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import caffestat
from caffestat.errors import CaffestatError, InputError, SolverError
from caffestat.net import Solver, read_solver
from caffestat.net.source import missing_weights
from caffestat.schema import caffe_pb2
from caffestat.training import doubts, faults, snapshot_prefix, validate

NET = """layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" }
"""
GOOD = 'net: "net.prototxt"\nbase_lr: 0.1\nmax_iter: 9\n'
FIXED = GOOD + 'lr_policy: "fixed"\n'

FAULTS = [
    (GOOD, 1, "lr_policy is missing; expected one of fixed, step"),
    (GOOD + 'lr_policy: "stepp"', 4, "unknown lr_policy 'stepp'"),
    (GOOD + 'lr_policy: "step"\ngamma: 0.1', 4, "stepsize is missing; lr_policy 'step' needs at least 1"),
    (GOOD + 'lr_policy: "step"\ngamma: 0.1\nstepsize: 0', 6, "stepsize is 0; lr_policy 'step' needs at least 1"),
    (GOOD + 'lr_policy: "sigmoid"\ngamma: 0.1\nstepsize: -2', 6, "stepsize is -2; lr_policy 'sigmoid' needs"),
    (GOOD + 'lr_policy: "step"\nstepsize: 5', 4, "gamma is missing; lr_policy 'step' needs it"),
    (GOOD + 'lr_policy: "exp"\ngamma: -1', 5, "gamma is -1; lr_policy 'exp' needs 0 or more"),
    (GOOD + 'lr_policy: "inv"\ngamma: 1', 4, "power is missing; lr_policy 'inv' needs it"),
    (GOOD + 'lr_policy: "poly"', 4, "power is missing; lr_policy 'poly' needs it"),
    (GOOD + 'lr_policy: "multistep"\ngamma: 0.1\nstepsize: 5', 4, "stepvalue is missing; lr_policy 'multistep'"),
    (FIXED + 'type: "Adamm"', 5, "unknown solver type 'Adamm'; expected one of SGD, Nesterov"),
    (FIXED + 'type: "Adam"\nsolver_type: SGD', 6, "the solver has both: remove one of them"),
    (FIXED + 'type: "AdaGrad"\nmomentum: 0.9', 6, "AdaGrad takes no momentum, found 0.9"),
    (FIXED + "solver_type: RMSPROP\nmomentum: 0.9", 6, "RMSProp takes no momentum"),
    (FIXED + 'type: "RMSProp"\nrms_decay: 1', 6, "rms_decay is 1; expected 0 or more and less than 1"),
    (FIXED + "iter_size: 0", 5, "iter_size is 0; expected at least 1"),
    (FIXED + "average_loss: 0", 5, "average_loss is 0; expected at least 1"),
    ('net: "net.prototxt"\nlr_policy: "fixed"\nbase_lr: -0.1', 3, "base_lr is -0.1; expected 0 or more"),
    ('net: "net.prototxt"\nlr_policy: "fixed"\nbase_lr: nan', 3, "base_lr is nan; expected a finite number"),
    (FIXED + "momentum: inf", 5, "momentum is inf; expected a finite number"),
    (FIXED + 'weight_decay: 1\nregularization_type: "L3"', 6, "unknown regularization_type 'L3'"),
    (FIXED + "test_iter: 1", 5, "has test nets, but a test_interval of 0; expected at least 1"),
    (FIXED + "test_iter: 1\ntest_interval: -3", 6, "a test_interval of -3"),
    (FIXED + 'test_net: "net.prototxt"\ntest_interval: 1', 5, r"for each test net \(1\), found 0"),
    (FIXED.replace("net:", "train_net:") + "test_iter: 1\ntest_interval: 1", 5, r"each test net \(0\), found 1"),
    (
        FIXED + "test_iter: 1\ntest_iter: 2\ntest_interval: 1\ntest_state { }",
        8,
        r"expected no test_state or one for each test net \(2\), found 1",
    ),
    (FIXED + "test_iter: -1\ntest_interval: 1", 5, "test_iter is -1"),
    (FIXED + 'snapshot: -1\nsnapshot_prefix: "no/where"', 6, "there is no folder 'no'"),
    (FIXED + 'snapshot: 5\nsnapshot_prefix: "no/where"', 6, "to 'no/where_iter_N': there is no folder 'no'"),
    (FIXED + 'snapshot_prefix: "no/where"', 5, "no snapshot can be written to 'no/where_iter_N'"),
    (
        FIXED.replace(
            'net: "net.prototxt"',
            'net_param { layer { name: "a" type: "Input" top: "a" } layer { name: "a" type: "ReLU" bottom: "a" } }',
        )
        + "snapshot_format: HDF5",
        5,
        "no snapshot can be written: two layers are called 'a'; write BINARYPROTO or rename it",
    ),
    (
        FIXED.replace('net: "net.prototxt"', 'net_param { layer { name: "a/b" type: "Input" top: "a" } }')
        + "snapshot_format: HDF5",
        5,
        "HDF5 would nest the group of layer 'a/b', and Caffe reads no nested ones; write BINARYPROTO or rename it",
    ),
    (FIXED + 'snapshot: 5\nsnapshot_prefix: "/proc/a"', 6, "the folder '/proc' is not writable"),
    (FIXED + 'test_net: "gone.prototxt"\ntest_iter: 1\ntest_interval: 1', 5, "test_net: file not found: 'gone.proto"),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    monkeypatch.chdir(tmp_path)


def solver(text: str) -> Solver:
    Path("solver.prototxt").write_text(text)
    return read_solver("solver.prototxt")


@pytest.mark.parametrize(("text", "line", "message"), FAULTS)
def test_faults(text: str, line: int, message: str) -> None:
    with pytest.raises(SolverError, match=rf"^solver\.prototxt:{line}(:1)?: .*{message}"):
        validate(solver(text))
    with pytest.raises(SolverError, match=message):
        list(caffestat.debug("solver.prototxt"))
    with pytest.raises(SolverError, match=message):
        list(caffestat.train("solver.prototxt"))
    (found,) = (issue for issue in caffestat.check("solver.prototxt").issues if issue.name == "refused-solver")
    assert (found.place.line, found.severity) == (line, "error")


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        (FIXED.replace("net:", "#"), 1, "none of them"),
        (FIXED + 'train_net: "net.prototxt"', 5, "net, train_net"),
        ("net_param { }\n" + FIXED + "train_net_param { }", 2, "net_param, net, train_net_param"),
        ('train_net_param { }\nlr_policy: "fixed"\nbase_lr: 1\nnet_param { }', 4, "train_net_param, net_param"),
    ],
)
def test_a_solver_names_one_net(text: str, line: int, found: str) -> None:
    Path("solver.prototxt").write_text(text)
    message = rf"^solver\.prototxt:{line}(:1)?: a solver names its net by one of .*; found {found}$"
    for verb in (caffestat.debug, caffestat.train):
        with pytest.raises(SolverError, match=message):
            list(verb("solver.prototxt"))
    (error,) = caffestat.check("solver.prototxt").errors
    assert (error.place.line, error.message.split("; found ")[1]) == (line, found)


@pytest.mark.parametrize(
    ("text", "found"),
    [("", "an empty file"), ("# a comment", "an empty file"), (NET, "a net"), ("item { id: 1 }", "the fields item")],
)
def test_a_file_that_is_no_solver_says_what_it_is(text: str, found: str) -> None:
    Path("solver.prototxt").write_text(text)
    for read in (caffestat.train, read_solver):
        with pytest.raises(SolverError, match=rf"^solver\.prototxt:1: expected a solver prototxt, found {found}$"):
            read("solver.prototxt")


@pytest.mark.parametrize("text", ["", "# a comment"])
def test_an_empty_file_is_refused_at_its_first_line(text: str) -> None:
    Path("solver.prototxt").write_text(text)
    message = "the file has no layers: expected a net or solver prototxt, found an empty file"
    with pytest.raises(CaffestatError, match=rf"^solver\.prototxt:1: {message}$"):
        list(caffestat.debug("solver.prototxt"))
    (issue,) = caffestat.check("solver.prototxt").issues
    assert (str(issue.place), issue.message) == ("solver.prototxt:1", message)


@pytest.mark.parametrize(
    ("text", "line", "path"),
    [
        ('weights: "gone.caffemodel"', 5, "gone.caffemodel"),
        ('weights: ""', 5, ""),
        ('weights: "net.prototxt"\nweights: "net.prototxt, b.caffemodel"', 6, "b.caffemodel"),
    ],
)
def test_weights_that_a_solver_names_are_there(text: str, line: int, path: str) -> None:
    made = solver(FIXED + text)
    assert list(faults(made)) == []  # a .solverstate or other weights may take their place
    (found,) = missing_weights(made)
    assert (found.place.line, found.message.split(" (")[0]) == (line, f"weights: file not found: {path!r}")
    for verb in (caffestat.debug, caffestat.train):
        with pytest.raises(SolverError, match=rf"^solver\.prototxt:{line}:\d+: weights: file not found: '{path}'"):
            list(verb("solver.prototxt"))
    (issue,) = caffestat.check("solver.prototxt", select=["CS030"]).issues
    assert (issue.place, issue.message) == (found.place, found.message)
    (error,) = caffestat.check("solver.prototxt", run=True).errors
    assert (error.place, error.message) == (found.place, found.message)


def test_given_weights_replace_those_that_a_solver_names() -> None:
    solver(FIXED + 'weights: "gone.caffemodel"')
    weight = caffe_pb2.BlobProto(data=[0.5] * 12, shape=caffe_pb2.BlobShape(dim=[4, 3]))
    bias = caffe_pb2.BlobProto(data=[0] * 4, shape=caffe_pb2.BlobShape(dim=[4]))
    net = caffe_pb2.NetParameter(layer=[caffe_pb2.LayerParameter(name="ip", blobs=[weight, bias])])
    Path("given.caffemodel").write_bytes(net.SerializeToString())
    assert len(list(caffestat.train("solver.prototxt", weights=["given.caffemodel"], iterations=0))) > 0
    for run in (False, True):
        found = caffestat.check("solver.prototxt", select=["CS030"], run=run, weights=["given.caffemodel"])
        assert (found.issues, found.errors) == ((), ())


def test_a_good_solver_has_no_faults() -> None:
    text = FIXED + 'test_iter: 1\ntest_iter: 2\ntest_interval: 5\nsnapshot: 5\nsnapshot_prefix: "a"\nmomentum: 0.9'
    made = solver(text)
    assert [*faults(made), *doubts(made)] == []


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("max_iter: 9", "max_iter: 1") + 'lr_policy: "poly"\npower: 1',
        GOOD + 'lr_policy: "step"\ngamma: 0\nstepsize: 1',
        FIXED.replace("max_iter: 9", "max_iter: 0"),
        FIXED + "gamma: -1",  # no other policy reads it
        FIXED + 'type: "RMSProp"\nrms_decay: 0',
        FIXED + 'type: "AdaGrad"\nmomentum: 0',
        FIXED + "iter_size: 1\naverage_loss: 1",
        FIXED + 'weight_decay: 0\nregularization_type: "L3"',
        FIXED + "test_iter: 0\ntest_iter: 1\ntest_interval: 1\ntest_state { }\ntest_state { }",
    ],
)
def test_the_least_that_is_no_fault(text: str) -> None:
    assert list(faults(solver(text))) == []


def test_poly_without_max_iter_trains_nothing() -> None:
    """Caffe asks for no rate then; how many iterations the user wants does not tell it."""
    solver(GOOD.replace("max_iter: 9", "max_iter: 0") + 'lr_policy: "poly"\npower: 1\nsnapshot_after_train: false')
    assert [type(event).__name__ for event in caffestat.train("solver.prototxt")] == ["Started", "Done"]
    with pytest.raises(InputError, match="lr_policy 'poly' divides by max_iter"):
        caffestat.train("solver.prototxt", iterations=1)


def test_all_faults_come_in_the_order_of_the_file() -> None:
    made = solver('net: "net.prototxt"\niter_size: 0\nlr_policy: "x"\ntype: "y"')
    assert [fault.place.line for fault in faults(made)] == [2, 3, 4]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ('net: "net.prototxt"\nbase_lr: 0.1\nlr_policy: "fixed"', 1, "max_iter is missing"),
        ('net: "net.prototxt"\nmax_iter: 5\nlr_policy: "fixed"', 3, "base_lr is missing: no weight ever changes"),
        (FIXED + "momentum: 1.5", 5, "momentum is 1.5: updates grow without bound"),
        (FIXED + "weight_decay: -1", 5, "weight_decay is -1; expected 0 or more"),
        (FIXED + "stepsize: 5", 5, "lr_policy 'fixed' ignores stepsize"),
        (GOOD + 'lr_policy: "multistep"\ngamma: 1\nstepvalue: 5\nstepvalue: 2', 6, "the stepvalues are not ascending"),
        (GOOD + 'lr_policy: "exp"\ngamma: 1\nstepsize: 5', 6, "lr_policy 'exp' ignores stepsize"),
        (FIXED + "momentum2: 0.9", 5, "solver type 'SGD' ignores momentum2"),
        (FIXED + "clip_gradients: 0", 5, "every gradient is scaled to 0"),
        (FIXED + "test_interval: 3", 5, "without test_iter there is no test net"),
    ],
)
def test_doubts(text: str, line: int, message: str) -> None:
    made = solver(text)
    assert list(faults(made)) == []
    (found,) = doubts(made)
    assert (found.place.line, message in found.message) == (line, True), found.message


def test_snapshot_prefixes() -> None:
    assert snapshot_prefix(solver(FIXED)) == "solver"
    assert snapshot_prefix(solver(FIXED + 'snapshot_prefix: "some/name"')) == "some/name"
    assert snapshot_prefix(solver(FIXED + 'snapshot_prefix: "./"')) == "./solver"
    os.mkdir("folder")
    assert snapshot_prefix(solver(FIXED + 'snapshot_prefix: "folder"')) == os.path.join("folder", "solver")
