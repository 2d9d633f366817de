"""SSD's layers: real Caffe's logs, and each layer against numpy and differences."""

from __future__ import annotations

import itertools
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import caffestat
from caffestat.errors import NetError
from caffestat.layers.forks.multibox import match
from caffestat.net import build
from caffestat.net.source import net_source
from caffestat.prototext import parse
from caffestat.schema.forks import ssd_pb2

from ..harness import TEST, make, run

GOLDEN = Path(__file__).parents[2] / "golden" / "ssd"
PASSES = ("detection_output", "mbox_center", "mbox_hard", "normalize", "permute", "prior_box", "smooth_l1")
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w.])|(?<![\w.])-?(?:nan|inf)(?!\w)")
TIMES = re.compile(r" \(.* iter/s, .*s/.* iters\)")
BEFORE = ("Starting Optimization", "Solving ", "Learning Rate Policy", "Ignoring source layer")


def caffes_lines(case: str) -> list[str]:
    """Return the lines of iteration 0, those before it left out."""
    lines = (GOLDEN / case / "caffe.log").read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if line.startswith("Iteration 0, lr = ")) + 1
    return [line for line in lines[:end] if not line.startswith(BEFORE)]


@pytest.mark.parametrize("case", PASSES)
def test_first_iteration_is_caffes(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN / case)
    ours = [TIMES.sub("", line) for line in caffestat.debug("solver.prototxt", device="cpu")]
    caffes = caffes_lines(case)
    assert [NUMBER.sub("#", line) for line in ours] == [NUMBER.sub("#", line) for line in caffes]
    for our, caffe in zip(ours, caffes, strict=True):
        numbers = [[float(number) for number in NUMBER.findall(line)] for line in (our, caffe)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-4), f"{our}\n{caffe}"


def test_permute_moves_named_axes_to_the_front() -> None:
    x = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    layer = make('name: "p" type: "Permute" bottom: "x" top: "y" permute_param { order: 3 order: 0 }')
    dy = np.random.default_rng(0).normal(size=(5, 2, 3, 4)).astype(np.float32)
    result = run(layer, [x], dys=[dy])
    np.testing.assert_array_equal(result.tops[0], x.transpose(3, 0, 1, 2))
    np.testing.assert_array_equal(result.bottoms[0], dy.transpose(1, 2, 3, 0))
    with pytest.raises(NetError, match=r"different axes from 0 to 3 as order, found \[1, 1\]"):
        make('name: "p" type: "Permute" permute_param { order: 1 order: 1 }').tops([x.shape])


def normalized(x: np.ndarray, scale: np.ndarray, axes: tuple[int, ...], eps: float) -> np.ndarray:
    return scale * x / np.sqrt((x * x).sum(axes, keepdims=True) + eps)


@pytest.mark.parametrize(("across", "axes"), [("true", (1, 2, 3)), ("false", (1,))])
def test_normalize_with_one_scale_has_the_derivative_as_gradient(across: str, axes: tuple[int, ...]) -> None:
    random = np.random.default_rng(1)
    x, dy = random.normal(1, 2, (2, 2, 3, 4, 5))
    text = f'name: "n" type: "Normalize" bottom: "x" top: "y" norm_param {{ across_spatial: {across} eps: 0.1 }}'
    result = run(make(text), [x], [np.array(1.5)], [dy.astype(np.float32)])
    np.testing.assert_allclose(result.tops[0], normalized(x, np.array(1.5), axes, 0.1), rtol=1e-5)
    direction = random.normal(size=x.shape)
    moved = [normalized(x + step * direction, np.array(1.5), axes, 0.1) for step in (1e-6, -1e-6)]
    slope = ((moved[0] - moved[1]) * dy).sum() / 2e-6
    assert (result.bottoms[0] * direction).sum() == pytest.approx(slope, rel=1e-4)
    assert result.params[0] == pytest.approx((normalized(x, np.array(1.0), axes, 0.1) * dy).sum(), rel=1e-4)


def test_normalize_divides_the_gradient_of_its_scale_by_the_scale() -> None:
    """normalize_layer.cpp, Backward_cpu: Σ y · dy / s, which is no number where a scale is 0."""
    x, dy = np.random.default_rng(2).normal(1, 2, (2, 2, 3, 4, 5)).astype(np.float32)
    text = 'name: "n" type: "Normalize" bottom: "x" top: "y" norm_param { across_spatial: false channel_shared: false }'
    scale = np.array([2, 0, -1], np.float32)
    got = run(make(text), [x], [scale], [dy]).params[0]
    expected = (normalized(x, np.float32(1), (1,), 0) * dy).sum((0, 2, 3))
    np.testing.assert_allclose(got[[0, 2]], expected[[0, 2]], rtol=1e-4)
    assert np.isnan(got[1])


