"""Runs that take more memory than there is: refused before they start, with a batch that fits."""

from __future__ import annotations

import re

import pytest

from caffestat.errors import InputError
from caffestat.net import Net, build
from caffestat.net.memory import check_memory, estimate_bytes
from caffestat.net.source import net_source
from caffestat.prototext import parse

TEXT = b"""layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 900 dim: 3 dim: 8 dim: 9 } } }
layer { name: "c" type: "Convolution" bottom: "d" top: "c" convolution_param { num_output: 5 kernel_size: 2 } }
"""
PARAMS = 5 * 3 * 2 * 2 + 5
ONE = 3 * 8 * 9 + 5 * 7 * 8  # activations of one image


def built(batch: int | None = None) -> Net:
    return build(net_source(parse(TEXT, "net")), None, {}, batch)


def test_estimate_counts_gradients_too() -> None:
    assert estimate_bytes(built(), backward=False) == (2 * 4 * PARAMS, 4 * 900 * ONE)
    assert estimate_bytes(built(), backward=True) == (3 * 4 * PARAMS, 2 * 4 * 900 * ONE)


@pytest.mark.parametrize("backward", [False, True])
def test_the_batch_that_is_advised_fits_when_a_little_less_is_free(backward: bool) -> None:
    available = sum(estimate_bytes(built(200), backward))
    with pytest.raises(InputError, match=r"blobs at batch 900 .* of memory is free: --batch \d+ would fit") as refused:
        check_memory(built(), backward, available)
    (advised,) = re.findall(r"--batch (\d+)", str(refused.value))
    assert 180 < int(advised) < 200
    check_memory(built(int(advised)), backward, int(available * 0.96))


def test_a_net_whose_params_do_not_fit_has_no_such_batch() -> None:
    with pytest.raises(InputError, match="not even a batch of 1 would fit; use --static"):
        check_memory(built(), True, 1000)


def test_unknown_memory_refuses_nothing() -> None:
    check_memory(built(), True, None)
