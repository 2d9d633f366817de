"""Gradients of Fourier transforms: against numpy, finite differences and torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import helper

from caffestat.autodiff import backward, gradient
from caffestat.errors import GradientError
from caffestat.graph import Graph

from ..graph.models import model, normal, run
from .check import check_grads
from .test_rules import X

DOUBLE = 1e-6  # the runtime's sines are those of float32 in double precision, too


def as_complex(x: np.ndarray) -> np.ndarray:
    return np.asarray(x[..., 0] + 1j * x[..., 1] if x.shape[-1] == 2 else x[..., 0])


def as_pairs(x: np.ndarray) -> np.ndarray:
    return np.stack([x.real, x.imag], -1)


@pytest.mark.parametrize("length", [None, 9, 4], ids=str)
@pytest.mark.parametrize(
    ("shape", "axis", "how"),
    [
        ((2, 6, 3, 1), 1, {}),
        ((2, 6, 3, 2), -3, {}),
        ((2, 3, 6, 1), -2, {"onesided": 1}),
        ((3, 7, 1), 1, {"onesided": 1}),
        ((2, 6, 3, 2), 1, {"inverse": 1}),
    ],
)
def test_dft(shape: tuple[int, ...], axis: int, how: dict[str, int], length: int | None) -> None:
    def numpy(x: np.ndarray, *_: Any) -> np.ndarray:
        transform = np.fft.ifft if how.get("inverse") else np.fft.rfft if how.get("onesided") else np.fft.fft
        return as_pairs(transform(as_complex(x), length, axis % len(shape)))

    def build(g: Graph, x: str) -> str:
        size = "" if length is None else g.constant(length, np.int64)
        return g.emit("DFT", x, size, g.constant(axis, np.int64), **how)

    check_grads(build, X(*shape), reference=numpy, double=DOUBLE)


@pytest.mark.parametrize("length", [None, 14, 9, 4], ids=str)
@pytest.mark.parametrize(("shape", "axis"), [((2, 6, 3, 2), 1), ((2, 6, 2), -2)])
def test_the_real_signal_of_half_a_spectrum(shape: tuple[int, ...], axis: int, length: int | None) -> None:
    def numpy(x: np.ndarray) -> np.ndarray:
        return np.fft.irfft(as_complex(x), length, axis % len(shape))[..., None]

    def build(g: Graph, x: str) -> str:
        size = "" if length is None else g.constant(length, np.int64)
        return g.emit("DFT", x, size, g.constant(axis, np.int64), inverse=1, onesided=1)

    check_grads(build, X(*shape), reference=numpy, double=DOUBLE)


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize(("shape", "length", "step"), [((2, 19, 1), 6, 4), ((3, 17), 5, 5)])
def test_stft(shape: tuple[int, ...], length: int, step: int, onesided: int) -> None:
    def numpy(x: np.ndarray, window: np.ndarray) -> np.ndarray:
        starts = np.arange(0, shape[1] - length + 1, step)
        frames = x.reshape(shape[:2])[:, starts[:, None] + np.arange(length)] * window
        return as_pairs(np.fft.rfft(frames) if onesided else np.fft.fft(frames))

    def build(g: Graph, x: str, window: str) -> str:
        return g.emit("STFT", x, g.constant(step, np.int64), window, g.constant(length, np.int64), onesided=onesided)

    check_grads(build, X(*shape), X(length, seed=2), reference=numpy, double=DOUBLE)


def test_an_stft_without_a_window() -> None:
    def build(g: Graph, x: str) -> str:
        return g.emit("STFT", x, g.constant(3, np.int64), "", g.constant(4, np.int64), onesided=1)

    starts = np.arange(0, 8, 3)[:, None] + np.arange(4)
    check_grads(build, X(2, 11, 1), reference=lambda x: as_pairs(np.fft.rfft(x[..., 0][:, starts])), double=DOUBLE)


def test_what_has_no_rule_is_refused() -> None:
    g = Graph()
    x, window = g.input("x", (2, 20)), g.input("w", (5,))
    y = g.emit("STFT", x, g.constant(4, np.int64), window, g.constant(8, np.int64))
    g.declare(y, (2, 4, 5, 2))
    with pytest.raises(GradientError, match=r"STFT .*: the window is not as long as a frame"):
        backward(g, {y: g.constant(np.ones((2, 4, 5, 2)))}, [x])


def test_a_stored_window_has_a_gradient() -> None:
    """It multiplies what is transformed: the gradients of a model's weights are never zero for want of a rule."""
    arrays = {"step": np.array(4), "w": normal(6, seed=2)}
    proto = model([helper.make_node("STFT", ["x", "step", "w"], ["y"])], {"x": (2, 14, 1)}, ["y"], arrays, 17)
    x = normal(2, 14, 1, seed=1)
    found = run(gradient(proto), {"x": x, "cotangent/y": np.ones((2, 3, 4, 2), np.float32)})
    frames = x[..., 0][:, np.arange(0, 9, 4)[:, None] + np.arange(6)]
    waves = np.fft.rfft(np.eye(6))
    expected = frames.sum((0, 1)) * (waves.real + waves.imag).sum(1)
    np.testing.assert_allclose(found["grad/w"], expected, rtol=1e-4, atol=1e-5)
