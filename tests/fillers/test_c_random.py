"""The C library's generator against numbers that glibc and libstdc++ gave."""

from __future__ import annotations

from caffestat.fillers import CRandom, Stream


def test_first_and_ten_thousandth_numbers() -> None:
    random = CRandom()
    numbers = [random.rand() for _ in range(10000)]
    assert numbers[:5] == [1804289383, 846930886, 1681692777, 1714636915, 1957747793]
    assert numbers[-1] == 1908609430


def test_shuffle_as_libstdcxx_does() -> None:
    assert CRandom().shuffled(range(7)) == [4, 3, 1, 6, 0, 5, 2]


def test_shuffle_leaves_its_input_alone() -> None:
    items = [3, 1, 2]
    CRandom().shuffled(items)
    assert items == [3, 1, 2]


def test_a_stream_keeps_one_generator() -> None:
    stream = Stream(1701)
    first = stream.c_random.rand()
    assert (first, stream.c_random.rand()) == (1804289383, 846930886)
    assert stream.word() == Stream(1701).word()
