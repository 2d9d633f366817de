"""What the numbers of a sweep say together, and that memory does not grow with the number of trials."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from caffestat.sweeps import Sweep, Trial
from caffestat.sweeps.findings import Choice, grids, swept
from caffestat.sweeps.rows import Row
from caffestat.sweeps.summary import Summary


def rows(gain: float, loss: float | None = None, accuracy: float = 0.5) -> list[Row]:
    """Return the rows of a trial whose signal and gradient change by a factor from layer to layer."""
    found = [Row(0, depth, f"l{depth}", f"l{depth}", kind, gain**depth) for depth in range(3) for kind in ("x", "dx")]
    found += [Row(0, depth, f"l{depth}", "0", "w", 1.0) for depth in range(3)]
    if loss is not None:
        found += [Row(0, -1, "", "", "loss", 9.0), Row(4, -1, "", "", "loss", 2 * loss)]
        found += [Row(5, -1, "test", "", "loss", loss), Row(5, -1, "test", "accuracy", "output", accuracy)]
    return [*found, Row(0, -1, "", "", "seconds", 0.5)]


def summed(trials: Iterator[tuple[Trial, list[Row]]], seeds: int | None = None) -> Summary:
    summary = Summary(seeds)
    for trial, found in trials:
        summary.add(trial, found)
    return summary


def of_variants(count: int, seeds: int = 2) -> Summary:
    """Return a summary in which variant n is the n-th best."""
    pairs = ((Trial("n", seed, f"f{n}"), rows(1 + n / 100)) for n in range(count) for seed in range(seeds))
    return summed(pairs, seeds)


def test_the_best_variants_keep_their_numbers_and_all_keep_their_place() -> None:
    summary = of_variants(130)
    assert [variant.filler for variant in summary.variants()] == [f"f{n}" for n in range(100)]
    assert summary.dropped == 30
    assert [choice.variant.filler for choice in summary.choices()] == [f"f{n}" for n in range(130)]
    assert summary.choices()[120].forward == pytest.approx(2.2**2)
    assert (summary.trials, summary.seconds) == (260, 130.0)


def test_a_variant_that_is_not_complete_keeps_its_numbers() -> None:
    pairs = [(Trial("n", 0, f"f{n}"), rows(2 + n)) for n in range(150)]
    summary = summed(iter(pairs), seeds=2)
    assert len(summary.variants()) == 150
    late = [(Trial("n", 1, f"f{n}"), rows(2 + n)) for n in range(150)]
    for trial, found in late:
        summary.add(trial, found)
    assert len(summary.variants()) == 100
    assert all(spread.count == 2 for spread in summary.values.values())


def test_trials_of_a_dropped_variant_are_counted_and_change_nothing() -> None:
    summary = of_variants(130)
    before = summary.choices()
    summary.add(Trial("n", 7, "f129"), rows(1.0))
    assert summary.choices() == before
    assert summary.trials == 261


def test_memory_does_not_grow_with_the_number_of_trials() -> None:
    """Twenty times as many seeds take as much; of further variants a kilobyte stays, their place in the order."""

    def peak(variants: int, seeds: int) -> int:
        tracemalloc.start()
        try:
            of_variants(variants, seeds)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    base = peak(100, 2)
    assert peak(100, 40) < 1.3 * base
    assert peak(1000, 2) - base < 1000 * 900


def test_failed_trials_are_counted_and_the_first_are_told() -> None:
    summary = Summary(seeds=3)
    for n in range(1000):
        summary.add(Trial("n", n % 3, f"f{n // 3}"), [Row(0, -1, "", "", "error", math.nan, f"e{n}")])
    assert (summary.failed, len(summary.errors), summary.trials) == (1000, 100, 1000)
    assert summary.errors[-1][1] == "e99"
    assert summary.variants() == summary.choices() == []


def test_trained_variants_are_ordered_by_the_loss_of_the_test_net() -> None:
    trials = [(Trial("n", seed, f, iterations=5), rows(1, loss, 0.9 - loss + seed / 10))
              for f, loss in (("a", 0.7), ("b", 0.3)) for seed in range(2)]  # fmt: skip
    best, worst = summed(iter(trials)).choices()
    assert (best.variant.filler, best.loss, worst.loss) == ("b", 0.3, 0.7)
    mean, deviation = best.outputs["test accuracy"]
    assert (mean, deviation) == (pytest.approx(0.65), pytest.approx(math.sqrt(0.005)))
    assert best.reason == "mean loss 0.3 at the end, test accuracy 0.65 ±0.071"


def test_each_number_is_taken_at_its_own_last_iteration() -> None:
    summary = summed(iter([(Trial("n", 0, iterations=5), rows(1, 0.5))]))
    (variant,) = summary.variants()
    last = {(value.kind, value.layer, value.name): value.iteration for value in summary.of(variant)}
    assert last["loss", "", ""] == 4
    assert last["output", "test", "accuracy"] == last["loss", "test", ""] == 5
    assert last["x", "l2", "l2"] == 0


def choices(**swept_values: Any) -> list[Choice]:
    """Return choices whose forward factor is the number of the trial, the smallest first."""
    trials = Sweep(["n"], (0,), **swept_values).trials()
    return [Choice(trial, forward, 1.0) for forward, trial in enumerate(trials, 1)]


def test_a_grid_has_a_cell_for_each_pair_of_values() -> None:
    found = choices(fillers=["a", "b"], rates=[0.1, 0.01, 10.0])
    assert swept(found) == {"filler": ("a", "b"), "lr": ("0.01", "0.1", "10")}
    forward, backward = grids(found)
    assert (forward.rows, forward.columns, forward.others) == ("filler", "lr", False)
    assert forward.cells == ((2, 1, 3), (5, 4, 6))
    assert set(sum(backward.cells, ())) == {1.0}
    assert "|dx|" in backward.title


def test_a_grid_of_two_among_three_parameters_has_the_best_of_the_third() -> None:
    found = choices(fillers=["a", "b"], widths=[1.0, 2.0], changes={"c.std": ["1", "2"]})
    pairs = {(grid.rows, grid.columns): grid for grid in grids(found) if "|x|" in grid.title}
    assert list(pairs) == [("filler", "c.std"), ("filler", "width"), ("c.std", "width")]
    assert pairs["filler", "width"].cells == ((1, 2), (5, 6))
    assert pairs["filler", "c.std"].cells == ((1, 3), (5, 7))
    assert all(grid.others for grid in pairs.values())


def test_pairs_of_values_that_no_variant_has_are_empty_cells() -> None:
    grid, _ = grids([choice for choice in choices(fillers=["a", "b"], widths=[1.0, 2.0]) if choice.forward != 3])
    assert grid.cells == ((1, 2), (None, 4))


def test_one_swept_parameter_has_no_grid() -> None:
    assert list(grids(choices(fillers=["a", "b", "c"]))) == []
