"""One forward + backward pass with the mean |x| of everything, caffestat against torch eager, side by side.

    python benchmarks/debug_pass.py [--net alexnet] [--rounds 7] [--device cpu] [--memory | --repeat-params | --single]

Both sides run the same net with the same weights and take the mean |x| of every layer's output, of its gradient, and of
every param's gradient. Rounds alternate; medians and their ratio are printed. Each net runs in a process of its own:
malloc hands out memory by what was freed before. `--memory` measures peak memory instead, each side in a process of its
own. `--tuned` tells malloc to keep its pages, for both sides (half of torch's time on AlexNet and VGG-16 is page
faults). `--repeat-params` changes every param between the rounds, on both sides; what is timed is the pass. `--single`
times our whole process instead: set-up and one pass, params constant against params as inputs. `--clock cpu` counts the
CPU time of one thread on each side, which is steadier on a busy machine. Needs torch.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from turns import medians

from caffestat import net
from caffestat.analysis import Runner, draw_feeds
from caffestat.engine import choose_device
from caffestat.engine.runtime import use_threads
from caffestat.fillers import Stream
from caffestat.program import from_net

MODELS = Path(__file__).parent.parent / "models"
BATCHES = {"alexnet": 16, "googlenet": 8, "resnet50": 8, "vgg16": 4, "mobilenet": 8}
GPU_BATCHES = {"alexnet": 128, "googlenet": 64, "resnet50": 64, "vgg16": 32, "mobilenet": 64}
TUNED = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 34), "MALLOC_TOP_PAD_": str(1 << 28)}

Pass = Callable[[], float]
Change = Callable[[np.float32], None]  # multiplies all params by a factor


def batch_of(name: str, device: str) -> int:
    """Return a net's batch on a device: a GPU takes larger ones to be busy."""
    return (GPU_BATCHES if device.startswith("cuda") else BATCHES)[name]


def load(name: str, device: str = "cpu") -> tuple[net.Net, list[np.ndarray], Stream]:
    """Return the net at its benchmark batch, its initial params and its random stream."""
    built = net.build(net.read_net(str(MODELS / f"{name}.prototxt")), batch=batch_of(name, device))
    stream = Stream(1)
    return built, net.draw_params(built, stream), stream


def ours(name: str, device: str, changing: bool = False) -> tuple[Pass, Change]:
    """Return functions that run our pass once and return the loss, and that change the params."""
    built, values, stream = load(name, device)
    runner = Runner(from_net(built), values, choose_device(device)[0], changing=changing)
    feeds = runner.put(draw_feeds(runner, stream, np.random.default_rng(1)))

    def change(factor: np.float32) -> None:
        for value in values:
            value *= factor

    return lambda: sum(v[0] for b, v in runner.run(feeds).outputs.items() if "loss" in built.blobs[b].name), change


def torchs(name: str, device: str) -> tuple[Pass, Change]:
    """Return functions that run torch's pass once and return the loss, and that change the params."""
    from torch_net import TorchNet

    built, values, stream = load(name, device)
    runner = TorchNet(built, values, stream, device)
    return runner.run, runner.scale_params


def time_pair(name: str, device: str, rounds: int, changing: bool, clock: Callable[[], float]) -> tuple[float, float]:
    """Return the median seconds of (ours, torch's), measured in turn; changing: other params in every round."""
    sides = [ours(name, device, changing), torchs(name, device)]
    for run, _ in sides:
        run()

    def prepare(side: int, number: int) -> None:
        if changing:
            sides[side][1](np.float32(0.99 if number % 2 else 1 / 0.99))

    mine, other = medians([run for run, _ in sides], rounds, clock, prepare)
    return mine, other


def one_thread() -> Callable[[], float]:
    """Let both sides run on one thread, and return the clock of this process's CPU time."""
    import torch

    torch.set_num_threads(1)
    use_threads(1)
    return time.process_time


def time_single(name: str, device: str, rounds: int) -> tuple[float, float]:
    """Return the median seconds of whole processes of one pass each: (params constant, params as inputs), in turn."""
    command = [sys.executable, __file__, "--net", name, "--device", device, "--rounds", "1", "--side"]
    times: list[list[float]] = [[], []]
    for _ in range(rounds):
        for side, found in zip(("ours", "inputs"), times, strict=True):
            start = time.perf_counter()
            subprocess.run([*command, side], check=True, capture_output=True)
            found.append(time.perf_counter() - start)
    return statistics.median(times[0]), statistics.median(times[1])


def peak_memory(name: str, device: str, side: str) -> float:
    """Return the peak resident MB of one side, run in a process of its own."""
    command = [sys.executable, __file__, "--net", name, "--device", device, "--rounds", "3", "--side", side]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def run_side(name: str, device: str, side: str, rounds: int) -> None:
    """Run one side some times and print this process's peak memory in MB, on a GPU what it holds there."""
    chosen = choose_device(device)[0]
    free = chosen.available_bytes() or 0
    once, _ = torchs(name, device) if side == "torch" else ours(name, device, side == "inputs")
    for _ in range(rounds):
        once()
    taken = (free - (chosen.available_bytes() or 0)) / 2**20  # neither side gives memory back
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 if chosen.kind == "cpu" else taken)


def each_alone(names: Sequence[str]) -> None:
    """Run this program once for each net, in a process of its own, and print one table; exits when one has failed."""
    failed = 0
    for number, name in enumerate(names):
        command = [sys.executable, *sys.argv, "--only", name]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        print(*done.stdout.splitlines()[min(number, 1) :], sep="\n", flush=True)
        failed = failed or done.returncode
    if failed:
        raise SystemExit(failed)


def main() -> None:
    """Measure the nets that were asked for and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=BATCHES, action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--memory", action="store_true")
    what.add_argument("--repeat-params", action="store_true")
    what.add_argument("--single", action="store_true")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--side", choices=("ours", "inputs", "torch"), help=argparse.SUPPRESS)
    parser.add_argument("--only", choices=BATCHES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.net or list(BATCHES)
    if args.side:
        run_side(names[0], args.device, args.side, args.rounds)
    elif args.only or len(names) == 1:
        show(args.only or names[0], args)
    else:
        each_alone(names)


def show(name: str, args: argparse.Namespace) -> None:
    """Measure one net and print its row, and what the columns are."""
    clock = time.perf_counter if args.clock == "wall" else one_thread()
    tuned = "tuned malloc" if all(os.environ.get(k) == v for k, v in TUNED.items()) else "malloc as it comes"
    print(
        f"{'net':<10} {'batch':>5} {'constant' if args.single else 'caffestat':>10} "
        f"{'inputs' if args.single else 'torch':>10} {'ratio':>6}"
        f"   ({'MB' if args.memory else 'ms'}; {tuned})"
    )
    if args.memory:
        a, b = (peak_memory(name, args.device, side) for side in ("ours", "torch"))
    else:
        timed = time_single if args.single else partial(time_pair, changing=args.repeat_params, clock=clock)
        a, b = (1000 * seconds for seconds in timed(name, args.device, args.rounds))
    print(f"{name:<10} {batch_of(name, args.device):>5} {a:>10.0f} {b:>10.0f} {a / b:>6.2f}", flush=True)


if __name__ == "__main__":
    if "--tuned" in sys.argv:
        sys.argv.remove("--tuned")
        os.environ.update(TUNED)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
