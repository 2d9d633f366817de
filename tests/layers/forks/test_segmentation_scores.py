"""How well maps of classes agree with the true ones, against loops and OpenCV."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers.forks.segmentation_scores import resize_linear

from ..harness import make, run

RANDOM = np.random.default_rng(37)
TEXT = 'name: "l" type: "SegmentationEvaluate" bottom: "x" bottom: "t" top: "y" segmentation_evaluate_param { %s }'
FIELDS = "num_classes: 3 threshold: 0.3"


def score(found: np.ndarray, true: np.ndarray, nothing: float) -> float:
    both = sum(bool(a and b) for a, b in zip(found.ravel(), true.ravel(), strict=True))
    if both:
        return both / (found.sum() + true.sum() - both)
    return nothing if not true.any() else 0


def test_maps_of_one_size() -> None:
    maps, truth = RANDOM.uniform(size=(2, 4, 3, 5)), RANDOM.integers(0, 2, (2, 4, 3, 5))
    truth[0, 2], maps[0, 3] = 0, 0.2
    (found,) = run(make(TEXT % FIELDS), [maps, truth]).tops
    wanted = [score(maps[0, c] > 0.3, truth[0, c] > 0.3, 0) for c in range(4)]
    assert found.shape == (1, 1, 1, 4)
    np.testing.assert_allclose(found.ravel(), wanted, rtol=1e-6)
    assert wanted[2:] == [0, 0]
    assert 0 < wanted[0] < 1


@pytest.mark.parametrize(
    ("size", "true_size", "wanted"),
    [((6, 12), (2, 3), [2 / 5, 1 / 5]), ((6, 11), (4, 3), [2 / 5, 4 / 7]), ((5, 4), (9, 7), [13 / 51, 17 / 48])],
)
def test_maps_of_another_size(size: tuple[int, int], true_size: tuple[int, int], wanted: list[float]) -> None:
    """Numbers of segmentation_evaluate_layer.cpp of eric612/MobileNet-YOLO, compiled with OpenCV 4.6."""
    maps, truth = np.empty((2, 4, *size)), np.empty((2, 4, *true_size))
    maps.flat, truth.flat = np.arange(maps.size) * 37 % 101 / 130, np.arange(truth.size) * 7 % 3 == 0
    truth[0, 2:], maps[0, 2] = 0, 0.1
    (found,) = run(make(TEXT % FIELDS), [maps, truth]).tops
    np.testing.assert_allclose(found.ravel(), [*wanted, -1, -1], rtol=1e-6)


@pytest.mark.parametrize("size", [(4, 5), (8, 10), (3, 7), (16, 20), (11, 23), (23, 29), (5, 23), (31, 6)])
def test_resized_as_opencv_does(size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    image = RANDOM.integers(0, 256, (16, 20)).astype(np.uint8)
    wanted = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    difference = resize_linear(image, *size).astype(int) - wanted
    assert abs(difference).max() <= 1  # the last bits of its numbers depend on the processor


def test_what_it_does_not_take() -> None:
    with pytest.raises(NetError, match="expected num_classes"):
        make(TEXT % "threshold: 1").tops([(2, 3, 4, 5), (2, 3, 4, 5)])
    with pytest.raises(NetError, match="of as many classes"):
        make(TEXT % FIELDS).tops([(2, 3, 4, 5), (2, 4, 4, 5)])
