"""Gradients where Caffe's layers share or write over each other's memory, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat import net
from caffestat.analysis import Runner, draw_feeds
from caffestat.fillers import Stream
from caffestat.net.source import net_source
from caffestat.program import from_net
from caffestat.prototext import parse

DATA = """layer { name: "x" type: "DummyData" top: "x" dummy_data_param {
  shape { dim: 3 dim: 4 dim: 2 } data_filler { type: "gaussian" std: 1 } } }
"""
PRODUCT = 'inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.5 } }'
LOSS = "loss_weight: 1 reduction_param { operation: SUMSQ coeff: 0.5 }"


def layer(kind: str, bottoms: str, top: str, params: str = "") -> str:
    ends = " ".join(f'bottom: "{name}"' for name in bottoms.split())
    return f'layer {{ name: "{kind}{top}" type: "{kind}" {ends} top: "{top}" {params} }}\n'


class Ran:
    """A net after one iteration: its tensors by layer name, its params by position."""

    def __init__(self, *layers: str) -> None:
        self.net = net.build(net_source(parse((DATA + "".join(layers)).encode(), "net")))
        stream = Stream(7)
        self.params = net.draw_params(self.net, stream)
        self.runner = Runner(from_net(self.net), self.params, fetch=True)
        self.measured = self.runner.run(draw_feeds(self.runner, stream, np.random.default_rng(7)))
        self.numbers = {node.name: node.index for node in self.net.nodes}

    def top(self, name: str) -> np.ndarray:
        return self.runner.tensors["top", self.numbers[name], 0]

    def diff(self, name: str, bottom: int = 0) -> np.ndarray:
        return self.runner.tensors["bottom_diff", self.numbers[name], bottom]

    def param_diff(self, name: str) -> np.ndarray:
        return self.runner.tensors["param_diff", self.numbers[name], 0]


@pytest.mark.parametrize(("axis", "adds"), [(0, False), (1, True)])
def test_scale_of_one_row_writes_over_the_gradient_of_those_that_share_its_param(axis, adds):
    params = f'scale_param {{ axis: {axis} num_axes: {2 - axis} }} param {{ name: "s" }}'
    scales = [layer("Scale", "x", top, params) for top in "ab"]
    ran = Ran(*scales, layer("Reduction", "a", "la", LOSS), layer("Reduction", "b", "lb", LOSS))
    x = ran.top("x")
    one = (x * x).sum((0, 2)) if axis else (x * x).sum(2)
    np.testing.assert_allclose(ran.param_diff("Scaleb"), one, rtol=1e-5)
    np.testing.assert_allclose(ran.param_diff("Scalea"), 2 * one if adds else one, rtol=1e-5)


def test_a_layer_that_reads_a_loss_writes_over_its_weight():
    """The weight stands in the diff of the loss: what the reader writes there counts. (layer.hpp, SetLossWeights)"""
    loss = layer("EuclideanLoss", "y z", "e") + layer("Power", "e", "p", "loss_weight: 3 power_param { scale: 0.25 }")
    ran = Ran(layer("InnerProduct", "x", "y", PRODUCT), layer("InnerProduct", "x", "z", PRODUCT), loss)
    expected = 0.75 * (ran.top("InnerProducty") - ran.top("InnerProductz")) / 3
    np.testing.assert_allclose(ran.diff("EuclideanLosse"), expected, rtol=1e-5)


def test_weights_see_what_was_written_over_their_bottom():
    """Reshape shares memory, so that the layer in place behind it changes what the product reads once more."""
    ran = Ran(
        layer("AbsVal", "x", "y"),
        layer("InnerProduct", "y", "p", PRODUCT),
        layer("Reshape", "y", "r", "reshape_param { shape { dim: 3 dim: 8 } }"),
        layer("Exp", "r", "r", "exp_param { scale: -1 }"),
        layer("Reduction", "p", "l", LOSS),
    )
    dy, written = ran.diff("Reductionl"), np.exp(-np.abs(ran.top("x")))
    np.testing.assert_allclose(ran.param_diff("InnerProductp"), dy.T @ written.reshape(3, 8), rtol=1e-5)


def test_maxima_stay_where_they_were():
    ran = Ran(
        layer("Reshape", "x", "y", "reshape_param { shape { dim: 3 dim: 1 dim: 4 dim: 2 } }"),
        layer("Power", "y", "z", "power_param { scale: 2 }"),
        layer("Pooling", "z", "p", "pooling_param { pool: MAX global_pooling: true }"),
        layer("Reshape", "z", "r", "reshape_param { shape { dim: 3 dim: 8 } }"),
        layer("Exp", "r", "r", "exp_param { scale: -1 }"),
        layer("Reduction", "p", "l", LOSS),
        "force_backward: true",
    )
    z = 2 * ran.top("x").reshape(3, 8)
    expected = np.where(z == z.max(1, keepdims=True), z, 0)
    np.testing.assert_allclose(ran.diff("Poolingp").reshape(3, 8), expected, rtol=1e-6)


def test_no_gradient_reaches_a_reshape_behind_which_flatten_stands():
    """Flatten gives its bottom other memory for the diff, and Reshape looks for it in its own bottom's."""
    product = layer("InnerProduct", "x", "p", PRODUCT)
    reshape = layer("Reshape", "p", "r", "reshape_param { shape { dim: 0 dim: 1 dim: -1 } }")
    straight = Ran(product, reshape, layer("Reduction", "r", "l", LOSS))
    assert np.abs(straight.param_diff("InnerProductp")).min() > 0
    ran = Ran(product, reshape, layer("Flatten", "r", "f"), layer("Reduction", "f", "l", LOSS))
    number = ran.numbers["InnerProductp"]
    assert ran.measured.param_diffs[number, 0] == 0
    assert ran.measured.bottom_diffs[ran.numbers["Flattenf"], 0] > 0


