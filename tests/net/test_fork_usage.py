"""What forks write in layers of Caffe's own types is computed as they do, or shown as unknown; never a wrong number."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat.errors import NetError
from caffestat.layers import similar_type
from caffestat.net import TEST, TRAIN, Net, build, load, state_of
from caffestat.net.source import NetSource, Solver

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


@pytest.mark.parametrize(
    ("layer", "shape", "words"),
    [
        ('type: "Eltwise" eltwise_param { coeff: 0.5 }', (2, 3, 12, 9), "computed as a fork does"),
        ('type: "Pooling" pooling_param { kernel_size: 2 dilation: 2 }', None, "pooling_param.dilation"),
        ('type: "Pooling" pooling_param { kernel_size: 1 kernel_size: 2 }', (2, 3, 12, 8), "of dialect c3d"),
        ('type: "Pooling" pooling_param { kernel_size: 1 kernel_size: 2 kernel_d: 1 }', None, "kernel_d"),
        ('type: "Convolution" convolution_param { num_output: 4 kernel_d: 3 dilation_d: 1 }', None, "dilation_d"),
        ('type: "Pooling" pooling_param { pool: L2NORM kernel_size: 2 }', None, "pool does is not known"),
        ('type: "Convolution" convolution_param { num_output: 4 kernel_size: 3 pad_d: 1 }', None, "pad_d"),
        ('type: "InnerProduct" inner_product_param { num_output: 4 normalize: true }', None, "normalize"),
        ('type: "Dropout" dropout_param { sample_weights_test: true }', None, "sample_weights_test"),
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


@pytest.mark.parametrize("field", ["class_weighting: 0.5", "pre_fixed_normalizer: 7", "normalization: PRE_FIXED"])
def test_a_loss_that_a_fork_weighs_is_unknown(tmp_path: Path, field: str) -> None:
    label = INPUT.replace('"x"', '"y"') % "dim: 2"
    loss = 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "x" bottom: "y" top: "l" loss_param { %s } }'
    net = made(tmp_path, INPUT % "dim: 2 dim: 5" + label + loss % field)
    assert shapes(net) == [None]


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
    ],
)
def test_a_blob_of_another_state_names_its_layer(tmp_path: Path, rule: str, words: str) -> None:
    data = IMAGE.replace('type: "Input"', f'type: "Input" {rule}')
    batch_norm = 'layer { name: "n" type: "BatchNorm" bottom: "x" top: "x" }'
    with pytest.raises(NetError, match="layer 'x' at .*produces it, but " + words) as caught:
        made(tmp_path, data + batch_norm)
    assert "the layer itself" not in str(caught.value)
    if "phase" in rule:
        assert shapes(made(tmp_path, data + batch_norm, TEST)) == [(2, 3, 12, 9)]


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
