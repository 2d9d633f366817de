"""The pages of `diagnose`, `train`, `compare` and `check`, in the browser."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import caffestat
from caffestat.cli import main
from caffestat.logs import Key
from caffestat.report.comparison import Pair
from caffestat.report.history import Curve, History
from caffestat.report.html import page as html_page
from caffestat.report.html.from_sweep import _charts
from caffestat.training.events import EndTest, Iteration, Output

from .conftest import Open
from .pages import RELU_XAVIER, SIGMOID_GAUSSIAN

SOLVER = """\
net: "{net}"
base_lr: 0.05 lr_policy: "step" gamma: 0.5 stepsize: 3 max_iter: 6 display: 1 debug_info: true random_seed: 3
snapshot_after_train: false
"""
NET = """\
name: "small"
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 5 dim: 3 } shape { dim: 5 }
  data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "tanh" type: "TanH" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc2" bottom: "label" top: "loss" }
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return `run(*arguments)`, in a folder with a net, its solver, and the log of its training."""
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER.format(net="net.prototxt"))
    runner = CliRunner()
    return lambda *arguments: runner.invoke(main, list(arguments), catch_exceptions=False)


def test_train_writes_a_page_with_curves(run: Run, open_page: Open) -> None:
    settings = ("--data", "synthetic", "--stats", "2", "--stats-file", "s.npz", "--report", "train.html")
    result = run("train", "solver.prototxt", *settings)
    assert result.exit_code == 0, result.output
    page = open_page(Path("train.html").read_text())
    assert page.problems == []
    titles = page.locator("#training figcaption > span:first-child").all_text_contents()
    assert titles[:4] == ["loss", "learning rate", "mean |x| of the tops", "mean |dx| of the bottoms"]
    assert "mean |update| ÷ mean |w|" in titles
    assert page.evaluate("caffestat.data.history.iterations") == [0, 2, 4]
    curves = page.evaluate("caffestat.data.history.curves")
    assert curves["rate"]["values"] == pytest.approx([0.05] * 3 + [0.025] * 3)
    assert page.locator("#source").count() == 1


def test_rules_that_fired_are_findings_of_the_run(run: Run, open_page: Open) -> None:
    Path("net.prototxt").write_text(NET.replace('"xavier"', '"constant"'))
    result = run("train", "solver.prototxt", "--data", "synthetic", "--watch", "report", "--report", "p.html")
    fired = [line.removeprefix("watch: ") for line in result.stderr.splitlines() if line.startswith("watch: ")]
    page = open_page(Path("p.html").read_text())
    assert fired
    assert page.locator("#findings .finding > div:nth-child(2)").all_text_contents()[: len(fired)] == fired
    assert "not run" not in (page.locator("#about").text_content() or "")


def test_heat_maps_cover_nothing_and_a_constant_rate_is_not_shown_as_0(run: Run, open_page: Open) -> None:
    layer = 'layer {{ name: "sum{}" type: "Power" bottom: "fc1" top: "fc1" }}'
    net = NET.replace('layer { name: "fc2"', "\n".join(map(layer.format, range(20))) + 'layer { name: "fc2"')
    Path("net.prototxt").write_text(net)
    Path("solver.prototxt").write_text(SOLVER.format(net="net.prototxt").replace('"step"', '"fixed"'))
    run(
        "train", "solver.prototxt", "--data", "synthetic", "--stats", "1", "--stats-file", "s.npz", "--report", "p.html"
    )
    page = open_page(Path("p.html").read_text())
    assert page.problems == []
    assert page.keeps_charts_inside()
    ranges = page.evaluate("Bokeh.documents.flatMap(d => d.roots()).map(p => [p.y_range.start, p.y_range.end])")
    assert pytest.approx([0, 0.1]) in ranges


def test_diagnose_shows_heat_maps_and_a_slider(run: Run, open_page: Open) -> None:
    Path("train.log").write_text(run("train", "solver.prototxt", "--data", "synthetic").stdout)
    result = run("diagnose", "--net", "net.prototxt", "--format", "html", "-o", "d.html", "train.log")
    assert result.exit_code == 0, result.output
    page = open_page(Path("d.html").read_text())
    assert page.problems == []
    titles = page.locator("#training figcaption > span:first-child").all_text_contents()
    assert titles == ["loss", "mean |x| of the tops", "mean |dx| of the bottoms", "mean |dw| ÷ mean |w|"]
    history = page.evaluate("caffestat.data.history")
    assert history["iterations"][:3] == [0, 1, 2]
    assert page.locator("#slider-at").text_content() == "0"
    row = 3  # fc2, whose signal grows as it learns
    before = page.evaluate(f"caffestat.colour({row})")
    page.locator("#slider").fill(str(len(history["iterations"]) - 2))
    assert page.locator("#slider-at").text_content() == str(history["iterations"][-2])
    assert page.evaluate(f"caffestat.colour({row})") != before
    assert page.evaluate("caffestat.data.scales.forward") == history["scales"]["forward"][-2]
    page.select_option("#mode", "backward")
    assert page.evaluate("caffestat.data.scales.backward") == history["scales"]["backward"][-2]


def test_compare_shows_both_sides_and_the_differences(run: Run, open_page: Open) -> None:
    log = run("debug", "net.prototxt").stdout
    Path("a.log").write_text(log)
    Path("b.log").write_text(run("debug", "--seed", "9", "net.prototxt").stdout)
    assert run("compare", "--format", "html", "-o", "same.html", "a.log", "a.log").exit_code == 0
    assert run("compare", "--format", "html", "-o", "c.html", "net.prototxt", "b.log").exit_code == 1
    same = open_page(Path("same.html").read_text())
    assert "No number differs" in same.locator("#comparison").text_content()
    narrow = open_page(Path("c.html").read_text(), width=320)
    assert narrow.evaluate("document.documentElement.scrollWidth") == 320
    page = open_page(Path("c.html").read_text())
    assert (page.problems, same.problems) == ([], [])
    found = page.evaluate("caffestat.data.comparison")
    shown = page.locator("#comparison tbody tr").count()
    assert shown == found["count"] == len(found["differences"]) > 5
    ratios = page.locator("#comparison tbody td:last-child span").evaluate_all("all => all.map(e => +e.dataset.value)")
    assert ratios == pytest.approx([d["b"] / d["a"] for d in found["differences"] if d["a"]], rel=1e-8)
    assert page.locator("#mode").evaluate("e => e.value") == "ratio"
    assert page.locator("#depth figure").count() == 4


def test_compare_draws_the_losses_of_two_runs_on_the_same_axes(run: Run, open_page: Open) -> None:
    text = SOLVER.format(net="net.prototxt").replace("debug_info: true", "")
    for name, rate in (("a.log", "0.05"), ("b.log", "0.5")):
        Path("solver.prototxt").write_text(text.replace("0.05", rate))
        Path(name).write_text(run("train", "solver.prototxt", "--data", "synthetic").stdout)
    assert run("compare", "--format", "html", "-o", "c.html", "a.log", "b.log").exit_code == 1
    page = open_page(Path("c.html").read_text())
    assert page.problems == []
    assert page.locator("#training figcaption > span:first-child").all_text_contents() == ["loss"]
    drawn = page.evaluate("Bokeh.documents[0].roots()[0].renderers.map(r => [...r.data_source.data.y])")
    a, b = {tuple(line): line for line in drawn}.values()
    assert (len(a), len(b)) == (7, 7)
    assert a[0] == b[0] and a[6] != b[6]


def test_check_shows_findings_and_texts_of_all_files(run: Run, open_page: Open) -> None:
    files = ["relu.prototxt", "sigmoid.prototxt"]
    for file, text in zip(files, (RELU_XAVIER, SIGMOID_GAUSSIAN), strict=True):
        Path(file).write_text(text)
    result = run("check", "--severity", "warning", "--format", "html", "-o", "many.html", *files)
    assert result.exit_code == 1
    page = open_page(Path("many.html").read_text())
    assert page.problems == []
    codes = page.locator("#findings .finding .head").all_text_contents()
    assert [code.split()[2] for code in codes] == ["CS011", "CS016"]
    assert page.locator("#source .lines").count() == 2
    assert page.locator("#source .sign.warning").count() == 2
    assert page.locator("#net").is_hidden()
    run("check", "--severity", "warning", "--format", "html", "-o", "one.html", files[1])
    page = open_page(Path("one.html").read_text())
    page.locator("#findings button").click()
    assert page.locator("#layer-name").text_content() == "conv7"


def test_without_the_extra_one_line_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(html_page, "missing", lambda: "graphlay")
    for arguments in (
        ("analyze", "net.prototxt", "--format", "html", "-o", "x.html"),
        ("check", "net.prototxt", "--format", "html", "-o", "x.html"),
        ("train", "solver.prototxt", "--report", "x.html"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stderr.splitlines() == [
            "error: an HTML report needs graphlay, which is not installed: pip install 'caffestat[report]'"
        ]
    assert caffestat.analyze("net.prototxt", static=True)._repr_html_() is None


def test_a_notebook_gets_a_frame_that_sees_nothing_else(run: Run) -> None:
    frame = caffestat.analyze("net.prototxt", static=True)._repr_html_()
    assert frame is not None and frame.startswith("<iframe ")
    assert 'sandbox="allow-scripts allow-downloads"' in frame
    assert frame.count("<") == 2


def test_links_stay_inside_a_notebooks_frame(run: Run, open_page: Open) -> None:
    frame = caffestat.analyze("net.prototxt", static=True)._repr_html_()
    page = open_page(f'<!DOCTYPE html><title>notebook</title><body data-ready="true">{frame}')
    inner = page.page.frame_locator("iframe")
    inner.locator("#sections a", has_text="Layers").click()
    assert inner.locator("#layers:focus").count() == 1
    inner.locator("#layers tbody a").first.click()
    assert inner.locator("#layer:focus h2").text_content() == "data"
    assert page.problems == []


def test_analyze_opens_a_page(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert run("analyze", "--static", "--open", "-o", "x.html", "net.prototxt").exit_code == 0
    assert opened == [Path("x.html").resolve().as_uri()]
    assert Path("x.html").read_text().startswith("<!DOCTYPE html>")


def test_long_runs_keep_their_beginning_and_end_thinned() -> None:
    history = History()
    for iteration in range(5000):
        history.record(iteration, {("top", "a"): float(iteration)})
    kept = list(history.signals)
    assert 200 <= len(kept) <= 400
    assert (kept[0], kept[-1]) == (0, 4992)
    assert {b - a for a, b in pairwise(kept)} == {16}


def test_long_curves_are_thinned() -> None:
    curve = Curve()
    for iteration in range(10_000):
        curve.add(iteration, 1.0)
    assert len(curve.values) <= 4001
    assert curve.iterations[0] == 0
    assert curve.iterations[-1] == 9999


def test_a_ratio_needs_both_sides() -> None:
    key = Key("forward", "l", "top", "b")
    assert Pair(key, 2.0, 3.0).ratio == 1.5
    assert [Pair(key, a, b).ratio for a, b in ((None, 1.0), (0.0, 1.0), (1.0, None))] == [None] * 3


def test_sweep_writes_a_page_with_its_variants(run: Run, open_page: Open) -> None:
    settings = ("--seeds", "0:3", "--filler", "xavier,msra", "--workers", "1", "--report", "sweep.html")
    result = run("sweep", "net.prototxt", *settings)
    assert result.exit_code == 0, result.output
    page = open_page(Path("sweep.html").read_text())
    assert page.problems == []
    titles = page.locator("#depth figcaption > span:first-child").all_text_contents()
    kinds = ["mean |x| of the tops", "mean |dx| of the bottoms", "mean |w| of the params", "mean |dw| of the params"]
    assert titles == kinds
    (about,) = page.evaluate("caffestat.data.about")
    assert about.startswith("6 trials, ")


def test_the_charts_of_a_sweep_hold_the_means_and_the_spread_over_seeds(run: Run) -> None:
    summary = caffestat.sweep("net.prototxt", seeds=range(3))
    chart = next(iter(_charts(summary, summary.variants())))
    assert chart.names == ["data/data", "data/label", "fc1/fc1", "tanh/fc1", "fc2/fc2", "loss/loss"]
    spreads = {value.layer: spread for value, spread in summary.values.items() if value.kind == "x"}
    mean, least, most = (line.values[4] for line in chart.lines)
    assert (mean, least, most) == (spreads["fc2"].mean, spreads["fc2"].least, spreads["fc2"].most)
    assert least is not None and mean is not None and most is not None and least < mean < most


def test_compare_models_on_a_page(run: Run, open_page: Open) -> None:
    for seed in ("1", "2"):
        caffestat.convert("net.prototxt", f"{seed}.onnx", seed=int(seed), phase="test")
    result = run("compare", "1.onnx", "2.onnx", "--format", "html", "-o", "values.html")
    assert result.exit_code == 1, result.output
    page = open_page(Path("values.html").read_text())
    assert page.problems == []
    titles = page.locator("#depth figcaption > span:first-child").all_text_contents()
    assert titles == [
        "values and their errors",
        "signal to quantization noise, dB",
        "cosine of the angle between a and b",
    ]
    assert "the first: fc1 (Gemm)" in page.evaluate("caffestat.data.about").pop()


def test_curves_have_one_value_an_iteration() -> None:
    """Of the loss and an output of that name, of elements of one blob, and of several test nets."""
    history = History()
    outputs = (Output("loss", 2.0, 1), Output("per", 0.25, 0), Output("per", 0.75, 0))
    history.enter(Iteration(7, 3.0, 2.5, outputs, 0.1, None, None, None, False, 0.0, 1))
    history.enter(EndTest(7, 0, outputs, None))
    history.enter(EndTest(7, 1, outputs, None))
    said = {"loss": 2.0, "per[0]": 0.25, "per[1]": 0.75}
    tests = {f"{prefix}{name}": value for prefix in ("test ", "test #1 ") for name, value in said.items()}
    found = {name: curve.values[0] for name, curve in history.curves.items()}
    assert found == {**said, **tests, "loss": 3.0, "rate": 0.1}
    assert all(curve.iterations == [7] for curve in history.curves.values())
