"""Images one at a time with maps of labels, as FCN's Python layers read them out of the folders of their data sets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from caffestat.fillers import Stream
from caffestat.lazy import np

from .mat import array_in
from .reader import Reader, find, require, text_lines

if TYPE_CHECKING:
    from caffestat.layers import Layer

__all__ = ["SceneReader"]

_SIFT = "spatial_envelope_256x256_static_8outdoorcategories"
_DEPTH_MEAN, _HHA_MEAN = 7.844, (132.431, 94.076, 118.477)
_OTHER_NAMES = {"diningtable": "table", "bedcloth": "bedclothes", "clothes": "cloth"}
"""How PASCAL-Context's list of 59 labels calls some of the 400."""


class SceneReader(Reader):
    """One image (1, C, H, W) after another and its maps (1, 1, H, W); drawn at random where "train" is in the split.

    Indices are drawn as Python 2 draws them from the given seed. An image of another size than the first is refused: a
    net is built once. (shelhamer/fcn.berkeleyvision.org, voc_layers.py, nyud_layers.py, pascalcontext_layers.py,
    siftflow_layers.py)
    """

    is_independent = True

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer, 1)
        self.settings: Mapping[str, Any] = layer.settings  # type: ignore[attr-defined]
        listed, self._load = _SETS[layer.data_set]  # type: ignore[attr-defined]
        self._lines = text_lines(self.file(listed), layer)
        self._is_random = self.settings.get("randomize", True) and "train" in str(self.settings["split"])
        self._restart()
        self.shapes = tuple((1, *part.shape) for part in self._parts())

    def file(self, path: str) -> Path:
        """Return the path of a file; names of settings in braces are replaced by their values."""
        return find(path.format_map({name: str(value) for name, value in self.settings.items()}), self.layer)

    def _restart(self) -> None:
        self._random = Random(self.settings.get("seed"))
        self._index = 0
        if self._is_random:
            self._advance()

    def _advance(self) -> None:
        count = len(self._lines)
        self._index = int(self._random.random() * count) if self._is_random else (self._index + 1) % count

    def _parts(self) -> list[np.ndarray]:
        name = self._lines[self._index].strip()
        kinds = self.layer.parts()  # type: ignore[attr-defined]
        return [np.asarray(self._load(self, kind, name), np.float32) for kind in kinds]

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        self._restart()

    def next(self) -> Sequence[np.ndarray]:
        parts = [part[None] for part in self._parts()]
        if tuple(part.shape for part in parts) != self.shapes:
            name = self._lines[self._index].strip()
            sizes = [" x ".join(map(str, shape[2:])) for shape in (parts[0].shape, self.shapes[0])]
            raise self.layer.error(
                f"image {name!r} is {sizes[0]}; expected {sizes[1]} as the first: the tops have a fixed size"
            )
        self._advance()
        return parts

    def pixels(self, path: str) -> np.ndarray:
        """Return the elements of an image as its file has them, (H, W) or (H, W, C)."""
        place, pillow = self.file(path), require("PIL.Image", "images")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return np.array(pillow.open(place, formats=("JPEG", "PNG")))
        except Exception as error:  # of damaged files the decoders raise almost any
            raise self.layer.error(f"{place}: cannot be decoded as an image: {error}") from error

    def colours(self, path: str, mean: Sequence[float], is_rgb: bool = True) -> np.ndarray:
        """Return an image (3, H, W) less the mean; the channels of an RGB one reversed to blue, green, red."""
        pixels = self.pixels(path).astype(np.float32)
        if pixels.ndim != 3 or pixels.shape[2] != 3:
            raise self.layer.error(f"{path}: expected an image of 3 channels, found elements {pixels.shape}")
        return (pixels[:, :, ::-1] if is_rgb else pixels).transpose(2, 0, 1) - np.array(mean, np.float32)[:, None, None]

    def map(self, path: str, name: str) -> np.ndarray:
        """Return a map of labels (1, H, W) out of a .mat file."""
        return np.asarray(array_in(self.file(path), name, self.layer))[None]


