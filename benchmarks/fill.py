"""How fast the exact fillers are, next to numpy's own generators on the same words (which give other values).

Run: python benchmarks/fill.py [values, default 60000000]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np

from caffestat.fillers import Filler, Stream, fill

INPUTS = 25088  # the first inner product of VGG-16


def best_of_three(draw: Callable[[], object]) -> float:
    """Seconds."""

    def once() -> float:
        start = time.perf_counter()
        draw()
        return time.perf_counter() - start

    return min(once() for _ in range(3))


def report(name: str, filler: Filler, numpys: Callable[[int], object], values: int) -> None:
    shape = (max(values // INPUTS, 1), INPUTS)
    count = shape[0] * shape[1]
    ours = best_of_three(lambda: fill(Stream(1701), filler, shape))
    theirs = best_of_three(lambda: numpys(count))
    rates = f"{count / ours / 1e6:7.0f} M values/s   numpy {count / theirs / 1e6:7.0f} M values/s"
    print(f"{name:10s} {ours:6.2f} s {rates}   time ratio {ours / theirs:.2f}")


def main() -> None:
    values = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000_000
    generator = np.random.Generator(np.random.MT19937(1701))
    report("xavier", Filler("xavier"), lambda n: generator.random(n, np.float32), values)
    report("gaussian", Filler("gaussian", std=0.01), lambda n: generator.standard_normal(n, np.float32), values)


if __name__ == "__main__":
    main()
