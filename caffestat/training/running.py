"""The nets of a training run: built, filled, and run again and again with params that change in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from caffestat.analysis import Measurement, Norms, Runner, Step
from caffestat.analysis.measurement import in_range
from caffestat.data import Prefetch, Reader
from caffestat.data.hdf5_file import write_arrays
from caffestat.engine.resident import Resident, View, as_array
from caffestat.fillers import Stream
from caffestat.layers.base import of_four_axes
from caffestat.net import Net
from caffestat.net.aliasing import adds_up
from caffestat.net.weights import copy_file
from caffestat.program import NetProgram, Program, from_net
from caffestat.program.feeds import Feeds
from caffestat.program.settle import Settler, decided

from .events import FileWritten, Output
from .nets import parted, shared_layers
from .snapshot import write_model
from .statistics import Signal, Sizes, signals_of
from .update import Learnable, learnable, mean_abs

if TYPE_CHECKING:
    from caffestat.engine import Device

__all__ = ["Add", "PlainSum", "Process", "Running", "Sum"]

_ONE_PASS = "let the net run one pass (one test, test_iter: 1), or take the layer out"

Diffs = dict[int, Any]
Add = Callable[[Mapping[int, Any], Mapping[int, Any]], Diffs]
"""What adds the gradients of a pass to those of the passes before it."""


Uncleared = dict[tuple[int, int], np.ndarray]
"""By node and inner param, the sum of all gradients so far of what a recurrent layer drew for a param that it shares.

