"""Images that a text file lists in pairs with their maps of labels, of the layers of several forks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from caffestat.fillers import Stream
from caffestat.lazy import np
from caffestat.schema import caffe_pb2
from caffestat.schema.forks.data_pb2 import ImageDataParameter

from .image_list import ListReader, atoi
from .images import nearest, resize
from .reader import quoted
from .transformer import mean_values

if TYPE_CHECKING:
    from caffestat.layers import Layer

__all__ = ["DenseReader", "EdgeReader", "SegReader", "WindowSegReader"]

Pair = tuple[str, str, int]  # an image, its map of labels, and the number of their line
Values = Sequence[np.ndarray | int]


class _PairReader(ListReader[Pair]):
    """Images (N, C, H, W) and maps of labels (N, 1, H, W)."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer, layer.settings)  # type: ignore[attr-defined]  # those of forks have it
        first = [np.asarray(value).shape for value in self.shaped(self.listed[0])]
        self.shapes = tuple((self.batch, *shape) for shape in first)[: layer.top_count]

    def entry(self, line: str, number: int) -> Pair:
        names = line.split()
        if len(names) < 2 and self.has_maps():
            found = quoted(names[0], number, self.settings.source)
            raise self.layer.error(f"expected an image and its map of labels on each line, found {found} alone")
        return names[0], names[1] if len(names) > 1 else "", number

    def has_maps(self) -> bool:
        """Tell whether each image has a map of labels in the list."""
        return True

    def said(self, entry: Pair) -> str:
        return self.named(entry[0], entry[2])

    def shaped(self, entry: Pair) -> Values:
        """Return arrays of the tops' shapes, without a draw."""
        raise NotImplementedError

    def check_sizes(self, image: np.ndarray, labels: np.ndarray, entry: Pair) -> None:
        """Raise NetError unless image and map of labels are of one size."""
        if image.shape[1:] != labels.shape[1:]:
            sizes = " x ".join(map(str, image.shape[1:])), " x ".join(map(str, labels.shape[1:]))
            said = self.named(entry[0], entry[2])
            raise self.layer.error(f"image {said} is {sizes[0]}, but its map of labels is {sizes[1]}")


