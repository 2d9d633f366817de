"""Each check: a net that triggers it, with the place and the numbers, and a near miss that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat.lint import Job, all_checks, check_file, selected
from caffestat.options import NetOptions

from .nets import ACT, CONV, DATA, FC, LOSS, V0, V1, issues

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


def normalized(batch_norm: str) -> str:
    norm = f'layer {{ name: "bn" type: "BatchNorm" bottom: "c" top: "b" batch_norm_param {{ {batch_norm} }} }}\n'
    return DATA + CONV("c", "x") + norm + FC("fc", "b") + LOSS.format("fc")


DECONV = """layer {{ name: "up" type: "Deconvolution" bottom: "x" top: "up"
  convolution_param {{ num_output: 12 kernel_size: 4 stride: 2 weight_filler {{ type: "xavier" {} }} }} }}
"""
SQUARE_DECONV = DECONV.format("").replace("stride: 2", "stride: 1").replace("num_output: 12", "num_output: 3")
IMAGES = """layer {{ name: "images" type: "ImageData" top: "x" top: "label" {}
  image_data_param {{ source: "list.txt" batch_size: 4 new_height: 9 new_width: 7 }} }}
"""
NO_SHAPE = 'layer { name: "d" type: "Data" top: "x" top: "label" data_param { source: "db" batch_size: 4 } }'
SHARED = 'param { name: "w" }'


def named(*names: str) -> str:
    """Return the params of a layer, each with a name."""
    return " ".join(f'param {{ name: "{name}" }}' for name in names)


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
    "CS018": (
        DATA + CONV("c", "x", GAUSS.format(1e-4)) + FC("fc", "c", GAUSS.format(1)) + LOSS.format("fc"),
        deep(GAUSS.format(0.01), "Sigmoid"),  # leaves its range: another check's
    ),
    "CS019": (
        IMAGES.format("") + FC("fc", "x") + LOSS.format("fc"),
        IMAGES.format("transform_param { mean_value: 104 }") + FC("fc", "x") + LOSS.format("fc"),
    ),
    "CS024": (normalized("use_global_stats: true"), normalized("use_global_stats: true eps: 1")),
    "CS025": (deep(GAUSS.format(0.5), "ReLU", 3), deep(GAUSS.format(0.04), "ReLU", 3)),
    "CS026": (
        one(CONV("c", "x")).replace("dim: 9 dim: 7", "dim: 3 dim: 5000"),
        one(CONV("c", "x")).replace("dim: 9 dim: 7", "dim: 3 dim: 50"),
    ),
    "CS032": (
        one(CONV("c", "x", 'weight_filler { type: "Xavier" }')),
        one(CONV("c", "x", 'weight_filler { type: "xavier" std: inf }')),
    ),
    "CS034": (
        DATA + CONV("a", "x", param=named("w", "b")) + CONV("b", "x", param=named("w", "bb"))
        + 'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "c" }' + FC("fc", "c") + LOSS.format("fc"),
        DATA + CONV("a", "x", param=named("w", "b")) + CONV("b", "x", param=named("w"))
        + 'layer { name: "sum" type: "Eltwise" bottom: "a" bottom: "b" top: "c" }' + FC("fc", "c") + LOSS.format("fc"),
    ),
    "CS023": (NO_SHAPE + FC("fc", "x") + LOSS.format("fc"), NO_SHAPE + FC("fc", "x")),
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
    of_solvers = {"CS030", "CS031"}  # tests/training/test_validation.py
    of_runs = {"CS004", "CS020", "CS021", "CS022", "CS033", "CS035"}
    assert {check.code for check in all_checks()} - set(TRIGGERS) - of_solvers == of_runs


@pytest.mark.parametrize(
    "path", sorted(MODELS.glob("*.prototxt")) + sorted(MODELS.glob("deploy/*")), ids=lambda p: p.name
)
def test_our_models_raise_no_alarm(path: Path) -> None:
    assert check_file(str(path), Job(selected((), ()), net=NetOptions(batch=2))) == []


def test_places_name_the_field(tmp_path: Path) -> None:
    (found,) = issues(tmp_path, one(CONV("c", "x", 'weight_filler { type: "xavier" std: 0.1 }')), "CS006")
    line = (tmp_path / "net.prototxt").read_text().splitlines()[found.place.line - 1]
    assert line[found.place.column - 1 :].startswith("std: 0.1")
    assert found.layer == "c"


def test_odd_text_is_told(tmp_path: Path) -> None:
    text = one(CONV("c", "x", more="engine: MKL2017"))
    assert [issue.layer for issue in issues(tmp_path, text, "CS004")] == ["c"]
    assert issues(tmp_path, one(CONV("c", "x", more="engine: CUDNN")), "CS004") == []


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


def test_a_foreign_layer_is_told_of_once_without_its_fields(tmp_path: Path) -> None:
    foreign = 'layer {{ name: "{0}" type: "ForksOwnBox" bottom: "x" top: "{0}" prior_box_param {{ min_size: 3 }} }}\n'
    found = issues(tmp_path, one(CONV("c", "x")) + foreign.format("p") + foreign.format("q"), "CS003")
    assert [(issue.layer, issue.severity, issue.cause) for issue in found] == [
        ("p", "warning", "ForksOwnBox"),
        ("q", "warning", "ForksOwnBox"),
    ]
    assert issues(tmp_path, one(CONV("c", "x")) + foreign.format("p"), "CS002") == []


def test_a_misspelled_type_gets_the_right_one(tmp_path: Path) -> None:
    (found,) = issues(tmp_path, DATA + CONV("c", "x").replace('"Convolution"', '"Convoltuion"'), "CS003")
    assert (found.severity, found.fix) == ("warning", 'type: "Convolution"')


def test_fields_that_a_forks_type_reads_are_known(tmp_path: Path) -> None:
    norm = 'layer { name: "bn" type: "BN" bottom: "x" top: "b" bn_param { frozen: true } }\n'
    assert issues(tmp_path, DATA + norm + FC("fc", "b") + LOSS.format("fc"), "CS002") == []


def test_an_unknown_field_names_its_layer(tmp_path: Path) -> None:
    (found,) = issues(tmp_path, one(CONV("c", "x", more="num_outputs: 3")), "CS002")
    assert found.layer == "c"


def test_a_net_that_freezes_what_it_does_not_fill_waits_for_weights(tmp_path: Path) -> None:
    frozen = CONV("f", "x", "", param="param { lr_mult: 0 } param { lr_mult: 0 }")
    (found,) = issues(tmp_path, one(frozen + CONV("c", "f", "")), "CS005")
    assert (found.layer, found.severity, found.numbers) == ("c", "info", {"layers": 1})
    assert found.edits is None


def test_new_layers_that_the_weights_lack_still_need_fillers(tmp_path: Path) -> None:
    from caffestat import api

    (tmp_path / "filled.prototxt").write_text(one(CONV("c", "x")))
    api.fill(str(tmp_path / "filled.prototxt"), tmp_path / "w.caffemodel")
    renamed = one(CONV("c", "x", "")).replace('name: "fc"', 'name: "new"').replace(XAVIER, "")
    found = issues(tmp_path, renamed, "CS005", weights=[str(tmp_path / "w.caffemodel")])
    assert [issue.layer for issue in found] == ["new"]


def test_a_uniform_filler_with_std_wants_its_range(tmp_path: Path) -> None:
    (found,) = issues(tmp_path, one(CONV("c", "x", 'weight_filler { type: "uniform" std: 0.1 }')), "CS006")
    assert "draws from 0 to 1" in found.message
    assert found.fix == "write min: -0.1732 max: 0.1732"
    assert found.edits is None
    ranged = 'weight_filler { type: "uniform" min: -0.1 max: 0.1 std: 0.1 }'
    (found,) = issues(tmp_path, one(CONV("c", "x", ranged)), "CS006")
    assert found.edits is not None


@pytest.mark.parametrize(
    ("filler", "severity"), [('"constant" value: 0.01', "warning"), ('"constant"', None), ('"xavier"', None)]
)
def test_constant_weights_in_the_last_layer(tmp_path: Path, filler: str, severity: str | None) -> None:
    text = one(CONV("c", "x")).replace(XAVIER, f"weight_filler {{ type: {filler} }}")
    assert [issue.severity for issue in issues(tmp_path, text, "CS007")] == ([severity] if severity else [])


def test_groups_of_one_output_are_not_symmetric(tmp_path: Path) -> None:
    text = DATA + CONV("c", "x", 'weight_filler { type: "constant" value: 0.1 }', "group: 3").replace("64", "3")
    assert issues(tmp_path, text + FC("fc", "c") + LOSS.format("fc"), "CS007") == []


def test_fan_out_is_right_where_the_axes_are_swapped(tmp_path: Path) -> None:
    swapped = DECONV.format("variance_norm: FAN_OUT").replace("stride: 2", "stride: 1")
    assert issues(tmp_path, DATA + swapped + FC("fc", "up") + LOSS.format("fc"), "CS008") == []
    plain = swapped.replace("variance_norm: FAN_OUT", "")
    (found,) = issues(tmp_path, DATA + plain + FC("fc", "up") + LOSS.format("fc"), "CS008")
    assert found.numbers["factor"] == 3 * 16 / (12 * 16)


def test_shared_fillers_differ_only_in_what_is_read(tmp_path: Path) -> None:
    twin = CONV("b", "x", 'weight_filler { type: "msra" std: 0.3 }', param=SHARED)
    text = TRIGGERS["CS009"][1].replace(CONV("b", "x", param=SHARED), twin)
    assert issues(tmp_path, text, "CS009") == []


def test_a_deploy_net_may_have_any_bias(tmp_path: Path) -> None:
    assert issues(tmp_path, DATA + CONV("c", "x", more="bias_filler { value: -4 }") + ACT("ReLU", "c"), "CS010") == []


def test_msra_in_front_of_an_output_or_a_gate_is_fine(tmp_path: Path) -> None:
    output = one(CONV("c", "x")) + 'layer { name: "p" type: "Sigmoid" bottom: "fc" top: "p" }\n'
    assert issues(tmp_path, output.replace(XAVIER, 'weight_filler { type: "msra" }'), "CS012") == []
    gate = CONV("g", "x") + ACT("Sigmoid", "g") + CONV("a", "x")
    product = 'layer { name: "m" type: "Eltwise" bottom: "a" bottom: "g" top: "c" eltwise_param { operation: PROD } }\n'
    assert issues(tmp_path, DATA + gate + product + FC("fc", "c") + LOSS.format("fc"), "CS012") == []
    total = product.replace("PROD", "SUM")
    assert len(issues(tmp_path, DATA + gate + total + FC("fc", "c") + LOSS.format("fc"), "CS012")) == 1


def test_saturation_is_mended_where_it_comes_from(tmp_path: Path) -> None:
    tanh = one(CONV("c", "x", GAUSS.format(2))).replace('type: "ReLU"', 'type: "TanH"')
    (found,) = issues(tmp_path, tanh, "CS013")
    assert found.fix.startswith("make the weights of layer 'c' ")
    assert "(mean 0, std" in found.message  # never -0
    biased = one(CONV("c", "x", GAUSS.format(0.01), "bias_filler { value: 9 }")).replace('"ReLU"', '"TanH"')
    (found,) = issues(tmp_path, biased, "CS013")
    assert found.fix.startswith("bring the mean of its input from 9 to 0")


def test_sums_of_few_terms_are_not_taken_for_normal(tmp_path: Path) -> None:
    sparse = FC("c", "x", 'weight_filler { type: "gaussian" std: 3 sparse: 2 }', 60)
    text = DATA + sparse + ACT("TanH", "c") + FC("fc", "c") + LOSS.format("fc")  # 189 inputs, 6 of them heard
    assert issues(tmp_path, text, "CS013") == []
    assert len(issues(tmp_path, text.replace("sparse: 2", "sparse: 20"), "CS013")) == 1


def test_an_explosion_names_the_layers_that_amplify_with_their_means(tmp_path: Path) -> None:
    text = deep('weight_filler { type: "uniform" }', "ReLU", 8)
    (found,) = issues(tmp_path, text, "CS015")
    # weights of mean 1/2 add up what a ReLU leaves, all of one sign; 7.5 of the 9 taps lie inside of 9 x 7
    assert float(found.message.split("×")[1].split(",")[0]) == pytest.approx(64 * 7.5 / 2, rel=0.1)


def test_batch_norm_undoes_the_size_of_what_it_reads(tmp_path: Path) -> None:
    norm = 'layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }\n'
    text = DATA + CONV("c", "x", GAUSS.format(1e6)) + norm + FC("fc", "c") + LOSS.format("fc")
    assert issues(tmp_path, text, "CS015") == []
    assert len(issues(tmp_path, text.replace(norm, ""), "CS015")) == 1


def test_labels_and_words_are_no_signal(tmp_path: Path) -> None:
    words = (
        'layer { name: "data" type: "Input" top: "x" top: "label" input_param { shape { dim: 5 } shape { dim: 5 } } }\n'
    )
    embed = """layer { name: "e" type: "Embed" bottom: "x" top: "e" embed_param { input_dim: 9000 num_output: 60
      weight_filler { type: "uniform" min: -0.08 max: 0.08 } } }\n"""
    text = words + embed + FC("fc", "e") + LOSS.format("fc")
    assert issues(tmp_path, text, "CS014", "CS015", vanish=1e-3, explode=1e3) == []


def test_nothing_is_said_of_gradients_in_front_of_a_layer_that_cannot_be_computed(tmp_path: Path) -> None:
    odd = 'layer { name: "odd" type: "Margin" bottom: "c" top: "o" }\n'
    text = DATA + CONV("c", "x") + odd + FC("fc", "o") + FC("g", "x") + LOSS.format("g")
    assert issues(tmp_path, text, "CS016") == []
    assert issues(tmp_path, text, "CS003")[0].layer == "odd"


@pytest.mark.parametrize(
    ("after", "count"),
    [
        (FC("fc", "x"), 1),
        ('layer { name: "s" type: "Slice" bottom: "x" top: "a" top: "b" }\n' + FC("fc", "a"), 1),
        ('layer { name: "s" type: "Scale" bottom: "x" top: "a" }\n' + FC("fc", "a"), 0),
        (CONV("c", "x") + 'layer { name: "n" type: "BatchNorm" bottom: "c" top: "c" }\n' + FC("fc", "c"), 0),
    ],
)
def test_unscaled_images_are_followed_to_the_weights(tmp_path: Path, after: str, count: int) -> None:
    assert len(issues(tmp_path, IMAGES.format("") + after + LOSS.format("fc"), "CS019")) == count


def test_only_the_first_dead_relu_is_told_and_none_of_unfilled_nets(tmp_path: Path) -> None:
    dead = CONV("a", "x", GAUSS.format(0.01), "bias_filler { value: -2 }") + ACT("ReLU", "a")
    text = DATA + dead + CONV("c", "a") + ACT("ReLU", "c") + FC("fc", "c") + LOSS.format("fc")
    assert [issue.layer for issue in issues(tmp_path, text, "CS020", run=True)] == ["relu_a"]
    assert issues(tmp_path, DATA + CONV("c", "x", "") + ACT("ReLU", "c"), "CS020", run=True) == []


@pytest.mark.parametrize("text", [V0, V1], ids=["V0", "V1"])
@pytest.mark.parametrize(
    ("filler", "code"),
    [
        ("", "CS005"),
        ('weight_filler { type: "xavier" std: 1 }', "CS006"),
        ('weight_filler { type: "msra" }', "CS012"),
        ('weight_filler { type: "gaussian" std: 3 }', "CS013"),
        ('weight_filler { type: "gaussian" std: 0.1 }', None),
    ],
)
def test_old_formats_are_checked_as_the_new_one(tmp_path: Path, text: str, filler: str, code: str | None) -> None:
    found = issues(tmp_path, text % filler)
    assert [issue.code for issue in found] == ([code] if code else [])
    assert all(issue.place.line in (3, 4) for issue in found)


def test_what_a_deep_stack_leaves_counts_its_pooling(tmp_path: Path) -> None:
    plain, kernel = deep(XAVIER, "ReLU", 9), "pooling_param { pool: MAX kernel_size: 3 stride: 1 pad: 1 }"
    pool = f'layer {{ name: "p" type: "Pooling" bottom: "c3" top: "p" {kernel} }}\n'
    before = 'layer { name: "c4" type: "Convolution" bottom: '
    pooled = plain.replace(f'{before}"c3"', f'{pool}{before}"p"')
    (one_left,), (other,) = issues(tmp_path, plain, "CS011"), issues(tmp_path, pooled, "CS011")
    assert one_left.numbers["left"] == pytest.approx(2**-4.5 * 0.9**4.5, rel=0.25)  # borders have fewer taps
    assert other.numbers["left"] > 1.5 * one_left.numbers["left"]
    leaky = plain.replace('type: "ReLU"', 'type: "ReLU" relu_param { negative_slope: 0.4 }')
    assert issues(tmp_path, leaky, "CS011") == []


@pytest.mark.filterwarnings("ignore:overflow")
def test_finite_values_whose_sum_is_not_are_finite(tmp_path: Path) -> None:
    text = one(CONV("c", "x", GAUSS.format(1e36)))
    assert [issue.layer for issue in issues(tmp_path, text, "CS021", run=True)] != ["c"]
    (found,) = issues(tmp_path, one(CONV("c", "x", GAUSS.format(8e37))), "CS021", run=True)
    assert (found.layer, "'c'" in found.message) == ("c", True)


def test_a_layer_that_passes_nothing_on_is_named(tmp_path: Path) -> None:
    text = DATA + CONV("c", "x") + ACT("ReLU", "c") + CONV("dead", "c", more="bias_filler { value: -50 }")
    text += ACT("ReLU", "dead") + FC("fc", "dead") + LOSS.format("fc")
    (found,) = issues(tmp_path, text, "CS014")
    assert "layer 'dead' passes no signal" in found.message
    assert not found.message.rstrip().endswith(":")


ZEROS = 'weight_filler { type: "constant" value: 0 }'
NOTHING = 'layer { name: "p" type: "Power" bottom: "first" top: "p" power_param { scale: 0 } }\n'


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (CONV("first", "x") + ACT("ReLU", "first") + CONV("zeros", "first", ZEROS), "zeros"),
        (CONV("first", "x") + NOTHING + CONV("zeros", "p"), "first"),
    ],
    ids=["its weights are zero", "what follows it gives zeros"],
)
def test_the_layer_that_makes_zeros_is_named_not_the_one_before(tmp_path: Path, text: str, name: str) -> None:
    (found,) = issues(tmp_path, DATA + text + FC("fc", "zeros") + LOSS.format("fc"), "CS014")
    assert found.message.endswith(f": layer {name!r} passes no signal")


def test_a_bias_in_front_of_a_normalizer_is_not_reported(tmp_path: Path) -> None:
    normalized = 'layer { name: "n" type: "BatchNorm" bottom: "c" top: "c" }\n'
    text = one(CONV("c", "x", more="bias_filler { value: -4 }"))
    assert len(issues(tmp_path, text, "CS010")) == 1
    assert issues(tmp_path, text.replace(ACT("ReLU", "c"), normalized + ACT("ReLU", "c")), "CS010") == []


def test_a_normalization_of_one_value_per_channel_is_named(tmp_path: Path) -> None:
    text = """layer { name: "data" type: "Input" top: "data" top: "label"
      input_param { shape { dim: 6 dim: 4 } shape { dim: 6 } } }
    layer { name: "f" type: "InnerProduct" bottom: "data" top: "f"
      inner_product_param { num_output: 9 weight_filler { type: "msra" } } }
    layer { name: "bn" type: "BatchNorm" bottom: "f" top: "bn" }
    layer { name: "r" type: "ReLU" bottom: "bn" top: "r" }
    layer { name: "g" type: "InnerProduct" bottom: "r" top: "g"
      inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "g" bottom: "label" top: "loss" }"""
    assert issues(tmp_path, text, "CS014", "CS016") == []
    found = issues(tmp_path, text.replace("dim: 6", "dim: 1"), "CS014", "CS016")
    assert [(one.code, one.layer) for one in found] == [("CS014", "bn"), ("CS016", "bn")]
    assert "normalizes one value per channel, of which 0 remains" in found[0].message
    assert "no gradient passes the layer" in found[1].message
