"""Learning rates of every policy against the formulas, iteration by iteration."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.schema import SolverParameter
from caffestat.training import POLICIES, Schedule


def rates(count: int, **fields) -> list[float]:
    schedule = Schedule(SolverParameter(base_lr=0.5, **fields))
    return [float(schedule.rate(iteration)) for iteration in range(count)]


FORMULAS = {
    "fixed": ({}, lambda t: 0.5),
    "step": ({"gamma": 0.3, "stepsize": 3}, lambda t: 0.5 * 0.3 ** (t // 3)),
    "exp": ({"gamma": 0.9}, lambda t: 0.5 * 0.9**t),
    "inv": ({"gamma": 0.2, "power": 0.75}, lambda t: 0.5 * (1 + 0.2 * t) ** -0.75),
    "multistep": ({"gamma": 0.3, "stepvalue": [2, 5]}, lambda t: 0.5 * 0.3 ** ((t >= 2) + (t >= 5))),
    "plateau": ({"gamma": 0.3}, lambda t: 0.5),
    "poly": ({"power": 1.5, "max_iter": 11}, lambda t: 0.5 * (1 - t / 11) ** 1.5),
    "sigmoid": ({"gamma": 0.4, "stepsize": 6}, lambda t: 0.5 / (1 + math.exp(-0.4 * (t - 6)))),
}


@pytest.mark.parametrize("name", POLICIES)
def test_formulas(name: str) -> None:
    fields, formula = FORMULAS[name]
    assert rates(9, lr_policy=name, **fields) == pytest.approx([formula(t) for t in range(9)], rel=3e-7)
    assert set(POLICIES[name].needs) == set(fields)


def test_multistep_goes_one_step_on_at_a_time() -> None:
    """Two stepvalues that are due at once take two iterations; a value that is lower than the one before waits."""
    found = rates(5, lr_policy="multistep", gamma=0.1, stepvalue=[0, 0, 3])
    assert found == pytest.approx([0.05, 0.005, 0.005, 0.0005, 0.0005])
    schedule = Schedule(SolverParameter(base_lr=1, lr_policy="multistep", gamma=0.1, stepvalue=[2, 1]))
    steps = []
    for iteration in range(5):
        steps.append(schedule.advances(iteration))
        schedule.rate(iteration)
    assert steps == [False, False, True, True, False]
    assert schedule.current_step == 2


@pytest.mark.parametrize("policy", ["fixed", "exp"])
def test_no_other_policy_looks_at_stepvalues(policy: str) -> None:
    """The current step, which snapshots hold, stays 0. (sgd_solver.cpp, GetLearningRate)"""
    schedule = Schedule(SolverParameter(base_lr=1, lr_policy=policy, gamma=0.5, stepvalue=[0, 1]))
    for iteration in range(3):
        assert not schedule.advances(iteration)
        schedule.rate(iteration)
    assert schedule.current_step == 0


def test_current_step_goes_on_after_a_restore() -> None:
    schedule = Schedule(SolverParameter(base_lr=1, lr_policy="multistep", gamma=0.5, stepvalue=[2, 4, 6]))
    schedule.current_step = 2
    assert float(schedule.rate(5)) == 0.25
    stepped = Schedule(SolverParameter(base_lr=1, lr_policy="step", gamma=0.5, stepsize=4))
    assert (float(stepped.rate(9)), stepped.current_step) == (0.25, 2)


def test_rates_are_rounded_as_caffe_rounds() -> None:
    (rate,) = rates(1, lr_policy="fixed")
    assert rate == np.float32(0.5)
    assert rates(2, lr_policy="exp", gamma=1.5)[1] == float(np.float32(0.5 * 1.5))
    assert math.isnan(rates(3, lr_policy="poly", power=0.5, max_iter=1)[2])


def test_plateau_goes_on_when_the_loss_has_not_fallen_for_a_window() -> None:
    """weiliu89/caffe, sgd_solver.cpp: the second window begins where the first one ended."""
    schedule = Schedule(SolverParameter(base_lr=1, lr_policy="plateau", gamma=0.5, display=1), [2, 3])
    found, news = [], []
    for iteration, loss in enumerate([5, 4, 4, 4, 6, 7, 4, 3, 9]):
        schedule.observe(iteration, loss)
        found.append(float(schedule.rate(iteration)))
        news.append(schedule.has_news(iteration))
    assert found == [1, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25]
    assert news == [True, True, False, True, False, False, True, True, False]
    assert (schedule.least_loss, schedule.last_event, schedule.current_step) == (3, 7, 2)
