"""The update of all params as a compiled graph: params, history and gradients stay on the device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
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

    @property
    def size(self) -> int:
        return self.values[0].memory.size


class ResidentUpdate:
    """The solver's rule, the params and their history on a device. It stands in for an Update, which see.

    values: the params, those that no solver updates included
    """

    def __init__(self, message: Any, update: Update, values: Sequence[np.ndarray], device: Device) -> None:
        self._message, self._rule, self._device = message, update.rule, device
        self._params = update.params
        self._groups = [self._group(indexes, values, update.history) for indexes in _alike(update.params)]
        self.values = Resident(values, device)
        for group in self._groups:
            self._place(group)
        self._pass = 0
        self._reached: dict[bool, set[int]] = {False: set(), True: set()}  # in the gradients and in `more`
        self._compiled: dict[frozenset[int], _Compiled] = {}
        self._adder: Compiled | None = None
        self._has_run = False

    def _group(self, indexes: Sequence[int], values: Sequence[np.ndarray], history: Sequence[np.ndarray]) -> _Group:
        """Copy the values and the history of the params of these indexes to the device."""
        count, device = len(self._params), self._device
        params = [self._params[index] for index in indexes]
        zeros = [np.zeros(param.shape, _F) for param in params]
        return _Group(
            params,
            pack([values[param.number] for param in params], device),
            pack(zeros, device),
            [pack([history[first + i] for i in indexes], device) for first in range(0, len(history), count)],
            pack(zeros, device) if self._message.iter_size > 1 else None,
            pack(zeros, device) if self._message.snapshot_diff else None,
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
        return {n: view.numpy() for group in pairs for n, view in group} if self._has_run else {}

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
            self._adder = self._adder or Compiled(_sums(self._groups), self._device)
            self._adder.run(_feeds("g", self._groups) | _feeds("more", self._groups), into=_feeds("sum", self._groups))
            self._reached[False] |= self._reached[True]
        sums = self._targets(False)
        return {number: sums[number] for number in self._reached[False]}

    def _clear(self, more: bool, written: Collection[int]) -> None:
        """Set to zero what an earlier pass wrote and this one did not: a net's shapes may have changed in between."""
        targets = self._targets(more)
        for number in self._reached[more].difference(written):
            targets[number].memory.clear([targets[number]])
        self._reached[more] = set(written)

    def apply(
        self, values: Any, diffs: Mapping[int, View], rate: np.float32, iteration: int, measure: bool = False
    ) -> Applied:
        """Change the params and the history; values, diffs: `values`, and what `add` returned."""
        apart = frozenset(k for k, group in enumerate(self._groups) if self._is_apart(group))
        if apart not in self._compiled:
            self._compiled[apart] = _Compiled(self._message, self._rule, self._groups, apart, self._device)
        factors = [self._rule.factor(_F(rate * _F(group.params[0].lr_mult)), iteration) for group in self._groups]
        applied = self._compiled[apart].run(np.array(factors, _F), self.values, measure)
        for k in apart:
            self._place(self._groups[k])
        self._has_run = True
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


def _feeds(name: str, groups: Sequence[_Group]) -> dict[str, View]:
    """Return each group's memory under a name and the group's number: "g", "more", or "sum", which replaces "g"."""
    views = ((group.more or group.gradients) if name == "more" else group.gradients for group in groups)
    return {f"{name}{k}": view[0].memory.whole for k, view in enumerate(views)}


def _sums(groups: Sequence[_Group]) -> Graph:
    """Return the graph that adds the gradients of one pass more."""
    g = Graph()
    for k, group in enumerate(groups):
        before, fresh = (g.input(f"{name}{k}", (group.size,)) for name in ("g", "more"))
        added = (fresh,) if not group.params[0].adds_up else (before, fresh)
        g.outputs.append(g.emit("Sum", *added, hint=f"sum{k}"))
    return g


