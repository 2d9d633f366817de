"""BatchNorm layers that share their statistics update them one after the other, in layer order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffestat

NET = """layer {{ name: "in" type: "Input" top: "a" top: "b" input_param {{
  shape {{ dim: 6 dim: 2 dim: 3 dim: 5 }} shape {{ dim: 4 dim: 2 dim: 3 dim: 5 }} }} }}
layer {{ name: "first" type: "BatchNorm" bottom: "a" top: "na" {} }}
layer {{ name: "second" type: "BatchNorm" bottom: "b" top: "nb" {}
  batch_norm_param {{ moving_average_fraction: 0.9 }} }}
layer {{ name: "third" type: "BatchNorm" bottom: "a" top: "nc" {} batch_norm_param {{ use_global_stats: true }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "na" top: "ip" inner_product_param {{ num_output: 2 }} }}
layer {{ name: "loss" type: "Reduction" bottom: "ip" top: "loss" loss_weight: 1 }}
"""
SHARED = "".join(f'param {{ name: "{name}" lr_mult: 0 }} ' for name in ("m", "v", "f"))


def test_each_layer_goes_on_from_what_the_one_before_left(tmp_path: Path) -> None:
    random = np.random.default_rng(4)
    a, b = random.normal(2, 1, (6, 2, 3, 5)), random.normal(-1, 3, (4, 2, 3, 5))
    (tmp_path / "net.prototxt").write_text(NET.format(SHARED, SHARED, SHARED))
    inputs = {"a": a.astype(np.float32), "b": b.astype(np.float32)}
    report = caffestat.analyze(tmp_path / "net.prototxt", inputs=inputs, device="cpu")
    found = {row.name: [param.mean_abs for param in row.params] for row in report.layers}
    means, unbiased = ([f(x, axis=(0, 2, 3)) for x in (a, b)] for f in (np.mean, lambda x, axis: x.var(axis, ddof=1)))
    first = [means[0], unbiased[0], np.ones(1)]
    second = [0.9 * old + new for old, new in zip(first, (means[1], unbiased[1], np.ones(1)), strict=True)]
    assert found["first"] == pytest.approx([np.abs(x).mean() for x in first], rel=1e-5)
    assert found["second"] == pytest.approx([np.abs(x).mean() for x in second], rel=1e-5)
    assert found["third"] == pytest.approx(found["second"])
    # the layer that takes the stored statistics takes those that the two have left
    mean, variance = (x[:, None, None] / 1.9 for x in second[:2])
    top = next(row.tops[0] for row in report.layers if row.name == "third")
    assert top.mean_abs == pytest.approx(np.abs((a - mean) / np.sqrt(variance + 1e-5)).mean(), rel=1e-4)
