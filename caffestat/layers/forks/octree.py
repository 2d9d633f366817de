"""Layer types for octrees, computed for the octree of a sphere: those of the data are not read. (microsoft/O-CNN)

Values of nodes are [1, C, nodes, 1], the octrees of a batch one behind the other. What grows or relabels octrees has
shapes that the user gives, else unknown ones, and its values are data.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.lazy import np
from caffestat.schema.forks import octree_pb2

from ..base import Layer, Param, Shape, layer, read_param
from ..data import Count, Source
from ..loss import EuclideanLoss, Normalized
from ..pooling import emit_max, pooling_window
from . import octree_nodes as nodes
from .faces import UnitLength

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = [
    "NormalizeOfNodes",
    "NormalizedEuclideanLoss",
    "Octree",
    "Octree2FullVoxel",
    "OctreeConv",
    "OctreeDataBase",
    "OctreeDeconv",
    "OctreeMask",
    "OctreePooling",
    "OctreeProperty",
    "OctreeUnpooling",
    "OctreeZeroize",
]

_DEEPEST = 8  # of the octrees that are computed


class _Tree(Layer):
    """What layers share that look at the octree."""

    adds = octree_pb2.LayerParameter

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.octree_param

    @property
    def depth(self) -> int:
        """The depth of the bottom's nodes, or of those that are read."""
        depth = int(self.settings.curr_depth)
        if not self.settings.HasField("curr_depth") or depth > _DEEPEST:
            raise self.error(f"expected a curr_depth of at most {_DEEPEST} in octree_param, found {depth or None}")
        return depth

    def batch(self) -> int:
        """Return how many octrees there are."""
        data = (peer for peer in self.peers if isinstance(peer, OctreeDataBase))
        return next((peer.batch_override or peer.batch_size() for peer in data), 1)

    def rows(self, depth: int) -> int:
        """Return how many nodes all octrees have at a depth."""
        return self.batch() * nodes.node_count(depth)

    def rows_with_children(self, depth: int) -> int:
        """Return how many of them have children."""
        return self.batch() * int(nodes.crossed(depth).sum())

    def of_batch(self, table: np.ndarray, depth: int) -> np.ndarray:
        """Return a table of nodes of one octree, which lie at a depth, for the batch."""
        return nodes.of_batch(table, self.batch(), nodes.node_count(depth))

    def check_rows(self, shape: Shape, depth: int, rows: int | None = None) -> None:
        """Raise NetError for a bottom that has not a row for each node."""
        wanted = self.rows(depth) if rows is None else rows
        if len(shape) != 4 or (shape[0], *shape[2:]) != (1, wanted, 1):
            raise self.error(
                f"expected a bottom (1, C, {wanted}, 1) of the nodes at depth {depth}, found shape {shape}"
            )

    def emit_padded(self, g: Graph, x: str, depth: int) -> str:
        """Emit values [C, nodes] of those that have children [C, nodes with children]: 0 for the others."""
        groups = nodes.of_batch(nodes.children(depth), self.batch(), int(nodes.crossed(depth).sum()))
        return emit_columns(g, x, groups)

    def emit_unpadded(self, g: Graph, x: str, depth: int) -> str:
        """Emit the values of nodes with children [C, nodes with children] out of those of all [C, nodes]."""
        return emit_columns(g, x, self.of_batch(np.flatnonzero(nodes.crossed(depth)), depth))


def emit_columns(g: Graph, x: str, index: np.ndarray) -> str:
    """Emit the columns of x [C, n] that an index of any shape names, 0 for -1: [C, *index]."""
    channels, count = g.shape(x)
    if index.min(initial=0) < 0:
        x = g.emit("Concat", x, g.constant(np.zeros((channels, 1), np.float32)), axis=1)
        x, index = g.declare(x, (channels, count + 1)), np.where(index < 0, count, index)
    return g.declare(g.emit("Gather", x, g.constant(index, np.int64), axis=1), (channels, *index.shape))


