"""One iteration of a net, and the mean |x| of everything that Caffe's debug_info prints."""

from __future__ import annotations

import math
from collections.abc import Collection, Container, Mapping, MutableSequence, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from caffestat.data import synthetic_tops
from caffestat.engine import CPU, Compiled, Device, Statistics, choose_device
from caffestat.engine.histogram import Samples, histogram
from caffestat.errors import InputError, RunError
from caffestat.fillers import Stream

from .flow import Flow
from .initial import copy_weights, draw_params
from .labels import Labels
from .measurement import Measurement, Norms
from .memory import check_run
from .model import Net, Node
from .settle import settle

if TYPE_CHECKING:
    from caffestat.engine.histogram import Histogram

    from .lower import Gradients, Inner, Lowered

__all__ = ["Feeds", "Runner", "Step", "draw_feeds", "measure"]

Shape = tuple[int, ...]
Key = tuple[Any, ...]  # of what the statistics are asked for
_LARGEST = float(np.finfo(np.float32).max)
_KINDS = ("top", "bottom_diff", "param_diff")  # of tensors that a run can return


@dataclass
class Step:
    """What one pass gives a solver.

    loss      the weighted sum of the losses, float32
    outputs   the values of the net's output blobs that could be computed, by blob index
    diffs     the gradients of the owner params by index, in arrays of their own; an absent one is zero
    measured  where asked for
    """

    loss: np.float32
    outputs: dict[int, np.ndarray]
    diffs: dict[int, np.ndarray]
    measured: Measurement | None


