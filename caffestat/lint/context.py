"""What the checks look at: the text of a net, the net itself, what is predicted and what was measured of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Protocol

import numpy as np

from caffestat.analysis import Gain, Measurement, Prediction, Predictor, gains
from caffestat.analysis.prediction import Stop
from caffestat.errors import Finding, NetError, Place
from caffestat.layers import Shape
from caffestat.net import Net, NetParam, NetSource, Node, Solver
from caffestat.ops import Nonlinearity
from caffestat.options import ValueOptions, number, one_of
from caffestat.program import Dataflow, NetProgram, Program, from_net
from caffestat.prototext import Field, Message
from caffestat.theory import Memo

__all__ = ["Context", "Limits", "ModelRun", "Outlook", "Ran", "UnknownShape"]


@dataclass(frozen=True)
class Limits:
    """Thresholds of the checks; each is a `caffestat check` option and a configuration key.

    vanish, explode    mean |x| of a blob, or |dx|, relative to the data's, or to the loss's side
    saturated          share of the inputs of a sigmoid or tanh at which its slope is below a twentieth of the largest
    dead               share of zeros in what comes out of a ReLU
    deep               layers with weights in one line from which on a lost factor per layer matters
    high_loss          an initial softmax loss as a multiple of ln K, K the number of classes
    uneven             ratio between the largest and the smallest gradient-to-weight ratio of two layers
    fan_factor         factor between the n of a filler and the true one
    """

    vanish: float = 1e-6
    explode: float = 1e6
    saturated: float = 0.5
    dead: float = 0.9
    deep: float = 8
    high_loss: float = 3
    uneven: float = 1e7
    fan_factor: float = 1.5

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all limits."""
        return tuple(f.name for f in fields(cls))

    def changed(self, given: Mapping[str, float | None]) -> Limits:
        """Return these limits, the given ones replaced; None keeps one.

        Raises InputError for an unknown name and for a value that is no number of 0 or more.
        """
        for name in given:
            one_of("limits", name, self.names())
        known = {name: value for name, value in given.items() if value is not None}
        return replace(self, **{name: number(f"limits: {name}", value) for name, value in known.items()})


@dataclass(frozen=True)
class UnknownShape:
    """A layer whose first top has a shape that the file does not say, and the one it was taken for, if any."""

    node: Node
    taken: Shape | None


class Ran(Protocol):
    """A program, and what a run measured of it: all that the checks of any program look at."""

    @property
    def program(self) -> Program:
        """The net or model."""

    @property
    def measured(self) -> Measurement | None:
        """What the run measured, with the statistics of all elements; None without one."""


@dataclass(frozen=True)
class ModelRun:
    """An ONNX model that was run."""

    program: Program
    measured: Measurement | None


@dataclass(eq=False)
class Outlook:
    """A net as a program, and what is predicted of it, as far as it is asked for.

    memo     what the prediction shares with those of other nets
    weights  the files whose values the params get
    values   the params with these; None without any, or where they are not available
    """

    net: Net
    memo: Memo
    weights: tuple[str, ...] = ()
    values: list[np.ndarray] | None = None

    @cached_property
    def program(self) -> NetProgram:
        """The net as a program."""
        return from_net(self.net, ValueOptions(weights=self.weights))

    @cached_property
    def predictor(self) -> Predictor | NetError:
        """What predicts it, or why nothing is predicted."""
        try:
            return Predictor(self.program, self.values, memo=self.memo)
        except NetError as error:
            return error

    @property
    def prediction(self) -> Prediction:
        """What is predicted of the net; nothing when it has a layer that cannot be computed as its class says."""
        return Prediction() if isinstance(self.predictor, NetError) else self.predictor.prediction

    @cached_property
    def gains(self) -> list[Gain]:
        """The gains of its layers."""
        return gains(self.program, self.prediction)


