"""Layers for octrees, whose shapes the data decides."""

from __future__ import annotations

import pytest

from caffestat.errors import NetError

from ..harness import make

OWN = 'name: "l" type: "%s" bottom: "x" top: "y" octree_param { %s }'


def test_shapes_that_stand_in_octrees_are_unknown() -> None:
    layer = make(OWN % ("OctreeConv", "curr_depth: 5") + " convolution_param { num_output: 8 kernel_size: 3 }")
    assert layer.tops([(1, 3, 8, 1)]) == (None,)
    assert layer.shape_source() == "in the octrees of the data"
    layer.shape_overrides = {"y": (1, 8, 64, 1)}
    assert layer.tops([(1, 3, 64, 1)]) == ((1, 8, 64, 1),)
    data = make('name: "l" type: "OctreeDataBase" top: "x" top: "label" data_param { batch_size: 7 }')
    assert data.tops([]) == (None, (7,))


def test_a_full_depth_is_a_cube() -> None:
    layer = make(OWN % ("Octree2FullVoxel", "curr_depth: 2 batch_size: 3"))
    assert layer.tops([(1, 5, 192, 1)]) == ((3, 5, 4, 4, 4),)
    with pytest.raises(NetError, match="expected curr_depth"):
        make(OWN % ("Octree2FullVoxel", "curr_depth: 2")).tops([(1, 5, 192, 1)])
