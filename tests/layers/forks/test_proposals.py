"""Anchors, their targets, and proposals, as py-faster-rcnn has them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import Layer
from caffestat.layers.forks.proposals import (
    ProposalTargetLayer,
    ProposalTargetLayerOf4Axes,
    ProposalTargetLayerOf128,
    anchors,
    from_deltas,
    image_rows,
    read_settings,
    to_deltas,
)
from caffestat.net import State, build, read_net

from ..harness import TEST, TRAIN, make, run

RANDOM = np.random.default_rng(12)
# as the first implementation, in MATLAB, prints them: it counts from 1
NINE = """-83 -39 100 56  -175 -87 192 104  -359 -183 376 200  -55 -55 72 72  -119 -119 136 136  -247 -247 264 264
-35 -79 52 96  -79 -167 96 184  -167 -343 184 360"""


def python(module: str, layer: str, settings: str, bottoms: int, tops: int) -> str:
    blobs = "".join(f'bottom: "b{i}" ' for i in range(bottoms)) + "".join(f'top: "t{i}" ' for i in range(tops))
    return f"""name: "p" type: "Python" {blobs}
      python_param {{ module: "rpn.{module}" layer: "{layer}" param_str: "{settings}" }}"""


def test_anchors_are_those_of_the_reference() -> None:
    expected = np.array(NINE.split(), float).reshape(9, 4) - 1
    np.testing.assert_array_equal(anchors(16, (0.5, 1, 2), (8, 16, 32)), expected)


def test_deltas_move_boxes_to_their_targets() -> None:
    boxes, targets = np.array([[0, 0, 9, 19], [5, 5, 24, 14]]), np.array([[2, 1, 21, 30], [4, 4, 8, 44]])
    moved = from_deltas(boxes.astype(float), to_deltas(boxes, targets))
    np.testing.assert_allclose(moved, targets + np.array([0, 0, 1, 1]), rtol=1e-12)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]) + 1, min(a[3], b[3]) - max(a[1], b[1]) + 1
    area = [(x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b)]
    return w * h / (sum(area) - w * h) if min(w, h) > 0 else 0.0


def proposed(scores: np.ndarray, deltas: np.ndarray, image: list[float], base: np.ndarray, after: int) -> np.ndarray:
    """Return rows by a loop over places and anchors."""
    found = []
    count, height, width = len(base), *scores.shape[2:]
    for y, x, a in np.ndindex(height, width, count):
        box = base[a] + np.array([x, y, x, y]) * 16
        dx, dy, dw, dh = deltas[0, 4 * a : 4 * a + 4, y, x]
        w, h = box[2] - box[0] + 1, box[3] - box[1] + 1
        cx, cy, nw, nh = dx * w + box[0] + w / 2, dy * h + box[1] + h / 2, np.exp(dw) * w, np.exp(dh) * h
        moved = [cx - nw / 2, cy - nh / 2, cx + nw / 2, cy + nh / 2]
        moved = [min(max(v, 0), image[1 - i % 2] - 1) for i, v in enumerate(moved)]
        if moved[2] - moved[0] + 1 >= 16 * image[2] and moved[3] - moved[1] + 1 >= 16 * image[2]:
            found.append((scores[0, count + a, y, x], moved))
    kept: list[list[float]] = []
    for _, box in sorted(found, key=lambda pair: -pair[0]):
        if len(kept) < after and all(overlap(box, other) <= 0.7 for other in kept):
            kept.append(box)
    return np.array([[0, *box] for box in kept])


@pytest.mark.parametrize(("phase", "after"), [(TRAIN, 2000), (TEST, 300)])
def test_proposals_are_the_best_boxes_that_are_left(phase: int, after: int) -> None:
    base = anchors(16, (0.5, 1, 2), (2, 4))
    scores, deltas = RANDOM.uniform(size=(1, 12, 9, 11)), RANDOM.normal(0, 0.3, (1, 24, 9, 11))
    image = [140, 170, 1.5]
    text = python("proposal_layer", "ProposalLayer", "'feat_stride': 16\\n'scales': !!python/tuple [2, 4]", 3, 2)
    layer = make(text, phase)
    assert layer.tops([scores.shape, deltas.shape, (1, 3)]) == ((1, 5), (1, 1, 1, 1))
    rows = run(layer, [scores, deltas, [image]]).tops[0]
    np.testing.assert_allclose(rows, proposed(scores, deltas, image, base, after), rtol=1e-4, atol=1e-3)


def test_proposals_in_cpp_are_set_by_their_own_fields() -> None:
    scores, deltas = RANDOM.uniform(size=(1, 6, 5, 7)), RANDOM.normal(0, 0.1, (1, 12, 5, 7))
    text = """name: "p" type: "Proposal" bottom: "s" bottom: "d" bottom: "i" top: "r" top: "s" proposal_param {
      ratio: 0.5 ratio: 1 ratio: 2 scale: 2 base_size: 16 feat_stride: 16 pre_nms_topn: 50 post_nms_topn: 7
      nms_thresh: 0.7 min_size: 4 }"""
    layer = make(text)
    assert layer.tops([scores.shape, deltas.shape, (1, 3)]) == ((7, 5), (7,))
    rows, best = run(layer, [scores, deltas, [[80, 112, 1]]]).tops
    expected = proposed(scores, deltas, [80, 112, 0.25], anchors(16, (0.5, 1, 2), (2,)), 7)
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-3)
    assert (np.diff(best) <= 0).all()


def test_scores_that_do_not_fit_the_anchors() -> None:
    layer = make(python("proposal_layer", "ProposalLayer", "{'feat_stride': 16, 'scales': [8, 16, 32]}", 3, 1))
    with pytest.raises(NetError, match="expected 18 scores and 36 deltas per place for 9 anchors"):
        layer.tops([(1, 12, 4, 5), (1, 24, 4, 5), (1, 3)])


def test_anchors_of_changed_code_are_as_many_as_scores() -> None:
    layer = make(python("proposal_layer", "ProposalLayer", "'feat_stride': 16", 3, 1))
    assert layer.tops([(1, 24, 4, 7), (1, 48, 4, 7), (1, 3)]) == ((1, 5),)
    assert "scores of 12 anchors, the reference's code makes 9" in layer.why_uncomputed
    targets = make(python("anchor_target_layer", "AnchorTargetLayer", "'feat_stride': 16", 4, 4))
    bottoms = (1, 24, 4, 7), (2, 5), (1, 3), (1, 3, 64, 112)
    assert targets.tops(bottoms) == ((1, 1, 48, 7), *[(1, 48, 4, 7)] * 3)
    assert "12 anchors" in targets.why_uncomputed
    assert targets.tops([(1, 512, 4, 7), *bottoms[1:]])[0] == (1, 1, 36, 7)  # a map that holds no scores


def test_anchors_are_objects_where_they_meet_a_true_box() -> None:
    text = python("anchor_target_layer", "AnchorTargetLayer", "{'feat_stride': 16, 'scales': [2]}", 4, 4)
    truth = np.array([[30, 30, 66, 60, 2], [100, 20, 130, 90, 1]])
    data = [np.zeros((1, 6, 8, 10)), truth, [[128, 160, 1]], np.zeros((1, 3, 128, 160))]
    labels, targets, inside, outside = run(make(text), data).tops
    assert labels.shape == (1, 1, 3 * 8, 10)
    assert targets.shape == inside.shape == outside.shape == (1, 12, 8, 10)
    base = anchors(16, (0.5, 1, 2), (2,))
    table = np.zeros((3, 8, 10, 2))
    is_inside = np.zeros((3, 8, 10), bool)
    for a, y, x in np.ndindex(3, 8, 10):
        box = base[a] + np.array([x, y, x, y]) * 16
        is_inside[a, y, x] = box[0] >= 0 and box[1] >= 0 and box[2] < 160 and box[3] < 128
        table[a, y, x] = [overlap(box, true) for true in truth] if is_inside[a, y, x] else -1
    most = table.max(-1)
    objects = is_inside & ((most >= 0.7) | (table == table.max((0, 1, 2))).any(-1))
    label = labels.reshape(3, 8, 10)
    np.testing.assert_array_equal(label == 1, objects)
    np.testing.assert_array_equal(label == 0, is_inside & ~objects & (most < 0.3))
    weights = inside.reshape(3, 4, 8, 10)
    np.testing.assert_array_equal(weights, np.repeat(objects[:, None], 4, 1))
    np.testing.assert_allclose(outside.reshape(3, 4, 8, 10)[:, 0], (label >= 0) / (label >= 0).sum(), rtol=1e-6)
    a, y, x = np.argwhere(objects)[0]
    box, true = base[a] + np.array([x, y, x, y]) * 16, truth[table[a, y, x].argmax()]
    found = from_deltas(box[None], targets.reshape(3, 4, 8, 10)[a, :, y, x][None])
    np.testing.assert_allclose(found[0], true[:4] + np.array([0, 0, 1, 1]), rtol=1e-4)


def test_targets_are_a_quarter_objects() -> None:
    text = python("proposal_target_layer", "ProposalTargetLayer", "'num_classes': 4", 2, 5)
    truth = np.array([[10, 10, 59, 59, 3], [70, 20, 119, 99, 1]])
    near = np.concatenate([truth[np.arange(90) % 2, :4] + RANDOM.integers(-3, 4, (90, 4))])
    far = np.concatenate([truth[np.arange(200) % 2, :4] + RANDOM.integers(24, 30, (200, 1))])
    rois = np.concatenate([np.zeros((290, 1)), np.concatenate([near, far])], 1)
    kept, labels, targets, inside, outside = run(make(text), [rois, truth]).tops
    assert kept.shape == (128, 5)
    assert targets.shape == (128, 16)
    np.testing.assert_array_equal(labels[32:], 0)
    assert set(labels[:32]) == {1, 3}
    assert labels.shape == (128,)
    for row, label, target, weight in zip(kept[:32], labels[:32].astype(int), targets, inside, strict=False):
        expected = np.zeros(16)
        expected[4 * label : 4 * label + 4] = to_deltas(row[None, 1:], truth[[0 if label == 3 else 1], :4])[0]
        np.testing.assert_allclose(target, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(weight, np.repeat(np.arange(4) == label, 4))
    np.testing.assert_array_equal(outside, inside)
    assert not targets[32:].any()
    with pytest.raises(NetError, match="expected num_classes in param_str"):
        make(python("proposal_target_layer", "ProposalTargetLayer", "", 2, 5)).tops([(3, 5), (2, 5)])


@pytest.mark.parametrize(
    ("types", "expected"),
    [((), "rcnn"), (("GradientSilent",), "da"), (("Enlarge",), "da"), (("Enlarge", "PSROIPooling"), "rfcn")],
)
def test_a_fork_is_told_by_types_beside_targets(types: tuple[str, ...], expected: str) -> None:
    layer = make(python("proposal_target_layer", "ProposalTargetLayer", "'num_classes': 4", 2, 5))
    kinds = {"rcnn": ProposalTargetLayer, "da": ProposalTargetLayerOf128, "rfcn": ProposalTargetLayerOf4Axes}
    assert [name for name, kind in kinds.items() if kind.fits(layer.proto, types)] == [expected]


def test_targets_of_domain_adaptation_are_set_up_with_128_rows() -> None:
    layer = make(python("proposal_target_layer", "ProposalTargetLayer", "'num_classes': 4", 2, 5))
    own = ProposalTargetLayerOf128(layer.proto, layer.phase, layer.place)
    assert own.tops_at_setup([(3, 5), (2, 5)]) == ((128, 5), (128, 1), (128, 16), (128, 16), (128, 16))


def test_the_data_layer_has_the_sizes_of_the_references_config() -> None:
    text = """name: "d" type: "Python" %s
      python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" param_str: "'num_classes': 3" }"""
    end_to_end = make(text % 'top: "data" top: "im_info" top: "gt_boxes"')
    assert end_to_end.tops([]) == ((1, 3, 600, 1000), (1, 3), (1, 5))
    regions = make(text % "".join(f'top: "t{i}" ' for i in range(6)))
    assert regions.tops([]) == ((2, 3, 600, 1000), (128, 5), (128,), (128, 12), (128, 12), (128, 12))


