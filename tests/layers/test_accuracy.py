"""Accuracy and ArgMax against transcriptions of Caffe's loops, on scores with many ties."""

import itertools

import numpy as np
import pytest

from caffestat.errors import NetError

from .harness import make, run


def layer(type_name, params="", bottoms=2, tops=1):
    names = " ".join([f'bottom: "b{i}"' for i in range(bottoms)] + [f'top: "t{i}"' for i in range(tops)])
    return make(f'name: "l" type: "{type_name}" {names} {params}')


def scores(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 6, shape).astype(np.float32)


def shares(x, label, axis, top_k, ignore):
    """Return the accuracy and the accuracy per class as Caffe counts them."""
    x = np.moveaxis(x, axis, -1)
    label = label.reshape(x.shape[:-1]).astype(int)
    right, seen = np.zeros(x.shape[-1]), np.zeros(x.shape[-1])
    for position in itertools.product(*map(range, label.shape)):
        if label[position] == ignore:
            continue
        seen[label[position]] += 1
        better = (x[position] >= x[position][label[position]]).sum() - 1
        right[label[position]] += better < top_k
    return right.sum() / max(seen.sum(), 1), right / np.maximum(seen, 1)


@pytest.mark.parametrize("ignore", [None, 1])
@pytest.mark.parametrize("top_k", [1, 3])
@pytest.mark.parametrize(
    ("shape", "axis", "label_shape"), [((40, 5), 1, (40, 1)), ((2, 5, 3, 4), 1, (2, 3, 4)), ((6, 4, 5), -1, (6, 4))]
)
def test_accuracy(shape, axis, label_shape, top_k, ignore):
    x = scores(*shape)
    label = np.random.default_rng(1).uniform(0, 3.99, label_shape).astype(np.float32)  # the last class is never seen
    ignored = f"ignore_label: {ignore}" if ignore is not None else ""
    accuracy = layer("Accuracy", f"accuracy_param {{ top_k: {top_k} axis: {axis} {ignored} }}", tops=2)
    result = run(accuracy, [x, label])
    overall, per_class = shares(x, label, axis % len(shape), top_k, ignore)
    assert overall < 1
    np.testing.assert_allclose(result.tops[0], overall, rtol=1e-6)
    np.testing.assert_allclose(result.tops[1], per_class, rtol=1e-6)
    assert not np.any(result.bottoms[0])
    np.testing.assert_allclose(
        run(layer("Accuracy", f"accuracy_param {{ axis: {axis} }}"), [x, label]).tops[0],
        shares(x, label, axis, 1, None)[0],
    )


def test_accuracy_of_nothing_is_zero():
    assert run(layer("Accuracy", "accuracy_param { ignore_label: 0 }"), [scores(3, 4), np.zeros(3)]).tops[0] == 0


def test_accuracy_knows_its_classes():
    accuracy = layer("Accuracy", "accuracy_param { axis: -1 }")
    assert [accuracy.classes(i, [(3, 4, 7), (3, 4)]) for i in (0, 1)] == [None, 7]


@pytest.mark.parametrize(
    ("params", "shapes", "message"),
    [
        ("accuracy_param { top_k: 6 }", [(2, 5), (2,)], "top_k of at most 5, the number of classes, found 6"),
        ("", [(2, 5, 3), (2,)], r"expected 6 labels .* found shape \(2,\)"),
    ],
)
def test_accuracy_refuses(params, shapes, message):
    with pytest.raises(NetError, match=message):
        layer("Accuracy", params).tops(shapes)


def best(row, k):
    """Return indices and values of the k highest, the later of equal ones first."""
    order = sorted(range(len(row)), key=lambda i: (row[i], i), reverse=True)[:k]
    return order, [row[i] for i in order]


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("shape", [(4,), (4, 9), (2, 3, 7), (2, 3, 4, 5), (2, 3, 2, 3, 2)])
def test_argmax_over_everything(shape, values):
    if len(shape) == 1:
        with pytest.raises(NetError, match="top_k from 1 to 1, found 3"):
            layer("ArgMax", "argmax_param { top_k: 3 }", 1).tops([shape])
        return
    x = scores(*shape)
    result = run(layer("ArgMax", f"argmax_param {{ top_k: 3 out_max_val: {str(values).lower()} }}", 1), [x])
    wanted = np.array([best(row, 3)[: 1 + values] for row in x.reshape(shape[0], -1).tolist()])
    assert result.tops[0].ndim == max(3, len(shape))
    np.testing.assert_array_equal(result.tops[0].reshape(wanted.shape), wanted)
    assert not np.any(result.bottoms[0])


@pytest.mark.parametrize("values", [False, True])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_argmax_along_an_axis(axis, values):
    x = scores(4, 6, 5)
    result = run(
        layer("ArgMax", f"argmax_param {{ axis: {axis} top_k: 2 out_max_val: {str(values).lower()} }}", 1), [x]
    )
    wanted = np.apply_along_axis(lambda row: best(row.tolist(), 2)[values], axis, x)
    np.testing.assert_array_equal(result.tops[0], wanted)


def test_accuracy_per_class_of_scores_without_other_axes():
    label = np.float32([2])
    it = layer("Accuracy", "accuracy_param { axis: 0 }", tops=2)
    share, per_class = run(it, [np.float32([1, 3, 5, 4]), label], dys=[np.float32(0), np.zeros(4, np.float32)]).tops
    assert share == 1
    np.testing.assert_array_equal(per_class, [0, 0, 1, 0])
