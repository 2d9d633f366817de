import subprocess
import sys

import numpy as np
import pytest

from caffestat.errors import InputError
from caffestat.fillers import Filler, Stream, bernoulli, fill, filler_types, gaussian, register, uniform

SHAPE = (5, 6, 3, 2)


def test_the_default_filler_is_constant_zero_and_consumes_nothing():
    stream = Stream(1)
    values = fill(stream, Filler(), SHAPE)
    assert (values.shape, values.dtype) == (SHAPE, np.float32)
    assert not values.any()
    fill(stream, Filler("constant", value=0.1), SHAPE)
    fill(stream, Filler("bilinear"), (2, 3, 5, 5))
    assert stream.word() == Stream(1).word()


def test_constants_are_rounded_to_float32():
    assert fill(Stream(1), Filler(value=0.1), (2,)).tolist() == [float(np.float32(0.1))] * 2


@pytest.mark.parametrize(
    ("filler", "shape"),
    [(Filler(value=2.5), ()), (Filler("uniform"), ()), (Filler("gaussian"), ()), (Filler("gaussian"), (3,))],
)
def test_a_scalar_blob_holds_one_value(filler, shape):
    values = fill(Stream(1), filler, shape)
    assert values.shape == shape
    assert values.dtype == np.float32


@pytest.mark.parametrize(
    ("norm", "n"), [("FAN_IN", 6 * 3 * 2), ("FAN_OUT", 5 * 3 * 2), ("AVERAGE", (6 * 3 * 2 + 5 * 3 * 2) / 2)]
)
def test_xavier_and_msra_by_norm(norm, n):
    scale = np.sqrt(np.float32(3) / np.float32(n))
    want = uniform(Stream(3), 180, -scale, scale).reshape(SHAPE)
    np.testing.assert_array_equal(fill(Stream(3), Filler("xavier", variance_norm=norm), SHAPE), want)
    want = gaussian(Stream(3), 180, 0, np.sqrt(np.float32(2) / np.float32(n))).reshape(SHAPE)
    np.testing.assert_array_equal(fill(Stream(3), Filler("msra", variance_norm=norm), SHAPE), want)


def test_a_bias_of_one_axis_has_fan_in_one():
    values = fill(Stream(3), Filler("xavier"), (1000,))
    assert 1.7 < np.abs(values).max() <= np.float32(np.sqrt(3))


def test_sparse_draws_all_gaussians_and_then_all_mask_bits():
    stream, expected = Stream(4), Stream(4)
    values = fill(stream, Filler("gaussian", mean=2.0, std=0.5, sparse=2), (7, 40))
    dense = gaussian(expected, 280, 2.0, 0.5)
    keep = bernoulli(expected, 280, float(np.float32(2) / np.float32(7)), np.float32)
    np.testing.assert_array_equal(values.ravel(), dense * keep)
    assert stream.word() == expected.word()
    assert 40 < keep.sum() < 120


def test_sparse_zero_leaves_nothing_and_draws_no_mask():
    stream, expected = Stream(4), Stream(4)
    assert not fill(stream, Filler("gaussian", sparse=0), (7, 40)).any()
    gaussian(expected, 280, 0.0, 1.0)
    assert stream.word() == expected.word()


def test_dropped_negative_values_are_negative_zeros():
    values = fill(Stream(4), Filler("gaussian", mean=-9.0, sparse=1), (7, 40))
    assert (values == 0).any()
    assert np.signbit(values).all()


def test_positive_unitball_divides_by_the_sequential_sum():
    values = fill(Stream(5), Filler("positive_unitball"), (3, 500, 4))
    for row, drawn in zip(values.reshape(3, -1), uniform(Stream(5), 6000, 0, 1).reshape(3, -1), strict=True):
        total = np.float32(0)
        for value in drawn:
            total += value
        np.testing.assert_array_equal(row, drawn / total)


@pytest.mark.parametrize(
    ("width", "tent"),
    [(4, [0.25, 0.75, 0.75, 0.25]), (3, [0.5, 1, 0.5]), (1, [1.0]), (5, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])],
)
def test_bilinear(width, tent):
    values = fill(Stream(1), Filler("bilinear"), (2, 3, width, width))
    np.testing.assert_allclose(values, np.broadcast_to(np.outer(tent, tent), values.shape), rtol=1e-6)
    values[0, 0, 0, 0] = 9  # the channels do not share memory
    assert values[1, 2, 0, 0] != 9


@pytest.mark.parametrize(
    ("filler", "shape", "message"),
    [
        (Filler("Xavier"), SHAPE, r'"Xavier".*bilinear, constant, gaussian, msra, positive_unitball, uniform, xavier'),
        (Filler("xavier", sparse=3), SHAPE, r'sparse is for gaussian fillers only, found sparse 3 in type "xavier"'),
        (Filler("constant", sparse=0), SHAPE, "sparse is for gaussian fillers only"),
        (Filler("gaussian", sparse=6), SHAPE, r"number of outputs \(5\).*found 6"),
        (Filler("gaussian", sparse=-2), SHAPE, "found -2"),
        (Filler("gaussian", sparse=1), (), "at least one axis"),
        (Filler("gaussian", std=0.0), SHAPE, "std > 0"),
        (Filler("uniform", min=1.0, max=0.5), SHAPE, "min <= max, found min 1 and max 0.5"),
        (Filler("xavier", variance_norm="MEAN"), SHAPE, "variance_norm"),
        (Filler("msra"), (), "at least one axis"),
        (Filler("positive_unitball"), (), "at least one axis"),
        (Filler("bilinear"), (6, 1, 4, 5), "square"),
        (Filler("bilinear"), (6, 4, 4), "four axes"),
        (Filler("uniform"), (3, 0), "elements"),
    ],
)
def test_what_caffe_aborts_on_is_refused(filler, shape, message):
    with pytest.raises(InputError, match=message):
        fill(Stream(1), filler, shape)


def test_a_second_rule_for_a_type_is_refused():
    with pytest.raises(ValueError, match="xavier"):
        register("xavier")(lambda stream, filler, shape: np.zeros(shape, np.float32))


def test_types_are_sorted():
    assert filler_types() == tuple(sorted(filler_types()))
    assert len(filler_types()) == 7


def test_importing_is_cheap():
    heavy = ("onnx", "onnxruntime", "google.protobuf")
    code = f"import sys, caffestat.fillers; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
