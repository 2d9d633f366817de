import subprocess
import sys

import numpy as np
import pytest

from caffestat.errors import InputError
from caffestat.fillers import (
    Constant,
    Filler,
    FillerType,
    Normal,
    Stream,
    Uniform,
    bernoulli,
    density,
    fill,
    filler_type,
    filler_types,
    gaussian,
    problem,
    random_types,
    register,
    stated,
    type_of_gain,
    uniform,
)

SHAPE = (5, 6, 3, 2)


def test_the_default_filler_is_constant_zero_and_consumes_nothing():
    stream = Stream(1)
    values = fill(stream, Filler(), SHAPE)
    assert (values.shape, values.dtype) == (SHAPE, np.float32)
    assert not values.any()
    fill(stream, Filler("constant", value=0.1), SHAPE)
    fill(stream, Filler("bilinear"), (2, 3, 5, 5))
    assert stream.word() == Stream(1).word()


def test_constants_are_rounded_to_float32():
    assert fill(Stream(1), Filler(value=0.1), (2,)).tolist() == [float(np.float32(0.1))] * 2


@pytest.mark.parametrize(
    ("filler", "shape"),
    [(Filler(value=2.5), ()), (Filler("uniform"), ()), (Filler("gaussian"), ()), (Filler("gaussian"), (3,))],
)
def test_a_scalar_blob_holds_one_value(filler, shape):
    values = fill(Stream(1), filler, shape)
    assert values.shape == shape
    assert values.dtype == np.float32


@pytest.mark.parametrize(
    ("norm", "n"), [("FAN_IN", 6 * 3 * 2), ("FAN_OUT", 5 * 3 * 2), ("AVERAGE", (6 * 3 * 2 + 5 * 3 * 2) / 2)]
)
def test_xavier_and_msra_by_norm(norm, n):
    scale = np.sqrt(np.float32(3) / np.float32(n))
    want = uniform(Stream(3), 180, -scale, scale).reshape(SHAPE)
    np.testing.assert_array_equal(fill(Stream(3), Filler("xavier", variance_norm=norm), SHAPE), want)
    want = gaussian(Stream(3), 180, 0, np.sqrt(np.float32(2) / np.float32(n))).reshape(SHAPE)
    np.testing.assert_array_equal(fill(Stream(3), Filler("msra", variance_norm=norm), SHAPE), want)


def test_a_bias_of_one_axis_has_fan_in_one():
    values = fill(Stream(3), Filler("xavier"), (1000,))
    assert 1.7 < np.abs(values).max() <= np.float32(np.sqrt(3))


def test_sparse_draws_all_gaussians_and_then_all_mask_bits():
    stream, expected = Stream(4), Stream(4)
    values = fill(stream, Filler("gaussian", mean=2.0, std=0.5, sparse=2), (7, 40))
    dense = gaussian(expected, 280, 2.0, 0.5)
    keep = bernoulli(expected, 280, float(np.float32(2) / np.float32(7)), np.float32)
    np.testing.assert_array_equal(values.ravel(), dense * keep)
    assert stream.word() == expected.word()
    assert 40 < keep.sum() < 120


def test_sparse_zero_leaves_nothing_and_draws_no_mask():
    stream, expected = Stream(4), Stream(4)
    assert not fill(stream, Filler("gaussian", sparse=0), (7, 40)).any()
    gaussian(expected, 280, 0.0, 1.0)
    assert stream.word() == expected.word()


def test_dropped_negative_values_are_negative_zeros():
    values = fill(Stream(4), Filler("gaussian", mean=-9.0, sparse=1), (7, 40))
    assert (values == 0).any()
    assert np.signbit(values).all()


def test_positive_unitball_divides_by_the_sequential_sum():
    values = fill(Stream(5), Filler("positive_unitball"), (3, 500, 4))
    for row, drawn in zip(values.reshape(3, -1), uniform(Stream(5), 6000, 0, 1).reshape(3, -1), strict=True):
        total = np.float32(0)
        for value in drawn:
            total += value
        np.testing.assert_array_equal(row, drawn / total)


@pytest.mark.parametrize(
    ("width", "tent"),
    [(4, [0.25, 0.75, 0.75, 0.25]), (3, [0.5, 1, 0.5]), (1, [1.0]), (5, [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3])],
)
def test_bilinear(width, tent):
    values = fill(Stream(1), Filler("bilinear"), (2, 3, width, width))
    np.testing.assert_allclose(values, np.broadcast_to(np.outer(tent, tent), values.shape), rtol=1e-6)
    values[0, 0, 0, 0] = 9  # the channels do not share memory
    assert values[1, 2, 0, 0] != 9


