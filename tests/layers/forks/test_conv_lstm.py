"""ConvLSTM against its equations, written out; gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run

RANDOM = np.random.default_rng(31)
STEPS, STREAMS, CHANNELS, SIZE, OUTPUTS = 3, 2, 2, (4, 3), 3
TEXT = """name: "l" type: "%s" bottom: "x" bottom: "c" %s top: "h" %s recurrent_param { expose_hidden: %s }
  lstm_conv_param { type: "input" num_output: 3 kernel_size: 1 weight_filler { type: "gaussian" } }
  lstm_conv_param { type: "hidden" num_output: 3 kernel_size: 3 pad: 1 weight_filler { type: "gaussian" } }"""
EXPOSED = TEXT % ("%s", 'bottom: "a" bottom: "b"', 'top: "d" top: "e"', "true")


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def convolve(x: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    pad = kernels.shape[2] // 2
    padded = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    y = np.zeros((len(x), len(kernels), *x.shape[2:]))
    for i, j in np.ndindex(*kernels.shape[2:]):
        part = padded[:, :, i : i + x.shape[2], j : j + x.shape[3]]
        y += np.einsum("nchw,oc->nohw", part, kernels[:, :, i, j])
    return y


def unrolled(squash, x, cont, h, c, w_x, w_h, b, *peepholes):
    """conv_lstm_layer.cpp and conv_lstm_unit_layer.cpp: the top, and the last h and c."""
    (h,), (c,), hidden = h, c, []
    for t in range(len(x)):
        mark = cont[t][:, None, None, None]
        gates = convolve(x[t], w_x) + convolve(h * mark, w_h) + b[:, None, None]
        i, f, o, g = np.split(gates, 4, axis=1)
        if peepholes:
            i, f, o = (gate + w * c for gate, w in zip((i, f, o), peepholes, strict=True))
        c = mark * sigmoid(f) * c + sigmoid(i) * squash(g)
        h = sigmoid(o) * squash(c)
        hidden.append(h)
    return np.stack(hidden), h[None], c[None]


def arrays() -> list[np.ndarray]:
    state = (1, STREAMS, OUTPUTS, *SIZE)
    cont = np.array([[0, 1], [1, 0], [1, 1]], float)
    shapes = [(STEPS, STREAMS, CHANNELS, *SIZE), cont, state, state, (12, 2, 1, 1), (12, 3, 3, 3), (12,), *[SIZE] * 3]
    return [shape if isinstance(shape, np.ndarray) else RANDOM.normal(size=shape) * 0.5 for shape in shapes]


@pytest.mark.parametrize(("kind", "squash"), [("ConvLSTM", np.tanh), ("ConvLSTMReLU", lambda x: np.maximum(x, 0))])
@pytest.mark.parametrize("peepholes", [True, False])
def test_conv_lstm_and_its_gradients_through_exposed_states(kind: str, squash, peepholes: bool) -> None:
    layer = make(EXPOSED % kind + f" lstm_debug_param {{ disable_hadamard: {not peepholes} }}".lower())
    given = arrays() if peepholes else arrays()[:7]
    bottoms = [array.shape for array in given[:4]]
    state = given[2].shape
    assert layer.tops(bottoms) == ((STEPS, *state[1:]), state, state)
    assert [param.shape for param in layer.params(bottoms)] == [array.shape for array in given[4:]]
    dys = [RANDOM.normal(size=shape).astype(np.float32) for shape in layer.tops(bottoms)]
    result = run(layer, given[:4], given[4:], dys)
    for top, wanted in zip(result.tops, unrolled(squash, *given), strict=True):
        np.testing.assert_allclose(top, wanted, rtol=1e-4, atol=1e-5)

    def loss(values: list[np.ndarray]) -> float:
        return sum((top * dy).sum() for top, dy in zip(unrolled(squash, *values), dys, strict=True))

    found = [*result.bottoms, *result.params]
    for index in [0, *range(2, len(given))]:
        direction = RANDOM.normal(size=given[index].shape)
        moved = [[a + s * direction if i == index else a for i, a in enumerate(given)] for s in (1e-6, -1e-6)]
        slope = (loss(moved[0]) - loss(moved[1])) / 2e-6
        np.testing.assert_allclose(
            (found[index] * direction).sum(), slope, rtol=2e-3, atol=1e-3, err_msg=f"array {index}"
        )


def test_a_decoder_without_x_starts_at_its_states() -> None:
    text = EXPOSED % "ConvLSTM" + " lstm_debug_param { ignore_x: true disable_hadamard: true }"
    layer, given = make(text), arrays()
    assert len(layer.params([a.shape for a in given[:4]])) == 2
    nothing = np.zeros((12, 2, 1, 1))
    found = run(
        layer, given[:4], given[5:7], [np.zeros(s, np.float32) for s in layer.tops([a.shape for a in given[:4]])]
    )
    wanted = unrolled(np.tanh, *given[:4], nothing, *given[5:7])
    np.testing.assert_allclose(found.tops[0], wanted[0], rtol=1e-4, atol=1e-5)


def test_shapes_that_do_not_fit() -> None:
    layer = make(EXPOSED % "ConvLSTM")
    with pytest.raises(NetError, match=r"expected states of shape \(1, 2, 3, 4, 3\)"):
        layer.tops([(3, 2, 2, 4, 3), (3, 2), (1, 2, 2, 4, 3), (1, 2, 3, 4, 3)])