class Runner:
    """A net compiled once, whose passes may be run many times.

    values:   one array per param of the net (`draw_params`); changed in place by layers that update their statistics
    fetch:    return every tensor too, not only statistics, or those of some kinds (see `tensors`)
    states:   of recurrent layers by name, which runs change; zero where absent
    changing: the values may be others in every run; without it only those that layers update, and a run is faster
    samples:  about how many elements of each top to return as a histogram; 0 for none
    """

    def __init__(
        self,
        net: Net,
        values: Sequence[np.ndarray],
        device: Device = CPU,
        forward_only: bool = False,
        fetch: bool | Container[str] = False,
        changing: bool = False,
        samples: int = 0,
        states: dict[str, np.ndarray] | None = None,
    ) -> None:
        from .lower import differentiate, lower

        self.net = net
        self.values = values
        self.device = device
        self.lowered = lower(net, carries=changing)
        self.forward_only = forward_only
        self.gradients: Gradients | None = None
        if not forward_only and any(node.need_backward for node in net.nodes):
            self.gradients = differentiate(net, self.lowered)
        graph = self.lowered.graph
        graph.infer()
        self._statistics = Statistics(graph)
        _ask(net, self.lowered, self.gradients, self._statistics)
        for number, value in (self.gradients.owners if self.gradients else {}).items():
            if value:
                _ask_sums(self._statistics, ("diff", number), value)
        self._updates = _updates(net, self.lowered)
        self._states = {} if states is None else states
        for name in graph.states:
            self._states.setdefault(name, np.zeros(graph.shape(name), np.float32))
        self._changed = {name: graph.updates[name] for name in self._states} | {
            self.lowered.params[number]: name for number, name in self._updates.items()
        }
        self._inputs = {
            number: name for number, name in self.lowered.params.items() if changing or number in self._updates
        }
        for number, name in self._inputs.items():
            _ask_sums(self._statistics, ("data", number), self._updates.get(number, name))
        self._statistics.finish()
        self._samples: Samples[tuple[int, int]] = Samples(graph, samples)
        for key, value in self.lowered.tops.items() if samples else ():
            self._samples.ask(key, value)
        graph.outputs += self._samples.outputs
        kinds: Container[str] = _KINDS if fetch is True else fetch or ()
        names = _tensor_names(self.lowered, self.gradients)
        self._fetched = {key: name for key, name in names.items() if key[0] in kinds}
        self._losses = _weighted_tops(net, self.lowered)
        writers = _last_writers(net, self.lowered, net.outputs)
        self._results = {blob: self.lowered.memory.stored(self.lowered.tops[key]) for blob, key in writers.items()}
        owners = self.gradients.owners if self.gradients else {}
        self._diffs = {number: name for number, name in owners.items() if name}
        self._each: dict[Key, str] = {key: name for key, name in names.items() if key[0] == "param_diff"}
        for node, part in (self.gradients.inner if self.gradients else {}).items():
            self._each |= {("inner_diff", node, *key): name for key, name in part.params.items() if name}
        self._plain = sorted({*self._results.values(), *self._losses, *self._changed.values()})
        self._labels = Labels(net, self.lowered)
        self._plain += sorted(self._labels.values)
        self._measured = [*graph.outputs, *self._plain]
        kept = {*self._measured, *self._fetched.values(), *self._diffs.values(), *self._each.values()}
        graph.outputs = sorted(kept)
        constant = {name: values[number] for number, name in self.lowered.params.items() if number not in self._inputs}
        self._compiled = Compiled(graph, device, constant)
        self._constant_sums: dict[int, tuple[float, float]] = {}
        self.tensors: dict[Key, np.ndarray] = {}

    def run(self, feeds: Mapping[str, np.ndarray]) -> Measurement:
        """Run one iteration and return what it measured.

        With `fetch`, `tensors` then holds arrays by ("top" | "bottom_diff" | "param_diff", node, index).
        """
        outputs = self._run(feeds, {*self._measured, *self._fetched.values()})
        self.tensors = {key: outputs[name] for key, name in self._fetched.items()}
        return self._measurement(outputs)

    def step(self, feeds: Mapping[str, np.ndarray], measure: bool, each: bool = False) -> Step:
        """Run one pass of a solver.

        measure: measure everything too
        each:    let `tensors` hold the gradient of each param of each layer: ("param_diff", node, index), and of
                 recurrent layers that print ("inner_diff", node, inner node, index)
        """
        names = {*(self._measured if measure else self._plain), *self._diffs.values()}
        outputs = self._run(feeds, names | set(self._each.values()) if each else names)
        self.tensors = {key: outputs[name] for key, name in self._each.items()} if each else {}
        loss = sum((np.float32(weight) * outputs[name].sum() for name, weight in self._losses.items()), np.float32(0))
        results = {blob: outputs[name] for blob, name in self._results.items()}
        diffs = {number: outputs[name] for number, name in self._diffs.items()}
        return Step(np.float32(loss), results, diffs, self._measurement(outputs) if measure else None)

    def _measurement(self, outputs: Mapping[str, np.ndarray]) -> Measurement:
        found: dict[Any, float] = self._statistics.read(outputs)
        measured = Measurement(device=str(self.device))
        measured.outputs = {blob: tuple(outputs[name].ravel().tolist()) for blob, name in self._results.items()}
        measured.loss = sum(weight * float(outputs[name].sum()) for name, weight in self._losses.items())
        measured.top_samples = self._samples.read(outputs)
        measured.params = self._param_means(found)
        _fill(measured, self.lowered, self.gradients, found)
        if not self.forward_only:
            measured.norms = self._norms(found)
        return measured

    def _run(self, feeds: Mapping[str, np.ndarray], names: Collection[str]) -> dict[str, np.ndarray]:
        """Run the graph and store what layers change: their statistics and states.

        Raises NetError, with the layer's place where the runtime says which node fails.
        """
        params = {name: self.values[number] for number, name in self._inputs.items()} | self._states
        self._labels.check(feeds)
        try:
            outputs = self._compiled.run(feeds, params, sorted(names))
        except RunError as error:
            index = self.lowered.layer_of(error.node)
            raise error if index is None else self.net.nodes[index].layer.error(str(error)) from error
        self._labels.check(outputs)
        for number, name in self._updates.items():
            self.values[number][...] = outputs[name].reshape(self.values[number].shape)
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
        """Mean |x| of every param of the layers that ran."""
        result = {}
        for node, index in self.lowered.uses:
            number = self.net.nodes[node].params[index]
            owner = self.net.owner(number)
            result[node, index] = self._sums_of(owner, found)[0] / max(self.values[owner].size, 1)
        return result

    def _norms(self, found: Mapping[Any, float]) -> Norms:
        owners = [number for number, param in enumerate(self.net.params) if param.owner is None]
        data = [self._sums_of(number, found) for number in owners]
        data_l1, data_l2 = _in_range(sum(l1 for l1, _ in data)), _in_range(sum(l2 for _, l2 in data)) ** 0.5
        if not self._knows_gradients():
            return Norms(data_l1, None, data_l2, None)
        diff_l1 = sum(found.get(("l1", "diff", number), 0.0) for number in owners)
        diff_l2 = sum(found.get(("l2", "diff", number), 0.0) for number in owners)
        return Norms(data_l1, _in_range(diff_l1), data_l2, _in_range(diff_l2) ** 0.5)

    def _knows_gradients(self) -> bool:
        """Tell whether the gradient of every param that gets one is known."""
        known = self.gradients.params if self.gradients else {}
        return all(
            (node.index, index) in known
            for node in self.net.nodes
            for index, needed in enumerate(node.param_propagate_down)
            if needed and node.need_backward
        )


