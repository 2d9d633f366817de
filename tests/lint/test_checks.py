"""Each check: a net that triggers it, with the place and the numbers, and a near miss that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat.lint import Job, all_checks, check_file, selected

from .nets import ACT, CONV, DATA, FC, LOSS, issues

MODELS = Path(__file__).parent.parent.parent / "models"
XAVIER = 'weight_filler { type: "xavier" }'
GAUSS = 'weight_filler {{ type: "gaussian" std: {} }}'


def deep(filler: str, activation: str, depth: int = 10, more: str = "") -> str:
    text, blob = DATA, "x"
    for index in range(depth):
        text += CONV(f"c{index}", blob, filler, more) + ACT(activation, f"c{index}")
        blob = f"c{index}"
    return text + FC("fc", blob) + LOSS.format("fc")


def one(conv: str) -> str:
    return DATA + conv + ACT("ReLU", "c") + FC("fc", "c") + LOSS.format("fc")


DECONV = """layer {{ name: "up" type: "Deconvolution" bottom: "x" top: "up"
  convolution_param {{ num_output: 12 kernel_size: 4 stride: 2 weight_filler {{ type: "xavier" {} }} }} }}
"""
SQUARE_DECONV = DECONV.format("").replace("stride: 2", "stride: 1").replace("num_output: 12", "num_output: 3")
IMAGES = """layer {{ name: "images" type: "ImageData" top: "x" top: "label" {}
  image_data_param {{ source: "list.txt" batch_size: 4 new_height: 9 new_width: 7 }} }}
