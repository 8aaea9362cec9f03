"""A real browser without a window, for tests of pages: `from tests.browser import browser`.

Tests skip without a Chromium on PATH; in CI, where the variable `CI` is set, they fail.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
_CHROMIUM = pytest.StashKey[Any]()


@dataclass
class Tab:
    """An open page, and what went on in it: console errors and exceptions, and the address of every request."""

    page: Any
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def text(self, selector: str) -> str:
        """What a reader sees of an element."""
        return self.page.locator(selector).inner_text()


class Browser:
    """Opens pages, each in a profile of its own."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium
        self._contexts: list[Any] = []

    def open(
        self, url: str, *, width: int = 1200, height: int = 900, theme: Literal["light", "dark"] = "light", **more: Any
    ) -> Tab:
        """A page that has loaded. `more` are options of Playwright's `new_context`."""
        size = {"width": width, "height": height}
        context = self._chromium.new_context(viewport=size, color_scheme=theme, **more)
        context.set_default_timeout(10_000)
        self._contexts.append(context)
        tab = Tab(context.new_page())
        tab.page.on("console", lambda said: said.type == "error" and tab.errors.append(said.text))
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.page.on("request", lambda request: tab.requests.append(request.url))
        tab.page.goto(url)
        return tab

    def close(self) -> None:
        """Close what was opened."""
        for context in self._contexts:
            context.close()


@pytest.fixture
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """Opens pages, and closes them after the test. Chromium starts once for each module of tests."""
    module = request.node.getparent(pytest.Module)
    if _CHROMIUM not in module.stash:
        module.stash[_CHROMIUM] = _launch(module)
    opened = Browser(module.stash[_CHROMIUM])
    yield opened
    opened.close()


def _launch(module: pytest.Module) -> Any:
    """Not for the whole session: while Playwright is started, `asyncio.run` refuses to work in this thread."""
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        give_up = pytest.fail if os.environ.get("CI") else pytest.skip
        give_up(f"No Chromium on PATH ({', '.join(NAMES)}). On Debian: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    playwright = sync_playwright().start()
    module.addfinalizer(playwright.stop)
    chromium = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
    module.addfinalizer(chromium.close)
    return chromium
