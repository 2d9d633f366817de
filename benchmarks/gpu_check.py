"""The golden cases and the benchmarks on the GPU; says so and does nothing where there is none.

    python benchmarks/gpu_check.py [--rounds 20]

Needs onnxruntime-gpu with CUDA and cuDNN (`pip install caffestat[cuda]` brings the libraries). Torch is optional:
without it the benchmarks are left out. What ran on the CPU all the same is listed by op; a short table comes last.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from debug_pass import GPU_BATCHES, load

from caffestat.analysis import Runner, draw_feeds
from caffestat.engine import choose_device
from caffestat.errors import DeviceError
from caffestat.program import from_net

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ["tests/net/test_golden.py", "tests/net/test_devices.py", "tests/report/test_debug_golden.py"]
TRAINING = ["tests/training"]


def run(*arguments: str) -> tuple[int, str]:
    """Run Python with these arguments and CUDA as the tests' device; return its exit code and last line."""
    print("+ python", *arguments, flush=True)
    environment = {**os.environ, "CAFFESTAT_TEST_DEVICE": "cuda"}
    started = time.perf_counter()
    lines = []
    with subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=environment, stdout=-1, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.strip())
    return process.returncode, f"{' | '.join(lines[-1:])} ({time.perf_counter() - started:.0f} s)"


def placed(name: str) -> str:
    """Return which ops of a net's pass run on the CPU."""
    built, values, stream = load(name, "cuda")
    runner = Runner(from_net(built), values, choose_device("cuda")[0])
    runner.run(draw_feeds(runner, stream, np.random.default_rng(1)))
    return f"on the CPU: {', '.join(runner.left_to_cpu) or 'none'}"


def main() -> int:
    """Check, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", default="20")
    args = parser.parse_args()
    try:
        device, _ = choose_device("cuda")
    except DeviceError as error:
        print(f"gpu-check: NOT RUN, there is no usable GPU: {error}")
        return 0
    table = [("device", str(device))]
    failed = 0
    workers = ["-n", str(min(os.cpu_count() or 1, 12))] if importlib.util.find_spec("xdist") else []
    for title, files in (("golden", GOLDEN), ("training", TRAINING)):
        code, last = run("-m", "pytest", "-q", *workers, *files)
        failed, table = failed or code, [*table, (title, last)]
    table += [(name, placed(name)) for name in GPU_BATCHES]
    if importlib.util.find_spec("torch") is None:
        table.append(("benchmarks", "none, torch is not installed"))
    else:
        for script in ("debug_pass.py", "train.py"):
            code, last = run(f"benchmarks/{script}", "--device", "cuda", "--rounds", args.rounds)
            failed, table = failed or code, [*table, (script, last)]
    print("\n".join(f"{title:<14} {found}" for title, found in table))
    return failed


if __name__ == "__main__":
    sys.exit(main())
