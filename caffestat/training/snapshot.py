"""Snapshots: the weights and the solver's state as files that Caffe and we read alike. (solver.cpp, sgd_solver.cpp)"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from caffestat.data.hdf5_file import member, read_array, reading, writing
from caffestat.errors import InputError
from caffestat.files import replace_file
from caffestat.net import Net
from caffestat.net.save import to_caffemodel, write_hdf5
from caffestat.schema import SolverState, caffe_pb2, read_binary
from caffestat.schema.binary import LARGEST
from caffestat.schema.blobs import blob_shape, set_shape, set_values
from caffestat.schema.forks import ssd_pb2

__all__ = ["State", "file_names", "read_state", "write_model", "write_state"]

Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class State:
    """A .solverstate.

    iteration     how many updates were made
    current_step  what `step` and `multistep` have reached
    model         the weights' file; "" when none is named
    history       float32 arrays: a set of one per learnable param, for some solvers a second set behind it
    plateau       of SSD's Caffe: the lowest loss, and the iteration when that or the step last changed
    """

    iteration: int
    current_step: int
    model: str
    history: list[np.ndarray]
    plateau: tuple[float, int] | None = None


def file_names(message: Any, prefix: str, iteration: int) -> tuple[str, str]:
    """Return the names of a snapshot's two files: weights and state."""
    end = ".h5" if message.snapshot_format == caffe_pb2.SolverParameter.HDF5 else ""
    return tuple(f"{prefix}_iter_{iteration}{kind}{end}" for kind in (".caffemodel", ".solverstate"))  # type: ignore[return-value]


def write_model(path: str, net: Net, values: Arrays, diffs: Arrays | None) -> None:
    """Write the weights, and `diffs` beside them where given; the file is replaced atomically.

    Raises InputError when it cannot be written, or holds more than protobuf takes.
    """
    if path.endswith(".h5"):
        write_hdf5(Path(path), net, values, net.nodes, diffs)
        return
    size = sum(values[number].nbytes for node in net.nodes for number in node.params) * (1 if diffs is None else 2)
    if size > LARGEST:
        raise InputError(
            f"{path}: the weights take {size} bytes, and a .caffemodel holds at most {LARGEST}, protobuf's limit; "
            "write `snapshot_format: HDF5` in the solver"
        )
    replace_file(path, to_caffemodel(net, values, diffs).SerializeToString())


def write_state(path: str, state: State) -> None:
    """Write a .solverstate; the file is replaced atomically. Raises InputError when it cannot be written."""
    if path.endswith(".h5"):
        _write_hdf5(path, state)
        return
    message = SolverState(iter=state.iteration, learned_net=state.model, current_step=state.current_step)
    for array in state.history:
        blob = message.history.add()
        set_shape(blob, array.shape)
        set_values(blob, array)
    replace_file(path, message.SerializeToString() + _own_fields(state))


def _own_fields(state: State) -> bytes:
    """Return what SSD's Caffe has in a state beside Caffe's own fields."""
    if not state.plateau:
        return b""
    least, event = state.plateau
    return bytes(ssd_pb2.SolverState(minimum_loss=least, iter_last_event=event).SerializeToString())


def _write_hdf5(path: str, state: State) -> None:
    with writing(path) as file:
        file.create_dataset("iter", data=np.array([state.iteration], np.int32))
        _write_string(file, "learned_net", state.model)
        file.create_dataset("current_step", data=np.array([state.current_step], np.int32))
        if state.plateau:
            file.create_dataset("minimum_loss", data=np.array(state.plateau[:1], np.float32))
            file.create_dataset("iter_last_event", data=np.array(state.plateau[1:], np.int32))
        history = file.create_group("history")
        for number, array in enumerate(state.history):
            history.create_dataset(str(number), data=np.asarray(array, np.float32))


def _write_string(file: Any, name: str, text: str) -> None:
    """Write a data set as H5LTmake_dataset_string does: a scalar of fixed length, with a final zero byte."""
    import h5py

    data = os.fsencode(text) + b"\0"
    kind = h5py.h5t.C_S1.copy()
    kind.set_size(len(data))
    kind.set_strpad(h5py.h5t.STR_NULLTERM)
    made = h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create(h5py.h5s.SCALAR))
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array(data, f"S{len(data)}"), mtype=kind)


def read_state(path: str, shapes: Sequence[tuple[int, ...]]) -> State:
    """Read a .solverstate whose history must have these shapes. Raises InputError when it cannot be read or differs."""
    state = _read_hdf5(path) if path.endswith(".h5") else _read_binary(path)
    if len(state.history) != len(shapes):
        raise InputError(
            f"{path}: holds {len(state.history)} arrays of history; this solver and net keep {len(shapes)}: it was "
            "written by another solver type or for another net"
        )
    for number, (array, shape) in enumerate(zip(state.history, shapes, strict=True)):
        if array.size != int(np.prod(shape)) or _trimmed(array.shape) != _trimmed(shape):
            raise InputError(f"{path}: array {number} of the history has shape {array.shape}; the net expects {shape}")
    history = [np.ascontiguousarray(a.reshape(s), np.float32) for a, s in zip(state.history, shapes, strict=True)]
    return replace(state, history=history)


def _trimmed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a shape without the axes of size 1 in front: old files have four axes."""
    return tuple(shape[next((i for i, size in enumerate(shape) if size != 1), len(shape)) :])


def _read_binary(path: str) -> State:
    message = read_binary(path, SolverState)
    history = []
    for number, blob in enumerate(message.history):
        values = np.array(blob.double_data if len(blob.double_data) else blob.data, np.float32)
        shape = blob_shape(blob)
        if values.size != int(np.prod(shape)):
            raise InputError(
                f"{path}: array {number} of the history holds {values.size} values for shape {shape}: "
                "the file is damaged"
            )
        history.append(values.reshape(shape))
    message.ClearField("history")  # the largest part
    own = ssd_pb2.SolverState.FromString(message.SerializeToString())
    seen = (own.minimum_loss, own.iter_last_event) if own.HasField("minimum_loss") else None
    return State(message.iter, message.current_step, message.learned_net, history, seen)


def _read_hdf5(path: str) -> State:
    with reading(
        path, lambda reason: InputError(f"{path}: cannot be used as an HDF5 solver state: it {reason}")
    ) as file:
        history = member(file, "history")
        arrays = [read_array(history, str(number)) for number in range(len(history))]
        iteration, step = (int(np.ravel(read_array(file, name, np.int64))[0]) for name in ("iter", "current_step"))
        return State(iteration, step, _read_string(file, "learned_net"), arrays, _read_plateau(file))


def _read_plateau(file: Any) -> tuple[float, int] | None:
    names = ("minimum_loss", "iter_last_event")
    if not all(name in file for name in names):
        return None
    least, event = (np.ravel(read_array(file, name, np.float64))[0] for name in names)
    return float(least), int(event)


def _read_string(file: Any, name: str) -> str:
    if name not in file:
        return ""
    text = member(file, name)[()]
    return os.fsdecode(text) if isinstance(text, bytes) else str(text)
