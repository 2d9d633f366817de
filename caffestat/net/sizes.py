"""Shapes of data that no available file states: inferred from the layers around them, so that a net can be analyzed."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any

from caffestat.errors import CaffestatError, Finding, NetError
from caffestat.layers import Layer, Shape, Source
from caffestat.layers.data import Images, Python

from .build import UnknownLayer
from .model import Net, Node
from .source import NetSource, load

__all__ = ["Assumed", "assume_shapes"]

Build = Callable[[Mapping[str, Shape], list[NetError]], Net]
Size = tuple[int | None, int, int]  # channels (None: what the layer says), height and width of images

_MOST_PARAMS = 2**28  # elements; VGG-16 has half as many
_REGIONS = 16  # of an image
_MOST_FILES = 6  # beside a net that are read for its sizes
_MOST_NAMES = 400  # of files in the net's folder that are looked at
_SIZE = re.compile(r"(?<!\d)([1-9]\d{1,3})[xX]([1-9]\d{1,3})(?!\d)")  # height and width in a name
_KNOWN: tuple[tuple[str, Size], ...] = (  # data sets by a part of their names
    ("mnist", (1, 28, 28)),
    ("cifar", (3, 32, 32)),
    ("svhn", (3, 32, 32)),
)
_USUAL: tuple[Size, ...] = (
    *((None, side, side) for side in (224, 32, 227, 256, 300, 320, 321, 416, 448, 500)),
    *((channels, side, side) for channels in (1, 2, 6) for side in (28, 224)),
    (None, 384, 512),
    (None, 540, 960),
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
        """The warning about it."""
        layer = self.node.layer
        said = f"the shape of top {self.top!r} is {layer.shape_source()}, not in this file"
        taken = f"assumed {'x'.join(map(str, self.shape))}, {self.why}"
        other = f"Give another as --shape {self.top}=N,C,H,W"
        return Finding(self.node.place, f"layer {layer.name!r} ({layer.proto.type}): {said}; {taken}. {other}")


def assume_shapes(net: Net, faults: list[NetError], source: NetSource, build: Build) -> tuple[Net, list[Assumed]]:
    """Return the net with shapes for tops of data layers that have none, and what was assumed.

    Targets get the shape that their layer takes; indices timesteps and streams; images the size of other images of the
    net, of a deploy file beside it, of a data set that it names, or else a usual one: the first with which no layer
    fails, if there is any, or with which layers fail as with all others.

    faults: those of the net; replaced by those of the net that is returned
    build:  builds the net again, with shapes of tops by name; takes the faults
    """
    now = _Trial({}, net, list(faults))
    failed = _Failed({})
    while found := _next(now, source, build, failed):
        failed.forget(
            found.net.flow.behind(one.node.index for top, one in found.assumed.items() if top not in now.assumed)
        )
        now = found
    faults[:] = now.faults
    return now.net, list(now.assumed.values())


@dataclass(frozen=True)
class _Trial:
    """A net that was built with some shapes assumed, and its faults."""

    assumed: dict[str, Assumed]
    net: Net
    faults: list[NetError]

    def is_as_good_as(self, other: _Trial) -> bool:
        """Tell whether no more layers fail than in another net, and no param is implausibly large."""
        largest = max((math.prod(entry.param.shape) for entry in self.net.params), default=0)
        fewer = len(self.faults) <= len(other.faults) and len(self.failures) <= len(other.failures)
        return fewer and largest <= _MOST_PARAMS

    def refuses(self, node: Node) -> bool:
        """Tell whether Caffe refuses a layer."""
        return any(fault.message == node.layer.why_unknown for fault in self.faults)

    def unsized(self, node: Node) -> Iterator[int]:
        """Yield the tops of a data layer that have no shape."""
        is_open = isinstance(node.layer, Source) and node.layer.may_hold_images and not node.bottoms
        if is_open and not self.refuses(node):
            yield from (index for index, shape in enumerate(node.top_shapes) if shape is None)

    @cached_property
    def failures(self) -> frozenset[str]:
        """Which layers fail although their bottoms have shapes, and why."""
        failed = (node.layer for node in self.net.nodes if _has_failed(node))
        return frozenset((*(layer.why_unknown for layer in failed), *(fault.message for fault in self.faults)))


@dataclass
class _Failed:
    """Alternatives none of which fits, each with the layers that failed: they would fail again."""

    steps: dict[frozenset[tuple[str, Shape]], set[int]]

    def has(self, candidates: Sequence[dict[str, Assumed]]) -> bool:
        """Tell whether none of the candidates fits."""
        return _shapes(candidates) in self.steps

    def add(self, candidates: Sequence[dict[str, Assumed]], trials: Sequence[_Trial]) -> None:
        """Remember that none fits, where each fails at a layer."""
        failed = [{node.index for node in trial.net.nodes if _has_failed(node)} for trial in trials]
        if all(failed):
            self.steps[_shapes(candidates)] = set().union(*failed)

    def forget(self, changed: set[int]) -> None:
        """Forget alternatives at which layers failed that have other bottoms by now."""
        self.steps = {shapes: steps for shapes, steps in self.steps.items() if steps.isdisjoint(changed)}


def _shapes(candidates: Sequence[dict[str, Assumed]]) -> frozenset[tuple[str, Shape]]:
    return frozenset((top, one.shape) for candidate in candidates for top, one in candidate.items())


def _trial(assumed: dict[str, Assumed], build: Build) -> _Trial:
    faults: list[NetError] = []
    return _Trial(assumed, build({top: one.shape for top, one in assumed.items()}, faults), faults)


def _next(now: _Trial, source: NetSource, build: Build, failed: _Failed) -> _Trial | None:
    """Return the net with more shapes assumed; None where nothing more can be."""

    def attempt(more: dict[str, Assumed]) -> _Trial:
        return _trial({**now.assumed, **more}, build)

    for candidate in _alternatives(now.net) if now.faults else ():
        if len((trial := attempt(candidate)).faults) < len(now.faults):
            return trial
    for candidates in map(list, _candidates(now, source)):
        if failed.has(candidates):
            continue
        tried: list[_Trial] = []
        for candidate in candidates:
            trial = attempt(candidate)
            if not trial.is_as_good_as(now) and (more := _wanted(trial)):
                trial = attempt({**candidate, **more})
            if trial.is_as_good_as(now):
                return trial
            tried.append(trial)
        refused = not tried[1:] or len(tried[0].faults) > len(now.faults)
        if not refused and not any(tried[0].failures - trial.failures for trial in tried):
            return tried[0]  # it is not the size that layers fail at
        failed.add(candidates, tried)
    return None


def _candidates(now: _Trial, source: NetSource) -> Iterator[Iterable[dict[str, Assumed]]]:
    """Yield alternatives of what some tops may be: what their readers take, where that is unique, else usual images."""
    if found := _wanted(now):
        yield [found]
    unsized = [(node, index) for node in now.net.nodes for index in now.unsized(node)]
    unsized.sort(key=lambda top: _is_aside(now.net, *top))
    indices = [(node, index) for node, index in unsized if _holds_indices(now.net, node, index)]
    for node, index in indices:
        yield _of_sequences(now.net, node, index)
    for node, index in unsized:
        yield from ([like] for like in _like_predictions(now.net, node, index))
    sizes = list(_sizes(now.net, source)) if unsized else []
    for node, index in unsized:
        if index == next(now.unsized(node)) and (node, index) not in indices:
            yield chain(_of_sizes(node, index, sizes), _of_steps(now.net, node, index))
    yield from ([like] for node in now.net.nodes for like in _like_bottom(now, node))


def _is_aside(net: Net, node: Node, index: int) -> bool:
    """Tell whether layers take a top as another bottom than their first: its shape follows from that of the first."""
    uses = net.flow.through((node.index, index), lambda step, _: net.nodes[step].layer.passes_values)
    return any(position > 0 and not net.nodes[step].layer.passes_values for step, position in uses)


def _holds_indices(net: Net, node: Node, index: int) -> bool:
    """Tell whether a layer takes a top as indices, for example of words."""
    return any(reader.layer.takes_indices and at == 0 for reader, at in _readers(net, node, index))


def _of_sequences(net: Net, node: Node, index: int) -> Iterator[dict[str, Assumed]]:
    """Yield what a top may be that holds indices: batch_size timesteps of as many streams as there are images, or 1."""
    layer, name = node.layer, node.layer.proto.top[index]
    assert isinstance(layer, Source)
    steps = layer.usual_shape(index, (None, 1, 1))[0]
    others = (shape for other in net.nodes if not other.bottoms for shape in other.top_shapes[:1])
    for streams in dict.fromkeys([*(shape[0] for shape in others if shape is not None and len(shape) == 4), 1]):
        yield {name: Assumed(node, name, (steps, streams), "timesteps and streams of indices")}


def _like_bottom(now: _Trial, node: Node) -> Iterator[dict[str, Assumed]]:
    """Yield what the one top of unknown Python code may be: what its first bottom is."""
    if isinstance(node.layer, Python) and node.bottoms and node.top_shapes == (None,) and not now.refuses(node):
        (name,), shape = node.layer.proto.top, node.bottom_shapes[0]
        if shape and not node.layer.proto.loss_weight:
            yield {name: Assumed(node, name, shape, "as its first bottom")}


def _like_predictions(net: Net, node: Node, index: int) -> Iterator[dict[str, Assumed]]:
    """Yield what a top behind the first may be that layers take beside a bottom 0, and others that follow from it."""
    name = node.layer.proto.top[index]
    for reader, at in _readers(net, node, index) if index else ():
        if at and (shape := reader.bottom_shapes[0]) and len(reader.bottoms) > 2:
            yield {name: Assumed(node, name, shape, f"as bottom 0 of layer {reader.name!r}")}


def _alternatives(net: Net) -> Iterator[dict[str, Assumed]]:
    """Yield what tops may be whose shapes are settings outside of the file."""
    for node in net.nodes:
        for shapes, why in node.layer.alternatives() if isinstance(node.layer, Source) else ():
            tops = {index: node.layer.proto.top[index] for index in shapes}
            if set(tops.values()).isdisjoint(node.layer.shape_overrides):
                yield {tops[index]: Assumed(node, tops[index], shape, why) for index, shape in shapes.items()}


def _of_sizes(node: Node, index: int, sizes: Iterable[tuple[Size, str]]) -> Iterator[dict[str, Assumed]]:
    """Yield what a top may be that holds images of one of these sizes."""
    layer = node.layer
    assert isinstance(layer, Source)
    shapes: dict[Shape, str] = {}
    for size, why in sizes:
        shapes.setdefault(layer.usual_shape(index, size), why)
    for shape, why in shapes.items():
        yield {layer.proto.top[index]: Assumed(node, layer.proto.top[index], shape, why)}


def _of_steps(net: Net, node: Node, index: int) -> Iterator[dict[str, Assumed]]:
    """Yield what a top may be that layers take beside sequences: one value for each step and item of other data."""
    layer = node.layer
    assert isinstance(layer, Source)
    others = (other for other in net.nodes if isinstance(other.layer, Source) and other is not node)
    names: dict[int, str] = {}
    for other in others if _is_aside(net, node, index) else ():
        names.setdefault(other.layer.batches()[0], other.name)
    for batch, name in names.items():
        shape = (layer.usual_shape(0, (None, 1, 1))[0], batch)
        why = f"one value for each step and item of layer {name!r}"
        yield {layer.proto.top[index]: Assumed(node, layer.proto.top[index], shape, why)}


def _labels(node: Node) -> Iterator[int]:
    """Yield the tops of a data layer whose labels may have another shape, as those of forks' data layers have."""
    layer = node.layer
    if isinstance(layer, Images) and not layer.reader:
        yield from (index for index, name in enumerate(layer.proto.top) if index and name not in layer.shape_overrides)


