"""Checks that look at fillers and shapes, without a prediction."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from caffestat.fillers import (
    Constant,
    Filler,
    FillerType,
    Uniform,
    caffe_fans,
    density,
    filler_type,
    of_norm,
    problem,
)
from caffestat.net import NetParam, Node
from caffestat.ops import Nonlinearity
from caffestat.prototext import Document, Edit, Field, remove
from caffestat.rewriting.policy import Site, Wanted, parse_policy
from caffestat.rewriting.text import filler_edits

from ..context import Context
from ..registry import Found, Needs, check

_FILLER_FIELDS = ("weight_filler", "bias_filler", "filler")
_LEAKY = 0.3  # a slope just below 0 from which on a rectifier leaves clearly more than half
_FLAT = 0.071  # the slope of a sigmoid at 2.5, of tanh at 2
_OFF = 2.5  # standard deviations below 0: a rectifier is off for nearly every input


def _filled(context: Context, role: str = "weight", deploy: bool = False) -> Iterator[tuple[Node, NetParam]]:
    """Yield the weights of a net that is trained (what sums over several inputs), or the params of another role.

    deploy: of a net without a loss, too. Those whose trained values are given are left out: their fillers do not matter
    """
    for node in context.built.nodes if context.trains or deploy else ():
        for number in node.params:
            entry = context.built.params[number]
            if entry.param.role == role and number not in context.given:
                yield node, entry


def _filler_field(context: Context, node: Node, role: str) -> tuple[Field | None, Field | None]:
    """Return the text of the layer's own parameter message, and of the filler in it that fills a role."""
    wanted = {"weight": "weight_filler", "bias": "bias_filler"}.get(role, "filler")
    # in V0 a layer holds its parameters itself, inside of a message that has its bottoms and tops
    own = [
        f for f in (node.layer.text.fields if node.layer.text else ()) if f.name == "layer" or f.name.endswith("_param")
    ]
    for field in own:
        found = context.text_of(node, field.name, wanted)
        if found:
            return field, found
    own = [field for field in own if context.text_of(node, field.name, "num_output")]
    return (own[0] if own else None), None


def _place(context: Context, node: Node, role: str) -> Any:
    _, field = _filler_field(context, node, role)
    return field.place if field else node.place


def _give(node: Node, wanted: Wanted | None) -> Callable[[Document], Sequence[Edit]] | None:
    """Return what gives a layer's weights another filler, None where there is none to give."""
    return (lambda document: filler_edits(document, node.place, wanted)) if wanted else None


@check("CS005", "missing-filler", "error", Needs.NET)
def missing_filler(context: Context) -> Iterator[Found]:
    """A layer of a net that is trained has no weight_filler.

    Caffe's default is the constant 0. With all weights at zero every output is its bias, and the gradient of everything
    below is dx = Wᵀ·dy = 0: the layer and all layers under it learn nothing, or all of their units learn the same. A
    frozen layer (`lr_mult: 0`) never leaves that state.

    Example: `inner_product_param { num_output: 10 }` in a net with a loss; a frozen Deconvolution for upsampling, which
    no classifier's caffemodel holds.

    Fix: `weight_filler { type: "msra" }` before ReLU, `"xavier"` before anything else; in a Deconvolution
    that upsamples, `"bilinear"` with `group` and `num_output` equal to the channels. Not reported: deploy nets, which
    have no loss; layers whose weights are given, by `--weights` or by `weights` in the solver; frozen layers in front
    of which nothing learns from a filler of its own, unless weights are given that lack them. A net that freezes layers
    without a filler expects pretrained weights: its other layers without one are reported once, as info.
    """
    if not context.trains:
        return
    frozen = [(node, entry) for node, entry in context.unfilled if not entry.lr_mult and _starves(context, node)]
    for node, entry in frozen:
        message = "no weight_filler, and frozen: these weights and the gradient of all layers before it stay zero"
        fix = _fix_missing(context, node, entry)
        yield Found(node.place, node.name, _lacking(context, message), fix, cause="frozen")
    trained = [(node, entry) for node, entry in context.unfilled if entry.lr_mult]
    if context.awaits_weights and trained and not frozen:
        message = (
            f"{len(trained)} layers have no weight_filler, and neither do frozen layers: "
            "the net expects pretrained weights"
        )
        fix = "use --weights FILE to see which layers get none"
        node = trained[0][0]
        yield Found(node.place, node.name, message, fix, {"layers": len(trained)}, severity="info")
        return
    for node, entry in trained:
        message = "no weight_filler: Caffe initializes these weights to zero, so no signal passes"
        fix = f"{_fix_missing(context, node, entry)}, or --weights FILE for trained weights"
        edits = None if _interpolates(node) else _give(node, _suitable(context, node))
        yield Found(node.place, node.name, _lacking(context, message), fix, edits=edits, cause="missing")


