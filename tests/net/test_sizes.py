"""Shapes that are assumed for data of which no file at hand says them."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat import analyze
from caffestat.errors import NetError, RefusedError
from caffestat.net import sizes
from caffestat.options import NetOptions, ValueOptions
from caffestat.program import open_file

DATA = 'layer { name: "d" type: "Data" top: "data" top: "label" data_param { source: "%s" batch_size: 6 } %s }\n'
HDF5 = 'layer { name: "h" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "l" batch_size: 5 } }\n'
CONV = (
    'layer { name: "c" type: "Convolution" bottom: "%s" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }\n'
)
FC = 'layer { name: "f" type: "InnerProduct" bottom: "%s" top: "f" inner_product_param { num_output: %d } }\n'
LOSS = 'layer { name: "l" type: "%s" bottom: "f" bottom: "label" top: "l" }\n'
INPUT = 'layer { name: "i" type: "Input" top: "data" input_param { shape { dim: 9 dim: 2 dim: 17 dim: 13 } } }\n'


def assumed(folder: Path, text: str, name: str = "net.prototxt", **options: object) -> dict[str, tuple[object, str]]:
    """Return shape and reason of each blob whose shape was assumed."""
    (folder / name).write_text(text)
    faults: list[NetError] = []
    net, found = open_file(str(folder / name)).assuming(NetOptions(**options), faults)  # type: ignore[arg-type]
    shapes = {blob.name: blob.shape for blob in net.blobs}
    assert all(shapes[one.top] == one.shape for one in found)
    return {one.top: (one.shape, one.why) for one in found}


def test_images_are_of_a_usual_size(tmp_path: Path) -> None:
    net = DATA % ("db", "") + CONV % "data" + FC % ("c", 10) + LOSS % "SoftmaxWithLoss"
    assert assumed(tmp_path, net) == {"data": ((6, 3, 224, 224), "a usual size")}
    assert assumed(tmp_path, net, batch=2) == {"data": ((2, 3, 224, 224), "a usual size")}
    assert assumed(tmp_path, net, shapes={"data": (6, 1, 8, 9)}) == {}
    grey = DATA % ("db", "transform_param { force_gray: true }") + CONV % "data"
    assert assumed(tmp_path, grey)["data"][0] == (6, 1, 224, 224)


@pytest.mark.parametrize(
    ("source", "name", "shape", "why"),
    [
        ("mnist_train_lmdb", "net.prototxt", (6, 1, 28, 28), "as images of mnist are"),
        ("db", "CIFAR10_quick.prototxt", (6, 3, 32, 32), "as images of cifar are"),
        ("faces_48X64/mnist", "net.prototxt", (6, 3, 48, 64), "as 48x64 in the name of the net or of its data says"),
        ("a_100x99999_80x10", "net.prototxt", (6, 3, 80, 10), "as 80x10 in the name of the net or of its data says"),
    ],
)
def test_the_names_of_data_sets_tell_their_size(
    tmp_path: Path, source: str, name: str, shape: object, why: str
) -> None:
    assert assumed(tmp_path, DATA % (source, "") + CONV % "data", name) == {"data": (shape, why)}


def test_a_deploy_file_of_the_same_layers_tells_the_size(tmp_path: Path) -> None:
    (tmp_path / "deploy.prototxt").write_text(INPUT + CONV % "data" + FC % ("c", 10))
    (tmp_path / "a_deploy.prototxt").write_text(INPUT.replace("17", "19") + CONV.replace('"c"', '"other"', 1) % "data")
    (tmp_path / "broken_deploy.prototxt").write_text("layer {")
    net = DATA % ("mnist", "") + CONV % "data" + FC % ("c", 10) + LOSS % "SoftmaxWithLoss"
    assert assumed(tmp_path, net) == {"data": ((6, 2, 17, 13), "as deploy.prototxt beside it has it")}


def test_the_crop_of_the_other_phase_and_other_images_tell_the_size(tmp_path: Path) -> None:
    crop = "include { phase: TRAIN } transform_param { crop_size: 23 }"
    other = DATA % ("mnist", crop) + (DATA % ("mnist", "include { phase: TEST }")).replace('"d"', '"e"') + CONV % "data"
    assert assumed(tmp_path, other) == {}
    found = assumed(tmp_path, other, phase="test")
    assert found["data"][0] == (6, 3, 23, 23)
    assert "the crop_size of layer 'd' at" in found["data"][1]
    two = 'layer { name: "e" type: "Data" top: "more" data_param { source: "mnist" batch_size: 4 } }\n'
    assert assumed(tmp_path, INPUT + two)["more"] == ((4, 3, 17, 13), "as large as the images of layer 'i'")


def test_targets_are_what_their_layer_takes(tmp_path: Path) -> None:
    net = HDF5 + FC % ("data", 7)
    assert assumed(tmp_path, net + LOSS % "SoftmaxWithLoss")["label"] == ((5,), "as layer 'l' takes it")
    assert assumed(tmp_path, net + LOSS % "EuclideanLoss")["label"] == ((5, 7), "as layer 'l' takes it")
    pixels = HDF5 + (CONV % "data").replace('top: "c"', 'top: "f"') + LOSS % "SoftmaxWithLoss"
    assert assumed(tmp_path, pixels)["label"] == ((5, 1, 222, 222), "as layer 'l' takes it")


def test_labels_that_only_forks_have_are_what_their_loss_takes(tmp_path: Path) -> None:
    crop = DATA % ("db", "transform_param { crop_size: 9 }") + FC % ("data", 7)
    assert assumed(tmp_path, crop + LOSS % "SoftmaxWithLoss") == {}
    assert assumed(tmp_path, crop + LOSS % "EuclideanLoss") == {"label": ((6, 7), "as layer 'l' takes it")}
    unsized = DATA % ("db", "") + FC % ("data", 7) + LOSS % "EuclideanLoss"
    assert assumed(tmp_path, unsized)["label"] == ((6, 7), "as layer 'l' takes it")
    maps = DATA % ("db", "transform_param { crop_size: 9 }") + (CONV % "data").replace('top: "c"', 'top: "f"')
    several = maps.replace("batch_size: 6", "batch_size: 6 label_type: MULTIPLE") + LOSS % "SoftmaxWithLoss"
    assert assumed(tmp_path, several)["label"] == ((6, 1, 7, 7), "as layer 'l' takes it")
    refused = (
        crop + LOSS % "HingeLoss" + 'layer { name: "a" type: "Accuracy" bottom: "data" bottom: "label" top: "a" }\n'
    )
    net = tmp_path / "net.prototxt"
    net.write_text(refused)
    with pytest.raises(RefusedError, match="expected 486 labels"):  # Caffe's own check of a file that is wrong
        analyze(net, static=True)


def test_no_shape_without_elements_is_assumed_behind_a_fault(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(
        'layer { name: "p" type: "Eltwise" bottom: "lost" bottom: "gone" top: "p" }\n'
        'layer { name: "s" type: "Slice" bottom: "lost" top: "a" top: "b" slice_param { slice_point: 15 } }\n'
        'layer { name: "t" type: "Slice" bottom: "a" top: "c" top: "d" slice_param { slice_point: 6 } }\n'
        'layer { name: "e" type: "EuclideanLoss" bottom: "d" bottom: "b" top: "e" }\n'
    )
    with pytest.raises(RefusedError, match=r"prototxt:1:1: layer 'p': unknown bottom blob 'lost'"):
        analyze(net, static=True)


def test_what_fails_at_every_size_alike_does_not_hinder(tmp_path: Path) -> None:
    odd = (CONV % "data").replace("kernel_size", "kernal_size") + FC % ("data", 3)
    assert assumed(tmp_path, DATA % ("db", "") + odd)["data"] == ((6, 3, 224, 224), "a usual size")


def test_regions_are_several_to_an_image(tmp_path: Path) -> None:
    python = 'layer { name: "p" type: "Python" top: "data" top: "rois" python_param { module: "m" layer: "L" } }\n'
    pool = 'layer { name: "r" type: "ROIPooling" bottom: "c" bottom: "rois" top: "r" roi_pooling_param { %s } }\n'
    found = assumed(tmp_path, python + CONV % "data" + pool % "pooled_w: 2 pooled_h: 2", batch=2)
    assert (found["rois"][0], found["data"][0]) == ((32, 5), (2, 3, 224, 224))


def test_true_boxes_are_rows_as_ssd_has_them(tmp_path: Path) -> None:
    python = 'layer { name: "p" type: "Python" top: "data" top: "label" python_param { module: "m" layer: "L" } }\n'
    heads = FC % ("data", 9 * 4) + (FC % ("data", 9 * 3)).replace('"f"', '"s"')
    prior = """layer { name: "c" type: "Pooling" bottom: "data" top: "c" pooling_param { kernel_size: 6 stride: 9 } }
    layer { name: "b" type: "PriorBox" bottom: "c" bottom: "data" top: "b" prior_box_param { min_size: 9 } }
    layer { name: "l" type: "MultiBoxLoss" bottom: "f" bottom: "s" bottom: "b" bottom: "label" top: "l"
      multibox_loss_param { num_classes: 3 } }"""
    found = assumed(tmp_path, python + heads + prior, batch=2, shapes={"data": (2, 3, 24, 24)})
    assert found["label"] == ((1, 1, 2, 8), "as layer 'l' takes it")


def test_labels_of_a_database_of_their_own_are_what_their_loss_takes(tmp_path: Path) -> None:
    labels = 'layer { name: "e" type: "Data" top: "label" data_param { source: "labels" batch_size: 6 } }\n'
    images = 'layer { name: "d" type: "Data" top: "data" data_param { source: "db" batch_size: 6 } }\n'
    net = labels + images + CONV % "data" + 'layer { name: "l" type: "SoftmaxWithLoss" bottom: "c" bottom: "label" }\n'
    found = assumed(tmp_path, images + labels + net.partition(images)[2])
    assert {top: shape for top, (shape, _) in found.items()} == {
        "data": (6, 3, 224, 224),
        "label": (6, 1, 222, 222),
    }


def test_labels_that_are_cut_up_are_one_for_each_part(tmp_path: Path) -> None:
    cut = 'layer { name: "s" type: "Slice" bottom: "label" top: "u" top: "v" top: "w" slice_param { axis: 1 } }\n'
    found = assumed(tmp_path, HDF5 + CONV % "data" + cut)
    assert (found["label"][0], found["data"][0]) == ((5, 3), (5, 3, 224, 224))


def test_data_layers_of_unknown_types_hold_images_and_targets_too(tmp_path: Path) -> None:
    odd = (DATA % ("db", "")).replace('"Data"', '"OddData"') + CONV % "data" + FC % ("c", 7) + LOSS % "SoftmaxWithLoss"
    assert {top: shape for top, (shape, _) in assumed(tmp_path, odd).items()} == {
        "data": (6, 3, 224, 224),
        "label": (6,),
    }


def test_volumes_are_not_assumed(tmp_path: Path) -> None:
    clips = (CONV % "data").replace("kernel_size: 3", "kernel_size: 3 kernel_size: 3 kernel_size: 2")
    python = 'layer { name: "p" type: "Python" top: "data" python_param { module: "m" layer: "L" } }\n'
    assert assumed(tmp_path, python + clips) == {}


def test_a_size_at_which_a_layer_fails_is_not_taken(tmp_path: Path) -> None:
    flat = DATA % ("db", "") + 'layer { name: "r" type: "Flatten" bottom: "data" top: "r" }\n' + FC % ("r", 784)
    same = flat + 'layer { name: "e" type: "EuclideanLoss" bottom: "f" bottom: "r" top: "l" }\n'
    assert assumed(tmp_path, same)["data"][0] == (6, 1, 28, 28)
    assert assumed(tmp_path, same.replace("784", "785")) == {}


def test_sizes_at_which_a_layer_fails_are_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after a shape of other data is assumed, which does not reach that layer."""
    reshaped = (
        'layer { name: "r" type: "Reshape" bottom: "data" top: "r" reshape_param { shape { dim: 7 dim: 11 } } }\n'
    )
    code = 'layer { name: "p" type: "Python" bottom: "i" top: "p" python_param { module: "m" layer: "P" } }\n'
    net = (
        DATA % ("db", "")
        + reshaped
        + INPUT.replace('"data"', '"i"')
        + code
        + 'layer { name: "t" type: "TanH" bottom: "p" top: "t" }'
    )
    tried: list[object] = []
    trial = sizes._trial
    monkeypatch.setattr(sizes, "_trial", lambda shapes, build: tried.append(shapes) or trial(shapes, build))
    found = assumed(tmp_path, net)
    assert found == {"p": ((9, 2, 17, 13), "as its first bottom")}
    assert len(tried) == len({str(shapes) for shapes in tried}) < 30


