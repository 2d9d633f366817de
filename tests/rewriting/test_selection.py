"""Which params a rewrite concerns: those that are named, and of the others those without a reason of their own."""

from __future__ import annotations

import pytest

from caffestat.errors import InputError
from caffestat.fillers import Filler
from caffestat.rewriting.selection import Place, change_of, is_changed

CONV = Place("conv1", "Convolution", "weight")
UP = Place("up", "Deconvolution", "weight", upsamples=True)
FROZEN = Place("conv1", "Convolution", "weight", is_frozen=True)
RECURRENT = Place("lstm", "LSTM", "weight", is_recurrent=True)
XAVIER, BILINEAR = Filler("xavier"), Filler("bilinear")


def chosen(place: Place, current: Filler | None, filler: str = "msra", **more: object) -> str | None:
    """Return the type that a change chooses for a param."""
    policy = change_of(filler, **more).policy(place, current)  # type: ignore[arg-type]
    return policy.type if policy else None


@pytest.mark.parametrize(("place", "current"), [(FROZEN, XAVIER), (RECURRENT, XAVIER), (UP, BILINEAR)])
def test_a_param_with_a_filler_for_a_reason_is_filled_where_it_is_named(place: Place, current: Filler) -> None:
    assert chosen(CONV, XAVIER) == "msra"
    assert chosen(place, current) is None
    assert chosen(place, current, excludes=["other"]) is None  # not named by what is excluded
    assert chosen(place, current, layers=[f"{place.layer[:2]}*"]) == "msra"
    assert chosen(place, current, types=[place.type]) == "msra"


def test_layers_and_types_have_to_match_both() -> None:
    assert chosen(CONV, None, layers=["conv*"], types=["Convolution", "LSTM"]) == "msra"
    assert chosen(CONV, None, layers=["conv*"], types=["LSTM"]) is None
    assert chosen(CONV, None, layers=["fc*"], types=["Convolution"]) is None
    assert chosen(CONV, None, layers=["conv*"], excludes=["*1"]) is None
    assert chosen(CONV, None, excludes=["*2"]) == "msra"


def test_an_initializer_goes_by_its_node_too() -> None:
    place = Place("w", "Conv", "weight", other_name="stem/conv")
    assert [chosen(place, None, layers=[glob]) for glob in ("w", "stem/*", "stem")] == ["msra", "msra", None]


def test_a_filler_that_interpolates_is_for_layers_that_enlarge() -> None:
    assert chosen(UP, XAVIER, "bilinear") == "bilinear"
    assert chosen(CONV, XAVIER, "bilinear") is None
    assert chosen(CONV, XAVIER, "bilinear", layers=["conv1"]) == "bilinear"


def test_biases_and_scales_have_policies_of_their_own() -> None:
    bias, scale = (Place("s", "Scale", role) for role in ("bias", "scale"))
    assert (chosen(bias, None), chosen(bias, None, bias="constant:1")) == (None, "constant")
    assert chosen(scale, None) is None
    assert chosen(scale, None, types=["Scale"]) == "msra"
    assert chosen(scale, None, layers=["s"]) is None


def test_only_params_without_a_filler() -> None:
    assert chosen(CONV, None, only_missing=True) == "msra"
    assert chosen(CONV, XAVIER, only_missing=True) is None


@pytest.mark.parametrize(
    ("more", "selective"),
    [({}, False), ({"layers": ["a"]}, True), ({"types": ["Scale"]}, True), ({"excludes": ["a"]}, True)],
)
def test_what_could_leave_a_layer_out(more: dict, selective: bool) -> None:
    assert change_of("msra", **more).is_selective == selective


def test_a_filler_that_is_the_default_changes_nothing() -> None:
    assert not is_changed(CONV, None, Filler())
    assert not is_changed(Place("s", "Scale", "scale"), None, Filler(value=1.0))
    assert is_changed(CONV, None, XAVIER)
    assert is_changed(CONV, XAVIER, Filler())


def test_a_variance_norm_that_nothing_reads_has_to_exist_all_the_same() -> None:
    with pytest.raises(InputError, match="variance_norm: expected one of"):
        change_of(None, bias="constant:1", variance_norm="out")
