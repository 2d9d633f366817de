"""Nodes of older opsets converted to opset 22: one adapter per op and version whose inputs or semantics changed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from caffestat.errors import InputError

from .graph import OPSET, Node, Spec

__all__ = ["OLDEST", "AdapterContext", "upgrade"]

OLDEST = 7  # before it, ops had other rules for broadcasting


class AdapterContext(Protocol):
    """Gives adapters new values, and what is known of the old ones."""

    def constant(self, value: ArrayLike, dtype: Any) -> str:
        """Return the name of a new constant."""

    def unique(self, hint: str) -> str:
        """Return a name that no value has."""

    def spec(self, value: str) -> Spec | None:
        """Return shape and type of a value, where they are known."""

    def known(self, value: str) -> np.ndarray | None:
        """Return a value itself, where it is known."""


Adapter = Callable[[AdapterContext, Node], "Iterable[Node]"]

_ADAPTERS: dict[tuple[str, int], Adapter] = {}


def _adapter(version: int, *ops: str) -> Callable[[Adapter], Adapter]:
    """Register what takes a node of these ops from the version before to this one."""

    def register(adapter: Adapter) -> Adapter:
        for op in ops:
            if (op, version) in _ADAPTERS:
                raise ValueError(f"op {op!r} already has an adapter to opset {version}")
            _ADAPTERS[op, version] = adapter
        return adapter

    return register


def upgrade(context: AdapterContext, node: Node, opset: int) -> list[Node]:
    """Return the node of an older opset as nodes of opset 22, which compute the same values.

    Raises InputError for the few forms that newer ops cannot express.
    """
    nodes = [node]
    for version in range(opset + 1, OPSET + 1):
        nodes = [new for old in nodes for new in _step(context, old, version)]
    return nodes


def _step(context: AdapterContext, node: Node, version: int) -> Iterable[Node]:
    adapter = None if node.domain else _ADAPTERS.get((node.op, version))
    return adapter(context, node) if adapter else (node,)


def _without(node: Node, *names: str) -> dict[str, Any]:
    return {name: value for name, value in node.attributes.items() if name not in names}


def _refuse(node: Node, what: str) -> InputError:
    return InputError(f"{node.op} (value {node.outputs[0]}): {what}; export the model with opset {OPSET}")


def _to_inputs(node: Node, *attributes: str, inputs: Sequence[str]) -> list[Node]:
    """Return the node with inputs in the place of attributes; absent ones at the end are left out."""
    given = [*node.inputs, *inputs]
    while given and not given[-1]:
        given.pop()
    return [replace(node, inputs=tuple(given), attributes=_without(node, *attributes))]


def _ints(context: AdapterContext, node: Node, attribute: str) -> str:
    value = node.get(attribute)
    return "" if value is None else context.constant(np.atleast_1d(value), np.int64)


def _number(context: AdapterContext, node: Node, attribute: str) -> str:
    """Return a constant of no axes, of the type of the node's first input; "" for an absent attribute."""
    value = node.get(attribute)
    spec = context.spec(node.inputs[0])
    return "" if value is None else context.constant(value, spec.dtype if spec else np.float32)


@_adapter(9, "BatchNormalization")
def _batch_normalization_9(context: AdapterContext, node: Node) -> list[Node]:
    if node.get("spatial", 1) != 1:
        raise _refuse(node, "spatial=0 normalizes each position separately, which opset 9 removed")
    return [replace(node, attributes=_without(node, "spatial"))]


@_adapter(9, "Upsample")
def _upsample_9(context: AdapterContext, node: Node) -> list[Node]:
    return _to_inputs(node, "scales", inputs=[context.constant(node.get("scales"), np.float32)])


@_adapter(10, "Upsample")
def _upsample_10(context: AdapterContext, node: Node) -> list[Node]:
    return [replace(node, op="Resize")]


@_adapter(10, "Slice")
def _slice_10(context: AdapterContext, node: Node) -> list[Node]:
    names = ("starts", "ends", "axes")
    return _to_inputs(node, *names, inputs=[_ints(context, node, name) for name in names])


@_adapter(10, "TopK")
def _top_k_10(context: AdapterContext, node: Node) -> list[Node]:
    return _to_inputs(node, "k", inputs=[_ints(context, node, "k")])


@_adapter(11, "Clip")
def _clip_11(context: AdapterContext, node: Node) -> list[Node]:
    return _to_inputs(node, "min", "max", inputs=[_number(context, node, "min"), _number(context, node, "max")])


@_adapter(11, "Pad")
def _pad_11(context: AdapterContext, node: Node) -> list[Node]:
    return _to_inputs(node, "pads", "value", inputs=[_ints(context, node, "pads"), _number(context, node, "value")])


