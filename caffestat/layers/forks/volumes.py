"""Convolution and pooling of forks over volumes [N, C, D, H, W] and clips [N, C, L, H, W]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from functools import partial, reduce
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.errors import Place
from caffestat.lazy import np
from caffestat.ops import Window
from caffestat.schema.forks import volumes_pb2

from ..base import Shape, layer
from ..convolution import Convolution, Deconvolution
from ..math import Softmax
from ..pooling import AVE, MAX, Pooling
from ..reread import emit_reread

if TYPE_CHECKING:
    from caffestat.autodiff import Tape
    from caffestat.graph import Graph

__all__ = [
    "Convolution3D",
    "CubicPooling3D",
    "Deconvolution3D",
    "DepthConvolution",
    "DepthPooling",
    "DepthPooling3D",
    "DilatedPooling",
    "NdConvolution",
    "NdPooling",
    "NdSizedPooling",
    "Pooling3D",
    "VoxelSoftmax",
]

MOST_AXES = 3  # over which the runtime pools


# ---- convolution -----------------------------------------------------------------------------------------------------


class _Volumes(Convolution):
    """A Convolution whose window is written in a fork's way."""

    spatial: ClassVar[int | None] = 3  # how many axes the window has; None where the file tells

    def __init__(self, proto: Any, phase: int, place: Place) -> None:
        super().__init__(deepcopy(proto), phase, place)
        self.written_param = proto.convolution_param

    def sizes(self) -> Mapping[str, Sequence[int]]:
        """Return kernel_size, stride and pad, one value per spatial axis."""
        raise NotImplementedError

    def geometry(self, bottoms: Sequence[Shape]) -> Any:
        if self.spatial and len(bottoms[0]) != self.spatial + 2:
            raise self.error(f"expected a bottom of {self.spatial + 2} axes, found shape {bottoms[0]}")
        param = self.proto.convolution_param
        for name in ("kernel", "stride", "pad"):
            param.ClearField(f"{name}_h")
            param.ClearField(f"{name}_w")
        for name, values in self.sizes().items():
            if any(not 0 <= value < 2**32 for value in values):
                raise self.error(f"expected {name} of 0 to 4,294,967,295, found {list(values)}")
            param.ClearField(name)
            getattr(param, name).extend(values)
        return super().geometry(bottoms)

    def once(self, values: Sequence[int], default: int) -> int:
        """Return the value of a field that the fork has once."""
        if len(values) > 1:
            raise self.error(f"expected one value for height and width together, found {list(values)}")
        return values[0] if values else default


@layer("NdConvolution", dialect="c3d")
class NdConvolution(_Volumes):
    """Convolution with kernel_shape, stride_shape and pad_shape, one value per spatial axis.

    (chuckcho/video-caffe, cudnn_ndconv_layer.cpp)
    """

    adds = volumes_pb2.ClipLayerParameter
    spatial = None

    def sizes(self) -> Mapping[str, Sequence[int]]:
        p = self.added.convolution_param
        kernel = tuple(p.kernel_shape.dim)
        if not kernel:
            raise self.error("expected kernel_shape in convolution_param, found none")
        shapes = {"stride": tuple(p.stride_shape.dim), "pad": tuple(p.pad_shape.dim)}
        if any(shape and len(shape) != len(kernel) for shape in shapes.values()):
            raise self.error(f"expected as many values in stride_shape and pad_shape as in kernel_shape {kernel}")
        return {"kernel_size": kernel, "stride": shapes["stride"], "pad": shapes["pad"]}


