"""Nets to check, put together from layers in one line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from caffestat.lint import Issue, Job, check_file, selected
from caffestat.options import ValueOptions

__all__ = ["ACT", "CONV", "DATA", "FC", "LOSS", "V0", "V1", "issues"]

DATA = """layer { name: "data" type: "Input" top: "x" top: "label"
  input_param { shape { dim: 4 dim: 3 dim: 9 dim: 7 } shape { dim: 4 } } }
"""
LOSS = 'layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "{0}" bottom: "label" top: "loss" }}\n'
V0 = """input: "x" input_dim: 4 input_dim: 3 input_dim: 9 input_dim: 7 input: "label" input_dim: 4 input_dim: 1
input_dim: 1 input_dim: 1
layers { layer { name: "c" type: "conv" num_output: 64 kernelsize: 3 %s } bottom: "x" top: "c" }
layers { layer { name: "t" type: "tanh" } bottom: "c" top: "c" }
layers { layer { name: "f" type: "innerproduct" num_output: 5 weight_filler { type: "xavier" } } bottom: "c" top: "f" }
layers { layer { name: "l" type: "softmax_loss" } bottom: "f" bottom: "label" }
"""
V1 = """input: "x" input_dim: 4 input_dim: 3 input_dim: 9 input_dim: 7 input: "label" input_dim: 4 input_dim: 1
input_dim: 1 input_dim: 1
layers { name: "c" type: CONVOLUTION bottom: "x" top: "c" convolution_param { num_output: 64 kernel_size: 3 %s } }
layers { name: "t" type: TANH bottom: "c" top: "c" }
layers { name: "f" type: INNER_PRODUCT bottom: "c" top: "f"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
layers { name: "l" type: SOFTMAX_LOSS bottom: "f" bottom: "label" }
"""


def CONV(
    name: str, bottom: str, filler: str = 'weight_filler { type: "msra" }', more: str = "", param: str = ""
) -> str:
    """Return a 3 x 3 convolution of 64 channels whose top has its name."""
    return (
        f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" {param}\n'
        f"  convolution_param {{ num_output: 64 kernel_size: 3 pad: 1 {filler} {more} }}\n}}\n"
    )


def FC(name: str, bottom: str, filler: str = 'weight_filler { type: "xavier" }', outputs: int = 10) -> str:
    """Return an inner product whose top has its name."""
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}"\n'
        f"  inner_product_param {{ num_output: {outputs} {filler} }}\n}}\n"
    )


def ACT(kind: str, blob: str) -> str:
    """Return an activation in place."""
    return f'layer {{ name: "{kind.lower()}_{blob}" type: "{kind}" bottom: "{blob}" top: "{blob}" }}\n'


def issues(
    folder: Path, text: str, *select: str, run: bool = False, weights: Sequence[str] = (), **limits: float
) -> list[Issue]:
    """Return what the checks find in a text."""
    from caffestat.lint import Limits

    path = folder / "net.prototxt"
    path.write_text(text)
    return check_file(
        str(path), Job(selected(select, ()), Limits(**limits), run=run, values=ValueOptions(weights=weights))
    )
