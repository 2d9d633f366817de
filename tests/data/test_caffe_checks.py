"""What Caffe refuses of data layers and of the transformer: the CHECKs of their sources, one by one.

Source: BVLC (commit 9b89154); the file that decides is named with each case.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from caffestat.errors import CaffestatError
from caffestat.schema import Datum

from .support import datum, encoded, picture, started, write_lmdb, write_mean

REFUSED, TAKEN = "refused", "taken"


@dataclass(frozen=True)
class Case:
    """A layer over the files of `files`: images and records are (3, 6, 5), but for those of `gray` (1, 6, 5)."""

    source: str
    text: str
    verdict: str

    def __str__(self) -> str:
        return self.text.replace(" ", "")


def images(transform: str = "", more: str = "", listed: str = "list", batch: int = 2) -> str:
    return (
        f'type: "ImageData" top: "x" top: "y" transform_param {{ {transform} }} '
        f'image_data_param {{ source: "{listed}" batch_size: {batch} {more} }}'
    )


def records(transform: str = "", database: str = "db", batch: int = 2) -> str:
    return (
        f'type: "Data" top: "x" top: "y" transform_param {{ {transform} }} '
        f'data_param {{ source: "{database}" backend: LMDB batch_size: {batch} }}'
    )


def windows(transform: str = "crop_size: 4", listed: str = "windows", more: str = "") -> str:
    return (
        f'type: "WindowData" top: "x" top: "y" transform_param {{ {transform} }} '
        f'window_data_param {{ source: "{listed}" batch_size: 4 {more} }}'
    )


def rows(listed: str, tops: str = "x y", more: str = "") -> str:
    names = "".join(f' top: "{top}"' for top in tops.split())
    return f'type: "HDF5Data"{names} hdf5_data_param {{ source: "{listed}" batch_size: 2 }} {more}'


TRANSFORMER = "data_transformer.cpp"
BOTH = 'mean_file: "mean" mean_value: 1'
CASES = [
    *(
        Case(TRANSFORMER, layer(transform), verdict)
        for layer in (images, records)
        for transform, verdict in [
            ("", TAKEN),
            ("crop_size: 5", TAKEN),
            ("crop_size: 6", REFUSED),  # wider than the image
            ("crop_size: 7", REFUSED),
            ("mean_value: 9", TAKEN),
            ("mean_value: 1 mean_value: 2", REFUSED),
            ("mean_value: 1 mean_value: 2 mean_value: 3", TAKEN),
            ("mean_value: 1 mean_value: 2 mean_value: 3 mean_value: 4", REFUSED),
            ('mean_file: "mean"', TAKEN),
            ('mean_file: "mean" crop_size: 4', TAKEN),  # it is cut with the image
            ('mean_file: "gray_mean"', REFUSED),
            ('mean_file: "low_mean"', REFUSED),
            ('mean_file: "wide_mean"', REFUSED),
            (BOTH, REFUSED),
            ('mean_file: "" mean_value: 1', REFUSED),  # it is there, though empty
            ('mean_file: "nowhere"', REFUSED),
            ('mean_file: "list"', REFUSED),
            ("force_color: true force_gray: true", TAKEN),  # which encoded records alone look at
        ]
    ),
    Case(TRANSFORMER, records("force_color: true", "encoded"), TAKEN),
    Case(TRANSFORMER, records("force_gray: true", "encoded"), TAKEN),
    Case(TRANSFORMER, records("force_color: true force_gray: true", "encoded"), REFUSED),
    Case(TRANSFORMER, records("mean_value: 1 mean_value: 2", "gray"), REFUSED),
    Case(TRANSFORMER, records('mean_file: "mean"', "gray"), REFUSED),
    Case(TRANSFORMER, records("", "mixed"), REFUSED),  # sizes that differ
    Case(TRANSFORMER, records("crop_size: 4", "mixed"), TAKEN),
    Case(TRANSFORMER, records("", "flat"), REFUSED),  # without channels
    Case("data_layer.cpp", records(batch=0), REFUSED),
    Case("db_lmdb.cpp", records(database="list"), REFUSED),
    Case("db_lmdb.cpp", records(database="nowhere"), REFUSED),
    Case("image_data_layer.cpp", images(batch=0), REFUSED),
    Case("image_data_layer.cpp", images(more="new_height: 4"), REFUSED),
    Case("image_data_layer.cpp", images(more="new_width: 4"), REFUSED),
    Case("image_data_layer.cpp", images(more="new_height: 4 new_width: 3"), TAKEN),
    Case("image_data_layer.cpp", images("crop_size: 4", "new_height: 4 new_width: 3"), REFUSED),
    Case("image_data_layer.cpp", images(listed="empty"), REFUSED),
    Case("image_data_layer.cpp", images(listed="nowhere"), REFUSED),
    Case("image_data_layer.cpp", images(listed="lost"), REFUSED),
    Case("image_data_layer.cpp", images(more="rand_skip: 1"), TAKEN),
    Case("window_data_layer.cpp", windows(), TAKEN),
    Case("window_data_layer.cpp", windows(""), REFUSED),  # no crop_size
    Case("window_data_layer.cpp", windows(f"crop_size: 4 {BOTH}"), REFUSED),
    Case("window_data_layer.cpp", windows("crop_size: 4 mean_value: 1 mean_value: 2"), REFUSED),
    Case("window_data_layer.cpp", windows("crop_size: 4 mean_value: 1"), TAKEN),
    Case("window_data_layer.cpp", windows(listed="empty"), REFUSED),
    Case("window_data_layer.cpp", windows(listed="list"), REFUSED),  # no "#" at its beginning
    Case("window_data_layer.cpp", windows(listed="labelled_zero"), REFUSED),
    Case("window_data_layer.cpp", windows(listed="foreground"), REFUSED),  # without a window of the background
    Case("hdf5_data_layer.cpp", rows("rows"), TAKEN),
    Case("hdf5_data_layer.cpp", rows("rows", more="transform_param { }"), REFUSED),
    Case("hdf5_data_layer.cpp", rows("rows", "x z"), REFUSED),  # of other numbers of rows
    Case("hdf5_data_layer.cpp", rows("rows", "scalar"), REFUSED),
    Case("hdf5_data_layer.cpp", rows("empty"), REFUSED),
    Case("hdf5_data_layer.cpp", rows("nowhere"), REFUSED),
    Case("hdf5_data_layer.cpp", rows("list"), REFUSED),  # of files that are no HDF5
    Case("hdf5.cpp", rows("rows", "nothing"), REFUSED),
    Case("hdf5.cpp", rows("rows", "text"), REFUSED),
    Case("hdf5.cpp", rows("rows", "whole"), TAKEN),  # integers
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    h5py = pytest.importorskip("h5py")
    folder = tmp_path_factory.mktemp("checks")
    pictures = [picture(n, 3, 6, 5) for n in range(3)]
    for n, one in enumerate(pictures):
        (folder / f"{n}.png").write_bytes(encoded(one))
    for name, shape in {
        "mean": (3, 6, 5),
        "gray_mean": (1, 6, 5),
        "low_mean": (3, 5, 5),
        "wide_mean": (3, 6, 6),
    }.items():
        write_mean(folder / name, np.ones((1, *shape), np.float32))
    gray, other = picture(4, 1, 6, 5), picture(5, 3, 7, 5)
    databases = {
        "db": [datum(one, 1) for one in pictures],
        "gray": [datum(gray, 1)],
        "mixed": [datum(pictures[0], 1), datum(other, 1)],
        "flat": [Datum(channels=0, height=6, width=5, data=b"")],
        "encoded": [Datum(encoded=True, data=encoded(one), label=1) for one in pictures],
    }
    for name, messages in databases.items():
        write_lmdb(folder / name, [(f"{n:08}", message.SerializeToString()) for n, message in enumerate(messages)])
    window = "# {}\n0.png\n3\n6\n5\n{}\n"
    texts = {
        "list": "0.png 1\n1.png 0\n2.png 1\n",
        "empty": "",
        "lost": "lost.png 1\n",
        "windows": window.format(0, "2\n1 0.9 0 0 3 4\n0 0.1 1 1 4 5"),
        "labelled_zero": window.format(0, "2\n0 0.9 0 0 3 4\n0 0.1 1 1 4 5"),
        "foreground": window.format(0, "1\n1 0.9 0 0 3 4"),
        "rows": "a.h5\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    with h5py.File(folder / "a.h5", "w") as file:
        file["x"], file["y"], file["z"] = np.zeros((4, 3)), np.zeros(4), np.zeros((5, 3))
        file["whole"], file["scalar"], file["text"] = np.arange(8).reshape(4, 2), 3.0, [b"a", b"b", b"c", b"d"]
    return folder


@pytest.mark.parametrize("case", CASES, ids=str)
def test_with_the_data(case: Case, files: Path) -> None:
    try:
        layer = started(files, case.text)
        assert layer.reader is not None
        layer.reader.next()
        verdict = TAKEN
    except CaffestatError:
        verdict = REFUSED
    assert verdict == case.verdict, case.source


@pytest.mark.parametrize(
    "text",
    [
        images(BOTH, listed="nowhere"),
        records(f"crop_size: 4 {BOTH}", "nowhere"),
        windows(f"crop_size: 4 {BOTH}", "nowhere"),
        f'type: "MemoryData" top: "x" top: "y" transform_param {{ {BOTH} }} '
        "memory_data_param { batch_size: 2 channels: 3 height: 6 width: 5 }",
        images("", "new_height: 4", "nowhere"),
        windows("", "nowhere"),
        rows("nowhere", more="transform_param { }"),
    ],
)
def test_without_it(text: str, tmp_path: Path) -> None:
    with pytest.raises(CaffestatError):
        started(tmp_path, text, data="auto")
