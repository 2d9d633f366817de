"""Arrays that stay on a device between runs, and what the host knows of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from caffestat.graph import Graph, Spec

from .device import Device
from .runtime import onnxruntime, open_session, runtime_errors, session_options

__all__ = ["Memory", "Resident", "View", "as_array", "fed", "pack", "specs_of"]

_ALIGNED = 64  # elements: every array begins at a multiple of 256 bytes, as the device's own allocations do


class Memory:
    """Float32 numbers in one piece of a device's memory, which on the CPU is the array that it begins with."""

    def __init__(self, numbers: np.ndarray, device: Device) -> None:
        self.device = device
        self.size = numbers.size
        self._value = _put(numbers, device)

    @property
    def pointer(self) -> int:
        """The address on the device."""
        return int(self._value.data_ptr())

    def view(self, start: int, shape: tuple[int, ...]) -> View:
        """Return a part of the numbers as an array."""
        binding = _any_session().io_binding()  # it makes values of addresses, which takes no run
        address = self.pointer + 4 * start
        binding.bind_output("y", self.device.kind, self.device.index, np.float32, shape, address)
        return View(self, start, shape, binding.get_outputs()[0])


@cache
def _any_session() -> Any:
    graph = Graph()
    graph.outputs.append(graph.emit("Identity", graph.input("x", (1,)), hint="y"))
    with runtime_errors():
        return open_session(graph.to_onnx(), session_options())


@dataclass(frozen=True)
class View:
    """An array that is a part of a device's memory: runs read it and write to it in place.

    value: as the runtime takes it; it is good as long as the memory is held
    """

    memory: Memory
    start: int
    shape: tuple[int, ...]
    value: Any

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    def shaped(self, shape: tuple[int, ...]) -> View:
        """Return the same elements in another shape."""
        return self if shape == self.shape else self.memory.view(self.start, shape)

    def numpy(self) -> np.ndarray:
        """Return a copy of the elements on the host."""
        with runtime_errors():
            found = self.value.numpy()
        return np.array(found) if self.memory.device.kind == "cpu" else np.asarray(found)

    def write(self, array: np.ndarray) -> None:
        """Overwrite the elements."""
        with runtime_errors():
            self.value.update_inplace(np.ascontiguousarray(array, np.float32).reshape(self.shape))


def pack(arrays: Sequence[np.ndarray], device: Device) -> list[View]:
    """Return arrays that lie side by side in one piece of a device's memory, zeros between them."""
    starts = np.cumsum([0, *(array.size + -array.size % _ALIGNED for array in arrays)]).tolist()
    numbers = np.zeros(max(starts[-1], _ALIGNED), np.float32)
    for start, array in zip(starts, arrays, strict=False):
        numbers[start : start + array.size] = array.reshape(-1)
    memory = Memory(numbers, device)
    return [memory.view(start, array.shape) for start, array in zip(starts, arrays, strict=False)]


def as_array(value: Any) -> np.ndarray:
    """Return an array, a view or a value of the runtime as an array on the host."""
    return value if isinstance(value, np.ndarray) else np.asarray(value.numpy())


def fed(arrays: Sequence[np.ndarray], number: int) -> Any:
    """Return one of some arrays as runs take it: resident ones without a copy."""
    return arrays.fed(number) if isinstance(arrays, Resident) else arrays[number]


def specs_of(arrays: Sequence[np.ndarray]) -> list[Spec]:
    """Return the shapes and types of arrays; resident ones are not read."""
    return arrays.specs if isinstance(arrays, Resident) else [Spec(array.shape, array.dtype) for array in arrays]


def _put(array: np.ndarray, device: Device) -> Any:
    with runtime_errors():
        return onnxruntime().OrtValue.ortvalue_from_numpy(np.asarray(array, order="C"), device.kind, device.index)


def _identity(array: np.ndarray) -> tuple[int, int]:
    """Return what tells arrays of different memory apart; one without elements has none."""
    return (array.ctypes.data, array.size) if array.size else (id(array), 0)


@dataclass
class _Cell:
    """Where an array is: on the host, as a value of the runtime, or in a view."""

    value: Any


class Resident(Sequence[np.ndarray]):
    """Arrays that runs on a device read and replace, by number. Reading one copies it to the host as it is now.

    Arrays of the same memory are one array in several shapes; the first is what is fed. What is read is a copy that
    cannot be written to: `place` replaces it.
    """

    def __init__(self, arrays: Sequence[np.ndarray], device: Device) -> None:
        cells: dict[Any, _Cell] = {}
        self._cells = [cells.setdefault(_identity(array), _Cell(array)) for array in arrays]
        self.specs = specs_of(arrays)
        self._device = device

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, number: Any) -> Any:
        value = self._cells[number].value
        found = as_array(value).reshape(self.specs[number].shape)
        found = found if isinstance(value, View) else found.copy()
        found.setflags(write=False)
        return found

    def fed(self, number: int) -> Any:
        """Return the array as runs take it; it is copied to the device when that happens first."""
        cell = self._cells[number]
        if isinstance(cell.value, np.ndarray):
            cell.value = _put(cell.value, self._device)
        return cell.value

    def place(self, number: int, value: Any) -> None:
        """Let a view, or what a run kept on the device, be the array from now on."""
        self._cells[number].value = value

    def share(self, number: int, other: Resident, source: int) -> None:
        """Let an array be the same one as that of other arrays."""
        self._cells[number] = other._cells[source]
