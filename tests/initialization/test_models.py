"""Each method's property on the nets of models/, on small images: orthonormal, variance 1, equal rates, E[x²] = 1."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from caffestat.analysis import Runner
from caffestat.fillers import Stream
from caffestat.initialization import solve
from caffestat.initialization.krahenbuhl import Rates
from caffestat.initialization.layout import layouts
from caffestat.initialization.methods import draw, parse_method
from caffestat.net import build
from caffestat.net.source import net_source
from caffestat.program import Program, from_net
from caffestat.program.feeds import Feeds
from caffestat.prototext import parse

MODELS = Path(__file__).parents[2] / "models"
SHAPES = {  # of the images; the large nets have their own elsewhere
    "lenet": (8, 1, 28, 28),
    "cifar10_quick": (6, 3, 32, 32),
    "cifar10_full": (6, 3, 32, 32),
    "caffenet": (4, 3, 67, 67),
    "squeezenet": (4, 3, 67, 67),
    "vgg16": (4, 3, 32, 32),
    "googlenet": (4, 3, 64, 64),
    "mobilenet": (4, 3, 64, 64),
    "resnet50": (4, 3, 64, 64),
}
LARGE = 300_000  # elements of a weight from which on it keeps its filler where a test draws matrices: these take long
QUICK = ("lenet", "cifar10_quick", "cifar10_full", "squeezenet")
DEEP = ("googlenet", "resnet50")  # which take long, and whose layers others have too
NETS = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in SHAPES]
SEED = 3


@cache
def program_of(name: str) -> Program:
    text = (
        (MODELS / f"{name}.prototxt").read_text().replace("pool: AVE kernel_size: 7", "pool: AVE global_pooling: true")
    )
    shape = SHAPES[name]
    return from_net(build(net_source(parse(text.encode(), name)), shapes={"data": shape}, batch=shape[0]))


@cache
def drawn(name: str) -> list[np.ndarray]:
    """Return the params as the file's fillers draw them, which nothing may write."""
    values = program_of(name).values(Stream(SEED), [])
    for value in values:
        value.flags.writeable = False
    return values


@cache
def normals() -> np.ndarray:
    """Return N(0, 1) values, as many as the largest weight has, and prime so that no row of a weight meets another."""
    return np.random.default_rng(SEED).standard_normal(16_777_259, dtype=np.float32)


def draw_normals(values: np.ndarray, std: float, random: np.random.Generator) -> None:
    """Overwrite values by N(0, std²): a run of `normals` from a random place, ten times as fast as new ones."""
    flat, done, start = values.reshape(-1), 0, int(random.integers(normals().size))
    while done < flat.size:
        part = normals()[start : start + flat.size - done]
        np.multiply(part, np.float32(std), out=flat[done : done + part.size])
        done, start = done + part.size, 0


def weights(program: Program, largest: float = LARGE) -> list[int]:
    params = enumerate(program.params)
    return [number for number, param in params if param.role == "weight" and np.prod(param.shape) < largest]


def filled(name: str, method: str) -> tuple[list[np.ndarray], list[str]]:
    """Return the params with weights of a method, and its notes."""
    program, notes = program_of(name), list[str]()
    values = [value.copy() if value.size < LARGE else value for value in drawn(name)]
    found = parse_method(method)
    assert found
    draw(program, dict.fromkeys(weights(program), found), values, feeds(program, SEED), SEED, notes)
    return values, notes


def feeds(program: Program, seed: int) -> Feeds:
    return Feeds(Stream(seed), np.random.default_rng(seed))


@cache
def runner_of(name: str) -> Runner:
    """Return what runs a net with any values of its params: it is compiled once for all tests."""
    return Runner(program_of(name), drawn(name), forward_only=True, fetch=("top",), changing=True)


def tops(name: str, values: list[np.ndarray], seed: int = SEED) -> dict[int, np.ndarray]:
    """Return what each layer gives, by the number of its weight."""
    program, runner = program_of(name), runner_of(name)
    runner.values = values
    runner.run(feeds(program, seed).of(runner.forward))
    rows = {number: program.params[number].row for number in weights(program, np.inf)}
    return {number: runner.tensors["top", row, 0].astype(np.float64) for number, row in rows.items()}


