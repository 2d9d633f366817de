"""Ops that work element by element: the op itself, evaluated at the nodes of the normal variables behind its inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import numpy as np

from caffestat.graph import Node

from ..engine import Walk, backward_moments, moments
from ..heuristics.finite_width import through_function
from ..quadrature import NODES, WEIGHTS, Array, Points, cdf, expect, quantiles, ranks
from ..signal import Gradient, Signal, Term, factor, normalize_profile
from ..sums import batch_and_places, reduced
from .linear import known

Function = Callable[..., Array]
Gradients = Sequence[Gradient | None]

_STEP = 1e-4  # of the central difference, relative to the values' spread


def _erf(x: Array) -> Array:
    return np.asarray(2 * cdf(np.asarray(x) * math.sqrt(2)) - 1)


def _softplus(x: Array) -> Array:
    return np.logaddexp(0.0, x)


def _sigmoid(x: Array) -> Array:
    return np.exp(-np.logaddexp(0.0, -x))


def _elu(x: Array, alpha: float = 1.0) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def _selu(x: Array, alpha: float = 1.6732632, gamma: float = 1.0507010) -> Array:
    return gamma * _elu(x, alpha)


def _leaky(x: Array, alpha: float = 0.01) -> Array:
    return np.where(x > 0, x, alpha * x)


def _celu(x: Array, alpha: float = 1.0) -> Array:
    return alpha * _elu(x / alpha) if alpha else np.maximum(x, 0.0)


def _clip(x: Array, low: Any = None, high: Any = None) -> Array:
    return np.minimum(np.maximum(x, -np.inf if low is None else low), np.inf if high is None else high)


def _hard_sigmoid(x: Array, alpha: float = 0.2, beta: float = 0.5) -> Array:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def _shrink(x: Array, lambd: float = 0.5, bias: float = 0.0) -> Array:
    return np.where(x < -lambd, x + bias, np.where(x > lambd, x - bias, 0.0))


def _power(x: Array, y: Array) -> Array:
    return np.power(x.astype(np.complex128), y).real if np.any(x < 0) and np.any(y % 1) else np.power(x, y)


def _gelu(x: Array) -> Array:
    return x * (1 + _erf(x / math.sqrt(2))) / 2


def _where(condition: Array, a: Array, b: Array) -> Array:
    return np.where(condition > 0.5, a, b)


_SMOOTH: dict[str, Function] = {
    "Abs": np.abs,
    "Acos": np.arccos,
    "Acosh": np.arccosh,
    "Add": np.add,
    "Asin": np.arcsin,
    "Asinh": np.arcsinh,
    "Atan": np.arctan,
    "Atanh": np.arctanh,
    "Celu": _celu,
    "Clip": _clip,
    "Cos": np.cos,
    "Cosh": np.cosh,
    "DequantizeLinear": lambda x, scale, zero=0.0: (x - zero) * scale,
    "Div": np.divide,
    "Elu": _elu,
    "Erf": _erf,
    "Exp": np.exp,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda x: x * np.clip(x / 6 + 0.5, 0.0, 1.0),
    "LeakyRelu": _leaky,
    "Log": np.log,
    "Max": lambda *xs: np.maximum.reduce(np.broadcast_arrays(*xs)),
    "Mean": lambda *xs: sum(xs[1:], xs[0]) / len(xs),
    "Min": lambda *xs: np.minimum.reduce(np.broadcast_arrays(*xs)),
    "Mish": lambda x: x * np.tanh(_softplus(x)),
    "Mul": np.multiply,
    "Neg": np.negative,
    "Pow": _power,
    "PRelu": lambda x, slope: np.where(x > 0, x, slope * x),
    "Reciprocal": np.reciprocal,
    "Relu": partial(np.maximum, 0.0),
    "Selu": _selu,
    "Shrink": _shrink,
    "Sigmoid": _sigmoid,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Softplus": _softplus,
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    "Sum": lambda *xs: sum(xs[1:], xs[0]),
    "Tan": np.tan,
    "Tanh": np.tanh,
    "ThresholdedRelu": lambda x, alpha=1.0: np.where(x > alpha, x, 0.0),
    "Where": _where,
}

_STEPS: dict[str, Function] = {  # flat almost everywhere: no gradient passes them
    "And": lambda a, b: ((a > 0.5) & (b > 0.5)).astype(np.float64),
    "Ceil": np.ceil,
    "Equal": lambda a, b: (a == b).astype(np.float64),
    "Floor": np.floor,
    "Greater": lambda a, b: (a > b).astype(np.float64),
    "GreaterOrEqual": lambda a, b: (a >= b).astype(np.float64),
    "IsInf": lambda x: np.zeros_like(x),
    "IsNaN": lambda x: np.zeros_like(x),
    "Less": lambda a, b: (a < b).astype(np.float64),
    "LessOrEqual": lambda a, b: (a <= b).astype(np.float64),
    "Mod": lambda a, b: np.mod(a, np.where(b == 0, 1, b)),
    "Not": lambda x: 1.0 - x,
    "Or": lambda a, b: ((a > 0.5) | (b > 0.5)).astype(np.float64),
    "Round": np.round,
    "Sign": np.sign,
    "Xor": lambda a, b: ((a > 0.5) != (b > 0.5)).astype(np.float64),
}

_AFFINE: dict[str, Function] = {  # on stored statistics
    "BatchNormalization": lambda x, scale, bias, mean, variance, epsilon=1e-5: (
        scale * (x - mean) / np.sqrt(variance + epsilon) + bias
    ),
}

_ATTRIBUTES = ("alpha", "beta", "bias", "epsilon", "gamma", "lambd")


def _function(node: Node) -> Function:
    """Return the op as a function of the inputs that are there, its attributes filled in, quiet where it is not
    defined.
    """
    settings = {name: node.attributes[name] for name in _ATTRIBUTES if name in node.attributes}
    base = partial({**_SMOOTH, **_STEPS, **_AFFINE}[node.op], **settings)

    def quiet(*values: Array) -> Array:
        with np.errstate(all="ignore"):
            given = iter(values)
            return np.asarray(base(*(next(given) if name else None for name in node.inputs)), np.float64)

    return quiet


class _Grid:
    """The inputs of an op laid out over the normal variables behind them: none, one, or two that are independent."""

    def __init__(self, signals: Sequence[Signal]) -> None:
        self.latents: list[object] = []
        self.axes: list[int | None] = []
        for signal in signals:
            if signal.is_constant:
                self.axes.append(None)
                continue
            if signal.latent not in self.latents:
                self.latents.append(signal.latent)
            self.axes.append(self.latents.index(signal.latent))
        self.points = [self._spread(s.values, axis) for s, axis in zip(signals, self.axes, strict=True)]

    @property
    def rank(self) -> int:
        """How many independent variables there are."""
        return len(self.latents)

    def _spread(self, values: Array, axis: int | None) -> Array:
        if axis is None:
            return np.full((1,) * 2, values[0])
        return values[:, None] if axis == 0 else values[None, :]

    def expand(self, values: Array) -> Array:
        """Return values over the whole grid: [nodes, nodes], or [nodes, 1] with one variable."""
        return np.broadcast_to(values, (NODES.size, NODES.size if self.rank > 1 else 1))

    def given(self, values: Array, axis: int | None) -> Array:
        """Return E[values | u] for the variable of an axis; the mean at every node for None."""
        full = self.expand(values)
        if self.rank < 2:
            return full[:, 0] if axis == 0 else np.full_like(NODES, WEIGHTS @ full[:, 0])
        if axis is None:
            return np.full_like(NODES, WEIGHTS @ full @ WEIGHTS)
        return full @ WEIGHTS if axis == 0 else WEIGHTS @ full


def _inputs(walk: Walk, node: Node) -> list[Signal]:
    return [known(walk.signal(name)) for name in node.inputs if name]


@moments(*_SMOOTH, *_STEPS)
def elementwise(walk: Walk, node: Node) -> Sequence[Signal | None]:
    """y = f(x, …) at the nodes; with two independent inputs, at all pairs of nodes."""
    signals = _inputs(walk, node)
    plane = _spatial_factor(walk, node, signals)
    if plane:
        return [plane]
    grid = _Grid(signals)
    if grid.rank > 2:
        return [_of_many(node, signals) if node.op in ("Mean", "Sum") else None]
    values = grid.expand(_function(node)(*grid.points))
    if not np.isfinite(values).all():
        return [None]
    base = next((s for s, axis in zip(signals, grid.axes, strict=True) if axis is not None), signals[0])
    if grid.rank < 2:
        return [_of_one(base, np.array(values[:, 0]), node)]
    return [_of_two(walk, node, signals, grid, values)]


def _of_many(node: Node, signals: Sequence[Signal]) -> Signal:
    """Return a sum, or mean, of many terms, those apart that come from one variable."""
    apart: dict[object, Signal] = {}
    for s in signals:
        before = apart.get(s.latent)
        apart[s.latent] = replace(before, values=before.values + s.values) if before else s
    values = reduce(
        lambda a, b: quantiles(a[:, None] + b, np.outer(WEIGHTS, WEIGHTS)), (s.values for s in apart.values())
    )
    space, batch = (
        sum(cross - s.mean**2 for s in apart.values() for cross in [getattr(s, name)]) + expect(values) ** 2
        for name in ("cross_spatial", "cross_sample")
    )
    scale = 1 / len(signals) if node.op == "Mean" else 1.0
    return Signal.of_pairs(scale * values, scale**2 * space, scale**2 * batch, _profile_of_sum(signals))


def _of_one(base: Signal, values: Array, node: Node) -> Signal:
    """Return a function of the variable behind `base`; its spatial profile is kept where f(λx) = λ f(x)."""
    spatial_profile = base.spatial_profile if node.op not in ("Sigmoid", "Exp", "Where") else None
    if spatial_profile is not None and not _is_homogeneous(base, values):
        spatial_profile = _bent(spatial_profile, node, base)
    width = _finite_width_of(node, base, values)
    return replace(base, values=values, spatial_profile=spatial_profile, finite_width=width, channel_values=None)


def _finite_width_of(node: Node, base: Signal, values: Array) -> float | None:
    """Return the finite-width correction behind f, from d log E|f(λx)| / d log λ by differences."""
    if base.finite_width is None or base.finite_width == 1 or len([name for name in node.inputs if name]) != 1:
        return None
    more, less = (expect(np.abs(_function(node)(base.values * factor))) for factor in (1.05, 0.95))
    elasticity = (more - less) / 0.1 / max(expect(np.abs(values)), 1e-300)
    return through_function(base.finite_width, elasticity)


def _is_homogeneous(base: Signal, values: Array) -> bool:
    """Tell whether y is a multiple of x, on either side of 0."""
    with np.errstate(all="ignore"):
        slopes = np.where(base.values == 0, np.nan, values / base.values)
    sides = [slopes[base.values > 0], slopes[base.values < 0]]
    return all(side.size == 0 or np.ptp(side) <= 1e-6 * max(np.abs(side).max(), 1e-30) for side in sides)


def _bent(spatial_profile: Array, node: Node, base: Signal) -> Array | None:
    """Return the spatial_profile of f(x): E[f(√r·x)²] at a few strengths r, interpolated."""
    if len([name for name in node.inputs if name]) != 1:
        return spatial_profile
    function = _function(node)
    strengths = np.linspace(float(spatial_profile.min()), float(spatial_profile.max()), 9)
    seconds = [expect(function(base.values * math.sqrt(r)) ** 2) for r in strengths]
    return normalize_profile(np.interp(spatial_profile, strengths, seconds))


def _of_two(walk: Walk, node: Node, signals: Sequence[Signal], grid: _Grid, values: Array) -> Signal:
    result = quantiles(values, np.outer(WEIGHTS, WEIGHTS))
    if len(signals) != 2 or node.op not in ("Add", "Sub", "Mul", "Sum"):
        space, batch = (
            sum(rhos) / len(signals) for rhos in zip(*((s.rho_spatial, s.rho_sample) for s in signals), strict=True)
        )
        return Signal(result, space, batch, _profile_of_sum(signals))
    (a, b), places = signals, walk.shape(node.outputs[0])[2:]
    means = (-2 if node.op == "Sub" else 2) * expect(a.values) * expect(b.values)

    def cross(of_a: Any, of_b: Any) -> Any:
        return of_a * of_b if node.op == "Mul" else of_a + of_b + means

    space, batch = cross(a.cross_spatial, b.cross_spatial), cross(a.cross_sample, b.cross_sample)
    near = cross(a.cross_lag(places), b.cross_lag(places))
    is_even = a.is_even(places) and b.is_even(places)
    tables = () if is_even else zip(a.cross_along(places), b.cross_along(places), strict=True)
    along = [cross(*products) for products in tables]
    return Signal.of_pairs(result, space, batch, _profile_of_sum(signals), near, along)


def _profile_of_sum(signals: Sequence[Signal]) -> Array | None:
    maps = [s.spatial_profile for s in signals if s.spatial_profile is not None]
    if not maps or any(spatial_profile.shape != maps[0].shape for spatial_profile in maps):
        return None
    flat = np.ones_like(maps[0])
    return normalize_profile(
        sum(
            (s.second * (flat if s.spatial_profile is None else s.spatial_profile) for s in signals),
            np.zeros_like(flat),
        )
    )


def _spatial_factor(walk: Walk, node: Node, signals: Sequence[Signal]) -> Signal | None:
    """Return x times a constant plane [places…], which makes a spatial_profile; None for everything else."""
    if node.op != "Mul":
        return None
    for index, name in enumerate(node.inputs):
        plane, x = walk.constant(name), signals[1 - index]
        if (
            plane is not None
            and plane.ndim > 1
            and plane.size > 1
            and plane.shape == walk.shape(node.inputs[1 - index])[-plane.ndim :]
        ):
            spatial_profile = np.asarray(plane, np.float64) ** 2 * (
                1.0 if x.spatial_profile is None else x.spatial_profile
            )
            return replace(
                x,
                values=x.values * math.sqrt(spatial_profile.mean()),
                spatial_profile=normalize_profile(spatial_profile),
                finite_width=None,
                channel_values=None,
            )
    return None


@backward_moments(*_SMOOTH)
def elementwise_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = dy · ∂f/∂x; an input that was repeated over some axes gets the sum over them."""
    dy, y = dys[0], known(walk.signal(node.outputs[0]))
    assert dy is not None
    signals = _inputs(walk, node)
    grid = _Grid(signals)
    if grid.rank > 2:
        return [_of_many_backward(walk, node, name, dy) for name in node.inputs]
    values = grid.expand(_function(node)(*grid.points))
    u = Points.among_nodes(ranks(values, y.values)) if grid.rank > 1 else None
    result: list[Gradient | None] = []
    places = {place: index for index, place in enumerate(p for p, name in enumerate(node.inputs) if name)}
    for place, name in enumerate(node.inputs):
        if name in walk.graph.constants or not name:
            result.append(None)
            continue
        index = places[place]
        slope = _slope(node, grid, index)
        pulled = _pull(grid, grid.axes[index], slope, u)
        grads = {source: pulled(term) for source, term in dy.terms.items()}
        result.append(_unbroadcast(walk, node, name, dy, Gradient(grads), slope))
    return result


