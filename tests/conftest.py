"""What all tests share: expected outputs that one command writes anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Check = Callable[[str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--refresh", action="store_true", help="write the expected outputs anew instead of comparing")


@pytest.fixture
def check_output(request: pytest.FixtureRequest) -> Check:
    """Return `check(name, text)`: the text must equal the file `expected/<name>` beside the test (`make golden`)."""

    def check(name: str, text: str) -> None:
        path = request.path.parent / "expected" / name
        if request.config.getoption("--refresh"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8")

    return check


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout's folder."""
    return Path(__file__).resolve().parent.parent
