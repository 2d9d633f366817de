"""Fillers of forks, against their definitions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from caffestat import net as nets
from caffestat.errors import InputError
from caffestat.fillers import Filler, Stream, density, fill, filler_types, gaussian
from caffestat.fillers.expected import expected_counts
from caffestat.net.source import net_source
from caffestat.prototext import parse

BALL = Filler("gaussian_unitball")


def test_rows_of_a_unit_ball_are_gaussian_ones_of_length_1() -> None:
    values = fill(Stream(5), BALL, (4, 30, 2, 5))
    rows = gaussian(Stream(5), 4 * 300, 0.0, 1.0).reshape(4, 300)
    expected = rows / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    np.testing.assert_allclose(values.reshape(4, 300), expected, rtol=1e-6)


@pytest.mark.parametrize("shape", [(900, 7), (9000,), (500, 3, 2, 4)])
def test_the_density_has_the_variance_of_the_values(shape: tuple[int, ...]) -> None:
    values, found = fill(Stream(2), BALL, shape), density(BALL, shape)
    assert found.mean == 0
    np.testing.assert_allclose(np.square(values).mean(), found.variance, rtol=1e-5)
    assert expected_counts(BALL, shape, -1, 1, 5, 100) == []


@pytest.mark.parametrize("shape", [(), (2, 2, 2, 2, 2)])
def test_shapes_that_the_filler_refuses(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="1 to 4 axes"):
        fill(Stream(1), BALL, shape)


def test_a_fillers_fork_is_told_once_and_not_among_caffes() -> None:
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
layer { name: "%s" type: "InnerProduct" bottom: "x" top: "%s"
  inner_product_param { num_output: 4 weight_filler { type: "gaussian_unitball" } } }"""
    two = text % ("a", "y") + "\n" + text[text.index("\n") :] % ("b", "z")
    net = nets.build(net_source(parse(two.encode(), "net.prototxt")), nets.State(0))
    assert [f.message for f in net.findings if "filler type" in f.message] == [
        "filler type 'gaussian_unitball' is a fork's (happynear/caffe-windows, filler.hpp)"
    ]
    assert "gaussian_unitball" not in filler_types()


def test_a_diagonal_gives_each_filter_its_own_channel() -> None:
    values = fill(Stream(1), Filler("diagonal"), (3, 4, 5, 2))
    assert all(np.all(values[n, n] == np.float32(0.1)) for n in range(3))
    assert np.count_nonzero(values) == 3 * 10
    np.testing.assert_array_equal(fill(Stream(1), Filler("diagonal"), (4, 2)), np.eye(4, 2))


@pytest.mark.parametrize("shape", [(3, 4, 5, 2), (4, 2), (6,)])
def test_the_density_of_a_diagonal_has_the_moments_of_its_values(shape: tuple[int, ...]) -> None:
    values, found = fill(Stream(1), Filler("diagonal"), shape), density(Filler("diagonal"), shape)
    np.testing.assert_allclose((found.mean, found.variance), (values.mean(), values.var()), rtol=1e-5)


def test_a_diagonal_is_not_sparse() -> None:
    with pytest.raises(InputError, match="sparse is for gaussian fillers only"):
        fill(Stream(1), Filler("diagonal", sparse=2), (3, 4))


@pytest.mark.parametrize("shape", [(4, 4), (4, 4, 3, 5)])
def test_identity_keeps_each_channel(shape: tuple[int, ...]) -> None:
    values = fill(Stream(1), Filler("identity"), shape).reshape(4, 4, -1)
    middle = values.shape[2] // 2
    np.testing.assert_array_equal(values[:, :, middle], np.eye(4))
    assert values.sum() == 4
    found = density(Filler("identity"), shape)
    np.testing.assert_allclose([found.mean, found.variance], [values.mean(), values.var()], rtol=1e-5)
    with pytest.raises(InputError, match="as many filters as channels"):
        fill(Stream(1), Filler("identity"), (4, 3, 3, 5))


