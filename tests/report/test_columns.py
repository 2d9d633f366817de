"""The cells and the lines around a table, from rows written by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from caffestat.report import Report
from caffestat.report.columns import COLUMNS, footer, heading, used
from caffestat.report.model import LayerGain, LayerRow
from caffestat.report.rows import rows

from .reports import TEXT, tiny_report


def of_layers(report: Report, **changes: dict) -> Report:
    """Return a report with other fields of some layers."""
    return replace(report, layers=tuple(replace(row, **changes.get(row.name, {})) for row in report.layers))


def layer(report: Report, name: str) -> LayerRow:
    return next(row for row in report.layers if row.name == name)


def cells(report: Report, title: str, name: str, exact: bool = True) -> list[str]:
    """Return what a column shows in the lines of a layer."""
    (column,) = (column for column in COLUMNS if column.title == title)
    return [column.cell(row, exact) for row in rows(report) if row.layer.name == name]


@pytest.mark.parametrize(
    ("count", "exact", "short"),
    [
        (999, "999", "999"),
        (1000, "1,000", "1k"),
        (25_050, "25,050", "25.1k"),
        (3_000_000, "3,000,000", "3M"),
        (2_500_000_000, "2,500,000,000", "2.5G"),
        (7_000_000_000_000, "7,000,000,000,000", "7T"),
    ],
)
def test_counts_are_exact_or_three_digits_and_a_unit(count: int, exact: str, short: str) -> None:
    report = of_layers(tiny_report(), two={"macs": count})
    assert cells(report, "MACs", "two") == [exact]
    assert cells(report, "MACs", "two", exact=False) == [short]
    assert cells(of_layers(report, two={"macs": 0}), "MACs", "two") == [""]


def test_a_layer_names_itself_and_counts_on_its_first_line_only() -> None:
    report = tiny_report()
    conv = layer(report, "conv")
    report = of_layers(report, conv={"params": (conv.params[0], conv.params[0]), "gain": LayerGain(2.5, None, 1, 1)})
    assert cells(report, "layer", "conv") == ["conv", ""]
    assert cells(report, "type", "conv") == ["Convolution", ""]
    assert cells(report, "params", "conv") == ["144", ""]
    assert cells(report, "MACs", "conv")[1] == ""
    assert cells(report, "gain", "conv") == ["2.5", ""]


def test_a_weight_has_a_line_and_a_bias_and_statistics_have_none() -> None:
    report = tiny_report()
    conv = layer(report, "conv")
    weight, bias = conv.params
    assert [row.param for row in rows(report) if row.layer.name == "conv"] == [weight]
    statistic = replace(weight, is_statistic=True)
    wide = replace(bias, shape=(1, 6))
    shown = of_layers(report, conv={"params": (statistic, wide, replace(bias, index=0))})
    assert [row.param for row in rows(shown) if row.layer.name == "conv"] == [wide, replace(bias, index=0)]
    assert cells(shown, "params", "conv")[0] == "12"  # statistics are not learned


def test_fans_of_a_vector_where_its_filler_depends_on_them() -> None:
    report = tiny_report()
    _, bias = layer(report, "conv").params
    first = replace(bias, index=0, caffe_fan_in=1, caffe_fan_out=6, fan_in=1, fan_out=6)
    scaled = replace(first, filler_settings={"variance_norm": "FAN_IN"})
    for param, shown in ((first, ""), (scaled, "1")):
        assert cells(of_layers(report, conv={"params": (param,)}), "fan-in", "conv") == [shown]


def test_xavier_beside_the_fan_that_it_divides_by() -> None:
    assert cells(tiny_report(), "xavier ±a, n", "conv") == ["0.3536 avg 24"]  # √(3 / 24), of 12 and 36
    assert cells(tiny_report(), "xavier ±a, n", "relu") == [""]


def test_gains_take_the_place_of_sizes() -> None:
    report = tiny_report()
    assert {"params", "MACs", "xavier ±a, n"} < {column.title for column in used(rows(report))}
    titles = {column.title for column in used(rows(of_layers(report, conv={"gain": LayerGain(2, 2, 1, 1)})))}
    assert "gain" in titles
    assert titles.isdisjoint({"params", "MACs", "xavier ±a, n"})


def test_the_heading_tells_whether_the_net_was_run() -> None:
    report = replace(tiny_report(), device="cpu", phase="TRAIN")
    assert heading(report) == "tiny.prototxt · tiny · phase TRAIN · seed 7 · device cpu"
    assert heading(replace(report, device=None, net="")) == "tiny.prototxt · phase TRAIN · seed 7 · not run"


def lines(report: Report) -> list[str]:
    return list(footer(report, list(rows(report))))


def test_the_lines_below_explain_what_is_shown_and_nothing_else() -> None:
    plain = TEXT.replace("group: 2", "").replace(
        'top: "two" inner_product_param {', 'top: "two" inner_product_param { %s'
    )
    report = tiny_report(measured=False, text=plain % 'weight_filler { type: "xavier" }')
    assert len(lines(report)) == 1
    assert lines(report)[0].startswith("params ")
    params = layer(report, "two").params
    default, option = (
        of_layers(report, two={"params": (replace(params[0], filler_origin=origin), *params[1:])})
        for origin in ("default", "option")
    )
    assert lines(default)[1:] == ["(filler): the file has none, this is Caffe's default."]
    assert lines(option)[1:] == ["(filler): the file has none, --assume-filler put it there."]
    gains = of_layers(report, two={"gain": LayerGain(1, 1, 1, 1)})
    assert [line.split(":")[0] for line in lines(gains)[1:]] == ["gain, back"]
    assert [line.split(":")[0] for line in lines(replace(report, stats=("max",)))[1:]] == ["zeros", "float16"]
    counted = replace(report, totals=replace(report.totals, statistics=1234))
    assert lines(counted)[1] == "BatchNorm statistics and quantization scales, not counted as params: 1,234"
    left_out = replace(report, totals=replace(report.totals, is_complete=False))
    assert lines(left_out)[1].startswith("Layers of unknown shape (?)")


def test_a_norm_that_is_not_known_is_explained() -> None:
    report = tiny_report()
    assert not any(line.startswith("?") for line in lines(report))
    assert report.norms is not None
    unknown = replace(report, norms=replace(report.norms, diff_l1=None, diff_l2=None))
    assert lines(unknown)[1:4] == [
        "L1 norm of all params 10.5, of their gradients ?",
        "L2 norm of all params 3.125, of their gradients ?",
        "?: depends on the gradient of a layer that cannot be computed.",
    ]
