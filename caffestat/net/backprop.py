"""Which layers, bottoms and params take part in the backward pass. (net.cpp, Init)"""

from __future__ import annotations

from collections.abc import Iterator

from caffestat.errors import NetError

from .model import Net, Node

__all__ = ["mark_backward", "stopping"]


def mark_backward(net: Net, force: bool) -> None:
    """Set every backward flag of the net; `force` is its `force_backward`."""
    for node in net.nodes:
        _mark_node(net, node)
    _drop_useless(net)
    if force:
        for node in net.nodes:
            _force(net, node)


def stopping(net: Net) -> Iterator[NetError]:
    """Yield an error for each layer in whose backward pass Caffe stops."""
    for node in net.nodes:
        if node.need_backward and node.layer.stops_backward(node.bottom_need_backward):
            what = "Caffe stops in its backward pass, which has no gradient of these bottoms"
            yield node.layer.error(f"{what}: leave it out of the train net, or let no loss depend on its tops")


def _mark_node(net: Net, node: Node) -> None:
    """A layer needs backward when a bottom does or a param learns; then its tops need it too."""
    asked = list(node.layer.proto.propagate_down)
    inherited = [net.blobs[blob].need_backward for blob in node.bottoms]
    node.bottom_need_backward = asked or inherited
    specs = node.layer.proto.param
    # as written in the file: Caffe freezes BatchNorm's statistics only after it has looked here
    node.param_propagate_down = [index >= len(specs) or specs[index].lr_mult != 0 for index in range(len(node.params))]
    node.need_backward = any(inherited) or any(node.param_propagate_down)
    if node.need_backward:
        for blob in node.tops:
            net.blobs[blob].need_backward = True


def _drop_useless(net: Net) -> None:
    """Take back the flags of what no loss depends on, or whose readers all skip the backward pass."""
    under_loss: set[str] = set()
    skipped: set[str] = set()
    for node in reversed(net.nodes):
        tops = [net.blobs[blob].name for blob in node.tops]
        contributes = any(node.loss_weights) or not under_loss.isdisjoint(tops)
        if node.need_backward and skipped.issuperset(tops):
            node.need_backward = False
            node.bottom_need_backward = [False] * len(node.bottoms)
        if not contributes:
            node.need_backward = False
            node.bottom_need_backward = [False] * len(node.bottoms)
        for blob, needed in zip(node.bottoms, node.bottom_need_backward, strict=True):
            name = net.blobs[blob].name
            if contributes:
                under_loss.add(name)
            if not needed:
                skipped.add(name)


def _force(net: Net, node: Node) -> None:
    node.need_backward = True
    node.param_propagate_down = [True] * len(node.params)
    for index, blob in enumerate(node.bottoms):
        needed = node.bottom_need_backward[index] or node.layer.allow_force_backward(index)
        node.bottom_need_backward[index] = needed
        net.blobs[blob].need_backward = net.blobs[blob].need_backward or needed
