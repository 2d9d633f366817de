"""Layers without bottoms, whose tops come from outside the net, or from fillers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from caffestat.errors import InputError, Place
from caffestat.fillers import Filler, Stream, fill

from .base import TRAIN, Layer, Shape, layer, to_filler

if TYPE_CHECKING:
    import numpy as np

    from caffestat.graph import Graph

__all__ = ["Data", "DummyData", "HDF5Data", "ImageData", "Input", "MemoryData", "Python", "Source", "WindowData"]


Count = tuple[int, int | None]


class Source(Layer):
    """Tops of shapes that stand in the file, or in `shape_overrides` where the user gives them; else unknown."""

    num_bottoms: ClassVar[Count] = (0, 0)
    num_tops: ClassVar[Count] = (1, None)
    is_external = True
    may_be_empty: ClassVar[bool] = False  # sizes of 0 are taken
    may_hold_images: ClassVar[bool] = True  # a top without a shape may be taken for images of a usual size

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape | None, ...]:
        return tuple(self.top_shape(index, name) for index, name in enumerate(self.proto.top))

    def top_shape(self, index: int, name: str) -> Shape | None:
        """Return one top's shape: the real data's, the user's, else the file's, its first axis by `batch_override`."""
        if self.reader:
            return self.reader.shapes[index]
        if name in self.shape_overrides:
            return self.shape_overrides[name]
        shape = self.written_shape(index)
        if shape is None:
            return None
        if min(shape, default=1) < (0 if self.may_be_empty else 1):
            raise self.error(f"expected positive sizes for top {name!r}, found shape {shape}")
        return shape if self.batch_override is None or not shape else (self.batch_override, *shape[1:])

    def written_shape(self, index: int) -> Shape | None:
        """Return the shape of a top as the file has it, None when it is elsewhere."""
        return None

    def usual_shape(self, index: int, size: tuple[int | None, int, int]) -> Shape:
        """Return the shape of a top that holds images of a size: channels (None: as usual), height and width."""
        channels, height, width = size
        return self.batch_override or max(self.batch_size(), 1), channels or self.channels(), height, width

    def alternatives(self) -> Iterable[tuple[Mapping[int, Shape], str]]:
        """Yield other shapes that tops, by index, have by settings outside of the file, and which these are."""
        return ()

    def batch_size(self) -> int:
        """Return how many items a batch has as far as the file tells, else 1."""
        return 1

    def batches(self) -> Sequence[int]:
        shapes = (self.written_shape(index) for index in range(self.top_count))
        written = {shape[0] for shape in shapes if shape}
        return sorted(written) or (self.batch_size(),)

    def channels(self) -> int:
        """Return how many channels images have as far as the file tells, else 3."""
        return 3

    def once_or_per_top(self, values: Sequence[Any], index: int, what: str) -> Any:
        """Return the value for a top of a field that is written once for all tops or once for each."""
        if len(values) not in (1, self.top_count):
            raise self.error(f"expected {what} once or once per top ({self.top_count}), found it {len(values)} times")
        return values[0 if len(values) == 1 else index]

    def setup_words(self) -> tuple[str, ...]:
        """Return what each word that the layer draws at set-up is for, in order."""
        return ()

    def draw_setup(self, stream: Stream) -> None:
        words = {purpose: stream.word() for purpose in self.setup_words()}  # of two with one purpose the second counts
        if self.reader:
            self.reader.start(words, stream)

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        tops = self.tops([g.shape(bottom) for bottom in bottoms])
        shapes = list(zip(self.proto.top, tops, strict=True))
        for name, shape in shapes:
            if 0 in (shape or ()):
                raise self.error(f"top {name!r} of shape {shape} has no elements; set its sizes with --shape")
        return [g.input(name, shape or ()) for name, shape in shapes]


@layer("Input", by_sample=True)
class Input(Source):
    """Tops of the shapes given once or per top; `caffe train` leaves them at zero. (input_layer.cpp)"""

    starts_at_zero = True
    may_be_empty = True

    def written_shape(self, index: int) -> Shape | None:
        shapes = self.proto.input_param.shape
        return tuple(self.once_or_per_top(shapes, index, "shape").dim) if shapes else None

    def top_shape(self, index: int, name: str) -> Shape | None:
        shape, written = super().top_shape(index, name), self.written_shape(index)
        if not shape or not written or self.batch_override is None or name in self.shape_overrides:
            return shape
        rows = next((streams for steps, streams in self.sequences() if steps * streams == written[0]), 1)
        return (self.batch_override * rows, *shape[1:])

    def fills_once(self, top: int) -> bool:
        return True

    def sequences(self) -> Iterator[tuple[int, int]]:
        """Yield steps and streams, more than one, of each input of the net that may hold sequences: none of images."""
        inputs = (peer for peer in self.peers if isinstance(peer, Input))
        shapes = (each.written_shape(index) for each in inputs for index in range(each.top_count))
        yield from ((shape[0], shape[1]) for shape in shapes if shape and len(shape) not in (1, 4) and shape[1] > 1)

    def shape_source(self) -> str:
        return "where the net is used"


@layer("DummyData", by_sample=True)
class DummyData(Source):
    """Tops filled by data_filler (constant 0 without one): constants once, others at each forward, in order of tops.

    Shapes are given as `shape`, or of old as num, channels, height and width. (dummy_data_layer.cpp)
    """

    is_external = False

    def written_shape(self, index: int) -> Shape:
        proto = self.proto.dummy_data_param
        old = {name: getattr(proto, name) for name in ("num", "channels", "height", "width")}
        if not any(old.values()):
            return tuple(self.once_or_per_top(proto.shape, index, "shape").dim)
        if proto.shape:
            raise self.error("dummy_data_param states both shape and num, channels, height, width; remove the latter")
        return tuple(self.once_or_per_top(values, index, name) for name, values in old.items())

    def filler(self, index: int) -> Filler:
        """Return what fills a top."""
        fillers = self.proto.dummy_data_param.data_filler
        return to_filler(self.once_or_per_top(fillers, index, "data_filler")) if fillers else Filler()

    def fills_once(self, top: int) -> bool:
        return self.filler(top).type == Filler().type  # a constant, which is the default

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape | None, ...]:
        self.filler(0)
        return super().tops(bottoms)

    def feed_fillers(self) -> list[Filler]:
        return [self.filler(index) for index in range(len(self.tops([])))]

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        try:
            return [fill(stream, self.filler(index), shape or ()) for index, shape in enumerate(self.tops([]))]
        except InputError as error:
            raise self.error(f"data_filler: {error}") from error


def refuse_two_means(layer: Layer) -> None:
    """Raise NetError when transform_param has two means. (data_transformer.cpp, DataTransformer)"""
    transform = layer.proto.transform_param
    if transform.HasField("mean_file") and transform.mean_value:
        raise layer.error("transform_param has both mean_file and mean_value; Caffe takes one of them")


class Images(Source):
    """Images (batch, channels, height, width) and, with a second top, a label for each. (base_data_layer.cpp)"""

    num_tops: ClassVar[Count] = (2, 2)
    reads_pixels = True
    lowers_undecided = True
    message = "data_param"  # the layer's own parameters

    @property
    def decides(self) -> bool:  # type: ignore[override]  # the tops' shapes may differ from batch to batch
        return self.reader is not None and self.reader.varies

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        assert self.reader
        return self.reader.next()

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape | None, ...]:
        self.refuse()
        return super().tops(bottoms) if self.decisions is None else tuple(array.shape for array in self.decisions)

    def refuse(self) -> None:
        """Raise NetError for what Caffe refuses whatever the data are."""
        refuse_two_means(self)

    def written_shape(self, index: int) -> Shape | None:
        return (self.batch_size(),) if index else self.image_shape()

    def top_shape(self, index: int, name: str) -> Shape | None:
        images = self.shape_overrides.get(self.proto.top[0])
        if index and images and name not in self.shape_overrides:
            return images[:1]
        return super().top_shape(index, name)

    def usual_shape(self, index: int, size: tuple[int | None, int, int]) -> Shape:
        """Return the shape of the images, or of a label for each."""
        images = super().usual_shape(index, size)
        return images[:1] if index else images

    def image_shape(self) -> Shape | None:
        """Return the shape of the image top, None when it is elsewhere."""
        raise NotImplementedError

    def batch_size(self) -> int:
        """Return the batch size that the file states."""
        return int(getattr(self.proto, self.message).batch_size)

    def channels(self) -> int:
        """Return the channels as far as the file tells: one per mean_value, 1 in forced gray, else 3 as in colour."""
        transform = self.proto.transform_param
        return 1 if transform.force_gray else len(transform.mean_value) if len(transform.mean_value) > 1 else 3

    def is_random(self) -> bool:
        """Tell whether the transformer draws: it mirrors, or cuts at random places in TRAIN."""
        transform = self.proto.transform_param
        return bool(transform.mirror or (self.phase == TRAIN and transform.crop_size))

    def setup_words(self) -> tuple[str, ...]:
        seed = ("transformer",) * self.is_random()
        # the transformer is seeded again just before the prefetching thread starts, which takes a seed too
        return (*seed, *self.own_words(), *seed, "thread")

    def own_words(self) -> tuple[str, ...]:
        """Return what the layer type itself draws words for."""
        return ()


@layer("Data", by_sample=True)
class Data(Images):
    """Records of an LMDB or LevelDB: crop_size of side and, unless the file tells, 3 channels. (data_layer.cpp)

    crop_height and crop_width of a fork tell the size as well; its records are not read. (Cysu/dgd_person_reid)
    """

    num_tops = (1, 2)
    foreign_tops = (3, None)
    data_kind = "database"
    own_fields = ("transform_param.crop_height", "transform_param.crop_width")

    @property
    def why_unread(self) -> str:
        return "how crop_height and crop_width cut images is not known" if self.sides() else ""

    def sides(self) -> tuple[int, ...]:
        """Return height and width where a fork's fields tell them."""
        return tuple(self.own(path, int)[-1] for path in self.own_fields if self.own(path, int))

    def image_shape(self) -> Shape | None:
        crop, sides = self.proto.transform_param.crop_size, self.sides()
        size = sides if len(sides) == 2 and not crop else (crop, crop)
        return (self.batch_size(), self.channels(), *size) if all(size) else None

    def shape_source(self) -> str:
        return f"in the records of {self.proto.data_param.source!r}"


