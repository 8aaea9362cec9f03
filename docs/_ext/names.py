"""Docstrings as this project writes them: sections in Google's style, and code between single backticks.

What stands between backticks links to what it names, where the site describes that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes
from sphinx.ext import napoleon
from sphinx.ext.napoleon.docstring import GoogleDocstring
from sphinx.util.docutils import SphinxRole
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from sphinx.application import Sphinx

NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*")


class Name(SphinxRole):
    """Never refuses: most of what stands between backticks is a word of the text around it."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        """The text as code, wrapped in a reference that may come to nothing."""
        code = nodes.literal(self.rawtext, self.text, classes=["code"])
        if not NAME.fullmatch(self.text):
            return [code], []
        context = {name: self.env.ref_context.get(name) for name in ("py:module", "py:class")}
        reference = addnodes.pending_xref(
            self.rawtext, code, refdomain="py", reftype="obj", reftarget=self.text, refdoc=self.env.docname, **context
        )
        return [reference], []


def _found_by_its_last_name(
    app: Sphinx, env: Any, node: addnodes.pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Annotations name classes as their modules import them: `JobSpec`, wherever that is described.

    What is described nowhere stays a word.
    """
    if node.get("refdomain") != "py":
        return None
    name, described = node["reftarget"].rpartition(".")[2], env.domains["py"].objects
    found = [full for full in described if full.rpartition(".")[2] == name and not described[full].aliased]
    if not name[:1].isupper() or len(found) != 1:
        return content
    entry = described[found[0]]
    return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, content, found[0])


def _sections(app: Sphinx, what: str, name: str, described: Any, options: Any, lines: list[str]) -> None:
    """Not in attributes and properties, where Napoleon takes the words before a colon for a type."""
    if what not in ("attribute", "data", "property"):
        lines[:] = GoogleDocstring(lines, napoleon.Config(), app, what, name, described, options).lines()


def _without_factories(*arguments: Any) -> tuple[str, str] | None:
    """A default that is made anew each time is no Python, and would keep the signature from being read."""
    called, returns = arguments[-2:]
    return (called.replace("<factory>", "..."), returns) if called else None


def _dashes(app: Sphinx, page: nodes.document) -> None:
    """Sphinx joins what is raised with why by two hyphens."""
    for text in [text for text in page.findall(nodes.Text) if text == " -- "]:
        text.parent.replace(text, nodes.Text(" – "))  # noqa: RUF001 - a dash


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_role("name", Name())
    app.connect("missing-reference", _found_by_its_last_name)
    app.connect("autodoc-process-docstring", _sections)
    app.connect("autodoc-process-signature", _without_factories)
    app.connect("doctree-read", _dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
