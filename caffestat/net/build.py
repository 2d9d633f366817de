"""From layers to a Net: blobs, shapes, params and backward flags, as Caffe works them out. (net.cpp, Init)"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

from caffestat.data import DataUnavailableError, open_reader
from caffestat.errors import Finding, NetError, Place
from caffestat.fillers import filler_type
from caffestat.graph.flow import Flow
from caffestat.layers import Layer, Param, Shape, Source, layer_class, layer_dialects, similar_type, type_name
from caffestat.layers.base import within
from caffestat.layers.data import Images
from caffestat.layers.fork_fields import FORK_FIELDS, Effect, effect_of
from caffestat.prototext import Message
from caffestat.schema import ForkValue, UnknownField, UnknownValue, caffe_pb2

from .alignment import cut_of, map_of
from .assumed import only_fits
from .backprop import mark_backward
from .dialects import Choice
from .model import Blob, Net, NetParam, Node, flow_of
from .parting import explained
from .rules import State, filter_layers
from .source import NetSource, beside, contents
from .splits import insert_splits, without_unknown_bottoms
from .upgrade import Entry

__all__ = ["UnknownLayer", "build", "state_of"]

AUTOMATIC = "(automatic)"
_HARMLESS = ("backend", "engine", "phase")  # fields whose value changes no number
L = TypeVar("L", bound=Layer)

_MOST_AXES, _MOST_ELEMENTS = 32, 2**31 - 1  # of a blob (blob.hpp, blob.cpp)


class UnknownLayer(Source):
    """A layer that cannot be computed: its tops are taken as data, of the shapes that the user gives, else unknown."""

    num_bottoms = (0, None)
    num_tops = (0, None)
    failed: Layer | None = None  # the layer that could not be set up

    def batch_size(self) -> int:
        """Return the batch size that a field of Caffe's own states, else 1."""
        p = self.proto
        stated = (p.data_param, p.image_data_param, p.hdf5_data_param, p.memory_data_param, p.window_data_param)
        return max((*(message.batch_size for message in stated), 1))

    def loss_weight(self, top: int) -> float:
        """As written, else 1 for the first top of a fork's loss, whose gradient is then unknown and not zero."""
        is_loss = not self.proto.loss_weight and self.proto.type.endswith("Loss")
        return float(top == 0) if is_loss else super().loss_weight(top)


def state_of(
    source: NetSource, phase: int | None = None, level: int | None = None, stages: Iterable[str] = ()
) -> State:
    """Return the state a net is built in: the file's own `state`, what is given here replacing or joining it."""
    written = source.header.state
    default = phase if phase is not None else written.phase if written.HasField("phase") else caffe_pb2.TRAIN
    return State(default, written.level if level is None else level, (*written.stage, *stages))


class _ForkUsage(NetError):
    """What Caffe refuses and forks accept, in ways that are not known here."""


class _EffectUnknown(NetError):
    """Fields or values that Caffe lacks may change the shapes of a layer's tops."""


class _DataError(NetError):
    """Real data that was asked for cannot be read."""