def _has_failed(node: Node) -> bool:
    is_code = isinstance(node.layer, Python)  # its shapes are nowhere stated
    return bool(node.bottoms) and None not in node.bottom_shapes and None in node.top_shapes and not is_code


def _wanted(now: _Trial) -> dict[str, Assumed]:
    """Return the shapes that layers take beside bottoms of known shapes, where these are unknown.

    Also those of labels with which a layer fails that takes them in forks.
    """
    net, found = now.net, dict[str, Assumed]()
    for node in net.nodes:
        unsized = set(now.unsized(node))
        if unsized and isinstance(node.layer, Images) and 0 in unsized:
            unsized = {0}  # the labels' shapes follow from the images'
        for index in sorted(unsized.union(_labels(node))):
            for reader, at in _readers(net, node, index):
                is_wanted = index in unsized or (_has_failed(reader) and not now.refuses(reader))
                shape = _taken(reader, at) or _cut_up(node, index, reader)
                if is_wanted and shape and min(shape) > 0:
                    top, why = node.layer.proto.top[index], f"as layer {reader.name!r} takes it"
                    found.setdefault(top, Assumed(node, top, shape, why))
    return found


def _readers(net: Net, node: Node, index: int) -> Iterator[tuple[Node, int]]:
    """Yield the layers that read a top, and which of their bottoms it is."""
    uses = net.flow.through((node.index, index), lambda step, _: net.nodes[step].layer.copies)
    yield from ((net.nodes[step], position) for step, position in uses)


