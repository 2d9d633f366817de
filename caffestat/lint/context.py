"""What the checks look at: the text of a net, the net itself, what is predicted and what was measured of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np

from caffestat.errors import Finding, NetError, Place
from caffestat.net import Measurement, Net, NetSource, Node, Prediction, predict
from caffestat.net.gains import Gain, gains
from caffestat.prototext import Field, Message

__all__ = ["Context", "Limits"]


@dataclass(frozen=True)
class Limits:
    """From where on something is worth telling; each is a `caffestat check` option and a configuration key.

    vanish, explode    mean |x| of a blob, or |dx|, relative to the data's, or to the loss's side
    saturated          share of the inputs of a sigmoid or tanh at which its slope is below a twentieth of the largest
    dead               share of zeros in what comes out of a ReLU
    deep               layers with weights in one line from which on a lost factor per layer matters
    uneven             ratio between the largest and the smallest gradient-to-weight ratio of two layers
    fan_factor         factor between the n of a filler and the true one
    """

    vanish: float = 1e-6
    explode: float = 1e6
    saturated: float = 0.5
    dead: float = 0.9
    deep: float = 8
    uneven: float = 1e7
    fan_factor: float = 1.5

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Return the names of all limits."""
        return tuple(f.name for f in fields(cls))


@dataclass
class Context:
    """One net of one file.

    net             None when it cannot be built, `error` then says why
    given_weights   trained weights are given, so that fillers do not matter
    values          the params of the run, those of `given_weights` filled in
    measured        what a run measured, with `tensors` as `net.Runner` gives them; None without one
    """

    source: NetSource
    limits: Limits
    net: Net | None = None
    error: NetError | None = None
    findings: tuple[Finding, ...] = ()
    given_weights: bool = False
    values: list[np.ndarray] | None = None
    measured: Measurement | None = None
    zeros: dict[tuple[int, int], float] = field(default_factory=dict)

    @property
    def built(self) -> Net:
        """The net, for checks that run only when there is one."""
        assert self.net is not None
        return self.net

    @cached_property
    def prediction(self) -> Prediction:
        """What is predicted of the net; nothing when no layer of it can be computed."""
        try:
            return predict(self.built, values=self.values)
        except NetError:
            return Prediction()

    @cached_property
    def gains(self) -> list[Gain]:
        """The gains of its layers."""
        return gains(self.built, self.prediction)

    @cached_property
    def trains(self) -> bool:
        """Whether the net is one to be trained: it has a loss."""
        return any(any(node.loss_weights) for node in self.built.nodes)

    @cached_property
    def has_batch_norm(self) -> bool:
        """Whether a layer of the net normalizes."""
        return any(node.type in ("BatchNorm", "MVN") for node in self.built.nodes)

    def layers(self) -> Iterator[Node]:
        """Yield the layers of the file, without the Split layers that Caffe inserts."""
        for node in self.built.nodes:
            if node.type != "Split" or node.layer.text is None or self._writes_split(node):
                yield node

    def _writes_split(self, node: Node) -> bool:
        return any(entry.proto.name == node.name for entry in self.source.layers)

    def followers(self, node: Node) -> Iterator[Node]:
        """Yield who reads the node's tops next; of in-place layers the first."""
        for top in node.tops:
            for reader in self.built.nodes[node.index + 1 :]:
                if top in reader.bottoms:
                    yield reader
                    break

    def nonlinearity(self, node: Node) -> Node | None:
        """Return the activation that follows a layer, with nothing but layers that pass or scale values in between."""
        for reader in self.followers(node):
            if reader.type in ACTIVATIONS:
                return reader
            if reader.layer.passes_values or reader.type in ("Split", "Scale", "Bias", "Dropout", "Pooling"):
                return self.nonlinearity(reader)
            return None
        return None

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


ACTIVATIONS = ("ReLU", "PReLU", "ELU", "Sigmoid", "TanH", "BNLL")


def _message(field: Field) -> Message | None:
    value = field.values[0] if field.values else None
    return value if isinstance(value, Message) else None