def _in_range(total: float) -> float:
    """Return a sum as Caffe has it, in float32: infinite beyond its range."""
    return math.inf if total > _LARGEST else total


def _sums(array: np.ndarray) -> tuple[float, float]:
    """Return (sum |x|, sum x²), chunk by chunk so that no large temporary is made."""
    flat = array.reshape(-1)
    l1 = l2 = 0.0
    for start in range(0, flat.size, 1 << 18):
        chunk = np.abs(flat[start : start + (1 << 18)])
        l1 += float(chunk.sum())
        l2 += float(np.dot(chunk, chunk))
    return l1, l2


def _ask(net: Net, lowered: Lowered, gradients: Gradients | None, statistics: Statistics, within: Key = ()) -> None:
    """Ask for mean |x| of all values of a net, and of the nets inside of its layers that Caffe prints.

    within: what keys begin with
    """
    graph = statistics.graph
    for key, value in lowered.tops.items():
        statistics.mean_abs((*within, "top", *key), value)
    for (node, index), diff in (gradients.bottoms if gradients else {}).items():
        if diff:
            graph.declare(diff, net.nodes[node].bottom_shapes[index] or ())
            statistics.mean_abs((*within, "bottom", node, index), diff)
    for (node, index), diff in (gradients.params if gradients else {}).items():
        if diff:
            _declare_param(net, graph, net.nodes[node].params[index], diff)
            statistics.mean_abs((*within, "param", node, index), diff)
    for number, inner in lowered.inner.items():
        if inner.prints:
            found = gradients.inner.get(number) if gradients else None
            _ask(inner.net, inner.lowered, found, statistics, (*within, "inner", number))


def _fill(
    measured: Measurement, lowered: Lowered, gradients: Gradients | None, found: Mapping[Any, float], within: Key = ()
) -> None:
    """Put what `_ask` asked for into a measurement, and the values inside of layers into measurements of their own."""
    for key in lowered.tops:
        top = (*within, "top", *key)
        measured.tops[key] = found[top]
    if gradients:
        # a gradient that nothing reaches is zero: Caffe prints it as such
        measured.bottom_diffs = {key: found.get((*within, "bottom", *key), 0.0) for key in gradients.bottoms}
        measured.param_diffs = {key: found.get((*within, "param", *key), 0.0) for key in gradients.params}
    for number, inner in lowered.inner.items():
        if inner.prints:
            part = Measurement(device=measured.device)
            _fill(part, inner.lowered, gradients and gradients.inner.get(number), found, (*within, "inner", number))
            part.params = _inner_param_means(inner, number, measured)
            measured.inner[number] = inner.net, part


def _inner_param_means(inner: Inner, number: int, measured: Measurement) -> dict[tuple[int, int], float]:
    """Return mean |x| of the params of an inner net's layers, which are those of the layer around it."""
    return {
        (node, index): measured.params[number, inner.owners.index(inner.net.owner(inner.net.nodes[node].params[index]))]
        for node, index in inner.lowered.uses
    }


def _ask_sums(statistics: Statistics, key: tuple[str, int], value: str) -> None:
    statistics.sum_abs(("l1", *key), value)
    statistics.sum_squares(("l2", *key), value)


def _updates(net: Net, lowered: Lowered) -> dict[int, str]:
    """Return the value that each param has after the pass, of those that their layers change: the last layer's."""
    updates = lowered.graph.updates
    used = [(net.nodes[node].params[index], value) for (node, index), value in lowered.uses.items()]
    return {net.owner(number): updates[value] for number, value in used if value in updates}


