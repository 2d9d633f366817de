"""What activations do to their input: one description for ONNX ops and for Caffe's layers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = [
    "LINEAR",
    "RELU",
    "SIGMOID",
    "SOFTMAX",
    "TANH",
    "Nonlinearity",
    "clip",
    "leaky",
    "rectifier",
    "squashing",
]

Derivative = Callable[[float], float]


@dataclass(frozen=True)
class Nonlinearity:
    """An activation y = f(x).

    rectifies     cuts or shrinks the negative half of its input: weights need twice the variance (He et al. 2015)
    slope_square  E[slope²] of the negative half of a rectifier
    derivative    f'(x); None where an element's output depends on the others'
    """

    rectifies: bool
    slope_square: float = 0.0
    derivative: Derivative | None = field(default=None, compare=False)

    @property
    def slope_at_zero(self) -> float | None:
        """The mean of f' on both sides of 0; None without a derivative."""
        return (self.derivative(-1e-9) + self.derivative(1e-9)) / 2 if self.derivative else None

    @property
    def cuts(self) -> bool:
        """Whether it is a rectifier that gives 0 for all of the negative half."""
        return self.rectifies and self.derivative is not None and not any(map(self.derivative, (-1e-9, -1.0, -30.0)))

    @property
    def slope_below_zero(self) -> float:
        """f' just below 0: 1 where a rectifier has no kink; of an activation without a derivative as well."""
        return self.derivative(-1e-9) if self.derivative else 1.0

    @property
    def squashes(self) -> bool:
        """Whether f is flat on both sides."""
        flat = self.derivative and max(self.derivative(-30.0), self.derivative(30.0))
        return flat is not None and flat < 1e-3

    @property
    def weight_gain(self) -> float:
        """n · Var(w) that keeps the second moment: 2 / (1 + slope²) in front of a rectifier, else 1."""
        return 2 / (1 + self.slope_square) if self.rectifies else 1.0

    @property
    def saturates_beyond(self) -> float | None:
        """The |x| of a squashing function beyond which the slope is below a twentieth of that at 0; None for others."""
        return self.flat_beyond(self.derivative(0.0) / 20) if self.derivative else None

    def is_flat(self, x: float, level: float) -> bool:
        """Tell whether the slope at x is below `level`."""
        return self.derivative is not None and abs(self.derivative(x)) < level

    def flat_beyond(self, level: float) -> float | None:
        """Return the |x| of a squashing function beyond which the slope is below `level`; None for any other."""
        if not self.squashes or self.derivative is None:
            return None
        low, high = 0.0, 30.0
        while high - low > 1e-4:
            middle = (low + high) / 2
            low, high = (low, middle) if self.is_flat(middle, level) else (middle, high)
        return high


def rectifier(derivative: Derivative, slope_square: float = 0.0) -> Nonlinearity:
    """Return an activation that cuts or shrinks its negative half."""
    return Nonlinearity(True, slope_square, derivative)


def squashing(derivative: Derivative | None) -> Nonlinearity:
    """Return an activation that keeps both halves near 0: sigmoids."""
    return Nonlinearity(False, 0.0, derivative)


def leaky(slope: float, slope_square: float | None = None) -> Nonlinearity:
    """Return max(x, 0) + slope · min(x, 0); `slope_square` is E[slope²] where the slopes differ."""
    return rectifier(lambda x: 1.0 if x > 0 else slope, slope**2 if slope_square is None else slope_square)


def clip(low: float, high: float) -> Nonlinearity:
    """Return min(max(x, low), high): a rectifier when it cuts at 0 or above, a sigmoid when it cuts below."""
    return Nonlinearity(low >= 0, 0.0, lambda x: float(low < x < high))


def sigmoid(x: float) -> float:
    """Return 1 / (1 + e⁻ˣ)."""
    return 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))


def _d_sigmoid(x: float) -> float:
    return sigmoid(x) * sigmoid(-x)


def _normal(x: float) -> float:
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def _d_mish(x: float) -> float:
    t = math.tanh(math.log1p(math.exp(min(x, 30.0))))
    return t + x * sigmoid(x) * (1 - t * t)


def elu(alpha: float) -> Nonlinearity:
    """Return x for x > 0, alpha · (eˣ - 1) below. (Clevert et al. 2016)"""
    return rectifier(lambda x: 1.0 if x > 0 else alpha * math.exp(x))


def selu(alpha: float, gamma: float) -> Nonlinearity:
    """Return the scaled ELU. It keeps E[x²] = 1 with Var(w) = 1 / n. (Klambauer et al. 2017)"""
    return Nonlinearity(False, 0.0, lambda x: gamma * (1.0 if x > 0 else alpha * math.exp(x)))


def celu(alpha: float) -> Nonlinearity:
    """Return max(x, 0) + min(alpha · (e^(x / alpha) - 1), 0)."""
    return rectifier(lambda x: 1.0 if x > 0 or not alpha else math.exp(x / alpha))


def swish(beta: float = 1.0) -> Nonlinearity:
    """Return x · sigmoid(beta · x)."""
    return rectifier(lambda x: sigmoid(beta * x) + beta * x * _d_sigmoid(beta * x))


def hard_sigmoid(alpha: float, beta: float) -> Nonlinearity:
    """Return min(max(alpha · x + beta, 0), 1)."""
    return squashing(lambda x: alpha if 0 < alpha * x + beta < 1 else 0.0)


LINEAR = Nonlinearity(False, 0.0, lambda x: 1.0)
"""No activation at all."""

RELU = leaky(0.0)
SIGMOID = squashing(_d_sigmoid)
TANH = squashing(lambda x: 1 - math.tanh(x) ** 2)
SOFTMAX = squashing(None)
"""No rectifier, and no function of one element: softmax, and losses that hold their activation."""
SOFTPLUS = rectifier(sigmoid)
SOFTSIGN = squashing(lambda x: 1 / (1 + abs(x)) ** 2)
GELU = rectifier(lambda x: (1 + math.erf(x / math.sqrt(2))) / 2 + x * _normal(x))
MISH = rectifier(_d_mish)
HARD_SWISH = rectifier(lambda x: 0.0 if x <= -3 else 1.0 if x >= 3 else x / 3 + 0.5)
