"""Fillers of forks' layers, which Caffe's schema lacks, are rewritten as their roles say."""

from __future__ import annotations

from pathlib import Path

import caffestat

NET = """input: "x" input_shape { dim: 2 dim: 3 dim: 4 dim: 5 }
layer {
  name: "bn" type: "BN" bottom: "x" top: "y"
  bn_param { scale_filler { type: "constant" value: 1 } shift_filler { type: "constant" value: 0.5 } }
}
"""


def test_a_shift_is_a_bias(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    caffestat.rewrite(path, filler="xavier", bias="constant:0")
    assert path.read_text() == NET.replace("0.5", "0")
