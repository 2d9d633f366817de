"""What stands in for data that is not available."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat.api import analyze
from caffestat.errors import NetError

BOXES = """
layer { name: "data" type: "BoxData" top: "data" top: "label" data_param { batch_size: 2 side: 7 }
  transform_param { crop_size: 32 } }
layer { name: "y" type: "Reduction" bottom: "label" top: "y" }
"""


def test_a_shape_that_cannot_hold_a_data_layers_values_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(BOXES)
    assert analyze(path, dialect="yolo", device="cpu").layers[0].tops[1].shape == (2, 150)
    with pytest.raises(NetError, match=r"line 2|:2:1: layer 'data' \(BoxData\): top 'label' of shape \(2, 1, 5, 5\)"):
        analyze(path, dialect="yolo", device="cpu", shapes={"label": (2, 1, 5, 5)})