class _Compiled:
    """One update as a graph, which writes its results over the memory that it reads.

    apart: the groups whose values come one by one: passes have replaced them
    """

    def __init__(
        self, message: Any, rule: Rule, groups: Sequence[_Group], apart: Collection[int], device: Device
    ) -> None:
        self._message, self._rule, self._groups, self._apart = message, rule, groups, apart
        self._graph = g = Graph()
        self._into: dict[str, View] = {}
        self._parts: dict[int, tuple[str, str]] = {}  # update and new value of each group
        rates = g.input("rates", (len(groups),))
        gradients = [g.input(f"g{k}", (group.size,)) for k, group in enumerate(groups)]
        self._norm = _emit_norm(g, gradients) if message.clip_gradients >= 0 else None
        scale = self._emit_scale()
        split = g.emit_many("Split", rates, count=len(groups), axis=0, num_outputs=len(groups))
        for k, gradient in enumerate(gradients):
            self._emit_group(k, emit_times(g, scale, gradient), split[k])
        g.infer()
        self._statistics = self._emit_statistics()
        self._plain = [*self._into, *([self._norm] if self._norm else [])]
        g.outputs = [*self._plain, *g.outputs]
        self._compiled = Compiled(g, device)

    def _emit_scale(self) -> np.float32 | str:
        """Emit what the gradients are multiplied by, to clip and to average them."""
        g, average = self._graph, _F(1) / _F(self._message.iter_size)
        if not self._norm:
            return average
        limit = g.constant(self._message.clip_gradients)
        clipped = g.emit("Where", g.emit("Greater", self._norm, limit), g.emit("Div", limit, self._norm), g.constant(1))
        return emit_times(g, average, clipped)

    def _emit_group(self, k: int, gradient: str, rate: str) -> None:
        g, group = self._graph, self._groups[k]
        values = self._emit_values(k)
        history = [g.input(f"h{k}_{i}", (group.size,)) for i in range(self._rule.histories)]
        decay = _F(_F(self._message.weight_decay) * _F(group.params[0].decay_mult))
        if decay:
            gradient = emit_sum(g, decay, self._emit_decayed(values), _F(1), gradient)
        update, new = self._rule.emit(g, gradient, history, rate)
        result = g.emit("Sub", values, update)
        self._parts[k] = update, result
        self._into[result] = group.values[0].memory.whole
        self._into |= {name: views[0].memory.whole for name, views in zip(new, group.history, strict=True)}
        if group.updates:
            self._into[g.copy(update)] = group.updates[0].memory.whole

    def _emit_values(self, k: int) -> str:
        """Return the group's values in one vector."""
        g, group = self._graph, self._groups[k]
        if k not in self._apart:
            return g.input(f"w{k}", (group.size,))
        parts, end = [], 0
        for param, view in zip(group.params, group.values, strict=True):
            parts += self._gap(view.start - end)
            parts.append(g.reshape(g.input(f"w{k}_{param.number}", view.shape), view.size))
            end = view.start + view.size
        return g.emit("Concat", *parts, *self._gap(group.size - end), axis=0)

    def _gap(self, size: int) -> list[str]:
        return [self._graph.constant(np.zeros(size))] if size else []

    def _emit_decayed(self, values: str) -> str:
        """Return what weight decay pulls along: the values, for L1 their signs."""
        return values if self._message.regularization_type == "L2" else self._graph.emit("Sign", values)

    def _emit_statistics(self) -> Statistics:
        """Emit the sizes of the updates and of the new values."""
        g = self._graph
        slices = {
            (param.number, i): g.declare(
                g.emit("Slice", name, g.ints(view.start), g.ints(view.start + view.size), g.ints(0)), (view.size,)
            )
            for k, group in enumerate(self._groups)
            for param, view in zip(group.params, group.values, strict=True)
            for i, name in enumerate(self._parts[k])
        }
        statistics = Statistics(g)
        for key, value in slices.items():
            statistics.mean_abs(key, value)
        statistics.finish()
        return statistics

    def run(self, rates: np.ndarray, values: Resident, measure: bool) -> Applied:
        """Run one update; rates: what the rule multiplies by, by group."""
        feeds = {"rates": rates} | _feeds("g", self._groups)
        for k, group in enumerate(self._groups):
            feeds |= {f"h{k}_{i}": views[0].memory.whole for i, views in enumerate(group.history)}
            if k in self._apart:
                feeds |= {f"w{k}_{number}": values.fed(number) for number in group.numbers}
            else:
                feeds[f"w{k}"] = group.values[0].memory.whole
        names = [*self._plain, Statistics.OUTPUT] if measure else self._plain
        found = self._compiled.run(feeds, outputs=names, into=self._into)
        return Applied(self._clip(found), self._sizes(found) if measure else {})

    def _clip(self, found: Mapping[str, Any]) -> Clip | None:
        limit = _F(self._message.clip_gradients)
        norm = float(found[self._norm].item()) if self._norm else 0.0
        return Clip(norm, float(limit)) if self._norm and norm > limit else None

    def _sizes(self, found: Mapping[str, Any]) -> Sizes:
        means: dict[Any, float] = self._statistics.read(found)
        return {number: (means[number, 0], means[number, 1]) for number, i in means if i == 0}


def _emit_norm(g: Graph, gradients: Sequence[str]) -> str:
    """Emit the L2 norm of flat gradients together, by rows so that no sum is long: one element."""
    rows = [g.reshape(x, rows_of(g.shape(x)[0]), -1) for x in gradients]
    partial = [g.emit("ReduceSumSquare", x, g.ints(1), keepdims=0) for x in rows]
    return g.emit("Sqrt", g.emit("ReduceSum", g.emit("Concat", *partial, axis=0), g.ints(0), keepdims=1))
