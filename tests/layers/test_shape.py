"""Layers that only move elements: shapes by Caffe's rules, values and gradients by numpy's moves."""

import numpy as np
import pytest

from caffestat.errors import NetError

from .harness import make, run

OUTPUT = 'hdf5_output_param { file_name: "out.h5" }'


def layer(type_name, params="", bottoms=1, tops=1):
    names = " ".join([f'bottom: "b{i}"' for i in range(bottoms)] + [f'top: "t{i}"' for i in range(tops)])
    return make(f'name: "l" type: "{type_name}" {names} {params}')


def values(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("params", "axis"),
    [("", 1), ("concat_param { axis: 0 }", 0), ("concat_param { axis: -1 }", 3), ("concat_param { concat_dim: 2 }", 2)],
)
def test_concat(params, axis):
    shapes = [[2, 3, 4, 5] for _ in range(3)]
    for extra, shape in enumerate(shapes):
        shape[axis] += extra
    bottoms = [values(*s, seed=i) for i, s in enumerate(shapes)]
    wanted = np.concatenate(bottoms, axis)
    dy = values(*wanted.shape, seed=9)
    result = run(layer("Concat", params, bottoms=3), bottoms, dys=[dy])
    np.testing.assert_array_equal(result.tops[0], wanted)
    sizes = np.cumsum([s[axis] for s in shapes])[:-1]
    for got, part in zip(result.bottoms, np.split(dy, sizes, axis), strict=True):
        np.testing.assert_array_equal(got, part)


def test_concat_of_one_bottom():
    x, dy = values(2, 3), values(2, 3, seed=1)
    result = run(layer("Concat"), [x], dys=[dy])
    np.testing.assert_array_equal(result.tops[0], x)
    np.testing.assert_array_equal(result.bottoms[0], dy)


def test_concat_refuses():
    with pytest.raises(NetError, match=r"bottom 1 \('b1'\) has shape \(2, 3, 5\); expected that of bottom 0"):
        layer("Concat", bottoms=2).tops([(2, 3, 4), (2, 3, 5)])
    with pytest.raises(NetError, match="both axis and concat_dim"):
        layer("Concat", "concat_param { axis: 1 concat_dim: 1 }").tops([(2, 3)])
    with pytest.raises(NetError, match="axis 2 is out of range"):
        layer("Concat", "concat_param { concat_dim: 2 }").tops([(2, 3)])


@pytest.mark.parametrize(
    ("params", "tops", "axis", "cuts"),
    [
        ("slice_param { slice_point: 1 slice_point: 3 }", 3, 1, [1, 3]),
        ("slice_param { axis: -2 }", 2, 2, [2]),
        ("slice_param { slice_dim: 0 slice_point: 2 }", 2, 0, [2]),
    ],
)
def test_slice(params, tops, axis, cuts):
    x = values(3, 6, 4, 5)
    wanted = np.split(x, cuts, axis)
    dys = [values(*part.shape, seed=i) for i, part in enumerate(wanted)]
    result = run(layer("Slice", params, tops=tops), [x], dys=dys)
    for got, part in zip(result.tops, wanted, strict=True):
        np.testing.assert_array_equal(got, part)
    np.testing.assert_array_equal(result.bottoms[0], np.concatenate(dys, axis))


def test_slice_into_one():
    x = values(2, 3)
    np.testing.assert_array_equal(run(layer("Slice"), [x]).tops[0], x)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("", "axis of size 5 into 3 equal tops"),
        ("slice_param { slice_point: 1 }", "expected 2 slice_point"),
        ("slice_param { slice_point: 3 slice_point: 3 }", "rising within 1 to 5, found .3, 3."),
        ("slice_param { slice_point: 3 slice_point: 7 }", "rising within 1 to 5, found .3, 7."),
        ("slice_param { axis: 1 slice_dim: 1 }", "both axis and slice_dim"),
    ],
)
def test_slice_refuses(params, message):
    with pytest.raises(NetError, match=message):
        layer("Slice", params, tops=3).tops([(2, 5)])


def test_split_adds_gradients():
    x = values(2, 3)
    dys = [values(2, 3, seed=i) for i in range(3)]
    result = run(layer("Split", tops=3), [x], dys=dys)
    for top in result.tops:
        np.testing.assert_array_equal(top, x)
    np.testing.assert_allclose(result.bottoms[0], sum(dys), rtol=1e-6)


