"""Layer types for octrees. (microsoft/O-CNN)

The octrees of the data say how many nodes each depth has, and which are neighbours. They are not read: shapes are those
that the user gives, else unknown, and values are data.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from caffestat.schema.forks import octree_pb2

from ..base import Shape, layer
from ..data import Count, Source

__all__ = ["Octree", "Octree2FullVoxel", "OctreeDataBase"]


class _Nodes(Source):
    """Tops of one row per node of an octree [1, C, nodes, 1], taken as data; no gradient passes."""

    adds = octree_pb2.LayerParameter
    num_bottoms: ClassVar[Count] = (0, None)
    num_tops: ClassVar[Count] = (1, None)
    why_unread = "octrees are not read"

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.octree_param

    def shape_source(self) -> str:
        return "in the octrees of the data"


@layer("OctreeDataBase", dialect="octree")
class OctreeDataBase(_Nodes):
    """Features of the nodes of depth curr_depth of batch_size octrees, a label for each, and the octrees.

    (microsoft/O-CNN, octree_database_layer.cpp)
    """

    num_bottoms = (0, 0)
    num_tops = (1, 3)

    def written_shape(self, index: int) -> Shape | None:
        return (self.proto.data_param.batch_size,) if index == 1 else None


@layer(
    "OctreeProperty",
    "Octree2Col",
    "OctreeConv",
    "OctreeDeconv",
    "OctreeDepadding",
    "OctreeGrow",
    "OctreeIntersection",
    "OctreeMask",
    "OctreePadding",
    "OctreePooling",
    "OctreeSetFeature",
    "OctreeTile",
    "OctreeUnpooling",
    "OctreeUpdateLabel",
    "OctreeZeroize",
    dialect="octree",
)
class Octree(_Nodes):
    """Features of nodes, which the octrees say how to compute: not computed.

    (microsoft/O-CNN, octree_base_conv_layer.cpp)
    """


@layer("Octree2FullVoxel", dialect="octree")
class Octree2FullVoxel(_Nodes):
    """The nodes of a full depth as cubes [N, C, 2^d, 2^d, 2^d]: not computed.

    (microsoft/O-CNN, octree_full_voxel_layer.cpp)
    """

    num_bottoms = (1, 2)
    num_tops = (1, 1)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape | None, ...]:
        p, shape = self.settings, bottoms[0]
        if not (p.HasField("curr_depth") and p.HasField("batch_size")) or len(shape) < 2 or p.curr_depth > 8:
            raise self.error("expected curr_depth (at most 8) and batch_size in octree_param, and a bottom (1, C, …)")
        return ((p.batch_size, shape[1], *(1 << p.curr_depth,) * 3),)
