"""Caffe's solvers: how a gradient becomes an update. One class per solver, registered by the solver's type.

All arithmetic is float32. Caffe's axpby computes `a*x + b*y` as a scaling followed by an axpy, which the BLAS evaluates
with a fused multiply-add: round(a*x + round(b*y)).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from caffestat.engine.axpby import axpby as fused_axpby

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = [
    "BLOCK",
    "LEGACY_TYPES",
    "SOLVERS",
    "Rule",
    "Scratch",
    "emit_sum",
    "emit_times",
    "fma",
    "rule_of",
    "scale",
    "solver",
    "solver_type",
]

Array = NDArray[np.float32]

BLOCK = 1 << 18  # elements worked on at a time: few enough for the cache, so many that threads seldom wait for Python
_LARGE = 1 << 14  # elements from which on a kernel of the runtime is worth the call

LEGACY_TYPES = ("SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta", "Adam")
"""The solver types by the numbers of the former enum `solver_type`."""


class Scratch:
    """Temporary arrays for blocks of up to BLOCK elements; each thread has its own.

    fused: let the runtime compute the multiply-adds of large blocks, in half of the time; only where its kernel `fuses`
    """

    def __init__(self, fused: bool = False) -> None:
        self.fused = fused
        self._wide = np.empty(BLOCK, np.float64)
        self._narrow = [np.empty(BLOCK, np.float32) for _ in range(2)]

    def wide(self, size: int) -> NDArray[np.float64]:
        """Return a float64 array of this size."""
        return self._wide[:size]

    def narrow(self, size: int, number: int = 0) -> Array:
        """Return the float32 array of this number, 0 or 1."""
        return self._narrow[number][:size]


def fma(a: np.float32, x: Array, y: Array, scratch: Scratch) -> None:
    """Compute y = round(a*x + y) in place."""
    axpby(a, x, np.float32(1), y, scratch)


def axpby(a: np.float32, x: Array, b: np.float32, y: Array, scratch: Scratch) -> None:
    """Compute y = round(a*x + round(b*y)) in place as Caffe's caffe_cpu_axpby does.

    In numpy: the product of two float32 numbers is exact in float64; the sum is rounded to float64 and then to float32,
    which differs from one rounding for about one in 10^9 elements, by the last bit. As in the BLAS, what has the
    factor 0 is not read: no NaN comes of it.
    """
    if a and b and scratch.fused and x.size >= _LARGE:
        fused_axpby(a, x, b, y)
        return
    scale(y, b)
    if not a:
        return
    wide = scratch.wide(x.size)
    wide[...] = x  # numpy is faster with a conversion of its own than with operands of two types
    np.multiply(wide, np.float64(a), out=wide)
    np.add(wide, y, out=wide)
    y[...] = wide


def scale(x: Array, factor: np.float32) -> None:
    """Multiply in place as the BLAS does: the factor 0 makes zeros of NaN and infinities too."""
    if not factor:
        x.fill(0)
    elif factor != 1:
        np.multiply(x, factor, out=x)


def emit_times(g: Graph, factor: np.float32 | str, x: str) -> str:
    """Emit factor · x; the factor is a number, or a value of one element."""
    if isinstance(factor, str):
        return g.emit("Mul", x, factor)
    return x if factor == 1 else g.emit("Mul", x, g.constant(factor))


def emit_sum(g: Graph, a: np.float32 | str, x: str, b: np.float32 | str, y: str) -> str:
    """Emit a · x + b · y; both products are rounded, where `axpby` rounds one."""
    return g.emit("Add", emit_times(g, a, x), emit_times(g, b, y))


class Rule:
    """What a solver does with the gradient of one param.

    A rule has two forms: `update` works on arrays of the host; `emit`, which a rule may lack, is compiled for devices
    where the params live. Without it the params are updated on the host on every device.

    histories: how many arrays of the param's shape the solver keeps for each param.
    """

    type: ClassVar[str]
    histories: ClassVar[int] = 1
    takes_momentum: ClassVar[bool] = True

    def __init__(self, message: Any) -> None:
        self.momentum = np.float32(message.momentum)
        self.delta = np.float32(message.delta)

    def factor(self, rate: np.float32, iteration: int) -> np.float32:
        """Return what the rule multiplies by, from the learning rate times lr_mult; the same for all of a param."""
        return rate

    def update(self, g: Array, history: Sequence[Array], rate: np.float32, scratch: Scratch) -> None:
        """Turn the gradient `g` into the update, and bring the history up to date, both in place.

        The arrays are flat blocks of one param; `rate` is what `factor` returned.
        """
        raise NotImplementedError

    def emit(self, g: Graph, gradient: str, history: Sequence[str], rate: str) -> tuple[str, Sequence[str]]:
        """Emit the same computation and return the update and the new history; the values are flat.

        The new history is written over the old one: the node that computes it must depend on all that read the old one.
        """
        raise NotImplementedError

    @classmethod
    def is_compilable(cls) -> bool:
        """Tell whether the rule has a form that can be compiled."""
        return cls.emit is not Rule.emit


SOLVERS: dict[str, type[Rule]] = {}
"""The classes by solver type."""


def solver(name: str) -> Callable[[type[Rule]], type[Rule]]:
    """Register a Rule for a solver type. Raises ValueError when the type is taken, and for a class without `update`."""

    def register(cls: type[Rule]) -> type[Rule]:
        if not issubclass(cls, Rule) or cls.update is Rule.update:
            raise ValueError(f"solver type {name!r}: class {cls.__qualname__} is no Rule with an update of its own")
        if name in SOLVERS:
            raise ValueError(f"solver type {name!r} is already registered by {SOLVERS[name].__qualname__}")
        cls.type = name
        SOLVERS[name] = cls
        return cls

    return register


def solver_type(message: Any) -> str:
    """Return the solver's type, from `type` or the former `solver_type`."""
    return LEGACY_TYPES[message.solver_type] if message.HasField("solver_type") else str(message.type)


