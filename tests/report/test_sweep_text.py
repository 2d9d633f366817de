"""A sweep as text and as comma-separated values."""

from __future__ import annotations

import csv
import io
import math

import pytest

from caffestat.report.sweep_text import lines, render_csv, steps
from caffestat.sweeps import Sweep, Trial
from caffestat.sweeps.rows import Row
from caffestat.sweeps.spread import Band, Value
from caffestat.sweeps.summary import Summary

WIDTHS = (1.0, 2.0, 4.0)


def summary(fillers: tuple[str, ...] = ("a", "b"), iterations: int = 2) -> Summary:
    """Return a sweep in which mean |x| of layer "grows" goes with the square root of the width, from iteration 1 on."""
    found = Summary()
    plan = Sweep(["n"], (1, 2), fillers, widths=WIDTHS, rates=(0.1,), iterations=iterations)
    for trial in plan.trials():
        loss = fillers.index(trial.filler) + trial.width / 10
        rows = [Row(0, -1, "", "", "seconds", 0.25)]
        for step in range(iterations):
            x = trial.width**0.5 if step else 1.0
            rows += [Row(step, 1, "grows", "g", "x", x * trial.seed), Row(step, 0, "data", "d", "x", 1.0)]
            rows += [Row(step, 1, "grows", "0", "w", 1.0), Row(step, -1, "", "", "loss", loss)]
        rows.append(Row(iterations, -1, "test", "accuracy", "output", 0.9 - loss / 10))
        found.add(trial, rows)
    return found


def test_the_coordinate_check_has_a_line_per_layer_and_a_column_per_step() -> None:
    text = list(lines(summary()))
    at = text.index("n · b · lr 0.1: power of the width that mean |x| is proportional to (0: it does not depend on it)")
    assert text[at + 1].split() == ["layer", "iteration", "0", "iteration", "1"]
    assert text[at + 2].split() == ["data", "+0.00", "+0.00"]
    assert text[at + 3].split() == ["grows", "+0.00", "+0.50", "<-", "depends", "on", "the", "width"]


def test_two_parameters_are_a_table() -> None:
    text = list(lines(summary()))
    at = text.index("loss at the end, filler by width:")
    assert [line.split() for line in text[at + 1 : at + 4]] == [
        ["1", "2", "4"], ["a", "0.1", "0.2", "0.4"], ["b", "1.1", "1.2", "1.4"]
    ]  # fmt: skip
    at = text.index("test accuracy, filler by width:")
    assert text[at + 2].split() == ["a", "0.89", "0.88", "0.86"]


def test_outputs_stand_in_the_table_and_in_the_order() -> None:
    text = list(lines(summary()))
    assert [line.split()[:3] for line in text if line.startswith("test ")][:1] == [["test", "accuracy", "0.89"]]
    assert text[text.index("best first:") + 1].endswith("mean loss 0.1 at the end, test accuracy 0.89 ±0")


def test_many_variants_are_cut() -> None:
    found = Summary()
    for n in range(60):
        found.add(Trial("n", 1, f"f{n}"), [Row(0, 1, "l", "l", "x", 1.0)])
    text = list(lines(found))
    assert text[-1] == "  and 10 more"


def test_numbers_that_are_not_finite_are_said() -> None:
    found = Summary()
    found.add(Trial("n", 1), [Row(0, 1, "l", "l", "x", math.inf)])
    assert [line.split() for line in lines(found) if line.startswith("l ")] == [["l", "mean|x|", "not", "finite"]]


def test_csv_has_a_column_per_parameter_and_rows_for_what_is_found() -> None:
    found = summary()
    value = Value(found.variants()[0], 0, 1, "grows", "g", "x")
    found.bands = {value: Band(1.25, 0.5)}
    table = list(csv.DictReader(io.StringIO(render_csv(found))))
    assert {None} & table[0].keys() == set()
    (first,) = (r for r in table if (r["filler"], r["width"], r["iteration"], r["kind"], r["layer"])
                == ("a", "1", "0", "x", "grows"))  # fmt: skip
    assert [first[name] for name in ("mean", "least", "most", "predicted", "predicted_deviation")] == [
        "1.5", "1.0", "2.0", "1.25", "0.5"
    ]  # fmt: skip
    slopes = {(r["filler"], r["iteration"]): r for r in table if (r["kind"], r["layer"]) == ("slope", "grows")}
    assert float(slopes["b", "1"]["mean"]) == pytest.approx(0.5)
    assert slopes["b", "1"]["width"] == ""
    losses = {
        (r["filler"], r["width"]): float(r["mean"]) for r in table if (r["kind"], r["iteration"]) == ("loss", "1")
    }
    assert losses["b", "4"] == pytest.approx(1.4)
    ranges = [r for r in table if r["kind"] == "range_x"]
    assert len(ranges) == 6 and {r["variant"] for r in ranges} == {v.variant for v in found.variants()}


def test_csv_has_no_formulas_and_no_controls() -> None:
    found = Summary()
    found.add(Trial("=n", 1), [Row(0, 1, "=cmd|' /c calc'!A0", "\x1b[2J", "x", 1.0)])
    (first, *_) = csv.DictReader(io.StringIO(render_csv(found)))
    assert first["layer"] == "'=cmd|' /c calc'!A0"
    assert (first["name"], first["variant"][:3]) == (r"\x1b[2J", "'=n")


def test_some_steps_are_shown_the_first_and_the_last_among_them() -> None:
    assert steps([3, 1, 2, 1]) == [1, 2, 3]
    assert steps(range(100), 5) == [0, 25, 50, 74, 99]
