"""Data layers of forks: the shapes of their tops, and what stands in for the values."""

from __future__ import annotations

import re

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import Layer, fork_type
from caffestat.net import build
from caffestat.net.source import net_source
from caffestat.prototext import parse

from ..harness import make

TOPS = ("x", "y", "z", "u", "v")


def written(kind: str, tops: int, fields: str, dialect: str | None = None, bottoms: str = "") -> Layer:
    named = " ".join(f'top: "{name}"' for name in TOPS[:tops])
    return make(f'name: "d" type: "{kind}" {bottoms} {named} {fields}', dialect=dialect)


VIDEO = "video_data_param { batch_size: 4 new_height: 12 new_width: 17 new_length: 5 %s }"
IMAGES = 'image_data_param { source: "list.txt" batch_size: 4 %s }'
CROP = "transform_param { crop_size: 11 }"
PAIRS = IMAGES % "use_gps: true pair_size: 2" + "transform_param { crop_size: 5 relight_filler { } }"
POSES = 'source: "l" root_folder: "r" label_num: 28 batch_size: 4 max_size: 96 min_size: 80 is_scale_image: true'


@pytest.mark.parametrize(
    ("kind", "fields", "shapes"),
    [
        ("VideoData", VIDEO % 'root_folder: "r"', [(4, 3, 5, 12, 17), (4,)]),
        ("VideoData", VIDEO % 'root_folder: "r" is_color: false' + CROP, [(4, 1, 5, 11, 11), (4,)]),
        ("VideoData", VIDEO % "num_segments: 2 encoded: true", [(4, 20, 12, 17), (4, 1, 1, 1)]),
        ("VideoData", VIDEO % "modality: RGB grayscale: false num_segments: 3" + CROP, [(4, 45, 11, 11), (4, 1, 1, 1)]),
        ("VideoData", VIDEO % "modality: RGB grayscale: true", [(4, 5, 12, 17), (4, 1, 1, 1)]),
        (
            "VideoData",
            VIDEO % 'name_pattern: "%d"' + "transform_param { crop_height: 7 crop_width: 9 fix_crop: true }",
            [(4, 10, 7, 9), (4, 1, 1, 1)],
        ),
        ("VideoData", VIDEO % "rep_label: 1 num_segments: 2" + CROP, [(4, 10, 11, 11), (2, 1, 1, 1)]),
        ("VideoData", VIDEO % "rep_label: 1 is_color: true modality: RGB", [(4, 15, 12, 17), (4, 1, 1, 1)]),
        (
            "VideoData",
            "video_data_param { video_type: WEBCAM } data_param { batch_size: 2 } "
            "transform_param { resize_param { height: 30 width: 40 } }",
            [(2, 3, 30, 40), (2,)],
        ),
        (
            "VideoDataRNN",
            VIDEO % "seq_length: 6 modality: RGB is_color: true num_segments: 2",
            [(48, 15, 12, 17), (6, 8, 1), (6, 8, 1)],
        ),
        ("FileData", VIDEO % "do_squeeze: true", [None]),
        ("ImageSegData", IMAGES % "label_type: PIXEL" + CROP, [(4, 3, 11, 11), (4, 1, 11, 11), (4, 1, 1, 2)]),
        ("ImageSegData", IMAGES % "new_height: 8 new_width: 9 is_color: false", [(4, 1, 8, 9), (4, 1, 8, 9)]),
        (
            "ImageSegData",
            IMAGES % "" + "transform_param { crop_width: 7 crop_height: 6 scale_factors: 2 }",
            [(4, 3, 6, 7), (4, 1, 6, 7)],
        ),
        (
            "ImageSegData",
            IMAGES % "label_type: PIXELML num_label_chn: 2 num_edge_chn: 4" + CROP,
            [(4, 7, 11, 11), (4, 2, 11, 11), (4, 1, 1, 2)],
        ),
        ("ImageSegData", IMAGES % "label_type: NONE", [None, None]),
        ("WindowSegData", IMAGES % "new_height: 20 new_width: 20" + CROP, [(4, 3, 11, 11), (4, 1, 11, 11)]),
        ("ImageLabelmapData", IMAGES % "new_height: 8 new_width: 9", [(4, 3, 8, 9), (4, 1, 8, 9)]),
        (
            "DriveData",
            "data_param { batch_size: 4 } "
            "drive_data_param { cropped_width: 320 tiling_width: 10 catalog_resolution: 4 }",
            [(4, 3, 480, 320), (4, 8, 120, 80), (4, 1, 60, 40)],
        ),
        (
            "CarcontImageData",
            IMAGES % "new_height: 8 new_width: 9" + "carcont_param { ni: 2 nii: 3 nc: 1 nic: 2 nm: 1 nim: 4 }",
            [(12, 3, 8, 9), (12,), (12,), (12,), (12,)],
        ),
        (
            "DenseImageData",
            "dense_image_data_param { batch_size: 4 new_height: 12 new_width: 20 label_divide_factor: 4 }",
            [(4, 3, 12, 20), (4, 1, 3, 5)],
        ),
        (
            "DenseImageData",
            "dense_image_data_param { batch_size: 4 crop_height: 6 crop_width: 8 label_divide_factor: 2 }",
            [(4, 3, 6, 8), (4, 1, 6, 8)],
        ),
        ("SegData", "seg_data_param { balance: true }" + CROP, [None, None]),
        ("SegData", "seg_data_param { batch_size: 4 }" + CROP, [(4, 3, 11, 11), (4, 1, 11, 11)]),
        ("SegData", "seg_data_param { batch_size: 4 }", [None, None]),
        (
            "ImageLabelData",
            "image_label_data_param { batch_size: 4 num_channels: 5 label_slice { dim: 6 dim: 7 } pad_centre: true }"
            + CROP,
            [(4, 3, 11, 11), (4, 1, 6, 7)],
        ),
        (
            "ImageLabelDataClass",
            "image_label_data_param { batch_size: 4 num_channels: 5 label_slice { dim: 6 dim: 7 } label_space: 9 }"
            + CROP,
            [(4, 3, 11, 11), (4, 5, 6, 7), (4, 1, 1, 8)],
        ),
        (
            "ImageLabelDataIndexDet",
            "image_label_data_param { batch_size: 4 label_slice { dim: 6 dim: 7 } init_num_dets: 10 }" + CROP,
            [(4, 3, 11, 11), (4, 1, 6, 7), (4, 1, 1, 1), (4, 10, 1, 6)],
        ),
        (
            "ImageLabelData",
            "image_label_data_param { batch_size: 4 crop_size_h: 5 crop_size_w: 9 crop_size_d: 7 out_label_size: 2 }",
            [(4, 1, 5, 9, 7), (4, 1, 2, 2, 2), (4, 1, 1, 1, 1)],
        ),
        ("BoxData", "data_param { batch_size: 4 side: 3 side: 5 }" + CROP, [(4, 3, 11, 11), (4, 63), (4, 175)]),
        ("BoxData", "data_param { batch_size: 4 }" + CROP, [(4, 3, 11, 11), (4, 343)]),
        ("CPMData", "data_param { batch_size: 4 } cpm_transform_param { stride: 8 }", [None, None]),
        (
            "CPMData",
            "cpmdata_param { batch_size: 4 } transform_param { stride: 8 crop_size_x: 48 num_parts: 9 }",
            [(4, 4, 368, 48), (4, 20, 46, 6), None],
        ),
        (
            "CPMData",
            "cpmdata_param { batch_size: 4 } transform_param { crop_size_x: 48 crop_size_y: 32 put_gaussian: false }",
            [(4, 3, 32, 48), (4, 30, 8, 12)],
        ),
        (
            "OPData",
            'data_param { batch_size: 4 } op_transform_param { stride: 8 models: "COCO_25B_23;MPII_25B_16" }',
            [(4, 3, 368, 368), (4, 194, 46, 46)],
        ),
        (
            "OPData",
            'data_param { batch_size: 2 } op_transform_param { crop_size_x: 48 model: "COCO_25_17E" }',
            [(2, 3, 368, 48), (2, 204, 92, 12)],
        ),
        (
            "OPData",
            'data_param { batch_size: 2 } op_transform_param { models: "COCO_19" add_distance: true }',
            [(2, 3, 368, 368), None],
        ),
        ("ImageData", PAIRS, [(4, 3, 5, 5), (4,), (4,)]),
        (
            "RandomImageData2",
            f"random_image_data2_param {{ {POSES} always_max_size: true }}",
            [(4, 3, 96, 96), (4, 28, 1, 1), (4, 5, 1, 1)],
        ),
        ("RandomImageData2", f"random_image_data2_param {{ {POSES} }}", [None, None, None]),
        (
            "MultiSourcesImagesData",
            f"multi_sources_images_data_param {{ {POSES} always_max_size: true is_colors: true is_colors: false }}",
            [(4, 4, 96, 96), (4, 28, 1, 1), (4, 5, 1, 1)],
        ),
        ("GenericWindowData", "generic_window_data_param { batch_size: 4 crop_size: 9 }", [None, None]),
        ("SquareBoxData", "square_box_data_param { batch_size: 4 crop_size: 9 }", [(4, 3, 9, 9), (4, 1, 1, 1)]),
        ("CustomData", "data_param { batch_size: 4 slice_point: 3 slice_point: 6 }", [None, None, None]),
    ],
)
def test_shapes(kind: str, fields: str, shapes: list[tuple[int, ...] | None]) -> None:
    layer = written(kind, len(shapes), fields)
    assert list(layer.tops([])) == shapes
    random = np.random.default_rng(1)
    for index, shape in enumerate(shapes):
        if shape and (example := layer.example(index, shape, random)) is not None:
            assert example.reshape(shape).shape == shape


