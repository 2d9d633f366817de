"""`gradient`: an ONNX model with its vector-Jacobian products."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.errors import InputError
from caffestat.options import NetOptions, RunOptions

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from caffestat.graph import Graph
    from caffestat.graph.load import Model

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
    dims: Mapping[str, int] | None = None,
    loss: str | None = None,
) -> onnx.ModelProto:
    """Return a model that computes what `model` does and grad/x = Σ cotangent/y · ∂y/∂x for values x and outputs y.

    Shapes that shape inference cannot tell are found by running the model once; the result then takes data of these
    shapes only.

    model:   an onnx.ModelProto, or the path of one, which external data needs
    outputs: names of the outputs y to start from; all floating-point ones by default
    wrt:     names of the values x; all floating-point inputs and weights by default
    shapes, batch, dims: see `caffestat.options.NetOptions`
    inputs:  values of inputs by name, for the run, and for conditions of Ifs, whose branch is then fixed
    straight_through: let gradients pass pairs of QuantizeLinear and DequantizeLinear as if nothing was rounded
    loss:    differentiate this loss: "ones" (the sum of all outputs y), "cross-entropy" (of the first of them; the
             result takes `labels`), or the name of a value whose sum is the loss. The result then has no cotangents,
             and the loss, where it is one value, is an output. Default, and "noise": the cotangents are inputs

    Raises InputError when the model cannot be used, has no value of a name or needs more memory than is free;
    GradientError for an op without a rule.
    Source: `caffestat.autodiff.gradient` describes names and shapes of the result.
    """
    from caffestat import autodiff
    from caffestat.program.batches import saying_batch
    from caffestat.program.from_onnx import can_run
    from caffestat.program.losses import LOSSES

    run = RunOptions(inputs=inputs or {}, loss=loss)
    if loss is not None and loss not in LOSSES:
        if outputs is not None:
            raise InputError(f"loss {loss!r} is the name of a value, whose sum is the loss: remove outputs")
        outputs = ()
    net = NetOptions(shapes=shapes or {}, batch=batch, dims=dims or {})
    with saying_batch(model, net, lambda: run.inputs):
        return autodiff.gradient(
            model,
            outputs,
            wrt,
            start=None if loss is None else partial(_start, loss),
            shapes=net.shapes,
            batch=net.batch,
            inputs=run.inputs,
            settle=partial(_settle, inputs=run.inputs),
            runs=partial(can_run, inputs=run.inputs),
            straight_through=straight_through,
            dims=net.dims,
        )


def _settle(model: Model, inputs: Mapping[str, np.ndarray]) -> None:
    from caffestat.program.from_onnx import settle_drawn
    from caffestat.program.memory import check_gradient

    check_gradient(model)
    settle_drawn(model, inputs)


def _start(loss: str, graph: Graph, outputs: Sequence[str]) -> dict[str, str]:
    """Emit a loss and what its gradient starts from; a loss that is one value becomes an output."""
    from caffestat.program.losses import seed_values, start

    seeds = start(graph, loss, outputs).seeds
    graph.outputs += [name for name, seed in seeds.items() if isinstance(seed, float) and name not in graph.outputs]
    return seed_values(graph, seeds)
