"""Guided dropout, the dropout of labels and their loss, against a few lines of numpy."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import TEST, make, run
from .check import check_gradients

RANDOM = np.random.default_rng(12)
GUIDED = 'name: "l" type: "GuidedDropout" bottom: "x" bottom: "g" top: "y" guided_dropout_param { %s }'


def test_guided_dropout_by_a_threshold() -> None:
    layer = make(GUIDED % 'type: "deterministic" guidance_threshold: 0.5')
    guide = np.array([[0.1, 0.7, 0.9, 0.5], [0.1, 0.2, 0.3, 0.4], [0.6, 0.7, 0.8, 0.2]])

    def forward(x, g):
        mask = g > 0.5
        count = mask.sum(1)[:, None]
        return x * (mask * 4 / np.maximum(count, 1))[:, :, None]

    check_gradients(layer, forward, [RANDOM.normal(size=(3, 4, 2)), guide], [0])
    with pytest.raises(NetError, match="a guide of shape"):
        layer.tops([(3, 4), (3, 5)])


def test_guided_dropout_at_random() -> None:
    layer = make(GUIDED % 'type: "stochastic" sigmoid_scaler: 2')
    x, guide = RANDOM.normal(size=(5, 6)), RANDOM.normal(size=(5, 6))
    found = run(layer, [x, guide])
    (drawn,) = found.feeds
    share = 1 / (1 + np.exp(-2 * guide))
    factor = (drawn <= share) * 6 / share.sum(1)[:, None]
    assert 0 < (drawn <= share).sum() < 30
    np.testing.assert_allclose(found.tops[0], x * factor, rtol=1e-5)
    np.testing.assert_allclose(found.bottoms[0], factor, rtol=1e-5)
    assert not found.bottoms[1].any()
    np.testing.assert_array_equal(
        run(make(GUIDED % 'type: "stochastic"', TEST), [x, guide]).tops[0], x.astype(np.float32)
    )


def test_label_dropout_keeps_as_many_as_it_says() -> None:
    layer = make(
        'name: "l" type: "LabelDropout" bottom: "x" bottom: "t" top: "y" '
        "label_drop_param { drop_neg_ratio: 3 hard_ratio: 0.5 rand_ratio: 0.25 }"
    )
    x = RANDOM.normal(size=(2, 2, 5, 8))
    labels = np.zeros(x.shape)
    labels.reshape(4, 40)[0, :8] = 1
    labels.reshape(4, 40)[1, :30] = 1
    labels.reshape(4, 40)[2, :4] = 0.5
    dy = RANDOM.normal(size=x.shape).astype(np.float32)
    found = run(layer, [x, labels], dys=[dy])
    kept = (found.tops[0] == x.astype(np.float32)).reshape(4, 40)
    assert kept[0, :8].all()
    assert kept[0].sum() == 8 + 12 + 6
    hardest = 8 + np.argsort(-abs(x.reshape(4, 40)[0, 8:]))[:24]
    assert kept[0, hardest].sum() >= 12
    assert kept[1].all()
    assert not kept[2:].any()
    np.testing.assert_array_equal(found.tops[0].reshape(4, 40)[~kept], labels.reshape(4, 40)[~kept].astype(np.float32))
    np.testing.assert_array_equal(found.bottoms[0].reshape(4, 40), np.where(kept, dy.reshape(4, 40), 0))
    with pytest.raises(NetError, match="at most 1"):
        make(
            'name: "l" type: "LabelDropout" bottom: "x" bottom: "t" top: "y" '
            "label_drop_param { hard_ratio: 0.8 rand_ratio: 0.5 }"
        ).tops([(1, 2, 3, 4)] * 2)


def test_sigmoid_loss_counts_each_value_and_ignores_dy() -> None:
    layer = make('name: "l" type: "SigmoidLoss" bottom: "x" bottom: "t" top: "y"')
    x, labels = RANDOM.normal(size=(3, 2, 4)), RANDOM.integers(0, 2, (3, 2, 4))

    def forward(x):
        p = 1 / (1 + np.exp(-x))
        return -np.log(np.where(labels == 1, p, 1 - p)).sum() / 3

    found = run(layer, [x, labels], dys=[np.array(0.25, np.float32)])
    np.testing.assert_allclose(found.tops[0], forward(x), rtol=1e-5)
    moved = RANDOM.normal(size=x.shape)
    slope = (forward(x + 1e-6 * moved) - forward(x - 1e-6 * moved)) / 2e-6
    np.testing.assert_allclose((found.bottoms[0] * moved).sum(), slope, rtol=1e-4)


def test_pose_image_data_has_maps_of_joints() -> None:
    layer = make(
        'name: "l" type: "PoseImageData" top: "data" top: "label" pose_image_data_param { source: "x" batch_size: 3 '
        "new_height: 24 new_width: 20 out_height: 6 out_width: 5 key_point_num: 9 }"
    )
    assert layer.tops([]) == ((3, 3, 24, 20), (3, 9, 6, 5))


@pytest.mark.parametrize("adaptive", [False, True])
def test_random_noise_passes_its_gradient(adaptive) -> None:
    fields = "adaptive_sigma: true adaptive_factor: 0.5" if adaptive else "mu: 0.25 sigma: 2"
    layer = make(f'name: "l" type: "RandomNoise" bottom: "x" top: "y" random_noise_param {{ {fields} }}')
    x = RANDOM.normal(size=(3, 5))
    x[1, 2] = 0
    dy = RANDOM.normal(size=x.shape).astype(np.float32)
    found = run(layer, [x], dys=[dy])
    (noise,) = found.feeds
    sigma = 0.5 * np.where(x == 0, abs(x).mean(), abs(x)) if adaptive else 2
    np.testing.assert_allclose(found.tops[0], x + noise * sigma + (0 if adaptive else 0.25), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found.bottoms[0], dy)