@pytest.mark.parametrize(
    ("kind", "fields", "given", "shapes"),
    [
        (
            "CustomData",
            "data_param { slice_point: 3 slice_point: 7 encoding: UINT8 encoding: UINT8 encoding: UINT16FLOW }",
            (2, 3, 8, 9),
            [(2, 3, 8, 9), (2, 4, 8, 9), (2, 2, 8, 9), (2, 1, 1, 1)],
        ),
        ("CPMData", "cpm_transform_param { num_parts: 9 stride: 4 }", (2, 6, 16, 24), [(2, 6, 16, 24), (2, 20, 4, 6)]),
        ("SegData", "seg_data_param { }", (1, 3, 64, 96), [(1, 3, 64, 96), (1, 1, 64, 96)]),
        ("ImageSegData", IMAGES % "", (2, 3, 8, 9), [(2, 3, 8, 9), (2, 1, 8, 9), (2, 1, 1, 2)]),
    ],
)
def test_what_follows_from_the_images_shape(
    kind: str, fields: str, given: tuple[int, ...], shapes: list[tuple[int, ...]]
) -> None:
    layer = written(kind, len(shapes), fields)
    layer.shape_overrides = {"x": given}
    assert list(layer.tops([])) == shapes


def test_poses_of_unknown_models() -> None:
    with pytest.raises(NetError, match="unknown model 'COCO' in op_transform_param"):
        written("OPData", 2, "data_param { batch_size: 2 }").tops([])