Caffe never sets it to zero, for no net but the inner one knows of it.
"""


@dataclass(frozen=True)
class Process:
    """What all nets of a training run share: the random stream, the device, the arrays that the user gives."""

    stream: Stream
    random: np.random.Generator
    device: Device
    inputs: Mapping[str, np.ndarray]
    zeros: bool
    compute: str


class Running:
    """A net and its params' values; it is compiled when the first pass is due, and again when its shapes change."""

    def __init__(
        self,
        program: NetProgram,
        values: list[np.ndarray],
        process: Process,
        forward_only: bool,
        activity: bool = False,
    ) -> None:
        self.net = program.net
        self.program = program
        self.values: Sequence[np.ndarray] = values
        self._process = process
        self._activity = activity
        self._forward_only = forward_only  # a test net's passes, whatever its phase
        self.runner: Runner | None = None
        self.readers: list[Prefetch] = []
        self._states: dict[str, np.ndarray] = {}
        self._left: dict[str, np.ndarray] = {}
        self._uncleared: Uncleared = {}
        self._settler = Settler(process.device)
        self._settled = program.net  # what the runner was made of
        self._last = program.net  # as settled for the last pass
        self._has_written: set[int] = set()  # the layers that have written their files

    def step(self, measure: bool, each: bool = False, into: Mapping[int, View] | None = None) -> Step:
        """Run one pass; see `Runner.step`. It is measured too when a recurrent layer prints its own lines.

        each: of measured passes, keep the gradient of each layer's params
        """
        p = self._process
        feeds = Feeds(p.stream, p.random, p.inputs, p.zeros, left=self._left)
        self._last = net = self._settler.settle(self.net, self.values, feeds)
        if self.runner is None or decided(self._settled) != decided(net):
            self._settled, program = net, self.program if net is self.net else from_net(net)
            self.runner = Runner(
                program,
                self.values,
                p.device,
                self._forward_only,
                changing=True,
                states=self._states,
                activity=self._activity,
                compute=p.compute,
            )
        printing = [inner for inner in self.runner.forward.inner.values() if inner.prints]
        measure = measure or bool(printing)
        single = measure and (each or any(inner.kept for inner in printing))
        result = self.runner.step(feeds.of(self.runner.forward, net), measure, single, not each, into)
        self._left = result.left
        return result

    def hold(self, values: Resident) -> None:
        """Let the params live on the device from now on."""
        self.values = values
        if self.runner:
            self.runner.values = values

    @contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """Let threads read the next batches of the net's data layers, in order, as far as no other draws with them."""
        pairs = [(node.layer, node.layer.reader) for node in self.net.nodes]
        with ExitStack() as stack:
            for layer, reader in pairs:
                if not isinstance(reader, Reader) or not reader.is_independent:
                    continue
                ahead = Prefetch(reader)
                stack.callback(setattr, layer, "reader", reader)
                stack.callback(ahead.close)
                layer.reader = ahead
                self.readers.append(ahead)
            yield

    @property
    def name(self) -> str:
        """The net's name."""
        return self.net.name

    @property
    def learnable(self) -> list[Learnable]:
        """The params that a solver updates."""
        return learnable(self.net)

    def sum(self, passes: int, add: Add) -> Sum:
        """Return what adds up the gradients of some passes."""
        return Sum(self.net, passes, add, self._uncleared)

    def outputs(self, values: Mapping[int, np.ndarray]) -> tuple[Output, ...]:
        """Return the elements of the output blobs that could be computed, in Caffe's order."""
        # a blob's weight is that of the layer that wrote it last, in place or not
        pairs = ((blob, w) for node in self.net.nodes for blob, w in zip(node.tops, node.loss_weights, strict=True))
        weights = dict(pairs)
        return tuple(
            Output(self.net.blobs[blob].name, value, weights[blob])
            for blob in self.net.outputs
            if blob in values
            for value in values[blob].ravel().tolist()
        )

    def signals(self, measured: Measurement, sizes: Sizes) -> dict[Signal, float]:
        """Return the signals of one iteration."""
        return signals_of(self.net, measured, sizes)

    def write(self, path: str, updates: Mapping[int, np.ndarray] | None) -> None:
        """Write the weights; updates: what was just applied, by owner, is stored beside them where given."""
        write_model(path, self.net, self.values, None if updates is None else self._diffs(updates))

    def write_files(self, written: Mapping[int, Sequence[np.ndarray]]) -> Iterator[FileWritten]:
        """Write what layers write to files in a pass. Raises NetError in HDF5Output's second one: Caffe stops there.

        Source: hdf5_output_layer.cpp, SaveBlobs
        """
        for node in self._last.nodes:
            node.layer.save_decisions()
        for row, (data, label) in written.items():
            layer = self.net.nodes[row].layer
            if row in self._has_written:
                raise layer.error(f"has written {layer.output_file!r}, and Caffe stops at a second batch: {_ONE_PASS}")
            self._has_written.add(row)
            write_arrays(layer.output_file, {"data": _with_four_axes(data), "label": _with_four_axes(label)})
            yield FileWritten(layer.output_file, len(data))

    def _diffs(self, updates: Mapping[int, np.ndarray]) -> list[np.ndarray]:
        """Return the update of each param; a shared one's is its owner's."""
        found = [updates.get(self.net.owner(number)) for number in range(len(self.net.params))]
        return [
            np.zeros_like(value) if diff is None else diff.reshape(value.shape)
            for diff, value in zip(found, self.values, strict=True)
        ]

    def load(self, path: str, diffs: dict[int, np.ndarray]) -> tuple[str, ...]:
        """Take the weights of a snapshot, and into `diffs` the updates beside them; see `copy_file`.

        Returns the names of its layers that the net lacks.
        """
        return copy_file(self.net, self.values, path, diffs=diffs).ignored

    def take_params(self, other: Running) -> tuple[str, ...]:
        """Let the layers use the params of the other net's layers of the same name; return the names of those it lacks.

        Raises NetError when they have other shapes. (net.cpp, ShareTrainedLayersWith)
        """
        net = parted(other.net, self.net)
        if net is not self.net:
            self.net, self.program = net, from_net(net)
        for node, target in shared_layers(other.net, self.net):
            for index, (mine, number) in enumerate(zip(target.params, node.params, strict=True)):
                if target.layer.keeps_drawn:
                    target.layer.own_draws.setdefault(index, as_array(self.values[mine]))
                self._share(mine, other, number)
        names = {node.name for node in self.net.nodes}
        return tuple(node.name for node in other.net.nodes if node.name not in names)

    def _share(self, mine: int, other: Running, number: int) -> None:
        """Let one of the params be the same array as another net's."""
        if isinstance(self.values, list):
            self.values[mine] = other.values[number]
        else:  # the nets of a run move to the device together
            assert isinstance(self.values, Resident) and isinstance(other.values, Resident)
            self.values.share(mine, other.values, number)


