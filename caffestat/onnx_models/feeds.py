"""What is fed to a model whose data is not at hand: noise, and indices in the range that their readers allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableSequence

import numpy as np

from caffestat.errors import InputError
from caffestat.graph import Graph, Spec
from caffestat.ops import Role

__all__ = ["draw_feeds", "fitting", "rows_of"]


def draw_feeds(
    graph: Graph, random: np.random.Generator, given: Mapping[str, np.ndarray], notes: MutableSequence[str]
) -> dict[str, np.ndarray]:
    """Return an array for every input of the graph: the given one, else N(0, 1) or indices drawn evenly.

    Integers that index nothing are 1, booleans true: masks that hide nothing, and a note says so.
    Raises InputError when a given array does not fit.
    """
    arrays = fitting(graph, given)
    return {
        name: arrays[name] if name in arrays else _drawn(graph, name, spec, random, notes)
        for name, spec in graph.inputs.items()
    }


def fitting(graph: Graph, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the given arrays in the types of their inputs. Raises InputError when one does not fit."""
    for name in given:
        if name not in graph.inputs:
            found = ", ".join(graph.inputs)
            raise InputError(f"--input {name}: the model has no input of that name; expected one of {found}")
    return {name: _given(name, array, graph.inputs[name]) for name, array in given.items()}


def _given(name: str, array: np.ndarray, spec: Spec) -> np.ndarray:
    if array.shape != spec.shape:
        raise InputError(f"--input {name}: has shape {array.shape}; the model takes {spec.shape} (see --shape)")
    return np.asarray(array, spec.dtype, order="C")


def _drawn(graph: Graph, name: str, spec: Spec, random: np.random.Generator, notes: MutableSequence[str]) -> np.ndarray:
    if spec.is_float:
        return random.standard_normal(spec.shape).astype(spec.dtype)
    if spec.dtype.kind not in "iub":
        raise InputError(f"input {name!r} holds {spec.dtype}, which cannot be drawn: use --input {name}=FILE.npy")
    rows = rows_of(graph, name)
    if rows is not None:
        return random.integers(0, rows, spec.shape).astype(spec.dtype)
    what = "true" if spec.dtype.kind == "b" else "ones"
    notes.append(f"input {name} is all {what}; --input {name}=FILE.npy gives it other values")
    return np.ones(spec.shape, spec.dtype)


def rows_of(graph: Graph, name: str) -> int | None:
    """Return how many rows an input of integers may choose from; None when it indexes nothing, and is 1."""
    limit = min(_limits(graph, name), default=None)
    return None if limit is None else max(limit, 1)


def _limits(graph: Graph, name: str) -> Iterator[int]:
    """Yield how many rows the readers of an index have, followed through ops that pass it on."""
    values = {name}
    for node in graph.nodes:
        for position, value in enumerate(node.inputs):
            if value in values:
                limit = node.info.limits.get(position)
                if limit:
                    yield limit(graph.call(node))
                elif node.info.moves and node.info.role(position) is Role.DATA:
                    values.update(node.outputs)