@pytest.mark.parametrize("name", NETS)
def test_weights_are_orthonormal(name: str) -> None:
    program = program_of(name)
    values, _ = filled(name, "orthogonal:gain=1.25")
    for number, layout in layouts(program.forward(), weights(program)).items():
        matrix = layout.matrix(values[number]).astype(np.float64)
        for group in matrix.reshape(*matrix.shape[:2], -1):
            gram = group @ group.T if len(group) <= group.shape[1] else group.T @ group
            assert np.abs(gram - 1.25**2 * np.eye(len(gram))).max() < 1e-4, program.params[number]


@pytest.mark.parametrize("name", NETS)
def test_lsuv_gives_every_layer_variance_1(name: str) -> None:
    program = program_of(name)
    values, notes = filled(name, "lsuv")
    gives = tops(name, values)
    found = {program.rows[program.params[number].row].name: gives[number].var() for number in weights(program)}
    missed = {layer for layer in found if any(note.startswith(f"{layer}:") for note in notes)}
    assert len(missed) <= len(found) / 4
    for layer in found.keys() - missed:
        assert found[layer] == pytest.approx(1.0, abs=5e-3), layer


@pytest.mark.parametrize("name", NETS)
def test_krahenbuhl_gives_every_output_its_mean_and_variance(name: str) -> None:
    program = program_of(name)
    values, notes = filled(name, "krahenbuhl:between=0,bias=0.2")
    assert not notes
    gives = tops(name, values)
    for number in weights(program):
        top = gives[number]
        outputs = np.moveaxis(top, 1, 0).reshape(top.shape[1], -1)
        row = program.rows[program.params[number].row]
        layer, has_bias = row.name, any(program.params[other].role == "bias" for other in row.params)
        assert not has_bias or outputs.mean(axis=1) == pytest.approx(np.full(len(outputs), 0.2), abs=5e-3), layer
        deviations = outputs.std(axis=1)
        assert np.mean(np.abs(deviations - 1) < 5e-3) > 0.98, layer  # an output may be constant on so little data


@pytest.mark.parametrize("name", [net for net in NETS if net.values[0] not in DEEP])
def test_krahenbuhl_makes_the_rates_equal_or_tells(name: str) -> None:
    """For the loss that it draws: that of another draw is equal on average only, in narrow nets."""
    program = program_of(name)
    values, _ = filled(name, "krahenbuhl:between=0")
    data = feeds(program, SEED).of(program.forward())
    rates = Rates(program, weights(program), np.random.default_rng(9))

    def ratio() -> float:
        found = rates.of(values, data)
        assert found.keys() == set(weights(program))
        return max(found.values()) / min(found.values())

    before = ratio()
    notes = rates.equalize(values, data)
    assert ratio() < (0.5 * before if notes else 1.05)


@pytest.mark.parametrize("name", NETS)
def test_autoinit_gives_every_layer_the_second_moment_1(name: str) -> None:
    """Within 25 % of 1, half of the layers within 10 %, but for two standard errors of the mean over draws."""
    program, draws = program_of(name), 8
    stds = {number: std for number, std in solve(program, weights(program, np.inf)).items() if isinstance(std, float)}
    assert len(stds) > len(weights(program, np.inf)) / 3  # the biases of CaffeNet alone exceed 1
    values = [np.empty_like(value) if number in stds else value.copy() for number, value in enumerate(drawn(name))]
    found = []
    for seed in range(draws):
        random = np.random.default_rng(seed)
        for number, std in stds.items():
            draw_normals(values[number], std, random)
        moments = {number: float(np.square(top).mean()) for number, top in tops(name, values, seed).items()}
        found.append([moments[number] for number in stds])
    off = np.abs(np.mean(found, axis=0) - 1)
    hidden = 2 * np.std(found, axis=0, ddof=1) / np.sqrt(draws)
    assert np.all(off < 0.25 + hidden)
    assert np.median(off - hidden) < 0.1
