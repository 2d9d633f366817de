"""The page in a real browser: what it shows, what can be done with it, and that it asks nobody for anything."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import caffestat
from caffestat.report.json_format import to_dict

from ..reports import tiny_report
from .conftest import Open, Opened
from .pages import HOSTILE, deep, experiment, experiment_page, static


def row_of(report: caffestat.Report, name: str) -> int:
    return next(index for index, row in enumerate(report.layers) if row.name == name)


@pytest.fixture
def page(open_page: Open) -> Opened:
    return open_page(experiment_page())


def numbers_in(value: Any) -> set[float]:
    """Return every finite number of the JSON."""
    if isinstance(value, (dict, list)):
        parts = value.values() if isinstance(value, dict) else value
        return {number for part in parts for number in numbers_in(part)}
    return {float(value)} if isinstance(value, (int, float)) else set()


def test_nothing_goes_wrong_and_nothing_leaves_the_page(page: Opened) -> None:
    assert page.problems == []
    assert [url for url in page.requests if not url.startswith("file:")] == []
    assert len(page.requests) == 1


def test_the_pages_policy_allows_its_own_scripts_only(page: Opened) -> None:
    policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
    assert "default-src 'none'" in policy
    scripts = re.search(r"script-src ([^;]*)", policy)
    assert scripts and all(re.fullmatch(r"'sha256-[\w+/]+=*'", word) for word in scripts[1].split())
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"https://example.org/x.png\">')")
    page.evaluate("const s = document.createElement('script'); s.text = 'window.bad = 1'; document.body.append(s)")
    page.wait_for_timeout(200)
    assert page.evaluate("window.bad") is None
    assert any("Content Security Policy" in problem for problem in page.problems)


def test_every_number_is_the_jsons(page: Opened) -> None:
    report = experiment()
    known = numbers_in(to_dict(report)) | numbers_in(page.evaluate("caffestat.data.scales"))
    for name in ("conv1", "relu3", "fc"):
        page.locator("#layers a", has_text=re.compile(f"^{name}$")).click()
        shown = page.locator("[data-value]").evaluate_all("all => all.map(e => +e.dataset.value)")
        assert len(shown) > 40
        assert set(map(float, shown)) - known == set()


def test_shown_numbers_are_the_exact_ones_rounded(page: Opened) -> None:
    pairs = page.locator("#layers [data-value]").evaluate_all("all => all.map(e => [e.dataset.value, e.textContent])")
    for exact, shown in pairs:
        assert float(shown.replace(",", "")) == pytest.approx(float(exact), rel=5.1e-4)


def test_a_shared_param_links_to_its_owner_among_layers_of_the_same_name(open_page: Open) -> None:
    text = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 3 dim: 5 } } }\n'
    for top, name in (("a", "v"), ("b", "w"), ("c", "w")):
        text += (
            f'layer {{ name: "ip" type: "InnerProduct" bottom: "d" top: "{top}" param {{ name: "{name}" }}'
            f" inner_product_param {{ num_output: 7 bias_term: false }} }}\n"
        )
    report = tiny_report(measured=False, text=text)
    page = open_page(report.to_html())
    rows = [index for index, row in enumerate(report.layers) if row.name == "ip"]
    page.locator("#layers a", has_text=re.compile("^ip$")).nth(2).click()
    assert page.drawn()["chosen"] == rows[2]
    shared = page.locator("#layer dd", has_text=re.compile("^ip/0$"))
    shared.locator("a").click()
    assert page.drawn()["chosen"] == rows[1]
    assert "shares the values of" not in (page.locator("#layer").text_content() or "")
    assert page.problems == []


def test_a_click_in_the_net_shows_the_layer(page: Opened) -> None:
    row = row_of(experiment(), "conv2")
    page.mouse.click(*page.middle(row))
    assert page.locator("#layer-name").text_content() == "conv2"
    assert page.drawn()["chosen"] == row
    facts = page.locator("#layer").text_content()
    weight = experiment().layers[row].params[0]
    assert f"±{weight.spreads['FAN_IN'].scale:.4g}" in facts
    assert "xavier" in facts
    assert page.locator("#layer figure polyline.theory").count() == 1
    lines = page.locator("#layer .lines .n").all_text_contents()
    assert lines == [str(n) for n in range(experiment().layers[row].line, experiment().layers[row].last_line + 1)]
    assert page.locator("#source .marked").count() == len(lines)


def test_a_click_on_a_folded_layer_shows_that_one(page: Opened) -> None:
    page.mouse.click(*page.middle(row_of(experiment(), "relu2")))
    assert page.locator("#layer-name").text_content() == "relu2"


def test_hovering_a_point_marks_the_layer_and_the_reverse(page: Opened) -> None:
    row = row_of(experiment(), "conv4")
    page.mouse.move(*page.middle(row))
    page.wait(f"caffestat.state().hovered === {row}")
    spans = "Object.values(Bokeh.documents[0].roots())[0].center.filter(m => m.type === 'Span' && m.visible)"
    assert page.evaluate(f"{spans}.map(s => s.location)") == [row]
    page.mouse.move(5, 5)
    page.wait("caffestat.state().hovered === null")
    x, y = point(page, row)
    page.mouse.move(x, y)
    page.wait(f"caffestat.state().hovered === {row}")
    page.mouse.click(x, y)
    page.wait(f"caffestat.state().chosen === {row}")
    assert page.locator("#layer-name").text_content() == "conv4"


def point(page: Opened, row: int) -> tuple[float, float]:
    """Return where the point of a row lies on the screen, in the first chart."""
    page.locator("#chart-0").scroll_into_view_if_needed()
    x, y = page.evaluate(
        """row => {
          const root = Bokeh.documents[0].roots()[0];
          const view = Bokeh.index.get_by_id ? Bokeh.index.get_by_id(root.id) : Bokeh.index[root.id];
          const data = root.renderers[0].data_source.data, at = [...data.row].indexOf(row);
          const box = view.el.getBoundingClientRect(), frame = view.frame;
          return [box.x + frame.x_scale.compute(data.x[at]), box.y + frame.y_scale.compute(data.y[at])];
        }""",
        row,
    )
    return x, y


def test_search_finds_and_goes_to_layers(page: Opened) -> None:
    page.fill("#search", "CONV1")
    assert page.locator("#hits").text_content() == "2 found"
    assert page.drawn()["hits"] == [row_of(experiment(), "conv1"), row_of(experiment(), "conv10")]
    page.press("#search", "Enter")
    page.press("#search", "Enter")
    assert page.locator("#layer-name").text_content() == "conv10"
    page.fill("#search", "")
    assert page.drawn()["hits"] is None


def test_blocks_close_and_open(open_page: Open) -> None:
    report = static("googlenet.prototxt")
    page = open_page(report.to_html())
    row = row_of(report, "inception_3a/1x1")
    boxes, blocks = page.drawn()["boxes"], len(page.drawn()["open"])
    assert blocks >= 9
    page.click("#blocks-close")
    assert page.drawn()["boxes"] < boxes - 50
    assert page.drawn()["open"] == []
    page.wait_for_timeout(100)
    page.mouse.click(*page.middle(row))  # a click on a closed block opens it
    assert len(page.drawn()["open"]) == 1
    page.click("#blocks-open")
    assert page.drawn()["boxes"] == boxes


def test_modes_colour_the_net(page: Opened) -> None:
    modes = page.locator("#mode option").evaluate_all("all => all.map(o => o.value)")
    assert modes == ["forward", "backward", "gain", "forward_ratio", "backward_ratio", "params", "macs"]
    row = row_of(experiment(), "conv10")
    colours = set()
    for mode in modes:
        page.select_option("#mode", mode)
        assert page.drawn()["scale"] == mode
        colours.add(page.evaluate("row => caffestat.colour(row)", row))
    assert len(colours) >= 4
    page.select_option("#mode", "forward")
    red, blue = (int(page.evaluate("row => caffestat.colour(row)", row)[at : at + 2], 16) for at in (1, 5))
    assert blue > red  # the signal of xavier before ReLU has faded


def test_tables_sort_and_filter(page: Opened) -> None:
    layers = page.locator("#layers tbody tr td:first-child")
    page.click("#layers th >> text='mean |x|'")
    values = page.locator("#layers tbody tr td:nth-child(10) span").evaluate_all("a => a.map(e => +e.dataset.value)")
    assert values == sorted(values)
    page.click("#layers th >> text='mean |x|'")
    assert page.locator("#layers th[aria-sort=descending]").count() == 1
    page.fill("#layers input", "fc")
    assert layers.all_text_contents() == ["fc"]


def test_theme_changes_page_drawing_and_charts(page: Opened) -> None:
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    background = "Bokeh.documents[0].roots()[0].background_fill_color"
    light = page.evaluate(background)
    page.click("#theme")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
    assert page.evaluate(background) != light
    assert page.locator("#theme[aria-pressed=true]").count() == 1


def test_dark_readers_get_a_dark_page(open_page: Open) -> None:
    page = open_page(tiny_report().to_html(), color_scheme="dark")
    assert page.locator("html.dark").count() == 1
    assert page.problems == []


def test_the_keyboard_reaches_everything(page: Opened) -> None:
    page.focus("#canvas")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    assert page.locator("#layer-name").text_content() == "conv1"
    page.keyboard.press("ArrowDown")
    assert page.locator("#layer-name").text_content() == "relu1"
    page.keyboard.press("ArrowUp")
    assert "conv1, Convolution; mean |x|" in page.locator("#announce").text_content()
    zoom = page.drawn()["zoom"]
    page.keyboard.press("+")
    assert page.drawn()["zoom"] > zoom
    x = page.drawn()["x"]
    page.keyboard.press("Shift+ArrowRight")
    assert page.drawn()["x"] > x
    page.focus("#layers th button")
    page.keyboard.press("Enter")
    assert page.locator("#layers th[aria-sort=ascending]").count() == 1


STOP = """() => {
    let e = document.activeElement;
    if (!e || e === document.body) return null;
    while (e.shadowRoot?.activeElement) e = e.shadowRoot.activeElement;
    const box = e.getBoundingClientRect();
    const words = e.getAttribute("aria-label") || e.labels?.[0]?.textContent || e.textContent;
    const isSeen = box.bottom > 0 && box.top < innerHeight && getComputedStyle(e).outlineStyle === "solid";
    return [e.tagName, words.trim(), isSeen];
}"""


def stops(page: Opened, key: str) -> list[tuple[str, str, bool]]:
    """Return what a key moves the focus to, up to the end: element, accessible name, whether one sees the focus."""
    found = []
    page.keyboard.press(key)
    while stop := page.evaluate(STOP):
        found.append(tuple(stop))
        page.keyboard.press(key)
    return found


def test_everything_that_gets_the_focus_is_named_and_shows_it(page: Opened) -> None:
    forward = stops(page, "Tab")
    assert len(forward) > 40
    assert [stop for stop in forward if not (stop[1] and stop[2])] == []
    assert set(stops(page, "Shift+Tab")) == set(forward)


def test_the_focus_is_not_lost_by_what_it_does(page: Opened) -> None:
    page.focus("#layers tbody tr:nth-child(4) a")
    page.keyboard.press("Enter")
    assert page.locator("#layer:focus").count() == 1
    page.focus("#layer a")
    page.keyboard.press("Enter")
    assert page.locator("#layer:focus").count() == 1
    page.focus("#findings .finding button")
    page.keyboard.press("Enter")
    assert page.locator("#layer:focus #layer-name").text_content() == "conv1"
    assert page.evaluate("document.getElementById('layer').getBoundingClientRect().top") < 900


def test_buttons_that_show_the_rest_hand_the_focus_on(open_page: Open, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(deep(310))
    page = open_page(caffestat.analyze(path, static=True, detail=True).to_html())
    page.focus("#layers .more")
    page.keyboard.press("Enter")
    assert page.locator("#layers .scroll:focus tbody tr").count() > 300


def test_closing_a_block_is_announced_and_escape_hides_the_tip(open_page: Open) -> None:
    report = static("googlenet.prototxt")
    page = open_page(report.to_html())
    page.fill("#search", "inception_3a/1x1")
    page.focus("#search")
    page.keyboard.press("Enter")
    page.focus("#canvas")
    page.keyboard.press("Enter")
    assert page.locator("#announce").text_content() == "inception_3a closed"
    page.keyboard.press(" ")
    assert page.locator("#announce").text_content() == "inception_3a opened"
    page.wait_for_timeout(100)
    page.mouse.move(*page.middle(row_of(report, "inception_3a/1x1")))
    assert page.locator("#tip").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#tip").is_visible()


def test_charts_drawing_and_data_can_be_saved(page: Opened, tmp_path: Path) -> None:
    for press, ends, begins in (
        ("#net-svg", ".svg", b"<svg"),
        ("#net-png", ".png", b"\x89PNG"),
        ("#depth figure >> nth=0 >> button >> text=SVG", ".svg", b"<svg"),
        ("#depth figure >> nth=0 >> button >> text=PNG", ".png", b"\x89PNG"),
        ("#activations figure >> nth=0 >> button >> text=SVG", ".svg", b"<svg"),
        ("#save-csv", ".csv", b"layer,type,line"),
        ("#save-json", ".json", b"{"),
    ):
        with page.page.expect_download() as waiting:
            page.page.locator(press).click()
        saved = tmp_path / "saved"
        waiting.value.save_as(saved)
        assert waiting.value.suggested_filename.endswith(ends)
        assert saved.read_bytes().startswith(begins), press
    data = json.loads(saved.read_text())
    shown = to_dict(experiment())
    shown.pop("detail")
    assert data == json.loads(json.dumps(shown))


def test_a_printed_page_has_the_whole_drawing(page: Opened) -> None:
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    page.page.emulate_media(media="print")
    assert page.locator("#printed svg").is_visible()
    assert page.locator("#canvas").is_hidden()
    left, top, width, height = map(float, page.locator("#printed svg").get_attribute("viewBox").split())
    lines = page.locator("#printed polyline").evaluate_all("all => all.map(e => e.getAttribute('points'))")
    points = [tuple(map(float, point.split(","))) for line in lines for point in line.split()]
    assert len(points) > 20
    assert all(left < x < left + width and top < y < top + height for x, y in points)


PRINTED = """() => {
    window.dispatchEvent(new Event("beforeprint"));
    const view = [...Bokeh.index.roots][0], canvas = view.canvas_view.primary.canvas;
    const pixel = [...canvas.getContext("2d").getImageData(3, 3, 1, 1).data];
    const back = document.querySelector("#printed rect").getAttribute("fill");
    const found = [document.querySelectorAll("html.dark").length, pixel, back];
    window.dispatchEvent(new Event("afterprint"));
    return [...found, document.querySelectorAll("html.dark").length];
}"""


def test_a_dark_page_is_printed_light(open_page: Open) -> None:
    page = open_page(experiment_page(), color_scheme="dark")
    assert page.evaluate(PRINTED) == [0, [255] * 4, "#ffffff", 1]
    assert page.problems == []


def test_printed_tables_fit_the_paper(page: Opened) -> None:
    page.page.set_viewport_size({"width": 718, "height": 1000})  # A4 between its margins
    page.page.emulate_media(media="print")
    beside = "all => all.filter(e => e.getBoundingClientRect().right > 718).map(e => e.textContent)"
    assert page.locator("#layers td").evaluate_all(beside) == []


def test_activations_show_where_inputs_lie(page: Opened) -> None:
    figures = page.locator("#activations figure")
    assert figures.count() == 10
    first = experiment().layers[row_of(experiment(), "relu1")].curve
    assert first is not None and first.mean_slope is not None
    assert f"mean slope at its inputs {first.mean_slope:.4g}" in figures.first.text_content()
    assert figures.first.locator("polyline.curve, polyline.slope").count() == 2
    assert figures.first.locator("rect.bars").count() == 48


def test_findings_show_fix_and_place(page: Opened) -> None:
    card = page.locator("#findings .finding").first
    assert "CS011" in card.text_content()
    assert card.locator(".diff .added").first.text_content().count('"msra"') == 1
    card.locator("button").click()
    assert page.locator("#layer-name").text_content() == "conv1"
    assert page.locator("#source .sign.warning").count() >= 1


def test_hostile_names_stay_text(open_page: Open) -> None:
    report = tiny_report()
    layers = [
        replace(row, name=name, tops=tuple(replace(top, name=name) for top in row.tops))
        for row, name in zip(report.layers, HOSTILE, strict=False)
    ]
    hostile = replace(report, source=HOSTILE[0], layers=(*layers, *report.layers[len(layers) :]), notes=HOSTILE)
    page = open_page(hostile.to_html())
    assert page.problems == []
    assert page.locator("img, #layers script").count() == 0
    assert page.locator("#title").text_content() == HOSTILE[0]
    shown = page.locator("#layers tbody tr td:first-child").all_text_contents()
    assert shown[: len(layers) - 1] == [row.name for row in layers if not row.inserted]
    page.focus("#canvas")
    page.keyboard.press("Home")
    assert page.locator("#layer-name").text_content() == HOSTILE[0]
    parsed = "new DOMParser().parseFromString(caffestat.svg(), 'image/svg+xml')"
    assert page.evaluate(f"{parsed}.querySelectorAll('parsererror, script').length") == 0


def test_a_net_of_5342_layers_stays_usable(open_page: Open, tmp_path: Path) -> None:
    path = tmp_path / "deep.prototxt"
    path.write_text(deep(5342))
    report = caffestat.analyze(path, static=True)
    assert sum(not row.inserted for row in report.layers) == 5342
    page = open_page(report.to_html())
    assert page.problems == []
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    assert paint < 3000
    page.click("#zoom-fit")
    times = page.evaluate(
        """async () => {
          const times = [], canvas = document.getElementById("canvas");
          for (let i = 0; i < 20; i++) {
            canvas.dispatchEvent(new WheelEvent("wheel", { deltaY: i % 2 ? 100 : -100, cancelable: true }));
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            times.push(caffestat.state().drawTime);
          }
          return times.sort((a, b) => a - b);
        }"""
    )
    assert times[10] < 100
    page.fill("#search", "c700b")
    page.press("#search", "Enter")
    assert page.locator("#layer-name").text_content() == "c700b"


def test_an_onnx_report_has_its_inputs_as_boxes(open_page: Open, tmp_path: Path) -> None:
    from onnx import helper

    from ...graph.models import model, normal

    nodes = [helper.make_node("Gemm", ["x", "w"], ["h"], name="/fc/Gemm"), helper.make_node("Relu", ["h"], ["y"])]
    path = tmp_path / "m.onnx"
    path.write_bytes(model(nodes, {"x": [3, 5]}, ["y"], {"w": normal(5, 2)}).SerializeToString())
    page = open_page(caffestat.analyze(path, predict=True, device="cpu").to_html())
    assert page.problems == []
    assert page.drawn()["boxes"] == 3
    assert page.locator("#layers tbody tr td:first-child").all_text_contents() == ["/fc/Gemm", "Relu_0"]


def test_a_page_without_a_run_has_no_empty_parts(open_page: Open) -> None:
    page = open_page(tiny_report(measured=False).to_html())
    assert page.problems == []
    assert page.locator("#activations h2, #training h2, #comparison h2, #depth h2").count() == 0
    assert page.locator("#mode").evaluate("e => e.value") == "params"


def test_axe_finds_no_serious_violation(page: Opened) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.mouse.click(*page.middle(row_of(experiment(), "conv2")))
    for _ in ("light", "dark"):
        found = axe.run(page.page).response["violations"]
        bad = {v["id"]: [n["html"][:100] for n in v["nodes"]] for v in found if v["impact"] in ("serious", "critical")}
        assert bad == {}
        page.click("#theme")


def test_statistics_are_columns_and_facts(open_page: Open, tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    data = 'layer { name: "data" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }\n'
    big = 'layer { name: "big" type: "Power" bottom: "x" top: "big" power_param { scale: 1e6 } }\n'
    path.write_text(data + big + 'layer { name: "log" type: "Log" bottom: "big" top: "log" }')
    inputs = {"x": np.float32([[1, 0, -2], [3, 4, -5]])}
    report = caffestat.analyze(path, stats=("max", "zeros", "nan"), inputs=inputs, detail=True, device="cpu")
    page = open_page(report.to_html())
    assert page.problems == []
    assert [t for t in page.locator("#layers th").all_text_contents() if t in ("max", "nan", "std", "float16")] == [
        "max", "nan", "float16"
    ]  # fmt: skip
    page.locator("#layers a", has_text=re.compile("^big$")).click()
    facts = page.locator("#layer dl").first.evaluate("d => [...d.children].map(e => e.innerText.split(/\\n+/))")
    assert {"max of x", "zeros of x", "nan of x", "below normal of x"} <= {fact[0] for fact in facts}
    assert ["float16 of x", "overflow"] in facts
