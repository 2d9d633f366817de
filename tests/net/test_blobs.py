"""Shapes that Caffe's blobs cannot have."""

from __future__ import annotations

import pytest

from caffestat.errors import NetError
from caffestat.net import build
from caffestat.net.source import net_source
from caffestat.prototext import parse


def built(layer: str, *sizes: int) -> None:
    dims = " ".join(f"dim: {size}" for size in sizes)
    text = f'layer {{ name: "i" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }}\n{layer}'
    build(net_source(parse(text.encode(), "net")))


@pytest.mark.parametrize("sizes", [(2**31 - 1,), (2**30, 1, 1), (1,) * 32, ()])
def test_the_largest_blobs_are_taken(sizes: tuple[int, ...]) -> None:
    built("", *sizes)


@pytest.mark.parametrize("sizes", [(2**31,), (2**16, 2**15), (2**20, 2**20, 2**20), (1,) * 33])
def test_larger_blobs_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(NetError, match=r"net:1:1: layer .* top 0 has (33 axes; expected at most 32|shape )"):
        built("", *sizes)


def test_params_are_blobs() -> None:
    dense = 'layer { name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param { num_output: %d } }'
    built(dense % 2**15, 1, 2**15)
    with pytest.raises(NetError, match=r"layer 'f' \(InnerProduct\): param 0 has shape 65536x32768; expected"):
        built(dense % 2**16, 1, 2**15)