@layer("Convolution", dialect="volumes")
class DepthConvolution(_Volumes):
    """Convolution of volumes [N, C, H, W, D]: kernel_size, stride and pad, or each as _h, _w and _d.

    (Xiaomi2008/Caffe_3D_FF, conv_layer.cpp)
    """

    adds = volumes_pb2.VolumeLayerParameter

    def sizes(self) -> Mapping[str, Sequence[int]]:
        names = {"kernel": "kernel_size", "stride": "stride", "pad": "pad"}
        return {field: self.size(name, field, int(name == "stride")) for name, field in names.items()}

    def size(self, name: str, field: str, default: int) -> Sequence[int]:
        """Return one of kernel, stride and pad along height, width and depth."""
        param, added = self.written_param, self.added.convolution_param
        if getattr(param, field):
            return (self.once(getattr(param, field), default),) * 3
        pair = (getattr(param, f"{name}_{axis}") if param.HasField(f"{name}_{axis}") else default for axis in "hw")
        return (*pair, getattr(added, f"{name}_d"))


@layer("Convolution3D", dialect="c3d")
class Convolution3D(_Volumes):
    """Convolution of clips [N, C, L, H, W]: kernel_depth, temporal_stride and temporal_pad are those along L.

    They stand in convolution3d_param, with everything else, or in convolution_param. `group` counts for nothing, and
    filter_group only saves memory. (facebookarchive/C3D, convolution3d_layer.cpp)
    """

    adds = volumes_pb2.DepthLayerParameter
    filler_fields: ClassVar[Mapping[str, str]] = {
        "convolution_param.weight_filler": "weight",
        "convolution_param.bias_filler": "bias",
        "convolution3d_param.weight_filler": "weight",
        "convolution3d_param.bias_filler": "bias",
    }

    def sizes(self) -> Mapping[str, Sequence[int]]:
        param, own = self.proto.convolution_param, self.added.convolution3d_param
        param.ClearField("group")
        if self.added.HasField("convolution3d_param"):
            for name in ("num_output", "bias_term", "weight_filler", "bias_filler"):
                if own.HasField(name):
                    self.put(param, name, getattr(own, name))
            kernel, stride, pad, times = own.kernel_size, own.stride, own.pad, own
        else:
            old, times = self.written_param, self.added.convolution_param
            kernel, stride, pad = self.once(old.kernel_size, 0), self.once(old.stride, 1), self.once(old.pad, 0)
        return {
            "kernel_size": (times.kernel_depth, kernel, kernel),
            "stride": (times.temporal_stride, stride, stride),
            "pad": (times.temporal_pad, pad, pad),
        }

    @staticmethod
    def put(param: Any, name: str, value: Any) -> None:
        """Set a field, a message or not."""
        if hasattr(value, "CopyFrom"):
            getattr(param, name).CopyFrom(value)
        else:
            setattr(param, name, value)


@layer("Deconvolution3D", dialect="c3d")
class Deconvolution3D(Deconvolution, Convolution3D):
    """Deconvolution of clips [N, C, L, H, W], with the fields of Convolution3D.

    (facebookarchive/C3D, deconvolution3d_layer.cpp)
    """


@layer("VoxelSoftmax", dialect="c3d")
class VoxelSoftmax(Softmax):
    """Softmax over the channels of clips [N, C, L, H, W]. (facebookarchive/C3D, voxel_wise_softmax_layer.cpp)"""


# ---- pooling ---------------------------------------------------------------------------------------------------------


