"""A Caffe net as a Program. Imports neither onnx nor what predictions take before the graph is asked for."""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from caffestat.errors import CaffestatError
from caffestat.fillers import Stream, caffe_fans
from caffestat.float32 import plain
from caffestat.net import Net, NetParam, Node, draw_params, with_assumed_filler
from caffestat.net.aliasing import adds_up
from caffestat.ops import Nonlinearity
from caffestat.options import ValueOptions
from caffestat.schema import caffe_pb2

from .program import Alone, Forward, Program, Row, RowParam

if TYPE_CHECKING:
    import numpy as np

    from caffestat.engine import Device

    from .feeds import Feeds

__all__ = ["NetProgram", "from_net"]


@dataclass
class NetProgram(Program):
    """A Caffe net.

    options: what its params hold
    """

    net: Net = field(kw_only=True)
    options: ValueOptions = field(kw_only=True)

    is_caffe = True

    def forward(self, carries: bool = False, strict: bool = False) -> Forward:
        """Return the forward graph of the layers that can be computed. See `Program.forward`."""
        from .lowering import lower

        return lower(self.net, carries, strict=strict)

    def forward_of_shard(self, count: int) -> Forward | None:
        """Return the forward graph of a shard. See `Program.forward_of_shard`."""
        from caffestat.net.shards import shard

        from .feeds import LayerFeed
        from .lowering import lower

        part = shard(self.net, count)
        if part is None:
            return None
        forward = lower(part, shards=count)
        rows = {feed.names: feed.row for feed in forward.feeds if feed.row is not None}
        forward.feeds = [LayerFeed(self.net, self.net.nodes[row], names) for names, row in rows.items()]
        return forward

    def values(self, stream: Stream, notes: MutableSequence[str], taken: set[int] | None = None) -> list[np.ndarray]:
        """Draw the params as Caffe does, then copy trained weights. See `Program.values`."""
        from caffestat.net.weights import copy_weights

        values = draw_params(self.net, stream, self.options.assume_filler)
        notes.extend(copy_weights(self.net, values, self.options.weights, taken))
        return values

    def settle(
        self, values: Sequence[np.ndarray], device: Device, feeds: Feeds, notes: MutableSequence[str] | None = None
    ) -> Program:
        """Compute how many items its layers select. See `Program.settle`."""
        from .settle import settle

        net = settle(self.net, values, device, feeds, notes)
        return self if net is self.net else from_net(net, self.options)

    @property
    def is_trained(self) -> bool:
        """Whether there are trained weights. See `Program.is_trained`."""
        return bool(self.options.weights)

    def synthetic(self, given: Collection[str]) -> list[str]:
        """Return a line about each layer whose data is not available. See `Program.synthetic`."""
        return [
            f"{node.place}: layer {node.name!r} is given synthetic data: {node.layer.why_synthetic}"
            for node in self.net.nodes
            if node.layer.why_synthetic and any(self.net.blobs[blob].name not in given for blob in node.tops)
        ]

    def alone(self, row: Row, shape: tuple[int, ...], values: Sequence[np.ndarray]) -> Alone | None:
        """Lower a layer that keeps the shape. See `Program.alone`."""
        from caffestat.graph import Graph

        node = self.net.nodes[row.index]
        if not node.is_known or node.bottom_shapes[0] != node.top_shapes[0]:
            return None
        graph, arrays = Graph(), [values[self.owner(number)] for number in row.params]
        x = graph.input("x", shape)
        params = {graph.param(f"p{index}", array.shape): array for index, array in enumerate(arrays)}
        try:
            (y,) = node.layer.lower(graph, [x], list(params))
        except CaffestatError:
            return None
        return Alone(graph, x, y, params)

    def at(self, row: int | None, error: CaffestatError) -> CaffestatError:
        """Return an error with the place of the layer that it is about. See `Program.at`."""
        return error if row is None else self.net.nodes[row].layer.error(str(error))


def from_net(net: Net, options: ValueOptions | None = None) -> NetProgram:
    """Return the program of a net."""
    options = options or ValueOptions()
    return NetProgram(
        name=net.name,
        phase=caffe_pb2.Phase.Name(net.phase),
        rows=list(_rows(net)),
        params=[_param(net, entry, options.assume_filler) for entry in net.params],
        findings=net.findings,
        net=net,
        options=options,
    )


def _rows(net: Net) -> Iterator[Row]:
    for node in net.nodes:
        yield Row(
            index=node.index,
            name=node.name,
            type=node.type,
            place=node.place,
            bottoms=tuple(net.blobs[blob].name for blob in node.bottoms),
            reads=tuple(net.flow.reads(node.index)),
            tops=tuple(net.blobs[blob].name for blob in node.tops),
            shapes=tuple(node.top_shapes),
            memory=node.tops,
            params=node.params,
            diffs=tuple(i for i, needed in enumerate(node.bottom_need_backward) if needed and node.need_backward),
            macs=_macs(node),
            need_backward=node.need_backward,
            passes=node.layer.passes(),
            activation=_activation(node),
            is_data=not node.bottoms,
            inserted=node.layer.is_inserted,
            last_line=node.layer.last_line,
        )


def _macs(node: Node) -> int | None:
    if not node.has_shapes:
        return None
    found = node.layer.macs([shape for shape in node.bottom_shapes if shape is not None])
    try:
        return operator.index(found)
    except TypeError:
        raise _misstated(node, "macs", found, "an int") from None


def _activation(node: Node) -> Nonlinearity | None:
    found = node.layer.nonlinearity()
    if found is not None and not isinstance(found, Nonlinearity):
        raise _misstated(node, "nonlinearity", found, "a Nonlinearity or None")
    return found


def _misstated(node: Node, method: str, found: object, expected: str) -> CaffestatError:
    cls = type(node.layer).__qualname__
    return node.layer.error(f"`{method}` of its class {cls} returns {found!r}; expected {expected}")


def _param(net: Net, entry: NetParam, assume_filler: str | None) -> RowParam:
    node, param = net.nodes[entry.node], with_assumed_filler(entry.param, assume_filler)
    return RowParam(
        row=node.index,
        index=entry.index,
        name=entry.display_name,
        role=param.role,
        shape=param.shape,
        fan_in=param.fan_in,
        fan_out=param.fan_out,
        caffe_fans=caffe_fans(param.shape) if param.shape else None,
        filler=param.filler,
        origin="file" if param.written else "default" if param is entry.param else "option",
        lr_mult=plain(entry.lr_mult),
        decay_mult=plain(entry.decay_mult),
        owner=entry.owner,
        is_statistic=param.is_statistic,
        gets_diff=node.need_backward and node.param_propagate_down[entry.index],
        adds_up=adds_up(node, entry.index),
    )