def _declare_param(net: Net, graph: Any, number: int, value: str) -> None:
    """Record a param gradient's shape: its owner's."""
    param = net.params[number]
    graph.declare(value, (param if param.owner is None else net.params[param.owner]).param.shape)


def _tensor_names(lowered: Lowered, gradients: Gradients | None) -> dict[tuple[str, int, int], str]:
    names = {("top", *key): value for key, value in lowered.tops.items()}
    if gradients:
        names |= {("bottom_diff", *key): value for key, value in gradients.bottoms.items() if value}
        names |= {("param_diff", *key): value for key, value in gradients.params.items() if value}
    return names


def _last_writers(net: Net, lowered: Lowered, blobs: Sequence[int]) -> dict[int, tuple[int, int]]:
    """Return the top that a blob's value comes from in the end: the last in-place writer's."""
    writers = {
        blob: (node.index, top)
        for node in net.nodes
        for top, blob in enumerate(node.tops)
        if (node.index, top) in lowered.tops
    }
    return {blob: writers[blob] for blob in blobs if blob in writers}


def _weighted_tops(net: Net, lowered: Lowered) -> dict[str, float]:
    """Return the weights in the loss of the values that have one."""
    tops = [(node, top, weight) for node in net.nodes for top, weight in enumerate(node.loss_weights) if weight]
    return {lowered.tops[node.index, top]: weight for node, top, weight in tops if (node.index, top) in lowered.tops}


def draw_feeds(
    runner: Runner,
    stream: Stream,
    random: np.random.Generator,
    inputs: Mapping[str, np.ndarray] | None = None,
    zeros: bool = False,
) -> dict[str, np.ndarray]:
    """Return the graph's inputs for one iteration.

    stream: the net's own random stream, which DummyData and Dropout draw from
    random: for data that is not at hand; a layer's reader gives its next batch
    inputs: arrays that the user gives, by blob name
    zeros:  what Input layers hold is 0, as under `caffe train`
    Raises InputError when a given array does not fit.
    """
    return Feeds(stream, random, inputs, zeros).of(runner.net, runner.lowered)


class Feeds:
    """What the graph inputs of one pass hold, drawn node by node in Caffe's order. What is drawn stays drawn.

    The arguments are those of `draw_feeds`.
    """

    def __init__(
        self,
        stream: Stream,
        random: np.random.Generator,
        inputs: Mapping[str, np.ndarray] | None = None,
        zeros: bool = False,
    ) -> None:
        self._stream, self.random, self._inputs, self._zeros = stream, random, inputs or {}, zeros
        self._drawn: dict[int, Sequence[np.ndarray]] = {}

    def of(self, net: Net, lowered: Lowered) -> dict[str, np.ndarray]:
        """Return the inputs of a net's graph, or of its beginning. Raises InputError: a given array does not fit."""
        feeds: dict[str, np.ndarray] = {}
        for node in net.nodes:
            names = lowered.feeds.get(node.index, ())
            if names:
                if node.index not in self._drawn:
                    self._drawn[node.index] = _node_feeds(net, node, self._stream, self.random, self._zeros)
                feeds.update(zip(names, self._drawn[node.index], strict=True))
                _replace(net, node, dict(enumerate(names)), feeds, self._inputs)
        return feeds


def _node_feeds(net: Net, node: Node, stream: Stream, random: np.random.Generator, zeros: bool) -> Sequence[np.ndarray]:
    if not node.layer.is_external or node.layer.decisions is not None:
        return node.layer.draw_feeds(stream, [shape for shape in node.bottom_shapes if shape is not None])
    if node.layer.reader:
        return node.layer.reader.next()
    if zeros and node.layer.starts_at_zero:
        return [np.zeros(shape or (), np.float32) for shape in node.top_shapes]
    return synthetic_tops(net, node, random)