class _Pooling(Pooling):
    """A Pooling over one to three axes."""

    spatial: ClassVar[int | None] = 3  # how many axes the window has; None where the file tells

    @property
    def method(self) -> int:
        """How a window is pooled."""
        return int(self.proto.pooling_param.pool)

    def rounding(self) -> str:
        return "up"

    def image(self, bottoms: Sequence[Shape]) -> Shape:
        shape = bottoms[0]
        fits = len(shape) == self.spatial + 2 if self.spatial else 3 <= len(shape) <= MOST_AXES + 2
        if not fits:
            expected = self.spatial + 2 if self.spatial else f"3 to {MOST_AXES + 2}"
            raise self.error(f"expected a bottom of {expected} axes (N, C, …), found shape {shape}")
        return shape[2:]

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape, ...]:
        window = self.window(self.image(bottoms))
        if self.top_count > 1 and self.method != MAX:
            raise self.error("only pool: MAX has a second top, the mask; remove it")
        return ((*bottoms[0][:2], *window.out),) * self.top_count

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        window = self.window(g.shape(bottoms[0])[2:])
        return self.emit(g, bottoms[0], self.method, window, self.top_count > 1)

    def whole(self, size: Shape, kernel: Sequence[int], stride: Sequence[int], pad: Sequence[int]) -> Window:
        """Return the window of global_pooling, which has neither kernel, padding nor stride."""
        if any(kernel) or any(pad) or any(step != 1 for step in stride):
            raise self.error("global_pooling takes the whole bottom: remove kernel, pad and stride")
        return self.slide(size, size, (1,) * len(size), (0,) * len(size))


@layer("NdPooling", dialect="c3d")
class NdPooling(_Pooling):
    """Pooling with kernel_shape, stride_shape and pad_shape, one value per spatial axis.

    The last window along an axis is dropped when it starts in that axis's padding.
    (chuckcho/video-caffe, cudnn_ndpooling_layer.cpp)
    """

    adds = volumes_pb2.ClipLayerParameter
    num_tops = (1, 1)
    spatial = None

    def window(self, size: Shape) -> Window:
        p = self.added.pooling_param
        kernel = tuple(p.kernel_shape.dim)
        if not p.HasField("kernel_shape"):
            raise self.error("expected kernel_shape in pooling_param, with global_pooling too; found none")
        if self.proto.pooling_param.global_pooling:
            kernel = size
        stride = tuple(p.stride_shape.dim) or (1,) * len(kernel)
        pad = tuple(p.pad_shape.dim) or (0,) * len(kernel)
        if not len(kernel) == len(stride) == len(pad) == len(size):
            raise self.error(
                f"expected {len(size)} values in kernel_shape, stride_shape and pad_shape, "
                f"found {list(kernel)}, {list(stride)} and {list(pad)}"
            )
        return self.slide(size, kernel, stride, pad, drops="own")


@layer("Pooling", dialect="c3d")
class NdSizedPooling(_Pooling):
    """Pooling with kernel_size, stride and pad once, or once per spatial axis, of which there may be one to three.

    The last window along an axis is dropped when it starts in that axis's padding.
    (VisionLearningGroup/R-C3D, caffe3d/src/caffe/layers/pooling_layer.cpp)
    """

    adds = volumes_pb2.ClipLayerParameter
    spatial = None

    def window(self, size: Shape) -> Window:
        if self.proto.pooling_param.global_pooling:
            p = self.added.pooling_param
            return self.whole(size, p.kernel_size, p.stride, p.pad)
        kernel = self.per_axis("kernel_size", "kernel", len(size), None)
        stride, pad = self.per_axis("stride", "stride", len(size), 1), self.per_axis("pad", "pad", len(size), 0)
        return self.slide(size, kernel, stride, pad, drops="own")

    def per_axis(self, name: str, stem: str, axes: int, default: int | None) -> Shape:
        """Return a field of the window, one value per spatial axis."""
        param, given = self.proto.pooling_param, tuple(getattr(self.added.pooling_param, name))
        pair = (f"{stem}_h", f"{stem}_w")
        if any(param.HasField(field) for field in pair):
            if axes != 2 or given:
                raise self.error(f"{pair[0]} and {pair[1]} stand for {name} when there are two spatial axes")
            return tuple(getattr(param, field) for field in pair)
        if len(given) not in (1, axes) and (given or default is None):
            raise self.error(f"{name} is given once, or once per spatial axis ({axes}); found {len(given)} values")
        return given if len(given) == axes else (given or (default or 0,)) * axes