@layer("ImageData", by_sample=True)
class ImageData(Images):
    """Image files, resized to new_height x new_width, then cut to crop_size, 3 channels or 1. (image_data_layer.cpp)"""

    message = "image_data_param"
    data_kind = "images"
    foreign_tops = (1, None)
    own_fields = ("image_data_param.label_dim",)

    def written_shape(self, index: int) -> Shape | None:
        """HashNet's label_dim: several labels for each image."""
        dims = self.own("image_data_param.label_dim", int)
        return (self.batch_size(), *dims[:1]) if index and dims else super().written_shape(index)

    def refuse(self) -> None:
        super().refuse()
        height, width = self.proto.image_data_param.new_height, self.proto.image_data_param.new_width
        if bool(height) != bool(width):
            raise self.error(f"expected new_height and new_width together, found {height} and {width}")

    def image_shape(self) -> Shape | None:
        proto, crop = self.proto.image_data_param, self.proto.transform_param.crop_size
        height, width = proto.new_height, proto.new_width
        if not height and not crop:
            return None
        if height and crop > min(height, width):
            raise self.error(f"crop_size {crop} exceeds the image of new_height {height} and new_width {width}")
        return self.batch_size(), 3 if proto.is_color else 1, crop or height, crop or width

    def shape_source(self) -> str:
        return f"in the images that {self.proto.image_data_param.source!r} lists"

    def own_words(self) -> tuple[str, ...]:
        proto = self.proto.image_data_param
        return ("shuffle",) * proto.shuffle + ("skip",) * (proto.rand_skip > 0)


