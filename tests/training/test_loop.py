"""Solvers: their nets and states, the order of events, gradients over several passes, and what does not fit."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from caffestat import net
from caffestat.errors import InputError, NetError
from caffestat.net.source import named_weights
from caffestat.options import NetOptions, RunOptions, ValueOptions
from caffestat.report import TrainingLog
from caffestat.schema import NetParameter, read_binary
from caffestat.training import NONE, STOP, Training
from caffestat.training.events import BeginTest, Clip, Done, EndTest, FileWritten, Iteration, Output, Pass, StopTest
from caffestat.training.loop import SmoothedLoss

DATA = """layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 5 dim: 3 } shape { dim: 5 } data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" } } }
"""
NET = (
    DATA
    + """layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "more" type: "InnerProduct" bottom: "data" top: "more" include { stage: "more" }
  inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_weight: 3 }
"""
)
RATE = 'base_lr: 0.5 lr_policy: "fixed"\n'


def solver(folder: Path, text: str, main: str = NET, **others: str) -> net.Solver:
    (folder / "net.prototxt").write_text(main)
    for name, content in others.items():
        (folder / f"{name}.prototxt").write_text(content)
    (folder / "solver.prototxt").write_text(RATE + text)
    return net.read_solver(str(folder / "solver.prototxt"))


def training(made: net.Solver, inputs=None, level=None, stages=(), seed=7, data="auto", **options) -> Training:
    run = RunOptions(device="cpu", inputs=inputs or {}, inputs_hold="zeros")
    return Training(made, NetOptions(level=level, stages=stages, data=data), ValueOptions(), run, seed=seed, **options)


def events(made: net.Solver, **options) -> list:
    """Return what happens in iteration 0, every pass measured."""
    happened = []
    for event in training(made, debug=True, saves=False, **options).events():
        if isinstance(event, (BeginTest, Pass, EndTest, Iteration)):
            happened.append(event)
        if isinstance(event, Iteration):
            break
    return happened


def layers_of(event: Pass) -> list[str]:
    return [node.name for node in event.program.rows]


def kinds(happened: list) -> list[str]:
    return [type(event).__name__ for event in happened]


def test_order_of_events(tmp_path):
    made = solver(tmp_path, 'net: "net.prototxt" test_iter: 2 test_iter: 1 test_interval: 9 test_compute_loss: true')
    happened = events(made)
    expected = ["BeginTest", "Pass", "Pass", "EndTest", "BeginTest", "Pass", "EndTest", "Pass", "Iteration"]
    assert kinds(happened) == expected
    first, second, train = happened[1].measured, happened[2].measured, happened[7].measured
    assert first.tops[0, 0] != second.tops[0, 0]
    assert [event.number for event in happened if isinstance(event, BeginTest)] == [0, 1]
    tested = happened[3]
    assert tested.loss == pytest.approx((first.loss + second.loss) / 2)
    (output,) = tested.outputs
    assert (output.name, output.weight) == ("loss", 3)
    assert 3 * output.value == pytest.approx(tested.loss, rel=1e-6)
    last = happened[-1]
    assert (last.iteration, last.loss, last.rate) == (0, pytest.approx(train.loss), 0.5)
    assert last.outputs == (Output("loss", pytest.approx(train.loss / 3), 3),)


def test_images_of_any_size_train_one_at_a_time_with_maps_of_their_sizes(tmp_path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(3)
    means = []
    for number, size in enumerate([(5, 7), (6, 4), (5, 7)]):
        pixels = random.integers(0, 256, (*size, 3), np.uint8)
        image.fromarray(pixels).save(f"{number}.png")
        means.append(pixels.mean())
    (tmp_path / "list").write_text("0.png 0\n1.png 0\n2.png 0\n")
    data = """layer {{ name: "{0}" type: "ImageData" top: "{0}" top: "l{0}"
  image_data_param {{ source: "list" batch_size: 1 is_color: {1} }} }}\n"""
    rest = """layer { name: "conv" type: "Convolution" bottom: "x" top: "y"
  convolution_param { num_output: 1 kernel_size: 3 pad: 1 } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "map" }"""
    main = data.format("x", "true") + data.format("map", "false") + rest
    made = solver(tmp_path, 'net: "net.prototxt" max_iter: 3', main)
    passes = [
        event for event in training(made, data="real", debug=True, saves=False).events() if isinstance(event, Pass)
    ]
    assert [event.measured.tops[0, 0] for event in passes] == pytest.approx(means, rel=1e-6)


def test_a_test_net_that_is_not_there(tmp_path):
    made = solver(tmp_path, 'net: "net.prototxt"\ntest_net: "gone.prototxt" test_iter: 1 test_interval: 1')
    with pytest.raises(NetError, match=r"solver\.prototxt:3:1: test_net: file not found: 'gone\.prototxt'"):
        made.test_nets()


def test_test_nets_take_the_train_nets_params(tmp_path):
    happened = events(solver(tmp_path, 'net: "net.prototxt" test_iter: 1 test_interval: 1'))
    test, train = (event.measured for event in happened if isinstance(event, Pass))
    ip = [node.name for node in happened[1].program.rows].index("ip")
    assert test.params[ip, 0] == train.params[ip, 0]
    assert test.norms is None
    assert not test.param_diffs


@pytest.mark.parametrize("trained", ["a", "b"])
def test_layers_that_only_the_test_net_has_part_from_those_they_share_with(trained, tmp_path):
    """Only the others hold the train net's params from then on. (net.cpp, ShareTrainedLayersWith)"""
    bias = """layer { name: "%s" type: "Bias" bottom: "data" top: "%s" param { name: "w" }
      bias_param { filler { type: "gaussian" } } }
"""
    text = 'train_net: "net.prototxt" test_net: "test.prototxt" test_iter: 1 test_interval: 1'
    made = solver(tmp_path, text, NET + bias % (trained, trained), test=DATA + bias % ("a", "a") + bias % ("b", "b"))
    test, train = (event for event in events(made) if isinstance(event, Pass))
    means = {name: test.measured.params[layers_of(test).index(name), 0] for name in ("a", "b")}
    learned = train.measured.params[layers_of(train).index(trained), 0]
    assert [name for name, mean in means.items() if mean == learned] == [trained]


