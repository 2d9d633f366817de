import importlib

import numpy as np
import pytest

from caffestat.errors import InputError
from caffestat.fillers import Stream, gaussian
from caffestat.fillers.ziggurat import normal_table

from . import reference
from .scripted import bits, reader, scripted_stream

MODULE = importlib.import_module("caffestat.fillers.gaussian")


def pieces(total, seed):
    """Random sizes, from one to tens of thousands, that add up to `total`."""
    generator = np.random.default_rng(seed)
    while total > 0:
        n = min(total, int(10 ** generator.uniform(0, 4.8)))
        yield n
        total -= n


def assert_as_defined(words, stream, sizes, mean=0.1, std=0.7):
    word = reader(words)
    for n in sizes:
        want = reference.gaussian(word, n, mean, std)
        np.testing.assert_array_equal(bits(gaussian(stream, n, mean, std)), bits(want))
    assert stream.word() == word()


def test_a_real_stream_in_random_pieces():
    assert_as_defined(Stream(1701).words(320_000), Stream(1701), pieces(300_000, 0))


def rare_words(seed, n=60_000):
    """Words in which slow ones, tails and words that round to 1 are as common as the others."""
    generator = np.random.default_rng(seed)
    kinds = [
        generator.integers(0, 2**32, n),
        generator.integers(0, 2**24, n) << 8 | generator.integers(0, 2, n),  # strip 0
        generator.integers(2**24 * 15 // 16, 2**24, n) << 8 | generator.integers(0, 256, n),  # near the edge
        generator.integers(2**32 - 300, 2**32, n),  # rounds to 1, or just not
        generator.integers(2**24 * 15 // 16, 2**24, n) << 8 | generator.integers(0, 2, n),  # the tail
    ]
    return np.choose(generator.integers(0, len(kinds), n), kinds).astype(np.uint32)


@pytest.mark.parametrize("block", [1, 2, 3, 17, 1 << 16])
def test_rare_words_at_every_alignment_of_blocks(monkeypatch, block):
    monkeypatch.setattr(MODULE, "BLOCK", block)
    words = rare_words(block)
    assert_as_defined(words, scripted_stream(words), [1, 2, 5, 1, 40, 7000, 333])


def edge_words(strip):
    """Words around the one where a strip stops accepting at once, on both signs."""
    x = normal_table().x
    turn = int(x[strip + 1] / x[strip] * 2**24)
    upper = np.arange(max(turn - 6, 0), min(turn + 7, 2**24))
    return np.concatenate([upper << 8 | strip << 1 | sign for sign in (0, 1)])


def test_the_first_test_turns_at_the_same_word_in_every_strip():
    edges = np.concatenate([edge_words(strip) for strip in range(128)])
    # Behind each a word that is accepted at once when it opens a sample, and vanishes when the edge consumes it.
    words = np.stack([edges, np.full_like(edges, 100 << 8 | 21)], axis=1).astype(np.uint32).ravel()
    words = np.concatenate([words, Stream(5).words(2000)])
    assert_as_defined(words, scripted_stream(words), [edges.size])


def test_a_refusal_as_the_last_word_of_a_block_continues_in_the_next(monkeypatch):
    monkeypatch.setattr(MODULE, "BLOCK", 4)
    fast, slow, high = 100 << 8 | 21, 0xFFFFFF << 8 | 21, 2**32 - 1024
    words = np.array([fast, fast, fast, slow, high, slow, high, fast, fast, *Stream(1).words(60)], np.uint32)
    assert_as_defined(words, scripted_stream(words), [4, 3, 8])


def test_moments_and_symmetry():
    z = gaussian(Stream(9), 2_000_000, 0.0, 1.0).astype(np.float64)
    assert abs(z.mean()) < 0.003
    assert abs((z**2).mean() - 1) < 0.005
    assert abs((z**3).mean()) < 0.01
    assert abs((z**4).mean() - 3) < 0.03
    tail = (np.abs(z) > 3.4426198558966523).mean()  # twice the normal integral beyond the edge of strip 0
    assert abs(tail - 5.7615e-4) < 5e-5


def test_about_one_word_in_25_goes_to_second_looks():
    stream = Stream(7)
    gaussian(stream, 100_000, 0.0, 1.0)
    used = np.flatnonzero(Stream(7).words(110_000) == stream.word())[0]
    assert 103_500 < used < 104_500


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), 1e-60])
def test_std_must_be_positive_in_float32(std):
    with pytest.raises(InputError, match="std > 0"):
        gaussian(Stream(1), 3, 0.0, std)


def test_no_samples_consume_no_words():
    stream = Stream(1)
    assert gaussian(stream, 0, 0.0, 1.0).shape == (0,)
    assert stream.word() == Stream(1).word()
