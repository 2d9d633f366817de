"""What AutoCrop cuts follows from the layers between its bottoms and where both come from."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.analysis import Runner, draw_feeds
from caffestat.errors import NetError
from caffestat.fillers import Stream
from caffestat.net import Net, build, draw_params
from caffestat.net.source import net_source
from caffestat.program import from_net
from caffestat.prototext import parse

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 dim: 20 dim: 23 } } }\n'
CROP = 'layer { name: "crop" type: "AutoCrop" bottom: "%s" bottom: "%s" top: "y" }\n'


def layer(kind: str, name: str, bottom: str, fields: str = "") -> str:
    return f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{name}" {fields} }}\n'


def conv(name: str, bottom: str, window: str, kind: str = "Convolution") -> str:
    filler = 'weight_filler { type: "constant" value: 1 }'
    return layer(kind, name, bottom, f"convolution_param {{ num_output: 2 {window} {filler} }}")


def built(*layers: str) -> Net:
    return build(net_source(parse((INPUT + "".join(layers)).encode(), "net.prototxt")))


POOL = "pooling_param { kernel_size: 2 stride: 2 }"
DOWN = conv("a", "x", "kernel_size: 3 pad: 35") + layer("Pooling", "p", "a", POOL)
UP, EVEN = "kernel_size: 4 stride: 2", "kernel_size: 2 stride: 2"
CUT = 'layer { name: "k" type: "Crop" bottom: "a" bottom: "x" top: "k" crop_param { axis: 2 offset: 2 offset: 3 } }\n'


@pytest.mark.parametrize(
    ("layers", "ends", "cut"),
    [
        # FCN's: a pad of 35 moves by 34, and the deconvolution of an even kernel puts it back between the pixels
        (DOWN + conv("u", "p", UP, "Deconvolution"), ("u", "x"), (35, 35)),
        (
            DOWN + layer("ReLU", "r", "p") + conv("u", "r", EVEN, "Deconvolution"),
            ("u", "x"),
            (34, 34),
        ),
        (conv("a", "x", "kernel_size: 5 pad: 4 pad: 3"), ("a", "x"), (2, 1)),
        (conv("a", "x", "kernel_size: 3 pad: 6 dilation: 2"), ("a", "x"), (4, 4)),
        (
            conv("a", "x", "kernel_size: 3 pad: 3")
            + layer("BatchNorm", "b", "a")
            + layer("Concat", "c", "b")
            + conv("d", "x", "kernel_size: 3 pad: 1"),
            ("c", "d"),
            (2, 2),
        ),
        (
            conv("a", "x", "kernel_size: 5 pad: 7")
            + CUT
            + conv("d", "k", "kernel_size: 1 pad: 2")
            + conv("e", "x", "kernel_size: 5"),
            ("d", "e"),
            (7, 6),
        ),
    ],
)
def test_where_it_begins(layers: str, ends: tuple[str, str], cut: tuple[int, int]) -> None:
    net = built(layers, CROP % ends)
    node = net.nodes[-1]
    assert node.layer.cut_before == cut
    bottoms = [shape or () for shape in node.bottom_shapes]
    assert node.top_shapes == ((*bottoms[0][:2], *bottoms[1][2:]),)


def test_in_place_layers_move_nothing() -> None:
    noise = 'layer { name: "n" type: "Python" bottom: "a" top: "a" python_param { module: "m" layer: "N" } }\n'
    net = built(conv("a", "x", "kernel_size: 3 pad: 3"), noise.replace("Python", "Dropout"), CROP % ("a", "x"))
    assert net.nodes[-1].layer.cut_before == (2, 2)


def test_crops_meet_where_the_first_begins() -> None:
    crops = CROP % ("a", "x") + (CROP % ("b", "x")).replace('"y"', '"z"').replace('"crop"', '"second"')
    net = built(conv("a", "x", "kernel_size: 3 pad: 3"), crops.replace('bottom: "b"', 'bottom: "y"'))
    assert [node.layer.cut_before for node in net.nodes if node.type == "AutoCrop"] == [(2, 2), (0, 0)]


def test_the_old_name_and_the_values() -> None:
    text = """input: "x" input_dim: 1 input_dim: 2 input_dim: 9 input_dim: 7
        layers { name: "p" type: CONVOLUTION bottom: "x" top: "p" convolution_param {
          num_output: 2 kernel_size: 1 pad: 3 bias_term: false weight_filler { value: 1 } } }
        layers { name: "c" type: CROP bottom: "p" bottom: "x" top: "y" }"""
    net = build(net_source(parse(text.encode(), "net.prototxt")))
    assert net.nodes[-1].layer.cut_before == (3, 3)
    x = np.random.default_rng(1).normal(size=(1, 2, 9, 7)).astype(np.float32)
    runner = Runner(from_net(net), draw_params(net, Stream(1)), forward_only=True, fetch=True)
    runner.run(draw_feeds(runner, Stream(1), np.random.default_rng(0), {"x": x}))
    top = runner.tensors["top", len(net.nodes) - 1, 0]
    np.testing.assert_allclose(top, np.repeat(x.sum(1, keepdims=True), 2, 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("layers", "ends", "message"),
    [
        (conv("a", "x", "kernel_size: 3 pad: 3 stride: 2"), ("a", "x"), "scaled by 0.5 and bottom 1 by 1"),
        (conv("a", "x", "kernel_size: 4 pad: 3"), ("a", "x"), "1.5 pixels to cut"),
        (conv("a", "x", "kernel_size: 3"), ("a", "x"), "-1 pixels to cut"),
        (INPUT.replace('"x"', '"z"'), ("x", "z"), "come from different data"),
        (layer("Flatten", "a", "x"), ("x", "a"), "the alignment of layer 'a' .Flatten. with its bottom is unknown"),
    ],
)
def test_what_cannot_be_aligned(layers: str, ends: tuple[str, str], message: str) -> None:
    with pytest.raises(NetError, match=message):
        built(layers, CROP % ends)
