"""Checks of the state that a net starts in: statistics that are not stored, and the loss of the first iteration."""

from __future__ import annotations

import math
from collections.abc import Iterator

from caffestat.float32 import FLT_MIN
from caffestat.net import TRAIN, Node

from ..context import Context
from ..issue import SEE_MESSAGE
from ..registry import Found, Needs, check
from .fillers import unusable

_HARMLESS = 10.0  # the factor up to which a layer on statistics of zero changes little
_FLOORED = 0.01  # the share of samples at the cap of the loss that is worth telling
_CAP = -math.log(FLT_MIN)  # Caffe's softmax loss is never larger, per sample


@check("CS024", "stored-statistics", "error", Needs.NET)
def stored_statistics(context: Context) -> Iterator[Found]:
    """A layer normalizes by stored statistics, and none are stored.

    With `use_global_stats: true` BatchNorm divides by √(variance + eps) of the variance that is stored. Without trained
    weights that is 0, so the layer multiplies by 1 / √eps: 316 for eps 1e-5. Ten such layers overflow.

    Example: `batch_norm_param { use_global_stats: true }` in a net that is trained from its fillers.

    Fix: remove `use_global_stats`, so that TRAIN uses the batch's statistics and TEST the stored ones; or give the
    trained weights (`--weights`). Not reported for nets that freeze weights without a filler: they expect pretrained
    weights.
    """
    if not context.trains or context.awaits_weights:
        return
    for node in context.built.nodes:
        factor = _factor(context, node)
        if factor > _HARMLESS:
            message = f"its stored statistics are zero, so it multiplies its input by {factor:.3g}"
            fix = "remove use_global_stats, or give trained weights (--weights)"
            yield Found(node.place, node.name, message, fix, {"factor": factor}, cause=f"{factor:.3g}")


def _factor(context: Context, node: Node) -> float:
    """Return what a layer multiplies its input by, reading statistics that no file gives; 0 for every other layer."""
    if context.built.phase != TRAIN or not node.layer.reads_statistics or not node.params:
        return 0.0
    if context.given.issuperset(node.params):
        return 0.0
    params = [context.built.params[number].param for number in node.params]
    variances = [param.filler.value for param in params if param.role == "variance"]
    square = (variances[0] if variances else 0.0) + node.layer.eps
    return 1 / math.sqrt(square) if square > 0 else math.inf


@check("CS025", "high-loss", "warning", Needs.PREDICTION)
def high_loss(context: Context) -> Iterator[Found]:
    """A softmax loss starts far above ln K.

    An untrained net gives K classes the same probability: the loss is ln K. A loss of several times that
    (`--high-loss`) means that large logits make the net confident in wrong classes. Caffe caps the loss of a sample at
    87.3365, where its gradient says nothing about the logits' size; a share of samples at the cap is reported too. The
    loss is the predicted one, with `--run` the measured one as well.

    Example: `gaussian` with std 1 in LeNet: the logits are around 50,000, the loss is 78 where ln 10 = 2.3.

    Fix: smaller weights: `"xavier"` or `"msra"` throughout; inputs with a standard deviation of 1.
    """
    if context.is_silent or context.given:
        return
    for node in context.built.nodes:
        known = node.layer.uninformed_loss([s for s in node.bottom_shapes if s is not None]) if node.is_known else None
        if known is None or known <= 0:
            continue
        loss, how = _loss(context, node)
        share = _floored(context, node)
        if loss > context.limits.high_loss * known or share > _FLOORED:
            message = (
                f"the loss starts at {loss:.3g}{how}, {loss / known:.2g} times the {known:.3g} of equal probabilities"
            )
            message += f"; {share:.0%} of the samples are at Caffe's cap of {_CAP:.6g}" if share > _FLOORED else ""
            fix = "smaller weights: xavier or msra throughout, and inputs with a standard deviation of 1"
            yield Found(node.place, node.name, message, fix, {"loss": loss, "expected": known, "capped": share})


def _loss(context: Context, node: Node) -> tuple[float, str]:
    """Return the larger of predicted and measured loss, and what a message adds to it; 0 where neither is known."""
    predicted, measured = context.prediction.tops.get((node.index, 0)), context.measured
    found = measured.tops.get((node.index, 0), 0.0) if measured else 0.0
    expected = predicted.mean_abs if predicted else 0.0
    if math.isfinite(found) and found > expected:
        return found, " (measured)"
    return expected, f" (predicted; {found:.3g} measured)" if found else ""


def _floored(context: Context, node: Node) -> float:
    """Return the share of samples whose loss is predicted to be at the cap."""
    from caffestat.theory.rules.loss import softmax_for

    z = context.prediction.signals.get(context.read_by(node))
    classes = node.layer.classes(1, [shape for shape in node.bottom_shapes if shape is not None])
    return softmax_for(z, classes, FLT_MIN).floored if z and classes else 0.0


@check("CS026", "prediction-stops", "info", Needs.PREDICTION)
def prediction_stops(context: Context) -> Iterator[Found]:
    """The prediction does not get past a layer.

    What is computed from this layer's top, and the gradient before it, is not predicted. Checks of the signal and
    the gradient look at the rest only. Layers of unknown type are `unknown-type`, fillers without values
    `unusable-filler`.

    Example: a layer of a plugin whose op has no moments rule, or whose class emits an op that ONNX lacks; axes that are
    too long for sums over windows.

    Fix: `--run` measures what is not predicted; a plugin can register a moments rule.
    """
    error = context.prediction_error
    if error and not any(node.layer.why_unknown for node in context.built.nodes) and not any(unusable(context)):
        name = next((node.name for node in context.built.nodes if node.place == error.place), "")
        yield Found(error.place, name, f"no prediction: {error.message}", SEE_MESSAGE, cause=error.message)
    for stop in context.stops if context.trains else ():
        node = context.built.nodes[stop.row]
        message = f"the prediction stops here: {stop.reason}; what depends on its top is not predicted"
        yield Found(node.place, node.name, message, "measure it with --run", cause=stop.reason)