def _of_many_backward(walk: Walk, node: Node, name: str, dy: Gradient) -> Gradient:
    """dx = dy, or its share; what it owes to one of many terms is small."""
    scale, ones = 1 / len(node.inputs) if node.op == "Mean" else 1.0, np.ones_like(NODES)
    flat = {
        source: Term(*(scale**power * expect(part) * ones for part, power in zip(_parts(term), (1, 2, 1), strict=True)))
        for source, term in dy.terms.items()
    }
    return _unbroadcast(walk, node, name, dy, Gradient(flat), factor(scale * ones[:, None]))


def _parts(term: Term) -> tuple[Array, Array, Array]:
    return term.mean, term.second, term.absolute


def _slope(node: Node, grid: _Grid, index: int) -> Term:
    """Return ∂f/∂x over the grid by differences: at a kink both sides count half."""
    points = grid.points[index]
    step = _STEP * max(float(np.ptp(points)), abs(float(points.flat[0])), 1e-6) / 12
    here, above, below = (
        _function(node)(*[p + move * step if i == index else p for i, p in enumerate(grid.points)])
        for move in (0, 1, -1)
    )
    sides = [grid.expand(np.nan_to_num(d / step, posinf=0.0, neginf=0.0)) for d in (above - here, here - below)]
    left, right = sides
    return Term((left + right) / 2, (left**2 + right**2) / 2, (np.abs(left) + np.abs(right)) / 2)


