"""Caffe nets as ONNX models: names, values and gradients are those of the net's own run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from caffestat.analysis import Runner, draw_feeds
from caffestat.fillers import Stream
from caffestat.net import TEST, TRAIN, Net, build, draw_params, read_net, state_of
from caffestat.program import from_net
from caffestat.program.export import to_onnx

from ..graph.models import run

NET = """\
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 4 dim: 3 dim: 6 dim: 5 } shape { dim: 4 } } }
layer { name: "dummy" type: "DummyData" top: "noise"
  dummy_data_param { shape { dim: 4 dim: 2 dim: 6 dim: 5 } data_filler { type: "gaussian" std: 1 } } }
layer { name: "cat" type: "Concat" bottom: "data" bottom: "noise" top: "both" }
layer { name: "conv" type: "Convolution" bottom: "both" top: "conv"
  convolution_param { num_output: 6 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" param { lr_mult: 1 } param { lr_mult: 0 }
  inner_product_param { num_output: 7 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
layer { name: "more" type: "TanH" bottom: "conv" top: "more" }
"""


def net_of(text: str, folder: Path, phase: int) -> Net:
    path = folder / "net.prototxt"
    path.write_text(text)
    source = read_net(str(path))
    return build(source, state_of(source, phase))


@pytest.fixture
def net(tmp_path: Path) -> Net:
    return net_of(NET, tmp_path, TRAIN)


def names(values: object) -> list[str]:
    return [value.name for value in values]  # type: ignore[attr-defined]


def test_names(net: Net) -> None:
    model = to_onnx(net, draw_params(net, Stream(3)), backward=True)
    onnx.checker.check_model(model, full_check=True)
    assert names(model.graph.input) == ["data", "label", "noise", "drop/mask"]
    assert names(model.graph.output) == [
        "loss", "more", "bn/0/updated", "bn/1/updated", "bn/2/updated",
        "grad/conv/0", "grad/conv/1", "grad/ip/0",
    ]  # fmt: skip
    assert {"conv/0", "conv/1", "ip/0", "ip/1"} < set(names(model.graph.initializer))
    computed = [name for node in model.graph.node for name in node.output]
    assert {"both", "conv", "conv@bn", "conv@relu", "conv@drop", "ip"} < set(computed)
    assert len(set(computed)) == len(computed)


def test_values_and_gradients_are_the_nets_own(net: Net) -> None:
    values = draw_params(net, Stream(3))
    model = to_onnx(net, values, backward=True)
    runner = Runner(from_net(net), [value.copy() for value in values], fetch=True)
    feeds = draw_feeds(runner, Stream(4), np.random.default_rng(5))
    measured = runner.run(feeds)
    given = dict(zip(names(model.graph.input), feeds.values(), strict=True))
    out = run(model, given)
    assert out["loss"] == pytest.approx(measured.loss, rel=1e-6)
    nodes = {node.name: node.index for node in net.nodes}
    for layer, index in (("conv", 0), ("conv", 1), ("ip", 0)):
        expected = runner.tensors["param_diff", nodes[layer], index]
        np.testing.assert_allclose(out[f"grad/{layer}/{index}"], expected, rtol=1e-5, atol=1e-7)
    updated = runner.values[net.nodes[nodes["bn"]].params[0]]
    np.testing.assert_allclose(out["bn/0/updated"], updated, rtol=1e-5)


def test_forward_in_the_test_phase_is_deterministic(tmp_path: Path) -> None:
    net = net_of(NET, tmp_path, TEST)
    model = to_onnx(net, draw_params(net, Stream(3)))
    assert names(model.graph.input) == ["data", "label", "noise"]
    assert names(model.graph.output) == ["loss", "more"]


def test_shared_params_have_one_gradient(tmp_path: Path) -> None:
    layer = (
        'layer { name: "%s" type: "InnerProduct" bottom: "data" top: "%s" param { name: "w" } '
        'inner_product_param { num_output: 4 bias_term: false weight_filler { type: "xavier" } } }\n'
    )
    text = (
        'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }\n'
        + layer % ("a", "a")
        + layer % ("b", "b")
        + 'layer { name: "sum" type: "Reduction" bottom: "a" top: "sa" loss_weight: 1 }\n'
        + 'layer { name: "tum" type: "Reduction" bottom: "b" top: "sb" loss_weight: 2 }\n'
    )
    net = net_of(text, tmp_path, TRAIN)
    model = to_onnx(net, draw_params(net, Stream(3)), backward=True)
    assert names(model.graph.initializer)[-1:] == ["a/0"]
    assert names(model.graph.output) == ["sa", "sb", "grad/a/0"]
    x = np.array([[1, 2, 3], [4, 5, 6]], np.float32)
    np.testing.assert_allclose(run(model, {"data": x})["grad/a/0"], np.tile(3 * x.sum(0), (4, 1)), rtol=1e-6)


def test_later_timesteps_of_a_sharer_keep_what_it_drew(tmp_path: Path) -> None:
    """In TRAIN, the first timestep alone computes with the owner's recurrent params; in TEST, all do."""
    layer = (
        'layer { name: "%s" type: "RNN" bottom: "%s" bottom: "cont" top: "%s" %s recurrent_param { num_output: 2 '
        'weight_filler { type: "uniform" min: -1 max: 1 } } }\n'
    )
    named = "".join(f'param {{ name: "{name}" }}' for name in ("x", "b", "h", "o", "c"))
    text = (
        'layer { name: "in" type: "Input" top: "in" top: "cont" input_param { shape { dim: 3 dim: 4 dim: 2 } '
        "shape { dim: 3 dim: 4 } } }\n" + layer % ("r1", "in", "r1", named) + layer % ("r2", "r1", "r2", named)
    )
    x = np.random.default_rng(4).normal(size=(3, 4, 2)).astype(np.float32)
    for phase in (TRAIN, TEST):
        net = net_of(text, tmp_path, phase)
        x_h, b_h, h_h, h_o, b_o = draw_params(net, Stream(3))[:5]
        found = run(to_onnx(net, draw_params(net, Stream(3))), {"in": x, "cont": np.ones((3, 4), np.float32)})["r2"]
        draws = net.nodes[-1].layer.own_draws
        assert np.abs(draws[2] - h_h).max() > 0.1
        values: Sequence[np.ndarray] = x
        for own in ({}, draws if phase == TRAIN else {}):
            h, tops = np.zeros((4, 2)), []
            for step, at in enumerate(values):
                later = own if step else {}
                h = np.tanh(at @ x_h.T + b_h + h @ later.get(2, h_h).T)
                tops.append(np.tanh(h @ later.get(3, h_o).T + b_o))
            values = tops
        np.testing.assert_allclose(found, values, rtol=1e-5)