def _with_four_axes(array: np.ndarray) -> np.ndarray:
    return array.reshape(of_four_axes(array.shape))


class PlainSum:
    """The gradients of some passes added up, of a program in which no row writes over another's."""

    def __init__(self, passes: int, add: Add) -> None:
        self.several = passes > 1
        self.diffs: Diffs = {}
        self._add = add

    def add(self, step: Step, runner: Runner | None) -> Measurement | None:
        """Add a pass and return its measurement."""
        self.diffs = self._add(self.diffs, step.diffs)
        return step.measured


class Sum:
    """The param gradients that Caffe adds up over the passes of one iteration, and shows as added up so far.

    diffs: by owner param; an absent one is zero.
    """

    def __init__(self, net: Net, passes: int, add: Add, uncleared: Uncleared) -> None:
        self._net = net
        self._add = add
        self._uncleared = uncleared
        self.several = passes > 1
        self.diffs: Diffs = {}

    def add(self, step: Step, runner: Runner | None) -> Measurement | None:
        """Add a pass and return its measurement, with the sums' numbers in the place of its own."""
        shown = self.several and step.measured is not None
        before = {number: as_array(diff) for number, diff in self.diffs.items()} if shown else {}
        self.diffs = self._add(self.diffs, step.diffs)
        if step.measured is None or runner is None:
            return step.measured
        inner = {node: self._summed_inside(node, *found, before, runner) for node, found in step.measured.inner.items()}
        measured = replace(step.measured, inner=inner)
        return self._summed(measured, before, runner) if shown else measured

    def _summed(self, measured: Measurement, before: Mapping[int, np.ndarray], runner: Runner) -> Measurement:
        net, left = self._net, dict(before)
        means = {}
        for node, index in sorted(measured.param_diffs, key=lambda key: (-key[0], key[1])):
            owner = net.owner(net.nodes[node].params[index])
            diff = runner.tensors.get(("param_diff", node, index))
            if not adds_up(net.nodes[node], index):
                left.pop(owner, None)
            total = left.get(owner) if diff is None else diff + left[owner] if owner in left else diff
            means[node, index] = 0.0 if total is None else mean_abs(total)
        return replace(measured, param_diffs=means, norms=self._norms(measured))

    def _summed_inside(
        self,
        node: int,
        program: Program,
        measured: Measurement,
        before: Mapping[int, np.ndarray],
        runner: Runner,
    ) -> tuple[Program, Measurement]:
        """Return what was measured inside of a recurrent layer, the gradients of its params summed up."""
        part = runner.forward.inner[node]
        if not self.several and not part.kept:
            return program, measured
        params = zip(part.owners, self._net.nodes[node].params, strict=True)
        earlier = {number: before.get(self._net.owner(param)) for number, param in params}
        earlier |= {number: self._uncleared.get((node, number)) for number in part.kept}
        means = {}
        for row, index in sorted(measured.param_diffs, key=lambda key: (-key[0], key[1])):
            owner = program.owner(program.rows[row].params[index])
            diff, left = runner.tensors.get(("inner_diff", node, row, index)), earlier[owner]
            total = left if diff is None else diff if left is None else diff + left
            means[row, index] = 0.0 if total is None else mean_abs(total)
            if total is not None and owner in part.kept:
                self._uncleared[node, owner] = total
        return program, replace(measured, param_diffs=means)

    def _norms(self, measured: Measurement) -> Norms | None:
        if measured.norms is None or measured.norms.diff_l1 is None:
            return measured.norms
        diffs = [as_array(diff) for diff in self.diffs.values()]
        l1 = math.fsum(float(np.abs(diff).sum(dtype=np.float64)) for diff in diffs)
        squares = math.fsum(float(np.square(diff, dtype=np.float64).sum()) for diff in diffs)
        return replace(measured.norms, diff_l1=in_range(l1), diff_l2=in_range(squares) ** 0.5)