@pytest.mark.parametrize(
    ("filler", "shape", "message"),
    [
        (Filler("Xavier"), SHAPE, f'"Xavier".*expected one of {", ".join(filler_types())}'),
        (Filler("xavier", sparse=3), SHAPE, r'sparse is for gaussian fillers only, found sparse 3 in type "xavier"'),
        (Filler("constant", sparse=0), SHAPE, "sparse is for gaussian fillers only"),
        (Filler("gaussian", sparse=6), SHAPE, r"number of outputs \(5\).*found 6"),
        (Filler("gaussian", sparse=-2), SHAPE, "found -2"),
        (Filler("gaussian", sparse=1), (), "at least one axis"),
        (Filler("gaussian", std=0.0), SHAPE, "std > 0"),
        (Filler("uniform", min=1.0, max=0.5), SHAPE, "min <= max, found min 1 and max 0.5"),
        (Filler("xavier", variance_norm="MEAN"), SHAPE, "variance_norm"),
        (Filler("msra"), (), "at least one axis"),
        (Filler("positive_unitball"), (), "at least one axis"),
        (Filler("bilinear"), (6, 1, 4, 5), "square"),
        (Filler("bilinear"), (6, 4, 4), "four axes"),
        (Filler("uniform"), (3, 0), "elements"),
    ],
)
def test_what_caffe_aborts_on_is_refused(filler, shape, message):
    with pytest.raises(InputError, match=message):
        fill(Stream(1), filler, shape)


def zeros(stream, filler, shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"name": "xavier"}, "registered already"),
        ({"reads": ("spread",)}, "reads spread"),
        ({"required": ("std",)}, "requires a field that it does not read"),
        ({"reads": ("variance_norm",)}, "by_fan and variance_norm"),
        ({"by_fan": lambda n: Constant(0.0)}, "by_fan and variance_norm"),
        ({"draw": None}, "'own' needs a function for draw, found None"),
        ({"density": 1.5}, "'own' needs a function for density, found 1.5"),
    ],
)
def test_an_incomplete_or_second_type_is_refused(facts, message):
    with pytest.raises(ValueError, match=message):
        register(FillerType(**{"name": "own", "draw": zeros, "density": lambda f, s: Constant(0.0), **facts}))
    with pytest.raises(TypeError):
        FillerType("own", zeros)
    assert filler_type("own") is None


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (lambda stream, filler, shape: np.zeros((3, 2), np.float32), r"draws float32 of shape \(3, 2\)"),
        (lambda stream, filler, shape: np.zeros(shape), "draws float64 of shape"),
        (lambda stream, filler, shape: None, "draws None"),
    ],
)
def test_a_type_that_draws_something_else_is_an_error_that_names_it(drawn, message):
    kind = FillerType("own", drawn, lambda filler, shape: 0.5)
    with pytest.raises(InputError, match=f'"own" {message}.*; expected an array of float32 of shape'):
        kind.values(Stream(1), Filler("own"), (3, 4))
    with pytest.raises(InputError, match='density of filler "own": expected a Density, found'):
        kind.density_of(Filler("own"), (3, 4))


def test_constant_uniform_and_normal_densities_are_stated_by_fillers():
    assert stated(Normal(0.0, 0.25)) == ("gaussian", {"std": 0.25})
    assert stated(Normal(1.5, 0.25)) == ("gaussian", {"mean": 1.5, "std": 0.25})
    assert stated(Uniform(-0.5, 2.0)) == ("uniform", {"min": -0.5, "max": 2.0})
    assert stated(Constant(2.0)) == ("constant", {"value": 2.0})
    with pytest.raises(InputError, match="no filler of Caffe draws from"):
        stated(Normal(0.0, 1.0, kept=0.5))


DENSITIES = [
    (Filler(value=-1.25), (3, 2)),
    (Filler("uniform", min=-0.5, max=2.0), (40, 50)),
    (Filler("gaussian", mean=0.7, std=1.5), (40, 50)),
    (Filler("gaussian", mean=0.7, std=1.5, sparse=10), (40, 50)),
    (Filler("xavier", variance_norm="FAN_OUT"), (60, 40)),
    (Filler("msra", variance_norm="AVERAGE"), (60, 40)),
    (Filler("positive_unitball"), (40, 60)),
    (Filler("bilinear"), (3, 2, 5, 5)),
]


