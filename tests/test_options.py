"""Options: every value that is not allowed is refused, with the list of the allowed ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from caffestat.errors import InputError
from caffestat.fillers import Filler, Stream, fill
from caffestat.options import ASSUMED_FILLERS, NetOptions, RunOptions, ValueOptions, options_of


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (NetOptions, {"phase": "foo"}, "phase: expected one of train, test, found 'foo'"),
        (NetOptions, {"data": "bogus"}, "data: expected one of auto, real, synthetic, found 'bogus'"),
        (NetOptions, {"batch": 0}, "batch: expected an integer of 1 or more, found 0"),
        (NetOptions, {"batch": "2"}, "batch: expected an integer of 1 or more, found '2'"),
        (NetOptions, {"dims": {"width": 0}}, "dims: width: expected an integer of 1 or more, found 0"),
        (NetOptions, {"shapes": {"x": "23"}}, "sizes of 1 or more for 'x', found '23'"),
        (NetOptions, {"shapes": {"x": (2, -1)}}, "sizes of 1 or more for 'x'"),
        (ValueOptions, {"seed": -1}, "seed: expected an integer from 0 to 4294967295, found -1"),
        (ValueOptions, {"seed": 2**32}, "seed: expected an integer"),
        (ValueOptions, {"assume_filler": "xaver"}, "assume_filler: expected one of gaussian, msra, .*, found 'xaver'"),
        (RunOptions, {"device": "tpu"}, "device: expected one of auto, cpu, cuda, cuda:N, found 'tpu'"),
        (RunOptions, {"inputs_hold": "zeroes"}, "inputs_hold: expected one of noise, zeros, found 'zeroes'"),
    ],
)
def test_a_value_that_is_not_allowed_is_refused(kind: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        kind(**given)


def test_one_text_counts_as_a_list_of_one() -> None:
    assert NetOptions(stages="deploy").stages == ("deploy",)
    assert ValueOptions(weights="a.caffemodel").weights == ("a.caffemodel",)
    assert ValueOptions(weights=["a", "b"]).weights == ("a", "b")


def test_numbers_of_numpy_are_taken() -> None:
    options = NetOptions(batch=np.int64(3), shapes={"x": np.arange(2, 5).tolist()})
    assert (options.batch, options.shapes) == (3, {"x": (2, 3, 4)})


def test_keywords_find_their_kind() -> None:
    net, values, run = options_of(phase="test", dims={"n": 5}, seed=7, device="cpu")
    assert (net.phase, net.dims, values.seed, run.device) == ("test", {"n": 5}, 7, "cpu")
    with pytest.raises(TypeError, match="unknown option 'sead'"):
        options_of(sead=7)


@pytest.mark.parametrize("name", ASSUMED_FILLERS)
def test_every_filler_that_can_be_assumed_exists(name: str) -> None:
    assert fill(Stream(1), Filler(type=name, std=0.1, max=1.0), (3, 4)).any()
