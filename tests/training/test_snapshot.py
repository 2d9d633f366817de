"""Solver states: what is written is read again, and a state of another solver or net is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat.errors import InputError
from caffestat.schema import SolverState
from caffestat.training.snapshot import State, read_state, write_state

HISTORY = [np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5, np.array([4, 7, 1, 9], np.float32)]
SHAPES = [array.shape for array in HISTORY]
ENDS = (".solverstate", ".solverstate.h5")


def written(folder: Path, end: str, history: list[np.ndarray] = HISTORY, model: str = "a/w.caffemodel") -> str:
    if end.endswith(".h5"):
        pytest.importorskip("h5py")
    path = str(folder / f"s{end}")
    write_state(path, State(1701, 3, model, history))
    return path


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("model", ["a/w.caffemodel", "", "größe.caffemodel"])
def test_what_is_written_is_read_again(tmp_path: Path, end: str, model: str) -> None:
    found = read_state(written(tmp_path, end, model=model), SHAPES)
    assert (found.iteration, found.current_step, found.model) == (1701, 3, model)
    for mine, expected in zip(found.history, HISTORY, strict=True):
        assert mine.dtype == np.float32 and mine.flags.writeable
        np.testing.assert_array_equal(mine, expected)


@pytest.mark.parametrize("end", ENDS)
def test_a_state_of_another_solver_or_net_is_refused(tmp_path: Path, end: str) -> None:
    path = written(tmp_path, end)
    with pytest.raises(InputError, match=r"holds 2 arrays of history; this solver and net keep 4: .* another solver"):
        read_state(path, SHAPES * 2)
    with pytest.raises(InputError, match=r"array 0 of the history has shape \(2, 3\); the net expects \(3, 2\)$"):
        read_state(path, [(3, 2), (4,)])
    with pytest.raises(InputError, match=r"array 1 of the history has shape \(4,\); the net expects \(5,\)$"):
        read_state(path, [(2, 3), (5,)])


def binary(folder: Path, *blobs: dict) -> str:
    path = folder / "s.solverstate"
    path.write_bytes(SolverState(iter=8, history=blobs).SerializeToString())
    return str(path)


def test_old_states_have_four_axes(tmp_path: Path) -> None:
    """Before blobs of any number of axes: num, channels, height and width. (blob.cpp, ShapeEquals)"""
    old = [
        {"num": 1, "channels": 1, "height": 2, "width": 3, "data": HISTORY[0].ravel()},
        {"num": 1, "channels": 1, "height": 1, "width": 4, "data": HISTORY[1]},
    ]
    found = read_state(binary(tmp_path, *old), SHAPES)
    assert (found.iteration, found.current_step, found.model) == (8, 0, "")
    for mine, expected in zip(found.history, HISTORY, strict=True):
        np.testing.assert_array_equal(mine, expected)


def test_states_of_caffe_in_double_precision(tmp_path: Path) -> None:
    (found,) = read_state(binary(tmp_path, {"shape": {"dim": [2]}, "double_data": [0.5, -3]}), [(2,)]).history
    assert (found.dtype, found.tolist()) == (np.float32, [0.5, -3])


def test_a_damaged_state(tmp_path: Path) -> None:
    path = binary(tmp_path, {"shape": {"dim": [2, 3]}, "data": [1] * 5})
    with pytest.raises(InputError, match=r"array 0 of the history holds 5 values for shape \(2, 3\): .* damaged"):
        read_state(path, [(2, 3)])


@pytest.mark.parametrize("end", ENDS)
def test_states_of_ssds_caffe_hold_the_lowest_loss(tmp_path: Path, end: str) -> None:
    """Its RestoreSolverStateFromHDF5 refuses files without it."""
    if end.endswith(".h5"):
        pytest.importorskip("h5py")
    path = str(tmp_path / f"s{end}")
    write_state(path, State(8, 3, "w.caffemodel", HISTORY, (0.25, 7)))
    assert read_state(path, SHAPES).plateau == (0.25, 7)
    assert read_state(written(tmp_path, end), SHAPES).plateau is None