class SegReader(_PairReader):
    """Also the images' sizes (N, 1, 1, 2); a map that is smaller than the crop is filled up with ignore_label.

    (hszhao/PSPNet, image_seg_data_layer.cpp, TransformImgAndSeg in data_transformer.cpp)
    """

    def __init__(self, layer: Layer) -> None:
        self._labels = layer.added.image_data_param
        self._factors = layer.added.transform_param.scale_factors
        self._param = layer.proto.transform_param
        self._crop: tuple[int, int] = layer.crop()  # type: ignore[attr-defined]
        if self._param.mean_file:
            raise layer.error("mean_file is not supported; use mean_value")
        super().__init__(layer)

    def has_maps(self) -> bool:
        return bool(self._labels.label_type != ImageDataParameter.NONE)

    def shaped(self, entry: Pair) -> Values:
        image, _ = self._pair(entry)
        height, width = self._crop if all(self._crop) else image.shape[1:]
        return [np.empty((len(image), height, width)), np.empty((1, height, width)), np.empty((1, 1, 2))]

    def read(self, entry: Pair) -> Values:
        image, labels = self._pair(entry)
        size = np.minimum(image.shape[1:], self.shapes[0][2:]).reshape(1, 1, 2)
        return [*self._transformed(image, labels, entry), size][: len(self.shapes)]

    def _pair(self, entry: Pair, size: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Return an image and its map of labels in a size; None is what the layer states, (0, 0) their own."""
        name, second, number = entry
        image = self.image(name, number, self.settings.is_color, size)
        if self._labels.label_type == ImageDataParameter.PIXEL:
            labels = self.image(second, number, False, size)
            self.check_sizes(image, labels, entry)
            return image, labels
        label = atoi(second) if self.has_maps() else self._labels.ignore_label
        return image, np.full((1, *image.shape[1:]), min(max(label, 0), 255), np.uint8)

    def _transformed(self, image: np.ndarray, labels: np.ndarray, entry: Pair) -> tuple[np.ndarray, np.ndarray]:
        mirror = bool(self._param.mirror and self.transformer.draw(2))
        if self._factors:
            factor = np.float32(self._factors[self.transformer.draw(len(self._factors))])
            height, width = (int(np.float32(size) * factor) for size in image.shape[1:])
            if factor != 1:
                image, labels = resize(image, height, width), nearest(labels, height, width)
        values, labels = self._cut(image, labels, entry)
        values -= mean_values(self.layer, len(image))
        values *= np.float32(self._param.scale)
        return (values[..., ::-1], labels[..., ::-1]) if mirror else (values, labels)

    def _cut(self, image: np.ndarray, labels: np.ndarray, entry: Pair) -> tuple[np.ndarray, np.ndarray]:
        """Return image and map of labels, filled up to the crop's size below and to the right, and cut to it."""
        if not all(self._crop):
            return image.astype(np.float32), labels
        more = [(0, max(crop - size, 0)) for crop, size in zip(self._crop, image.shape[1:], strict=True)]
        values = image.astype(np.float32)
        if any(after for _, after in more):
            if not self._param.mean_value:
                said = self.named(entry[0], entry[2])
                raise self.layer.error(f"image {said} is smaller than the crop; give mean_value to pad it")
            inside = np.pad(np.ones(image.shape[1:], bool), more)
            values = np.where(inside, np.pad(values, [(0, 0), *more]), mean_values(self.layer, len(image)))
            labels = np.pad(labels, [(0, 0), *more], constant_values=self._labels.ignore_label)
        spare = [size - crop for size, crop in zip(values.shape[1:], self._crop, strict=True)]
        if self.layer.phase == caffe_pb2.TRAIN:
            top, left = (self.transformer.draw(size + 1) for size in spare)
        else:
            top, left = (size // 2 for size in spare)
        window = (slice(None), slice(top, top + self._crop[0]), slice(left, left + self._crop[1]))
        return values[window], labels[window]


class WindowSegReader(SegReader):
    """Windows of images and of their maps, resized, then cut as SegReader does; tops 2 are the whole images' sizes.

    A line of the list has an image, its map of labels, that of instances where `has_instances`, the window's corners
    x1, y1, x2, y2, and the window's instance. What lies outside of the image is 0, and ignore_label in the map.
    (HyeonwooNoh/caffe, window_seg_data_layer.cpp, window_inst_seg_data_layer.cpp)
    """

    def __init__(self, layer: Layer) -> None:
        self._has_instances: bool = layer.has_instances  # type: ignore[attr-defined]
        self._windows: dict[int, tuple[str, list[int]]] = {}  # by line: the map of instances, and the numbers
        super().__init__(layer)

    def entry(self, line: str, number: int) -> Pair:
        words = line.split()
        names = 1 + (1 + self._has_instances) * self.has_maps()
        wanted = names + 4 + self._has_instances
        if len(words) < wanted:
            found = f"line {number} of {self.settings.source!r} has {len(words)}"
            raise self.layer.error(f"expected {wanted} words, the files and the window, on each line; {found}")
        self._windows[number] = words[names - 1], [atoi(word) for word in words[names:wanted]]
        return words[0], words[1] if self.has_maps() else "", number

    def shaped(self, entry: Pair) -> Values:
        """Return arrays of the shapes of the images, which Caffe takes for those of the windows."""
        image = self.image(entry[0], entry[2], self.settings.is_color)
        height, width = self._crop if all(self._crop) else image.shape[1:]
        return [np.empty((len(image), height, width)), np.empty((1, height, width)), np.empty((1, 1, 2))]

    def read(self, entry: Pair) -> Values:
        image, labels = self._pair(entry, (0, 0))
        size = np.minimum(image.shape[1:], self.shapes[0][2:]).reshape(1, 1, 2)
        part, own = self._windowed(image, entry, 0), self._windowed(labels, entry, self._labels.ignore_label)
        height, width = self.settings.new_height, self.settings.new_width
        if height and width:
            part, own = resize(part, height, width), nearest(own, height, width)
        if self._has_instances:
            own = self._of_instance(own, entry, image.shape[1:])
        return [*self._transformed(part, own, entry), size][: len(self.shapes)]

    def _windowed(self, image: np.ndarray, entry: Pair, fill: int) -> np.ndarray:
        x1, y1, x2, y2 = self._windows[entry[2]][1][:4]
        if x2 < x1 or y2 < y1:
            raise self.layer.error(f"image {self.said(entry)}: expected a window of x1 <= x2 and y1 <= y2")
        outside = [(max(0, -first), max(0, last - size + 1)) for first, last, size in self._sides(image, entry)]
        whole = np.pad(image, [(0, 0), *outside], constant_values=fill)
        (up, _), (left, _) = outside
        return np.ascontiguousarray(whole[:, y1 + up : y2 + up + 1, x1 + left : x2 + left + 1])

    def _sides(self, image: np.ndarray, entry: Pair) -> list[tuple[int, int, int]]:
        """Return first and last place of the window, and the image's size, down and across."""
        x1, y1, x2, y2 = self._windows[entry[2]][1][:4]
        return [(y1, y2, image.shape[1]), (x1, x2, image.shape[2])]

    def _of_instance(self, labels: np.ndarray, entry: Pair, size: tuple[int, ...]) -> np.ndarray:
        """Return the labels with other_object_label at other instances; of windows that are resized alone."""
        height, width = self.settings.new_height, self.settings.new_width
        instances = np.zeros((1, *size), np.uint8)
        if self._labels.label_type == ImageDataParameter.PIXEL:
            instances = self.image(self._windows[entry[2]][0], entry[2], False, (0, 0))
            self.check_sizes(np.empty((1, *size)), instances, entry)
        if not (height and width):
            return labels
        shown = nearest(self._windowed(instances, entry, 0), height, width)
        others = ~np.isin(shown, [self._windows[entry[2]][1][4], self._labels.ignore_label, 0])
        return np.where(others, np.uint8(self._labels.other_object_label & 255), labels)


class EdgeReader(_PairReader):
    """Maps of edges: above a half 1, else value / 255; crops are random in both phases.

    (yun-liu/rcf, image_labelmap_data_layer.cpp, LocTransform and LabelmapTransform in data_transformer.cpp)
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer)
        self.varies = self.keeps_sizes()

    def shaped(self, entry: Pair) -> Values:
        image, _ = self._pair(entry)
        shape = self.transformer.shape(image.shape)
        return [np.empty(shape), np.empty((1, *shape[1:]))]

    def read(self, entry: Pair) -> Values:
        image, labels = self._pair(entry)
        mirror, top, left = self.transformer.place(image.shape, is_random=True)
        _, height, width = self.transformer.shape(image.shape)
        edges = labels[:, top : top + height, left : left + width].astype(np.float32) * np.float32(1 / 255)
        edges[edges > 0.5] = 1
        return [self.transformer.cut(image, mirror, top, left), edges[..., ::-1] if mirror else edges]

    def _pair(self, entry: Pair) -> tuple[np.ndarray, np.ndarray]:
        name, second, number = entry
        image, labels = (self.image(name, number, self.settings.is_color), self.image(second, number, False))
        self.check_sizes(image, labels, entry)
        return image, labels


class DenseReader(_PairReader):
    """Maps of labels without mean and scale, read with nearest neighbours; mirrors and cuts are the layer's own.

    With label_divide_factor the maps are that much smaller. The reference draws from the main stream in a thread, in an
    order that is not determined; here the layer has a stream of its own.
    (alexgkendall/caffe-segnet, dense_image_data_layer.cpp; Yuelong-Yu/ERFNet-Caffe)
    """

    def __init__(self, layer: Layer) -> None:
        transform = layer.proto.transform_param
        if transform.mirror or transform.crop_size:
            found = "mirror" if transform.mirror else "crop_size"
            raise layer.error(f"{found} in transform_param is not supported; set it in dense_image_data_param")
        self._random: Stream | None = None
        super().__init__(layer)

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        super().start(words, stream)
        self._random = Stream(words["cuts"]) if "cuts" in words else None

    def shaped(self, entry: Pair) -> Values:
        return self._cut(*self._pair(entry), 0, 0)

    def read(self, entry: Pair) -> Values:
        image, labels = self._pair(entry)
        if self.settings.mirror and self._draw(2):
            image, labels = image[..., ::-1], labels[..., ::-1]
        crop = self.settings.crop_height, self.settings.crop_width
        spare = [size - cut for size, cut in zip(image.shape[1:], crop, strict=True)]
        top, left = (self._draw(size + 1) for size in spare) if all(crop) else (0, 0)
        image, labels = self._cut(image, labels, top, left)
        return [self.transformer.apply(image), labels]

    def _draw(self, n: int) -> int:
        assert self._random is not None, "call start first"
        return self._random.word() % n

    def _pair(self, entry: Pair) -> tuple[np.ndarray, np.ndarray]:
        name, second, number = entry
        p = self.settings
        factor = max(p.label_divide_factor, 1)
        image = self.image(name, number, p.is_color)
        labels = self.image(second, number, False, (p.new_height // factor, p.new_width // factor), nearest)
        if factor == 1:
            self.check_sizes(image, labels, entry)
        return image, labels

    def _cut(self, image: np.ndarray, labels: np.ndarray, top: int, left: int) -> tuple[np.ndarray, np.ndarray]:
        height, width = self.settings.crop_height, self.settings.crop_width
        if not height or not width:
            return image, labels
        if height > image.shape[1] or width > image.shape[2]:
            found = " x ".join(map(str, image.shape[1:]))
            raise self.layer.error(f"crop_height {height} and crop_width {width} exceed an image of {found}")
        window = (slice(None), slice(top, top + height), slice(left, left + width))
        return image[window], labels[window]