def _cut_up(node: Node, index: int, reader: Node) -> Shape | None:
    """Return the shape of labels that a layer cuts up for several others: one for each; None of no labels."""
    is_cut = index > 0 and len(reader.bottoms) == 1 and len(reader.tops) > 1 and not reader.layer.copies
    assert isinstance(node.layer, Source)
    return (node.layer.usual_shape(0, (None, 1, 1))[0], len(reader.tops)) if is_cut else None


def _taken(reader: Node, position: int) -> Shape | None:
    """Return the shape that a layer takes as one bottom beside the others; None where these do not decide it."""
    others = [shape for index, shape in enumerate(reader.bottom_shapes) if index != position]
    known = [shape for shape in others if shape]
    if not known or len(known) < len(others):
        return None
    layer = reader.layer.failed if isinstance(reader.layer, UnknownLayer) else reader.layer
    first = known[0]
    vector, maps = first[:1], (first[0], 1, *first[2:])
    usual = layer.usual_bottom(position, known) if layer else None
    likely = (
        (usual,)
        if usual
        else (
            (first, vector, maps)
            if layer and layer.takes_targets
            else (
                vector,
                maps,
                first,
                first[:2],
                *((size, 1) for size in first[:2]),
                (_REGIONS * first[0], 5),
                (1, 1, first[0], 8),
            )
        )
    )
    return next(
        (shape for shape in likely if layer and _takes(layer, [*known[:position], shape, *known[position:]])), None
    )