@pytest.mark.parametrize("text", ["", "test_iter: 1 test_interval: 2 test_initialization: false"])
def test_no_tests_unless_due(text, tmp_path):
    assert kinds(events(solver(tmp_path, f'net: "net.prototxt" {text}'))) == ["Pass", "Iteration"]


def test_test_nets_are_built_even_when_they_do_not_run(tmp_path):
    """Their set-up draws from the stream, so the train net's data is another."""
    alone = events(solver(tmp_path, 'net: "net.prototxt"'))
    beside = events(solver(tmp_path, 'net: "net.prototxt" test_iter: 1 test_interval: 2 test_initialization: false'))
    assert alone[0].measured.params == beside[0].measured.params
    assert alone[0].measured.tops[0, 0] != beside[0].measured.tops[0, 0]


def test_test_nets_in_their_order_the_generic_one_last(tmp_path):
    inline = " ".join(NET.replace('"ip"', '"inline"').splitlines())
    made = solver(
        tmp_path,
        f'net: "net.prototxt" test_net: "a.prototxt" test_net_param {{ {inline} }} test_interval: 1'
        " test_iter: 1 test_iter: 1 test_iter: 1",
        a=NET.replace('"ip"', '"of_a"'),
    )
    tested = [layers_of(event)[1] for event in events(made) if isinstance(event, Pass)]
    assert tested == ["inline", "of_a", "ip", "ip"]


def test_states(tmp_path):
    made = solver(
        tmp_path,
        'net: "net.prototxt" train_state { stage: "more" } test_iter: 1 test_iter: 1 test_interval: 1'
        ' test_state { stage: "more" } test_state { }',
    )
    assert [("more" in layers_of(event)) for event in events(made) if isinstance(event, Pass)] == [True, False, True]
    (tmp_path / "net.prototxt").write_text('state { stage: "more" }\n' + NET)
    made = net.read_solver(str(tmp_path / "solver.prototxt"))
    assert all("more" in layers_of(event) for event in events(made) if isinstance(event, Pass))