def rule_of(message: Any) -> Rule:
    """Return the rule of a SolverParameter whose type is known to exist."""
    return SOLVERS[solver_type(message)](message)


@solver("SGD")
class SGD(Rule):
    """h = r*g + m*h; update h. (sgd_solver.cpp)"""

    def update(self, g: Array, history: Sequence[Array], rate: np.float32, scratch: Scratch) -> None:
        axpby(rate, g, self.momentum, history[0], scratch)
        g[...] = history[0]

    def emit(self, g: Graph, gradient: str, history: Sequence[str], rate: str) -> tuple[str, Sequence[str]]:
        update = emit_sum(g, rate, gradient, self.momentum, history[0])
        return update, [update]


@solver("Nesterov")
class Nesterov(Rule):
    """o = h; h = r*g + m*h; update (1 + m)*h - m*o. (nesterov_solver.cpp)"""

    def update(self, g: Array, history: Sequence[Array], rate: np.float32, scratch: Scratch) -> None:
        before = scratch.narrow(g.size)
        before[...] = history[0]
        axpby(rate, g, self.momentum, history[0], scratch)
        axpby(np.float32(1) + self.momentum, history[0], -self.momentum, before, scratch)
        g[...] = before

    def emit(self, g: Graph, gradient: str, history: Sequence[str], rate: str) -> tuple[str, Sequence[str]]:
        kept = emit_times(g, self.momentum, history[0])
        new = g.emit("Add", emit_times(g, rate, gradient), kept)
        return g.emit("Sub", emit_times(g, np.float32(1) + self.momentum, new), kept), [new]


class _Adaptive(Rule):
    """What AdaGrad and RMSProp share: update r * (g / (sqrt(h) + delta)), h holding squares of gradients."""

    takes_momentum = False

    def update(self, g: Array, history: Sequence[Array], rate: np.float32, scratch: Scratch) -> None:
        square = scratch.narrow(g.size)
        np.multiply(g, g, out=square)
        self.accumulate(square, history[0], scratch)
        np.sqrt(history[0], out=square)
        np.add(square, self.delta, out=square)
        np.divide(g, square, out=g)
        scale(g, rate)

    def accumulate(self, square: Array, history: Array, scratch: Scratch) -> None:
        """Add the squared gradient to the history in place."""
        raise NotImplementedError

    def emit(self, g: Graph, gradient: str, history: Sequence[str], rate: str) -> tuple[str, Sequence[str]]:
        new = self.emit_accumulated(g, g.emit("Mul", gradient, gradient), history[0])
        return emit_times(g, rate, _emit_slope(g, gradient, new, self.delta)), [new]

    def emit_accumulated(self, g: Graph, square: str, history: str) -> str:
        """Emit the history with the squared gradient added."""
        raise NotImplementedError


@solver("AdaGrad")
class AdaGrad(_Adaptive):
    """h = g*g + h; update r * (g / (sqrt(h) + delta)). (adagrad_solver.cpp)"""

    def accumulate(self, square: Array, history: Array, scratch: Scratch) -> None:
        np.add(square, history, out=history)

    def emit_accumulated(self, g: Graph, square: str, history: str) -> str:
        return g.emit("Add", square, history)


