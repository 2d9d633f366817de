"""One iteration of a net, and the mean |x| of everything that Caffe's debug_info prints."""

from __future__ import annotations

from collections.abc import Container, Mapping, MutableSequence, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from caffestat.data import synthetic_tops
from caffestat.engine import CPU, Compiled, Device, Statistics, choose_device
from caffestat.errors import InputError, RunError
from caffestat.fillers import Stream

from .initial import copy_weights, draw_params
from .measurement import Measurement, Norms
from .memory import check_run
from .model import Net, Node
from .settle import settle

if TYPE_CHECKING:
    from .lower import Gradients, Lowered

__all__ = ["Feeds", "Runner", "draw_feeds", "measure"]

Shape = tuple[int, ...]
_KINDS = ("top", "bottom_diff", "param_diff")  # of tensors that a run can return


class Runner:
    """A net compiled once, whose passes may be run many times.

    values:   one array per param of the net (`draw_params`); changed in place by layers that update their statistics
    fetch:    return every tensor too, not only statistics, or those of some kinds (see `tensors`)
    changing: the values may be others in every run; without it only those that layers update, and a run is faster
    """

    def __init__(
        self,
        net: Net,
        values: Sequence[np.ndarray],
        device: Device = CPU,
        forward_only: bool = False,
        fetch: bool | Container[str] = False,
        changing: bool = False,
    ) -> None:
        from .lower import differentiate, lower

        self.net = net
        self.values = values
        self.device = device
        self.lowered = lower(net, device.kind)
        self.forward_only = forward_only
        self.gradients: Gradients | None = None
        if not forward_only and any(node.need_backward for node in net.nodes):
            self.gradients = differentiate(net, self.lowered)
        graph = self.lowered.graph
        graph.infer()
        self._statistics = Statistics(graph)
        _ask_forward(net, self.lowered, self._statistics)
        if self.gradients:
            _ask_backward(net, self.gradients, self._statistics)
        self._updates = _updates(net, self.lowered)
        self._inputs = {
            number: name for number, name in self.lowered.params.items() if changing or number in self._updates
        }
        for number, name in self._inputs.items():
            _ask_sums(self._statistics, ("data", number), self._updates.get(number, name))
        self._statistics.finish()
        kinds: Container[str] = _KINDS if fetch is True else fetch or ()
        names = _tensor_names(self.lowered, self.gradients)
        self._fetched = {key: name for key, name in names.items() if key[0] in kinds}
        self._losses = _weighted_tops(net, self.lowered)
        writers = _last_writers(net, self.lowered, net.outputs)
        self._results = {blob: graph.stored(self.lowered.tops[key]) for blob, key in writers.items()}
        asked = {*self._fetched.values(), *self._results.values(), *self._losses, *self._updates.values()}
        graph.outputs += sorted(asked)
        constant = {name: values[number] for number, name in self.lowered.params.items() if number not in self._inputs}
        self._compiled = Compiled(graph, device, constant)
        self._constant_sums: dict[int, tuple[float, float]] = {}
        self.tensors: dict[tuple[str, int, int], np.ndarray] = {}

    def run(self, feeds: Mapping[str, np.ndarray]) -> Measurement:
        """Run one iteration and return what it measured.

        With `fetch`, `tensors` then holds arrays by ("top" | "bottom_diff" | "param_diff", node, index).
        """
        outputs = self._run(feeds)
        found: dict[Any, float] = self._statistics.read(outputs)
        self.tensors = {key: outputs[name] for key, name in self._fetched.items()}
        for number, name in self._updates.items():
            self.values[number][...] = outputs[name].reshape(self.values[number].shape)
        measured = Measurement(device=str(self.device))
        measured.outputs = {blob: tuple(outputs[name].ravel().tolist()) for blob, name in self._results.items()}
        measured.loss = sum(weight * float(outputs[name].sum()) for name, weight in self._losses.items())
        measured.tops = {key[1:]: value for key, value in found.items() if key[0] == "top"}
        measured.params = self._param_means(found)
        if self.gradients:
            # a gradient that nothing reaches is zero: Caffe prints it as such
            measured.bottom_diffs = {key: found.get(("bottom", *key), 0.0) for key in self.gradients.bottoms}
            measured.param_diffs = {key: found.get(("param", *key), 0.0) for key in self.gradients.params}
        if not self.forward_only:
            measured.norms = self._norms(found)
        return measured

    def _run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph. Raises NetError, with the layer's place where the runtime says which node fails."""
        try:
            return self._compiled.run(feeds, {name: self.values[number] for number, name in self._inputs.items()})
        except RunError as error:
            index = self.lowered.layer_of(error.node)
            raise error if index is None else self.net.nodes[index].layer.error(str(error)) from error

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
        data_l1, data_l2 = sum(l1 for l1, _ in data), sum(l2 for _, l2 in data) ** 0.5
        if not self._knows_gradients():
            return Norms(data_l1, None, data_l2, None)
        diff_l1 = sum(found.get(("l1", "diff", number), 0.0) for number in owners)
        diff_l2 = sum(found.get(("l2", "diff", number), 0.0) for number in owners)
        return Norms(data_l1, diff_l1, data_l2, diff_l2**0.5)

    def _knows_gradients(self) -> bool:
        """Tell whether the gradient of every param that gets one is known."""
        known = self.gradients.params if self.gradients else {}
        return all(
            (node.index, index) in known
            for node in self.net.nodes
            for index, needed in enumerate(node.param_propagate_down)
            if needed and node.need_backward
        )


