"""Runs that take more memory than there is: refused before they start, with a batch that fits."""

from __future__ import annotations

import re

import pytest

from caffestat.engine import CPU, Device
from caffestat.engine.need import Need
from caffestat.errors import InputError
from caffestat.net import build
from caffestat.net.source import net_source
from caffestat.program import Program, from_net
from caffestat.program.memory import check_draws, check_run, run_need
from caffestat.prototext import parse

TEXT = b"""layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 900 dim: 3 dim: 8 dim: 9 } } }
layer { name: "c" type: "Convolution" bottom: "d" top: "c" convolution_param { num_output: 5 kernel_size: 2 } }
"""
PARAMS = 5 * 3 * 2 * 2 + 5
ONE = 3 * 8 * 9 + 5 * 7 * 8  # activations of one image


GPU = Device("cuda", 1)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """What each device says is free, to be changed by a test."""
    found: dict[str, int | None] = {"cpu": None, "cuda:1": None}
    monkeypatch.setattr(Device, "available_bytes", lambda device: found[str(device)])
    return found


def built(batch: int | None = None) -> Program:
    return from_net(build(net_source(parse(TEXT, "net")), None, {}, batch))


def test_estimate_counts_gradients_too() -> None:
    assert run_need(built(), backward=False) == Need(2 * 4 * PARAMS, 4 * 900 * ONE, 900)
    assert run_need(built(), backward=True) == Need(3 * 4 * PARAMS, 2 * 4 * 900 * ONE, 900)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("device", [CPU, GPU])
def test_the_batch_that_is_advised_fits_when_a_little_less_is_free(
    backward: bool, device: Device, free: dict[str, int | None]
) -> None:
    need = run_need(built(200), backward)
    available = free[str(device)] = need.params + need.blobs
    with pytest.raises(InputError, match=r"blobs at batch 900 .* is free: --batch \d+ would fit") as refused:
        check_run(built(), backward, device)
    assert ("of the memory of cuda:1 is free" if device == GPU else "of memory is free") in str(refused.value)
    (advised,) = re.findall(r"--batch (\d+)", str(refused.value))
    assert 180 < int(advised) < 200
    free[str(device)] = int(available * 0.96)
    check_run(built(int(advised)), backward, device)


def test_a_net_whose_params_do_not_fit_has_no_such_batch(free: dict[str, int | None]) -> None:
    free["cuda:1"] = 1000
    with pytest.raises(InputError, match="not even a batch of 1 would fit; use --static"):
        check_run(built(), True, GPU)


def test_unknown_memory_refuses_nothing(free: dict[str, int | None]) -> None:
    check_run(built(), True, CPU)


def test_what_is_drawn_must_fit_on_the_host_wherever_the_net_runs(free: dict[str, int | None]) -> None:
    free["cpu"] = 4 * PARAMS
    with pytest.raises(InputError, match=r"^drawing the params needs about .* of memory is free"):
        check_run(built(), True, GPU)
    free["cpu"] = 2 * 4 * PARAMS
    check_draws(built(), data=False)
    with pytest.raises(InputError, match=r"^drawing the data needs about"):
        check_draws(built())
    free["cpu"] = 2 * 4 * 900 * 3 * 8 * 9
    check_draws(built())
