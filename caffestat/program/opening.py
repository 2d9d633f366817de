"""The one way to open a prototxt: its text, net, solver, state and seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from caffestat.errors import Finding, InputError, NetError
from caffestat.layers import Shape
from caffestat.net import TEST, TRAIN, Net, NetSource, Solver, State, build, state_of
from caffestat.net.sizes import Assumed, assume_shapes
from caffestat.net.source import missing_weights, named_weights, read_document, source_of
from caffestat.options import DEFAULT_SEED, NetOptions, RunOptions, ValueOptions
from caffestat.prototext import Document

from .from_net import NetProgram, from_net
from .program import Program

__all__ = ["NetFile", "is_onnx", "open_file", "open_model", "refuse_caffe_options", "refuse_model_options"]

_PHASES = {None: None, "train": TRAIN, "test": TEST}


@dataclass(frozen=True)
class NetFile:
    """A net or solver prototxt.

    text    the file's own text
    source  the net that it describes or, of a solver, names
    solver  None for a net
    """

    text: Document
    source: NetSource
    solver: Solver | None = None

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is strange about the solver; a net's own findings are those of `source`."""
        return self.solver.findings if self.solver else ()

    def seed(self, given: int | None = None) -> int:
        """Return the given seed, else the solver's, else DEFAULT_SEED; Caffe takes a negative random_seed for none."""
        if given is not None:
            return given
        written = self.solver.message.random_seed if self.solver else -1
        return int(written) if written >= 0 else DEFAULT_SEED

    def state(self, options: NetOptions) -> State:
        """Return the state to build in: the net's own, joined by the solver's for that phase, then by the options.

        In the test phase the solver's is the state of its first test net. (solver.cpp, InitTrainNet, InitTestNets)
        """
        phase, level, stages = _PHASES[options.phase], options.level, options.stages
        if self.solver is None:
            return state_of(self.source, phase, level, stages)
        message = self.solver.message
        if phase != TEST:
            # `caffe train` puts its own --level, 0 by default, in the place of the one that the solver says
            return state_of(self.source, TRAIN, level or 0, (*message.train_state.stage, *stages))
        for state in message.test_state[:1]:
            stages = (*state.stage, *stages)
            level = state.level if level is None and state.HasField("level") else level
        return state_of(self.source, TEST, level, stages)

    def build(self, options: NetOptions, faults: list[NetError] | None = None) -> Net:
        """Return the net. Raises NetError where Caffe would stop, unless there are `faults` to take it.

        Raises InputError for sizes by name, which only models have.
        """
        o = options
        _refuse_dims(o)
        return build(self.source, self.state(o), o.shapes, o.batch, o.data, o.dialect, faults)

    def program(self, options: NetOptions, values: ValueOptions) -> NetProgram:
        """Return the program of the net, with what is strange about the file; see `build`."""
        return self._program(self.build(options), values)

    def assuming(self, options: NetOptions, faults: list[NetError]) -> tuple[Net, list[Assumed]]:
        """Return the net with likely shapes for data of which none is known, and what was assumed; see `build`."""

        def again(shapes: Mapping[str, Shape], errors: list[NetError]) -> Net:
            return self.build(replace(options, shapes={**shapes, **options.shapes}), errors)

        net = self.build(options, faults)
        found = (net, []) if options.data == "real" else assume_shapes(net, faults, self.source, again)
        if faults and options.batch is not None:
            faults[:] = [self._about_batch(fault, options) for fault in faults]
        return found

    def _about_batch(self, fault: NetError, options: NetOptions) -> NetError:
        """Return a fault with the advice to leave --batch out where the file's own batch is why Caffe would stop."""
        others: list[NetError] = []
        self.assuming(replace(options, batch=None), others)
        if fault.place in {other.place for other in others}:
            return fault
        why = f"layers of the file hold its own batch: leave --batch {options.batch} out"
        return NetError(f"{fault.message}; {why}", fault.place)

    def assumed_program(self, options: NetOptions, values: ValueOptions, faults: list[NetError]) -> NetProgram:
        """Return the program of the net of `assuming`, with what is strange about the file and what was assumed."""
        net, assumed = self.assuming(options, faults)
        return self._program(net, values, [one.finding for one in assumed])

    def _program(self, net: Net, values: ValueOptions, assumed: Sequence[Finding] = ()) -> NetProgram:
        """Return the program of a net; its weights are the given ones, else those that the solver names."""
        missing: Sequence[Finding] = ()
        if self.solver and not values.weights:
            missing = missing_weights(self.solver)
            values = replace(values, weights=() if missing else named_weights(self.solver))
        net.findings = (*self.findings, *missing, *net.findings, *assumed)
        return from_net(net, values)


def open_file(path: str) -> NetFile:
    """Read a net or solver prototxt, and the net that a solver names; "-" is the standard input.

    Raises a CaffestatError (file:line:column) when a file cannot be read or its text is broken.
    """
    text = read_document(path)
    return net_file(text, source_of(text))


def net_file(text: Document, found: NetSource | Solver) -> NetFile:
    """Return what was found in a file's text."""
    return NetFile(text, found.net, found) if isinstance(found, Solver) else NetFile(text, found)


def open_model(
    path: str, options: NetOptions, values: ValueOptions, run: RunOptions, backward: bool, static: bool = False
) -> tuple[Program, RunOptions]:
    """Read an ONNX model for a pass with `run.loss` or, without `backward`, a forward pass alone.

    static: nothing is run, not even for the suggestion of sizes

    Returns the program, and the options without the inputs that decided which nodes run.
    Raises InputError when it cannot be read or an option does not apply to it.
    """
    from caffestat.graph.load import load

    from .from_onnx import can_run, from_onnx, settle_drawn

    refuse_caffe_options(options, values)
    runs = None if static else partial(can_run, inputs=run.inputs)
    model = load(path, options.shapes, options.batch, as_float32=True, given=run.inputs, dims=options.dims, runs=runs)
    if run.straight_through:
        settle_drawn(model, run.inputs)
        model.pass_straight_through()
    loss = (run.loss or "noise") if backward else None
    return from_onnx(model, path, loss), replace(run, inputs=model.unpinned(run.inputs))


def is_onnx(path: str) -> bool:
    """Tell by its name whether a file is an ONNX model."""
    return path.endswith(".onnx")


def refuse_caffe_options(net: NetOptions, values: ValueOptions) -> None:
    """Raise InputError for an option that has no meaning for an ONNX model."""
    for value in (*net.caffe_only, *values.caffe_only):
        raise InputError(f"{value!r}: phases, weights files and fillers are for Caffe nets; an .onnx model has none")


def _refuse_dims(options: NetOptions) -> None:
    """Raise InputError for sizes by name, which a Caffe net has none of."""
    for name in options.dims:
        raise InputError(f"--dim {name}: only .onnx models have named dimensions; use --shape or --batch")


def refuse_model_options(net: NetOptions, run: RunOptions) -> None:
    """Raise InputError for options that a Caffe net has no use for: sizes by name, a loss, quantized values."""
    _refuse_dims(net)
    if run.loss is not None:
        raise InputError("--loss is for .onnx models; a Caffe net defines its own losses (loss_weight)")
    if run.straight_through:
        raise InputError("--ste is for quantized .onnx models")
