"""Opens pages in Debian's chromium.

Without a chromium these tests are skipped; with CAFFESTAT_BROWSER=required, as in .ci/run, they fail.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Opened:
    """A page in the browser, what went wrong on it, and what it asked the network for."""

    page: Any
    problems: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def wait(self, condition: str, seconds: float = 60) -> None:
        """Wait until a condition holds; Playwright's own way to wait is not allowed by the page's policy."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(condition):
            assert time.monotonic() < end, f"not within {seconds} s: {condition}; {self.problems}"
            self.page.wait_for_timeout(50)

    def keeps_charts_inside(self) -> bool:
        """Tell whether no chart is higher than its figure, so that it covers nothing."""
        inside = """[...document.querySelectorAll(".plot > *")].every(plot =>
            plot.getBoundingClientRect().bottom <= plot.closest("figure").getBoundingClientRect().bottom)"""
        return bool(self.page.evaluate(inside))

    def drawn(self) -> dict[str, Any]:
        """Return the state of the drawing."""
        return dict(self.page.evaluate("caffestat.state()"))

    def middle(self, row: int) -> tuple[float, float]:
        """Return the place of a layer on the screen; it has to be in view."""
        x, y = self.page.evaluate("row => caffestat.place(row)", row)
        box = self.page.locator("#canvas").bounding_box()
        return box["x"] + x, box["y"] + y


Open = Callable[..., Opened]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser, one for all tests."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        message = f"no browser: expected one of {', '.join(NAMES)} (Debian: apt-get install chromium)"
        if os.environ.get("CAFFESTAT_BROWSER") == "required":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def tab(chromium: Any) -> Any:
    """The tab that shows all pages, one after the other: a new one would have to compile the scripts of charts."""
    return chromium.new_page()


@pytest.fixture
def open_page(tab: Any, tmp_path: Path) -> Iterator[Open]:
    """Return `open(html, …)`: the page, once all its parts are there, in place of the one before."""
    with ExitStack() as listeners:

        def open_html(html: str, width: int = 1280, height: int = 900, color_scheme: str = "light") -> Opened:
            path = tmp_path / "page.html"
            path.write_text(html, encoding="utf-8")
            listeners.close()
            tab.goto("about:blank")
            tab.mouse.move(0, 0)
            tab.set_viewport_size({"width": width, "height": height})
            tab.emulate_media(media="null", color_scheme=color_scheme)
            opened = Opened(tab)
            listeners.enter_context(watched(opened))
            tab.goto(path.as_uri())
            opened.wait(READY)
            return opened

        yield open_html


READY = "document.body.dataset.ready && (document.body.dataset.charts || !document.querySelector('.plot'))"


@contextmanager
def watched(opened: Opened) -> Iterator[None]:
    """Record errors, and every request but the page's own."""
    listeners = {
        "console": lambda message: opened.problems.append(message.text) if message.type in BAD else None,
        "pageerror": lambda error: opened.problems.append(str(error)),
        "request": lambda request: opened.requests.append(request.url),
    }
    for event, listener in listeners.items():
        opened.page.on(event, listener)
    yield
    for event, listener in listeners.items():
        opened.page.remove_listener(event, listener)


BAD = ("error", "warning")
