"""The wheel in pieces: joined in any order it is what it was, and a damaged piece is noticed."""

from __future__ import annotations

import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "benchmarks" / "gpu_bundle.py"


@pytest.fixture
def bundle(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_bundle", SCRIPT)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PIECE", 100)
    return module


def write_wheel(path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("package/__init__.py", "x = 1\n" * 40)
    return path


def test_pieces_join_in_any_order(bundle: ModuleType, tmp_path: Path) -> None:
    count = bundle.write_pieces(write_wheel(tmp_path / "a.whl"), tmp_path / "pieces")
    assert count > 2
    taken = [bundle.take(tmp_path / "pieces" / str(number), tmp_path / "store") for number in range(count, 0, -1)]
    assert taken == [False] * (count - 1) + [True]
    assert (tmp_path / "store" / "site" / "package" / "__init__.py").read_text() == "x = 1\n" * 40


def test_a_damaged_piece_is_not_unpacked(bundle: ModuleType, tmp_path: Path) -> None:
    count = bundle.write_pieces(write_wheel(tmp_path / "a.whl"), tmp_path / "pieces")
    (tmp_path / "pieces" / "1" / "part").write_bytes(b"0" * 100)
    with pytest.raises(SystemExit, match="take them again"):
        for number in range(1, count + 1):
            bundle.take(tmp_path / "pieces" / str(number), tmp_path / "store")