@pytest.mark.parametrize(
    ("kind", "fields", "expected"),
    [
        ("VideoData", VIDEO % "rep_label: 1 num_segments: 2", [(4, 10, 12, 17), (2, 1, 1, 1)]),
        ("VideoData", VIDEO % 'root_folder: "r"', [(2, 3, 5, 12, 17), (2,)]),
        ("VideoDataRNN", VIDEO % "seq_length: 6 num_segments: 3", [(36, 10, 12, 17), (6, 6, 1), (6, 6, 1)]),
        (
            "DenseImageData",
            "dense_image_data_param { batch_size: 8 new_height: 8 new_width: 6 }",
            [(2, 3, 8, 6), (2, 1, 8, 6)],
        ),
    ],
)
def test_another_batch(kind: str, fields: str, expected: list[tuple[int, ...]]) -> None:
    layer = written(kind, len(expected), fields.replace("batch_size: 4", "batch_size: 8"))
    layer.batch_override = 2
    assert list(layer.tops([])) == expected


@pytest.mark.parametrize(
    ("kind", "tops", "fields", "message"),
    [
        ("VideoData", 2, VIDEO % "rep_label: 1 num_segments: 3", "that num_segments .3. divides, found 4"),
        ("VideoDataRNN", 3, VIDEO % "seq_length: 0", "positive seq_length"),
        ("ImageSegData", 2, IMAGES % "new_height: 8", "new_height and new_width together"),
        ("DenseImageData", 2, "dense_image_data_param { batch_size: 4 crop_width: 3 }", "crop_height and crop_width"),
        ("BoxData", 3, "data_param { batch_size: 4 side: 3 }" + CROP, "one side for each top but the first"),
        ("SquareBoxData", 2, "square_box_data_param { batch_size: 4 }", "positive crop_size"),
        ("ImageLabelData", 2, "image_label_data_param { pad_centre: true }" + CROP, "two values of dim"),
        ("ImageSegData", 2, "image_data_param { label_type: PIXEL batch_size: 0 }" + CROP, "expected positive sizes"),
    ],
)
def test_what_does_not_fit(kind: str, tops: int, fields: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        written(kind, tops, fields).tops([])


def test_the_sizes_of_images_and_the_starts_of_sequences() -> None:
    random = np.random.default_rng(1)
    maps = written("ImageSegData", 3, IMAGES % "new_height: 8 new_width: 9")
    assert maps.example(2, (4, 1, 1, 2), random).tolist() == [[[[8, 9]]]] * 4
    assert maps.example(1, (4, 1, 8, 9), random) is None
    frames = written("VideoDataRNN", 3, VIDEO % "seq_length: 3")
    assert frames.example(2, (3, 4, 1), random)[..., 0].tolist() == [[0] * 4, [1] * 4, [1] * 4]
    poses = written("RandomImageData2", 3, f"random_image_data2_param {{ {POSES} always_max_size: true }}")
    assert poses.example(2, (4, 5, 1, 1), random)[1].ravel().tolist() == [1, 96, 96, 1, 0]


def test_other_layers_of_a_net_tell_whose_a_data_layer_is() -> None:
    data = 'layer { name: "d" type: "BoxData" top: "x" top: "y" data_param { batch_size: 2 } ' + CROP + "}\n"
    other = 'layer { name: "r" type: "%s" bottom: "x" top: "z" reorg_param { stride: 1 } }'
    shapes = {}
    for kind in ("Reorg", "ReLU"):
        net = build(net_source(parse((data + other % kind).encode(), "net")), data="synthetic")
        shapes[kind] = net.nodes[0].top_shapes[1]
    assert shapes == {"Reorg": (2, 150), "ReLU": (2, 343)}


def test_old_names_of_forks_types() -> None:
    assert fork_type("IMAGE_SEG_DATA") == "ImageSegData"
    assert fork_type("IMAGE_LABEL_DATA") == "ImageLabelData"
    assert [fork_type(name) for name in ("CROP", "ImageSegData", "NOTHING", "IMAGE_DATA")] == [None] * 4
    text = f'layers {{ name: "d" type: IMAGE_SEG_DATA top: "x" top: "y" {IMAGES % "label_type: PIXEL"} {CROP} }}'
    net = build(net_source(parse(text.encode(), "net")), data="synthetic")
    assert net.nodes[0].type == "ImageSegData"
    assert net.nodes[0].top_shapes == ((4, 3, 11, 11), (4, 1, 11, 11))
    assert [finding.message.partition(",")[0] for finding in net.findings] == ["type 'ImageSegData' is a fork's"]


SIZES = {"x": (1, 3, 8, 9)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('type: "FileData" top: "x" video_data_param { do_squeeze: true }', "the contents of its files are not read"),
        ('type: "ImageGtData" top: "x" image_gt_data_param { batch_size: 1 }', "its images are not read"),
        ('type: "MatRead" top: "x" mat_read_param { prefix: "p" }', r"file not found: 'piter_0_blob_0\.mat' .*"),
        ('type: "VideoData" top: "x" top: "y" video_data_param { video_type: WEBCAM }', "no camera is read"),
    ],
)
def test_real_data_that_no_reader_reads_are_an_error_and_else_a_note(text: str, message: str) -> None:
    source = net_source(parse(f'layer {{ name: "d" {text} }}'.encode(), "net"))
    with pytest.raises(NetError, match=f"no real data: {message}"):
        build(source, data="real")
    layers = [node.layer for data in ("auto", "synthetic") for node in build(source, shapes=SIZES, data=data).nodes]
    assert [bool(re.fullmatch(message, layer.why_synthetic)) for layer in layers] == [True, False]