@solver("RMSProp")
class RMSProp(_Adaptive):
    """h = (1 - q)*g*g + q*h; update r * (g / (sqrt(h) + delta)), with q the rms_decay. (rmsprop_solver.cpp)"""

    def __init__(self, message: Any) -> None:
        super().__init__(message)
        self.decay = np.float32(message.rms_decay)

    def accumulate(self, square: Array, history: Array, scratch: Scratch) -> None:
        axpby(np.float32(1) - self.decay, square, self.decay, history, scratch)

    def emit_accumulated(self, g: Graph, square: str, history: str) -> str:
        return emit_sum(g, np.float32(1) - self.decay, square, self.decay, history)


@solver("AdaDelta")
class AdaDelta(Rule):
    """h = (1 - m)*g*g + m*h; u = g * sqrt((delta + h2) / (delta + h)); h2 = (1 - m)*u*u + m*h2; update r*u.

    Source: adadelta_solver.cpp.
    """

    histories = 2

    def update(self, g: Array, history: Sequence[Array], rate: np.float32, scratch: Scratch) -> None:
        ratio, below = scratch.narrow(g.size), scratch.narrow(g.size, 1)
        self._accumulate(g, history[0], scratch)
        np.add(self.delta, history[1], out=ratio)
        np.add(self.delta, history[0], out=below)
        np.divide(ratio, below, out=ratio)
        np.sqrt(ratio, out=ratio)
        np.multiply(g, ratio, out=g)
        self._accumulate(g, history[1], scratch)
        scale(g, rate)

    def _accumulate(self, values: Array, history: Array, scratch: Scratch) -> None:
        square = scratch.narrow(values.size)
        np.multiply(values, values, out=square)
        axpby(np.float32(1) - self.momentum, square, self.momentum, history, scratch)

    def emit(self, g: Graph, gradient: str, history: Sequence[str], rate: str) -> tuple[str, Sequence[str]]:
        gradients, updates = history
        new = self._emit_accumulated(g, gradient, gradients)
        above, below = (g.emit("Add", value, g.constant(self.delta)) for value in (updates, new))
        update = g.emit("Mul", gradient, g.emit("Sqrt", g.emit("Div", above, below)))
        return emit_times(g, rate, update), [new, self._emit_accumulated(g, update, updates)]

    def _emit_accumulated(self, g: Graph, value: str, history: str) -> str:
        return emit_sum(g, np.float32(1) - self.momentum, g.emit("Mul", value, value), self.momentum, history)


@solver("Adam")
class Adam(Rule):
    """h = (1 - b1)*g + b1*h; h2 = (1 - b2)*g*g + b2*h2; update r*c * (h / (sqrt(h2) + delta)).

    c = sqrt(1 - b2^t) / (1 - b1^t) with t the iteration counted from 1, in double precision, then rounded; b1 is the
    momentum and b2 momentum2. (adam_solver.cpp)
    """

    histories = 2

    def __init__(self, message: Any) -> None:
        super().__init__(message)
        self.momentum2 = np.float32(message.momentum2)

    def factor(self, rate: np.float32, iteration: int) -> np.float32:
        with np.errstate(all="ignore"):  # a momentum above 1 overflows
            first, second = (1 - np.float64(beta) ** (iteration + 1) for beta in (self.momentum, self.momentum2))
            return rate * np.float32(np.sqrt(second) / first)

    def update(self, g: Array, history: Sequence[Array], rate: np.float32, scratch: Scratch) -> None:
        square = scratch.narrow(g.size)
        axpby(np.float32(1) - self.momentum, g, self.momentum, history[0], scratch)
        np.multiply(g, g, out=square)
        axpby(np.float32(1) - self.momentum2, square, self.momentum2, history[1], scratch)
        np.sqrt(history[1], out=square)
        np.add(square, self.delta, out=square)
        np.divide(history[0], square, out=g)
        scale(g, rate)

    def emit(self, g: Graph, gradient: str, history: Sequence[str], rate: str) -> tuple[str, Sequence[str]]:
        square = g.emit("Mul", gradient, gradient)
        first = emit_sum(g, np.float32(1) - self.momentum, gradient, self.momentum, history[0])
        second = emit_sum(g, np.float32(1) - self.momentum2, square, self.momentum2, history[1])
        return emit_times(g, rate, _emit_slope(g, first, second, self.delta)), [first, second]


def _emit_slope(g: Graph, x: str, squares: str, delta: np.float32) -> str:
    """Emit x / (√squares + delta)."""
    return g.emit("Div", x, g.emit("Add", g.emit("Sqrt", squares), g.constant(delta)))