def test_flags_join_the_train_state_alone(tmp_path):
    leveled = NET.replace('include { stage: "more" }', "include { min_level: 2 }")
    text = 'net: "net.prototxt" train_state { level: 5 } test_iter: 1 test_interval: 1'
    passes = [event for event in events(solver(tmp_path, text, leveled), level=2) if isinstance(event, Pass)]
    assert [("more" in layers_of(event)) for event in passes] == [False, True]
    # without the flag its default, 0, replaces the level that is written
    passes = [event for event in events(solver(tmp_path, text, leveled)) if isinstance(event, Pass)]
    assert [("more" in layers_of(event)) for event in passes] == [False, False]
    passes = [event for event in events(solver(tmp_path, text), stages=["more"]) if isinstance(event, Pass)]
    assert [("more" in layers_of(event)) for event in passes] == [False, True]


SHARED = (
    DATA
    + """
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { name: "w" }
  inner_product_param { num_output: 3 bias_term: false weight_filler { type: "gaussian" std: 1 } } }
layer { name: "b" type: "InnerProduct" bottom: "a" top: "b" param { name: "w" }
  inner_product_param { num_output: 3 bias_term: false } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "label" }
"""
)


def test_gradients_add_up_over_the_passes_shared_params_included(tmp_path):
    inputs = {"data": np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)}
    once = events(solver(tmp_path, 'net: "net.prototxt"', SHARED), inputs=inputs)[0].measured
    thrice = [
        event.measured
        for event in events(solver(tmp_path, 'net: "net.prototxt" iter_size: 3', SHARED), inputs=inputs)
        if isinstance(event, Pass)
    ]
    assert len(thrice) == 3
    whole, upper = once.param_diffs[1, 0], once.param_diffs[2, 0]
    assert whole != upper
    for count, measured in enumerate(thrice, 1):
        assert measured.param_diffs[1, 0] == pytest.approx(count * whole, rel=1e-5)
        assert measured.norms.diff_l1 == pytest.approx(count * once.norms.diff_l1, rel=1e-5)
        assert measured.norms.diff_l2 == pytest.approx(count * once.norms.diff_l2, rel=1e-5)
        assert measured.bottom_diffs == pytest.approx(once.bottom_diffs)
    # in the middle of the second pass: all of the first, and what the upper layer adds
    assert upper < thrice[1].param_diffs[2, 0] <= whole + upper + 1e-6


def test_gradients_of_params_without_axes_add_up(tmp_path):
    slope = 'layer { name: "slope" type: "PReLU" bottom: "ip" top: "ip" prelu_param { channel_shared: true } }\n'
    net = NET.replace('layer { name: "loss"', slope + 'layer { name: "loss"')
    made = solver(tmp_path, 'net: "net.prototxt" iter_size: 3', net)
    inputs = {"data": np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)}
    passes = [event for event in events(made, inputs=inputs) if isinstance(event, Pass)]
    row = layers_of(passes[0]).index("slope")
    once, _, thrice = (event.measured.param_diffs[row, 0] for event in passes)
    assert thrice == pytest.approx(3 * once, rel=1e-5) and once > 0


def test_what_the_last_pass_wrote_over_the_weight_of_a_loss_weighs_it(tmp_path):
    """A layer that reads a loss writes where its weight stands. (layer.hpp, Forward)"""
    power = """layer { name: "p" type: "Power" bottom: "loss" top: "p" loss_weight: 3
      power_param { power: 2 scale: 0.5 shift: 1 } }"""
    made = solver(
        tmp_path,
        'net: "net.prototxt" max_iter: 3 snapshot_after_train: false',
        NET.replace(" loss_weight: 3", "") + power,
    )
    weight = 1.0
    for event in (event for event in training(made).events() if isinstance(event, Iteration)):
        powered = event.outputs[0].value
        root = powered**0.5
        assert event.loss == pytest.approx(weight * 2 * (root - 1) + 3 * powered, rel=1e-5)
        weight = 3 * root


