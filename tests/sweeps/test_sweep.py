"""Running trials: their numbers, what is stored and resumed, and processes that die."""

from __future__ import annotations

import math
import os
import pickle
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import caffestat
from caffestat.cli import main
from caffestat.errors import InputError
from caffestat.report.sweep_text import lines
from caffestat.sweeps import Sweep, Trial
from caffestat.sweeps.bench import Bench, Settings
from caffestat.sweeps.executors import _Queue as Queue
from caffestat.sweeps.executors import on_processes
from caffestat.sweeps.rows import Row, pack, unpack
from caffestat.sweeps.store import Store, stored
from caffestat.sweeps.summary import Summary

from .nets import NET, SOLVER

pytest.importorskip("pyarrow")

SETTINGS = Settings({"tiny": (NET.encode(),)})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def numbers(rows: list[Row]) -> list[tuple[Any, ...]]:
    return [(row.layer, row.name, row.kind, row.value) for row in rows if row.kind != "seconds"]


def test_a_trials_numbers_are_those_of_analyze(folder: Path) -> None:
    rows = Bench(SETTINGS).run(Trial("tiny", 5))
    report = caffestat.analyze("tiny.prototxt", seed=5, device="cpu")
    tops = {(layer.name, top.name): top.mean_abs for layer in report.layers for top in layer.tops}
    assert {(r.layer, r.name): r.value for r in rows if r.kind == "x"} == pytest.approx(tops, rel=1e-5)
    diffs = {(layer.name, str(p.index)): p.diff_mean_abs for layer in report.layers for p in layer.params}
    assert {(r.layer, r.name): r.value for r in rows if r.kind == "dw"} == pytest.approx(diffs, rel=1e-4)


def test_what_is_compiled_serves_other_seeds_and_fillers_alike() -> None:
    trials = [Trial("tiny", 1), Trial("tiny", 2, "msra"), Trial("tiny", 1), Trial("tiny", 1, width=2)]
    shared = Bench(SETTINGS)
    for trial in trials:
        assert numbers(shared.run(trial)) == numbers(Bench(SETTINGS).run(trial))
    assert len(shared._runners) == 2


def test_a_trial_that_fails_is_a_row(folder: Path) -> None:
    *_, error, seconds = Bench(SETTINGS).run(Trial("tiny", 1, "gaussian:std=-1"))
    assert (error.kind, seconds.kind) == ("error", "seconds")
    assert "std" in error.text
    summary = caffestat.sweep("tiny.prototxt", seeds=[1, 2], fillers=["xavier", "gaussian:std=-1"])
    assert (summary.trials, len(summary.errors)) == (4, 2)


def test_the_net_may_come_from_the_standard_input() -> None:
    result = CliRunner().invoke(main, ["sweep", "--workers", "1", "--seeds", "1,2", "-"], input=NET)
    assert (result.exit_code, result.stdout.splitlines()[0][:8]) == (0, "2 trials")


