"""The order in which std::sort of GNU's C++ library leaves equal values, which is not the one they came in."""

from __future__ import annotations

from caffestat.lazy import np

__all__ = ["descending"]

SHORT = 16  # values that are sorted by insertion, which leaves equal ones in order


def descending(values: np.ndarray) -> np.ndarray:
    """Return the indices of values [N] in descending order, equal ones as std::sort leaves them. (bits/stl_algo.h)

    Of std::sort the part is left out that sorts by a heap where its cuts are bad again and again.
    """
    order = np.argsort(-values, kind="stable")
    ranked = values[order]
    if len(values) <= SHORT or (ranked[1:] != ranked[:-1]).all():
        return order
    moved = np.array(_parted((-values).tolist()))
    return moved[np.argsort(-values[moved], kind="stable")]


def _parted(keys: list[float]) -> list[int]:
    """Return the indices of keys, cut into stretches of at most SHORT, each of which is not above the next one."""
    items = list(range(len(keys)))
    stretches = [(0, len(items))]
    while stretches:
        first, last = stretches.pop()
        if last - first > SHORT:
            _put_median_first(items, keys, first, last)
            cut = _cut(items, keys, first, last)
            stretches += [(first, cut), (cut, last)]
    return items


def _put_median_first(items: list[int], keys: list[float], first: int, last: int) -> None:
    """Exchange the first item for the median of the second, the middle and the last one."""
    places = (first + 1, first + (last - first) // 2, last - 1)
    low, middle, high = (keys[items[place]] for place in places)
    if low < middle:
        chosen = 1 if middle < high else 2 if low < high else 0
    else:
        chosen = 0 if low < high else 2 if middle < high else 1
    other = places[chosen]
    items[first], items[other] = items[other], items[first]


def _cut(items: list[int], keys: list[float], first: int, last: int) -> int:
    """Exchange items that lie on the wrong side of the first one's key, and return where the upper side begins."""
    pivot = keys[items[first]]
    first += 1
    while True:
        while keys[items[first]] < pivot:
            first += 1
        last -= 1
        while pivot < keys[items[last]]:
            last -= 1
        if first >= last:
            return first
        items[first], items[last] = items[last], items[first]
        first += 1
