"""The page of `sweep`, in the browser."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import caffestat
from caffestat.cli import main
from caffestat.report.html.from_sweep import render_sweep
from caffestat.sweeps.summary import Summary

from .conftest import Open, Opened
from .pages import HOSTILE

NET = """\
name: "small"
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {
  shape { dim: 5 dim: 3 } shape { dim: 5 }
  data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "fc1" type: "InnerProduct" bottom: "data" top: "fc1"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "fc1" top: "fc1" }
layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "fc2" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc2" bottom: "label" top: "loss" }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.05 lr_policy: "fixed" max_iter: 6 test_iter: 2 test_interval: 9'

Run = Callable[..., Result]


def write_files(folder: Path) -> None:
    (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(SOLVER)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_files(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def summary(tmp_path_factory: pytest.TempPathFactory) -> Summary:
    """Two fillers and two widths over three seeds, trained for two iterations."""
    folder = tmp_path_factory.mktemp("sweep")
    write_files(folder)
    options: dict[str, Any] = {"fillers": ["xavier", "gaussian:std=1"], "widths": [1, 8], "iterations": 2}
    with contextlib.chdir(folder):
        return caffestat.sweep("solver.prototxt", seeds=range(3), predict=True, **options)


@pytest.fixture(scope="module")
def text(summary: Summary) -> str:
    return render_sweep(summary, "solver.prototxt")


@pytest.fixture
def page(text: str, open_page: Open) -> Opened:
    return open_page(text)


def cells(page: Opened, section: str) -> list[list[str]]:
    """Return the texts of a table's lines."""
    return [list(row) for row in page.evaluate(
        "id => [...document.querySelectorAll(`#${id} tbody tr`)].map(r => [...r.children].map(c => c.textContent))",
        section,
    )]  # fmt: skip


def test_it_has_all_parts_and_asks_nobody(page: Opened) -> None:
    assert page.problems == []
    assert len(page.requests) == 1
    heads = page.locator(".content h2").all_text_contents()
    assert heads == [
        "Variants, best first", "Spread over the seeds", "Signal against the width", "Two parameters", "Training",
        "Over depth",
    ]  # fmt: skip
    assert page.locator("#sections a").all_text_contents() == heads


def test_the_variants_stand_in_order_with_their_reasons(page: Opened, summary: Summary) -> None:
    choices = summary.choices()
    found = cells(page, "variants")
    assert [row[0] for row in found] == ["1", "2", "3", "4"]
    assert [row[1:3] for row in found] == [[c.variant.filler, f"{c.variant.width:g}"] for c in choices]
    assert [row[-1] for row in found] == [choice.reason for choice in choices]
    cut = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).length"
    assert page.locator("#variants td:last-child, #variants td:last-child *").evaluate_all(cut) == 0
    heads = page.locator("#variants th").all_text_contents()
    assert heads == ["place", "filler", "width", "loss at the end", "test accuracy", "reason"]
    exact = page.locator("#variants tbody td:nth-child(4) span").evaluate_all("all => all.map(e => +e.dataset.value)")
    assert exact == pytest.approx([choice.loss for choice in choices], rel=1e-8)


def sources(page: Opened, section: str) -> list[list[dict[str, Any]]]:
    """Return what the charts of a section hold, source by source."""
    return list(page.evaluate(
        """id => JSON.parse(document.getElementById('charts').textContent).figures.filter(f => f.section === id).map(
          f => f.sources.map(s => Object.fromEntries(Object.entries(
            Bokeh.documents.map(d => d.get_model_by_id(s)).find(Boolean).data).map(([k, v]) => [k, [...v]]))))""",
        section,
    ))  # fmt: skip


def test_charts_are_drawn_one_after_another(page: Opened) -> None:
    """Each is a document, which the page draws in a task of its own: only charts that share an axis would be in one."""
    count = page.locator("figure .plot").count()
    assert page.evaluate("JSON.parse(document.getElementById('charts').textContent).items.length") == count > 4
    assert page.evaluate("Bokeh.documents.map(d => d.roots().length)") == [1] * count


def test_the_page_fits_a_narrow_screen(text: str, open_page: Open) -> None:
    page = open_page(text, width=320)
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    assert page.keeps_charts_inside()
    lefts = page.evaluate("""() => {
        const under = view => [view, ...[...(view.children?.() ?? [])].flatMap(under)];
        const views = [...Bokeh.index.roots].flatMap(under);
        return views.filter(view => view.model?.type === "Legend").map(view => view.bbox.x0);
    }""")
    assert len(lefts) == 9 and min(lefts) >= 0


def test_the_spread_of_a_chosen_variant_against_its_prediction(page: Opened, summary: Summary) -> None:
    names = page.locator("#spread option").all_text_contents()
    assert len(names) == 8 and names[0].endswith("first pass") and names[1].endswith("at the end")
    assert page.locator("#spread figure").count() == 4
    for place in (0, 2):
        page.locator("#spread select").select_option(str(place))
        variant = summary.choices()[place // 2].variant
        x = {value: spread for value, spread in summary.of(variant, 0).items() if value.kind == "x"}
        area, band, mean, predicted = sources(page, "spread")[0]
        assert mean["y"] == pytest.approx([spread.mean for spread in x.values()])
        assert area["low"] == pytest.approx([spread.least for spread in x.values()])
        assert area["high"] == pytest.approx([spread.most for spread in x.values()])
        assert predicted["y"] == pytest.approx([summary.bands[value].mean for value in x])
        high = [b.mean + 2 * b.deviation for b in (summary.bands[v] for v in x) if b.deviation is not None]
        assert band["high"] == pytest.approx(high)
        line = next(row for row in cells(page, "spread") if row[:2] == ["fc1", "mean |x|"])
        (spread,) = (spread for value, spread in x.items() if value.layer == "fc1")
        assert float(line[3]) == pytest.approx(spread.mean, rel=1e-3)
    page.locator("#spread select").select_option("1")
    assert sources(page, "spread")[0][3]["y"] == []  # nothing is predicted of the end
    assert any(row[:3] == ["test", "output", "accuracy"] for row in cells(page, "spread"))


def test_the_coordinate_check_has_a_chart_per_step_and_a_line_per_layer(page: Opened, summary: Summary) -> None:
    titles = page.locator("#widths figcaption > span:first-child").all_text_contents()
    assert titles == ["mean |x|, iteration 0", "mean |x|, iteration 1"]
    names = page.locator("#widths option").all_text_contents()
    assert len(names) == 2
    at = next(i for i, name in enumerate(names) if "std=1" in name)
    page.locator("#widths select").select_option(str(at))
    slopes = {(s.layer, s.iteration): s for s in summary.slopes() if "std=1" in s.variant.variant}
    curves = sources(page, "widths")[0][0]
    assert curves["xs"][curves["name"].index("fc2/fc2")] == [1, 8]
    assert curves["ys"][curves["name"].index("fc2/fc2")] == pytest.approx([y for _, y in slopes["fc2", 0].points])
    found = {row[0]: row for row in cells(page, "widths")}
    assert float(found["fc2"][2]) == pytest.approx(slopes["fc2", 0].slope, rel=1e-3)
    assert found["fc2"][-1] == "depends on the width" and found["data"][-1] == ""
    assert "fc2" in page.locator("#widths .moves").text_content()


def test_two_parameters_are_a_heat_map_that_can_be_read(page: Opened, summary: Summary) -> None:
    captions = page.locator("#grids caption").all_text_contents()
    assert captions == ["loss at the end: filler by width", "test accuracy: filler by width"]
    loss = page.locator("#grids table").first
    found = loss.locator("td span").evaluate_all("all => all.map(e => +e.dataset.value)")
    assert found == pytest.approx([value for row in summary.grids()[0].cells for value in row], rel=1e-8)
    best = list(dict.fromkeys(choice.variant.filler for choice in summary.choices()))
    assert loss.locator("tbody th").all_text_contents() == best
    assert loss.locator("thead th").all_text_contents()[1:] == ["1", "8"]
    colours = loss.locator("td").evaluate_all("all => all.map(e => getComputedStyle(e).backgroundColor)")
    assert len(set(colours)) > 2


def test_the_best_variants_losses_are_curves(page: Opened) -> None:
    (lines,) = sources(page, "training")
    assert len(lines) == 4
    assert [line["x"] for line in lines] == [[0, 1]] * 4


def test_a_sweep_over_seeds_alone_has_its_spread_and_no_empty_parts(folder: Path, open_page: Open) -> None:
    page = open_page(render_sweep(caffestat.sweep("net.prototxt", seeds=range(3)), "net.prototxt"))
    assert page.problems == []
    assert page.locator(".content h2").all_text_contents() == [
        "Variants, best first",
        "Spread over the seeds",
        "Over depth",
    ]
    assert page.locator("#spread option").count() == 1
    assert page.locator("#widths *, #grids *, #training *").count() == 0


def test_trials_that_failed_are_told(folder: Path, open_page: Open) -> None:
    found = caffestat.sweep("net.prototxt", seeds=[1, 2], fillers=["msra", "gaussian:std=-1"])
    page = open_page(render_sweep(found, "net.prototxt"))
    assert page.problems == []
    assert page.locator("#variants summary").text_content() == "2 trials that failed"
    assert "std" in page.locator("#variants li").first.text_content()
    nothing = open_page(render_sweep(caffestat.sweep("net.prototxt", fillers=["gaussian:std=-1"]), "net.prototxt"))
    assert nothing.problems == []


def test_axe_finds_no_serious_violation_and_themes_change(page: Opened) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    backgrounds = set()
    for _ in ("light", "dark"):
        found = axe.run(page.page).response["violations"]
        bad = {v["id"]: [n["html"][:100] for n in v["nodes"]] for v in found if v["impact"] in ("serious", "critical")}
        assert bad == {}
        backgrounds.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
        page.click("#theme")
    assert len(backgrounds) == 2


def test_the_keyboard_reaches_the_choices_and_the_tables(page: Opened) -> None:
    page.locator("#spread select").focus()
    page.keyboard.press("ArrowDown")
    page.wait("document.querySelector('#spread select').value === '1'")
    assert any(row[0] == "test" for row in cells(page, "spread"))
    page.locator("#variants th button").nth(3).focus()
    page.keyboard.press("Enter")
    assert page.locator("#variants th[aria-sort=ascending]").count() == 1
    for region in ("#variants .scroll", "#spread .scroll", "#grids .scroll"):
        assert page.locator(region).first.get_attribute("tabindex") == "0"


def test_printing_shows_tables_whole_and_no_buttons(page: Opened) -> None:
    page.emulate_media(media="print")
    assert page.locator("#save-csv").is_hidden()
    assert page.locator("#spread .scroll").evaluate("e => getComputedStyle(e).maxHeight") == "none"
    assert page.locator("#grids table").first.is_visible()


def test_the_csv_can_be_saved(page: Opened) -> None:
    with page.expect_download() as download:
        page.click("#save-csv")
    text = Path(download.value.path()).read_text()
    assert text.startswith("variant,net,filler,width,lr,solver,iteration,")
    assert "range_x" in text and "slope" in text


def test_names_stay_text(folder: Path, open_page: Open) -> None:
    hidden, title = "", " ".join(HOSTILE)
    for number, name in enumerate(HOSTILE):
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        hidden += (
            f'layer {{ name: "{quoted}" type: "InnerProduct" bottom: "data" top: "h{number}"'
            ' inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }\n'
        )
    Path("net.prototxt").write_text(NET.replace('layer { name: "fc1"', f'{hidden}layer {{ name: "fc1"'))
    page = open_page(render_sweep(caffestat.sweep("net.prototxt", widths=[1, 2], fillers=["xavier", "msra"]), title))
    assert page.problems == []
    assert page.locator("#title").text_content() == title
    assert set(HOSTILE) <= {row[0] for row in cells(page, "spread")}


def test_the_command_prints_the_page_or_writes_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["sweep", "net.prototxt", "--seeds", "0:2", "--workers", "1"]
    printed = CliRunner().invoke(main, [*arguments, "--format", "html"], catch_exceptions=False)
    assert printed.exit_code == 0
    assert printed.stdout.startswith("<!DOCTYPE html>")
    written = CliRunner().invoke(main, [*arguments, "--format", "csv", "--report", "page.html"], catch_exceptions=False)
    assert written.stdout.startswith("variant,")
    assert Path("page.html").read_text().startswith("<!DOCTYPE html>")
    monkeypatch.setattr("caffestat.report.html.page.missing", lambda: "bokeh")
    refused = CliRunner().invoke(main, [*arguments, "--format", "html"])
    assert refused.exit_code == 2 and "an HTML report needs bokeh" in refused.stderr
