"""One cause in many layers: told once, yet silenced, known and mended place by place."""

from __future__ import annotations

import json
from pathlib import Path

from caffestat.lint import Job, check_file, check_files, fix_file, read_baseline, render, selected, to_baseline
from caffestat.lint.repeats import without_repeats

from .nets import CONV, DATA, FC, LOSS, issues

STD = 'weight_filler { type: "xavier" std: 0.1 }'
VALUE = 'weight_filler { type: "xavier" value: 0.1 }'


def stack(*fillers: str) -> str:
    text, blob = DATA, "x"
    for index, filler in enumerate(fillers):
        text, blob = text + CONV(f"c{index}", blob, filler), f"c{index}"
    return text + FC("fc", blob) + LOSS.format("fc")


def test_the_first_of_many_names_the_others(tmp_path: Path) -> None:
    (told,) = without_repeats(issues(tmp_path, stack(*[STD] * 6), "CS006"))
    assert told.layer == "c0"
    assert told.message.endswith("the same in 5 more places: c1 (line 7), c2 (line 10), c3 (line 13), …")


def test_other_causes_stay_apart(tmp_path: Path) -> None:
    told = without_repeats(issues(tmp_path, stack(STD, VALUE, STD), "CS006"))
    assert [issue.layer for issue in told] == ["c0", "c1"]
    assert told[0].message.endswith("the same in 1 more place: c2 (line 10)")
    assert "same" not in told[1].message


def test_findings_without_a_cause_are_never_put_together(tmp_path: Path) -> None:
    found = issues(tmp_path, stack(STD), "CS006")
    alone = [type(found[0])(**{**vars(found[0]), "cause": ""})] * 2
    assert without_repeats(alone) == alone


def test_a_silenced_place_is_not_counted(tmp_path: Path) -> None:
    text = stack(*[STD] * 3).replace('layer { name: "c0"', '# caffestat: ignore[CS006]\nlayer { name: "c0"')
    (told,) = without_repeats(issues(tmp_path, text, "CS006"))
    assert told.layer == "c1"
    assert told.message.endswith("the same in 1 more place: c2 (line 11)")


def test_a_baseline_lets_new_places_through(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    path.write_text(to_baseline(issues(tmp_path, stack(STD, STD), "CS006")))
    left = read_baseline(str(path)).without_known(issues(tmp_path, stack(STD, STD, STD), "CS006"))
    assert [issue.layer for issue in left] == ["c2"]


def test_all_places_are_fixed(tmp_path: Path) -> None:
    path, job = tmp_path / "net.prototxt", Job(selected(("CS006",), ()))
    path.write_text(stack(*[STD] * 4))
    path.write_bytes(fix_file(str(path), job).after)
    assert check_file(str(path), job) == []


def test_programs_get_every_place(tmp_path: Path) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(stack(STD, STD))
    checked = check_files([str(path)], Job(selected(("CS006",), ())))
    assert render(checked, "text").count("CS006") == 1
    assert [finding["layer"] for finding in json.loads(render(checked, "json"))["findings"]] == ["c0", "c1"]
    assert render(checked, "github").count("::warning") == 2