def _pull(grid: _Grid, axis: int | None, slope: Term, u: Points | None) -> Callable[[Term], Term]:
    """Return what makes of a term E[term · slope | u of the input]; `u` is the output's over the grid, None for the
    input's own.
    """
    if u is None:
        return partial(_along_line, grid, axis, slope)
    slopes = [grid.expand(part) for part in _parts(slope)]
    along = WEIGHTS[:, None] if axis == 1 else WEIGHTS
    matrices = [u.sums_at_nodes(part * along, axis or 0) for part in slopes]
    if axis is None:
        matrices = [np.broadcast_to(WEIGHTS @ matrix, matrix.shape) for matrix in matrices]
    return lambda term: Term(*(matrix @ part for matrix, part in zip(matrices, _parts(term), strict=True)))


def _along_line(grid: _Grid, axis: int | None, slope: Term, term: Term) -> Term:
    product = Term(*(part[:, None] for part in _parts(term))).times(slope)
    return Term(*(grid.given(part, axis) for part in _parts(product)))


def _unbroadcast(walk: Walk, node: Node, name: str, dy: Gradient, dx: Gradient, slope: Term) -> Gradient:
    """Return the gradient of an input smaller than the output: summed over the places that share it."""
    tops, shape = walk.shape(node.outputs[0]), walk.shape(name)
    if not tops or math.prod(shape) >= math.prod(tops):
        return dx
    y, count = known(walk.signal(node.outputs[0])), math.prod(tops) / max(math.prod(shape), 1)
    window = _shared_places(tops, shape, count)
    if slope.mean.shape[1] > 1:  # the slope is in dx already, which then depends on nothing else
        return Gradient.of(reduced(None, dx, y, count, window))
    other = Signal(slope.mean[:, 0], y.rho_spatial, y.rho_sample)
    return Gradient.of(reduced(other, dy, y, count, window))


def _shared_places(tops: tuple[int, ...], shape: tuple[int, ...], count: float) -> tuple[int, ...]:
    """Return (samples, 1, places…) of the elements that one element of the smaller input meets."""
    samples, places = batch_and_places(tops)
    if shape == tops[len(tops) - len(shape) :]:
        return int(count), 1
    if len(shape) == len(tops) and shape[0] == samples and samples > 1:
        return 1, 1, int(count)
    return (samples, 1, *tops[2:]) if count >= samples * places else (int(count), 1)


@moments("Cast", "CastLike", "Identity")
def same(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = x."""
    return _inputs(walk, node)[:1]


@backward_moments("Cast", "CastLike", "Identity")
def same_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = dy."""
    return [dys[0], *[None] * (len(node.inputs) - 1)]
