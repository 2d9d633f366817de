"""ONNX models trained by Caffe's solvers: batches of given arrays, a loss, and the model's file as a snapshot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from caffestat.analysis import Runner, Step
from caffestat.engine.resident import Resident, View
from caffestat.errors import InputError
from caffestat.graph.external import read_model, save
from caffestat.net import Solver
from caffestat.ops import Role
from caffestat.options import NetOptions, RunOptions, ValueOptions
from caffestat.program.feeds import InputFeed
from caffestat.program.from_onnx import ModelProgram, from_onnx
from caffestat.program.losses import GIVEN_GRADIENTS
from caffestat.program.memory import check_run

from .events import FileWritten, Output
from .loop import Training
from .running import Add, PlainSum
from .snapshot import file_names
from .statistics import Signal, Sizes, put_update
from .update import Learnable

if TYPE_CHECKING:
    import onnx

    from caffestat.analysis import Measurement
    from caffestat.engine import Device
    from caffestat.graph import Graph
    from caffestat.program import Forward

__all__ = ["Batches", "ModelRunning", "ModelTraining"]

Arrays = Mapping[str, np.ndarray]
_LABEL_NAMES = ("label", "labels")  # by which a user may give the input that a cross entropy reads


class Batches:
    """Consecutive batches of arrays of one length; after the last sample comes the first.

    Scalars are in every batch, and so is what has another first axis than most inputs: masks, positions.

    arrays: by the names that the user gives them; shapes: of a batch of each; inputs: the graph's input for each
    """

    def __init__(self, arrays: Arrays, shapes: Mapping[str, tuple[int, ...]], inputs: Mapping[str, str]) -> None:
        self._size = _most_common(shape[0] for shape in shapes.values() if shape)
        sampled = {name for name, shape in shapes.items() if shape[:1] == (self._size,)}
        for name, array in arrays.items():
            skipped = name in sampled and array.ndim > 0
            if array.shape[skipped:] != shapes[name][skipped:]:
                raise InputError(f"--input {name}: has shape {array.shape}; the model takes {shapes[name]} at a time")
        counts = {name: len(array) for name, array in arrays.items() if name in sampled}
        if len(set(counts.values())) > 1:
            found = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise InputError(f"the inputs have different numbers of samples: {found}")
        self._sampled = {inputs[name] for name in sampled}
        self._arrays = {inputs[name]: array for name, array in arrays.items()}
        self._count, self._next = max(counts.values(), default=1), 0
        if not self._count:
            raise InputError(f"--input: expected arrays of samples, found none in {', '.join(counts)}")

    def next(self) -> dict[str, np.ndarray]:
        """Return the next batch of each array, by the graph's inputs."""
        rows = np.arange(self._next, self._next + self._size) % self._count
        self._next = (self._next + self._size) % self._count
        return {name: array[rows] if name in self._sampled else array for name, array in self._arrays.items()}


def _most_common(sizes: Iterable[int]) -> int:
    """Return the size that occurs most often, the first of several; 1 for none."""
    return max(Counter(sizes).items(), key=itemgetter(1), default=(1, 0))[0]


def _names_of(feeds: Sequence[InputFeed]) -> list[tuple[str, ...]]:
    """Return the names by which a user may give each input; labels have their own, unless the model's inputs do."""
    own = {feed.names[0] for feed in feeds if feed.row is not None}
    labels = tuple(name for name in _LABEL_NAMES if name not in own)
    return [feed.names if feed.row is not None else tuple(dict.fromkeys((*labels, *feed.names))) for feed in feeds]


def _fitting(name: str, given: np.ndarray, feed: InputFeed, dtype: np.dtype[Any]) -> np.ndarray:
    """Return a given array in an input's type. Raises InputError for a fraction or an index that it cannot hold."""
    array = np.asarray(given, dtype)
    if array.dtype.kind not in "iu":
        return array
    if (array != given).any():
        raise InputError(f"--input {name}: expected integers, found {given[array != given].flat[0]:g}")
    least = 0 if feed.row is None else -(feed.rows_read or 0)  # ONNX counts negative indices from the end
    if feed.rows_read is not None and array.size and not least <= array.min() <= array.max() < feed.rows_read:
        found = array.max() if array.max() >= feed.rows_read else array.min()
        raise InputError(f"--input {name}: expected integers from {least} to {feed.rows_read - 1}, found {found}")
    return array


class _Trained(ModelProgram):
    """A model whose loss a run returns."""

    def forward(self, carries: bool = False, strict: bool = False) -> Forward:
        forward = super().forward(carries)
        forward.losses = {name: weight for name, weight in forward.seeds.items() if isinstance(weight, float)}
        forward.outputs = dict(enumerate(forward.losses))
        if carries:
            forward.graph.updates |= _running_statistics(forward.graph)
        return forward


