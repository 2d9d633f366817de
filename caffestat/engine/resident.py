"""Arrays that stay on a device between runs, and what the host knows of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .device import Device
from .runtime import onnxruntime, runtime_errors

__all__ = ["Memory", "Resident", "View", "as_array", "pack"]

_ALIGNED = 64  # elements: every array begins at a multiple of 256 bytes, as the device's own allocations do


class Memory:
    """Float32 numbers in one piece of a device's memory, and a copy on the host that is never older than they are."""

    def __init__(self, numbers: np.ndarray, device: Device) -> None:
        self.device = device
        self.size = numbers.size
        self._value = _put(np.array(numbers, np.float32), device)  # a copy: on the CPU the value is the array itself
        self._host: np.ndarray | None = None

    @property
    def pointer(self) -> int:
        """The address on the device."""
        return int(self._value.data_ptr())

    @property
    def whole(self) -> View:
        """All of the numbers."""
        return View(self, 0, (self.size,))

    def host(self) -> np.ndarray:
        """Return the numbers as they are now, in an array that cannot be written to."""
        if self._host is None:
            with runtime_errors():
                found = self._value.numpy()
            self._host = found.copy() if self.device.kind == "cpu" else found
            self._host.setflags(write=False)
        return self._host

    def written(self) -> None:
        """Note that a run has written to the memory."""
        self._host = None

    def clear(self, views: Iterable[View]) -> None:
        """Set some of the numbers to zero."""
        numbers = self.host().copy()
        for view in views:
            numbers[view.start : view.start + view.size] = 0
        with runtime_errors():
            self._value.update_inplace(numbers)
        self.written()


@dataclass(frozen=True)
class View:
    """An array that is a part of a device's memory: runs read it and write to it in place."""

    memory: Memory
    start: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @property
    def pointer(self) -> int:
        """The address of its first element on the device."""
        return self.memory.pointer + 4 * self.start

    def shaped(self, shape: tuple[int, ...]) -> View:
        """Return the same elements in another shape."""
        return replace(self, shape=shape)

    def numpy(self) -> np.ndarray:
        """Return the elements as they are now, in an array that cannot be written to."""
        return self.memory.host()[self.start : self.start + self.size].reshape(self.shape)


def pack(arrays: Sequence[np.ndarray], device: Device) -> list[View]:
    """Return arrays that lie side by side in one piece of a device's memory, zeros between them."""
    starts = np.cumsum([0, *(array.size + -array.size % _ALIGNED for array in arrays)]).tolist()
    numbers = np.zeros(max(starts[-1], _ALIGNED), np.float32)
    for start, array in zip(starts, arrays, strict=False):
        numbers[start : start + array.size] = array.reshape(-1)
    memory = Memory(numbers, device)
    return [View(memory, start, array.shape) for start, array in zip(starts, arrays, strict=False)]


def as_array(value: Any) -> np.ndarray:
    """Return an array, a view or a value of the runtime as an array on the host."""
    return value if isinstance(value, np.ndarray) else np.asarray(value.numpy())


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

    Arrays of the same memory are one array in several shapes; the first is what is fed. What is read cannot be written
    to: `place` replaces it.
    """

    def __init__(self, arrays: Sequence[np.ndarray], device: Device) -> None:
        cells: dict[Any, _Cell] = {}
        self._cells = [cells.setdefault(_identity(array), _Cell(array)) for array in arrays]
        self._shapes = [array.shape for array in arrays]
        self._device = device

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, number: Any) -> Any:
        found = as_array(self._cells[number].value).reshape(self._shapes[number]).view()
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
