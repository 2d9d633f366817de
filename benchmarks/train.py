"""One training iteration (forward, backward, update), caffestat against torch eager, side by side.

    python benchmarks/train.py [--net alexnet] [--rounds 7] [--device cpu] [--tuned]

SGD with momentum 0.9 and weight decay 0.0005, the same net, weights and data on both sides, nothing measured on the
way. Torch's optimizer is torch.optim.SGD, foreach and fused; the faster one counts. Rounds alternate; medians and their
ratio are printed, each net in a process of its own. Both sides have waited for the device when the clock is read.
`--parts` times our pass and our update apart. Needs torch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from debug_pass import BATCHES, GPU_BATCHES, TUNED, batch_of, each_alone, load
from torch import Tensor
from torch_net import TorchNet
from turns import medians

from caffestat.analysis import Runner, draw_feeds
from caffestat.engine import choose_device
from caffestat.program import from_net
from caffestat.schema import SolverParameter
from caffestat.training.resident import ResidentUpdate
from caffestat.training.update import Update, learnable

NETS = ("alexnet", "googlenet", "resnet50", "mobilenet")
RATE, MOMENTUM, DECAY = 1e-4, 0.9, 0.0005

Iteration = Callable[[], None]


class Plain(TorchNet):
    """A torch net without hooks, and its optimizer."""

    def __init__(self, name: str, kind: str, device: str) -> None:
        net, values, stream = load(name, device)
        super().__init__(net, values, stream, device)
        learned = [param for param in self.params if param.requires_grad]
        settings = {"lr": RATE, "momentum": MOMENTUM, "weight_decay": DECAY, kind: True}
        self.optimizer = torch.optim.SGD(learned, **settings)  # type: ignore[arg-type]

    def note(self, value: Tensor) -> Tensor:
        return value

    def iterate(self) -> None:
        """Run one iteration."""
        self.optimizer.zero_grad(set_to_none=True)
        blobs = dict(self.data)
        loss = torch.zeros((), device=self.device)
        for node in self.net.nodes:
            if not node.bottoms:
                continue
            tops = getattr(self, f"_{node.type.lower()}")(node, [blobs[b] for b in node.bottoms])
            for blob, value, weight in zip(node.tops, tops, node.loss_weights, strict=True):
                blobs[blob] = value
                loss = loss + weight * value if weight else loss
        loss.backward()
        self.optimizer.step()
        loss.item()  # waits for the device


class Ours:
    """Our compiled pass and update; on CUDA params, gradients and history stay on the device."""

    def __init__(self, name: str, device: str) -> None:
        net, values, stream = load(name, device)
        message = SolverParameter(momentum=MOMENTUM, weight_decay=DECAY)
        started = time.perf_counter()
        chosen = choose_device(device)[0]
        self.update: Update | ResidentUpdate = Update(message, learnable(net))
        self.values: Sequence[np.ndarray] = values
        if chosen.kind == "cuda":
            self.update = ResidentUpdate(message, self.update, values, chosen)
            self.values = self.update.values
        self.runner = Runner(from_net(net), self.values, chosen, changing=True)
        self.feeds = self.runner.put(draw_feeds(self.runner, stream, np.random.default_rng(1)))
        self.iterate()
        self.compile_seconds = time.perf_counter() - started

    def iterate(self) -> None:
        """Run one iteration; both parts wait for the device."""
        self.apply(self.compute())

    def compute(self) -> dict[int, Any]:
        """Run one pass and return the gradients."""
        step = self.runner.step(self.feeds, False, reuse=True, into=self.update.gradients(0))
        return self.update.add({}, step.diffs)

    def apply(self, diffs: dict[int, Any]) -> None:
        """Update the params."""
        self.update.apply(self.values, diffs, np.float32(RATE), 0)


def seconds(run: Iteration) -> float:
    """Return what one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def compare(name: str, rounds: int, parts: bool, device: str) -> None:
    """Time both sides in turn and print a row."""
    ours = Ours(name, device)
    sides = {"ours": ours.iterate} | {kind: Plain(name, kind, device).iterate for kind in ("foreach", "fused")}
    for run in sides.values():
        run()
    median = {side: 1000 * found for side, found in zip(sides, medians(list(sides.values()), rounds), strict=True)}
    torchs = min(median["foreach"], median["fused"])
    print(
        f"{name:<10} {batch_of(name, device):>5} {median['ours']:>10.1f} "
        f"{median['foreach']:>9.1f} {median['fused']:>9.1f} "
        f"{median['ours'] / torchs:>6.2f} {ours.compile_seconds:>9.1f}",
        flush=True,
    )
    if parts:
        passes, updates = [], []
        for _ in range(rounds):
            start = time.perf_counter()
            diffs = ours.compute()
            passes.append(time.perf_counter() - start)
            updates.append(seconds(lambda found=diffs: ours.apply(found)))  # type: ignore[misc]
        apart = [1000 * statistics.median(found) for found in (passes, updates)]
        print(f"{'':<16} pass {apart[0]:.1f} ms, update {apart[1]:.1f} ms")


def main() -> None:
    """Measure the nets that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--net", choices=BATCHES, action="append")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--parts", action="store_true")
    parser.add_argument("--only", choices=BATCHES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    names = args.net or list(GPU_BATCHES if args.device == "cuda" else NETS)
    if not args.only and len(names) > 1:
        each_alone(names)
        return
    tuned = "tuned malloc" if all(os.environ.get(k) == v for k, v in TUNED.items()) else "malloc as it comes"
    head = f"{'net':<10} {'batch':>5} {'caffestat':>10} {'foreach':>9} {'fused':>9} {'ratio':>6} {'compile s':>9}"
    print(f"{head}   (ms; {tuned})")
    compare(args.only or names[0], args.rounds, args.parts, args.device)


if __name__ == "__main__":
    if "--tuned" in sys.argv:
        sys.argv.remove("--tuned")
        os.environ.update(TUNED)
        os.execv(sys.executable, [sys.executable, *sys.argv])
    main()