def test_statistics_go_on_from_pass_to_pass(tmp_path):
    with_statistics = NET.replace('bottom: "ip" bottom: "label"', 'bottom: "bn" bottom: "label"').replace(
        'layer { name: "loss"', 'layer { name: "bn" type: "BatchNorm" bottom: "ip" top: "bn" }\nlayer { name: "loss"'
    )
    made = solver(tmp_path, 'net: "net.prototxt" iter_size: 3', with_statistics)
    passes = [event for event in events(made) if isinstance(event, Pass)]
    bn = layers_of(passes[0]).index("bn")
    counts = [event.measured.params[bn, 2] for event in passes]
    np.testing.assert_allclose(counts, [1, 1.999, 1 + 0.999 * 1.999], rtol=1e-6)


FILLED = """layer { name: "d" type: "DummyData" top: "x"
  dummy_data_param { shape { dim: 1 dim: 2 dim: 1 dim: 1 } data_filler { type: "%s" value: 1 } } }
"""
INPUT = 'layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 2 } } }'
VIEW = 'layer { name: "v" type: "Reshape" bottom: "x" top: "v" reshape_param { shape { dim: 1 dim: 2 } } }\n'


@pytest.mark.parametrize(
    ("source", "sums"),
    [
        (FILLED % "constant", [3, 4, 5]),
        (FILLED % "constant" + VIEW, [3, 4, 5]),
        (FILLED % "bilinear", [3, 3, 3]),
        (INPUT, [1, 2, 3]),
    ],
    ids=["constant", "constant, seen as another shape", "bilinear", "Input"],
)
def test_what_is_filled_once_holds_what_the_last_pass_left(source, sums, tmp_path):
    """Source: dummy_data_layer.cpp, refill_; input_layer.hpp, whose Forward does nothing."""
    blob = "v" if VIEW in source else "x"
    main = f"""{source}
layer {{ name: "p" type: "Power" bottom: "{blob}" top: "{blob}" power_param {{ shift: 0.5 }} }}
layer {{ name: "r" type: "Reduction" bottom: "{blob}" top: "r" loss_weight: 1 }}"""
    made = solver(tmp_path, 'net: "net.prototxt" max_iter: 3 test_iter: 3 test_interval: 5', main)
    happened = list(training(made, saves=False).events())
    assert [event.loss for event in happened if isinstance(event, Iteration)] == sums
    (tested,) = [event for event in happened if isinstance(event, EndTest)]
    assert [output.value for output in tested.outputs] == [pytest.approx(sum(sums) / 3)]


def test_arrays_that_the_user_gives_are_the_same_in_every_pass(tmp_path):
    main = (
        INPUT
        + """
layer { name: "p" type: "Power" bottom: "x" top: "x" power_param { shift: 0.5 } }
layer { name: "r" type: "Reduction" bottom: "x" top: "r" loss_weight: 1 }"""
    )
    made = solver(tmp_path, 'net: "net.prototxt" max_iter: 2', main)
    happened = training(made, inputs={"x": np.ones(2, np.float32)}, saves=False).events()
    assert [event.loss for event in happened if isinstance(event, Iteration)] == [3, 3]


def test_weights_that_the_solver_names_lie_beside_it(tmp_path):
    model = NetParameter()
    layer = model.layer.add(name="ip", type="InnerProduct")
    layer.blobs.add(shape={"dim": [4, 3]}, data=[0.25] * 12)
    layer.blobs.add(shape={"dim": [4]}, data=[2] * 4)
    (tmp_path / "a.caffemodel").write_bytes(model.SerializeToString())
    made = solver(tmp_path, 'net: "net.prototxt" weights: " a.caffemodel "')
    assert named_weights(made) == [str(tmp_path / "a.caffemodel")]
    assert events(made)[0].measured.params[1, 0] == 0.25
    assert any("a.caffemodel" in note for note in training(made).notes)


def test_weights_of_other_layers_change_nothing(tmp_path):
    model = NetParameter()
    model.layer.add(name="other", type="InnerProduct").blobs.add(shape={"dim": [1]}, data=[9])
    (tmp_path / "a.caffemodel").write_bytes(model.SerializeToString())
    made = solver(tmp_path, 'net: "net.prototxt" weights: "a.caffemodel" max_iter: 1 snapshot_after_train: false')
    run = training(made)
    lines = [line for event in run.events() for line in TrainingLog(made, 7).lines(event)]
    assert lines[:2] == [f"Finetuning from {tmp_path / 'a.caffemodel'}", "Ignoring source layer other"]
    assert any("weights of 0 layers taken, none for ip" in note for note in run.notes)