@_adapter(11, "Resize")
def _resize_11(context: AdapterContext, node: Node) -> list[Node]:
    """Of opset 10 the runtime takes the element before a position along axes that grow, the one after along others.

    Source: onnxruntime/core/providers/cpu/tensor/upsamplebase.h, NearestMode::SIMPLE.
    """
    x, scales = node.inputs
    attributes = {**node.attributes, "mode": _new_mode(node, "nearest"), "coordinate_transformation_mode": "asymmetric"}
    after, before = ({**attributes, "nearest_mode": mode} for mode in ("ceil", "floor"))
    known = context.known(scales)
    if known is None or not (known < 1).any():
        return [replace(node, inputs=(x, "", scales), attributes=before)]
    if not (known > 1).any():
        return [replace(node, inputs=(x, "", scales), attributes=after)]
    shrunk = context.unique(f"{node.outputs[0]}/shrunk")
    parts = [context.constant(part, np.float32) for part in (np.minimum(known, 1), np.maximum(known, 1))]
    return [
        replace(node, inputs=(x, "", parts[0]), outputs=(shrunk,), attributes=after),
        replace(node, inputs=(shrunk, "", parts[1]), attributes=before),
    ]


@_adapter(11, "Scatter")
def _scatter_11(context: AdapterContext, node: Node) -> list[Node]:
    return [replace(node, op="ScatterElements")]


@_adapter(9, "Scan")
def _scan_9(context: AdapterContext, node: Node) -> list[Node]:
    raise _refuse(node, "the Scan of opset 8, which has a batch axis of its own, is not supported")


@_adapter(12, "Dropout")
def _dropout_12(context: AdapterContext, node: Node) -> list[Node]:
    return _to_inputs(node, "ratio", inputs=[_number(context, node, "ratio")])


@_adapter(13, "Softmax", "LogSoftmax", "Hardmax")
def _softmax_13(context: AdapterContext, node: Node) -> list[Node]:
    """Before opset 13 all axes from `axis` on were one."""
    x, axis = node.inputs[0], node.get("axis", 1)
    spec = context.spec(x)
    if axis == -1 or (spec and axis % len(spec.shape) == len(spec.shape) - 1):
        return [replace(node, attributes={"axis": -1})]
    flat, soft, shape = (context.unique(f"{node.outputs[0]}/{part}") for part in ("flat", node.op, "shape"))
    return [
        Node("Shape", (x,), (shape,)),
        Node("Flatten", (x,), (flat,), {"axis": axis}),
        Node(node.op, (flat,), (soft,), {"axis": -1}),
        Node("Reshape", (soft, shape), node.outputs),
    ]


def _axes_to_input(context: AdapterContext, node: Node) -> list[Node]:
    return _to_inputs(node, "axes", inputs=[_ints(context, node, "axes")])


_adapter(13, "ReduceSum", "Squeeze", "Unsqueeze")(_axes_to_input)
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_adapter(18, *(f"Reduce{kind}" for kind in _REDUCTIONS))(_axes_to_input)


@_adapter(13, "Split")
def _split_13(context: AdapterContext, node: Node) -> list[Node]:
    return _to_inputs(node, "split", inputs=[_ints(context, node, "split")])


@_adapter(18, "Split")
def _split_18(context: AdapterContext, node: Node) -> list[Node]:
    if len(node.inputs) > 1 and node.inputs[1]:
        return [node]
    return [replace(node, attributes={**node.attributes, "num_outputs": len(node.outputs)})]


@_adapter(14, "BatchNormalization")
def _batch_normalization_14(context: AdapterContext, node: Node) -> list[Node]:
    """Before opset 14, a node with further outputs was in training; the saved statistics have no successor."""
    if not any(node.outputs[1:]):
        return [replace(node, outputs=node.outputs[:1])]
    return [replace(node, outputs=node.outputs[:3], attributes={**node.attributes, "training_mode": 1})]


@_adapter(16, "RoiAlign")
def _roi_align_16(context: AdapterContext, node: Node) -> list[Node]:
    mode = {"coordinate_transformation_mode": "output_half_pixel"}
    return [replace(node, attributes={**node.attributes, **mode})]


@_adapter(20, "GridSample")
def _grid_sample_20(context: AdapterContext, node: Node) -> list[Node]:
    return [replace(node, attributes={**node.attributes, "mode": _new_mode(node, "bilinear")})]


def _new_mode(node: Node, default: str) -> str:
    """Return the present name of a node's kind of interpolation."""
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = str(node.get("mode", default))
    return names.get(mode, mode)


@_adapter(20, "DFT")
def _dft_20(context: AdapterContext, node: Node) -> list[Node]:
    length = node.inputs[1] if len(node.inputs) > 1 else ""
    axis = context.constant(node.get("axis", 1), np.int64)
    return [replace(node, inputs=(node.inputs[0], length, axis), attributes=_without(node, "axis"))]


@_adapter(21, "GroupNormalization")
def _group_normalization_21(context: AdapterContext, node: Node) -> list[Node]:
    """Before opset 21, scale and bias had one number per group."""
    spec = context.spec(node.inputs[0])
    if spec is None:
        raise _refuse(node, "the number of channels is not known")
    groups, channels = node.get("num_groups"), spec.shape[1]
    nodes, inputs = [], [node.inputs[0]]
    for value in node.inputs[1:]:
        column, wide, flat = (context.unique(f"{value}/{part}") for part in ("column", "wide", "channels"))
        nodes += [
            Node("Reshape", (value, context.constant([groups, 1], np.int64)), (column,)),
            Node("Expand", (column, context.constant([groups, channels // groups], np.int64)), (wide,)),
            Node("Reshape", (wide, context.constant([channels], np.int64)), (flat,)),
        ]
        inputs.append(flat)
    return [*nodes, replace(node, inputs=tuple(inputs))]
