"""What a layer type is: parameters, shapes of the tops, and how it is said in ONNX. One class per type."""

from __future__ import annotations

import copy
import math
import os.path
import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

from caffestat.errors import NetError, Place
from caffestat.fillers import VARIANCE_NORMS, Filler, Stream, fill
from caffestat.lazy import np
from caffestat.ops import Nonlinearity
from caffestat.prototext import Message, Scalar
from caffestat.schema import FillerParameter, caffe_pb2, from_message
from caffestat.schema.slots import boolean

if TYPE_CHECKING:
    from caffestat.graph import Graph

__all__ = [
    "TEST",
    "TRAIN",
    "Layer",
    "Move",
    "Param",
    "Shape",
    "Unrolled",
    "default_filler",
    "fork_type",
    "layer",
    "layer_class",
    "layer_dialects",
    "layer_types",
    "own_class",
    "read_param",
    "reference_of",
    "registrations",
    "similar_type",
    "to_filler",
    "type_name",
]

TRAIN: int = caffe_pb2.TRAIN
TEST: int = caffe_pb2.TEST
Shape = tuple[int, ...]
Move = tuple[tuple[Fraction, Fraction], ...]
"""Where a place of the bottom goes along height and width: to factor · place + shift of the top."""
Own = TypeVar("Own", int, float, bool, str)
Kind = type[Own]

_READERS: dict[type, tuple[str, Callable[[Scalar], Any]]] = {
    int: ("an integer", Scalar.as_int),
    float: ("a number", Scalar.as_float),
    bool: ("true or false", boolean),
    str: ("a string in quotes", lambda scalar: scalar.as_bytes().decode()),
}


@dataclass(frozen=True)
class Param:
    """A learnable blob as its layer declares it.

    role     what it is for: "weight", "bias", "slope", …
    filler   what Caffe fills it with; `written` tells whether the file says so or it is Caffe's default
    fan_in   inputs that one output sums over: the true number, which is not always Caffe's (`fill.caffe_fans`)
    fan_out  outputs that one input feeds, likewise
    is_statistic  not learned, whatever its ParamSpec says: running sums
    """

    role: str
    shape: Shape
    filler: Filler
    written: bool
    fan_in: int
    fan_out: int
    is_statistic: bool = False


@dataclass(frozen=True)
class Unrolled:
    """The net that Caffe builds inside of a recurrent layer, one copy of its layers for each timestep.

    net      NetParameter; its last layers, one for each output, are only there to force its backward pass
    inputs   the blobs that are the layer's bottoms, in order
    outputs  the blobs that are the layer's first tops
    states   the blob of each first state, and the one that holds it after the last timestep
    exposed  the states come in as bottoms and go out as tops; else they are kept from pass to pass
    debug_info  Caffe prints the inner net's own lines
    passes   a gradient goes through the exposed states
    """

    net: Any
    inputs: Sequence[str]
    outputs: Sequence[str]
    states: Mapping[str, str]
    exposed: bool
    debug_info: bool
    passes: bool = False


class Batches(Protocol):
    """The data that a layer names, batch by batch; `shapes` are those of the tops. See `data.Reader`."""

    shapes: tuple[Shape, ...]
    varies: bool

    def start(self, words: Mapping[str, int], stream: Stream) -> None:
        """Go to the first record."""
        ...

    def next(self) -> Sequence[np.ndarray]:
        """Return the next batch."""
        ...


