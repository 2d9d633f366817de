"""CTC losses against torch, decoders against loops over steps."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError

from ..harness import make, run

torch = pytest.importorskip("torch")

RANDOM = np.random.default_rng(8)
STEPS, ROWS, CLASSES = 9, 4, 5
SCORES = RANDOM.normal(0, 2, (STEPS, ROWS, CLASSES)).astype(np.float32)
CTC = (
    'name: "l" type: "CtcLoss" bottom: "x" bottom: "t" top: "y" '
    "ctc_loss_param { alphabet_size: 5 time_step: %d blank_label: %d }"
)
PLATES = "use_ctc_loss: true " + CTC.replace("ctc_loss_param", "warpctc_loss_param")
WARP = 'name: "l" type: "WarpCTCLoss" bottom: "x" %s top: "y"'


def torch_loss(sequences: list[list[int]], blank: int, times: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Return the cost of each sequence, and the gradient of their sum."""
    x = torch.tensor(SCORES.astype(np.float64), requires_grad=True)
    flat = torch.tensor([code for row in sequences for code in row], dtype=torch.long)
    lengths = torch.tensor([len(row) for row in sequences])
    costs = torch.nn.functional.ctc_loss(
        x.log_softmax(2), flat, torch.tensor(times), lengths, blank=blank, reduction="none", zero_infinity=True
    )
    costs.sum().backward()
    assert x.grad is not None
    return costs.detach().numpy(), x.grad.numpy()


def rows_of(sequences: list[list[int]], blank: int, longest: int) -> np.ndarray:
    return np.array([row + [blank] * (longest - len(row)) for row in sequences], np.float32)


@pytest.mark.parametrize("blank", [0, 4])
@pytest.mark.parametrize("steps", [STEPS, 6])
@pytest.mark.parametrize("text", [CTC, PLATES])
def test_ctc_loss_is_that_of_torch(text: str, blank: int, steps: int) -> None:
    sequences = [[1, 2, 2], [3], [2, 1, 3, 1, 2], [1, 1, 1, 1, 1]]  # the last does not fit into 6 steps
    expected, slope = torch_loss(sequences, blank, [steps] * ROWS)
    labels = rows_of(sequences, blank, 6)
    labels[1] = [blank, blank, 3, blank, blank, blank]  # blanks do not count wherever they stand
    result = run(make(text % (steps, blank)), [SCORES, labels], dys=[np.float32(0.5)])
    np.testing.assert_allclose(result.tops[0], expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], 0.5 * slope, rtol=1e-4, atol=1e-5)
    assert not result.bottoms[1].any()


@pytest.mark.parametrize("shape", [(STEPS, ROWS, CLASSES), (STEPS, ROWS, CLASSES, 1)])
def test_warp_ctc_s_gradient_does_not_look_at_dy(shape: tuple[int, ...]) -> None:
    sequences = [[1, 2, 2], [], [2, 1], [4]]
    expected, slope = torch_loss(sequences, 0, [STEPS] * ROWS)
    layer = make(WARP % 'bottom: "t"')
    result = run(layer, [SCORES.reshape(shape), rows_of(sequences, 0, 3)], dys=[np.float32(0.25)])
    np.testing.assert_allclose(result.tops[0], expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], slope.reshape(shape), rtol=1e-4, atol=1e-5)
    assert layer.ignores_dy


def test_warp_ctc_with_indicators_counts_labels_from_one_and_skips_sequences_without() -> None:
    times, sequences = [9, 1, 5, 7], [[1, 2, 2], [], [3], [4, 1]]
    marks, labels = np.ones((STEPS, ROWS), np.float32), np.full((STEPS, ROWS), -1, np.float32)
    marks[0] = 0
    for row, (steps, codes) in enumerate(zip(times, sequences, strict=True)):
        marks[steps:, row] = 0
        labels[: len(codes), row] = np.array(codes) - 1
    expected, slope = torch_loss(sequences, 0, times)
    slope[:, 1] = 0
    result = run(make(WARP % 'bottom: "m" bottom: "t"'), [SCORES, marks, labels])
    np.testing.assert_allclose(result.tops[0], np.delete(expected, 1).mean(), rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], slope, rtol=1e-4, atol=1e-5)


def test_warp_ctc_with_lengths() -> None:
    times, sequences = [9, 3, 5, 7], [[1, 0, 2], [2], [3, 3], []]
    labels = np.full((6, ROWS), 4, np.float32)
    for row, codes in enumerate(sequences):
        labels[: len(codes), row] = codes
    layer = make(WARP % 'bottom: "n" bottom: "m" bottom: "t"' + "ctc_loss_param { blank_index: 4 }")
    expected, slope = torch_loss(sequences, 4, times)
    result = run(layer, [SCORES, np.array(times), np.array([[3], [1], [2], [0]]), labels])
    np.testing.assert_allclose(result.tops[0], expected.mean(), rtol=1e-5)
    np.testing.assert_allclose(result.bottoms[0], slope, rtol=1e-4, atol=1e-5)


