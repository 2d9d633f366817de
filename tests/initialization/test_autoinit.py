"""Solved stds: the predicted and the measured second moment behind every layer is the wanted one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from caffestat.errors import InputError
from caffestat.initialization import Unsolved, solve
from caffestat.program import Program

from .nets import DATA, ENDING, block_net, conv, program_of, residual, stack, variances, weights


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

    program = program_of(DATA + zero + conv("c", "p") + ENDING.format("c"))
    assert "all zeros" in str(solve(program, weights(program))[weights(program)[0]])


def test_the_input_s_second_moment_as_the_target() -> None:
    data = (
        'layer { name: "data" type: "DummyData" top: "x" dummy_data_param { shape { dim: 8 dim: 5 dim: 9 dim: 7 } '
        'data_filler { type: "gaussian" std: 3 mean: 4 } } }\n'
    )
    program = program_of(data + conv("a", "x") + conv("b", "a"))
    found, ones = solve(program, weights(program), "input"), solve(program, weights(program))
    first, second = weights(program)
    assert found[first] == pytest.approx(5 * ones[first], rel=1e-3)  # E[x²] = 16 + 9
    assert found[second] == pytest.approx(ones[second], rel=1e-3)


@pytest.mark.parametrize(("blocks", "convolutions"), [(3, 2), (5, 3)])
def test_fixup_scales_branches_as_zhang_et_al_do(blocks: int, convolutions: int) -> None:
    """L^(-1 / (2m - 2)) times He's std; 0 for the last layers of branches and for the classifier."""
    program = program_of(
        block_net(blocks, convolutions).replace("pad: 1", "").replace("kernel_size: 3", "kernel_size: 1")
    )
    found = solve(program, weights(program), fixup=True)
    by_layer = {program.rows[program.params[n].row].name: std for n, std in found.items()}
    factor = blocks ** (-1 / (2 * convolutions - 2))
    for index in range(blocks):
        assert by_layer[f"c{index}_0"] == pytest.approx(factor / math.sqrt(48), rel=1e-3)  # it reads N(0, 1), no ReLU
        for number in range(1, convolutions - 1):
            assert by_layer[f"c{index}_{number}"] == pytest.approx(factor * math.sqrt(2 / 48), rel=1e-3)
        assert by_layer[f"c{index}_{convolutions - 1}"] == 0
    assert by_layer["fc"] == 0
    assert by_layer["s"] == pytest.approx(1 / math.sqrt(5), rel=1e-3)


@pytest.mark.parametrize("blocks", [3, 8])
def test_fixup_keeps_the_signal_over_blocks(blocks: int) -> None:
    """Each block begins as the identity, so that what the net has behind its first layer is what the last one reads."""
    program = program_of(block_net(blocks))
    found = solve(program, weights(program), fixup=True)
    values = drawn(program, found, 1)
    from caffestat.analysis import Runner
    from caffestat.fillers import Stream
    from caffestat.program.feeds import Feeds

    runner = Runner(program, values, forward_only=True, fetch=("top",))
    runner.run(Feeds(Stream(1), np.random.default_rng(1)).of(runner.forward))
    rows = {row.name: row.index for row in program.rows}
    assert np.array_equal(runner.tensors["top", rows[f"e{blocks - 1}"], 0], runner.tensors["top", rows["s"], 0])


def test_a_net_without_residual_branches_has_no_fixup() -> None:
    program = program_of(stack())
    with pytest.raises(InputError, match="no residual branch without normalization"):
        solve(program, weights(program), fixup=True)
    normalized = block_net(2).replace('name: "e0"', 'name: "e0"')
    for index in range(2):
        name = f"c{index}_1"
        norm = f'layer {{ name: "n{index}" type: "BatchNorm" bottom: "{name}" top: "{name}" }}\n'
        normalized = normalized.replace(f'layer {{ name: "e{index}"', norm + f'layer {{ name: "e{index}"')
    program = program_of(normalized)
    with pytest.raises(InputError, match="no residual branch without normalization"):
        solve(program, weights(program), fixup=True)


def test_layers_behind_an_unsolved_one_read_what_its_filler_gives() -> None:
    text = stack(depth=2).replace("std: 0.3 }", 'std: 0.3 } bias_filler { type: "constant" value: 2 }', 1)
    program = program_of(text.replace("pad: 1", ""))
    first, *others = weights(program)
    whole, rest = solve(program, weights(program)), solve(program, others)
    assert isinstance(whole[first], Unsolved)
    assert [whole[number] for number in others] == pytest.approx([rest[number] for number in others], rel=1e-3)