def test_inner_products_get_images_that_keep_them_small(tmp_path: Path) -> None:
    assert assumed(tmp_path, DATA % ("db", "") + FC % ("data", 2000))["data"][0] == (6, 3, 32, 32)


def test_what_was_assumed_is_a_warning_and_real_data_are_not(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(DATA % ("db", "") + CONV % "data")
    report = analyze(net, static=True)
    assert [finding.message for finding in report.findings if "assumed" in finding.message] == [
        "layer 'd' (Data): the shape of top 'data' is in the records of 'db', not in this file; "
        "assumed 6x3x224x224, a usual size. Give another as --shape data=N,C,H,W"
    ]
    with pytest.raises(RefusedError, match="no real data"):
        analyze(net, static=True, data="real")


def test_faults_of_the_file_stay_as_they_are(tmp_path: Path) -> None:
    net = tmp_path / "net.prototxt"
    net.write_text(DATA % ("db", "") + CONV % "data" + FC % ("missing", 3))
    faults: list[NetError] = []
    program = open_file(str(net)).assumed_program(NetOptions(), ValueOptions(), faults)
    assert [fault.message for fault in faults] == [
        "layer 'f': unknown bottom blob 'missing' (bottom 0): no layer produces it"
    ]
    assert program.net.blobs[0].shape == (6, 3, 224, 224)


ROIS = """layer { name: "r" type: "Python" top: "data" top: "%s" top: "%s" %s
  python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "'num_classes': 4" } }
"""
TARGETS = ("targets", "inside", "outside")


def test_settings_outside_of_the_file_change_shapes_where_layers_fail_otherwise(tmp_path: Path) -> None:
    more = " ".join(f'top: "{name}"' for name in ("labels", *TARGETS))
    bottoms = " ".join(f'bottom: "{name}"' for name in ("f", *TARGETS))
    loss = FC.replace("%d", "OUT") % "rois" + f'layer {{ name: "l" type: "SmoothL1Loss" {bottoms} top: "l" }}\n'
    net = ROIS % ("rois", "labels", more.replace('top: "labels" ', ""))
    assert assumed(tmp_path, net + loss.replace("OUT", "16")) == {}
    found = assumed(tmp_path, net + loss.replace("OUT", "8"))
    assert {top: shape for top, (shape, _) in found.items()} == dict.fromkeys(TARGETS, (128, 8))
    assert "AGNOSTIC: True" in found["targets"][1]
    assert assumed(tmp_path, net + loss.replace("OUT", "9")) == {}


def test_images_of_detectors_are_of_whole_strides_where_layers_need_that(tmp_path: Path) -> None:
    stride = "pooling_param { kernel_size: 32 stride: 32 %s }"
    pool = f'layer {{ name: "%s" type: "Pooling" bottom: "data" top: "%s" {stride} }}\n'
    add = 'layer { name: "e" type: "Eltwise" bottom: "p" bottom: "q" top: "e" }\n'
    net = ROIS % ("im_info", "gt_boxes", "") + pool % ("p", "p", "") + pool % ("q", "q", "round_mode: FLOOR")
    assert assumed(tmp_path, net) == {}
    assert assumed(tmp_path, net + add)["data"][0] == (1, 3, 576, 992)
    assert assumed(tmp_path, net + add, shapes={"data": (1, 3, 600, 1000)}) == {}


def test_images_are_as_large_as_what_a_layer_cuts_out_of_them(tmp_path: Path) -> None:
    cut = """layer { name: "a" type: "DataAugmentation" bottom: "data" top: "a"
      augmentation_param { crop_width: 1100 crop_height: 610 max_multiplier: 1 } }
    """
    larger = cut.replace('"a"', '"b"').replace("1100", "1200")
    net = DATA % ("db", "") + cut + larger
    assert assumed(tmp_path, net)["data"] == ((6, 3, 610, 1200), "as layer 'b' cuts it")


def test_labels_of_sequences_follow_the_items_that_stand_on_the_second_axis(tmp_path: Path) -> None:
    steps = 'layer { name: "p" type: "Permute" bottom: "f" top: "s" permute_param { order: 1 order: 0 order: 2 } }\n'
    loss = 'layer { name: "l" type: "%s" bottom: "s" bottom: "label" top: "l" %s }\n'
    fc = (FC % ("data", 7)).replace("num_output", "axis: 2 num_output")
    settings = "ctc_loss_param { blank_label: 6 alphabet_size: 7 time_step: 3 }"
    hdf5 = HDF5 + fc + steps + loss % ("CtcLoss", settings)
    assert assumed(tmp_path, hdf5)["label"] == ((5, 1), "as layer 'l' takes it")
    records = DATA % ("db", "transform_param { crop_size: 9 }") + fc + steps + loss % ("WarpCTCLoss", "")
    assert assumed(tmp_path, records)["label"] == ((6, 1), "as layer 'l' takes it")


def test_sizes_that_are_written_for_another_batch_follow_the_users(tmp_path: Path) -> None:
    """A net of 5 items in 3 steps, at 1 and at 10 items."""
    shape = "shape { dim: 15 dim: 4 }"
    path = tmp_path / "net.prototxt"
    path.write_text(f"""
layer {{ name: "i" type: "Input" top: "x" input_param {{ {shape} }} }}
layer {{ name: "r" type: "Reshape" bottom: "x" top: "r" reshape_param {{ shape {{ dim: 3 dim: 5 dim: 2 dim: 2 }} }} }}
layer {{ name: "s" type: "Reshape" bottom: "x" top: "s" reshape_param {{ shape {{ dim: 15 dim: -1 dim: 2 }} }} }}
layer {{ name: "c" type: "ContinuationIndicator" top: "c"
  continuation_indicator_param {{ time_step: 3 batch_size: 15 }} }}
""")

    def shapes(batch: int | None) -> dict[str, object]:
        report = analyze(path, static=True, batch=batch)
        told = [f.message for f in report.findings if "is taken as" in f.message]
        assert len(told) == (0 if batch is None else 3)
        return {row.name: row.tops[0].shape for row in report.layers}

    assert (shapes(None)["r"], shapes(None)["s"], shapes(None)["c"]) == ((3, 5, 2, 2), (15, 2, 2), (3, 15))
    assert shapes(1)["r"] == (1, 1, 2, 2)
    assert (shapes(1)["s"], shapes(1)["c"]) == ((1, 2, 2), (3, 1))
    assert (shapes(30)["r"], shapes(30)["s"], shapes(30)["c"]) == ((6, 5, 2, 2), (30, 2, 2), (3, 30))
    path.write_text(path.read_text().replace("dim: 3 dim: 5", "dim: 3 dim: 6"))
    with pytest.raises(RefusedError, match="the counts must agree"):  # wrong whatever the batch
        analyze(path, static=True, batch=1)


def test_what_is_reshaped_in_full_tells_the_size_and_markers_follow_the_sequences(tmp_path: Path) -> None:
    marks = 'layer { name: "m" type: "HDF5Data" top: "marks" hdf5_data_param { source: "m" batch_size: 7 } }\n'
    steps = 'layer { name: "p" type: "Permute" bottom: "data" top: "p" permute_param { order: [1, 0, 2, 3] } }\n'
    shape = "shape { dim: 7 dim: 5 dim: 2 dim: 22 dim: 34 }"
    full = f'layer {{ name: "r" type: "Reshape" bottom: "p" top: "r" reshape_param {{ {shape} }} }}\n'
    lstm = """layer { name: "l" type: "ConvLSTM" bottom: "r" bottom: "%s" top: "l"
      lstm_conv_param { num_output: 3 kernel_size: 3 pad: 1 } }
    """
    hdf5 = HDF5.replace('top: "label"', "")
    found = assumed(tmp_path, marks + hdf5 + steps + full + lstm % "marks")
    assert found["data"] == ((5, 14, 22, 34), "as layer 'r' reshapes it")
    assert found["marks"] == ((7, 5), "as layer 'l' takes it")
    cut = 'layer { name: "s" type: "Slice" bottom: "marks" top: "a" top: "b" slice_param { axis: 0 slice_point: 7 } }\n'
    found = assumed(tmp_path, marks.replace("7", "12") + cut + hdf5 + steps + full + lstm % "a")
    assert found["marks"] == ((12, 5), "one value for each step and item of layer 'h'")


def test_indices_are_timesteps_and_streams(tmp_path: Path) -> None:
    data = 'layer { name: "h" type: "HDF5Data" top: "go" top: "words" top: "next" hdf5_data_param { %s } }\n'
    net = data % 'source: "l" batch_size: 5' + (
        'layer { name: "e" type: "Embed" bottom: "words" top: "e" embed_param { input_dim: 9 num_output: 4 } }\n'
        'layer { name: "r" type: "RNN" bottom: "e" bottom: "go" %s top: "r" recurrent_param { num_output: 3 } }\n'
        'layer { name: "l" type: "SoftmaxWithLoss" bottom: "r" bottom: "next" softmax_param { axis: 2 } }\n'
    )
    found = assumed(tmp_path, net % "")
    assert (found["words"][0], found["go"][0], found["next"][0]) == ((5, 1), (5, 1), (5,))
    static = 'layer { name: "i" type: "Input" top: "x" input_param { shape { dim: 7 dim: 2 dim: 3 dim: 4 } } }\n'
    found = assumed(tmp_path, static + net % 'bottom: "x"')
    assert (found["words"][0], found["go"][0], found["next"][0]) == ((5, 7), (5, 7), (5, 7))


def test_targets_beside_what_follows_from_them_are_like_predictions(tmp_path: Path) -> None:
    net = (
        'layer { name: "d" type: "AnnotatedData" top: "data" top: "label" top: "mask" data_param { batch_size: 2 }'
        "transform_param { resize_param { height: 17 width: 13 } } annotated_data_param { single_class: false } }"
        + CONV
        % "data"
        + 'layer { name: "s" type: "Reduction" bottom: "mask" top: "s" reduction_param { axis: 2 } }'
        'layer { name: "l" type: "YoloSeg" bottom: "c" bottom: "mask" bottom: "s" top: "l" }'
    )
    assert assumed(tmp_path, net)["mask"] == ((2, 4, 15, 11), "as bottom 0 of layer 'l'")


def test_python_code_keeps_the_shape_of_its_bottom_where_layers_take_that(tmp_path: Path) -> None:
    code = 'layer { name: "p" type: "Python" bottom: "data" top: "y" python_param { module: "m" layer: "L" } }\n'
    assert assumed(tmp_path, INPUT + code + CONV % "y") == {"y": ((9, 2, 17, 13), "as its first bottom")}
    more = code.replace('"p"', '"q"').replace('"y"', '"z"').replace('"data"', '"y"')
    assert assumed(tmp_path, INPUT + code + more + CONV % "y").keys() == {"y", "z"}
    count = 'layer { name: "s" type: "SoftmaxWithLoss" bottom: "data" bottom: "y" }\n'
    assert assumed(tmp_path, INPUT + code + count) == {}
    loss = code.replace("python_param", "loss_weight: 1 python_param")
    assert assumed(tmp_path, INPUT + loss) == {}


def test_clips_of_binary_files_are_as_long_as_usual(tmp_path: Path) -> None:
    clips = 'layer { name: "v" type: "VideoSegmentationData" top: "x" top: "t" image_data_param { batch_size: 3 } %s }'
    found = assumed(tmp_path, clips % "transform_param { crop_size: 18 }")
    assert found["x"][0] == (3, 3, 16, 18, 18)


def test_a_net_that_holds_its_own_batch_tells_to_leave_the_option_out(tmp_path: Path) -> None:
    cut = 'layer { name: "s" type: "Slice" bottom: "data" top: "a" top: "b" slice_param { axis: 0 slice_point: %d } }'
    path = tmp_path / "net.prototxt"
    path.write_text(INPUT + cut % 4)
    with pytest.raises(RefusedError, match=r"layers of the file hold its own batch: leave --batch 1 out"):
        analyze(str(path), static=True, batch=1)
    analyze(str(path), static=True)
    path.write_text(INPUT + cut % 44)
    with pytest.raises(RefusedError) as refused:
        analyze(str(path), static=True, batch=1)
    assert "--batch" not in str(refused.value)


def test_slices_between_the_items_of_several_data_layers_follow_the_batch(tmp_path: Path) -> None:
    other = INPUT.replace('"i"', '"j"').replace('"data"', '"more"')
    joined = 'layer { name: "k" type: "Concat" bottom: "data" bottom: "more" top: "k" concat_param { axis: 0 } }'
    cut = 'layer { name: "s" type: "Slice" bottom: "k" top: "a" top: "b" slice_param { axis: 0 slice_point: 9 } }'
    path = tmp_path / "net.prototxt"
    path.write_text(INPUT + other + joined + cut)

    def tops(batch: int | None) -> tuple[list[object], list[str]]:
        report = analyze(str(path), static=True, batch=batch)
        [layer] = [layer for layer in report.layers if layer.name == "s"]
        told = [finding.message for finding in report.findings if "another batch" in finding.message]
        return [top.shape for top in layer.tops], told

    assert tops(None) == ([(9, 2, 17, 13)] * 2, [])
    shapes, told = tops(2)
    assert shapes == [(2, 2, 17, 13)] * 2
    assert told == ["layer 's' (Slice): slice_point is written for another batch: [9] is taken as [2]"]
    assert tops(11)[0] == [(11, 2, 17, 13)] * 2


def test_sequences_have_several_labels_where_they_have_the_steps_for_it(tmp_path: Path) -> None:
    scores = 'layer { name: "i" type: "Input" top: "s" input_param { shape { dim: %d dim: 5 dim: 7 } } }\n'
    net = HDF5 + scores + 'layer { name: "l" type: "WarpCTCLoss" bottom: "s" bottom: "label" top: "l" }\n'
    assert assumed(tmp_path, net % 12)["label"][0] == (5, 6)
    assert assumed(tmp_path, net % 40)["label"][0] == (5, 8)