def test_prior_boxes_are_centered_and_stretched() -> None:
    text = """name: "p" type: "PriorBox" bottom: "m" bottom: "x" top: "y"
      prior_box_param { min_size: 6 max_size: 24 aspect_ratio: 4 variance: [0.1, 0.2, 0.3, 0.4] }"""
    (top,) = run(make(text), [np.zeros((2, 3, 2, 5)), np.zeros((2, 1, 20, 40))]).tops
    boxes, variances = top.reshape(2, 2, 5, 4, 4)
    sizes = [(6, 6), (12, 12), (12, 3), (3, 12)]
    for (row, column, index), _ in np.ndenumerate(boxes[..., 0]):
        x, y, (w, h) = (column + 0.5) * 8, (row + 0.5) * 10, sizes[index]
        expected = [(x - w / 2) / 40, (y - h / 2) / 20, (x + w / 2) / 40, (y + h / 2) / 20]
        np.testing.assert_allclose(boxes[row, column, index], expected, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(variances, np.broadcast_to([0.1, 0.2, 0.3, 0.4], variances.shape), rtol=1e-6)


def test_prior_boxes_are_the_references_bit_for_bit() -> None:
    """Of a build of weiliu89/caffe: near ties between overlaps go the way that the last bit says."""
    text = """name: "p" type: "PriorBox" bottom: "m" bottom: "x" top: "y"
      prior_box_param { min_size: 7 max_size: 10 aspect_ratio: 3 aspect_ratio: 0.7 step: 4 offset: 0.3 }"""
    (top,) = run(make(text), [np.zeros((1, 2, 1, 1)), np.zeros((1, 2, 15, 24))]).tops
    expected = [
        [-0.09583333, -0.15333334, 0.19583334, 0.31333333],
        [-0.12430417, -0.19888666, 0.22430417, 0.35888666],
        [-0.20259073, -0.05471506, 0.30259073, 0.21471506],
        [-0.034196913, -0.3241452, 0.13419692, 0.48414522],
        [-0.07201292, -0.19888666, 0.17201293, 0.35888666],
        [-0.12430417, -0.11522067, 0.22430417, 0.2752207],
    ]
    np.testing.assert_array_equal(top[0, 0].reshape(-1, 4), np.array(expected, np.float32))


def test_denser_prior_boxes_stand_on_the_lower_edge_too() -> None:
    """MhLiao/TextBoxes_plusplus, prior_box_layer.cpp: each box is followed by the same one at (h + 1) · step_h."""
    text = """name: "p" type: "PriorBox" bottom: "m" bottom: "x" top: "y" prior_box_param {{
      min_size: 6 max_size: 24 aspect_ratio: 4 offset: 0.25 {} }}"""
    bottoms = [np.zeros((2, 3, 2, 5)), np.zeros((2, 1, 20, 40))]
    (few,) = run(make(text.format("")), bottoms).tops
    (many,) = run(make(text.format("denser_prior_boxes: true")), bottoms).tops
    assert many.shape == (1, 2, 2 * 5 * 8 * 4)
    boxes = many[0, 0].reshape(2, 5, 4, 2, 4)
    np.testing.assert_array_equal(boxes[..., 0, :], few[0, 0].reshape(2, 5, 4, 4))
    down = np.array([0, 0.75 * 10 / 20, 0, 0.75 * 10 / 20])
    np.testing.assert_allclose(boxes[..., 1, :] - boxes[..., 0, :], np.broadcast_to(down, (2, 5, 4, 4)), atol=1e-6)


def test_normalize_in_place_passes_no_gradient_on() -> None:
    """normalize_layer.cpp, Backward_cpu: dy - x̂ · Σ x̂ · dy, where the second has been written over the first."""
    x, dy = np.random.default_rng(3).normal(1, 2, (2, 2, 3, 4, 5)).astype(np.float32)
    result = run(make('name: "n" type: "Normalize" bottom: "x" top: "x"'), [x], [np.array(2.0)], [dy])
    np.testing.assert_array_equal(result.bottoms[0], np.zeros_like(x))
    assert result.params[0] == pytest.approx((result.tops[0] * dy).sum() / 2, rel=1e-4)


def test_faceboxes_has_more_squares_of_its_small_sizes() -> None:
    fields = """name: "p" type: "PriorBox" bottom: "m" bottom: "x" top: "y"
      prior_box_param { min_size: %s variance: 0.1 step: 32 }"""
    layer = make(fields % "[32, 64, 128]")
    conv = 'name: "c" type: "Convolution" bottom: "m" top: "c" convolution_param { num_output: %d kernel_size: 1 }'
    maps, image = np.zeros((1, 7, 2, 3)), np.zeros((1, 3, 64, 96))
    assert not layer.departs([maps.shape, image.shape])
    layer.peers = [make(conv % 12)]  # of three boxes
    assert not layer.departs([maps.shape, image.shape])
    layer.peers = [make(conv % 84)]
    assert "predicts 21" in layer.departs([maps.shape, image.shape])
    layer.is_forks = True
    boxes = run(layer, [maps, image]).tops[0][0, 0].reshape(2, 3, 21, 4)
    expected = []
    for size, shifts in ((32, (-16, -8, 0, 8)), (64, (-16, 0)), (128, (0,))):
        for down, right in itertools.product(shifts, shifts):
            x, y, half = 80 + right, 48 + down, (size - 1) / 2
            expected.append([(x - half) / 96, (y - half) / 64, (x + half) / 96, (y + half) / 64])
    np.testing.assert_allclose(boxes[1, 2], expected, rtol=1e-6, atol=1e-7)
    coarse = make(fields % "256")
    coarse.peers = [layer]
    assert coarse.departs([maps.shape, image.shape])
    coarse.is_forks = True
    np.testing.assert_allclose(
        run(coarse, [maps, image]).tops[0][0, 0, :4], [-111.5 / 96, -111.5 / 64, 143.5 / 96, 143.5 / 64], rtol=1e-6
    )


def test_priors_of_nets_with_masks(tmp_path: Path) -> None:
    """As BestSonny/SSTD's prior_box_layer.cpp: as high as min_size and wider by the ratio, then the other way."""
    path = tmp_path / "net.prototxt"
    path.write_text("""
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 1 dim: 1 dim: 1 } } }
    layer { name: "r" type: "MaskResize" bottom: "x" top: "r" mask_resize_param { output_height: 2 output_width: 2 } }
    layer { name: "p" type: "PriorBox" bottom: "r" bottom: "r" top: "y" prior_box_param {
      min_size: 8.5 max_size: 18 min_size: 20 max_size: 30 img_size: 100 variance: 0.5
      aspect_ratio: 0.5 aspect_ratio: 2 aspect_ratio: 2 flip: true } }
    """)
    net = build(net_source(parse(path.read_bytes(), str(path))), faults=[])
    (priors,) = (node.layer for node in net.nodes if node.layer.name == "p")
    sizes = [(8.5, 8.5), (153**0.5,) * 2, (4.25, 8.5), (17, 8.5), (8.5, 4.25), (8.5, 17)]
    sizes += [(20, 20), (600**0.5,) * 2, (10, 20), (40, 20), (20, 10), (20, 40)]
    found = run(priors, [np.zeros((1, 1, 2, 2))] * 2).tops[0]
    assert found.shape == (1, 2, 2 * 2 * len(sizes) * 4)
    boxes = found[0, 0].reshape(4, len(sizes), 4)
    np.testing.assert_allclose(boxes[..., 2:] - boxes[..., :2], [np.array(sizes) / 100] * 4, rtol=1e-5)
    np.testing.assert_allclose((boxes[3, :, 2:] + boxes[3, :, :2]) / 2, [[0.75, 0.75]] * len(sizes), rtol=1e-6)


def test_clustered_prior_boxes_have_the_sizes_that_are_given() -> None:
    text = """name: "p" type: "PriorBoxClustered" bottom: "m" bottom: "x" top: "y"
      prior_box_param { width: 4 height: 10 width: 6 height: 2 clip: true step_h: 8 step_w: 9 variance: 0.1 }"""
    (top,) = run(make(text), [np.zeros((1, 3, 2, 3)), np.zeros((1, 1, 16, 27))]).tops
    boxes = top.reshape(2, 2, 3, 2, 4)[0]
    np.testing.assert_allclose(boxes[1, 0, 0], [2.5 / 27, 7 / 16, 6.5 / 27, 1], rtol=1e-6)
    np.testing.assert_allclose(boxes[0, 2, 1], [19.5 / 27, 3 / 16, 25.5 / 27, 5 / 16], rtol=1e-6)


def detections(settings: str, scores: list[list[float]], boxes: list[list[float]]) -> np.ndarray:
    """Return the rows for one image, locations relative to priors of variance 1 that are the boxes themselves."""
    priors = np.array(boxes, np.float32)
    prior = np.stack([priors.ravel(), np.ones(priors.size, np.float32)])[None]
    text = f'name: "d" type: "DetectionOutput" top: "y" detection_output_param {{ {settings} }}'
    layer = make(text.replace("top:", 'bottom: "l" bottom: "c" bottom: "p" top:'))
    (top,) = run(layer, [np.zeros((1, priors.size)), np.array(scores, np.float32).reshape(1, -1), prior]).tops
    return top[0, 0]


def test_detections_are_suppressed_and_sorted_by_class() -> None:
    boxes = [[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.4], [0.6, 0.6, 0.9, 1]]
    scores = [[0.1, 0.7, 0.2], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]]
    rows = detections("num_classes: 3 nms_param { nms_threshold: 0.5 } confidence_threshold: 0.15", scores, boxes)
    np.testing.assert_allclose(
        rows,
        [
            [0, 1, 0.8, *boxes[1]],
            [0, 1, 0.3, *boxes[2]],
            [0, 2, 0.5, *boxes[2]],
            [0, 2, 0.2, *boxes[0]],
        ],
        atol=1e-6,
    )
    kept = detections("num_classes: 3 keep_top_k: 2 nms_param { nms_threshold: 0.9 top_k: 2 }", scores, boxes)
    np.testing.assert_allclose(kept[:, 1:3], [[1, 0.8], [1, 0.7]], atol=1e-6)
    none = detections("num_classes: 3 confidence_threshold: 0.9", scores, boxes)
    np.testing.assert_array_equal(none, [[0, -1, -1, -1, -1, -1, -1]])


