"""What is looked at: files of folders, solvers with their nets, shapes that nobody knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from caffestat.errors import InputError
from caffestat.lint import Checked, Job, check_files, selected
from caffestat.options import NetOptions

from .nets import ACT, CONV, DATA, FC, LOSS, issues

BAD = CONV("c", "x", 'weight_filler { type: "xavier" std: 0.1 }')
TEXT = DATA + BAD + FC("fc", "c") + LOSS.format("fc")
SOLVER = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" '
UNFILLED = DATA + CONV("c", "x", "") + FC("fc", "c") + LOSS.format("fc")
RECORDS = """layer { name: "data" type: "Data" top: "x" top: "label" data_param { source: "db" batch_size: 4 } }
"""


def checked(*paths: Path | str, select: str = "CS006", **settings: object) -> Checked:
    return check_files([str(path) for path in paths], Job(selected((select,), ()), **settings))  # type: ignore[arg-type]


def test_a_net_is_told_of_once_by_the_name_that_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets").mkdir()
    (tmp_path / "nets" / "net.prototxt").write_text(TEXT)
    (tmp_path / "nets" / "a_solver.prototxt").write_text(f'{SOLVER} snapshot_prefix: "x"')
    monkeypatch.chdir(tmp_path / "nets")
    assert [issue.place.file for issue in checked("../nets").issues] == ["../nets/net.prototxt"]


def test_the_net_of_a_solver_is_named_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets" / "deep").mkdir(parents=True)
    (tmp_path / "nets" / "net.prototxt").write_text(TEXT)
    (tmp_path / "nets" / "deep" / "solver.prototxt").write_text(SOLVER.replace("net.pro", "nets/net.pro"))
    monkeypatch.chdir(tmp_path / "nets")
    assert [issue.place.file for issue in checked("deep/solver.prototxt").issues] == ["net.prototxt"]


def test_a_solvers_own_fields_are_checked_and_silenced(tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(TEXT)
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f"{SOLVER} base_lrr: 0.1")
    (found,) = checked(solver, select="CS002").issues
    assert (found.place.file, "base_lrr" in found.message) == (str(solver), True)
    solver.write_text(f"{SOLVER} base_lrr: 0.1  # caffestat: ignore[CS002] a fork's")
    assert checked(solver, select="CS002").issues == ()


def test_the_state_of_a_solver_counts(tmp_path: Path) -> None:
    staged = 'include { stage: "s" } top: "c"'
    (tmp_path / "net.prototxt").write_text(UNFILLED.replace('top: "c"', staged))
    solver = tmp_path / "solver.prototxt"
    solver.write_text(SOLVER)
    assert len(checked(solver, select="CS001").issues) == 1  # without its stage the layer is missing
    solver.write_text(f'{SOLVER} train_state {{ stage: "s" }}')
    assert checked(solver, select="CS001").issues == ()
    assert len(checked(solver, select="CS005").issues) == 1


@pytest.mark.parametrize(
    ("tests", "layer", "expected"),
    [
        ('test_net: "other.prototxt"', 'type: "ReLU" bottom: "z" top: "late"', "unknown bottom blob 'z'"),
        ("", 'type: "ReLU" bottom: "z" top: "late" include { phase: TEST }', "unknown bottom blob 'z'"),
        ("", 'type: "ReLU" bottom: "z" top: "late" include { phase: TEST stage: "s" }', None),
        ('test_state { stage: "s" }', 'type: "ReLU" bottom: "z" top: "late" include { stage: "s" }', "unknown bottom"),
        ('test_net: "other.prototxt"', 'type: "PReLU" bottom: "fc" top: "p"', None),
        ('test_net: "other.prototxt"', None, r"has params of shapes \[\(\)\]; the train net's layer of this name"),
    ],
)
def test_the_test_nets_of_a_solver_are_built(
    tests: str, layer: str | None, expected: str | None, tmp_path: Path
) -> None:
    """layer: one more of the net that is tested; None for a PReLU in the place of the convolution `c`."""
    more = f'layer {{ name: "late" {layer} }}' if layer else ""
    (tmp_path / "net.prototxt").write_text(TEXT + ("" if "other" in tests else more))
    prelu = 'layer { name: "c" type: "PReLU" bottom: "x" top: "c" prelu_param { channel_shared: true } }'
    (tmp_path / "other.prototxt").write_text((TEXT if layer else TEXT.replace(BAD, prelu)) + more)
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f"{SOLVER} test_iter: 1 test_interval: 1 {tests}")
    found = [issue.message for issue in checked(solver, select="CS001").issues]
    assert bool(found) == (expected is not None)
    assert all(re.search(expected or "", message) for message in found)


@pytest.mark.parametrize("named", ["nowhere.prototxt", "."])
def test_a_test_net_that_cannot_be_read_is_told_once(named: str, tmp_path: Path) -> None:
    (tmp_path / "net.prototxt").write_text(TEXT)
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f'{SOLVER}\ntest_iter: 1 test_interval: 1\ntest_net: "{named}"')
    found = checked(solver, select="CS").issues
    assert [(issue.code, issue.place.line) for issue in found if "test_net" in issue.message] == [("CS030", 3)]


def test_weights_that_a_solver_names_are_given_whether_at_hand_or_not(tmp_path: Path) -> None:
    from caffestat import api

    (tmp_path / "net.prototxt").write_text(UNFILLED)
    (tmp_path / "filled.prototxt").write_text(TEXT.replace('name: "fc"', 'name: "other"'))
    solver = tmp_path / "solver.prototxt"
    solver.write_text(f'{SOLVER} weights: "w.caffemodel"')
    assert checked(solver, select="CS005").issues == ()
    unfilled = UNFILLED.replace('weight_filler { type: "xavier" }', "")
    (tmp_path / "net.prototxt").write_text(unfilled)
    api.fill(str(tmp_path / "filled.prototxt"), tmp_path / "w.caffemodel")
    assert [issue.layer for issue in checked(solver, select="CS005").issues] == ["fc"]


def test_files_of_other_programs_in_a_folder_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "labelmap.prototxt").write_text('item { name: "none" label: 0 }')
    (tmp_path / "net.prototxt").write_text(TEXT)
    found = checked(tmp_path, select="CS0")
    assert [Path(file).name for file in found.files] == ["net.prototxt"]
    named = checked(tmp_path / "labelmap.prototxt", select="CS0")
    assert [issue.code for issue in named.issues] == ["CS001"]
    (tmp_path / "labelmap.prototxt").write_text('item { name: "none" }  # caffestat: ignore-file[CS001] labels')
    assert checked(tmp_path / "labelmap.prototxt", select="CS0").issues == ()


def test_a_shape_serves_the_files_that_have_its_blob(tmp_path: Path) -> None:
    (tmp_path / "a.prototxt").write_text(TEXT)
    (tmp_path / "b.prototxt").write_text(TEXT.replace('"x"', '"y"'))
    assert len(checked(tmp_path, select="CS0", net=NetOptions(shapes={"y": (4, 3, 5, 6)})).issues) == 2
    with pytest.raises(InputError, match="'z', which no layer of these files produces"):
        checked(tmp_path, net=NetOptions(shapes={"z": (1,)}))


def test_images_of_unknown_size_are_taken_for_usual_ones(tmp_path: Path) -> None:
    net = CONV("c", "x", 'weight_filler { type: "msra" }') + ACT("TanH", "c") + FC("fc", "c") + LOSS.format("fc")
    found = issues(tmp_path, RECORDS + net)
    assert [issue.code for issue in found] == ["CS019", "CS023", "CS012"]
    assert "assuming 4x3x224x224" in found[1].message
    flat = RECORDS + 'layer { name: "f" type: "Flatten" bottom: "x" top: "f" }\n'
    flat += FC("fc", "f", outputs=784) + 'layer { name: "l" type: "EuclideanLoss" bottom: "fc" bottom: "f" top: "l" }\n'
    assert "'x' is only in the records of " in issues(tmp_path, flat, "CS023")[0].message
    assert "assuming 4x1x28x28" in issues(tmp_path, flat, "CS023")[0].message
    assert "is not checked" in issues(tmp_path, flat.replace("784", "785"), "CS023")[0].message
    assert issues(tmp_path, flat, "CS023", run=True)[0].message.endswith("is not checked")


def test_fields_of_forks_are_known_in_nets_that_do_not_build_too(tmp_path: Path) -> None:
    fields = "roi_pooling_param { pooled_h: 2 odd: 1 }"
    net = DATA + f'layer {{ name: "r" type: "ROIPooling" bottom: "x" bottom: "nothing" top: "r" {fields} }}'
    found = issues(tmp_path, net, "CS00")
    assert {issue.code for issue in found} >= {"CS001", "CS002"}
    assert ["odd" in issue.message for issue in found if issue.code == "CS002"] == [True]


def test_a_net_for_the_test_phase_alone_is_checked_in_it(tmp_path: Path) -> None:
    data = RECORDS.replace("}\n", "include { phase: TEST } transform_param { crop_size: 9 } }\n")
    net = data + CONV("c", "x") + FC("fc", "c") + LOSS.format("fc")
    assert [issue.code for issue in issues(tmp_path, net, "CS001")] == []
    assert [issue.code for issue in issues(tmp_path, DATA.replace('"x"', '"y"') + net, "CS001")] == ["CS001"]
    (tmp_path / "net.prototxt").write_text(net)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    assert [issue.code for issue in checked(tmp_path / "solver.prototxt", select="CS001").issues] == ["CS001"]
