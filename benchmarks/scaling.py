"""How set-up and pass grow with batch, depth, width and image size: times and the exponents of their growth.

    python benchmarks/scaling.py [--rounds 5]

The net: `depth` convolutions 3x3 of `width` channels with ReLU, on images of `size` x `size`. One of the four changes
at a time, the others stay at BASE. Set-up is building, compiling and the first pass; a pass is forward and backward
with all means, the fastest of some. The exponent is the slope of log time over log value, by least squares.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from caffestat import net
from caffestat.analysis import Runner, draw_feeds
from caffestat.fillers import Stream
from caffestat.program import from_net

BASE = {"batch": 8, "depth": 8, "width": 32, "size": 32}
VALUES = {"batch": (4, 8, 16, 32), "depth": (8, 16, 32, 64), "width": (16, 32, 64, 128), "size": (16, 32, 64, 128)}


def text(batch: int, depth: int, width: int, size: int) -> str:
    """Return the net."""
    shape = f"shape {{ dim: {batch} dim: 3 dim: {size} dim: {size} }} shape {{ dim: {batch} }}"
    lines = [f'layer {{ name: "data" type: "Input" top: "x0" top: "y" input_param {{ {shape} }} }}']
    conv = f'convolution_param {{ num_output: {width} kernel_size: 3 pad: 1 weight_filler {{ type: "msra" }} }}'
    for number in range(depth):
        blob = f"x{number + 1}"
        lines.append(
            f'layer {{ name: "c{number}" type: "Convolution" bottom: "x{number}" top: "{blob}" {conv} }}\n'
            f'layer {{ name: "r{number}" type: "ReLU" bottom: "{blob}" top: "{blob}" }}'
        )
    inner = 'inner_product_param { num_output: 10 weight_filler { type: "xavier" } }'
    lines.append(f'layer {{ name: "fc" type: "InnerProduct" bottom: "x{depth}" top: "fc" {inner} }}')
    lines.append('layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc" bottom: "y" top: "loss" }')
    return "\n".join(lines)


def measure(folder: Path, rounds: int, **sizes: int) -> tuple[float, float]:
    """Return the seconds of (set-up, pass)."""
    path = folder / "net.prototxt"
    path.write_text(text(**sizes))
    start = time.perf_counter()
    built = net.build(net.read_net(str(path)))
    stream = Stream(1)
    runner = Runner(from_net(built), net.draw_params(built, stream))
    feeds = draw_feeds(runner, stream, np.random.default_rng(1))
    runner.run(feeds)
    set_up, passes = time.perf_counter() - start, []
    for _ in range(rounds):
        start = time.perf_counter()
        runner.run(feeds)
        passes.append(time.perf_counter() - start)
    return set_up, min(passes)


def exponent(values: tuple[int, ...], seconds: list[float]) -> float:
    """Return the slope of log seconds over log values."""
    return float(np.polyfit(np.log(values), np.log(seconds), 1)[0])


def main() -> None:
    """Measure and print a row per quantity."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print("base: " + ", ".join(f"{name} {value}" for name, value in BASE.items()))
    print(f"{'':<6} {'values':<18} {'set-up, ms':>24} {'exponent':>9} {'pass, ms':>28} {'exponent':>9}")
    with TemporaryDirectory() as folder:
        measure(Path(folder), 1, **BASE)  # imports and warms up
        for name, values in VALUES.items():
            pairs = [measure(Path(folder), rounds, **{**BASE, name: value}) for value in values]
            columns = [[pair[kind] for pair in pairs] for kind in (0, 1)]
            shown = [" ".join(f"{1000 * s:.0f}" for s in found) for found in columns]
            slopes = [exponent(values, found) for found in columns]
            of = " ".join(map(str, values))
            print(f"{name:<6} {of:<18} {shown[0]:>24} {slopes[0]:>9.2f} {shown[1]:>28} {slopes[1]:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
