"""The checks' pages, as `caffestat explain` prints them and docs/checks.md holds them."""

from __future__ import annotations

from .registry import Check, Needs, all_checks

__all__ = ["all_pages", "page"]

_NEEDS = {
    Needs.TEXT: "the text",
    Needs.NET: "the net",
    Needs.PREDICTION: "the prediction",
    Needs.RUN: "a run (`--run`)",
}


def page(check: Check) -> str:
    """Return a check's section: code and name, severity, what it looks at, and its page."""
    facts = f"Severity: {check.severity}. Looks at {_NEEDS[check.needs]}."
    return f"## {check.code} {check.name}\n\n{facts}\n\n{check.page}"


def all_pages() -> str:
    """Return the sections of all checks."""
    return "\n\n".join(page(check) for check in all_checks()) + "\n"