def test_clips_with_labels_of_each_place_take_their_shape_from_the_clip() -> None:
    text = 'name: "l" type: "%s" top: "data" top: "truth" image_data_param { source: "x" batch_size: 2 %s }'
    for kind, fields, labels in (
        ("VideoSegmentationData", "crop_size: 112 show_data: 0", 1),
        ("VideoWithVoxelTruthData", "num_truth_channels: 2 is_flow: true truth_scale: 0.5", 2),
    ):
        layer = make(text % (kind, fields))
        assert layer.tops([]) == (None, None)
        layer.shape_overrides = {"data": (2, 3, 16, 20, 24)}
        assert layer.tops([]) == ((2, 3, 16, 20, 24), (2, labels, 16, 20, 24))


def test_yolo_annotated_data_has_boxes_of_mobilenet_yolo() -> None:
    layer = make(
        'name: "l" type: "YoloAnnotatedData" top: "data" top: "label" data_param { source: "x" batch_size: 2 '
        "backend: LMDB } annotated_data_param { yolo_data_type: 1 } transform_param { "
        "resize_param_yolo { height: 16 width: 24 } "
        "resize_param_yolo { height: 32 width: 32 } }"
    )
    assert layer.tops([]) == ((2, 3, 16, 24), (2, 1, 300, 5))