def test_refinedet_moves_priors_and_drops_background_first() -> None:
    priors = np.array([[0.1, 0.2, 0.4, 0.6], [0.5, 0.5, 0.9, 0.8]], np.float32)
    prior = np.stack([priors.ravel(), np.tile([0.1, 0.1, 0.2, 0.2], 2).astype(np.float32)])[None]
    scores = np.array([[0.1, 0.7, 0.2], [0.1, 0.8, 0.1]], np.float32).reshape(1, -1)
    moves = np.random.default_rng(3).normal(0, 0.5, (2, 1, 8)).astype(np.float32)
    objects = np.array([[0.4, 0.6, 0.995, 0.005]], np.float32)
    ends = 'bottom: "l" bottom: "c" bottom: "p" bottom: "o" bottom: "a" top: "y"'
    fields = "num_classes: 3 code_type: CENTER_SIZE objectness_score: 0.01 confidence_threshold: 0.15"
    layer = make(f'name: "d" type: "DetectionOutput" {ends} detection_output_param {{ {fields} }}')
    (top,) = run(layer, [moves[1], scores, prior, objects, moves[0]]).tops
    center, size = (priors[0, :2] + priors[0, 2:]) / 2, priors[0, 2:] - priors[0, :2]
    for move in moves[:, 0, :4]:
        center, size = center + 0.1 * move[:2] * size, size * np.exp(0.2 * move[2:])
    box = [*(center - size / 2), *(center + size / 2)]
    np.testing.assert_allclose(top[0, 0], [[0, 1, 0.7, *box], [0, 2, 0.2, *box]], rtol=1e-4)
    with pytest.raises(NetError, match="expected 4 values per image of the first stage"):
        layer.tops([(1, 8), (1, 6), (1, 2, 8), (1, 6), (1, 8)])


