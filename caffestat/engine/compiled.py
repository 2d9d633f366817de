"""Graphs compiled with onnxruntime, with the settings that were measured to be fast for a forward and backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from caffestat.errors import RunError
from caffestat.graph import Graph
from caffestat.graph.expand import expand
from caffestat.graph.order import in_order

from .device import CPU, Device
from .kernels import Kernels
from .parts import count_nodes, cut
from .resident import View
from .runtime import (
    channel_block,
    interruptible,
    onnxruntime,
    open_session,
    ops_on_cpu,
    runtime_errors,
    session_options,
    share_memory,
    thread_count,
)

__all__ = ["Call", "Compiled"]

# Beyond so many nodes a net is deep, and the order of execution is chosen for memory: on the CPU it saves 40 % on
# ResNet-50 and a fifth on MobileNet; on nets of few, large layers (AlexNet, VGG-16) it costs time and memory there.
_DEEP_NODES = {"cpu": 2_000, "cuda": 0}

# From here on set-up counts more than what the runtime's optimizers win: they take two thirds of it, and the order that
# saves memory takes half of the rest.
_MANY_NODES = 12_000

# From here on a graph is cut. AlexNet, of half as many nodes, takes a quarter less memory in parts, but 8 % more time.
# On CUDA every part has a memory pool of its own.
_LONG = {"cpu": 1_000, "cuda": _MANY_NODES}

Call = Callable[[Callable[[Any], Any]], Any]
"""What calls a function with the runtime's run options."""

_LARGE_MATRIX = 1 << 22  # elements


def _options(nodes: int, device: Device, once: bool, threads: int) -> Any:
    """Return the settings of a session for (a part of) a graph of so many nodes; `once`: the cheapest to set up."""
    ort = onnxruntime()
    options = session_options()
    level = ort.GraphOptimizationLevel
    quick = once or nodes >= _MANY_NODES
    options.graph_optimization_level = level.ORT_DISABLE_ALL if quick else level.ORT_ENABLE_ALL
    options.enable_mem_reuse = not once  # planning it takes a time quadratic in the values; freed memory serves anyway
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # on, it takes 45 to 75 % more memory and no less time
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # from opset 21 on, moving a Transpose past an int8 DequantizeLinear makes a node that the runtime itself refuses
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if _DEEP_NODES[device.kind] < nodes and not quick:
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    return options


def large_matrices(graph: Graph) -> set[str]:
    """Return the large params that only matrix products read.

    The runtime copies what a session holds, and packs it once more for its kernels: that pays for convolutions and for
    small matrices, not for one that a pass reads twice.
    """
    others = {name for node in graph.nodes if not node.info.is_matrix_product for name in node.inputs}
    return {n for n, spec in graph.params.items() if math.prod(spec.shape) >= _LARGE_MATRIX and n not in others}


class Compiled:
    """A graph compiled once and run many times, with other feeds and other params.

    graph:    it must not change afterwards; its inputs are what every run feeds
    compute:  the type in which it is computed, "float32" or "float16"; see `graph.narrow`
    constant: values of params that are the same in every run: the runtime lays them out for its kernels, which makes
              convolutions faster and compiling slower. All other params are inputs of every run
    once:     it will run once: set-up counts, and what the runtime's optimizers win does not
    threads:  how many work on an op; 0: as many as `use_threads` has set

    A set of outputs is compiled when it is first asked for.
    """

    def __init__(
        self,
        graph: Graph,
        device: Device = CPU,
        constant: Mapping[str, np.ndarray] | None = None,
        compute: str = "float32",
        once: bool = False,
        threads: int = 0,
    ) -> None:
        self.graph = graph
        self._once, self._threads = once, threads
        self.device = device
        self.constant = dict(constant or {})
        self._chains: dict[tuple[str, ...], _Chain] = {}
        self._kernels = Kernels(device) if compute == "float16" else None

    @property
    def left_to_cpu(self) -> set[str]:
        """The ops that ran on the CPU though the device is another one, which has no kernels for them."""
        return {op for chain in self._chains.values() for session in chain.sessions for op in session.left_to_cpu}

    @property
    def widened(self) -> set[str]:
        """The ops that were computed in float32, of those that were to be computed in float16."""
        return {op for chain in self._chains.values() for op in chain.widened}

    def run(
        self,
        feeds: Mapping[str, Any],
        params: Mapping[str, Any] | None = None,
        outputs: Sequence[str] | None = None,
        keep: Collection[str] = (),
        into: Mapping[str, Any] | None = None,
        call: Call | None = None,
    ) -> dict[str, Any]:
        """Run once and return every output by name, as an array.

        feeds, params: arrays, views, or what `put` and `keep` returned; absent may be those that no output depends on
        outputs:       the values that are wanted; default: all outputs of the graph
        keep:          outputs that stay on the device, to be fed again; their `numpy()` copies them to the host
        into:          arrays, or views of the device's memory, of the outputs' shapes and types that these are written
                       to, which saves new memory; a view may be an input too that no node reads after it is written
        call:          what calls the runtime; default: what lets Ctrl-C end it

        Raises RunError when an input is missing, or the runtime cannot compile or run the graph.
        """
        chain = self.compile(self.graph.outputs if outputs is None else outputs)
        return chain.run({**feeds, **(params or {})}, keep, into or {}, call or interruptible)

    def compile(self, outputs: Sequence[str]) -> _Chain:
        """Return what runs for a set of outputs; it is compiled once. Raises RunError where the runtime cannot."""
        names = tuple(dict.fromkeys(outputs))
        if names not in self._chains:
            self._chains[names] = _Chain(
                self.graph, self.device, self.constant, names, self._kernels, self._once, self._threads
            )
        return self._chains[names]

    def put(self, array: np.ndarray) -> Any:
        """Return an array on the device, to be fed without another copy."""
        value = np.asarray(array, order="C")
        with runtime_errors():
            return onnxruntime().OrtValue.ortvalue_from_numpy(value, self.device.kind, self.device.index)


