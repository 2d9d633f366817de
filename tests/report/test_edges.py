"""The edges between the rows of a report, and the ids of its values."""

from __future__ import annotations

from caffestat.report import Report

from .reports import tiny_report

IN_PLACE = """\
layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 3 dim: 5 } } }
layer { name: "a" type: "InnerProduct" bottom: "d" top: "x" inner_product_param { num_output: 2 } }
layer { name: "b" type: "ReLU" bottom: "x" top: "x" }
layer { name: "c" type: "Power" bottom: "x" top: "x" }
layer { name: "e" type: "Eltwise" bottom: "x" bottom: "x" top: "y" }
"""


def edges(report: Report) -> list[tuple[str, str, str]]:
    """Return (maker, value's name, reader) of every edge."""
    made = {top.id: (row.name, top.name) for row in report.layers for top in row.tops}
    made |= {value.id: ("", value.name) for value in report.inputs}
    return [(*made[number], row.name) for row in report.layers for number in row.reads]


def test_a_blob_has_one_value_per_writer() -> None:
    found = edges(tiny_report(measured=False, text=IN_PLACE))
    split = "x_c_0_split"
    assert found[:4] == [("d", "d", "a"), ("a", "x", "b"), ("b", "x", "c"), ("c", "x", split)]
    assert found[4:] == [(split, "x_c_0_split_0", "e"), (split, "x_c_0_split_1", "e")]


def test_ids_are_unique_and_reads_stand_for_the_bottoms() -> None:
    report = tiny_report()
    ids = [top.id for row in report.layers for top in row.tops]
    assert len(ids) == len(set(ids))
    names = {top.id: top.name for row in report.layers for top in row.tops}
    assert [[names[number] for number in row.reads] for row in report.layers] == [
        list(row.bottoms) for row in report.layers
    ]


def test_gradients_name_their_bottom() -> None:
    report = tiny_report()
    loss = report.layers[-1]
    assert [(diff.name, diff.bottom) for diff in loss.bottom_diffs] == [("sum", 0)]
    text = "".join(
        (
            'layer { name: "d" type: "Input" top: "d" top: "t" input_param { shape { dim: 3 dim: 2 } } }\n',
            'layer { name: "a" type: "InnerProduct" bottom: "d" top: "a" inner_product_param { num_output: 2 } }\n',
            'layer { name: "l" type: "EuclideanLoss" bottom: "t" bottom: "a" top: "l" }\n',
        )
    )
    loss = tiny_report(measured=False, text=text).layers[-1]
    assert [(diff.name, diff.bottom) for diff in loss.bottom_diffs] == [("a", 1)]