def test_evaluation_counts_each_true_box_once() -> None:
    found = [
        [0, 1, 0.9, 0, 0, 0.5, 0.5],
        [0, 1, 0.95, 0, 0, 0.5, 0.45],
        [0, 2, 0.3, 0, 0, 1, 1],
        [1, 1, 0.2, 0, 0, 1, 1],
    ]
    truth = [[0, 1, 0, 0, 0, 0.5, 0.5, 0], [0, 2, 0, 0, 0, 1, 1, 1], [1, 2, 0, 0, 0, 1, 1, 0]]
    text = """name: "e" type: "DetectionEvaluate" bottom: "d" bottom: "t" top: "y"
      detection_evaluate_param { num_classes: 3 evaluate_difficult_gt: false }"""
    (top,) = run(make(text), [np.array(rows)[None, None] for rows in (found, truth)]).tops
    expected = [[-1, 1, 1, -1, -1], [-1, 2, 1, -1, -1]]
    expected += [[0, 1, 0.95, 1, 0], [0, 1, 0.9, 0, 1], [0, 2, 0.3, 0, 0], [1, 1, 0.2, 0, 1]]
    np.testing.assert_allclose(top[0, 0], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("threshold", "resize", "right"),
    [
        (0.1, "", [1, 1, 1]),
        (0.28, "", [1, 0, 1]),
        (0.3, "", [0, 0, 0]),
        (0.28, "resize_param { resize_mode: WARP height: 30 width: 20 }", [1, 0, 1]),
        (0.28, "resize_param { resize_mode: FIT_SMALL_SIZE height: 30 width: 20 }", [1, 0, 1]),
        (
            0.35,
            "resize_param { resize_mode: FIT_SMALL_SIZE height: 30 width: 20 height_scale: 9 width_scale: 9 }",
            [1] * 3,
        ),
        (0.2, "resize_param { resize_mode: FIT_LARGE_SIZE_AND_PAD height: 30 width: 10 }", [1, 1, 1]),
        (0.3, "resize_param { resize_mode: FIT_LARGE_SIZE_AND_PAD height: 30 width: 60 }", [1, 0, 1]),
    ],
)
def test_boxes_are_compared_in_pixels_of_listed_sizes(
    tmp_path: Path, threshold: float, resize: str, right: list[int]
) -> None:
    """Each image with detections takes the next size of the file; as the compiled reference."""
    (tmp_path / "sizes.txt").write_text("first 4 5\nsecond 40 40\n")
    layer = make(
        f"""name: "e" type: "DetectionEvaluate" bottom: "d" bottom: "t" top: "y"
        detection_evaluate_param {{ num_classes: 2 overlap_threshold: {threshold}
        name_size_file: "{tmp_path}/sizes.txt" {resize} }}"""
    )
    found = np.array([[0, 1, 0.9, 0.1, 0.1, 0.5, 0.5]], np.float32)[None, None]
    truth = np.array([[0, 1, 0, 0.3, 0.3, 0.7, 0.7, 0]], np.float32)[None, None]
    passes = [run(layer, [found, truth]).tops[0][0, 0, -1, 3:] for _ in right]
    np.testing.assert_array_equal(passes, [[verdict, 1 - verdict] for verdict in right])


def test_a_missing_file_of_sizes_is_told() -> None:
    layer = make(
        """name: "e" type: "DetectionEvaluate" bottom: "d" bottom: "t" top: "y"
        detection_evaluate_param { num_classes: 2 name_size_file: "none.txt" }"""
    )
    assert layer.left_out == "file not found: 'none.txt'; boxes are compared relative to their images"
    assert layer.tops([(1, 1, 3, 7), (1, 1, 2, 8)]) == ((1, 1, 4, 5),)


@pytest.mark.parametrize(
    ("detected", "true", "message"), [(0, 1, "the detections hold"), (1, 0, "the true boxes hold")]
)
def test_evaluation_refuses_boxes_of_the_background(detected: int, true: int, message: str) -> None:
    """bbox_util.cpp, GetDetectionResults and GetGroundTruth; rows of no image do not count."""
    text = (
        'name: "e" type: "DetectionEvaluate" bottom: "d" bottom: "t" top: "y" detection_evaluate_param {num_classes: 2}'
    )
    none = [-1, 0, 0, 0, 0, 0, 0]
    found = np.array([[0, detected, 0.9, 0, 0, 1, 1], none], np.float32)
    truth = np.array([[0, true, 0, 0, 0, 1, 1, 0], [*none, 0]], np.float32)
    with pytest.raises(NetError, match=f"{message} the background's label, 0"):
        run(make(text), [found[None, None], truth[None, None]])


def test_only_locations_and_scores_have_gradients() -> None:
    """multibox_loss_layer.cpp, loss_layer.hpp, detection_output_layer.hpp, detection_evaluate_layer.hpp"""
    loss, detected, evaluated = (
        make(f'name: "l" type: "{kind}" top: "y"') for kind in ("MultiBoxLoss", "DetectionOutput", "DetectionEvaluate")
    )
    assert not loss.stops_backward([True, True, False, False])
    assert loss.stops_backward([True, True, True, False]) and loss.stops_backward([True, True, False, True])
    assert [loss.allow_force_backward(bottom) for bottom in range(4)] == [True, False, True, True]
    assert detected.stops_backward([True, False, False]) and evaluated.stops_backward([True, False])


LOSS = """name: "m" type: "MultiBoxLoss" bottom: "l" bottom: "c" bottom: "p" bottom: "t" top: "y" %s
  multibox_loss_param { num_classes: 3 %s }"""


def loss_bottoms() -> list[np.ndarray]:
    random = np.random.default_rng(4)
    corners = random.uniform(0, 0.6, (7, 2))
    priors = np.concatenate([corners, corners + random.uniform(0.2, 0.4, (7, 2))], 1)
    prior = np.stack([priors.ravel(), np.tile([0.1, 0.1, 0.2, 0.2], 7)])[None]
    truth = np.zeros((3, 8))
    truth[:, 0], truth[:, 1] = [0, 0, 1], [1, 2, 2]
    truth[:, 3:7] = priors[[1, 4, 6]] + random.normal(0, 0.02, (3, 4))
    return [random.normal(0, 0.3, (2, 28)), random.normal(0, 1, (2, 21)), prior, truth[None, None]]


@pytest.mark.parametrize(
    "settings",
    [
        "code_type: CENTER_SIZE",
        "code_type: CORNER loc_loss_type: L2 loc_weight: 0.5",
        "code_type: CORNER_SIZE conf_loss_type: LOGISTIC neg_pos_ratio: 1",
        "code_type: CENTER_SIZE mining_type: NONE share_location: true overlap_threshold: 0.2",
        "code_type: CENTER_SIZE bp_inside: true match_type: BIPARTITE",
    ],
)
def test_the_gradient_of_multibox_loss_is_its_derivative(settings: str) -> None:
    bottoms = loss_bottoms()
    layer = make(LOSS % ("loss_param { normalization: BATCH_SIZE }", settings))
    result = run(layer, bottoms)
    assert result.tops[0] > 0
    random = np.random.default_rng(5)
    for index in range(2):
        direction = random.normal(size=bottoms[index].shape)
        moved = [
            run(layer, [b + step * direction if i == index else b for i, b in enumerate(bottoms)]).tops[0]
            for step in (1e-3, -1e-3)
        ]
        slope = (float(moved[0]) - float(moved[1])) / 2e-3
        assert (result.bottoms[index] * direction).sum() == pytest.approx(slope, rel=2e-2, abs=2e-3)


