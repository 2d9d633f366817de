"""Shapes that Caffe's blobs cannot have."""

from __future__ import annotations

import pytest

from caffestat.errors import NetError
from caffestat.fillers import Stream
from caffestat.net import build, draw_params
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


@pytest.mark.parametrize(
    ("blobs", "message"),
    [
        ("blobs { }", r"expected a blob for each of its params \(2\) or none, found 1"),
        ("blobs { shape { dim: 4 dim: 3 } } blobs { }", r"one of shape \(4, 3\) has shape \(4, 3\) and 0 values"),
        ("blobs { shape { dim: 2 } data: [1, 2] } blobs { }", r"one of shape \(4, 3\) has shape \(2,\) and 2 values"),
    ],
)
def test_blobs_of_the_net_itself_must_fit(blobs: str, message: str) -> None:
    text = f"""layer {{ name: "i" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 }} }} }}
layer {{ name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param {{ num_output: 4 }} {blobs} }}"""
    net = build(net_source(parse(text.encode(), "net")))
    with pytest.raises(NetError, match=rf"net:2:1: layer 'f' \(InnerProduct\): .*{message}"):
        draw_params(net, Stream(1))
