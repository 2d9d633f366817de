"""What the value of a loss implies: the cap of Caffe's softmax loss, a uniform guess, a loss that stands still."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from .reader import Key, Pass

__all__ = ["CAP", "LossWatch", "Signature", "describe_constant", "multiple_of_cap"]

CAP = -math.log(float.fromhex("0x1p-126"))  # 87.3365: Caffe's losses take no logarithm below the smallest normal float

_PRINTED = 1e-5  # relative: six significant digits are printed
_NEAR = 5e-4  # of a constant loss to the logarithm that it may be
_STILL = 2e-3  # relative spread of a loss that stands still
_WINDOW = 8  # reports that a loss must stand still for
_UNMOVED = 0.95  # of the first loss: a loss that has converged is lower
_CLASSES = (*range(2, 401), 1000)  # above 400 the logarithms lie closer than a printed loss tells them apart
_BINARY = 100  # sigmoid losses that are added up, at most
_CONSTANT = "loss-constant"
_LOSSES = 100  # losses that share the cap, at most


@dataclass(frozen=True)
class Signature:
    """A loss whose value shows its cause; rule: "loss-nan", "loss-inf", "loss-cap" or "loss-constant"."""

    rule: str
    name: str
    value: float
    iteration: int | None
    line: int
    meaning: str


def multiple_of_cap(value: float) -> int:
    """Return how many losses at the cap add up to `value`; 0 when it is none of these sums."""
    count = round(value / CAP) if math.isfinite(value) else 0
    return count if 1 <= count <= _LOSSES and abs(value - count * CAP) <= _PRINTED * value else 0


def describe_constant(value: float) -> str:
    """Return which guess gives a loss of `value`, "" when none is known."""
    classes = min(_CLASSES, key=lambda count: abs(math.log(count) - value))
    if abs(math.log(classes) - value) < _NEAR:
        guess = "0.5 for every sample" if classes == 2 else f"the same for each of {classes} classes"
        return f"ln {classes} = {math.log(classes):.4f}: the net guesses {guess}"
    terms = round(value / math.log(2))
    if 2 <= terms <= _BINARY and abs(value / terms - math.log(2)) < _NEAR / terms:
        return f"{terms} · ln 2: the net guesses 0.5 for each of {terms} sigmoid outputs"
    return ""


_AT_CAP = (
    "the probability of the right class is below the smallest float for every sample: the logits have grown without "
    "bound or are not numbers; lower base_lr, and look at the fillers and at the range of the input"
)
_NOT_FINITE = "training has diverged; lower base_lr, or set clip_gradients"


class LossWatch:
    """Looks at the losses of the train net's passes as they come, and keeps the first of each rule by name.

    window: passes that a loss must stand still for
    """

    def __init__(self, window: int = _WINDOW) -> None:
        self._window = window
        self.found: dict[tuple[str, str], Signature] = {}
        self._first: dict[str, float] = {}
        self._recent: dict[str, deque[float]] = {}
        self._capped: dict[str, int] = {}
        self._is_told = False  # whether the log has lines of the solver about losses

    def add(self, one: Pass) -> None:
        """Look at the losses of a pass: those in lines of the solver, else blobs of that name."""
        told = list(_told_losses(one))
        self._is_told |= bool(told)
        for name, value in told or ([] if self._is_told else _loss_blobs(one)):
            rule, meaning = self._judge(name, value)
            if rule and (rule, name) not in self.found:
                self.found[rule, name] = Signature(rule, name, value, one.iteration, one.line, meaning)

    def signatures(self) -> list[Signature]:
        """Return what was found, in the order of the log; a loss that moved on afterwards does not stand still."""
        return [one for one in self.found.values() if one.rule != _CONSTANT or self._stands_still(one.name)]

    def _judge(self, name: str, value: float) -> tuple[str, str]:
        if not math.isfinite(value):
            return ("loss-nan" if math.isnan(value) else "loss-inf"), _NOT_FINITE
        if self._is_at_cap(name, value):
            count = multiple_of_cap(value)
            return "loss-cap", f"{'' if count == 1 else f'{count} · '}87.3365 = -ln(smallest float): {_AT_CAP}"
        self._first.setdefault(name, value)
        self._recent.setdefault(name, deque(maxlen=self._window)).append(value)
        if not self._stands_still(name):
            return "", ""
        meaning = describe_constant(value)
        if not meaning and value >= _UNMOVED * self._first[name]:
            meaning = "it has not changed since the beginning: the net does not learn"
        return (_CONSTANT, meaning) if meaning else ("", "")

    def _is_at_cap(self, name: str, value: float) -> bool:
        """Tell whether a loss is at the cap: at once for one loss, when it stays there for a sum of several."""
        count = multiple_of_cap(value)
        stays = count > 0 and self._capped.get(name) == count
        self._capped[name] = count
        return count == 1 or stays

    def _stands_still(self, name: str) -> bool:
        recent = self._recent.get(name, ())
        if len(recent) < self._window or min(recent) <= 0:
            return False
        return max(recent) - min(recent) <= _STILL * max(recent)


def _told_losses(one: Pass) -> Iterator[tuple[str, float]]:
    """Yield the losses by name: outputs with a weight, else the loss that the solver prints."""
    weighted = [(output.name, output.value) for output in one.outputs if output.weight]
    if weighted:
        yield from weighted
    elif one.loss is not None:
        yield "loss", one.loss


def _loss_blobs(one: Pass) -> Iterator[tuple[str, float]]:
    return ((key.blob, value) for key, value in one.values.items() if _is_loss(key))


def _is_loss(key: Key) -> bool:
    return key.direction == "forward" and key.role == "top" and "loss" in key.blob.lower()