def test_multibox_loss_is_softmax_and_smooth_l1_over_matches_and_the_hardest_others() -> None:
    loc, conf, prior, truth = bottoms = loss_bottoms()
    top = run(make(LOSS % ("", "code_type: CORNER overlap_threshold: 0.9 neg_overlap: 0.9 neg_pos_ratio: 1")), bottoms)
    matched = {(0, 1): 0, (0, 4): 1, (1, 6): 2}
    boxes = prior[0, 0].reshape(7, 4)
    logs = conf.reshape(2, 7, 3) - np.log(np.exp(conf.reshape(2, 7, 3)).sum(-1, keepdims=True))
    expected = 0.0
    for (image, index), true in matched.items():
        d = loc.reshape(2, 7, 4)[image, index] - (truth[0, 0, true, 3:7] - boxes[index]) / [0.1, 0.1, 0.2, 0.2]
        expected += np.where(abs(d) < 1, d * d / 2, abs(d) - 0.5).sum() - logs[image, index, int(truth[0, 0, true, 1])]
    for image, count in ((0, 2), (1, 1)):
        others = [-logs[image, index, 0] for index in range(7) if (image, index) not in matched]
        expected += sum(sorted(others)[-count:])
    assert float(top.tops[0]) == pytest.approx(expected / 3, rel=1e-5)


REFINED = """name: "m" type: "MultiBoxLoss" bottom: "l" bottom: "c" bottom: "p" bottom: "t" bottom: "o" bottom: "a"
  top: "y" multibox_loss_param { num_classes: 3 code_type: CENTER_SIZE %s }"""


def test_refinedet_matches_moved_priors_and_mines_those_that_may_be_objects() -> None:
    random = np.random.default_rng(8)
    loc, conf, prior, truth = loss_bottoms()
    objects = np.stack([1 - (p := random.uniform(0.2, 0.9, (2, 7))), p], -1)
    objects[0, [0, 2], 1] = 0.1  # easy background
    moves = random.normal(0, 0.4, (2, 7, 4))
    fields = "objectness_score: 0.15 overlap_threshold: 0.3 neg_overlap: 0.6 neg_pos_ratio: 9"
    bottoms = [loc, conf, prior, truth, objects.reshape(2, 14), moves.reshape(2, 28)]
    result = run(make(REFINED % fields), bottoms)
    boxes = prior[0, 0].reshape(7, 4)
    center, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    logs = conf.reshape(2, 7, 3) - np.log(np.exp(conf.reshape(2, 7, 3)).sum(-1, keepdims=True))
    total, matches = 0.0, 0
    for image in range(2):
        middle, wide = center + 0.1 * moves[image, :, :2] * size, size * np.exp(0.2 * moves[image, :, 2:])
        low, high = middle - wide / 2, middle + wide / 2
        own = truth[0, 0][truth[0, 0, :, 0] == image]
        shared = np.clip(np.minimum(high[:, None], own[:, 5:7]) - np.maximum(low[:, None], own[:, 3:5]), 0, None).prod(
            -1
        )
        union = wide.prod(-1)[:, None] + (own[:, 5:7] - own[:, 3:5]).prod(-1) - shared
        table, index = shared / union, np.full(7, -1)
        left = table.copy()
        for _ in own:
            at, true = np.unravel_index(left.argmax(), left.shape)
            index[at], left[at], left[:, true] = true, -1, -1
        index = np.where((index < 0) & (table.max(1) >= 0.3), table.argmax(1), index)
        for at, true in enumerate(index):
            if true >= 0:
                box = own[true, 3:7]
                shift = ((box[:2] + box[2:]) / 2 - middle[at]) / wide[at] / 0.1
                d = loc.reshape(2, 7, 4)[image, at] - [*shift, *(np.log((box[2:] - box[:2]) / wide[at]) / 0.2)]
                total += np.where(abs(d) < 1, d * d / 2, abs(d) - 0.5).sum() - logs[image, at, int(own[true, 1])]
            elif table[at].max() < 0.6 and objects[image, at, 1] >= 0.15:
                total -= logs[image, at, 0]
        matches += int((index >= 0).sum())
    assert float(result.tops[0]) == pytest.approx(total / matches, rel=1e-4)
    assert not any(diff.any() for diff in result.bottoms[4:])
    for index in range(2):
        direction = random.normal(size=bottoms[index].shape)
        ends = [
            run(make(REFINED % fields), [b + h * direction if i == index else b for i, b in enumerate(bottoms)]).tops[0]
            for h in (1e-3, -1e-3)
        ]
        slope = (float(ends[0]) - float(ends[1])) / 2e-3
        assert (result.bottoms[index] * direction).sum() == pytest.approx(slope, rel=2e-2, abs=2e-3)


def test_all_objects_are_one_class_in_the_first_of_two_stages() -> None:
    loc, _, prior, truth = loss_bottoms()
    bottoms = [loc, np.random.default_rng(6).normal(size=(2, 14)), prior, truth]
    fields = "code_type: CENTER_SIZE map_object_to_agnostic: true"
    first = make(LOSS.replace("num_classes: 3", "num_classes: 2") % ("", fields))
    with pytest.raises(NetError, match="label 2; expected 0 to 1, as num_classes says"):
        run(first, bottoms)
    first.peers = (make(REFINED % ""),)
    found = run(first, bottoms).tops[0]
    truth[..., 1] = 1
    first.peers = ()
    assert found == run(first, bottoms).tops[0]