class _OctreeFilters(_Tree):
    """What convolution and its transpose share: kernels and params."""

    filler_fields: ClassVar[Mapping[str, str]] = {
        "convolution_param.weight_filler": "weight",
        "convolution_param.bias_filler": "bias",
    }
    num_bottoms = (1, 2)
    step = 0  # to the depth of the top with a stride of 2

    @property
    def kernel(self) -> Shape:
        """The sizes along x, y and z."""
        sizes = tuple(self.proto.convolution_param.kernel_size)
        kernel = sizes * 3 if len(sizes) == 1 else sizes
        if len(kernel) != 3 or not (set(kernel) <= {1, 3} or set(kernel) == {2}):
            raise self.error(f"expected kernel_size 2, or 1 or 3 once or along x, y and z, found {list(sizes)}")
        return kernel

    @property
    def stride(self) -> int:
        """1 or 2."""
        strides = self.proto.convolution_param.stride
        if len(strides) > 1 or (strides and strides[0] not in (1, 2)):
            raise self.error(f"expected one stride, 1 or 2, found {list(strides)}")
        return int(strides[0]) if strides else 1

    @property
    def top_depth(self) -> int:
        """The depth of the top's nodes."""
        depth = self.depth + (self.step if self.stride == 2 else 0)
        if not 0 <= depth <= _DEEPEST:
            raise self.error(f"expected a top at depth 0 to {_DEEPEST}, found depth {depth}")
        return depth

    def weights(self, outputs: int, inputs: int, fan_in: int, fan_out: int) -> tuple[Param, ...]:
        """Return the weights, [outputs, inputs, taps, 1], and the bias."""
        param, taps = self.proto.convolution_param, math.prod(self.kernel)
        shape = (outputs, inputs, taps, 1)
        weight = read_param("weight", shape, param, "weight_filler", fan_in * taps, fan_out * taps)
        bias = read_param("bias", (param.num_output,), param, "bias_filler", 1, 1)
        return (weight, bias) if param.bias_term else (weight,)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check_rows(bottoms[0], self.depth)
        outputs = self.proto.convolution_param.num_output
        if not outputs:
            raise self.error("num_output must be positive; found 0 or none")
        return ((1, outputs, self.rows(self.top_depth), 1),)

    def macs(self, bottoms: Sequence[Shape]) -> int:
        deep = max(self.depth, self.top_depth)
        places = self.rows(deep) // (8 if self.stride == 2 else 1)
        return places * math.prod(self.params(bottoms)[0].shape)

    def mixes_channels(self) -> bool:
        return True

    def emit_biased(self, g: Graph, y: str, params: Sequence[str]) -> str:
        """Emit y [N, rows] plus the bias, if there is one."""
        shape = g.shape(y)
        return g.declare(g.emit("Add", y, g.reshape(params[1], -1, 1)), shape) if len(params) > 1 else y


@layer("OctreeConv", dialect="octree")
class OctreeConv(_OctreeFilters):
    """y[n] = Σ W · x over the nodes around n at its depth; with stride 2, one for each eight children, at their parent.

    Weights [num_output, C, taps, 1], taps in the order of x, y and z. (microsoft/O-CNN, octree_conv_layer.cpp)
    """

    step = -1

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        outputs, inputs = self.proto.convolution_param.num_output, bottoms[0][1]
        return self.weights(outputs, inputs, inputs, outputs)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, outputs = g.shape(bottoms[0]), self.proto.convolution_param.num_output
        table = nodes.neighbors(self.depth, self.kernel, self.stride)
        places = self.batch() * len(table)
        columns = emit_columns(g, g.reshape(bottoms[0], *shape[1:3]), self.of_batch(table, self.depth).T)
        rows = shape[1] * table.shape[1]
        weight = g.reshape(params[0], outputs, rows)
        y = g.declare(g.emit("MatMul", weight, g.reshape(columns, rows, places), hint=self.name), (outputs, places))
        y = self.emit_biased(g, y, params)
        if self.stride == 2:
            y = self.emit_padded(g, y, self.top_depth)
        return [g.reshape(y, 1, outputs, -1, 1)]