@layer("Pooling", dialect="greentea")
class DilatedPooling(NdSizedPooling):
    """Pooling over elements `dilation` apart, given once or per spatial axis, of which there may be one to three.

    The last window along an axis is dropped when it starts in that axis's padding. The reference's CPU code pools over
    neighbours. (naibaf7/caffe, pooling_layer.cpp)
    """

    adds = volumes_pb2.DilatedLayerParameter

    def slide(self, size: Shape, kernel: Shape, strides: Shape, pads: Shape, **settings: Any) -> Window:
        apart = tuple(self.added.pooling_param.dilation)
        if len(apart) not in (1, len(size)) or min(apart) < 1:
            found = list(apart)
            raise self.error(
                f"expected a positive dilation, once or once per spatial axis ({len(size)}), found {found}"
            )
        dilations = apart if len(apart) == len(size) else apart * len(size)
        return super().slide(size, kernel, strides, pads, dilations=dilations, **settings)


@layer("Pooling", dialect="volumes")
class DepthPooling(_Pooling):
    """Pooling of volumes [N, C, H, W, D]: kernel_size, stride and pad, or each as _h, _w and _d.

    The last window along an axis is dropped when it starts in that axis's padding.
    (Xiaomi2008/Caffe_3D_FF, pooling_layer.cpp)
    """

    adds = volumes_pb2.VolumeLayerParameter
    num_tops = (1, 1)

    def window(self, size: Shape) -> Window:
        kernel, stride = self.per_axis("kernel_size", "kernel", 0), self.per_axis("stride", "stride", 1)
        return self.slide(size, kernel, stride, self.per_axis("pad", "pad", 0), drops="own")

    def per_axis(self, name: str, stem: str, default: int) -> Shape:
        """Return a field of the window along height, width and depth."""
        param, added = self.proto.pooling_param, self.added.pooling_param
        if param.HasField(name):
            return (getattr(param, name),) * 3
        pair = (getattr(param, f"{stem}_{axis}") if param.HasField(f"{stem}_{axis}") else default for axis in "hw")
        return (*pair, getattr(added, f"{stem}_d"))


@layer("Pooling3D", dialect="p3d")
class Pooling3D(_Pooling):
    """Pooling of clips [N, C, L, H, W]: kernel_size, stride and pad are those along H and W, with _l those along L.

    (ZhaofanQiu/pseudo-3d-residual-networks, caffe_add_layers/src/pooling3d_layer.cpp)
    """

    adds: ClassVar[Any] = volumes_pb2.LengthLayerParameter
    num_tops = (1, 2)

    @property
    def settings(self) -> Any:
        """The layer's own parameters."""
        return self.added.pooling3d_param

    @property
    def method(self) -> int:
        return int(self.settings.pool)

    def window(self, size: Shape) -> Window:
        p = self.settings
        sizes = self.per_axis("kernel_size", "kernel"), self.per_axis("stride", "stride"), self.per_axis("pad", "pad")
        if p.global_pooling:
            return self.whole(size, *sizes)
        return self.slide(size, *sizes)

    def per_axis(self, name: str, stem: str) -> Shape:
        """Return a field of the window along length, height and width."""
        p = self.settings
        given = [p.HasField(f"{stem}_{axis}") for axis in "hw"]
        if any(given) and (not all(given) or p.HasField(name)):
            raise self.error(f"give {name}, or both {stem}_h and {stem}_w")
        pair = (getattr(p, f"{stem}_h"), getattr(p, f"{stem}_w")) if all(given) else (getattr(p, name),) * 2
        return (getattr(p, f"{stem}_l"), *pair)


