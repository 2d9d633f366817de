"""The losses of ONNX models, and where the backward pass starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from caffestat.autodiff import cotangents
from caffestat.errors import InputError
from caffestat.graph import Graph
from caffestat.lazy import np

__all__ = ["GIVEN_GRADIENTS", "LOSSES", "Start", "seed_values", "start"]

GIVEN_GRADIENTS = ("noise", "ones")
"""The losses that give the outputs' gradients and have no value, so that nothing can be trained with them."""

LOSSES = (*GIVEN_GRADIENTS, "cross-entropy")
"""The losses that need no value's name."""


@dataclass
class Start:
    """The gradient of each value to start from, a number or the input that holds it, and a sentence about it."""

    words: str
    seeds: dict[str, float | str] = field(default_factory=dict)


def start(graph: Graph, loss: str, outputs: Sequence[str] | None = None) -> Start:
    """Emit what the backward pass starts from.

    loss: "noise" (the gradient of every output is N(0, 1)), "ones" (it is 1), "cross-entropy" (the mean softmax cross
    entropy of the first output, with random labels), or the name of a value whose sum is the loss.

    outputs: the outputs that count; all floating-point ones by default

    Raises InputError when the model has no such value.
    """
    if outputs is None:
        outputs = [name for name in graph.outputs if name in graph.specs and graph.specs[name].is_float]
    if loss in LOSSES and not outputs:
        raise InputError(_no_start(graph))
    if loss == "noise":
        words = "the gradient of every output is N(0, 1) noise; --loss selects another loss"
        return Start(words, {**cotangents(graph, outputs)})
    if loss == "ones":
        return Start("the gradient of every output is 1", dict.fromkeys(outputs, 1.0))
    if loss == "cross-entropy":
        return _cross_entropy(graph, outputs[0])
    _check_value(graph, loss, outputs)
    return Start(f"the loss is the sum of {loss}", {loss: 1.0})


def _check_value(graph: Graph, name: str, outputs: Sequence[str]) -> None:
    """Raise InputError unless the sum of a value can be a loss."""
    if name in graph.specs and graph.specs[name].is_float:
        return
    if name in graph.specs:
        raise InputError(f"--loss {name}: the value holds {graph.specs[name].dtype}; expected floats")
    if any(name in node.outputs for node in graph.nodes):
        raise InputError(f"--loss {name}: {_unknown(graph, name)}; start at a value before it")
    known = ", ".join((*LOSSES, *(outputs or graph.outputs)))
    raise InputError(f"--loss {name}: the model has no such value; expected one of its values or {known}")


def _unknown(graph: Graph, name: str) -> str:
    """Return the words about a value of which no shape is known."""
    maker = next((f": {node.op} makes it" for node in graph.nodes if name in node.outputs), "")
    return f"the shape of {name!r} is unknown without a run, or it is no tensor{maker}"


def seed_values(graph: Graph, seeds: Mapping[str, float | str]) -> dict[str, str]:
    """Return the gradient's name for each value to start from; emit those that are the same number everywhere."""
    return {value: seed if isinstance(seed, str) else _full(graph, value, seed) for value, seed in seeds.items()}


def _full(graph: Graph, value: str, number: float) -> str:
    """Emit a value of the same shape and type that holds a number everywhere."""
    spec = graph.specs[value]
    scalar = graph.constant(number, spec.dtype)
    if not spec.shape:
        return scalar
    return graph.declare(graph.emit("Expand", scalar, graph.ints(*spec.shape)), spec.shape, spec.dtype)


def _no_start(graph: Graph) -> str:
    unknown = [name for name in graph.outputs if name not in graph.specs]
    if unknown:
        advice = "leave out --static, start at a value before it (--loss NAME), or use --forward-only"
        return f"{_unknown(graph, unknown[0])}; {advice}"
    return "the model has no floating-point output to start a backward pass from: use --forward-only"


def _cross_entropy(graph: Graph, logits: str) -> Start:
    """Classes lie on the last axis of [N, C] and [N, T, C], on the second of images [N, C, H, W]."""
    shape = graph.shape(logits)
    if len(shape) < 2:
        raise InputError(f"--loss cross-entropy: output {logits!r} of shape {shape} has no axis of classes")
    scores, dtype = logits, graph.specs[logits].dtype
    if len(shape) == 3:
        scores = graph.declare(graph.transpose(logits, 0, 2, 1), (shape[0], shape[2], shape[1]), dtype)
    batch, _, *places = graph.shape(scores)
    labels = graph.input("labels", (batch, *places), np.int64)
    loss = graph.emit("SoftmaxCrossEntropyLoss", scores, labels, reduction="mean", hint="loss")
    graph.declare(loss, (), dtype)
    return Start(f"the loss is the mean softmax cross entropy of {logits} with random labels", {loss: 1.0})