def _lacking(context: Context, message: str) -> str:
    return f"{message} (the given weights have none for this layer)" if context.given else message


def _starves(context: Context, node: Node) -> bool:
    """Tell whether zeros in a frozen layer keep others from learning: those before it that have fillers of their own.

    Where weights are given, and this layer is not among them, it is meant to have some.
    """
    if context.given:
        return True
    params = context.built.params
    learning = {
        entry.node for entry in params if entry.param.role == "weight" and entry.lr_mult and entry.param.written
    }
    return any(node.bottom_need_backward) and not learning.isdisjoint(context.before(node))


def _interpolates(node: Node) -> bool:
    """Tell whether a layer looks like upsampling: a stride, and as many outputs as channels."""
    return node.layer.upsamples and max(node.layer.proto.convolution_param.stride, default=1) > 1


def _fix_missing(context: Context, node: Node, entry: NetParam) -> str:
    """Say which filler a layer should have."""
    bottom = node.bottom_shapes[0]
    if _interpolates(node) and bottom and len(bottom) > 1:
        return f'weight_filler {{ type: "bilinear" }} with group: {bottom[1]} num_output: {bottom[1]}'
    return _text(_suitable(context, node))


def _suitable(context: Context, node: Node) -> Wanted | None:
    """Return the filler that `rewrite --filler auto` writes, for the weights of a layer."""
    params = [context.built.params[number].param for number in node.params]
    fans = [(param.fan_in, param.fan_out) for param in params if param.role == "weight"]
    return parse_policy("auto").choose(Site(None, lambda: context.activation(node), lambda: fans[0]))


def _text(wanted: Wanted | None) -> str:
    return f"weight_filler {{ {wanted.prototxt} }}" if wanted else "a random filler"


@check("CS006", "ignored-filler-field", "warning", Needs.TEXT)
def ignored_filler_field(context: Context) -> Iterator[Found]:
    """A filler has a field that its type does not read.

    `std` means nothing to xavier, whose spread follows from the fan alone; `value` means nothing to gaussian. The
    field is dropped without a warning, and the weights are not what the file seems to say.

    Example: `weight_filler { type: "xavier" std: 0.01 }` draws from ±sqrt(3/n), whatever n is. `type: "uniform" std:
    0.05` draws from 0 to 1, the defaults of min and max.

    Fix: remove the field, or change the type: `type: "gaussian" std: 0.01`. A uniform filler with std wants `min` and
    `max` at ±sqrt(3)·std.
    """
    for entry in context.source.layers:
        for field, message in _fillers(entry.text.fields if entry.text else ()):
            kind = _scalar(message, "type") or Filler().type
            known = filler_type(kind)
            for part in message.fields:
                if known and part.name not in ("type", *known.reads, known.own_field):
                    text = f"{field.name} of type {kind!r} ignores {part.name}"
                    yield _ignored(part, entry.proto.name, text, known, message)


def _lacks_all(message: Any, kind: FillerType) -> bool:
    """Tell whether none of the fields is written without which a random type is seldom meant."""
    return kind.is_random and bool(kind.required) and not any(message.first(name) for name in kind.required)


def _ignored(part: Field, layer: str, text: str, kind: FillerType, message: Any) -> Found:
    """Return the finding; where a filler is left with its default spread, a person must say which was meant."""
    if not _lacks_all(message, kind):
        fix = f"remove {part.name}, or use a type that reads it"
        return Found(part.place, layer, text, fix, edits=_removing(part), cause=text)
    found = kind.density_of(Filler(kind.name), (1,))
    spread = (
        f"from {found.low:g} to {found.high:g}" if isinstance(found, Uniform) else f"with std {found.variance**0.5:g}"
    )
    text += f" and draws {spread}"
    wanted = _range(part) if isinstance(found, Uniform) else " and ".join(kind.required)
    return Found(part.place, layer, text, f"write {wanted}", cause=text)


