"""Links to files of the repository lead to pages of the site that show them, so that they work here as on GitHub.

Every module of `src` and `dags` has such a page, and so has whatever else a page links to. Some files are pages of
their own already; `PAGES` names these.
"""

from __future__ import annotations

import importlib
import inspect
import operator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index",
    "CHANGELOG.md": "changelog",
    "CONTRIBUTING.md": "contributing",
    "docs": "index",
    "docs/adr": "adr/README",
    "docs/notebooks": "index",
    "tests/benchmarks/README.md": "benchmarks",
}
LANGUAGES = {".py": "python", ".toml": "toml", ".md": "markdown", ".json": "json"}


class FileLinks(SphinxTransform):
    """Make references to files that are no pages lead to the pages that show them."""

    default_priority = 5

    def apply(self, **_: Any) -> None:
        """What MyST takes for a download, a page or a name that it does not know may be a path."""
        kinds = (addnodes.download_reference, addnodes.pending_xref)
        for node in [node for kind in kinds for node in self.document.findall(kind)]:
            if node.get("reftype") == "myst":
                self._lead(node)

    def _lead(self, node: nodes.Element) -> None:
        target, _, anchor = str(node["reftarget"]).partition("#")
        path = self._path(f"{target}.md" if node.get("refdomain") == "doc" else target)
        if not path or (path.is_relative_to(ROOT / "docs") and path.is_file()):
            return
        name, anchor = path.relative_to(ROOT).as_posix(), anchor or node.get("reftargetid") or ""
        if name not in PAGES:
            linked_from(self.env).setdefault(self.env.docname, set()).add(name)
        uri = self.env.app.builder.get_relative_uri(self.env.docname, PAGES.get(name) or page_of(name))
        uri += f"#{anchor}" if anchor else ""
        node.replace_self(nodes.reference("", "", *node.children, internal=True, refuri=uri))

    def _path(self, target: str) -> Path | None:
        """What `target`, a path from the page, is in the repository."""
        path = (Path(self.document["source"]).parent / target).resolve()
        return path if target and path.exists() and path.is_relative_to(ROOT) else None


class PictureLinks(SphinxTransform):
    """Make pictures of reports lead to all of them: the page shows their beginning."""

    default_priority = 5

    def apply(self, **_: Any) -> None:
        """Sphinx links pictures that have a width."""
        for picture in self.document.findall(nodes.image):
            if picture["uri"].endswith(".png"):
                picture["width"] = "100%"


def page_of(name: str) -> str:
    """The page that shows the file or folder `name`, a path from the repository's root."""
    return f"source/{name}"


def linked_from(env: BuildEnvironment) -> dict[str, set[str]]:
    """Page -> the files that it links to."""
    if not hasattr(env, "domyn_linked_files"):
        env.domyn_linked_files = {}
    linked: dict[str, set[str]] = env.domyn_linked_files
    return linked


def link_of(domain: str, info: dict[str, str]) -> str | None:
    """Where the source of a documented object is shown, seen from a page under `reference/`."""
    try:
        found = operator.attrgetter(info["fullname"])(importlib.import_module(info["module"]))
        found = inspect.unwrap(found.fget if isinstance(found, property) else found)
        path = Path(inspect.getsourcefile(found) or "").relative_to(ROOT)
        return f"../{page_of(path.as_posix())}.html#L-{inspect.getsourcelines(found)[1]}"
    except (AttributeError, TypeError, ValueError, OSError):  # data, fields, what others made
        return None


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    names = {path.relative_to(ROOT).as_posix() for room in ("src", "dags") for path in (ROOT / room).rglob("*.py")}
    names |= {name for linked in linked_from(app.env).values() for name in linked}
    names |= {path.relative_to(ROOT).as_posix() for name in names for path in _files(ROOT / name)}
    for name in sorted(names):
        content = _listed(name) if (ROOT / name).is_dir() else _shown(app, name)
        body = f'<h1>{name}</h1><div class="source">{content}</div>'
        yield page_of(name), {"title": name, "body": body}, "page.html"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def _shown(app: Sphinx, name: str) -> str:
    path = ROOT / name
    language = LANGUAGES.get(path.suffix, "text")
    text = path.read_text()
    return app.builder.highlighter.highlight_block(text, language, lineanchors="L", linenos=False)  # type: ignore[attr-defined]


def _listed(name: str) -> str:
    items = (f'<li><a href="{Path(name).name}/{path.name}.html">{path.name}</a></li>' for path in _files(ROOT / name))
    return f"<ul>{''.join(sorted(items))}</ul>"


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_transform(FileLinks)
    app.add_transform(PictureLinks)
    app.connect("env-purge-doc", lambda app, env, page: linked_from(env).pop(page, None))
    app.connect("env-merge-info", lambda app, env, pages, other: linked_from(env).update(linked_from(other)))
    app.connect("html-collect-pages", _pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
