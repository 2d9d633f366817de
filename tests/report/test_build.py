"""What a report says of a net."""

from __future__ import annotations

import math

import pytest

from caffestat.options import ValueOptions
from caffestat.program import from_net
from caffestat.report import LayerRow, Report, build

from .reports import tiny_net, tiny_report


def layer(report: Report, name: str) -> LayerRow:
    return next(row for row in report.layers if row.name == name)


def test_shapes_lines_and_counts() -> None:
    conv = layer(tiny_report(), "conv")
    assert (conv.type, conv.line, conv.bottoms) == ("Convolution", 4, ("data",))
    assert conv.tops[0].shape == (2, 6, 7, 6)
    assert [param.shape for param in conv.params] == [(6, 2, 3, 2), (6,)]
    assert [param.count for param in conv.params] == [72, 6]
    assert conv.macs == 2 * 6 * 7 * 6 * 2 * 3 * 2


def test_fans_are_caffes_and_the_true_ones() -> None:
    weight = layer(tiny_report(), "conv").params[0]
    assert (weight.caffe_fan_in, weight.caffe_fan_out) == (12, 36)
    assert (weight.fan_in, weight.fan_out) == (12, 18)


def test_spreads_follow_the_fans() -> None:
    weight = layer(tiny_report(), "conv").params[0]
    assert weight.variance_norm == "AVERAGE"
    for norm, n in (("FAN_IN", 12), ("FAN_OUT", 36), ("AVERAGE", 24)):
        spread = weight.spreads[norm]
        assert spread.n == n
        assert spread.scale == pytest.approx(math.sqrt(3 / n), rel=1e-6)
        assert spread.std == pytest.approx(math.sqrt(1 / n), rel=1e-6)
        assert spread.msra_std == pytest.approx(math.sqrt(2 / n), rel=1e-6)


@pytest.mark.parametrize(
    ("filler", "words"),
    [
        ('type: "constant" value: 0.25', "constant 0.25"),
        ('type: "uniform" min: -0.5 max: 2', "uniform -0.5 2"),
        ('type: "gaussian" std: 0.01', "gaussian 0.01"),
        ('type: "gaussian" std: 3 mean: -1 sparse: 1', "gaussian 3 mean -1 sparse 1"),
        ('type: "xavier"', "xavier"),
        ('type: "msra" variance_norm: FAN_OUT', "msra FAN_OUT"),
        ('type: "positive_unitball"', "positive_unitball"),
    ],
)
def test_filler_in_words(filler: str, words: str) -> None:
    text = (
        'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 3 dim: 5 } } }'
        'layer { name: "ip" type: "InnerProduct" bottom: "d" top: "ip"'
        f" inner_product_param {{ num_output: 2 weight_filler {{ {filler} }} }} }}"
    )
    weight, bias = layer(tiny_report(text=text), "ip").params
    assert (weight.filler, weight.filler_origin) == (words, "file")
    assert (bias.filler, bias.filler_origin) == ("constant 0", "default")


def test_settings_are_as_written() -> None:
    settings = layer(tiny_report(), "one").params[0].filler_settings
    assert settings == {"mean": 0.0, "std": 0.01, "sparse": -1}


def test_assumed_filler_is_for_weights_without_one() -> None:
    report = build(from_net(tiny_net(), ValueOptions(assume_filler="xavier")), source="tiny.prototxt", seed=7)
    weight, bias = layer(report, "two").params
    assert (weight.filler, weight.filler_origin) == ("xavier", "option")
    assert (bias.filler, bias.filler_origin) == ("constant 0", "default")
    assert layer(report, "one").params[0].filler_origin == "file"


def test_only_inserted_splits_are_marked() -> None:
    mine = 'layer { name: "mine" type: "Split" bottom: "sum" top: "s1" top: "s2" }\n'
    report = tiny_report(text=tiny_report_text_with(mine))
    assert {row.name: row.inserted for row in report.layers if row.type == "Split"} == {
        "conv_relu_0_split": True,
        "mine": False,
    }


def tiny_report_text_with(line: str) -> str:
    from .reports import TEXT

    head, loss = TEXT.rsplit("layer", 1)
    return head + line + "layer" + loss.replace('bottom: "sum"', 'bottom: "s1"')