@layer("OctreeDeconv", dialect="octree")
class OctreeDeconv(_OctreeFilters):
    """The gradient of OctreeConv used forward: each node adds its weighted kernel; with stride 2, to its children.

    Weights [C, num_output, taps, 1]. (microsoft/O-CNN, octree_deconv_layer.cpp)
    """

    step = 1

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        outputs, inputs = self.proto.convolution_param.num_output, bottoms[0][1]
        return self.weights(inputs, outputs, inputs, outputs)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shape, outputs = g.shape(bottoms[0]), self.proto.convolution_param.num_output
        x = g.reshape(bottoms[0], *shape[1:3])
        if self.stride == 2:
            x = self.emit_unpadded(g, x, self.depth)
        table = self.of_batch(nodes.neighbors(self.top_depth, self.kernel, self.stride), self.top_depth)
        places, taps = table.shape
        weight = g.transpose(g.reshape(params[0], shape[1], outputs * taps), 1, 0)
        columns = g.declare(g.emit("MatMul", weight, x, hint=self.name), (outputs * taps, places))
        where = nodes.inverse(table.T, self.rows(self.top_depth))
        found = emit_columns(g, g.reshape(columns, outputs, taps * places), where)
        y = g.declare(g.emit("ReduceSum", found, g.ints(2), keepdims=0), (outputs, len(where)))
        return [g.reshape(self.emit_biased(g, y, params), 1, outputs, -1, 1)]


