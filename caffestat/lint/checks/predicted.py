"""Checks that look at what is predicted of the signal and its gradient at the first iteration."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from caffestat.analysis import Gain
from caffestat.net import Node

from ..context import Context
from ..registry import Found, Needs, check

Key = tuple[int, int]  # node index, and which top or bottom of it

_FEW = 10  # terms of a sum below which it is not taken for normal


@dataclass(frozen=True)
class Sizes:
    """Mean absolute values by (node, top) and (node, bottom): predicted, or measured (`--run`)."""

    tops: Mapping[Key, float]
    bottom_diffs: Mapping[Key, float]
    how: str

    @classmethod
    def of(cls, context: Context) -> list[Sizes]:
        """Return what is predicted and, where the net was run, what was measured."""
        tops, diffs = context.prediction.tops, context.prediction.bottom_diffs
        found = [cls({k: m.mean_abs for k, m in tops.items()}, {k: m.mean_abs for k, m in diffs.items()}, "predicted")]
        if context.measured:
            found.append(cls(_finite(context.measured.tops), _finite(context.measured.bottom_diffs), "measured"))
        return found


def _finite(values: Mapping[Key, float]) -> dict[Key, float]:
    """Leave out NaN and infinity: `not-finite` reports them."""
    return {key: value for key, value in values.items() if math.isfinite(value)}


def _reference(context: Context, sizes: Sizes) -> float:
    """Return mean |x| of what the first layer with weights reads; of an Embed, which reads indices, of its top."""
    for gain in context.gains:
        node = context.built.nodes[gain.node]
        key = (node.index, 0) if _reads_indexes(node) else context.read_by(node)
        found = sizes.tops.get(key)
        if found is not None:
            return found
    return 1.0


def _reads_indexes(node: Node) -> bool:
    shapes = [shape for shape in node.bottom_shapes if shape is not None]
    return len(shapes) == len(node.bottoms) and node.layer.classes(0, shapes) is not None


def _behind_weights(context: Context) -> Iterator[Node]:
    """Yield the layers with weights, and what depends on them."""
    weighted = {gain.node for gain in context.gains}
    return (context.built.nodes[index] for index in sorted(weighted | context.flow.behind(weighted)))


def _is_normalized(context: Context, node: Node) -> bool:
    """Tell whether the layers that read a layer's tops normalize them."""
    readers = list(context.followers(node))
    return bool(readers) and all(context.normalizes(reader) for reader in readers)


def _first_top(context: Context, is_out: bool, limit: float) -> tuple[Node, float, str] | None:
    """Return the first layer whose mean |x|, as a share of the input's, is below (`is_out`: above) the limit.

    With it the share, and whether it is predicted or measured.
    """
    for sizes in Sizes.of(context):
        reference = _reference(context, sizes)
        for node in _behind_weights(context) if reference > 0 else ():
            found = sizes.tops.get((node.index, 0))
            if found is None or not node.top_shapes[0] or _is_normalized(context, node):
                continue
            ratio = found / reference
            if (ratio > limit) if is_out else (ratio < limit):
                return node, ratio, sizes.how
    return None


def _said(how: str) -> str:
    """Return what a message adds to a number that a run measured."""
    return " (measured)" if how == "measured" else ""


def _responsible(context: Context, node: Node, is_out: bool) -> str:
    """Say which layers with weights up to a node weaken, or strengthen, the amplitude of the signal most."""
    before = [gain for gain in context.gains if gain.node <= node.index]
    dead = next((gain.layer for gain in before if _is_dead(context, gain)), None)
    if dead:
        return f": layer {dead!r} passes no signal"
    amplitudes = [(context.amplitude(gain), gain.layer) for gain in before]
    worst = sorted((a for a in amplitudes if a[0] > 0 and (a[0] > 1) == is_out), reverse=is_out)[:3]
    listed = ", ".join(f"{layer} ×{amplitude:.3g}" for amplitude, layer in worst)
    return f"; amplitude gains: {listed}" if listed else ""


