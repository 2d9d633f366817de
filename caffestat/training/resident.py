"""The update of all params as a compiled graph: params, history and gradients stay on the device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from caffestat.engine import Compiled, Device, Statistics
from caffestat.engine.resident import Resident, View, pack
from caffestat.engine.statistics import rows_of
from caffestat.graph import Graph

from .events import Clip
from .solvers import Rule, emit_sum, emit_times
from .statistics import Sizes
from .update import Applied, Learnable, Update

__all__ = ["ResidentUpdate"]

BLOCK = 1 << 22
"""Elements that are updated at a time: what is computed on the way is no larger and stays in a GPU's cache."""

_F = np.float32


@dataclass(frozen=True)
class _Group:
    """Learnable params of the same multipliers, side by side in pieces of memory of the same layout.

    more:    the gradients of the passes behind an iteration's first; None where it has one pass
    updates: what was subtracted last; None where nobody asks for it
    """

    params: Sequence[Learnable]
    values: Sequence[View]
    gradients: Sequence[View]
    history: Sequence[Sequence[View]]
    more: Sequence[View] | None
    updates: Sequence[View] | None

    @property
    def numbers(self) -> list[int]:
        return [param.number for param in self.params]


class ResidentUpdate:
    """The solver's rule, the params and their history on a device. It replaces an `Update`.

    values: the params, those that no solver updates included
    """

    def __init__(self, message: Any, update: Update, values: Sequence[np.ndarray], device: Device) -> None:
        self._message, self._rule, self._device = message, update.rule, device
        self._params = update.params
        self._groups = [self._group(indexes, values, update) for indexes in _alike(update.params)]
        self.values = Resident(values, device)
        for group in self._groups:
            self._place(group)
        self._pass = 0
        self._reached: dict[bool, set[int]] = {False: set(), True: set()}  # in the gradients and in `more`
        self._compiled: dict[frozenset[int], _CompiledUpdate] = {}
        self._adder: _Adder | None = None

    def _group(self, indexes: Sequence[int], values: Sequence[np.ndarray], update: Update) -> _Group:
        """Copy the values, the history and the last updates of the params of these indexes to the device."""
        count, device = len(self._params), self._device
        params, history = [self._params[index] for index in indexes], update.history
        zeros = [np.zeros(param.shape, _F) for param in params]
        last = [update.last.get(param.number, zero) for param, zero in zip(params, zeros, strict=True)]
        return _Group(
            params,
            pack([values[param.number] for param in params], device),
            pack(zeros, device),
            [pack([history[first + i] for i in indexes], device) for first in range(0, len(history), count)],
            pack(zeros, device) if self._message.iter_size > 1 else None,
            pack(last, device) if self._message.snapshot_diff else None,
        )

    def _place(self, group: _Group) -> None:
        for param, view in zip(group.params, group.values, strict=True):
            self.values.place(param.number, view)

    @property
    def history(self) -> list[np.ndarray]:
        """The history as it is now, in the order of an Update's."""
        found = []
        for number in range(self._rule.histories):
            pairs = (zip(group.numbers, group.history[number], strict=True) for group in self._groups)
            views = {n: view for group in pairs for n, view in group}
            found += [views[param.number].numpy() for param in self._params]
        return found

    @property
    def last(self) -> dict[int, np.ndarray]:
        """What was subtracted last, by param, where the solver's snapshots hold it."""
        pairs = (zip(group.numbers, group.updates or (), strict=False) for group in self._groups)
        return {n: view.numpy() for group in pairs for n, view in group}

    def gradients(self, number: int) -> dict[int, View]:
        """Return where the gradients of an iteration's pass of this number go."""
        self._pass = number
        return self._targets(number > 0)

    def _targets(self, more: bool) -> dict[int, View]:
        pairs = (zip(g.numbers, (more and g.more) or g.gradients, strict=True) for g in self._groups)
        return {n: view for group in pairs for n, view in group}

    def add(self, before: Mapping[int, View], fresh: Mapping[int, View]) -> dict[int, View]:
        """Return the gradients that an iteration has added up to, after those of one pass more."""
        more = self._pass > 0
        self._clear(more, fresh.keys())
        if more:
            self._adder = self._adder or _Adder(self._groups, self._device)
            self._adder.run()
            self._reached[False] |= self._reached[True]
        sums = self._targets(False)
        return {number: sums[number] for number in self._reached[False]}

    def _clear(self, more: bool, written: Collection[int]) -> None:
        """Set to zero what an earlier pass wrote and this one did not: a net's shapes may have changed in between."""
        targets = self._targets(more)
        for number in self._reached[more].difference(written):
            targets[number].write(np.zeros(targets[number].shape, _F))
        self._reached[more] = set(written)

    def apply(
        self, values: Any, diffs: Mapping[int, View], rate: np.float32, iteration: int, measure: bool = False
    ) -> Applied:
        """Change the params and the history; values, diffs: `values`, and what `add` returned."""
        apart = frozenset(k for k, group in enumerate(self._groups) if self._is_apart(group))
        if apart not in self._compiled:
            self._compiled[apart] = _CompiledUpdate(self._message, self._rule, self._groups, apart, self._device)
        factors = [self._rule.factor(_F(rate * _F(group.params[0].lr_mult)), iteration) for group in self._groups]
        applied = self._compiled[apart].run(np.array(factors, _F), self.values, measure)
        for k in apart:
            self._place(self._groups[k])
        return applied

    def _is_apart(self, group: _Group) -> bool:
        """Tell whether passes have replaced values of the group."""
        pairs = zip(group.numbers, group.values, strict=True)
        return any(self.values.fed(number) is not view for number, view in pairs)


