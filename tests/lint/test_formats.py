"""Every format: what it must hold, its escapes, and what it says of files that could not be checked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest

from caffestat.errors import InputError, Place, PrototextError
from caffestat.lint import FORMATS, Checked, Issue, Unchecked, all_checks, all_pages, render
from caffestat.lint.issue import SEE_MESSAGE
from caffestat.report.detail import issue_rows

ISSUES = (
    Issue(
        "CS012",
        "msra-before-squashing",
        "warning",
        Place("a,b/net 1.prototxt", 12, 3),
        "conv<1>",
        "100% wrong:\nyes",
        "xavier",
    ),
    Issue(
        "CS015", "signal-explodes", "error", Place("c.prototxt", 7, 1), "fc", "boom", "less", {"ratio": float("inf")}
    ),
    Issue("CS018", "uneven-steps", "info", Place("c.prototxt", 9, 0), "", "slow", SEE_MESSAGE),
)
FILES = ("a,b/net 1.prototxt", "c.prototxt", "clean.prototxt")
CHECKED = Checked(FILES, ISSUES)
BROKEN = Checked(
    ("s.prototxt", "gone.prototxt", "c.prototxt"),
    ISSUES[1:2],
    (
        Unchecked("s.prototxt", PrototextError("expected a value:\n100% so", Place("b,c.prototxt", 4, 2))),
        Unchecked("gone.prototxt", InputError("gone.prototxt: cannot be read")),
    ),
)


def test_text_is_one_line_per_finding_with_its_fix() -> None:
    assert render(Checked(FILES, ISSUES[1:])).splitlines() == [
        "c.prototxt:7:1: CS015 error: fc: boom [signal-explodes]",
        "    fix: less",
        "c.prototxt:9: CS018 info: slow [uneven-steps]",
        "3 files checked: 1 error, 1 info",
    ]
    assert render(Checked(("x",), ())) == "1 file checked: nothing found\n"


def test_text_counts_what_could_not_be_checked() -> None:
    assert render(BROKEN).splitlines()[-1] == "1 file checked, 2 could not be checked: 1 error"
    assert render(Checked(("gone",), (), BROKEN.errors[1:])) == "0 files checked, 1 could not be checked\n"


def test_json_holds_everything() -> None:
    data = json.loads(render(CHECKED, "json"))
    assert list(data) == ["format_version", "files", "findings", "errors"]
    assert data["format_version"] == 1
    assert data["files"] == list(FILES)
    assert data["errors"] == []
    assert [f["code"] for f in data["findings"]] == ["CS012", "CS015", "CS018"]
    assert data["findings"][1] == {
        "code": "CS015",
        "name": "signal-explodes",
        "severity": "error",
        "file": "c.prototxt",
        "line": 7,
        "column": 1,
        "layer": "fc",
        "message": "boom",
        "numbers": {"ratio": "inf"},
        "fix": "less",
        "fixable": False,
    }


def test_json_says_what_could_not_be_checked() -> None:
    assert json.loads(render(BROKEN, "json"))["errors"] == [
        {"file": "b,c.prototxt", "line": 4, "column": 2, "message": "expected a value:\n100% so"},
        {"file": "gone.prototxt", "line": 0, "column": 0, "message": "gone.prototxt: cannot be read"},
    ]


def test_github_commands_are_escaped() -> None:
    first, second, third = render(CHECKED, "github").splitlines()
    assert first == (
        "::warning file=a%2Cb/net 1.prototxt,line=12,col=3,title=CS012 msra-before-squashing"
        "::conv<1>: 100%25 wrong:%0Ayes. Fix: xavier"
    )
    assert second.startswith("::error file=c.prototxt,line=7,col=1,")
    assert third.startswith("::notice file=c.prototxt,line=9,title=")


def test_github_escapes_in_settings_what_ends_them() -> None:
    issue = Issue("CS001", "n", "error", Place("a%:,\r\n.prototxt", 1), "", "%:,\r\n", "f")
    assert render(Checked((), (issue,)), "github") == (
        "::error file=a%25%3A%2C%0D%0A.prototxt,line=1,title=CS001 n::%25:,%0D%0A. Fix: f\n"
    )


def test_github_annotates_what_could_not_be_checked() -> None:
    assert render(BROKEN, "github").splitlines()[1:] == [
        "::error file=b%2Cc.prototxt,line=4,col=2,title=cannot be checked::expected a value:%0A100%25 so",
        "::error file=gone.prototxt,title=cannot be checked::gone.prototxt: cannot be read",
    ]


def test_sarif_results_point_to_their_rules() -> None:
    (run,) = json.loads(render(CHECKED, "sarif"))["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert len({rule["id"] for rule in rules}) == len(rules) == len(all_checks())
    assert [rules[result["ruleIndex"]]["id"] for result in run["results"]] == [issue.code for issue in ISSUES]
    assert [result["ruleId"] for result in run["results"]] == [issue.code for issue in ISSUES]
    assert [result["level"] for result in run["results"]] == ["warning", "error", "note"]
    regions = [result["locations"][0]["physicalLocation"]["region"] for result in run["results"]]
    assert [(region["startLine"], region["startColumn"]) for region in regions] == [(12, 3), (7, 1), (9, 1)]


def test_sarif_says_whether_all_could_be_checked() -> None:
    (good,) = json.loads(render(CHECKED, "sarif"))["runs"][0]["invocations"]
    assert good == {"executionSuccessful": True, "toolExecutionNotifications": []}
    (bad,) = json.loads(render(BROKEN, "sarif"))["runs"][0]["invocations"]
    assert bad["executionSuccessful"] is False
    first, second = bad["toolExecutionNotifications"]
    assert first["level"] == second["level"] == "error"
    assert first["message"] == {"text": "expected a value:\n100% so"}
    place = first["locations"][0]["physicalLocation"]
    assert place["artifactLocation"]["uri"] == "b%2Cc.prototxt"
    assert place["region"] == {"startLine": 4, "startColumn": 2}


def location(file: str) -> dict[str, str]:
    """Return SARIF's artifactLocation of a finding in a file."""
    issue = Issue("CS001", "n", "error", Place(file, 1), "", "m", "f")
    log = json.loads(render(Checked((file,), (issue,)), "sarif"))
    found: dict[str, str] = log["runs"][0]["results"][0]["locations"][0]["physicalLocation"]["artifactLocation"]
    return found


