"""The golden cases and the benchmark on the GPU; says so and does nothing where there is none.

    python benchmarks/gpu_check.py

Needs onnxruntime-gpu with CUDA and cuDNN (`pip install caffestat[cuda]` brings the libraries). Torch is optional:
without it the benchmark is left out.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from caffestat.engine import choose_device
from caffestat.errors import DeviceError

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> int:
    """Run Python with these arguments and CUDA as the tests' device; return its exit code."""
    print("+ python", *arguments, flush=True)
    return subprocess.call([sys.executable, *arguments], cwd=ROOT, env={**os.environ, "CAFFESTAT_TEST_DEVICE": "cuda"})


def main() -> int:
    try:
        choose_device("cuda")
    except DeviceError as error:
        print(f"gpu-check: NOT RUN, there is no usable GPU: {error}")
        return 0
    failed = run("-m", "pytest", "tests/net", "tests/layers")
    if importlib.util.find_spec("torch") is None:
        print("gpu-check: no benchmark, torch is not installed")
        return failed
    return run("benchmarks/debug_pass.py", "--device", "cuda") or failed


if __name__ == "__main__":
    sys.exit(main())
