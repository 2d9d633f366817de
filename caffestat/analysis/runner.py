"""One iteration of a program, and the mean |x| of everything: what Caffe's debug_info prints."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Container, Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from caffestat.engine import CPU, Compiled, Device, Statistics, choose_device
from caffestat.engine.elements import ElementStatistics, ElementStats, of_array, of_zeros
from caffestat.engine.histogram import Histogram, Samples, histogram
from caffestat.engine.resident import Resident, View, as_array, fed, specs_of
from caffestat.engine.sharded import Sharded, sums_over_shards
from caffestat.errors import RunError
from caffestat.fillers import Stream
from caffestat.graph import Graph
from caffestat.graph.graph import flow_of
from caffestat.options import RunOptions
from caffestat.program import Forward, Inner, Program
from caffestat.program.feeds import Feeds, check_given
from caffestat.program.gradients import Gradients, differentiate
from caffestat.program.labels import Labels
from caffestat.program.memory import check_run

from .curves import curves
from .measurement import Measurement, Norms, in_range
from .shards import shards_for

__all__ = ["Runner", "Step", "draw_feeds", "measure"]

_T = TypeVar("_T")
Key = tuple[Any, ...]  # of what the statistics are asked for
_SMALL = 1 << 14  # elements up to which an output is looked at for infinities and NaN
_KINDS = ("top", "bottom_diff", "param_diff")  # of tensors that a run can return


@dataclass
class Step:
    """What one pass gives a solver.

    loss      the weighted sum of the losses, float32
    outputs   the values of the net's output blobs that could be computed, by blob index
    diffs     the gradients of the owner params by number, in arrays or views of their own; an absent one is zero
    measured  where asked for
    left      what the next pass finds in inputs that no pass fills anew, see `Forward.left`
    written   the values that layers write to files, by row
    """

    loss: np.float32
    outputs: dict[int, np.ndarray]
    diffs: dict[int, Any]
    measured: Measurement | None
    left: dict[str, np.ndarray]
    written: dict[int, list[np.ndarray]]


class _Settings(NamedTuple):
    """What a Runner is asked for, see there."""

    fetch: bool | Container[str]
    changing: bool
    samples: int
    activity: bool
    stats: Collection[str]
    compute: str


class _NotFiniteError(Exception):
    """A pass has made infinities or NaN in a graph that is not strict."""


class Runner:
    """A program compiled once, whose passes may be run many times.

    values:   one array per param of the program; changed in place by rows that update their statistics, or replaced
              where they are resident: then nothing that a run changes leaves the device
    fetch:    return every tensor too, not only statistics, or those of some kinds (see `tensors`)
    changing: the values may be others in every run; without it only those that rows update, and a run is faster
    states:   of recurrent layers by name, which runs change; zero where absent
    activity: measure the share of dead and of saturated units too
    samples:  about how many elements of each top to return as a histogram; 0 for none
    stats:    names of statistics of the elements of every value, see `caffestat.options.STATS`
    compute:  "float16" rounds every value to float16, see `graph.narrow`
    shards:   into how many shards to divide the batch, one per core; 0: as many as are faster (`shards_for`)
    """

    def __init__(
        self,
        program: Program,
        values: Sequence[np.ndarray],
        device: Device = CPU,
        forward_only: bool = False,
        fetch: bool | Container[str] = False,
        changing: bool = False,
        samples: int = 0,
        states: dict[str, np.ndarray] | None = None,
        activity: bool = False,
        stats: Collection[str] = (),
        compute: str = "float32",
        shards: int = 0,
    ) -> None:
        self.program = program
        self.values = values
        self._specs = specs_of(values)
        self._floats = {number for number, spec in enumerate(self._specs) if spec.dtype == np.float32}
        self.device = device
        self.forward_only = forward_only
        self._states = {} if states is None else states
        self._weights: dict[str, Any] = {}  # of losses, where the last pass has written others than the net's
        self._settings = _Settings(fetch, changing, samples, activity, stats, compute)
        is_whole = device.kind != "cpu" or compute != "float32" or bool(samples or stats)
        self._build(self._lower(1 if is_whole else shards or shards_for(program)))

    def _build(self, forward: Forward) -> None:
        """Compile what runs a forward graph, its backward half and the statistics."""
        fetch, changing, samples, activity, stats, compute = self._settings
        self.forward = forward
        self.gradients = self._differentiated()
        graph = self.forward.graph
        graph.infer()
        graph.outputs = []
        self._diffs = self._own_diffs()
        self._weight_diffs = self._find_weight_diffs()
        self._find_changing(changing)
        self._statistics = self._sum_statistics = Statistics(graph)
        self._sums = self._of_sums() if self.forward.shards > 1 else None
        self._ask_means(activity)
        self._samples: Samples[tuple[int, int]] = Samples(graph, samples)
        self._elements: ElementStatistics[tuple[str, int, int]] = ElementStatistics(graph, stats)
        names = _tensor_names(self.forward, self.gradients)
        self._ask_elements(names, bool(samples))
        self._labels = Labels(self.program, self.forward)
        self._choose_outputs(names, _KINDS if fetch is True else fetch or ())
        self._watched = self._find_watched(compute)
        self._compiled = self._compile(compute)
        self._constant_sums: dict[int, tuple[float, float]] = {}
        self.tensors: dict[Key, np.ndarray] = {}
        self._arrays: dict[str, Any] = {}

    def _lower(self, shards: int = 1, strict: bool = False) -> Forward:
        """Return the forward graph, that of one of the shards where the batch can be divided."""
        part = self.program.forward_of_shard(shards) if shards > 1 else None
        return part or self.program.forward(self._settings.changing, strict)

    def _find_watched(self, compute: str) -> set[str]:
        """Return the small outputs by which a pass tells that it made infinities or NaN, where that matters.

        Then it runs anew in a strict graph, as all later passes do: common ones need not pay for what is rare.
        """
        if not self.program.is_caffe or self.forward.graph.is_strict or compute != "float32":
            return set()
        statistics = self._statistics.output, self._sum_statistics.output
        return {*statistics, *self.forward.losses, *self.forward.outputs.values(), *self._diffs.values()}

    def _strictly(self, run: Callable[[], _T]) -> _T:
        """Run a pass, anew in a strict graph where it has made infinities or NaN."""
        try:
            return run()
        except _NotFiniteError:
            self._build(self._lower(strict=True))
            return run()

    def _differentiated(self) -> Gradients | None:
        """Append the backward half to the graph; None for a forward pass alone, and where no row needs backward."""
        if self.forward_only or not any(row.need_backward for row in self.program.rows):
            return None
        return differentiate(self.program, self.forward)

    def _own_diffs(self) -> dict[int, str]:
        """Return the gradient of each owner param that one reaches, each under a name of its own."""
        owners = self.gradients.owners if self.gradients else {}
        return _under_own_names(self.forward.graph, {number: name for number, name in owners.items() if name})

    def _find_weight_diffs(self) -> dict[str, str | None]:
        """Return what layers that read a loss write in the place of its weight, by loss; None for zeros."""
        found = self.gradients.bottoms if self.gradients else {}
        read = {self.forward.wanted[key]: diff for key, diff in found.items()}
        return {loss: read[loss] for loss in self.forward.losses if loss in read}

    def _find_changing(self, changing: bool) -> None:
        """Find what a pass changes, and which params are inputs of every pass."""
        graph = self.forward.graph
        found = _updates(self.program, self.forward)
        self._updates = {number: graph.reshape(name, *self._specs[number].shape) for number, name in found.items()}
        for name in graph.states:
            self._states.setdefault(name, np.zeros(graph.shape(name), np.float32))
        self._changed = {name: graph.updates[name] for name in self._states} | {
            self.forward.params[number]: name for number, name in self._updates.items()
        }
        self._left = self.forward.left if changing else {}
        self._inputs = {
            number: name for number, name in self.forward.params.items() if changing or number in self._updates
        }

    def _of_sums(self) -> Graph:
        """Return the graph of what all shards together make of the params' gradients."""
        params = self.gradients.params.values() if self.gradients else ()
        names = sorted({*filter(None, params), *self._diffs.values()})
        sums = sums_over_shards(self.forward.graph, names, self.forward.shards)
        self._sum_statistics = Statistics(sums, "statistics_of_sums")
        return sums

    def _ask_means(self, activity: bool) -> None:
        """Let the graph compute the means and norms that a Measurement has."""
        _ask(self.forward, self.gradients, self._statistics, self._sum_statistics)
        for number, value in self._diffs.items():
            _ask_sums(self._sum_statistics, ("diff", number), value)
        for number, name in self._inputs.items():
            _ask_sums(self._statistics, ("data", number), self._updates.get(number, name))
        for key, value in _shared_updates(self.program, self.forward).items():
            self._statistics.mean_abs(("left", *key), value)
        if activity:
            _ask_activity(self.forward, self._statistics)
        self._statistics.finish()
        if self._sums:
            self._sum_statistics.finish()

    def _ask_elements(self, names: Mapping[tuple[str, int, int], str], has_samples: bool) -> None:
        """Let the graph compute histograms and the statistics of all elements."""
        graph = self.forward.graph
        for key, value in self.forward.tops.items() if has_samples else ():
            self._samples.ask(key, value)
        graph.outputs += self._samples.outputs
        for tensor, value in names.items():
            self._elements.ask(tensor, value)
        self._elements.finish()
        graph.outputs += self._elements.outputs

    def _choose_outputs(self, names: Mapping[tuple[str, int, int], str], kinds: Container[str]) -> None:
        """Find the values that each kind of pass returns."""
        graph = self.forward.graph
        self._fetched = {key: name for key, name in names.items() if key[0] in kinds}
        self._each: dict[Key, str] = {key: name for key, name in names.items() if key[0] == "param_diff"}
        for row, part in (self.gradients.inner if self.gradients else {}).items():
            self._each |= {("inner_diff", row, *key): name for key, name in part.params.items() if name}
        changed = (*self._changed.values(), *self._left.values(), *itertools.chain(*self.forward.written.values()))
        self._plain = sorted({*self.forward.outputs.values(), *self.forward.losses, *changed})
        self._plain += sorted(self._labels.values)
        self._plain += sorted(filter(None, self._weight_diffs.values()))
        kept = {*graph.outputs, *self._plain, *self._fetched.values(), *self._diffs.values(), *self._each.values()}
        of_sums = {self._sum_statistics.output}.intersection(self._sums.outputs if self._sums else ())
        self._measured = [*graph.outputs, *of_sums, *self._plain]
        graph.outputs = sorted(kept)

    def _compile(self, compute: str) -> Compiled | Sharded:
        """Return what runs the graph; params that are no inputs of its passes are constant."""
        graph, params = self.forward.graph, self.forward.params
        constant = {name: self.values[number] for number, name in params.items() if number not in self._inputs}
        if self._sums:
            return Sharded(graph, self.forward.shards, self._sums, constant, {self._statistics.output})
        return Compiled(graph, self.device, constant, compute)

    @property
    def diffs(self) -> Collection[int]:
        """The numbers of the params that a gradient reaches."""
        return self._diffs.keys()

    @property
    def widened(self) -> list[str]:
        """The ops that were computed in float32 though float16 was asked for, once it has run."""
        return sorted(self._compiled.widened)

    @property
    def left_to_cpu(self) -> list[str]:
        """The ops for which the device has no kernels, once it has run."""
        return sorted(self._compiled.left_to_cpu)

    def put(self, feeds: Mapping[str, np.ndarray]) -> dict[str, Any]:
        """Return feeds of many runs on the device; labels, which every run checks, stay on the host."""
        return {n: array if n in self._labels.fed else self._compiled.put(array) for n, array in feeds.items()}

    def run(self, feeds: Mapping[str, Any]) -> Measurement:
        """Run one iteration and return what it measured.

        With `fetch`, `tensors` then holds arrays by ("top" | "bottom_diff" | "param_diff", row, index).
        """
        return self._strictly(lambda: self._measure(feeds))

    def _measure(self, feeds: Mapping[str, Any]) -> Measurement:
        outputs = self._run(feeds, {*self._measured, *self._fetched.values()})
        self.tensors = {key: outputs[name] for key, name in self._fetched.items()}
        return self._measurement(outputs)

    def step(
        self,
        feeds: Mapping[str, Any],
        measure: bool,
        each: bool = False,
        reuse: bool = False,
        into: Mapping[int, View] | None = None,
    ) -> Step:
        """Run one pass of a solver.

        measure: measure everything too
        reuse:   write the gradients into the arrays of the last pass, which may be changed in between
        into:    write the gradients of these params into views, and return no others
        each:    let `tensors` hold the gradient of each param of each row: ("param_diff", row, index), and of recurrent
                 layers that print ("inner_diff", row, inner row, index)
        """
        return self._strictly(lambda: self._step(feeds, measure, each, reuse, into))

    def _step(
        self, feeds: Mapping[str, Any], measure: bool, each: bool, reuse: bool, into: Mapping[int, View] | None
    ) -> Step:
        diffs = {number: name for number, name in self._diffs.items() if into is None or number in into}
        names = {*(self._measured if measure else self._plain), *diffs.values()}
        targets = self._gradient_arrays(reuse) if into is None else self._gradient_views(into)
        outputs = self._run(feeds, names | set(self._each.values()) if each else names, targets)
        self.tensors = {key: as_array(outputs[name]) for key, name in self._each.items()} if each else {}
        loss = self._loss(outputs)
        results = {blob: as_array(outputs[name]) for blob, name in self.forward.outputs.items()}
        measured = self._measurement(outputs) if measure else None
        found = {number: outputs[name] for number, name in diffs.items()}
        left = {name: as_array(outputs[value]) for name, value in self._left.items()}
        written = {row: [as_array(outputs[n]) for n in names] for row, names in self.forward.written.items()}
        return Step(loss, results, found, measured, left, written)

    def _loss(self, outputs: Mapping[str, Any]) -> np.float32:
        """Return the sum of the losses by their weights, and take what stands in the place of these from now on.

        Caffe keeps a weight in the diff of its top, where layers that read the loss write. (layer.hpp, Forward)
        """
        pairs = ((as_array(outputs[n]), self._weights.get(n, np.float32(w))) for n, w in self.forward.losses.items())
        total = np.float32(sum(((array * weight).sum() for array, weight in pairs), np.float32(0)))
        for name, diff in self._weight_diffs.items():
            self._weights[name] = as_array(outputs[diff]).copy() if diff else np.float32(0)
        return total

    def _gradient_views(self, views: Mapping[int, View]) -> dict[str, Any]:
        """Return the views that the gradients are written to, by name and in the gradients' shapes."""
        graph = self.forward.graph
        return {name: views[n].shaped(graph.shape(name)) for n, name in self._diffs.items() if n in views}

    def _gradient_arrays(self, reuse: bool) -> dict[str, Any]:
        """Return the arrays that the gradients are written to; none without `reuse`."""
        if reuse and not self._arrays and self.device.kind == "cpu":
            graph = self.forward.graph
            self._arrays = {name: np.empty(graph.shape(name), np.float32) for name in self._diffs.values()}
        return self._arrays if reuse else {}

    def _measurement(self, outputs: Mapping[str, np.ndarray]) -> Measurement:
        found: dict[Any, float] = self._statistics.read(outputs)
        if self._sums:
            found |= self._sum_statistics.read(outputs)
        measured = Measurement(device=str(self.device))
        arrays = {name: as_array(outputs[name]) for name in (*self.forward.outputs.values(), *self.forward.losses)}
        measured.outputs = {blob: arrays[name].ravel() for blob, name in self.forward.outputs.items()}
        measured.loss = sum(weight * float(arrays[name].sum()) for name, weight in self.forward.losses.items())
        measured.top_samples = self._samples.read(outputs)
        measured.params = self._param_means(found)
        _fill(measured, self.forward, self.gradients, found)
        measured.zeros = {key[1:]: 1 - value for key, value in found.items() if key[0] == "nonzero"}
        measured.saturated = {key[1:]: value for key, value in found.items() if key[0] == "saturated"}
        measured.stats = self._stats(outputs)
        if self.gradients:
            measured.findings = tuple(self.program.stopped(self.forward, self.gradients.stops, self.gradients.rounds))
        if not self.forward_only:
            measured.norms = self._norms(found)
        return measured

    def _stats(self, outputs: Mapping[str, np.ndarray]) -> dict[tuple[str, int, int], ElementStats]:
        """Return the statistics of all values; those of params are taken of their arrays."""
        wanted = self._elements.wanted
        if not wanted:
            return {}
        arrays = {number: self.values[number] for number in self.forward.params if number in self._floats}
        owned = {number: of_array(array, wanted) for number, array in arrays.items()}
        params = {("param", *key): owned.get(self._owner(key)) for key in self.forward.uses}
        zeros = dict(_without_gradient(self.forward, self.gradients))
        found = self._elements.read(outputs) | params | {key: of_zeros(n, wanted) for key, n in zeros.items()}
        return {key: one for key, one in found.items() if one is not None}

    def _owner(self, key: tuple[int, int]) -> int:
        return self.program.owner(self.program.rows[key[0]].params[key[1]])

    def _run(
        self, feeds: Mapping[str, Any], names: Collection[str], into: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run the graph and store what rows change: their statistics and states.

        Raises a RunError, or the NetError of the layer that fails where the runtime names it; before anything is
        stored, _NotFiniteError.
        """
        if not names:
            return {}
        resident = self.values if isinstance(self.values, Resident) else None
        params = {name: fed(self.values, number) for number, name in self._inputs.items()} | self._states
        keep = set(self._changed.values()).intersection(names) if resident else set()
        self._labels.check(feeds)
        try:
            outputs = self._compiled.run(feeds, params, sorted(names), keep, into)
        except RunError as error:
            raise self.program.at(self.forward.value_rows().get(error.node), error) from error
        self._labels.check(outputs)
        if not all(_is_finite(outputs[name]) for name in self._watched.intersection(outputs)):
            raise _NotFiniteError
        for number, name in self._updates.items():
            if resident:
                resident.place(number, outputs[name])
            else:
                self.values[number][...] = outputs[name]
        self._states.update({state: outputs[self._changed[state]] for state in self._states})
        return outputs

    def _sums_of(self, number: int, found: Mapping[Any, float]) -> tuple[float, float]:
        """Return (sum |x|, sum x²) of a param: what the run computed, or of a constant one those of its value."""
        if number in self._inputs:
            return found["l1", "data", number], found["l2", "data", number]
        if number not in self._constant_sums:
            self._constant_sums[number] = _sums(self.values[number])
        return self._constant_sums[number]

    def _param_means(self, found: Mapping[Any, float]) -> dict[tuple[int, int], float]:
        """Mean |x| of every param of the rows that ran."""
        result = {}
        for row, index in self.forward.uses:
            owner = self._owner((row, index))
            whole = self._sums_of(owner, found)[0] / max(math.prod(self._specs[owner].shape), 1)
            result[row, index] = found.get(("left", row, index), whole)
        return result

    def _norms(self, found: Mapping[Any, float]) -> Norms:
        owners = [n for n, param in enumerate(self.program.params) if param.owner is None and n in self._floats]
        data = [self._sums_of(number, found) for number in owners]
        data_l1, data_l2 = in_range(sum(l1 for l1, _ in data)), in_range(sum(l2 for _, l2 in data)) ** 0.5
        if not self._knows_gradients():
            return Norms(data_l1, None, data_l2, None)
        diff_l1 = sum(found.get(("l1", "diff", number), 0.0) for number in owners)
        diff_l2 = sum(found.get(("l2", "diff", number), 0.0) for number in owners)
        return Norms(data_l1, in_range(diff_l1), data_l2, in_range(diff_l2) ** 0.5)

    def _knows_gradients(self) -> bool:
        """Tell whether the gradient of every param that gets one is known."""
        known = self.gradients.params if self.gradients else {}
        return all((param.row, param.index) in known for param in self.program.params if param.gets_diff)


def _is_finite(array: Any) -> bool:
    """Tell whether a small array on the host holds finite numbers; of others, that is not looked at."""
    return not isinstance(array, np.ndarray) or array.size > _SMALL or bool(np.isfinite(array).all())


def _is_float(array: np.ndarray) -> bool:
    return array.dtype == np.float32


def _sums(array: np.ndarray) -> tuple[float, float]:
    """Return (sum |x|, sum x²), chunk by chunk so that no large temporary is made."""
    flat = array.reshape(-1)
    l1 = l2 = 0.0
    for start in range(0, flat.size, 1 << 18):
        chunk = np.abs(flat[start : start + (1 << 18)])
        l1 += float(chunk.sum())
        with np.errstate(over="ignore"):  # infinite in Caffe too
            l2 += float(np.dot(chunk, chunk))
    return l1, l2


def _ask(
    forward: Forward,
    gradients: Gradients | None,
    statistics: Statistics,
    of_sums: Statistics,
    within: Key = (),
) -> None:
    """Ask for mean |x| of all values of a net, and of the nets inside of its layers that Caffe prints.

    of_sums: where to ask for that of the params' gradients
    within:  what keys begin with
    """
    for key, value in forward.tops.items():
        statistics.mean_abs((*within, "top", *key), value)
    for key, value in forward.whole.items():
        statistics.mean_abs((*within, "whole", *key), _as_float(forward.graph, value))
    for (row, index), diff in (gradients.bottoms if gradients else {}).items():
        if diff:
            statistics.mean_abs((*within, "bottom", row, index), diff)
    for (row, index), diff in (gradients.params if gradients else {}).items():
        if diff:
            of_sums.mean_abs((*within, "param", row, index), diff)
    for number, inner in forward.inner.items():
        if inner.prints:
            found = gradients.inner.get(number) if gradients else None
            _ask(inner.forward, found, statistics, of_sums, (*within, "inner", number))
            for kept in inner.kept:
                statistics.mean_abs(("kept", number, kept), inner.forward.params[kept])


def _as_float(g: Graph, value: str) -> str:
    return g.declare(g.cast(value, np.float32), g.shape(value))


def _fill(
    measured: Measurement, forward: Forward, gradients: Gradients | None, found: Mapping[Any, float], within: Key = ()
) -> None:
    """Put what `_ask` asked for into a measurement, and the values inside of layers into measurements of their own."""
    for key in forward.tops:
        top = (*within, "top", *key)
        measured.tops[key] = found[top]
    measured.whole = {key: found[*within, "whole", *key] for key in forward.whole}
    if gradients:
        # a gradient that nothing reaches is zero: Caffe prints it as such
        measured.bottom_diffs = {key: found.get((*within, "bottom", *key), 0.0) for key in gradients.bottoms}
        measured.param_diffs = {key: found.get((*within, "param", *key), 0.0) for key in gradients.params}
    for number, inner in forward.inner.items():
        if inner.prints:
            part = Measurement(device=measured.device)
            _fill(part, inner.forward, gradients and gradients.inner.get(number), found, (*within, "inner", number))
            part.params = _inner_param_means(inner, number, measured, found)
            measured.inner[number] = inner.program, part


def _inner_param_means(
    inner: Inner, number: int, measured: Measurement, found: Mapping[Any, float]
) -> dict[tuple[int, int], float]:
    """Return mean |x| of the params of an inner net's layers: those of the layer around it, or what that one drew."""
    program = inner.program
    means = {owner: measured.params[number, index] for index, owner in enumerate(inner.owners)}
    means |= {kept: found["kept", number, kept] for kept in inner.kept}
    return {(row, index): means[program.owner(program.rows[row].params[index])] for row, index in inner.forward.uses}


def _ask_activity(forward: Forward, statistics: Statistics) -> None:
    """Ask for the share of units of each ReLU that pass something, and of each sigmoid and tanh that are saturated.

    Saturated: the slope is below a twentieth of its largest value.
    """
    g = forward.graph
    nodes = [*(region.whole for region in g.regions if region.whole), *g.nodes]  # wholes are found first
    flow = flow_of(nodes)
    for key, value in forward.tops.items():
        maker = flow.writer(value)
        node = None if maker is None else nodes[maker]
        kind = node.info.nonlinearity(g.call(node)) if node and node.info.nonlinearity else None
        limit = kind.saturates_beyond if kind else None
        if kind and kind.cuts:
            statistics.mean_abs(("nonzero", *key), g.declare(g.emit("Sign", value), g.shape(value)))
        elif node and limit:
            distance = g.emit("Abs", node.inputs[0])
            beyond = g.cast(g.emit("Greater", distance, g.constant(limit)), np.float32)
            statistics.mean_abs(("saturated", *key), g.declare(beyond, g.shape(value)))


def _ask_sums(statistics: Statistics, key: tuple[str, int], value: str) -> None:
    statistics.sum_abs(("l1", *key), value)
    statistics.sum_squares(("l2", *key), value)


def _updates(program: Program, forward: Forward) -> dict[int, str]:
    """Return the value that each param has after the pass, of those that their layers change: the last layer's."""
    updates = forward.graph.updates
    used = [(program.rows[row].params[index], value) for (row, index), value in forward.uses.items()]
    return {program.owner(number): updates[value] for number, value in used if value in updates}


def _under_own_names(graph: Graph, values: Mapping[int, str]) -> dict[int, str]:
    """Return values of which several may be the same, each under a name of its own: who asks may change one alone."""
    taken: set[str] = set()
    result = {}
    for number, name in values.items():
        result[number] = graph.copy(name) if name in taken else name
        taken.add(name)
    return result


def _shared_updates(program: Program, forward: Forward) -> dict[Key, str]:
    """Return what each row leaves in the params that others may use or write, and that one of them updates."""
    updates = forward.graph.updates
    owners = {key: program.owner(program.rows[key[0]].params[key[1]]) for key in forward.uses}
    changed = {owners[key] for key, value in forward.uses.items() if value in updates}
    several = {owner for owner in changed if list(owners.values()).count(owner) > 1}
    several |= {owners[key] for key in forward.lent if forward.uses[key] in updates}
    own = {
        value: update
        for key, value in forward.uses.items()
        if (update := updates.get(value)) and key not in forward.lent
    }
    return {key: own.get(value, value) for key, value in forward.uses.items() if owners[key] in several}


def _tensor_names(forward: Forward, gradients: Gradients | None) -> dict[tuple[str, int, int], str]:
    names = {("top", *key): value for key, value in forward.tops.items()}
    if gradients:
        names |= {("bottom_diff", *key): value for key, value in gradients.bottoms.items() if value}
        names |= {("param_diff", *key): value for key, value in gradients.params.items() if value}
    return names


def _without_gradient(forward: Forward, gradients: Gradients | None) -> Iterator[tuple[tuple[str, int, int], int]]:
    """Yield the gradients that are zero because nothing reaches them, and how many elements they have."""
    if gradients is None:
        return
    kinds = {
        "bottom_diff": (gradients.bottoms, forward.wanted),
        "param_diff": (gradients.params, forward.wanted_params),
    }
    for kind, (found, wanted) in kinds.items():
        for key in (key for key, value in found.items() if not value):
            yield (kind, *key), math.prod(forward.graph.shape(wanted[key]))


def draw_feeds(
    runner: Runner,
    stream: Stream,
    random: np.random.Generator,
    inputs: Mapping[str, np.ndarray] | None = None,
    zeros: bool = False,
) -> dict[str, np.ndarray]:
    """Return the graph's inputs for one iteration; see `Feeds`."""
    return Feeds(stream, random, inputs or {}, zeros).of(runner.forward)


def measure(
    program: Program,
    seed: int,
    options: RunOptions | None = None,
    notes: MutableSequence[str] | None = None,
    samples: int = 0,
) -> tuple[Program, Measurement]:
    """Run one forward and backward pass and return the mean |x| of every value, param and gradient.

    seed:    Caffe's random_seed: the same seed gives the same params, masks and dummy data, bit for bit
    notes:   gets lines worth telling: device, weights, data that is not available
    samples: about how many elements of each top to return as histograms, with those of the params and the curves of a
             net's activations; 0 for none of these

    The program that is returned has the shapes that the data decides.
    Raises InputError, DeviceError, NetError or GradientError.
    """
    options, notes = options or RunOptions(), [] if notes is None else notes
    device, why = choose_device(options.device)
    notes.extend([why] if why else [])
    check_given(program, options.inputs)
    check_run(program, not options.forward_only, device)
    stream = Stream(seed)
    taken: set[int] = set()
    values = program.values(stream, notes, taken)
    notes.extend(program.synthetic(options.inputs))
    feeds = Feeds(stream, np.random.default_rng(seed), options.inputs, options.inputs_hold == "zeros", notes)
    program = program.settle(values, device, feeds, notes)
    runner = Runner(
        program, values, device, options.forward_only, samples=samples, stats=options.stats, compute=options.compute
    )
    arrays = feeds.of(runner.forward)
    notes.extend(runner.forward.notes)
    started = _param_samples(program, values) if samples else {}
    measured = runner.run(arrays)
    notes.extend(_run_notes(program, runner, options))
    if samples:
        measured.param_samples, measured.given = started, frozenset(taken)
        measured.curves = curves(program, values, measured.top_samples)
    return program, measured


def _run_notes(program: Program, runner: Runner, options: RunOptions) -> Iterator[str]:
    """Yield what is worth knowing of a run: types, kernels and statistics that are not what was asked for."""
    yield from _precision_notes(program, runner, options.compute)
    if runner.left_to_cpu:
        yield f"{runner.device} has no kernels for {', '.join(runner.left_to_cpu)}: computed on the CPU"
    inner = [program.rows[row].name for row, part in runner.forward.inner.items() if part.prints]
    if options.stats and inner:
        yield f"--stats skips the values inside {', '.join(inner)}: only their mean |x| is known"


def _precision_notes(program: Program, runner: Runner, compute: str) -> Iterator[str]:
    """Yield what is worth knowing of the types that were computed in."""
    if compute == "float16":
        yield "computed in float16: every value is rounded to float16; statistics and input data stay float32"
        if runner.widened:
            ops = ", ".join(runner.widened)
            yield f"{runner.device} has no float16 kernels for {ops}: computed in float32, results rounded to float16"
    elif program.narrow:
        hint = "; --compute float16 rounds every value to float16" if "float16" in program.narrow else ""
        yield f"{' and '.join(program.narrow)} of the model is computed in float32{hint}"


def _param_samples(program: Program, values: Sequence[np.ndarray]) -> dict[tuple[int, int], Histogram]:
    """Return the distribution of each param."""
    owners = {program.owner(number) for number in range(len(program.params))}
    by_owner = {owner: histogram(values[owner]) for owner in owners if _is_float(values[owner])}
    found = {(p.row, p.index): by_owner.get(program.owner(number)) for number, p in enumerate(program.params)}
    return {key: one for key, one in found.items() if one is not None}
