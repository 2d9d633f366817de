"""One forward + backward pass with the mean |x| of everything, caffestat against torch eager, side by side.

    python benchmarks/debug_pass.py [--net alexnet] [--rounds 7] [--device cpu] [--memory]

Both sides run the same net with the same weights and take the mean |x| of every layer's output, of its gradient, and of
every param's gradient. Rounds alternate; medians and their ratio are printed. `--memory` measures peak memory instead,
each side in a process of its own. `--tuned` tells malloc to keep its pages, for both sides (half of torch's time on
AlexNet and VGG-16 is page faults). Needs torch.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from caffestat import net
from caffestat.fillers import Stream

MODELS = Path(__file__).parent.parent / "models"
BATCHES = {"alexnet": 16, "googlenet": 8, "resnet50": 8, "vgg16": 4, "mobilenet": 8}
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_TOP_PAD_": str(1 << 28)}

Pass = Callable[[], float]


def load(name: str) -> tuple[net.Net, list[np.ndarray], Stream]:
    """Return the net at its benchmark batch, its initial params and its random stream."""
    built = net.build(net.read_net(str(MODELS / f"{name}.prototxt")), batch=BATCHES[name])
    stream = Stream(1)
    return built, net.draw_params(built, stream), stream


def ours(name: str, device: str) -> Pass:
    """Return a function that runs our pass once and returns the loss."""
    built, values, stream = load(name)
    runner = net.Runner(built, values, device)
    feeds = net.draw_feeds(runner, stream, np.random.default_rng(1))
    return lambda: sum(v[0] for blob, v in runner.run(feeds).outputs.items() if "loss" in built.blobs[blob].name)


def torchs(name: str, device: str) -> Pass:
    """Return a function that runs torch's pass once and returns the loss."""
    from torch_net import TorchNet

    built, values, stream = load(name)
    runner = TorchNet(built, values, stream, device)
    return runner.run


def time_pair(name: str, device: str, rounds: int) -> tuple[float, float]:
    """Return the median seconds of (ours, torch's), measured in turn."""
    sides = [ours(name, device), torchs(name, device)]
    for side in sides:
        side()
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for side, found in zip(sides, times, strict=True):
            start = time.perf_counter()
            side()
            found.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def peak_memory(name: str, device: str, side: str) -> float:
    """Return the peak resident MB of one side, run in a process of its own."""
    command = [sys.executable, __file__, "--net", name, "--device", device, "--side", side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def run_side(name: str, device: str, side: str) -> None:
    """Run one side three times and print this process's peak memory in MB."""
    once = (ours if side == "ours" else torchs)(name, device)
    for _ in range(3):
        once()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measure the nets that were asked for and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=BATCHES, action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--side", choices=("ours", "torch"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.net or list(BATCHES)
    if args.side:
        run_side(names[0], args.device, args.side)
        return
    tuned = "tuned malloc" if all(os.environ.get(k) == v for k, v in TUNED.items()) else "malloc as it comes"
    print(
        f"{'net':<10} {'batch':>5} {'caffestat':>10} {'torch':>10} {'ratio':>6}"
        f"   ({'MB' if args.memory else 'ms'}; {tuned})"
    )
    for name in names:
        if args.memory:
            a, b = (peak_memory(name, args.device, side) for side in ("ours", "torch"))
        else:
            a, b = (1000 * seconds for seconds in time_pair(name, args.device, args.rounds))
        print(f"{name:<10} {BATCHES[name]:>5} {a:>10.0f} {b:>10.0f} {a / b:>6.2f}", flush=True)


if __name__ == "__main__":
    if "--tuned" in sys.argv:
        sys.argv.remove("--tuned")
        os.environ.update(TUNED)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
