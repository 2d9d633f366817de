"""Shape errors name the file's blobs and the layers at which the sizes parted."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat.errors import NetError
from caffestat.net import build, load
from caffestat.net.source import NetSource

DATA = 'layer { name: "d" type: "Input" top: "x" input_param { shape { dim: 2 dim: 4 dim: 26 dim: 24 } } }\n'
CONV = 'layer { name: "cv" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 %s } }\n'
POOL = 'layer { name: "mp" type: "Pooling" bottom: "x" top: "p" pooling_param { kernel_size: 3 stride: 2 %s } }\n'


def message(folder: Path, text: str) -> str:
    path = folder / "net.prototxt"
    path.write_text(DATA + text)
    source = load(str(path))
    assert isinstance(source, NetSource)
    with pytest.raises(NetError) as caught:
        build(source)
    return caught.value.message


@pytest.mark.parametrize("kind", ["Concat", "Eltwise"])
def test_rounding_parts_the_sizes(tmp_path: Path, kind: str) -> None:
    more = 'layer { name: "r" type: "ReLU" bottom: "p" top: "r" }\n'
    join = f'layer {{ name: "j" type: "{kind}" bottom: "p" bottom: "c" top: "j" }}'
    found = message(tmp_path, CONV % "kernel_size: 3 stride: 2" + POOL % "" + more + join)
    assert "bottom 1 ('c')" in found
    assert "split" not in found
    assert "layer 'mp' at" in found
    assert "makes 13x12 of 26x24 (rounds up)" in found
    assert "layer 'cv' at" in found
    assert found.endswith("12x11 (rounds down)")


def test_a_layer_on_one_way_only(tmp_path: Path) -> None:
    join = 'layer { name: "j" type: "Eltwise" bottom: "p" bottom: "x" top: "j" }'
    found = message(tmp_path, POOL % "" + join)
    assert "bottom 1 ('x')" in found
    assert "layer 'mp' at" in found
    assert found.endswith("makes 13x12 of 26x24 on one way only")


def test_sizes_that_fit_are_not_explained(tmp_path: Path) -> None:
    same = CONV % "kernel_size: 3 stride: 2 pad: 1" + POOL % ""
    join = 'layer { name: "j" type: "Eltwise" bottom: "p" bottom: "c" top: "j" eltwise_param { coeff: 1 } }'
    assert "part" not in message(tmp_path, same + join)


def test_bottoms_that_differ_by_design_are_not_explained(tmp_path: Path) -> None:
    boxes = 'layer { name: "b" type: "PriorBox" bottom: "p" bottom: "x" top: "b" prior_box_param { min_size: -1 } }'
    found = message(tmp_path, POOL % "" + boxes)
    assert "min_size" in found
    assert "one way" not in found
