"""Layers of MNC: numbers of the Python layers are those that the code of daijifeng001/MNC, run, gives."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import Layer

from ..harness import TEST, make, run
from .check import check_gradients


def python(module: str, name: str, bottoms: str, tops: str = "y", settings: str = "") -> Layer:
    ends = " ".join([f'bottom: "{bottom}"' for bottom in bottoms] + [f'top: "{top}"' for top in tops])
    code = f'module: "pylayer.{module}" layer: "{name}" param_str: "{settings}"'
    return make(f'name: "l" type: "Python" {ends} python_param {{ {code} }}', TEST)


def test_proposals() -> None:
    scores = np.arange(72).reshape(1, 18, 2, 2) * 31 % 97 / 97
    deltas = (np.arange(144).reshape(1, 36, 2, 2) * 17 % 23 - 11) / 20
    layer = python("proposal_layer", "ProposalLayer", "abc", settings="{'feat_stride': 16, 'gradient_scale': 1}")
    expected = [
        [0, 0, 0, 79, 63],
        [0, 0, 0, 41.471146, 63],
        [0, 0, 0, 51.62473, 34.20008],
        [0, 0, 0, 30.46944, 21.006153],
        [0, 0, 0, 70.71055, 43.650063],
        [0, 0, 0, 26.012554, 36.37632],
    ]
    np.testing.assert_allclose(run(layer, [scores, deltas, [[64, 80, 1]]]).tops[0], expected, rtol=1e-6)


def test_regions_move_by_the_deltas_of_their_best_class() -> None:
    layer = python("stage_bridge_layer", "StageBridgeLayer", "abcd")
    rois = [[0, 8, 4, 39, 51], [0, 20, 30, 27, 33]]
    deltas = np.arange(24).reshape(2, 12) * 7 % 13 / 8 - 0.7
    found = run(layer, [rois, deltas, [[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]], [[60, 64, 1]]])
    expected = [[0, 2.756104, 6.987015, 32.443897, 59], [0, 19.635014, 28.07459, 29.164986, 30.32541]]
    np.testing.assert_allclose(found.tops[0], expected, rtol=1e-6)
    with pytest.raises(NetError, match=r"expected regions \(R, 5\)"):
        layer.tops([(2, 5), (2, 12), (2, 4), (1, 3)])
    with pytest.raises(NetError, match="expected height and width"):
        layer.tops([(2, 5), (2, 12), (2, 3), (1, 1)])


def test_masks_become_images() -> None:
    layer = python("mask_layer", "MaskLayer", "a")
    masks = np.arange(882.0).reshape(2, 441)
    found = run(layer, [masks], dys=[np.ones((2, 1, 21, 21), np.float32)])
    np.testing.assert_array_equal(found.tops[0], masks.reshape(2, 1, 21, 21))
    np.testing.assert_array_equal(found.bottoms[0], np.ones((2, 441)))
    with pytest.raises(NetError, match="expected square masks"):
        layer.tops([(2, 440)])


@pytest.mark.parametrize(("name", "bottoms", "tops"), [("Mask", "abc", "yz"), ("StageBridge", "abcdefg", "rstuvwxy")])
def test_layers_of_train_nets_are_data(name: str, bottoms: str, tops: str) -> None:
    module = {"Mask": "mask_layer", "StageBridge": "stage_bridge_layer"}[name]
    layer = python(module, f"{name}Layer", bottoms, tops)
    assert type(layer).__name__ == "Python"


def test_masks_are_learned_by_weighted_logistic_losses() -> None:
    layer = make('name: "l" type: "SigmoidCrossEntropyLoss" bottom: "x" bottom: "t" bottom: "w" top: "y"')
    random = np.random.default_rng(5)
    x, targets, weights = random.normal(size=(2, 9)), random.integers(0, 2, (2, 9)), random.uniform(size=(2, 9))

    def losses(x: np.ndarray, t: np.ndarray, w: np.ndarray) -> np.ndarray:
        return np.asarray((w * (np.logaddexp(0, x) - x * t)).sum() / w.sum())

    check_gradients(layer, losses, [x, targets, weights], [0])
    none = run(layer, [x, targets, np.zeros((2, 9))], dys=[np.float32(1)])
    assert none.tops[0] == 0 and not none.bottoms[0].any()
    with pytest.raises(NetError, match="expected a target and a weight per value"):
        layer.tops([(2, 9), (2, 9), (2, 1)])
