import numpy as np
import pytest

from caffestat.errors import InputError
from caffestat.fillers import Stream, bernoulli, uniform
from caffestat.fillers.stream import BLOCK

from . import reference
from .scripted import bits, reader, scripted_stream

TOP = 2**32 - 128  # the least word that float32 rounds to 2^32


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.2, 0.4), (-1e-30, 3e7), (5.0, 5.0), (0.0, 0.0)])
def test_uniform_equals_its_scalar_definition(low, high):
    sizes = [1, 3, 7000, 2]
    stream = Stream(21)
    got = np.concatenate([uniform(stream, n, low, high) for n in sizes])
    words = Stream(21).words(4 * sum(sizes))
    word = reader(words)
    np.testing.assert_array_equal(bits(got), bits(reference.uniform(word, sum(sizes), low, high)))
    assert stream.word() == word()


def test_uniform_over_several_blocks():
    n = 2 * BLOCK + 12_345
    stream = Stream(8)
    got = uniform(stream, n, -0.25, 0.75)
    words = Stream(8).words(n + 1)
    end = np.nextafter(np.float32(0.75), np.float32(1))
    want = words[:n].astype(np.float32) / np.float32(2**32) * (end - np.float32(-0.25)) + np.float32(-0.25)
    assert want.max() < end, "this seed was chosen to reject nothing"
    np.testing.assert_array_equal(bits(got), bits(want))
    assert stream.word() == words[n]


def test_uniform_draws_again_where_rounding_reaches_the_end():
    words = np.array([7, TOP, 2**32 - 1, TOP - 1, 2**31, TOP, 9, 10], np.uint32)
    stream = scripted_stream(words)
    got = uniform(stream, 4, 0.0, 1.0)
    # The range ends at nextafter(1), so 1 - 2^-24 scales up to 1 itself; the words that round to 2^32 are dropped.
    assert got[1] == 1
    want = np.array([7 * 2.0**-32, 1 - 2.0**-24, 0.5, 9 * 2.0**-32], np.float32) * np.float32(1 + 2.0**-23)
    np.testing.assert_array_equal(got, want)
    assert stream.word() == 10


def test_uniform_of_one_point_gives_that_point_and_consumes_more_words():
    stream = Stream(2)
    assert (uniform(stream, 1000, 0.3, 0.3) == np.float32(0.3)).all()
    used = np.flatnonzero(Stream(2).words(4000) == stream.word())[0]
    assert 1800 < used < 2200


@pytest.mark.parametrize(
    ("low", "high"), [(1.0, 0.999), (float("nan"), 1.0), (-3e38, 3e38), (3.4028234663852886e38,) * 2]
)
def test_uniform_refuses_an_impossible_range(low, high):
    with pytest.raises(InputError, match="uniform filler"):
        uniform(Stream(1), 3, low, high)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bernoulli_equals_its_definition(dtype):
    n, p = BLOCK + 77, 0.3
    stream = Stream(6)
    got = bernoulli(stream, n, p, dtype)
    words = Stream(6).words(n + 1)
    assert got.dtype == np.bool_
    np.testing.assert_array_equal(got, words[:n].astype(dtype) <= dtype(p) * dtype(2**32 - 1))
    assert stream.word() == words[n]
    assert abs(got.mean() - p) < 0.01


def test_bernoulli_rounds_its_words_only_in_float32():
    words = np.array([2**31, 2**31 + 100, 2**31 - 1, 2**31 - 65], np.uint32)
    assert bernoulli(scripted_stream(words), 4, 0.5, np.float32).tolist() == [True, True, True, True]
    assert bernoulli(scripted_stream(words), 4, 0.5, np.float64).tolist() == [False, False, True, True]


def test_bernoulli_zero_consumes_nothing_and_one_consumes_all():
    stream = Stream(6)
    assert not bernoulli(stream, 50, 0.0, np.float64).any()
    np.testing.assert_array_equal(stream.peek(4), Stream(6).words(4))
    assert bernoulli(stream, 50, 1.0, np.float64).all()
    assert stream.word() == Stream(6).words(51)[50]


@pytest.mark.parametrize("p", [-0.1, 1.01, float("nan")])
def test_bernoulli_refuses_what_is_no_probability(p):
    with pytest.raises(InputError, match="between 0 and 1"):
        bernoulli(Stream(1), 3, p, np.float64)
