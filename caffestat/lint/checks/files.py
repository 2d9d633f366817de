"""Checks that look at the text alone, and at what building the net says of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from caffestat.graph.flow import Flow
from caffestat.layers import Layer, layer_class, similar_type
from caffestat.schema import UnknownField

from ..context import Context
from ..issue import SEE_MESSAGE
from ..registry import Found, Needs, check

_QUOTED = re.compile(r"""layer ('|")(.*?)\1""")


def _layer(message: str) -> str:
    found = _QUOTED.search(message)
    return found[2] if found else ""


def _anywhere(message: str) -> str:
    """Return a message without the layer that it is about."""
    return _QUOTED.sub("layer", message)


@check("CS001", "net-not-built", "error", Needs.TEXT)
def net_not_built(context: Context) -> Iterator[Found]:
    """The file cannot be built into a net.

    Caffe stops here: a bottom that no layer produces, shapes that do not fit, a missing field that the layer requires.
    Checks that need the net are skipped. The message says what was expected and what to do. Of a solver, its test nets
    are built too.

    Example: `bottom: "pool9"` where no layer has the top `pool9`.

    Fix: as the message says. When only the shape of the data is missing because it is in a database, give it with
    `--shape data=1,3,227,227`.
    """
    for error in filter(None, (context.error, context.test_error)):
        yield Found(error.place, _layer(error.message), error.message, SEE_MESSAGE)


@check("CS002", "unknown-field", "warning", Needs.TEXT)
def unknown_field(context: Context) -> Iterator[Found]:
    """A field that Caffe's schema does not have.

    Caffe refuses the file; other readers drop the field without a warning. Usually a typo (`num_outputs`), a field in
    the wrong message (`lr_mult` beside `param` instead of in it), or a fork's extension. The same field in many layers
    is reported once. Fields of a layer whose type is unknown, or known to be a fork's, are not reported: they belong to
    the type.

    Example: `convolution_param { num_outputs: 20 }`.

    Fix: write the name that the message suggests, or remove the field.
    """
    foreign = [entry.text.span for entry in context.source.layers if entry.text and not layer_class(entry.proto.type)]
    for finding in context.findings if context.source.layers else ():
        if isinstance(finding, UnknownField) and not _is_within(finding, context.source.name, foreign):
            fix = "correct the name or remove the field"
            cause = _anywhere(finding.message)
            yield Found(finding.place, _layer(finding.message), finding.message, fix, cause=cause)


def _is_within(finding: UnknownField, file: str, spans: Iterable[tuple[int, int]]) -> bool:
    offset = finding.field.span[0]
    return finding.place.file == file and any(start <= offset < end for start, end in spans)


@check("CS003", "unknown-type", "warning", Needs.TEXT)
def unknown_type(context: Context) -> Iterator[Found]:
    """An unknown layer type.

    Caffe stops at it, unless it is a fork that has the type. Its tops have no known shape, so whatever depends on them
    is left out of every other check. A known type that is at most two letters off is suggested. A type that many layers
    have is reported once.

    Example: `type: "Convolutions"`.

    Fix: correct the type. One of a fork that caffestat lacks can be described in a plugin (`--plugin`), or ignored by a
    comment in the layer: `# caffestat: ignore[CS003] our own layer`.
    """
    for entry in context.source.layers:
        kind, name = entry.proto.type, entry.proto.name
        if layer_class(kind) is None:
            close = similar_type(kind) if kind else None
            hint = f"; did you mean {close!r}?" if close else ""
            what = f"unknown layer type {kind!r}{hint}" if kind else "the layer has no type"
            message = f"{what}; what depends on its tops is not checked"
            fix = f'type: "{close}"' if close else "if it is a fork's own type, describe it in a plugin or ignore it"
            yield Found(entry.place, name, message, fix, cause=kind)


@check("CS004", "odd-text", "info", Needs.TEXT)
def odd_text(context: Context) -> Iterator[Found]:
    """Something else in the file is unusual, but the net can be built.

    Fields of very old nets that cannot be converted, strings that are not UTF-8, values that only a fork knows.

    Fix: as the message says.
    """
    for finding in context.findings:
        if not isinstance(finding, UnknownField) and "unknown layer type" not in finding.message:
            cause = _anywhere(finding.message)
            yield Found(finding.place, _layer(finding.message), finding.message, SEE_MESSAGE, cause=cause)


@check("CS023", "unknown-shape", "info", Needs.NET)
def unknown_shape(context: Context) -> Iterator[Found]:
    """The shape of the data is not in the file.

    It is in a database, in image files or in Python code, none of which is available. What depends on it cannot be
    checked. A likely shape is assumed, so that most checks still run: that of a deploy file beside the net, of a data
    set that the net names, or else images of a common size that fits, 224 x 224 first; targets have the shape that
    their layer expects. Gains do not depend on the size up to the first inner product, whose fan-in does. Deploy nets
    are not reported.

    Example: a `Data` layer without `crop_size` whose LMDB is on another machine.

    Fix: `--shape data=64,1,28,28` on the command line.
    """
    for unknown in context.unknown_shapes if context.trains else ():
        layer = unknown.node.layer
        blobs = [context.built.blobs[top] for top in unknown.node.tops]
        tops = [blob.name for blob in blobs if blob.shape is None or blob.shape == unknown.taken]
        what = ", ".join(map(repr, tops))
        rest = f"assuming {'x'.join(map(str, unknown.taken))}" if unknown.taken else "what depends on it is not checked"
        message = f"the shape of {what} is only {layer.shape_source()}, which is not available; {rest}"
        fix = " ".join(f"--shape {top}=N,C,H,W" for top in tops)
        yield Found(unknown.node.place, unknown.node.name, message, fix)


@check("CS019", "unscaled-input", "warning", Needs.TEXT)
def unscaled_input(context: Context) -> Iterator[Found]:
    """Images are read as 0 to 255, neither scaled nor centred.

    Their root mean square is about 130, so the first layer's output is two orders of magnitude larger than its filler
    assumes: E[z²] = n·Var(w)·E[x²]. With xavier every later layer inherits the factor. A large mean acts like a
    bias that all units share.

    Example: a `Data` layer whose `transform_param` has neither `scale` nor `mean_file` nor `mean_value`, before a
    convolution.

    Fix: `transform_param { scale: 0.00390625 }`, which is 1/256, or a `mean_value` per channel. A BatchNorm, Power or
    Scale layer that reads the data, or a BatchNorm right after the first layer with weights, also does this, and is not
    reported.
    """
    flow = Flow((entry.proto.bottom, entry.proto.top) for entry in context.source.layers)  # of all phases
    for entry in context.source.layers:
        transform = entry.proto.transform_param
        if not _traits(entry.proto).reads_pixels or transform.HasField("mean_file") or transform.mean_value:
            continue
        scale = transform.scale if transform.HasField("scale") else 1.0
        if scale > 1 / 16 and entry.proto.top and _meets_weights(context, flow, entry.proto.top[0]):
            message = f"images are read as 0 to {255 * scale:g}: no scale and no mean in transform_param"
            fix = "add transform_param { scale: 0.00390625 } or a mean"
            yield Found(entry.place, entry.proto.name, message, fix, cause=f"{scale:g}")


def _meets_weights(context: Context, flow: Flow[str], blob: str) -> bool:
    """Tell whether a layer with weights reads images as they are, no BatchNorm behind it to make up for it."""
    layers = [entry.proto for entry in context.source.layers]
    readers = {reader for reader, _ in flow.through(blob, lambda layer, bottom: _keeps_scale(layers[layer]))}
    weighted = (reader for reader in readers if _has_weights(layers[reader]))
    return not all(any(_traits(layers[user]).normalizes for user, _ in flow.users(reader)) for reader in weighted)


def _traits(proto: Any) -> type[Layer]:
    return layer_class(proto.type) or Layer


def _has_weights(proto: Any) -> bool:
    return "weight" in _traits(proto).filler_fields.values()


def _keeps_scale(proto: Any) -> bool:
    """Tell whether a layer passes images as they are: not normalized, and not multiplied by a learned scale."""
    traits = _traits(proto)
    return traits.passes_values or (traits.passes_signal and not traits.normalizes and not traits.filler_fields)
