"""SARIF and JUnit reports against their schemas, and against what GitHub's code scanning and Ant want beyond them."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from jsonschema import Draft7Validator

from caffestat import api
from caffestat.errors import InputError, Place, PrototextError
from caffestat.lint import Checked, Issue, Unchecked, all_checks, render, to_baseline

from .nets import CONV, DATA, FC, LOSS

SCHEMAS = Path(__file__).parent / "schemas"
SARIF = Draft7Validator(
    json.loads((SCHEMAS / "sarif-2.1.0.json").read_text(encoding="utf-8")),
    format_checker=Draft7Validator.FORMAT_CHECKER,
)


@cache
def junit_schema() -> Any:
    """Return the schema of JUnit's reports: reading it takes half a second, in each process of the tests."""
    import xmlschema

    return xmlschema.XMLSchema(SCHEMAS / "junit-10.xsd")


NASTY = '<a href="x">&amp;]]>\'\x00\x01\x1b\x7f\x85\u2028\ufffe\uffff\udcff\t\r\n ü 漢 🎉 {0} [1](2) %'


def issue(code: str, file: str = "n.prototxt", line: int = 3, column: int = 5, text: str = "x") -> Issue:
    """Return a finding of a check, `text` in all that it says; a message is never empty."""
    return Issue(code, text, "warning", Place(file, line, column), text, text or "x", text, {"n": float("nan")})


def every_code() -> tuple[Issue, ...]:
    """Return a finding of each check, with its severity."""
    return tuple(Issue(c.code, c.name, c.severity, Place("n.prototxt", 1, 1), "l", "m", "f") for c in all_checks())


def one(found: Issue) -> Checked:
    return Checked((found.place.file,), (found,))


CASES = {
    "no files": Checked((), ()),
    "nothing found": Checked(("n.prototxt",), ()),
    "every code": Checked(("n.prototxt",), every_code()),
    "many findings": Checked(("a", "b"), tuple(issue("CS001", "ab"[n % 2], n + 1) for n in range(500))),
    "no line": one(issue("CS001", line=0, column=0)),
    "no column": one(issue("CS001", column=0)),
    "nothing said": one(issue("CS001", text="")),
    "nasty texts": one(issue("CS001", text=NASTY)),
    "nasty name": one(issue("CS001", file=NASTY.replace("\x00", ""))),
    "spaces": one(issue("CS001", "a b/c d.prototxt")),
    "parent folder": one(issue("CS001", "../../x/../n.prototxt")),
    "absolute": one(issue("CS001", "/srv/nets/n 1.prototxt")),
    "backslashes": one(issue("CS001", "C:\\nets\\n.prototxt")),
    "a net beside its solver": Checked(("solver.prototxt",), (issue("CS001", "net.prototxt"),)),
    "a file named twice": Checked(("n.prototxt", "n.prototxt"), (issue("CS001"),)),
    "unreadable": Checked(
        ("gone", "bad", "n.prototxt"),
        (issue("CS001"),),
        (Unchecked("gone", InputError(NASTY)), Unchecked("bad", PrototextError(NASTY, Place("bad", 2, 1)))),
    ),
}
cases = pytest.mark.parametrize("checked", CASES.values(), ids=CASES)


def sarif(checked: Checked) -> Any:
    """Return the SARIF report, once it fits its schema."""
    log = json.loads(render(checked, "sarif").encode())
    SARIF.validate(log)
    return log


def junit(checked: Checked) -> ElementTree.Element:
    """Return the one suite of the JUnit report, once it fits its schema."""
    text = render(checked, "junit")
    junit_schema().validate(text)
    (suite,) = ElementTree.fromstring(text.encode())
    return suite


@cases
def test_sarif_fits_its_schema(checked: Checked) -> None:
    (run,) = sarif(checked)["runs"]
    assert len(run["results"]) == len(checked.issues)


@cases
def test_sarif_holds_what_code_scanning_requires(checked: Checked) -> None:
    """The properties that GitHub's page on SARIF support marks as required: present, and not empty.

    The ends of regions are left out: SARIF then takes the rest of the line, and code scanning as well.
    """
    log = sarif(checked)
    assert log["$schema"] == "https://json.schemastore.org/sarif-2.1.0.json"
    (run,) = log["runs"]
    for rule in run["tool"]["driver"]["rules"]:
        assert rule["id"] and rule["help"]["text"]
        assert 0 < len(rule["shortDescription"]["text"]) <= 1024
        assert 0 < len(rule["fullDescription"]["text"]) <= 1024
        assert len(rule["name"]) <= 255
    for result in run["results"]:
        assert result["message"]["text"] and result["partialFingerprints"]
        (location,) = result["locations"]
        place = location["physicalLocation"]
        assert place["region"]["startLine"] >= 1 and place["region"]["startColumn"] >= 1
        uri = place["artifactLocation"]["uri"]
        assert uri.startswith("file:///") != ("uriBaseId" in place["artifactLocation"])
        assert not re.search(r"(^|/)\.\.?(/|$)|[\\ ]", uri)


