"""What forks write in layers of Caffe's own types is computed as they do, or shown as unknown; never a wrong number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat.api import analyze
from caffestat.errors import NetError
from caffestat.layers import similar_type
from caffestat.net import TEST, TRAIN, Net, build, load, state_of
from caffestat.net.source import NetSource, Solver
from caffestat.report import debug_lines

INPUT = 'layer { name: "x" type: "Input" top: "x" input_param { shape { %s } } }\n'
IMAGE = INPUT % "dim: 2 dim: 3 dim: 12 dim: 9"


def made(folder: Path, text: str, phase: int = TRAIN) -> Net:
    path = folder / "net.prototxt"
    path.write_text(text)
    source = load(str(path))
    assert isinstance(source, NetSource)
    return build(source, state_of(source, phase))


def shapes(net: Net) -> list[tuple[int, ...] | None]:
    return list(net.nodes[-1].top_shapes)


def test_memory_data_of_one_top(tmp_path: Path) -> None:
    sizes = "batch_size: 2 channels: 3 height: 6 width: 5"
    net = made(tmp_path, f'layer {{ name: "d" type: "MemoryData" top: "x" memory_data_param {{ {sizes} }} }}')
    assert shapes(net) == [(2, 3, 6, 5)]
    assert "has 1 top, but Caffe expects 2; computed as a fork does" in net.findings[0].message


def test_memory_data_of_three_tops(tmp_path: Path) -> None:
    tops = 'top: "x" top: "y" top: "sizes"'
    sizes = "batch_size: 2 channels: 3 height: 6 width: 5"
    net = made(tmp_path, f'layer {{ name: "d" type: "MemoryData" {tops} memory_data_param {{ {sizes} }} }}')
    assert shapes(net) == [(2, 3, 6, 5), (2,), (2, 1, 1, 2)]
    assert "has 3 tops, but Caffe expects 2; computed as a fork does" in net.findings[0].message


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        ('type: "Eltwise" eltwise_param { coeff: 0.5 }', (2, 3, 12, 9), "computed as a fork does"),
        ('type: "Pooling" pooling_param { kernel_size: 2 dilation: 2 }', (2, 3, 10, 7), "naibaf7/caffe"),
        ('type: "Pooling" pooling_param { kernel_size: 2 anchors: 2 }', None, "the effect of anchors is unknown"),
        ('type: "Pooling" pooling_param { kernel_size: 2 dilation: 2 anchors: 2 }', None, "the effect of anchors"),
        (
            'type: "Pooling" pooling_param { pool: L2NORM kernel_size: 2 dilation: 2 }',
            None,
            "the effect of pool is unknown",
        ),
        (
            'type: "Pooling" pooling_param { pool: L2NORM kernel_size: 1 kernel_size: 2 }',
            None,
            "the effect of pool is unknown",
        ),
        ('type: "Pooling" pooling_param { kernel_size: 1 kernel_size: 2 }', (2, 3, 12, 8), "of dialect c3d"),
        ('type: "Pooling" pooling_param { kernel_size: 1 kernel_size: 2 kernel_d: 1 }', None, "kernel_d"),
        ('type: "Convolution" convolution_param { num_output: 4 kernel_d: 3 dilation_d: 1 }', None, "dilation_d"),
        ('type: "Pooling" pooling_param { pool: L2NORM kernel_size: 2 }', None, "the effect of pool is unknown"),
        ('type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 pad_d: 1 }', None, "pad_d"),
        ('type: "InnerProduct" inner_product_param { num_output: 4 normalize: true }', (2, 4), "happynear"),
        ('type: "Dropout" dropout_param { sample_weights_test: true }', (2, 3, 12, 9), "caffe-segnet"),
        ('type: "ReLU" device: 1', (2, 3, 12, 9), "it has no effect on the results (which device computes the layer)"),
        ('type: "BatchNorm" batch_norm_param { use_weight_bias: true }', (2, 3, 12, 9), "intel/caffe"),
        ('type: "ReLU" softmax_param { normalize_type: "L2" }', (2, 3, 12, 9), "unknown field 'normalize_type'"),
        ('type: "ReLU" gpu_1_batch_proportion: 0.5', (2, 3, 12, 9), "which share of the batch or of the outputs each"),
        (
            'type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 engine: MKL }',
            (2, 4, 10, 7),
            "MKL",
        ),
    ],
)
def test_computed_or_unknown(tmp_path: Path, layer: str, shape: tuple[int, ...] | None, words: str | None) -> None:
    net = made(tmp_path, IMAGE + f'layer {{ name: "l" bottom: "x" top: "y" {layer} }}')
    assert shapes(net) == [shape]
    assert any(words in finding.message for finding in net.findings) if words else net.findings == ()


def test_a_value_of_a_fork_is_no_field_that_caffe_lacks(tmp_path: Path) -> None:
    divide = 'layer { name: "l" type: "Eltwise" bottom: "x" bottom: "x" top: "y" eltwise_param { operation: DIV } }'
    *_, last = made(tmp_path, IMAGE + divide).findings
    assert last.message.endswith("(Eltwise): the effect of operation is unknown, so the shapes of its tops are unknown")


LABEL = INPUT.replace('"x"', '"t"')
LOSS = 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "t" top: "l" loss_param { %s } }'


@pytest.mark.parametrize(
    ("fields", "dialect", "is_known"),
    [
        ("class_weighting: 0.5", "segnet", True),
        ("pre_fixed_normalizer: 7", "intel", True),
        ("pre_fixed_normalizer: 7 normalization: PRE_FIXED", "intel", True),
        ("normalization: PRE_FIXED", "", False),
        ("class_weighting: 0.5 normalization: PRE_FIXED", "", False),
        ("focus: 2", "", False),
    ],
)
def test_a_loss_that_a_fork_weighs_is_computed_or_unknown(
    tmp_path: Path, fields: str, dialect: str, is_known: bool
) -> None:
    net = made(tmp_path, INPUT % "dim: 2 dim: 5" + LABEL % "dim: 2" + LOSS % fields)
    assert (net.nodes[-1].layer.dialect, net.nodes[-1].is_known) == (dialect, is_known)
    assert shapes(net) == [None if "PRE_FIXED" in fields and not is_known else ()]


IMAGES = (
    'layer { name: "d" type: "%s" top: "x" top: "t" %s { source: "none" batch_size: 2 %s } transform_param { %s } }\n'
)


@pytest.mark.parametrize("kind", [("Data", "data_param"), ("ImageData", "image_data_param")])
def test_fields_that_change_the_data_make_them_synthetic(tmp_path: Path, kind: tuple[str, str]) -> None:
    net = made(tmp_path, IMAGES % (*kind, "", "crop_size: 5 distort_param { hue_prob: 0.5 }"))
    assert net.nodes[0].top_shapes == ((2, 3, 5, 5), (2,))
    assert net.nodes[0].layer.why_synthetic == "the effect of distort_param is unknown"
    net = made(tmp_path, IMAGES % (*kind, "colours: 4", "crop_size: 5"))
    assert net.nodes[0].layer.why_synthetic == "the effect of colours is unknown"
    net = made(tmp_path, IMAGES % (*kind, "", "crop_size: 5 resize_param { height: 3 }"))
    assert net.nodes[0].top_shapes == (None, None)
    assert "the effect of resize_param is unknown" in net.findings[-1].message


def test_values_that_a_fork_changes_are_unknown_and_shapes_stay(tmp_path: Path) -> None:
    text = IMAGE + (
        'layer { name: "n" type: "BatchNorm" bottom: "x" top: "x" batch_norm_param { disable_mean: true } }\n'
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 4 } }\n'
    )
    (tmp_path / "net.prototxt").write_text(text)
    report = analyze(str(tmp_path / "net.prototxt"))
    (x,), (n,), (ip,) = (layer.tops for layer in report.layers)
    assert [(top.shape, top.mean_abs is None, top.is_unknown) for top in (x, n, ip)] == [
        ((2, 3, 12, 9), False, False),
        ((2, 3, 12, 9), True, True),
        ((2, 4), True, True),
    ]
    assert [len(layer.params) for layer in report.layers] == [0, 3, 2]
    assert report.totals.macs == 2 * 4 * 324
    lines = [line for line in debug_lines(report) if "top blob" in line]
    assert [line.rpartition(": ")[2] == "?" for line in lines] == [False, True, True]


@pytest.mark.parametrize(
    ("layer", "computed"),
    [
        ('type: "Accuracy" bottom: "x" bottom: "t" top: "l" top: "m" top: "n"', False),
        ('type: "SoftmaxWithLoss" bottom: "x" bottom: "t" bottom: "x" bottom: "t" top: "l"', None),
        ('type: "SoftmaxWithLoss" bottom: "x" bottom: "t" bottom: "t" top: "l"', True),
        ('type: "SoftmaxWithLoss" bottom: "x" bottom: "t" top: "l" top: "m" top: "n" top: "o"', False),
        ('type: "SoftmaxWithLoss" bottom: "x" bottom: "t" top: "l" top: "m" top: "n"', True),
        ('type: "EuclideanLoss" bottom: "x" bottom: "x" bottom: "x" top: "l"', True),
        ('type: "SigmoidCrossEntropyLoss" bottom: "x" bottom: "x" bottom: "x" top: "l"', True),
        ('type: "Crop" bottom: "x" top: "l"', False),
        ('type: "Data" top: "a" top: "b" top: "c" data_param { source: "none" batch_size: 2 }', False),
        ('type: "ReLU" bottom: "x" bottom: "t" top: "l"', None),
    ],
)
def test_numbers_of_bottoms_and_tops_that_only_forks_take(tmp_path: Path, layer: str, computed: bool | None) -> None:
    text = INPUT % "dim: 2 dim: 5" + LABEL % "dim: 2" + f'layer {{ name: "l" {layer} }}'
    if computed is None:
        with pytest.raises(NetError, match=r"takes .* bottom blobs?, found"):
            made(tmp_path, text)
        return
    net = made(tmp_path, text)
    words = "is a fork's" if computed else "but forks of Caffe take it: the shapes of its tops are unknown"
    assert net.nodes[-1].is_known is computed
    assert any(words in finding.message for finding in net.findings)


def test_tops_that_only_other_python_code_makes(tmp_path: Path) -> None:
    code = "module: 'rpn.proposal_target_layer' layer: 'ProposalTargetLayer' param_str: \"'num_classes': 3\""
    tops = " ".join(f'top: "t{index}"' for index in range(6))
    pooling = 'layer { name: "p" type: "PSROIPooling" bottom: "x" bottom: "t0" top: "p" }\n'
    layer = f'layer {{ name: "l" type: "Python" bottom: "x" bottom: "t" {tops} python_param {{ {code} }} }}'
    net = made(tmp_path, INPUT % "dim: 9 dim: 5" + LABEL % "dim: 2 dim: 5" + layer + pooling)
    assert net.nodes[-2].top_shapes == (None,) * 6


def test_settings_that_only_other_python_code_takes(tmp_path: Path) -> None:
    code = "module: 'voc_layers' layer: 'SBDDSegDataLayer' param_str: \"{'cells_dir': 'a', 'split': 'train'}\""
    net = made(tmp_path, f'layer {{ name: "l" type: "Python" top: "x" top: "t" python_param {{ {code} }} }}')
    assert shapes(net) == [None, None]
    assert "are in Python code (voc_layers.SBDDSegDataLayer)" in net.findings[-1].message


def test_further_tops_of_regions(tmp_path: Path) -> None:
    code = "module: 'roi_data_layer.layer' layer: 'RoIDataLayer' param_str: \"'num_classes': 3\""
    tops = " ".join(f'top: "t{index}"' for index in range(7))
    net = made(tmp_path, f'layer {{ name: "l" type: "Python" {tops} python_param {{ {code} }} }}')
    assert [len(shape or ()) for shape in net.nodes[-1].top_shapes] == [4, 2, 1, 2, 2, 2, 0]


@pytest.mark.parametrize(
    ("layer", "shape", "last"),
    [
        ('type: "Eltwise" bottom: "x" bottom: "t"', (2, 5), "dim: 2 dim: 5 dim: 1 dim: 1"),
        (
            'type: "Eltwise" bottom: "t" bottom: "x" eltwise_param { operation: MAX }',
            (2, 5, 1, 1),
            "dim: 2 dim: 5 dim: 1 dim: 1",
        ),
        ('type: "Concat" bottom: "x" bottom: "t"', (2, 8, 1, 1), "dim: 2 dim: 3 dim: 1 dim: 1"),
        ('type: "EuclideanLoss" bottom: "x" bottom: "t"', (), "dim: 2 dim: 5 dim: 1 dim: 1"),
    ],
)
def test_vectors_beside_blobs_of_four_axes(tmp_path: Path, layer: str, shape: tuple[int, ...], last: str) -> None:
    text = INPUT % "dim: 2 dim: 5" + LABEL % last + f'layer {{ name: "l" top: "l" {layer} }}'
    net = made(tmp_path, text)
    assert shapes(net) == [shape]
    told = [finding.message for finding in net.findings]
    assert len(told) == bool(shape)
    assert all("not in forks whose blobs all have 4 axes; computed as a fork does" in message for message in told)
    x, t = (np.random.default_rng(1).normal(size=node.top_shapes[0]).astype(np.float32) for node in net.nodes[:2])
    measured = analyze(str(tmp_path / "net.prototxt"), inputs={"x": x, "t": t})
    flat = x.reshape(2, -1), t.reshape(2, -1)
    expected = {
        "Eltwise": lambda: np.maximum(*flat) if "MAX" in layer else flat[0] + flat[1],
        "Concat": lambda: np.concatenate(flat, 1),
        "EuclideanLoss": lambda: ((flat[0] - flat[1]) ** 2).sum() / 4,
    }[layer.split('"')[1]]()
    assert measured.layers[-1].tops[0].mean_abs == pytest.approx(float(np.abs(expected).mean()), rel=1e-5)
    wrong: list[NetError] = []
    (tmp_path / "net.prototxt").write_text(text.replace(last, "dim: 2 dim: 5 dim: 2 dim: 1"))
    source = load(str(tmp_path / "net.prototxt"))
    assert isinstance(source, NetSource)
    found = build(source, faults=wrong)
    assert len(wrong) == 1
    assert "expected that of bottom 0" in str(wrong[0]) or "expected two bottoms" in str(wrong[0])
    assert found.findings == ()


def test_labels_of_images_may_be_vectors(tmp_path: Path) -> None:
    text = (
        IMAGES % ("Data", "data_param", "", "crop_size: 4")
        + 'layer { name: "a" type: "Softmax" bottom: "t" top: "a" softmax_param { axis: 0 } }\n'
        + 'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 3 } }\n'
        + 'layer { name: "l" type: "SigmoidCrossEntropyLoss" bottom: "ip" bottom: "t" top: "l" }\n'
    )
    net = made(tmp_path, text)
    assert shapes(net) == [None]
    assert "vectors of labels: --shape t=2,3; but forks of Caffe take it" in net.findings[-1].message
    source = load(str(tmp_path / "net.prototxt"))
    assert isinstance(source, NetSource)
    assert shapes(build(source, shapes={"t": (2, 3)})) == [()]
    with pytest.raises(NetError, match="expected one target per value"):
        made(tmp_path, text.replace('bottom: "ip" bottom: "t"', 'bottom: "ip" bottom: "x"'))


def test_a_loss_of_unknown_type_may_have_no_top(tmp_path: Path) -> None:
    net = made(tmp_path, IMAGE + 'layer { name: "l" type: "MarginRankLoss" bottom: "x" loss_weight: 0.5 }')
    assert net.nodes[-1].loss_weights == ()


def test_five_dims_of_one_input(tmp_path: Path) -> None:
    dims = "input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 6 input_dim: 5"
    net = made(tmp_path, f'input: "v" {dims}')
    assert shapes(net) == [(1, 3, 8, 6, 5)]
    assert "5 input_dim for 1 input(s)" in net.findings[0].message
    with pytest.raises(NetError, match="need 2 input_shape"):
        made(tmp_path, f'input: "v" input: "w" {dims}')


def test_a_rule_for_a_phase_that_only_a_fork_has_never_holds(tmp_path: Path) -> None:
    layer = 'layer { name: "%s" type: "ReLU" bottom: "x" top: "%s" %s { phase: RUN } }\n'
    net = made(tmp_path, IMAGE + layer % ("a", "a", "include") + layer % ("b", "b", "exclude"))
    assert [node.name for node in net.nodes if not node.layer.is_inserted] == ["x", "b"]


def test_a_misspelled_value_is_still_an_error(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="did you mean MAX"):
        made(tmp_path, IMAGE + 'layer { name: "p" type: "Pooling" bottom: "x" top: "p" pooling_param { pool: MAXX } }')


def test_a_filler_of_a_parameter_and_vectors_of_labels(tmp_path: Path) -> None:
    shape = "shape { dim: 5 dim: 4 }"
    net = made(
        tmp_path,
        'layer { name: "w" type: "Parameter" top: "w" '
        f'parameter_param {{ {shape} blob_filler {{ type: "xavier" }} }} }}',
    )
    assert (net.params[0].param.filler.type, net.params[0].param.written, net.findings) == ("xavier", True, ())
    data = 'image_data_param { source: "list.txt" batch_size: 8 label_dim: 5 }'
    net = made(
        tmp_path, f'layer {{ name: "d" type: "ImageData" top: "x" top: "y" {data} transform_param {{ crop_size: 9 }} }}'
    )
    assert shapes(net) == [(8, 3, 9, 9), (8, 5)]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("include { phase: TEST }", "only in TEST: use --phase test"),
        ('include { stage: "deploy" }', "only in stage 'deploy': use --stage deploy"),
        ("exclude { phase: TRAIN }", "not in TRAIN, where its exclude rules hold"),
        ("include { min_level: 2 }", "only in levels from 2: use --level 2"),
        (
            'include { stage: "a" min_level: 2 max_level: 3 } include { max_level: -1 not_stage: "b" }',
            "only in stage 'a' and levels from 2 to 3 or a state without stage 'b' and levels up to -1: "
            "use --stage a --level 2 or --level -1",
        ),
        ('exclude { phase: TRAIN not_stage: "a" }', "not in TRAIN and a state without stage 'a', where"),
        ("include { phase: DEPLOY }", r"only in a phase that only forks have\Z"),
    ],
)
def test_a_blob_of_another_state_names_its_layer(tmp_path: Path, rule: str, words: str) -> None:
    data = IMAGE.replace('type: "Input"', f'type: "Input" {rule}')
    batch_norm = 'layer { name: "n" type: "BatchNorm" bottom: "x" top: "x" }'
    with pytest.raises(NetError, match="layer 'x' at .*produces it, but " + words) as caught:
        made(tmp_path, data + batch_norm)
    assert "the layer itself" not in str(caught.value)
    if rule.endswith(("TEST }", "TRAIN }")):
        assert shapes(made(tmp_path, data + batch_norm, TEST)) == [(2, 3, 12, 9)]


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("include { phase: TRAIN }", "no layer produces it; the layer is only in TRAIN: use --phase test"),
        ("", "no layer produces it"),
        ("include { phase: TRAIN } include { }", "no layer produces it"),
    ],
)
def test_a_loss_without_labels_names_the_other_phase(tmp_path: Path, rule: str, words: str) -> None:
    loss = f'layer {{ name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "missing" top: "l" {rule} }}'
    with pytest.raises(NetError, match=words + r"\Z"):
        made(tmp_path, IMAGE + loss)


def test_guesses_are_near() -> None:
    assert similar_type("Convoltuion") == "Convolution"
    assert similar_type("Convolutions") == "Convolution"
    assert similar_type("Batch_Norm") == "BatchNorm"
    assert [similar_type(name) for name in ("Lstm", "MarginRankLoss", "Axpy", "relu")] == [None] * 4


def test_a_layer_without_a_type_says_so(tmp_path: Path) -> None:
    net = made(tmp_path, IMAGE + 'layer { name: "l" bottom: "x" top: "y" }')
    assert net.findings[0].message.startswith("layer 'l' has no type")


def test_a_net_of_another_machine_is_taken_from_beside_the_solver(tmp_path: Path) -> None:
    (tmp_path / "train_val.prototxt").write_text(IMAGE)
    for named in ("/home/me/caffe/models/train_val.prototxt", "C:/nets/train_val.prototxt"):
        (tmp_path / "solver.prototxt").write_text(f'net: "{named}"\nbase_lr: 0.1 lr_policy: "fixed"')
        solver = load(str(tmp_path / "solver.prototxt"))
        assert isinstance(solver, Solver)
        assert solver.net.name == str(tmp_path / "train_val.prototxt")
        (note,) = solver.net.findings
        assert (note.place.line, note.message) == (
            1,
            f"net: file not found: {named!r}; took 'train_val.prototxt' beside the solver",
        )


def test_a_dialect_that_the_file_does_not_decide_is_no_fault(tmp_path: Path) -> None:
    """Two forks have a CenterLoss, and both want a num_output: this may be a third one's."""
    text = IMAGE + 'layer { name: "y" type: "Input" top: "y" input_param { shape { dim: 2 } } }\n'
    net = made(tmp_path, text + 'layer { name: "l" type: "CenterLoss" bottom: "x" bottom: "y" top: "l" }\n')
    assert shapes(net) == [None]
    assert any("may be that of" in finding.message for finding in net.findings)
    with pytest.raises(NetError, match="num_output"):
        made(tmp_path, text + 'layer { name: "l" type: "MarginInnerProduct" bottom: "x" bottom: "y" top: "l" }\n')


def test_types_of_the_old_format_may_be_numbers(tmp_path: Path) -> None:
    text = 'input: "x" input_dim: 2 input_dim: 3 input_dim: 8 input_dim: 8 layers { name: "r" type: %s bottom: "x" '
    text += 'top: "r" } layers { name: "p" type: %s bottom: "r" top: "p" pooling_param { pool: %s kernel_size: 2 } }'
    numbers, names = made(tmp_path, text % ("18", "17", "1")), made(tmp_path, text % ("RELU", "POOLING", "AVE"))
    assert [node.type for node in numbers.nodes] == [node.type for node in names.nodes] == ["Input", "ReLU", "Pooling"]
    assert [node.layer.proto.pooling_param.pool for node in numbers.nodes] == [0, 0, 1]
