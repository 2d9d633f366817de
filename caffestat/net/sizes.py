"""Shapes of data that no file at hand states: taken from what stands around them, so that a net can be looked at."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from caffestat.errors import CaffestatError, Finding, NetError
from caffestat.layers import Shape, Source

from .model import Net, Node
from .source import NetSource, load

__all__ = ["Assumed", "assume_shapes"]

Build = Callable[[Mapping[str, Shape], list[NetError]], Net]
Size = tuple[int | None, int, int]  # channels (None: what the layer says), height and width of images

_MOST_PARAMS = 2**28  # elements; VGG-16 has half as many
_MOST_FILES = 6  # beside a net that are read for its sizes
_MOST_NAMES = 400  # of files in the net's folder that are looked at
_KNOWN: tuple[tuple[str, Size], ...] = (  # data sets by a part of their names
    ("mnist", (1, 28, 28)),
    ("cifar", (3, 32, 32)),
    ("svhn", (3, 32, 32)),
)
_USUAL: tuple[Size, ...] = (
    *((None, side, side) for side in (224, 32, 227, 256, 300, 320, 321)),
    *((channels, side, side) for channels in (1, 2, 6) for side in (28, 224)),
)


@dataclass(frozen=True)
class Assumed:
    """The shape that a top of a data layer is taken to have, and why."""

    node: Node
    top: str
    shape: Shape
    why: str

    @property
    def finding(self) -> Finding:
        """The warning that tells of it."""
        layer = self.node.layer
        said = f"the shape of top {self.top!r} is {layer.shape_source()}, not in this file"
        taken = f"assumed {'x'.join(map(str, self.shape))}, {self.why}"
        other = f"Give another as --shape {self.top}=N,C,H,W"
        return Finding(self.node.place, f"layer {layer.name!r} ({layer.proto.type}): {said}; {taken}. {other}")


def assume_shapes(net: Net, faults: list[NetError], source: NetSource, build: Build) -> tuple[Net, list[Assumed]]:
    """Return the net with shapes for tops of data layers that have none, and what was assumed.

    Targets get the shape that their layer takes; images the size of other images of the net, of a deploy file beside
    it, of a data set that it names, or else a usual one: the first with which no layer fails, if there is any.

    faults: those of the net; replaced by those of the net that is returned
    build:  builds the net anew, with shapes of tops by name; takes the faults
    """
    assumed: dict[str, Assumed] = {}
    while True:
        for candidate in _candidates(net, source):
            errors: list[NetError] = []
            shapes = {top: one.shape for top, one in {**assumed, **candidate}.items()}
            built = build(shapes, errors)
            if len(errors) <= len(faults) and _spoilt(built) <= _spoilt(net) and _largest(built) <= _MOST_PARAMS:
                break
        else:
            return net, list(assumed.values())
        net, faults[:] = built, errors
        assumed.update(candidate)


def _spoilt(net: Net) -> int:
    """Return how many layers fail although their bottoms have shapes."""
    return sum(None not in node.bottom_shapes and None in node.top_shapes and bool(node.bottoms) for node in net.nodes)


def _largest(net: Net) -> int:
    """Return how many elements the largest param has."""
    return max((math.prod(entry.param.shape) for entry in net.params), default=0)


def _candidates(net: Net, source: NetSource) -> Iterator[dict[str, Assumed]]:
    """Yield what tops without shapes may be: what their readers take, where these tell, else images of likely sizes."""
    unsized = [(node, index) for node in net.nodes for index in _unsized(node)]
    if found := {one.top: one for one in _by_readers(net, unsized)}:
        yield found
    sizes = list(_sizes(net, source)) if unsized else []
    for node, index in {node.index: (node, index) for node, index in reversed(unsized)}.values():
        layer = node.layer
        assert isinstance(layer, Source)
        for size, why in sizes:
            yield {layer.proto.top[index]: Assumed(node, layer.proto.top[index], layer.usual_shape(index, size), why)}


def _unsized(node: Node) -> Iterator[int]:
    """Yield the tops of a data layer that have no shape."""
    if isinstance(node.layer, Source) and node.layer.has_usual_shape and not node.bottoms:
        yield from (index for index, shape in enumerate(node.top_shapes) if shape is None)


def _by_readers(net: Net, unsized: Iterable[tuple[Node, int]]) -> Iterator[Assumed]:
    """Yield the shapes that layers take beside their other bottoms, whose shapes are known."""
    for node, index in unsized:
        uses = net.flow.through((node.index, index), lambda step, _: net.nodes[step].layer.copies)
        for step, position in uses:
            reader = net.nodes[step]
            if shape := _taken(reader, position):
                yield Assumed(node, node.layer.proto.top[index], shape, f"as layer {reader.name!r} takes it")
                break


def _taken(reader: Node, position: int) -> Shape | None:
    """Return the shape that a layer takes as one bottom beside the others; None where these do not decide it."""
    others = [shape for index, shape in enumerate(reader.bottom_shapes) if index != position]
    known = [shape for shape in others if shape]
    if not known or len(known) < len(others):
        return None
    first = known[0]
    vector, maps = first[:1], (first[0], 1, *first[2:])
    for shape in (first, vector, maps) if reader.layer.takes_targets else (vector, maps, first, (first[0], 1)):
        with suppress(NetError):
            reader.layer.tops([*known[:position], shape, *known[position:]])
            return shape
    return None


def _sizes(net: Net, source: NetSource) -> Iterator[tuple[Size, str]]:
    """Yield sizes that images may have, and why, likely ones first."""
    for node in net.nodes:
        shape = node.top_shapes[0] if node.top_shapes and not node.bottoms else None
        if shape is not None and len(shape) == 4 and min(shape[2:]) > 1:
            yield (None, shape[2], shape[3]), f"as large as the images of layer {node.name!r}"
    yield from _of_other_phases(source)
    yield from _of_deploy_files(source)
    text = " ".join((source.name, source.header.name, *(_source_of(entry.proto) for entry in source.layers))).lower()
    yield from ((size, f"as images of {name} are") for name, size in _KNOWN if name in text)
    yield from ((size, "a usual size") for size in _USUAL)


def _source_of(proto: Any) -> str:
    return str(proto.data_param.source or proto.hdf5_data_param.source or proto.image_data_param.source)


def _of_other_phases(source: NetSource) -> Iterator[tuple[Size, str]]:
    """Yield the crop_size of data layers, of other phases, say."""
    for entry in source.layers:
        if crop := entry.proto.transform_param.crop_size:
            yield (None, crop, crop), f"the crop_size of layer {entry.proto.name!r} at {entry.place}"


def _of_deploy_files(source: NetSource) -> Iterator[tuple[Size, str]]:
    """Yield the sizes of the inputs of nets beside this one that consist of the same layers."""
    names = {entry.proto.name for entry in source.layers if entry.proto.bottom}
    for path in _beside(source.name):
        with suppress(CaffestatError):
            other = load(str(path))
            if not isinstance(other, NetSource):
                continue
            theirs = {entry.proto.name for entry in other.layers if entry.proto.bottom}
            if 2 * len(names & theirs) > len(theirs):
                yield from ((size, f"as {path.name} beside it has it") for size in _inputs(other))


def _inputs(source: NetSource) -> Iterator[Size]:
    """Yield the sizes of images that Input layers state."""
    for entry in source.layers:
        for shape in entry.proto.input_param.shape:
            if len(shape.dim) == 4 and min(shape.dim) >= 1 and min(shape.dim[2:]) > 1:
                _, channels, height, width = shape.dim
                yield channels, height, width


def _beside(name: str) -> list[Path]:
    """Return the files in a net's folder that may be the same net in use: deploy files, and what starts alike."""
    path = Path(name)
    if not path.is_file():
        return []
    with suppress(OSError), os.scandir(path.parent) as entries:
        names = [entry.name for entry in islice(entries, _MOST_NAMES) if entry.name.endswith(path.suffix)]
        likely = [n for n in names if n != path.name and ("deploy" in n.lower() or path.stem.startswith(Path(n).stem))]
        nearest = sorted(likely, key=lambda other: (-_alike(other, path.name), other))
        return [path.parent / other for other in nearest[:_MOST_FILES]]
    return []


def _alike(one: str, other: str) -> int:
    """Return how many characters two names have in common at their start."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