def test_a_layer_without_backward_overwrites_all_the_same():
    """What a Bias in place writes over the cell state counts in LSTMUnit's backward pass, though Bias has none."""
    source = 'dummy_data_param {{ shape {{ dim: 1 dim: 3 dim: {0} }} data_filler {{ type: "gaussian" std: 1 }} }}'
    ran = Ran(
        layer("DummyData", "", "c", source.format(2)),
        layer("DummyData", "", "g", source.format(8)),
        layer("DummyData", "", "on", "dummy_data_param { shape { dim: 1 dim: 3 } data_filler { value: 1 } }"),
        layer("Scale", "g", "i", "scale_param { axis: 2 }"),
        'layer { name: "unit" type: "LSTMUnit" bottom: "c" bottom: "i" bottom: "on" top: "cell" top: "h" }\n',
        layer("Bias", "cell", "cell", "bias_param { filler { value: 0.7 } }"),
        layer("Reduction", "h", "l", LOSS),
    )
    gate = 1 / (1 + np.exp(-ran.top("DummyDatag")[0, :, 4:6]))
    dh, cell = ran.diff("Reductionl")[0], ran.top("Biascell")[0]
    expected = dh * np.tanh(cell) * gate * (1 - gate)
    np.testing.assert_allclose(ran.diff("unit", 1)[0, :, 4:6], expected, rtol=1e-4)


def test_the_exposed_state_is_memory_of_the_unrolled_net():
    """What layers in place write over h and the cell state counts in LSTMUnit's backward pass, and is the top h_T."""
    shapes = "".join(f"shape {{ dim: 1 dim: 2 {dims} }}" for dims in ("dim: 4", "", "dim: 3", "dim: 3"))
    fillers = 'data_filler { type: "gaussian" } data_filler { value: 1 }' + ' data_filler { type: "gaussian" }' * 2
    data = layer("DummyData", "", "s", f"dummy_data_param {{ {shapes} {fillers} }}")
    filler = 'weight_filler { type: "gaussian" std: 0.5 }'
    lstm = layer("LSTM", "s on h0 c0", "h", f"recurrent_param {{ num_output: 3 expose_hidden: true {filler} }}")
    ran = Ran(
        data.replace('top: "s"', 'top: "s" top: "on" top: "h0" top: "c0"'),
        lstm.replace('top: "h"', 'top: "h" top: "last" top: "cell"'),
        layer("Bias", "cell", "cell", "bias_param { filler { value: 0.7 } }"),
        layer("Bias", "h", "h", "bias_param { filler { value: 3 } }"),
        layer("Reduction", "h", "l", LOSS),
    )
    hidden, cell = ran.top("LSTMh")[0], ran.top("Biascell")[0]
    gate = hidden / np.tanh(cell - 0.7)
    expected = ((hidden + 3) * np.tanh(cell) * gate * (1 - gate)).sum(0)
    np.testing.assert_allclose(ran.runner.tensors["param_diff", ran.numbers["LSTMh"], 1][6:9], expected, rtol=1e-4)
    outputs = {ran.net.blobs[number].name: values for number, values in ran.measured.outputs.items()}
    np.testing.assert_array_equal(outputs["last"], (hidden + 3).ravel())


