"""A few cases of each kind, always the same; `make fuzz` runs others for as long as it is told to."""

from __future__ import annotations

from pathlib import Path

import pytest

from .corpus import KINDS, case
from .promises import broken


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_promises(kind: str, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert list(broken(case(kind, seed), tmp_path)) == []


def test_a_broken_promise_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("caffestat.program.opening.source_of", lambda _: {}["absent"])
    assert any("KeyError: 'absent'" in problem for problem in broken(case("images", 0), tmp_path))


def test_cases_are_the_same_every_time() -> None:
    for kind in KINDS:
        first, again = case(kind, 5), case(kind, 5)
        assert (first.files, first.commands) == (again.files, again.commands)
        assert case(kind, 6).files != first.files
