"""ImageData layers: image files that a text file lists. (image_data_layer.cpp)"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from caffestat.fillers import Stream

from .images import LARGEST, decode, resize
from .reader import DataUnavailableError, Reader, find, quoted, read, text_lines
from .transformer import Transformer

if TYPE_CHECKING:
    from caffestat.layers import Layer

__all__ = ["ImageReader"]

T = TypeVar("T")


class ImageReader(Reader):
    """The images of a list in its order, or shuffled each time it begins; tops: images (N, C, H, W), labels (N).

    With HashNet's label_dim the labels are (N, label_dim). (thuml/HashNet, image_data_layer.cpp)
    """

    is_independent = True

    def __init__(self, layer: Layer) -> None:
        param = layer.proto.image_data_param
        super().__init__(layer, param.batch_size)
        self._folder = find(param.source, layer).parent
        dims = layer.own("image_data_param.label_dim", int)[:1]
        listed = enumerate(text_lines(find(param.source, layer), layer), 1)
        self._listed = [(*(_split_all(line, dims[0]) if dims else _split(line)), number) for number, line in listed]
        for _, labels, number in self._listed if dims else ():
            if len(labels) < dims[0]:
                found = f"line {number} of {param.source!r} has {len(labels)}"
                raise layer.error(f"expected {dims[0]} labels behind each name, as label_dim says; {found}")
        self._transformer = Transformer(layer)
        self._shuffle: Stream | None = None
        self._lines = self._listed
        self._place = 0
        size = self._transformer.shape(self._image(*self._lines[0][::2]).shape)
        self.shapes = ((self.batch, *size), (self.batch, *dims))

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        self._transformer.start(words.get("transformer"))
        self._shuffle = Stream(words["shuffle"]) if "shuffle" in words else None
        self._lines = _shuffled(self._shuffle, self._listed) if self._shuffle else self._listed
        skip = words["skip"] % self.layer.proto.image_data_param.rand_skip if "skip" in words else 0
        if skip >= len(self._lines):
            raise self.layer.error(f"rand_skip passes over {skip} images, but only {len(self._lines)} are listed")
        self._place = skip

    def next(self) -> Sequence[np.ndarray]:
        data, labels = (np.empty(shape, np.float32) for shape in self.shapes)
        for index in range(self.batch):
            name, label, number = self._lines[self._place]
            try:
                image = self._transformer.apply(self._image(name, number))
            except DataUnavailableError as error:
                raise self.layer.error(str(error)) from error
            if image.shape != data.shape[1:]:
                sizes = f"has shape {image.shape}, the first one {data.shape[1:]}"
                said = self._said(name, number)
                raise self.layer.error(f"image {said} {sizes}; give new_height and new_width, or crop_size")
            data[index], labels[index] = image, label
            self._step()
        return data, labels

    def _step(self) -> None:
        self._place += 1
        if self._place == len(self._lines):
            self._place = 0
            self._lines = _shuffled(self._shuffle, self._lines) if self._shuffle else self._lines

    def _said(self, name: str, number: int) -> str:
        return quoted(name, number, self.layer.proto.image_data_param.source)

    def _image(self, name: str, number: int) -> np.ndarray:
        """Return the image (C, H, W) of this number in the list, resized when the layer says so."""
        param = self.layer.proto.image_data_param
        path = find(param.root_folder + name, self.layer, self._folder, said=self._said(name, number))
        try:
            image = decode(read(path, self.layer, LARGEST), param.is_color)
        except ValueError as error:
            raise self.layer.error(f"{self._said(name, number)} {error}") from error
        return resize(image, param.new_height, param.new_width) if param.new_height and param.new_width else image


def _split(line: str) -> tuple[str, int]:
    """Return the file's name, and the label behind the last space."""
    name, space, label = line.rpartition(" ")
    return (name if space else line), _number(label)


def _split_all(line: str, count: int) -> tuple[str, list[int]]:
    """Return the file's name, in front of the first space, and at most `count` labels behind it."""
    name, *labels = line.split(" ")
    return name, [_number(label) for label in labels[:count]]


def _number(text: str) -> int:
    """Return the integer that a text begins with, 0 where there is none, as C's atoi has it."""
    found = re.match(r"\s*[+-]?\d+", text)
    return int(found[0]) if found else 0


def _shuffled(stream: Stream, items: Sequence[T]) -> list[T]:
    """Return the items in another order: Fisher-Yates from the back, on Boost's uniform integers. (util/rng.hpp)"""
    result = list(items)
    for last in range(len(result) - 1, 0, -1):
        bucket = (1 << 32) // (last + 1)
        while (chosen := stream.word() // bucket) > last:
            pass
        result[last], result[chosen] = result[chosen], result[last]
    return result
