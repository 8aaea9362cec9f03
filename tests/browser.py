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

    def listen(self, on: bool = True) -> None:
        """Begin to write down what goes on, or end it."""
        set_listener = self.page.on if on else self.page.remove_listener
        set_listener("console", self._console)
        set_listener("pageerror", self._error)
        set_listener("request", self._request)

    def _console(self, said: Any) -> None:
        if said.type == "error":
            self.errors.append(said.text)

    def _error(self, error: Any) -> None:
        self.errors.append(str(error))

    def _request(self, request: Any) -> None:
        self.requests.append(request.url)

    def text(self, selector: str) -> str:
        """What a reader sees of an element."""
        return self.page.locator(selector).inner_text()


class Browser:
    """Opens pages, in tabs that are used again: a new tab takes a second of CPU, a new profile another one."""

    def __init__(self, chromium: Any) -> None:
        self._chromium = chromium
        self._profiles: dict[str, Any] = {}
        self._free: dict[str, list[Any]] = {}
        self._tabs: list[tuple[str, Tab]] = []

    def open(
        self,
        url: str,
        *,
        width: int = 1200,
        height: int = 900,
        theme: Literal["light", "dark"] = "light",
        motion: Literal["reduce", "no-preference"] = "no-preference",
        **more: Any,
    ) -> Tab:
        """A page that has loaded. `more` are options of Playwright's `new_context`."""
        profile = str(more)
        free = self._free.setdefault(profile, [])
        page = free.pop() if free else self._profile(profile, more).new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(media="null", color_scheme=theme, reduced_motion=motion)
        tab = Tab(page)
        self._tabs.append((profile, tab))
        tab.listen()
        page.goto(url)
        return tab

    def _profile(self, name: str, options: dict[str, Any]) -> Any:
        if name not in self._profiles:
            self._profiles[name] = self._chromium.new_context(**options)
            self._profiles[name].set_default_timeout(10_000)
        return self._profiles[name]

    def close_pages(self) -> None:
        """Leave what was opened."""
        while self._tabs:
            profile, tab = self._tabs.pop()
            if not tab.page.is_closed():
                tab.listen(False)
                tab.page.goto("about:blank")
                self._free[profile].append(tab.page)


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
