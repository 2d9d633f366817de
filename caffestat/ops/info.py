"""What is known of an ONNX op: one OpInfo each, read by everything that asks what an op does to its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from caffestat.lazy import np

from .activations import Nonlinearity
from .window import Window

__all__ = [
    "CONTRIB",
    "Bodies",
    "Call",
    "Combines",
    "Elements",
    "OpInfo",
    "Role",
    "Sign",
    "UnknownShapeError",
    "op_info",
    "ops",
    "register",
]

CONTRIB = "com.microsoft"

Shape = tuple[int, ...]


class Elements(Enum):
    """Where the elements of an op's outputs come from."""

    MOVED = "moved"  # each element of the data input once, in another order or shape
    PICKED = "picked"  # elements of the data inputs, any number of times; some may be a constant
    EACH = "each"  # a function of the elements at the same place
    MIXED = "mixed"  # computed from several places
    NONE = "none"  # not from the values of the inputs: shapes, random numbers, constants


class Combines(Enum):
    """How an op that works at each place combines its data inputs."""

    SUM = "sum"
    DIFFERENCE = "difference"
    PRODUCT = "product"
    QUOTIENT = "quotient"


class Sign(Enum):
    """The sign of an op's outputs."""

    ANY = "any"
    KEPT = "kept"  # not negative where no data input is
    NON_NEGATIVE = "non-negative"


class Role(Enum):
    """What an input of an op is for."""

    DATA = "data"
    WEIGHT = "weight"
    BIAS = "bias"
    SCALE = "scale"  # multiplies, element by element or channel by channel
    SHIFT = "shift"  # is added after a scale
    STATISTIC = "statistic"  # training tracks it and does not learn it
    INDEX = "index"
    CONDITION = "condition"  # decides which of the other inputs counts, which branch runs, how often a body runs
    SETTING = "setting"  # a shape, an axis, a bound, a mask: no signal flows through it
    TYPE = "type"  # only its shape and element type matter


class Bodies(Enum):
    """How an op runs the graphs that its attributes hold."""

    BRANCHES = "branches"  # one of them
    LOOP = "loop"  # again and again, until a count or the graph itself ends it
    SCAN = "scan"  # once per slice of the inputs
    MAP = "map"  # once per element of a sequence


class UnknownShapeError(KeyError):
    """A rule needs a shape that is not known."""


@dataclass(frozen=True)
class Call:
    """One use of an op.

    inputs, outputs  the values' shapes, None for an unknown one
    values           the arrays of the inputs that are constants, None for the others
    """

    attributes: Mapping[str, Any]
    inputs: Sequence[Shape | None]
    outputs: Sequence[Shape | None]
    values: Sequence[np.ndarray | None] = ()

    def get(self, attribute: str, default: Any = None) -> Any:
        """Return the attribute's value, or `default` when the node does not carry it."""
        return self.attributes.get(attribute, default)

    def input(self, position: int) -> Shape:
        """Return the shape of an input. Raises UnknownShapeError when it is not known."""
        return _known(self.inputs, position)

    def output(self, position: int = 0) -> Shape:
        """Return the shape of an output. Raises UnknownShapeError when it is not known."""
        return _known(self.outputs, position)

    def value(self, position: int) -> np.ndarray | None:
        """Return the array of an input that is a constant, None for one that is computed or left out."""
        return self.values[position] if position < len(self.values) else None


def _known(shapes: Sequence[Shape | None], position: int) -> Shape:
    shape = shapes[position] if position < len(shapes) else None
    if shape is None:
        raise UnknownShapeError(position)
    return shape


Fans = tuple[int, int]
FanRule = Callable[[Mapping[str, Any], Shape], Fans]


