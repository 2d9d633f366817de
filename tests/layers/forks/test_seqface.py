"""Losses of faces with and without identities, against loops; gradients against differences."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.errors import NetError
from caffestat.fillers import CRandom

from ..harness import make, run
from .check import check_gradients

RANDOM = np.random.default_rng(29)
TWO = 'name: "l" type: "%s" bottom: "a" bottom: "b" top: "y" '


@pytest.mark.parametrize(
    ("fields", "kept", "divisor"),
    [
        ("", [-1, -3, 0, 1, 2], 12),
        ("loss_param { ignore_label: 1 }", [-1, -3, 0, 2], None),
        ("loss_param { ignore_label: -3 normalization: BATCH_SIZE }", [-1, 0, 1, 2], 4),
    ],
)
def test_lsro_loss_spreads_negative_labels_over_all_classes(fields: str, kept: list[int], divisor: int | None) -> None:
    labels = np.array([[[0, -1, 2]], [[1, 1, -3]], [[-1, 2, 0]], [[-3, 0, 1]]], np.float32)
    scores = RANDOM.normal(size=(4, 5, 1, 3))

    def forward(x: np.ndarray, _: np.ndarray) -> float:
        e = np.exp(x)
        logs, loss = np.log(e / e.sum(1, keepdims=True)), 0.0
        for (n, h, w), label in np.ndenumerate(labels):
            if label in kept:
                loss -= logs[n, :, h, w].mean() if label < 0 else logs[n, int(label), h, w]
        return np.float64(loss / (divisor or np.isin(labels, kept).sum()))

    layer = make(TWO % "LSROLoss" + fields)
    check_gradients(layer, forward, [scores, labels], [0])
    assert layer.is_ignored(np.array([-7.0, 3, 1])).tolist() == [True, False, "label: 1" in fields]
    two = run(make(TWO % "LSROLoss" + 'top: "p" ' + fields), [scores, labels], dys=[np.float32(1), 0 * scores])
    np.testing.assert_allclose(two.tops[1].sum(1), 1, rtol=1e-5)


def lifted(x: np.ndarray, labels: np.ndarray, margin: float) -> np.float64:
    x, loss, count = x.reshape(len(x), -1), 0.0, 0
    d = np.array([[np.sqrt(((a - b) ** 2).sum()) for b in x] for a in x])
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            if labels[i] == labels[j]:
                others = [k for k in range(len(x)) if labels[k] != labels[i]]
                sums = sum(np.exp(margin - d[i, k]) + np.exp(margin - d[j, k]) for k in others)
                loss, count = loss + max(0, np.log(sums) + d[i, j]) ** 2, count + 1
    return np.float64(loss / count / 2)


@pytest.mark.parametrize("margin", [1, -1.5])
def test_lifted_structure_loss(margin: float) -> None:
    x, labels = RANDOM.normal(size=(7, 3, 1, 1)), np.array([0, 4, 0, 2, 4, 4, 1], np.float32)
    text = TWO % "LiftedStructSimilaritySoftmaxLoss" + f"lifted_struct_sim_softmax_loss_param {{ margin: {margin} }}"
    check_gradients(make(text), lambda x, labels: lifted(x, labels, margin), [x, labels], [0])
    near = x * np.array([1, 1, 9, 9, 1, 1, 9])[:, None, None, None]
    assert lifted(near, labels, margin) != lifted(x, labels, margin)
    check_gradients(make(text), lambda x, labels: lifted(x, labels, margin), [near, labels], [0])


def test_lifted_structure_loss_needs_pairs_and_others() -> None:
    layer, x = make(TWO % "LiftedStructSimilaritySoftmaxLoss"), RANDOM.normal(size=(3, 2))
    assert np.isnan(run(layer, [x, np.arange(3)]).tops[0])
    with pytest.raises(NetError, match="expected labels of at least two values"):
        run(layer, [x, np.ones(3)])
    with pytest.raises(NetError, match=r"expected features \(N, C\) and N labels"):
        layer.tops([(3, 2, 4, 1), (3,)])


DSA = TWO % "DSALoss" + "dsa_loss_param { faceid_num: 4 %s alpha: 1.5 beta: 0.75 lambda: 0.3 %s } %s"
X = RANDOM.normal(size=(6, 5, 1, 2))
LABELS = np.array([0, -1, 3, -2, 3, 1], np.float32)


def rows_of(labels: np.ndarray, sequences: int, ignored: float | None = None) -> list[int | None]:
    """Return the center of each row, None where it does not count."""
    found: list[int | None] = []
    for label in labels.astype(int):
        skipped = label == ignored or (label < 0 and not sequences)
        found.append(None if skipped else 3 - label if label < 0 else label)
    return found


def dsa(
    x: np.ndarray, centers: np.ndarray, rows: list[int | None], drawn: list[int], parts: tuple[bool, bool]
) -> float:
    x, loss = x.reshape(len(x), -1), 0.0
    for m, own in enumerate(rows):
        if own is not None:
            near = ((x[m] - centers[own]) ** 2).sum() / 4
            loss += 0.3 * near * parts[0]
            for n in drawn:
                if n != own and (own < 4 or n < 4):
                    loss += (
                        0.7 * max(0, 1.5 * near - ((x[m] - centers[n]) ** 2).sum() / 4 + 0.75) / len(drawn) * parts[1]
                    )
    return np.float64(loss / sum(row is not None for row in rows))


def center_gradient(x: np.ndarray, centers: np.ndarray, rows: list[int | None]) -> np.ndarray:
    grad = np.zeros_like(centers)
    for n in range(len(centers)):
        own = [m for m, row in enumerate(rows) if row == n]
        grad[n] = sum((centers[n] - x[m].ravel()) / 2 for m in own) / (len(own) + 1)
    return grad


@pytest.mark.parametrize(
    ("sequences", "fields", "loss", "ignored", "drawn", "parts"),
    [
        (3, "", "", None, 7, (True, True)),
        (3, "dropout_ratio: 0.4", "", None, 4, (True, True)),
        (0, "dropout_ratio: 0.25", "", None, 3, (True, True)),
        (3, "dropout_ratio: 0.4", "loss_param { ignore_label: -2 }", -2, 4, (True, True)),
        (3, "center_iter: 1", "", None, 7, (False, True)),
        (3, "diff_iter: 2", "", None, 7, (True, False)),
        (3, "dropout_ratio: 1", "", None, 0, (True, True)),
    ],
)
def test_dsa_loss(
    sequences: int, fields: str, loss: str, ignored: float | None, drawn: int, parts: tuple[bool, bool]
) -> None:
    layer = make(DSA % (f"seqid_num: {sequences}" if sequences else "", fields, loss))
    centers = RANDOM.normal(size=(4 + sequences, 10))
    chosen = CRandom().shuffled(range(len(centers)))[:drawn]
    rows = rows_of(LABELS, sequences, ignored)
    check_gradients(layer, lambda x, _, c: dsa(x, c, rows, chosen, parts), [X, LABELS, centers], [0], params=1)
    found = run(layer, [X, LABELS], [centers], [np.float32(3)])
    assert found.feeds[0].tolist()[:drawn] == chosen
    np.testing.assert_allclose(found.params[0], center_gradient(X, centers, rows), rtol=1e-4, atol=1e-6)
    assert found.updates == {}


def test_dsa_loss_stores_centers_of_one_length() -> None:
    layer = make(DSA % ("seqid_num: 3", "use_normalize: true scale: 2.5", ""))
    centers, rows = RANDOM.normal(size=(7, 10)), rows_of(LABELS, 3)
    found = run(layer, [X, LABELS], [centers])
    unit = centers * 2.5 / np.sqrt((centers**2).sum(1, keepdims=True) + 1e-7)
    np.testing.assert_allclose(found.updates[0], unit, rtol=1e-5)
    np.testing.assert_allclose(found.tops[0], dsa(X, unit, rows, list(range(7)), (True, True)), rtol=1e-5)
    np.testing.assert_allclose(found.params[0], center_gradient(X, unit, rows), rtol=1e-4, atol=1e-6)


def test_dsa_loss_checks_its_fields_and_labels() -> None:
    layer = make(DSA % ("seqid_num: 3", "", "loss_param { ignore_label: 9 }"))
    assert layer.is_ignored(np.array([-3.0, -4, 9, 2])).tolist() == [True, False, True, False]
    assert layer.classes(1, [(6, 5), (6,)]) == 7
    with pytest.raises(NetError, match="expected one label for each of 6 items"):
        layer.tops([(6, 5), (6, 2)])
    with pytest.raises(NetError, match="expected a faceid_num of at least 1"):
        make(TWO % "DSALoss" + "dsa_loss_param { seqid_num: 2 }").tops([(6, 5), (6,)])
