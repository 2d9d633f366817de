"""The gradients of single layers, caffestat against torch, on the CPU: where the forms chosen in autodiff/rules pay.

    python benchmarks/gradients.py [--only dw] [--rounds 9] [--threads 2] [--clock wall]

Prints torch's milliseconds and ours as a ratio to them: for convolutions dx and dw apart, for pooling and LRN forward
and backward together. Rounds alternate; medians are compared. `--clock cpu` with one thread counts CPU time instead,
which is steadier on a busy machine. Needs torch.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from caffestat.autodiff import backward
from caffestat.engine.runtime import open_session, session_options
from caffestat.graph import Graph
from caffestat.graph.expand import expand

Step = Callable[[], object]

# batch, channels, size, filters, kernel, stride, pad, group
CONVOLUTIONS = {
    "alexnet conv1": (16, 3, 227, 96, 11, 4, 0, 1),
    "alexnet conv2": (16, 96, 27, 256, 5, 1, 2, 2),
    "alexnet conv3": (16, 256, 13, 384, 3, 1, 1, 1),
    "resnet conv1": (8, 3, 224, 64, 7, 2, 3, 1),
    "vgg conv1_1": (4, 3, 224, 64, 3, 1, 1, 1),
    "vgg conv1_2": (2, 64, 224, 64, 3, 1, 1, 1),
    "3x3 64@56": (8, 64, 56, 64, 3, 1, 1, 1),
    "3x3 128@28": (8, 128, 28, 128, 3, 1, 1, 1),
    "3x3 256@14": (8, 256, 14, 256, 3, 1, 1, 1),
    "3x3 512@7": (8, 512, 7, 512, 3, 1, 1, 1),
    "3x3/2 128@56": (8, 128, 56, 128, 3, 2, 1, 1),
    "5x5 48>128@14": (8, 48, 14, 128, 5, 1, 2, 1),
    "1x1 256>64@56": (8, 256, 56, 64, 1, 1, 0, 1),
    "1x1 64>256@56": (8, 64, 56, 256, 1, 1, 0, 1),
    "1x1 1024>256@14": (8, 1024, 14, 256, 1, 1, 0, 1),
    "1x1 512>2048@7": (8, 512, 7, 2048, 1, 1, 0, 1),
    "1x1/2 256>512@56": (8, 256, 56, 512, 1, 2, 0, 1),
    "dw 32@112": (8, 32, 112, 32, 3, 1, 1, 32),
    "dw/2 64@112": (8, 64, 112, 64, 3, 2, 1, 64),
    "dw 128@56": (8, 128, 56, 128, 3, 1, 1, 128),
    "dw 256@28": (8, 256, 28, 256, 3, 1, 1, 256),
    "dw 512@14": (8, 512, 14, 512, 3, 1, 1, 512),
    "dw 1024@7": (8, 1024, 7, 1024, 3, 1, 1, 1024),
}
# batch, channels, size, kernel, stride, pad
POOLS = {
    "alexnet pool1": (16, 96, 55, 3, 2, 0),
    "googlenet pool1": (8, 64, 112, 3, 2, 0),
    "inception 3x3/1": (8, 480, 14, 3, 1, 1),
    "vgg 2x2/2": (2, 64, 224, 2, 2, 0),
    "global 7x7": (8, 1024, 7, 7, 1, 0),
}
# batch, channels, size
LRNS = {"alexnet norm1": (16, 96, 27), "googlenet norm2": (8, 192, 56)}


@dataclass(frozen=True)
class Case:
    """What is timed: two functions that compute the same."""

    name: str
    ours: Step
    theirs: Step


def session(graph: Graph, params: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray], threads: int) -> Step:
    """Return a function that runs the graph once, with the settings of caffestat.engine."""
    options = session_options()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.force_spinning_stop", "1")
    runner = open_session(expand(graph, graph.outputs).to_onnx(params), options)
    read = {value.name for value in runner.get_inputs()}
    return partial(runner.run, None, {name: array for name, array in feeds.items() if name in read})


def normal(*shape: int) -> torch.Tensor:
    """Return standard normal numbers."""
    return torch.randn(shape)


def convolution_case(which: str, name: str, threads: int) -> Case:
    """dx or dw of one convolution."""
    batch, channels, size, filters, kernel, stride, pad, group = CONVOLUTIONS[name]
    x, w = normal(batch, channels, size, size), normal(filters, channels // group, kernel, kernel)
    dy = torch.randn_like(functional.conv2d(x, w, stride=stride, padding=pad, groups=group))
    graph = Graph()
    names = graph.input("x", tuple(x.shape)), graph.param("w", tuple(w.shape))
    how: dict[str, Any] = {"strides": [stride] * 2, "pads": [pad] * 4, "group": group, "kernel_shape": [kernel] * 2}
    y = graph.emit("Conv", *names, **how)
    wanted = names[0 if which == "dx" else 1]
    grad = backward(graph, {y: graph.input("dy", tuple(dy.shape))}, [wanted])[wanted]
    graph.outputs = [grad or ""]
    feeds = {"x": x.numpy(), "dy": dy.numpy()}
    mask = [which == "dx", which == "dw", False]
    convolution_backward = torch.ops.aten.convolution_backward
    sliding = ([stride] * 2, [pad] * 2, [1, 1], False, [0, 0], group, mask)
    theirs = partial(convolution_backward, dy, x, w, None, *sliding)
    return Case(f"{which} {name}", session(graph, {"w": w.numpy()}, feeds, threads), theirs)


def whole_case(name: str, op: str, how: dict[str, Any], x: torch.Tensor, reference: Step, threads: int) -> Case:
    """Forward and backward of an op of one input."""

    def theirs() -> object:
        leaf = x.clone().requires_grad_()
        y = reference(leaf)  # type: ignore[call-arg]
        y.backward(dy)  # type: ignore[attr-defined]
        return leaf.grad

    dy = torch.randn_like(reference(x))  # type: ignore[call-arg, call-overload]
    graph = Graph()
    start = graph.input("x", tuple(x.shape))
    y = graph.emit(op, start, **how)
    grad = backward(graph, {y: graph.input("dy", tuple(dy.shape))}, [start])[start]
    graph.outputs = [y, grad or ""]
    return Case(name, session(graph, {}, {"x": x.numpy(), "dy": dy.numpy()}, threads), theirs)


def pool_case(kind: str, name: str, threads: int) -> Case:
    """MaxPool or AveragePool, sizes rounded up as Caffe does."""
    batch, channels, size, kernel, stride, pad = POOLS[name]
    how: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4, "ceil_mode": 1}
    pool = functional.max_pool2d if kind == "max" else functional.avg_pool2d
    reference = partial(pool, kernel_size=kernel, stride=stride, padding=pad, ceil_mode=True)
    op = "MaxPool" if kind == "max" else "AveragePool"
    more = {} if kind == "max" else {"count_include_pad": 1}
    x = normal(batch, channels, size, size).relu()
    return whole_case(f"{kind} {name}", op, how | more, x, reference, threads)


def lrn_case(name: str, threads: int) -> Case:
    """LRN with Caffe's usual numbers."""
    batch, channels, size = LRNS[name]
    how: dict[str, Any] = {"size": 5, "alpha": 1e-4, "beta": 0.75, "bias": 1.0}
    reference = partial(functional.local_response_norm, size=5, alpha=1e-4, beta=0.75, k=1.0)
    return whole_case(f"lrn {name}", "LRN", how, normal(batch, channels, size, size), reference, threads)


