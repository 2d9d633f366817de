"""Krähenbühl et al. 2016: mean β and variance 1 of every output on the data, and equal rates of all layers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from caffestat.analysis import Runner
from caffestat.fillers import Stream
from caffestat.initialization import KrahenbuhlOptions, krahenbuhl
from caffestat.initialization.krahenbuhl import Rates
from caffestat.initialization.patches import kmeans_filters, pca_filters
from caffestat.program import Program
from caffestat.program.feeds import Feeds

from .nets import DATA, ENDING, act, conv, program_of, residual, stack, weights

SEED = 3


def filled(program: Program, options: KrahenbuhlOptions) -> tuple[list[np.ndarray], dict[str, np.ndarray], list[str]]:
    values = [value.copy() for value in program.values(Stream(SEED), [])]
    feeds = Feeds(Stream(SEED), np.random.default_rng(SEED)).of(program.forward())
    notes: list[str] = []
    random = np.random.default_rng(SEED)
    krahenbuhl(program, values, weights(program), feeds, random, options=options, notes=notes)
    return values, feeds, notes


def tops(program: Program, values: Sequence[np.ndarray], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    runner = Runner(program, values, forward_only=True, fetch=("top",))
    runner.run(feeds)
    rows = {program.params[number].row for number in weights(program)}
    return {program.rows[row].name: runner.tensors["top", row, 0].astype(np.float64) for row in rows}


@pytest.mark.parametrize(
    "text",
    [stack("ReLU"), stack("TanH", 12), residual(), stack(more="group: 1 stride: 1")],
    ids=["relu", "tanh", "residual", "plain"],
)
@pytest.mark.parametrize("first", ["gaussian", "pca", "kmeans"])
def test_every_output_has_mean_beta_and_variance_1(text: str, first: str) -> None:
    program = program_of(text)
    values, feeds, notes = filled(program, KrahenbuhlOptions(first, bias=0.3, between=False))
    assert not notes
    for name, top in tops(program, values, feeds).items():
        axes = tuple(axis for axis in range(top.ndim) if axis != 1)
        assert top.mean(axis=axes) == pytest.approx(np.full(top.shape[1], 0.3), abs=2e-3), name
        assert top.std(axis=axes) == pytest.approx(np.ones(top.shape[1]), abs=2e-3), name


def test_groups_and_transposed_convolutions_are_scaled_output_by_output() -> None:
    up = (
        'layer { name: "up" type: "Deconvolution" bottom: "c" top: "up" convolution_param { num_output: 6 group: 3 '
        'kernel_size: 2 stride: 2 weight_filler { type: "xavier" } } }\n'
    )
    text = DATA + conv("c", "x", 15, "group: 5") + act("ReLU", "c") + up + ENDING.format("up")
    program = program_of(text)
    values, feeds, _ = filled(program, KrahenbuhlOptions(bias=0.0, between=False))
    for name, top in tops(program, values, feeds).items():
        axes = tuple(axis for axis in range(top.ndim) if axis != 1)
        assert top.std(axis=axes) == pytest.approx(np.ones(top.shape[1]), abs=2e-3), name


@pytest.mark.parametrize("text", [stack("ReLU", 8), stack("ReLU", 5, "bias_term: false")], ids=["biases", "no biases"])
def test_rates_are_equal(text: str) -> None:
    """Algorithm 2; without it they differ by factors."""
    program = program_of(text)
    values, feeds, _ = filled(program, KrahenbuhlOptions(bias=0.1, between=False))
    rates = Rates(program, weights(program), np.random.default_rng(8))
    before = rates.of(values, feeds)
    assert not rates.equalize(values, feeds)
    after = rates.of(values, feeds)
    assert after.keys() == set(weights(program))
    assert max(after.values()) / min(after.values()) < 1.03
    assert max(before.values()) / min(before.values()) > 2


def test_scaling_of_the_rates_keeps_what_the_net_computes() -> None:
    """With ReLU all is homogeneous: the outputs change by one factor, biases included, and only a little."""
    program = program_of(stack("ReLU", 5))
    options = (KrahenbuhlOptions(between=between) for between in (False, True))
    before, after = (tops(program, *filled(program, option)[:2])["fc"] for option in options)
    ratio = float((before * after).sum() / np.square(before).sum())
    assert after == pytest.approx(ratio * before, abs=2e-3 * float(np.abs(before).max()))
    assert 0.8 < ratio < 1.25


def test_principal_components_give_outputs_that_are_not_correlated() -> None:
    random = np.random.default_rng(5)
    patches = random.standard_normal((600, 12)) @ random.standard_normal((12, 12))
    filters = pca_filters(patches, 7, random)
    assert filters is not None
    assert np.cov(patches @ filters.T, rowvar=False) == pytest.approx(np.eye(7), abs=5e-3)
    more = pca_filters(patches, 20, random)
    assert more is not None
    assert (patches @ more.T).std(axis=0) == pytest.approx(np.ones(20), abs=5e-3)
    largest = np.linalg.eigh(np.cov(patches, rowvar=False))[1][:, -1]
    assert abs(filters[0] @ largest) / np.linalg.norm(filters[0]) == pytest.approx(1.0, abs=1e-4)


def test_clusters_are_found() -> None:
    """Patches around three directions: each filter answers one of them the most."""
    random = np.random.default_rng(6)
    directions = 3 * np.eye(5)[:3]
    patches = np.repeat(directions, 50, axis=0) + 0.05 * random.standard_normal((150, 5))
    filters = kmeans_filters(patches, 3, random)
    assert filters is not None
    answers = (directions - patches.mean(axis=0)) @ filters.T
    assert sorted(np.argmax(answers, axis=0)) == [0, 1, 2]


def test_too_few_patches_are_told() -> None:
    assert pca_filters(np.ones((3, 4)), 5, np.random.default_rng(1)) is None
    text = DATA.replace("dim: 16", "dim: 2") + ENDING.format("x")
    _, _, notes = filled(program_of(text), KrahenbuhlOptions("kmeans"))
    assert "too little data for kmeans" in notes[0]
