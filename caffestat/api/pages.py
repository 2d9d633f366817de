"""The pages of `check`, `diagnose`, `compare` and `train`: what they find as HTML files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caffestat.errors import CaffestatError

from .analyze import analyze
from .compare import NETS, passes_of_both

if TYPE_CHECKING:
    from caffestat.lint import Checked
    from caffestat.logs import Diagnosis
    from caffestat.prototext import Document
    from caffestat.report import Report
    from caffestat.report.comparison import Comparison
    from caffestat.report.history import History

__all__ = ["check_page", "compare_page", "diagnose_page", "training_page"]


def check_page(checked: Checked, **options: Any) -> str:
    """Return what was checked as a page; of a single file with its net drawn, and predictions.

    options: `phase`, `level`, `stages`, `shapes`, `batch`, `dialect`, `dims` of `analyze`
    """
    from caffestat.report.detail import issue_rows, text_of
    from caffestat.report.html.from_check import render_check
    from caffestat.report.model import IssueRow

    named = dict.fromkeys((*checked.files, *(issue.place.file for issue in checked.issues)))
    documents = {name: document for name in named if (document := _document(name))}
    report = _report(checked.files[0], predict=True, **options) if len(checked.files) == 1 else None
    broken = [
        IssueRow("", "unreadable", "error", one.place.file, one.place.line, "", one.message, "")
        for one in checked.errors
    ]
    texts = {name: text_of(document) for name, document in documents.items()}
    if report and report.detail:  # of a solver: the net comes first, whose lines the layers name
        texts = {report.detail.file: report.detail.text, **texts}
    issues = [*broken, *issue_rows(checked.issues, documents, report)]
    return render_check(checked.files, issues, list(texts.items()), report)


def _document(name: str) -> Document | None:
    """Return a file's text; None for one that is no prototxt that can be read."""
    from caffestat.net.source import read_document

    try:
        return read_document(name) if Path(name).is_file() else None
    except CaffestatError:
        return None


def _report(path: str | None, **options: Any) -> Report | None:
    """Return a report of a net that is not run; None without a net, and of one that cannot be built."""
    try:
        return analyze(path, static=True, detail=True, **options) if path and path != "-" else None
    except CaffestatError:
        return None


def diagnose_page(
    log: str | Path, *, net: str | Path | None = None, growth: float = 1e3, **options: Any
) -> tuple[Diagnosis, str]:
    """Return what `diagnose` finds in a log, and a page about it; the parameters are those of `diagnose`."""
    from caffestat import logs
    from caffestat.options import NetOptions
    from caffestat.report.history import History, diagnosis_rows
    from caffestat.report.html.from_history import render_history

    history, path = History(), None if net is None else str(net)
    settings = NetOptions(**{"shapes": {}, **options})
    found = logs.diagnose_log(str(log), path, growth, settings, watch=history.follow_log)
    span = f"{found.passes} passes of the train net, {found.tests} of test nets"
    rows = list(diagnosis_rows(found, str(log)))
    return found, render_history(history, str(log), rows, _report(path, **options), [span])


def training_page(history: History, path: str, **options: Any) -> str:
    """Return the page of a training run that a history followed; `options` are those of `analyze`."""
    from caffestat.report.history import alert_rows
    from caffestat.report.html.from_history import render_history

    return render_history(history, path, list(alert_rows(history.alerts, path)), _report(path, **options))


def compare_page(a: str | Path, b: str | Path, *, rtol: float = 1e-3, atol: float = 1e-9) -> tuple[Comparison, str]:
    """Return how A and B differ, and a page about it; the parameters are those of `compare`."""
    from caffestat.report.comparison import compare
    from caffestat.report.history import History
    from caffestat.report.html.from_comparison import render_comparison

    histories = History(), History()
    of_a, of_b = passes_of_both(str(a), str(b))
    found = compare(str(a), str(b), histories[0].follow_log(of_a), histories[1].follow_log(of_b), rtol, atol)
    return found, render_comparison(found, histories, _report(_net_of(str(a), str(b))))


def _net_of(*paths: str) -> str | None:
    """Return the first that is a net."""
    nets: Sequence[str] = [path for path in paths if path.endswith(NETS)]
    return nets[0] if nets else None
