"""Checks that look at what one iteration measured (`--run`)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from caffestat.analysis import Measurement
from caffestat.net import Node

from ..context import Context
from ..registry import Found, Needs, check


def _measured(context: Context) -> Measurement:
    assert context.measured is not None
    return context.measured


@check("CS020", "dead-relu", "warning", Needs.RUN)
def dead_relu(context: Context) -> Iterator[Found]:
    """Nearly all outputs of a ReLU are zero.

    A unit whose input is negative for every sample gets no gradient and stays dead. Normally about half of the
    outputs are zero. Needs `--run`; reported when nine in ten are (`--dead`). One that reads nothing but zeros is not
    reported: it follows a dead one, or weights without a filler.

    Example: a bias of -3 before a ReLU; inputs that are all positive with weights that are mostly negative.

    Fix: a bias of 0 or slightly above, weights of mean 0, inputs of mean 0.
    """
    for (index, _), share in context.zeros.items():
        node = context.built.nodes[index]
        if not _cuts(node) or context.zeros.get(context.read_by(node)) == 1.0:
            continue
        if share > context.limits.dead:
            message = f"{share:.0%} of its outputs are zero"
            yield Found(node.place, node.name, message, "raise the bias", {"share": share})


def _cuts(node: Node) -> bool:
    """Tell whether a layer is a rectifier whose negative half is zero."""
    kind = node.layer.nonlinearity()
    return kind is not None and kind.cuts


@check("CS033", "no-gradient", "error", Needs.RUN)
def no_gradient(context: Context) -> Iterator[Found]:
    """No weight gets a gradient.

    The gradient of every weight that is to be learned is exactly 0 after one iteration: training changes nothing.
    Zero weights in a later layer, or a constant loss, cause this. The message names the layer nearest to the
    loss whose bottom gets none. Needs `--run`.

    Example: a frozen Deconvolution without a filler after all layers that learn.

    Fix: give that layer nonzero weights; a ReLU needs inputs above 0.
    """
    learned = [e for e in context.built.params if e.param.role == "weight" and e.lr_mult and e.owner is None]
    diffs = _measured(context).param_diffs
    keys = [(e.node, e.index) for e in learned if (e.node, e.index) in diffs]
    if not keys or any(diffs[key] != 0 for key in keys):
        return
    zeros = {index for (index, _), value in _measured(context).bottom_diffs.items() if value == 0}
    node = context.built.nodes[max(zeros, default=keys[-1][0])]
    message = (
        f"the gradients of all {len(keys)} weights that are learned are exactly 0; the gradient stops at this layer"
    )
    yield Found(node.place, node.name, message, _let_through(node), {"weights": len(keys)})


def _let_through(node: Node) -> str:
    """Return what lets a gradient pass a layer."""
    if node.params:
        return "give this layer nonzero weights"
    return "raise its inputs above 0" if _cuts(node) else "see why its outputs do not depend on its inputs"


@check("CS022", "unlike-prediction", "info", Needs.RUN)
def unlike_prediction(context: Context) -> Iterator[Found]:
    """What was measured is far from what the theory predicts.

    The theory assumes that weights are independent and that inputs are N(0, 1). Where the first blob differs by more
    than a factor of ten, one of the two assumptions does not hold: real data, trained weights, values that depend on
    each other. Needs `--run`.

    Fix: none needed; look at the two numbers.
    """
    for key, value in sorted(_measured(context).tops.items()):
        expected = context.prediction.tops.get(key)
        node = context.built.nodes[key[0]]
        if expected is None or not node.bottoms or not (value > 0 and expected.mean_abs > 0 and math.isfinite(value)):
            continue
        if not 0.1 < value / expected.mean_abs < 10:
            message = f"mean |x| is {value:.3g}, predicted was {expected.mean_abs:.3g}"
            numbers = {"measured": value, "predicted": expected.mean_abs}
            yield Found(
                node.place, node.name, message, "check which assumption does not hold (docs/theory.md)", numbers
            )
            return