class Layer:
    """One layer as its prototxt message describes it; subclasses are registered with `@layer("Type")`.

    A subclass states how many bottoms and tops it takes as (least, most), overrides `tops` and `lower`, and `params`,
    `draw`, `macs`, … where it differs. Shapes are outermost axis first (N, C, H, W).
    """

    type: ClassVar[str]
    num_bottoms: ClassVar[tuple[int, int | None]] = (1, 1)
    num_tops: ClassVar[tuple[int, int | None]] = (1, 1)
    fork_bottoms: ClassVar[tuple[int, int | None] | None] = None  # how many bottoms a fork allows, computed as it does
    foreign_bottoms: ClassVar[tuple[int, int | None]] = (0, 0)  # how many some fork takes, for what is not known here
    foreign_tops: ClassVar[tuple[int, int | None]] = (0, 0)  # likewise
    takes_targets: ClassVar[bool] = False  # bottom 1 holds a number for each of bottom 0's, not classes
    takes_indices: ClassVar[bool] = False  # bottom 0 holds indices, in any shape: Embed
    keeps_shapes: ClassVar[bool] = False  # its tops' shapes depend on none of its fields that Caffe lacks
    auto_tops: ClassVar[bool] = False  # Caffe adds missing tops itself: the losses
    keeps_drawn: ClassVar[bool] = False  # it computes with what it drew for params that it shares: LSTM in TRAIN
    writes_all_diffs: ClassVar[bool] = (
        False  # its backward pass looks at no lr_mult: a param's of 0 gets a gradient too
    )
    lends_param: ClassVar[bool] = False  # its top is the memory of its param: Parameter
    keeps_blobs: ClassVar[bool] = True  # its params start from the `blobs` that the net holds for it, if any
    starts_at_zero: ClassVar[bool] = False  # `caffe train` leaves its tops at zero: Input
    passes_values: ClassVar[bool] = (
        False  # its tops hold its bottoms' values, in another shape or order: Split, Reshape, …
    )
    passes_signal: ClassVar[bool] = False  # it keeps the sign and the rough shape of the distribution: Pooling, Scale
    normalizes: ClassVar[bool] = False  # it gives its top a mean and a variance of its own
    is_recurrent: ClassVar[bool] = False  # weights act once per timestep
    upsamples: ClassVar[bool] = False  # a bilinear filler makes it interpolate
    copies: ClassVar[bool] = False  # each top is the bottom: Split
    keeps_places: ClassVar[bool] = False  # each pixel of its first top belongs to the same one of its first bottom
    maps_bottoms: ClassVar[bool] = False  # where bottom 1's places lie on bottom 0 (`bottom_map`) follows from the net
    sized_by_images: ClassVar[bool] = False  # its tops' size stands in the data: that of the images (`image_size`)
    aligns: ClassVar[bool] = False  # where one bottom lies on the other (`cut_before`) follows from the net
    reads_pixels: ClassVar[bool] = False  # its first top holds images, 0 to 255 unless its transform_param says else
    data_kind: ClassVar[str] = ""  # the reader of the data that it names, one of `data.KINDS`, or registered
    filler_fields: ClassVar[Mapping[str, str]] = {}  # the role of what each filler fills, by "message.field"
    is_external: ClassVar[bool] = False  # its tops are data from outside: `lower` declares one graph input per top
    decides: ClassVar[bool] = False  # it computes in numpy what its bottoms' values decide, before the graph runs
    decisive: ClassVar[slice] = slice(None)  # the bottoms whose values it then looks at
    lowers_undecided: ClassVar[bool] = False  # `lower` also emits the layer while nothing is decided
    by_sample: ClassVar[bool] = False  # see `is_by_sample`; each class states it of itself
    replaces_diff: ClassVar[slice] = slice(0)  # the bottoms that its backward pass gives other memory for the diff
    own_fields: ClassVar[tuple[str, ...]] = ()  # by path, which Caffe's schema lacks and `own` reads
    own_values: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # by field, values that Caffe's enum lacks, which it reads
    adds: ClassVar[Any] = None  # the message class of a fork's LayerParameter: its own fields, which `added` holds
    dialect: ClassVar[str] = ""  # the fork whose type it is; "" for Caffe's own and those of plugins
    read_as: ClassVar[str] = ""  # of a type that Caffe lacks: what it is taken for, and whose it is

    def __init__(self, proto: Any, phase: int, place: Place) -> None:
        self.proto = proto
        self.name: str = proto.name
        self.phase = phase
        self.place = place
        self.text: Message | None = None  # the layer as it is written; None for one that is in no text
        self.cut_before: tuple[int, int] | None = None  # what of bottom 0 lies before bottom 1, if it `aligns`
        self.bottom_map: Move | None = None  # where bottom 1's places lie on bottom 0, if it `maps_bottoms`
        self.image_size: tuple[int, int] | None = None  # height and width of the net's images, if `sized_by_images`
        self.why_uncomputed = ""  # why its tops have shapes but no values
        self.is_forks = False  # its bottoms are such that Caffe would stop, and forks go on: see `departs`
        self.is_inserted = False  # Caffe adds the layer itself: a Split behind a blob with several readers
        self.added: Any = self.adds() if self.adds else None  # what the fork's own fields hold
        self.own_draws: dict[int, np.ndarray] = {}  # what it drew for the params that it shares, if it `keeps_drawn`
        self.decisions: tuple[np.ndarray, ...] | None = None  # what `decide` returned; None before
        self.decided_shapes: tuple[Shape, ...] = ()  # those of all bottoms, for which it did
        self.peers: Sequence[Layer] = ()  # the net's layers as far as they are made: some state settings for others
        self.top_count = len(proto.top)
        self.shape_overrides: dict[str, Shape] = {}  # what the user said of the tops' shapes, by blob name
        self.batch_override: int | None = None
        self.reader: Batches | None = None  # of the data that an external layer names
        self.why_synthetic = ""  # why there is no reader, of a layer that names its data
        self.why_unknown = ""  # why a top has no shape although all bottoms have

    @property
    def why_unread(self) -> str:
        """Why the data that the layer names is not read although it may be available, "" where it is."""
        return ""

    def error(self, message: str) -> NetError:
        """Return (to raise) an error about this layer, with the place it stands at."""
        return NetError(f"layer {self.name!r} ({self.proto.type}): {message}", self.place)

    @property
    def last_line(self) -> int:
        """The line at which the layer's text ends; 0 for one that is in no text."""
        return self.text.last_line if self.text else 0

    def is_in_place(self, index: int = 0) -> bool:
        """Tell whether the top of this index is written over the bottom of the same index."""
        tops, bottoms = self.proto.top, self.proto.bottom
        return index < min(len(tops), len(bottoms)) and tops[index] == bottoms[index]

    def refuse_in_place(self) -> None:
        """Raise NetError when a top has the name of the bottom of its index."""
        for index in filter(self.is_in_place, range(self.top_count)):
            raise self.error(f"cannot work in place; give the top another name than {self.proto.bottom[index]!r}")

    def refuse_resizing(self, bottoms: Sequence[Shape], tops: Sequence[Shape | None]) -> None:
        """Raise NetError when a top in place has not its bottom's size: Caffe resizes what it still reads.

        Layers of forks are taken at their word: some turn a blob in place.
        """
        for index, (bottom, top) in enumerate(zip(bottoms, tops, strict=False)):
            is_kept = top is None or math.prod(top) == math.prod(bottom)
            if self.is_in_place(index) and not is_kept and not self.dialect:
                name, shapes = self.proto.bottom[index], f"of shape {top} over a bottom of {bottom}"
                raise self.error(f"cannot work in place, with a top {shapes}; give the top another name than {name!r}")

    def canonical_axis(self, axis: int, rank: int) -> int:
        """Return `axis` counted from the front; a negative one counts from the end.

        Raises NetError when it is out of range.
        """
        if not -rank <= axis < rank:
            raise self.error(f"axis {axis} is out of range for a bottom of {rank} axes")
        return axis % rank

    def own(self, path: str, kind: Kind[Own]) -> list[Own]:
        """Return the values of a field that Caffe's schema lacks: `own("permute_param.order", int)`, [] for none.

        kind: int, float, bool or str. Raises NetError at a value of another kind.
        """
        expected, read = _READERS[kind]
        values = []
        for found in self.written(path):
            try:
                values.append(read(found))  # type: ignore[arg-type]  # a Message has none of the attributes
            except (AttributeError, ValueError) as error:
                text = getattr(found, "text", "a message in braces")
                message = f"{path} of layer {self.name!r}: expected {expected}, found {text}"
                raise NetError(message, found.place) from error
        return values

    def own_filler(self, path: str) -> Filler | None:
        """Return the filler that a field holds which Caffe's schema lacks; None when it is not written."""
        messages = [found for found in self.written(path) if isinstance(found, Message)]
        return to_filler(from_message(messages[0], FillerParameter, self.place.file)) if messages else None

    def written(self, path: str) -> list[Scalar | Message]:
        """Return the values in the text of a field of the layer, by its path: "bn_param.eps"; [] for none."""
        return self.text.at(path) if self.text else []

    def params(self, bottoms: Sequence[Shape]) -> tuple[Param, ...]:
        """Return the learnable blobs, in Caffe's order."""
        return ()

    def tops(self, bottoms: Sequence[Shape]) -> tuple[Shape | None, ...]:
        """Return one shape per top (`self.top_count` of them; automatic tops are counted in), None for an unknown one.

        Raises NetError where Caffe would stop: a bottom that does not fit.
        """
        raise NotImplementedError

    def unrolled(self, bottoms: Sequence[Shape]) -> Unrolled | None:
        """Return the net that Caffe builds inside of the layer and runs in its place; `lower` is then not used."""
        return None

    @classmethod
    def claims(cls, proto: Any, types: Collection[str]) -> bool:
        """Tell whether a layer of Caffe's own type is of this dialect though no field says so; types: its net's."""
        return False

    @classmethod
    def fits(cls, proto: Any, types: Collection[str]) -> bool:
        """Tell whether a layer can be of this dialect, by default by its numbers of bottoms and tops.

        types: those of all layers of the net; a type that only one fork has may tell which fork it is.
        """
        tops = max(len(proto.top), cls.num_tops[0]) if cls.auto_tops else len(proto.top)
        return within(len(proto.bottom), cls.num_bottoms) and within(tops, cls.num_tops)

    def decide(self, bottoms: Sequence[np.ndarray], random: np.random.Generator) -> Sequence[np.ndarray]:
        """Return what the values of the `decisive` bottoms decide, of a layer that `decides`.

        `lower` declares each array as a graph input (`input_decisions`) and emits the rest: the gradient passes there.
        Shapes may depend on the values. random: for layers that sample.
        """
        raise NotImplementedError

    def deciding(self, bottoms: Sequence[np.ndarray], shapes: Sequence[Shape], random: np.random.Generator) -> Layer:
        """Return the layer as it is once `decide` has seen these values, of bottoms of these shapes.

        Raises NetError for values that it cannot work with: classes and places that there are not, NaN as a size.
        """
        layer = copy.copy(self)
        layer.decided_shapes = tuple(shapes)
        try:
            layer.decisions = tuple(layer.decide(bottoms, random))
        except (IndexError, OverflowError, ValueError) as error:
            raise self.error(f"cannot work with the values of its bottoms: {error}") from error
        return layer

    def input_decisions(self, g: Graph) -> list[str]:
        """Declare what was decided as inputs of the graph, which `draw_feeds` feeds; return their names."""
        made = enumerate(self.decisions or ())
        return [g.input(f"{self.name}/decided{index}", array.shape, array.dtype) for index, array in made]

    def summary(self, bottoms: Sequence[Shape]) -> str:
        """Return a line for the user about what was decided; "" for none."""
        return ""

    def place_map(self, bottoms: Sequence[Shape]) -> Move | None:
        """Return where the places of an image (bottom 0) go in the first top; None where nobody can say."""
        return ((Fraction(1), Fraction(0)),) * 2 if self.keeps_places else None

    def cut_size(self) -> tuple[int, int] | None:
        """Return height and width of what it cuts out of larger images; None where the file states none."""
        return None

    def departs(self, bottoms: Sequence[Shape]) -> str:
        """Return at what of these bottoms Caffe would stop and forks go on, as `is_forks` then says; "" for nothing."""
        return ""

    def oddity(self, bottoms: Sequence[Shape]) -> str:
        """Return what Caffe computes that whoever wrote the file can hardly want; "" for nothing."""
        return ""

    def rebatched(self, bottoms: Sequence[Shape]) -> str:
        """Return which sizes it takes otherwise than written since the user gives another batch; "" for none."""
        return ""

    def in_batch(self, size: int) -> int:
        """Return a size of a batch that the file states apart from the data: the user's for that of the data."""
        is_datas = any(size in peer.batches() for peer in self.peers)
        return self.batch_override if self.batch_override and is_datas else size

    def batches(self) -> Sequence[int]:
        """Return the first axes of its tops as the file has them, of a layer whose tops are data."""
        return ()

    def shape_source(self) -> str:
        """Return where the shapes are that `tops` does not know, in words."""
        return "elsewhere"

    def lower(self, g: Graph, bottoms: Sequence[str], params: Sequence[str]) -> Sequence[str]:
        """Emit the forward nodes and return one value per top. `g.shape(name)` is known for bottoms and params."""
        raise NotImplementedError

    def draw_params(self, stream: Stream, params: Sequence[Param], bottoms: Sequence[Shape]) -> list[np.ndarray]:
        """Return the initial values, drawn in Caffe's order at set-up."""
        return [fill(stream, param.filler, param.shape) for param in params]

    def draw_setup(self, stream: Stream) -> None:
        """Consume what else the layer draws at set-up."""

    def draw_feeds(self, stream: Stream, bottoms: Sequence[Shape]) -> Sequence[np.ndarray]:
        """Return what each forward pass draws: one array per graph input that `lower` declared, in order."""
        return self.decisions or ()

    def fills_once(self, top: int) -> bool:
        """Tell whether a top is filled at set-up only, so that each pass finds there what the one before it left."""
        return False

    def drawn_by(self, bottoms: Sequence[Shape]) -> Hashable:
        """Return all that decides what `draw_feeds` makes of a stream: layers of the class for which it is equal draw
        the same, which predictions then look at once. None where nobody tells. Who overrides one overrides both.
        """
        return None

    def named_file(self, name: str) -> Path | None:
        """Return where a file lies that the layer names: in the working directory as in Caffe, else beside the net."""
        places = (Path(), Path(self.place.file).parent)
        return next((at / name for at in places if name and os.path.exists(at / name)), None)

    @property
    def output_file(self) -> str:
        """The HDF5 file that its bottoms are written to when a net is trained or tested; "" for none."""
        return ""

    def save_decisions(self) -> None:
        """Write what was decided to the files that the layer names, if it names some; training does so in each pass."""

    @property
    def left_out(self) -> str:
        """What the layer's reference does and this class does not, in words for the user; "" for nothing."""
        return ""

    @property
    def reads_statistics(self) -> bool:
        """Whether it normalizes by stored statistics in place of the batch's."""
        return False

    @property
    def eps(self) -> float:
        """What is added to the variance that it divides by; 0 where there is none."""
        return 0.0

    def uninformed_loss(self, bottoms: Sequence[Shape]) -> float | None:
        """Return the loss of a prediction that knows nothing, such as ln K for K classes; None where nobody can say."""
        return None

    def feed_fillers(self) -> Sequence[Filler]:
        """Return the fillers that draw each graph input, where fillers do."""
        return ()

    def nonlinearity(self) -> Nonlinearity | None:
        """Return what kind of activation the layer is, None for any other layer."""
        return None

    def passes(self) -> bool:
        """Tell whether a nonlinearity behind the layer decides about the weights in front of it."""
        return self.passes_signal or self.passes_values or self.is_in_place()

    def rounding(self) -> str:
        """Return how the layer rounds the number of its windows: "up", "down" or "" for a layer without any."""
        return ""

    def is_by_sample(self, bottoms: Sequence[Shape]) -> bool:
        """Tell whether each sample of the tops, along axis 0, follows from the same sample of the bottoms alone.

        A scalar is then a mean over samples.
        """
        return self.by_sample

    def mixes_channels(self) -> bool:
        """Tell whether an output sums over several channels of the bottom, of a layer with filters."""
        return False

    def multiplies(self) -> bool:
        """Tell whether the top is a product of bottoms: what is a gate then scales the others."""
        return False

    def classes(self, bottom: int, bottoms: Sequence[Shape]) -> int | None:
        """Return how many integer values (0, 1, …) a bottom takes, like a loss's labels; None for real values."""
        return None

    def usual_bottom(self, bottom: int, others: Sequence[Shape]) -> Shape | None:
        """Return a likely shape of a bottom beside the others, where many would fit; None where one follows."""
        return None

    def stand_in(self, bottom: int, bottoms: Sequence[Shape], random: np.random.Generator) -> np.ndarray | None:
        """Return plausible values of a bottom for a run without data, such as boxes; None where noise serves."""
        return None

    def example(self, top: int, shape: Shape, random: np.random.Generator) -> np.ndarray | None:
        """Return plausible values of a data layer's top for a run without data; None where its readers know better."""
        return None

    def is_ignored(self, values: np.ndarray) -> np.ndarray:
        """Tell which values of a bottom that has `classes` may lie outside of them."""
        return np.zeros(values.shape, bool)

    @property
    def shares_memory(self) -> bool:
        """Whether the tops are the bottom's own memory, so that a later in-place layer changes both."""
        return False

    @property
    def shares_diff(self) -> bool:
        """Whether the tops' diffs are other memory: the bottom's, a param's, an inner net's."""
        return False

    @property
    def ignores_dy(self) -> bool:
        """Whether the bottoms' gradients do not depend on the tops': there are some even where no loss follows."""
        return False

    def overwrites_diff(self, param: int, bottoms: Sequence[Shape]) -> bool:
        """Tell whether the backward pass writes a param's gradient over what is there, where others add to it.

        It matters for params that are shared, and over several passes: only the last gradient remains.
        """
        return False

    def macs(self, bottoms: Sequence[Shape]) -> int:
        """Return the multiply-adds of one forward pass, whole batch; only convolutions and inner products count."""
        return 0

    def loss_weight(self, top: int) -> float:
        """Return the weight of a top in the net's loss: as written, else 1 for a loss layer's first top."""
        weights = self.proto.loss_weight
        return weights[top] if len(weights) > top else 0.0

    def allow_force_backward(self, bottom: int) -> bool:
        """Tell whether `force_backward` reaches this bottom."""
        return True

    @property
    def ignores_propagate_down(self) -> bool:
        """Whether its backward pass computes the bottom's gradient whatever `propagate_down` says."""
        return False

    def left_diffs(self, g: Graph, bottoms: Sequence[str]) -> Mapping[int, str]:
        """Emit what the forward pass leaves in the diffs of bottoms, by index; a backward pass writes over it."""
        return {}

    def stops_backward(self, needed: Sequence[bool]) -> bool:
        """Tell whether Caffe stops in the layer's backward pass, where a gradient is needed of some of its bottoms."""
        return False


