"""Variance 1 behind every layer on the data, found in one pass."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.engine import Compiled
from caffestat.fillers import Stream
from caffestat.initialization import LsuvOptions, lsuv, orthogonal
from caffestat.program import Program
from caffestat.program.feeds import Feeds

from .nets import DATA, ENDING, act, conv, learn, program_of, residual, stack, variances, weights

SEED = 3


def scaled(program: Program, numbers: list[int] | None = None) -> tuple[list[np.ndarray], dict[int, float]]:
    values = [value.copy() for value in program.values(Stream(SEED), [])]
    for number in weights(program):
        values[number] = orthogonal(values[number].shape, np.random.default_rng(number))
    forward = program.forward()
    feeds = Feeds(Stream(SEED), np.random.default_rng(SEED)).of(forward)
    return values, lsuv(program, values, weights(program) if numbers is None else numbers, feeds, forward)


@pytest.mark.parametrize("text", [stack("ReLU"), stack("TanH", 12), residual()], ids=["relu", "tanh", "residual"])
def test_the_variance_behind_every_layer_is_1(text: str) -> None:
    program = program_of(text)
    values, scales = scaled(program)
    assert scales.keys() == set(weights(program))
    for name, (variance, _) in variances(program, values, SEED).items():
        assert variance == pytest.approx(1.0, abs=1e-3), name


def test_one_pass_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = []
    run = Compiled.run
    monkeypatch.setattr(Compiled, "run", lambda self, *given, **more: runs.append(1) or run(self, *given, **more))
    scaled(program_of(stack(depth=12)))
    assert len(runs) == 1


@pytest.mark.parametrize("bias", ['type: "constant" value: 0.7', 'type: "gaussian" std: 0.5'])
def test_biases_stay_and_count(bias: str) -> None:
    """W is scaled, b is not: the variance of W∘x + b is 1 for a constant b, whose own variance is 0."""
    program = program_of(stack(more=f"bias_filler {{ {bias} }}"))
    before = program.values(Stream(SEED), [])
    values, _ = scaled(program)
    for number, param in enumerate(program.params):
        if param.role == "bias":
            assert np.array_equal(values[number], before[number])
    found = [variance for variance, _ in variances(program, values, SEED).values()]
    assert found == pytest.approx([1.0] * len(found), abs=2e-3 if "constant" in bias else 0.5)


def test_only_the_asked_weights_are_scaled() -> None:
    program = program_of(stack())
    first, second, *_ = weights(program)
    values, scales = scaled(program, [second])
    assert scales.keys() == {second}
    assert np.array_equal(values[first], orthogonal(values[first].shape, np.random.default_rng(first)))


def test_a_shared_weight_is_scaled_by_the_first_layer_that_reads_it() -> None:
    shared = (
        'layer {{ name: "{1}" type: "Convolution" bottom: "{0}" top: "{1}" param {{ name: "w" }} convolution_param {{ '
        'num_output: 5 kernel_size: 1 bias_term: false weight_filler {{ type: "xavier" }} }} }}\n'
    )
    text = DATA + shared.format("x", "a") + shared.format("a", "b")
    program = program_of(text + ENDING.format("b"))
    values, scales = scaled(program)
    owners = [number for number in weights(program) if program.params[number].owner is None]
    assert scales.keys() == set(owners)
    found = variances(program, values, SEED)
    assert found["a"][0] == pytest.approx(1.0, abs=1e-3)
    assert found["fc"][0] == pytest.approx(1.0, abs=1e-3)  # behind b, as it will be


def test_a_layer_that_gives_a_constant_is_left_alone() -> None:
    zero = 'layer { name: "p" type: "Power" bottom: "x" top: "p" power_param { scale: 0 } }\n'
    program = program_of(DATA + zero + conv("c", "p") + ENDING.format("c"))
    _, scales = scaled(program)
    assert scales[weights(program)[0]] == 1.0


def with_options(text: str, options: LsuvOptions) -> tuple[Program, list[np.ndarray], dict[int, float], list[str]]:
    program = program_of(text)
    values, notes = [value.copy() for value in program.values(Stream(SEED), [])], list[str]()
    forward = program.forward()
    feeds = Feeds(Stream(SEED), np.random.default_rng(SEED)).of(forward)
    scales = lsuv(program, values, weights(program), feeds, forward, options=options, notes=notes)
    return program, values, scales, notes


def test_a_layer_within_the_tolerance_is_left_as_it_is() -> None:
    _, _, exact, _ = with_options(stack(), LsuvOptions())
    bound = sorted(abs(scale**2 - 1) for scale in exact.values())[2] * 1.01
    program, values, scales, _ = with_options(stack(), LsuvOptions(tolerance=bound))
    assert any(scale == 1 for scale in scales.values())
    for variance, _ in variances(program, values, SEED).values():
        assert abs(variance - 1) <= bound * 1.001


def test_iterations_find_the_scale_beside_a_bias_that_varies() -> None:
    """Var(Z / σ + b) = 1 has no closed form that one division by √Var finds."""
    text = stack(more='bias_filler { type: "gaussian" std: 0.5 }')
    found = {}
    for iterations in (1, 20):
        program, values, _, notes = with_options(text, LsuvOptions(iterations=iterations))
        found[iterations] = [variance for variance, _ in variances(program, values, SEED).values()]
        assert bool(notes) == (iterations == 1)
    assert found[20] == pytest.approx([1.0] * len(found[20]), abs=2e-3)
    assert max(abs(variance - 1) for variance in found[1]) > 0.02


def test_a_variance_that_cannot_be_reached_is_told() -> None:
    _, _, _, notes = with_options(stack(depth=1, more='bias_filler { type: "gaussian" std: 2 }'), LsuvOptions())
    assert "c0: the variance after lsuv is" in notes[0]


def test_the_mean_is_corrected_through_the_bias() -> None:
    text = stack(depth=4, more='bias_filler { type: "constant" value: 0.7 }')
    program, values, _, notes = with_options(text, LsuvOptions(mean=True))
    for name, (variance, second) in variances(program, values, SEED).items():
        assert variance == pytest.approx(1.0, abs=2e-3), name
        assert second - variance == pytest.approx(0.0, abs=1e-4), name
    assert not notes
    _, _, _, notes = with_options(stack(depth=2, more="bias_term: false"), LsuvOptions(mean=True))
    assert "c1: lsuv does not change the mean" in notes[1]


def fitnet(kind: str = "xavier", layers: int = 17) -> str:
    """A thin plain net as deep as FitNet-4: 3 x 3 convolutions with ReLU, two maximum pools, a classifier."""
    text, blob = (
        (
            'layer { name: "data" type: "Input" top: "x" top: "label" '
            "input_param { shape { dim: 16 dim: 3 dim: 8 dim: 8 } shape { dim: 16 } } }\n"
        ),
        "x",
    )
    for index in range(layers):
        name = f"c{index}"
        text += conv(name, blob, 12).replace('type: "gaussian" std: 0.3', f'type: "{kind}"') + act("ReLU", name)
        blob = name
        if index in (layers // 3, 2 * layers // 3):
            blob = f"p{index}"
            text += (
                f'layer {{ name: "{blob}" type: "Pooling" bottom: "{name}" top: "{blob}" '
                "pooling_param { pool: MAX kernel_size: 2 stride: 2 } }\n"
            )
    return text + ENDING.format(blob)


def test_a_deep_thin_plain_net_learns_with_lsuv_and_not_with_xavier() -> None:
    """Mishkin and Matas, table 2: FitNet-4 converges from LSUV, and from Xavier's filler with ReLU it does not."""
    random = np.random.default_rng(5)
    kinds = random.standard_normal((11, 3, 8, 8))
    batches = []
    for _ in range(8):
        labels = random.integers(0, 11, 16)
        images = (kinds[labels] + 0.3 * random.standard_normal((16, 3, 8, 8))).astype(np.float32)
        batches.append({"x": images, "label": labels.astype(np.float32)})
    program, reached = program_of(fitnet()), {}
    for name in ("lsuv", "xavier"):
        values = [value.copy() for value in program.values(Stream(SEED), [])]
        if name == "lsuv":
            for number in weights(program):
                values[number][...] = orthogonal(values[number].shape, np.random.default_rng(number))
            lsuv(program, values, weights(program), batches[0], program.forward())
        reached[name] = np.mean(learn(program, values, batches, 0.02, 120)[-8:])
    chance = np.log(11)
    assert reached["lsuv"] < 0.6 * chance
    assert reached["xavier"] == pytest.approx(chance, rel=0.02)
