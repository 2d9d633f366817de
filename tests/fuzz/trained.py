"""Cases of what training reads and leaves: logs, solver states, weights, sweeps."""

from __future__ import annotations

import random
from functools import cache

from caffestat.schema import NetParameter, SolverState

from . import mutate
from .cases import NET, ROOT, RUN, Case, changed_message, changed_text

__all__ = ["log", "snapshot", "state", "sweep"]

SWEEP = """\
nets = ["n.prototxt"]
seeds = "0:2"
filler = ["xavier", "gaussian:std=0.1,mean=0"]
width = [1, 0.5]
lr = 0.1
solver = ["SGD", "Adam"]
iterations = 1
batch = 2
shapes = { x = [2, 3, 6, 5] }
[set]
"c.convolution_param.num_output" = [3, 4]
"""


def log(rng: random.Random) -> Case:
    logs = [path.read_bytes()[:20000] for path in sorted((ROOT / "tests" / "golden").glob("*/caffe.log"))]
    files = {
        "n.prototxt": NET.encode(),
        "t.log": mutate.text(rng.choice(logs), rng) if rng.random() < 0.7 else mutate.binary(rng.choice(logs), rng),
    }
    commands: list[tuple[str, ...]] = [
        ("diagnose", "t.log"),
        ("diagnose", "--all", "--net", "n.prototxt", "t.log"),
        ("diagnose", "--format", "html", "t.log"),
        ("compare", "t.log", "n.prototxt"),
        ("compare", "--format", "html", "t.log", "t.log"),
    ]
    return Case(files, rng.sample(commands, 2), "t.log")


@cache
def _snapshot(name: str) -> dict[str, bytes]:
    folder = ROOT / "tests" / "golden" / "training" / name
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if "log" not in path.suffix}


def _restored(changed: str) -> list[tuple[str, ...]]:
    """Return commands that go on with the training of a golden case."""
    weights = changed.replace("solverstate", "caffemodel")
    return [
        ("train", *RUN, "--iterations", "2", "--snapshot", changed, "solver.prototxt"),
        ("train", *RUN, "--iterations", "1", "--weights", weights, "solver.prototxt"),
    ]


def state(rng: random.Random) -> Case:
    """Return a solver state, binary or HDF5."""
    name = rng.choice(("snapshot_sgd", "snapshot_adam", "snapshot_adadelta_h5"))
    files = dict(_snapshot(name))
    changed = next(file for file in files if ".solverstate" in file)
    if changed.endswith(".h5"):
        files[changed] = mutate.binary(files[changed], rng)
    else:
        files[changed] = changed_message(files[changed], SolverState, rng)
    return Case(files, _restored(changed)[:1], changed)


def snapshot(rng: random.Random) -> Case:
    """Return weights, binary or HDF5, or a solver that writes some and goes on with them."""
    name = rng.choice(("snapshot_sgd", "snapshot_adadelta_h5"))
    files = dict(_snapshot(name))
    if rng.random() < 0.4:
        files["solver.prototxt"] = changed_text(files["solver.prototxt"], rng, [files["solver.prototxt"]])
        command = ("train", *RUN, "--iterations", "2", "--format", rng.choice(("log", "csv", "jsonl")))
        return Case(files, [(*command, "solver.prototxt")], "solver.prototxt")
    changed = next(file for file in files if ".caffemodel" in file)
    if changed.endswith(".h5"):
        files[changed] = mutate.binary(files[changed], rng)
    else:
        files[changed] = changed_message(files[changed], NetParameter, rng)
    return Case(files, _restored(changed.replace("caffemodel", "solverstate")), changed)


def sweep(rng: random.Random) -> Case:
    """Return a sweep, which runs at most two seeds."""
    files = {"n.prototxt": NET.encode(), "sweep.toml": mutate.text(SWEEP.encode(), rng)}
    limits = ("--seeds", "0:2", "--iterations", "0", "--workers", "1")
    return Case(files, [("sweep", *limits, "--format", rng.choice(("table", "csv")), "sweep.toml")], "sweep.toml")
