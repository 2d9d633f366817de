"""Settings that the runtime refuses, or takes otherwise than ONNX states, expressed by those that both agree on."""

from __future__ import annotations

from caffestat.ops.recurrent import INITIAL

from .graph import Node
from .upgrade import AdapterContext
from .writer import Writer, definition

_WITH_BATCH = (0, INITIAL, INITIAL + 1)  # X, and the states at first


@definition("GRU", "LSTM", "RNN", fits=lambda context, node: bool(node.get("layout")), domain="")
def _batch_first(w: Writer, node: Node, y: str) -> None:
    """With layout 1 the batch is the first axis of X, Y and all states; the runtime has no kernel for it."""
    inputs = enumerate(node.inputs)
    swapped = [w.transpose(name, 1, 0, 2) if name and position in _WITH_BATCH else name for position, name in inputs]
    made = [w.context.unique(name or f"{node.op}/unused") for name in node.outputs]
    settings = {name: value for name, value in node.attributes.items() if name != "layout"}
    w.nodes.append(Node(node.op, tuple(swapped), tuple(made), settings))
    for position, (name, output) in enumerate(zip(made, node.outputs, strict=True)):
        if output:
            w.transpose(name, *((1, 0, 2) if position else (2, 0, 1, 3)), to=output)


def _pads_itself(context: AdapterContext, node: Node) -> bool:
    is_dilated = any(dilation != 1 for dilation in node.get("dilations") or ())
    return is_dilated and node.get("auto_pad", "").startswith("SAME") and context.spec(node.inputs[0]) is not None


@definition("AveragePool", "LpPool", "MaxPool", fits=_pads_itself, domain="")
def _padded(w: Writer, node: Node, y: str) -> None:
    """The runtime pads a dilated window as if it was not dilated. (onnxruntime, pool_attributes.h)"""
    kernel = node.get("kernel_shape")
    axes = zip(w.shape(0)[2:], kernel, node.get("strides") or [1] * len(kernel), strict=True)
    totals = [max((-(-size // stride) - 1) * stride + k - size, 0) for size, k, stride in axes]
    before = [(total + (node.get("auto_pad") == "SAME_LOWER")) // 2 for total in totals]
    pads = [*before, *(total - first for total, first in zip(totals, before, strict=True))]
    settings = {**node.attributes, "auto_pad": "NOTSET", "pads": pads}
    w.nodes.append(Node(node.op, node.inputs, node.outputs, settings))