@pytest.mark.parametrize("priors", ["true", "false"])
def test_priors_across_the_border_are_left_out_where_there_is_one_true_box(priors: str) -> None:
    loc, conf, prior, truth = loss_bottoms()
    prior[0, 0, :8] += 1  # two priors that end outside of the image
    fields = f"ignore_cross_boundary_bbox: true use_prior_for_matching: {priors} code_type: CENTER_SIZE"
    layer = make(LOSS % ("", fields))
    loss = run(layer, [np.zeros_like(loc), conf, prior, truth[:, :, 1:2]]).tops[0]
    prior[0, 0, :8] += 1
    assert loss > 0 and loss == run(layer, [np.zeros_like(loc), conf, prior, truth[:, :, 1:2]]).tops[0]


@pytest.mark.parametrize(("kind", "expected"), [("LOGISTIC", 3.4290438), ("SOFTMAX", 1.2134511)])
def test_a_prior_may_be_matched_once_for_each_class_of_locations(kind: str, expected: float) -> None:
    """What a build of weiliu89/caffe computed: logistic targets count all classes, softmax labels the last one."""
    boxes = [[0.1, 0.1, 0.5, 0.5], [0.4, 0.4, 0.9, 0.9], [0, 0.5, 0.3, 0.8]]
    prior = np.stack([np.ravel(boxes), np.tile([0.1, 0.1, 0.2, 0.2], 3)])[None]
    truth = [[0, 2, 0, 0.12, 0.1, 0.5, 0.52, 0], [0, 1, 0, 0.1, 0.14, 0.52, 0.5, 0], [0, 1, 0, 0.4, 0.4, 0.85, 0.9, 0]]
    fields = f"share_location: false mining_type: NONE conf_loss_type: {kind} use_prior_for_matching: false"
    loc, conf = np.linspace(-0.1, 0.1, 36)[None], np.linspace(-1, 2, 9)[None]
    result = run(make(LOSS % ("", fields)), [loc, conf, prior, np.array(truth)[None, None]])
    assert result.tops[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["Normalize", "SmoothL1Loss"])
def test_blobs_of_five_axes_are_refused(kind: str) -> None:
    layer = make(f'name: "l" type: "{kind}" top: "y"')
    with pytest.raises(NetError, match="4 axes"):
        layer.tops([(2, 3, 1, 2, 2)] * 2)


def test_the_agnostic_class_is_the_second_of_two() -> None:
    with pytest.raises(NetError, match="map_object_to_agnostic needs num_classes: 2, found 3"):
        run(make(LOSS % ("", "map_object_to_agnostic: true")), loss_bottoms())


def test_what_does_not_go_with_a_first_stage() -> None:
    shapes = [b.shape for b in loss_bottoms()]
    with pytest.raises(NetError, match=r"4 values for each of 7 priors of the first stage, found \(2, 14\)"):
        make(REFINED % "").tops([*shapes, (2, 14), (2, 14)])
    with pytest.raises(NetError, match="need share_location"):
        make(REFINED % "share_location: false mining_type: NONE").tops([(2, 84), *shapes[1:], (2, 14), (2, 28)])
    with pytest.raises(NetError, match="remove nms_param"):
        make(REFINED % "nms_param { nms_threshold: 0.5 }").tops([*shapes, (2, 14), (2, 28)])


def test_true_boxes_stand_in_for_those_of_unknown_data() -> None:
    layer = make(LOSS % ("", "background_label_id: 1"))
    rows = layer.stand_in(3, [(2, 28), (2, 21), (1, 2, 28), (1, 1, 5, 8)], np.random.default_rng(5))[0, 0]
    np.testing.assert_array_equal(rows[:, 0], [0, 0, 0, 1, 1])
    assert set(rows[:, 1]) == {2}
    assert ((rows[:, 3:5] < rows[:, 5:7]) & (rows[:, 3:5] >= 0) & (rows[:, 5:7] <= 1)).all()
    assert layer.stand_in(0, [], np.random.default_rng(5)) is None


def test_a_true_box_of_the_background_is_an_error() -> None:
    bottoms = loss_bottoms()
    bottoms[3][..., 1] = 0
    with pytest.raises(NetError, match="hold the background's label, 0"):
        run(make(LOSS % ("", "")), bottoms)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("do_neg_mining: false", "do_neg_mining, an old field, contradicts mining_type"),
        ("do_neg_mining: true mining_type: NONE", "do_neg_mining, an old field, contradicts mining_type"),
        ("background_label_id: 3", "background_label_id is 3; expected 0 to 2"),
        ("background_label_id: 3 conf_loss_type: LOGISTIC", "background_label_id is 3; expected 0 to 2"),
        ("mining_type: HARD_EXAMPLE sample_size: 0", "sample_size is 0; expected at least 1"),
    ],
)
def test_settings_of_the_loss_that_caffe_refuses(settings: str, message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(LOSS % ("", settings)).tops([bottom.shape for bottom in loss_bottoms()])


def test_a_negative_ratio_leaves_no_negatives() -> None:
    settings = "overlap_threshold: 0.9 neg_overlap: 0.9 neg_pos_ratio: %d"
    losses = [float(run(make(LOSS % ("", settings % ratio)), loss_bottoms()).tops[0]) for ratio in (-1, 0, 1)]
    assert losses[0] == losses[1] < losses[2]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("nms_param { nms_threshold: -1 }", "nms_threshold is -1; expected 0 or more"),
        ("nms_param { eta: 1.5 }", "eta is 1.5; expected more than 0 and at most 1"),
        ("nms_param { eta: 0 }", "eta is 0; expected more than 0"),
        ("background_label_id: -1", "background_label_id: -1 leaves no locations"),
    ],
)
def test_settings_of_detections_that_caffe_refuses(settings: str, message: str) -> None:
    layer = make(f'name: "d" type: "DetectionOutput" detection_output_param {{ num_classes: 3 {settings} }}')
    with pytest.raises(NetError, match=message):
        layer.tops([(2, 28), (2, 21), (1, 2, 28)])


def test_detections_must_overlap_to_be_true() -> None:
    layer = make('name: "e" type: "DetectionEvaluate" detection_evaluate_param { num_classes: 3 overlap_threshold: 0 }')
    with pytest.raises(NetError, match="overlap_threshold is 0; expected more than 0"):
        layer.tops([(1, 1, 4, 7), (1, 1, 2, 8)])


