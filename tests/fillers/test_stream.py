import numpy as np
import pytest

from caffestat.fillers import Stream
from caffestat.fillers.stream import BLOCK


def numpy_words(seed, n):
    return np.random.RandomState(seed)._bit_generator.random_raw(n).astype(np.uint32)


def test_first_and_ten_thousandth_word_of_the_standard():
    words = Stream(5489).words(10_000)
    assert (words[0], words[-1]) == (3499211612, 4123659995)  # [rand.predef] of the C++ standard for mt19937


@pytest.mark.parametrize("seed", [0, 1701, 2**32 - 1])
def test_words_in_odd_pieces_are_those_of_numpy(seed):
    sizes = [1, 0, 623, 2, 625, BLOCK - 3, 5, BLOCK, 1, 2 * BLOCK + 7, 11]
    stream = Stream(seed)
    pieces = []
    for n in sizes:
        stream.peek(n // 2 + 3)
        pieces += [stream.words(n), np.array([stream.word()], np.uint32)]
    words = np.concatenate(pieces)
    assert words.dtype == np.uint32
    np.testing.assert_array_equal(words, numpy_words(seed, sum(sizes) + len(sizes)))


def test_peeking_consumes_nothing_and_advancing_does():
    stream, expected = Stream(3), numpy_words(3, 3 * BLOCK)
    np.testing.assert_array_equal(stream.peek(BLOCK + 2), expected[: BLOCK + 2])
    stream.advance(BLOCK)
    np.testing.assert_array_equal(stream.peek(BLOCK), expected[BLOCK : 2 * BLOCK])
    assert stream.word() == expected[BLOCK]


def test_a_peeked_array_survives_later_refills():
    stream = Stream(4)
    view = stream.peek(9)
    stream.words(3 * BLOCK)
    np.testing.assert_array_equal(view, numpy_words(4, 9))


def test_words_cannot_be_overwritten():
    with pytest.raises(ValueError, match="read-only"):
        Stream(1).words(2)[0] = 7


@pytest.mark.parametrize(("seed", "same"), [(2**32 + 17, 17), (-1, 2**32 - 1), (2**63 - 1, 2**32 - 1)])
def test_the_seed_is_taken_modulo_two_to_the_32(seed, same):
    np.testing.assert_array_equal(Stream(seed).words(5), Stream(same).words(5))
