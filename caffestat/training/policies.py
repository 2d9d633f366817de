"""Caffe's learning-rate policies: the rate of each iteration. One function per policy, registered by its name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["POLICIES", "Policy", "Schedule"]

Rate = Callable[[Any, int, int], Any]
_F = np.float32


@dataclass(frozen=True)
class Policy:
    """A policy: which solver fields it looks at, and its rate from (message, iteration, current step)."""

    needs: tuple[str, ...]
    rate: Rate


POLICIES: dict[str, Policy] = {}
"""The policies by the name that `lr_policy` gives."""


def policy(name: str, *needs: str) -> Callable[[Rate], Rate]:
    """Register a policy and the fields that it looks at beside base_lr."""

    def register(rate: Rate) -> Rate:
        POLICIES[name] = Policy(needs, rate)
        return rate

    return register


class Schedule:
    """The learning rate over the iterations of one solver, and the step that it has reached.

    windows: plateau_winsize of SSD's Caffe, after how many iterations without a lower loss `plateau` goes one step on
    least_loss, last_event: what that policy has seen: the lowest loss, and when that or the step last changed
    Source: sgd_solver.cpp, GetLearningRate; weiliu89/caffe, the same file.
    """

    def __init__(self, message: Any, windows: Sequence[int] = ()) -> None:
        self.current_step = 0
        self.least_loss, self.last_event = float(np.finfo(_F).max), 0
        self._message, self._windows = message, windows
        self._policy = POLICIES[message.lr_policy]

    def needs(self, field: str) -> bool:
        """Tell whether the policy looks at a field of the solver."""
        return field in self._policy.needs

    def observe(self, iteration: int, loss: float) -> None:
        """Take the loss of an iteration, averaged as it is displayed, before its rate is asked for."""
        if self._message.lr_policy == "plateau" and loss < self.least_loss:
            self.least_loss, self.last_event = loss, iteration

    def rate(self, iteration: int) -> np.float32:
        """Return the rate of an iteration; iterations are asked for in order, and advance one step at most."""
        message = self._message
        if message.lr_policy == "step":
            self.current_step = iteration // message.stepsize
        elif self.advances(iteration):
            self.current_step += 1
            self.last_event = iteration
        with np.errstate(all="ignore"):
            return _F(self._policy.rate(message, iteration, self.current_step))

    def advances(self, iteration: int) -> bool:
        """Tell whether `multistep` or `plateau` goes one step on at this iteration, which Caffe logs."""
        values = {"multistep": self._message.stepvalue, "plateau": self._windows}.get(self._message.lr_policy, ())
        since = self.last_event if self._message.lr_policy == "plateau" else 0
        return self.current_step < len(values) and iteration >= since + values[self.current_step]

    def has_news(self, iteration: int) -> bool:
        """Tell whether `plateau` has seen anything since the last displayed iteration."""
        return self._message.lr_policy == "plateau" and self.last_event > iteration - self._message.display


@policy("fixed")
def fixed(m: Any, iteration: int, step: int) -> Any:
    """base_lr"""
    return m.base_lr


@policy("plateau", "gamma")
@policy("multistep", "gamma", "stepvalue")
@policy("step", "gamma", "stepsize")
def stepped(m: Any, iteration: int, step: int) -> Any:
    """base_lr * gamma^step"""
    return np.float64(m.base_lr) * np.float64(m.gamma) ** step


@policy("exp", "gamma")
def exp(m: Any, iteration: int, step: int) -> Any:
    """base_lr * gamma^iteration"""
    return np.float64(m.base_lr) * np.float64(m.gamma) ** iteration


@policy("inv", "gamma", "power")
def inv(m: Any, iteration: int, step: int) -> Any:
    """base_lr * (1 + gamma * iteration)^-power"""
    return _F(m.base_lr) * _power(_F(1) + _F(m.gamma) * _F(iteration), -m.power)


@policy("poly", "power", "max_iter")
def poly(m: Any, iteration: int, step: int) -> Any:
    """base_lr * (1 - iteration / max_iter)^power"""
    return _F(m.base_lr) * _power(_F(1) - _F(iteration) / _F(m.max_iter), m.power)


@policy("sigmoid", "gamma", "stepsize")
def sigmoid(m: Any, iteration: int, step: int) -> Any:
    """base_lr / (1 + exp(-gamma * (iteration - stepsize)))"""
    exponent = -_F(m.gamma) * (_F(iteration) - _F(m.stepsize))
    return _F(m.base_lr) * (_F(1) / (_F(1) + _F(np.exp(np.float64(exponent)))))


def _power(base: Any, exponent: float) -> Any:
    """Return base^exponent, computed in double precision and rounded once."""
    return _F(np.float64(base) ** np.float64(exponent))