def _lone_values(context: Context) -> Node | None:
    """Return the first layer that normalizes one value per channel, of which nothing remains; None without one."""
    tops = context.prediction.tops
    for node in (node for node in context.built.nodes if node.layer.normalizes):
        before, after = tops.get(context.read_by(node)), tops.get((node.index, 0))
        if before is not None and after is not None and before.second > 0 == after.second:
            return node
    return None


def _of_lone_values(node: Node, what: str, numbers: dict[str, float]) -> Found:
    """Return what is found where the batch leaves a layer that normalizes one value per channel."""
    message = f"{what}: it normalizes one value per channel, of which 0 remains"
    return Found(node.place, node.name, message, "give it more values: a batch of two items or more", numbers)


def _is_dead(context: Context, gain: Gain) -> bool:
    """Tell whether a layer with weights gets a signal and gives zeros, or what follows it up to the next one does."""
    weighted = {one.node for one in context.gains}
    behind = sorted(context.flow.behind([gain.node], weighted.__contains__) - weighted)
    found = [context.prediction.tops.get((index, 0)) for index in (gain.node, *behind)]
    before = context.prediction.tops.get(context.read_by(context.built.nodes[gain.node]))
    return before is not None and before.second > 0 and any(top is not None and top.second == 0 for top in found)


@check("CS013", "saturated", "warning", Needs.PREDICTION)
def saturated(context: Context) -> Iterator[Found]:
    """Most inputs of a sigmoid or tanh are predicted to be in its flat range.

    Its input is far from 0 for most elements: |z| > 4.4 for a sigmoid, > 2.2 for tanh, where the slope is below a
    twentieth of the largest one. The gradient is multiplied by E[f′(z)²], and nearly vanishes.

    Example: `gaussian` with std 1, summing over 500 inputs, before a TanH: z has a standard deviation of 22.

    Fix: a smaller standard deviation: `"xavier"`, or weights smaller by the factor in the message; an
    input of mean 0 where the mean is far off. Reported when more than half of the inputs (`--saturated`) are
    in the flat part. A sigmoid through which no gradient has to pass is not reported, nor one whose inputs are sums of
    fewer than ten terms, whose distribution is not known.
    """
    for node in context.built.nodes if not context.is_silent else ():
        kind = node.layer.nonlinearity()
        edge = kind.saturates_beyond if kind else None
        signal = context.prediction.signals.get(context.read_by(node)) if edge else None
        if edge is None or signal is None or not node.need_backward or _sums_few(context, node):
            continue
        share = signal.share_beyond(edge)
        if share > context.limits.saturated:
            spread = math.sqrt(max(signal.second - signal.mean**2, 0.0))
            message = (
                f"{share:.0%} of the inputs lie beyond ±{edge:g}, where {node.type} is flat "
                f"(mean {round(signal.mean, 6) + 0.0:.3g}, std {spread:.3g})"
            )
            numbers = {"share": share, "mean": signal.mean, "spread": spread}
            yield Found(node.place, node.name, message, _unsaturate(context, node, signal.mean, spread), numbers)


def _unsaturate(context: Context, node: Node, mean: float, spread: float) -> str:
    if abs(mean) > spread:
        return f"bring the mean of its input from {mean:.3g} to 0, with a bias or by centring the input"
    gain = _weights_before(context, node)
    whose = f"of layer {gain.layer!r}" if gain else "before it"
    return f"make the weights {whose} {spread:.2g} times smaller"


def _sums_few(context: Context, node: Node) -> bool:
    gain = _weights_before(context, node)
    if gain is None:
        return False
    param = context.built.params[context.built.nodes[gain.node].params[0]].param
    kept = 1.0 if param.filler.sparse == -1 else param.filler.sparse / param.shape[0]
    return gain.fan_in * kept < _FEW


def _weights_before(context: Context, node: Node) -> Gain | None:
    """Return the last layer with weights in front of a layer."""
    gains = {gain.node: gain for gain in context.gains}
    before = context.flow.before(node.index, gains.__contains__)
    return gains[max(before)] if before else None