def _range(part: Field) -> str:
    """Return the range of a uniform filler that has the std which is written."""
    try:
        half = 3**0.5 * float(part.values[0].text) if part.name == "std" else None  # type: ignore[union-attr]
    except ValueError:
        half = None
    return f"min: {-half:.4g} max: {half:.4g}" if half is not None else "min and max"


def _removing(field: Field) -> Callable[[Document], Sequence[Edit]]:
    return lambda document: [remove(document, field)]


def _fillers(fields: Sequence[Field]) -> Iterator[tuple[Field, Any]]:
    """Yield every filler message in a text, however deep."""
    for field in fields:
        for value in field.values:
            inner = getattr(value, "fields", None)
            if inner is None:
                continue
            if field.name in _FILLER_FIELDS or field.name.endswith("_filler"):
                yield field, value
            else:
                yield from _fillers(inner)


def _scalar(message: Any, name: str) -> str:
    found = message.first(name)
    return found.values[0].text.strip("\"'") if found and hasattr(found.values[0], "text") else ""


@check("CS032", "unusable-filler", "error", Needs.NET)
def unusable_filler(context: Context) -> Iterator[Found]:
    """A filler gives no finite values.

    Its type is not one that Caffe or a plugin has, Caffe refuses its fields, or a field that it reads is not finite.
    Caffe stops at the first two; an infinite or undefined number makes every later blob nan. Fillers whose
    values are given (`--weights`) are not reported.

    Example: `weight_filler { type: "Xavier" }` (types are case-sensitive), `type: "gaussian" std: inf`, `type:
    "uniform" min: 1 max: 0`.

    Fix: as the message says.
    """
    for entry, reason in unusable(context):
        node = context.built.nodes[entry.node]
        message = f"the filler of param {entry.index} ({entry.param.role}) gives no values: {reason}"
        place = _place(context, node, entry.param.role)
        yield Found(place, node.name, message, "correct the filler", cause=reason)


def unusable(context: Context) -> Iterator[tuple[NetParam, str]]:
    """Yield the params whose values are not given and whose filler gives none, and why."""
    for number, entry in enumerate(context.built.params):
        reason = "" if number in context.given else problem(entry.param.filler, entry.param.shape)
        if reason:
            yield entry, reason


@check("CS007", "symmetric-weights", "error", Needs.NET)
def symmetric_weights(context: Context) -> Iterator[Found]:
    """All filters of a layer start with the same values.

    Units with equal weights compute the same: a layer of any width computes one number, z = Σ w·x, and starts as one
    unit. Only the next layer can make its units differ; where that layer is symmetric too, or where the layer is
    frozen, they stay equal throughout training. At zero they pass no gradient down either.

    Example: `weight_filler { type: "constant" value: 0.01 }` with `num_output: 500`. `type: "bilinear"` without
    `group`: each output of the Deconvolution is the sum of all channels, upsampled; a softmax of equal scores has a
    loss of ln K and no gradient.

    Fix: a random filler, `"xavier"` or `"msra"`; with `bilinear`, `group` and `num_output` equal to the channels, so
    that each output upsamples one of them. A layer with one output per group is not reported, nor are zeros in the last
    layer before the loss: its outputs become different because their labels differ. Other constants there are a
    warning, because at first they pass no gradient down either. In nets without a loss only `bilinear` is reported.
    """
    for node, entry in _filled(context, deploy=True):
        if not entry.param.written or _outputs(node, entry) < 2 or not _is_alike(entry):
            continue
        if not context.trains and not _upsamples(entry):
            continue
        value, is_last = _only_value(entry), not _has_weights_after(context, node)
        if value == 0 and is_last and entry.lr_mult:
            continue
        outputs = _outputs(node, entry)
        same = "with the same values" if value is None else f"at {value:g}"
        message = f"all weights start {same}: the {outputs} outputs start equal"
        message += "" if entry.lr_mult else ", and stay equal: the layer is frozen"
        numbers, cause = {} if value is None else {"value": value}, entry.param.filler.type + same
        severity = "warning" if is_last and entry.lr_mult and value is not None else None
        place, fix = _place(context, node, "weight"), _unlike(context, node, entry)
        yield Found(place, node.name, message, fix, numbers, severity=severity, cause=cause)


def _is_alike(entry: NetParam) -> bool:
    """Tell whether the filler gives each filter the same values."""
    filler, shape = entry.param.filler, entry.param.shape
    kind = filler_type(filler.type)
    return kind is not None and not problem(filler, shape) and kind.is_alike(filler, shape)


