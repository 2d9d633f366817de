"""Checks that look at what is predicted of the signal and its gradient at the first iteration."""

from __future__ import annotations

import math
from collections.abc import Iterator

from caffestat.net import Node
from caffestat.theory import Signal

from ..context import Context
from ..registry import Found, Needs, check

_FLAT = {"Sigmoid": 4.36, "TanH": 2.18}  # |z| beyond which the slope is below a twentieth of the largest


def _is_silent(context: Context) -> bool:
    """Tell whether nothing can be said because weights are missing: another check speaks about that."""
    net = context.built
    missing = any(p.param.role == "weight" and not p.param.written and p.owner is None for p in net.params)
    return not context.trains or (missing and not context.given_weights)


def _reference(context: Context) -> float:
    """Return the mean |x| that the first layer with weights reads."""
    for gain in context.gains:
        blob = context.built.nodes[gain.node].bottoms[0]
        for node in context.built.nodes:
            if blob in node.tops and (node.index, node.tops.index(blob)) in context.prediction.tops:
                return context.prediction.tops[node.index, node.tops.index(blob)].mean_abs
    return 1.0


def _first_top(context: Context, is_out: bool, limit: float) -> tuple[Node, float] | None:
    """Return the first layer whose mean |x|, as a share of the input's, is below (`is_out`: above) the limit."""
    reference = _reference(context)
    if reference <= 0:
        return None
    for node in context.built.nodes:
        found = context.prediction.tops.get((node.index, 0))
        if found is None or not node.bottoms or not node.top_shapes[0]:
            continue
        ratio = found.mean_abs / reference
        if (ratio > limit) if is_out else (ratio < limit):
            return node, ratio
    return None


def _responsible(context: Context, node: Node) -> str:
    """Say which layers with weights up to a node weaken or strengthen the signal most."""
    before = [gain for gain in context.gains if gain.node <= node.index and gain.forward > 0]
    worst = sorted(before, key=lambda gain: -abs(math.log(gain.forward)))[:3]
    return ", ".join(f"{gain.layer} ×{math.sqrt(gain.forward):.3g}" for gain in worst)


@check("CS013", "saturated", "warning", Needs.PREDICTION)
def saturated(context: Context) -> Iterator[Found]:
    """A sigmoid or tanh is predicted to work where it is flat.

    Its input is far from 0 for most elements: |z| > 4.4 for a sigmoid, > 2.2 for tanh, where the slope is below a
    twentieth of the largest one. The gradient is multiplied by E[f′(z)²], and all but stops.

    Example: `gaussian` with std 1 in front of a TanH that sums over 500 inputs: z has a standard deviation of 22.

    Fix: a smaller spread: `"xavier"`, or the std that the message states. Reported when more than half of the inputs
    (`--saturated`) are in the flat part.
    """
    if not context.trains:
        return
    for node in context.built.nodes:
        edge, signal = _FLAT.get(node.type), None
        if edge:
            signal = _input_signal(context, node)
        if edge is None or signal is None:
            continue
        share = signal.share_beyond(edge)
        if share > context.limits.saturated:
            spread = math.sqrt(max(signal.second - signal.mean**2, 0.0))
            message = f"{share:.0%} of the inputs lie beyond ±{edge:g}, where {node.type} is flat (spread {spread:.3g})"
            fix = f"make the weights before it {max(spread, 1e-9):.2g} times smaller"
            yield Found(node.place, node.name, message, fix, {"share": share, "spread": spread})


def _input_signal(context: Context, node: Node) -> Signal | None:
    blob = node.bottoms[0]
    writers = [n for n in context.built.nodes[: node.index] if blob in n.tops]
    return context.prediction.signals.get((writers[-1].index, writers[-1].tops.index(blob))) if writers else None


@check("CS014", "signal-vanishes", "warning", Needs.PREDICTION)
def signal_vanishes(context: Context) -> Iterator[Found]:
    """The signal is predicted to fade away with depth.

    Every layer multiplies the second moment by n·Var(w) and by what its nonlinearity leaves; the product over depth is
    s₀·∏ nᵢ·Var(wᵢ). The message names the first layer whose mean |x| is below a millionth (`--vanish`) of the input's,
    and the layers that weaken it most.

    Example: `gaussian` with std 0.01 in ten convolutions of 64 channels: each passes 17 % of the amplitude on.

    Fix: `"msra"` in front of ReLU, `"xavier"` otherwise, or BatchNorm.
    """
    if _is_silent(context):
        return
    found = _first_top(context, False, context.limits.vanish)
    if found:
        node, ratio = found
        message = f"mean |x| is down to {ratio:.2g} of the input's; amplitude gains: {_responsible(context, node)}"
        yield Found(node.place, node.name, message, "larger weights: msra before ReLU, else xavier", {"ratio": ratio})


