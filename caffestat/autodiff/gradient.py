"""The gradient of any ONNX model as another ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.errors import GradientError, InputError

from .engine import backward, reach

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from caffestat.graph import Graph
    from caffestat.graph.load import Model

__all__ = ["COTANGENT", "GRAD", "append_gradients", "gradient"]

COTANGENT, GRAD = "cotangent/", "grad/"


def gradient(
    model: onnx.ModelProto | str | Path,
    outputs: Collection[str] | None = None,
    wrt: Collection[str] | None = None,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    batch: int | None = None,
    inputs: Mapping[str, np.ndarray] | None = None,
    settle: Callable[[Model], None] | None = None,
) -> onnx.ModelProto:
    """Return a model that computes what `model` does and its vector-Jacobian products: grad/x = Σ cotangent/y · ∂y/∂x.

    model:   an onnx.ModelProto, or the path of one, which external data needs
    outputs: names of the outputs y to start from; all floating-point ones by default
    wrt:     names of the values x; all floating-point inputs and weights by default, in the model's order
    shapes:  shapes of inputs by name, where the model leaves sizes open
    batch:   the first axis of inputs that leave it open; 1 by default
    inputs:  values of inputs by name. One that decides which branch of an If is taken becomes a constant
    settle:  completes `model.graph.specs` where shape inference cannot tell a shape (`caffestat.gradient` runs the
             model for it); without it such a shape is an error

    Its inputs are the model's own, then one `cotangent/<output>` per chosen output, of its shape and type. Its
    outputs are the model's own, then one `grad/<name>` per value of `wrt`, zeros where no output depends on it; a name
    that the model has already gets a number: `grad/<name>_2`. It is of opset 22 and runs in stock onnxruntime.

    Raises InputError when the model cannot be used or has no value of a name, GradientError for an op without a rule.
    """
    from caffestat.graph.load import load
    from caffestat.graph.widen import widened

    loaded = load(model, shapes, batch, given=inputs)
    graph = loaded.graph
    floating = [name for name, spec in graph.inputs.items() if spec.is_float]
    asked = [*floating, *loaded.weights] if wrt is None else _names(wrt)
    _unfold(loaded, asked)
    graph.infer()
    if settle is not None:
        settle(loaded)
    _refuse_unknown_shapes(graph, outputs)
    floats = [name for name in graph.outputs if name in graph.specs and graph.specs[name].is_float]
    chosen = floats if outputs is None else _names(outputs)
    for name in chosen:
        if name not in floats:
            known = ", ".join(floats) or "none"
            raise InputError(f"{name!r} is no floating-point output of known shape; the model's are: {known}")
    for name in asked:
        if name not in graph.specs:
            raise InputError(f"the model has no value {name!r} of known shape, so that no gradient can be asked for it")
    append_gradients(graph, chosen, asked)
    graph.infer()
    return widened(graph).to_onnx(loaded.arrays)


def _refuse_unknown_shapes(graph: Graph, outputs: Collection[str] | None) -> None:
    """Raise InputError for a chosen output of unknown shape: that its gradient is zero would be a guess."""
    chosen = graph.outputs if outputs is None else _names(outputs)
    for name in chosen:
        if name in graph.outputs and name not in graph.specs:
            maker = next((node.op for node in graph.nodes if name in node.outputs), "the model")
            raise InputError(
                f"the shape of output {name!r} is not known: {maker} decides it when the model runs; "
                "use caffestat.gradient or `caffestat convert --backward`, which run the model once to find it, "
                "or choose other outputs"
            )


def _names(given: Collection[str]) -> list[str]:
    """Return each name once; one alone may be given as it is."""
    return [given] if isinstance(given, str) else list(dict.fromkeys(given))


def _unfold(loaded: Model, wrt: Sequence[str]) -> None:
    """Put the nodes back that became constants although they compute floats from a scalar of `wrt`."""
    from caffestat.graph.load import settings_of

    graph = loaded.graph
    settings = {name for node in graph.nodes for name in settings_of(node)}
    known, back = set(wrt), []
    for node in loaded.folded:
        computed = reach([node], known.intersection(node.inputs)).difference(node.inputs)
        if computed and settings.isdisjoint(computed) and all(graph.specs[name].is_float for name in computed):
            known |= computed
            back.append(node)
            for table in (graph.constants, graph.params, loaded.arrays):
                for name in computed:
                    table.pop(name, None)
    graph.nodes[:0] = back


def append_gradients(graph: Graph, outputs: Sequence[str], wrt: Sequence[str]) -> None:
    """Append cotangent inputs for `outputs`, the backward half, and outputs `grad/<name>` for `wrt`."""
    seeds = {}
    for name in outputs:
        spec = graph.specs[name]
        seeds[name] = graph.input(COTANGENT + name, spec.shape, spec.dtype)
    found = backward(graph, seeds, wrt)
    for name in wrt:
        graph.outputs.append(_named(graph, name, found[name]))


def _named(graph: Graph, name: str, grad: str | None) -> str:
    spec = graph.specs[name]
    if not spec.is_float:
        raise GradientError(f"value {name!r} holds {spec.dtype}: only floating-point values have gradients")
    if grad is None:
        shape = graph.ints(*spec.shape)
        result = graph.emit("Expand", graph.constant(0, spec.dtype), shape, hint=GRAD + name)
    else:
        result = graph.emit("Identity", grad, hint=GRAD + name)
    return graph.declare(result, spec.shape, spec.dtype)
