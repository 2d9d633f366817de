"""Policies: how they are written, and what they choose."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import InputError
from caffestat.fillers import Filler
from caffestat.ops import LINEAR, Nonlinearity
from caffestat.rewriting.policy import Site, Undecided, Wanted, parse_policy, same_effect


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("xavier", Wanted("xavier")),
        ("gaussian:std=0.01", Wanted("gaussian", (("std", "0.01"),))),
        ("gaussian:0.01", Wanted("gaussian", (("std", "0.01"),))),
        ("gaussian:mean=1e-3,std=2,sparse=5", Wanted("gaussian", (("mean", "1e-3"), ("std", "2"), ("sparse", "5")))),
        ("uniform:min=-0.5,max=0.5", Wanted("uniform", (("min", "-0.5"), ("max", "0.5")))),
        ("constant:0", Wanted("constant", (("value", "0"),))),
        ("constant:value=010", Wanted("constant", (("value", "10.0"),))),  # octal in a prototxt
        ("constant:+.5", Wanted("constant", (("value", "0.5"),))),
        ("msra:variance_norm=average", Wanted("msra", (("variance_norm", "AVERAGE"),))),
        ("bilinear", Wanted("bilinear")),
    ],
)
def test_reads_plain_policies(text: str, wanted: Wanted) -> None:
    assert parse_policy(text).choose(Site(None)) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("he", "unknown filler policy 'he'; expected one of bilinear, constant, .*, auto, explicit"),
        ("gaussian", r"lacks std; write gaussian:std=NUMBER"),
        ("gaussian:std=0", "std of a gaussian filler: expected a number above 0, found '0'"),
        ("gaussian:std=nan", "expected a number above 0"),
        ("gaussian:std=0.1,sparse=1.5", "expected an integer, found '1.5'"),
        ("uniform:min=0", "lacks max"),
        ("uniform:min=2,max=1", "min must not be above max"),
        ("xavier:std=1", "a xavier filler has no field 'std'; expected variance_norm"),
        ("bilinear:value=1", "a bilinear filler has no field 'value'; it takes none"),
        ("xavier:variance_norm=fan", "variance_norm: expected one of fan_in, fan_out, average, found 'fan'"),
        ("explicit:he", "unknown filler policy 'he'"),
        (3, "filler policy: expected a text such as 'gaussian:std=0.01', found 3"),
    ],
)
def test_says_what_is_wrong_with_a_policy(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_policy(text)


def test_variance_norm_is_written_where_it_counts() -> None:
    norm = (("variance_norm", "FAN_OUT"),)
    assert parse_policy("xavier", "fan_out").choose(Site(None)) == Wanted("xavier", norm)
    assert parse_policy("gaussian:1", "fan_out").choose(Site(None)) == Wanted("gaussian", (("std", "1"),))
    assert parse_policy("auto", "FAN_OUT").choose(Site(None)) == Wanted("xavier", norm)
    own = parse_policy("xavier:variance_norm=average", "fan_out").choose(Site(None))
    assert own == Wanted("xavier", (("variance_norm", "AVERAGE"),))  # what the policy itself says counts
    with pytest.raises(InputError, match="found 'out'"):
        parse_policy("xavier", "out")


def test_only_fillers_that_interpolate_mind_the_channels() -> None:
    """A bilinear filler gives every output that sums over channels the same values."""
    assert parse_policy("xavier").choose(Site(None, mixes=True)) == Wanted("xavier")
    with pytest.raises(Undecided, match="bilinear would make all of its outputs equal; set group and num_output"):
        parse_policy("bilinear").choose(Site(None, mixes=True))


def test_auto_goes_by_the_nonlinearity() -> None:
    def choose(follower: Nonlinearity, norm: str | None = None) -> Wanted | None:
        return parse_policy("auto", norm).choose(Site(None, lambda: follower, lambda: (50, 200)))

    assert choose(LINEAR) == Wanted("xavier")
    assert choose(Nonlinearity(True)) == Wanted("msra")
    leaky = choose(Nonlinearity(True, 0.25))
    assert leaky is not None and leaky.type == "gaussian"
    assert leaky.filler.std == pytest.approx(math.sqrt(2 / (1.25 * 50)), rel=1e-7)
    wide = choose(Nonlinearity(True, 0.25), "average")
    assert wide is not None and wide.filler.std == pytest.approx(math.sqrt(2 / (1.25 * 125)), rel=1e-7)


def test_auto_needs_fans_for_a_slope_only() -> None:
    with pytest.raises(Undecided, match="fans are not known"):
        parse_policy("auto").choose(Site(None, lambda: Nonlinearity(True, 0.25)))
    assert parse_policy("auto").choose(Site(None, lambda: Nonlinearity(True))) == Wanted("msra")


def test_explicit_writes_numbers_that_read_back_as_caffe_computes_them() -> None:
    site = Site(Filler("xavier", variance_norm="FAN_OUT"), fans=lambda: (7, 11))
    wanted = parse_policy("explicit").choose(site)
    scale = np.float32(np.sqrt(np.float32(3) / np.float32(11)))
    assert wanted is not None
    assert dict(wanted.fields) == {"min": str(-scale), "max": str(scale)}
    assert np.float32(wanted.filler.max) == scale
    msra = parse_policy("explicit:msra").choose(site)
    assert msra is not None and np.float32(msra.filler.std) == np.float32(np.sqrt(np.float32(2) / np.float32(7)))
    assert parse_policy("explicit:constant:3").choose(site) == Wanted("constant", (("value", "3"),))


@pytest.mark.parametrize("current", [None, Filler("gaussian", std=0.1), Filler("bilinear"), Filler("forks_own")])
def test_explicit_leaves_what_is_explicit(current: Filler | None) -> None:
    assert parse_policy("explicit").choose(Site(current)) is None


def test_the_effect_of_a_filler_is_what_its_type_reads() -> None:
    assert same_effect(Filler("xavier", std=0.03), Filler("xavier"))
    assert not same_effect(Filler("xavier", variance_norm="FAN_OUT"), Filler("xavier"))
    assert same_effect(Filler("gaussian", std=0.1, value=5), Filler("gaussian", std=float(np.float32(0.1))))
    assert not same_effect(Filler("gaussian", std=0.1), Filler("gaussian", std=0.1, mean=0.1))
    assert not same_effect(Filler("xavier", sparse=3), Filler("xavier"))
    assert same_effect(Filler("forks_own"), Filler("forks_own"))
