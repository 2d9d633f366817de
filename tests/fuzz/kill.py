"""Kills writers at random moments and looks for damage.

    python -m tests.fuzz.kill [--kills 1000] [--seed 0]

A file is damaged when it is neither the old one nor a new one, or its external data are. Temporary files that the
killed leave must be gone after the next run.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from caffestat import api, files
from caffestat.schema import NetParameter, read_binary
from caffestat.training.snapshot import State, read_state, write_state

NET = """\
layer { name: "d" type: "Input" top: "x" top: "y" input_param { shape { dim: 2 dim: 300 } shape { dim: 2 } } }
layer { name: "f" type: "InnerProduct" bottom: "x" top: "f" inner_product_param { num_output: 900
  weight_filler { type: "xavier" } } }
layer { name: "g" type: "InnerProduct" bottom: "f" top: "g" inner_product_param { num_output: 5
  weight_filler { type: "xavier" } } }
"""
FILLERS = ("xavier", "msra")
KINDS = ("prototxt", "caffemodel", "onnx", "fill", "solverstate", "solverstate.h5")
HISTORY = (300, 900)


def write(kind: str, folder: Path, number: int) -> None:
    """Write a file of a kind again, with one of two contents."""
    filler, seed = FILLERS[number % 2], number % 2
    if kind == "prototxt":
        outcome = api.rewrite(folder / "n.prototxt", filler=filler)[0]
    elif kind == "fill":
        api.fill(folder / "n.prototxt", folder / "w.npz", seed=seed)
        return
    elif kind.startswith("solverstate"):
        history = [np.full(HISTORY, seed, np.float32)]
        write_state(str(folder / f"s.{kind}"), State(seed, seed, "w.caffemodel", history))
        return
    else:
        outcome = api.rewrite(folder / f"m.{kind}", filler="xavier", seed=seed)[0]
    assert outcome.error is None, outcome.error


def read(kind: str, folder: Path) -> bytes:
    """Return what a file of a kind holds. Raises an error when it is damaged."""
    if kind == "prototxt":
        return (folder / "n.prototxt").read_bytes()
    if kind == "fill":
        with np.load(folder / "w.npz") as archive:
            return b"".join(archive[name].tobytes() for name in sorted(archive.files))
    if kind == "caffemodel":
        model = read_binary(folder / "m.caffemodel", NetParameter)
        return b"".join(np.array(blob.data, np.float32).tobytes() for layer in model.layer for blob in layer.blobs)
    if kind.startswith("solverstate"):
        state = read_state(str(folder / f"s.{kind}"), [HISTORY])
        return bytes([state.iteration, state.current_step]) + state.history[0].tobytes()
    tensors = onnx.load(str(folder / "m.onnx")).graph.initializer  # with its external data
    return b"".join(numpy_helper.to_array(tensor).tobytes() for tensor in tensors)


def prepare(kind: str, folder: Path) -> None:
    (folder / "n.prototxt").write_text(NET)
    if kind in ("caffemodel", "onnx"):
        api.fill(folder / "n.prototxt", folder / f"m.{kind}", seed=7)
    if kind == "onnx":
        model = onnx.load(str(folder / "m.onnx"))
        onnx.save_model(model, str(folder / "m.onnx"), save_as_external_data=True, location="m.onnx.weights")


def kill(work: Callable[[int], None], delay: float) -> bool:
    """Start the work in a child, kill it after a while, and return whether it was killed in the middle."""
    child = os.fork()
    if not child:
        try:
            for number in range(10**6):
                work(number)
        finally:
            os._exit(1)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill writers at random moments and look for damage.")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    damaged: list[str] = []
    counts: Counter[str] = Counter()
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            prepare(kind, folder)
            good = set()
            for number in (0, 1, 0):
                write(kind, folder, number)
                good.add(read(kind, folder))
            for index in range(options.kills // len(KINDS)):
                counts[kind] += kill(lambda number: write(kind, folder, number), rng.random() * 0.05)  # noqa: B023
                try:
                    found = read(kind, folder)
                except Exception as error:
                    damaged.append(f"{kind}, kill {index}: {error!r}")
                    continue
                if found not in good:
                    damaged.append(f"{kind}, kill {index}: neither old nor new")
            left = [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
            counts["temporary files left by the killed"] += len(left)
            finish(kind, folder)
            left = [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
            damaged += [f"{kind}: {name} is still there" for name in left]
    print(f"{dict(counts)}: {len(damaged)} damaged")
    print("\n".join(damaged[:20]))
    return 1 if damaged else 0


def finish(kind: str, folder: Path) -> None:
    """Write once more, in a process of its own: a process looks for what others left only once."""
    child = os.fork()
    if not child:
        files._remove_stale.cache_clear()
        try:
            write(kind, folder, 0)
            write(kind, folder, 1)
        finally:
            os._exit(0)
    os.waitpid(child, 0)


if __name__ == "__main__":
    sys.exit(main())
