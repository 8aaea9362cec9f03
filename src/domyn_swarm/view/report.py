"""The report of a run: read from what the run wrote down, drawn, and left in its folder."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from domyn_swarm.checkpoint import lock
from domyn_swarm.errors import ConfigurationError, MissingDependencyError
from domyn_swarm.helpers.io import whole_file
from domyn_swarm.view.model import Graph, Report
from domyn_swarm.view.page import render
from domyn_swarm.view.picture import dot_of, draw

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.folder import RunFolder

QUIET_SECONDS = 60.0
"""Without a word for so long, a run on another machine is taken to be gone."""


def report_of(folder: RunFolder) -> Report:
    """The report of the run in `folder`, as it is now.

    Raises:
        ConfigurationError: the run wrote down too little: it began with an earlier version, or never began.
    """
    try:
        report = msgspec.convert(folder.load("run.json"), Report)
    except msgspec.ValidationError:
        raise ConfigurationError(
            f"{folder.path} tells too little of its run for a report.",
            f"It is there once the run has begun, with this version. What finished: checkpoint inspect {folder.path}",
        ) from None
    if report.state == "running" and _is_gone(folder, report):
        report.state = "lost"
    return report


def _is_gone(folder: RunFolder, report: Report) -> bool:
    number = lock.newest(folder)
    holder = lock.read(folder, number) if number else None
    if holder is None:
        return True
    if holder.is_near:
        return not holder.is_alive
    quiet = datetime.now(UTC) - datetime.fromisoformat(report.as_of)
    return quiet.total_seconds() > QUIET_SECONDS


def picture_of(report: Report) -> str:
    """The graph's nodes with their figures as SVG; empty where there is nothing to draw it with."""
    nodes = Graph(report.graph.title, [node for node in report.graph.nodes if node.kind != "input"])
    try:
        return draw(dot_of(nodes, report.figures), "svg").decode()
    except MissingDependencyError:
        return ""


def save_report(folder: RunFolder, report: Report) -> None:
    """Write `report.html` and, where it can be drawn, `graph.svg`."""
    picture = picture_of(report)
    if picture:
        with whole_file(folder.fs, f"{folder.root}/graph.svg") as file:
            file.write(picture.encode())
    with whole_file(folder.fs, f"{folder.root}/report.html") as file:
        file.write(render(report, picture).encode())
