"""Nets compute on the device under test what they compute on the CPU; needs CAFFESTAT_TEST_DEVICE."""

from __future__ import annotations

from pathlib import Path
from random import Random

import numpy as np
import pytest

from caffestat import net
from caffestat.analysis import Runner, draw_feeds
from caffestat.engine import CPU, Device, choose_device
from caffestat.fillers import Stream
from caffestat.program import from_net

from . import golden
from .golden import CASES, DEVICE, assert_close
from .random_nets import random_net
from .test_random_nets import build

pytestmark = pytest.mark.skipif(DEVICE == "cpu", reason="no other device than the CPU is under test")
NETS = 150
FOLDER = Path(__file__).parents[2] / "models"
MODELS = sorted(
    path for part in (".", "forks") for path in (FOLDER / part).glob("*.prototxt") if "solver" not in path.name
)
# what onnxruntime 1.31 has no CUDA kernels for
WITHOUT_KERNELS: set[str] = set()


def run(text: str, seed: int, device: Device) -> Runner:
    built, stream = build(text), Stream(seed)
    runner = Runner(from_net(built), net.draw_params(built, stream), device, fetch=True)
    runner.run(draw_feeds(runner, stream, np.random.default_rng(seed)))
    return runner


@pytest.mark.parametrize("seed", range(NETS))
def test_devices_agree(seed: int) -> None:
    text = random_net(Random(seed), 1 + seed % 12)
    found = run(text, seed, choose_device(DEVICE)[0])
    expected = run(text, seed, CPU).tensors
    assert expected.keys() == found.tensors.keys()
    around = max((float(np.abs(array).max(initial=0)) for array in expected.values()), default=0.0)
    for key, array in expected.items():
        np.testing.assert_array_equal(np.isfinite(found.tensors[key]), np.isfinite(array), err_msg=str(key))
        pair = (np.nan_to_num(tensor, posinf=0, neginf=0) for tensor in (found.tensors[key], array))
        assert_close(*pair, str(key), 4 * around)  # exp and log of a GPU are off by some last bits
    assert set(found.left_to_cpu) <= WITHOUT_KERNELS


@pytest.mark.parametrize("case", CASES)
def test_nothing_runs_on_the_cpu_unnoticed(case: str) -> None:
    _, _, runner, _ = golden.run(case)
    assert set(runner.left_to_cpu) <= WITHOUT_KERNELS


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_nothing_of_a_model_runs_on_the_cpu_unnoticed(path: Path) -> None:
    """In a small batch, so that all models together take a minute."""
    built, stream = net.build(net.read_net(str(path)), batch=None if path.parent.name == "forks" else 2), Stream(1)
    runner = Runner(from_net(built), net.draw_params(built, stream), choose_device(DEVICE)[0])
    runner.run(draw_feeds(runner, stream, np.random.default_rng(1)))
    assert set(runner.left_to_cpu) <= WITHOUT_KERNELS