@layer("WindowData")
class WindowData(Images):
    """Windows of images, warped to crop_size, of 3 channels unless the file tells. (window_data_layer.cpp)"""

    message = "window_data_param"
    data_kind = "windows"

    def refuse(self) -> None:
        super().refuse()
        if not self.proto.transform_param.crop_size:
            raise self.error("expected a positive crop_size in transform_param, found none")

    def image_shape(self) -> Shape:
        crop = self.proto.transform_param.crop_size
        return self.batch_size(), self.channels(), crop, crop

    def own_words(self) -> tuple[str, ...]:
        transform = self.proto.transform_param
        return ("windows",) * bool(transform.mirror or transform.crop_size)


@layer("MemoryData", by_sample=True)
class MemoryData(Images):
    """Arrays that a program hands over, of batch_size x channels x height x width. (memory_data_layer.cpp)

    `dim` of a fork gives any shape, and labels as many axes (naibaf7/caffe). A third top of another holds height and
    width of each image (martinkersner/train-DeepLab).
    """

    message = "memory_data_param"
    num_tops = (1, 3)
    reads_pixels = False
    own_fields = ("memory_data_param.dim",)

    def __init__(self, proto: Any, phase: int, place: Place) -> None:
        super().__init__(proto, phase, place)
        self.why_synthetic = "its arrays come from a program; give them with --input"

    def departs(self, bottoms: Sequence[Shape]) -> str:
        found = "1 top" if self.top_count == 1 else f"{self.top_count} tops"
        return "" if self.top_count == 2 else f"has {found}, but Caffe expects 2"

    def written_shape(self, index: int) -> Shape | None:
        """Return the shape of a top: by `dim` where it is written."""
        if index == 2:
            return (self.batch_size(), 1, 1, 2)
        if not (sizes := self.own("memory_data_param.dim", int)):
            return super().written_shape(index)
        return (sizes[0], *(1,) * (len(sizes) - 1)) if index else tuple(sizes)

    def image_shape(self) -> Shape:
        proto = self.proto.memory_data_param
        return self.batch_size(), proto.channels, proto.height, proto.width

    def setup_words(self) -> tuple[str, ...]:
        return ("transformer",) * self.is_random()


