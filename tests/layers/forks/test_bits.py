"""Losses whose labels are bits, against the loops of the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run

RANDOM = np.random.default_rng(29)


def reference(x, bits, weighed):
    """Return the loss and its slope for labels [N, K, H, W] of 32 bits."""
    loss, slope = 0.0, np.zeros(x.shape)
    for n in range(len(x)):
        places = [at for at in np.ndindex(*x.shape[2:]) if not int(bits[(n, -1, *at)]) >> 31]
        used = x.shape[1] // 32 + 1
        true = sum(any(bits[(n, k, *at)] for k in range(used)) for at in places)
        shares = [true / len(places), 1 - true / len(places)] if weighed else [1, 1]
        for c in range(x.shape[1]):
            for at in places:
                bit = int(bits[(n, c // 32, *at)]) >> (c % 32) & 1
                score = x[(n, c, *at)]
                p = 1 / (1 + math.exp(-score if bit else score))
                loss -= shares[bit] * math.log(p) / len(x)
                slope[(n, c, *at)] = shares[bit] * (1 - p) * (-1 if bit else 1) / len(x)
    return loss, slope


@pytest.mark.parametrize(("kind", "classes", "floats"), [("", 3, 1), ("Reweighted", 3, 1), ("Reweighted", 34, 2)])
def test_each_bit_of_a_label_is_a_class(kind, classes, floats) -> None:
    layer = make(f'name: "l" type: "MultiChannel{kind}SigmoidCrossEntropyLoss" bottom: "x" bottom: "t" top: "y"')
    x = RANDOM.normal(size=(2, classes, 4, 5))
    bits = RANDOM.integers(0, 8, (2, floats, 4, 5)).astype(np.uint32) * (RANDOM.uniform(size=(2, floats, 4, 5)) < 0.5)
    bits = bits.astype(np.uint32)
    bits[0, -1, 1] |= np.uint32(1 << 31)
    loss, slope = reference(x, bits, bool(kind))
    values = [x.astype(np.float32), bits.view(np.float32)]
    deciding = layer.deciding(values, [value.shape for value in values], RANDOM)
    np.testing.assert_allclose(deciding.decisions[0], loss, rtol=1e-5)
    np.testing.assert_allclose(deciding.decisions[1], slope, rtol=1e-4, atol=1e-7)
    found = run(layer, values, dys=[np.array(3, np.float32)])
    np.testing.assert_allclose(found.bottoms[0], 3 * slope, rtol=1e-4, atol=1e-6)


def test_labels_need_a_bit_more_than_there_are_classes() -> None:
    layer = make('name: "l" type: "MultiChannelReweightedSigmoidCrossEntropyLoss" bottom: "x" bottom: "t" top: "y"')
    with pytest.raises(NetError, match="a bit for each of 32 classes"):
        layer.tops([(1, 32, 4, 5), (1, 1, 4, 5)])
    assert layer.stand_in(1, [(1, 3, 4, 5), (1, 1, 4, 5)], RANDOM).shape == (1, 1, 4, 5)
