"""What predictions take for the values that layers draw."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat.layers import layer_class
from caffestat.options import NetOptions, ValueOptions
from caffestat.program import feeds, open_file
from caffestat.theory import Signal

DATA = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 50 dim: %d dim: 8 dim: 5 } } }\n'
DROP = 'layer { name: "%s" type: "Dropout" bottom: "x" top: "%s" dropout_param { dropout_ratio: %g %s } }\n'


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feeds, "_SEEN", {})


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The layers that have drawn."""
    dropout, names = layer_class("Dropout"), list[str]()
    assert dropout is not None
    draw = dropout.draw_feeds
    monkeypatch.setattr(dropout, "draw_feeds", lambda self, *args: [names.append(self.name), draw(self, *args)][1])
    return names


def signals(folder: Path, *drops: str, channels: int = 13) -> list[Signal]:
    """The masks of the layers of a net."""
    path = folder / "net.prototxt"
    path.write_text(DATA % channels + "".join(drops))
    forward = open_file(str(path)).program(NetOptions(phase="train"), ValueOptions()).forward()
    found = [signal for feed in forward.feeds for signal in feed.signals(0.0, 1.0) if feed.names[0] != "x"]
    assert all(found)
    return [signal for signal in found if signal]


def test_equal_layers_draw_once_and_have_variables_of_their_own(tmp_path: Path, drawn: list[str]) -> None:
    one, two = signals(tmp_path, DROP % ("a", "a", 0.3, ""), DROP % ("b", "b", 0.3, ""))
    assert drawn == ["a"]
    assert np.array_equal(one.values, two.values)
    assert one.latent is not two.latent
    assert one.mean == pytest.approx(1.0, abs=0.02)
    assert one.second == pytest.approx(1 / 0.7, abs=0.02)


def test_layers_of_another_ratio_size_or_class_draw_themselves(tmp_path: Path, drawn: list[str]) -> None:
    drops = [DROP % (name, name, ratio, "") for name, ratio in (("a", 0.3), ("b", 0.5))]
    first, half = signals(tmp_path, *drops)
    (wide,) = signals(tmp_path, drops[0], channels=17)
    assert drawn == ["a", "b", "a"]
    assert (first.second, half.second) == pytest.approx((1 / 0.7, 2.0), abs=0.02)
    assert not np.array_equal(wide.values, first.values)
    (unscaled,) = signals(tmp_path, DROP % ("c", "c", 0.3, "scale_train: false"))
    assert unscaled.second == pytest.approx(0.7, abs=0.02)


def test_few_kinds_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: list[str]) -> None:
    monkeypatch.setattr(feeds, "_MOST_SEEN", 2)
    for ratio in (0.1, 0.2, 0.3, 0.3, 0.1):
        signals(tmp_path, DROP % ("a", "a", ratio, ""))
    assert drawn == ["a"] * 4
    assert len(feeds._SEEN) == 2
