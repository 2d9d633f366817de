"""Checks that look at the text alone, and at what building the net says of it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from caffestat.layers import layer_class
from caffestat.schema import UnknownField

from ..context import Context
from ..registry import Found, Needs, check

_DATA = ("Data", "ImageData", "WindowData")
_QUOTED = re.compile(r"layer '([^']*)'")


def _layer(message: str) -> str:
    found = _QUOTED.search(message)
    return found[1] if found else ""


@check("CS001", "net-not-built", "error", Needs.TEXT)
def net_not_built(context: Context) -> Iterator[Found]:
    """The file cannot be built into a net.

    Caffe would stop here: a bottom that no layer produces, shapes that do not fit, a field without which a layer does
    not work. Checks that need the net are left out. The message says what was expected and what to do.

    Example: `bottom: "pool9"` where no layer has the top `pool9`.

    Fix: as the message says. When only the shape of the data is missing because it stands in a database, give it with
    `--shape data=1,3,227,227`.
    """
    if context.error:
        message = context.error.message
        yield Found(context.error.place, _layer(message), message, "see the message")


@check("CS002", "unknown-field", "warning", Needs.TEXT)
def unknown_field(context: Context) -> Iterator[Found]:
    """A field that Caffe's schema does not have.

    Caffe refuses the file; other readers drop the field without a word, and with it what was meant. Mostly a typo
    (`num_outputs`), a field in the wrong message (`lr_mult` beside `param` instead of in it), or a fork's extension.

    Example: `convolution_param { num_outputs: 20 }`.

    Fix: write the name that the message suggests, or remove the field.
    """
    for finding in _findings(context):
        if isinstance(finding, UnknownField):
            yield Found(finding.place, _layer(finding.message), finding.message, "correct the name or remove the field")


def _findings(context: Context) -> list[Any]:
    """Return what reading and building found strange, once each."""
    return list(dict.fromkeys((*context.source.findings, *context.findings)))


@check("CS003", "unknown-type", "error", Needs.TEXT)
def unknown_type(context: Context) -> Iterator[Found]:
    """A layer type that nobody knows.

    Caffe stops at it. Its tops have no known shape, so whatever depends on them is left out of every other check.

    Example: `type: "Convolutions"`.

    Fix: correct the type. A type of a fork that caffestat lacks can be ignored by a comment in the layer:
    `# caffestat: ignore[CS003] our own layer`.
    """
    for entry in context.source.layers:
        if layer_class(entry.proto.type) is None:
            name, kind = entry.proto.name, entry.proto.type
            message = f"unknown layer type {kind!r}; what depends on its tops is not checked"
            yield Found(entry.place, name, message, "correct the type")


@check("CS004", "odd-text", "info", Needs.TEXT)
def odd_text(context: Context) -> Iterator[Found]:
    """Something else in the file is strange, but stops nothing.

    Fields of very old nets that could not be carried over, strings that are not UTF-8, values that only a fork knows.

    Fix: as the message says.
    """
    for finding in _findings(context):
        if not isinstance(finding, UnknownField) and "unknown layer type" not in finding.message:
            yield Found(finding.place, _layer(finding.message), finding.message, "see the message")


@check("CS019", "unscaled-input", "warning", Needs.TEXT)
def unscaled_input(context: Context) -> Iterator[Found]:
    """Images are read as 0 to 255, neither scaled nor centred.

    Their mean square is about 130², so the first layer's output is two orders of magnitude larger than its filler
    meant it to be: E[z²] = n·Var(w)·E[x²]. With xavier every later layer inherits the factor. A large mean acts like a
    bias that all units share.

    Example: a `Data` layer whose `transform_param` has neither `scale` nor `mean_file` nor `mean_value`, in front of a
    convolution.

    Fix: `transform_param { scale: 0.00390625 }`, which is 1/256, or a `mean_value` per channel. A BatchNorm or Scale
    layer that reads the data directly does as well, and is not reported.
    """
    for entry in context.source.layers:
        transform = entry.proto.transform_param
        if entry.proto.type not in _DATA or transform.HasField("mean_file") or transform.mean_value:
            continue
        scale = transform.scale if transform.HasField("scale") else 1.0
        if scale > 1 / 16 and _meets_weights(context, entry.proto):
            message = f"images go in as 0 to {255 * scale:g}: no scale and no mean in transform_param"
            yield Found(entry.place, entry.proto.name, message, "add transform_param { scale: 0.00390625 } or a mean")


def _meets_weights(context: Context, data: Any) -> bool:
    """Tell whether a layer with weights reads the images as they are."""
    readers = [e.proto.type for e in context.source.layers if data.top and data.top[0] in e.proto.bottom]
    return any(kind in ("Convolution", "InnerProduct", "Deconvolution") for kind in readers)