RESHAPES = [
    ("Flatten", "", (2, 3, 4, 5), (2, 60)),
    ("Flatten", "flatten_param { axis: 2 end_axis: 3 }", (2, 3, 4, 5, 6), (2, 3, 20, 6)),
    ("Flatten", "flatten_param { axis: 0 end_axis: -2 }", (2, 3, 4), (6, 4)),
    ("Flatten", "flatten_param { axis: 2 end_axis: 1 }", (2, 3, 4), (2, 3, 1, 4)),
    ("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }", (2, 3, 4, 5), (2, 60)),
    ("Reshape", "reshape_param { shape { dim: 6 dim: 0 dim: 5 dim: 4 } }", (2, 3, 20), None),
    ("Reshape", "reshape_param { shape { dim: 6 dim: 0 dim: -1 } }", (2, 5, 12), (6, 5, 4)),
    ("Reshape", "reshape_param { shape { dim: 2 dim: -1 } axis: 1 num_axes: 2 }", (3, 4, 5, 7), (3, 2, 10, 7)),
    ("Reshape", "reshape_param { shape { dim: 1 } axis: -1 num_axes: 0 }", (3, 4), (3, 4, 1)),
    ("Reshape", "reshape_param { shape { dim: 1 } axis: 0 num_axes: 0 }", (3, 4), (1, 3, 4)),
    ("Reshape", "reshape_param { shape { } axis: 1 num_axes: 1 }", (3, 1, 4), (3, 4)),
    ("Reshape", "reshape_param { shape { } }", (1, 1), ()),
    ("Reshape", "reshape_param { shape { dim: 0 dim: 2 } axis: 1 }", (3, 4, 2), (3, 4, 2)),
]


@pytest.mark.parametrize(("type_name", "params", "shape", "wanted"), RESHAPES)
def test_reshape(type_name, params, shape, wanted):
    if wanted is None:
        with pytest.raises(NetError, match="the counts must agree"):
            layer(type_name, params).tops([shape])
        return
    x, dy = values(*shape), values(*wanted, seed=1)
    result = run(layer(type_name, params), [x], dys=[dy])
    np.testing.assert_array_equal(result.tops[0], x.reshape(wanted))
    np.testing.assert_array_equal(result.bottoms[0], dy.reshape(shape))


@pytest.mark.parametrize(
    ("type_name", "params", "message"),
    [
        ("Flatten", "flatten_param { axis: 2 end_axis: 0 }", "found axis 2 and end_axis 0"),
        ("Flatten", "flatten_param { axis: 3 }", "axis 3 is out of range"),
        ("Reshape", "reshape_param { shape { dim: -1 dim: -1 } }", "one -1, found 2"),
        ("Reshape", "reshape_param { shape { dim: 7 dim: -1 } }", "24 values cannot be divided"),
        ("Reshape", "reshape_param { shape { dim: 0 } axis: 3 }", "has no axis 3"),
        ("Reshape", "reshape_param { axis: 2 num_axes: 2 }", "axis 2 with num_axes 2 is out of range"),
        ("Reshape", "reshape_param { axis: -5 }", "axis -5"),
    ],
)
def test_reshape_refuses(type_name, params, message):
    with pytest.raises(NetError, match=message):
        layer(type_name, params).tops([(2, 3, 4)])


@pytest.mark.parametrize("type_name", ["Flatten", "Reshape"])
def test_refuses_in_place(type_name):
    with pytest.raises(NetError, match="cannot work in place; give the top another name than 'x'"):
        make(f'name: "l" type: "{type_name}" bottom: "x" top: "x"').tops([(2, 3)])


def test_silence():
    result = run(layer("Silence", bottoms=2, tops=0), [values(2, 3), values(4)])
    assert result.tops == []
    assert not np.any(result.bottoms[0])


@pytest.mark.parametrize(
    ("params", "reference", "cut"),
    [
        ("", (9, 9, 3, 2), np.s_[:, :, :3, :2]),
        ("crop_param { offset: 1 }", (2, 1, 3, 2), np.s_[:, :, 1:4, 1:3]),
        ("crop_param { axis: 1 offset: 1 offset: 0 offset: 3 }", (2, 2, 4, 3), np.s_[:, 1:3, :4, 3:6]),
        ("crop_param { axis: -1 offset: 2 }", (1, 1, 1, 5), np.s_[..., 2:7]),
    ],
)
def test_crop(params, reference, cut):
    x = values(2, 3, 5, 7)
    dy = values(*x[cut].shape, seed=1)
    result = run(layer("Crop", params, bottoms=2), [x, np.ones(reference)], dys=[dy])
    np.testing.assert_array_equal(result.tops[0], x[cut])
    wanted = np.zeros(x.shape, np.float32)
    wanted[cut] = dy
    np.testing.assert_array_equal(result.bottoms[0], wanted)
    assert not np.any(result.bottoms[1])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_tile(axis):
    x = values(2, 3, 4)
    wanted = np.concatenate([x] * 3, axis)
    dy = values(*wanted.shape, seed=1)
    result = run(layer("Tile", f"tile_param {{ axis: {axis} tiles: 3 }}"), [x], dys=[dy])
    np.testing.assert_array_equal(result.tops[0], wanted)
    np.testing.assert_allclose(result.bottoms[0], sum(np.split(dy, 3, axis)), rtol=1e-6)


