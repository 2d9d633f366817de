"""One forward and backward pass of an ONNX model, and the mean |x| of all its values."""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableSequence
from dataclasses import dataclass, field

import numpy as np

from caffestat.autodiff import Stop, backward
from caffestat.engine import Compiled, Device, Statistics, choose_device
from caffestat.engine.need import check_memory, need_of_run
from caffestat.graph import Graph
from caffestat.graph.load import Model
from caffestat.net import Norms

from .feeds import draw_feeds
from .losses import start
from .settle import settle

__all__ = ["Measurement", "measure", "measured_names"]

FLOAT = np.dtype(np.float32)


@dataclass
class Measurement:
    """Mean |x| of the model's values and of their gradients by name; a name that is absent was not measured.

    The gradient of a value that several nodes read is the sum of what flows back from them.
    stops: the nodes that no gradient passes, for want of a rule.
    """

    device: str = "cpu"
    values: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)
    norms: Norms | None = None
    stops: tuple[Stop, ...] = ()


def measure(
    model: Model,
    *,
    seed: int,
    device: str = "auto",
    inputs: Mapping[str, np.ndarray] | None = None,
    loss: str = "noise",
    forward_only: bool = False,
    notes: MutableSequence[str],
) -> Measurement:
    """Run a model once and return the mean |x| of every float value and, unless `forward_only`, of its gradient.

    seed:   of the inputs that are drawn, and of the loss
    inputs: arrays by input name, in the place of drawn ones
    loss:   see `losses.start`
    notes:  lines worth telling are appended to it

    Raises InputError when the model cannot be run, DeviceError.
    """
    chosen, why = choose_device(device)
    notes.extend([why] if why else [])
    graph = model.graph
    random = np.random.default_rng(seed)
    _check_memory(model, forward_only, chosen)
    feeds = draw_feeds(graph, random, inputs or {}, notes)
    settle(model, feeds)
    values, params = measured_names(model)
    result = Measurement(str(chosen))
    found: dict[str, str | None] = {}
    if not forward_only:
        beginning = start(graph, loss, random)
        notes.append(beginning.words)
        feeds |= beginning.feeds
        stops: list[Stop] = []
        found = backward(graph, beginning.seeds, [*values, *params], stops)
        result.stops = tuple(stops)
        graph.infer()
    statistics = _ask(graph, values, params, found)
    numbers = statistics.read(Compiled(graph, chosen, model.arrays).run(feeds) if graph.outputs else {})
    result.values = {name: numbers["value", name] for name in (*values, *params)}
    result.gradients = {name: numbers.get(("grad", name), 0.0) for name in found}
    if not forward_only:
        result.norms = _norms(numbers, params)
    return result


def measured_names(model: Model) -> tuple[list[str], list[str]]:
    """Return the names of the values and of the params that are measured: those of type float32."""
    graph = model.graph
    named = [*graph.inputs, *(name for node in model.nodes for name in node.outputs)]
    values, params = ([name for name in names if _is_measured(graph, name)] for names in (named, graph.params))
    return values, params


def _is_measured(graph: Graph, name: str) -> bool:
    return name in graph.specs and name not in graph.constants and graph.specs[name].dtype == FLOAT


def _ask(graph: Graph, values: list[str], params: list[str], found: Mapping[str, str | None]) -> Statistics:
    statistics = Statistics(graph)
    for name in (*values, *params):
        statistics.mean_abs(("value", name), name)
    for name, grad in found.items():
        if grad:
            graph.specs.setdefault(grad, graph.specs[name])
            statistics.mean_abs(("grad", name), grad)
    for name in params:
        statistics.sum_abs(("l1", name), name)
        statistics.sum_squares(("l2", name), name)
        grad = found.get(name)
        if grad:
            statistics.sum_abs(("dl1", name), grad)
            statistics.sum_squares(("dl2", name), grad)
    graph.outputs.clear()
    statistics.finish()
    return statistics


def _norms(numbers: Mapping[object, float], params: list[str]) -> Norms:
    sums = [sum(numbers.get((kind, name), 0.0) for name in params) for kind in ("l1", "dl1", "l2", "dl2")]
    return Norms(sums[0], sums[1], math.sqrt(sums[2]), math.sqrt(sums[3]))


def _check_memory(model: Model, forward_only: bool, device: Device) -> None:
    """Raise InputError when a pass needs more memory than is free."""
    sizes = {name: math.prod(spec.shape) * spec.dtype.itemsize for name, spec in model.graph.specs.items()}
    params = sum(sizes.get(name, 0) for name in (*model.graph.params, *model.graph.constants))
    need = need_of_run(params, sum(sizes.values()) - params, not forward_only)
    check_memory(need, "the run", device, "use a smaller --batch or --shape, --forward-only or --static")
