"""A Caffe net and the ONNX model of it are the same program: rows, values, gradients, predictions, gains."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from caffestat import net as nets
from caffestat.analysis import Measurement, Prediction, gains, measure, predict
from caffestat.fillers import Stream
from caffestat.graph.load import load
from caffestat.net.source import net_source
from caffestat.options import RunOptions
from caffestat.program import NetProgram, Program, from_net
from caffestat.program.export import to_onnx
from caffestat.program.from_onnx import ModelProgram, from_onnx
from caffestat.prototext import parse

TEXT = b"""
layer { name: "in" type: "Input" top: "data" top: "target"
  input_param { shape { dim: 6 dim: 3 dim: 9 dim: 7 } shape { dim: 6 dim: 5 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 4 kernel_h: 3 kernel_w: 2
    weight_filler { type: "msra" } bias_filler { value: 0.1 } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "target" top: "loss" }
"""
RANDOM = np.random.default_rng(2)
INPUTS = {
    "data": RANDOM.standard_normal((6, 3, 9, 7)).astype(np.float32),
    "target": RANDOM.standard_normal((6, 5)).astype(np.float32),
}


@cache
def programs() -> tuple[NetProgram, ModelProgram]:
    net = nets.build(net_source(parse(TEXT, "net.prototxt")))
    model = to_onnx(net, nets.draw_params(net, Stream(1701)))
    return from_net(net), from_onnx(load(model), "net.onnx", "loss")


@cache
def measured(program: int) -> Measurement:
    return measure(programs()[program], 1701, RunOptions("cpu", INPUTS))[1]


@cache
def predicted(program: int) -> Prediction:
    own = programs()[program]
    return predict(own, values=own.values(Stream(1701), []), inputs=INPUTS)


def row(program: Program, top: str) -> int:
    return next(row.index for row in program.rows if top in row.tops)


def named(program: Program, found: dict[tuple[int, int], object]) -> dict[str, object]:
    """Return what was found of values by the names that the model gives them."""
    result: dict[str, object] = {}
    for (index, top), value in found.items():
        name = program.rows[index].tops[top]
        again = isinstance(program, NetProgram) and name in program.rows[index].bottoms
        result[f"{name}@{program.rows[index].name}" if again else name] = value
    return result


def test_every_value_has_an_id_and_a_reader_that_knows_it() -> None:
    for program in programs():
        assert sorted(program.ids.values()) == list(range(len(program.ids)))
        for one in program.rows:
            for bottom, source in enumerate(one.reads):
                assert (one.index, bottom) in program.flow.readers(source)
    net, model = programs()
    assert [r.is_input for r in net.rows] == [False] * 5
    assert [r.name for r in model.rows if r.is_input] == ["data", "target"]


@pytest.mark.parametrize("name", ["data", "conv", "conv@relu", "ip", "loss"])
def test_values_are_the_same(name: str) -> None:
    net, model = (named(program, measured(index).tops) for index, program in enumerate(programs()))
    assert model[name] == pytest.approx(net[name], rel=1e-5)
    moments = [named(program, predicted(index).tops)[name] for index, program in enumerate(programs())]
    assert moments[1].mean_abs == pytest.approx(moments[0].mean_abs, rel=1e-6)  # type: ignore[attr-defined]


def test_params_and_their_gradients_are_the_same() -> None:
    net, model = measured(0), measured(1)
    for layer in ("conv", "ip"):
        first, second = (row(program, layer) for program in programs())
        assert model.params[second, 0] == pytest.approx(net.params[first, 0], rel=1e-5)
        assert model.param_diffs[second, 0] == pytest.approx(net.param_diffs[first, 0], rel=1e-4)
    first, second = (row(program, "ip") for program in programs())  # Caffe computes no gradient of data
    reads = next(r.reads[0] for r in programs()[1].rows if r.index == second)
    assert model.bottom_diffs[second, 0] == pytest.approx(net.bottom_diffs[first, 0], rel=1e-4), reads
    assert net.norms is not None
    assert model.norms is not None
    assert model.norms.diff_l2 == pytest.approx(net.norms.diff_l2, rel=1e-4)


def test_gains_are_the_same() -> None:
    first, second = (gains(program, predicted(index)) for index, program in enumerate(programs()))
    assert [(gain.fan_in, gain.fan_out) for gain in second] == [(gain.fan_in, gain.fan_out) for gain in first]
    for mine, other in zip(first, second, strict=True):
        assert other.forward == pytest.approx(mine.forward, rel=1e-6)
        assert other.backward == pytest.approx(mine.backward, rel=1e-6)