@dataclass
class Context:
    """One net of one file.

    solver          the solver that names the net; None for a net's own file
    outlook         the net; None when it cannot be built, `error` then says why
    test_error      why a test net of the solver cannot be built or take its params from the net
    findings        what reading and building found strange, in the solver's text too
    missing_weights the files of weights that the solver names, none are given instead of, and that do not exist
    unknown_shapes  the layers whose shapes stand outside of the file; `findings` leaves them out
    given           the numbers of the params whose trained values are given, so that their fillers do not matter
    measured        what a run measured; None without one
    zeros           by (node, top), of the run: the share of zeros
    """

    source: NetSource
    limits: Limits
    solver: Solver | None = None
    outlook: Outlook | None = None
    error: NetError | None = None
    test_error: NetError | None = None
    findings: tuple[Finding, ...] = ()
    missing_weights: tuple[Finding, ...] = ()
    unknown_shapes: tuple[UnknownShape, ...] = ()
    given: frozenset[int] = frozenset()
    measured: Measurement | None = None
    zeros: dict[tuple[int, int], float] = field(default_factory=dict)

    @property
    def _outlook(self) -> Outlook:
        """The net, for checks that run only when there is one."""
        assert self.outlook is not None
        return self.outlook

    @property
    def built(self) -> Net:
        """The net, for checks that run only when there is one."""
        return self._outlook.net

    @property
    def program(self) -> NetProgram:
        """The net as a program."""
        return self._outlook.program

    @property
    def flow(self) -> Dataflow:
        """Who writes and who reads each value."""
        return self.program.flow

    @property
    def prediction_error(self) -> NetError | None:
        """Why nothing is predicted, None where something is."""
        predictor = self._outlook.predictor
        return predictor if isinstance(predictor, NetError) else None

    @property
    def stops(self) -> tuple[Stop, ...]:
        """The layers at which the prediction stops; they are known without that of the gradients."""
        predictor = self._outlook.predictor
        return () if isinstance(predictor, NetError) else predictor.stops

    @property
    def prediction(self) -> Prediction:
        """What is predicted of the net."""
        return self._outlook.prediction

    @property
    def gains(self) -> list[Gain]:
        """The gains of its layers."""
        return self._outlook.gains

    def amplitude(self, gain: Gain) -> float:
        """Return √E[x²] in front of the next layer with weights as a share of that in front of this one; 0: unknown."""
        node, tops = self.built.nodes[gain.node], self.prediction.tops
        before, own = tops.get(self.read_by(node)), tops.get((node.index, 0))
        kept = gain.kept or 0.0
        return math.sqrt(own.second / before.second * kept) if own and before and before.second > 0 else 0.0

    @cached_property
    def trains(self) -> bool:
        """Whether the net is one to be trained: it has a loss."""
        return any(any(node.loss_weights) for node in self.built.nodes)

    @cached_property
    def has_batch_norm(self) -> bool:
        """Whether a layer of the net normalizes."""
        return any(self.normalizes(node) for node in self.built.nodes)

    def normalizes(self, node: Node) -> bool:
        """Tell whether a layer normalizes its top; not by statistics that are not stored yet."""
        return node.layer.normalizes and (not node.layer.reads_statistics or self.given.issuperset(node.params))

    @cached_property
    def unfilled(self) -> list[tuple[Node, NetParam]]:
        """The weights that start at zero because no filler is written and no values are given."""
        return [
            (self.built.nodes[entry.node], entry)
            for number, entry in enumerate(self.built.params)
            if entry.param.role == "weight"
            and not entry.param.written
            and entry.owner is None
            and number not in self.given
        ]

    @cached_property
    def awaits_weights(self) -> bool:
        """Whether the file is made for trained weights: it freezes weights that it does not fill."""
        return any(not entry.lr_mult for _, entry in self.unfilled)

    @cached_property
    def is_silent(self) -> bool:
        """Whether nothing is known of the signal: the net is not trained, or its weights are not known."""
        return not self.trains or bool(self.unfilled) or (bool(self.given) and self._outlook.values is None)

    @cached_property
    def behind_unknown(self) -> set[int]:
        """The layers in front of one that cannot be computed: not all of their gradient is known."""
        return self.flow.in_front(node.index for node in self.built.nodes if not self._is_computed(node))

    @staticmethod
    def _is_computed(node: Node) -> bool:
        return node.is_known and not node.layer.why_unknown

    def layers(self) -> Iterator[Node]:
        """Yield the layers of the file, without the Split layers that Caffe inserts."""
        return (node for node in self.built.nodes if not node.layer.is_inserted)

    def read_by(self, node: Node) -> tuple[int, int]:
        """Return the (node, top) that a layer's first bottom holds when the layer runs."""
        return self.flow.source((node.index, 0))

    def followers(self, node: Node) -> Iterator[Node]:
        """Yield who reads the node's tops next; of in-place layers the first."""
        return (self.built.nodes[reader] for reader, _ in self.flow.users(node.index))

    def until(self, node: Node, stops: Callable[[Node], bool]) -> Iterator[Node]:
        """Yield the first layers behind a node at which `stops` holds."""
        nodes = self.built.nodes
        return (nodes[reader] for reader, _ in self.flow.until(node.index, lambda index: stops(nodes[index])))

    def has_weights(self, node: Node) -> bool:
        """Tell whether a layer has weights of its own."""
        return self.program.weight(self.program.rows[node.index]) is not None

    def nonlinearity(self, node: Node) -> Node | None:
        """Return the activation that a layer's top meets, directly or after layers that pass a signal."""
        found = self.flow.activation(node.index)
        return None if found is None else self.built.nodes[found]

    def activation(self, node: Node) -> Nonlinearity:
        """Return what kind of activation follows a layer: LINEAR for none."""
        return self.flow.nonlinearity(node.index)

    def before(self, node: Node) -> set[int]:
        """Return the indices of the layers that a layer depends on."""
        return self.flow.in_front([node.index])

    def is_rescaled(self, node: Node) -> bool:
        """Tell whether a layer behind this one normalizes its top, so that its size does not matter."""
        readers = self.until(node, lambda reader: self.normalizes(reader) or not reader.layer.passes())
        return any(self.normalizes(reader) for reader in readers)

    def written(self, node: Node, *path: str) -> Place:
        """Return the place of a field of a layer's text, or of the nearest message around it that is written."""
        message, place = node.layer.text, node.place
        for name in path:
            found = message.first(name) if message else None
            if found is None:
                break
            place, message = found.place, _message(found)
        return place

    def text_of(self, node: Node, *path: str) -> Field | None:
        """Return a field of a layer's text, None when it is not written there."""
        message, found = node.layer.text, None
        for name in path:
            found = message.first(name) if message else None
            if found is None:
                return None
            message = _message(found)
        return found


def _message(field: Field) -> Message | None:
    value = field.values[0] if field.values else None
    return value if isinstance(value, Message) else None
