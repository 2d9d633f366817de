"""The net inside of a recurrent layer, built as Caffe builds it: splits, shared params and backward flags included."""

from __future__ import annotations

from caffestat.layers import Layer, Unrolled
from caffestat.net import TRAIN, Net, NetSource, State, build
from caffestat.net.upgrade import Entry

__all__ = ["build_unrolled"]


def build_unrolled(layer: Layer, unrolled: Unrolled) -> Net:
    """Return the inner net, its layers at the place of the recurrent one; Caffe builds it in TRAIN whatever the phase.

    Source: recurrent_layer.cpp, LayerSetUp.
    """
    entries = tuple(Entry(proto, None, layer.place) for proto in unrolled.net.layer)
    return build(NetSource(layer.place.file, unrolled.net, entries), State(TRAIN, 0, ()), data="synthetic")