def test_layers_of_one_name_and_other_shapes_cannot_share(tmp_path):
    made = solver(
        tmp_path,
        'net: "net.prototxt" test_net: "a.prototxt" test_iter: 1 test_interval: 1',
        a=NET.replace("num_output: 4", "num_output: 6"),
    )
    with pytest.raises(NetError, match=r"a.prototxt:3.*'ip'.*params of shapes \[\(6, 3\), \(6,\)\]; the train net's"):
        events(made)


def test_memory_data_is_given(tmp_path):
    memory = """layer { name: "m" type: "MemoryData" top: "data" top: "label"
  memory_data_param { batch_size: 5 channels: 3 height: 1 width: 1 } }
"""
    made = solver(tmp_path, 'net: "net.prototxt"', memory + NET.removeprefix(DATA))
    with pytest.raises(InputError, match=r"net.prototxt:1:1: layer 'm' .*its arrays come from a program; .*--input"):
        training(made)
    given = {"data": np.ones((5, 3, 1, 1), np.float32), "label": np.zeros(5, np.float32)}
    assert kinds(events(made, inputs=given)) == ["Pass", "Iteration"]
    assert training(made, inputs=given).notes == []


def test_a_top_without_elements_stops_caffe(tmp_path):
    cut = 'layer { name: "s" type: "Slice" bottom: "ip" top: "a" top: "b" slice_param { slice_point: 4 } }\n'
    with pytest.raises(NetError, match=r"net.prototxt:8:1: layer 's' \(Slice\): has a top without elements.*\(5, 0\)"):
        training(solver(tmp_path, 'net: "net.prototxt"', NET + cut))


def test_a_test_net_needs_no_gradients(tmp_path):
    """An Accuracy below a loss_weight has none, which stops the train net alone."""
    more = 'layer { name: "a" type: "Accuracy" bottom: "ip" bottom: "label" top: "a" loss_weight: 1 }\n'
    tested = solver(
        tmp_path,
        'train_net: "net.prototxt" test_net: "b.prototxt" test_iter: 1 test_interval: 1 test_state { phase: TRAIN }',
        b=NET + more,
    )
    assert kinds(events(tested))[:2] == ["BeginTest", "Pass"]
    with pytest.raises(NetError, match=r"'a' .Accuracy.: Caffe stops in its backward pass"):
        training(solver(tmp_path, 'net: "net.prototxt"', NET + more))


def test_a_test_net_of_no_batches(tmp_path):
    tested = events(solver(tmp_path, 'net: "net.prototxt" test_iter: 0 test_interval: 1 test_compute_loss: true'))
    assert kinds(tested) == ["BeginTest", "EndTest", "Pass", "Iteration"]
    assert tested[1].outputs == ()
    assert math.isnan(tested[1].loss)


@pytest.mark.parametrize(("limit", "clipped"), [(0.01, True), (0, True), (100, False), (-1, False)])
def test_clipped_gradients_are_told(limit, clipped, tmp_path):
    happened = events(solver(tmp_path, f'net: "net.prototxt" clip_gradients: {limit}'))
    norm = happened[0].measured.norms.diff_l2
    assert happened[-1].clip == (Clip(pytest.approx(norm), pytest.approx(limit)) if clipped else None)


def test_findings_of_all_nets_are_told_once(tmp_path):
    strange = NET + 'layer { name: "what" type: "Unheard" bottom: "ip" top: "what" }'
    made = training(solver(tmp_path, 'net: "net.prototxt" test_iter: 1 test_interval: 1', strange), debug=True)
    assert ["unknown layer type" in finding.message for finding in made.findings] == [True]
    with pytest.raises(NetError, match=r"net\.prototxt:8.*'what'.*cannot be trained: .*unknown layer type 'Unheard'"):
        training(solver(tmp_path, 'net: "net.prototxt"', strange))


@pytest.mark.parametrize("data", ["auto", "real"])
def test_a_layer_that_forks_alone_take_cannot_be_trained(data, tmp_path):
    strange = NET + 'layer { name: "t" type: "TanH" bottom: "ip" }'
    with pytest.raises(NetError, match=r"'t' \(TanH\): cannot be trained: .*takes 1 top blob, found 0"):
        training(solver(tmp_path, 'net: "net.prototxt"', strange), data=data)


