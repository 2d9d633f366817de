"""What files of one check share: a net that several solvers name is worked out once, and told of as if it were not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from caffestat.lint import Checked, Job, check_files, selected
from caffestat.lint.shared import Shared
from caffestat.program import NetFile

from .nets import CONV, DATA, FC, LOSS

NET = DATA + CONV("c", "x", 'weight_filler { type: "xavier" std: 0.1 }') + FC("fc", "c") + LOSS.format("fc")
SOLVER = 'net: "examples/a/net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 3 snapshot: 0\n'


def job() -> Job:
    return Job(selected((), ()))


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder beside which the command runs, so that its solvers find their net from a folder above them."""
    folder = tmp_path / "repo" / "examples" / "a"
    folder.mkdir(parents=True)
    (folder / "net.prototxt").write_text(NET)
    for name in ("a", "z"):  # one is checked before the net, one after it
        (folder / f"{name}.prototxt").write_text(SOLVER)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The nets that are built, by name."""
    names: list[str] = []
    build = NetFile.assuming

    def counted(self: NetFile, *args: object) -> object:
        names.append(self.source.name)
        return build(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(NetFile, "assuming", counted)
    return names


def of_files(checked: Checked) -> list[str]:
    return [issue.place.file for issue in checked.issues]


def test_a_net_is_built_once_for_itself_and_its_solvers(repo: Path, built: list[str]) -> None:
    checked = check_files(["repo"], job())
    assert len(built) == 1
    assert checked.files == tuple(f"repo/examples/a/{name}.prototxt" for name in ("a", "net", "z"))
    assert set(of_files(checked)) == {"repo/examples/a/net.prototxt"}


@pytest.mark.parametrize("name", ["a", "net", "z"])
def test_what_is_found_does_not_depend_on_what_was_checked_before(repo: Path, name: str) -> None:
    one, all_files = (check_files([path], job()).issues for path in (f"repo/examples/a/{name}.prototxt", "repo"))
    assert [replace(issue, edits=None) for issue in one] == [replace(issue, edits=None) for issue in all_files]


def test_another_state_is_built_anew(repo: Path, built: list[str]) -> None:
    (repo / "z.prototxt").write_text(SOLVER + 'train_state { stage: "fine" }\n')
    check_files(["repo"], job())
    assert len(built) == 2


def test_comments_silence_findings_whatever_name_the_net_was_opened_by(repo: Path) -> None:
    before = [issue.code for issue in check_files(["repo"], job()).issues]
    assert "CS006" in before
    (repo / "net.prototxt").write_text(NET.replace('name: "c"', 'name: "c" # caffestat: ignore[CS006] on purpose\n', 1))
    after = [issue.code for issue in check_files(["repo"], job()).issues]
    assert after == [code for code in before if code != "CS006"]


def test_a_file_that_changed_is_read_again(repo: Path) -> None:
    shared = Shared()
    path = "repo/examples/a/net.prototxt"
    one = shared.open(path)
    assert shared.open(path).source is one.source
    (repo / "net.prototxt").write_text(NET + CONV("more", "c"))
    assert [entry.proto.name for entry in shared.open(path).source.layers][-1] == "more"


def test_a_net_of_another_folder_with_the_same_text_keeps_its_name(repo: Path) -> None:
    other = repo.parent / "b"
    other.mkdir()
    (other / "net.prototxt").write_text(NET)
    found = of_files(check_files(["repo"], job()))
    names = [f"repo/examples/{name}/net.prototxt" for name in "ab"]
    assert set(found) == set(names)
    assert found.count(names[0]) == found.count(names[1])
