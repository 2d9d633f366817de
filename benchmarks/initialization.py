"""How near the second moments behind layers come to 1 with `autoinit`: the table in docs/init.md.

python benchmarks/initialization.py            small nets of models/, 3 draws each
python benchmarks/initialization.py --large    GoogLeNet and SqueezeNet too: some minutes
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from caffestat.analysis import Runner
from caffestat.fillers import Stream
from caffestat.initialization import solve
from caffestat.net import build, read_net
from caffestat.program import Program, from_net
from caffestat.program.feeds import Feeds

MODELS = Path(__file__).parent.parent / "models"
SMALL = {"lenet": 64, "cifar10_full": 32, "alexnet": 2, "mobilenet": 2}
LARGE = {"squeezenet": 2, "googlenet": 2}


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


def main() -> None:
    """Print a row per net."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--draws", type=int, default=3)
    arguments = parser.parse_args()
    print("| net | layers | median of \\|E[y²] - 1\\| | worst | within 25 % |")
    print("|---|---:|---:|---:|---:|")
    for name, batch in {**SMALL, **(LARGE if arguments.large else {})}.items():
        program = from_net(build(read_net(str(MODELS / f"{name}.prototxt")), batch=batch))
        weights = [number for number, param in enumerate(program.params) if param.role == "weight"]
        stds = {number: std for number, std in solve(program, weights).items() if isinstance(std, float)}
        found = np.mean([second_moments(program, stds, seed) for seed in range(arguments.draws)], axis=0)
        off = np.abs(found - 1)
        cells = (name, len(off), f"{np.median(off):.1%}", f"{off.max():.1%}", f"{np.mean(off < 0.25):.0%}")
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
