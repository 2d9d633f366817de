"""Normalizations: over the batch, and over neighbouring channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from caffestat.graph import Node

from ..borders import correlations_of
from ..engine import Walk, backward_moments, moments
from ..heuristics.lognormal import lognormal
from ..lags import Axis
from ..quadrature import NODES, WEIGHTS, Array, expect
from ..signal import Gradient, Signal, Source, Term, factor, normal
from ..sums import batch_and_places, channel_mean_square
from .elementwise import elementwise, elementwise_backward
from .linear import known

Gradients = Sequence[Gradient | None]


def is_training(node: Node) -> bool:
    """Tell whether the statistics are the batch's."""
    return bool(node.get("training_mode", 0))


@moments("BatchNormalization")
def batch_norm(walk: Walk, node: Node) -> Sequence[Signal | None]:
    """On batch statistics mean 0 and second moment 1, whatever comes in; on given ones an affine map."""
    if not is_training(node):
        return elementwise(walk, node)
    x = known(walk.signal(node.inputs[0]))
    shared = channel_mean_square(x.second, *x.crosses, walk.shape(node.inputs[0]))
    variance = max(x.second - shared, 0.0)
    square = variance + node.get("epsilon", 1e-5)
    if not square > 0:
        return [None] * len(node.outputs)
    scale = 1 / math.sqrt(square)
    values = x.values if x.channel_values is None else x.channel_values
    spread = math.sqrt(max(expect(values**2) - expect(values) ** 2, 1e-300))
    values = (values - expect(values)) / spread * math.sqrt(variance) * scale
    size = max(expect(values**2), 1e-300) / scale**2
    space, batch = (min(max((cross - shared) / size, 0.0), 1.0) for cross in (x.cross_spatial, x.cross_sample))
    places = walk.shape(node.inputs[0])[2:]
    near = np.clip((x.cross_lag(places) - shared) / size, 0.0, 1.0)
    along = tuple(correlations_of(products - shared) for products in x.cross_along(places))
    y = Signal(values, space, batch, x.spatial_profile, x.latent, 1.0, near, rho_along=along)
    return [y, normal(x.mean, shared - x.mean**2), Signal(np.full_like(NODES, variance))]


@backward_moments("BatchNormalization")
def batch_norm_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = (dy - mean(dy) - y·mean(dy·y)) / σ: what all elements of a channel have in common is taken out."""
    if not is_training(node):
        return elementwise_backward(walk, node, dys)
    dy, (x, y) = dys[0], (known(walk.signal(name)) for name in (node.inputs[0], node.outputs[0]))
    rest: list[Gradient | None] = [None] * (len(node.inputs) - 1)
    if dy is None or dy.second <= 0:
        return [None, *rest]
    shape = walk.shape(node.inputs[0])
    shared = channel_mean_square(dy.second, *dy.crosses(y), shape)
    along = _along(dy, y, shape)
    left = max(dy.second - shared - along, 0.0)
    variance = max(x.second - channel_mean_square(x.second, *x.crosses, shape), 0.0)
    inverse = 1 / (variance + node.get("epsilon", 1e-5))
    shared -= along / max(
        math.prod(batch_and_places(shape)) - 1, 1
    )  # y sums to 0, so the correlation of two of it is -1/(n - 1)
    space, batch, far = ((cross - shared) * inverse for cross in dy.crosses(y))
    near = (dy.cross_lag(y, shape[2:]) - shared) * inverse
    source = Source(
        left * inverse,
        dy.shape,
        space,
        batch,
        dy.spatial_profile,
        finite_width=dy.finite_width,
        cross_lag=near,
        cross_other=far,
    )
    return [Gradient.profiled(source, dy.second_at, x, shape[2:]), *rest]


def _along(dy: Gradient, y: Signal, shape: tuple[int, ...]) -> float:
    """Return E[m²] of a channel's m = mean(dy · y)."""
    product = dy.times(factor(y.values))
    return channel_mean_square(product.second, *product.crosses(y), shape)


@moments("LRN")
def lrn(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = x / (k + α/n Σ x²)^β: E[y² | x] over the other n - 1 channels, which are independent."""
    x = known(walk.signal(node.inputs[0]))
    values = x.values * np.sqrt(_lrn_base(walk, node, x) ** (-2 * node.get("beta", 0.75)) @ WEIGHTS)
    return [replace(x, values=values, finite_width=None, channel_values=None)]


def _lrn_base(walk: Walk, node: Node, x: Signal) -> Array:
    """Return k + α/n Σ x² at [nodes of u, nodes of the others' sum], that sum taken for lognormal."""
    size, channels, squares = node.get("size"), walk.shape(node.inputs[0])[1], x.values**2
    others = float(Axis(channels, channels, size, pad=(size - 1) // 2).inside.sum()) / channels - 1
    spread = expect(squares**2) / max(expect(squares) ** 2, 1e-300) - 1
    total = lognormal(others * expect(squares), spread / max(others, 1.0))
    return np.asarray(node.get("bias", 1.0) + node.get("alpha", 1e-4) / size * (squares[:, None] + total))


@backward_moments("LRN")
def lrn_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dxᵢ = dyᵢ s^-β - 2αβ/n · xᵢ Σⱼ dyⱼ xⱼ s^(-β-1), n terms that are independent."""
    dy, x = dys[0], known(walk.signal(node.inputs[0]))
    assert dy is not None
    size, beta = node.get("size"), node.get("beta", 0.75)
    base = _lrn_base(walk, node, x)
    side = 2 * node.get("alpha", 1e-4) * beta / size * x.values[:, None] * base ** (-beta - 1)
    own = base**-beta - side * x.values[:, None]
    second = (own**2 + (size - 1) * side**2 * x.second) @ WEIGHTS
    return [dy.times(Term(own @ WEIGHTS, second, np.sqrt(second)))]
