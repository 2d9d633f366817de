"""Every format: what it must hold, escapes, and what the schemas of SARIF and JUnit require."""

from __future__ import annotations

import json
from xml.etree import ElementTree

from caffestat.errors import Place
from caffestat.lint import FORMATS, Issue, all_checks, all_pages, render

ISSUES = [
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
    Issue("CS018", "uneven-steps", "info", Place("c.prototxt", 9, 0), "", "slow", "see the message"),
]
FILES = ["a,b/net 1.prototxt", "c.prototxt", "clean.prototxt"]


def test_text_is_one_line_per_finding_with_its_fix() -> None:
    lines = render(ISSUES[1:], FILES).splitlines()
    assert lines == [
        "c.prototxt:7:1: CS015 error: fc: boom [signal-explodes]",
        "    fix: less",
        "c.prototxt:9: CS018 info: slow [uneven-steps]",
        "3 files checked: 1 error, 1 info",
    ]
    assert render([], ["x"]) == "1 file checked: nothing found\n"


def test_json_holds_everything() -> None:
    data = json.loads(render(ISSUES, FILES, "json"))
    assert data["format_version"] == 1
    assert data["files"] == FILES
    assert [f["code"] for f in data["findings"]] == ["CS012", "CS015", "CS018"]
    assert data["findings"][1]["numbers"] == {"ratio": "inf"}
    assert data["findings"][0]["fixable"] is False


def test_github_commands_are_escaped() -> None:
    first, second, third = render(ISSUES, FILES, "github").splitlines()
    assert first == (
        "::warning file=a%2Cb/net 1.prototxt,line=12,col=3,title=CS012 msra-before-squashing"
        "::conv<1>: 100%25 wrong:%0Ayes. Fix: xavier"
    )
    assert second.startswith("::error file=c.prototxt,line=7,col=1,")
    assert third.startswith("::notice file=c.prototxt,line=9,title=")


def test_sarif_has_what_its_schema_requires() -> None:
    log = json.loads(render(ISSUES, FILES, "sarif"))
    assert set(log) == {"$schema", "version", "runs"}
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert run["tool"]["driver"]["name"] == "caffestat"
    assert len({rule["id"] for rule in rules}) == len(rules) == len(all_checks())
    for rule in rules:
        assert rule["defaultConfiguration"]["level"] in ("none", "note", "warning", "error")
        assert rule["shortDescription"]["text"]
        assert rule["help"]["text"]
    for result, issue in zip(run["results"], ISSUES, strict=True):
        assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == issue.code
        assert result["level"] in ("none", "note", "warning", "error")
        assert result["message"]["text"]
        place = result["locations"][0]["physicalLocation"]
        assert place["region"]["startLine"] == issue.place.line
        assert place["region"].get("startColumn", 1) >= 1
        assert " " not in place["artifactLocation"]["uri"]


def test_junit_has_one_case_per_file() -> None:
    suites = ElementTree.fromstring(render(ISSUES, FILES, "junit"))
    assert suites.tag == "testsuites"
    (suite,) = suites
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "2", "0")
    cases = list(suite)
    assert [case.get("name") for case in cases] == FILES
    assert all(case.get("classname") and case.get("time") for case in cases)
    failures = [case.findall("failure") for case in cases]
    assert [len(found) for found in failures] == [1, 1, 0]
    assert failures[1][0].get("message") == "2 findings"
    assert "boom" in (failures[1][0].text or "")


def test_every_format_takes_no_findings() -> None:
    for name in FORMATS:
        assert isinstance(render([], FILES, name), str)


def test_every_page_says_what_why_and_how_to_fix() -> None:
    for check in all_checks():
        assert check.summary.endswith("."), check.code
        assert "\nFix: " in check.page, check.code
        assert check.severity in ("info", "warning", "error")
    text = all_pages()
    assert all(f"## {check.code} {check.name}\n" in text for check in all_checks())
