"""Write docs/checks.md from the checks' own pages; with --check, only compare it."""

from __future__ import annotations

import sys
from pathlib import Path

from caffestat.lint import all_checks, all_pages

TARGET = Path(__file__).resolve().parent / "checks.md"

HEAD = """\
# Checks

Made by `python docs/generate_checks.py`; do not edit.

`caffestat check` looks for these; `caffestat explain CS012` prints a section. Codes and names are stable.
[ci.md](ci.md) shows how to fail a build with them, [theory.md](theory.md) where the predictions come from.

- `--select` and `--ignore` take codes (`CS012`), code prefixes (`CS01`) and names, separated by commas.
- `# caffestat: ignore[CS012] reason` in a layer, at its end or on the line above it silences a check for that layer;
  `# caffestat: ignore-file[CS012] reason` for the file. Several codes are separated by commas; without brackets, all.
- Limits are options of `caffestat check`, and keys of `[caffestat]` in `caffestat.cfg` or `[caffestat:check]` in
  `setup.cfg`.

| code | name | severity | |
|---|---|---|---|
"""


def text() -> str:
    """Return the page."""
    rows = [
        f"| {c.code} | [{c.name}](#{c.code.lower()}-{c.name}) | {c.severity} | {c.summary} |\n" for c in all_checks()
    ]
    return f"{HEAD}{''.join(rows)}\n{all_pages()}"


def main() -> int:
    """Write the page, or with --check compare it."""
    if "--check" in sys.argv[1:]:
        is_current = TARGET.read_text(encoding="utf-8") == text()
        print("" if is_current else f"{TARGET} is not current: run python docs/generate_checks.py", end="")
        return not is_current
    TARGET.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