@cases
def test_junit_fits_its_schema(checked: Checked) -> None:
    suite = junit(checked)
    found = {"tests": "testcase", "failures": "testcase/failure", "errors": "testcase/error"}
    assert {name: int(suite.attrib[name]) for name in found} == {n: len(suite.findall(p)) for n, p in found.items()}


@cases
def test_junit_has_what_the_schema_of_ant_wants(checked: Checked) -> None:
    suite = junit(checked)
    wanted = {"name", "package", "id", "timestamp", "hostname", "tests", "failures", "errors", "time"}
    assert set(suite.attrib) - {"skipped"} == wanted
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.attrib["timestamp"])
    tags = [child.tag for child in suite]
    assert tags == ["properties", *["testcase"] * len(suite.findall("testcase")), "system-out", "system-err"]
    for case in suite.findall("testcase"):
        assert set(case.attrib) == {"name", "classname", "time"}
        assert len(case) <= 1 and all("type" in child.attrib for child in case)
    assert ElementTree.fromstring(render(checked, "junit").encode()).attrib == {}


def test_texts_come_back_or_are_escaped() -> None:
    text = junit(CASES["nasty texts"]).findtext("testcase/failure") or ""
    assert r"]]>'\x00\x01\x1b\x7f\x85\u2028\ufffe\uffff\xff\t\r\n ü 漢 🎉 {0} [1](2) %" in text
    assert '<a href="x">&amp;]]>' in text
    message = sarif(CASES["nasty texts"])["runs"][0]["results"][0]["message"]["text"]
    assert NASTY.replace("\udcff", "?").replace("](", "\\](") in message


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("version",), "2.0.0"),
        (("runs", 0, "results", 0, "level"), "info"),
        (("runs", 0, "results", 0, "locations", 0, "physicalLocation", "region", "startLine"), 0),
        (("runs", 0, "results", 0, "locations", 0, "physicalLocation", "artifactLocation", "uri"), "a b"),
        (("runs", 0, "invocations", 0), {}),
    ],
)
def test_the_validator_refuses_what_is_wrong(path: tuple[Any, ...], value: Any) -> None:
    log = sarif(CASES["every code"])
    inner = log
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert not SARIF.is_valid(log)


def test_silenced_and_known_findings_are_in_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Services show every result that a report holds, those marked as suppressed or unchanged too."""
    monkeypatch.chdir(tmp_path)
    silenced = CONV("c", "x", "").replace("\n", "  # caffestat: ignore\n", 1)
    Path("n.prototxt").write_text(DATA + silenced + FC("f", "c", "") + LOSS.format("f"), encoding="utf-8")
    checked = api.check("n.prototxt", select=["missing-filler"])
    (result,) = sarif(checked)["runs"][0]["results"]
    assert result["locations"][0]["logicalLocations"][0]["name"] == "f"
    Path("known.json").write_text(to_baseline(checked.issues), encoding="utf-8")
    known = api.check("n.prototxt", select=["missing-filler"], baseline="known.json")
    assert sarif(known)["runs"][0]["results"] == []
    assert junit(known).findall("testcase/failure") == []


def test_files_that_cannot_be_read_are_told_and_the_others_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("broken.prototxt").write_text('layer {\n  name: "a', encoding="utf-8")
    Path("n.prototxt").write_text(DATA + FC("f", "x", "") + LOSS.format("f"), encoding="utf-8")
    checked = api.check(["broken.prototxt", "gone.prototxt", "n.prototxt"], select=["missing-filler"])
    (run,) = sarif(checked)["runs"]
    assert run["invocations"][0]["executionSuccessful"] is False
    notes = run["invocations"][0]["toolExecutionNotifications"]
    regions = [note["locations"][0]["physicalLocation"]["region"] for note in notes]
    assert [region["startLine"] for region in regions] == [2, 1]
    assert [result["ruleId"] for result in run["results"]] == ["CS005"]
    children = [[child.tag for child in case] for case in junit(checked).findall("testcase")]
    assert children == [["error"], ["error"], ["failure"]]
