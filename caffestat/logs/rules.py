"""Rules over the passes of a training run, as they come: one class per rule, used by `train --watch` and `diagnose`.

They look at what no single pass shows, or at signals that only a run records. What one pass shows (a number that is not
finite, a signal that exploded or vanished, a loss at a characteristic value) is found by `Diagnoser` and `LossWatch`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from .reader import Key, Pass

__all__ = ["RULES", "Alert", "Rule", "is_signal", "rule"]


@dataclass(frozen=True)
class Alert:
    """A rule that fired: its name, where in the run, what it is about, and why."""

    rule: str
    iteration: int | None
    subject: str
    message: str

    def __str__(self) -> str:
        when = "" if self.iteration is None else f" at iteration {self.iteration}"
        return f"{self.rule}{when}: {self.subject} {self.message}"


class Rule:
    """Looks at each pass; subclasses yield (subject, message), of which each subject fires once."""

    name: ClassVar[str]

    def __init__(self) -> None:
        self._told: set[str] = set()

    def alerts(self, one: Pass) -> Iterator[Alert]:
        """Yield what is new in this pass."""
        for subject, message in self.look(one):
            if subject not in self._told:
                self._told.add(subject)
                yield Alert(self.name, one.iteration, subject, message)

    def look(self, one: Pass) -> Iterator[tuple[str, str]]:
        """Yield what is wrong in this pass."""
        raise NotImplementedError


RULES: dict[str, type[Rule]] = {}
"""The classes by name."""


def rule(name: str) -> Callable[[type[Rule]], type[Rule]]:
    """Register a rule."""

    def register(cls: type[Rule]) -> type[Rule]:
        cls.name = name
        RULES[name] = cls
        return cls

    return register


def is_signal(key: Key) -> bool:
    """Tell whether a blob, by its name, is an activation, and not a loss, an accuracy or a label."""
    return not any(word in key.blob.lower() for word in ("loss", "acc", "label"))


def _is_weight(key: Key) -> bool:
    return key.role == "param" and key.blob == "0"


def _train_loss(one: Pass) -> float | None:
    """Return the loss of a pass: the weighted outputs, else the loss that the solver prints."""
    weighted = [output.value * output.weight for output in one.outputs if output.weight]
    return sum(weighted) if weighted else one.loss


@rule("dead-relu")
class DeadRelu(Rule):
    """Nearly all outputs of a ReLU are zero or, in a log, it stops nearly all of the gradient."""

    SHARE = 0.98

    def look(self, one: Pass) -> Iterator[tuple[str, str]]:
        for key, value in one.signals.items():
            if key.direction == "zeros" and value > self.SHARE:
                yield key.layer, f"is dead: {value:.1%} of its outputs are zero"
            elif key.direction == "open" and value < 1 - self.SHARE:
                yield key.layer, f"is dead: only {value:.1%} of the gradient passes through it"


@rule("saturated")
class Saturated(Rule):
    """Most units of a sigmoid or tanh lie where the slope is below a twentieth of the largest.

    A log shows the mean slope that the gradient meets. SLOPE of that at 0 is what normal inputs have of which SHARE lie
    so far out.
    """

    SHARE, SLOPE = 0.8, 0.094

    def look(self, one: Pass) -> Iterator[tuple[str, str]]:
        for key, value in one.signals.items():
            if key.direction == "saturated" and value > self.SHARE:
                yield key.layer, f"is saturated: {value:.1%} of its units have a slope near 0"
            elif key.direction == "slope" and value < self.SLOPE:
                yield key.layer, f"is saturated: the gradient meets {value:.1%} of its slope at 0"


@rule("update-ratio")
class UpdateRatio(Rule):
    """The ratio of update to weights of a layer is repeatedly outside of 1e-5 to 1e-1.

    Of most logs only the step of one gradient is known: momentum makes it up to MOMENTUM times as large.
    """

    LEAST, MOST, TIMES, MOMENTUM = 1e-5, 1e-1, 5, 10
    LEASTS: ClassVar = {"update_ratio": LEAST, "step_ratio": LEAST / MOMENTUM, "step_bound": 0.0}

    def __init__(self) -> None:
        super().__init__()
        self._outside: dict[str, int] = {}

    def look(self, one: Pass) -> Iterator[tuple[str, str]]:
        for key, value in one.signals.items():
            if key.direction not in self.LEASTS or not _is_weight(key):
                continue
            least = self.LEASTS[key.direction]
            is_outside = not least <= value <= self.MOST  # so is a run's that has diverged
            self._outside[key.layer] = self._outside.get(key.layer, 0) + 1 if is_outside else 0
            if self._outside[key.layer] >= self.TIMES:
                what = "too small: it hardly learns" if value < least else "too large: lower base_lr or its lr_mult"
                how = "is updated by" if key.direction == "update_ratio" else "takes steps of"
                yield key.layer, f"{how} {value:.2g} of its weights' size, {what}"


@rule("still-weights")
class StillWeights(Rule):
    """Weights whose gradient and values stay the same pass after pass: they never learn."""

    TIMES = 20

    def __init__(self) -> None:
        super().__init__()
        self._last: dict[str, tuple[float, int]] = {}

    def look(self, one: Pass) -> Iterator[tuple[str, str]]:
        if one.test_net is not None:
            return
        diffs = {k.layer: v for k, v in one.values.items() if k.direction == "backward" and _is_weight(k)}
        params = [item for item in one.values.items() if item[0].direction == "forward" and item[0].role == "param"]
        weights = {key.layer: (key, value) for key, value in reversed(params)}  # the first param of each layer
        for key, value in weights.values():
            if diffs.get(key.layer) == 0:
                before, count = self._last.get(key.layer, (math.nan, 0))
                self._last[key.layer] = value, count + 1 if value == before else 0
                if self._last[key.layer][1] >= self.TIMES:
                    yield key.layer, f"has not changed for {self.TIMES} passes: its gradient is 0"


@rule("loss-not-decreasing")
class LossNotDecreasing(Rule):
    """The train loss of the last quarter is no lower than that of the first."""

    LEAST, FALL, LOW = 200, 0.98, 0.05

    def __init__(self) -> None:
        super().__init__()
        self._losses: list[float] = []

    def look(self, one: Pass) -> Iterator[tuple[str, str]]:
        loss = _train_loss(one)
        if one.test_net is not None or loss is None or not math.isfinite(loss):
            return
        self._losses.append(loss)
        count = len(self._losses)
        if count < self.LEAST or count % self.LEAST:
            return
        quarter = count // 4
        first, last = (sum(part) / quarter for part in (self._losses[:quarter], self._losses[-quarter:]))
        if last > self.FALL * first and last > self.LOW:
            yield (
                "the loss",
                f"does not fall: {first:.4g} in the first quarter of {count} iterations, {last:.4g} in the last",
            )


@rule("uniform-guess")
class UniformGuess(Rule):
    """The train loss stays around ln K, with the noise of batches but no trend: the net guesses."""

    REPORTS, SPAN = 20, 100  # how many, and over how many iterations at least
    NEAR, SPREAD, CLASSES = 0.003, 0.04, (*range(2, 21), 100, 1000)

    def __init__(self) -> None:
        super().__init__()
        self._recent: deque[tuple[int, float]] = deque()

    def look(self, one: Pass) -> Iterator[tuple[str, str]]:
        loss = _train_loss(one)
        if one.test_net is not None or one.iteration is None or loss is None or not math.isfinite(loss):
            return
        self._recent.append((one.iteration, loss))
        while len(self._recent) > self.REPORTS and one.iteration - self._recent[1][0] >= self.SPAN:
            self._recent.popleft()
        if len(self._recent) < self.REPORTS or one.iteration - self._recent[0][0] < self.SPAN:
            return
        losses = [value for _, value in self._recent]
        mean, half = sum(losses) / len(losses), len(losses) // 2
        classes = min(self.CLASSES, key=lambda count: abs(math.log(count) - mean))
        limit = self.NEAR * mean
        halves = (sum(part) / len(part) for part in (losses[:half], losses[half:]))
        is_near = all(abs(value - math.log(classes)) <= limit for value in halves)
        if is_near and max(losses) - min(losses) <= self.SPREAD * mean:
            value = f"ln {classes} = {math.log(classes):.4f}"
            yield (
                "the loss",
                f"has stayed at {value} for {self.SPAN} iterations or more: a guess among {classes} classes",
            )


@rule("overfitting")
class Overfitting(Rule):
    """The test loss rises, test after test, while the train loss falls."""

    TIMES, RISE = 4, 1.02

    def __init__(self) -> None:
        super().__init__()
        self._recent: deque[float] = deque(maxlen=50)
        self._tests: dict[int, deque[tuple[float, float]]] = {}

    def look(self, one: Pass) -> Iterator[tuple[str, str]]:
        loss = _train_loss(one)
        if loss is None or not math.isfinite(loss):
            return
        if one.test_net is None:
            self._recent.append(loss)
            return
        if not self._recent:
            return
        tests = self._tests.setdefault(one.test_net, deque(maxlen=self.TIMES))
        tests.append((loss, sum(self._recent) / len(self._recent)))
        test, train = zip(*tests, strict=True)
        rises = all(later > self.RISE * earlier for earlier, later in pairwise(test))
        if len(tests) == self.TIMES and rises and train[-1] < train[0]:
            yield (
                f"test net {one.test_net}",
                f"gets worse from test to test ({test[0]:.4g} to {test[-1]:.4g}) while the train loss falls "
                f"({train[0]:.4g} to {train[-1]:.4g})",
            )


@rule("poor-initialisation")
class PoorInitialisation(Rule):
    """At the first pass, amplitudes differ by orders of magnitude from the data's, or gradients from each other."""

    SIGNAL, GRADIENT = 1e3, 1e-4

    def __init__(self) -> None:
        super().__init__()
        self._is_over = False

    def look(self, one: Pass) -> Iterator[tuple[str, str]]:
        if self._is_over or one.test_net is not None or not one.values:
            return
        self._is_over = True
        if one.iteration not in (0, None):
            return
        tops = [(k, v) for k, v in one.values.items() if k.direction == "forward" and k.role == "top" and is_signal(k)]
        data = tops[0][1] if tops else 0.0
        for key, value in tops[1:]:
            if data > 0 and 0 < value < math.inf and not 1 / self.SIGNAL < value / data < self.SIGNAL:
                yield "the initialisation", f"takes |x| from {data:.3g} in the data to {value:.3g} at layer {key.layer}"
                break
        diffs = {k: v for k, v in one.values.items() if k.direction == "backward" and _is_weight(k) and v > 0}
        if diffs and min(diffs.values()) < self.GRADIENT * max(diffs.values()):
            key = min(diffs, key=lambda k: diffs[k])
            share = diffs[key] / max(diffs.values())
            yield "the gradient", f"of layer {key.layer}'s weights is {share:.1g} of the largest at the start"