def test_a_recurrent_layer_reads_its_input_where_it_lies():
    """recurrent_layer.cpp shares the input's memory: W_xc gets its gradient from what Exp has written there."""
    shapes = "shape { dim: 1 dim: 1 dim: 4 } shape { dim: 1 dim: 1 }"
    data = f'dummy_data_param {{ {shapes} data_filler {{ type: "gaussian" }} data_filler {{ value: 1 }} }}'
    ran = Ran(
        layer("DummyData", "", "s", data).replace('top: "s"', 'top: "s" top: "on"'),
        layer("RNN", "s on", "o", 'recurrent_param { num_output: 3 weight_filler { type: "gaussian" std: 0.5 } }'),
        layer("Flatten", "s", "f"),
        layer("Exp", "f", "f"),
        layer("Reduction", "o", "l", LOSS),
    )
    rnn = ran.numbers["RNNo"]
    weight, bias = (ran.runner.tensors["param_diff", rnn, index] for index in range(2))
    np.testing.assert_allclose(weight, np.outer(bias, np.exp(ran.top("DummyDatas"))), rtol=1e-5)


def test_in_place_mvn_gives_its_blob_four_axes():
    ran = Ran(
        layer("Convolution", "x", "y", "convolution_param { num_output: 5 kernel_size: 1 }"),
        layer("MVN", "y", "y", "mvn_param { normalize_variance: false }"),
        layer("Reduction", "y", "l", LOSS),
    )
    assert ran.top("MVNy").shape == (3, 5, 2, 1)
    assert ran.param_diff("Convolutiony").shape == (5, 4, 1)


def test_an_output_holds_what_was_written_over_it():
    ran = Ran(
        layer("Reshape", "x", "r", "reshape_param { shape { dim: -1 } }"),
        layer("Split", "r", "s"),
        layer("Exp", "s", "s"),
    )
    (blob,) = [number for number in ran.net.outputs if ran.net.blobs[number].name == "s"]
    np.testing.assert_allclose(ran.measured.outputs[blob], np.exp(ran.top("x").ravel()), rtol=1e-6)
    two = Ran(layer("Concat", "x", "c"), layer("Slice", "c", "o"), layer("Split", "c", "s"), layer("Exp", "s", "s"))
    outputs = {two.net.blobs[number].name: values for number, values in two.measured.outputs.items()}
    np.testing.assert_allclose(outputs["o"], outputs["s"], rtol=1e-6)


def test_power_in_place_gives_its_slope_where_no_loss_follows():
    forward = (
        layer("Scale", "x", "y") + layer("Power", "y", "y", "power_param { scale: -3 }") + layer("Silence", "y", "")
    )
    ran = Ran(forward.replace(' top: ""', ""), "force_backward: true")
    np.testing.assert_array_equal(ran.diff("Powery"), np.full((3, 4, 2), 9))