def test_inputs_of_unknown_name(tmp_path):
    with pytest.raises(InputError, match="--input nothing"):
        events(solver(tmp_path, 'net: "net.prototxt"'), inputs={"nothing": np.zeros(3)})


def test_lines_of_a_test_loss_and_glogs_prefix(tmp_path):
    made = solver(tmp_path, 'net: "net.prototxt" test_iter: 1 test_interval: 9 test_compute_loss: true display: 20')
    log = TrainingLog(made, 7, glog=True)
    lines = [line for event in events(made) for line in log.lines(event)]
    assert lines[0].endswith("solver.cpp:347] Iteration 0, Testing net (#0)")
    assert sum("] Test loss: " in line for line in lines) == 1
    assert sum("s/20 iters), loss = " in line for line in lines) == 1
    assert all(line[0] in "IE" for line in lines)


def test_params_with_one_gradient_are_updated_apart(tmp_path):
    """Two biases that are added up get the same gradient; the rate of one must not touch the other."""
    net_text = (
        DATA
        + """layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" param { lr_mult: 1 } param { lr_mult: 3 }
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "b" type: "InnerProduct" bottom: "data" top: "b" param { lr_mult: 1 } param { lr_mult: 1 }
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "sum" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "sum" bottom: "label" }
"""
    )
    made = training(solver(tmp_path, 'net: "net.prototxt" max_iter: 1 snapshot_after_train: false', net_text))
    list(made.events())
    first, second = made.train.values[1], made.train.values[3]
    assert np.abs(second).max() > 0
    np.testing.assert_allclose(first, 3 * second, rtol=1e-5)


def test_a_signal_in_the_last_test_interrupts_it_alone(tmp_path):
    text = 'net: "net.prototxt" test_iter: 1 test_interval: 1 test_initialization: false max_iter: 1 display: 0'
    made = solver(tmp_path, text)
    requests = iter([NONE, STOP])  # after the iteration, before the test's batch
    run = training(made, saves=False, requested=lambda: next(requests, NONE))
    happened = list(run.events())
    assert isinstance(happened[-2], StopTest)
    assert happened[-1] == Done(1, stopped=False)
    assert list(TrainingLog(made, 7).lines(happened[-1])) == ["Optimization Done."] * 2


STOPPING = {
    "accuracy": (
        "force_backward: true\n",
        'layer { name: "no" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" }',
    ),
    "threshold": ("", 'layer { name: "no" type: "Threshold" bottom: "ip" top: "t" loss_weight: 1 }'),
    "labels": ("", 'layer { name: "no" type: "SoftmaxWithLoss" bottom: "data" bottom: "sum" top: "l2" }'),
}
SUM = 'layer { name: "sum" type: "Reduction" bottom: "ip" top: "sum" reduction_param { axis: 1 } }\n'


@pytest.mark.parametrize("case", STOPPING)
def test_layers_that_stop_caffes_backward_pass_are_refused(case, tmp_path):
    head, layer = STOPPING[case]
    made = solver(tmp_path, 'net: "net.prototxt"', head + NET + SUM + layer)
    with pytest.raises(NetError, match=r"layer 'no' .*: Caffe stops in its backward pass"):
        training(made)


def test_accuracy_beside_a_loss_is_trained(tmp_path):
    layer = 'layer { name: "acc" type: "Accuracy" bottom: "ip" bottom: "label" top: "acc" }'
    assert events(solver(tmp_path, 'net: "net.prototxt"', NET + layer))


