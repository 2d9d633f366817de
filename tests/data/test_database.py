"""Data layers: records by key, around the end, encoded and float ones, and damage."""

from __future__ import annotations

import numpy as np
import pytest

from caffestat.data import DataUnavailableError, open_reader
from caffestat.errors import NetError
from caffestat.schema import Datum

from .support import datum, encoded, make, opened, picture, write_lmdb

pytest.importorskip("lmdb")


def data_layer(folder, settings="batch_size: 2", transform="", tops=("data", "label")):
    names = " ".join(f'top: "{top}"' for top in tops)
    param = f'data_param {{ source: "db" backend: LMDB {settings} }}'
    return make(f'type: "Data" {names} {param} transform_param {{ {transform} }}', folder)


def test_records_come_by_key_and_begin_again_behind_the_last(tmp_path):
    write_lmdb(tmp_path / "db", [(key, datum(picture(ord(key)), ord(key)).SerializeToString()) for key in "cab"])
    reader = opened(data_layer(tmp_path))
    assert reader.shapes == ((2, 3, 5, 7), (2,))
    labels = []
    for _ in range(3):
        data, label = reader.next()
        labels += label.tolist()
        for image, key in zip(data, label, strict=True):
            np.testing.assert_array_equal(image, picture(int(key)))
    assert "".join(chr(int(label)) for label in labels) == "abcabc"


def test_one_batch_may_hold_the_records_more_than_once(tmp_path):
    write_lmdb(tmp_path / "db", [(key, datum(picture(1), ord(key)).SerializeToString()) for key in "ab"])
    _, labels = opened(data_layer(tmp_path, "batch_size: 5")).next()
    assert "".join(chr(int(label)) for label in labels) == "ababa"


def test_a_new_set_up_begins_at_the_first_record(tmp_path):
    write_lmdb(tmp_path / "db", [(key, datum(picture(1), ord(key)).SerializeToString()) for key in "abc"])
    layer = data_layer(tmp_path)
    opened(layer).next()
    reader = opened(layer)
    assert reader.next()[1].tolist() == [ord("a"), ord("b")]


def test_without_a_label_top(tmp_path):
    write_lmdb(tmp_path / "db", [("a", datum(picture(1), 3).SerializeToString())])
    reader = opened(data_layer(tmp_path, tops=("data",)))
    assert reader.shapes == ((2, 3, 5, 7),)
    assert len(reader.next()) == 1


def test_the_batch_may_be_overridden(tmp_path):
    write_lmdb(tmp_path / "db", [("a", datum(picture(1), 3).SerializeToString())])
    layer = data_layer(tmp_path)
    layer.batch_override = 4
    assert opened(layer).next()[0].shape == (4, 3, 5, 7)


def test_floats(tmp_path):
    image = np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)
    write_lmdb(tmp_path / "db", [("a", datum(image, 3).SerializeToString())])
    data, labels = opened(data_layer(tmp_path, transform="scale: 2")).next()
    np.testing.assert_array_equal(data, np.stack([2 * image] * 2))
    assert labels.tolist() == [3, 3]


@pytest.mark.parametrize(("transform", "channels"), [("", 3), ("force_gray: true", 1), ("force_color: true", 3)])
def test_encoded_images(transform, channels, tmp_path):
    pytest.importorskip("PIL")
    record = Datum(data=encoded(picture(1)), encoded=True, label=3)
    write_lmdb(tmp_path / "db", [("a", record.SerializeToString())])
    reader = opened(data_layer(tmp_path, transform=transform))
    assert reader.shapes[0] == (2, channels, 5, 7)
    if channels == 3:
        np.testing.assert_array_equal(reader.next()[0][0], picture(1))


def test_two_layers_read_one_database_and_leave_nothing_behind(tmp_path):
    write_lmdb(tmp_path / "db", [(key, datum(picture(1), ord(key)).SerializeToString()) for key in "abc"])
    first, second = opened(data_layer(tmp_path)), opened(data_layer(tmp_path, "batch_size: 1"))
    assert first.next()[1].tolist() == [ord("a"), ord("b")]
    assert second.next()[1].tolist() == [ord("a")]
    assert first.next()[1].tolist() == [ord("c"), ord("a")]
    assert [path.name for path in (tmp_path / "db").iterdir()] == ["data.mdb"]


def test_a_leveldb_is_not_read(tmp_path):
    (tmp_path / "db").mkdir()
    layer = make('type: "Data" top: "data" data_param { source: "db" batch_size: 2 }', tmp_path)
    with pytest.raises(DataUnavailableError, match="is a LevelDB by its backend field"):
        open_reader(layer)


def test_a_database_that_is_not_there(tmp_path):
    with pytest.raises(DataUnavailableError, match=r"file not found: 'db' \(searched: the working directory, "):
        open_reader(data_layer(tmp_path))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (b"\xff\xff", "holds a record that is not a Datum message"),
        (Datum(channels=2, height=3, width=4, data=b"12345").SerializeToString(), r"5 values for shape \(2, 3, 4\)"),
        (Datum(channels=2, height=3, width=4).SerializeToString(), r"0 values for shape \(2, 3, 4\)"),
    ],
)
def test_records_that_are_no_images(record, message, tmp_path):
    write_lmdb(tmp_path / "db", [("a", record)])
    with pytest.raises(NetError, match=f"net.prototxt:7: layer 'd' .*{message}"):
        open_reader(data_layer(tmp_path))


def test_images_of_several_sizes_need_a_crop(tmp_path):
    images = [picture(1, 3, 5, 7), picture(2, 3, 6, 7)]
    write_lmdb(tmp_path / "db", [(str(n), datum(image, n).SerializeToString()) for n, image in enumerate(images)])
    with pytest.raises(NetError, match=r"holds an image of shape \(3, 6, 7\); the first one has \(3, 5, 7\)"):
        opened(data_layer(tmp_path)).next()
    assert opened(data_layer(tmp_path, transform="crop_size: 4")).next()[0].shape == (2, 3, 4, 4)


def test_an_empty_database_and_a_damaged_one(tmp_path):
    write_lmdb(tmp_path / "db", [])
    with pytest.raises(NetError, match="holds no records"):
        open_reader(data_layer(tmp_path))
    (tmp_path / "db" / "data.mdb").write_bytes(b"x" * 8192)
    with pytest.raises(NetError, match="cannot be read"):
        open_reader(data_layer(tmp_path))


def test_one_at_a_time_records_keep_their_sizes(tmp_path):
    sizes = {"a": (5, 7), "b": (6, 4)}
    records = [(key, datum(picture(1, 3, *size), 1).SerializeToString()) for key, size in sizes.items()]
    write_lmdb(tmp_path / "db", records)
    text = 'type: "Data" top: "d" data_param { source: "db" batch_size: 1 backend: LMDB }'
    reader = opened(make(text, tmp_path))
    assert [reader.next()[0].shape for _ in range(3)] == [(1, 3, 5, 7), (1, 3, 6, 4), (1, 3, 5, 7)]
