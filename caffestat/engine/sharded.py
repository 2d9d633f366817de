"""Graphs of one shard of a batch, run for all shards at the same time, each on a core of its own.

A core then works on its own samples from the first op to the last. Where all cores share every op, each reads much of
what another one wrote, which takes several times as long where they share no cache.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import cache, reduce
from typing import Any

import numpy as np

from caffestat.graph import Graph
from caffestat.graph.order import live

from .compiled import Call, Compiled
from .device import CPU
from .resident import as_array
from .runtime import onnxruntime

__all__ = ["Sharded", "sums_over_shards"]


def sums_over_shards(graph: Graph, names: Collection[str], shards: int) -> Graph:
    """Return a graph of the sums over all shards of some values of a shard's graph, each under the value's name.

    Its inputs are the values of all shards. More can be computed of the sums there.
    """
    g = Graph()
    g.outputs = list(names)
    for name in names:
        shape = graph.shape(name)
        first, *others, last = (g.input(_of_shard(name, number), shape) for number in range(shards))
        before = reduce(lambda a, b: g.declare(g.emit("Add", a, b, hint=f"{name}/before"), shape), others, first)
        g.declare(g.emit("Add", before, last, hint=name), shape)
    return g


def _of_shard(name: str, number: int) -> str:
    return f"{name}/{number}"


class Sharded:
    """A shard's graph, compiled once and run many times on the CPU, as a `Compiled` would run that of the whole batch.

    graph:    the shard's; its inputs are fed with those of the whole batch
    shards:   how many there are
    sums:     what is computed of the sums of the shards' outputs, see `sums_over_shards`
    constant: values of params that are the same in every run, see `Compiled`
    means:    outputs, beside scalars, whose mean over the shards is the whole batch's

    Any other output holds the samples of a shard.
    """

    left_to_cpu: frozenset[str] = frozenset()
    widened: frozenset[str] = frozenset()

    def __init__(
        self, graph: Graph, shards: int, sums: Graph, constant: Mapping[str, np.ndarray], means: Collection[str]
    ) -> None:
        self._graph, self._shards, self._means = graph, shards, set(means)
        self._shard, self._sums = Compiled(graph, CPU, constant, threads=1), Compiled(sums, CPU)
        self._summed = set(sums.outputs)
        self._arrays: dict[str, list[np.ndarray]] = {}
        self._parts: dict[tuple[str, ...], list[str]] = {}

    def run(
        self,
        feeds: Mapping[str, Any],
        params: Mapping[str, Any],
        outputs: Sequence[str],
        keep: Collection[str] = (),
        into: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Run all shards once and return every output of the whole batch by name; see `Compiled.run`.

        into: where sums are written to
        """
        sums = [name for name in outputs if name in self._summed]
        own = [name for name in outputs if name not in self._summed]
        targets = {name: self._targets(name, name in sums, into or {}) for name in self._parts_of(sums)}
        found = self._run_all(feeds, params, sorted({*own, *targets}), targets)
        result = {name: self._whole(name, [as_array(one[name]) for one in found]) for name in own}
        return result | self._added_up(sums, targets)

    def put(self, array: np.ndarray) -> np.ndarray:
        """Return an array to be fed: itself, of which each shard gets a part."""
        return array

    def _added_up(self, sums: Sequence[str], parts: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
        """Add the shards' parts up over the first of them, and return what is computed of the sums."""
        if not sums:
            return {}
        values = {_of_shard(name, number): part for name, own in parts.items() for number, part in enumerate(own)}
        totals = {name: first for name, (first, *_) in parts.items()}
        found = self._sums.run(values, outputs=sorted({*sums, *totals}), into=totals)
        return {name: found[name] for name in sums}

    def _parts_of(self, sums: Sequence[str]) -> list[str]:
        """Return the outputs of the shards whose sums some values are computed of."""
        if (key := tuple(sums)) not in self._parts:
            read = {name for node in live(self._sums.graph.nodes, sums) for name in node.inputs}
            self._parts[key] = [name for name in self._graph.outputs if _of_shard(name, 0) in read]
        return self._parts[key]

    def _targets(self, name: str, is_wanted: bool, into: Mapping[str, Any]) -> list[Any]:
        """Return where the shards write a value: the first where the sum goes, which a caller keeps if it is wanted."""
        shape = self._graph.shape(name)
        if name not in self._arrays:
            self._arrays[name] = [np.empty(shape, np.float32) for _ in range(self._shards)]
        first, *others = self._arrays[name]
        return [into[name] if name in into else np.empty(shape, np.float32) if is_wanted else first, *others]

    def _run_all(
        self,
        feeds: Mapping[str, Any],
        params: Mapping[str, Any],
        outputs: Sequence[str],
        into: Mapping[str, Sequence[Any]],
    ) -> list[dict[str, Any]]:
        """Run the graph for each shard in a thread of its own and return what each computed."""
        self._shard.compile(outputs)
        samples = {name: np.split(feeds[name], self._shards) for name in self._graph.inputs if name in feeds}

        def run(number: int, call: Call) -> dict[str, Any]:
            given, targets = ({name: arrays[number] for name, arrays in of.items()} for of in (samples, into))
            return self._shard.run(given, params, outputs, (), targets, call)

        return _run_together(run, self._shards)

    def _whole(self, name: str, values: Sequence[np.ndarray]) -> np.ndarray:
        """Return the whole batch's value of those of all shards."""
        if name in self._means or not self._graph.shape(name):
            return np.asarray(np.mean(values, 0, dtype=np.float64), values[0].dtype)
        return np.concatenate(values)


def _run_together(run: Callable[[int, Call], dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return what each of some threads returns. When one fails, or Ctrl-C comes, all end at the next node."""
    options = onnxruntime().RunOptions()
    threads = _threads(os.getpid(), count)
    jobs = [threads.submit(run, number, lambda call: call(options)) for number in range(count)]
    try:
        for job in wait(jobs, return_when=FIRST_EXCEPTION).done:
            job.result()  # what has failed raises
        return [job.result() for job in jobs]
    finally:
        options.terminate = True
        wait(jobs)


@cache
def _threads(process: int, count: int) -> ThreadPoolExecutor:
    """Return the threads in which a process runs shards."""
    return ThreadPoolExecutor(count)
