"""Fixes: the text they leave, and that the finding is gone."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat.errors import InputError
from caffestat.lint import Job, check_file, fix_file, selected
from caffestat.lint.fix import _overlap

from .nets import ACT, CONV, DATA, FC, LOSS, V0, V1

NETS = {
    "CS005": DATA + CONV("c", "x", "") + ACT("ReLU", "c") + FC("fc", "c") + LOSS.format("fc"),
    "CS006": DATA + CONV("c", "x", 'weight_filler { type: "xavier" std: 0.1 }') + FC("fc", "c") + LOSS.format("fc"),
    "CS012": DATA + CONV("c", "x") + ACT("TanH", "c") + FC("fc", "c") + LOSS.format("fc"),
}


@pytest.mark.parametrize("code", NETS)
def test_a_fix_takes_its_finding_away_and_touches_one_place(tmp_path: Path, code: str) -> None:
    path, job = tmp_path / "net.prototxt", Job(selected((code,), ()))
    path.write_text(NETS[code])
    fixed = fix_file(str(path), job)
    assert [issue.code for issue in fixed.issues] == [code]
    assert fixed.before == NETS[code].encode()
    lines = zip(fixed.before.splitlines(), fixed.after.splitlines(), strict=True)
    assert sum(old != new for old, new in lines) == 1
    path.write_bytes(fixed.after)
    assert check_file(str(path), job) == []


@pytest.mark.parametrize("text", [V0, V1], ids=["V0", "V1"])
@pytest.mark.parametrize(
    ("filler", "wanted"),
    [
        ("", 'weight_filler { type: "xavier" }'),
        ('weight_filler { type: "xavier" std: 1 }', 'weight_filler { type: "xavier" }'),
        ('weight_filler { type: "msra" }', 'weight_filler { type: "xavier" }'),
    ],
)
def test_old_formats_are_fixed_where_they_stand(tmp_path: Path, text: str, filler: str, wanted: str) -> None:
    path, job = tmp_path / "net.prototxt", Job(selected((), ()))
    path.write_text(text % filler)
    after = fix_file(str(path), job).after.decode()
    assert " ".join(after.split()) == " ".join((text % wanted).split())
    path.write_text(after)
    assert check_file(str(path), job) == []


def test_an_edit_in_the_meantime_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(NETS["CS005"])
    fixed = fix_file(str(path), Job(selected(("CS005",), ())))
    path.write_text("# an edit")
    with pytest.raises(InputError, match="changed by another program"):
        fixed.write()
    assert path.read_text() == "# an edit"


def test_a_missing_filler_becomes_the_one_that_the_nonlinearity_wants(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(NETS["CS005"])
    fixed = fix_file(str(path), Job(selected(("CS005",), ())))
    assert b'weight_filler { type: "msra" }' in fixed.after


def test_a_deep_stack_is_fixed_in_all_layers(tmp_path: Path) -> None:
    text, blob = DATA, "x"
    for index in range(9):
        text += CONV(f"c{index}", blob, 'weight_filler { type: "xavier" }') + ACT("ReLU", f"c{index}")
        blob = f"c{index}"
    path = tmp_path / "net.prototxt"
    path.write_text(text + FC("fc", blob) + LOSS.format("fc"))
    fixed = fix_file(str(path), Job(selected((), ())))
    assert fixed.after.count(b'"msra"') == 9
    assert fixed.after.count(b'"xavier"') == 1


def test_fixes_of_the_same_bytes_are_not_both_applied(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    bad = CONV("c", "x", 'weight_filler { type: "msra" std: 0.1 value: 3 }')
    path.write_text(DATA + bad + ACT("TanH", "c") + FC("fc", "c") + LOSS.format("fc"))
    fixed = fix_file(str(path), Job(selected((), ())))
    assert sorted(issue.code for issue in fixed.issues) == ["CS006", "CS006", "CS012"]
    assert b'weight_filler { type: "xavier" }' in fixed.after


def test_what_a_comment_silences_is_left(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text("# caffestat: ignore-file\n" + NETS["CS006"])
    fixed = fix_file(str(path), Job(selected((), ())))
    assert fixed.before == fixed.after
    assert fixed.issues == ()


@pytest.mark.parametrize(
    ("other", "overlaps"),
    [((3, 8), True), ((5, 6), True), ((0, 4), True), ((7, 9), True), ((0, 3), False), ((8, 9), False), ((5, 5), True)],
)
def test_fixes_of_the_same_bytes_overlap(other: tuple[int, int], overlaps: bool) -> None:
    for one, two in (((3, 8), other), (other, (3, 8))):
        assert _overlap((*one, b"a"), (*two, b"b")) == overlaps


def test_two_insertions_at_one_place_overlap() -> None:
    assert _overlap((4, 4, b"a"), (4, 4, b"b"))
    assert not _overlap((4, 4, b"a"), (5, 5, b"a"))
