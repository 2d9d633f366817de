"""Layers for two domains: gradients that are turned or silenced, and labels that are spread."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers.forks import adversarial

from ..harness import make, run

RANDOM = np.random.default_rng(53)
X = RANDOM.normal(size=(2, 3, 5, 4)).astype(np.float32)
DY = RANDOM.normal(size=X.shape).astype(np.float32)
PYTHON = 'name: "p" type: "Python" %s python_param { module: "%s" layer: "%s" }'


def test_gradients_are_turned() -> None:
    text = 'name: "g" type: "GradientScaler" bottom: "x" top: "y" gradient_scaler_param { scale_factor: -0.25 }'
    found = run(make(text), [X], dys=[DY])
    np.testing.assert_array_equal(found.tops[0], X)
    np.testing.assert_allclose(found.bottoms[0], -0.25 * DY, rtol=1e-6)


@pytest.mark.parametrize(("passes", "progress"), [(0, 0), (3, 0.3), (25, 1)])
def test_gradients_are_turned_more_and_more(monkeypatch: pytest.MonkeyPatch, passes: int, progress: float) -> None:
    monkeypatch.setattr(adversarial, "emit_count", lambda g, name: g.constant([passes]))
    fields = "gradient_scaler_param { lower_bound: 0.2 upper_bound: 1.5 alpha: 4 max_iter: 10 }"
    layer = make(f'name: "g" type: "GradientScaler" bottom: "x" top: "y" {fields}')
    assert layer.dialect == "xlearn"
    found = run(layer, [X], dys=[DY])
    np.testing.assert_array_equal(found.tops[0], X)
    factor = 0.2 + 1.3 * (2 / (1 + np.exp(-4 * progress)) - 1)
    np.testing.assert_allclose(found.bottoms[0], -factor * DY, rtol=1e-5)


@pytest.mark.parametrize("flag", [0, 1])
def test_gradients_are_silenced(flag: int) -> None:
    layer = make('name: "g" type: "GradientSilent" bottom: "x" bottom: "f" top: "y"')
    found = run(layer, [X, np.full((1, 1), flag)], dys=[DY])
    np.testing.assert_array_equal(found.tops[0], X)
    np.testing.assert_array_equal(found.bottoms[0], DY * flag)


def test_labels_are_spread() -> None:
    bottoms = 'bottom: "x" bottom: "l" top: "y"'
    rows = make(PYTHON % (bottoms, "utils.label_resize_layer", "LabelResizeLayer"))
    np.testing.assert_array_equal(run(rows, [X, np.full((1, 1), 3)]).tops[0], [[3], [3]])
    with pytest.raises(NetError, match=r"labels \(N, 1\)"):
        rows.tops([(2, 3), (1, 4)])
    places = make(PYTHON % (bottoms, "utils.resize_sslb", "LabelResizeLayer"))
    labels = RANDOM.integers(0, 9, (3, 7))
    found = run(places, [X, labels]).tops[0]
    wanted = [[labels[int(row * 3 / 5), int(column * 7 / 4)] for column in range(4)] for row in range(5)]
    np.testing.assert_array_equal(found[0, 0], wanted)


def test_data_of_two_domains() -> None:
    tops = " ".join(f'top: "{name}"' for name in "xibfd")
    layer = make(PYTHON % (tops, "roi_data_da_layer.layer", "RoIDataDALayer"))
    assert layer.tops([]) == ((1, 3, 600, 1000), (1, 3), (1, 5), (1, 1), (1, 1))
    assert layer.example(3, (1, 1), RANDOM) == 1
    assert layer.example(4, (1, 1), RANDOM) == 0
