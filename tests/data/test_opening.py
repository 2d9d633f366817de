"""Real data in nets: where it is looked for, what happens without it, and that a net is built to its shapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffestat import net
from caffestat.analysis import measure
from caffestat.data import opening, reader
from caffestat.errors import NetError
from caffestat.layers import layer_class
from caffestat.options import RunOptions
from caffestat.program import from_net
from caffestat.schema import Datum

from .support import SEED, datum, encoded, picture, write_lmdb

pytest.importorskip("lmdb")

TEXT = """layer { name: "d" type: "Data" top: "data" top: "label"
  data_param { source: "db" backend: LMDB batch_size: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.prototxt").write_text(TEXT)
    write_lmdb(tmp_path / "db", [(str(n), datum(picture(n), n).SerializeToString()) for n in range(3)])
    return tmp_path


def build(folder: Path, **options) -> net.Net:
    return net.build(net.read_net(str(folder / "net.prototxt")), **options)


def top_mean(built: net.Net, notes: list[str] | None = None, **options) -> float:
    return measure(from_net(built), SEED, RunOptions("cpu", **options), notes)[1].tops[0, 0]


def mean_of(*numbers: int) -> float:
    return float(np.mean([picture(n) for n in numbers]))


def test_a_net_has_the_shapes_of_its_data_and_is_fed_with_it(folder):
    built = build(folder)
    assert built.blobs[0].shape == (2, 3, 5, 7)
    notes: list[str] = []
    assert top_mean(built, notes=notes) == pytest.approx(mean_of(0, 1), rel=1e-5)
    assert not any("synthetic" in note for note in notes)


def test_each_measurement_begins_at_the_first_record(folder):
    built = build(folder)
    assert top_mean(built) == top_mean(built)


def test_the_working_directory_comes_before_the_files_folder(folder, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_lmdb(elsewhere / "db", [("0", datum(picture(9, 1, 4, 6), 1).SerializeToString())])
    monkeypatch.chdir(elsewhere)
    assert build(folder).blobs[0].shape == (2, 1, 4, 6)


def test_the_batch_option_reaches_the_data(folder):
    built = build(folder, batch=3)
    assert built.blobs[0].shape == (3, 3, 5, 7)
    assert built.blobs[1].shape == (3,)
    assert top_mean(built) == pytest.approx(mean_of(0, 1, 2), rel=1e-5)


def test_synthetic_data_on_request(folder):
    shapes = {"data": (2, 3, 5, 7)}
    notes: list[str] = []
    assert 0.5 < top_mean(build(folder, shapes=shapes, data="synthetic"), notes=notes) < 1.1
    assert not any("synthetic" in note for note in notes)


def test_other_shapes_than_the_datas_make_it_synthetic(folder):
    notes: list[str] = []
    assert 0.5 < top_mean(build(folder, shapes={"data": (2, 3, 6, 7)}), notes=notes) < 1.1
    said = next(note for note in notes if "synthetic" in note)
    assert "net.prototxt:1:1: layer 'd' is given synthetic data: blob 'data' has shape (2, 3, 5, 7) in the data" in said


def test_missing_data_is_announced_once_unless_all_of_it_is_given(folder):
    (folder / "db" / "data.mdb").unlink()
    (folder / "db").rmdir()
    built = build(folder, shapes={"data": (2, 3, 5, 7)})
    notes: list[str] = []
    top_mean(built, notes=notes)
    assert sum("layer 'd' is given synthetic data: file not found: 'db' (searched: " in note for note in notes) == 1
    notes = []
    given = {"data": np.ones((2, 3, 5, 7), np.float32), "label": np.zeros(2, np.float32)}
    assert top_mean(built, inputs=given, notes=notes) == 1
    assert not any("synthetic" in note for note in notes)


def test_real_data_that_is_missing_is_an_error_on_request(folder):
    assert build(folder, data="real").blobs[0].shape == (2, 3, 5, 7)
    (folder / "db" / "data.mdb").unlink()
    (folder / "db").rmdir()
    with pytest.raises(NetError, match=r"net.prototxt:1:1: layer 'd' .*no real data: file not found: 'db'"):
        build(folder, shapes={"data": (2, 3, 5, 7)}, data="real")


def test_a_package_that_is_missing(folder, monkeypatch):
    def no_package(name: str) -> Any:
        if name.startswith("PIL"):
            raise ImportError(name)
        return import_module(name)

    write_lmdb(folder / "db", [("0", Datum(data=encoded(picture(1)), encoded=True).SerializeToString())])
    import_module = reader.importlib.import_module
    monkeypatch.setattr(reader.importlib, "import_module", no_package)
    notes: list[str] = []
    top_mean(build(folder, shapes={"data": (2, 3, 5, 7)}), notes=notes)
    told = "reading images needs a package that is not installed: pip install 'caffestat[data]'"
    assert any(told in note for note in notes)


def test_names_that_no_file_can_have(folder):
    (folder / "net.prototxt").write_text(TEXT.replace('"db"', f'"{"x" * 5000}"'))
    assert "file not found: 'xxx" in build(folder, shapes={"data": (2, 3, 5, 7)}).nodes[0].layer.why_synthetic
    (folder / "net.prototxt").write_text(TEXT.replace('source: "db"', ""))
    assert build(folder, shapes={"data": (2, 3, 5, 7)}).nodes[0].layer.why_synthetic == "it names no source"


class Ones(reader.Reader):
    """Two samples of ones a batch."""

    def __init__(self, layer: Any) -> None:
        super().__init__(layer, 2)
        self.shapes = ((2, 3, 5, 7), (2,))

    def start(self, words: Any, stream: Any) -> None:
        pass

    def next(self) -> list[np.ndarray]:
        return [np.ones(shape, np.float32) for shape in self.shapes]


def test_a_reader_from_outside_is_registered_once_and_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "_ADDED", {})
    monkeypatch.setattr(layer_class("Data"), "data_kind", "ones")
    with pytest.raises(NetError, match="its class Data names a reader 'ones'; expected one of annotated, boxes, "):
        build(folder)
    opening.register_reader("ones", Ones)
    assert top_mean(build(folder)) == 1
    for kind in ("ones", "database"):
        with pytest.raises(ValueError, match=f"a reader of kind '{kind}' is registered already"):
            opening.register_reader(kind, Ones)
