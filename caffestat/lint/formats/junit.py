"""Findings as a JUnit report: a file is a test case, which fails with what was found in it; infos alone are output.

The element order and the attributes are those on which the schemas of Jenkins' xunit plugin (junit-10.xsd) and of Ant
agree: Ant's wants everything that a suite may say, and nothing about all suites together.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from caffestat.escape import shown_error, visible

from ..issue import Issue

if TYPE_CHECKING:
    from ..run import Checked, Unchecked

__all__ = ["render"]


def render(checked: Checked) -> str:
    """Return one test suite with a test case per file: passed, failed or, where it could not be checked, an error."""
    found = _by_file(checked.issues)
    errors = {unchecked.file: unchecked for unchecked in checked.errors}
    names = list(dict.fromkeys([*checked.files, *found]))  # a solver's findings are in its net's file
    suites = ElementTree.Element("testsuites")
    failures = {issue.place.file for issue in checked.issues if issue.severity != "info"}
    suite = ElementTree.SubElement(suites, "testsuite", _facts(len(names), len(failures), len(errors)))
    ElementTree.SubElement(suite, "properties")
    for name in names:
        case = ElementTree.SubElement(suite, "testcase", name=visible(name), classname="caffestat.check", time="0")
        if name in failures:
            _add_failure(case, found[name])
        elif name in errors:
            _add_error(case, errors[name])
    infos = [issue for name in names if name not in failures for issue in found.get(name, ())]
    ElementTree.SubElement(suite, "system-out").text = "\n".join(map(_line, infos))
    ElementTree.SubElement(suite, "system-err")
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _by_file(issues: Sequence[Issue]) -> dict[str, list[Issue]]:
    found: dict[str, list[Issue]] = {}
    for issue in issues:
        found.setdefault(issue.place.file, []).append(issue)
    return found


def _facts(tests: int, failures: int, errors: int) -> dict[str, str]:
    counts = {"tests": tests, "failures": failures, "errors": errors, "skipped": 0, "time": 0, "id": 0}
    return {
        "name": "caffestat check",
        "package": "caffestat",
        "hostname": "localhost",
        "timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S"),
        **{name: str(count) for name, count in counts.items()},
    }


def _add_failure(case: ElementTree.Element, issues: Sequence[Issue]) -> None:
    summary = f"{len(issues)} finding{'' if len(issues) == 1 else 's'}"
    failure = ElementTree.SubElement(case, "failure", message=summary, type=issues[0].code)
    failure.text = "\n".join(map(_line, issues))


def _line(issue: Issue) -> str:
    return visible(f"{issue.place}: {issue.code} {issue.severity}: {issue.text}")


def _add_error(case: ElementTree.Element, unchecked: Unchecked) -> None:
    kind = type(unchecked.error).__name__
    error = ElementTree.SubElement(case, "error", message="cannot be checked", type=kind)
    error.text = shown_error(unchecked.error)
