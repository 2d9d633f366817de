"""Videos that a text file lists: folders of images, and files that OpenCV decodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from caffestat.errors import NetError
from caffestat.fillers import Stream
from caffestat.lazy import np
from caffestat.schema import caffe_pb2
from caffestat.schema.forks.data_pb2 import SegmentDataParameter

from .image_list import ListReader, atoi
from .images import resize
from .reader import find, require
from .transformer import mean_values, read_blob

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from caffestat.layers import Layer

    Frames = NDArray[np.uint8]

__all__ = ["ClipReader", "SegmentReader"]

Entry = tuple[str, int, int, int]  # a video, a number, its label, and the number of its line

TRAIN = caffe_pb2.TRAIN
SCALES = (1, 0.875, 0.75, 0.66)  # of the side, where multi_scale has no scale_ratios
NEAR = 3  # pixels: a crop whose side is nearer to the net's is of the net's


class _VideoReader(ListReader[Entry]):
    """Entries of three words: a video, a number, and a label."""

    def entry(self, line: str, number: int) -> Entry:
        words = line.split()
        if len(words) < 3:
            raise self.layer.error(f"line {number} of {self.settings.source!r}: expected a video, a number and a label")
        return words[0], atoi(words[1]), atoi(words[2]), number

    def said(self, entry: Entry) -> str:
        return self.named(entry[0], entry[3])


class ClipReader(_VideoReader):
    """Clips (N, C, L, H, W) from a frame on that the list gives, counted from 1, and labels (N).

    A folder holds image_0001.jpg and so on. (chuckcho/video-caffe, video_data_layer.cpp, ReadVideoToCVMat in io.cpp)
    """

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer, layer.settings)  # type: ignore[attr-defined]  # those of forks have it
        self._cube = self._mean_cube()
        frames = self._frames(self.listed[0])
        channels, height, width = self.transformer.shape(frames[0].shape)
        self.shapes = ((self.batch, channels, len(frames), height, width), (self.batch,))

    def read(self, entry: Entry) -> Sequence[np.ndarray | int]:
        frames = self._frames(entry)
        place = self.transformer.place(frames[0].shape)
        means = [None] * len(frames) if self._cube is None else self._cube.swapaxes(0, 1)
        cut = [self.transformer.cut(frame, *place, mean) for frame, mean in zip(frames, means, strict=False)]
        return np.stack(cut, 1), entry[2]

    def _mean_cube(self) -> NDArray[np.float32] | None:
        """Return the mean (C, L, H, W) of a mean_file of five axes, None for another."""
        path = self.layer.proto.transform_param.mean_file
        shape, values = read_blob(self.layer, path) if path else ((), np.empty(0, np.float32))
        if len(shape) != 5:
            return None
        if shape[2] < self.settings.new_length:
            raise self.layer.error(f"mean_file {path!r} has {shape[2]} frames; expected {self.settings.new_length}")
        return values[: int(np.prod(shape[1:]))].reshape(shape[1:])

    def _frames(self, entry: Entry) -> list[Frames]:
        name, first, _, number = entry
        p, said = self.settings, self.said(entry)
        path = find(self.root + name, self.layer, self._folder, said=said)
        if not path.is_dir():
            return self._decoded(path, first, said)
        names = [f"{name}/image_{frame:04d}.jpg" for frame in range(first, first + p.new_length)]
        return [self.image(frame, number, p.is_color) for frame in names]

    def _decoded(self, path: Path, first: int, said: str) -> list[Frames]:
        """Return frames of a file; one that cannot be decoded is replaced by the one before."""
        cv2 = require("cv2", "videos", "opencv")
        p, frames = self.settings, []
        video = cv2.VideoCapture(str(path))
        count = int(video.get(cv2.CAP_PROP_FRAME_COUNT)) if video.isOpened() else -1
        if count + 1 < first + p.new_length - 1:
            found = f"{count} frames" if count >= 0 else "no video that OpenCV decodes"
            raise self.layer.error(f"{said}: expected frames {first} to {first + p.new_length - 1}, found {found}")
        video.set(cv2.CAP_PROP_POS_FRAMES, first - 2)  # as in the reference, which counts from 1 and goes back one more
        for _ in range(p.new_length):
            is_read, pixels = video.read()
            if is_read:
                pixels = pixels if p.is_color else cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY)
                image = np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1))
                frames.append(resize(image, p.new_height, p.new_width) if p.new_height and p.new_width else image)
            elif frames:
                frames.append(frames[-1])
            else:
                raise self.layer.error(f"{said}: frame {first} cannot be decoded")
        video.release()
        return frames


class SegmentReader(_VideoReader):
    """Snippets of each video, one for each of num_segments parts, their channels in a row, and labels (N, 1, 1, 1).

    A folder holds its frames by name_pattern; the list gives how many. In TRAIN a snippet begins at a random place of
    its part. (yjxiong/caffe, video_data_layer.cpp, data_transformer.cpp)
    """

    def __init__(self, layer: Layer) -> None:
        self._transform = layer.added.transform_param
        self._param = layer.proto.transform_param
        self._places: Stream | None = None
        super().__init__(layer, layer.settings)  # type: ignore[attr-defined]
        frames = self._stacked(self.listed[0], self._starts(self.listed[0], is_random=False))
        self.shapes = ((self.batch, *self.transformer.shape(frames.shape)), (self.batch, 1, 1, 1))

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        super().start(words, stream)
        self._places = Stream(words["frames"])
        self._places.words(self.settings.num_segments)  # the reference reads one item at set-up

    def read(self, entry: Entry) -> Sequence[np.ndarray | int]:
        frames = self._stacked(entry, self._starts(entry, self.layer.phase == TRAIN))
        return self._transformed(frames), np.full((1, 1, 1), entry[2])

    def _starts(self, entry: Entry, is_random: bool) -> list[int]:
        """Return how many frames lie before the snippet of each part."""
        p, part = self.settings, entry[1] // self.settings.num_segments
        spare = part - p.new_length + 1
        if spare < 1:
            return [0] * p.num_segments
        if not is_random:
            return [spare // 2 + index * part for index in range(p.num_segments)]
        assert self._places is not None, "call start first"
        return [self._places.word() % spare + index * part for index in range(p.num_segments)]

    def _stacked(self, entry: Entry, starts: Sequence[int]) -> Frames:
        """Return the channels of all frames of all snippets (C, H, W): of flow x, then y of each."""
        is_flow = self.settings.modality == SegmentDataParameter.FLOW
        colour = not is_flow and not self.settings.grayscale
        numbers = [start + index + 1 for start in starts for index in range(self.settings.new_length)]
        files = [self._file(entry, *axis, number) for number in numbers for axis in (("x",), ("y",))[: 1 + is_flow]]
        return np.concatenate([self.image(file, entry[3], colour) for file in files])

    def _file(self, entry: Entry, axis: str, number: int) -> str:
        is_flow = self.settings.modality == SegmentDataParameter.FLOW
        pattern = self.settings.name_pattern or ("flow_%c_%04d.jpg" if is_flow else "image_%04d.jpg")
        try:
            return f"{entry[0]}/" + pattern % ((axis, number) if is_flow else (number,))
        except (TypeError, ValueError) as error:
            raise self._wrong_pattern(pattern, is_flow) from error

    def _wrong_pattern(self, pattern: str, is_flow: bool) -> NetError:
        expected = "%c for x or y and %d for the frame" if is_flow else "%d for the frame"
        return self.layer.error(f"expected a name_pattern with {expected}, found {pattern!r}")

    def _transformed(self, frames: Frames) -> NDArray[np.float32]:
        """Return the frames as the net gets them; see `DataTransformer::Transform` of the reference."""
        mirror = bool(self._param.mirror and self.transformer.draw(2))
        top, left, height, width = self._window(frames.shape)
        mean = self._mean(frames.shape)
        side = self._param.crop_size
        part = frames[:, top : top + height, left : left + width]
        if side and (height, width) != (side, side):
            part = resize(np.ascontiguousarray(part), side, side)
        if mean.shape[1:] != (1, 1):  # the reference ignores the position of the crop with multi_scale
            down, right = (0, 0) if self._transform.multi_scale else (top, left)
            mean = mean[:, down : down + part.shape[1], right : right + part.shape[2]]
        values = part.astype(np.float32)
        if mirror and self._transform.is_flow:
            values[::2] = 255 - values[::2]
        values = (values - mean) * np.float32(self._param.scale)
        return values[..., ::-1] if mirror else values

    def _window(self, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
        """Draw top, left, height and width of what is cut out of frames (C, H, W)."""
        self.transformer.shape(shape)
        side, (_, rows, columns) = self._param.crop_size, shape
        if not side:
            return 0, 0, rows, columns
        if self.layer.phase != TRAIN:
            return (rows - side) // 2, (columns - side) // 2, side, side
        sizes = self._sizes(min(rows, columns), side) if self._transform.multi_scale else [(side, side)]
        height, width = sizes[self.transformer.draw(len(sizes)) if self._transform.multi_scale else 0]
        if self._transform.fix_crop:
            places = self._fixed_places(rows - height, columns - width)
            top, left = places[self.transformer.draw(len(places))]
        else:
            top, left = self.transformer.draw(rows - height + 1), self.transformer.draw(columns - width + 1)
        return top, left, height, width

    def _sizes(self, base: int, side: int) -> list[tuple[int, int]]:
        """Return heights and widths of crops of several scales. (fillCropSize)"""
        lengths = [int(np.float32(base) * np.float32(scale)) for scale in self._transform.scale_ratios or SCALES]
        lengths = [side if abs(length - side) < NEAR else length for length in lengths]
        pairs = [(i, j) for i in range(len(lengths)) for j in range(len(lengths))]
        return [(lengths[i], lengths[j]) for i, j in pairs if abs(i - j) <= self._transform.max_distort]

    def _fixed_places(self, down: int, right: int) -> list[tuple[int, int]]:
        """Return the corners and the center, with more_fix_crop edges and quarters too. (fillFixOffset)"""
        quarters = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
        if self._transform.more_fix_crop:
            quarters += [(0, 2), (4, 2), (2, 0), (2, 4), (1, 1), (1, 3), (3, 1), (3, 3)]
        return [(i * (down // 4), j * (right // 4)) for i, j in quarters]

    def _mean(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Return the mean of each channel, its values repeated for all frames, or the mean image."""
        if self._param.mean_file:
            return self.transformer.mean_of(shape)
        count = len(self._param.mean_value)
        if count > 1 and shape[0] % count == 0:
            values = np.tile(np.array(self._param.mean_value, np.float32), shape[0] // count)
            return values.reshape(-1, 1, 1)
        return mean_values(self.layer, shape[0])
