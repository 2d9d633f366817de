"""Findings as a JUnit report: a file is a test case, which fails with what was found in it."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

from ..issue import Issue

__all__ = ["render"]

_INVALID = {code: "?" for code in range(32) if chr(code) not in "\t\n\r"}


def render(issues: Sequence[Issue], files: Sequence[str]) -> str:
    """Return a test suite with one test case per file."""
    failing = {issue.place.file for issue in issues}
    names = [*files, *sorted(failing - set(files))]
    counts = {
        "name": "caffestat check",
        "tests": str(len(names)),
        "failures": str(len(failing)),
        "errors": "0",
        "skipped": "0",
        "time": "0",
    }
    suites = ElementTree.Element("testsuites", counts)
    suite = ElementTree.SubElement(suites, "testsuite", counts)
    for name in names:
        case = ElementTree.SubElement(suite, "testcase", name=_text(name), classname="caffestat.check", time="0")
        found = [issue for issue in issues if issue.place.file == name]
        if found:
            _add_failure(case, found)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=True) + "\n"


def _add_failure(case: ElementTree.Element, issues: Sequence[Issue]) -> None:
    summary = f"{len(issues)} finding{'' if len(issues) == 1 else 's'}"
    failure = ElementTree.SubElement(case, "failure", message=summary, type=issues[0].code)
    failure.text = _text(
        "\n".join(f"{i.place}: {i.code} {i.severity}: {i.layer}: {i.message}. Fix: {i.fix}" for i in issues)
    )


def _text(text: str) -> str:
    return text.translate(_INVALID)
