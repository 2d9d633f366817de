"""Where the time of our pass goes: per op, against the least time that its arithmetic and its memory traffic take.

    python benchmarks/profile_pass.py [--net alexnet] [--rounds 3] [--inputs] [--nodes]

The floor of a node is the larger of its multiply-adds over the machine's matrix product rate and its bytes over the
machine's copy rate, both measured first. `--inputs` profiles the pass with params as inputs, `--nodes` lists the single
nodes that lie furthest above their floor. The batch is not divided among cores.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from debug_pass import BATCHES, load

from caffestat.analysis import Runner, draw_feeds
from caffestat.engine import choose_device, compiled
from caffestat.program import from_net

_PRODUCTS = {"Conv", "FusedConv", "ConvTranspose", "Gemm", "MatMul", "FusedMatMul", "FusedGemm"}
_OF_BODIES = {"If", "Loop", "Scan"}  # the nodes of their bodies are counted
_MOVED = {"Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten"}  # nothing is copied


@dataclass(frozen=True)
class Machine:
    """Measured rates: multiply-adds and bytes per second."""

    products: float
    bytes: float


@dataclass
class Cost:
    """Seconds of a pass, and the least seconds that it would take."""

    nodes: int = 0
    seconds: float = 0.0
    floor: float = 0.0

    def add(self, seconds: float, floor: float, rounds: int) -> None:
        self.nodes += 1
        self.seconds += seconds / rounds
        self.floor += floor / rounds


def best(step: Callable[[], object], rounds: int = 5) -> float:
    """Return the seconds of the fastest of some calls."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return min(times)


def measure_machine() -> Machine:
    """Return the rates of numpy's matrix product and of a copy, both on all cores that they use."""
    a, b = (np.ones((2048, 2048), np.float32) for _ in range(2))
    big, copy = np.ones(1 << 26, np.float32), np.empty(1 << 26, np.float32)
    return Machine(2048**3 / best(lambda: a @ b), 2 * big.nbytes / best(lambda: np.copyto(copy, big)))


def sizes(shapes: Sequence[dict[str, Sequence[int]]]) -> list[int]:
    """Return the bytes of the tensors of an event, whose shapes stand under their types."""
    width = {"float": 4, "int32": 4, "int64": 8, "bool": 1, "double": 8, "float16": 2}
    return [math.prod(dims) * width.get(kind, 4) for entry in shapes for kind, dims in entry.items()]


def multiply_adds(op: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> float:
    """Return the multiply-adds of a product or a convolution from the shapes of what it reads and writes."""
    if op not in _PRODUCTS or len(inputs) < 2:
        return 0.0
    first, second, out = (next(iter(entry.values())) for entry in (inputs[0], inputs[1], outputs[0]))
    if "Conv" in op:
        image = first if op == "ConvTranspose" else out
        return float(math.prod(image) * math.prod(second[1:]))
    # A [.., m, k] · B [.., k, n] -> [.., m, n], whichever is transposed: k² = |A| |B| / |C| per matrix
    batch = math.prod(out[:-2])
    inner = math.sqrt(math.prod(first[-2:]) * math.prod(second[-2:]) / max(math.prod(out[-2:]), 1))
    return batch * math.prod(out[-2:]) * inner


def events_of(name: str, rounds: int, changing: bool, device: str = "cpu") -> list[dict[str, Any]]:
    """Return what the runtime's profiler says of the nodes of some passes, the first one left out."""
    before = compiled._options

    def profiled(*given: Any) -> Any:
        options = before(*given)
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "pass")
        return options

    with TemporaryDirectory() as folder:
        compiled._options = profiled  # type: ignore[assignment]
        built, values, stream = load(name, device)
        runner = Runner(from_net(built), values, choose_device(device)[0], changing=changing, shards=1)
        feeds = draw_feeds(runner, stream, np.random.default_rng(1))
        for _ in range(rounds + 1):
            runner.run(feeds)
        compiled._options = before
        assert isinstance(runner._compiled, compiled.Compiled)
        chains = runner._compiled._chains.values()
        paths = [session._session.end_profiling() for chain in chains for session in chain.sessions]
        return [event for path in paths for event in later_rounds(json.loads(Path(path).read_text()), rounds)]


def later_rounds(events: list[dict[str, Any]], rounds: int) -> list[dict[str, Any]]:
    """Return the nodes of a session's profile without those of its first of rounds + 1 runs; of bodies, their nodes."""
    nodes = [event for event in events if event["name"].endswith("_kernel_time")]
    return [event for event in nodes[len(nodes) // (rounds + 1) :] if event["args"]["op_name"] not in _OF_BODIES]


def floor_of(event: dict[str, Any], machine: Machine) -> float:
    """Return the least seconds that a node takes."""
    told = event["args"]
    if told["op_name"] in _MOVED:
        return 0.0
    inputs, outputs = told["input_type_shape"], told["output_type_shape"]
    moved = sum(sizes(inputs)) + sum(sizes(outputs))
    return max(multiply_adds(told["op_name"], inputs, outputs) / machine.products, moved / machine.bytes)


def show(costs: dict[str, Cost], limit: int) -> None:
    """Print the costs furthest above their floors first."""
    total = Cost()
    for cost in costs.values():
        total = Cost(total.nodes + cost.nodes, total.seconds + cost.seconds, total.floor + cost.floor)
    print(f"{'op':<44} {'nodes':>6} {'ms':>9} {'floor':>9} {'ratio':>6} {'above':>9}")
    rows = sorted(costs.items(), key=lambda row: row[1].floor - row[1].seconds)[:limit]
    for name, cost in [*rows, ("all", total)]:
        ratio = cost.seconds / cost.floor if cost.floor else math.inf
        seconds, floor, above = (1000 * value for value in (cost.seconds, cost.floor, cost.seconds - cost.floor))
        print(f"{name[:44]:<44} {cost.nodes:>6} {seconds:>9.1f} {floor:>9.1f} {ratio:>6.1f} {above:>9.1f}")


def main() -> None:
    """Profile the nets that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=BATCHES, action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--inputs", action="store_true")
    parser.add_argument("--nodes", action="store_true")
    args = parser.parse_args()
    machine = measure_machine()
    print(f"{machine.products / 1e9:.0f} G multiply-adds/s, {machine.bytes / 1e9:.1f} GB/s")
    for name in args.net or BATCHES:
        costs: defaultdict[str, Cost] = defaultdict(Cost)
        for event in events_of(name, args.rounds, args.inputs):
            key = event["args"]["op_name"]
            if args.nodes:
                shapes = "x".join(map(str, next(iter(event["args"]["output_type_shape"][0].values()))))
                key = f"{event['name'].removesuffix('_kernel_time')} {key} {shapes}"
            costs[key].add(event["dur"] / 1e6, floor_of(event, machine), args.rounds)
        print(f"\n{name}, batch {BATCHES[name]}")
        show({key: Cost(cost.nodes // args.rounds, cost.seconds, cost.floor) for key, cost in costs.items()}, 25)


if __name__ == "__main__":
    main()
