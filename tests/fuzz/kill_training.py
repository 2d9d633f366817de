"""Kills `caffestat train` at random moments, and checks that every snapshot can be read and every run be resumed.

    python -m tests.fuzz.kill_training [--kills 200] [--seed 1]

A small net trains on HDF5 data and writes a snapshot every 5 iterations, which is one pass over the data: so a run that
goes on from a snapshot reads what it would have read. After each SIGKILL all files are read, and the next run goes on
from the last state. Runs that reach the end must have the weights of one that was never killed. Needs fork and h5py.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import caffestat
from caffestat.cli import main as caffestat_command
from caffestat.cli.train import train  # noqa: F401  imported before the runs are forked
from caffestat.net.weights import read_layers
from caffestat.schema import NetParameter, SolverState, read_binary
from caffestat.training.snapshot import read_state  # noqa: F401  as well

ITERATIONS, EVERY, ROWS, BATCH = 200, 5, 40, 8

NET = f"""name: "killed"
layer {{ name: "data" type: "HDF5Data" top: "data" top: "label"
  hdf5_data_param {{ source: "train.txt" batch_size: {BATCH} }} }}
layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
  inner_product_param {{ num_output: 300 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "act" type: "TanH" bottom: "ip1" top: "ip1" }}
layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
  inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" }}
"""
SOLVER = f"""net: "net.prototxt" type: "Adam" base_lr: 0.001 lr_policy: "step" gamma: 0.5 stepsize: 100 momentum: 0.9
weight_decay: 0.001 max_iter: {ITERATIONS} snapshot: {EVERY} snapshot_prefix: "snap" random_seed: 3
"""


def prepare(folder: Path) -> None:
    """Write net, solver and data."""
    import h5py

    random_ = np.random.default_rng(0)
    with h5py.File(folder / "train.h5", "w") as file:
        file["data"] = random_.normal(size=(ROWS, 500)).astype(np.float32)
        file["label"] = random_.integers(0, 4, ROWS).astype(np.float32)
    for name, text in (("train.txt", "train.h5\n"), ("net.prototxt", NET), ("solver.prototxt", SOLVER)):
        (folder / name).write_text(text)


def start(folder: Path, state: Path | None) -> int:
    """Fork a run; return its process number."""
    child = os.fork()
    if child:
        return child
    try:
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        going_on = ["--snapshot", state.name] if state else []
        caffestat_command(["train", "solver.prototxt", "--device", "cpu", *going_on], standalone_mode=False)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def states(folder: Path) -> list[Path]:
    """Return the solver states by iteration."""
    return sorted(folder.glob("*.solverstate"), key=lambda path: int(path.stem.rpartition("_")[2]))


def unreadable(folder: Path) -> list[str]:
    """Return the snapshots that cannot be read, and files that are left over."""
    bad = []
    for path in folder.iterdir():
        kinds: dict[str, Any] = {".caffemodel": NetParameter, ".solverstate": SolverState}
        kind = kinds.get(path.suffix)
        try:
            message: Any = kind and read_binary(path, kind)
        except caffestat.CaffestatError as error:
            bad.append(str(error))
            continue
        if kind is SolverState and len(message.history) != 8:
            bad.append(f"{path}: {len(message.history)} arrays of history")
    return bad


def weights(folder: Path) -> list[np.ndarray]:
    """Return the weights at the end."""
    layers = read_layers(str(folder / f"snap_iter_{ITERATIONS}.caffemodel"))
    return [np.array(blob.data, np.float32) for layer in layers for blob in layer.blobs]


def clean(folder: Path) -> None:
    for path in folder.glob("*snap_iter_*"):
        path.unlink()


def main() -> None:
    """Kill and resume until enough kills are made."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    choose = random.Random(args.seed)
    folder = Path(tempfile.mkdtemp())
    prepare(folder)
    began = time.monotonic()
    os.waitpid(start(folder, None), 0)
    lasts, expected = time.monotonic() - began, weights(folder)
    clean(folder)
    kills = ended = other = 0
    bad: list[str] = []
    while (kills < args.kills or states(folder)) and not bad:  # the last run goes on to its end
        found = states(folder)
        child = start(folder, found[-1] if found else None)
        kills_it = kills < args.kills
        time.sleep(choose.uniform(0.1, 0.5) * lasts if kills_it else 0)
        ended_by_itself, status = os.waitpid(child, os.WNOHANG if kills_it else 0)
        bad += ["a run ended with an error"] if status else []
        if not ended_by_itself:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            kills += 1
        bad += unreadable(folder)
        if (folder / f"snap_iter_{ITERATIONS}.solverstate").exists():
            same = all(np.array_equal(*pair) for pair in zip(weights(folder), expected, strict=True))
            ended, other = ended + 1, other + (not same)
            clean(folder)
    shutil.rmtree(folder)
    print(f"{kills} kills, {len(bad)} unreadable snapshots or failed runs")
    print(f"{ended} runs resumed to the end, {other} with other weights")
    print("\n".join(bad[:10]))
    sys.exit(bool(bad or other))


if __name__ == "__main__":
    main()
