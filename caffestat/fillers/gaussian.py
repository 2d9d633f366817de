"""Normal samples in float32 by Boost's ziggurat, bit for bit, a block of words at a time.

One word gives a strip, a sign and a position x in the strip; about 97 % of the words are accepted at once. A word that
is not ("slow") opens a second look, which consumes one more word whether it then accepts or refuses. Two rare cases
consume another number of words, and are walked one by one: the tail (strip 0), and a second word that rounds to 1.

So every word of a block is tested as if it opened a sample. Then it is settled which words really do: all, save those
that a slow word before them consumed.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from caffestat.errors import InputError
from caffestat.fillers.stream import BLOCK, Stream
from caffestat.fillers.ziggurat import exponential_strips, normal_strips, normal_table
from caffestat.float32 import rounded
from caffestat.lazy import np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["check_std", "gaussian"]

_ROUNDS_TO_ONE = 2**32 - 128  # from here on float32(u) is 2^32, which the unit uniform rejects
_TO_UNIT = 2.0**-32
_TO_UNIT_24 = 2.0**-24


def gaussian(stream: Stream, n: int, mean: float, std: float) -> NDArray[np.float32]:
    """`n` float32 values z * std + mean, z from the 128-strip ziggurat; about 1.04 words each, none kept between calls.

    Raises InputError unless std > 0. (caffe_rng_gaussian in math_functions.cpp, boost::normal_distribution)
    """
    check_std(std)
    out = np.empty(n, np.float32)
    done = 0
    while done < n:
        samples = _unit_normals(stream, min(n - done, BLOCK))
        part = out[done : done + samples.size]
        np.multiply(samples, np.float32(std), out=part)
        part += np.float32(mean)
        done += samples.size
    return out


def check_std(std: float) -> None:
    """Raise InputError unless std > 0 in float32."""
    if not rounded(std) > 0:
        raise InputError(f"a gaussian filler needs std > 0, found {std:g}")


class _FirstWord(NamedTuple):
    """What a first word means, indexed by its low 8 bits: strip * 2 + (1 when the sample is positive)."""

    scale: NDArray[np.float32]  # signed x of the strip's edge, per unit of the upper 24 bits
    slow_from: NDArray[np.uint32]  # the least word that is not accepted at once


@cache
def _first_word() -> _FirstWord:
    edge, edges = normal_strips().x[:-1], normal_table().x
    # The acceptance x < edges[i+1], in double, is monotonic in the upper 24 bits; it turns near the quotient.
    bits = np.floor(edges[1:] / edges[:-1] * 2.0**24)[:, None] + np.arange(-4, 5)
    refused = bits.astype(np.float32) * _TO_UNIT_24 * edge[:, None] >= edges[1:, None]
    turn = np.take_along_axis(bits, refused.argmax(axis=1)[:, None], axis=1)[:, 0]
    signed = np.stack([-edge, edge], axis=1).ravel() * _TO_UNIT_24
    return _FirstWord(signed, np.repeat(turn, 2).astype(np.uint32) << np.uint32(8))


def _unit_normals(stream: Stream, n: int) -> NDArray[np.float32]:
    """Return the samples that the next `n` words open, at most `n`; consume these words and those of slow paths."""
    words = stream.peek(n + 1)
    low_bits = (words[:n] & np.uint32(255)).astype(np.intp)
    x = (words[:n] >> np.uint32(8)).astype(np.float32)
    x *= _first_word().scale.take(low_bits)
    refused = words[:n] >= _first_word().slow_from.take(low_bits)

    slow = np.flatnonzero(refused)
    opens = _opening_words(slow, n)
    strip = low_bits[slow] >> 1
    irregular = (strip == 0) | (words[slow + 1] >= _ROUNDS_TO_ONE)
    end = _settle_irregular(stream, slow[irregular], opens, x, refused)

    regular = ~irregular & opens[slow]
    at = slow[regular]
    refused[at] = ~_under_curve(np.abs(x[at]), strip[regular], words[at + 1])
    stream.advance(max(end, n + 1 - int(opens[n])))
    return x[opens[:n] & ~refused]


def _opening_words(slow: NDArray[np.intp], n: int) -> NDArray[np.bool_]:
    """Return which of `n` words (and the few after them) open a sample; each slow word that does consumes one more.

    Within a run of neighbouring slow words the first opens, the second is consumed, and so on in turn.
    """
    opens = np.ones(n + 2, np.bool_)
    index = np.arange(slow.size)
    run_start = np.diff(slow, prepend=-2) != 1
    place_in_run = index - np.maximum.accumulate(np.where(run_start, index, 0))
    opens[slow[place_in_run % 2 == 0] + 1] = False
    return opens


def _settle_irregular(
    stream: Stream,
    places: NDArray[np.intp],
    opens: NDArray[np.bool_],
    x: NDArray[np.float32],
    refused: NDArray[np.bool_],
) -> int:
    """Walk the slow words at `places` in order, correcting `opens`, `x` and `refused`; returns the end of the last."""
    end = 0
    for place in places.tolist():
        if opens[place]:
            ahead = _Ahead(stream, place)
            value = _irregular_normal(ahead)
            end = ahead.position
            opens[place + 1 : end] = False
            _alternate(opens, refused, end)
            if value is not None:
                x[place], refused[place] = value, False
    return end


def _alternate(opens: NDArray[np.bool_], refused: NDArray[np.bool_], place: int) -> None:
    """Settle which words open a sample from `place`, which does, to the end of its run of slow words."""
    while place < opens.size:
        opens[place] = True
        if place >= refused.size or not refused[place]:
            return
        opens[place + 1] = False
        place += 2


def _under_curve(x: Any, strip: Any, word: Any) -> Any:
    """Tell whether the point at `x`, as high in `strip` as `word` says, lies under exp(-x^2 / 2); arrays or scalars.

    Chord and tangent bound the curve, from above and below where it is convex (x > 1), else the other way round.
    """
    edges = normal_strips()
    y01 = word.astype(np.float32) * _TO_UNIT
    y = edges.y[strip] + y01 * edges.height[strip]
    gap = edges.x[strip] - x
    chord = edges.width[strip] * y01 - gap
    tangent = y - (edges.y[strip] + gap * edges.y[strip] * edges.x[strip])
    convex = normal_table().x[strip] >= 1
    above_upper = np.where(convex, chord, tangent)
    above_lower = np.where(convex, tangent, chord)
    return (above_upper < 0) & ((above_lower < 0) | (y < _exp(-(x * x / np.float32(2)))))


def _exp(x: Any) -> Any:
    """exp rounded once to float32; float32 implementations of exp differ in the last bit."""
    return np.exp(x.astype(np.float64)).astype(np.float32)


class _Ahead:
    """Reads a stream's words one by one, without consuming them."""

    def __init__(self, stream: Stream, position: int) -> None:
        self._stream = stream
        self.position = position

    def word(self) -> np.uint32:
        self.position += 1
        return np.uint32(self._stream.peek(self.position)[-1])

    def second_word(self) -> np.uint32:
        """Return the next word that does not round to 1 in the unit uniform."""
        while (word := self.word()) >= _ROUNDS_TO_ONE:
            pass
        return word


