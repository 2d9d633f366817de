"""Recurrent layers of forks, against loops over steps and sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffestat import analyze
from caffestat.errors import NetError
from caffestat.fillers import Stream

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(4)
STEPS, ROWS, INPUTS, HIDDEN = 5, 3, 4, 2
X = RANDOM.normal(size=(STEPS, ROWS, INPUTS))
W, U, B = (RANDOM.normal(0, 0.7, shape) for shape in ((8, INPUTS), (8, HIDDEN), (8,)))
MARKS = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 1], [0, 1, 1], [1, 1, 0]], np.float32)
LSTM = 'name: "l" type: "Lstm" bottom: "x" %s top: "y" lstm_param { num_output: 2 %s }'


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def lstm(
    x: np.ndarray, w: np.ndarray, u: np.ndarray, b: np.ndarray, kept: np.ndarray, static: Any = 0
) -> list[dict[str, np.ndarray]]:
    """Return gates and states of each step; kept [T, N] tells which states before a step count."""
    h = c = np.zeros((x.shape[1], u.shape[1]))
    steps = []
    for at, values in enumerate(x):
        before_h, before_c = h * kept[at][:, None], c * kept[at][:, None]
        i, f, o, g = np.split(values @ w.T + b + before_h @ u.T + static, 4, 1)
        i, f, o, g = sigmoid(i), sigmoid(f), sigmoid(o), np.tanh(g)
        step = {"i": i, "f": f, "o": o, "g": g, "before_h": before_h, "before_c": before_c, "all_h": h}
        c = f * before_c + i * g
        h = o * np.tanh(c)
        steps.append({**step, "c": c, "h": h})
    return steps


def hidden(*args: Any, **settings: Any) -> np.ndarray:
    return np.array([step["h"] for step in lstm(*args, **settings)])


FIRST = np.repeat((np.arange(STEPS) > 0)[:, None], ROWS, 1)


def test_lstm_keeps_nothing_before_the_first_step() -> None:
    layer = make(LSTM % ("", ""), dialect="ocr")
    check_gradients(layer, lambda x, w, u, b: hidden(x, w, u, b, FIRST), [X, W, U, B], [0, 1, 2, 3], params=3)
    assert layer.macs([X.shape]) == STEPS * ROWS * 8 * (INPUTS + HIDDEN)


def test_lstm_of_one_axis_for_steps_and_sequences() -> None:
    layer = make(LSTM % ("", "batch_size: 3"))
    assert layer.dialect == "junhyukoh"
    flat = X.reshape(STEPS * ROWS, INPUTS, 1)

    def forward(x: np.ndarray, w: np.ndarray, u: np.ndarray, b: np.ndarray) -> np.ndarray:
        return hidden(x.reshape(X.shape), w, u, b, FIRST).reshape(-1, HIDDEN)

    check_gradients(layer, forward, [flat, W, U, B], [0, 1, 2, 3], params=3)
    with pytest.raises(NetError, match="the batch_size 3 divides, found shape"):
        layer.tops([(16, 4)])


def clipped_gradients(kept: np.ndarray, dy: np.ndarray, limit: float) -> dict[str, np.ndarray]:
    """The reference's backward loops: gate gradients are clipped, and U's also holds states that do not count."""
    steps = lstm(X, W, U, B, kept)
    dh_next, dc_next = np.zeros((2, ROWS, HIDDEN))
    sums = np.zeros((STEPS, ROWS, 4 * HIDDEN))
    for at in reversed(range(STEPS)):
        s, mask = steps[at], kept[at][:, None]
        dh = dy[at] + dh_next
        tanh = np.tanh(s["c"])
        dc = dc_next + dh * s["o"] * (1 - tanh**2)
        parts = [
            dc * s["g"] * s["i"] * (1 - s["i"]),
            dc * s["before_c"] * s["f"] * (1 - s["f"]),
            dh * tanh * s["o"] * (1 - s["o"]),
            dc * s["i"] * (1 - s["g"] ** 2),
        ]
        sums[at] = np.clip(np.concatenate(parts, 1), -limit, limit)
        dh_next, dc_next = mask * (sums[at] @ U), mask * dc * s["f"]
    states = np.array([step["all_h"] for step in steps])
    return {
        "x": sums @ W,
        "w": np.einsum("tng,tni->gi", sums, X),
        "u": np.einsum("tng,tnh->gh", sums, states),
        "b": sums.sum((0, 1)),
    }


@pytest.mark.parametrize("limit", [0.05, 100])
def test_marks_and_clipped_gradients(limit: float) -> None:
    layer = make(LSTM % ('bottom: "m"', f"batch_size: 3 clipping_threshold: {limit}"))
    flat = RANDOM.integers(0, 2, STEPS * ROWS).astype(np.float32)
    kept = np.array([[flat[t + n] for n in range(ROWS)] for t in range(STEPS)])  # the reference's index
    assert not (kept == flat.reshape(STEPS, ROWS)).all()
    dy = RANDOM.normal(size=(STEPS, ROWS, HIDDEN))
    found = run(layer, [X.reshape(-1, INPUTS), flat * 2], [W, U, B], [dy.reshape(-1, HIDDEN).astype(np.float32)])
    expected = clipped_gradients(kept, dy, limit)
    np.testing.assert_allclose(found.tops[0], hidden(X, W, U, B, kept).reshape(-1, HIDDEN), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.bottoms[0].reshape(X.shape), expected["x"], rtol=1e-4, atol=1e-5)
    for ours, name in zip(found.params, "wub", strict=True):
        np.testing.assert_allclose(ours, expected[name], rtol=1e-4, atol=1e-5)


SLLSTM = 'name: "l" type: "SLLSTM" bottom: "x" %s top: "y" recurrent_param { num_output: 2 %s }'


def test_single_layer_lstm_with_marks_and_a_static_input() -> None:
    static, w_s = RANDOM.normal(size=(ROWS, INPUTS)), RANDOM.normal(size=(8, INPUTS))
    kept = MARKS * FIRST

    def forward(x: np.ndarray, _: Any, static: np.ndarray, u: np.ndarray, b: np.ndarray, *ws: np.ndarray) -> np.ndarray:
        return hidden(x, ws[0], u, b, kept, static=static @ ws[1].T)

    layer = make(SLLSTM % ('bottom: "m" bottom: "s"', ""))
    check_gradients(layer, forward, [X, MARKS, static, U, B, W, w_s], [0, 2, 3, 4, 5, 6], params=4)


def test_single_layer_lstm_draws_the_weights_of_inputs_first() -> None:
    layer = make(SLLSTM % ("", 'weight_filler { type: "uniform" } bias_filler { type: "uniform" min: 2 max: 3 }'))
    params = layer.params([X.shape])
    u, b, w = layer.draw_params(Stream(5), params, [X.shape])
    assert [u.shape, b.shape, w.shape] == [(8, HIDDEN), (8,), (8, INPUTS)]
    plain = make(LSTM % ("", 'weight_filler { type: "uniform" } bias_filler { type: "uniform" min: 2 max: 3 }'))
    for ours, theirs in zip((w, u, b), plain.draw_params(Stream(5), plain.params([X.shape]), [X.shape]), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert b.min() >= 2


def test_continuation_indicator() -> None:
    layer = make(
        'name: "l" type: "ContinuationIndicator" top: "y" continuation_indicator_param { time_step: 4 batch_size: 3 }'
    )
    expected = np.ones((4, 3))
    expected[0] = 0
    np.testing.assert_array_equal(run(layer, []).tops[0], expected)


def test_sequences_backwards() -> None:
    marks = np.array([[-3, -2], [1, 1], [1, -1], [-2, -1], [1, 0]], np.float32)
    x = RANDOM.normal(size=(5, 2, 3, 2))
    order = [[2, 1, 0, 4, 3], [1, 0, 2, 3, None]]

    def forward(marks: np.ndarray, x: np.ndarray) -> np.ndarray:
        y = np.zeros_like(x)
        for row, steps in enumerate(order):
            for at, step in enumerate(steps):
                if step is not None:
                    y[at, row] = x[step, row]
        return y

    layer = make('name: "l" type: "Reverse" bottom: "m" bottom: "x" top: "y"')
    assert layer.dialect == "action"
    check_gradients(layer, forward, [marks, x], [1])
    marks[0, 0] = -2
    with pytest.raises(NetError, match="sequence 0 is marked as 2 steps long, found 3"):
        run(layer, [marks, x])


def test_lstm_simple_is_lstm_with_fillers_of_its_own() -> None:
    text = 'name: "l" type: "LstmSimple" bottom: "x" top: "y" lstm_simple_param { num_output: 2 batch_size: 3 %s }'
    layer = make(text % "enable_clockwork_forgetgate_bias: true")
    rows = X.reshape(STEPS * ROWS, INPUTS)

    def forward(x: np.ndarray, *params: np.ndarray) -> np.ndarray:
        return hidden(x.reshape(STEPS, ROWS, INPUTS), *params, FIRST).reshape(STEPS * ROWS, HIDDEN)

    check_gradients(layer, forward, [rows, W, U, B], [0, 1, 2, 3], params=3)
    params = layer.params([rows.shape])
    assert [param.filler.type for param in params] == ["xavier", "xavier", "constant"]
    *_, bias = layer.draw_params(Stream(3), params, [rows.shape])
    np.testing.assert_allclose(bias, [0.1, 0.1, 5, 5, 0.1, 0.1, 0.1, 0.1], rtol=1e-6)
    written = make(text % 'weight_filler { type: "msra" } bias_filler { value: 3 }').params([rows.shape])
    assert [(param.filler.type, param.filler.value) for param in written[1:]] == [("msra", 0), ("constant", 3)]


def test_maps_become_sequences_with_marks() -> None:
    layer = make('name: "c" type: "Convert" bottom: "x" top: "y" top: "m"')
    x = np.random.default_rng(3).normal(size=(2, 3, 1, 5))
    dy = np.random.default_rng(4).normal(size=(5, 2, 3)).astype(np.float32)
    found = run(layer, [x], dys=[dy, np.zeros((5, 2), np.float32)])
    np.testing.assert_array_equal(found.tops[0], x[:, :, 0].transpose(2, 0, 1).astype(np.float32))
    np.testing.assert_array_equal(found.tops[1], [[0, 0], *[[1, 1]] * 4])
    np.testing.assert_array_equal(found.bottoms[0], dy.transpose(1, 2, 0)[:, :, None])
    with pytest.raises(NetError, match=r"\(N, C, 1, W\)"):
        layer.tops([(2, 3, 4, 5)])


def test_lstm_of_mycaffe_is_caffes(tmp_path: Path) -> None:
    net = """layer { name: "i" type: "Input" top: "x" top: "c" input_param {
      shape { dim: 4 dim: 3 dim: 5 } shape { dim: 4 dim: 3 } } }
    layer { name: "l" type: "%s" bottom: "x" bottom: "c" top: "y" recurrent_param { num_output: 6
      weight_filler { type: "xavier" } bias_filler { type: "uniform" } %s } }"""

    def means(kind: str, more: str = "") -> list[float | None]:
        (tmp_path / "net.prototxt").write_text(net % (kind, more))
        report = analyze(tmp_path / "net.prototxt", seed=3, device="cpu")
        row = next(row for row in report.layers if row.name == "l")
        assert row.tops[0].shape == (4, 3, 6)
        return [row.tops[0].mean_abs, *(param.mean_abs for param in row.params)]

    assert means("Lstm") == means("LSTM")
    assert means("Lstm", "engine: CUDNN num_layers: 1") == means("LSTM")
    deep = make(
        'name: "l" type: "Lstm" bottom: "x" bottom: "c" top: "y" recurrent_param { num_output: 6 num_layers: 2 }'
    )
    with pytest.raises(NetError, match="the num_layers 2 of cuDNN's LSTM are not computed"):
        deep.tops([(4, 3, 5), (4, 3)])
