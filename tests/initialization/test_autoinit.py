"""Solved stds: the predicted and the measured second moment behind every layer is the wanted one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.initialization import Unsolved, solve
from caffestat.program import Program

from .nets import ENDING, conv, program_of, residual, stack, variances, weights


def drawn(program: Program, found: dict[int, float | Unsolved], seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    values = [
        np.full(p.shape, p.filler.value if p.filler and p.role == "bias" else 0, np.float32) for p in program.params
    ]
    for number, std in found.items():
        assert isinstance(std, float), std
        values[number] = (std * random.standard_normal(values[number].shape)).astype(np.float32)
    return values


@pytest.mark.parametrize(
    "text",
    [stack("ReLU"), stack("TanH"), stack("Sigmoid"), stack("ELU"), residual()],
    ids=["relu", "tanh", "sigmoid", "elu", "res"],
)
@pytest.mark.parametrize("target", [1.0, 0.25])
def test_measured_second_moments_are_the_target(text: str, target: float) -> None:
    program = program_of(text)
    found = solve(program, weights(program), target)
    draws = [variances(program, drawn(program, found, seed), seed) for seed in range(12)]
    for name in draws[0]:
        measured = np.mean([draw[name][1] for draw in draws])
        assert measured == pytest.approx(target, rel=0.25), name
    assert np.mean([value[1] for draw in draws for value in draw.values()]) == pytest.approx(target, rel=0.1)


def test_a_relu_stack_without_padding_gets_he_s_std() -> None:
    """Var(w) = 1 / (n E[x²]): 1/n behind N(0, 1), 2/n behind a ReLU of variance 1."""
    text = stack().replace("pad: 1", "").replace("kernel_size: 3", "kernel_size: 1")
    program = program_of(text)
    found = solve(program, weights(program))
    stds = [found[number] for number in weights(program)]
    assert stds[0] == pytest.approx(math.sqrt(1 / 5), rel=1e-3)
    assert stds[1:6] == pytest.approx([math.sqrt(2 / 48)] * 5, rel=1e-3)


def test_only_the_asked_params_are_solved_and_the_others_keep_their_fillers() -> None:
    program = program_of(stack())
    first, second, *_ = weights(program)
    found = solve(program, [second])
    assert found.keys() == {second}
    other = solve(program_of(stack().replace("std: 0.3", "std: 0.6", 1)), [second])
    assert other[second] == pytest.approx(found[second] / 2, rel=1e-3)
    assert first not in other


def test_a_bias_takes_its_part() -> None:
    """E[y²] = n Var(w) E[x²] + b²."""
    more = 'bias_filler { type: "constant" value: 0.6 }'
    text = stack(depth=1, more=more).replace("kernel_size: 3 pad: 1", "kernel_size: 1")
    program = program_of(text)
    found = solve(program, weights(program)[:1])
    assert found[weights(program)[0]] == pytest.approx(math.sqrt((1 - 0.36) / 5), rel=1e-3)


def test_a_bias_above_the_target_is_unsolved() -> None:
    program = program_of(stack(depth=1, more='bias_filler { type: "constant" value: 2 }'))
    error = solve(program, weights(program)[:1])[weights(program)[0]]
    assert isinstance(error, Unsolved)
    assert "its bias alone" in str(error)


def test_zeros_and_what_is_not_predicted_are_unsolved() -> None:
    zero = 'layer { name: "p" type: "Power" bottom: "x" top: "p" power_param { scale: 0 } }\n'
    from .nets import DATA

    program = program_of(DATA + zero + conv("c", "p") + ENDING.format("c"))
    assert "nothing but zeros" in str(solve(program, weights(program))[weights(program)[0]])
