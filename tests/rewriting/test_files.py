"""Many files: in place or elsewhere, with backups, and whatever is wrong with one of them."""

from __future__ import annotations

import os
import stat
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caffestat.api import check, fill, fix, rewrite
from caffestat.errors import InputError
from caffestat.rewriting import Outcome, files

OLD = (
    b'layer { name: "f" type: "InnerProduct" inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }\n'
)
NEW = OLD.replace(b"xavier", b"msra")
BROKEN = b"layer {\n"
NET = """
input: "x"
input_shape { dim: 3 dim: 4 }
layer { name: "f" type: "InnerProduct" bottom: "x" top: "f"
  inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: 0.5 } } }
layer { name: "g" type: "InnerProduct" bottom: "f" top: "g" inner_product_param { num_output: 5 } }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets" / "deep").mkdir(parents=True)
    for name in ("a.prototxt", "deep/a.prototxt", "deep/b.prototxt"):
        (tmp_path / "nets" / name).write_bytes(OLD)
    (tmp_path / "nets" / "notes.txt").write_bytes(OLD)
    (tmp_path / "nets" / "c.prototxt").write_bytes(NEW)
    return tmp_path / "nets"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def changed(outcomes: list[Outcome]) -> set[str]:
    return {Path(outcome.path).name for outcome in outcomes if outcome.changes}


def test_in_place_with_mode_and_link_kept(folder: Path) -> None:
    path, link = folder / "a.prototxt", folder / "link.prototxt"
    path.chmod(0o640)
    link.symlink_to("a.prototxt")
    (outcome,) = rewrite(link, filler="msra")
    assert path.read_bytes() == NEW
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [str(change) for change in outcome.changes] == [f"{link}:1:76: f (InnerProduct) weight: xavier -> msra"]
    assert outcome.error is None


def test_unchanged_files_are_not_touched(folder: Path) -> None:
    before = (folder / "c.prototxt").stat()
    (outcome,) = rewrite(folder / "c.prototxt", filler="msra", backup=True)
    assert outcome == Outcome(outcome.path, outcome.target)
    assert (folder / "c.prototxt").stat() == before
    assert not list(folder.glob("*.bak"))


def test_the_standard_input_is_no_file_to_change() -> None:
    with pytest.raises(InputError, match="fillers cannot be written to standard input"):
        rewrite("-", filler="msra")


def test_folders(folder: Path) -> None:
    with pytest.raises(InputError, match="nets: is a folder; use --recursive"):
        rewrite(folder, filler="msra")
    outcomes = rewrite(folder, filler="msra", recursive=True)
    assert [Path(outcome.path).relative_to(folder).as_posix() for outcome in outcomes] == [
        "a.prototxt",
        "c.prototxt",
        "deep/a.prototxt",
        "deep/b.prototxt",
    ]
    assert set(contents(folder).values()) == {OLD, NEW}
    assert (folder / "notes.txt").read_bytes() == OLD


def test_dry_run_says_all_and_writes_nothing(folder: Path) -> None:
    before = contents(folder)
    outcomes = rewrite(folder, filler="msra", recursive=True, dry_run=True, output=folder / "out", backup=True)
    assert contents(folder) == before
    assert changed(outcomes) == {"a.prototxt", "b.prototxt"}
    assert outcomes[0].diff.splitlines()[3:] == [f"-{OLD.decode().rstrip()}", f"+{NEW.decode().rstrip()}"]
    assert outcomes[1].diff == ""


def test_output_to_a_file_or_a_folder(folder: Path, tmp_path: Path) -> None:
    rewrite(folder / "a.prototxt", filler="msra", output=tmp_path / "one.prototxt")
    assert (tmp_path / "one.prototxt").read_bytes() == NEW
    rewrite(folder / "c.prototxt", filler="msra", output=f"{tmp_path / 'new'}/")
    assert contents(tmp_path / "new") == {"c.prototxt": NEW}  # also what needs no change
    rewrite([folder], filler="msra", recursive=True, output=tmp_path / "all")
    assert sorted(contents(tmp_path / "all")) == ["a.prototxt", "c.prototxt", "deep/a.prototxt", "deep/b.prototxt"]
    assert (folder / "a.prototxt").read_bytes() == OLD
    with pytest.raises(InputError, match=r"a\.prototxt: two of the files would be written to this name"):
        rewrite([folder / "a.prototxt", folder / "deep" / "a.prototxt"], filler="msra", output=tmp_path / "flat")


def test_an_output_that_is_an_input_is_refused(folder: Path) -> None:
    before = contents(folder)
    (folder / "link").symlink_to(folder)
    fillers = {"filler": "msra", "bias": "constant:1"}
    for output in (folder / "a.prototxt", folder, folder / "link" / "a.prototxt", folder / "link"):
        with pytest.raises(InputError, match=r"a\.prototxt: is also an input, which would be overwritten"):
            rewrite(folder / "a.prototxt", output=output, **fillers)
    with pytest.raises(InputError, match=r"deep/a\.prototxt: is also an input"):
        rewrite(folder, output=folder / "deep", recursive=True, **fillers)
    model, net = folder / "w.caffemodel", folder / "a.prototxt"
    with pytest.raises(InputError, match=r"a\.prototxt: is also an input"):
        rewrite(model, output=net, net=net, **fillers)
    assert contents(folder) == before


def test_backups_never_replace_one_another(folder: Path) -> None:
    path = folder / "a.prototxt"
    for policy in ("msra", "xavier", "constant:1"):
        rewrite(path, filler=policy, backup=True)
    assert [path.with_name(f"a.prototxt.bak{n}").read_bytes() for n in ("", "1", "2")] == [OLD, NEW, OLD]


def test_a_broken_file_stays_and_the_others_are_done(folder: Path) -> None:
    (folder / "b.prototxt").write_bytes(BROKEN)
    seen: list[tuple[str, int]] = []
    outcomes = rewrite(
        [folder / "b.prototxt", folder / "none.prototxt", folder / "a.prototxt"],
        filler="msra",
        watch=lambda outcome, total: seen.append((Path(outcome.path).stem, total)),
    )
    assert (folder / "b.prototxt").read_bytes() == BROKEN
    assert (folder / "a.prototxt").read_bytes() == NEW
    assert "b.prototxt:1:8: expected" in (outcomes[0].error or "")
    assert "none.prototxt: cannot be read: No such file" in (outcomes[1].error or "")
    assert outcomes[2].error is None
    assert seen == [("b", 3), ("none", 3), ("a", 3)]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="needs a folder that cannot be written to")
def test_a_folder_that_cannot_be_written_to(folder: Path) -> None:
    folder.chmod(0o500)
    (outcome,) = rewrite(folder / "a.prototxt", filler="msra")
    folder.chmod(0o700)
    assert "cannot be written" in (outcome.error or "")


def test_an_edit_in_the_meantime_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = folder / "a.prototxt"
    monkeypatch.setattr(files, "rewrite_text", partial(edited_meanwhile, path, files.rewrite_text))
    (outcome,) = rewrite(path, filler="msra", backup=True)
    assert "changed by another program" in (outcome.error or "")
    assert path.read_bytes() == b"# an edit\n" + OLD


def edited_meanwhile(path: Path, rewrite_text: Any, *arguments: Any) -> Any:
    path.write_bytes(b"# an edit\n" + OLD)
    return rewrite_text(*arguments)


def test_links_out_of_a_folder_are_not_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.prototxt").write_bytes(OLD)
    (outside / "notes.txt").write_bytes(OLD)
    (folder / "x.prototxt").symlink_to(outside / "a.prototxt")
    (folder / "y.prototxt").symlink_to(outside / "notes.txt")
    (folder / "z").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "loop.prototxt").symlink_to("loop.prototxt")
    (folder / "in.prototxt").symlink_to("a.prototxt")
    outcomes = rewrite(folder, filler="msra", recursive=True)
    assert [Path(outcome.path).name for outcome in outcomes if outcome.error] == []
    assert set(contents(outside).values()) == {OLD}
    names = {Path(outcome.path).stem for outcome in outcomes}
    assert names == {"a", "b", "c", "in"}
    fix(folder)
    assert set(contents(outside).values()) == {OLD}
    checked = check(folder)
    assert {Path(file).name for file in checked.files} >= {"x.prototxt", "in.prototxt"}
    assert not {Path(file).name for file in checked.files} & {"y.prototxt", "loop.prototxt", "notes.txt"}
    rewrite(folder / "x.prototxt", filler="msra")  # named, it is followed
    assert (outside / "a.prototxt").read_bytes() == NEW


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_weights_alone_are_not_rewritten(folder: Path, suffix: str) -> None:
    path = folder / f"w{suffix}"
    path.write_bytes(b"\x89HDF\r\n\0")
    (outcome,) = rewrite(str(path), filler="msra")
    assert outcome.error is not None
    assert "found weights alone" in outcome.error and f"fill -o NEW{suffix} NET" in outcome.error
    assert path.read_bytes() == b"\x89HDF\r\n\0"


def test_a_policy_is_needed(folder: Path) -> None:
    with pytest.raises(InputError, match="expected a filler policy"):
        rewrite(folder / "a.prototxt")


@pytest.mark.parametrize("suffix", [".caffemodel", ".onnx"])
def test_models_by_their_suffix(tmp_path: Path, suffix: str) -> None:
    net, model = tmp_path / "net.prototxt", tmp_path / f"net{suffix}"
    net.write_text(NET)
    fill(str(net), model, seed=1)
    options: dict[str, Any] = {"filler": "uniform:min=1,max=2", "seed": 5}
    (first,) = rewrite(model, output=tmp_path / f"new{suffix}", **options)
    (again,) = rewrite(tmp_path / f"new{suffix}", **options)
    assert len(first.changes) == 2
    assert again.changes == ()
    (wrong,) = rewrite(net, output=model, filler="xavier", dry_run=True)
    assert wrong.target == str(model)


def test_fill_draws_the_whole_net_and_shows_what_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    part = fill(str(path), tmp_path / "g.npz", filler="xavier", layers=["g"])
    assert [(param.layer, param.role) for param in part.params] == [("g", "weight"), ("g", "bias")]
    plain = fill(str(path), assume_filler="xavier", filler="xavier", layers=["g"])
    np.testing.assert_array_equal(plain.params[0].values, part.params[0].values)
    with np.load(tmp_path / "g.npz") as archive:
        np.testing.assert_array_equal(archive["g/0"], part.params[0].values)
    with pytest.raises(InputError, match="no layer with params is selected"):
        fill(str(path), layers=["h"])


def test_fill_tells_n_scale_and_std(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)

    def numbers(policy: str) -> tuple[float | None, float | None, float]:
        param = fill(str(path), filler=policy, layers=["g"]).params[0]
        return param.n, param.scale, round(param.std, 6)

    assert numbers("xavier:variance_norm=fan_out") == (5, pytest.approx(0.6**0.5), round(0.2**0.5, 6))
    assert numbers("msra") == (2, None, 1.0)
    assert numbers("uniform:min=0,max=6") == (None, 3.0, round(3**0.5, 6))
    assert numbers("gaussian:0.5") == (None, None, 0.5)
    assert numbers("gaussian:std=0.5,sparse=2") == (None, None, round(0.5 * 0.4**0.5, 6))  # two of five outputs
    assert numbers("constant:3") == (None, None, 0.0)


def test_fill_prints_a_table(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(NET)
    lines = str(fill(str(path), filler="constant:0.25", layers=["g"])).splitlines()
    assert [line.split() for line in lines] == [
        ["layer", "type", "param", "shape", "filler", "n", "scale", "std", "first", "values"],
        ["g", "InnerProduct", "0", "weight", "5×2", "constant", "–", "–", "0", "0.25", "0.25", "0.25", "0.25", "…"],
        ["g", "InnerProduct", "1", "bias", "5", "constant", "–", "–", "0", "0", "0", "0", "0", "…"],
    ]