def _upsamples(entry: NetParam) -> bool:
    kind = filler_type(entry.param.filler.type)
    return kind is not None and kind.upsamples


def _unlike(context: Context, node: Node, entry: NetParam) -> str:
    """Return in words what makes the filters of a layer differ."""
    bottom = node.bottom_shapes[0]
    if _upsamples(entry) and bottom and len(bottom) > 1:
        return f"group: {bottom[1]} num_output: {bottom[1]}, which gives each channel its own filter"
    return _text(_suitable(context, node))


def _outputs(node: Node, entry: NetParam) -> int:
    """Return how many outputs of a layer read the same inputs: its channels, by group."""
    shape = node.top_shapes[0] if node.top_shapes else None
    channels = shape[1] if shape and len(shape) > 1 else 1
    return channels // max(node.layer.proto.convolution_param.group, 1)


def _has_weights_after(context: Context, node: Node) -> bool:
    return any(True for _ in context.until(node, context.has_weights))


@check("CS008", "fan-differs", "warning", Needs.NET)
def fan_differs(context: Context) -> Iterator[Found]:
    """A filler's n is not what the layer sums over.

    xavier and msra take n = count / shape[0] (FAN_IN), whatever the blob's axes mean to its layer. In a Deconvolution,
    a transposed InnerProduct and an Embed the axes are swapped, and FAN_OUT ignores groups. The variance is then wrong
    by the factor n_true / n_caffe: E[z²] = n_true·Var(w)·E[x²], with Var(w) = 1 / n_caffe.

    Example: `Deconvolution` from 256 to 64 channels, kernel 4, stride 2: Caffe takes n = 64·16, the true fan-in is
    256·16 / 4.

    Fix: `variance_norm: FAN_OUT` where the axes are swapped and the stride is 1, or `gaussian` with the std that the
    message states. A difference below a factor of 1.5 (`--fan-factor`) is not reported, nor an n that is the true
    fan-in after all.
    """
    for node, entry in _filled(context):
        filler, shape = entry.param.filler, entry.param.shape
        gain = _gain(filler)
        if gain is None or len(shape) < 2 or not entry.lr_mult:
            continue
        used, true = _fans(filler, shape, entry)
        if all(_apart(used, n) >= context.limits.fan_factor for n in (true, entry.param.fan_in)):
            std = (gain / true) ** 0.5
            message = (
                f"{filler.type} takes n = {used:g} where {true:g} is summed over: "
                f"the variance is off by a factor of {true / used:.3g}"
            )
            numbers = {"caffe": used, "true": true, "factor": true / used}
            fix = f'type: "gaussian" std: {std:.4g}, or the variance_norm that fits'
            yield Found(_place(context, node, "weight"), node.name, message, fix, numbers)


def _gain(filler: Filler) -> float | None:
    """Return n · Var(w) of a filler that derives its spread from a fan n, None for any other."""
    kind = filler_type(filler.type)
    return kind.gain if kind else None


def _apart(one: float, other: float) -> float:
    return max(one / other, other / one)


def _fans(filler: Filler, shape: tuple[int, ...], entry: NetParam) -> tuple[float, float]:
    """Return the n that Caffe takes, and the true one of this variance norm."""
    caffe, true = caffe_fans(shape), (entry.param.fan_in, entry.param.fan_out)
    return float(of_norm(caffe, filler.variance_norm)), float(of_norm(true, filler.variance_norm))


@check("CS009", "shared-fillers-differ", "warning", Needs.NET)
def shared_fillers_differ(context: Context) -> Iterator[Found]:
    """Two layers share a param by name, and each has its own filler for it.

    The first layer owns the values. The values that the second one's filler draws are discarded, although drawing them
    advances the random stream: the filler that the file states for this param has no effect on it.

    Example: `param { name: "w" }` in two layers, one with `type: "xavier"`, the other with `type: "gaussian" std:
    0.01`.

    Fix: write the same filler in both, or none in the second.
    """
    params = context.built.params
    for entry in params:
        if entry.owner is None:
            continue
        owner, node = params[entry.owner], context.built.nodes[entry.node]
        if entry.param.written and _what_is_read(entry.param.filler) != _what_is_read(owner.param.filler):
            first = context.built.nodes[owner.node]
            message = (
                f"param {entry.name!r} is shared with layer {first.name!r} at {first.place}, "
                f"whose {owner.param.filler.type} filler is used; this {entry.param.filler.type} filler is ignored"
            )
            place = _place(context, node, entry.param.role)
            yield Found(place, node.name, message, "write the same filler in both layers")