class _Chain:
    """What is compiled for one set of outputs: the parts of the graph, which run one after the other."""

    def __init__(
        self,
        graph: Graph,
        device: Device,
        constant: Mapping[str, np.ndarray],
        outputs: Sequence[str],
        kernels: Kernels | None,
        once: bool,
        threads: int,
    ) -> None:
        self._outputs = outputs
        self.widened: set[str] = set()
        if kernels:
            graph, self.widened = kernels.narrowed(graph, outputs)
        block = channel_block() if device.kind == "cpu" else 0
        threads = threads or thread_count()
        fed = graph.params.keys() - constant.keys()
        by_slices = device.kind == "cpu" and not kernels and not once
        whole = expand(graph, outputs, device.kind, block, fed, threads, by_slices)
        if count_nodes(whole) > min(_DEEP_NODES[device.kind], _LONG[device.kind]):
            whole = in_order(whole)
        parts = cut(whole, _LONG[device.kind])
        options = (_options(count_nodes(whole), device, once, threads) for _ in parts)
        self.sessions = [
            _Session(part, device, constant, own, len(parts) > 1) for part, own in zip(parts, options, strict=True)
        ]
        last = {name: number for number, part in enumerate(parts) for name in part.inputs}
        self._read_last: list[list[str]] = [[] for _ in parts]
        for name in last.keys() - set(outputs):
            self._read_last[last[name]].append(name)

    def run(
        self, given: Mapping[str, Any], keep: Collection[str], into: Mapping[str, Any], call: Call
    ) -> dict[str, Any]:
        if len(self.sessions) == 1:
            return self.sessions[0].run(given, keep, into, call)
        values = dict(given)
        for session, read in zip(self.sessions, self._read_last, strict=True):
            values |= session.run(values, [name for name in session.outputs if name not in into], into, call)
            for name in read:
                del values[name]
        as_it_is = {*keep, *into}
        return {name: values[name] if name in as_it_is else values[name].numpy() for name in self._outputs}


class _Session:
    """The runtime's session for one part."""

    def __init__(
        self, graph: Graph, device: Device, constant: Mapping[str, np.ndarray], options: Any, is_part: bool
    ) -> None:
        self._device = device
        self.outputs = list(graph.outputs)
        large = large_matrices(graph) if device.kind == "cpu" else set()
        held = {name: array for name, array in constant.items() if name in graph.params and name not in large}
        self._fed = {name: constant[name] for name in large.intersection(constant)}
        self._inputs = [*graph.inputs, *(name for name in graph.params if name not in held)]
        if is_part:
            share_memory(options)
        if device.kind == "cuda":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        self._session, self._values = _open(graph, held, device, options)
        self.left_to_cpu = ops_on_cpu(self._session) if device.kind == "cuda" else set()

    def run(
        self, given: Mapping[str, Any], keep: Collection[str], into: Mapping[str, Any], call: Call
    ) -> dict[str, Any]:
        inputs = {name: self._fed[name] if name in self._fed else given.get(name) for name in self._inputs}
        missing = [name for name, value in inputs.items() if value is None]
        if missing:
            raise RunError(f"a run needs a value of {', '.join(missing)}")
        with runtime_errors():
            if not keep and not into and all(isinstance(value, np.ndarray) for value in inputs.values()):
                found = call(lambda options: self._session.run(self.outputs, inputs, options))
                return dict(zip(self.outputs, found, strict=True))
            return self._run_bound(inputs, keep, into, call)

    def _run_bound(
        self, inputs: Mapping[str, Any], keep: Collection[str], into: Mapping[str, Any], call: Call
    ) -> dict[str, Any]:
        binding = self._session.io_binding()
        for name, value in inputs.items():
            if isinstance(value, np.ndarray):
                binding.bind_cpu_input(name, np.asarray(value, order="C"))
            else:
                binding.bind_ortvalue_input(name, value.value if isinstance(value, View) else value)
        for name in self.outputs:
            target = into.get(name)
            if isinstance(target, View):
                binding.bind_ortvalue_output(name, target.value)
            elif target is not None:
                binding.bind_output(name, "cpu", 0, target.dtype.type, target.shape, target.ctypes.data)
            else:
                binding.bind_output(name, *((self._device.kind, self._device.index) if name in keep else ("cpu", 0)))
        binding.synchronize_inputs()  # an array of the host that is bound has only been queued to be copied
        call(lambda options: self._session.run_with_iobinding(binding, options))
        found = zip(self.outputs, binding.get_outputs(), strict=True)
        return {n: into[n] if n in into else value if n in keep else value.numpy() for n, value in found}


def _open(graph: Graph, held: Mapping[str, np.ndarray], device: Device, options: Any) -> tuple[Any, Any]:
    """Return a session, and the params' values that it reads as long as it lives."""
    ort = onnxruntime()
    stored = {name: array for name, array in held.items() if array.dtype.isbuiltin != 1}  # numpy lacks 4 bits
    values = {
        name: ort.OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"))
        for name, array in held.items()
        if name not in stored
    }
    if values:
        options.add_external_initializers(list(values), list(values.values()))
    model = graph.to_onnx(stored, fed=[name for name in graph.params if name not in held], provider=device.kind)
    for proto in model.graph.node:
        proto.name = next(filter(None, proto.output), "")  # the runtime's errors tell it
    with runtime_errors():
        return open_session(model, options, device.providers), values
