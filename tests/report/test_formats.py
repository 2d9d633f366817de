"""The formats: what each shows of one report."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace

import pytest

from caffestat.report import FORMATS, Report, debug_lines, render
from caffestat.report.debug_info import ostream
from caffestat.report.table import ellipsize

from ..conftest import Check
from .reports import TEXT, tiny_report


def with_loss(report: Report, value: float) -> Report:
    """Return the report with another value at its last top."""
    *others, loss = report.layers
    return replace(report, layers=(*others, replace(loss, tops=(replace(loss.tops[0], mean_abs=value),))))


@pytest.mark.parametrize("format", sorted(set(FORMATS) - {"html"}))  # html: the tests in the browser
def test_expected_output(check_output: Check, format: str) -> None:
    check_output(f"tiny.{format}.txt", render(tiny_report(), format))


def test_expected_debug_lines(check_output: Check) -> None:
    check_output("tiny.debug.txt", "".join(f"{line}\n" for line in debug_lines(tiny_report())))


@pytest.mark.parametrize("width", [116, 120, 160])
def test_table_keeps_to_its_width(width: int) -> None:
    long = TEXT.replace('"conv"', '"inception_4e/5x5_reduce_and_more_of_it"').replace('"two"', '"a_long_name_too"')
    table = render(tiny_report(text=long), "table", width).split("\n\n", 1)[1]
    rule = next(line for line in table.splitlines() if set(line) == {"-"})
    body = table[: table.rindex(rule)].splitlines()
    assert max(map(len, body)) <= width
    assert ("inception_4e/5x5_reduce_and_more_of_it" in table) == (width == 160)


@pytest.mark.parametrize("width", [50, 80])
def test_a_narrow_table_continues_below_itself(width: int) -> None:
    wide, narrow = (render(tiny_report(), "table", columns).split("\n\n")[1:] for columns in (160, width))
    tables = [part[: part.rindex("\n-")].splitlines() for part in narrow]
    assert max(len(line) for lines in tables for line in lines) <= width
    titles = [lines[0].split(None, 1) for lines in tables]
    assert [first for first, _ in titles] == ["layer"] * {50: 3, 80: 2}[width]
    assert " ".join(rest for _, rest in titles).split() == wide[0].split("\n")[0].split()[1:]


def test_table_hides_inserted_splits_and_what_was_not_measured() -> None:
    text = render(tiny_report(measured=False), "table")
    assert "split" not in text
    assert "|x|" not in text
    assert "|dx|" not in text
    assert "|dx|" in render(tiny_report(), "table")


def test_table_explains_its_parentheses() -> None:
    text = render(tiny_report(measured=False), "table")
    assert "36 (18)" in text
    assert "in parentheses the true number" in text
    assert "(constant 0)" in text
    assert "Caffe's default" in text


def test_unknown_shapes_are_question_marks() -> None:
    text = 'layer { name: "x" type: "Mystery" top: "x" }'
    assert "?" in render(tiny_report(measured=False, text=text), "table").splitlines()[4]


@pytest.mark.parametrize(
    ("text", "width", "short"),
    [("conv", 4, "conv"), ("pooling_one", 7, "poo…one"), ("pooling_one", 8, "pool…one"), ("pooling_1", 9, "pooling_1")],
)
def test_ellipsize_cuts_the_middle(text: str, width: int, short: str) -> None:
    assert ellipsize(text, width) == short


def test_json_is_complete() -> None:
    data = json.loads(render(tiny_report(), "json"))
    assert data["format_version"] == 1
    assert (data["source"], data["phase"], data["seed"], data["device"]) == ("tiny.prototxt", "TRAIN", 7, "cpu")
    conv = next(layer for layer in data["layers"] if layer["name"] == "conv")
    assert conv["tops"] == [{"id": 2, "name": "conv", "shape": [2, 6, 7, 6], "forward": {"mean_abs": 1.01}}]
    weight = conv["params"][0]
    assert (weight["name"], weight["shape"], weight["count"]) == ("w", [6, 2, 3, 2], 72)
    assert weight["filler"] == {"type": "xavier", "variance_norm": "AVERAGE", "origin": "file"}
    assert weight["xavier"]["average"]["scale"] == pytest.approx(math.sqrt(3 / 24))
    assert weight["msra"]["fan_out"]["std"] == pytest.approx(math.sqrt(2 / 36))
    assert (weight["forward"], weight["backward"]) == ({"mean_abs": 2.01}, {"mean_abs": 4.01})
    assert [layer["name"] for layer in data["layers"] if layer["inserted"]] == ["conv_relu_0_split"]


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_json_writes_what_is_not_finite_as_strings(value: float) -> None:
    text = render(with_loss(tiny_report(), value), "json")
    data = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert data["layers"][-1]["tops"][0]["forward"]["mean_abs"] == str(value)


def test_json_writes_what_the_file_says_as_strings_where_it_is_not_finite() -> None:
    settings = {"value": math.inf, "variance_norm": "FAN_IN"}
    report = tiny_report()
    layers = []
    for layer in report.layers:
        params = tuple(replace(param, filler_settings=settings, lr_mult=math.nan) for param in layer.params)
        layers.append(replace(layer, params=params))
    data = json.loads(render(replace(report, layers=tuple(layers)), "json"))
    weight = next(layer["params"][0] for layer in data["layers"] if layer["params"])
    assert (weight["filler"]["value"], weight["filler"]["variance_norm"]) == ("inf", "FAN_IN")
    assert weight["lr_mult"] == "nan"


def test_json_numbers_keep_every_float32() -> None:
    value = 0.33286601305007935
    data = json.loads(render(with_loss(tiny_report(), value), "json"))
    assert data["layers"][-1]["tops"][0]["forward"]["mean_abs"] == 0.332866013


def test_scalar_shape_is_an_empty_list() -> None:
    assert json.loads(render(tiny_report(), "json"))["layers"][-1]["tops"][0]["shape"] == []


def test_csv_sums_to_the_totals() -> None:
    report = tiny_report()
    lines = list(csv.DictReader(io.StringIO(render(report, "csv"))))
    assert sum(int(line["params"] or 0) for line in lines) == report.totals.params
    assert sum(int(line["macs"] or 0) for line in lines) == report.totals.macs
    assert [line["diff_blob"] for line in lines if line["layer"] == "sum"] == ["one", "two"]


def test_csv_quotes_names() -> None:
    report = tiny_report(text=TEXT.replace('"relu"', '"a, \\"b\\""'))
    assert [line["layer"] for line in csv.DictReader(io.StringIO(render(report, "csv")))][3] == 'a, "b"'


def test_markdown_escapes_names() -> None:
    text = render(tiny_report(text=TEXT.replace('"relu"', '"re|lu_1"')), "markdown")
    assert "| re\\|lu\\_1 |" in text


@pytest.mark.parametrize(
    ("value", "printed"),
    [
        (0.0, "0"),
        (0.25, "0.25"),
        (2.354921817, "2.35492"),
        (123456.7, "123457"),
        (1234567.0, "1.23457e+06"),
        (0.0000123456789, "1.23457e-05"),
        (0.0001, "0.0001"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_numbers_are_printed_as_streams_do(value: float, printed: str) -> None:
    assert ostream(value) == printed


def test_debug_lines_use_names_forward_and_indexes_backward() -> None:
    lines = list(debug_lines(tiny_report()))
    assert "    [Forward] Layer conv, param blob w data: 2.01" in lines
    assert "    [Backward] Layer conv, param blob 0 diff: 4.01" in lines
    assert lines[-1] == "    [Backward] All net params (data, diff): L1 norm = (10.5, 20.25); L2 norm = (3.125, 4.0625)"


def test_glog_prefix_is_what_log_scripts_split_on() -> None:
    lines = list(debug_lines(tiny_report(), glog=True))
    severity_and_day, clock, process, rest = lines[0].split(maxsplit=3)
    assert severity_and_day[0] == "I"
    assert len(severity_and_day) == 5
    assert len(clock.split(":")) == 3
    assert process.isdigit()
    assert rest == "net.cpp:593]     [Forward] Layer data, top blob data data: 1"
    assert [line[0] for line in lines] == ["I"] * (len(lines) - 1) + ["E"]
    plain = list(debug_lines(tiny_report()))
    assert [line.split("] ", 1)[1] for line in lines] == plain
