"""LSTM and RNN against Caffe's unrolled nets, and against their equations in numpy."""

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.fillers import Stream

from .golden import case, check_golden, golden_layers
from .harness import make, run

STEPS, STREAMS, SIZE = 4, 3, 2
X, CONT, STATIC, STATE = (STEPS, STREAMS, 5, 2), (STEPS, STREAMS), (STREAMS, 7), (1, STREAMS, SIZE)


def layer(type_name, params="", bottoms=2, tops=1, size=SIZE):
    names = " ".join([*(f'bottom: "x{i}"' for i in range(bottoms)), *(f'top: "y{i}"' for i in range(tops))])
    return make(f'name: "l" type: "{type_name}" {names} recurrent_param {{ num_output: {size} {params} }}')


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def unit(c, gates, cont):
    i, f, o, g = np.split(gates, 4, axis=-1)
    c = cont[..., None] * sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return c, sigmoid(o) * np.tanh(c)


def lstm(x, cont, static, h, c, w_x, b, w_s, w_h):
    tops = []
    for t in range(len(x)):
        gates = (cont[t][:, None] * h) @ w_h.T + x[t].reshape(len(h), -1) @ w_x.T + b + static @ w_s.T
        c, h = unit(c, gates, cont[t])
        tops.append(h)
    return np.stack(tops), h, c


def rnn(x, cont, static, h, w_x, b, w_s, w_h, w_o, b_o):
    tops = []
    for t in range(len(x)):
        h = np.tanh((cont[t][:, None] * h) @ w_h.T + x[t].reshape(len(h), -1) @ w_x.T + b + static @ w_s.T)
        tops.append(np.tanh(h @ w_o.T + b_o))
    return np.stack(tops), h


CELLS = [("LSTM", lstm, 2), ("RNN", rnn, 1)]


@pytest.mark.parametrize(("type_name", "equations", "states"), CELLS)
def test_static_input_and_exposed_state(type_name, equations, states):
    it = layer(type_name, "expose_hidden: true", 3 + states, 1 + states)
    bottoms = [values(*X), np.float32(np.arange(STEPS * STREAMS).reshape(CONT) % 3 > 0), values(*STATIC, seed=2)]
    bottoms += [values(*STATE, seed=3 + i) for i in range(states)]
    shapes = [b.shape for b in bottoms]
    weights = [values(*p.shape, seed=10 + i) for i, p in enumerate(it.params(shapes))]
    dys = [values(*shape, seed=20 + i) for i, shape in enumerate(it.tops(shapes))]
    result = run(it, bottoms, weights, dys)
    exact = [a.astype(np.float64) for a in (*bottoms[:3], *(b[0] for b in bottoms[3:]), *weights)]
    for found, expected in zip(result.tops, equations(*exact), strict=True):
        np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=1e-4, atol=1e-5)
    # no gradient passes through the marks or the state, in or out
    for found in (result.bottoms[1], *result.bottoms[3:]):
        np.testing.assert_array_equal(found, np.zeros_like(found))
    slots = {0: result.bottoms[0], 2: result.bottoms[2], **dict(enumerate(result.params, 3 + states))}
    for slot, gradient in slots.items():
        direction = np.random.default_rng(slot).standard_normal(exact[slot].shape)
        sides = [[*exact[:slot], exact[slot] + step * direction, *exact[slot + 1 :]] for step in (1e-5, -1e-5)]
        up, down = (np.sum(dys[0] * equations(*side)[0]) for side in sides)
        np.testing.assert_allclose(np.sum(gradient * direction), (up - down) / 2e-5, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("type_name", "gates", "others"), [("LSTM", 4, 0), ("RNN", 1, SIZE * SIZE)])
def test_params_and_macs(type_name, gates, others):
    it = layer(type_name, bottoms=3)
    shapes = [X, CONT, STATIC]
    params = it.params(shapes)
    rows = gates * SIZE
    steps = [(rows, SIZE)] if type_name == "LSTM" else [(SIZE, SIZE), (SIZE, SIZE), (SIZE,)]
    assert [p.shape for p in params] == [(rows, 10), (rows,), (rows, 7), *steps]
    assert [p.fan_in for p in params[:4]] == [10, 1, 7, SIZE]
    assert it.macs(shapes) == STEPS * STREAMS * (rows * 10 + rows * SIZE + others) + STREAMS * rows * 7
    assert it.tops(shapes) == ((STEPS, STREAMS, SIZE),)
    assert [it.classes(i, shapes) for i in range(3)] == [None, 2, None]