@check("CS015", "signal-explodes", "error", Needs.PREDICTION)
def signal_explodes(context: Context) -> Iterator[Found]:
    """The signal is predicted to grow without bound with depth.

    As for `signal-vanishes`, with gains above 1. The message names the first layer whose mean |x| is a million times
    (`--explode`) the input's. The softmax at the end then saturates, and the first steps of training blow up.

    Example: `gaussian` with std 0.1 in ten convolutions of 256 channels: each multiplies the amplitude by 3.4.

    Fix: `"msra"` in front of ReLU, `"xavier"` otherwise, or BatchNorm.
    """
    if _is_silent(context):
        return
    found = _first_top(context, True, context.limits.explode)
    if found:
        node, ratio = found
        message = f"mean |x| is {ratio:.2g} times the input's; amplitude gains: {_responsible(context, node)}"
        yield Found(node.place, node.name, message, "smaller weights: msra before ReLU, else xavier", {"ratio": ratio})


def _gradient_range(context: Context) -> list[tuple[Node, float]]:
    """Return, from the loss down, each layer with weights and the amplitude its gradient has kept on the way to it."""
    gains = [gain for gain in context.gains if gain.product_backward is not None and gain.backward is not None]
    found = []
    for gain in reversed(gains):
        own = gain.backward or 0.0
        arriving = (gain.product_backward or 0.0) / own if own > 0 else 0.0
        found.append((context.built.nodes[gain.node], math.sqrt(arriving * (gain.kept_backward or 0.0))))
    return found


@check("CS016", "gradient-vanishes", "warning", Needs.PREDICTION)
def gradient_vanishes(context: Context) -> Iterator[Found]:
    """The gradient is predicted to fade away towards the input.

    Backward, each layer multiplies the second moment by m·Var(w), m its fan-out, and by E[f′(z)²]. For a sigmoid that
    is at most 1/16. The first layers then do not learn. The message names the layer, coming from the loss, at which
    less than a millionth (`--vanish`) of the amplitude is left.

    Example: ten convolutions with sigmoids and xavier: each leaves a quarter of the gradient.

    Fix: ReLU with `"msra"`, or BatchNorm; with tanh, `"xavier"` with `variance_norm: AVERAGE`.
    """
    if _is_silent(context):
        return
    for node, kept in _gradient_range(context):
        if kept < context.limits.vanish:
            message = f"{kept:.2g} of the gradient's amplitude is left here on its way from the loss"
            yield Found(node.place, node.name, message, "ReLU with msra, or BatchNorm", {"kept": kept})
            return


@check("CS017", "gradient-explodes", "error", Needs.PREDICTION)
def gradient_explodes(context: Context) -> Iterator[Found]:
    """The gradient is predicted to grow without bound towards the input.

    As for `gradient-vanishes`, with gains above 1: the first layers get steps a million times (`--explode`) larger
    than the last ones.

    Example: `gaussian` with std 0.1 in ten convolutions of 256 channels.

    Fix: smaller weights: `"msra"` in front of ReLU, `"xavier"` otherwise.
    """
    if _is_silent(context):
        return
    for node, kept in _gradient_range(context):
        if kept > context.limits.explode:
            message = f"the gradient's amplitude is multiplied by {kept:.2g} on its way from the loss to this layer"
            yield Found(
                node.place, node.name, message, "smaller weights: msra before ReLU, else xavier", {"kept": kept}
            )
            return


@check("CS018", "uneven-steps", "info", Needs.PREDICTION)
def uneven_steps(context: Context) -> Iterator[Found]:
    """The first step changes some layers far more than others.

    A step moves weights by lr·E|dW|, which matters in relation to E|w|. Where this ratio differs by more than seven
    orders of magnitude (`--uneven`) between two layers, no learning rate fits both.

    Example: a first layer with std 0.0001 in a net whose other layers have 0.1.

    Fix: equal gains: msra or xavier throughout; or `lr_mult` for the layers concerned.
    """
    if _is_silent(context):
        return
    ratios = sorted(_step_ratios(context), key=lambda pair: pair[0])
    if len(ratios) > 1 and ratios[-1][0] > context.limits.uneven * ratios[0][0]:
        (low, slow), (high, fast) = ratios[0], ratios[-1]
        message = f"relative to its weights it is moved {high / low:.2g} times as far as layer {slow.name!r}"
        yield Found(fast.place, fast.name, message, "msra or xavier throughout, or lr_mult", {"ratio": high / low})


def _step_ratios(context: Context) -> Iterator[tuple[float, Node]]:
    for gain in context.gains:
        node = context.built.nodes[gain.node]
        entry = context.built.params[node.params[0]]
        weight = context.prediction.params.get((node.index, 0))
        diff = context.prediction.param_diffs.get((node.index, 0))
        if weight and diff and entry.lr_mult and weight.mean_abs > 0 and diff.mean_abs > 0:
            yield entry.lr_mult * diff.mean_abs / weight.mean_abs, node