def of_four_axes(shape: Shape) -> Shape:
    """Return the shape that a blob has in the first versions of Caffe, and in forks of them: 1 for missing axes."""
    return shape + (1,) * (4 - len(shape))


def tell_axes(bottoms: Sequence[Shape]) -> str:
    """Return what to tell the user of bottoms that differ in missing axes alone."""
    shapes = " and ".join(map(str, dict.fromkeys(bottoms)))
    return f"the shapes {shapes} differ in Caffe, but not in forks whose blobs all have 4 axes"


def within(count: int, allowed: tuple[int, int | None]) -> bool:
    """Tell whether a count is from the least to the most, None for no limit."""
    least, most = allowed
    return count >= least and (most is None or count <= most)


_TYPES: dict[str, tuple[type[Layer], ...]] = {}  # Caffe's own, or a plugin's, is the first of its name
_REGISTERED: list[type[Layer]] = []
_REFERENCE = r"\(([\w.-]+/[\w.-]+), ([^()]+)\)"


def layer(*names: str, dialect: str = "", by_sample: bool = False) -> Callable[[type[Layer]], type[Layer]]:
    """Register a Layer class for a type name as prototxt spells it, or for several names of one type.

    dialect:   the fork that the type is of; a name may have one class per dialect. A class from outside without one
               replaces those of forks
    by_sample: see `Layer.is_by_sample`; no class inherits it

    Raises ValueError when the name is taken, and for a class without `tops` or `lower`.
    """

    def register(cls: type[Layer]) -> type[Layer]:
        _check_complete(cls, names[0])
        if _is_outside(cls):
            _load_forks()
        cls.type, cls.dialect, cls.by_sample = names[0], dialect, by_sample
        for name in names:
            others = _TYPES.get(name, ())
            if not dialect and all(other.dialect for other in others):
                others = () if _is_outside(cls) else others
            taken = [other for other in others if other.dialect == dialect]
            if taken:
                raise ValueError(f"layer type {name!r} is already registered by {taken[0].__qualname__}")
            _TYPES[name] = (*others, cls) if dialect else (cls, *others)
        _REGISTERED.append(cls)
        return cls

    return register


