"""The Python layers of SSH and smallhardface, against loops over places and anchors."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.layers import Layer
from caffestat.layers.forks.proposals import anchors, from_deltas

from ..harness import TEST, TRAIN, make, run
from .test_proposals import overlap

RANDOM = np.random.default_rng(15)
FACES = "'feat_stride': [8, 8, 16], 'scales': [1, 2, 4], 'ratios': [1]"


def python(name: str, settings: str, bottoms: int, tops: int, phase: int = TRAIN) -> Layer:
    module, _, kind = name.rpartition(".")
    blobs = "".join(f'bottom: "b{i}" ' for i in range(bottoms)) + "".join(f'top: "t{i}" ' for i in range(tops))
    text = f'name: "p" type: "Python" {blobs} python_param {{ module: "{module}" layer: "{kind}" param_str: "{{%s}}" }}'
    return make(text % settings, phase)


def test_proposals_of_ssh_are_not_suppressed_in_test() -> None:
    scores, deltas = RANDOM.uniform(size=(1, 4, 5, 7)), RANDOM.normal(0, 0.2, (1, 8, 5, 7))
    settings = "'feat_stride': 8, 'base_size': 4, 'scales': [2, 4], 'ratios': [1,]"
    name = "SSH.layers.proposal_layer.ProposalLayer"
    rows, best = run(python(name, settings, 3, 2, TEST), [scores, deltas, [[40, 56, 1]]]).tops
    assert (rows.shape, best.shape) == ((70, 5), (70, 1))
    np.testing.assert_allclose(best[:, 0], np.sort(scores[:, 2:].ravel())[::-1], rtol=1e-6)
    a, y, x = np.unravel_index(scores[0, 2:].argmax(), (2, 5, 7))
    box = anchors(4, [1], [2, 4])[[a]] + np.array([x, y, x, y]) * 8
    moved = from_deltas(box, deltas[0, 4 * a : 4 * a + 4, y, x][None])[0]
    np.testing.assert_allclose(rows[0, 1:], np.clip(moved, 0, [55, 39, 55, 39]), rtol=1e-4)
    kept = run(python(name, settings, 3, 2, TRAIN), [scores, deltas, [[40, 56, 1]]]).tops[0]
    assert 1 < len(kept) < 70
    assert all(overlap(a, b) <= 0.3 + 1e-6 for i, a in enumerate(kept[:, 1:]) for b in kept[:i, 1:])


def test_the_hardest_anchors_of_ssh_count() -> None:
    scores = np.concatenate([np.zeros((1, 1, 20, 21)), RANDOM.uniform(size=(1, 1, 20, 21))], 1)
    truth = np.array([[16.0, 16, 47, 47, 1], [70, 70, 101, 101, 1]])
    data = [np.zeros((1, 2, 20, 21)), truth, [[160, 168, 1]], np.zeros((1, 3, 160, 168)), scores]
    name = "SSH.layers.anchor_target_layer.AnchorTargetLayer"
    settings = "'feat_stride': 8, 'base_size': 16, 'scales': [2], 'ratios': [1], 'allowed_border': 8"
    labels = run(python(name, settings, 5, 4), data).tops[0][0, 0]
    base, hardest = anchors(16, [1], [2])[0], {}
    for y, x in np.ndindex(20, 21):
        box = base + np.array([x, y, x, y]) * 8
        if not (box[:2] >= -8).all() or box[2] >= 176 or box[3] >= 168:
            assert labels[y, x] == -1
        elif (most := max(overlap(box, true) for true in truth)) >= 0.5:
            assert labels[y, x] == 1
        elif most < 0.3:
            hardest[y, x] = scores[0, 1, y, x]
    objects = int((labels == 1).sum())
    wanted = sorted(hardest, key=lambda at: -hardest[at])[: 256 - objects]
    assert {tuple(at) for at in np.argwhere(labels == 0)} == set(wanted)
    assert 0 < objects < len(hardest) - 256


def test_without_an_anchor_inside_all_count() -> None:
    data = [np.zeros((1, 2, 3, 4)), np.array([[0.0, 0, 5, 5, 1]]), [[20, 30, 1]], np.zeros((1, 3, 20, 30))]
    name = "SSH.layers.anchor_target_layer.AnchorTargetLayer"
    labels = run(python(name, "'feat_stride': 8, 'scales': [32], 'ratios': [1]", 4, 4), data).tops[0]
    assert (labels == 0).all()


def test_proposals_of_smallhardface_leave_out_places_of_larger_strides() -> None:
    scores = np.concatenate([np.zeros((1, 3, 6, 5)), RANDOM.uniform(0.1, 1, (1, 3, 6, 5))], 1)
    deltas, refined = RANDOM.normal(0, 0.2, (2, 1, 12, 6, 5))
    name = "lib.layers.proposal_layer.ProposalLayer"
    layer = python(name, FACES, 4, 2, TEST)
    rows, best = run(layer, [refined, scores, deltas, [[48, 40, 1]]]).tops
    assert best.shape == (6 * 5 * 2 + 3 * 3, 2)  # at every second place of the scale with stride 16
    found = {}
    for y, x, a in np.ndindex(6, 5, 3):
        box = anchors(16, [1], [1, 2, 4])[[a]] + np.array([x, y, x, y]) * 8
        for change in (deltas, refined):
            box = from_deltas(box, change[0, 4 * a : 4 * a + 4, y, x][None]) - [0, 0, 1, 1]
        if a < 2 or (y % 2 == 0 and x % 2 == 0):
            found[scores[0, 3 + a, y, x]] = np.clip(box[0] + [0, 0, 1, 1], 0, [39, 47, 39, 47])
    np.testing.assert_allclose(best[:, 1], sorted(found, reverse=True), rtol=1e-6)
    np.testing.assert_allclose(rows[:, 1:], [found[key] for key in sorted(found, reverse=True)], rtol=1e-3, atol=1e-3)
    low = np.where(scores > 0.9, 0.5, 0.001)
    assert len(run(layer, [refined, low, deltas, [[48, 40, 1]]]).tops[0]) == (run_of(low[:, 3:]) or 1)
    assert len(run(python(name, FACES, 3, 1, TRAIN), [scores, deltas, [[48, 40, 1]]]).tops[0]) == 1


def run_of(scores: np.ndarray) -> int:
    """Return how many scores reach 0.002 at the places that count."""
    return int((scores[0, :2] > 0.002).sum() + (scores[0, 2, ::2, ::2] > 0.002).sum())


def test_targets_of_smallhardface_by_map() -> None:
    name = "lib.layers.multi_layer_anchor_layer.MultiLayerAnchorLayer"
    settings = f"'source': [0, 0, 1], {FACES}, 'ohem': True, 'allowed_border': [0, 0, 512]"
    layer = python(name, settings, 6, 8)
    maps = [RANDOM.normal(size=(1, 4, 9, 11)), RANDOM.normal(size=(1, 2, 5, 6))]
    truth = np.array([[16.0, 16, 31, 31, 2], [20, 30, 83, 71, 1]])
    data = [*maps, truth, [[72, 88, 1]], np.zeros((1, 3, 72, 88)), [0]]
    tops = run(layer, data).tops
    assert [top.shape[1:] for top in tops[3:5]] == [(8, 9, 11), (1, 5, 6)]
    boxes = anchors(16, [1], [1, 2, 4])
    labels, targets, inside, outside = (top.reshape(2, -1, 9, 11) for top in tops[:4])
    near = 0
    for a, y, x in np.ndindex(2, 9, 11):
        box = boxes[a] + np.array([x, y, x, y]) * 8
        most = max(overlaps := [overlap(box, true) for true in truth])
        is_inside = min(box) >= 0 and box[2] < 88 and box[3] < 72
        if is_inside and most >= 0.5:
            assert labels[a, 0, y, x] == truth[int(np.argmax(overlaps)), 4]
        elif is_inside and most < 0.3:
            assert labels[a, 0, y, x] == 0  # fewer than 256
        else:
            assert labels[a, 0, y, x] == -1
        assert inside[a, 0, y, x] == (is_inside and most >= 0.3)
        near += int(is_inside and most >= 0.3)
        assert (targets[a, :, y, x] == (-1 if is_inside else 0)).all() or inside[a, 0, y, x]
    assert near > 1
    np.testing.assert_allclose(outside.sum(), 4, rtol=1e-5)
    with pytest.raises(NetError, match=r"expected maps \(1, classes · 2, H, W\)"):
        layer.tops([(1, 3, 9, 11), *(np.shape(value) for value in data[1:])])


@pytest.mark.parametrize("source", [7, -1, 0.5])
def test_sources_that_are_no_bottoms(source: float) -> None:
    settings = f"'source': [0, 0, {source}], {FACES}, 'allowed_border': [512, 512, 512]"
    layer = python("lib.layers.multi_layer_anchor_layer.MultiLayerAnchorLayer", settings, 5, 4)
    with pytest.raises(NetError, match="expected bottoms in source, from 0 to 2"):
        layer.tops([(1, 6, 9, 11), (1, 5), (1, 3), (1, 3, 72, 88), (1,)])


def test_numbers_of_smallhardface_that_param_str_holds() -> None:
    """As multi_layer_anchor_layer.py of bairdzhang/smallhardface, run with these settings."""
    name = "lib.layers.multi_layer_anchor_layer.MultiLayerAnchorLayer"
    maps, truth = [RANDOM.normal(size=(1, 6, 9, 11))], np.array([[16.0, 16, 47, 47, 1]])
    data = [*maps, truth, [[72, 88, 1]], np.zeros((1, 3, 72, 88)), [0]]

    def counts(more: str) -> tuple[int, int]:
        settings = f"'source': [0, 0, 0], {FACES}, 'ohem': True, 'allowed_border': [512, 512, 512]{more}"
        labels = run(python(name, settings, 5, 4), data).tops[0]
        return int((labels == 1).sum()), int((labels == 0).sum())

    objects, _ = counts("")
    more, _ = counts(", 'positive_overlap': [0.31, 0.31, 0.31]")
    assert 1 < objects < more
    assert counts(", 'anchors_per_batch': 8") == (2, 6)
    assert counts(", 'anchors_per_batch': 8, 'fg_fraction': 0.125") == (1, 7)
    with pytest.raises(NetError, match="expected as many numbers"):
        counts(", 'positive_overlap': [0.4]")


def test_smallhardface_has_no_stride_for_a_second_ratio() -> None:
    """proposal_layer.py of bairdzhang/smallhardface stops: list index out of range."""
    layer = python("lib.layers.proposal_layer.ProposalLayer", f"{FACES}, 'ratios': [0.5, 1]", 3, 2)
    with pytest.raises(NetError, match="with several ratios"):
        layer.tops([(1, 12, 5, 7), (1, 24, 5, 7), (1, 3)])