SEGMENTED = """name: "l" type: "AnnotatedData" top: "x" top: "y" top: "z" data_param { batch_size: 6 source: "none" }
  transform_param { resize_param { height: 40 width: 72 } } annotated_data_param { yolo_data_type: 1 %s }"""


@pytest.mark.parametrize(
    ("fields", "mask"),
    [("", (5, 9)), ("seg_scales: 4", (10, 18)), ("seg_resize_width: 7 seg_resize_height: 3", (7, 3))],
)
def test_masks_of_objects_follow_the_batch(fields: str, mask: tuple[int, int]) -> None:
    layer = make(SEGMENTED % fields)
    layer.batch_override = 2
    assert layer.tops([]) == ((2, 3, 40, 72), (2, 1, 300, 5), (2, 1, *mask))
    layer.shape_overrides = {"y": (4, 1, 300, 5)}
    assert layer.tops([])[1] == (4, 1, 300, 5)
    assert make(SEGMENTED % "single_class: false").tops([])[2] is None


def test_detection_output_extended_says_which_prior_a_box_is_of() -> None:
    layer = make(
        'name: "l" type: "DetectionOutputExtended" bottom: "a" bottom: "b" bottom: "c" top: "y" '
        "detection_output_param { num_classes: 2 code_type: CENTER_SIZE keep_top_k: 4 confidence_threshold: 0.2 "
        "nms_param { nms_threshold: 0.4 top_k: 9 } }"
    )
    random = np.random.default_rng(9)
    high, wide, anchors = 2, 3, 2
    low = random.uniform(0, 0.6, (12, 2))
    prior = np.concatenate([low, low + random.uniform(0.2, 0.4, (12, 2))], 1)
    loc, scores = random.normal(0, 0.3, (2, 12, 4)), random.uniform(0, 1, (2, 12))
    expected = []
    for n in range(2):
        center, size = (prior[:, :2] + prior[:, 2:]) / 2, prior[:, 2:] - prior[:, :2]
        middle, half = center + loc[n, :, :2] * 0.1 * size, np.exp(loc[n, :, 2:] * 0.2) * size / 2
        boxes = np.concatenate([middle - half, middle + half], 1)
        kept = []
        for i in [i for i in np.argsort(-scores[n]) if scores[n, i] > 0.2][:9]:
            for j in kept:
                sides = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
                shared = sides.clip(0).prod()
                areas = [(boxes[k, 2:] - boxes[k, :2]).prod() for k in (i, j)]
                if shared / (sum(areas) - shared) > 0.4:
                    break
            else:
                kept.append(i)
        for i in kept[:4]:
            row, column = i // anchors // wide, i // anchors % wide
            expected.append([n, 1, scores[n, i], *boxes[i], i % anchors, column, row])
    priors = np.stack([prior, np.tile([0.1, 0.1, 0.2, 0.2], (12, 1))]).reshape(1, 2, 48)
    conf = np.stack([1 - scores, scores], 2).reshape(2, 24)
    found = run(layer, [loc.reshape(2, high, wide, 8), conf, priors]).tops[0]
    np.testing.assert_allclose(found[0, 0], expected, rtol=1e-4, atol=1e-5)


def test_detection_evaluate_passes_over_points() -> None:
    text = (
        'name: "l" type: "DetectionEvaluate" bottom: "a" bottom: "b" top: "y" '
        "detection_evaluate_param { num_classes: 2 %s }"
    )
    random = np.random.default_rng(10)
    rows, truth = random.uniform(0.1, 0.9, (1, 1, 3, 17)), random.uniform(0.1, 0.9, (1, 1, 2, 19))
    rows[..., 0], rows[..., 1], truth[..., 0], truth[..., 1] = 0, 1, 0, 1
    for boxes, first in ((rows, 3), (truth, 3)):
        boxes[..., first + 2 : first + 4] = boxes[..., first : first + 2] + 0.2
    truth[..., 7] = 0
    plain = run(make(text % ""), [rows[..., :7], truth[..., :8]]).tops[0]
    np.testing.assert_array_equal(run(make(text % "has_lm: true"), [rows, truth]).tops[0], plain)


def test_equal_losses_are_mined_as_the_references_sort_leaves_them() -> None:
    """Of 25 equal ones std::sort puts these in front; expected: of a build with GNU's library."""
    corners = np.stack([np.arange(26) / 26, np.zeros(26)], 1)
    prior = np.concatenate([corners, corners + np.array([1 / 26, 1])], 1)
    truth = np.array([0, 1, 0, 0, 0, 1 / 26, 1, 0], np.float32)
    bottoms = [np.zeros((1, 104)), np.zeros((1, 52)), np.stack([prior.ravel(), np.full(104, 0.1)])[None]]
    text = LOSS.replace("num_classes: 3", "num_classes: 2") % ("", "")
    dconf = run(make(text), [*bottoms, truth[None, None, None]], dys=[np.float32(1)]).bottoms[1]
    assert sorted(set(np.flatnonzero(dconf.reshape(26, 2)[:, 0]).tolist()) - {0}) == [13, 24, 25]
    p = ssd_pb2.MultiBoxLossParameter(num_classes=2, conf_loss_type=ssd_pb2.MultiBoxLossParameter.LOGISTIC)
    sure = np.linspace([18, -18], [19, -19], 26, dtype=np.float32)  # in float32 the losses of all are 0
    numbers = [np.float32(bottom) for bottom in (bottoms[0], sure.reshape(1, -1), bottoms[2], truth)]
    assert np.flatnonzero(match(numbers, p, ValueError).conf_weights).tolist() == [0, 13, 24, 25]


CONCAT = 'layer { name: "cat" type: "Concat" bottom: "conf0_flat" top: "cat" }\nlayer {\n  name: "mbox_loss"'


