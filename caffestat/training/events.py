"""Events of a training run, in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from caffestat.analysis import Measurement
from caffestat.program import Program

from .statistics import Signal

__all__ = [
    "BeginTest",
    "Clip",
    "Done",
    "EndTest",
    "Event",
    "FileWritten",
    "FinalLoss",
    "Iteration",
    "Output",
    "Pass",
    "Resumed",
    "Saved",
    "Started",
    "Statistics",
    "StopTest",
    "WeightsLoaded",
]


@dataclass(frozen=True)
class WeightsLoaded:
    """A file's weights went into a net; `ignored` are the layers of the file that the net lacks."""

    path: str
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class Resumed:
    """A solver state was restored; `ignored` are the layers of its weights that the net lacks."""

    path: str
    iteration: int
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class Started:
    """The optimization begins."""

    net: str
    policy: str
    iteration: int


@dataclass(frozen=True)
class BeginTest:
    """A test net, counted from 0, is about to run with the train net's params.

    ignored: the train net's layers that it lacks.
    """

    iteration: int
    number: int
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class Pass:
    """One pass of a net whose blobs were measured: forward in TEST, forward and backward in TRAIN.

    inner_only: debug_info is not due; only recurrent layers with `debug_info: true` of their own print
    """

    program: Program
    measured: Measurement
    inner_only: bool = False


@dataclass(frozen=True)
class Output:
    """One element of an output blob, of a test net the mean over its batches. `weight`: in the loss; 0 for none.

    classes: with the eval_type "detection" of SSD's Caffe, the average precision by class, None for a class that
    nothing was taken for; the value is their mean
    """

    name: str
    value: float
    weight: float
    classes: Mapping[int, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class EndTest:
    """A test net's outputs, and its mean loss where `test_compute_loss` asks for it."""

    iteration: int
    number: int
    outputs: tuple[Output, ...]
    loss: float | None


@dataclass(frozen=True)
class StopTest:
    """A signal asked to stop while a test net ran."""


@dataclass(frozen=True)
class Clip:
    """The gradients' norm (of all params together, before they are averaged) exceeds clip_gradients."""

    norm: float
    limit: float


@dataclass(frozen=True)
class Iteration:
    """One iteration: passes, then the update.

    loss      of this iteration alone, the mean over iter_size passes
    smoothed  the mean over the last average_loss iterations, which Caffe logs
    outputs   the train net's, of the last pass
    rate      the learning rate
    step      what `multistep` or `plateau` has reached, when it went on in this iteration
    least     the lowest loss, when `plateau` has it displayed
    clip      the gradients were scaled down
    displayed the solver's `display` asks for it in the log
    seconds   since the last displayed iteration, and how many iterations that were
    """

    iteration: int
    loss: float
    smoothed: float
    outputs: tuple[Output, ...]
    rate: float
    step: int | None
    least: float | None
    clip: Clip | None
    displayed: bool
    seconds: float
    since: int


@dataclass(frozen=True)
class Statistics:
    """Signals of one iteration, see `caffestat.training.statistics`."""

    iteration: int
    values: Mapping[Signal, float]


@dataclass(frozen=True)
class Saved:
    """A snapshot was written: the weights' file and the state's."""

    iteration: int
    model: str
    state: str


@dataclass(frozen=True)
class FileWritten:
    """A layer wrote its bottoms to a file, so many items."""

    path: str
    items: int


@dataclass(frozen=True)
class FinalLoss:
    """The loss of one more forward pass after the last update."""

    iteration: int
    loss: float
    smoothed: float


@dataclass(frozen=True)
class Done:
    """The optimization ended; `stopped` when a signal or the caller asked for it."""

    iteration: int
    stopped: bool


Event = (
    WeightsLoaded
    | Resumed
    | Started
    | BeginTest
    | Pass
    | EndTest
    | StopTest
    | Iteration
    | Statistics
    | Saved
    | FileWritten
    | FinalLoss
    | Done
)
