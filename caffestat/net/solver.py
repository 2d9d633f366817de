"""The first iteration of a solver, in the order in which `caffe train` goes through it. (solver.cpp, Init and Step)"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from caffestat.errors import InputError
from caffestat.fill import Stream
from caffestat.schema import caffe_pb2

from .build import build
from .initial import copy_weights, draw_params
from .measure import Runner, draw_feeds, synthetic_layers
from .measurement import Measurement, Norms
from .memory import available_bytes, check_memory
from .model import Net
from .rules import TEST, TRAIN, State
from .source import NetSource, Solver, beside

__all__ = ["Pass", "Score", "TestBegins", "TestLoss", "Trained", "first_iteration", "learning_rate"]


@dataclass(frozen=True)
class TestBegins:
    """A test net, counted from 0, is about to run."""

    number: int


@dataclass(frozen=True)
class Pass:
    """One pass of a net: forward in TEST, forward and backward in TRAIN."""

    net: Net
    measured: Measurement


@dataclass(frozen=True)
class Score:
    """One element of an output blob, of a test net the mean over its batches; `number` counts the elements of a net."""

    phase: int
    number: int
    name: str
    value: np.float32
    weight: np.float32  # in the loss; 0 for none


@dataclass(frozen=True)
class TestLoss:
    """The mean loss over a test net's batches, which `test_compute_loss` asks for."""

    value: float


@dataclass(frozen=True)
class Trained:
    """The train net's passes are done: the mean of their losses, and the seconds since the iteration began."""

    loss: float
    seconds: float
    display: int


@dataclass(frozen=True)
class Rate:
    """The learning rate of the iteration."""

    value: float


Event = TestBegins | Pass | Score | TestLoss | Trained | Rate


@dataclass
class _Run:
    """What all nets of a solver share."""

    stream: Stream
    random: np.random.Generator
    device: str
    inputs: Mapping[str, np.ndarray]
    zeros: bool
    notes: MutableSequence[str]


@dataclass
class _Loaded:
    """A net with its params' values; a runner is made when the first pass is due."""

    net: Net
    values: list[np.ndarray]
    run: _Run
    runner: Runner | None = field(default=None)

    def measure(self, fetch: Sequence[str] = ()) -> Measurement:
        """Run one pass."""
        if self.runner is None or self.runner.lowered.graph.updates:  # a runner knows its params as they were at first
            self.runner = Runner(self.net, self.values, self.run.device, self.net.phase == TEST, fetch)
        run = self.run
        return self.runner.run(draw_feeds(self.runner, run.stream, run.random, run.inputs, run.zeros))