def _mean(reader: SceneReader) -> Sequence[float]:
    return tuple(reader.settings["mean"])


def _voc(reader: SceneReader, kind: str, name: str) -> np.ndarray:
    if kind == "color":
        return reader.colours(f"{{voc_dir}}/JPEGImages/{name}.jpg", _mean(reader))
    return reader.pixels(f"{{voc_dir}}/SegmentationClass/{name}.png")[None]


def _sbdd(reader: SceneReader, kind: str, name: str) -> np.ndarray:
    if kind == "color":
        return reader.colours(f"{{sbdd_dir}}/img/{name}.jpg", _mean(reader))
    (found,) = reader.map(f"{{sbdd_dir}}/cls/{name}.mat", "GTcls")
    return np.asarray(found[0]["Segmentation"][0], np.uint8)[None]


def _nyud(reader: SceneReader, kind: str, name: str) -> np.ndarray:
    if kind == "label":
        return reader.map(f"{{nyud_dir}}/segmentation/img_{name}.mat", "segmentation").astype(np.uint8) - np.uint8(1)
    if kind == "depth":
        with np.errstate(divide="ignore"):
            depth = np.log(reader.pixels(f"{{nyud_dir}}/data/depth/img_{name}.png").astype(np.float32))
        return depth[None] - np.float32(_DEPTH_MEAN)
    if kind == "hha":
        return reader.colours(f"{{nyud_dir}}/data/hha/img_{name}.png", _HHA_MEAN, is_rgb=False)
    return reader.colours(f"{{nyud_dir}}/data/images/img_{name}.png", (116.190, 97.203, 92.318))


def _context(reader: SceneReader, kind: str, name: str) -> np.ndarray:
    if kind == "color":
        return reader.colours(f"{{voc_dir}}/VOC2010/JPEGImages/{name}.jpg", (104.007, 116.669, 122.679))
    every, few = (_labels(reader, f"{{context_dir}}/{file}") for file in ("labels.txt", "59_labels.txt"))
    found = reader.map(f"{{context_dir}}/trainval/{name}.mat", "LabelMap")
    made = np.zeros(found.shape, np.uint8)
    for index, label in enumerate(few, 1):
        made[found == every.index(_OTHER_NAMES.get(label, label)) + 1] = index
    return made


def _labels(reader: SceneReader, path: str) -> list[str]:
    """Return the names that a list of lines `number: name` gives."""
    return [line.split(":")[-1].replace(" ", "").strip() for line in text_lines(reader.file(path), reader.layer)]


def _sift_flow(reader: SceneReader, kind: str, name: str) -> np.ndarray:
    if kind == "color":
        return reader.colours(f"{{siftflow_dir}}/Images/{_SIFT}/{name}.jpg", (114.578, 115.294, 108.353))
    folder = "SemanticLabels" if kind == "semantic" else "GeoLabels"
    found = reader.map(f"{{siftflow_dir}}/{folder}/{_SIFT}/{name}.mat", "S")
    if kind == "geometric":
        found = np.where(found == -1, 0, found)
    return found.astype(np.uint8) - np.uint8(1)  # 0 is no label: 255


_SETS: Mapping[str, tuple[str, Callable[[SceneReader, str, str], np.ndarray]]] = {
    "voc": ("{voc_dir}/ImageSets/Segmentation/{split}.txt", _voc),
    "sbdd": ("{sbdd_dir}/{split}.txt", _sbdd),
    "nyud": ("{nyud_dir}/{split}.txt", _nyud),
    "context": ("{voc_dir}/VOC2010/ImageSets/Main/{split}.txt", _context),
    "siftflow": ("{siftflow_dir}/{split}.txt", _sift_flow),
}
"""Of each data set the file that lists its images, and what reads a part of one."""