def _running_statistics(graph: Graph) -> dict[str, str]:
    """Return what the running means and variances of batch normalizations in training become, by their names."""
    pairs: dict[str, str] = {}
    for node in graph.nodes:
        if node.get("training_mode", 0):
            before = (name for i, name in enumerate(node.inputs) if node.info.role(i) is Role.STATISTIC)
            pairs |= {old: new for old, new in zip(before, node.outputs[1:], strict=False) if new}
    return {old: new for old, new in pairs.items() if old in graph.params}


class ModelRunning:
    """A model and its initializers' values. See `Running`, which does the same for nets."""

    def __init__(
        self, path: str, options: NetOptions, run: RunOptions, device: Device, freeze: Sequence[str], activity: bool
    ) -> None:
        from caffestat.graph.load import load

        if run.loss in (None, *GIVEN_GRADIENTS):
            raise InputError(
                "training needs a loss: --loss cross-entropy, or the name of a value whose sum is the loss"
            )
        self.path = path
        self.model: onnx.ModelProto = read_model(path)
        loaded = load(path, options.shapes, options.batch, as_float32=True, dims=options.dims)
        made = from_onnx(loaded, path, run.loss)
        self.program = _Trained(**vars(made))
        check_run(self.program, True, device)
        stored = map(self._stored, self.program.params)
        self.values: Sequence[np.ndarray] = [np.array(array, order="C") for array in stored]
        self.runner: Runner | None = Runner(self.program, self.values, device, changing=True, activity=activity)
        self._freeze = freeze
        self._check_patterns()
        self._batches = self._open(run.inputs)
        self.learnable = self._learnable()

    def _stored(self, param: Any) -> np.ndarray:
        assert param.stored is not None  # as of all params of models
        return np.asarray(param.stored)

    def _open(self, given: Arrays) -> Batches:
        """Return the batches of the given arrays. Raises InputError when one is missing or has an unknown name."""
        assert self.runner is not None
        graph = self.runner.forward.graph
        feeds = [feed for feed in self.runner.forward.feeds if isinstance(feed, InputFeed)]  # a model has no others
        names = _names_of(feeds)
        expected = ", ".join(accepted[0] for accepted in names)
        of_name = {name: feed for feed, accepted in zip(feeds, names, strict=True) for name in accepted}
        for name in given:
            if name not in of_name:
                raise InputError(f"--input {name}: the model has no such input; expected arrays for {expected}")
        for accepted in names:
            found = [name for name in accepted if name in given]
            if len(found) != 1:
                words = f"expected one --input {accepted[0]}=FILE.npy, found {len(found)}"
                raise InputError(f"{words}; expected arrays for {expected}")
        inputs = {name: feed.names[0] for name, feed in of_name.items() if name in given}
        specs = {name: graph.inputs[one] for name, one in inputs.items()}
        arrays = {name: _fitting(name, given[name], of_name[name], specs[name].dtype) for name in inputs}
        return Batches(arrays, {name: spec.shape for name, spec in specs.items()}, inputs)

    def _learnable(self) -> list[Learnable]:
        """Return the initializers that a gradient reaches and nobody freezes. Raises InputError when there is none."""
        initializers = {tensor.name for tensor in self.model.graph.initializer}
        reached = self.runner.diffs if self.runner else ()
        found = [
            Learnable(number, param.shape)
            for number, param in enumerate(self.program.params)
            if number in reached
            and param.name in initializers
            and not param.is_statistic
            and not self._is_frozen(number)
        ]
        if not found:
            raise InputError(f"{self.path}: no gradient reaches an initializer that is not frozen: nothing to train")
        return found

    @contextmanager
    def reading_ahead(self) -> Iterator[None]:
        """The arrays are in memory: there is nothing to read."""
        yield

    @property
    def name(self) -> str:
        """The model's name."""
        return self.program.name

    def step(self, measure: bool, each: bool = False, into: Mapping[int, View] | None = None) -> Step:
        """Run one pass of the next batch."""
        assert self.runner is not None
        return self.runner.step(self._batches.next(), measure, reuse=not each, into=into)

    def hold(self, values: Resident) -> None:
        """Let the params live on the device from now on."""
        assert self.runner is not None
        self.values = self.runner.values = values

    def sum(self, passes: int, add: Add) -> PlainSum:
        """Return what adds up the gradients of some passes."""
        return PlainSum(passes, add)

    def outputs(self, values: Mapping[int, np.ndarray]) -> tuple[Output, ...]:
        """Return the loss."""
        assert self.runner is not None
        names = list(self.runner.forward.losses.items())
        return tuple(Output(names[n][0], float(value.sum()), names[n][1]) for n, value in values.items())

    def signals(self, measured: Measurement, sizes: Sizes) -> dict[Signal, float]:
        """Return the signals of one iteration by node and value."""
        rows, found = self.program.rows, dict[Signal, float]()
        for quantity, source in (("top", measured.tops), ("zeros", measured.zeros), ("saturated", measured.saturated)):
            found |= {Signal(quantity, rows[r].name, rows[r].tops[top]): v for (r, top), v in source.items()}
        found |= {
            Signal("bottom_diff", rows[r].name, rows[r].bottoms[i]): v for (r, i), v in measured.bottom_diffs.items()
        }
        for quantity, source in (("param", measured.params), ("param_diff", measured.param_diffs)):
            found |= {Signal(quantity, rows[r].name, str(i)): v for (r, i), v in source.items()}
        for number, found_sizes in sizes.items():
            param = self.program.params[number]
            put_update(found, rows[param.row].name, param.index, *found_sizes)
        return found

    def write(self, path: str, updates: Mapping[int, np.ndarray] | None) -> None:
        """Write the model with the params as they are; it is replaced atomically."""
        from onnx import external_data_helper, numpy_helper

        external_data_helper.load_external_data_for_model(self.model, str(Path(self.path).parent))
        values = {self.program.params[number].name: self.values[number] for number in self._changing()}
        for tensor in self.model.graph.initializer:
            if tensor.name in values:
                kind = numpy_helper.to_array(tensor).dtype
                tensor.CopyFrom(numpy_helper.from_array(values[tensor.name].astype(kind), tensor.name))
        save(self.model, path)

    def write_files(self, written: Mapping[int, Sequence[np.ndarray]]) -> Iterator[FileWritten]:
        """Write nothing: no node of a model names files."""
        return iter(())

    def load(self, path: str, diffs: dict[int, np.ndarray]) -> tuple[str, ...]:
        """Take the params of a model that `write` wrote; it holds no updates."""
        from onnx import numpy_helper

        stored = {tensor.name: tensor for tensor in read_model(path).graph.initializer}
        for number in self._changing():
            name = self.program.params[number].name
            if name not in stored:
                raise InputError(f"{path}: has no initializer {name!r}; it is a snapshot of another model")
            self.values[number][...] = numpy_helper.to_array(stored[name], str(Path(path).parent))
        return ()

    def _check_patterns(self) -> None:
        """Raise InputError for a pattern of `freeze` that matches no initializer."""
        names = [tensor.name for tensor in self.model.graph.initializer]
        for pattern in self._freeze:
            if not any(fnmatch(name, pattern) for name in names):
                known = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
                raise InputError(f"--freeze {pattern!r} matches no initializer of {self.path}; expected one of {known}")

    def _changing(self) -> list[int]:
        """Return the params that training changes: those that a solver updates, and running statistics."""
        assert self.runner is not None
        forward = self.runner.forward
        updated = [number for number, name in forward.params.items() if name in forward.graph.updates]
        return [one.number for one in self.learnable] + [n for n in updated if not self._is_frozen(n)]

    def _is_frozen(self, number: int) -> bool:
        return any(fnmatch(self.program.params[number].name, pattern) for pattern in self._freeze)


