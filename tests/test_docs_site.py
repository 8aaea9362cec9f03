"""The documentation site: it builds without a warning, asks nothing of anybody, and its reference is complete.

It is built once, by the command that docs/contributing.md tells people to type.
"""

from __future__ import annotations

import functools
import http.server
import importlib
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup, Tag

from domyn_swarm import JobSpec, errors
from domyn_swarm.jobspec import option_of
from tests.browser import Browser, browser
from tests.reader import ROOT, flags
from tests.test_structure import NODES

__all__ = ["browser"]

pytestmark = pytest.mark.stress


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built in a folder of its own."""
    command = re.findall(r"^\$ (sphinx-build .*) site$", (ROOT / "docs/contributing.md").read_text(), re.MULTILINE)
    built = tmp_path_factory.mktemp("built") / "site"
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *shlex.split(command[0])[1:], str(built)],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return built


@functools.cache
def parsed(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(), "html.parser")


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


@functools.cache
def ids(path: Path) -> set[str]:
    return {str(tag[name]) for name in ("id", "name") for tag in parsed(path).find_all(attrs={name: True})}


def test_the_site_builds_without_a_warning(site: Path) -> None:
    assert {"index.html", "search.html", "tutorial.html", "reference/api.html"} <= {
        path.relative_to(site).as_posix() for path in pages(site)
    }


def test_every_page_of_the_folder_is_on_the_site(site: Path) -> None:
    written = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    written |= {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.ipynb")}
    assert written <= {path.relative_to(site) for path in pages(site)}


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    loaded = [
        (path.name, str(tag[name]))
        for path in pages(site)
        for name in ("src", "srcset", "poster", "data", "href")
        for tag in parsed(path).find_all(attrs={name: True})
        if name != "href" or tag.name in ("link", "use", "image")
    ]
    styles = [(path.name, path.read_text()) for path in site.rglob("*.css")]
    styles += [(path.name, str(style)) for path in pages(site) for style in parsed(path).find_all("style")]
    reference = re.compile(r"(?:url\(|@import)\s*[\"']?([^\"')]+)")
    loaded += [(name, url) for name, style in styles for url in reference.findall(style)]
    assert loaded
    assert [one for one in loaded if urlsplit(one[1]).scheme not in ("", "data") or one[1].startswith("//")] == []


def test_every_link_within_the_site_leads_to_a_page_and_to_a_place_on_it(site: Path) -> None:
    broken = []
    for path in pages(site):
        for link in parsed(path).find_all("a", href=True):
            url = urlsplit(str(link["href"]))
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            if not target.is_file() or (url.fragment and unquote(url.fragment) not in ids(target)):
                broken.append((path.relative_to(site).as_posix(), str(link["href"])))
    assert broken == []


def test_no_page_tells_where_it_was_built(site: Path) -> None:
    assert [path.name for path in pages(site) if str(ROOT) in path.read_text()] == []


def test_the_table_of_options_has_each_field_of_the_spec_with_its_flags(site: Path) -> None:
    table = parsed(site / "reference/options.html").find("table")
    assert isinstance(table, Tag)
    cells = [row.find_all("td") for row in table.find_all("tr")[1:]]
    found = {row[1].get_text(strip=True): [code.get_text() for code in row[0].find_all("code")] for row in cells}
    assert found == {
        field: [part for flag in option_of(field).flags for part in flag.split("/")] or ["JOB"]
        for field in JobSpec.__struct_fields__
    }
    assert [row for row in cells if not all(cell.get_text(strip=True) for cell in row)] == []


@pytest.mark.parametrize("command", sorted(flags()))
def test_each_command_is_described_with_all_of_its_flags(site: Path, command: str) -> None:
    section = parsed(site / "reference/command-line.html").find(id=command.replace(" ", "-"))
    assert isinstance(section, Tag)
    known = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", section.get_text()))
    assert {flag for flag in flags()[command] if flag.startswith("-")} - known == set()


@pytest.mark.parametrize("module", ["domyn_swarm", "domyn_swarm.jobs"])
def test_each_public_name_is_in_the_reference(site: Path, module: str) -> None:
    public = [name for name in importlib.import_module(module).__all__ if not name.startswith("__")]
    described = ids(site / "reference/api.html")
    assert [name for name in public if not {f"{module}.{name}", f"domyn_swarm.{name}"} & described] == []


def _is_error(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def test_each_error_and_each_function_of_a_backend_is_in_the_reference(site: Path) -> None:
    base = importlib.import_module("domyn_swarm.data.backends.base")
    functions = [name for name in vars(base.DataBackend) if not name.startswith("_")]
    wanted = {f"{base.__name__}.DataBackend.{name}" for name in functions}
    wanted |= {f"domyn_swarm.errors.{name}" for name, value in vars(errors).items() if _is_error(value)}
    assert wanted - ids(site / "reference/api.html") == set()


def test_each_node_is_described(site: Path) -> None:
    headings = [heading.find(string=True) for heading in parsed(site / "reference/nodes.html").find_all("h2")]
    assert headings == [*NODES, "Inputs"]


# As a reader sees it


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    """The site, served on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_the_first_page_says_what_it_is_how_to_run_it_and_what_a_run_looks_like(address: str, browser: Browser) -> None:
    tab = browser.open(f"{address}/index.html")
    text = tab.text("article")
    assert "over every row of a parquet dataset" in text
    assert "domyn-swarm job submit" in text
    assert tab.page.locator("article img").evaluate_all("all => all.map(one => one.naturalWidth > 0)") == [True]
    assert tab.errors == []
    assert {urlsplit(url).netloc for url in tab.requests} == {urlsplit(address).netloc}


def test_search_finds_pages_options_and_names_and_asks_nobody(address: str, browser: Browser) -> None:
    for words, found in {
        "LongestTerm": "walkthroughs.html",
        "--max-tpm": "reference/command-line.html#cmdoption-domyn-swarm-job-submit-max-tpm",
        "EmbeddingJob": "reference/api.html#domyn_swarm.jobs.EmbeddingJob",
    }.items():
        tab = browser.open(f"{address}/index.html")
        tab.page.locator(".sidebar-search").fill(words)
        tab.page.locator(".sidebar-search").press("Enter")
        tab.page.locator(f'#search-results a[href^="{found}"]').first.wait_for()
        assert tab.errors == []
        assert {urlsplit(url).netloc for url in tab.requests} == {urlsplit(address).netloc}


def test_search_works_from_disk(site: Path, browser: Browser) -> None:
    tab = browser.open(f"{site.as_uri()}/search.html?q=LongestTerm")
    tab.page.locator('#search-results a[href^="walkthroughs.html"]').first.wait_for()


def test_no_page_is_wider_than_a_phone(site: Path, browser: Browser) -> None:
    tab = browser.open(f"{site.as_uri()}/index.html", width=390, height=844)
    wide = []
    for path in (path for path in pages(site) if "source" not in path.relative_to(site).parts):
        tab.page.goto(path.as_uri())
        if tab.page.evaluate("document.documentElement.scrollWidth") > 390:
            wide.append(path.relative_to(site).as_posix())
    assert wide == []


def test_it_is_dark_for_those_who_like_it_dark(site: Path, browser: Browser) -> None:
    grounds = [
        browser.open(f"{site.as_uri()}/reference/options.html", theme=theme).page.evaluate(
            "getComputedStyle(document.body).backgroundColor"
        )
        for theme in ("light", "dark")
    ]
    light, dark = ([int(part) for part in re.findall(r"\d+", ground)] for ground in grounds)
    assert min(light) > 200
    assert max(dark) < 60
