"""Adds to a Report what only a page shows: the source's text, and what `check` finds in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from caffestat import lint
from caffestat.lint import Issue
from caffestat.net.source import read_document
from caffestat.options import NetOptions, ValueOptions
from caffestat.program import NetFile
from caffestat.prototext import Document

from .model import Detail, IssueRow, Report

__all__ = ["issue_rows", "with_detail"]


def with_detail(report: Report, file: NetFile, options: NetOptions, values: ValueOptions) -> Report:
    """Return the report of a prototxt with the text of its net and the findings of all checks.

    The project's settings (caffestat.cfg) say which checks are made.
    """
    config = lint.find_config(Path.cwd())
    job = lint.Job(
        lint.selected(config.select, config.ignore),
        config.limits,
        severity=config.severity or "info",
        net=options,
        values=values,
    )
    text = file.text if file.text.name == file.source.name else read_document(file.source.name)
    documents = {document.name: document for document in (file.text, text)}
    issues = tuple(issue_rows(lint.check_opened(file, job), documents, report))
    return replace(report, detail=Detail(text.name, text_of(text), issues))


def text_of(document: Document) -> str:
    """Return the text; bytes that are no UTF-8 become the replacement character."""
    return bytes(document).decode("utf-8", "replace")


def issue_rows(
    issues: Iterable[Issue], documents: Mapping[str, Document], report: Report | None = None
) -> Iterable[IssueRow]:
    """Yield findings as plain data, each with its fix as a diff and, in a report, the layer that it is about.

    documents: the texts that the findings are about, by name; one without its text has no diff
    """
    for issue in issues:
        document = documents.get(issue.place.file)
        yield IssueRow(
            issue.code,
            issue.name,
            issue.severity,
            issue.place.file,
            issue.place.line,
            issue.layer,
            issue.message,
            issue.advice,
            lint.diff_of(issue, document) if document else "",
            report.row_of(issue.layer, issue.place.line) if report else None,
        )