class ModelTraining(Training):
    """A solver about to train an ONNX model.

    freeze: patterns of the names of initializers that stay as they are

    The solver's own net, where it names one, is not looked at. For the other arguments see `Training`.
    """

    def __init__(
        self, path: str, solver: Solver, run: RunOptions, options: NetOptions, freeze: Sequence[str] = (), **more: Any
    ):
        self._path, self._freeze = path, freeze
        super().__init__(solver, options, ValueOptions(), run, **more)

    def _open_nets(
        self, options: NetOptions, values: ValueOptions, run: RunOptions, seed: int, weights: Sequence[str]
    ) -> None:
        from caffestat.engine import choose_device

        if self.message.test_iter:
            raise InputError(f"{self.solver.name}: test nets are Caffe's; remove test_iter to train an ONNX model")
        self.device, why = choose_device(run.device)
        self.notes.extend([why] if why else [])
        self.train = ModelRunning(self._path, options, run, self.device, self._freeze, bool(self._stats))  # type: ignore[assignment]
        self.tests = []

    def _is_ssds(self) -> bool:
        return False

    def file_names(self) -> tuple[str, str]:
        """Return the names of a snapshot's two files: the model and the solver's state."""
        model, state = file_names(self.message, self.prefix, self.iteration)
        return model.removesuffix(".h5").removesuffix(".caffemodel") + ".onnx", state