@layer("Pooling3D", dialect="frcnn3d")
class CubicPooling3D(Pooling3D):
    """Pooling of clips [N, C, L, H, W]: kernel_size, stride and pad along all three axes, or each as _l, _h and _w.

    How a window is pooled stands in pooling_param, and is MAX without one: `pool` here counts for nothing.
    (superxuang/caffe_3d_faster_rcnn, pooling3d_layer.cpp)
    """

    adds = volumes_pb2.CubicLayerParameter

    @property
    def settings(self) -> Any:
        return self.added.pooling_3d_param

    @property
    def method(self) -> int:
        return int(self.proto.pooling_param.pool)

    def per_axis(self, name: str, stem: str) -> Shape:
        p = self.settings
        given = [p.HasField(f"{stem}_{axis}") for axis in "lhw"]
        if any(given) and (not all(given) or p.HasField(name)):
            raise self.error(f"give {name}, or {stem}_l, {stem}_h and {stem}_w")
        return tuple(getattr(p, f"{stem}_{axis}") for axis in "lhw") if all(given) else (getattr(p, name),) * 3


@layer("Pooling3D", dialect="c3d")
class DepthPooling3D(_Pooling):
    """Pooling of clips [N, C, L, H, W]: kernel_depth and temporal_stride are those along L, which has no padding.

    They stand in pooling3d_param, with everything else, or in pooling_param. No window is dropped, and MAX takes no
    padding; each element that equals its window's maximum gets the whole gradient. (facebookarchive/C3D,
    pool3d_layer.cpp)
    """

    adds = volumes_pb2.DepthLayerParameter
    num_tops = (1, 1)

    @property
    def settings(self) -> Any:
        """The message that holds everything but what runs along L."""
        own = self.added.pooling3d_param
        return own if self.added.HasField("pooling3d_param") else self.proto.pooling_param

    @property
    def method(self) -> int:
        return int(self.settings.pool)

    def window(self, size: Shape) -> Window:
        p = self.settings
        times = p if self.added.HasField("pooling3d_param") else self.added.pooling_param
        if p.pad and self.method != AVE:
            raise self.error("only pool: AVE takes padding; remove pad")
        kernel, stride = (times.kernel_depth, *(p.kernel_size,) * 2), (times.temporal_stride, *(p.stride,) * 2)
        return self.slide(size, kernel, stride, (0, p.pad, p.pad), drops="none")

    def emit(self, g: Graph, x: str, method: int, window: Window, mask: bool = False) -> list[str]:
        if method != MAX:
            return super().emit(g, x, method, window, mask)
        forward = partial(_Pooling.emit, self, g, method=method, window=window)

        def gradient(tape: Tape, bottom: str, top: str, dy: str) -> str:
            return _shared_by_ties(tape, window, tape.declare(bottom, g.shape(x)), top, dy)

        y = emit_reread(g, x, lambda value: forward(value)[0], gradient)
        return [g.declare(y, (*g.shape(x)[:2], *window.out))]


def _shared_by_ties(tape: Tape, window: Window, x: str, y: str, dy: str) -> str:
    """Emit dy of each window, of the maximum y, to all elements of x that equal y."""
    parts = []
    for covering in product(*(_covering(window, axis) for axis in range(len(window.size)))):
        most, change = y, dy
        for axis, (index, _) in enumerate(covering, 2):
            at = tape.constant(index, np.int64)
            most, change = (tape.emit("Gather", value, at, axis=axis) for value in (most, change))
        is_inside = reduce(np.logical_and.outer, [inside for _, inside in covering])
        is_most = tape.emit("And", tape.emit("Equal", x, most), tape.constant(is_inside, np.bool_))
        parts.append(tape.emit("Where", is_most, change, tape.constant(0)))
    return tape.emit("Sum", *parts)


def _covering(window: Window, axis: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield a window for each position along an axis without padding, and whether it covers the position."""
    positions, stride = np.arange(window.size[axis]), window.strides[axis]
    for before in range(-(-window.kernel[axis] // stride)):
        index = np.minimum(positions // stride, window.out[axis] - 1) - before
        covers = (index >= 0) & (positions - index * stride < window.kernel[axis])
        yield np.maximum(index, 0), covers