@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_snapshot_diff_stores_the_last_update_beside_the_weights(tmp_path, form):
    """In HDF5 weights are with the owner of a shared param alone, diffs with every layer. (net.cpp, ToHDF5)"""
    shared = NET.replace('top: "ip"', 'top: "ip" param { name: "w" }').replace(
        'layer { name: "loss"',
        'layer { name: "again" type: "InnerProduct" bottom: "data" top: "again" param { name: "w" }\n'
        "  inner_product_param { num_output: 4 bias_term: false } }\n"
        'layer { name: "size" type: "Reduction" bottom: "again" top: "size" loss_weight: 0.1 }\n'
        'layer { name: "loss"',
    )
    text = f'net: "net.prototxt" max_iter: 1 snapshot_diff: true snapshot_format: {form}'
    made = training(solver(tmp_path, text, shared))
    before = [np.array(values) for values in made.train.values]
    list(made.events())
    number = {node.name: node.params for node in made.train.net.nodes if node.params}
    update = {name: [before[n] - made.train.values[n] for n in params] for name, params in number.items()}
    (path,) = tmp_path.glob("solver_iter_1.caffemodel*")
    if form == "HDF5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path) as file:
            assert {name: list(group) for name, group in file["data"].items() if len(group)} == {"ip": ["0", "1"]}
            found = {n: [group[key][()] for key in sorted(group)] for n, group in file["diff"].items() if len(group)}
    else:
        layers = read_binary(path, NetParameter).layer
        found = {one.name: [np.reshape(blob.diff, blob.shape.dim) for blob in one.blobs] for one in layers if one.blobs}
    assert found.keys() == update.keys() == {"ip", "again"}
    for name, arrays in update.items():
        assert len(found[name]) == len(arrays)
        for mine, expected in zip(found[name], arrays, strict=True):
            np.testing.assert_allclose(mine, expected, rtol=1e-5, atol=1e-7)
            assert np.abs(expected).max() > 1e-3


def test_layers_in_place_change_the_param_that_a_parameter_layer_lends(tmp_path):
    """Its top is the param's memory; its own line comes before the change. (parameter_layer.hpp)"""
    lent = """layer { name: "p" type: "Parameter" top: "p" parameter_param { shape { dim: 2 dim: 3 } } }
layer { name: "flat" type: "Flatten" bottom: "p" top: "flat" }
layer { name: "shift" type: "Power" bottom: "flat" top: "flat" power_param { shift: 0.5 } }
layer { name: "sum" type: "Reduction" bottom: "p" top: "sum" loss_weight: 0.5 }
"""
    made = training(solver(tmp_path, 'net: "net.prototxt" max_iter: 2', lent), debug=True, saves=False)
    first, second = (event.measured for event in made.events() if isinstance(event, Pass))
    assert (first.params[0, 0], first.norms.data_l1, first.norms.diff_l1) == (0, 3, 3)
    assert (second.params[0, 0], second.norms.data_l1) == (0.25, 4.5)
    assert (made.train.values[0] == 0.5).all()


def test_the_loss_weight_of_a_parameter_layer_has_no_effect(tmp_path):
    """It lies in the diff of the top, which is the param's, and Step clears it first. (net.cpp, ClearParamDiffs)"""
    lent = 'layer { name: "p" type: "Parameter" top: "p" loss_weight: 2 parameter_param { shape { dim: 3 } } }\n'
    made = training(solver(tmp_path, 'net: "net.prototxt"', NET + lent), debug=True, saves=False)
    (finding,) = made.train.net.findings
    assert "layer 'p' (Parameter): has a loss_weight without effect" in finding.message
    row = next(node.index for node in made.train.net.nodes if node.name == "p")
    made.train.values[-1][:] = 1
    happened = made.events()
    passed, iteration = (next(event for event in happened if isinstance(event, kind)) for kind in (Pass, Iteration))
    assert passed.measured.param_diffs[row, 0] == 0
    assert iteration.loss == events(solver(tmp_path, 'net: "net.prototxt"'))[-1].loss


OUTPUT = """layer {{ name: "out" type: "HDF5Output" bottom: "ip" bottom: "label" {}
  hdf5_output_param {{ file_name: "{}/o.h5" }} }}"""


