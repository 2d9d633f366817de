"""Comments, baselines and settings that silence findings."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat.errors import InputError, Place
from caffestat.lint import (
    Config,
    Job,
    Limits,
    check_file,
    check_files,
    find_check,
    find_config,
    read_baseline,
    read_config,
    selected,
    to_baseline,
)
from caffestat.lint.baseline import refuse_other
from caffestat.lint.issue import Issue
from caffestat.lint.suppress import Suppression, suppressions, without_suppressed
from caffestat.prototext import parse

from .nets import ACT, CONV, DATA, FC, LOSS, issues

BAD = CONV("c", "x", 'weight_filler { type: "xavier" std: 0.1 }') + CONV(
    "d", "c", 'weight_filler { type: "xavier" std: 0.1 }'
)
TEXT = DATA + BAD + ACT("ReLU", "d") + FC("fc", "d") + LOSS.format("fc")


def layers_found(folder: Path, text: str) -> list[str]:
    return [issue.layer for issue in issues(folder, text, "CS006")]


@pytest.mark.parametrize(
    ("old", "new", "left"),
    [
        ("num_output: 64", "num_output: 64  # caffestat: ignore[CS006] measured\n", ["d"]),
        ('layer { name: "d"', '# caffestat: ignore[CS006]\nlayer { name: "d"', ["c"]),
        ('layer { name: "d"', '# caffestat: ignore[ignored-filler-field] why\nlayer { name: "d"', ["c"]),
        ('layer { name: "d"', '# caffestat: ignore[CS001, CS006]\nlayer { name: "d"', ["c"]),
        ('layer { name: "d"', '# caffestat: ignore\nlayer { name: "d"', ["c"]),
        ('layer { name: "d"', '# caffestat: ignore[CS012]\nlayer { name: "d"', ["c", "d"]),
        ("layer", "# caffestat: ignore-file[CS006] generated\nlayer", []),
        ('layer { name: "d"', '# ignore[CS006]\nlayer { name: "d"', ["c", "d"]),
    ],
)
def test_comments_silence_the_layer_they_stand_at(tmp_path: Path, old: str, new: str, left: list[str]) -> None:
    assert layers_found(tmp_path, TEXT) == ["c", "d"]
    assert layers_found(tmp_path, TEXT.replace(old, new, 1)) == left


def test_a_baseline_knows_findings_wherever_they_move(tmp_path: Path) -> None:
    job, path = Job(selected(("CS006",), ())), tmp_path / "net.prototxt"
    path.write_text(TEXT)
    known = tmp_path / "known.json"
    known.write_text(to_baseline(check_file(str(path), job)))
    path.write_text("\n\n" + TEXT + CONV("e", "x", 'weight_filler { type: "xavier" std: 0.2 }'))
    left = read_baseline(str(known)).without_known(check_file(str(path), job))
    assert [issue.layer for issue in left] == ["e"]


def test_a_baseline_knows_so_many_and_no_more(tmp_path: Path) -> None:
    def found(message: str, file: str = "a.prototxt") -> Issue:
        return Issue("CS006", "ignored-filler-field", "warning", Place(file, 3), "c", message, "fix")

    known = tmp_path / "known.json"
    known.write_text(to_baseline([found("std 0.1 is ignored"), found("std 0.2 is ignored")]))
    now = [found(f"std {number} is ignored") for number in (7, 8, 9)]
    baseline = read_baseline(str(known))
    assert baseline.without_known(now) == now[2:]
    assert baseline.without_known(now[:2]) == []  # each time anew
    assert baseline.without_known([found("std 0.1 is ignored", "b.prototxt")]) != []


def test_only_a_baseline_is_written_over(tmp_path: Path) -> None:
    known, net = tmp_path / "known.json", tmp_path / "net.prototxt"
    known.write_text(to_baseline([]))
    net.write_text(TEXT)
    refuse_other(str(known))
    refuse_other(str(tmp_path / "new.json"))
    with pytest.raises(InputError, match=r"net\.prototxt: is not a baseline, and was not overwritten"):
        refuse_other(str(net))


def lines_of(text: str) -> list[tuple[int, int]]:
    return [(found.first, found.last) for found in suppressions(parse(text.encode()))]


def test_the_lines_that_a_comment_silences() -> None:
    layers = 'layer {\n  name: "a"\n}\n%slayer {\n  name: "b" %s\n}\n'
    mark = "# caffestat: ignore\n"
    assert lines_of(layers % (mark, "")) == [(4, 7)]
    assert lines_of(layers % ("\n\n" + mark, "")) == [(6, 9)]
    assert lines_of(layers % ("", mark)) == [(4, 7)]
    assert lines_of("# caffestat: ignore\n" + layers % ("", "")) == [(1, 4)]
    assert lines_of(layers.replace("}\n", "} # caffestat: ignore\n", 1) % ("", "")) == [(1, 3)]
    assert lines_of(layers % ("", "") + mark) == [(7, 7)]  # behind all layers
    assert lines_of(layers % ("", "") + "# caffestat: ignore-file") == [(0, 7)]


@pytest.mark.parametrize(("line", "is_silent"), [(3, False), (4, True), (7, True), (8, False)])
def test_a_comment_covers_its_first_and_its_last_line(line: int, is_silent: bool) -> None:
    one = Issue("CS006", "ignored-filler-field", "warning", Place("a", line), "c", "message", "fix")
    comment = Suppression((), "", 4, 7)
    assert comment.covers(one) == is_silent
    assert without_suppressed([one], "a", [comment]) == ([] if is_silent else [one])
    assert without_suppressed([one], "other", [comment]) == [one]


@pytest.mark.parametrize("text", ["", "[]", '{"findings": [{"file": "a"}]}'])
def test_a_broken_baseline_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "known.json").write_text(text)
    with pytest.raises(InputError, match="is not a baseline"):
        read_baseline(str(tmp_path / "known.json"))


def test_a_missing_baseline_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--write-baseline"):
        read_baseline(str(tmp_path / "known.json"))


def test_settings_come_from_the_nearest_file(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / ".git").mkdir()
    (tmp_path / "setup.cfg").write_text(
        "[caffestat:check]\nignore = CS018, CS02\nvanish = 1e-4\nbaseline = known.json\n"
    )
    found = find_config(inner)
    assert found == Config(ignore=("CS018", "CS02"), baseline=str(tmp_path / "known.json"), limits=Limits(vanish=1e-4))
    (inner / "caffestat.cfg").write_text("[caffestat]\nselect = CS012\nseverity = error\n")
    assert find_config(inner) == Config(select=("CS012",), severity="error")


def test_no_settings_are_looked_for_above_the_repository(tmp_path: Path) -> None:
    inner = tmp_path / "repository"
    (inner / ".git").mkdir(parents=True)
    (tmp_path / "caffestat.cfg").write_text("[caffestat]\nselect = CS012\n")
    assert find_config(inner) == Config()


def test_settings_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "caffestat.cfg").write_bytes(b"\xef\xbb\xbf[caffestat]\r\nseverity = error\r\n")
    config = read_config(tmp_path / "caffestat.cfg")
    assert config is not None and config.severity == "error"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("vanihs = 1", "unknown key 'vanihs'"),
        ("deep = many", "deep: expected a number"),
        ("dead = nan", "dead: expected a number of 0 or more, found nan"),
        ("vanish = -1", "vanish: expected a number of 0 or more, found -1"),
        ("severity = loud", "severity: expected one of"),
        ("ignore = CS006 # known", "caffestat.cfg: #: matches no check"),
    ],
)
def test_settings_that_mean_nothing_are_refused(tmp_path: Path, line: str, words: str) -> None:
    (tmp_path / "caffestat.cfg").write_text(f"[caffestat]\n{line}\n")
    with pytest.raises(InputError, match=words):
        read_config(tmp_path / "caffestat.cfg")


def test_a_setup_cfg_of_others_is_no_setting(tmp_path: Path) -> None:
    (tmp_path / "setup.cfg").write_text("[metadata]\nname = x\n")
    assert read_config(tmp_path / "setup.cfg") is None


@pytest.mark.parametrize(
    ("name", "section", "wanted"),
    [("caffestat.cfg", "caffestat:check", "[caffestat]"), ("setup.cfg", "caffestat", "[caffestat:check]")],
)
def test_settings_under_another_heading_are_refused(tmp_path: Path, name: str, section: str, wanted: str) -> None:
    (tmp_path / name).write_text(f"[{section}]\nseverity = error\n")
    with pytest.raises(InputError) as caught:
        read_config(tmp_path / name)
    assert str(caught.value) == f"{tmp_path / name}: expected a section {wanted}, found [{section}]"


def test_checks_are_chosen_by_code_beginning_and_name() -> None:
    assert [check.code for check in selected(("CS01",), ("CS012", "signal-vanishes"))] == [
        f"CS01{digit}" for digit in "01356789"
    ]
    with pytest.raises(InputError, match="matches no check"):
        selected(("CS9",), ())
    assert find_check("cs012").name == "msra-before-squashing"
    with pytest.raises(InputError, match="unknown check"):
        find_check("CS99")


def test_a_file_that_cannot_be_read_does_not_keep_the_others_from_it(tmp_path: Path) -> None:
    (tmp_path / "bad.prototxt").write_text("layer {")
    (tmp_path / "good.prototxt").write_text(TEXT)
    found = check_files([str(tmp_path)], Job(selected(("CS006",), ())))
    assert len(found.errors) == 1
    assert len(found.issues) == 2
    assert [Path(file).name for file in found.files] == ["bad.prototxt", "good.prototxt"]


def test_a_solver_and_its_net_are_told_of_once(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(TEXT)
    (tmp_path / "solver.prototxt").write_text(f'net: "{tmp_path}/net.prototxt" base_lr: 0.1 lr_policy: "fixed"')
    found = check_files([str(tmp_path)], Job(selected(("CS006",), ())))
    assert [issue.layer for issue in found.issues] == ["c", "d"]
