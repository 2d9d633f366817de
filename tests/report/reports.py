"""Reports made by hand and from nets of a few lines, for the tests of the formats."""

from __future__ import annotations

from caffestat import net
from caffestat.analysis import Measurement, Norms
from caffestat.program import from_net
from caffestat.prototext import parse
from caffestat.report import Report, build

TEXT = """\
name: "tiny"
layer { name: "data" type: "Input" top: "data" top: "label"
  input_param { shape { dim: 2 dim: 4 dim: 9 dim: 7 } shape { dim: 2 dim: 2 dim: 1 dim: 1 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" param { name: "w" } param { lr_mult: 2 }
  convolution_param {
    num_output: 6 kernel_h: 3 kernel_w: 2 group: 2 weight_filler { type: "xavier" variance_norm: AVERAGE } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "one" type: "InnerProduct" bottom: "conv" top: "one"
  inner_product_param { num_output: 2 bias_term: false weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "two" type: "InnerProduct" bottom: "conv" top: "two" inner_product_param { num_output: 2 } }
layer { name: "sum" type: "Eltwise" bottom: "one" bottom: "two" top: "sum" }
layer { name: "flat" type: "Flatten" bottom: "label" top: "target" }
layer { name: "loss" type: "EuclideanLoss" bottom: "sum" bottom: "target" top: "loss" }
"""


def tiny_net(text: str = TEXT) -> net.Net:
    """Return the net of a text."""
    return net.build(net_source(text))


def net_source(text: str) -> net.NetSource:
    from caffestat.net.source import net_source as read

    return read(parse(text.encode(), "tiny.prototxt"))


def measurement(built: net.Net) -> Measurement:
    """Return made-up numbers, another one for every place: 1.… for tops, 2.… for params, 3.… and 4.… for diffs."""
    measured = Measurement(norms=Norms(10.5, 20.25, 3.125, 4.0625))
    for node in built.nodes:
        for top in range(len(node.tops)):
            measured.tops[node.index, top] = 1 + (10 * node.index + top) / 1000
        for index in range(len(node.params)):
            measured.params[node.index, index] = 2 + (10 * node.index + index) / 1000
            if node.param_propagate_down[index]:
                measured.param_diffs[node.index, index] = 4 + (10 * node.index + index) / 1000
        for index, needed in enumerate(node.bottom_need_backward):
            if needed:
                measured.bottom_diffs[node.index, index] = 3 + (10 * node.index + index) / 1000
    return measured


def tiny_report(measured: bool = True, text: str = TEXT) -> Report:
    """Return the report of the tiny net."""
    built = tiny_net(text)
    return build(from_net(built), measurement(built) if measured else None, source="tiny.prototxt", seed=7)