def _replace(
    net: Net, node: Node, names: Mapping[int, str], feeds: dict[str, np.ndarray], inputs: Mapping[str, np.ndarray]
) -> None:
    """Put the user's arrays in the place of a data layer's tops."""
    if node.bottoms:
        return
    for index, blob in enumerate(node.tops):
        name = net.blobs[blob].name
        if name in inputs:
            shape = node.top_shapes[index]
            if inputs[name].shape != shape:
                raise InputError(
                    f"--input {name}: has shape {inputs[name].shape}; "
                    f"layer {node.name!r} at {node.place} produces {shape}"
                )
            feeds[names[index]] = np.asarray(inputs[name], np.float32, order="C")


def check_inputs(net: Net, inputs: Mapping[str, np.ndarray]) -> None:
    known = [net.blobs[blob].name for node in net.nodes if not node.bottoms for blob in node.tops]
    for name in inputs:
        if name not in known:
            raise InputError(
                f"--input {name}: no data layer produces a blob of that name; expected one of {', '.join(known)}"
            )


def synthetic_layers(net: Net, inputs: Mapping[str, np.ndarray]) -> list[str]:
    """Return a line about each layer that names data which is not at hand, unless the user gives all its tops."""
    return [
        f"{node.place}: layer {node.name!r} is given synthetic data: {node.layer.why_synthetic}"
        for node in net.nodes
        if node.layer.why_synthetic and any(net.blobs[blob].name not in inputs for blob in node.tops)
    ]


def measure(
    net: Net,
    *,
    seed: int,
    device: str = "auto",
    weights: Sequence[str] = (),
    inputs: Mapping[str, np.ndarray] | None = None,
    inputs_hold: str = "noise",
    assume_filler: str | None = None,
    forward_only: bool = False,
    samples: int = 0,
    notes: MutableSequence[str] | None = None,
) -> Measurement:
    """Run one forward and backward pass of a net and return the mean |x| of every blob, param and gradient.

    seed:          Caffe's random_seed: the same seed gives the same params, masks and dummy data, bit for bit
    device:        "auto", "cpu" or "cuda"
    weights:       caffemodel files that replace the fillers' values, layers matched by name
    inputs:        arrays for data blobs, by blob name
    inputs_hold:   what Input layers hold: "noise" (N(0, 1)) or "zeros" (as under `caffe train`)
    assume_filler: the filler type of weights that have none written
    samples:       about how many elements of each top to return as histograms, with those of the params and the curves
                   of the activations; 0 for none of these
    notes:         lines worth telling (device, weights, data that is not at hand) are appended to it

    Raises InputError, DeviceError, NetError or GradientError.
    """
    notes = notes if notes is not None else []
    check_inputs(net, inputs or {})
    chosen, why = choose_device(device)
    if why:
        notes.append(why)
    check_run(net, not forward_only, chosen)
    stream = Stream(seed)
    values = draw_params(net, stream, assume_filler)
    notes.extend(synthetic_layers(net, inputs or {}))
    given: set[int] = set()
    notes.extend(copy_weights(net, values, weights, given))
    feeds = Feeds(stream, np.random.default_rng(seed), inputs, inputs_hold == "zeros")
    runner = Runner(settle(net, values, chosen, feeds, notes), values, chosen, forward_only, samples=samples)
    started = _param_samples(net, values) if samples else {}
    measured = runner.run(feeds.of(runner.net, runner.lowered))
    if samples:
        from .curves import curves  # imports the gradient rules

        measured.param_samples, measured.given = started, frozenset(given)
        measured.curves = curves(net, values, _bottom_samples(net, measured))
    return measured


def _param_samples(net: Net, values: Sequence[np.ndarray]) -> dict[tuple[int, int], Histogram]:
    """Return the distribution of each param, by node and index."""
    used = [(node.index, index, net.owner(number)) for node in net.nodes for index, number in enumerate(node.params)]
    by_owner = {owner: histogram(values[owner]) for owner in {owner for _, _, owner in used}}
    found = {(node, index): by_owner[owner] for node, index, owner in used}
    return {key: one for key, one in found.items() if one is not None}


def _bottom_samples(net: Net, measured: Measurement) -> dict[int, Histogram]:
    """Return the distribution of each layer's first bottom, by node index."""
    sources = {node: source for (node, bottom), source in Flow(net).sources.items() if bottom == 0}
    return {node: measured.top_samples[key] for node, key in sources.items() if key in measured.top_samples}
