"""Prints prediction and measurement of nets side by side: `python models/experiments/show.py [NET…]`.

Without arguments the four experiments of this folder. Every number is a mean absolute value, as Caffe's debug_info
prints it; gains are of amplitudes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path

from caffestat.analysis import Measurement, Prediction, gains, measure, predict
from caffestat.net import build, read_net
from caffestat.program import Program, from_net

HERE = Path(__file__).parent
EXPERIMENTS = ("relu_xavier", "relu_gaussian", "sigmoid_gaussian", "tanh_xavier")
DIGITS = {"data": (32, 1, 28, 28)}  # their shape; without the digits (see digits.py) noise takes their place
SEED = 1701

HEADER = (
    f"{'layer':<10}{'|x| predicted':>14}{'measured':>12}{'|dx| predicted':>16}{'measured':>12}"
    f"{'gain':>8}{'product':>10}{'back':>8}{'product':>10}"
)


def table(program: Program, prediction: Prediction, measured: Measurement) -> Iterator[str]:
    """Yield a line for each layer with weights: what enters the next one, and the gradient that leaves it below."""
    yield HEADER
    last = {blob: (row.index, top) for row in program.rows for top, blob in enumerate(row.memory)}
    for gain in gains(program, prediction):
        top, bottom = last[program.rows[gain.node].memory[0]], (gain.node, 0)
        pairs = [(prediction.tops[top].mean_abs, measured.tops[top])]
        if bottom in prediction.bottom_diffs:
            pairs.append((prediction.bottom_diffs[bottom].mean_abs, measured.bottom_diffs[bottom]))
        (forward, found), (backward, back) = pairs[0], pairs[1] if len(pairs) > 1 else (math.nan, math.nan)
        amplitudes = (gain.forward, gain.product, gain.backward, gain.product_backward)
        roots = [math.sqrt(value) if value is not None else math.nan for value in amplitudes]
        yield (
            f"{gain.layer:<10}{forward:>14.4g}{found:>12.4g}{backward:>16.4g}{back:>12.4g}"
            f"{roots[0]:>8.3f}{roots[1]:>10.2g}{roots[2]:>8.3f}{roots[3]:>10.2g}"
        )


def main(paths: list[str]) -> None:
    """Print one table per net."""
    for path in paths or [str(HERE / f"{name}.prototxt") for name in EXPERIMENTS]:
        program = from_net(build(read_net(path), shapes=DIGITS if Path(path).stem in EXPERIMENTS else {}))
        print(f"{Path(path).name}")
        print("\n".join(table(program, predict(program), measure(program, SEED)[1])))
        print()


if __name__ == "__main__":
    main(sys.argv[1:])