@pytest.mark.parametrize(
    ("params", "bottoms", "tops", "found"),
    [
        ("", [X, CONT, STATIC, STATE], 1, r"takes 2 bottoms .* and 1 tops; found 4 and 1"),
        ("expose_hidden: true", [X, CONT, STATE, STATE], 1, r"takes 4 bottoms .* and 3 tops; found 4 and 1"),
        ("", [X[:2], CONT], 1, "at least 3 axes"),
        ("", [X, (3, 4)], 1, r"must have shape \(4, 3\) \(timesteps, streams\); found \(3, 4\)"),
        ("", [X, CONT, (4, 7)], 1, r"static input, must have shape \(3, …\) \(streams, …\); found \(4, 7\)"),
        ("", [X, CONT, (3,)], 1, r"found \(3,\)"),
        ("expose_hidden: true", [X, CONT, STATE, (1, 2, 3)], 3, r"must have shape \(1, 3, 2\); found \(1, 2, 3\)"),
    ],
)
def test_refuses(params, bottoms, tops, found):
    with pytest.raises(NetError, match=rf"net.prototxt:7: layer 'l' \(LSTM\): .*{found}"):
        layer("LSTM", params, len(bottoms), tops).tops(bottoms)
    with pytest.raises(NetError, match="num_output must be positive"):
        layer("LSTM", size=0).tops([X, CONT])


def test_unit():
    """With marks other than 0 and 1 Caffe's gradient of the forget gate is not the derivative."""
    bottoms = [values(1, 3, 2), values(1, 3, 8, seed=1), np.array([[0, 1, 0.5]])]
    it = make('name: "l" type: "LSTMUnit" bottom: "c" bottom: "x" bottom: "cont" top: "d" top: "h"')
    dys = [values(1, 3, 2, seed=2), values(1, 3, 2, seed=3)]
    result = run(it, bottoms, dys=dys)
    before, gates, cont = bottoms
    cell, hidden = unit(before, gates, cont)
    np.testing.assert_allclose(result.tops[0], cell, rtol=1e-5)
    np.testing.assert_allclose(result.tops[1], hidden, rtol=1e-5)
    i, f, o, g = np.split(gates, 4, axis=-1)
    i, f, o, g = sigmoid(i), cont[..., None] * sigmoid(f), sigmoid(o), np.tanh(g)
    dc = dys[0] + dys[1] * o * (1 - np.tanh(cell) ** 2)
    parts = [dc * g * i * (1 - i), dc * before * f * (1 - f), dys[1] * np.tanh(cell) * o * (1 - o), dc * i * (1 - g**2)]
    np.testing.assert_allclose(result.bottoms[0], dc * f, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(result.bottoms[1], np.concatenate(parts, -1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(result.bottoms[2], np.zeros((1, 3)))
    with pytest.raises(NetError, match=r"\(1, N, D\), .*found \(1, 3, 2\), \(1, 3, 6\)"):
        it.tops([(1, 3, 2), (1, 3, 6), (1, 3)])


@pytest.mark.parametrize(("name", "layer"), golden_layers("lstm rnn", "LSTM", "RNN"))
def test_golden(name, layer):
    check_golden(name, layer)


@pytest.mark.parametrize("name", ["lstm", "rnn"])
def test_draws(name):
    """Every timestep draws its copies, so the second layer's weights show whether the first drew enough."""
    topology, tensors, protos = case(name)
    stream = Stream(topology["seed"])
    for entry in topology["layers"]:
        if entry["type"] in ("LSTM", "RNN"):
            layer = make(str(protos[entry["name"]]))
            shapes = [tuple(topology["blobs"][i]["shape"]) for i in entry["bottom_ids"]]
            drawn = layer.draw_params(stream, layer.params(shapes), shapes)
            for number, values in zip(entry["param_ids"], drawn, strict=True):
                np.testing.assert_array_equal(values, tensors[topology["params"][number]["file"] + ".init"])
