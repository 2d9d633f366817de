"""Layers for octrees, against loops over the nodes of the sphere's octree."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from caffestat import analyze
from caffestat.errors import NetError, Place
from caffestat.layers.forks import octree_nodes as nodes
from caffestat.layers.forks.octree import NormalizeOfNodes

from ..harness import make, run

RANDOM = np.random.default_rng(59)
OWN = 'name: "l" type: "%s" bottom: "x" top: "y" octree_param { %s }'
FILTERS = " convolution_param { num_output: 4 kernel_size: %d stride: %d }"


def places(depth: int) -> list[tuple[int, int, int]]:
    """The nodes of a depth: children of those above that the surface crosses, by halving the cube."""
    if depth == 0:
        return [(0, 0, 0)]
    found = []
    for at, is_kept in zip(places(depth - 1), nodes.crossed(depth - 1), strict=True):
        if is_kept:
            found += [tuple(2 * c + b for c, b in zip(at, bits, strict=True)) for bits in np.ndindex(2, 2, 2)]
    return found


def table(depth: int, size: int, stride: int) -> list[list[int]]:
    """What lies under each tap of a cubic kernel, -1 for nothing."""
    at = places(depth)
    where = {place: index for index, place in enumerate(at)}
    first = 0 if size == 2 else -(size // 2)
    taps = [tuple(first + t for t in tap) for tap in np.ndindex(size, size, size)]
    return [[where.get(tuple(np.add(place, tap)), -1) for tap in taps] for place in (at[::8] if stride == 2 else at)]


def test_nodes_of_a_sphere() -> None:
    assert [nodes.node_count(depth) for depth in range(4)] == [1, 8, 64, 8 * int(nodes.crossed(2).sum())]
    centres = (np.array(places(4)) + 0.5) / 16 - 0.5
    surface = centres[nodes.crossed(4)]
    assert len(surface) > 200
    assert abs(np.linalg.norm(surface, axis=1) - 3 / 8).max() <= 3**0.5 / 32
    assert len(places(4)) == nodes.node_count(4) < 16**3


@pytest.mark.parametrize(("depth", "size", "stride"), [(2, 3, 1), (3, 3, 1), (3, 2, 2), (3, 3, 2), (4, 1, 1)])
def test_neighbors(depth: int, size: int, stride: int) -> None:
    found = nodes.neighbors(depth, (size,) * 3, stride)
    np.testing.assert_array_equal(found, table(depth, size, stride))


def convolved(x: np.ndarray, weight: np.ndarray, taps: list[list[int]]) -> np.ndarray:
    y = np.zeros((weight.shape[0], len(taps)))
    for place, row in enumerate(taps):
        for tap, node in enumerate(row):
            if node >= 0:
                y[:, place] += weight[:, :, tap] @ x[:, node]
    return y


def padded(y: np.ndarray, depth: int) -> np.ndarray:
    full = np.zeros((len(y), nodes.node_count(depth)))
    full[:, nodes.crossed(depth)] = y
    return full


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (3, 2), (2, 2)])
def test_convolution_and_its_transpose(size: int, stride: int) -> None:
    layer = make(OWN % ("OctreeConv", "curr_depth: 3") + FILTERS % (size, stride))
    x = RANDOM.normal(size=(1, 3, nodes.node_count(3), 1)).astype(np.float32)
    weight = RANDOM.normal(size=(4, 3, size**3, 1)).astype(np.float32)
    bias = RANDOM.normal(size=4).astype(np.float32)
    y = convolved(x[0, :, :, 0], weight[..., 0], table(3, size, stride)) + bias[:, None]
    expected = padded(y, 2) if stride == 2 else y
    dy = RANDOM.normal(size=(1, *expected.shape, 1)).astype(np.float32)
    found = run(layer, [x], [weight, bias], [dy])
    np.testing.assert_allclose(found.tops[0][0, :, :, 0], expected, rtol=1e-4, atol=1e-4)
    assert layer.macs([x.shape]) == weight.size * (len(places(3)) // (8 if stride == 2 else 1))
    back = make(
        OWN % ("OctreeDeconv", f"curr_depth: {4 - stride}")
        + FILTERS.replace("num_output: 4", "num_output: 3 bias_term: false") % (size, stride)
    )
    other = run(back, [dy], [weight], [x])
    np.testing.assert_allclose(other.tops[0], found.bottoms[0], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(other.params[0], found.params[0], rtol=1e-3, atol=1e-3)
    plain = y - bias[:, None]
    expected = padded(plain, 2) if stride == 2 else plain
    np.testing.assert_allclose(other.bottoms[0][0, :, :, 0], expected, rtol=1e-4, atol=1e-4)


def test_pooling_and_unpooling() -> None:
    pool = make(OWN.replace('top: "y"', 'top: "y" top: "m"') % ("OctreePooling", "curr_depth: 3"))
    x = RANDOM.normal(size=(1, 3, nodes.node_count(3), 1)).astype(np.float32)
    groups = x[0, :, :, 0].reshape(3, -1, 8)
    dy = RANDOM.normal(size=(1, 3, 64, 1)).astype(np.float32)
    found = run(pool, [x], dys=[dy, np.zeros((1, 3, groups.shape[1], 1), np.float32)])
    np.testing.assert_allclose(found.tops[0][0, :, :, 0], padded(groups.max(2), 2))
    where = groups.argmax(2) + 8 * np.arange(groups.shape[1])
    np.testing.assert_array_equal(found.tops[1][0, :, :, 0], where)
    expected = np.zeros((3, x.shape[2]))
    np.put_along_axis(expected, where, dy[0, :, nodes.crossed(2), 0].T, axis=1)
    np.testing.assert_allclose(found.bottoms[0][0, :, :, 0], expected)
    back = make(OWN.replace('"x"', '"x" bottom: "m"') % ("OctreeUnpooling", "curr_depth: 2"))
    other = run(back, [dy, found.tops[1]], dys=[x])
    np.testing.assert_allclose(other.tops[0][0, :, :, 0], expected)
    np.testing.assert_allclose(other.bottoms[0][0, :, :, 0], padded(np.take_along_axis(x[0, :, :, 0], where, 1), 2))
    with pytest.raises(NetError, match=r"expected a bottom \(1, C, 64, 1\) of the nodes at depth 2"):
        back.tops([(1, 3, 63, 1), (1, 3, 56, 1)])


def test_a_full_depth_is_a_cube() -> None:
    layer = make(OWN % ("Octree2FullVoxel", "curr_depth: 2 batch_size: 3"))
    assert layer.tops([(1, 5, 192, 1)]) == ((3, 5, 4, 4, 4),)
    with pytest.raises(NetError, match="expected curr_depth"):
        make(OWN % ("Octree2FullVoxel", "curr_depth: 2")).tops([(1, 5, 192, 1)])
    with pytest.raises(NetError, match="expected 3 full octrees of depth 2"):
        layer.tops([(1, 5, 64, 1)])
    x = RANDOM.normal(size=(1, 5, 192, 1)).astype(np.float32)
    found = run(layer, [x]).tops[0]
    for item, (index, place) in product(range(3), enumerate(places(2))):
        np.testing.assert_array_equal(found[(item, slice(None), *place)], x[0, :, 64 * item + index, 0])


def test_rows_of_a_label() -> None:
    text = OWN.replace('"x"', '"x" bottom: "t"')
    x = RANDOM.normal(size=(1, 3, 64, 1)).astype(np.float32)
    labels = nodes.crossed(2).astype(np.float32).reshape(1, 1, 64, 1)
    masked = run(make(text % ("OctreeMask", "mask: 1")), [x, labels])
    np.testing.assert_array_equal(masked.tops[0][0, :, :, 0], x[0, :, nodes.crossed(2), 0].T)
    np.testing.assert_array_equal(masked.bottoms[0], np.broadcast_to(labels, x.shape))
    assert make(text % ("OctreeMask", "mask: 2")).tops([x.shape, labels.shape]) == ((1, 3, 1, 1),)
    cleared = run(make(text % ("OctreeZeroize", "mask: 1")), [x, labels])
    np.testing.assert_array_equal(cleared.tops[0], x * (1 - labels))
    assert not make(text % ("OctreeZeroize", "mask: 1")).stops_backward([True, True])
    with pytest.raises(NetError, match="expected a mask"):
        make(text % ("OctreeMask", "curr_depth: 1")).tops([x.shape, labels.shape])


def test_shapes_of_what_makes_octrees_are_unknown() -> None:
    layer = make(OWN % ("OctreeGrow", "curr_depth: 5"))
    assert layer.tops([(1,)]) == (None,)
    assert layer.shape_source() == "in the octrees of the data"
    layer.shape_overrides = {"y": (1, 8, 64, 1)}
    assert layer.tops([(1,)]) == ((1, 8, 64, 1),)
    data = make('name: "l" type: "OctreeDataBase" top: "x" top: "label" data_param { batch_size: 7 }')
    assert data.tops([]) == (None, (7,))


def test_a_net_of_octrees(tmp_path: Path) -> None:
    def one(kind: str, bottom: str, top: str, more: str) -> str:
        return f'layer {{ name: "{top}" type: "{kind}" {bottom} top: "{top}" {more} }}\n'

    depth = "octree_param { curr_depth: %d signal_channel: 3 %s }"
    text = one("OctreeDataBase", "", "x", 'top: "label" data_param { batch_size: 6 }' + depth % (3, ""))
    text += one("OctreeProperty", "", "s", depth.replace("3 %s", "1 %s") % (2, 'content_flag: "split"'))
    filters = FILTERS.replace("kernel_size", 'weight_filler { type: "xavier" } kernel_size') % (3, 1)
    text += one("OctreeConv", 'bottom: "x"', "c", filters + depth % (3, ""))
    text += one("OctreePooling", 'bottom: "c"', "p", depth % (3, ""))
    text += one("SoftmaxWithLoss", 'bottom: "p" bottom: "s"', "l", "")
    text += one("Octree2FullVoxel", 'bottom: "p"', "v", depth % (2, "batch_size: 6"))
    text += one("InnerProduct", 'bottom: "v"', "f", "inner_product_param { num_output: 5 }")
    text += one("SoftmaxWithLoss", 'bottom: "f" bottom: "label"', "k", "")
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    report = analyze(str(path), batch=2, device="cpu", phase="train")
    shapes = {layer.name: layer.tops[0].shape for layer in report.layers}
    assert shapes["x"] == (1, 3, 2 * nodes.node_count(3), 1)
    assert (shapes["p"], shapes["v"]) == ((1, 4, 128, 1), (2, 4, 4, 4, 4))
    tops = {layer.name: layer.tops[0] for layer in report.layers}
    assert tops["s"].mean_abs == pytest.approx(nodes.crossed(2).mean())
    assert all(top.mean_abs is not None for layer in report.layers for top in layer.tops)
    assert all(param.diff_mean_abs for layer in report.layers for param in layer.params if param.gets_diff)


def test_types_of_other_names_in_nets_of_octrees(tmp_path: Path) -> None:
    """As normalize_layer.cpp and euclidean_loss_layer.cpp of microsoft/O-CNN, compiled, compute."""
    text = """
    layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 dim: 64 dim: 1 } } }
    layer { name: "c" type: "OctreeConv" bottom: "x" top: "c" octree_param { curr_depth: 2 }
      convolution_param { num_output: 4 weight_filler { type: "xavier" } } }
    layer { name: "n" type: "Normalize" bottom: "c" top: "n" }
    layer { name: "l" type: "EuclideanLoss" bottom: "n" bottom: "c" top: "l" %s }
    """
    found = {}
    for mode in ("BATCH_SIZE", "NONE", "VALID", "FULL", ""):
        path = tmp_path / f"{mode}.prototxt"
        written = f"loss_param {{ normalization: {mode} }}" if mode else ""
        path.write_text(text.replace("num_output: 4", "num_output: 4 kernel_size: 1") % written)
        report = analyze(str(path), device="cpu", phase="train", stats=["max"])
        normalized, loss = (next(layer for layer in report.layers if layer.name == name) for name in "nl")
        assert not normalized.params
        (top,) = normalized.tops
        assert top.stats and top.stats.max <= 1
        assert (top.mean_abs or 0) > 0.3  # of 4 channels; over the whole sample it is 0.06 at most
        found[mode] = loss.tops[0].mean_abs or 0
    assert found["VALID"] == found["FULL"] == pytest.approx(found["NONE"] / 64, rel=1e-5)
    assert found["BATCH_SIZE"] == found["NONE"] == found[""]


def test_what_is_divided_by_outlives_zeros() -> None:
    x = np.array([[3.0, 0, 0], [4.0, 0, 5]])[None]
    text = 'name: "l" type: "Normalize" bottom: "x" top: "y"'
    proto = make(text).proto
    found = run(NormalizeOfNodes(proto, 0, Place("net.prototxt", 1)), [x], dys=[np.ones((1, 2, 3), np.float32)])
    np.testing.assert_allclose(found.tops[0][0], [[0.6, 0, 0], [0.8, 0, 1]])
    np.testing.assert_allclose(found.bottoms[0][0], [[0.032, 1e15, 0.2], [-0.024, 1e15, 0]], rtol=1e-5, atol=1e-7)
    with pytest.raises(NetError, match="expected a bottom of 2 axes or more"):
        NormalizeOfNodes(proto, 0, Place("net.prototxt", 1)).tops([(5,)])


def test_octrees_are_no_images(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    grown = 'layer { name: "g" type: "OctreeGrow" top: "g" octree_param { curr_depth: 2 batch_size: 2 } }\n'
    path.write_text(grown + 'layer { name: "r" type: "ReLU" bottom: "g" top: "r" }')
    report = analyze(str(path), static=True)
    assert [layer.tops[0].shape for layer in report.layers] == [None, None]
