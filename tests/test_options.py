"""Options: every value that is not allowed is refused, with the list of the allowed ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import caffestat
from caffestat.errors import InputError
from caffestat.fillers import Filler, Stream, fill, random_types
from caffestat.options import NetOptions, RunOptions, ValueOptions, options_of


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
        (NetOptions, {"level": "a"}, "level: expected an integer of 32 bits, found 'a'"),
        (NetOptions, {"level": 2**31}, "level: expected an integer of 32 bits, found 2147483648"),
        (NetOptions, {"stages": 5}, "stages: expected names, found 5"),
        (NetOptions, {"stages": ["a", 5]}, "stages: expected names, found"),
        (NetOptions, {"shapes": [2, 3]}, "shapes: expected a mapping of names, found"),
        (NetOptions, {"dims": {1: 2}}, "dims: expected a mapping of names, found"),
        (NetOptions, {"dialect": ["ssd"]}, "dialect: expected a name, found"),
        (NetOptions, {"phase": np.zeros(3)}, "phase: expected one of train, test, found array"),
        (RunOptions, {"inputs": np.zeros(3)}, "inputs: expected a mapping of names, found array"),
        (RunOptions, {"inputs": {"x": 3}}, "inputs: expected an array for 'x', found 3"),
        (RunOptions, {"loss": ["x"]}, "loss: expected a name, found"),
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


NET = 'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }\n'


@pytest.mark.parametrize(
    ("verb", "given", "message"),
    [
        (caffestat.check, {"dialect": "nofork"}, "unknown dialect 'nofork'; expected one of "),
        (
            caffestat.fill,
            {"variance_norm": "fan_inn"},
            "variance_norm: expected one of fan_in, fan_out, average, found",
        ),
        (caffestat.rewrite, {"filler": "msra", "variance_norm": "n"}, "variance_norm: expected one of fan_in"),
        (caffestat.sweep, {"seeds": ["x"]}, "seed: expected an integer from 0 to 4294967295, found 'x'"),
        (caffestat.sweep, {"seeds": 5}, "seeds: expected a sequence of values, found 5"),
        (caffestat.sweep, {"rates": 0.1}, "rates: expected a sequence of values, found 0.1"),
        (caffestat.sweep, {"changes": ["x"]}, "changes: expected a mapping of names, found"),
        (caffestat.sweep, {"widths": [-1]}, "widths: expected a number of 0 or more, found -1"),
        (caffestat.sweep, {"rates": ["fast"]}, "rates: expected a number of 0 or more, found 'fast'"),
        (caffestat.diagnose, {"growth": 0.5}, "growth: expected a number of 1 or more, found 0.5"),
        (caffestat.train, {"stats": -1}, "stats: expected an integer of 0 or more, found -1"),
        (caffestat.train, {"stats": "max"}, "stats: expected an integer of 0 or more, found 'max'"),
        (caffestat.train, {"iterations": -1}, "iterations: expected an integer of 0 or more, found -1"),
        (caffestat.fill, {"layers": 3}, "layers: expected names, found 3"),
        (caffestat.rewrite, {"filler": "msra", "excludes": [3]}, "excludes: expected names, found"),
        (caffestat.analyze, {"data": None}, "data: expected one of auto, real, synthetic, found None"),
        (caffestat.check, {"limits": {"dead": "x"}}, "limits: dead: expected a number of 0 or more, found 'x'"),
        (caffestat.check, {"inputs": {"x": np.zeros(3)}}, "inputs: applies only with a run; add --run or remove"),
        (caffestat.check, {"inputs": {"x": 3}}, "inputs: expected an array for 'x', found 3"),
        (caffestat.check, {"severity": "fatal"}, "severity: expected one of info, warning, error, found 'fatal'"),
        (caffestat.calibrate, {"inputs": {"x": 3}}, "inputs: expected files or arrays for 'x', found 3"),
        (caffestat.calibrate, {"inputs": {"x": [[1.0]]}}, "inputs: expected files or arrays for 'x', found"),
        (caffestat.calibrate, {"inputs": {}, "method": "max"}, "method: expected one of minmax, percentile, found"),
        (caffestat.calibrate, {"inputs": {}, "percentiles": ["x"]}, "percentile: expected a number from 0 to 100, "),
        (caffestat.gradient, {"inputs": {"x": 3}}, "inputs: expected an array for 'x', found 3"),
        (caffestat.sweep, {"fillers": ["xaver"]}, "filler 'xaver': expected one of bilinear, constant, "),
        (caffestat.sweep, {"fillers": ["lsuv:steps=1"]}, "lsuv has no field 'steps'"),
        (caffestat.sweep, {"solvers": ["Adm"]}, "solvers: expected one of SGD, .*, found 'Adm'"),
        (caffestat.sweep, {"changes": {"conv1": ["1"]}}, "'conv1': expected LAYERS.FIELD"),
        (caffestat.sweep, {"iterations": -1}, "iterations: expected an integer of 0 or more, found -1"),
        (caffestat.sweep, {"workers": 0}, "workers: expected an integer of 1 or more, found 0"),
        (caffestat.sweep, {"resume": True}, "resume: needs the folder of results"),
        (caffestat.sweep, {"resources": {"GPU": 1}}, "resource: applies only to workers of a Dask cluster"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_every_verb_refuses_what_it_does_not_know(
    tmp_path: Path, verb: Any, given: dict[str, Any], message: str
) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    with pytest.raises(InputError, match=message):
        verb(path, **given)


def test_comparisons_take_tolerances_of_0_or_more(tmp_path: Path) -> None:
    for verb in (caffestat.compare, caffestat.compare_values):
        for name, value in (("rtol", -1), ("atol", "x"), ("rtol", float("nan"))):
            with pytest.raises(InputError, match=f"{name}: expected a number of 0 or more, found"):
                verb(tmp_path / "a.log", tmp_path / "b.log", **{name: value})


def test_compared_models_take_arrays_as_inputs(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(NET)
    with pytest.raises(InputError, match="inputs: expected an array for 'x', found 3"):
        caffestat.compare_values(tmp_path / "net.prototxt", tmp_path / "net.prototxt", inputs={"x": 3})


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


@pytest.mark.parametrize("name", random_types())
def test_every_filler_that_can_be_assumed_exists(name: str) -> None:
    assert fill(Stream(1), Filler(type=name, std=0.1, max=1.0), (3, 4)).any()
