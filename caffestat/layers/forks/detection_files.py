"""The files that SSD's DetectionOutput writes in tests: detections as VOC, COCO and ILSVRC list them.

(weiliu89/caffe, detection_output_layer.cpp, Reshape and Forward_cpu)
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from caffestat.files import replace_file
from caffestat.lazy import np

from .detections import Size, in_pixels

__all__ = ["FORMATS", "DetectionFiles", "listed_sizes"]

_NUMBER = re.compile(r'"(null|true|false|-?[0-9]+(\.[0-9]+)?)"')

_JSON = """\
        {
            "image_id": %s,
            "category_id": %s,
            "bbox": [
                "%.9g",
                "%.9g",
                "%.9g",
                "%.9g"
            ],
            "score": "%.9g"
        }"""


class _Detection(NamedTuple):
    """A detection in an image; box: left and upper edge, width and height in pixels, in hundredths."""

    image: str
    label: int
    name: str
    score: float
    box: tuple[float, float, float, float]

    @property
    def words(self) -> str:
        """The score and the corners in whole pixels."""
        left, top, width, height = map(int, self.box)
        return f"{self.score:g} {left} {top} {left + width} {top + height}"


class DetectionFiles:
    """Collects detections, pass by pass, and writes them each time those of all test images are there.

    p: a SaveOutputParameter; labels: the names of the labels that detections can have; images: name and size of each,
    in the order of the data. `error` makes an exception of a message.
    """

    def __init__(
        self,
        p: Any,
        labels: Mapping[int, str],
        images: Sequence[tuple[str, Size]],
        error: Callable[[str], Exception],
    ) -> None:
        self._p, self._labels, self._images, self._error = p, labels, images, error
        self._wanted = p.num_test_image if p.HasField("num_test_image") else len(images)
        self._seen = 0
        self._found: list[_Detection] = []

    def check(self) -> None:
        """Raise what `error` makes for settings at which Caffe stops."""
        listed, resized = len(self._images), self._p.resize_param
        if not 0 < self._wanted <= listed:
            raise self._error(f"num_test_image is {self._wanted}; expected 1 to {listed}, as name_size_file has")
        if self._p.HasField("resize_param") and not (resized.height and resized.width):
            raise self._error("expected height and width in resize_param of save_output_param")

    def add(self, rows: np.ndarray, count: int) -> None:
        """Take the detections [rows, 7] of a batch of `count` images. Raises what `error` makes, or InputError."""
        if not self._seen:
            self._write([])
        for number in range(count):
            self._found += self._of_image(rows[(rows[:, 0] == number) & (rows[:, 1] != -1)])
            self._seen += 1
            if self._seen == self._wanted:
                self._write(self._found)
                self._seen, self._found = 0, []

    def _of_image(self, rows: np.ndarray) -> Iterator[_Detection]:
        name, size = self._images[self._seen]
        boxes, _ = in_pixels(rows[:, 3:], size, self._p)
        if not np.isfinite(boxes).all():
            raise self._error("finds boxes that are no numbers, at which Caffe stops when it writes them")
        boxes[:, 2:] -= boxes[:, :2]
        for row, box in zip(rows.tolist(), _in_hundredths(boxes).tolist(), strict=True):
            yield _Detection(name, int(row[1]), self._labels[int(row[1])], row[2], tuple(box))

    def _write(self, found: Sequence[_Detection]) -> None:
        """Write the files of these detections; before the first image of a round, VOC's alone, empty."""
        folder = Path(self._p.output_directory)
        try:
            os.makedirs(folder, exist_ok=True)
        except (OSError, ValueError) as error:
            raise self._error(f"output_directory {str(folder)!r} cannot be made: {error}") from error
        names = self._labels.values()
        for end, text in FORMATS[self._p.output_format](found, names, not self._seen):
            name = self._p.output_name_prefix + end
            if Path(name).name != name or "\0" in name:
                raise self._error(f"output_name_prefix and the label's name make {name!r}; expected the name of a file")
            replace_file(folder / name, text.encode("utf-8", "surrogateescape"))


def _in_hundredths(values: np.ndarray) -> np.ndarray:
    """Return float32 values rounded to hundredths, halves away from zero."""
    scaled = (values * np.float32(100)).astype(np.float64)
    return (np.copysign(np.floor(abs(scaled) + 0.5), scaled) / 100).astype(np.float32)


def listed_sizes(data: bytes) -> list[tuple[str, Size]]:
    """Return name, height and width of each image, as far as a text has "name height width"."""
    words = data.decode("utf-8", "surrogateescape").split()
    triples = takewhile(_has_integers, zip(words[::3], words[1::3], words[2::3], strict=False))
    return [(name, (int(height), int(width))) for name, height, width in triples]


def _has_integers(triple: tuple[str, str, str]) -> bool:
    return all(word.removeprefix("-").isdecimal() for word in triple[1:])


Files = Iterator[tuple[str, str]]  # what follows the prefix in each file's name, and its text


def _voc(found: Sequence[_Detection], names: Sequence[str], is_start: bool) -> Files:
    for name in names:
        yield f"{name}.txt", "".join(f"{one.image} {one.words}\n" for one in found if one.name == name)


def _coco(found: Sequence[_Detection], names: Sequence[str], is_start: bool) -> Files:
    parts = (_JSON % (_quoted(one.image), _quoted(one.name), *one.box, one.score) for one in found)
    if not is_start:
        yield ".json", _NUMBER.sub(r"\1", "[\n" + ",\n".join(parts) + "\n    \n]\n")


def _ilsvrc(found: Sequence[_Detection], names: Sequence[str], is_start: bool) -> Files:
    if not is_start:
        yield ".txt", "".join(f"{one.image} {one.label} {one.words}\n" for one in found)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("/", "\\/")


FORMATS: dict[str, Callable[..., Files]] = {"VOC": _voc, "COCO": _coco, "ILSVRC": _ilsvrc}
"""What each output_format writes of detections; whether it is the start of a round, which empties VOC's files."""