@dataclass(frozen=True)
class OpInfo:
    """The facts about an op. What an op does not have is left at its default.

    inputs        the role of each input; the last one goes for all that follow
    sign          of the outputs
    is_variadic   any number of inputs
    combines      how several data inputs meet at one place, of arithmetic ops
    is_product    a sum of products of the data and a weight, and nothing else
    renames       the output is the input
    reshapes      the output is the input in another shape, the elements in the same order
    is_recurrent  weights act once per timestep
    upsamples     a bilinear kernel makes it interpolate
    converts      changes the element type, not the values (apart from rounding)
    selects       each element is that of one of its inputs, whichever the first says
    picks_largest each element is the largest of several; one of those that are equal gets the gradient
    rounds        makes integers of floats: its derivative is 0 almost everywhere
    normalizes    gives its output a mean and a variance of its own
    is_random     the outputs differ from run to run
    is_constant   the output is stated in an attribute
    bodies        how it runs the graphs that its attributes hold; None where they hold none
    fans          for each input that can be a weight: `rule(attributes, shape)` -> true fan-in and fan-out
    holds         for each input of packed weights: `rule(attributes, shape)` -> how many they are
    macs          multiply-adds of one forward pass, of ops that are counted
    window        how a kernel slides over the image, of ops with a kernel
    limits        for each input of indices: how many different values it may hold
    distinct      for each output of indices no two of which are equal along an axis: `rule(call)` -> that axis
    gelu          the factor f for which x · (1 + op(f · x)) / 2 is a GELU
    output_shape  `rule(call)` -> shape of the output, of ops of the runtime's own, whose shapes ONNX does not tell
    typed_by      the input whose element type the output has, of the same ops
    defaults      attributes that ONNX takes for others than it states where a node does not have them
    kernel_opset  the newest opset for which the stock runtimes have a kernel, where newer ones exist without
    nonlinearity  what an activation does to its input; None where this call is no activation
    """

    name: str
    elements: Elements
    inputs: tuple[Role, ...] = (Role.DATA,)
    sign: Sign = Sign.ANY
    combines: Combines | None = None
    is_product: bool = False
    renames: bool = False
    reshapes: bool = False
    is_recurrent: bool = False
    upsamples: bool = False
    converts: bool = False
    selects: bool = False
    picks_largest: bool = False
    rounds: bool = False
    normalizes: bool = False
    is_random: bool = False
    is_constant: bool = False
    bodies: Bodies | None = None
    fans: Mapping[int, FanRule] = field(default_factory=dict)
    holds: Mapping[int, Callable[[Mapping[str, Any], Shape], int]] = field(default_factory=dict)
    macs: Callable[[Call], int] | None = None
    window: Callable[[Call], Window] | None = None
    limits: Mapping[int, Callable[[Call], int]] = field(default_factory=dict)
    distinct: Mapping[int, Callable[[Call], int]] = field(default_factory=dict)
    nonlinearity: Callable[[Call], Nonlinearity | None] | None = None
    gelu: float | None = None
    output_shape: Callable[[Call], Shape] | None = None
    typed_by: int = 0
    defaults: Mapping[str, Any] = field(default_factory=dict)
    kernel_opset: int | None = None
    is_variadic: bool = False
    is_known: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError for facts that contradict each other or are missing."""
        if self.is_product and not (self.fans and self.macs):
            raise ValueError(f"op {self.name!r}: a product needs the fans of its weights and its multiply-adds")
        if self.bodies and self.elements is not Elements.MIXED:
            raise ValueError(f"op {self.name!r}: what a graph in an attribute does to elements is not known")
        for position in self.limits:
            if self.role(position) is not Role.INDEX:
                raise ValueError(f"op {self.name!r}: input {position} has a limit, but is not an index")

    def role(self, position: int) -> Role:
        """Return what an input is for."""
        return self.inputs[min(position, len(self.inputs) - 1)] if self.inputs else Role.SETTING

    @property
    def joins(self) -> bool:
        """Whether the op has several data inputs."""
        return self.is_variadic or self.inputs.count(Role.DATA) > 1

    @property
    def moves(self) -> bool:
        """Whether every output element is an element of an input, as it is or converted."""
        return self.elements in (Elements.MOVED, Elements.PICKED) or self.converts

    @property
    def concatenates(self) -> bool:
        """Whether the output is the inputs side by side."""
        return self.elements is Elements.PICKED and self.is_variadic

    @property
    def passes_weight(self) -> bool:
        """Whether a weight behind the op is still the weight in front of it: all of it, or a part."""
        return self.moves and not self.joins and not self.fans

    @property
    def passes_signal(self) -> bool:
        """Whether the op keeps the sign and the rough shape of the distribution, as pooling and dropout do.

        A nonlinearity behind it then decides about the weights in front of it: MAX pooling and a rectifier commute.
        """
        pools = self.window is not None and self.sign is Sign.KEPT
        drops = self.is_random and self.role(0) is Role.DATA
        return self.moves or self.normalizes or pools or drops

    @property
    def is_matrix_product(self) -> bool:
        """Whether the op is a product without a kernel that slides."""
        return self.is_product and self.window is None


_OPS: dict[str, OpInfo] = {}


def register(info: OpInfo) -> OpInfo:
    """Enter the facts about an op. Raises ValueError when there are some already."""
    if info.name in _OPS:
        raise ValueError(f"op {info.name!r} is registered already")
    _OPS[info.name] = info
    return info


def op_info(op: str, domain: str = "") -> OpInfo:
    """Return the facts about an op of ONNX or of the runtime's own; `is_known` is false for any other."""
    found = _OPS.get(op) if domain in ("", "ai.onnx", CONTRIB) else None
    return found or OpInfo(op, Elements.MIXED, (Role.SETTING,), is_known=False)


def ops() -> tuple[str, ...]:
    """Return the names of all registered ops, sorted."""
    return tuple(sorted(_OPS))