def _check_complete(cls: type[Layer], name: str) -> None:
    """Raise ValueError for a class that lacks what every layer needs."""
    if not issubclass(cls, Layer):
        raise ValueError(f"layer type {name!r}: class {cls.__qualname__} does not derive from Layer")
    is_lowered = cls.lower is not Layer.lower or cls.unrolled is not Layer.unrolled
    missing = [] if cls.tops is not Layer.tops else ["tops"]
    missing += [] if is_lowered else ["lower"]
    if missing:
        raise ValueError(f"layer type {name!r}: class {cls.__qualname__} does not define {' and '.join(missing)}")


def _is_outside(cls: type) -> bool:
    return not cls.__module__.startswith("caffestat.")


def _load_forks() -> None:
    """Import the types of forks: most nets have none, and the import takes longer than these take to be read."""
    from . import forks  # noqa: F401  registers them


def own_class(name: str) -> type[Layer] | None:
    """Return the class of a type name that is Caffe's own, or a plugin's; None for types of forks."""
    classes = _TYPES.get(name)
    return classes[0] if classes and not classes[0].dialect else None


def registrations() -> int:
    """Return how many classes have been registered so far: what is chosen among them holds until there are more."""
    return len(_REGISTERED)


def layer_class(name: str) -> type[Layer] | None:
    """Return the class registered for a type name, the first of several dialects, None for an unknown one."""
    return own_class(name) or next(iter(layer_dialects(name)), None)


