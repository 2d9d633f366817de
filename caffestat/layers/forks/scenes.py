"""The Python layers that feed fully convolutional networks: images of five data sets with maps of labels."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from caffestat.lazy import np

from ..base import Shape, layer
from ..data import Count, Python
from .proposals import literal

__all__ = ["NYUDSegData", "PASCALContextSegData", "SBDDSegData", "SIFTFlowSegData", "VOCSegData"]

CHANNELS = {"color": 3, "hha": 3}
GEOMETRIC = 3  # classes


class _Scenes(Python):
    """An image [1, 3, H, W] and its labels [1, 1, H, W], of the size of each image.

    Code of the same name whose param_str names none of the folders is another's.
    """

    num_bottoms = (0, 0)
    num_tops: ClassVar[Count] = (2, 2)
    data_kind = "scenes"
    data_set: ClassVar[str]
    folders: ClassVar[tuple[str, ...]]
    needs: ClassVar[tuple[str, ...]] = ()
    label_count: ClassVar[int]

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        return super().fits(proto, types) and any(name in proto.python_param.param_str for name in cls.folders)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The settings of param_str, the text of a dict."""
        text = self.proto.python_param.param_str
        try:
            found = literal(text.strip())
        except ValueError as error:
            raise self.error(f"expected a dict of settings in param_str, found {text!r}") from error
        wanted = [*self.folders, "split", *self.needs]
        missing = [name for name in wanted if not isinstance(found, dict) or name not in found]
        if missing:
            raise self.error(f"param_str lacks {', '.join(missing)}; expected {', '.join(wanted)}")
        return dict(found)

    def parts(self) -> tuple[str, ...]:
        """Return what each top holds: "color" for the image, else the kind of its map."""
        return ("color", "label")

    def shape_source(self) -> str:
        return f"in the images of {self.settings[self.folders[0]]!r}"

    def usual_shape(self, index: int, size: tuple[int | None, int, int]) -> Shape:
        kinds = self.parts()
        return (1, CHANNELS.get(kinds[index] if index < len(kinds) else "", 1), *size[1:])

    def example(self, index: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        kind = self.parts()[index]
        if kind in (*CHANNELS, "depth"):
            return None
        return random.integers(0, GEOMETRIC if kind == "geometric" else self.label_count, shape).astype(np.float32)


@layer("voc_layers.VOCSegDataLayer", dialect="fcn")
class VOCSegData(_Scenes):
    """Images of PASCAL VOC and their classes. (shelhamer/fcn.berkeleyvision.org, voc_layers.py)"""

    data_set, folders, needs, label_count = "voc", ("voc_dir",), ("mean",), 21


@layer("voc_layers.SBDDSegDataLayer", dialect="fcn")
class SBDDSegData(_Scenes):
    """Images of the Semantic Boundaries Dataset and their classes. (shelhamer/fcn.berkeleyvision.org, voc_layers.py)"""

    data_set, folders, needs, label_count = "sbdd", ("sbdd_dir",), ("mean",), 21


@layer("nyud_layers.NYUDSegDataLayer", dialect="fcn")
class NYUDSegData(_Scenes):
    """What `tops` names of images of NYU Depth v2: color, depth [1, 1, H, W], hha, label.

    (shelhamer/fcn.berkeleyvision.org, nyud_layers.py)
    """

    num_tops = (1, 4)
    data_set, folders, needs, label_count = "nyud", ("nyud_dir",), ("tops",), 40

    def parts(self) -> tuple[str, ...]:
        named = tuple(self.settings["tops"])
        known = ("color", "depth", "hha", "label")
        if len(named) != self.top_count or not set(named) <= set(known):
            raise self.error(f"expected one of {', '.join(known)} for each of {self.top_count} tops, found {named}")
        return named


@layer("pascalcontext_layers.PASCALContextSegDataLayer", dialect="fcn")
class PASCALContextSegData(_Scenes):
    """Images of PASCAL VOC 2010 and their 59 classes of PASCAL-Context.

    (shelhamer/fcn.berkeleyvision.org, pascalcontext_layers.py)
    """

    data_set, folders, label_count = "context", ("voc_dir", "context_dir"), 60


@layer("siftflow_layers.SIFTFlowSegDataLayer", dialect="fcn")
class SIFTFlowSegData(_Scenes):
    """Images of SIFT Flow, their 33 classes and their 3 of geometry.

    (shelhamer/fcn.berkeleyvision.org, siftflow_layers.py)
    """

    num_tops = (3, 3)
    data_set, folders, label_count = "siftflow", ("siftflow_dir",), 33

    def parts(self) -> tuple[str, ...]:
        return ("color", "semantic", "geometric")
