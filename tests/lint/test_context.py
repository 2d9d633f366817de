"""What of a prediction is made: as much as the checks of a net ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffestat.analysis import Predictor
from caffestat.lint import Job, check_file, selected

from .nets import ACT, CONV, DATA, FC, LOSS


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The parts of predictions that were made."""
    found = []
    for part in ("_walk", "prediction"):
        make = vars(Predictor)[part].func

        def noted(predictor: Predictor, part: str = part, make: object = make) -> object:
            found.append(part)
            return make(predictor)  # type: ignore[operator]

        monkeypatch.setattr(Predictor, part, property(noted))
    return found


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (DATA + CONV("c", "x") + ACT("ReLU", "c"), set()),
        (DATA + CONV("c", "x", "") + FC("fc", "c") + LOSS.format("fc"), {"_walk"}),
        (DATA + CONV("c", "x") + FC("fc", "c") + LOSS.format("fc"), {"_walk", "prediction"}),
    ],
    ids=["no-loss", "no-filler", "trained"],
)
def test_only_what_a_check_asks_for_is_predicted(tmp_path: Path, made: list[str], text: str, parts: set[str]) -> None:
    path = tmp_path / "net.prototxt"
    path.write_text(text)
    check_file(str(path), Job(selected((), ())))
    assert set(made) == parts