def _takes(layer: Layer, bottoms: Sequence[Shape]) -> bool:
    try:
        layer.tops(bottoms)
    except NetError:
        return False
    return True


def _sizes(net: Net, source: NetSource) -> Iterator[tuple[Size, str]]:
    """Yield sizes that images may have, and why, likely ones first."""
    for node in net.nodes:
        shape = node.top_shapes[0] if node.top_shapes and not node.bottoms else None
        if shape is not None and len(shape) == 4 and min(shape[2:]) > 1:
            yield (None, shape[2], shape[3]), f"as large as the images of layer {node.name!r}"
    yield from _of_other_phases(source)
    yield from _of_deploy_files(source)
    yield from _of_cuts(net)
    sources = [_source_of(entry.proto) for entry in source.layers]
    for height, width in _SIZE.findall(" ".join((source.header.name, *sources))):
        yield (None, int(height), int(width)), f"as {height}x{width} in the name of the net or of its data says"
    text = " ".join((source.name, source.header.name, *sources)).lower()
    yield from ((size, f"as images of {name} are") for name, size in _KNOWN if name in text)
    yield from ((size, "a usual size") for size in _USUAL)
    yield from _of_reshaped(net)


def _source_of(proto: Any) -> str:
    return str(proto.data_param.source or proto.hdf5_data_param.source or proto.image_data_param.source)


def _of_other_phases(source: NetSource) -> Iterator[tuple[Size, str]]:
    """Yield the crop_size of data layers, of other phases too."""
    for entry in source.layers:
        if crop := entry.proto.transform_param.crop_size:
            yield (None, crop, crop), f"the crop_size of layer {entry.proto.name!r} at {entry.place}"


def _of_cuts(net: Net) -> Iterator[tuple[Size, str]]:
    """Yield what layers cut out of images, small ones first: images are as large at least."""
    cuts = ((size, node.name) for node in net.nodes if (size := node.layer.cut_size()))
    yield from (((None, *size), f"as layer {name!r} cuts it") for size, name in sorted(cuts))


def _of_reshaped(net: Net) -> Iterator[tuple[Size, str]]:
    """Yield the last axes of shapes that are written in full, and as channels what remains to each item of a batch."""
    batches = sorted({batch for node in net.nodes for batch in node.layer.batches() if batch > 0})
    for node in net.nodes:
        dims = tuple(map(int, node.layer.proto.reshape_param.shape.dim))
        if len(dims) > 2 and min(dims) > 0 and min(dims[-2:]) > 1:
            rest = math.prod(dims[:-2])
            items = (rest // batch for batch in batches if rest % batch == 0)
            yield from (((channels, dims[-2], dims[-1]), f"as layer {node.name!r} reshapes it") for channels in items)


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
    """Return the files in a net's folder that may be the same net in use: deploy files, and names that begin alike."""
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
