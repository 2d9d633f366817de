"""The update of all params: clip, average, decay, solver rule, subtract. (sgd_solver.cpp, ApplyUpdate)"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from caffestat.cores import core_count
from caffestat.engine.axpby import fuses
from caffestat.net import Net
from caffestat.net.aliasing import adds_up

from .events import Clip
from .solvers import BLOCK, Scratch, fma, rule_of, scale
from .statistics import Sizes

__all__ = ["Applied", "Learnable", "Update", "learnable", "mean_abs", "sum_squares"]

_THREADS = min(core_count(), 4)
_CHUNK = 1 << 16  # elements that sums are taken of at a time
_LARGE = 1 << 18  # elements from which on several threads share the work


class Learnable(NamedTuple):
    """A param that a solver updates: its number, shape and multipliers.

    is_statistic  whether passes change it, and no gradient does
    adds_up       whether the gradients of an iteration's passes add up; else the last one counts
    """

    number: int
    shape: tuple[int, ...]
    lr_mult: float = 1.0
    decay_mult: float = 1.0
    is_statistic: bool = False
    adds_up: bool = True


def learnable(net: Net) -> list[Learnable]:
    """Return the params that a solver updates, by index in `net.params`: the owners, statistics included."""
    uses = [(node, index) for node in net.nodes for index in range(len(node.params)) if node.need_backward]
    written_over = {net.owner(node.params[index]) for node, index in uses if not adds_up(node, index)}
    return [
        Learnable(
            number,
            param.param.shape,
            param.lr_mult,
            param.decay_mult,
            param.param.is_statistic,
            number not in written_over,
        )
        for number, param in enumerate(net.params)
        if param.owner is None
    ]


@dataclass(frozen=True)
class Applied:
    """What is known of an update: how the gradients were scaled down, and, where asked for, the sizes."""

    clip: Clip | None
    sizes: Sizes


@dataclass(frozen=True)
class _Plan:
    """What is the same for all elements of one param in one iteration."""

    values: np.ndarray
    diff: np.ndarray
    history: Sequence[np.ndarray]
    rate: np.float32
    decay: np.float32

    def blocks(self) -> Iterator[tuple[_Plan, slice]]:
        for start in range(0, self.diff.size, BLOCK):
            yield self, slice(start, start + BLOCK)


class Update:
    """The solver's rule, and the history of every learnable param, on the host.

    params:  the learnable ones
    history: a set of one array per learnable param in the order of the net, a second set behind it where the rule
    keeps two.
    last: what was subtracted last, by param
    """

    def __init__(self, message: Any, params: Sequence[Learnable]) -> None:
        self.rule = rule_of(message)
        self._message = message
        self.params = params
        self.numbers = [param.number for param in params]
        self.history = [np.zeros(param.shape, np.float32) for _ in range(self.rule.histories) for param in params]
        self.last: Mapping[int, np.ndarray] = {}
        self._scratch = threading.local()
        self._pool: ThreadPoolExecutor | None = None
        self._fused = False

    def gradients(self, number: int) -> None:
        """Return where the gradients of an iteration's pass of this number go: into arrays of the pass's own."""

    def add(self, before: Mapping[int, np.ndarray], fresh: Mapping[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Return the gradients that an iteration has added up to, after those of one pass more."""
        replaced = {param.number for param in self.params if not param.adds_up}
        added = {n for n in fresh if n in before and n not in replaced}
        # numpy makes a number of a sum without axes
        return {**before, **fresh} | {n: np.asarray(before[n] + fresh[n]) for n in added}

    def apply(
        self,
        values: Sequence[np.ndarray],
        diffs: Mapping[int, np.ndarray],
        rate: np.float32,
        iteration: int,
        measure: bool = False,
    ) -> Applied:
        """Change the params, `diffs` (which then hold the update) and the history in place.

        diffs: the gradients by param, added up over iter_size passes; an absent one is zero
        """
        clip = self._clip(diffs)
        self.last = {n: diffs[n] if n in diffs else np.zeros_like(values[n]) for n in self.numbers}
        plans = list(self._plans(values, self.last, rate, iteration))
        self._run_all(plans, list(self._scales(clip)))
        sizes = {n: (mean_abs(diff), mean_abs(values[n])) for n, diff in self.last.items()} if measure else {}
        return Applied(clip, sizes)

    def _clip(self, diffs: Mapping[int, np.ndarray]) -> Clip | None:
        """Return how the gradients are to be scaled down, None when they are not."""
        limit = np.float32(self._message.clip_gradients)
        if limit < 0:
            return None
        norm = norm_of(diffs.get(number) for number in self.numbers)
        return Clip(float(norm), float(limit)) if norm > limit else None

    def _run_all(self, plans: Sequence[_Plan], scales: Sequence[np.float32]) -> None:
        blocks = [block for plan in plans for block in plan.blocks()]
        is_large = sum(plan.diff.size for plan in plans) >= _LARGE
        self._fused = is_large and fuses()
        if not is_large or _THREADS == 1:
            self._run(blocks, scales)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(_THREADS)
        shares = [blocks[len(blocks) * n // _THREADS : len(blocks) * (n + 1) // _THREADS] for n in range(_THREADS)]
        for done in [self._pool.submit(self._run, share, scales) for share in shares]:
            done.result()

    def _plans(
        self,
        values: Sequence[np.ndarray],
        diffs: Mapping[int, np.ndarray],
        rate: np.float32,
        iteration: int,
    ) -> Iterator[_Plan]:
        count, decay = len(self.numbers), np.float32(self._message.weight_decay)
        for index, param in enumerate(self.params):
            own = self.rule.factor(np.float32(rate * np.float32(param.lr_mult)), iteration)
            yield _Plan(
                values[param.number].reshape(-1),
                diffs[param.number].reshape(-1),
                [array.reshape(-1) for array in self.history[index::count]],
                own,
                np.float32(decay * np.float32(param.decay_mult)),
            )

    def _scales(self, clip: Clip | None) -> Iterator[np.float32]:
        """Yield what the gradients are multiplied by, one after the other: to clip them and to average them."""
        if clip:
            yield np.float32(clip.limit) / np.float32(clip.norm)
        if self._message.iter_size != 1:
            yield np.float32(1) / np.float32(self._message.iter_size)

    def _run(self, blocks: Sequence[tuple[_Plan, slice]], scales: Sequence[np.float32]) -> None:
        scratch = getattr(self._scratch, "arrays", None)
        if scratch is None:
            scratch = self._scratch.arrays = Scratch(self._fused)
        with np.errstate(all="ignore"):
            for plan, block in blocks:
                self._update(plan, block, scales, scratch)

    def _update(self, plan: _Plan, block: slice, scales: Sequence[np.float32], scratch: Scratch) -> None:
        values, g = plan.values[block], plan.diff[block]
        for factor in scales:
            scale(g, factor)
        if plan.decay:
            fma(plan.decay, self._decayed(values, scratch), g, scratch)
        self.rule.update(g, [array[block] for array in plan.history], plan.rate, scratch)
        np.subtract(values, g, out=values)

    def _decayed(self, values: np.ndarray, scratch: Scratch) -> np.ndarray:
        """Return what weight decay pulls along: the values, for L1 their signs, 0 for NaN. (math_functions.hpp)"""
        if self._message.regularization_type == "L2":
            return values
        signs = scratch.narrow(values.size)
        np.sign(values, out=signs)
        return np.nan_to_num(signs, copy=False)


def mean_abs(array: np.ndarray) -> float:
    """Return mean |x|, 0 of no elements, chunk by chunk so that no large temporary is made."""
    flat = array.reshape(-1)
    sums = (float(np.abs(flat[start : start + _CHUNK]).sum()) for start in range(0, flat.size, _CHUNK))
    return math.fsum(sums) / max(flat.size, 1)


def norm_of(diffs: Any) -> np.float32:
    """Return the L2 norm of all gradients together, in Caffe's range: sums beyond float32 are infinite."""
    with np.errstate(all="ignore"):
        return np.float32(np.sqrt(np.float32(math.fsum(sum_squares(diff) for diff in diffs if diff is not None))))


def sum_squares(array: np.ndarray) -> float:
    """Return sum x², chunk by chunk so that no large temporary is made."""
    flat, total = array.reshape(-1), 0.0
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        total += float(np.dot(chunk, chunk))
    return total