NET = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
      inner_product_param { num_output: 4 weight_filler { %s } bias_filler { type: "constant" value: 2 } } }"""


def test_layers_whose_filler_reads_a_file_have_shapes_and_no_values_without_it() -> None:
    net = nets.build(net_source(parse((NET % 'type: "file" file: "no.txt"').encode(), "net.prototxt")))
    assert net.nodes[1].top_shapes == ((2, 4),)
    assert not net.nodes[1].is_computed
    assert "filler of type file reads numbers from the text file 'no.txt'" in net.nodes[1].layer.why_uncomputed
    assert not [f for f in net.findings if "unknown field" in f.message]
    with pytest.raises(InputError, match=r"cannot read 'no\.txt'"):
        density(Filler("file", own=("no.txt",)), (3, 4))
    assert not nets.draw_params(net, Stream(1))[0].any()  # it stops no run of the other layers


def test_numbers_of_a_file_lie_beside_the_net_and_the_last_one_is_repeated(tmp_path: Path) -> None:
    (tmp_path / "numbers.txt").write_text("1 -2.5\n3e-1 4\t5 6\n7 ")
    text = (NET % 'type: "file" file: "numbers.txt"').encode()
    net = nets.build(net_source(parse(text, str(tmp_path / "net.prototxt"))))
    assert net.nodes[1].is_computed
    weight, bias = nets.draw_params(net, Stream(1))
    np.testing.assert_array_equal(weight, np.float32([[1, -2.5, 0.3], [4, 5, 6], [7, 7, 7], [7, 7, 7]]))
    np.testing.assert_array_equal(bias, [2, 2, 2, 2])
    found = density(net.params[0].param.filler, (4, 3))
    np.testing.assert_allclose([found.mean, found.variance], [weight.mean(), weight.var()], rtol=1e-6)
    (tmp_path / "numbers.txt").write_text("1 two")
    with pytest.raises(InputError, match="reads numbers, found other text"):
        fill(Stream(1), net.params[0].param.filler, (4, 3))
    (tmp_path / "numbers.txt").write_text(" ")
    with pytest.raises(InputError, match="at least one number"):
        fill(Stream(1), net.params[0].param.filler, (4, 3))


def test_a_diagonal_takes_its_values_from_diag_val() -> None:
    text = NET % 'type: "diagonal" diag_val: 0.5 diag_val: -3'
    net = nets.build(net_source(parse(text.encode(), "net.prototxt")))
    assert [f.message for f in net.findings] == [
        "filler type 'diagonal' is a fork's (lmb-freiburg/flownet2, filler.hpp)"
    ]
    weight, _ = nets.draw_params(net, Stream(1))
    np.testing.assert_array_equal(weight, np.float32([[0.5, 0, 0], [0, -3, 0], [0, 0, 1], [0, 0, 0]]))
    wide = fill(Stream(1), Filler("diagonal", own=(1.5,)), (2, 3, 2, 5))
    np.testing.assert_array_equal(wide[0, 0], np.full((2, 5), np.float32(1.5) / np.float32(10)))
    np.testing.assert_array_equal(wide[1, 1], np.full((2, 5), np.float32(0.1)))
    assert not wide[0, 1:].any() and not wide[1, ::2].any()
    found = density(Filler("diagonal", own=(1.5,)), (2, 3, 2, 5))
    np.testing.assert_allclose([found.mean, found.variance], [wide.mean(), wide.var()], rtol=1e-5)


def test_the_alpha_of_msra_is_the_slope_behind_it() -> None:
    net = nets.build(net_source(parse((NET % 'type: "msra" alpha: 0.5').encode(), "net.prototxt")))
    assert not net.findings
    found = density(net.params[0].param.filler, (4, 3))
    np.testing.assert_allclose(found.variance, 2 / 3 / 1.25, rtol=1e-6)
    weight, plain = (fill(Stream(5), filler, (4, 3)) for filler in (net.params[0].param.filler, Filler("msra")))
    np.testing.assert_allclose(weight, plain / np.sqrt(1.25), rtol=1e-6)


def test_fields_that_no_type_of_filler_reads_still_make_values_unknown() -> None:
    net = nets.build(net_source(parse((NET % 'type: "xavier" diag_val: 0.5').encode(), "net.prototxt")))
    assert "the effect of diag_val is unknown" in net.nodes[1].layer.why_uncomputed


@pytest.mark.parametrize("side", range(2, 9))
def test_dct_kernels_are_orthonormal_waves_along_diagonals(side: int) -> None:
    count = side * side
    kernels = fill(Stream(1), Filler(f"dct{side}"), (count, 1, side, side)).reshape(count, count).astype(float)
    np.testing.assert_allclose(kernels @ kernels.T, np.eye(count), atol=1e-6)
    np.testing.assert_allclose(kernels[0], 1 / side, rtol=1e-6)
    changes = [  # how often a kernel changes its sign down and across
        tuple(np.abs(np.diff(np.sign(np.where(abs(part) < 1e-8, 1e-3, part)))).sum() // 2 for part in (k[:, 0], k[0]))
        for k in kernels.reshape(count, side, side)
    ]
    assert changes[1] == (1, 0) and changes[2] == (0, 1)
    if side == 4:
        assert [tuple(map(int, pair)) for pair in changes[3:10]] == [
            (2, 0), (1, 1), (0, 2), (3, 0), (2, 1), (1, 2), (0, 3)
        ]  # fmt: skip
    more = fill(Stream(1), Filler(f"dct{side}"), (count + 1, 1, side, side))
    np.testing.assert_array_equal(more[:count].reshape(count, count), kernels.astype(np.float32))
    assert not more[count].any()
    np.testing.assert_allclose(density(Filler(f"dct{side}"), (2, 1, side, side)).mean, kernels[:2].mean(), atol=1e-7)


def gabor(i: int, wave: tuple[float, ...], side: int) -> np.ndarray:
    """One filter by the loops of the reference; wave: lambda, sigma, omega, phi, theta, r, g, b."""
    height, sigma, omega, phi, theta, *colours = wave
    found = np.zeros((3, side, side))
    for ky, kx in np.ndindex(side, side):
        x, y = 2 * kx / (side - 1) - 1, 2 * ky / (side - 1) - 1
        value = math.exp(-(x * x + y * y) / (2 * sigma * sigma))
        value *= height * math.cos((x * math.cos(theta) - y * math.sin(theta)) * omega + phi)
        found[:, ky, kx] = [colour * value for colour in colours]
    return found


PI = math.pi


@pytest.mark.parametrize(
    ("shape", "number", "wave"),
    [
        ((32, 3, 5, 5), 3, (0.5, 0.6, 2 * PI, 0, 3 * PI / 8, 1, 1, 1)),
        ((32, 3, 5, 5), 9, (0.5, 0.6, PI, 0, PI / 6 + PI / 12, 1, 1, 1)),
        ((32, 3, 5, 5), 15, (0.5, 0.75, PI / 4, PI, 0, 1, -1, 1)),
        ((32, 3, 5, 5), 22, (0.5, 0.6, PI / 2, PI / 2, PI + 3 * PI / 8, 1, 0, -1)),
        ((32, 3, 5, 5), 29, (0.5, 0.6, PI / 2, PI / 2, PI / 2 + PI / 8, -1, 1, -1)),
        ((32, 3, 5, 5), 31, (0.5, 0.6, PI / 2, PI / 2, PI / 2 + 3 * PI / 8, 1, 1, 0)),
        ((64, 3, 7, 7), 13, (1 / (1 + 5 / 8), 0.4 + 0.125, 3 * PI / 3.5, PI + 3 * PI / 8, PI / 4, 1, 1, 1)),
        ((64, 3, 7, 7), 42, (1 / 2, 1 / 1.5, PI / 4, 13 * PI, 0, 0.25, -1, 1)),
        ((64, 3, 3, 3), 42, (1 / 2, 1, PI / 4, 13 * PI, 0, 0.25, -1, 1)),
        ((64, 3, 7, 7), 51, (2 / 3, 1, PI / 4, PI / 2, 3 * PI / 4 + PI / 32, -0.5, 0.1, 1)),
        ((96, 3, 11, 11), 19, (1 / 3 / (1 + 3 / 8), 0.575, 5 * PI / 2.5, PI + 3 * PI / 8, PI / 3, 1, 1, 1)),
        ((96, 3, 11, 11), 54, (1 / 3 / 2, 1 / 1.5, PI / 4, 13 * PI, 0, 0.25, -1, 1)),
        ((96, 3, 11, 11), 62, (1 / 9, 2, 5 * PI / 8, PI / 2, PI + PI / 8, 1, -0.5, -0.75)),
        ((96, 3, 11, 11), 91, (1 / 3, 0.6, 5 * PI / 16, PI / 2, 3 * PI / 2 + PI / 16, 1, 1, 1)),
        ((96, 3, 11, 11), 95, (1 / 12, 0.75, 5 * PI / 4, PI / 2, 7 * PI / 4 + PI / 32, -1, -1, 1)),
    ],
)
def test_gabor_filters_of_first_layers(shape: tuple[int, ...], number: int, wave: tuple[float, ...]) -> None:
    values = fill(Stream(1), Filler("gabor"), shape)
    np.testing.assert_allclose(values[number], gabor(number, wave, shape[3]), atol=1e-6)
    assert np.isfinite(values).all() and values.reshape(shape[0], -1).any(1).all()


def test_gabor_filters_are_of_four_shapes() -> None:
    for shape in ((32, 3, 5, 7), (33, 3, 5, 5), (32, 1, 5, 5), (32, 75)):
        with pytest.raises(InputError, match="makes filters of 32 of 3x5x5, 64 of 3x7x7"):
            fill(Stream(1), Filler("gabor"), shape)
