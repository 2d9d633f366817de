"""Every layer type with bottoms of every number and rank: it builds, or says why not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

import pytest

from caffestat.errors import NetError
from caffestat.layers import Shape, layer_types
from caffestat.net import build
from caffestat.net.build import UnknownLayer
from caffestat.net.source import NetSource, net_source
from caffestat.prototext import parse

SIZES = (3, 4, 5, 2, 6)
# what some types cannot do without
NEEDED = """inner_product_param { num_output: 2 } convolution_param { num_output: 2 kernel_size: 1 }
  pooling_param { kernel_size: 2 } embed_param { num_output: 2 input_dim: 3 } recurrent_param { num_output: 3 }
  reshape_param { shape { dim: -1 } } tile_param { tiles: 2 } spp_param { pyramid_height: 1 }"""


def text(kind: str, bottoms: int, tops: int, params: str) -> str:
    """Return a net with one layer of this type."""
    names = " ".join(f'top: "b{index}"' for index in range(bottoms))
    source = f'layer {{ name: "i" type: "Input" {names} input_param {{ shape {{ }} }} }}\n' if bottoms else ""
    ends = " ".join(f'bottom: "b{index}"' for index in range(bottoms))
    ends += "".join(f' top: "t{index}"' for index in range(tops))
    module, is_code, name = kind.rpartition(".")
    code = f'module: "{module}" layer: "{name}" param_str: "num_classes: 3, feat_stride: 16"'
    named = f'"Python" python_param {{ {code} }}' if is_code else f'"{kind}"'
    return f'{source}layer {{ name: "x" type: {named} {ends} {params} }}\n'


def shapes_tried(bottoms: int) -> list[tuple[int, int]]:
    """Return the ranks of the first bottom and of the others."""
    ranks = range(len(SIZES) + 1) if bottoms else range(1)
    return list(itertools.product(ranks, range(3) if bottoms > 1 else range(1)))


@pytest.mark.parametrize("kind", layer_types())
def test_it_builds_or_says_why_not(kind: str) -> None:
    ends = ((0, NEEDED), (1, NEEDED), (2, NEEDED), (1, ""))
    if "." in kind:  # Python code makes several tops
        ends = tuple((tops, "") for tops in range(8))
    for bottoms, (tops, params) in itertools.product(range(5), ends):
        source = net_source(parse(text(kind, bottoms, tops, params).encode(), "net"))
        for rank, other in shapes_tried(bottoms):
            shapes = {f"b{index}": SIZES[: other if index else rank] for index in range(bottoms)}
            if is_refused_unseen(source, shapes):
                break


def is_refused_unseen(source: NetSource, shapes: Mapping[str, Shape]) -> bool:
    """Build a net; tell whether its last layer was refused, or is unknown, before anything looked at ranks."""
    try:
        layer = build(source, shapes=shapes).nodes[-1].layer
    except NetError as error:
        return re.search("blobs?, found", error.message) is not None
    return isinstance(layer, UnknownLayer) and layer.failed is None