def best_path(scores: np.ndarray, blank: int, merges: bool = True) -> list[int]:
    found, last = [], -1
    for step in scores:
        best = int(step.argmax())
        if best != blank and not (merges and best == last):
            found.append(best)
        last = best
    return found


PATHS = np.array([[0, 1, 1, 0, 1, 2, 2], [3, 3, 3, 0, 0, 0, 4], [0, 0, 0, 0, 0, 0, 0]])
SHARP = (np.eye(5)[PATHS] * 3 + RANDOM.uniform(0, 1, (3, 7, 5))).astype(np.float32)  # [N, T, classes]


def test_accuracy_of_label_sequences() -> None:
    layer = make('name: "l" type: "LabelsequenceAccuracy" bottom: "x" bottom: "t" top: "y"')
    right = np.array([[1, 1, 2, 0], [3, 4, 0, 0], [0, 0, 0, 0]], np.float32)
    assert run(layer, [SHARP, right]).tops[0] == 1
    one_wrong, spread = right.copy(), right.copy()
    one_wrong[1] = [3, 4, 4, 0]
    spread[0] = [1, 0, 1, 2]
    np.testing.assert_allclose(run(layer, [SHARP, one_wrong]).tops[0], 2 / 3, rtol=1e-6)
    assert run(layer, [SHARP, spread]).tops[0] == 1
    last = make(
        'name: "l" type: "LabelsequenceAccuracy" bottom: "x" bottom: "t" top: "y" '
        "labelsequence_accuracy_param { blank_label: 4 }"
    )
    assert best_path(SHARP[0], 4) == [0, 1, 0, 1, 2]
    labels = np.array([[0, 1, 0, 1, 2, 4, 4, 4], [3, 0, 4, 4, 4, 4, 4, 4], [0, 1, 4, 4, 4, 4, 4, 4]], np.float32)
    np.testing.assert_allclose(run(last, [SHARP, labels]).tops[0], 2 / 3, rtol=1e-6)


@pytest.mark.parametrize(("fields", "blank"), [("", 0), ("blank_index: -1", 4), ("blank_index: 3", 3)])
@pytest.mark.parametrize("merges", [True, False])
def test_greedy_decoder(fields: str, blank: int, merges: bool) -> None:
    field = f"ctc_decoder_param {{ {fields} ctc_merge_repeated: {str(merges).lower()} }}"
    layer = make('name: "l" type: "CTCGreedyDecoder" bottom: "x" top: "y" ' + field)
    top = run(layer, [SHARP.transpose(1, 0, 2)]).tops[0]
    assert top.shape == (3, 7, 1, 1)
    for row, scores in zip(top[:, :, 0, 0], SHARP, strict=True):
        expected = best_path(scores, blank, merges)
        assert row.tolist() == expected + [-1] * (7 - len(expected))


def test_greedy_decoder_measures_edit_distances() -> None:
    layer = make('name: "l" type: "CTCGreedyDecoder" bottom: "x" bottom: "t" top: "y"')
    labels = np.array([[1, 1, 2, 0], [4, 0, 4, 4], [0, -1, 3, 3]], np.float32)  # found 1 1 2, 3 4 and nothing
    top = run(layer, [SHARP.transpose(1, 0, 2), labels]).tops[0]
    np.testing.assert_allclose(top.ravel(), [1 - (2 / 3) / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        (CTC % (9, 0), [(9, 4, 6), (4, 3)], "expected scores of 5 classes"),
        (CTC % (10, 0), [(9, 4, 5), (4, 3)], "a time_step of 1 to 9, found 10"),
        (CTC % (9, 5), [(9, 4, 5), (4, 3)], "a blank of 0 to 4, found 5"),
        (CTC % (9, 0), [(9, 4, 5), (3, 3)], r"expected labels of shape \(4, longest\)"),
        (WARP % 'bottom: "m" bottom: "t"', [(9, 4, 5), (9, 4), (8, 4)], r"indicators and labels of shape \(9, 4\)"),
        (WARP % 'bottom: "m" bottom: "n" bottom: "t"', [(9, 4, 5), (4,), (3,), (8, 4)], "4 numbers of steps"),
    ],
)
def test_bottoms_that_do_not_fit(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(NetError, match=message):
        make(text).tops(shapes)