def test_batch_reindex():
    x, dy = values(4, 2, 3), values(5, 2, 3, seed=1)
    indices = np.array([3.9, 0, 0.2, 3, 1])
    result = run(layer("BatchReindex", bottoms=2), [x, indices], dys=[dy])
    np.testing.assert_array_equal(result.tops[0], x[[3, 0, 0, 3, 1]])
    np.testing.assert_allclose(result.bottoms[0], [dy[1] + dy[2], dy[4], np.zeros((2, 3)), dy[0] + dy[3]], rtol=1e-6)
    assert layer("BatchReindex", bottoms=2).classes(1, [(4, 2), (5,)]) == 4


def test_filter():
    a, b, dy = values(5, 2, 3), values(5), values(5, 2, 3, seed=1)
    result = run(
        layer("Filter", bottoms=3, tops=2), [a, b, np.array([[0], [2], [0.5], [0], [-1]])], dys=[dy, values(5, seed=2)]
    )
    np.testing.assert_array_equal(result.tops[0], [a[1], a[2], a[4], np.zeros((2, 3)), np.zeros((2, 3))])
    np.testing.assert_array_equal(result.tops[1], [b[1], b[2], b[4], 0, 0])
    np.testing.assert_array_equal(result.bottoms[0], [np.zeros((2, 3)), dy[0], dy[1], np.zeros((2, 3)), dy[2]])
    assert not np.any(result.bottoms[2])


def test_parameter():
    value, dy = values(2, 3), values(2, 3, seed=1)
    parameter = layer("Parameter", "parameter_param { shape { dim: 2 dim: 3 } }", bottoms=0)
    result = run(parameter, [], [value], [dy])
    np.testing.assert_array_equal(result.tops[0], value)
    np.testing.assert_array_equal(result.params[0], dy)
    (param,) = parameter.params([])
    assert (param.shape, param.filler.type, param.filler.value) == ((2, 3), "constant", 0)


def test_hdf5_output_computes_nothing():
    assert run(layer("HDF5Output", OUTPUT, bottoms=2, tops=0), [values(2, 3), values(2)]).tops == []


@pytest.mark.parametrize(
    ("type_name", "params", "shapes", "tops", "message"),
    [
        (
            "Crop",
            "crop_param { offset: 2 }",
            [(2, 3, 5, 7), (2, 3, 4, 4)],
            1,
            r"cannot cut \(4, 4\) at offset .2, 2. out of axes 2 and on",
        ),
        (
            "Crop",
            "crop_param { offset: 2 offset: 1 offset: 1 }",
            [(2, 3, 5, 7), (2, 3, 1, 1)],
            1,
            "each of the 2 axes that are cut, found 3",
        ),
        ("Crop", "", [(2, 3, 5, 7), (2, 3, 4)], 1, r"cannot cut \(4,\)"),
        ("Tile", "tile_param { axis: 1 }", [(2, 3)], 1, "tiles of at least 1, found 0"),
        ("BatchReindex", "", [(2, 3), (2, 1)], 1, r"indices of one axis, found shape \(2, 1\)"),
        ("Filter", "", [(2, 3), (2,)], 2, "expected 1 tops"),
        ("Filter", "", [(2, 3), (2, 3)], 1, r"selector of shape \(N,\) or"),
        ("Filter", "", [(2, 3), (3,)], 1, "first axis of the selector"),
        ("Parameter", "parameter_param { shape { dim: 0 } }", [], 1, "positive sizes"),
        ("HDF5Output", OUTPUT, [(2, 3), (3,)], 0, "same first axis"),
        ("HDF5Output", OUTPUT, [(2, 1, 1, 1, 1), (2,)], 0, "at most 4 axes"),
        ("HDF5Output", "", [(2, 3), (2,)], 0, "expected a file_name"),
    ],
)
def test_refuses(type_name, params, shapes, tops, message):
    with pytest.raises(NetError, match=message):
        layer(type_name, params, bottoms=len(shapes), tops=tops).tops(shapes)