@check("CS014", "signal-vanishes", "warning", Needs.PREDICTION)
def signal_vanishes(context: Context) -> Iterator[Found]:
    """The signal is predicted to vanish with depth.

    Every layer multiplies the second moment by n·Var(w) and by the factor of its nonlinearity; the product over depth
    is s₀·∏ nᵢ·Var(wᵢ). The message names the first layer whose mean |x| is below a millionth (`--vanish`) of the
    input's, and the layers that reduce it most.

    Example: `gaussian` with std 0.01 in ten convolutions of 64 channels: each passes 17 % of the amplitude on.

    Fix: `"msra"` before ReLU, `"xavier"` otherwise, or BatchNorm.
    """
    if context.is_silent:
        return
    found = _first_top(context, False, context.limits.vanish)
    if found:
        node, ratio, how = found
        if (lone := _lone_values(context)) and lone.index <= node.index:
            yield _of_lone_values(lone, "no signal passes the layer", {"ratio": ratio})
            return
        message = f"mean |x| is down to {ratio:.2g} of the input's{_said(how)}{_responsible(context, node, False)}"
        yield Found(
            node.place, node.name, message, "use larger weights: msra before ReLU, else xavier", {"ratio": ratio}
        )


@check("CS015", "signal-explodes", "error", Needs.PREDICTION)
def signal_explodes(context: Context) -> Iterator[Found]:
    """The signal is predicted to grow without bound with depth.

    As for `signal-vanishes`, with gains above 1. The message names the first layer whose mean |x| is a million times
    (`--explode`) the input's. The softmax at the end then saturates, and training diverges in its first steps.

    Example: `gaussian` with std 0.1 in ten convolutions of 256 channels: each multiplies the amplitude by 3.4.

    Fix: `"msra"` before ReLU, `"xavier"` otherwise, or BatchNorm.
    """
    if context.is_silent:
        return
    found = _first_top(context, True, context.limits.explode)
    if found:
        node, ratio, how = found
        message = f"mean |x| is {ratio:.2g} times the input's{_said(how)}{_responsible(context, node, True)}"
        yield Found(
            node.place, node.name, message, "use smaller weights: msra before ReLU, else xavier", {"ratio": ratio}
        )


Kept = tuple[Node, float, str]


def _gradient_range(context: Context) -> list[Kept]:
    """Return, from the loss down, each layer with weights and the amplitude its gradient has kept on the way to it.

    First what is predicted, then, where the net was run, what was measured. Layers in front of one that cannot be
    computed are left out: not all of their gradient is known.
    """
    return [*_predicted_range(context), *(_measured_range(context) if context.measured else ())]


def _measured_range(context: Context) -> Iterator[Kept]:
    """Yield the mean |dx| of each layer's top as a share of that of the last layer with weights."""
    measured = Sizes.of(context)[-1].bottom_diffs
    last = None
    for gain in reversed(context.gains):
        node = context.built.nodes[gain.node]
        reader = next(iter(context.followers(node)), None)
        diff = measured.get((reader.index, reader.bottoms.index(node.tops[0]))) if reader else None
        if diff is not None and node.index not in context.behind_unknown:
            last = diff if last is None else last
            yield node, diff / last if last > 0 else 0.0, "measured"


def _predicted_range(context: Context) -> list[Kept]:
    gains = [gain for gain in context.gains if gain.product_backward is not None and gain.backward is not None]
    found = []
    for gain in reversed([gain for gain in gains if gain.node not in context.behind_unknown]):
        own = gain.backward or 0.0
        arriving = (gain.product_backward or 0.0) / own if own > 0 else 0.0
        kept = math.sqrt(arriving * (gain.kept_backward or 0.0))
        found.append((context.built.nodes[gain.node], kept, "predicted"))
    return found


@check("CS016", "gradient-vanishes", "warning", Needs.PREDICTION)
def gradient_vanishes(context: Context) -> Iterator[Found]:
    """The gradient is predicted to vanish towards the input.

    Backward, each layer multiplies the second moment by m·Var(w), m its fan-out, and by E[f′(z)²]. For a sigmoid that
    is at most 1/16. The first layers then do not learn. The message names the layer, coming from the loss, at which
    less than a millionth (`--vanish`) of the amplitude is left.

    Example: ten convolutions with sigmoids and xavier: each leaves a quarter of the gradient.

    Fix: ReLU with `"msra"`, or BatchNorm; with tanh, `"xavier"` with `variance_norm: AVERAGE`.
    """
    if context.is_silent:
        return
    for node, kept, how in _gradient_range(context):
        if kept < context.limits.vanish:
            if (lone := _lone_values(context)) and lone.index > node.index:
                yield _of_lone_values(lone, "no gradient passes the layer", {"kept": kept})
                return
            message = f"{kept:.2g} of the gradient's amplitude at the loss remains here{_said(how)}"
            yield Found(node.place, node.name, message, "use ReLU with msra, or BatchNorm", {"kept": kept})
            return