def layer_dialects(name: str) -> tuple[type[Layer], ...]:
    """Return the classes registered for a type name: Caffe's own first, then one per dialect of forks.

    What installed packages announce is imported when a type is not known without.
    """
    _load_forks()
    if name not in _TYPES:
        from .plugins import load_entry_points

        load_entry_points()
    return _TYPES.get(name, ())


def type_name(proto: Any) -> str:
    """Return the name that a layer's type is registered by: of a known Python layer, its module and class."""
    if proto.type == "Python":
        _load_forks()
        code = f"{proto.python_param.module}.{proto.python_param.layer}"
        return code if code in _TYPES else "Python"
    return str(proto.type)


def reference_of(cls: type[Layer]) -> str:
    """Return the repository and the file that a fork's class is written after, as its docstring names them."""
    found = re.search(_REFERENCE, " ".join((cls.__doc__ or "").split()))
    return f"{found[1]}, {found[2]}" if found else ""


def fork_type(old: str) -> str | None:
    """Return the type of a fork that a V1 name in capitals means: IMAGE_SEG_DATA is ImageSegData; None for no such."""
    if not old.isupper() or old in _TYPES:
        return None
    _load_forks()
    known = {name.lower(): name for name, classes in _TYPES.items() if all(cls.dialect for cls in classes)}
    return known.get(old.replace("_", "").lower())


