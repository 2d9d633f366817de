"""Real Caffe beside caffestat: one forward and backward pass, and one training iteration, in turn.

    python benchmarks/caffe_time.py --caffe build/tools/caffe [--net alexnet] [--what pass|training] [--iterations 4]

The pass is that of `caffe time` (which measures nothing) and ours with the mean |x| of everything. A training iteration
(SGD with momentum 0.9 and weight decay 0.0005) is timed by the log of `caffe train` and of `caffestat train`; both read
one batch from the same HDF5 file. Medians without the first iteration are printed in milliseconds, and their ratio.
Takes a CPU build of Caffe with HDF5. `--threads` is for both sides; Caffe's BLAS has to be OpenBLAS or MKL to obey.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from debug_pass import BATCHES, MODELS, ours

from caffestat import net
from caffestat.engine.runtime import use_threads
from caffestat.schema import NetParameter, to_text

NET, SOLVER = "net.prototxt", "solver.prototxt"
PASS = re.compile(r"Iteration: \d+ forward-backward time: ([\d.e+]+) ms")
ITERATION = re.compile(r"Iteration \d+ \(\S+ iter/s, ([\d.e+-]+)s/1 iters\)")
SOLVER_TEXT = """net: "net.prototxt" base_lr: 1e-5 lr_policy: "fixed" momentum: 0.9 weight_decay: 0.0005 random_seed: 1
display: 1 max_iter: %d snapshot_after_train: false solver_mode: CPU
"""

Timer = Callable[[str, argparse.Namespace], tuple[list[float], list[float]]]


def write_case(name: str, iterations: int) -> None:
    """Write the net, its data and a solver into the working directory."""
    source = net.read_net(str(MODELS / f"{name}.prototxt"))
    built = net.build(source)
    message = NetParameter(name=source.header.name)
    for entry in source.layers:
        layer = message.layer.add()
        layer.CopyFrom(entry.proto)
        if not layer.bottom:
            _read_from_file(layer, built)
    Path(NET).write_text(to_text(message))
    Path(SOLVER).write_text(SOLVER_TEXT % iterations)


def _read_from_file(layer: Any, built: net.Net) -> None:
    """Make a data layer one that reads its batch from a file: Caffe would draw another one in every pass."""
    shapes = [shape or () for node in built.nodes if node.name == layer.name for shape in node.top_shapes]
    rng = np.random.default_rng(1)
    with h5py.File("data.h5", "w") as file:
        for top, shape in zip(layer.top, shapes, strict=True):
            file[top] = (rng.normal(size=shape) if len(shape) > 1 else rng.integers(1000, size=shape)).astype("f4")
    Path("data.txt").write_text("data.h5\n")
    layer.type = "HDF5Data"
    layer.ClearField("dummy_data_param")
    layer.hdf5_data_param.source, layer.hdf5_data_param.batch_size = "data.txt", shapes[0][0]


def log_of(command: list[str], threads: int) -> str:
    """Run a command with this many BLAS threads and return what it logs."""
    names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
    environment = os.environ | dict.fromkeys(names, str(threads)) | {"GLOG_logtostderr": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout + done.stderr


def time_pass(name: str, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Return the milliseconds of our passes and of Caffe's."""
    log = log_of([args.caffe, "time", f"--model={NET}", f"--iterations={args.iterations}"], args.threads)
    use_threads(args.threads)
    run, _ = ours(name, "cpu")
    found = []
    for _ in range(args.iterations):
        start = time.perf_counter()
        run()
        found.append(1000 * (time.perf_counter() - start))
    return found, [float(ms) for ms in PASS.findall(log)]


def time_training(name: str, args: argparse.Namespace) -> tuple[list[float], list[float]]:
    """Return the milliseconds of our training iterations and of Caffe's."""
    commands = [[sys.executable, "-m", "caffestat", "train", SOLVER], [args.caffe, "train", f"--solver={SOLVER}"]]
    mine, caffes = (
        [1000 * float(seconds) for seconds in ITERATION.findall(log_of(command, args.threads))] for command in commands
    )
    return mine[1:], caffes[1:]  # the first tells the set-up


TIMERS: dict[str, Timer] = {"pass": time_pass, "training": time_training}


def compare(name: str, what: str, args: argparse.Namespace) -> None:
    """Time both sides in turn and print a row."""
    with tempfile.TemporaryDirectory() as folder:
        before = os.getcwd()
        os.chdir(folder)
        write_case(name, args.iterations + 1)
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(args.rounds):
            for all_of_side, found in zip(times, TIMERS[what](name, args), strict=True):
                all_of_side.extend(found[1:])
        os.chdir(before)
    mine, caffes = (statistics.median(found) for found in times)
    print(f"{name:<10} {what:<9} {BATCHES[name]:>5} {mine:>10.0f} {caffes:>10.0f} {mine / caffes:>6.2f}", flush=True)


def main() -> None:
    """Measure the nets that were asked for and print a row each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--caffe", required=True, type=os.path.abspath, help="Caffe's command-line tool")
    parser.add_argument("--net", choices=BATCHES, action="append")
    parser.add_argument("--what", choices=TIMERS, action="append")
    parser.add_argument("--iterations", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()
    print(f"{'net':<10} {'what':<9} {'batch':>5} {'caffestat':>10} {'caffe':>10} {'ratio':>6}   (ms)")
    for name in args.net or list(BATCHES):
        for what in args.what or list(TIMERS):
            compare(name, what, args)


if __name__ == "__main__":
    main()