def _alike(params: Sequence[Learnable]) -> list[list[int]]:
    """Return the indexes of params that differ in nothing but number and shape, together."""
    groups: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, param in enumerate(params):
        groups[param[2:]].append(index)
    return list(groups.values())


def _whole(views: Sequence[View]) -> View:
    """Return all of the memory that packed arrays lie in."""
    memory = views[0].memory
    return memory.view(0, (memory.size,))


class _Adder:
    """The graph that adds the gradients of one pass more, in place."""

    def __init__(self, groups: Sequence[_Group], device: Device) -> None:
        g = Graph()
        self._feeds: dict[str, View] = {}
        self._into: dict[str, View] = {}
        for group in groups:
            assert group.more
            sums, more = _whole(group.gradients), _whole(group.more)
            before, fresh = (g.input(name, sums.shape) for name in ("before", "fresh"))
            added = g.emit("Add", before, fresh) if group.params[0].adds_up else g.copy(fresh)
            self._feeds |= {before: sums, fresh: more}
            self._into[added] = sums
        g.outputs = list(self._into)
        self._compiled = Compiled(g, device)

    def run(self) -> None:
        """Add."""
        self._compiled.run(self._feeds, into=self._into)


@dataclass(frozen=True)
class _Block:
    """A part of the memory of the group of number k."""

    k: int
    start: int
    size: int

    def view(self, views: Sequence[View]) -> View:
        """Return the block of the memory that packed arrays lie in."""
        return views[0].memory.view(self.start, (self.size,))

    def part(self, view: View) -> tuple[int, int]:
        """Return from where to where a view lies in the block; nothing of it does where the second is no larger."""
        start = max(view.start - self.start, 0)
        return start, min(view.start + view.size - self.start, self.size)


def _blocks(groups: Sequence[_Group], apart: Collection[int]) -> Iterator[_Block]:
    """Yield the blocks of all groups; those in `apart` are one block each."""
    for k, group in enumerate(groups):
        size = group.values[0].memory.size
        step = size if k in apart else BLOCK
        yield from (_Block(k, start, min(step, size - start)) for start in range(0, size, step))


