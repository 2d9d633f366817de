"""How long commands take to start beside a Python that imports their libraries alone, and `check` over a folder.

    python benchmarks/startup.py [--rounds 11] [--files 1500]

Pairs are run by turns; ratios are of the medians of CPU time. The folder holds copies of the nets of models and tests.
"""

from __future__ import annotations

import argparse
import itertools
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAIRS = {
    "--help": (("-c", "import click"), ("-m", "caffestat", "--help")),
    "analyze --static models/alexnet.prototxt": (
        ("-c", "import numpy, click, google.protobuf.message, google.protobuf.descriptor_pool"),
        ("-m", "caffestat", "analyze", "--static", "models/alexnet.prototxt"),
    ),
}


def seconds(arguments: tuple[str, ...]) -> float:
    """Return the CPU time of a Python process, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    # `check` finds something and ends with 1 or 2
    subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def start_up(rounds: int) -> None:
    """Print each pair's medians and their ratio."""
    for name, pair in PAIRS.items():
        for arguments in pair:  # compiles the modules
            seconds(arguments)
        times = [[seconds(arguments) for arguments in pair] for _ in range(rounds)]
        plain, ours = (statistics.median(column) * 1000 for column in zip(*times, strict=True))
        print(f"{name}: {ours:.0f} ms, its libraries alone {plain:.0f} ms, ratio {ours / plain:.2f}", flush=True)


def check_folder(count: int) -> None:
    """Print the wall time and the CPU time per file of `check` over a folder."""
    nets = sorted(path for part in ("models", "tests/golden") for path in (ROOT / part).rglob("*.prototxt"))
    with tempfile.TemporaryDirectory() as name:
        for number, net in zip(range(count), itertools.cycle(nets), strict=False):
            copy = Path(name) / str(number // len(nets)) / net.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(net, copy)
        began = time.monotonic()
        used = seconds(("-m", "caffestat", "check", name)) / count * 1000
        each = (time.monotonic() - began) / count * 1000
    cores = len(os.sched_getaffinity(0))
    print(f"check of {count} files on {cores} cores: {each:.0f} ms a file, {used:.0f} ms of CPU")


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--files", type=int, default=1500)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # a second start reads what the first one compiled
    start_up(options.rounds)
    check_folder(options.files)


if __name__ == "__main__":
    main()