@pytest.mark.parametrize(("mining", "passes"), [("NONE", False), ("MAX_NEGATIVE", True)])
def test_where_all_scores_count_their_gradient_lies_in_other_memory(
    mining: str, passes: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """multibox_loss_layer.cpp, bottom[1]->ShareDiff: a Concat of one bottom still looks at the memory from before."""
    shutil.copytree(GOLDEN / "mbox_center", tmp_path / "case")
    monkeypatch.chdir(tmp_path / "case")
    before, loss = Path("net.prototxt").read_text().split('layer {\n  name: "mbox_loss"')
    loss = loss.replace('"conf0_flat"', '"cat"').replace("num_classes: 4", f"num_classes: 4 mining_type: {mining}")
    Path("net.prototxt").write_text(before + CONCAT + loss)
    lines = caffestat.debug("solver.prototxt", device="cpu")
    sizes = [line.split()[-1] for line in lines if "Layer cat, bottom blob conf0_flat diff" in line]
    assert len(sizes) == 1 and (sizes[0] != "0") is passes


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ("min_size: nan", "expected positive values of min_size"),
        ("min_size: 3 max_size: inf", r"expected positive values of min_size.* and of max_size \[inf\]"),
        ("min_size: 3 aspect_ratio: 0", r"expected positive values of aspect_ratio, found \[0.0\]"),
        ("min_size: 3 aspect_ratio: -2", "expected positive values of aspect_ratio"),
        ("min_size: 3 aspect_ratio: inf", "expected positive values of aspect_ratio"),
    ],
)
def test_sizes_of_which_no_box_can_be_made(sizes: str, message: str) -> None:
    layer = make(f'name: "p" type: "PriorBox" bottom: "m" bottom: "x" top: "y" prior_box_param {{ {sizes} }}')
    with pytest.raises(NetError, match=message):
        layer.tops([(1, 3, 2, 2), (1, 3, 8, 8)])


@pytest.mark.parametrize(("code", "refused"), [("CENTER_SIZE", True), ("CORNER_SIZE", True), ("CORNER", False)])
def test_locations_cannot_be_relative_to_priors_without_a_size(code: str, refused: bool) -> None:
    """bbox_util.cpp, DecodeBBox: CHECK_GT(prior_width, 0)"""
    text = f"""name: "d" type: "DetectionOutput" bottom: "l" bottom: "c" bottom: "p" top: "y"
      detection_output_param {{ num_classes: 2 code_type: {code} }}"""
    prior = np.array([[[0.5, 0.2, 0.5, 0.7], [0.1] * 4]])
    bottoms = [np.zeros((1, 4)), np.array([[0.3, 0.7]]), prior]
    if not refused:
        np.testing.assert_allclose(run(make(text), bottoms).tops[0][0, 0, 0, 3:], prior[0, 0], rtol=1e-6)
        return
    with pytest.raises(NetError, match="some priors have no width or no height"):
        run(make(text), bottoms)


def test_matches_that_caffe_keeps_are_told() -> None:
    """multibox_loss_layer.cpp: all_match_indices_ is cleared by Backward_cpu alone."""
    shapes = [bottom.shape for bottom in loss_bottoms()]
    assert "keeps the first batch's matches" in make(LOSS % ("", ""), TEST).oddity(shapes)
    assert not make(LOSS % ("", "")).oddity(shapes)


def test_all_objects_are_one_class_without_mining() -> None:
    """multibox_loss_layer.cpp asks of labels to be below num_classes where it mines."""
    loc, _, prior, truth = loss_bottoms()
    bottoms = [loc, np.random.default_rng(6).normal(size=(2, 14)), prior, truth]
    settings = "code_type: CENTER_SIZE map_object_to_agnostic: true mining_type: NONE"
    layer = make(LOSS.replace("num_classes: 3", "num_classes: 2") % ("", settings))
    found = run(layer, bottoms).tops[0]
    truth[..., 1] = 1
    assert found == run(layer, bottoms).tops[0]


def test_labels_below_zero_are_refused() -> None:
    *bottoms, truth = loss_bottoms()
    truth[0, 0, 1, 1] = -2
    with pytest.raises(NetError, match="label -2; expected 0 to 2, as num_classes says"):
        run(make(LOSS % ("", "code_type: CENTER_SIZE")), [*bottoms, truth])


@pytest.mark.parametrize("ratio", ["3e38", "inf", "nan", "-1", "1e10"])
def test_ratios_beyond_integers_take_no_negatives(ratio: str) -> None:
    """static_cast<int>(num_pos * neg_pos_ratio), compiled for x86."""
    text = LOSS % ("", "code_type: CENTER_SIZE neg_pos_ratio: %s")
    assert run(make(text % ratio), loss_bottoms()).tops[0] == run(make(text % 0), loss_bottoms()).tops[0]


def test_priors_of_maps_without_places() -> None:
    """prior_box_layer.cpp: height() and width() are 1 where a blob has no such axis."""
    layer = make('name: "p" type: "PriorBox" bottom: "m" bottom: "x" top: "y" prior_box_param { min_size: 4 }')
    found = run(layer, [np.zeros((2, 5)), np.zeros((2, 3, 16, 8))]).tops[0]
    np.testing.assert_allclose(found[0, 0], [0.25, 0.375, 0.75, 0.625])
    with pytest.raises(NetError, match="expected bottoms of at most 4 axes"):
        layer.tops([(1, 2, 3, 4, 5), (1, 3, 8, 8)])


@pytest.mark.parametrize(
    ("transform", "size"),
    [
        ("resize_param { height: 20 width: 24 }", (20, 24)),
        ("resize_param { height: 20 width: 24 } crop_size: 9", (9, 9)),
        ("resize_param { height: 20 width: 24 } crop_h: 11", (11, 24)),
        ("resize_param { height: 20 width: 24 } crop_h: 11 crop_w: 12", (11, 12)),
        ("crop_h: 11 crop_w: 12", (11, 12)),
        ("crop_w: 12", None),
    ],
)
def test_sizes_of_images_that_are_not_there(transform: str, size: tuple[int, int] | None) -> None:
    text = f"""name: "d" type: "AnnotatedData" top: "x" top: "y" data_param {{ batch_size: 6 source: "none" }}
      transform_param {{ {transform} }}"""
    assert make(text).tops([])[0] == (size and (6, 3, *size))