class _CompiledUpdate:
    """One update as a graph, which writes its results over the memory that it reads.

    No shapes are inferred: onnx's inference would take gigabytes for long vectors, whose elements could be a shape.

    apart: the groups whose values come one by one: passes have replaced them
    """

    def __init__(
        self, message: Any, rule: Rule, groups: Sequence[_Group], apart: Collection[int], device: Device
    ) -> None:
        self._message, self._rule, self._groups = message, rule, groups
        self._graph = g = Graph()
        self._feeds: dict[str, View] = {}
        self._into: dict[str, View] = {}
        self._apart: dict[str, int] = {}  # inputs of params that come one by one
        rates = _split(g, g.input("rates", (len(groups),)), len(groups))
        gradients = {block: self._input("g", block.view(groups[block.k].gradients)) for block in _blocks(groups, apart)}
        self._norm = _emit_norm(g, [*gradients.values()]) if message.clip_gradients >= 0 else None
        scale = self._emit_scale()
        results = {
            block: self._emit_block(block, emit_times(g, scale, gradient), rates[block.k], block.k in apart)
            for block, gradient in gradients.items()
        }
        self._statistics = self._emit_statistics(results)
        self._plain = [*self._into, *([self._norm] if self._norm else [])]
        g.outputs = [*self._plain, *g.outputs]
        self._compiled = Compiled(g, device)

    @property
    def left_to_cpu(self) -> set[str]:
        """The ops for which the device has no kernels, once it has run."""
        return self._compiled.left_to_cpu

    def _input(self, name: str, view: View) -> str:
        """Return an input that is fed with a view."""
        name = self._graph.input(name, view.shape)
        self._feeds[name] = view
        return name

    def _emit_scale(self) -> np.float32 | str:
        """Emit what the gradients are multiplied by, to clip and to average them."""
        g, average = self._graph, _F(1) / _F(self._message.iter_size)
        if not self._norm:
            return average
        limit = g.constant(self._message.clip_gradients)
        clipped = g.emit("Where", g.emit("Greater", self._norm, limit), g.emit("Div", limit, self._norm), g.constant(1))
        return emit_times(g, average, clipped)

    def _emit_block(self, block: _Block, gradient: str, rate: str, apart: bool) -> tuple[str, str]:
        """Emit the update of a block and its new values, which go where the values and the history come from."""
        g, group = self._graph, self._groups[block.k]
        place = block.view(group.values)
        values = self._emit_values(group) if apart else self._input("w", place)
        history = [self._input("h", block.view(views)) for views in group.history]
        decay = _F(_F(self._message.weight_decay) * _F(group.params[0].decay_mult))
        if decay:
            gradient = emit_sum(g, decay, self._emit_decayed(values), _F(1), gradient)
        update, new = self._rule.emit(g, gradient, history, rate)
        result = g.emit("Sub", values, update)
        self._into[result] = place
        self._into |= {name: self._feeds[old] for name, old in zip(new, history, strict=True)}
        if group.updates:
            self._into[g.copy(update)] = block.view(group.updates)
        return update, result

    def _emit_values(self, group: _Group) -> str:
        """Return the values of a group that come one by one in one vector."""
        g = self._graph
        parts, end = [], 0
        for param, view in zip(group.params, group.values, strict=True):
            name = g.input("w", view.shape)
            self._apart[name] = param.number
            parts += [*self._gap(view.start - end), g.reshape(name, view.size)]
            end = view.start + view.size
        return g.emit("Concat", *parts, *self._gap(view.memory.size - end), axis=0)

    def _gap(self, size: int) -> list[str]:
        return [self._graph.constant(np.zeros(size))] if size else []

    def _emit_decayed(self, values: str) -> str:
        """Return what weight decay pulls along: the values, for L1 their signs, 0 for NaN."""
        g = self._graph
        if self._message.regularization_type == "L2":
            return values
        return g.emit("Where", g.emit("IsNaN", values), g.constant(0), g.emit("Sign", values))

    def _emit_statistics(self, results: Mapping[_Block, tuple[str, str]]) -> Statistics:
        """Emit sum |x| of the updates (0) and of the new values (1), param by param and block by block."""
        statistics = Statistics(self._graph)
        for block, pair in results.items():
            group = self._groups[block.k]
            for param, view in zip(group.params, group.values, strict=True):
                start, end = block.part(view)
                for which, value in enumerate(pair) if start < end else ():
                    statistics.sum_abs((param.number, which, block), self._slice(value, start, end))
        statistics.finish()
        return statistics

    def _slice(self, value: str, start: int, end: int) -> str:
        g = self._graph
        return g.declare(g.emit("Slice", value, g.ints(start), g.ints(end), g.ints(0)), (end - start,))

    def run(self, rates: np.ndarray, values: Resident, measure: bool) -> Applied:
        """Run one update; rates: what the rule multiplies by, by group."""
        feeds = {"rates": rates} | self._feeds | {name: values.fed(number) for name, number in self._apart.items()}
        names = [*self._plain, Statistics.OUTPUT] if measure else self._plain
        found = self._compiled.run(feeds, outputs=names, into=self._into)
        return Applied(self._clip(found), self._sizes(found) if measure else {})

    def _clip(self, found: Mapping[str, Any]) -> Clip | None:
        limit = _F(self._message.clip_gradients)
        norm = float(found[self._norm].item()) if self._norm else 0.0
        return Clip(norm, float(limit)) if self._norm and norm > limit else None

    def _sizes(self, found: Mapping[str, Any]) -> Sizes:
        sums: defaultdict[tuple[int, int], float] = defaultdict(float)
        keyed: dict[Any, float] = self._statistics.read(found)
        for (number, which, _), value in keyed.items():
            sums[number, which] += value
        pairs = (zip(group.numbers, group.values, strict=True) for group in self._groups)
        counts = {n: max(view.size, 1) for group in pairs for n, view in group}
        return {n: (sums[n, 0] / count, sums[n, 1] / count) for n, count in counts.items()}


def _split(g: Graph, vector: str, count: int) -> list[str]:
    """Emit the elements of a vector."""
    return g.emit_many("Split", vector, count=count, axis=0, num_outputs=count) if count > 1 else [vector]


def _emit_norm(g: Graph, gradients: Sequence[str]) -> str:
    """Emit the L2 norm of flat gradients together, by rows so that no sum is long: one element."""
    rows = [g.reshape(x, rows_of(g.shape(x)[0]), -1) for x in gradients]
    partial = [g.emit("ReduceSumSquare", x, g.ints(1), keepdims=0) for x in rows]
    return g.emit("Sqrt", g.emit("ReduceSum", g.emit("Concat", *partial, axis=0), g.ints(0), keepdims=1))
