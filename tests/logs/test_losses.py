"""What the values of losses give away."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from caffestat.logs import CAP, Key, LossWatch, Output, Pass, diagnose, diagnosis_lines
from caffestat.logs.losses import describe_constant, multiple_of_cap


def watch(*losses: float, weight: float = 0.0, value: float = 0.0) -> list[tuple[str, int]]:
    """Return rule and line of what is found in these smoothed losses at lines 1, 2, …"""
    found = LossWatch()
    for index, loss in enumerate(losses):
        outputs = [Output("ce", value or loss, weight)] if weight else []
        found.add(Pass(index + 1, iteration=10 * index, loss=loss, outputs=outputs))
    return [(one.rule, one.line) for one in found.signatures()]


def test_the_cap_is_minus_log_of_the_smallest_normal_float() -> None:
    assert f"{CAP:g}" == "87.3365"


@pytest.mark.parametrize(
    ("value", "count"), [(87.3365, 1), (87.34, 0), (174.673, 2), (1746.73, 20), (87.2, 0), (8821, 0)]
)
def test_sums_of_losses_at_the_cap(value: float, count: int) -> None:
    assert multiple_of_cap(value) == count
    assert multiple_of_cap(math.inf) == multiple_of_cap(math.nan) == 0


def test_one_loss_at_the_cap_is_told_at_once_and_a_sum_when_it_stays() -> None:
    assert watch(2.3, 87.3365) == [("loss-cap", 2)]
    assert watch(2.3, 1746.73, 3.0) == []
    assert watch(2.3, 1746.73, 1746.73) == [("loss-cap", 3)]
    assert watch(46.0, 1746.73, weight=20.0, value=87.3365) == [("loss-cap", 1)]


def test_losses_that_are_not_finite() -> None:
    assert watch(2.3, math.inf, math.nan, math.nan) == [("loss-inf", 2), ("loss-nan", 3)]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (2.3026, "ln 10 = 2.3026: the net guesses the same for each of 10 classes"),
        (6.9078, "ln 1000 = 6.9078"),
        (0.693147, "guesses 0.5 for every sample"),
        (13.8629, "20 · ln 2"),
    ],
)
def test_a_constant_loss_is_explained(value: float, words: str) -> None:
    assert words in describe_constant(value)


def test_a_constant_loss_that_is_no_guess() -> None:
    assert describe_constant(2.25) == describe_constant(13.87) == describe_constant(101 * math.log(2)) == ""


def test_a_loss_that_stands_still_at_a_guess_or_where_it_began() -> None:
    assert watch(2.41, *[2.3025, 2.3027] * 5) == [("loss-constant", 9)]
    assert watch(*[5.5] * 8) == [("loss-constant", 8)]
    assert watch(*[2.3026] * 7) == []
    assert watch(*[2.3026] * 9, 2.0, 1.5, 1.0) == []  # it moved on
    assert watch(4.0, 2.0, 1.0, *[0.2] * 20) == []  # it has converged
    assert watch(*[0.6931] * 8) == [("loss-constant", 8)]
    assert watch(*[0.0] * 20) == []


def test_how_still_a_loss_stands_is_relative_to_it() -> None:
    assert watch(*[40.0, 40.07] * 4) == [("loss-constant", 8)]
    assert watch(*[40.0, 40.09] * 4) == []
    assert watch(*[0.2, 0.2009] * 4) == []


def test_a_plain_log_is_judged_by_its_losses() -> None:
    found = diagnose([Pass(line, iteration=line, loss=87.3365) for line in (1, 2)])
    assert not found.is_healthy
    text = "\n".join(diagnosis_lines(found))
    assert "loss at iteration 1, line 1: loss is 87.3365: 87.3365 = -ln(smallest float)" in text
    assert found.outputs["loss"].count == 2


FOLDER = Path(__file__).parent.parent / "golden" / "raw_logs"


@pytest.mark.parametrize("name", ["lenet_like", "rules", "shared_params"])
def test_caffes_own_logs_have_no_signature(name: str) -> None:
    from caffestat.logs import diagnose_log

    assert diagnose_log(str(FOLDER / f"{name}.log")).losses == []


def test_accuracies_and_gradients_are_no_losses() -> None:
    watch = LossWatch()
    for number in range(20):
        outputs = [Output("accuracy", 0.1, 0), Output("ce", 2.0 * 0.9**number, 1)]
        watch.add(Pass(1, iteration=number, outputs=outputs))
    assert watch.signatures() == []
    watch = LossWatch()
    for _ in range(20):
        keys = Key("forward", "acc", "top", "accuracy"), Key("backward", "l", "bottom", "loss_weights")
        watch.add(Pass(1, values=dict.fromkeys(keys, 0.693147), lines=[1, 2]))
    assert watch.signatures() == []


def test_blobs_count_where_the_solver_tells_no_loss() -> None:
    """Signals that a run records beside its losses are not further losses."""
    blob = Pass(1, values={Key("forward", "l", "top", "loss"): 1.38629}, lines=[1])
    told = Pass(1, iteration=0, loss=1.38629, outputs=[Output("loss", 1.38629, 1)])
    for passes, found in (([blob] * 8, 1), ([told, blob] * 7, 0), ([told, blob] * 8, 1)):
        watch = LossWatch()
        for one in passes:
            watch.add(one)
        assert len(watch.signatures()) == found