def test_values_stand_where_they_were_measured() -> None:
    report = tiny_report()
    conv = report.layers[1]
    assert conv.name == "conv"
    assert conv.tops[0].mean_abs == 1.01
    assert [param.mean_abs for param in conv.params] == [2.01, 2.011]
    assert [param.diff_mean_abs for param in conv.params] == [4.01, 4.011]
    assert conv.bottom_diffs == ()  # data needs no gradient
    sums = layer(report, "sum")
    assert [diff.name for diff in sums.bottom_diffs] == ["one", "two"]


def test_without_a_run_nothing_is_measured() -> None:
    report = tiny_report(measured=False)
    assert report.device is None
    assert report.norms is None
    values = [top.mean_abs for row in report.layers for top in row.tops]
    values += [diff.mean_abs for row in report.layers for diff in row.bottom_diffs]
    assert values == [None] * len(values)


def test_totals_are_sums_of_the_layers() -> None:
    report = tiny_report()
    counts = [param.count for row in report.layers for param in row.params]
    assert report.totals.params == sum(counts) == 72 + 6 + 2 * 252 + 2 * 252 + 2
    assert report.totals.macs == sum(row.macs or 0 for row in report.layers)
    data, conv, label_one_two_sum_target, loss = 2 * 4 * 9 * 7, 2 * 6 * 7 * 6, 5 * 4, 1
    assert report.totals.activations == data + conv + label_one_two_sum_target + loss
    assert report.totals.statistics == 0
    assert report.totals.is_complete


def test_shared_params_count_once_and_statistics_apart() -> None:
    text = (
        'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 3 dim: 5 dim: 2 dim: 4 } } }'
        'layer { name: "a" type: "InnerProduct" bottom: "d" top: "a" param { name: "w" } param { name: "b" }'
        " inner_product_param { num_output: 7 } }"
        'layer { name: "b" type: "InnerProduct" bottom: "d" top: "b" param { name: "w" } param { name: "b" }'
        " inner_product_param { num_output: 7 } }"
        'layer { name: "bn" type: "BatchNorm" bottom: "d" top: "bn" }'
    )
    report = tiny_report(text=text)
    assert report.totals.params == 7 * 40 + 7
    assert report.totals.statistics == 5 + 5 + 1
    assert [param.owner for param in layer(report, "b").params] == ["a/0", "a/1"]
    assert [param.owner for param in layer(report, "a").params] == [None, None]


def test_owners_are_told_apart_where_layers_have_the_same_name() -> None:
    text = 'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 3 dim: 5 dim: 2 dim: 4 } } }\n'
    for top, name in (("a", "v"), ("b", "w"), ("c", "w"), ("e", "v")):
        text += (
            f'layer {{ name: "same" type: "InnerProduct" bottom: "d" top: "{top}"\n  param {{ name: "{name}" }}'
            f' param {{ name: "{top}" }} inner_product_param {{ num_output: 7 }} }}\n'
        )
    report = tiny_report(text=text)
    tops = {param.id: row.tops[0].name for row in report.layers for param in row.params}
    found = [param for row in report.layers for param in row.params]
    assert sorted(tops) == list(range(8))
    assert [(tops[p.id], p.owner, tops[p.owner_id]) for p in found if p.owner_id is not None] == [
        ("c", "same/0", "b"),
        ("e", "same/0", "a"),
    ]
    assert [param.owner_id for param in found] == [None] * 4 + [2, None, 0, None]
    places = [report.row_of("same", line) for line in (2, 3, 4, 5, 9, 0)]
    assert [report.layers[row].tops[0].name for row in places if row is not None] == ["a", "a", "b", "b", "e", "a"]
    assert report.row_of("other", 2) is None


def test_unknown_types_leave_the_rest() -> None:
    text = (
        'layer { name: "d" type: "Input" top: "d" input_param { shape { dim: 3 dim: 5 } } }\n'
        'layer { name: "x" type: "Mystery" bottom: "d" top: "x" }\n'
        'layer { name: "y" type: "ReLU" bottom: "x" top: "y" }\n'
        'layer { name: "z" type: "InnerProduct" bottom: "d" top: "z" inner_product_param { num_output: 2 } }\n'
    )
    report = tiny_report(measured=False, text=text)
    assert [layer(report, name).tops[0].shape for name in "xyz"] == [None, None, (3, 2)]
    assert not report.totals.is_complete
    assert [str(finding.place) for finding in report.findings] == ["tiny.prototxt:2:1"]