@dataclass
class _Builder:
    """The net under construction, layer by layer."""

    state: State
    shapes: Mapping[str, Shape]
    batch: int | None
    data: str
    unknown: Sequence[UnknownField]  # fields of the source that nothing reads, and those with a value of a fork
    choices: dict[int, Choice]  # by the id of the layer's text
    layers: Sequence[Entry]  # of the state, with Caffe's splits
    faults: list[NetError] | None = None  # errors at which Caffe would stop; None to stop there too
    nodes: list[Node] = field(default_factory=list)
    made: list[Layer] = field(default_factory=list)  # also those that were built in another dialect first
    blobs: list[Blob] = field(default_factory=list)
    params: list[NetParam] = field(default_factory=list)
    by_name: dict[str, int] = field(default_factory=dict)
    writers: dict[str, Layer] = field(default_factory=dict)
    available: set[str] = field(default_factory=set)
    owners: dict[str, int] = field(default_factory=dict)
    stated: dict[tuple[int, str], tuple[float, Layer]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    uncomputed: set[int] = field(default_factory=set)  # blobs with shapes but no values
    shapeless: dict[Layer, str] = field(default_factory=dict)  # why what Caffe says of a layer's shapes does not hold

    @cached_property
    def readers(self) -> Callable[[str], Iterable[tuple[Entry, str]]]:
        """What `_readers` returns of the layers; made only for nets that ask: those with unknown types."""
        return _readers(self.layers)

    @cached_property
    def offsets(self) -> Sequence[int]:
        """Where each field of `unknown` starts, in the order of the file."""
        return [_offset(finding) for finding in self.unknown]

    def add(self, entry: Entry) -> None:
        layer = self.create(entry)
        bottoms = [self.by_name[name] for name in entry.proto.bottom]
        self.available.difference_update(entry.proto.bottom)
        tops = [self.add_top(layer, index) for index in range(layer.top_count)]
        bottom_shapes = tuple(self.blobs[b].shape for b in bottoms)
        node = Node(len(self.nodes), layer, tuple(bottoms), tuple(tops), bottom_shapes, ())
        self.nodes.append(node)
        self.set_up(node, entry)

    def create(self, entry: Entry) -> Layer:
        """Return the layer of an entry, its phase set and its bottoms and tops counted."""
        proto = entry.proto
        choice, cls = self.choices.get(id(entry.text)), self.class_of(entry)
        if cls is None:
            return self.create_unknown(entry, _unknown_type(proto))
        if entry.fault:
            return self.create_unknown(entry, entry.fault)
        if choice and choice.note:
            self.tell_once(entry.place, f"type {type_name(proto)!r} {choice.note}")
        try:
            changes = self.changes(cls, entry)
            layer = self.create_as(cls, entry, changes[Effect.DATA])
            if names := changes[Effect.SHAPES]:
                self.shapeless[layer] = _not_known(names)
            elif names := changes[Effect.VALUES]:
                layer.why_uncomputed = _not_known(names)
        except NetError as error:
            why = self.forgive(entry, error)
            if len(entry.proto.propagate_down) != len(entry.proto.bottom):
                entry.proto.ClearField("propagate_down")
            layer = self.create_unknown(entry, why)
        if layer.left_out:
            self.tell_once(entry.place, f"type {type_name(proto)!r}: {layer.left_out}")
        return layer

    def create_unknown(self, entry: Entry, why: str) -> UnknownLayer:
        """Return a layer that cannot be computed; its tops are data where the user gives the shapes of all."""
        layer = self.create_as(UnknownLayer, entry)
        layer.why_unknown = why
        layer.why_uncomputed = "" if set(entry.proto.top) <= set(layer.shape_overrides) else why
        return layer

    def changes(self, cls: type[Layer], entry: Entry) -> Mapping[Effect, Collection[str]]:
        """Return the fields of a layer that its class does not read, by what they change."""
        found: dict[Effect, dict[str, None]] = defaultdict(dict)
        is_caffes = _is_caffes(entry.proto.type, cls)
        for finding in self.foreign(entry.text):
            found[_effect(finding, cls, is_caffes)][finding.field.name] = None
        return found

    def foreign(self, text: Message | None) -> Sequence[UnknownField]:
        """Return what is unknown in the text of a layer."""
        start, end = text.span if text else (0, 0)
        first, last = (bisect_left(self.offsets, offset) for offset in (start, end))
        return self.unknown[first:last]

    def tell_once(self, place: Place, message: str) -> None:
        if message not in self.told:
            self.told.add(message)
            self.findings.append(Finding(place, message))

    def create_as(self, cls: type[L], entry: Entry, unread: Collection[str] = ()) -> L:
        """Return the layer as one of a class; unread: fields that change the data that it reads."""
        proto = entry.proto
        phase = proto.phase if proto.HasField("phase") else self.state.phase
        layer = cls(proto, phase, entry.place)
        layer.text, layer.is_inserted = entry.text, entry.is_inserted
        if cls.adds and (choice := self.choices.get(id(entry.text))):
            layer.added = choice.addition.message
        layer.shape_overrides = {top: self.shapes[top] for top in proto.top if top in self.shapes}
        layer.batch_override = self.batch
        layer.peers = self.made
        self.made.append(layer)
        if self.data != "synthetic":
            self.attach_reader(layer, unread)
        _check_count(layer, "bottom", len(proto.bottom), layer.fork_bottoms or layer.num_bottoms, layer.foreign_bottoms)
        least, _ = layer.num_bottoms
        if len(proto.bottom) < least:
            found = f"has {len(proto.bottom)} bottom, but Caffe expects {least} or more; computed as a fork does"
            self.findings.append(Finding(entry.place, f"layer {proto.name!r} ({proto.type}): {found}"))
        if layer.auto_tops:
            layer.top_count = max(layer.top_count, layer.num_tops[0])
        _check_count(layer, "top", layer.top_count, layer.num_tops, layer.foreign_tops)
        if len(proto.propagate_down) not in (0, len(proto.bottom)):
            expected = f"none or one per bottom ({len(proto.bottom)})"
            raise layer.error(f"propagate_down is given {len(proto.propagate_down)} times; expected {expected}")
        return layer

    def forgive(self, entry: Entry, error: NetError) -> str:
        """Turn an error into a finding, and return it, where fields that Caffe lacks may be its cause.

        So may those that made a layer of Caffe's own type one of a fork, and a dialect that the file does not decide.
        Else the error is a fault, unless forks take what Caffe refuses.
        """
        if isinstance(error, _DataError):
            self.fault(error)
            return error.message
        if isinstance(error, _EffectUnknown):
            return self.tell_shapeless(error, ", so")
        unknown = [finding.field.name for finding in self.foreign(entry.text)]
        choice = self.choices.get(id(entry.text))
        if choice and choice.cls.dialect and not layer_dialects(entry.proto.type)[0].dialect:
            unknown += sorted(field.name for field in choice.addition.fields)
        named = ", ".join(dict.fromkeys(unknown))
        if named:
            but = f"it has fields that Caffe lacks ({named})"
        elif isinstance(error, _ForkUsage):
            but = "forks of Caffe take it"
        elif choice and choice.others:
            but = f"it may be that of {' or '.join(other.cls.dialect for other in choice.others)}"
        else:
            self.fault(error)
            return error.message
        return self.tell_shapeless(error, f"; but {but}:")

    def tell_shapeless(self, error: NetError, because: str) -> str:
        """Warn of a layer whose tops have unknown shapes; return the warning."""
        why = f"{error.message}{because} the shapes of its tops are unknown"
        self.findings.append(Finding(error.place, why))
        return why

    def fault(self, error: NetError) -> None:
        """Keep an error at which Caffe would stop; raise it where nothing takes the faults."""
        if self.faults is None:
            raise error
        self.faults.append(error)

    def attach_reader(self, layer: Layer, unread: Collection[str]) -> None:
        """Open the data that the layer names, if it is available and every field about reading it is known."""
        try:
            if unread:
                raise DataUnavailableError(_not_known(unread))
            layer.reader = open_reader(layer)
        except DataUnavailableError as error:
            if self.data == "real":
                told = layer.error(f"no real data: {error}")
                raise _DataError(told.message, told.place) from error
            layer.why_synthetic = str(error)
        except NetError as error:
            if self.data == "real":
                raise _DataError(error.message, error.place) from error
            raise

    def add_top(self, layer: Layer, index: int) -> int:
        """Return the blob of a top: its bottom's when in place, else a new one."""
        proto = layer.proto
        if index >= len(proto.top):
            return self.new_blob(AUTOMATIC)
        name = proto.top[index]
        in_place = index < len(proto.bottom) and proto.bottom[index] == name
        if name in self.by_name and not in_place:
            other = self.writers[name]
            self.fault(
                layer.error(
                    f"top blob {name!r} is already produced by layer {other.name!r} at {other.place}; "
                    "give one of them another name"
                )
            )
        if not in_place:
            self.by_name[name] = self.new_blob(name)
        self.writers[name] = layer
        self.available.add(name)
        return self.by_name[name]

    def new_blob(self, name: str) -> int:
        self.blobs.append(Blob(name, None))
        return len(self.blobs) - 1

    def set_up(self, node: Node, entry: Entry) -> None:
        """Work out shapes, params and loss weights; a layer behind an unknown shape has none of them."""
        known = [shape for shape in node.bottom_shapes if shape is not None]
        node.top_shapes = _given_shapes(node.layer)
        if self.class_of(entry) is None:
            self.tell_unknown_type(node)
        if len(known) == len(node.bottoms) and not node.layer.why_unknown:
            try:
                self.set_shapes(node, known)
            except NetError as error:
                if other := self.of_another_dialect(entry, known):
                    node.layer = other
                    self.set_up(node, entry)
                    return
                self.set_failed(node, entry, error)
        self.set_blobs(node)
        self.set_loss_weights(node)

    def set_shapes(self, node: Node, bottoms: list[Shape]) -> None:
        """Work out the shapes of the tops, and the params. Raises NetError where Caffe would stop."""
        layer = node.layer
        self.tell_departure(layer, bottoms)
        self.tell_layer(node)
        node.top_shapes, params = _tops_and_params(layer, bottoms)
        if why := self.shapeless.get(layer):
            raise _EffectUnknown(layer.error(why).message, node.place)
        node.params = tuple(self.add_param(node, index, param) for index, param in enumerate(params))
        layer.why_uncomputed = layer.why_uncomputed or _unknown_values(params)
        self.tell_unknown(node)
        self.tell_assumed(node)
        self.tell_uncomputed(node)

    def set_failed(self, node: Node, entry: Entry, error: NetError) -> None:
        """Put a layer of unknown shapes in the place of one at which Caffe would stop."""
        if not isinstance(error, _EffectUnknown):
            message = explained(error.message, self.nodes, self.blobs)
            error = self.about_vectors(node, message) or NetError(message, error.place)
        failed, node.layer = node.layer, self.create_unknown(entry, self.forgive(entry, error))
        node.layer.failed = failed
        node.layer.top_count = len(node.tops)
        node.top_shapes = _given_shapes(node.layer)

    def set_blobs(self, node: Node) -> None:
        """Give the tops their shapes, and mark them where they cannot be computed."""
        node.is_computed = not node.layer.why_uncomputed and self.uncomputed.isdisjoint(node.bottoms)
        if not node.is_computed:
            self.uncomputed.update(node.tops)
        for blob, shape in zip(node.tops, node.top_shapes, strict=True):
            self.blobs[blob].shape = shape

    def set_loss_weights(self, node: Node) -> None:
        """Take the loss weights of the tops, 0 where the file's are wrong."""
        try:
            node.loss_weights = _loss_weights(node.layer)
        except NetError as error:
            self.fault(error)
            node.loss_weights = (0.0,) * node.layer.top_count
        if any(weight and node.layer.is_in_place(top) for top, weight in enumerate(node.loss_weights)):
            self.tell(
                node,
                "has a loss_weight and works in place: from the second pass on, Caffe weighs by what its backward pass"
                " has written there; give the top a name of its own",
            )
        if node.layer.lends_param and any(node.loss_weights):
            self.tell(node, "has a loss_weight without effect: it lies in the diff of its param, which training clears")

    def tell(self, node: Node, said: str) -> None:
        self.findings.append(Finding(node.place, f"layer {node.name!r} ({node.type}): {said}"))

    def tell_layer(self, node: Node) -> None:
        """Give a layer what it needs to know of the net around it."""
        layer = node.layer
        if layer.aligns:
            layer.cut_before = cut_of(node, self.nodes)
        if layer.maps_bottoms:
            layer.bottom_map = map_of(node, self.nodes)
        if layer.sized_by_images:
            layer.image_size = self.size_of_images()

    def size_of_images(self) -> tuple[int, int] | None:
        """Return height and width of the first images that the net reads, of more than one pixel; None without any."""
        tops = (node.top_shapes[0] for node in self.nodes if node.layer.is_external and node.top_shapes)
        images = (top for top in tops if top is not None and len(top) == 4 and min(top[2:]) > 1)
        return next(((height, width) for _, _, height, width in images), None)

    def of_another_dialect(self, entry: Entry, bottoms: Sequence[Shape]) -> Layer | None:
        """Return the layer as one of another dialect that its text fits as well, and that takes bottoms like these."""
        first = self.choices.get(id(entry.text))
        for choice in (first.others or first.outvoted) if first else ():
            self.choices[id(entry.text)] = replace(choice, others=(), outvoted=())
            try:
                layer = self.create_as(choice.cls, entry)
                layer.tops(bottoms)
            except NetError:
                continue
            said = f"taken as that of dialect {choice.cls.dialect}, the only one that takes bottoms of these shapes"
            self.findings.append(Finding(entry.place, f"layer {layer.name!r} ({layer.proto.type}) is {said}"))
            return layer
        if first:
            self.choices[id(entry.text)] = first
        return None

    def about_vectors(self, node: Node, message: str) -> NetError | None:
        """Return the error of a layer that takes labels of images, which in some forks are vectors or maps; else None.

        They may be so for targets, for layers of forks, and where the data layer has fields of forks.
        """
        flow = flow_of(self.nodes)
        for bottom in range(len(node.bottoms)):
            *_, (index, top) = flow.chain(flow.source((node.index, bottom)), lambda i: self.nodes[i].layer.copies)
            source = self.nodes[index]
            is_target = node.layer.takes_targets and bottom == 1
            may_be = is_target or node.layer.dialect or self.foreign(source.layer.text)
            if may_be and isinstance(source.layer, Images) and not source.layer.reader and top:
                wanted = ",".join(map(str, node.bottom_shapes[0] or ())) if is_target else "N,…"
                blob = self.blobs[source.tops[top]].name
                hint = f"the data layers of some forks give vectors of labels: --shape {blob}={wanted}"
                return _ForkUsage(f"{message}; {hint}", node.place)
        return None

    def tell_uncomputed(self, node: Node) -> None:
        """Warn of a layer whose values are not computed."""
        layer = node.layer
        if layer.why_uncomputed:
            said = f"layer {layer.name!r} ({layer.proto.type}): {layer.why_uncomputed}"
            layer.why_unknown = f"{said}; its values, and those of what depends on it, are left out"
            self.findings.append(Finding(node.place, layer.why_unknown))

    def tell_departure(self, layer: Layer, bottoms: Sequence[Shape]) -> None:
        """Report bottoms at which Caffe stops and forks do not, and let the layer take them; what else is odd too."""
        for said in filter(None, (layer.rebatched(bottoms), layer.oddity(bottoms))):
            self.findings.append(Finding(layer.place, f"layer {layer.name!r} ({layer.proto.type}): {said}"))
        if departs := layer.departs(bottoms):
            layer.is_forks = True
            said = f"layer {layer.name!r} ({layer.proto.type}): {departs}; computed as a fork does"
            self.findings.append(Finding(layer.place, said))

    def class_of(self, entry: Entry) -> type[Layer] | None:
        choice = self.choices.get(id(entry.text))
        return choice.cls if choice else layer_class(entry.proto.type)

    def tell_unknown_type(self, node: Node) -> None:
        """Warn of an unknown type, and give its top the bottom's shape where nothing else fits."""
        layer, message = node.layer, node.layer.why_unknown
        if None in node.top_shapes:
            if why := self.keeps_shape(node):
                [shape] = node.bottom_shapes
                node.top_shapes = (shape,)
                message += f"; top {layer.proto.top[0]!r} is assumed to have its bottom's shape {shape}, {why}"
            else:
                message += (
                    "; the shapes of its tops are unknown, and what depends on them is left out "
                    "(set one with --shape NAME=N,C,H,W)"
                )
            layer.why_unknown = message
        self.findings.append(Finding(node.place, message))

    def keeps_shape(self, node: Node) -> str:
        """Return why the one top of a layer must have the shape of its one bottom; "" where it need not."""
        if len(node.bottoms) != 1 or len(node.tops) != 1 or None in node.bottom_shapes:
            return ""
        if node.bottoms == node.tops:
            return "because it works in place"
        [name], [shape] = node.layer.proto.top, node.bottom_shapes
        for reader, read in self.readers(name):
            if self.needs(reader, read, shape):
                return f"the only one that fits layer {reader.proto.name!r} ({reader.proto.type})"
        return ""

    def needs(self, reader: Entry, name: str, shape: Shape | None) -> bool:
        """Tell whether a layer that stands later takes a blob in this shape alone."""
        cls = self.class_of(reader)
        bottoms = [shape if bottom == name else self.shape_of(bottom) for bottom in reader.proto.bottom]
        known = [found for found in bottoms if found is not None]
        if cls is None or len(known) < len(bottoms) or len(bottoms) < 2:
            return False
        try:
            return only_fits(self.create_as(cls, reader), known, list(reader.proto.bottom).index(name))
        except NetError:
            return False

    def shape_of(self, name: str) -> Shape | None:
        number = self.by_name.get(name)
        return None if number is None else self.blobs[number].shape

    def tell_unknown(self, node: Node) -> None:
        """Warn of tops whose shapes are given neither in the file nor by the user."""
        names = [self.blobs[blob].name for blob, shape in zip(node.tops, node.top_shapes, strict=True) if shape is None]
        if names:
            said = "shape of top " if len(names) == 1 else "shapes of tops "
            verb = "is" if len(names) == 1 else "are"
            node.layer.why_unknown = (
                f"layer {node.name!r} ({node.type}): the {said}{', '.join(map(repr, names))} {verb} "
                f"{node.layer.shape_source()}, not in this file; what depends on it is left out; set it with "
                + " ".join(f"--shape {name}=N,C,H,W" for name in names)
            )
            self.findings.append(Finding(node.place, node.layer.why_unknown))

    def tell_assumed(self, node: Node) -> None:
        """Report tops that are assumed to be as large as the images."""
        layer, shape = node.layer, node.top_shapes[0] if node.top_shapes else None
        if layer.image_size and shape and layer.proto.top[0] not in layer.shape_overrides:
            said = f"top {layer.proto.top[0]!r} is assumed to have shape {shape}, the size of the images"
            stand = f"the size is {layer.shape_source()}"
            self.findings.append(Finding(node.place, f"layer {layer.name!r} ({layer.proto.type}): {said}: {stand}"))

    def add_param(self, node: Node, index: int, param: Param) -> int:
        """Add one param and return its number; a name seen before makes it share the owner's values."""
        specs = node.layer.proto.param
        spec = specs[index] if index < len(specs) else caffe_pb2.ParamSpec()
        number = len(self.params)
        owner = self.owners.setdefault(spec.name, number) if spec.name else number
        lr_mult = 0.0 if param.is_statistic else spec.lr_mult
        entry = NetParam(
            node.index, index, param, spec.name, lr_mult, spec.decay_mult, None if owner == number else owner
        )
        self.params.append(entry)
        kind = filler_type(param.filler.type)
        if kind and kind.origin:
            self.tell_once(node.place, f"filler type {kind.name!r} is a fork's ({kind.origin})")
        if owner != number:
            self.check_sharing(node.layer, entry, spec)
        if not param.is_statistic:
            self.state_multiplier(node.layer, owner, spec, "lr_mult")
        self.state_multiplier(node.layer, owner, spec, "decay_mult")
        entry.lr_mult, entry.decay_mult = self.params[owner].lr_mult, self.params[owner].decay_mult
        return number

    def check_sharing(self, layer: Layer, sharer: NetParam, spec: Any) -> None:
        """Check that the sharer's shape fits its owner's: the same, or the same count when PERMISSIVE."""
        owner = self.params[sharer.owner or 0]
        mine, other = sharer.param.shape, owner.param.shape
        permissive = spec.share_mode == caffe_pb2.ParamSpec.PERMISSIVE
        if mine != other and not (permissive and math.prod(mine) == math.prod(other)):
            owning = self.nodes[owner.node]
            sharer.owner = None
            self.fault(
                layer.error(
                    f"param {spec.name!r} of shape {mine} cannot share the values of layer {owning.name!r} "
                    f"at {owning.place}, which have shape {other}; give it a name of its own"
                )
            )

    def state_multiplier(self, layer: Layer, owner: int, spec: Any, name: str) -> None:
        """Give the owner a multiplier that this layer states; all layers that state it must agree."""
        if not spec.HasField(name):
            return
        value = getattr(spec, name)
        first = self.stated.setdefault((owner, name), (value, layer))
        if first[0] != value:
            self.fault(
                layer.error(
                    f"shared param {spec.name!r} has {name} {value:g}, but {first[0]:g} at {first[1].place}; "
                    "make them equal"
                )
            )
        setattr(self.params[owner], name, value)

    def outputs(self) -> tuple[int, ...]:
        """Return the blobs that no layer reads, in alphabetical order, as Caffe lists them."""
        return tuple(self.by_name[name] for name in sorted(self.available))


def _unknown_values(params: Sequence[Param]) -> str:
    """Return why the values of a param are not known; "" where all are."""
    kinds = ((filler_type(param.filler.type), param.filler) for param in params)
    whys = ((kind.name, kind.why_unknown(filler)) for kind, filler in kinds if kind)
    return next((f"its filler of type {name} {why}" for name, why in whys if why), "")


def _with_own_field(layer: Layer, param: Param) -> Param:
    """Return the param with what the text holds for the field that a fork's type of filler adds."""
    kind = filler_type(param.filler.type)
    if not (kind and kind.own_field and param.written):
        return param
    paths = [f"{path}.{kind.own_field}" for path, role in layer.filler_fields.items() if role == param.role]
    own: tuple[float | str, ...]
    if kind.reads_file:
        own = tuple(beside(value, layer.place.file) for path in paths for value in layer.own(path, str))
    else:
        own = tuple(value for path in paths for value in layer.own(path, float))
    return replace(param, filler=replace(param.filler, own=own))


def _offset(finding: UnknownField) -> int:
    return finding.field.span[0]


def _is_caffes(name: str, cls: type[Layer]) -> bool:
    """Tell whether a type is Caffe's own, taken as it is or as a fork's variant of it, and not a plugin's."""
    own = layer_class(name)
    if own is None or own.dialect or own.read_as:
        return False
    return all(each.__module__.startswith("caffestat.") for each in (own, cls))


def _effect(finding: UnknownField, cls: type[Layer], is_caffes: bool) -> Effect:
    """Return what a field changes; a value that only a fork has changes everything, of most fields."""
    if not isinstance(finding, ForkValue):
        return effect_of(finding.owner, finding.field.name, cls, is_caffes)
    name, texts = finding.field.name, {getattr(value, "text", "") for value in finding.field.values}
    is_read = not is_caffes or texts <= set(cls.own_values.get(name, ()))
    return Effect.NONE if is_read or name in _HARMLESS else Effect.SHAPES


def _not_known(names: Iterable[str]) -> str:
    return f"the effect of {', '.join(names)} is unknown"


def _with_effect(finding: Finding) -> Finding:
    """Return a finding about a field, which says so when the field changes no number."""
    found = FORK_FIELDS.get((finding.owner, finding.field.name)) if isinstance(finding, UnknownField) else None
    if found is None or found.effect is not Effect.NONE:
        return finding
    return replace(finding, message=f"{finding.message}; it has no effect on the results ({found.what})")


def _unknown_type(proto: Any) -> str:
    if not proto.type:
        return f"layer {proto.name!r} has no type"
    close = similar_type(proto.type)
    hint = f" (did you mean {close!r}?)" if close else ""
    return f"layer {proto.name!r}: unknown layer type {proto.type!r}{hint}"


def _check_blob(layer: Layer, name: str, shape: Shape) -> None:
    """Raise NetError for a shape that Caffe's blobs cannot have. (blob.cpp, Reshape)"""
    if len(shape) > _MOST_AXES:
        raise layer.error(f"{name} has {len(shape)} axes; expected at most {_MOST_AXES}")
    count = 1
    for size in shape:
        if size < 0 or (count and size > _MOST_ELEMENTS // count):
            expected = f"sizes of 0 or more and at most {_MOST_ELEMENTS:,} elements"
            raise layer.error(f"{name} has shape {'x'.join(map(str, shape))}; expected {expected}")
        count *= size


def _given_shapes(layer: Layer) -> tuple[Shape | None, ...]:
    shapes: list[Shape | None] = [layer.shape_overrides.get(name) for name in layer.proto.top]
    return tuple(shapes + [None] * (layer.top_count - len(shapes)))


def _tops_and_params(layer: Layer, bottoms: list[Shape]) -> tuple[tuple[Shape | None, ...], tuple[Param, ...]]:
    try:
        tops, params = layer.tops(bottoms), layer.params(bottoms)
    except (OverflowError, ValueError) as error:  # sizes that are inf or NaN
        raise layer.error(f"cannot work with its settings: {error}") from error
    if not isinstance(tops, Sequence):
        raise layer.error(f"its class {type(layer).__qualname__} returns {tops!r} for the shapes of its tops")
    if len(tops) != layer.top_count:
        raise layer.error(f"its class {type(layer).__qualname__} returns {len(tops)} shapes for {layer.top_count} tops")
    if len(layer.proto.param) > len(params) and not layer.why_uncomputed:
        raise layer.error(f"has {len(layer.proto.param)} `param` entries for {len(params)} params; remove the others")
    for index, shape in enumerate(tops):
        if shape is not None:
            _check_blob(layer, f"top {index}", shape)
    layer.refuse_resizing(bottoms, tops)
    for index, param in enumerate(params):
        if not isinstance(param, Param):
            raise layer.error(
                f"its class {type(layer).__qualname__} returns {param!r} as param {index}; expected a Param"
            )
        _check_blob(layer, f"param {index}", param.shape)
        if 0 in param.shape:
            raise layer.error(f"param {index} has shape {param.shape}, without elements; give the bottom some")
    return tuple(tops), tuple(_with_own_field(layer, param) for param in params)


def _check_count(
    layer: Layer, kind: str, found: int, allowed: tuple[int, int | None], foreign: tuple[int, int | None]
) -> None:
    """Raise NetError for a number of bottoms or tops that is not allowed: a _ForkUsage for one that forks take."""
    least, most = allowed
    if not within(found, allowed):
        expected = str(least) if least == most else f"at least {least}" if most is None else f"{least} to {most}"
        message = layer.error(f"takes {expected} {kind} blob{'' if expected == '1' else 's'}, found {found}").message
        raise (_ForkUsage if within(found, foreign) else NetError)(message, layer.place)


def _loss_weights(layer: Layer) -> tuple[float, ...]:
    written = len(layer.proto.loss_weight)
    if isinstance(layer, UnknownLayer) and written > layer.top_count:  # some forks add the tops of all their losses
        written = 0
    if written not in (0, layer.top_count):
        raise layer.error(f"loss_weight is given {written} times; expected none or one per top ({layer.top_count})")
    return tuple(layer.loss_weight(top) for top in range(layer.top_count))


def build(
    source: NetSource,
    state: State | None = None,
    shapes: Mapping[str, Shape] | None = None,
    batch: int | None = None,
    data: str = "auto",
    dialect: str | None = None,
    faults: list[NetError] | None = None,
) -> Net:
    """Return the net that a source describes in a state.

    shapes: the shape of data blobs by name, for sources whose file does not say it, or to replace it.
    batch:  replaces the first axis of every data blob.
    data:   source of data layers: "auto" (files if available, else noise), "real" (files or fail), "synthetic" (noise).
    dialect: the fork whose layer types to use where forks define a type differently.
    faults:  takes the errors at which Caffe would stop; what depends on them is then unknown.
    Raises NetError (file:line) where Caffe would stop, the first time, unless there are `faults` to take it.
    """
    state = state or state_of(source)
    if not source.layers:
        found = f"expected a net or solver prototxt, found {contents(source.fields)}"
        raise NetError(f"the file has no layers: {found}", Place(source.name, 1))
    choices = source.choices(dialect)
    findings = _left_findings(source, choices.values())
    unknown = sorted((f for f in findings if isinstance(f, UnknownField)), key=_offset)
    layers = _kept_layers(source, state, faults)
    builder = _Builder(state, shapes or {}, batch, data, unknown, choices, layers, faults)
    for entry in layers:
        builder.add(entry)
    _check_shape_names(builder, source)
    net = Net(source.header.name, state.phase, builder.nodes, builder.blobs, builder.params, builder.outputs())
    net.findings = (*map(_with_effect, findings), *builder.findings)
    mark_backward(net, bool(source.header.force_backward))
    return net


def _left_findings(source: NetSource, choices: Collection[Choice]) -> list[Finding]:
    """Return the findings about a source without those that the chosen classes of layers explain, and with theirs."""
    own = {field for choice in choices for field in choice.addition.fields}
    read = {value for choice in choices for value in choice.addition.values}
    left = [
        f
        for f in source.findings
        if not (isinstance(f, UnknownField) and f.field in own)
        and not (isinstance(f, (UnknownValue, ForkValue)) and f.place in read)
    ]
    return left + [finding for choice in choices for finding in choice.addition.findings]


def _kept_layers(source: NetSource, state: State, faults: list[NetError] | None) -> Sequence[Entry]:
    """Return the layers of a state with Caffe's splits. Raises NetError when there are none."""
    kept = filter_layers(source.layers, state)
    known = kept if faults is None else without_unknown_bottoms(kept, faults, source.layers)
    layers = insert_splits(known, source.layers)
    if not layers:
        message = "no layer is left in this phase (check include/exclude rules, --phase, --stage)"
        raise NetError(message, _first_place(source))
    return layers


def _check_shape_names(builder: _Builder, source: NetSource) -> None:
    unused = set(builder.shapes) - set(builder.by_name)
    if unused:
        known = ", ".join(sorted(builder.by_name)[:12])
        message = f"--shape names {min(unused)!r}, which no layer produces; blobs are {known}, …"
        raise NetError(message, _first_place(source))


def _readers(layers: Sequence[Entry]) -> Callable[[str], Iterable[tuple[Entry, str]]]:
    """Return what says which layers read a blob, and by which name: that of a Split's top where one is between.

    A Split itself does not count.
    """
    flow = Flow((entry.proto.bottom, entry.proto.top) for entry in layers)

    def readers(name: str) -> Iterable[tuple[Entry, str]]:
        uses = flow.through(name, lambda index, bottom: _copies(layers[index]))
        return ((layers[use[0]], flow.source(use)) for use in uses if not _copies(layers[use[0]]))

    return readers


def _copies(entry: Entry) -> bool:
    cls = layer_class(entry.proto.type)
    return cls is not None and cls.copies


def _first_place(source: NetSource) -> Place:
    return source.layers[0].place if source.layers else Place(source.name)