@check("CS017", "gradient-explodes", "error", Needs.PREDICTION)
def gradient_explodes(context: Context) -> Iterator[Found]:
    """The gradient is predicted to grow without bound towards the input.

    As for `gradient-vanishes`, with gains above 1: the first layers get steps a million times (`--explode`) larger
    than the last ones.

    With `--run` the gradient's L2 norm is compared with the params' too.

    Example: `gaussian` with std 0.1 in ten convolutions of 256 channels.

    Fix: smaller weights: `"msra"` before ReLU, `"xavier"` otherwise.
    """
    if context.is_silent:
        return
    for node, kept, how in _gradient_range(context):
        if kept > context.limits.explode:
            message = f"the gradient's amplitude here is {kept:.2g} times that at the loss"
            message += _said(how)
            yield Found(
                node.place, node.name, message, "use smaller weights: msra before ReLU, else xavier", {"kept": kept}
            )
            return
    yield from _large_norm(context)


def _large_norm(context: Context) -> Iterator[Found]:
    norms = context.measured.norms if context.measured else None
    if norms is None or norms.diff_l2 is None or not math.isfinite(norms.diff_l2):
        return
    if norms.diff_l2 > context.limits.explode * norms.data_l2 > 0:
        node = context.built.nodes[-1]
        ratio = norms.diff_l2 / norms.data_l2
        message = f"the gradient's L2 norm, {norms.diff_l2:.3g}, is {ratio:.2g} times that of the params (measured)"
        yield Found(
            node.place, node.name, message, "use smaller weights: msra before ReLU, else xavier", {"ratio": ratio}
        )


@check("CS018", "uneven-steps", "warning", Needs.PREDICTION)
def uneven_steps(context: Context) -> Iterator[Found]:
    """The first step changes some layers far more than others.

    A step moves weights by lr·E|dW|, which matters in relation to E|w|. Where this ratio differs by more than seven
    orders of magnitude (`--uneven`) between two layers, no learning rate fits both. Where the signal or the gradient
    vanishes or explodes, uneven steps follow from that and are not reported.

    Example: a first layer with std 0.0001 in a net whose other layers have 0.1.

    Fix: equal gains: msra or xavier throughout; or `lr_mult` for the layers concerned.
    """
    if context.is_silent or _leaves_range(context):
        return
    ratios = sorted(_step_ratios(context), key=lambda pair: pair[0])
    if len(ratios) > 1 and ratios[-1][0] > context.limits.uneven * ratios[0][0]:
        (low, slow), (high, fast) = ratios[0], ratios[-1]
        message = f"its relative step E|dW| / E|w| is {high / low:.2g} times that of layer {slow.name!r}"
        yield Found(fast.place, fast.name, message, "use msra or xavier throughout, or lr_mult", {"ratio": high / low})


def _leaves_range(context: Context) -> bool:
    low, high = context.limits.vanish, context.limits.explode
    if _first_top(context, False, low) or _first_top(context, True, high):
        return True
    return any(not low <= kept <= high for _, kept, _ in _gradient_range(context))


def _step_ratios(context: Context) -> Iterator[tuple[float, Node]]:
    for gain in context.gains:
        node = context.built.nodes[gain.node]
        entry = context.built.params[node.params[0]]
        weight = context.prediction.params.get((node.index, 0))
        diff = context.prediction.param_diffs.get((node.index, 0))
        if (
            node.index not in context.behind_unknown
            and weight
            and diff
            and entry.lr_mult
            and weight.mean_abs > 0
            and diff.mean_abs > 0
        ):
            yield entry.lr_mult * diff.mean_abs / weight.mean_abs, node
