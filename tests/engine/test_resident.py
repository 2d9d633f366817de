"""Arrays that stay on a device: how they lie there, what runs do to them, what is read of them."""

from __future__ import annotations

import os

import numpy as np
import pytest

from caffestat.engine import Compiled, Device, choose_device
from caffestat.engine.resident import Resident, as_array, fed, pack, specs_of
from caffestat.graph import Graph


@pytest.fixture(scope="module")
def device() -> Device:
    return choose_device(os.environ.get("CAFFESTAT_TEST_DEVICE", "cpu"))[0]


def arrays(*shapes: tuple[int, ...]) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def doubled(device: Device, shape: tuple[int, ...]) -> Compiled:
    """y = 2 x."""
    g = Graph()
    g.outputs = [g.emit("Mul", g.input("x", shape), g.constant(2), hint="y")]
    return Compiled(g, device)


def test_packed_arrays_lie_side_by_side_with_zeros_between_them(device: Device) -> None:
    given = arrays((3, 5), (65,), (2, 1, 4))
    views = pack(given, device)
    assert [view.start for view in views] == [0, 64, 192]
    whole = views[0].memory.view(0, (views[0].memory.size,)).numpy()
    assert whole.shape == (256,)
    assert np.count_nonzero(whole) == 15 + 65 + 8
    for view, array in zip(views, given, strict=True):
        np.testing.assert_array_equal(view.numpy(), array)
        np.testing.assert_array_equal(whole[view.start : view.start + view.size], array.ravel())


def test_a_run_reads_and_writes_views_in_place(device: Device) -> None:
    given = arrays((3, 5), (7,))
    first, second = pack(given, device)
    before = first.numpy()
    found = doubled(device, (3, 5)).run({"x": first}, into={"y": first})
    assert found["y"] is first
    np.testing.assert_array_equal(first.numpy(), 2 * given[0])
    np.testing.assert_array_equal(before, given[0])  # what was read is a copy
    np.testing.assert_array_equal(second.numpy(), given[1])


def test_a_view_in_another_shape_is_the_same_elements(device: Device) -> None:
    (view,) = pack(arrays((3, 5)), device)
    doubled(device, (15,)).run({"x": view.shaped((15,))}, into={"y": view.shaped((15,))})
    np.testing.assert_array_equal(view.numpy(), 2 * arrays((3, 5))[0])
    view.shaped((5, 3)).write(np.arange(15).reshape(5, 3))
    np.testing.assert_array_equal(view.numpy().ravel(), np.arange(15))


def test_arrays_of_the_same_memory_are_one_array_in_several_shapes(device: Device) -> None:
    owner, other = arrays((3, 4), (6,))
    resident = Resident([owner, other, owner.reshape(12)], device)
    resident.place(0, pack([2 * owner], device)[0])
    np.testing.assert_array_equal(resident[2], 2 * owner.ravel())
    np.testing.assert_array_equal(resident[1], other)
    assert [spec.shape for spec in specs_of(resident)] == [(3, 4), (6,), (12,)]


def test_shared_arrays_follow_what_is_placed(device: Device) -> None:
    first, second = (Resident(arrays((3,), (4,)), device) for _ in range(2))
    second.share(1, first, 1)
    first.place(1, np.arange(4, dtype=np.float32))
    np.testing.assert_array_equal(second[1], np.arange(4))
    np.testing.assert_array_equal(second[0], arrays((3,))[0])


def test_what_a_run_keeps_is_fed_again_and_read_as_a_copy(device: Device) -> None:
    (given,) = arrays((3, 5))
    resident = Resident([given], device)
    compiled = doubled(device, (3, 5))
    read = resident[0]
    for _ in range(2):
        resident.place(0, compiled.run({"x": fed(resident, 0)}, keep=["y"])["y"])
    np.testing.assert_array_equal(resident[0], 4 * given)
    np.testing.assert_array_equal(read, given)
    assert fed(resident, 0) is fed(resident, 0)
    with pytest.raises(ValueError, match="read-only"):
        resident[0][0, 0] = 1
    assert as_array(given) is given
    assert fed([given], 0) is given
