"""Python layers that compare two videos, against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import Layer

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(60)


def python(code: str, bottoms: int, tops: int, settings: str = "") -> Layer:
    module, name = code.split(".")
    blobs = "".join(f'bottom: "b{i}" ' for i in range(bottoms)) + "".join(f'top: "t{i}" ' for i in range(tops))
    param = f'python_param {{ module: "{module}" layer: "{name}" param_str: "{settings}" }}'
    return make(f'name: "p" type: "Python" {blobs} {param}')


def test_clips_go_on_without_a_gradient() -> None:
    a, b = RANDOM.normal(size=(2, 1, 3, 16, 112, 112)).astype(np.float32)
    layer = python("data_switch.DataSwitchLayer", 2, 2)
    assert "every second pass" in layer.left_out
    result = run(layer, [a, b])
    np.testing.assert_array_equal(result.tops[0], a)
    np.testing.assert_array_equal(result.tops[1], b)
    assert not result.bottoms[0].any()
    with pytest.raises(NetError, match="expected clips"):
        layer.tops([(1, 3, 16, 100, 112)] * 2)


def test_parts_of_labels() -> None:
    labels = np.array([[1203], [7], [45]], np.float32)
    for kind, wanted in (("Scene", [12, 11, 11]), ("Action", [3, 7, 45])):
        layer = python("label_parse.LabelParseLayer", 1, 1, kind)
        np.testing.assert_array_equal(layer.decide([labels], RANDOM)[0], np.array(wanted)[:, None])
    split = python("label_split.LabelSplitLayer", 1, 2)
    pairs = {123456: (123, 456), 7: (0, 7), 1012345: (1012, 345), 1234567: (123, 4567), 12345678: (1234, 5678)}
    left, right = split.decide([np.array(list(pairs), np.float32)], RANDOM)
    assert [(int(a[0]), int(b[0])) for a, b in zip(left, right, strict=True)] == list(pairs.values())
    with pytest.raises(NetError, match="param_str Scene or Action"):
        python("label_parse.LabelParseLayer", 1, 1, "Place").tops([(3, 1)])
    with pytest.raises(NetError, match="expected a label of digits, found -5"):
        split.decide([np.array([-5], np.float32)], RANDOM)


def test_the_cyclic_loss_has_the_reference_s_gradient() -> None:
    bottoms = list(RANDOM.normal(size=(4, 3, 5)).astype(np.float32))
    result = run(python("cyclic_loss.CyclicLossLayer", 4, 1), bottoms, dys=[np.array([7], np.float32)])
    f, g = bottoms[1] - bottoms[2], bottoms[0] - bottoms[3]
    np.testing.assert_allclose(result.tops[0], [((f**2).sum() + (g**2).sum()) / 6], rtol=1e-5)
    for diff, sign in zip(result.bottoms, (1, 1, -1, -1), strict=True):
        np.testing.assert_allclose(diff, sign * (f + g) / 3, rtol=1e-5, atol=1e-6)


def test_rows_get_a_length_of_1() -> None:
    x = RANDOM.normal(size=(3, 5))
    layer = python("mvn.MVNLayer", 1, 1)
    check_gradients(layer, lambda x: x / np.sqrt((x**2).sum(1, keepdims=True)), [x], [0])
    with pytest.raises(NetError, match=r"expected rows \(N, D\)"):
        layer.tops([(3, 5, 2)])


def test_features_are_not_saved() -> None:
    assert python("save_features.SaveFeaturesLayer", 2, 0).tops([(3, 5), (3, 5)]) == ()
