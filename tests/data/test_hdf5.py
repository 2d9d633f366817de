"""HDF5Data layers: rows over several files, shuffled by the C library's rand, and damage."""

from __future__ import annotations

import errno
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from caffestat.data import DataUnavailableError, open_reader
from caffestat.data.hdf5_file import writing
from caffestat.errors import InputError, NetError
from caffestat.fillers import CRandom

from .support import make, opened

h5py = pytest.importorskip("h5py")


def write(path: Path, **columns: object) -> None:
    with h5py.File(path, "w") as file:
        for name, values in columns.items():
            file[name] = values


def rows(start: int, count: int) -> np.ndarray:
    """Return rows (count, 2, 3), each full of its own number."""
    return np.full((count, 2, 3), 0.5) + np.arange(start, start + count).reshape(-1, 1, 1)


def hdf5_layer(folder: Path, batch: int = 2, settings: str = "", tops: str = 'top: "x" top: "y"'):
    param = f'hdf5_data_param {{ source: "list" batch_size: {batch} {settings} }}'
    return make(f'type: "HDF5Data" {tops} {param}', folder)


@pytest.fixture
def two_files(tmp_path: Path) -> Path:
    write(tmp_path / "b.h5", x=rows(0, 3), y=np.arange(3))
    write(tmp_path / "a.h5", x=rows(3, 4), y=np.arange(3, 7))
    (tmp_path / "list").write_text("b.h5\n\na.h5\n")
    return tmp_path


def take(reader, batches: int) -> list[int]:
    """Return the numbers of the rows of the next batches, the tops' rows being in step."""
    numbers = []
    for _ in range(batches):
        x, y = reader.next()
        np.testing.assert_array_equal(x, np.full((len(y), 2, 3), 0.5) + y.reshape(-1, 1, 1))
        numbers += [int(n) for n in y]
    return numbers


def test_rows_of_the_files_in_their_order_and_again(two_files):
    reader = opened(hdf5_layer(two_files))
    assert reader.shapes == ((2, 2, 3), (2,))
    assert take(reader, 8) == [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 0, 1]
    assert all(top.dtype == np.float32 for top in reader.next())


def test_files_that_this_process_has_open(two_files):
    with h5py.File(two_files / "b.h5"), h5py.File(two_files / "a.h5", locking=False):
        assert take(opened(hdf5_layer(two_files)), 4) == [0, 1, 2, 3, 4, 5, 6, 0]


def test_one_file_again_and_again(tmp_path):
    write(tmp_path / "a.h5", x=rows(0, 3), y=np.arange(3))
    (tmp_path / "list").write_text("a.h5")
    assert take(opened(hdf5_layer(tmp_path, 4)), 2) == [0, 1, 2, 0, 1, 2, 0, 1]


def shuffled(items: list[int], random: CRandom) -> None:
    items[:] = random.shuffled(items)


def test_shuffled_files_and_rows_by_the_c_library(two_files):
    random, files, expected = CRandom(), [0, 1], []
    shuffled(files, random)
    for number in range(6):
        if number and number % 2 == 0:
            shuffled(files, random)
        row_numbers = list(range((3, 4)[files[number % 2]]))
        shuffled(row_numbers, random)
        if number:  # behind a file's last row Caffe shuffles once more what it has just shuffled at loading
            shuffled(row_numbers, random)
        expected += [row + 3 * files[number % 2] for row in row_numbers]
    assert take(opened(hdf5_layer(two_files, 3, "shuffle: true")), 7) == expected[:21]
    assert expected[:7] != sorted(expected[:7])


def test_shapes_with_another_batch(two_files):
    layer = hdf5_layer(two_files)
    layer.batch_override = 5
    assert opened(layer).next()[0].shape == (5, 2, 3)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"x": rows(0, 3)}, "has no data set 'y'; it has x"),
        ({"x": rows(0, 3), "y": np.arange(2)}, r"has \[2, 3\] rows in its data sets"),
        ({"x": rows(0, 0), "y": np.arange(0)}, r"has \[0\] rows"),
        ({"x": rows(0, 3), "y": np.array([b"a", b"b", b"c"])}, "has in data set 'y' type .* expected rows of numbers"),
        ({"x": rows(0, 3), "y": 1.0}, r"has in data set 'y' type float64 and shape \(\)"),
    ],
)
def test_files_that_do_not_fit(columns, message, tmp_path):
    write(tmp_path / "a.h5", **columns)
    (tmp_path / "list").write_text("a.h5")
    with pytest.raises(NetError, match=f"net.prototxt:7: layer 'd' .*'.*a.h5' {message}"):
        open_reader(hdf5_layer(tmp_path))


def test_a_later_file_of_other_rows(two_files):
    write(two_files / "a.h5", x=np.zeros((4, 3, 2)), y=np.arange(4))
    reader = opened(hdf5_layer(two_files))
    reader.next()
    with pytest.raises(NetError, match=r"a.h5' has rows of other shapes than the first file"):
        reader.next()


def test_what_is_no_hdf5_file(tmp_path):
    (tmp_path / "a.h5").write_text("rows")
    (tmp_path / "list").write_text("a.h5")
    with pytest.raises(NetError, match=r"a.h5' cannot be read"):
        open_reader(hdf5_layer(tmp_path))


def test_missing_lists_and_files(tmp_path):
    with pytest.raises(DataUnavailableError, match=r"file not found: 'list'"):
        open_reader(hdf5_layer(tmp_path))
    (tmp_path / "list").write_text("a.h5")
    with pytest.raises(DataUnavailableError, match=r"file not found: 'a.h5'"):
        open_reader(hdf5_layer(tmp_path))
    (tmp_path / "list").write_text("\n")
    with pytest.raises(NetError, match=r"list: lists nothing"):
        open_reader(hdf5_layer(tmp_path))


def test_without_h5py_the_output_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    path = tmp_path / "a.h5"
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: writing HDF5 needs h5py"), writing(path):
        pass


def test_a_full_disk_is_told_of_in_a_few_words(tmp_path: Path) -> None:
    long = OSError(errno.ENOSPC, "Can't synchronously write data (file write failed: time = now, …)")
    found = pytest.raises(InputError, match=r"a\.h5: cannot be written: No space left on device$")
    with found, writing(tmp_path / "a.h5"):
        raise long
