"""WindowData layers: boxes cut out of images and warped to one size. (window_data_layer.cpp)"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.fillers import Stream
from caffestat.lazy import np

from .images import LARGEST, decode, resize
from .reader import DataUnavailableError, Reader, find, quoted, read, text_lines
from .transformer import mean_values, read_mean

if TYPE_CHECKING:
    from caffestat.layers import Layer

__all__ = ["WindowReader"]


@dataclass(frozen=True)
class Window:
    """A box in an image, its corners included."""

    image: Path
    label: int
    box: tuple[int, int, int, int]  # x1, y1, x2, y2


@dataclass(frozen=True)
class Cut:
    """What is cut out of an image, the size (height, width) it is warped to, and where (down, right) it goes."""

    box: tuple[int, int, int, int]
    size: tuple[int, int]
    offset: tuple[int, int]


class WindowReader(Reader):
    """Background windows, then as many of the foreground as fg_fraction says, drawn again for each batch.

    Tops: images (N, C, H, W), labels (N).
    """

    is_independent = True

    def __init__(self, layer: Layer) -> None:
        param = layer.proto.window_data_param
        super().__init__(layer, param.batch_size)
        transform = layer.proto.transform_param
        source = find(param.source, layer)
        self._groups: tuple[list[Window], list[Window]] = ([], [])
        channels = self._read(source)
        self._mean = read_mean(layer, transform.mean_file) if transform.HasField("mean_file") else None
        self._mean_values = mean_values(layer, channels)
        self._random: Stream | None = None
        self.shapes = ((self.batch, channels, transform.crop_size, transform.crop_size), (self.batch,))

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        self._random = Stream(words["windows"])

    def next(self) -> Sequence[np.ndarray]:
        data, labels = (np.zeros(shape, np.float32) for shape in self.shapes)
        foreground = int(np.float32(self.batch) * np.float32(self.layer.proto.window_data_param.fg_fraction))
        for index in range(self.batch):
            windows = self._groups[index >= self.batch - foreground]
            window = windows[self._word() % len(windows)]
            mirror = bool(self.layer.proto.transform_param.mirror and self._word() % 2)
            self._fill(data[index], window, mirror)
            labels[index] = window.label
        return data, labels

    def _word(self) -> int:
        assert self._random is not None, "call start first"
        return self._random.word()

    def _read(self, source: Path) -> int:
        """Sort the file's windows into background and foreground and return the images' channels."""
        param = self.layer.proto.window_data_param
        words = iter(" ".join(text_lines(source, self.layer)).split())
        channels = images = 0
        try:
            while next(words, None) == "#":
                number, name, channels = int(next(words)), next(words), int(next(words))
                _height, _width, count = next(words), next(words), int(next(words))
                said = quoted(name, images, param.source)
                if number != images:
                    raise self.layer.error(f"{str(source)!r}: image {said} has number {number}; expected {images}")
                image = find(param.root_folder + name, self.layer, source.parent, said=said)
                images += 1
                for _ in range(count):
                    self._sort(image, [float(next(words)) for _ in range(6)])
        except (StopIteration, ValueError, OverflowError) as error:
            raise self.layer.error(f"{str(source)!r} is not a window file, or is truncated") from error
        for kind, windows in zip(("background", "foreground"), self._groups, strict=True):
            if not windows:
                raise self.layer.error(f"{str(source)!r} has no {kind} window by the thresholds of window_data_param")
        return channels

    def _sort(self, image: Path, numbers: Sequence[float]) -> None:
        param = self.layer.proto.window_data_param
        label, overlap = int(numbers[0]), np.float32(numbers[1])
        x1, y1, x2, y2 = (int(number) for number in numbers[2:])
        if overlap >= np.float32(param.fg_threshold):
            if label < 1:
                raise self.layer.error(f"a foreground window of {str(image)!r} has label {label}; expected 1 or more")
            self._groups[1].append(Window(image, label, (x1, y1, x2, y2)))
        elif overlap < np.float32(param.bg_threshold):
            self._groups[0].append(Window(image, 0, (x1, y1, x2, y2)))

    def _fill(self, top: np.ndarray, window: Window, mirror: bool) -> None:
        """Write a window into its place (C, H, W); what lies outside the image stays 0."""
        image = self._image(window.image)
        param = self.layer.proto.window_data_param
        if param.context_pad or param.crop_mode == "square":
            cut = self._cut(window.box, image.shape[1:], mirror)
        else:
            cut = Cut(window.box, (top.shape[1], top.shape[2]), (0, 0))
        x1, y1, x2, y2 = cut.box
        if not (0 <= x1 <= x2 < image.shape[2] and 0 <= y1 <= y2 < image.shape[1]):
            raise self.layer.error(f"the window {window.box} of {str(window.image)!r} is not inside of the image")
        warped = resize(image[:, y1 : y2 + 1, x1 : x2 + 1], *cut.size)
        values = (warped[:, :, ::-1] if mirror else warped).astype(np.float32)
        rows, columns = (slice(start, start + size) for start, size in zip(cut.offset, cut.size, strict=True))
        values -= self._mean_at(top.shape, rows, columns)
        # not transform_param.scale: Caffe takes the layer's own here
        top[:, rows, columns] = values * np.float32(param.scale)

    def _image(self, path: Path) -> np.ndarray:
        try:
            return decode(read(path, self.layer, LARGEST), True)
        except (ValueError, DataUnavailableError) as error:
            raise self.layer.error(f"{str(path)!r}: {error}") from error

    def _mean_at(self, shape: tuple[int, ...], rows: slice, columns: slice) -> np.ndarray:
        """Return the mean under a part of the window; the crop lies in the middle of a mean image."""
        if self._mean is None:
            return self._mean_values
        offset = (self._mean.shape[2] - shape[2]) // 2
        return self._mean[:, offset:, offset:][:, rows, columns]

    def _cut(self, box: tuple[int, int, int, int], image: tuple[int, ...], mirror: bool) -> Cut:
        """Return the window widened by context_pad (and to a square), cut off at the image's borders."""
        param, crop = self.layer.proto.window_data_param, self.layer.proto.transform_param.crop_size
        grown = np.float32(crop) / np.float32(crop - 2 * param.context_pad)
        half = [np.float32((last - first + 1) / 2) for first, last in (box[0::2], box[1::2])]
        centres = [np.float32(first) + extent for first, extent in zip(box[:2], half, strict=True)]
        if param.crop_mode == "square":
            half = [max(half)] * 2
        across, down = (
            _Span.around(centre, extent * grown, limit, crop)
            for centre, extent, limit in zip(centres, half, (image[1], image[0]), strict=True)
        )
        left = across.after if mirror else across.before
        size = (min(down.size, crop - down.before), min(across.size, crop - left))
        return Cut((across.first, down.first, across.last, down.last), size, (down.before, left))


@dataclass(frozen=True)
class _Span:
    """One axis of a cut: first and last pixel of the image, their warped size, and the warped padding at both ends."""

    first: int
    last: int
    size: int
    before: int
    after: int

    @classmethod
    def around(cls, centre: np.float32, extent: np.float32, limit: int, crop: int) -> _Span:
        first, last = _round(centre - extent), _round(centre + extent)
        before, after = max(0, -first), max(0, last - limit + 1)
        scale = np.float32(crop) / np.float32(last - first + 1)
        first, last = first + before, last - after
        size, before, after = (_round(np.float32(length) * scale) for length in (last - first + 1, before, after))
        return cls(first, last, size, before, after)


def _round(value: np.float32) -> int:
    """Return the nearest integer, halves away from zero, as C's round does."""
    return int(np.trunc(np.float64(value) + np.copysign(0.5, value)))