def makers() -> dict[str, Callable[[int], Case]]:
    """Return how to set up each case, by the name it is printed under; the argument is the number of threads."""
    made: dict[str, Callable[[int], Case]] = {}
    for name in CONVOLUTIONS:
        made |= {f"{which} {name}": partial(convolution_case, which, name) for which in ("dx", "dw")}
    for name in POOLS:
        made |= {f"{kind} {name}": partial(pool_case, kind, name) for kind in ("max", "average")}
    return made | {f"lrn {name}": partial(lrn_case, name) for name in LRNS}


def medians(steps: Sequence[Step], rounds: int, clock: Callable[[], float]) -> list[float]:
    """Return each step's median seconds; the steps take turns."""
    taken: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()
    for _ in range(rounds):
        for times, step in zip(taken, steps, strict=True):
            start = clock()
            step()
            times.append(clock() - start)
    return [statistics.median(times) for times in taken]


def main() -> None:
    """Time every case whose name contains `--only`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cases whose name contains this, such as 'dw dw' or 'max'")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall")
    options = parser.parse_args()
    torch.manual_seed(1)
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    print(f"{'':24}   torch ms   ratio")
    for name, make in makers().items():
        if options.only in name:
            case = make(options.threads)
            ours, theirs = medians([case.ours, case.theirs], options.rounds, clock)
            print(f"{case.name:24} {theirs * 1e3:10.2f} {ours / theirs:7.2f}", flush=True)


if __name__ == "__main__":
    main()
