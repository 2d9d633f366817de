"""Ops that move elements and compute nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from caffestat.graph import Node

from ..engine import Walk, backward_moments, moments, unsupported
from ..quadrature import WEIGHTS, Array, Points, quantiles, ranks
from ..signal import ONE, Gradient, Signal, Source, Term, normalize_profile
from ..sums import reduced
from .linear import known, profile_of

Gradients = Sequence[Gradient | None]

_STRENGTHS = 16

# GatherElements: what is picked is mostly compared with what it is picked from (Accuracy), and depends on it
unsupported(
    "ArgMax", "ArgMin", "ConstantOfShape", "CumSum", "GatherElements", "GatherND", "If", "Loop", "NonZero", "OneHot",
    "Range", "ReverseSequence", "Scan", "ScatterElements", "ScatterND", "Shape", "Size", "TopK", "Trilu",
)  # fmt: skip


def _share(walk: Walk, part: str, whole: str) -> float:
    return math.prod(walk.shape(part)) / max(math.prod(walk.shape(whole)), 1)


def in_shape(x: Signal, shape: tuple[int, ...]) -> Signal:
    """Return the same elements in another shape: the profile of removed places becomes part of the distribution."""
    if x.spatial_profile is None or x.spatial_profile.shape == shape[2:]:
        return x
    strengths = np.sqrt(np.quantile(x.spatial_profile, (np.arange(_STRENGTHS) + 0.5) / _STRENGTHS))
    values = quantiles(np.outer(strengths, x.values), np.broadcast_to(WEIGHTS, (_STRENGTHS, WEIGHTS.size)))
    if not np.any(x.values < 0) or np.all(np.diff(x.values) >= 0):
        return Signal(values, x.rho_spatial, x.rho_sample, None, x.latent)
    return Signal(values, x.rho_spatial, x.rho_sample)


def gradient_in_shape(dy: Gradient, shape: tuple[int, ...]) -> Gradient:
    """Return the gradient without the spatial_profiles of other places."""
    if all(source.spatial_profile is None or source.spatial_profile.shape == shape[2:] for source in dy.terms):
        return dy
    terms = {replace(source, spatial_profile=None): term for source, term in dy.terms.items()}
    return Gradient(terms, dy.known)


@moments(
    "Reshape",
    "Flatten",
    "Squeeze",
    "Unsqueeze",
    "Transpose",
    "Expand",
    "Tile",
    "DepthToSpace",
    "SpaceToDepth",
    "Resize",
)
def moved(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = elements of x."""
    x = known(walk.signal(node.inputs[0]))
    return [in_shape(x, walk.shape(value)) for value in node.outputs]