@pytest.mark.parametrize(("fillers", "code"), [("xavier,gaussian:std=-1", 0), ("gaussian:std=-1", 2)])
def test_a_sweep_without_results_fails(folder: Path, fillers: str, code: int) -> None:
    command = ["sweep", "--workers", "1", "--no-predict", "--filler", fillers, "tiny.prototxt"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == code
    expected = "error: tiny.prototxt: no trial succeeded; the first failed with: .*std.*\n"
    assert re.fullmatch(expected if code else "", result.stderr)


def test_what_no_one_expected_is_a_row_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr("caffestat.sweeps.bench.from_net", fail)
    error, seconds = Bench(SETTINGS).run(Trial("tiny", 1))
    assert (error.kind, error.text, seconds.kind) == ("error", "KeyError: 'lost'", "seconds")


def test_a_device_that_is_not_there_is_told_for_each_trial(folder: Path) -> None:
    summary = caffestat.sweep("tiny.prototxt", seeds=[1, 2], device="cuda:99")
    assert summary.failed == 2
    assert "cuda" in summary.errors[0][1]
    with pytest.raises(InputError, match="device: expected one of"):
        caffestat.sweep("tiny.prototxt", device="gpu")


def test_quick_trials_travel_together_and_slow_ones_alone() -> None:
    def results(seconds: float, count: int) -> list[Any]:
        return [(Trial("n", n), [Row(0, -1, "", "", "seconds", seconds)]) for n in range(count)]

    queue = Queue(Trial("n", seed) for seed in range(60))
    sizes = []
    for seconds in (0.001, 0.125, 30.0, 0.0):
        batch = queue.take()
        assert batch is not None
        sizes.append(len(batch))
        queue.learn(results(seconds, len(batch)))
    assert sizes == [1, 16, 4, 1]
    batch = queue.take()
    assert batch is not None and len(batch) == 16
    assert queue.give_back(batch, "died") == []
    rest: list[int] = []
    while batch := queue.take():
        rest += [trial.seed for trial in batch]
    assert sorted(rest) == list(range(22, 60))
    assert rest[-16:] == list(range(22, 38))  # what was given back comes last


def test_a_trial_whose_workers_die_is_an_error_that_says_why() -> None:
    trial = Trial("n", 3)
    queue = Queue([trial])
    for _ in range(2):
        assert queue.give_back((trial,), "the worker died") == []
    ((found, (error, seconds)),) = queue.give_back((trial,), "the worker died")
    assert (found, error.text, seconds.kind) == (trial, "the worker died; tried 3 times", "seconds")


def test_training_trials(folder: Path) -> None:
    summary = caffestat.sweep("solver.prototxt", seeds=[3], rates=[0.1, 0.0], iterations=4)
    assert summary.errors == []
    losses: dict[float | None, list[float]] = {0.1: [], 0.0: []}
    weights = []
    for value, spread in summary.values.items():
        if value.kind == "loss":
            losses[value.variant.rate].append(spread.mean)
        if (value.variant.rate, value.layer, value.kind, value.name) == (0.1, "fc", "w", "0"):
            weights.append(spread.mean)
    assert len(losses[0.1]) == len(losses[0.0]) == len(set(weights)) == 4
    assert losses[0.1][-1] < losses[0.1][0]
    assert summary.choices()[0].variant.rate == 0.1


def test_a_net_needs_a_rate_to_train(folder: Path) -> None:
    summary = caffestat.sweep("tiny.prototxt", seeds=[3], iterations=2)
    assert "needs a learning rate: --lr 0.01" in summary.errors[0][1]
    assert caffestat.sweep("tiny.prototxt", seeds=[3], iterations=2, rates=[0.1]).errors == []


def test_spreads_over_the_seeds(folder: Path) -> None:
    summary = caffestat.sweep("tiny.prototxt", seeds=range(6))
    drawn = [numbers(Bench(SETTINGS).run(Trial("tiny", seed))) for seed in range(6)]
    fc = [value for rows in drawn for layer, name, kind, value in rows if (layer, name, kind) == ("fc", "fc", "x")]
    (spread,) = (s for v, s in summary.values.items() if (v.layer, v.name, v.kind) == ("fc", "fc", "x"))
    assert (spread.count, spread.least, spread.most) == (6, min(fc), max(fc))
    assert spread.mean == pytest.approx(np.mean(fc))
    assert spread.deviation == pytest.approx(np.std(fc, ddof=1))


def test_the_filler_that_keeps_the_signal_comes_first(folder: Path) -> None:
    summary = caffestat.sweep("tiny.prototxt", seeds=range(3), fillers=["gaussian:std=0.001", "msra"])
    best, worst = summary.choices()
    assert (best.variant.filler, worst.variant.filler) == ("msra", "gaussian:std=0.001")
    text = "\n".join(lines(summary))
    assert "6 trials" in text
    assert text.index("tiny.prototxt · msra: mean |x| changes") < text.index("gaussian:std=0.001: mean |x| changes")


def test_the_signal_against_the_width(folder: Path) -> None:
    """Weights of constant size make the last layer grow with the number of its inputs; xavier's do not."""
    changes = {"fc.weight_filler.type": ["gaussian"], "fc.weight_filler.std": ["0.1"]}
    grows = caffestat.sweep("tiny.prototxt", seeds=range(8), widths=[1, 4, 16], changes=changes)
    slopes = {slope.layer: slope for slope in grows.slopes()}
    assert slopes["fc"].slope == pytest.approx(0.5, abs=0.15)
    assert slopes["fc"].moves
    assert not slopes["conv1"].moves
    (line,) = (line for line in lines(grows) if line.startswith("fc ") and line.endswith("depends on the width"))
    assert line.endswith("<- depends on the width")


def test_results_are_stored_and_finished_trials_not_run_again(folder: Path) -> None:
    first = caffestat.sweep("tiny.prototxt", seeds=range(4), output="out")
    with pytest.raises(InputError, match="already holds results; use --resume"):
        caffestat.sweep("tiny.prototxt", seeds=range(4), output="out")
    ran: list[int] = []
    again = caffestat.sweep(
        "tiny.prototxt", seeds=range(6), output="out", resume=True, progress=lambda done, count: ran.append(done)
    )
    assert (first.trials, again.trials, ran) == (4, 6, [5, 6])
    store = Store(folder / "out", resume=True)
    assert sorted(trial.seed for trial, _ in store.results()) == list(range(6))
    assert len(store.finished()) == 6
    whole = caffestat.sweep("tiny.prototxt", seeds=range(6))
    for value, spread in whole.values.items():
        assert again.values[value].mean == pytest.approx(spread.mean)


def test_files_that_are_no_results_are_told_of(folder: Path) -> None:
    caffestat.sweep("tiny.prototxt", output="out")
    whole = (folder / "out" / "part-000000.parquet").read_bytes()
    for name, data in (("part-notes.parquet", b"mine"), ("part-000001.parquet", whole[:2000])):
        (folder / "out" / name).write_bytes(data)
        with pytest.raises(InputError, match=rf"^out/{name}: holds no results of a sweep, or is damaged"):
            caffestat.sweep("tiny.prototxt", output="out", resume=True)
        (folder / "out" / name).unlink()


def test_two_sweeps_never_write_to_one_folder(folder: Path) -> None:
    with stored(Path("out")), pytest.raises(InputError, match=r"^out: another process writes to it"):
        caffestat.sweep("tiny.prototxt", output="out")
    assert caffestat.sweep("tiny.prototxt", output="out").trials == 1


def test_stored_trials_come_back_as_they_were(tmp_path: Path) -> None:
    trial = Trial("n", 3, "msra", (("a.b", "1"),), 0.5, None, "Adam", 7)
    end = Row(0, -1, "", "", "seconds", 1.5)
    rows = [Row(2, 4, "conv", "c", "x", 0.25), Row(0, -1, "", "", "error", math.nan, "why"), end]
    store = Store(tmp_path)
    (tmp_path / "part-000000.parquet").write_bytes(b"of another program")
    store.append([(trial, rows)])
    assert (tmp_path / "part-000000.parquet").read_bytes() == b"of another program"
    ((found, back),) = store.results()
    assert found == trial
    assert (back[0], back[1].text, back[2]) == (rows[0], "why", end)


def test_results_travel_in_a_small_form_and_come_back_as_they_were() -> None:
    rows = [Row(0, n, f"layer {n}", "x", "x", n / 3) for n in range(30)] + [Row(0, -1, "", "", "error", 1.5, "why")]
    results = [(Trial("n", seed), rows) for seed in range(16)] + [(Trial("m", 1), rows[:2])]
    travelled = pickle.dumps(pack(results))
    assert unpack(pickle.loads(travelled)) == results
    assert len(travelled) < 16 * 8 * len(rows) + 4000
    assert math.isnan(unpack(pack([(Trial("n", 1), [Row(0, 0, "", "", "x", math.nan)])]))[0][1][0].value)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="finds processes in /proc")
