"""What means imply: updates, dead and saturated units, params that no gradient updates."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat.logs import Key, Pass, diagnose, diagnose_log, read_passes
from caffestat.logs.clues import Background, signals_of, without_statistics

NET = """
name: "two"
layer { name: "in" type: "Input" top: "x" top: "t"
        input_param { shape { dim: 5 dim: 3 } shape { dim: 5 dim: 2 } } }
layer { name: "norm" type: "BatchNorm" bottom: "x" top: "n" }
layer { name: "low" type: "InnerProduct" bottom: "n" top: "low" param { name: "first" lr_mult: 3 }
        inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "bend" bottom: "low" type: %s top: "%s" }
layer { name: "high" type: "InnerProduct" bottom: "%s" top: "high"
        inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "high" bottom: "t" top: "loss" }
"""


def net_file(folder: Path, kind: str, top: str) -> str:
    (folder / "net.prototxt").write_text(NET % (kind if " " in kind else f'"{kind}"', top, top))
    (folder / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 1 lr_policy: "fixed"')
    return str(folder / "solver.prototxt")


def log(passing: float, top: str = "low", after: float = 0.2, count: int = 6, head: tuple[str, ...] = ()) -> bytes:
    """Return passes of the net whose activation lets `passing` of the gradient through."""
    lines = list(head)
    for number in range(count):
        lines += [
            "[Forward] Layer in, top blob x data: 1",
            "[Forward] Layer norm, top blob n data: 0.8",
            f"[Forward] Layer norm, param blob 0 data: {number}",
            f"[Forward] Layer norm, param blob 1 data: {number}",
            f"[Forward] Layer norm, param blob 2 data: {number + 1}",
            "[Forward] Layer low, top blob low data: 0.4",
            "[Forward] Layer low, param blob first data: 0.5",
            "[Forward] Layer low, param blob 1 data: 0.25",
            f"[Forward] Layer bend, top blob {top} data: {after}",
            "[Forward] Layer high, top blob high data: 0.3",
            "[Forward] Layer high, param blob 0 data: 0.5",
            "[Forward] Layer high, param blob 1 data: 0.1",
            f"[Backward] Layer high, bottom blob {top} diff: 0.02",
            "[Backward] Layer high, param blob 0 diff: 0.04",
            "[Backward] Layer high, param blob 1 diff: 0.01",
            f"[Backward] Layer bend, bottom blob low diff: {0.02 * passing}",
            "[Backward] Layer low, bottom blob n diff: 0.01",
            "[Backward] Layer low, param blob 0 diff: 0.05",
            "[Backward] Layer low, param blob 1 diff: 0.03",
            *(f"[Backward] Layer norm, param blob {index} diff: 0" for index in range(3)),
            "[Backward] All net params (data, diff): L1 norm = (1, 2); L2 norm = (3, 4)",
            f"Iteration {number}, loss = {1 - 0.1 * number}",
            f"Iteration {number}, lr = 0.01",
        ]
    return "\n".join(lines).encode()


def rules(text: bytes, folder: Path, net: str | None = None) -> list[str]:
    (folder / "train.log").write_bytes(text)
    return [str(alert) for alert in diagnose_log(str(folder / "train.log"), net).alerts]


@pytest.mark.parametrize("top", ["low", "bent"])
def test_a_relu_that_stops_the_gradient_is_dead(tmp_path: Path, top: str) -> None:
    net = net_file(tmp_path, "ReLU", top)
    assert rules(log(0.015, top), tmp_path, net) == [
        "dead-relu at iteration 0: bend is dead: only 1.5% of the gradient passes through it"
    ]
    assert rules(log(0.025, top), tmp_path, net) == []
    (zero,) = rules(log(0.5, top, after=0.0), tmp_path, net)
    assert zero.endswith("bend is dead: 100.0% of its outputs are zero")


@pytest.mark.parametrize(("kind", "dead", "alive"), [("Sigmoid", 0.023, 0.024), ("TanH", 0.093, 0.095)])
def test_a_squashing_function_is_saturated_where_the_gradient_meets_little_slope(
    tmp_path: Path, kind: str, dead: float, alive: float
) -> None:
    net = net_file(tmp_path, kind, "bent")
    (text,) = rules(log(dead, "bent"), tmp_path, net)
    assert text.startswith("saturated at iteration 0: bend is saturated: the gradient meets 9.")
    assert rules(log(alive, "bent"), tmp_path, net) == []


def test_a_leaky_rectifier_is_never_dead(tmp_path: Path) -> None:
    net = net_file(tmp_path, '"ReLU" relu_param { negative_slope: 0.01 }', "low")
    assert rules(log(0.015), tmp_path, net) == []


def test_without_a_net_names_tell_activations(tmp_path: Path) -> None:
    text = log(0.015)
    assert rules(text, tmp_path) == []
    assert rules(text.replace(b"bend", b"conv1_relu"), tmp_path)[0].startswith("dead-relu at iteration 0: conv1_relu")
    assert rules(text.replace(b"bend", b"prelu1"), tmp_path) == []
    assert rules(text.replace(b"bend", b"sigmoid_loss"), tmp_path) == []


def test_a_log_that_begins_with_the_net_tells_types(tmp_path: Path) -> None:
    def head(kind: str, *more: str) -> tuple[str, ...]:
        return ("layer {", '  name: "bend"', f'  type: "{kind}"', '  bottom: "low"', *more, "}")

    assert rules(log(0.015, head=head("ReLU")), tmp_path)[0].startswith("dead-relu at iteration 0: bend")
    assert rules(log(0.015, head=head("Sigmoid")), tmp_path)[0].startswith("saturated at iteration 0: bend")
    leaky = head("ReLU", "  relu_param {", "    negative_slope: 0.01", "  }")
    assert rules(log(0.015, head=leaky), tmp_path) == []
    named = log(0.015, head=head("Dropout")).replace(b"bend", b"relu_drop")
    assert rules(named, tmp_path) == []


def test_running_statistics_are_not_dead(tmp_path: Path) -> None:
    net = net_file(tmp_path, "ReLU", "low")
    for path in (net, None):
        (tmp_path / "train.log").write_bytes(log(0.5))
        found = diagnose_log(str(tmp_path / "train.log"), path)
        assert found.is_healthy, path
        assert not any(key.layer == "norm" and key.direction == "backward" for key in found.trends)


def test_running_statistics_of_a_net_whose_shapes_are_not_known(tmp_path: Path) -> None:
    net = net_file(tmp_path, "ReLU", "low")
    text = (tmp_path / "net.prototxt").read_text().replace("Input", "HDF5Data")
    start, end = text.index("input_param"), text.index("layer", text.index("input_param"))
    hdf5 = 'hdf5_data_param { source: "gone" batch_size: 5 } }\n'
    (tmp_path / "net.prototxt").write_text(text[:start] + hdf5 + text[end:])
    (tmp_path / "train.log").write_bytes(log(0.5))
    found = diagnose_log(str(tmp_path / "train.log"), net)
    assert found.is_healthy
    assert "no predictions" in found.warnings[0]


def test_three_params_of_a_layer_that_passes_no_gradient_are_dead() -> None:
    lines = log(0.5).replace(
        b"[Backward] Layer norm, param blob 0", b"[Backward] Layer norm, bottom blob x diff: 0\n%s"
    )
    found = diagnose(read_passes((lines % ((b"[Backward] Layer norm, param blob 0",) * 6)).split(b"\n")))
    assert Key("backward", "norm", "param", "0") in found.dead


def test_params_that_a_net_does_not_learn_are_left_out() -> None:
    one = Pass(1, values={Key("backward", "a", "param", str(n)): 0.0 for n in range(2)}, lines=[7, 8])
    without_statistics(one, Background(multipliers={("a", 0): 0.0, ("a", 1): 2.0, ("b", 1): 0.0}))
    assert (list(one.values), one.lines) == ([Key("backward", "a", "param", "1")], [8])


SGD = ("base_lr: 0.01",)
ADAM = ("base_lr: 0.01", 'type: "Adam"')


def ratios(text: bytes, background: Background | None = None) -> dict[Key, float]:
    first = next(read_passes(text.split(b"\n")))
    found = signals_of(first, background or Background())
    return {key: value for key, value in found.items() if key.role == "param"}


def test_the_step_of_a_gradient() -> None:
    low, high = (Key("step_ratio", layer, "param", "0") for layer in ("low", "high"))
    found = ratios(log(0.5, head=SGD))
    assert found[low] == pytest.approx(0.01 * 0.05 / 0.5)
    assert found[low._replace(blob="1")] == pytest.approx(0.01 * 0.03 / 0.25)
    multiplied = ratios(log(0.5), Background(multipliers={("low", 0): 3.0}, solver="Nesterov"))
    assert (multiplied[low], multiplied[high]) == pytest.approx((0.003, 0.0008))
    assert {key.direction for key in ratios(log(0.5))} == {"step_bound"}
    assert ratios(log(0.5, head=ADAM)) == {}
    assert ratios(log(0.5, head=SGD), Background(solver="RMSProp")) == {}


def test_clipping_and_several_passes_make_steps_smaller() -> None:
    clip = b"lr = 0.01\nGradient clipping: scaling down gradients (L2 norm %s > 1) by scale factor 0.25"
    low = Key("step_ratio", "low", "param", "0")
    for norm, scale in ((b"4.01", 0.25), (b"4.9", 1.0)):  # the pass's own norm is 4; another is a later iteration's
        text = log(0.5, head=SGD).replace(b"lr = 0.01", clip % norm)
        assert ratios(text)[low] == pytest.approx(0.001 * scale)
    passes = log(0.5, head=SGD, count=2).replace(b"Iteration 0", b"Something")
    (_, last) = read_passes(passes.split(b"\n"))
    assert signals_of(last, Background())[low] == pytest.approx(0.001 / 2)


def test_steps_out_of_proportion(tmp_path: Path) -> None:
    large = log(0.5).replace(b"lr = 0.01", b"lr = 2")
    assert rules(large, tmp_path) == [
        "update-ratio at iteration 4: high takes steps of 0.16 of its weights' size, too large: "
        "lower base_lr or its lr_mult",
        "update-ratio at iteration 4: low takes steps of 0.2 of its weights' size, too large: "
        "lower base_lr or its lr_mult",
    ]
    assert rules(log(0.5).replace(b"lr = 0.01", b"lr = 1e-6"), tmp_path) == []  # the solver may be Adam
    small = log(0.5, head=SGD).replace(b"lr = 0.01", b"lr = 1.1e-05")
    (text,) = rules(small, tmp_path)
    assert "high takes steps of 8.8e-07 of its weights' size, too small" in text
    assert rules(small.replace(b"1.1e-05", b"1.4e-05"), tmp_path) == []  # momentum of 0.9 may make it 1e-5


def test_the_multipliers_of_a_net_scale_its_steps(tmp_path: Path) -> None:
    """lr_mult is 3 in layer low and 1 in layer high, whose step is 0.032 of its weights' size."""
    net = net_file(tmp_path, "ReLU", "low")
    (text,) = rules(log(0.5).replace(b"lr = 0.01", b"lr = 0.4"), tmp_path, net)
    assert text.startswith("update-ratio at iteration 4: low takes steps of 0.12 of its weights' size, too large")


@pytest.mark.parametrize("numbers", ["data: 0.5; diff: 0.06", "data: 50 (0.5); diff: 6 (0.06)"])
def test_updates_that_old_logs_have(tmp_path: Path, numbers: str) -> None:
    update = f"lr = 0.01\n    [Update] Layer low, param 0 {numbers}".encode()
    text = log(0.5, head=ADAM).replace(b"lr = 0.01", update)
    assert ratios(text) == {Key("update_ratio", "low", "param", "0"): pytest.approx(0.12)}
    (fired,) = rules(text, tmp_path)
    assert fired.startswith("update-ratio at iteration 4: low is updated by 0.12 of its weights' size, too large")


def test_test_nets_have_no_signals() -> None:
    one = Pass(1, test_net=0, values={Key("forward", "relu", "top", "x"): 0.0}, lines=[2])
    assert signals_of(one, Background()) == {}
