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
_BROWSER = pytest.StashKey["Browser"]()


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
    """Opens pages. Those with the same options share a profile: another one takes a second of CPU."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium
        self._contexts: dict[str, Any] = {}
        self._pages: list[Any] = []

    def open(
        self, url: str, *, width: int = 1200, height: int = 900, theme: Literal["light", "dark"] = "light", **more: Any
    ) -> Tab:
        """A page that has loaded. `more` are options of Playwright's `new_context`."""
        size = {"width": width, "height": height}
        options = {"viewport": size, "color_scheme": theme, **more}
        if str(options) not in self._contexts:
            self._contexts[str(options)] = self._chromium.new_context(**options)
            self._contexts[str(options)].set_default_timeout(10_000)
        tab = Tab(self._contexts[str(options)].new_page())
        self._pages.append(tab.page)
        tab.page.on("console", lambda said: said.type == "error" and tab.errors.append(said.text))
        tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
        tab.page.on("request", lambda request: tab.requests.append(request.url))
        tab.page.goto(url)
        return tab

    def close_pages(self) -> None:
        """Close what was opened."""
        while self._pages:
            self._pages.pop().close()


@pytest.fixture
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    """Opens pages, and closes them after the test. Chromium starts once for each module of tests."""
    module = request.node.getparent(pytest.Module)
    if _BROWSER not in module.stash:
        module.stash[_BROWSER] = Browser(_launch(module))
    opened = module.stash[_BROWSER]
    yield opened
    opened.close_pages()


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