def test_annotated_data_with_points_counts_images() -> None:
    layer = make(
        'name: "l" type: "AnnotatedData" top: "data" top: "label" data_param { source: "x" batch_size: 2 '
        "backend: LMDB } annotated_data_param { yoloformat: true has_landmarks: true crop_type: CROP_JITTER } "
        "transform_param { resize_param { height: 16 width: 24 } }"
    )
    assert layer.tops([])[1] == (2, 1, 1, 19)
    assert layer.why_unread
    boxes = layer.example(1, (2, 1, 3, 19), np.random.default_rng(1))
    np.testing.assert_array_equal(boxes[:, 0, :, 0], [[0] * 3, [1] * 3])
    assert (boxes[..., 8] == 1).all()
    np.testing.assert_allclose(boxes[..., 9], (boxes[..., 3] + boxes[..., 5]) / 2)


def test_videos_of_lrcn_are_steps_of_several() -> None:
    text = """name: "d" type: "Python" top: "x" top: "y" top: "m"
      python_param { module: "sequence_input_layer" layer: "videoRead%s" }"""
    assert make(text % "Train_flow").tops([]) == ((384, 3, 227, 227), (384,), (384,))
    test = make(text % "Test_RGB")
    assert test.tops([])[1] == (48,)
    test.batch_override = 2
    assert test.tops([])[2] == (32,)
    marks = test.example(2, (32,), np.random.default_rng(1))
    np.testing.assert_array_equal(marks, [0] * 2 + [1] * 30)
    reshape = make('name: "r" type: "Reshape" bottom: "y" top: "r" reshape_param { shape { dim: 16 dim: 3 } }')
    reshape.peers, reshape.batch_override = [test], 2
    assert reshape.tops([(32,)]) == ((16, 2),)
