"""Data layers of forks: videos, maps of labels, boxes, windows."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Any, ClassVar

from caffestat.lazy import np
from caffestat.schema.forks import data_pb2, datasets_pb2

from ..base import TRAIN, Shape, layer, type_name
from ..data import Count, Images, Python
from .rois import random_boxes
from .ssd import AnnotatedData

__all__ = [
    "ActionVideoData",
    "BoxData",
    "CPMData",
    "CPMDataOfCpm",
    "CarcontImageData",
    "ClipVideoData",
    "CustomData",
    "DenseImageData",
    "DriveData",
    "FileData",
    "FirstClipVideoData",
    "GenericWindowData",
    "ImageLabelData",
    "ImageLabelDataClass",
    "ImageLabelDataIndex",
    "ImageLabelDataIndexDet",
    "ImageLabelmapData",
    "ImageSegData",
    "LoadImageData",
    "LrcnVideos",
    "MultiSourcesImagesData",
    "OPData",
    "PairedImageData",
    "RandomImageData2",
    "SegData",
    "SegmentVideoData",
    "SquareBoxData",
    "StreamVideoData",
    "VideoDataRNN",
    "VideoSegmentationData",
    "VideoWithVoxelTruthData",
    "VolumeLabelData",
    "WindowInstSegData",
    "WindowSegData",
    "YoloBoxData",
]

FLOW = 1
MOST_BOXES = 30
_OPENPOSE = {  # maps of parts, limbs and background by the number of parts that a model's name tells
    "12": 35,
    "18": 57,
    "19": 60,
    "19b": 64,
    "19E": 80,
    "19_V2": 56,
    "22": 87,
    "23": 96,
    "25": 78,
    "25B": 97,
    "25E": 102,
    "25_17E": 102,
    "59": 180,
    "65": 198,
    "95": 321,
    "135": 439,
}
_VIDEOS = {"Train_RGB": 24, "Train_flow": 24, "Test_RGB": 3, "Test_flow": 3}  # LRCN's, in a batch


class _Files(Images):
    """Images [N, C, H, W], and further tops whose shapes follow from theirs."""

    adds: ClassVar[Any] = data_pb2.LayerParameter
    num_tops: ClassVar[Count] = (2, 2)

    seeds_thread: ClassVar[bool] = True  # the reference gives the thread that reads a seed; older ones do not

    @property
    def why_unread(self) -> str:
        return "" if self.data_kind else "the contents of its files are not read"

    @property
    def settings(self) -> Any:
        """The message that holds batch_size and source."""
        return self.proto.image_data_param

    def setup_words(self) -> tuple[str, ...]:
        words = super().setup_words()
        return words if self.seeds_thread else words[:-1]

    def own_words(self) -> tuple[str, ...]:
        shuffle, skip = (getattr(self.settings, name, 0) for name in ("shuffle", "rand_skip"))
        return ("shuffle",) * bool(shuffle) + ("skip",) * (skip > 0)

    def batch_size(self) -> int:
        """Return the batch size that the file states, 1 for a type whose bottoms or records tell it."""
        return int(getattr(self.settings, "batch_size", 1))

    def channels(self) -> int:
        """Return 1 for images that are read in gray, else 3."""
        return 3 if getattr(self.settings, "is_color", True) else 1

    def image_shape(self) -> Shape | None:
        size = self.size()
        return (self.batch_size(), self.channels(), *size) if size else None

    def size(self) -> tuple[int, int] | None:
        """Return height and width of the images: of what is cut out, else of what they are resized to."""
        crop = self.proto.transform_param.crop_size
        return (crop, crop) if crop else self.resized()

    def resized(self) -> tuple[int, int] | None:
        """Return new_height and new_width; None where the files decide."""
        size = getattr(self.settings, "new_height", 0), getattr(self.settings, "new_width", 0)
        if bool(size[0]) != bool(size[1]):
            raise self.error(f"expected new_height and new_width together, found {size[0]} and {size[1]}")
        return size if all(size) else None

    def top_shape(self, index: int, name: str) -> Shape | None:
        if self.reader:
            return self.reader.shapes[index]
        images = super(Images, self).top_shape(0, self.proto.top[0])
        if not index or name in self.shape_overrides:
            return self.shape_overrides.get(name, images)
        return self.further_shape(index, images) if images else None

    def written_shape(self, index: int) -> Shape | None:
        return self.image_shape()

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        """Return the shape of a top behind the images: by default a label for each."""
        return images[:1]

    def shape_source(self) -> str:
        return f"in the files that {self.settings.source!r} lists"


# ---- videos ----------------------------------------------------------------------------------------------------------


@layer("VideoData", dialect="c3d")
class ClipVideoData(_Files):
    """Clips [N, C, new_length, H, W] of videos, and a label for each [N]. (chuckcho/video-caffe, video_data_layer.cpp)

    The one of VisionLearningGroup/R-C3D (caffe3d) is the same.
    """

    adds = data_pb2.C3dLayerParameter
    data_kind = "clips"

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and {"BN", "BNData", "Gather"}.isdisjoint(types)

    @property
    def settings(self) -> Any:
        return self.added.video_data_param

    def image_shape(self) -> Shape | None:
        size, length = self.size(), self.settings.new_length
        return (self.batch_size(), self.channels(), length, *size) if size else None

    def usual_shape(self, index: int, size: tuple[int | None, int, int]) -> Shape:
        n, channels, height, width = super().usual_shape(index, size)
        return (n, channels, self.settings.new_length, height, width)


@layer("VideoData", dialect="c3d-1.0")
class FirstClipVideoData(_Files):
    """Clips [N, 3, new_length, H, W] of videos, and a label for each [N, 1, 1, 1, 1].

    (facebookarchive/C3D, C3D-v1.0, video_data_layer.cpp)
    """

    adds = data_pb2.FirstC3dLayerParameter
    num_tops = (1, 2)

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and proto.HasField("image_data_param")

    def image_shape(self) -> Shape | None:
        size, length = self.size(), self.added.image_data_param.new_length
        if not length:
            raise self.error("expected a positive new_length in image_data_param, found 0")
        return (self.batch_size(), 3, length, *size) if size else None

    def usual_shape(self, index: int, size: tuple[int | None, int, int]) -> Shape:
        n, channels, height, width = super().usual_shape(index, size)
        return (n, channels, self.added.image_data_param.new_length, height, width)

    def further_shape(self, index: int, images: Shape) -> Shape:
        return (images[0], 1, 1, 1, 1)


class _Segments(_Files):
    """Snippets of new_length frames, their channels one after the other: 3 for each of RGB, 2 for each of FLOW."""

    @property
    def settings(self) -> Any:
        return self.added.video_data_param

    def colours(self) -> int:
        """Return the channels that an image file is read with."""
        raise NotImplementedError

    def channels(self) -> int:
        return int(self.settings.new_length * (2 if self.settings.modality == FLOW else 1) * self.colours())


@layer("VideoData", dialect="tsn")
class SegmentVideoData(_Segments):
    """num_segments snippets of each video [N, segments · frames · C, H, W], and a label for each [N, 1, 1, 1].

    (yjxiong/caffe, video_data_layer.cpp)
    """

    adds = data_pb2.TsnLayerParameter
    data_kind = "snippets"
    seeds_thread = False

    @property
    def why_unread(self) -> str:
        p = self.added.transform_param
        written = [name for name in ("crop_height", "crop_width", "original_image") if getattr(p, name)]
        return f"the cropping by {' and '.join(written)} is not known" if written else ""

    def own_words(self) -> tuple[str, ...]:
        return (*("shuffle",) * bool(self.settings.shuffle), "frames")

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and {"NdConvolution", "NdPooling"}.isdisjoint(types)

    def colours(self) -> int:
        is_flow = self.settings.modality == FLOW
        return 1 if is_flow or self.settings.grayscale else 3

    def channels(self) -> int:
        return super().channels() * int(self.settings.num_segments)

    def size(self) -> tuple[int, int] | None:
        p = self.added.transform_param
        return (p.crop_height, p.crop_width) if p.crop_height and p.crop_width else super().size()

    def further_shape(self, index: int, images: Shape) -> Shape:
        return (images[0], 1, 1, 1)


@layer("VideoData", dialect="action")
class ActionVideoData(_Segments):
    """Snippets of videos [N, frames · C, H, W], num_segments in a row of one video, and labels [N / segments, 1, 1, 1].

    --batch N counts videos. (Lyp100208/Caffe_action, video_data_layer.cpp)
    """

    adds = data_pb2.ActionLayerParameter

    def colours(self) -> int:
        return 3 if self.settings.is_color else 1

    def in_a_row(self) -> int:
        """Return how many snippets of one video follow each other."""
        count = self.settings.num_segments
        if not count:
            raise self.error("expected a positive num_segments in video_data_param, found 0")
        return int(count)

    def top_shape(self, index: int, name: str) -> Shape | None:
        shape = super().top_shape(index, name)
        return shape and self.checked(shape) if not index else shape

    def image_shape(self) -> Shape | None:
        size, videos = self.size(), self.batch_override
        count = self.batch_size() if videos is None else videos * self.in_a_row()
        return (count, self.channels(), *size) if size else None

    def written_shape(self, index: int) -> Shape | None:
        return self.image_shape()

    def checked(self, shape: Shape) -> Shape:
        """Return the shape of the images. Raises NetError unless it holds whole videos."""
        row = self.in_a_row()
        videos = self.batch_override
        count = shape[0] if videos is None or self.proto.top[0] in self.shape_overrides else videos * row
        if count % row:
            raise self.error(f"expected a batch_size that num_segments ({row}) divides, found {count}")
        return (count, *shape[1:])

    def further_shape(self, index: int, images: Shape) -> Shape:
        return (self.checked(images)[0] // self.in_a_row(), 1, 1, 1)


@layer("VideoData", dialect="ssd")
class StreamVideoData(AnnotatedData):
    """Frames of a camera or of a video file, of the size that resize_param states, and labels [N], all 0.

    (weiliu89/caffe, video_data_layer.cpp)
    """

    data_kind = "frames"

    @property
    def why_unread(self) -> str:
        p = self.added.video_data_param
        return "" if p.video_type == p.VIDEO else "no camera is read"

    def written_shape(self, index: int) -> Shape | None:
        return (self.batch_size(),) if index else self.image_shape()

    def top_shape(self, index: int, name: str) -> Shape | None:
        return Images.top_shape(self, index, name)

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        return None

    def setup_words(self) -> tuple[str, ...]:
        return Images.setup_words(self)

    def shape_source(self) -> str:
        p = self.added.video_data_param
        return f"in the video {p.video_file!r}" if p.video_file else "in the camera's images"


class _Sequences(_Segments):
    """Frames of sequences, the first of all come first."""

    adds = data_pb2.ActionLayerParameter

    def colours(self) -> int:
        return 3 if self.settings.is_color else 1

    def rows(self) -> int:
        """Return how many sequences there are for each of batch_size."""
        return int(self.settings.num_segments)


@layer("VideoDataRNN", dialect="action")
class VideoDataRNN(_Sequences):
    """Frames [T · N, frames · C, H, W] of N sequences, labels [T, N, 1], and markers [T, N, 1]: 0 where one begins.

    T is seq_length and N batch_size · num_segments; --batch counts sequences.
    (Lyp100208/Caffe_action, video_data_rnn_layer.cpp)
    """

    num_tops = (3, 3)

    def length(self) -> int:
        """Return how many frames a sequence has."""
        if not self.settings.seq_length:
            raise self.error("expected a positive seq_length in video_data_param, found 0")
        return int(self.settings.seq_length)

    def image_shape(self) -> Shape | None:
        size = self.size()
        batch = self.batch_size() if self.batch_override is None else self.batch_override
        return (self.length() * self.rows() * batch, self.channels(), *size) if size else None

    def top_shape(self, index: int, name: str) -> Shape | None:
        images = self.shape_overrides.get(self.proto.top[0]) or self.image_shape()
        if images and min(images) < 1:
            raise self.error(f"expected positive sizes for top {self.proto.top[0]!r}, found shape {images}")
        if not index or name in self.shape_overrides:
            return self.shape_overrides.get(name, images)
        return self.further_shape(index, images) if images else None

    def further_shape(self, index: int, images: Shape) -> Shape:
        return (self.length(), images[0] // self.length(), 1)

    def usual_shape(self, index: int, size: tuple[int | None, int, int]) -> Shape:
        n, channels, height, width = super().usual_shape(index, size)
        return (self.length() * self.rows() * n, channels, height, width)

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        if top != 2:
            return None
        markers = np.ones(shape, np.float32)
        markers[0] = 0
        return markers


@layer("FileData", dialect="action")
class FileData(_Sequences):
    """Features of videos that files hold, labels, and lengths. (Lyp100208/Caffe_action, file_data_layer.cpp)"""

    num_tops = (1, 3)
    reads_pixels = False

    def image_shape(self) -> Shape | None:
        return None

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        return None


@layer(*(f"sequence_input_layer.videoRead{which}" for which in _VIDEOS), dialect="lrcn")
class LrcnVideos(Python):
    """Images [T·N, 3, 227, 227], labels [T·N] and marks [T·N], 0 at the first of T = 16 steps, of N videos.

    24 videos for training, 3 for testing. Its images are not read.
    (LisaAnne/lisa-caffe-public, examples/LRCN_activity_recognition/sequence_input_layer.py)
    """

    STEPS = 16

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return len(proto.top) == 3

    def batches(self) -> Sequence[int]:
        return (_VIDEOS[type_name(self.proto).removeprefix("sequence_input_layer.videoRead")],)

    def top_shape(self, index: int, name: str) -> Shape | None:
        rows = self.STEPS * (self.batch_override or self.batches()[0])
        return self.shape_overrides.get(name, (rows, 3, 227, 227) if index == 0 else (rows,))

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        return np.arange(math.prod(shape)) * self.STEPS // math.prod(shape) > 0 if top == 2 else None


# ---- maps of labels --------------------------------------------------------------------------------------------------


class _Maps(_Files):
    """Images, a map of labels [N, 1, H, W] of their size and, with a third top, their sizes [N, 1, 1, 2]."""

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        return (images[0], 1, *images[2:]) if index == 1 else (images[0], 1, 1, 2)

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        images = self.top_shape(0, self.proto.top[0])
        return np.broadcast_to(np.array(images[2:], np.float32), shape) if top == 2 and images else None


@layer("ImageSegData", dialect="deeplab")
class ImageSegData(_Maps):
    """Images, maps of labels [N, 1, H, W] and sizes [N, 1, 1, 2] of images that a file lists in pairs.

    With has_label: false, of older files, there are images alone. label_type: PIXELML reads num_label_chn floats for
    each pixel, whose bits are the labels; num_edge_chn more channels of images are maps of edges: neither is read here.
    (TheLegendAli/DeepLab-Context, image_seg_data_layer.cpp; crop_height and crop_width are hszhao/PSPNet's, PIXELML is
    Chrisding/seal's)
    """

    num_tops = (1, 3)
    data_kind = "segments"

    @property
    def own_images(self) -> Any:
        """The fork's own fields."""
        return self.added.image_data_param

    @property
    def has_bits(self) -> bool:
        """Whether labels are bits of floats."""
        return bool(self.own_images.label_type == data_pb2.ImageDataParameter.PIXELML)

    @property
    def why_unread(self) -> str:
        return "labels of bits and maps of edges are not read" if self.has_bits or self.own_images.num_edge_chn else ""

    def channels(self) -> int:
        return super().channels() + int(self.own_images.num_edge_chn)

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        if index == 1 and self.has_bits:
            return (images[0], self.own_images.num_label_chn, *images[2:])
        return super().further_shape(index, images)

    def crop(self) -> tuple[int, int]:
        """Return height and width that images are cut to, zeros without."""
        p, side = self.added.transform_param, self.proto.transform_param.crop_size
        return (p.crop_height, p.crop_width) if p.crop_height and p.crop_width else (side, side)

    def size(self) -> tuple[int, int] | None:
        return self.crop() if all(self.crop()) else super().size()

    def is_random(self) -> bool:
        is_cut = self.phase == TRAIN and all(self.crop())
        return bool(self.proto.transform_param.mirror or is_cut or self.added.transform_param.scale_factors)


@layer("WindowSegData", dialect="deconvnet")
class WindowSegData(_Maps):
    """Windows of images, and of their maps of labels, cut to crop_size.

    (HyeonwooNoh/caffe, window_seg_data_layer.cpp)
    """

    num_tops = (2, 3)
    data_kind = "window_segments"
    seeds_thread = False
    has_instances = False  # each line of the list names a map of instances, too

    def crop(self) -> tuple[int, int]:
        """Return height and width that windows are cut to, zeros without."""
        side = self.proto.transform_param.crop_size
        return side, side


@layer("WindowInstSegData", dialect="deconvnet")
class WindowInstSegData(WindowSegData):
    """Windows of images, and of their maps of labels, other instances of objects left out, cut to crop_size.

    (HyeonwooNoh/caffe, window_inst_seg_data_layer.cpp)
    """

    has_instances = True


@layer("DenseImageData", dialect="segnet")
class DenseImageData(_Maps):
    """Images, and maps of labels [N, 1, H, W] of their size or, uncut, of 1 / label_divide_factor of it.

    (alexgkendall/caffe-segnet, dense_image_data_layer.cpp; the cuts are TimoSaemann/ENet's)
    """

    data_kind = "dense"
    seeds_thread = False

    def own_words(self) -> tuple[str, ...]:
        return super().own_words() + ("cuts",) * bool(self.settings.mirror or self.cut())

    @property
    def settings(self) -> Any:
        return self.added.dense_image_data_param

    def size(self) -> tuple[int, int] | None:
        return super().size() if self.proto.transform_param.crop_size else self.cut() or self.resized()

    def cut(self) -> tuple[int, int] | None:
        """Return crop_height and crop_width; None without."""
        size = self.settings.crop_height, self.settings.crop_width
        if bool(size[0]) != bool(size[1]):
            raise self.error(f"expected crop_height and crop_width together, found {size[0]} and {size[1]}")
        return size if all(size) else None

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        is_cut = self.proto.transform_param.crop_size or self.cut()
        factor = 1 if is_cut else max(self.settings.label_divide_factor, 1)
        return (images[0], 1, *(size // factor for size in images[2:]))


@layer("ImageLabelmapData", dialect="hed")
class ImageLabelmapData(_Maps):
    """Images, and a map of labels for each [N, 1, H, W]. (yun-liu/rcf, image_labelmap_data_layer.cpp)"""

    data_kind = "edges"

    def is_random(self) -> bool:
        return bool(self.proto.transform_param.mirror or self.proto.transform_param.crop_size)


@layer("SegData", dialect="tsn")
class SegData(_Maps):
    """One image [1, 3, H, W] and its map of labels [1, 1, H, W], sizes rounded down to multiples of `stride`.

    With batch_size, which is XiaohangZhan/mix-and-match's, N images cut to crop_size. (yjxiong/caffe,
    seg_data_layer.cpp)
    """

    adds = data_pb2.TsnLayerParameter

    @property
    def settings(self) -> Any:
        return self.added.seg_data_param

    def image_shape(self) -> Shape | None:
        return super().image_shape() if self.settings.HasField("batch_size") else None


class _Tvg(_Files):
    """Images cut to crop_size, and a map of labels of the size of label_slice."""

    adds = data_pb2.TvgLayerParameter

    @property
    def settings(self) -> Any:
        return self.added.image_label_data_param

    def channels(self) -> int:
        return Images.channels(self)

    def resized(self) -> tuple[int, int] | None:
        return None

    def labels(self) -> int:
        """Return how many channels a map of labels has."""
        return int(self.settings.num_channels)

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        if index > 1:
            return self.last_shape(index, images)
        size = tuple(self.settings.label_slice.dim)
        if len(size) != 2:
            raise self.error(f"expected two values of dim in label_slice, found {list(size)}")
        return (images[0], self.labels(), *size)

    def last_shape(self, index: int, images: Shape) -> Shape:
        """Return the shape of a top behind the labels: the image's number in the list."""
        return (images[0], 1, 1, 1)

    def shape_source(self) -> str:
        return f"in the files that {self.settings.image_list_path!r} lists"


@layer("ImageLabelData", dialect="tvg")
class ImageLabelData(_Tvg):
    """Images and maps of labels [N, 1, …], label_slice of them. (torrvision/caffe-tvg, image_label_data_layer.cpp)"""

    def labels(self) -> int:
        return 1


@layer("ImageLabelDataClass", dialect="tvg")
class ImageLabelDataClass(_Tvg):
    """Images, maps of labels, and which classes an image holds [N, 1, 1, classes].

    (torrvision/caffe-tvg, image_label_data_class_layer.cpp)
    """

    num_tops = (3, 3)

    def last_shape(self, index: int, images: Shape) -> Shape:
        classes = self.settings.label_space - self.settings.ignore_first_channel_for_classification
        return (images[0], 1, 1, classes)


@layer("ImageLabelDataIndex", dialect="tvg")
class ImageLabelDataIndex(_Tvg):
    """Images, maps of labels, and the images' numbers [N, 1, 1, 1].

    (torrvision/caffe-tvg, image_label_data_index_layer.cpp)
    """

    num_tops = (3, 3)

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        return np.arange(math.prod(shape), dtype=np.float32).reshape(shape) if top == 2 else None


@layer("ImageLabelDataIndexDet", dialect="tvg")
class ImageLabelDataIndexDet(ImageLabelDataIndex):
    """Images, maps of labels, numbers, and detections [N, boxes, 1, 6] of class, corners and score.

    There are init_num_dets of them. (torrvision/caffe-tvg, image_label_data_index_det_layer.cpp)
    """

    num_tops = (3, 4)

    def last_shape(self, index: int, images: Shape) -> Shape:
        return (images[0], self.settings.init_num_dets, 1, 6) if index == 3 else super().last_shape(index, images)

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        images = self.top_shape(0, self.proto.top[0])
        if top != 3 or not images:
            return super().example(top, shape, random)
        rows = np.ones((math.prod(shape[:2]), 6), np.float32)
        rows[:, 1:5] = random_boxes(len(rows), images[2], images[3], random)
        return rows.reshape(shape)


@layer("ImageLabelData", dialect="volumes")
class VolumeLabelData(_Files):
    """Volumes [N, 1, H, W, D] cut to crop_size_h · _w · _d, and labels [N, 1, …] of out_label_size.

    A volume is taken to have one channel. (Xiaomi2008/Caffe_3D_FF, image_label_data_layer.cpp)
    """

    adds = data_pb2.VolumeLayerParameter
    num_tops = (1, 3)

    @property
    def settings(self) -> Any:
        return self.added.image_label_data_param

    def image_shape(self) -> Shape | None:
        p = self.settings
        cut = (p.crop_size,) * 3 if p.crop_size else (p.crop_size_h, p.crop_size_w, p.crop_size_d)
        return (self.batch_size(), 1, *cut) if all(cut) else None

    def further_shape(self, index: int, images: Shape) -> Shape:
        p = self.settings
        sizes = (p.out_label_size_h, p.out_label_size_w, p.out_label_size_d)
        sizes = (p.out_label_size,) * 3 if p.HasField("out_label_size") else sizes
        return (images[0], 1, *(sizes if index == 1 else (1, 1, 1)))


@layer("VideoSegmentationData", dialect="v2v")
class VideoSegmentationData(_Files):
    """Clips [N, C, L, H, W] of binary files, and labels [N, 1, L, H, W].

    (facebookarchive/C3D, video_segmentation_data_layer.cpp)
    """

    adds = data_pb2.V2vLayerParameter
    usual_length = 16  # of C3D's clips

    @property
    def labels(self) -> int:
        """How many channels the labels have."""
        return 1

    def image_shape(self) -> Shape | None:
        return None

    def usual_shape(self, index: int, size: tuple[int | None, int, int]) -> Shape:
        n, channels, height, width = super().usual_shape(0, size)
        return (n, channels, self.added.image_data_param.new_length or self.usual_length, height, width)

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        return (images[0], self.labels, *images[2:])


@layer("VideoWithVoxelTruthData", dialect="v2v")
class VideoWithVoxelTruthData(VideoSegmentationData):
    """VideoSegmentationData with num_truth_channels of truth.

    (facebookarchive/C3D, video_with_voxel_truth_data_layer.cpp)
    """

    @property
    def labels(self) -> int:
        return int(self.added.image_data_param.num_truth_channels)


# ---- boxes and poses -------------------------------------------------------------------------------------------------


class _Boxed(_Files):
    """Images of a database, and for each `side` the boxes in it."""

    num_tops = (1, None)
    usual_side = 7

    @property
    def settings(self) -> Any:
        return self.proto.data_param

    def is_random(self) -> bool:
        return bool(self.phase == TRAIN or self.proto.transform_param.mirror)

    def own_words(self) -> tuple[str, ...]:
        return ()

    def channels(self) -> int:
        return Images.channels(self)

    def resized(self) -> tuple[int, int] | None:
        return None

    def sides(self) -> Sequence[int]:
        """Return how many fields the image's grid has along a side, for each top of labels."""
        sides = tuple(self.added.data_param.side) or (self.usual_side,)
        if len(sides) != self.top_count - 1:
            raise self.error(f"expected one side for each top but the first ({self.top_count - 1}), found {len(sides)}")
        return sides

    def shape_source(self) -> str:
        return f"in the records of {self.settings.source!r}"


@layer("BoxData", dialect="yolov1")
class BoxData(_Boxed):
    """Images, and for each `side` a grid's fields [N, side² · 7]: difficult, object, class and box of each.

    The four parts are side² values each, but the boxes 4 · side². (yeahkun/caffe-yolo, box_data_layer.cpp)
    """

    data_kind = "grids"

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and {"RegionLoss", "Reorg"}.isdisjoint(types)

    def further_shape(self, index: int, images: Shape) -> Shape:
        return (images[0], self.sides()[index - 1] ** 2 * 7)

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        if not top:
            return None
        places = shape[1] // 7
        objects = random.random((shape[0], places)) < 0.2
        boxes = np.zeros((shape[0], places, 4))
        boxes[objects] = random.uniform(0.2, 0.8, (objects.sum(), 4))
        return np.concatenate([np.ones_like(objects), objects, np.zeros_like(objects), boxes.reshape(shape[0], -1)], 1)


@layer("BoxData", dialect="yolo")
class YoloBoxData(_Boxed):
    """Images, and for each `side` up to 30 boxes [N, 150] of class, centre and size, relative to the image.

    (gklz1982/caffe-yolov2, box_data_layer.cpp)
    """

    data_kind = "boxes"

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and "DetectionLoss" not in types

    def further_shape(self, index: int, images: Shape) -> Shape:
        self.sides()
        return (images[0], MOST_BOXES * 5)

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        if not top:
            return None
        rows = np.zeros((shape[0], MOST_BOXES, 5), np.float32)
        rows[:, :2, 1:3] = random.uniform(0.2, 0.8, (shape[0], 2, 2))
        rows[:, :2, 3:] = random.uniform(0.1, 0.4, (shape[0], 2, 2))
        return rows.reshape(shape[0], MOST_BOXES * 5)


@layer("CPMData", dialect="rtpose")
class CPMData(_Files):
    """Images [N, C, crop_size_y, crop_size_x] and maps of parts [N, 2 · (num_parts + 1), H / stride, W / stride].

    C is that of the records, which hold further maps beside the image's 3.
    (ZJUZQ/Net_caffe, cpm_data_layer.cpp)
    """

    num_tops = (1, 2)

    @property
    def settings(self) -> Any:
        return self.proto.data_param

    def image_shape(self) -> Shape | None:
        return None

    def further_shape(self, index: int, images: Shape) -> Shape:
        p = self.added.cpm_transform_param
        if not p.stride:
            raise self.error("expected a positive stride in cpm_transform_param, found 0")
        return (images[0], 2 * (p.num_parts + 1), images[2] // p.stride, images[3] // p.stride)

    def shape_source(self) -> str:
        return f"in the records of {self.settings.source!r}"


@layer("CPMData", dialect="cpm")
class CPMDataOfCpm(_Files):
    """Images with the map of the person's centre [N, 4, crop_size_y, crop_size_x], of 3 channels without put_gaussian.

    Also two maps of each part and of the background [N, 2 · (num_parts + 1), H / stride, W / stride]. What further tops
    of GNet's hold is not public. (shihenw/caffe, cpm_data_layer.cpp)
    """

    adds = datasets_pb2.CpmLayerParameter
    num_tops = (1, None)

    @property
    def settings(self) -> Any:
        return self.added.cpmdata_param

    def channels(self) -> int:
        return 4 if self.added.transform_param.put_gaussian else 3

    def size(self) -> tuple[int, int]:
        p = self.added.transform_param
        return p.crop_size_y, p.crop_size_x

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        p = self.added.transform_param
        if not p.stride:
            raise self.error("expected a positive stride in transform_param, found 0")
        maps = (images[0], 2 * (p.num_parts + 1), images[2] // p.stride, images[3] // p.stride)
        return maps if index == 1 else None


@layer("OPData", dialect="openpose")
class OPData(_Files):
    """Images [N, 3, crop_size_y, crop_size_x]; a weight and a value of each map [N, 2 · maps, H / stride, W / stride].

    The maps are those of a model's parts and limbs. With add_distance, taf_topology or videos, and in TEST, where the
    images are as large as in the records, --shape tells the shapes.
    (CMU-Perceptual-Computing-Lab/openpose_caffe_train, oPDataLayer.cpp and poseModel.cpp)
    """

    adds = datasets_pb2.OpenposeLayerParameter

    @property
    def settings(self) -> Any:
        return self.proto.data_param

    def size(self) -> tuple[int, int] | None:
        p = self.added.op_transform_param
        return (p.crop_size_y, p.crop_size_x) if self.phase == TRAIN else None

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        p = self.added.op_transform_param
        if not p.stride:
            raise self.error("expected a positive stride in op_transform_param, found 0")
        if p.add_distance or p.taf_topology or p.input_type == "video":
            return None
        return (images[0], 2 * self.maps(), images[2] // p.stride, images[3] // p.stride)

    def maps(self) -> int:
        """Return the number of maps of the first model."""
        p = self.added.op_transform_param
        name = p.model or p.models.partition(";")[0]
        kind = name.partition("_")[2]
        maps = _OPENPOSE.get(kind) or _OPENPOSE.get(kind.partition("_")[0])
        if maps is None:
            raise self.error(f"unknown model {name!r} in op_transform_param")
        return maps

    def shape_source(self) -> str:
        return f"in the records of {self.added.op_transform_param.sources!r}"


@layer("ImageData", dialect="crn")
class PairedImageData(_Files):
    """Images whose order keeps pair_size of them together, and a label for each; with use_gps latitude and longitude.

    (hyojinie/crn, image_data_layer.cpp)
    """

    adds = datasets_pb2.CrnLayerParameter
    num_tops = (2, 3)

    @property
    def settings(self) -> Any:
        return self.proto.image_data_param

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape | None, ...]:
        wanted = 3 if self.added.image_data_param.use_gps else 2
        if self.top_count < wanted:
            raise self.error(f"expected {wanted} tops, found {self.top_count}")
        return super().tops(bottoms)

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        return images[:1]


class _Poses(_Files):
    """Images, coordinates [N, label_num, 1, 1], and number, width, height, scale and mirroring of each [N, 5, 1, 1].

    Images are scaled so that the longer side is max_size and laid into the largest of them: square ones stand in.
    """

    num_tops = (1, 3)

    def size(self) -> tuple[int, int] | None:
        p = self.settings
        return (p.max_size, p.max_size) if p.is_scale_image and p.always_max_size else None

    def further_shape(self, index: int, images: Shape) -> Shape:
        return (images[0], self.settings.label_num if index == 1 else 5, 1, 1)

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        images = self.top_shape(0, self.proto.top[0])
        if not top or not images:
            return None
        if top == 1:
            limits = np.resize(np.array(images[:1:-1]), shape[1])
            return (random.uniform(0, 1, shape[:2]) * (limits - 1)).reshape(shape)
        rows = np.ones((shape[0], 5), np.float32)
        rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 4] = np.arange(shape[0]), images[3], images[2], 0
        return rows.reshape(shape)


@layer("RandomImageData2", dialect="pose")
class RandomImageData2(_Poses):
    """Images of several lists in turn, coordinates, and what is known of each image.

    (zimenglan-sysu-512/pose_action_caffe, random_image_data2_layer.cpp)
    """

    @property
    def settings(self) -> Any:
        return self.added.random_image_data2_param


@layer("MultiSourcesImagesData", dialect="pose")
class MultiSourcesImagesData(_Poses):
    """Images of several folders side by side as channels, coordinates, and what is known of each image.

    (zimenglan-sysu-512/pose_action_caffe, multi_sources_images_data_layer.cpp)
    """

    @property
    def settings(self) -> Any:
        return self.added.multi_sources_images_data_param

    def channels(self) -> int:
        return sum(3 if is_color else 1 for is_color in self.settings.is_colors)


@layer("LoadImageData", dialect="pose")
class LoadImageData(_Files):
    """Images that belong to those of another data layer, whose third top is the bottom.

    (zimenglan-sysu-512/pose_action_caffe, load_image_data_layer.cpp)
    """

    num_bottoms = (1, 1)
    num_tops = (1, 1)
    sized_by_images = True

    @property
    def settings(self) -> Any:
        return self.added.load_data_image_param

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape | None, ...]:
        size = self.image_size
        images = (bottoms[0][0], self.channels(), *size) if size and bottoms[0] else None
        return (self.shape_overrides.get(self.proto.top[0], images),)

    def shape_source(self) -> str:
        return f"in the images of {self.settings.root_folder!r}"


@layer("DriveData", dialect="vpgnet")
class DriveData(_Files):
    """Images of roads, what is where [N, 8, H, W] and of which kind [N, 1, H, W], in cells of label and catalog.

    (SeokjuLee/VPGNet, drive_data_layer.cpp)
    """

    adds = data_pb2.VpgLayerParameter
    num_tops = (3, 3)

    @property
    def settings(self) -> Any:
        return self.proto.data_param

    def size(self) -> tuple[int, int]:
        p = self.added.drive_data_param
        return p.cropped_height, p.cropped_width

    def further_shape(self, index: int, images: Shape) -> Shape:
        p = self.added.drive_data_param
        channels, cells = (8, p.label_resolution) if index == 1 else (1, p.catalog_resolution)
        return (images[0], channels, p.tiling_height * cells, p.tiling_width * cells)


@layer("CarcontImageData", dialect="ram")
class CarcontImageData(_Files):
    """Images of vehicles, their identities, colours and models, and their places in the list, each of these [N].

    N = ni · nii + nc · nic + nm · nim: images of ni identities, nc colours and nm models.
    (liu-xb/RAM, carcont_image_data_layer.cpp)
    """

    num_tops = (5, 5)
    seeds_thread = False

    def batch_size(self) -> int:
        p = self.added.carcont_param
        return int(p.ni * p.nii + p.nc * p.nic + p.nm * p.nim)

    def own_words(self) -> tuple[str, ...]:
        return ()

    def example(self, index: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        p = self.added.carcont_param
        if index in (1, 2, 3):
            return random.integers(0, (p.num_all_id, p.num_all_col, p.num_all_mod)[index - 1], shape).astype(np.float32)
        return None


# ---- windows and records ---------------------------------------------------------------------------------------------


class _Windows(_Files):
    def size(self) -> tuple[int, int]:
        side = self.settings.crop_size
        if not side:
            raise self.error(f"expected a positive crop_size in {self.settings.DESCRIPTOR.name}, found none")
        return side, side


@layer("GenericWindowData", dialect="windows")
class GenericWindowData(_Windows):
    """Windows of groups of images [N, images · C, crop, crop], and labels [N, values, 1, 1] that go with them.

    How many images are in a group, and values in a label, stands at the head of the source.
    (pulkitag/caffe, generic_window_data_layer.cpp)
    """

    @property
    def settings(self) -> Any:
        return self.added.generic_window_data_param

    def image_shape(self) -> Shape | None:
        self.size()
        return None

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        return None

    def shape_source(self) -> str:
        return f"at the head of {self.settings.source!r}"


@layer("SquareBoxData", dialect="windows")
class SquareBoxData(_Windows):
    """Square windows of images [N, 3, crop, crop], and labels [N, 1, 1, 1].

    (pulkitag/caffe, square_box_window_data_layer.cpp)
    """

    @property
    def settings(self) -> Any:
        return self.added.square_box_data_param

    def channels(self) -> int:
        return 3

    def further_shape(self, index: int, images: Shape) -> Shape:
        return (images[0], 1, 1, 1)


@layer("CustomData", dialect="flownet")
class CustomData(_Files):
    """Records of a database cut along the channels at each slice_point: images, flow, and as a last top labels.

    A slice of UINT16FLOW has 2 channels. (lmb-freiburg/flownet2, custom_data_layer.cpp)
    """

    adds = data_pb2.FlowLayerParameter
    num_tops = (1, None)
    data_kind = "flows"

    @property
    def settings(self) -> Any:
        return self.proto.data_param

    def image_shape(self) -> Shape | None:
        return None

    def further_shape(self, index: int, images: Shape) -> Shape | None:
        points = [0, *self.added.data_param.slice_point]
        if index > len(points):
            raise self.error(f"expected one top per slice and one of labels, found {self.top_count}")
        if index == len(points):
            return (images[0], 1, 1, 1)
        if index + 1 < len(points):
            return (images[0], points[index + 1] - points[index], *images[2:])
        encoding = self.added.data_param.encoding
        is_flow = len(encoding) == len(points) and encoding[-1] == data_pb2.FlowDataParameter.UINT16FLOW
        return (images[0], 2, *images[2:]) if is_flow else None

    def shape_source(self) -> str:
        return f"in the records of {self.settings.source!r}"
