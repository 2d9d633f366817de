"""`explain`: the pages of checks."""

from __future__ import annotations

__all__ = ["explain"]


def explain(*codes: str) -> str:
    """Return the pages of checks: what each looks for, why, an example and the fix; without codes, list all.

    codes: codes or names. Raises InputError for one that no check has.
    """
    from caffestat import lint

    if codes:
        return "\n\n".join(lint.page(lint.find_check(code)) for code in codes)
    return "\n".join(f"{c.code}  {c.name:<22} {c.severity:<8} {c.summary}" for c in lint.all_checks())