@pytest.mark.parametrize(
    ("file", "uri"),
    [
        ("a b/ü#?%.prototxt", "a%20b/%C3%BC%23%3F%25.prototxt"),
        ("c:d.prototxt", "c%3Ad.prototxt"),  # or c would be a scheme
        ("./x//n.prototxt", "x/n.prototxt"),
        ("x/../n.prototxt", "n.prototxt"),
        (f"x{os.sep}n.prototxt", "x/n.prototxt"),
        ("\udcff.prototxt", "%FF.prototxt"),
    ],
)
def test_sarif_names_files_by_relative_uris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, uri: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert location(file) == {"uri": uri, "uriBaseId": "%SRCROOT%"}
    assert location(str(tmp_path / file)) == location(file)


def test_sarif_names_files_elsewhere_by_file_uris(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert location("../o p/n.prototxt") == {"uri": f"{tmp_path.resolve().as_uri()}/o%20p/n.prototxt"}


@pytest.mark.skipif(os.sep == "\\", reason="a backslash is no part of names here")
def test_sarif_keeps_a_backslash_that_is_part_of_a_name() -> None:
    assert location("a\\n.prototxt")["uri"] == "a%5Cn.prototxt"


def test_junit_has_one_case_per_file() -> None:
    (suite,) = ElementTree.fromstring(render(CHECKED, "junit"))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "2", "0")
    cases = suite.findall("testcase")
    assert [case.get("name") for case in cases] == list(FILES)
    failures = [case.findall("failure") for case in cases]
    assert [len(found) for found in failures] == [1, 1, 0]
    assert failures[1][0].get("message") == "2 findings"
    assert failures[1][0].text == ("c.prototxt:7:1: CS015 error: fc: boom. Fix: less\nc.prototxt:9: CS018 info: slow")


def test_junit_tells_errors_from_failures() -> None:
    (suite,) = ElementTree.fromstring(render(BROKEN, "junit"))
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "2")
    kinds = {case.get("name"): [(child.tag, child.get("type")) for child in case] for case in suite.iter("testcase")}
    assert kinds == {
        "s.prototxt": [("error", "PrototextError")],
        "gone.prototxt": [("error", "InputError")],
        "c.prototxt": [("failure", "CS015")],
    }
    assert next(suite.iter("error")).text == "b,c.prototxt:4:2: expected a value:\n100% so"


def test_every_format_takes_names_that_are_no_utf_8() -> None:
    issue = Issue("CS001", "n", "error", Place("\udcff.prototxt", 1), "", "m", "f")
    for name in FORMATS:
        text = render(Checked((issue.place.file,), (issue,)), name).encode().decode()
        assert {"sarif": "%FF", "json": "?"}.get(name, "\\xff") + ".prototxt" in text


def test_every_page_says_what_why_and_how_to_fix() -> None:
    for check in all_checks():
        assert check.summary.endswith("."), check.code
        assert "\nFix: " in check.page, check.code
        assert check.severity in ("info", "warning", "error")
    text = all_pages()
    assert all(f"## {check.code} {check.name}\n" in text for check in all_checks())


def test_rows_of_a_page_hold_no_fix_that_their_message_says() -> None:
    assert [row.fix for row in issue_rows(ISSUES, {})][1:] == ["less", ""]