def _irregular_normal(ahead: _Ahead) -> np.float32 | None:
    """Return the normal sample that the slow word at `ahead` opens, or None when it is refused."""
    word = ahead.word()
    strip, sign = int(word & 0xFE) >> 1, np.float32(1 if word & 1 else -1)
    if strip == 0:
        return _tail(ahead) * sign
    x = _upper_bits(word) * normal_strips().x[strip]
    return x * sign if _under_curve(x, strip, ahead.second_word()) else None


def _upper_bits(word: np.uint32) -> np.float32:
    return np.float32(word >> np.uint32(8)) * _TO_UNIT_24


def _tail(ahead: _Ahead) -> np.float32:
    """Return a normal sample beyond the edge R of the tail, by Marsaglia's method from two exponential ones."""
    edge = normal_strips().x[1]
    while True:
        x = _exponential(ahead) / edge
        if np.float32(2) * _exponential(ahead) > x * x:
            return np.float32(x + edge)


def _exponential(ahead: _Ahead) -> np.float32:
    """Return a unit exponential sample by the 256-strip ziggurat; the tail beyond R is R plus another sample."""
    edges = exponential_strips()
    shift = np.float32(0)
    while True:
        word = ahead.word()
        strip = int(word & 0xFF)
        x = _upper_bits(word) * edges.x[strip]
        if x < edges.x[strip + 1]:
            return np.float32(shift + x)
        if strip == 0:
            shift += edges.x[1]
        elif _under_exponential(x, strip, ahead.second_word()):
            return np.float32(x + shift)


def _under_exponential(x: np.float32, strip: int, word: np.uint32) -> bool:
    edges = exponential_strips()
    y01 = np.float32(word) * _TO_UNIT
    y = edges.y[strip] + y01 * edges.height[strip]
    above_chord = edges.width[strip] * y01 - (edges.x[strip] - x)
    above_tangent = y - (edges.y[strip + 1] + (edges.x[strip + 1] - x) * edges.y[strip + 1])
    return bool(above_chord < 0 and (above_tangent < 0 or y < _exp(-x)))
