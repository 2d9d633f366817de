"""Runner: compiled once, run with other params; what the runtime refuses is told with the layer."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat import net
from caffestat.analysis import Runner, draw_feeds
from caffestat.engine import compiled
from caffestat.errors import NetError
from caffestat.fillers import Stream
from caffestat.net.source import net_source
from caffestat.program import from_net
from caffestat.prototext import parse

DATA = """layer { name: "x" type: "DummyData" top: "x" dummy_data_param {
  shape { dim: 5 dim: 3 dim: 2 } data_filler { type: "gaussian" std: 1 } } }
"""
NET = (
    DATA
    + """layer { name: "c" type: "Convolution" bottom: "x" top: "c"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "gaussian" std: 1 } } }
layer { name: "n" type: "BatchNorm" bottom: "c" top: "n" }
layer { name: "l" type: "Reduction" bottom: "n" top: "l" loss_weight: 1 reduction_param { operation: ASUM } }
"""
)


def build(text: str) -> net.Net:
    return net.build(net_source(parse(text.encode(), "made.prototxt")))


def started(built: net.Net, changing: bool) -> tuple[Runner, list[np.ndarray], dict[str, np.ndarray]]:
    stream = Stream(3)
    values = net.draw_params(built, stream)
    runner = Runner(from_net(built), values, changing=changing, fetch=True)
    return runner, values, draw_feeds(runner, stream, np.random.default_rng(3))


def sessions(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list to which every session that is opened is added."""
    opened: list[object] = []
    before = compiled._open

    def counted(*arguments):
        opened.append(arguments)
        return before(*arguments)

    monkeypatch.setattr(compiled, "_open", counted)
    return opened


def test_params_changed_between_runs_count(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = sessions(monkeypatch)
    runner, values, feeds = started(build(NET), changing=True)
    first = runner.run(feeds)
    before = runner.tensors["top", 1, 0].copy()
    values[0] *= 2
    second = runner.run(feeds)
    assert len(opened) == 1
    np.testing.assert_allclose(runner.tensors["top", 1, 0], 2 * before, rtol=1e-6)
    assert second.params[1, 0] == pytest.approx(2 * first.params[1, 0], rel=1e-6)
    assert second.norms.data_l2 > 1.1 * first.norms.data_l2


def test_both_forms_measure_the_same() -> None:
    measured = []
    for changing in (False, True):
        runner, _, feeds = started(build(NET), changing)
        measured.append(runner.run(feeds))
    for kind in ("tops", "params", "bottom_diffs", "param_diffs"):
        constant, changed = (getattr(found, kind) for found in measured)
        assert constant.keys() == changed.keys()
        for key, value in constant.items():
            assert changed[key] == pytest.approx(value, rel=1e-4, abs=1e-7), (kind, key)
    assert measured[0].norms.data_l1 == pytest.approx(measured[1].norms.data_l1, rel=1e-6)


def test_running_statistics_are_fed_back_without_compiling_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = sessions(monkeypatch)
    runner, values, feeds = started(build(NET), changing=False)
    counts = []
    for _ in range(3):
        measured = runner.run(feeds)
        counts.append(float(values[4][0]))  # Caffe's sum of the weights of the batches: 1, 1 + 0.999, …
        assert measured.params[2, 2] == pytest.approx(counts[-1])
    np.testing.assert_allclose(counts, [1, 1.999, 2.997001], rtol=1e-6)
    assert len(opened) == 1


def test_an_index_that_is_out_of_range_is_told_with_the_layer() -> None:
    index = "dummy_data_param { shape { dim: 5 } data_filler { value: 9 } }"
    built = build(
        f'layer {{ name: "i" type: "DummyData" top: "i" {index} }}\n'
        'layer { name: "e" type: "Embed" bottom: "i" top: "e" embed_param { input_dim: 4 num_output: 3 } }\n'
    )
    runner, _, feeds = started(built, changing=False)
    message = r"layer 'e' \(Embed\): expected values from 0 to 3 \(4 values\)"
    with pytest.raises(NetError, match=rf"^made\.prototxt:2:\d+: {message}"):
        runner.run(feeds)
