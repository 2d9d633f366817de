"""Image files listed in a text file, for ImageData layers and others. (image_data_layer.cpp)"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from caffestat.fillers import Stream
from caffestat.lazy import np

from .images import LARGEST, decode, resize
from .reader import DataUnavailableError, Reader, all_lines, find, quoted, read, text_lines
from .transformer import Transformer

if TYPE_CHECKING:
    from pathlib import Path

    from caffestat.layers import Layer

__all__ = ["ImageReader", "ListReader", "atoi", "shuffled"]

T = TypeVar("T")


class ListReader(Reader, Generic[T]):
    """What a text file lists, in its order, or shuffled each time it begins.

    settings: the message with source, root_folder, batch_size, new_height, new_width, is_color, shuffle and rand_skip
    """

    is_independent = True

    def __init__(self, layer: Layer, settings: Any) -> None:
        super().__init__(layer, settings.batch_size)
        self.settings = settings
        self.root: str = getattr(settings, "root_folder", "")
        self.transformer = Transformer(layer)
        path = find(settings.source, layer)
        self._folder = path.parent
        self.listed = [self.entry(line, number) for number, line in enumerate(self.lines(path), 1)]
        self._shuffle: Stream | None = None
        self._entries = self.listed
        self._place = 0

    def lines(self, path: Path) -> list[str]:
        """Return the lines that count."""
        return text_lines(path, self.layer)

    def entry(self, line: str, number: int) -> T:
        """Return what a line lists. number: that of the line, for `quoted`"""
        raise NotImplementedError

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        self.transformer.start(words.get("transformer"))
        self._shuffle = Stream(words["shuffle"]) if "shuffle" in words else None
        self._entries = shuffled(self._shuffle, self.listed) if self._shuffle else self.listed
        skip = words["skip"] % self.settings.rand_skip if "skip" in words else 0
        if skip >= len(self._entries):
            raise self.layer.error(f"rand_skip skips {skip} images, but the list has only {len(self._entries)}")
        self._place = skip

    def next(self) -> Sequence[np.ndarray]:
        tops: list[np.ndarray] = []
        for index in range(self.batch):
            entry = self._entries[self._place]
            try:
                values = self.read(entry)
            except DataUnavailableError as error:
                raise self.layer.error(str(error)) from error
            tops = tops or self.new_tops(values)
            for top, value in zip(tops, values, strict=True):
                self._put(top, index, np.asarray(value), entry)
            self._step()
        return tops

    def read(self, entry: T) -> Sequence[np.ndarray | int]:
        """Return the values of each top for an entry, as the net gets them."""
        raise NotImplementedError

    def keeps_sizes(self) -> bool:
        """Tell whether images stay as large as they are, one to a batch."""
        return self.batch == 1 and not self.settings.new_height and not self.transformer.cuts

    def said(self, entry: T) -> str:
        """Return the name of an entry in messages."""
        raise NotImplementedError

    def _put(self, top: np.ndarray, index: int, value: np.ndarray, entry: T) -> None:
        if value.shape != top.shape[1:]:
            sizes = f"has shape {value.shape}, the first one {top.shape[1:]}"
            raise self.layer.error(f"image {self.said(entry)} {sizes}; give new_height and new_width, or crop_size")
        top[index] = value

    def _step(self) -> None:
        self._place += 1
        if self._place == len(self._entries):
            self._place = 0
            self._entries = shuffled(self._shuffle, self._entries) if self._shuffle else self._entries

    def named(self, name: str, number: int) -> str:
        """Return the name of a file of the list in messages."""
        return quoted(name, number, self.settings.source)

    def image(
        self,
        name: str,
        number: int,
        colour: bool,
        size: tuple[int, int] | None = None,
        resized: Callable[[np.ndarray, int, int], np.ndarray] = resize,
    ) -> np.ndarray:
        """Return an image (C, H, W) of the list in a size, by default new_height x new_width; (0, 0) is its own."""
        height, width = size or (self.settings.new_height, self.settings.new_width)
        said = self.named(name, number)
        path = find(self.root + name, self.layer, self._folder, said=said)
        try:
            image = decode(read(path, self.layer, LARGEST), colour)
        except ValueError as error:
            raise self.layer.error(f"{said} {error}") from error
        return resized(image, height, width) if height and width else image


Labelled = tuple[str, Any, int]  # a file, its label or labels, and the number of its line


class ImageReader(ListReader[Labelled]):
    """Images (N, C, H, W) and labels (N), with label_dim (N, label_dim). (thuml/HashNet, image_data_layer.cpp)"""

    def __init__(self, layer: Layer) -> None:
        self._dims = layer.own("image_data_param.label_dim", int)[:1]
        super().__init__(layer, layer.proto.image_data_param)
        name, _, number = self.listed[0]
        size = self.transformer.shape(self.image(name, number, self.settings.is_color).shape)
        self.shapes = ((self.batch, *size), (self.batch, *self._dims))
        self.varies = self.keeps_sizes()

    def lines(self, path: Path) -> list[str]:
        return all_lines(path, self.layer)  # Caffe counts blank ones, and stops when it comes to one

    def entry(self, line: str, number: int) -> Labelled:
        if not self._dims:
            return (*_split(line), number)
        name, labels = _split_all(line, self._dims[0])
        if len(labels) < self._dims[0]:
            found = f"line {number} of {self.settings.source!r} has {len(labels)}"
            raise self.layer.error(f"expected {self._dims[0]} labels behind each name, as label_dim says; {found}")
        return name, labels, number

    def said(self, entry: Labelled) -> str:
        return self.named(entry[0], entry[2])

    def read(self, entry: Labelled) -> Sequence[np.ndarray | int]:
        name, label, number = entry
        if not name:
            raise self.layer.error(f"line {number} of {self.settings.source!r} names no image")
        return self.transformer.apply(self.image(name, number, self.settings.is_color)), label


def _split(line: str) -> tuple[str, int]:
    """Return the file's name, and the label behind the last space."""
    name, space, label = line.rpartition(" ")
    return (name if space else line), atoi(label)


def _split_all(line: str, count: int) -> tuple[str, list[int]]:
    """Return the file's name, in front of the first space, and at most `count` labels behind it."""
    name, *labels = line.split(" ")
    return name, [atoi(label) for label in labels[:count]]


def atoi(text: str) -> int:
    """Return the integer that a text begins with, 0 where there is none, as glibc's atoi: 64 bits, cut to 32."""
    found = re.match(r"\s*[+-]?\d+", text)
    value = max(-(1 << 63), min(int(found[0]), (1 << 63) - 1)) if found else 0
    return (value + (1 << 31)) % (1 << 32) - (1 << 31)


def shuffled(stream: Stream, items: Sequence[T]) -> list[T]:
    """Return the items in another order: Fisher-Yates from the end, on Boost's uniform integers. (util/rng.hpp)"""
    result = list(items)
    for last in range(len(result) - 1, 0, -1):
        bucket = (1 << 32) // (last + 1)
        while (chosen := stream.word() // bucket) > last:
            pass
        result[last], result[chosen] = result[chosen], result[last]
    return result
