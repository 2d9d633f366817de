"""`gradient`: an ONNX model with its vector-Jacobian products."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx

__all__ = ["gradient"]


def gradient(
    model: onnx.ModelProto | str | Path,
    outputs: Collection[str] | None = None,
    wrt: Collection[str] | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    straight_through: bool = False,
) -> onnx.ModelProto:
    """Return a model that computes what `model` does and grad/x = Σ cotangent/y · ∂y/∂x for values x and outputs y.

    Shapes that shape inference cannot tell are found by running the model once; the result then takes data of these
    shapes only.

    model:   an onnx.ModelProto, or the path of one, which external data needs
    outputs: names of the outputs y to start from; all floating-point ones by default
    wrt:     names of the values x; all floating-point inputs and weights by default
    shapes, batch: see `caffestat.options.NetOptions`
    inputs:  values of inputs by name, for the run, and for conditions of Ifs, whose branch is then taken for good
    straight_through: let gradients pass pairs of QuantizeLinear and DequantizeLinear as if nothing was rounded

    Raises InputError when the model cannot be used or has no value of a name, GradientError for an op without a rule.
    Source: `caffestat.autodiff.gradient` describes names and shapes of the result.
    """
    from caffestat import autodiff
    from caffestat.program.from_onnx import settle_drawn

    settle = partial(settle_drawn, inputs=inputs or {})
    return autodiff.gradient(
        model,
        outputs,
        wrt,
        shapes=shapes,
        batch=batch,
        inputs=inputs,
        settle=settle,
        straight_through=straight_through,
    )