@moments("Slice", "Split")
def cut(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = some elements of x, each part others."""
    whole = known(walk.signal(node.inputs[0]))
    return [replace(in_shape(whole, walk.shape(value)), latent=object()) for value in node.outputs]


@backward_moments("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "DepthToSpace", "SpaceToDepth")
def moved_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = dy."""
    dx = dys[0] and gradient_in_shape(dys[0], walk.shape(node.inputs[0]))
    return [dx, *[None] * (len(node.inputs) - 1)]


@backward_moments("Expand", "Tile", "Resize")
def repeated_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = Σ dy over the copies."""
    dy, y = dys[0], known(walk.signal(node.outputs[0]))
    assert dy is not None
    copies = 1 / max(_share(walk, node.inputs[0], node.outputs[0]), 1e-30)
    return [Gradient.of(reduced(None, dy, y, copies, (round(copies), 1))), *[None] * (len(node.inputs) - 1)]


@backward_moments("Slice", "Split")
def cut_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = the parts' gradients side by side, 0 where no part is."""
    parts = [(dy, _share(walk, value, node.inputs[0])) for dy, value in zip(dys, node.outputs, strict=True) if dy]
    y = known(walk.signal(node.outputs[0]))
    second = sum(share * dy.second for dy, share in parts)
    if second <= 0:
        return [None] * len(node.inputs)
    space = sum(share * dy.cross_spatial(y.rho_spatial) for dy, share in parts)
    batch = sum(share * dy.cross_sample(y.rho_sample) for dy, share in parts)
    profile = sum((share * dy.second_at for dy, share in parts), np.zeros_like(WEIGHTS))
    source = Source(second, sum(share * dy.mean_abs for dy, share in parts) / math.sqrt(second), space, batch)
    dx = Gradient.profiled(source, profile, y, walk.shape(node.inputs[0])[2:])
    return [dx, *[None] * (len(node.inputs) - 1)]


@moments("Concat")
def concat(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = one of the inputs, each as often as it is large."""
    sizes = np.array([math.prod(walk.shape(value)) for value in node.inputs], np.float64)
    components = [
        (float(share * part), component)
        for share, value in zip(sizes / sizes.sum(), node.inputs, strict=True)
        for part, component in _components(known(walk.signal(value)))
    ]
    return [mixture(components, walk.shape(node.outputs[0])[2:])]


def _components(x: Signal) -> Sequence[tuple[float, Signal]]:
    return x.components or ((1.0, x),)


def mixture(components: Sequence[tuple[float, Signal]], space: Sequence[int]) -> Signal:
    """Return a mixture: each channel is of one of the components, and moments are their means."""
    shares, signals = np.array([share for share, _ in components]), [signal for _, signal in components]
    values = quantiles(np.stack([s.values for s in signals]), np.outer(shares, WEIGHTS))
    pairs = shares @ np.array([[s.cross_spatial, s.cross_sample] for s in signals])
    near: Array = sum((share * s.cross_lag(space) for share, s in components), np.zeros(()))
    is_even = all(s.is_even(space) for s in signals)
    along = [
        sum((share * products for (share, _), products in zip(components, tables, strict=True)), np.zeros(()))
        for tables in (() if is_even else zip(*(s.cross_along(space) for s in signals), strict=True))
    ]
    y = Signal.of_pairs(values, pairs[0], pairs[1], None if is_even else _mean_profile(components, space), near, along)
    return replace(y, components=tuple(components))


def _mean_profile(components: Sequence[tuple[float, Signal]], space: Sequence[int]) -> Array | None:
    """Return the spatial profile of a mixture of these shares."""
    parts = (share * s.second * profile_of(s.spatial_profile, space) for share, s in components)
    return normalize_profile(sum(parts, np.zeros(space)))


@backward_moments("Concat")
def concat_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dxᵢ = the part of dy that stands over it: other elements, and so sources of their own."""
    dy, y = dys[0], known(walk.signal(node.outputs[0]))
    assert dy is not None
    result: list[Gradient | None] = []
    for value in node.inputs:
        points = Points.among_nodes(ranks(known(walk.signal(value)).values, y.values))
        part = Gradient({replace(source): term.at(points) for source, term in dy.terms.items()}, dy.known)
        result.append(gradient_in_shape(part, walk.shape(value)))
    return result


@moments("Pad")
def pad(walk: Walk, node: Node) -> Sequence[Signal]:
    """y = x, and 0 around it."""
    x = in_shape(known(walk.signal(node.inputs[0])), walk.shape(node.outputs[0]))
    share = _share(walk, node.inputs[0], node.outputs[0])
    values = quantiles(np.stack([x.values, np.zeros_like(x.values)]), np.outer([share, 1 - share], WEIGHTS))
    return [Signal(values, x.rho_spatial, x.rho_sample)]


@backward_moments("Pad")
def pad_backward(walk: Walk, node: Node, dys: Gradients) -> Gradients:
    """dx = dy less its border; a negative pad cuts, and its gradient is 0 there."""
    dy = dys[0]
    assert dy is not None
    share = min(1 / max(_share(walk, node.inputs[0], node.outputs[0]), 1e-30), 1.0)
    cut = Term(*(share * part for part in (ONE.mean, ONE.second, ONE.absolute)))
    dx = gradient_in_shape(dy.times(cut), walk.shape(node.inputs[0]))
    return [dx, *[None] * (len(node.inputs) - 1)]