@check("CS034", "unshared-param", "warning", Needs.NET)
def unshared_param(context: Context) -> Iterator[Found]:
    """Two layers share one param by name, and each names another one that no other layer has.

    Names make params shared. Where two layers have the same name for their weights but different ones for their biases,
    one of these is usually a typo: the biases are not shared, and diverge in training.

    Example: `param { name: "w" } param { name: "b" }` in one layer, `param { name: "w" } param { name: "bb" }` in the
    other.

    Fix: write the same name in both layers, or no name where a param is meant to be the layer's own.
    """
    net = context.built
    uses = Counter(entry.name for entry in net.params)
    places = {(entry.node, entry.index): entry for entry in net.params}
    for entry in net.params:
        if not entry.name or uses[entry.name] > 1:
            continue
        siblings = (net.params[e.owner].node for e in net.params if e.node == entry.node and e.owner is not None)
        others = (places.get((node, entry.index)) for node in siblings)
        other = next((o for o in others if o and o.name and uses[o.name] == 1), None)
        if other:
            node, first = net.nodes[entry.node], net.nodes[other.node]
            message = (
                f"only this layer has a param {entry.name!r}; layer {first.name!r}, with which it shares others, has"
            )
            message += f" {other.name!r} in its place (at {first.place})"
            yield Found(node.place, node.name, message, f'param {{ name: "{other.name}" }} if both should share it')


def _what_is_read(filler: Filler) -> dict[str, Any]:
    """Return the fields of a filler that its type reads."""
    kind = filler_type(filler.type)
    return {name: getattr(filler, name) for name in ("type", *(kind.reads if kind else ()))}


@check("CS010", "saturating-bias", "warning", Needs.NET)
def saturating_bias(context: Context) -> Iterator[Found]:
    """The initial bias puts the next nonlinearity in its flat range.

    The slope of a sigmoid is below 0.07 beyond ±2.5, that of tanh below 0.07 beyond ±2; a ReLU with a large negative
    bias is off for nearly every input. Such units pass hardly any gradient from the start: E[dx²] = E[f′(z)²]·E[dy²].

    Example: `bias_filler { type: "constant" value: 5 }` before a Sigmoid.

    Fix: a bias of 0; before ReLU a small positive one does no harm. Deploy nets, and biases whose values are given
    (`--weights`), are not reported.
    """
    for node, entry in _filled(context, "bias"):
        value, follower = _only_value(entry), context.nonlinearity(node)
        if value is None or follower is None:
            continue
        if _is_flat(follower, value) and not context.is_rescaled(node):
            message = (
                f"a bias of {value:g} puts the inputs of {follower.type} layer {follower.name!r} in its flat range"
            )
            numbers, cause = {"value": value}, f"{value:g} {follower.type}"
            yield Found(
                _place(context, node, "bias"), node.name, message, "set the initial bias to 0", numbers, cause=cause
            )


def _is_flat(activation: Node, value: float) -> bool:
    kind = activation.layer.nonlinearity()
    if kind is None:
        return False
    return (kind.squashes and kind.is_flat(value, _FLAT)) or (kind.cuts and value < -_OFF)


def _only_value(entry: NetParam) -> float | None:
    """Return the value that a filler gives every element, None where they differ."""
    filler, shape = entry.param.filler, entry.param.shape
    found = None if problem(filler, shape) else density(filler, shape)
    return found.mean if isinstance(found, Constant) else None


@check("CS011", "xavier-before-relu", "warning", Needs.NET)
def xavier_before_relu(context: Context) -> Iterator[Found]:
    """A deep plain stack of ReLU layers has xavier weights.

    xavier keeps the variance of linear layers: n·Var(w) = 1. ReLU halves the second moment, so after d layers 2⁻ᵈ of
    the variance is left. He et al. 2015 trained 22 layers with xavier, but not 30.

    Example: ten convolutions with `"xavier"` and a ReLU each, no BatchNorm: the signal is down to 3 % of its size.

    Fix: `"msra"`, Var(w) = 2 / n. Stacks of fewer than 8 such layers in a row (`--deep`) are not reported, nor nets
    that normalize, nor leaky ReLUs with a negative slope of 0.3 and more.
    """
    if context.has_batch_norm or context.given or not context.trains:
        return
    for stack in _stacks(context):
        if len(stack) >= context.limits.deep:
            left = _left(context, stack)
            message = (
                f"{len(stack)} consecutive layers each lose half of the variance in their ReLU: "
                f"{left:.2g} of the signal remains after the last"
            )
            numbers = {"layers": len(stack), "left": left}
            place = _place(context, stack[0], "weight")
            fix = 'weight_filler { type: "msra" } in all of them'
            yield Found(place, stack[0].name, message, fix, numbers, _each_msra(context, stack))