@pytest.mark.parametrize("fields", ["loss_weight: 0", "propagate_down: false propagate_down: false"])
@pytest.mark.parametrize("norm", ["L1", "L2"])
def test_a_hinge_loss_without_backward_pass_leaves_its_terms_in_the_gradient(fields, norm):
    """hinge_loss_layer.cpp, Forward_cpu works in the bottom's diff; a Split for another loss adds it."""
    label = """layer { name: "label" type: "DummyData" top: "label" dummy_data_param {
      shape { dim: 3 } data_filler { type: "constant" value: 2 } } }
    """
    hinge = layer("HingeLoss", "y label", "h", f"{fields} hinge_loss_param {{ norm: {norm} }}")
    ran = Ran(label, layer("InnerProduct", "x", "y", PRODUCT), hinge, layer("Reduction", "y", "l", LOSS))
    y = ran.top("InnerProducty")
    left = np.maximum(0, 1 + np.where(np.arange(5) == 2, -y, y))
    np.testing.assert_allclose(ran.diff("y_InnerProducty_0_split"), y + left, rtol=1e-5)
    x = ran.top("x").reshape(3, -1)
    np.testing.assert_allclose(ran.param_diff("InnerProducty"), (y + left).T @ x, rtol=1e-4)


IMAGES = DATA.replace("dim: 2 }", "dim: 2 dim: 5 }").replace('"x"', '"image"')
CONV = 'convolution_param { num_output: 6 kernel_size: 1 weight_filler { type: "xavier" } }'


@pytest.mark.parametrize(
    ("kind", "params", "ignores"),
    [
        ("BatchNorm", "", True),
        ("Flatten", "", True),
        ("Im2col", "convolution_param { kernel_size: 2 }", True),
        ("LRN", "", True),
        ("LRN", "lrn_param { norm_region: WITHIN_CHANNEL local_size: 3 }", False),
        ("MVN", "", True),
        ("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }", True),
        ("Softmax", "", True),
        ("TanH", "", False),
    ],
)
def test_some_layers_compute_gradients_that_propagate_down_forbids(kind, params, ignores):
    """Their Backward_cpu never looks at propagate_down; a Split for another loss adds what they leave."""

    def gradient(more: str, weight: int) -> np.ndarray:
        behind = [layer(kind, "y", "z", f"{params} {more}"), layer("Sigmoid", "z", "s", f"loss_weight: {weight}")]
        ran = Ran(IMAGES, layer("Convolution", "image", "y", CONV), *behind, layer("Reduction", "y", "l", LOSS))
        return ran.param_diff("Convolutiony")

    stopped, whole, without = gradient("propagate_down: false", 3), gradient("", 3), gradient("", 0)
    assert np.abs(whole - without).max() > 1e-3
    np.testing.assert_allclose(stopped, whole if ignores else without, rtol=1e-4, atol=1e-5)


def test_in_place_the_gradient_passes_a_layer_that_computes_none():
    """The diff of the top is that of the bottom: what the layer does not write over reaches the Split."""
    split = 'layer { name: "cut" type: "Split" bottom: "y" top: "a" top: "b" }\n'
    stop = layer("Sigmoid", "a", "a", "propagate_down: false")
    ends = [layer("Reduction", "a", "la", LOSS), layer("Reduction", "b", "lb", LOSS)]
    ran = Ran(layer("InnerProduct", "x", "y", PRODUCT), split, stop, *ends)
    written = ran.top("Sigmoida")
    np.testing.assert_allclose(ran.diff("cut"), 2 * written, rtol=1e-5)  # b is the same memory as a


@pytest.mark.parametrize(("order", "shares"), [("order: 0 order: 1", True), ("", True), ("order: 1", False)])
def test_a_permute_that_changes_nothing_shares_memory(order, shares):
    """permute_layer.cpp, ShareData: what is written over its top is written over its bottom."""
    ran = Ran(
        layer("AbsVal", "x", "y"),
        layer("InnerProduct", "y", "p", PRODUCT),
        layer("Permute", "y", "z", f"permute_param {{ {order} }}"),
        layer("Exp", "z", "z", "exp_param { scale: -1 }"),
        layer("Reduction", "p", "l", LOSS),
    )
    dy, y = ran.diff("Reductionl"), np.abs(ran.top("x"))
    read = np.exp(-y) if shares else y
    np.testing.assert_allclose(ran.param_diff("InnerProductp"), dy.T @ read.reshape(3, 8), rtol=1e-5)
