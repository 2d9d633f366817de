"""The net inside of a recurrent layer, built as Caffe builds it: splits, shared params and backward flags included."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from caffestat.layers import Layer, Unrolled
from caffestat.net import TRAIN, Net, NetSource, State, build
from caffestat.net.upgrade import Entry

__all__ = ["build_unrolled", "part_timesteps"]


def build_unrolled(layer: Layer, unrolled: Unrolled) -> Net:
    """Return the inner net, its layers at the place of the recurrent one; Caffe builds it in TRAIN whatever the phase.

    Source: recurrent_layer.cpp, LayerSetUp.
    """
    entries = tuple(Entry(proto, None, layer.place) for proto in unrolled.net.layer)
    return build(NetSource(layer.place.file, unrolled.net, entries), State(TRAIN, 0, ()), data="synthetic")


def part_timesteps(net: Net, indices: Iterable[int]) -> dict[int, int]:
    """Let all timesteps but the first share params of their own, in an inner net; return their numbers and indices.

    indices: of the params of the layer around that it shares with others. In TRAIN, Caffe points the first timestep to
    the owner's memory, and the others stay with what the layer drew. (net.cpp, ShareWeights; recurrent_layer.cpp,
    Forward)
    """
    owners = [number for number, param in enumerate(net.params) if param.owner is None]
    parted = {}
    for index in indices:
        later = [number for number, param in enumerate(net.params) if param.owner == owners[index]]
        for number in later:
            net.params[number] = replace(net.params[number], owner=None if number == later[0] else later[0])
        parted.update(dict.fromkeys(later[:1], index))
    return parted