def similar_type(name: str) -> str | None:
    """Return the type that a misspelled name means: at most two letters off, and not in upper and lower case alone."""
    plain = {known.lower().replace("_", ""): known for known in layer_types()}
    written = name.lower().replace("_", "")
    if written in plain:  # a fork's own, such as Lstm beside LSTM, when only the case differs
        return None if plain[written].lower() == name.lower() else plain[written]
    close = _closest(written, tuple(plain), min(2, len(written) // 4))
    return plain[close] if close else None


@lru_cache(maxsize=256)  # a net has many layers of one unknown type
def _closest(written: str, names: tuple[str, ...], most: int) -> str:
    """Return the first of the names that are fewest letters off, "" where all are more than `most`."""
    near = [name for name in names if _may_be_near(written, name, most)]
    close = min(near, key=lambda name: _distance(written, name), default="")
    return close if close and _distance(written, close) <= most else ""


def _may_be_near(one: str, other: str, most: int) -> bool:
    """Tell, by the letters alone, whether two words may be so few letters off."""
    return abs(len(one) - len(other)) <= most and len(set(one) - set(other)) <= most


def _distance(one: str, other: str) -> int:
    """Return how many letters are to be added, dropped, changed or swapped with a neighbour."""
    before, row = list[int](), list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        older, before, row = before, row, [i]
        for j, b in enumerate(other, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                row[j] = min(row[j], older[j - 2] + 1)
    return row[-1]


def layer_types() -> tuple[str, ...]:
    """Return all registered type names, sorted."""
    _load_forks()
    return tuple(sorted(_TYPES))


DEFAULT_FILLERS = {"scale": Filler(value=1.0), "slope": Filler(value=0.25)}
"""What Caffe fills a param of a role with when no filler is written; constant 0 for any other role."""


def default_filler(role: str) -> Filler:
    """Return what Caffe fills a param of this role with when no filler is written."""
    return DEFAULT_FILLERS.get(role, Filler())


def to_filler(proto: Any) -> Filler:
    """Return the Filler that a FillerParameter message describes."""
    return Filler(
        type=proto.type,
        value=proto.value,
        min=proto.min,
        max=proto.max,
        mean=proto.mean,
        std=proto.std,
        sparse=proto.sparse,
        variance_norm=VARIANCE_NORMS[proto.variance_norm],
    )


def read_param(role: str, shape: Shape, message: Any, field: str, fan_in: int, fan_out: int) -> Param:
    """Return the Param that `message.field` fills: with Caffe's default for the role when the file leaves it out."""
    written = message.HasField(field)
    filler = to_filler(getattr(message, field)) if written else default_filler(role)
    return Param(role, shape, filler, written, fan_in, fan_out)