@layer("HDF5Data", by_sample=True)
class HDF5Data(Source):
    """Rows of HDF5 files: each top is the data set of its name, batch_size rows at a time. (hdf5_data_layer.cpp)"""

    data_kind = "hdf5"

    def batch_size(self) -> int:
        """Return the batch size that the file states."""
        return int(self.proto.hdf5_data_param.batch_size)

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape | None, ...]:
        if self.proto.HasField("transform_param"):
            raise self.error("transform_param is not supported; remove it")
        return super().tops(bottoms)

    def shape_source(self) -> str:
        return f"in the files that {self.proto.hdf5_data_param.source!r} lists"


@layer("Python")
class Python(Source):
    """What Python code computes: its tops are taken as data of given shapes; no gradient passes. (python_layer.hpp)"""

    num_bottoms: ClassVar[Count] = (0, None)
    num_tops: ClassVar[Count] = (0, None)

    def __init__(self, proto: Any, phase: int, place: Place) -> None:
        super().__init__(proto, phase, place)
        self.why_synthetic = f"its own comes from Python code ({self.code()}), which is not run"

    def code(self) -> str:
        """Return the name of the class that computes the tops."""
        return f"{self.proto.python_param.module}.{self.proto.python_param.layer}"

    def shape_source(self) -> str:
        return f"in Python code ({self.code()})"