def _sums(array: np.ndarray) -> tuple[float, float]:
    """Return (sum |x|, sum x²), chunk by chunk so that no large temporary is made."""
    flat = array.reshape(-1)
    l1 = l2 = 0.0
    for start in range(0, flat.size, 1 << 18):
        chunk = np.abs(flat[start : start + (1 << 18)])
        l1 += float(chunk.sum())
        l2 += float(np.dot(chunk, chunk))
    return l1, l2


def _ask_forward(net: Net, lowered: Lowered, statistics: Statistics) -> None:
    for key, value in lowered.tops.items():
        statistics.mean_abs(("top", *key), value)


def _ask_backward(net: Net, gradients: Gradients, statistics: Statistics) -> None:
    graph = statistics.graph
    for (node, index), value in gradients.bottoms.items():
        if value:
            graph.declare(value, net.nodes[node].bottom_shapes[index] or ())
            statistics.mean_abs(("bottom", node, index), value)
    for (node, index), value in gradients.params.items():
        if value:
            _declare_param(net, graph, net.nodes[node].params[index], value)
            statistics.mean_abs(("param", node, index), value)
    for number, value in gradients.owners.items():
        if value:
            _ask_sums(statistics, ("diff", number), value)


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
    if not node.layer.is_external:
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
    notes: MutableSequence[str] | None = None,
) -> Measurement:
    """Run one forward and backward pass of a net and return the mean |x| of every blob, param and gradient.

    seed:          Caffe's random_seed: the same seed gives the same params, masks and dummy data, bit for bit
    device:        "auto", "cpu" or "cuda"
    weights:       caffemodel files that replace the fillers' values, layers matched by name
    inputs:        arrays for data blobs, by blob name
    inputs_hold:   what Input layers hold: "noise" (N(0, 1)) or "zeros" (as under `caffe train`)
    assume_filler: the filler type of weights that have none written
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
    notes.extend(copy_weights(net, values, weights))
    feeds = Feeds(stream, np.random.default_rng(seed), inputs, inputs_hold == "zeros")
    runner = Runner(settle(net, values, chosen, feeds, notes), values, chosen, forward_only)
    return runner.run(feeds.of(runner.net, runner.lowered))
