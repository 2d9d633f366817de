"""How near the second moments behind layers come to 1 with `autoinit`: the table in docs/init.md.

python benchmarks/initialization.py               plain nets and every net of models/: half an hour, most of it VGG-16
python benchmarks/initialization.py lenet plain   these

The goal is to be within 10 % on plain nets and 25 % on the nets of models/, for the mean over draws.
Draws of narrow layers differ by as much as what is measured: `its error` is the standard error of the mean
over the draws, of the worst layer. Layers whose bias alone exceeds the target keep their fillers and are left out.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from prediction import PLAIN, plain_stack

from caffestat.analysis import Runner
from caffestat.fillers import Stream
from caffestat.initialization import solve
from caffestat.net import build, read_net
from caffestat.program import Program, from_net
from caffestat.program.feeds import Feeds

MODELS = Path(__file__).parent.parent / "models"
NETS = {  # images per draw, and draws
    "lenet": (64, 20),
    "cifar10_quick": (32, 20),
    "cifar10_full": (32, 20),
    "alexnet": (2, 6),
    "caffenet": (2, 6),
    "vgg16": (1, 16),
    "squeezenet": (2, 160),
    "mobilenet": (2, 6),
    "googlenet": (2, 40),
    "resnet50": (2, 10),
}
PLAIN_DRAWS = 40  # of 16 images, or 64 vectors


def second_moments(program: Program, stds: dict[int, float], seed: int) -> list[float]:
    """Return E[y²] behind each layer with weights in one draw of N(0, std²)."""
    random = np.random.default_rng(seed)
    values = [value.copy() for value in program.values(Stream(seed), [])]
    for number, std in stds.items():
        values[number] = (std * random.standard_normal(values[number].shape)).astype(np.float32)
    runner = Runner(program, values, forward_only=True, fetch=("top",))
    runner.run(Feeds(Stream(seed), random).of(runner.forward))
    rows = [program.params[number].row for number in stds]
    return [float(np.square(runner.tensors["top", row, 0], dtype=np.float64).mean()) for row in rows]


def row(name: str, program: Program, draws: int, goal: float) -> str:
    """Return one row of the table."""
    weights = [number for number, param in enumerate(program.params) if param.role == "weight"]
    stds = {number: std for number, std in solve(program, weights).items() if isinstance(std, float)}
    found = np.array([second_moments(program, stds, seed) for seed in range(draws)])
    off = np.abs(found.mean(axis=0) - 1)
    error = found.std(axis=0, ddof=1)[off.argmax()] / np.sqrt(draws)
    layers = f"{len(off)} of {len(weights)}" if len(off) < len(weights) else str(len(off))
    within = f"{np.mean(off < goal):.0%} ({goal:.0%})"
    cells = (name, layers, draws, f"{np.median(off):.1%}", f"{off.max():.1%}", f"{error:.1%}", within)
    return "| " + " | ".join(map(str, cells)) + " |"


def nets(names: Sequence[str]) -> Iterator[tuple[str, Program, int, float]]:
    """Yield the nets that are asked for, how many draws each takes, and its goal."""
    for name, settings in PLAIN.items() if "plain" in names else ():
        yield name, from_net(build(plain_stack(*settings))), PLAIN_DRAWS, 0.1
    for name in names:
        if name != "plain":
            batch, draws = NETS[name]
            yield name, from_net(build(read_net(str(MODELS / f"{name}.prototxt")), batch=batch)), draws, 0.25


def main() -> None:
    """Print a row per net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("nets", nargs="*", default=["plain", *NETS])
    print("| net | layers | draws | median of \\|E[y²] - 1\\| | worst | its error | within the goal |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for name, program, draws, goal in nets(parser.parse_args().nets):
        print(row(name, program, draws, goal), flush=True)


if __name__ == "__main__":
    main()