@layer("OctreePooling", dialect="octree")
class OctreePooling(_Tree):
    """The maximum of each eight children at their parent, 0 at nodes without; a second top tells which child's it is.

    (microsoft/O-CNN, octree_pooling_layer.cpp)
    """

    num_bottoms = (1, 2)
    num_tops = (1, 2)
    passes_signal = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.refuse_in_place()
        self.check_rows(bottoms[0], self.depth)
        if not self.depth:
            raise self.error("expected a curr_depth of 1 or more: the root has no parent")
        channels, rows = bottoms[0][1:3]
        return ((1, channels, self.rows(self.depth - 1), 1), (1, channels, rows // 8, 1))[: self.top_count]

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        _, channels, rows, _ = g.shape(bottoms[0])
        window = pooling_window((rows, 1), (8, 1), (8, 1), (0, 0))
        y, *mask = emit_max(g, bottoms[0], window, self.top_count > 1, self.name)
        groups = g.reshape(g.declare(y, (1, channels, rows // 8, 1)), channels, rows // 8)
        return [g.reshape(self.emit_padded(g, groups, self.depth - 1), 1, channels, -1, 1), *mask]


@layer("OctreeUnpooling", dialect="octree")
class OctreeUnpooling(_Tree):
    """Each node's value at the child that the mask of OctreePooling names, 0 at the others.

    (microsoft/O-CNN, octree_unpooling_layer.cpp)
    """

    num_bottoms = (2, 3)
    passes_signal = True

    def allow_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check_rows(bottoms[0], self.depth)
        self.check_rows(bottoms[1], self.depth, self.rows_with_children(self.depth))
        return ((1, bottoms[0][1], self.rows(self.depth + 1), 1),)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        _, channels, rows, _ = g.shape(bottoms[0])
        groups = self.rows_with_children(self.depth)
        x = g.reshape(self.emit_unpadded(g, g.reshape(bottoms[0], channels, rows), self.depth), channels, groups, 1)
        places = np.arange(8 * groups, dtype=np.float32).reshape(groups, 8)
        chosen = g.cast(g.emit("Equal", g.reshape(bottoms[1], channels, groups, 1), g.constant(places)), np.float32)
        y = g.declare(g.emit("Mul", x, chosen), (channels, groups, 8))
        return [g.reshape(y, 1, channels, 8 * groups, 1)]


@layer("Octree2FullVoxel", dialect="octree")
class Octree2FullVoxel(_Tree):
    """The nodes of a full depth as cubes [N, C, 2^d, 2^d, 2^d]. (microsoft/O-CNN, octree_full_voxel_layer.cpp)"""

    num_bottoms = (1, 2)
    passes_signal = True

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        p, shape = self.settings, bottoms[0]
        if not (p.HasField("curr_depth") and p.HasField("batch_size")) or len(shape) < 2 or p.curr_depth > _DEEPEST:
            raise self.error("expected curr_depth (at most 8) and batch_size in octree_param, and a bottom (1, C, …)")
        items = self.in_batch(p.batch_size)
        if math.prod(shape) != items * shape[1] * 8**p.curr_depth:
            raise self.error(f"expected {items} full octrees of depth {p.curr_depth}, found shape {shape}")
        return ((items, shape[1], *(1 << p.curr_depth,) * 3),)

    def rebatched(self, bottoms: Sequence[Shape]) -> str:
        written = self.settings.batch_size
        taken = self.in_batch(written)
        return "" if taken == written else f"batch_size {written} is taken as {taken}"

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        (top,) = self.tops([g.shape(bottoms[0])])
        x = g.reshape(bottoms[0], top[1] * top[0], 8**self.depth)
        cubes = g.reshape(emit_columns(g, x, nodes.voxels(self.depth)), top[1], top[0], *top[2:])
        return [g.transpose(cubes, 1, 0, 2, 3, 4)]


class _Masked(_Tree):
    """What layers share whose last bottom holds a label for each node, as OctreeProperty gives it."""

    num_bottoms = (2, None)
    num_tops = (1, None)

    def check_ends(self, bottoms: Sequence[Shape]) -> None:
        """Raise NetError for other than a bottom for each top, and labels for all nodes."""
        if not self.settings.mask:
            raise self.error("expected a mask in octree_param, found none")
        if len(bottoms) != self.top_count + 1:
            raise self.error(
                f"expected {self.top_count + 1} bottoms, one for each top and labels, found {len(bottoms)}"
            )
        rows = math.prod(bottoms[-1])
        if wrong := [shape for shape in bottoms[:-1] if len(shape) != 4 or (shape[0], *shape[2:]) != (1, rows, 1)]:
            raise self.error(f"expected bottoms (1, C, {rows}, 1), found shape {wrong[0]}")

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        return 3 if bottom == len(bottoms) - 1 else None


@layer("OctreeMask", dialect="octree")
class OctreeMask(_Masked):
    """The rows whose label is `mask`; the first one where there is none. (microsoft/O-CNN, octree_mask_layer.cpp)"""

    def chosen(self, rows: int) -> np.ndarray:
        """Return which rows are kept."""
        depth = next((depth for depth in range(_DEEPEST + 1) if self.rows(depth) == rows), None)
        if depth is None:
            raise self.error(f"expected as many labels as the octrees have nodes at some depth, found {rows}")
        found = np.flatnonzero(split_labels(depth) == self.settings.mask[0])
        return self.of_batch(found, depth) if len(found) else np.zeros(1, np.int64)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check_ends(bottoms)
        kept = len(self.chosen(math.prod(bottoms[-1])))
        return tuple((1, shape[1], kept, 1) for shape in bottoms[:-1])

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        shapes = [g.shape(bottom) for bottom in bottoms]
        index = self.chosen(math.prod(shapes[-1]))
        pairs = zip(bottoms[:-1], shapes[:-1], strict=True)
        kept = (emit_columns(g, g.reshape(value, *shape[1:3]), index) for value, shape in pairs)
        return [g.reshape(value, 1, *g.shape(value), 1) for value in kept]


@layer("OctreeZeroize", dialect="octree")
class OctreeZeroize(_Masked):
    """y = x, 0 where the label is `mask`. (microsoft/O-CNN, octree_zeroize_layer.cpp)"""

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.check_ends(bottoms)
        return tuple(bottoms[:-1])

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        labels = g.reshape(bottoms[-1], 1, 1, -1, 1)
        is_cleared = g.emit("Equal", g.emit("Floor", labels), g.constant(self.settings.mask[0]))
        kept = g.emit("Where", is_cleared, g.constant(0), g.constant(1))
        return [g.emit("Mul", value, kept) for value in bottoms[:-1]]


def split_labels(depth: int) -> np.ndarray:
    """Return what octrees say of each node: 1 where the surface crosses it, else 0."""
    return nodes.crossed(depth).astype(np.float32)


# ---- types of other names --------------------------------------------------------------------------------------------


def is_for_octrees(types: Collection[str]) -> bool:
    """Tell whether a net has layers for octrees: then others are of their fork, too."""
    return any(name.startswith("Octree") for name in types)


@layer("Normalize", dialect="octree")
class NormalizeOfNodes(UnitLength):
    """y = x / √(Σ x² + 1e-30), Σ over the channels. (microsoft/O-CNN, normalize_layer.cpp)"""

    eps_of = 1e-30
    has_four_axes = False

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and is_for_octrees(types)

    def axes(self, rank: int) -> Sequence[int]:
        if rank < 2:
            raise self.error("expected a bottom of 2 axes or more (N, C, …), found 1")
        return (1,)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        self.axes(len(bottoms[0]))
        return (bottoms[0],)


@layer("EuclideanLoss", dialect="octree")
class NormalizedEuclideanLoss(EuclideanLoss, Normalized):
    """y = Σ (x₀ - x₁)² / 2n, n by `normalization` of loss_param: the batch, all positions (FULL, VALID) or 1.

    (microsoft/O-CNN, euclidean_loss_layer.cpp)
    """

    @classmethod
    def claims(cls, proto: Any, types: Collection[str]) -> bool:
        return bool(proto.loss_param.HasField("normalization")) and is_for_octrees(types)

    def divisor(self, shape: Shape) -> float:
        return self.most(shape[0], math.prod(shape[2:]))


# ---- data ------------------------------------------------------------------------------------------------------------


class _Nodes(_Tree, Source):
    """Tops that are data: rows of nodes, and what stands beside them."""

    num_bottoms: ClassVar[Count] = (0, 0)
    num_tops: ClassVar[Count] = (1, None)
    why_unread = "octrees are not read; octrees of a sphere are used"
    may_hold_images = False

    def shape_source(self) -> str:
        return "in the octrees of the data"

    def top_shape(self, index: int, name: str) -> Shape | None:
        return self.shape_overrides.get(name) or self.written_shape(index)


@layer("OctreeDataBase", dialect="octree")
class OctreeDataBase(_Nodes):
    """Features of the nodes of depth curr_depth of batch_size octrees, a label for each, and the octrees.

    (microsoft/O-CNN, octree_database_layer.cpp)
    """

    num_tops = (1, 3)

    def batch_size(self) -> int:
        return int(self.proto.data_param.batch_size)

    def batches(self) -> Sequence[int]:
        return (self.batch_size(),)

    def batch(self) -> int:
        return self.batch_override or self.batch_size()

    def written_shape(self, index: int) -> Shape | None:
        if index:
            return ((self.batch(),), (1,))[index - 1]
        has_depth = self.settings.HasField("curr_depth")
        return (1, self.settings.signal_channel, self.rows(self.depth), 1) if has_depth else None


@layer("OctreeProperty", dialect="octree")
class OctreeProperty(_Nodes):
    """What the octrees hold for the nodes of a depth: features, labels, or whether they are split.

    (microsoft/O-CNN, octree_property_layer.cpp)
    """

    num_bottoms = (0, 1)

    def written_shape(self, index: int) -> Shape | None:
        return (1, self.settings.signal_channel, self.rows(self.depth), 1)

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        if self.settings.content_flag != "split" or shape[2] != self.rows(self.depth):
            return None
        return np.broadcast_to(np.tile(split_labels(self.depth), self.batch())[None, None, :, None], shape)


@layer(
    "Octree2Col",
    "OctreeDepadding",
    "OctreeGrow",
    "OctreeIntersection",
    "OctreePadding",
    "OctreeSetFeature",
    "OctreeTile",
    "OctreeUpdateLabel",
    dialect="octree",
)
class Octree(_Nodes):
    """Octrees, or features of nodes, that are made of others: not computed.

    (microsoft/O-CNN, octree_base_conv_layer.cpp)
    """

    num_bottoms = (0, None)