def _left(context: Context, stack: Sequence[Node]) -> float:
    """Return the share of the amplitude that a stack leaves: as predicted, max-pools too, or √(1/2) per layer."""
    indices = {node.index for node in stack}
    gains = [] if context.is_silent else [gain for gain in context.gains if gain.node in indices]
    known = math.prod(map(context.amplitude, gains)) if len(gains) == len(stack) else 0.0
    return known or 2.0 ** (-len(stack) / 2)


def _each_msra(context: Context, stack: Sequence[Node]) -> Callable[[Document], Sequence[Edit]]:
    makers = [_give(node, _suitable(context, node)) for node in stack]
    return lambda document: [edit for maker in makers if maker for edit in maker(document)]


def _stacks(context: Context) -> Iterator[list[Node]]:
    """Yield the chains of layers with xavier weights and a ReLU, each read by the next one alone."""
    seen: set[int] = set()
    for node in context.built.nodes:
        stack: list[Node] = []
        current: Node | None = node
        while current and current.index not in seen and _is_xavier_relu(context, current):
            seen.add(current.index)
            stack.append(current)
            current = _only_successor(context, current)
        if stack:
            yield stack


def _is_xavier_relu(context: Context, node: Node) -> bool:
    weights = [context.built.params[n].param for n in node.params if context.built.params[n].param.role == "weight"]
    follower = context.activation(node)
    return bool(weights) and _gain(weights[0].filler) == 1 and follower.rectifies and _halves(follower)


def _halves(rectifier: Nonlinearity) -> bool:
    """Tell whether a rectifier has a kink at 0 and leaves little of its negative half."""
    return abs(rectifier.slope_below_zero) < _LEAKY


def _only_successor(context: Context, node: Node) -> Node | None:
    """Return the next layer with weights where nothing branches off on the way."""
    while True:
        readers = list(context.followers(node))
        if len(readers) != 1 or len(readers[0].tops) > 1 or len(readers[0].bottoms) > 1:
            return None
        node = readers[0]
        if context.has_weights(node):
            return node


@check("CS012", "msra-before-squashing", "warning", Needs.NET)
def msra_before_squashing(context: Context) -> Iterator[Found]:
    """Weights with msra come before a tanh or a sigmoid.

    msra doubles the variance, Var(w) = 2 / n, to compensate for the half that ReLU removes. tanh and sigmoid remove
    nothing from small inputs, so the signal grows by √2 per layer until they saturate, where their slope, and the
    gradient, is near 0. One whose values are an output, or a gate that multiplies others, passes nothing on and is not
    reported.

    Example: `weight_filler { type: "msra" }` in a convolution followed by `type: "TanH"`.

    Fix: `"xavier"`, Var(w) = 1 / n.
    """
    for node, entry in _filled(context):
        follower = context.nonlinearity(node)
        if _gain(entry.param.filler) != 2 or follower is None or not context.activation(node).squashes:
            continue
        if not _is_output_or_gate(context, follower) and not context.is_rescaled(node):
            message = (
                f"msra before {follower.type} layer {follower.name!r}: twice the variance that preserves the signal"
            )
            place, wanted = _place(context, node, "weight"), _suitable(context, node)
            yield Found(place, node.name, message, _text(wanted), edits=_give(node, wanted), cause=follower.type)


def _is_output_or_gate(context: Context, squashing: Node) -> bool:
    """Tell whether no weights follow a sigmoid or tanh, as for a probability, or it only multiplies, as a gate."""
    return not _has_weights_after(context, squashing) or all(
        reader.layer.multiplies() for reader in _readers(context, squashing)
    )


def _readers(context: Context, node: Node) -> Iterator[Node]:
    """Yield who reads a node's tops, through the splits that Caffe inserts."""
    return context.until(node, lambda reader: not reader.layer.copies)
