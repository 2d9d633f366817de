"""Fillers of forks, against their definitions."""

from __future__ import annotations

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


def test_layers_whose_filler_reads_a_file_have_shapes_and_no_values() -> None:
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
      inner_product_param { num_output: 4 weight_filler { type: "dct4" } } }"""
    net = nets.build(net_source(parse(text.encode(), "net.prototxt")))
    assert net.nodes[1].top_shapes == ((2, 4),)
    assert not net.nodes[1].is_computed
    assert "filler of type dct4 copies the kernels" in net.nodes[1].layer.why_uncomputed
    with pytest.raises(InputError, match="file copies numbers"):
        density(Filler("file"), (3, 4))
