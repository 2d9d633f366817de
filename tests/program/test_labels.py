"""Labels and indices out of range are told of, with where they come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffestat import api
from caffestat.errors import NetError

NAN = float("nan")
DATA = """\
layer { name: "in" type: "Input" top: "x" top: "y"
  input_param { shape { dim: 3 dim: 5 } shape { dim: 3 } } }
"""
DENSE = DATA + (
    'layer { name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param { num_output: 4\n'
    '  weight_filler { type: "xavier" } } }\n'
)
NETS = {
    "SoftmaxWithLoss": DENSE + 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "f" bottom: "y" top: "l" %s }',
    "InfogainLoss": DENSE
    + 'layer { name: "h" type: "DummyData" top: "h" dummy_data_param { shape { dim: 1 dim: 1 dim: 4 dim: 4 } } }\n'
    + 'layer { name: "l" type: "InfogainLoss" bottom: "f" bottom: "y" bottom: "h" top: "l" %s }',
    "MultinomialLogisticLoss": DENSE
    + 'layer { name: "s" type: "Softmax" bottom: "f" top: "s" }\n'
    + 'layer { name: "l" type: "MultinomialLogisticLoss" bottom: "s" bottom: "y" top: "l" %s }',
    "HingeLoss": DENSE + 'layer { name: "l" type: "HingeLoss" bottom: "f" bottom: "y" top: "l" %s }',
    "Accuracy": DENSE + 'layer { name: "l" type: "Accuracy" bottom: "f" bottom: "y" top: "l" %s }',
    "Embed": DATA
    + 'layer { name: "l" type: "Embed" bottom: "y" top: "l" embed_param { input_dim: 4 num_output: 2 } %s }',
    "BatchReindex": DATA + 'layer { name: "l" type: "BatchReindex" bottom: "x" bottom: "y" top: "l" %s }',
}


def run(folder: Path, text: str, labels: list[Any]) -> None:
    (folder / "net.prototxt").write_text(text)
    api.analyze(folder / "net.prototxt", device="cpu", inputs={"y": np.array(labels, np.float32)})


@pytest.mark.parametrize("kind", NETS)
@pytest.mark.parametrize("bad", [-1.0, 4.0, 1e9, NAN, -NAN, float("inf")])
def test_a_label_out_of_range_is_told_of(tmp_path: Path, kind: str, bad: float) -> None:
    count = 3 if kind == "BatchReindex" else 4
    run(tmp_path, NETS[kind] % "", [0.0, count - 1.0, 1.9])
    message = (
        rf"'l' \({kind}\): expected values from 0 to {count - 1} \({count} values\), found {bad:g} in blob 'y' of "
    )
    with pytest.raises(NetError, match=f"{message}.*net.prototxt:1:1".replace("+", r"\+")):
        run(tmp_path, NETS[kind] % "", [0.0, bad, 1.0])


@pytest.mark.parametrize(
    ("kind", "param"),
    [("SoftmaxWithLoss", "loss_param { ignore_label: 255 }"), ("Accuracy", "accuracy_param { ignore_label: 255 }")],
)
def test_a_label_that_is_ignored_may_lie_outside(tmp_path: Path, kind: str, param: str) -> None:
    run(tmp_path, NETS[kind] % param, [255.0, 3.0, 0.0])
    with pytest.raises(NetError, match="found 254 in"):
        run(tmp_path, NETS[kind] % param, [255.0, 254.0, 0.0])


def test_any_mark_of_a_sequence_is_taken(tmp_path: Path) -> None:
    text = (
        'layer { name: "in" type: "Input" top: "x" top: "y"\n'
        "  input_param { shape { dim: 3 dim: 1 dim: 2 } shape { dim: 3 dim: 1 } } }\n"
        'layer { name: "l" type: "LSTM" bottom: "x" bottom: "y" top: "l" recurrent_param { num_output: 2 } }\n'
    )
    run(tmp_path, text, [[2.0], [-1.5], [0.0]])


def test_labels_that_layers_compute(tmp_path: Path) -> None:
    text = DENSE + (
        'layer { name: "p" type: "Power" bottom: "y" top: "z" power_param { scale: 2 } }\n'
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "f" bottom: "z" top: "l" }\n'
        'layer { name: "a" type: "Accuracy" bottom: "f" bottom: "z" top: "a" }\n'
    )
    run(tmp_path, text, [0.0, 1.0, 1.5])
    with pytest.raises(NetError, match=r"'l' .*found 6 in blob 'z' of layer 'p' at .*net.prototxt:5:1"):
        run(tmp_path, text, [0.0, 3.0, 1.5])
