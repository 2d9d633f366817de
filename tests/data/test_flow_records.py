"""CustomData layers: slices of channels in several encodings, as FlowNet's records have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffestat.data import DataUnavailableError, open_reader
from caffestat.errors import NetError
from caffestat.schema import Datum

from .support import picture, started, write_lmdb

pytest.importorskip("lmdb")

HIGH, WIDE = 5, 7
STEPS = np.random.default_rng(4).integers(-900, 900, (3, 2, HIGH, WIDE)).astype("<i2")
MASKS = np.random.default_rng(5).integers(0, 2, (3, HIGH, WIDE)).astype(np.uint8)
SLICES = "slice_point: 3 slice_point: 5 encoding: UINT8 encoding: UINT16FLOW encoding: BOOL1"
TEXT = """type: "CustomData" top: "i" top: "f" top: "m" %s
  data_param { source: "db" backend: LMDB batch_size: 2 %s }"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    records = []
    for number, (steps, mask) in enumerate(zip(STEPS, MASKS, strict=True)):
        bits = np.packbits(mask.ravel(), bitorder="little")
        data = picture(number, 3, HIGH, WIDE).tobytes() + steps.tobytes() + bits.tobytes()
        datum = Datum(channels=6, height=HIGH, width=WIDE, data=data, label=number + 4)
        records.append((f"{number:08d}", datum.SerializeToString()))
    write_lmdb(tmp_path / "db", records)
    return tmp_path


def test_images_flow_and_masks(database: Path) -> None:
    reader = started(database, TEXT % ('top: "l"', SLICES)).reader
    assert reader.shapes == ((2, 3, HIGH, WIDE), (2, 2, HIGH, WIDE), (2, 1, HIGH, WIDE), (2, 1, 1, 1))
    images, flow, masks, labels = reader.next()
    np.testing.assert_array_equal(images, [picture(number, 3, HIGH, WIDE) for number in range(2)])
    np.testing.assert_array_equal(flow, STEPS[:2] / np.float32(32))
    np.testing.assert_array_equal(masks[:, 0], MASKS[:2])
    np.testing.assert_array_equal(labels.ravel(), [4, 5])
    np.testing.assert_array_equal(reader.next()[3].ravel(), [6, 4])


def test_unknown_flow_is_not_a_number_and_crops_are_central(database: Path) -> None:
    steps = STEPS.copy()
    steps[0, 1, 2, 3] = 32767
    data = picture(0, 3, HIGH, WIDE).tobytes() + steps[0].tobytes() + bytes(5)
    datum = Datum(channels=6, height=HIGH, width=WIDE, data=data)
    (database / "db/data.mdb").unlink()
    write_lmdb(database / "db", [("0", datum.SerializeToString())])
    images, flow, _ = started(
        database, TEXT % ("", SLICES) + "transform_param { crop_size: 3 scale: 0.5 }"
    ).reader.next()
    np.testing.assert_array_equal(images[0], picture(0, 3, HIGH, WIDE)[:, 1:4, 2:5] * np.float32(0.5))
    np.testing.assert_array_equal(np.isnan(flow[0]), steps[0, :, 1:4, 2:5] == 32767)


def test_a_range_of_records(database: Path) -> None:
    reader = started(database, TEXT % ('top: "l"', SLICES + " range_start: 1 range_end: 1")).reader
    np.testing.assert_array_equal(reader.next()[3].ravel(), [5, 5])


def test_floats_are_cut_into_slices_as_they_are(tmp_path: Path) -> None:
    values = np.random.default_rng(6).normal(size=(4, HIGH, WIDE)).astype(np.float32)
    datum = Datum(channels=4, height=HIGH, width=WIDE, float_data=values.ravel())
    write_lmdb(tmp_path / "db", [("0", datum.SerializeToString())])
    tops = started(tmp_path, TEXT % ("", "slice_point: 1 slice_point: 3")).reader.next()
    for top, expected in zip(tops, np.split(values, [1, 3]), strict=True):
        np.testing.assert_array_equal(top[1], expected)


def test_what_is_not_read_and_what_does_not_fit(database: Path) -> None:
    layer = started(database, TEXT % ("", SLICES + " rand_permute: true"), data="synthetic")
    with pytest.raises(DataUnavailableError, match="rand_permute of its records is not supported"):
        open_reader(layer)
    with pytest.raises(NetError, match="expected 3 tops, one for each slice"):
        started(database, TEXT % ('top: "l" top: "n"', SLICES))
    with pytest.raises(NetError, match="ends within slice 2"):
        started(database, TEXT % ("", SLICES.replace("5", "4").replace("BOOL1", "UINT16FLOW") + " encoding: UINT8"))
    with pytest.raises(NetError, match="6 channels, for slices up to"):
        started(database, TEXT % ("", SLICES.replace("slice_point: 5", "slice_point: 9")))
