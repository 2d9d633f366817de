"""Passes of shards against whole ones: every mean, every tensor, and the rule that chooses."""

from __future__ import annotations

import functools
from dataclasses import fields

import numpy as np
import pytest

from caffestat.analysis import Measurement, Runner, draw_feeds
from caffestat.analysis import shards as module
from caffestat.analysis.shards import shards_for
from caffestat.engine import CPU
from caffestat.errors import InputError
from caffestat.fillers import Stream
from caffestat.net import Net, build, draw_params
from caffestat.net.source import net_source
from caffestat.program import from_net
from caffestat.prototext import parse

NET = """
layer { name: "data" type: "Input" top: "data" top: "label"
        input_param { shape { dim: 6 dim: 3 dim: 16 dim: 14 } shape { dim: 6 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "norm" type: "LRN" bottom: "conv" top: "norm" }
layer { name: "pool" type: "Pooling" bottom: "norm" top: "pool" pooling_param { kernel_size: 3 stride: 2 } }
layer { name: "left" type: "Convolution" bottom: "pool" top: "left" param { name: "shared" } param { name: "bias" }
        convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "right" type: "Convolution" bottom: "left" top: "right" param { name: "shared" } param { name: "bias" }
        convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "msra" } } }
layer { name: "both" type: "Concat" bottom: "left" bottom: "right" top: "both" }
layer { name: "drop" type: "Dropout" bottom: "both" top: "both" }
layer { name: "ip" type: "InnerProduct" bottom: "both" top: "ip"
        inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" top: "prob" loss_weight: 0.5
        loss_weight: 0 }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" }
layer { name: "decay" type: "Power" bottom: "ip" top: "decay" power_param { power: 2 scale: 0.1 } loss_weight: 0.01 }
"""


@functools.cache
def net() -> Net:
    return build(net_source(parse(NET.encode())))


@functools.cache
def measured(shards: int, changing: bool) -> tuple[Measurement, dict[tuple, np.ndarray]]:
    """Return what one pass measures, and all its tensors."""
    stream = Stream(3)
    runner = Runner(from_net(net()), draw_params(net(), stream), CPU, fetch=True, changing=changing, shards=shards)
    assert runner.forward.shards == shards
    return runner.run(draw_feeds(runner, stream, np.random.default_rng(4))), runner.tensors


@pytest.mark.parametrize("changing", [False, True])
@pytest.mark.parametrize("shards", [2, 3])
def test_every_number_is_that_of_the_whole_batch(shards: int, changing: bool) -> None:
    (whole, tensors), (ours, found) = measured(1, changing), measured(shards, changing)
    for name in ("tops", "bottom_diffs", "params", "param_diffs"):
        expected, means = getattr(whole, name), getattr(ours, name)
        assert means == {key: pytest.approx(value, rel=1e-5, abs=1e-9) for key, value in expected.items()}, name
    assert ours.loss == pytest.approx(whole.loss, rel=1e-6)
    for entry in fields(whole.norms):
        assert getattr(ours.norms, entry.name) == pytest.approx(getattr(whole.norms, entry.name), rel=1e-5)
    assert found.keys() == tensors.keys()
    for key, expected in tensors.items():
        np.testing.assert_allclose(found[key], expected, rtol=1e-4, atol=1e-6, err_msg=str(key))


def test_steps_of_shards_give_a_solver_the_same_gradients() -> None:
    found = []
    for shards in (1, 2):
        stream = Stream(3)
        runner = Runner(from_net(net()), draw_params(net(), stream), CPU, changing=True, shards=shards)
        feeds = draw_feeds(runner, stream, np.random.default_rng(4))
        found.append([runner.step(feeds, False, reuse=True), runner.step(feeds, True, reuse=True)])
    for whole, ours in zip(*found, strict=True):
        assert ours.loss == pytest.approx(whole.loss, rel=1e-6)
        for blob, value in whole.outputs.items():
            np.testing.assert_allclose(ours.outputs[blob], value, rtol=1e-4, atol=1e-6)
        for number, diff in whole.diffs.items():
            np.testing.assert_allclose(ours.diffs[number], diff, rtol=1e-4, atol=1e-6)


def test_given_arrays_are_those_of_the_whole_batch() -> None:
    runner = Runner(from_net(net()), draw_params(net(), Stream(3)), CPU, shards=2)
    given = np.random.default_rng(5).standard_normal((6, 3, 16, 14)).astype(np.float32)
    feeds = draw_feeds(runner, Stream(3), np.random.default_rng(4), {"data": given})
    assert runner.run(feeds).tops[0, 0] == pytest.approx(np.abs(given).mean(), rel=1e-5)
    with pytest.raises(InputError, match=r"expects \(6, 3, 16, 14\)"):
        draw_feeds(runner, Stream(3), np.random.default_rng(4), {"data": given[:3]})


def test_what_only_a_whole_pass_can_do_is_done_by_one() -> None:
    options: list[dict] = [{"stats": ("max",)}, {"samples": 100}, {"compute": "float16"}]
    for option in options:
        values = draw_params(net(), Stream(3))
        assert Runner(from_net(net()), values, CPU, shards=2, **option).forward.shards == 1


def test_shards_pay_on_two_cores_where_values_outnumber_params(monkeypatch: pytest.MonkeyPatch) -> None:
    program = from_net(net())
    values, params = 6 * (3 + 8 + 8) * 16 * 14, 8 * 27 + 8 + 8 * 72 + 8 + 16 * 7 * 8 * 5 + 5
    monkeypatch.setattr(module, "thread_count", lambda: 2)
    monkeypatch.setattr(module, "_LEAST", values)
    assert shards_for(program) == 2
    monkeypatch.setattr(module, "thread_count", lambda: 8)
    assert shards_for(program) == 1
    monkeypatch.setattr(module, "thread_count", lambda: 2)
    monkeypatch.setattr(module, "_PER_PARAM", 10 * values // params)
    assert shards_for(program) == 1
    monkeypatch.setattr(module, "_PER_PARAM", 4)
    monkeypatch.setattr(module, "_LEAST", 10 * values)
    assert shards_for(program) == 1
