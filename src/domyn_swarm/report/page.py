"""The report of a run as one HTML page that needs nothing else: style, script and data stand in it."""

from __future__ import annotations

import base64
import hashlib
import html
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from domyn_swarm.report.model import Report

SCRIPTS = ("elements.js", "graph.js", "charts.js", "report.js")


def render(report: Report, picture: str = "", *, live: bool = False) -> str:
    """The page.

    Args:
        report: Everything that it shows.
        picture: The graph as SVG, nodes as groups with the id `node-<name>`. Without one the page draws it itself.
        live: Whether it asks the server that it comes from for news, for single rows and for failures.
    """
    script = "\n".join(['"use strict";', *map(_asset, SCRIPTS)])
    shown = msgspec.json.encode({"report": report, "picture": picture, "live": live}).decode()
    return Template(_asset("report.html")).substitute(
        policy=_policy(script, live=live),
        title=html.escape(f"{report.job}: {report.state}"),
        style=_asset("report.css"),
        data=shown.replace("<", "\\u003c"),
        script=script,
    )


def _policy(script: str, *, live: bool) -> str:
    """What a browser lets the page do: run this very script, and when it is live ask its own server."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = ["default-src 'none'", f"script-src 'sha256-{digest}'", "style-src 'unsafe-inline'", "img-src data:"]
    asks = ["connect-src 'self'"] if live else []
    return "; ".join([*allowed, *asks, "base-uri 'none'", "form-action 'none'"])


def _asset(name: str) -> str:
    return files("domyn_swarm.report").joinpath("assets", name).read_text(encoding="utf-8")