"""
SHARED = 'param { name: "w" }'

TRIGGERS = {
    "CS001": (DATA + CONV("c", "y"), one(CONV("c", "x"))),
    "CS002": (one(CONV("c", "x", more="num_outputs: 3")), one(CONV("c", "x", more="bias_term: false"))),
    "CS003": (DATA + 'layer { name: "odd" type: "Convolutions" bottom: "x" top: "y" }', one(CONV("c", "x"))),
    "CS005": (one(CONV("c", "x", "")), DATA + CONV("c", "x", "") + ACT("ReLU", "c")),
    "CS006": (one(CONV("c", "x", 'weight_filler { type: "xavier" std: 0.1 }')), one(CONV("c", "x", GAUSS.format(0.1)))),
    "CS007": (
        one(CONV("c", "x", 'weight_filler { type: "constant" value: 0.01 }')),
        one(CONV("c", "x")).replace(XAVIER, 'weight_filler { type: "constant" }'),
    ),
    "CS008": (
        DATA + DECONV.format("") + FC("fc", "up") + LOSS.format("fc"),
        DATA + SQUARE_DECONV + FC("fc", "up") + LOSS.format("fc"),
    ),
    "CS009": (
        DATA + CONV("a", "x", param=SHARED) + CONV("b", "x", GAUSS.format(0.1), param=SHARED)
        + 'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "c" }' + FC("fc", "c") + LOSS.format("fc"),
        DATA + CONV("a", "x", param=SHARED) + CONV("b", "x", param=SHARED)
        + 'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "c" }' + FC("fc", "c") + LOSS.format("fc"),
    ),
    "CS010": (
        one(CONV("c", "x", more="bias_filler { value: -4 }")),
        one(CONV("c", "x", more="bias_filler { value: 0.1 }")),
    ),
    "CS011": (deep(XAVIER, "ReLU", 9), deep(XAVIER, "ReLU", 7)),
    "CS012": (
        one(CONV("c", "x")).replace('type: "ReLU"', 'type: "TanH"'),
        one(CONV("c", "x", XAVIER)).replace('type: "ReLU"', 'type: "TanH"'),
    ),
    "CS013": (
        one(CONV("c", "x", GAUSS.format(2))).replace('type: "ReLU"', 'type: "TanH"'),
        one(CONV("c", "x", GAUSS.format(0.2))).replace('type: "ReLU"', 'type: "TanH"'),
    ),
    "CS014": (deep(GAUSS.format(0.01), "ReLU"), deep(GAUSS.format(0.01), "ReLU", 4)),
    "CS015": (deep(GAUSS.format(0.5), "ReLU"), deep(GAUSS.format(0.1), "ReLU")),
    "CS016": (deep(GAUSS.format(0.01), "Sigmoid"), deep(GAUSS.format(0.01), "Sigmoid", 3)),
    "CS017": (deep(GAUSS.format(0.5), "ReLU"), deep(GAUSS.format(0.1), "ReLU")),
    "CS018": (deep(GAUSS.format(0.01), "Sigmoid"), deep('weight_filler { type: "msra" }', "ReLU")),
    "CS019": (
        IMAGES.format("") + FC("fc", "x") + LOSS.format("fc"),
        IMAGES.format("transform_param { mean_value: 104 }") + FC("fc", "x") + LOSS.format("fc"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("code", TRIGGERS)
def test_a_check_finds_what_it_is_for(tmp_path: Path, code: str) -> None:
    found = issues(tmp_path, TRIGGERS[code][0], code)
    assert [issue.code for issue in found][:1] == [code]
    assert found[0].place.file == str(tmp_path / "net.prototxt")
    assert found[0].place.line >= 1
    assert found[0].message
    assert found[0].fix


@pytest.mark.parametrize("code", TRIGGERS)
def test_a_check_leaves_a_near_miss_alone(tmp_path: Path, code: str) -> None:
    assert issues(tmp_path, TRIGGERS[code][1], code) == []


def test_every_check_that_needs_no_run_has_a_trigger() -> None:
    assert {check.code for check in all_checks()} - set(TRIGGERS) == {"CS004", "CS020", "CS021", "CS022"}


@pytest.mark.parametrize(
    "path", sorted(MODELS.glob("*.prototxt")) + sorted(MODELS.glob("deploy/*")), ids=lambda p: p.name
)
def test_our_models_raise_no_alarm(path: Path) -> None:
    assert check_file(str(path), Job(selected((), ()), batch=2)) == []


def test_places_name_the_field(tmp_path: Path) -> None:
    (found,) = issues(tmp_path, one(CONV("c", "x", 'weight_filler { type: "xavier" std: 0.1 }')), "CS006")
    line = (tmp_path / "net.prototxt").read_text().splitlines()[found.place.line - 1]
    assert line[found.place.column - 1 :].startswith("std: 0.1")
    assert found.layer == "c"


def test_odd_text_is_told(tmp_path: Path) -> None:
    text = 'layer { name: "d" type: "Data" top: "x" top: "label" data_param { source: "db" batch_size: 4 } }' + FC(
        "fc", "x"
    )
    assert [issue.code for issue in issues(tmp_path, text, "CS004")] == ["CS004"]


def test_a_deploy_net_may_lack_fillers_and_so_may_one_whose_weights_are_given(tmp_path: Path) -> None:
    from caffestat import api

    deploy = DATA + CONV("c", "x", "") + ACT("ReLU", "c")
    assert issues(tmp_path, deploy) == []
    (tmp_path / "filled.prototxt").write_text(one(CONV("c", "x")))
    api.fill(str(tmp_path / "filled.prototxt"), tmp_path / "w.caffemodel")
    assert issues(tmp_path, one(CONV("c", "x", "")), "CS005", weights=[str(tmp_path / "w.caffemodel")]) == []


def test_a_frozen_layer_may_lack_its_filler(tmp_path: Path) -> None:
    frozen = one(CONV("c", "x", "", param="param { lr_mult: 0 } param { lr_mult: 0 }"))
    assert issues(tmp_path, frozen, "CS005") == []


def test_the_message_about_a_vanishing_signal_names_the_layer_where_it_leaves_the_range(tmp_path: Path) -> None:
    (found,) = issues(tmp_path, deep(GAUSS.format(0.01), "ReLU"), "CS014", vanish=1e-3)
    # the first layer leaves √(27·10⁻⁴/2) of the deviation, each other one √(576·10⁻⁴/2); ReLU takes 0.707 of |x| for it
    assert found.layer == "relu_c2"
    assert found.numbers["ratio"] == pytest.approx(0.0367 * 0.17**2 * 0.707, rel=0.25)  # borders have fewer taps


def test_the_factor_of_a_wrong_fan(tmp_path: Path) -> None:
    (found,) = issues(tmp_path, TRIGGERS["CS008"][0], "CS008")
    assert found.numbers == {"caffe": 12 * 16, "true": 3 * 16 / 4, "factor": 3 * 4 / (12 * 16)}


def test_a_dead_relu_is_seen_in_a_run(tmp_path: Path) -> None:
    text = one(CONV("c", "x", GAUSS.format(0.01), "bias_filler { value: -2 }"))
    (found,) = issues(tmp_path, text, "CS020", run=True)
    assert (found.layer, found.numbers["share"]) == ("relu_c", 1.0)
    assert issues(tmp_path, one(CONV("c", "x")), "CS020", run=True) == []


def test_the_first_blob_that_is_not_finite_is_named(tmp_path: Path) -> None:
    log = 'layer { name: "log" type: "Log" bottom: "c" top: "log" }\n'
    text = DATA + CONV("c", "x") + log + FC("fc", "log") + LOSS.format("fc")
    (found,) = issues(tmp_path, text, "CS021", run=True)
    assert found.layer == "log"
    assert issues(tmp_path, one(CONV("c", "x")), "CS021", run=True) == []


def test_a_run_unlike_its_prediction_is_told(tmp_path: Path) -> None:
    # the two readers of one blob are not independent: their difference is 0 where the theory expects a spread
    twins = CONV("a", "x", param=SHARED) + CONV("b", "x", param=SHARED)
    coefficients = "eltwise_param { coeff: 1 coeff: -0.99 }"
    less = f'layer {{ name: "less" type: "Eltwise" bottom: "a" bottom: "b" top: "c" {coefficients} }}\n'
    text = DATA + twins + less + FC("fc", "c") + LOSS.format("fc")
    assert [issue.layer for issue in issues(tmp_path, text, "CS022", run=True)] == ["less"]
    assert issues(tmp_path, one(CONV("c", "x")), "CS022", run=True) == []