def test_no_trial_is_lost_or_counted_twice_when_processes_die() -> None:
    sweep = Sweep(["tiny"], tuple(range(150)), ("xavier", "msra"))
    random, killed, results = np.random.default_rng(1), set[int](), list[Any]()
    for result in on_processes(SETTINGS, sweep.trials(), 2):
        results.append(result)
        if len(results) % 50 == 0 and len(killed) < 4:
            pid = int(random.choice([pid for pid in children() if pid not in killed]))
            os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    assert len(killed) == 4
    assert sorted(trial.id for trial, _ in results) == sorted(trial.id for trial in sweep.trials())
    assert all(row.kind != "error" for _, rows in results for row in rows)


def children() -> Iterator[int]:
    """Yield the processes that run trials: they are forked from one that this one has started."""
    parents = dict(forked())
    return (pid for pid, parent in parents.items() if parents.get(parent) == os.getpid())


def forked() -> Iterator[tuple[int, int]]:
    """Yield the processes from which others are forked, and those that are, each with its parent."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rsplit(")", 1)[1].split()[1])
            command = (path.parent / "cmdline").read_bytes()
        except (OSError, ValueError):
            continue
        if b"multiprocessing.forkserver" in command:
            yield int(path.parent.name), parent


def test_empty_sweeps_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="seeds is empty"):
        caffestat.sweep("tiny.prototxt", seeds=[])
    with pytest.raises(InputError, match="widths: expected numbers above 0"):
        caffestat.sweep("tiny.prototxt", widths=[0])
    with pytest.raises(InputError, match=r"none\.prototxt"):
        caffestat.sweep("none.prototxt")
    with pytest.raises(InputError, match="workers: expected an integer of 1 or more"):
        caffestat.sweep("tiny.prototxt", workers=0)


def test_summaries_count_what_is_not_finite() -> None:
    summary = Summary()
    for seed, value in enumerate((1.0, math.inf, 3.0)):
        summary.add(Trial("n", seed), [Row(0, 1, "a", "a", "x", value), Row(0, 1, "a", "0", "w", 1.0)])
    (spread,) = (s for v, s in summary.values.items() if v.kind == "x")
    assert (spread.count, spread.lost, spread.mean) == (2, 1, 2.0)
    assert summary.choices()[0].forward == math.inf


@pytest.mark.parametrize("method", ["orthogonal", "lsuv", "krahenbuhl:between=0", "autoinit"])
def test_methods_as_fillers(folder: Path, method: str) -> None:
    """A trial's weights are those that the method gives with its seed."""
    summary = caffestat.sweep("tiny.prototxt", seeds=range(3), fillers=["xavier", method])
    assert not summary.errors
    weights = {
        (value.variant.filler, value.layer): spread.mean
        for value, spread in summary.values.items()
        if (value.kind, value.name) == ("w", "0")
    }
    assert len(weights) == 6
    filled = caffestat.fill("tiny.prototxt", filler=method, seed=0)
    expected = {p.layer: float(np.abs(p.values).mean()) for p in filled.params if p.role == "weight"}
    for layer, value in expected.items():
        assert weights[method, layer] == pytest.approx(value, rel=0.3), layer
    assert any(abs(weights[method, layer] / weights["xavier", layer] - 1) > 0.05 for layer in expected)