def test_settings_of_frcnn_that_stand_in_another_file_are_announced() -> None:
    tops = 'top: "data" top: "im_info" top: "gt_boxes"'
    layer = make(f'name: "l" type: "FrcnnRoiData" {tops} window_data_param {{ config: "voc.json" }}')
    assert layer.left_out == "file not found: 'voc.json'; the settings of default_config.json are used"
    assert not make(f'name: "l" type: "FrcnnRoiData" {tops}').left_out


FRCNN = """layer { name: "d" type: "FrcnnRoiData" top: "data" top: "im_info" top: "gt"
  window_data_param { config: "voc.json" } }
layer { name: "c" type: "Convolution" bottom: "data" top: "score" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "a" type: "FrcnnAnchorTarget" bottom: "score" bottom: "gt" bottom: "im_info"
  top: "l" top: "t" top: "i" top: "o" }
layer { name: "m" type: "Convolution" bottom: "data" top: "delta" convolution_param { num_output: 8 kernel_size: 1 } }
layer { name: "p" type: "FrcnnProposal" bottom: "score" bottom: "delta" bottom: "im_info" top: "rois" }
layer { name: "s" type: "FrcnnProposalTarget" bottom: "rois" bottom: "gt"
  top: "r" top: "rl" top: "rt" top: "ri" top: "ro" proposal_target_param { STAGE } }
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("[" * 100_000, "cannot read the settings"),
        ('{"scales": "wide"}', "expected 1 finite numbers as scales in .*, found 'wide'"),
        ('{"bbox_normalize_stds": "1, inf, 1, 1"}', "expected 4 finite numbers"),
        ('{"im_size_align": 0}', "expected 1 or more as im_size_align"),
    ],
    ids=["nested", "word", "infinite", "zero"],
)
def test_settings_of_frcnn_that_cannot_be_used(tmp_path: Path, settings: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        frcnn(tmp_path, settings)


@pytest.mark.parametrize("stride", ["1e999", "0", "[8]", "wide"])
def test_strides_that_are_no_sizes(stride: str) -> None:
    layer = make(python("proposal_layer", "ProposalLayer", f"'feat_stride': {stride}", 3, 1), TEST)
    with pytest.raises(NetError, match="expected 1 or more as feat_stride, found"):
        layer.stride()  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["-" * 10_000 + "1", "(" * 100_000], ids=["minus", "nested"])
def test_settings_that_are_nested_deeply_are_texts(text: str) -> None:
    assert read_settings(f"'feat_stride': {text}") == {"feat_stride": text}


def frcnn(folder: Path, settings: str, phase: int = TRAIN, stage: str = "") -> dict[str, Layer]:
    (folder / "voc.json").write_text(settings)
    (folder / "net.prototxt").write_text(FRCNN.replace("STAGE", stage))
    net = build(read_net(str(folder / "net.prototxt")), State(phase), data="synthetic")
    return {node.name: node.layer for node in net.nodes}


def test_settings_of_frcnn_hold_for_the_layers_behind_its_data(tmp_path: Path) -> None:
    settings = """{ "scales": "300, 350", "max_size": "500", "im_size_align": "32", "feat_stride": "8",
      "n_classes": "5", "anchors": "-8, -4, 8, 4,
                  -4, -8, 4, 8", "rpn_pre_nms_top_n": "70", "rpn_post_nms_top_n": "30", "rpn_nms_thresh": "0.6",
      "rpn_min_size": "4", "test_rpn_min_size": "3", "rpn_batchsize": "64", "rpn_fg_fraction": "0.25",
      "rpn_positive_overlap": "0.6", "rpn_negative_overlap": "0.2", "batch_size": "20", "fg_fraction": "0.5",
      "bg_thresh_lo": "0.0", "bbox_inside_weights": "2, 2, 2, 2", "rpn_positive_weight": "0.5", "eps": "x" }"""
    layers = frcnn(tmp_path, settings)
    assert layers["d"].tops([])[0] == (1, 3, 352, 512)
    assert layers["p"].limits() == (70, 30, 0.6, 4)
    np.testing.assert_array_equal(layers["p"].anchors(), [[-8, -4, 8, 4], [-4, -8, 4, 8]])
    assert layers["p"].settings["feat_stride"] == layers["a"].settings["feat_stride"] == 8
    assert layers["a"].sampling() == (64, 16, 0.6, 0.2)
    assert layers["a"].left_out == "rpn_positive_weight of its settings: the value of default_config.json is used"
    assert layers["s"].sampling() == (20, 10, 0.5, 0.5, 0)
    assert frcnn(tmp_path, settings, TEST)["p"].limits() == (6000, 300, 0.7, 3)
    rois = np.array([[0, 10, 10, 50, 52], [0, 60, 60, 80, 90]])
    truth = np.array([[12, 10, 54, 50, 2]])
    kept, labels, targets, inside, outside = run(layers["s"], [rois, truth]).tops
    assert kept.shape == (20, 5, 1, 1)  # two near ones, then the far one again and again
    np.testing.assert_array_equal(labels.ravel(), [2, 2] + [0] * 18)
    kept = kept.reshape(20, 5)
    np.testing.assert_array_equal(kept[2:], np.repeat(rois[1:], 18, 0))
    row = int(np.flatnonzero((kept == rois[0]).all(axis=1))[0])
    expected = to_deltas(rois[:1, 1:], truth[:, :4])[0] / [0.1, 0.1, 0.2, 0.2]
    np.testing.assert_allclose(targets[row].reshape(5, 4)[2], expected, rtol=1e-4)
    np.testing.assert_array_equal(inside[row].reshape(5, 4)[2], [2] * 4)
    np.testing.assert_array_equal(outside, inside > 0)


NEAR = np.array([[10, 10, 59, 49, 3], [70, 20, 119, 99, 1]])
AROUND = """10 10 58 49  12 14 61 55  70 30 119 104  40 22 100 96  14 9 45 55  90 70 160 120  5 20 59 49"""


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("stage: 1", "5 20 59 49 3  10 10 59 49 3  12 14 61 55 3  70 20 119 99 1  70 30 119 104 1"),
        ("stage: 2 gt_iou_thr: 0.7", "10 10 59 49 3  70 20 119 99 1"),
    ],
)
def test_stages_of_frcnn_ask_for_more_overlap(tmp_path: Path, fields: str, expected: str) -> None:
    """The objects that makefile/frcnn's frcnn_proposal_target_layer.cpp keeps, compiled and run."""
    settings = """{ "batch_size": "16", "n_classes": "4", "bg_thresh_lo": "0.05", "fg_fraction": "0.5",
      "anchors": "-8, -4, 8, 4, -4, -8, 4, 8" }"""
    layer = frcnn(tmp_path, settings, stage=fields)["s"]
    rois = np.insert(np.array(AROUND.split(), float).reshape(-1, 4), 0, 0, 1)
    tops = run(layer, [rois, NEAR]).tops
    assert [top.shape for top in tops] == [(16, 5, 1, 1), (16, 1, 1, 1), *[(16, 16, 1, 1)] * 3]
    kept, labels = tops[0].reshape(16, 5), tops[1].ravel()
    rows = np.unique(np.column_stack([kept[labels > 0, 1:], labels[labels > 0]]), axis=0)
    np.testing.assert_array_equal(rows, np.array(expected.split(), float).reshape(-1, 5))


