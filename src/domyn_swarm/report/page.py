"""The report of a run as one self-contained HTML page with style, script and data."""

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
    """Render the page.

    Args:
        report: Everything that it shows.
        picture: The graph as SVG, with nodes as groups with the id `node-<name>`. If empty, the page's script draws it.
        live: Whether the page queries its server for updates, single rows and failures.
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
    """The Content-Security-Policy: only this script may run, and a live page may query its own server."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = ["default-src 'none'", f"script-src 'sha256-{digest}'", "style-src 'unsafe-inline'", "img-src data:"]
    asks = ["connect-src 'self'"] if live else []
    return "; ".join([*allowed, *asks, "base-uri 'none'", "form-action 'none'"])


def _asset(name: str) -> str:
    return files("domyn_swarm.report").joinpath("assets", name).read_text(encoding="utf-8")