@pytest.mark.parametrize(("filler", "shape"), DENSITIES, ids=lambda value: getattr(value, "type", ""))
def test_the_density_is_that_of_what_is_drawn(filler, shape):
    stream = Stream(9)
    drawn = np.stack([fill(stream, filler, shape) for _ in range(20)]).astype(np.float64)
    found = density(filler, shape)
    assert found.mean == pytest.approx(drawn.mean(), abs=4 * drawn.std() / np.sqrt(drawn.size) + 1e-6)
    assert found.variance == pytest.approx(drawn.var(), rel=0.06, abs=1e-12)


def test_every_type_has_a_tested_density():
    assert {filler.type for filler, _ in DENSITIES} == set(filler_types())


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (2, 3), (2, 3, 4), (2, 3, 5, 5), (1, 2, 3, 3, 4)])
@pytest.mark.parametrize("name", [*filler_types(), "gaussian_unitball", "diagonal", "identity", "dct2", "gabor"])
def test_a_type_that_takes_no_such_shape_says_so(name, shape):
    """Of what cannot be drawn the density is not known either; nothing ends in another error."""
    outcomes = []
    for call in (lambda: fill(Stream(1), Filler(name), shape).shape, lambda: density(Filler(name), shape) and shape):
        try:
            outcomes.append(call() == shape)
        except InputError as error:
            outcomes.append(bool(str(error)) and "refused")
    assert outcomes in ([True, True], ["refused", "refused"])


def test_the_types_that_can_state_a_standard_deviation():
    for name, kind in (("uniform", Uniform), ("gaussian", Normal)):
        found = filler_type(name).of_std(0.5)
        assert isinstance(found, kind)
        assert (found.mean, found.variance) == (0, pytest.approx(0.25))
        assert fill(Stream(1), Filler(name, **stated(found)[1]), SHAPE).std() == pytest.approx(0.5, rel=0.2)


def test_gains_of_the_types_that_read_a_fan():
    gains = {name: filler_type(name).gain for name in filler_types()}
    assert (gains["msra"], gains["xavier"], gains["gaussian"]) == (2.0, 1.0, None)
    assert (type_of_gain(1.0), type_of_gain(2.0), type_of_gain(1.6)) == ("xavier", "msra", None)


def test_random_types_draw_and_the_others_do_not():
    for name in filler_types():
        first, second = (fill(Stream(seed), Filler(name), (3, 2, 5, 5)) for seed in (1, 2))
        assert np.any(first != second) == (name in random_types())
    assert {"msra", "uniform"} < set(random_types()) < set(filler_types())


@pytest.mark.parametrize(
    ("filler", "message"),
    [
        (Filler("Xavier"), 'did you mean "xavier"'),
        (Filler("identify"), "unknown filler type"),
        (Filler("identity"), "as many filters as channels"),
        (Filler("gabor"), "makes filters of 32 of 3x5x5"),
        (Filler("file", own=("missing.txt",)), "cannot read 'missing.txt'"),
        (Filler(value=float("inf")), "value of a constant filler is inf"),
        (Filler("gaussian", std=float("nan")), "std of a gaussian filler is nan"),
        (Filler("uniform", max=float("inf")), "max of a uniform filler is inf"),
        (Filler("gaussian", std=-1.0), "std > 0"),
        (Filler("xavier", std=float("nan")), ""),
        (Filler("msra"), ""),
    ],
)
def test_problems(filler, message):
    found = problem(filler, SHAPE)
    assert message in found
    assert bool(found) == bool(message)


@pytest.mark.parametrize(
    ("filler", "shape", "alike"),
    [
        (Filler(value=0.1), SHAPE, True),
        (Filler("bilinear"), (4, 1, 3, 3), True),
        (Filler("gaussian"), SHAPE, False),
        (Filler("gaussian", sparse=0), SHAPE, True),
        (Filler("positive_unitball"), (7,), True),
        (Filler("positive_unitball"), (7, 2), False),
        (Filler("msra"), SHAPE, False),
    ],
)
def test_whether_all_filters_get_the_same_values(filler, shape, alike):
    assert filler_type(filler.type).is_alike(filler, shape) is alike
    rows = fill(Stream(2), filler, shape).reshape(shape[0], -1)
    assert bool((rows == rows[0]).all()) is alike


def test_types_are_sorted():
    assert filler_types() == tuple(sorted(filler_types()))


def test_importing_is_cheap():
    heavy = ("onnx", "onnxruntime", "google.protobuf")
    code = f"import sys, caffestat.fillers; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