def test_settings_of_frcnn_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(NetError, match=r"cannot read the settings in .*voc.json"):
        frcnn(tmp_path, "{ no json }")
    with pytest.raises(NetError, match="expected four numbers for each of the anchors in its settings, found 3"):
        frcnn(tmp_path, '{ "anchors": "1, 2, 3" }')


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1, 1), (3,), (2, 5)])
def test_what_stands_in_for_the_size_of_images(shape: tuple[int, ...]) -> None:
    rows = image_rows(shape, 90, 70).reshape(shape[0] if len(shape) > 1 else 1, -1)
    assert image_rows(shape, 90, 70).shape == shape
    assert (rows[:, 0] == 90).all() and (rows[:, 1] == 70).all() and (rows[:, 2:] == 1).all()


def test_regions_in_place_of_true_boxes_are_told_by_their_name() -> None:
    text = 'name: "l" type: "Python" top: "data" top: "rois" top: "labels" '
    layer = make(text + 'python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" }')
    assert layer.tops([]) == ((2, 3, 600, 1000), (128, 5), (128,))


def test_a_fork_that_adds_a_top_to_the_image_still_reads_one() -> None:
    """Yuliang-Liu/Curve-Text-Detector has gt_info, whose shape is not known here, behind the true boxes."""
    text = 'name: "l" type: "Python" top: "data" top: "im_info" top: "gt_boxes" top: "gt_info" '
    layer = make(text + 'python_param { module: "roi_data_layer.layer" layer: "RoIDataLayer" }')
    assert [layer.written_shape(index) for index in range(4)] == [(1, 3, 600, 1000), (1, 3), (1, 5), None]
