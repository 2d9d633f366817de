"""The golden cases and the benchmarks on the GPU; says so and does nothing where there is none.

    python benchmarks/gpu_check.py [--only tests] [--rounds 20] [--seconds 560]

Needs onnxruntime-gpu with CUDA and cuDNN (`pip install caffestat[cuda]` brings the libraries). Torch is optional:
without it the benchmarks are left out. What does not end within `--seconds` is stopped. A short table comes last.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Timer

from caffestat.engine import choose_device
from caffestat.errors import DeviceError

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "golden": ["tests/net/test_golden.py", "tests/net/test_devices.py", "tests/report/test_debug_golden.py"],
    "training": ["tests/training"],
}
BENCHMARKS = {
    "debug pass": ["debug_pass.py"],
    "training step": ["train.py"],
    "memory": ["debug_pass.py", "--memory"],
}


def run(arguments: Sequence[str], seconds: float) -> tuple[int, list[str]]:
    """Run Python with these arguments and CUDA as the tests' device; return its exit code and its lines."""
    print("+ python", *arguments, flush=True)
    environment = {**os.environ, "CAFFESTAT_TEST_DEVICE": "cuda", "PYTHONUNBUFFERED": "1"}
    command, lines = [sys.executable, *arguments], []
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        timer = Timer(max(seconds, 0), os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
        process.wait()
        timer.cancel()
    return process.returncode, lines + ["stopped: no time was left"] * (process.returncode == -signal.SIGKILL)


def steps(only: str | None, rounds: str) -> Iterator[tuple[str, list[str], bool]]:
    """Yield what is run: its title, the arguments, and whether all that it prints belongs in the table."""
    if only != "benchmarks":
        workers = ["-n", str(min(os.cpu_count() or 1, 12))] if importlib.util.find_spec("xdist") else []
        for title, files in TESTS.items():
            yield title, ["-m", "pytest", "-q", "--tb=line", *workers, *files], False
    if only != "tests" and importlib.util.find_spec("torch"):
        for title, (script, *options) in BENCHMARKS.items():
            yield title, [f"benchmarks/{script}", "--device", "cuda", "--rounds", rounds, *options], True


def main() -> int:
    """Check, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("tests", "benchmarks"))
    parser.add_argument("--rounds", default="20")
    parser.add_argument("--seconds", type=float, default=24 * 3600.0)
    args = parser.parse_args()
    end = time.monotonic() + args.seconds
    try:
        device, _ = choose_device("cuda")
    except DeviceError as error:
        print(f"gpu-check: NOT RUN, there is no usable GPU: {error}")
        return 0
    table, failed = [("device", str(device))], 0
    for title, arguments, is_table in steps(args.only, args.rounds):
        started = time.monotonic()
        code, lines = run(arguments, end - started)
        failed = failed or code
        table.append((title, f"exit code {code}, {time.monotonic() - started:.0f} s"))
        table += [("", line) for line in (lines if is_table else lines[-1:])]
    print("\n".join(f"{title:<14} {found}" for title, found in table))
    return failed


if __name__ == "__main__":
    sys.exit(main())