def test_methods_start_the_training(folder: Path) -> None:
    rows = Bench(Settings({"s": (SOLVER.encode(), NET.encode())})).run(Trial("s", 3, "lsuv", iterations=1))
    first = {row.layer: row.value for row in rows if (row.kind, row.name, row.iteration) == ("x", "conv1", 0)}
    assert first["conv1"] == pytest.approx(0.8, abs=0.05)  # E|x| of N(0, 1)


def test_a_method_that_cannot_be_read_is_an_error_of_its_trial(folder: Path) -> None:
    [error, _] = Bench(SETTINGS).run(Trial("tiny", 1, "lsuv:gain=2"))
    assert "lsuv has no field 'gain'" in error.text


def test_the_prediction_s_band_stands_beside_the_spread(folder: Path) -> None:
    summary = caffestat.sweep("tiny.prototxt", seeds=range(40), fillers=["msra"], predict=True)
    inside = []
    for value, band in summary.bands.items():
        spread = summary.values[value]
        if value.kind == "x" and value.layer in ("conv1", "dw", "fc"):
            assert band.deviation is not None
            inside.append(abs(spread.mean - band.mean) < 3 * band.deviation)
            assert 0.3 < spread.deviation / band.deviation < 3, value
    assert inside == [True] * len(inside)
    assert len(inside) >= 3
    head, *_ = (line for line in lines(summary) if line.startswith("layer"))
    assert head.endswith("predicted")
    assert any("±" in line for line in lines(summary) if line.startswith("conv1"))
    assert not caffestat.sweep("tiny.prototxt", seeds=range(2), fillers=["lsuv"], predict=True).bands


def test_the_prediction_s_band_is_as_wide_as_the_spread_of_real_nets() -> None:
    net = str(Path(__file__).resolve().parents[2] / "models" / "lenet.prototxt")
    summary = caffestat.sweep(net, seeds=range(24), fillers=["msra"], batch=4, predict=True)
    ratios = {
        value.layer: summary.values[value].deviation / band.deviation
        for value, band in summary.bands.items()
        if value.kind == "x" and band.deviation is not None
    }
    assert set(ratios) == {"data", "conv1", "pool1", "conv2", "pool2", "ip1", "relu1", "ip2"}
    assert all(0.5 < ratios[layer] < 2 for layer in ("conv1", "pool1", "conv2", "pool2")), ratios
    assert all(0.3 < ratio < 4 for ratio in ratios.values()), ratios
    assert [band.deviation for value, band in summary.bands.items() if value.name == "loss"] == [None]


PLUGIN = """
from caffestat.layers import Layer, layer

@layer("SweepDouble")
class SweepDouble(Layer):
    \"\"\"y = 2x\"\"\"

    def tops(self, bottoms):
        return (bottoms[0],)

    def lower(self, g, bottoms, params):
        return (g.emit("Add", bottoms[0], bottoms[0]),)
"""


def test_other_processes_load_the_plugins_that_this_one_has(folder: Path) -> None:
    (folder / "double.py").write_text(PLUGIN)
    caffestat.load_plugin("double.py")
    double = 'layer { name: "double" type: "SweepDouble" bottom: "fc" top: "double" }\n'
    (folder / "double.prototxt").write_text(NET + double)
    for workers in (1, 2):
        summary = caffestat.sweep("double.prototxt", seeds=[1, 2], workers=workers)
        assert summary.errors == []
        means = {value.layer: spread.mean for value, spread in summary.values.items() if value.kind == "x"}
        assert means["double"] == pytest.approx(2 * means["fc"])


def test_the_dialect_decides_what_a_type_of_forks_is(folder: Path) -> None:
    assert Settings({}, dialect="ssd").options("n").dialect == "ssd"
    with pytest.raises(InputError, match="dialect"):
        caffestat.sweep("tiny.prototxt", dialect="none-such")
