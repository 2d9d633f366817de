"""A Caffe net as an ONNX model for others: values carry the names of blobs, params those of their layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.graph import Graph
from caffestat.graph.flow import resolved
from caffestat.lazy import np
from caffestat.net import Net, Node

from .feeds import DrawnFeed
from .from_net import from_net
from .gradients import differentiate
from .lowering import lower
from .program import Forward

if TYPE_CHECKING:
    import onnx

__all__ = ["to_onnx"]


def to_onnx(net: Net, values: Sequence[np.ndarray], backward: bool = False) -> onnx.ModelProto:
    """Return the net as a model of opset 22.

    values:   float32 arrays by index in `net.params`
    backward: compute the gradients too, those of the net's weighted losses

    Inputs are what data layers produce, named after their blobs, and what layers draw at each pass, such as a Dropout's
    mask, as `<layer>/<what>`. Params are `<layer>/<index>`. Outputs are the blobs that nobody reads and the losses,
    `<layer>/<index>/updated` for running statistics and, with `backward`, `grad/<layer>/<index>` for learnable params.
    A blob that layers write in place has one value per writer: `<blob>`, then `<blob>@<layer>`.

    Raises InputError when no output can be computed.
    """
    forward = lower(net)
    graph = forward.graph
    graph.outputs = list(dict.fromkeys(_outputs(net, forward)))
    if not graph.outputs:
        name = net.name or "the net"
        why = "its layers' types or shapes are not known"
        if staged := next((node for node in net.nodes if node.is_undecided), None):
            layer = f"layer {staged.name!r} ({staged.type})"
            why = f"the output of {layer} depends on the data, so the net is not a single graph"
        raise InputError(f"{name}: no output can be computed: {why}")
    drawn = _take_drawn(forward)
    names = dict(_names(net, forward))
    graph.outputs += list(graph.updates.values())
    if backward:
        names |= _append_gradients(net, forward)
    graph.infer()
    _rename(graph, names)
    arrays = {names.get(name, name): values[number] for number, name in forward.params.items()}
    return graph.to_onnx(arrays | drawn)


def _take_drawn(forward: Forward) -> dict[str, np.ndarray]:
    """Turn the inputs that hold what recurrent layers drew at set-up into params, and return their values."""
    feeds = [feed for feed in forward.feeds if isinstance(feed, DrawnFeed)]
    forward.feeds = [feed for feed in forward.feeds if feed not in feeds]
    drawn = {feed.names[0]: feed.values for feed in feeds}
    for name in drawn:
        forward.graph.params[name] = forward.graph.inputs.pop(name)
    return drawn


def _outputs(net: Net, forward: Forward) -> Iterator[str]:
    """Yield the values of the blobs that nobody reads, as their last writers leave them, and of the losses."""
    *_, (read, _) = resolved([*((node.bottoms, node.tops) for node in net.nodes), (net.outputs, ())])
    keys = list(read)
    keys += [(node.index, top) for node in net.nodes for top, weight in enumerate(node.loss_weights) if weight]
    return (forward.tops[key] for key in keys if key in forward.tops)


def _names(net: Net, forward: Forward) -> Iterator[tuple[str, str]]:
    """Yield values of the graph and the names that a reader of the model should see."""
    nodes, flow = forward.graph.nodes, forward.graph.flow()
    fed = {name: feed.row for feed in forward.feeds for name in feed.names}
    for node in net.nodes:
        drawn = (name for name, row in fed.items() if row == node.index)
        yield from ((name, f"{node.name}/{name.rpartition('/')[2]}") for name in drawn)
        for top, blob in enumerate(node.tops):
            value = forward.tops.get((node.index, top))
            if value is not None:
                name = _value_name(net, node, blob)
                yield value, name
                maker = flow.writer(value)
                if maker is not None and nodes[maker].info.renames and nodes[maker].inputs[0] in fed:
                    yield nodes[maker].inputs[0], name
    for value, updated in forward.graph.updates.items():
        yield updated, f"{_param_name(net, forward, value)}/updated"


def _value_name(net: Net, node: Node, blob: int) -> str:
    name = net.blobs[blob].name
    return f"{name}@{node.name}" if blob in node.bottoms else name


def _param_name(net: Net, forward: Forward, use: str) -> str:
    node, index = next(key for key, value in forward.uses.items() if value == use)
    return f"{net.nodes[node].name}/{index}"


def _append_gradients(net: Net, forward: Forward) -> dict[str, str]:
    """Append the backward half and its outputs, and return their names."""
    graph = forward.graph
    gradients = differentiate(from_net(net), forward)
    names = {}
    for number, value in sorted(gradients.owners.items()):
        if net.params[number].param.is_statistic:
            continue  # Caffe's backward pass leaves zeros there
        param = forward.params[number]
        grad = graph.emit("Identity", value) if value else _zeros(graph, param)
        graph.declare(grad, graph.shape(param))
        graph.outputs.append(grad)
        names[grad] = f"grad/{param}"
    return names


def _zeros(graph: Graph, like: str) -> str:
    return graph.emit("Expand", graph.constant(0), graph.ints(*graph.shape(like)))


def _rename(graph: Graph, names: Mapping[str, str]) -> None:
    """Give values other names; one of a pair that shall have the same name and is a copy of the other goes.

    A value that has such a name already and shall have none gets a number.
    """
    taken = set(names.values())
    final = dict(names)
    for name in [*graph.inputs, *graph.params, *graph.constants, *(n for node in graph.nodes for n in node.outputs)]:
        if name and name not in final:
            final[name] = name if name not in taken else graph.unique(f"{name}_")
    final[""] = ""
    for node in graph.nodes:
        node.inputs, node.outputs = (tuple(final[n] for n in values) for values in (node.inputs, node.outputs))
    graph.nodes = [node for node in graph.nodes if not node.info.renames or node.inputs != node.outputs]
    graph.outputs = list(dict.fromkeys(final[name] for name in graph.outputs))
    for table in (graph.inputs, graph.params, graph.constants, graph.specs):
        renamed = {final.get(name, name): value for name, value in table.items()}
        table.clear()
        table.update(renamed)  # type: ignore[arg-type]
