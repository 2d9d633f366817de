"""Layer-sequential unit variance: weights scaled until the measured variance behind each layer is 1.

D. Mishkin, J. Matas, *All you need is a good init*, 2016, algorithm 1: start from orthonormal weights; layer by layer,
from the data on, divide W by √Var(B), B the layer's output on a batch, until |Var(B) - 1| < tolerance.

B = W∘x + b is linear in W, so W / σ gives exactly (B - b) / σ + b. That is computed inside of the graph, behind every
layer, and σ is an output: one pass over the net finds the σ of all layers, each measured behind the layers in front of
it as they will be.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import numpy as np

from caffestat.engine import CPU, Compiled, Device
from caffestat.graph import Graph, Node
from caffestat.program import Forward, Program

__all__ = ["lsuv"]

_SMALLEST = 1e-12  # of a variance: below, a layer's output is taken for constant and left alone


def lsuv(
    program: Program,
    values: Sequence[np.ndarray],
    numbers: Collection[int],
    feeds: Mapping[str, np.ndarray],
    forward: Forward,
    device: Device = CPU,
) -> dict[int, float]:
    """Scale the weights in place so that the values behind their rows have variance 1 on these feeds.

    values   by number, as `program.values` returns them
    numbers  of the weights to scale; of a shared one the first row that reads it decides
    feeds    of `forward`, the program's forward graph, which is changed

    Returns what each weight was divided by. Raises a CaffestatError when the graph cannot be run.
    """
    graph = forward.graph
    graph.infer()
    deviations: dict[int, str] = {}
    for row in program.rows:
        owner = _weight(program, forward, row.params, numbers)
        if owner is not None:
            deviations[owner] = _scale(graph, forward, row.index, deviations.get(owner))
    graph.outputs = sorted(set(deviations.values()))
    if not graph.outputs:
        return {}
    params = {name: values[number] for number, name in forward.params.items()}
    found = Compiled(graph, device, params).run(feeds)
    scales = {number: float(found[name]) for number, name in deviations.items()}
    for number, deviation in scales.items():
        values[number][...] = values[number] / np.float32(deviation)
    return scales


def _weight(program: Program, forward: Forward, params: Sequence[int], numbers: Collection[int]) -> int | None:
    """Return the owner of the first of a row's params that is to be scaled."""
    for number in params:
        shared = program.params[number].owner
        owner = number if shared is None else shared
        if (number in numbers or owner in numbers) and owner in forward.params:
            return owner
    return None


def _scale(graph: Graph, forward: Forward, row: int, known: str | None) -> str:
    """Put (y - b) / σ + b in the place of a row's top y, and return σ: `known` where an earlier row has decided it."""
    top, before = forward.tops[row, 0], len(graph.nodes)
    bias = _bias(graph, forward, row, len(graph.shape(top)))
    centred = graph.emit("Sub", top, bias) if bias else top
    deviation = known or _deviation(graph, top)
    scaled = graph.emit("Div", centred, deviation)
    result = graph.emit("Add", scaled, bias) if bias else scaled
    graph.declare(result, graph.shape(top))
    added = graph.nodes[before:]
    del graph.nodes[before:]
    producer = next(index for index, node in enumerate(graph.nodes) if top in node.outputs)
    graph.nodes[producer + 1 :] = [*added, *(_reading(node, top, result) for node in graph.nodes[producer + 1 :])]
    forward.tops[row, 0] = result
    return deviation


def _deviation(graph: Graph, top: str) -> str:
    """Emit √Var of all elements; 1 for a constant."""
    mean = graph.emit("ReduceMean", top, keepdims=0)
    off = graph.emit("Sub", top, mean)
    variance = graph.emit("ReduceMean", graph.emit("Mul", off, off), keepdims=0)
    is_constant = graph.emit("Less", variance, graph.constant(_SMALLEST))
    return graph.declare(graph.emit("Where", is_constant, graph.constant(1), graph.emit("Sqrt", variance)), ())


def _bias(graph: Graph, forward: Forward, row: int, rank: int) -> str | None:
    """Return a row's bias in a shape that goes with its top [N, C, …]; None without one."""
    name = forward.uses.get((row, 1))
    if name is None or rank < 2:
        return None
    return graph.reshape(name, *graph.shape(name), *(1,) * (rank - 2))


def _reading(node: Node, old: str, new: str) -> Node:
    inputs = tuple(new if name == old else name for name in node.inputs)
    return node if inputs == node.inputs else replace(node, inputs=inputs)
