"""The windows of the ops that have a kernel."""

from __future__ import annotations

from .info import Call
from .window import Window, window

__all__ = ["conv_transpose_window", "conv_window", "global_window", "pool_window"]


def conv_window(call: Call) -> Window:
    """The kernel slides over the input; it is as large as the weights say."""
    return window(call.attributes, call.input(0)[2:], call.output()[2:], call.input(1)[2:])


def conv_transpose_window(call: Call) -> Window:
    """The kernel slides over the output."""
    return window(call.attributes, call.output()[2:], call.input(0)[2:], call.input(1)[2:])


def pool_window(call: Call) -> Window:
    """The kernel is an attribute."""
    return window(call.attributes, call.input(0)[2:], call.output()[2:], call.attributes["kernel_shape"])


def global_window(call: Call) -> Window:
    """One place, which reads the whole image."""
    size = call.input(0)[2:]
    return window({}, size, [1] * len(size), size)