def test_layers_write_their_bottoms_to_files(tmp_path):
    """As two data sets of four axes, and not when a net is only looked at. (hdf5_output_layer.cpp)"""
    h5py = pytest.importorskip("h5py")
    layer = OUTPUT.format("include { phase: TEST }", tmp_path)
    made = solver(tmp_path, 'net: "net.prototxt" max_iter: 1 test_iter: 1 test_interval: 9', NET + layer)
    list(training(made, saves=False).events())
    assert not (tmp_path / "o.h5").exists()
    run = training(made)
    happened = list(run.events())
    assert [(event.path, event.items) for event in happened if isinstance(event, FileWritten)] == [
        (f"{tmp_path}/o.h5", 5)
    ]
    lines = [line for event in happened for line in TrainingLog(made, 7).lines(event)]
    at = lines.index(f"Saving HDF5 file {tmp_path}/o.h5")
    assert lines[at + 1] == "Successfully saved 5 rows"
    with h5py.File(tmp_path / "o.h5") as file:
        assert {name: (data.shape, data.dtype.str) for name, data in file.items()} == {
            "data": ((5, 4, 1, 1), "<f4"),
            "label": ((5, 1, 1, 1), "<f4"),
        }
        assert np.abs(file["data"][()]).min() > 0


@pytest.mark.parametrize(
    ("rules", "text", "problem"),
    [
        ("", "test_iter: 1 test_interval: 9", "Caffe cannot open it twice"),
        ("", "", "Caffe stops at a second batch"),
        ("include { phase: TEST }", "test_iter: 2 test_interval: 9", "Caffe stops at a second batch"),
    ],
)
def test_files_that_caffe_would_not_write(rules, text, problem, tmp_path):
    pytest.importorskip("h5py")
    made = solver(tmp_path, f'net: "net.prototxt" max_iter: 2 {text}', NET + OUTPUT.format(rules, tmp_path))
    with pytest.raises(NetError, match=rf"layer 'out' \(HDF5Output\): .*{problem}"):
        list(training(made).events())


def diffs_of(path: Path) -> list[np.ndarray]:
    return [np.array(blob.diff) for one in read_binary(str(path), NetParameter).layer for blob in one.blobs]


@pytest.mark.parametrize("resident", [False, True])
@pytest.mark.parametrize("start", ["snapshot", "weights"])
def test_a_run_without_iterations_stores_the_updates_that_it_read(start, resident, tmp_path):
    """A .caffemodel's diffs are read with its values; the first iteration clears them. (blob.cpp, FromProto)"""
    text = 'net: "net.prototxt" snapshot_diff: true '
    first, again = (tmp_path / f"{prefix}_iter_1" for prefix in ("first", "again"))
    list(training(solver(tmp_path, f'{text} max_iter: 1 snapshot_prefix: "{first.parent}/first"')).events())
    text += f'snapshot_prefix: "{first.parent}/again"'
    if start == "snapshot":
        made = solver(tmp_path, f"{text} max_iter: 1")
        list(training(made, snapshot=f"{first}.solverstate", resident=resident).events())
    else:
        again = tmp_path / "again_iter_0"
        list(
            training(solver(tmp_path, f'{text} max_iter: 0 weights: "{first}.caffemodel"'), resident=resident).events()
        )
    stored, found = diffs_of(Path(f"{first}.caffemodel")), diffs_of(Path(f"{again}.caffemodel"))
    assert len(found) == len(stored) == 2
    assert all((mine == theirs).all() and mine.any() for mine, theirs in zip(found, stored, strict=True))


def test_norms_of_summed_gradients_beyond_float32_are_infinite(tmp_path):
    """Caffe adds squares up in float32. (net.cpp, BackwardDebugInfo)"""
    steep = NET.replace("loss_weight: 3", "loss_weight: 1e25")
    alone, several = (
        next(event.measured.norms for event in happened if isinstance(event, Pass))
        for happened in (
            events(solver(tmp_path, f'net: "net.prototxt" iter_size: {passes}', steep)) for passes in (1, 2)
        )
    )
    assert alone.diff_l2 == several.diff_l2 == float("inf")
    assert several.diff_l1 == pytest.approx(alone.diff_l1)


def test_a_loss_is_smoothed_over_the_last_ones():
    """solver.cpp, UpdateSmoothedLoss: a plain mean until the window is full, then the oldest loss makes way."""
    smooth = SmoothedLoss(3)
    found = [float(smooth.add(np.float32(loss), number)) for number, loss in enumerate([1, 2, 6, 4, 5, 9])]
    assert found == pytest.approx([1, 1.5, 3, 4, 5, 6], rel=1e-6)
    alone = SmoothedLoss(1)
    assert [float(alone.add(np.float32(loss), number)) for number, loss in enumerate([3, 0.5])] == [3, 0.5]
