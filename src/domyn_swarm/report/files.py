"""Read a run's report from its record, and write report.html and graph.svg."""

from __future__ import annotations

import threading
from shlex import quote
from typing import TYPE_CHECKING

from domyn_swarm.checkpoint import records
from domyn_swarm.checkpoint.lock import Watch, living_holder
from domyn_swarm.checkpoint.records import UnreadableRecordError
from domyn_swarm.checkpoint.run_record import FILE
from domyn_swarm.errors import ConfigurationError, MissingDependencyError
from domyn_swarm.report.diagram import dot_of
from domyn_swarm.report.graphviz import draw
from domyn_swarm.report.model import Graph, Report
from domyn_swarm.report.page import render
from domyn_swarm.storage.atomic import atomic_write

if TYPE_CHECKING:
    from domyn_swarm.checkpoint.folder import RunFolder


def report_of(folder: RunFolder) -> Report:
    """The current report of the run in `folder`.

    Raises:
        ConfigurationError: run.json is missing or incomplete.
    """
    report = recorded(folder)
    if report.state == "running" and living_holder(folder) is None:
        report.state = "lost"
    return report


def recorded(folder: RunFolder) -> Report:
    """The report as last written by the run.

    Raises:
        ConfigurationError: as `report_of`.
    """
    incomplete = f"run.json is missing or incomplete in {folder.path}"
    inspect = f"List finished rows with: domyn-swarm checkpoint inspect {quote(folder.path)}"
    try:
        report = records.read(folder, FILE, Report)
    except UnreadableRecordError as error:
        raise ConfigurationError(f"{incomplete}: {error.reason}.", inspect, code="record.incomplete") from None
    if report is None:
        raise ConfigurationError(
            f"{incomplete}.", f"It is written when the run starts. {inspect}", code="record.incomplete"
        )
    return report


class LiveReport:
    """The report of one run for repeated reads, without waiting for a heartbeat each time."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._watch = Watch(folder)
        self._lock = threading.Lock()

    def now(self) -> Report:
        """As `report_of`. A lock owner on another machine counts as alive until its heartbeat times out."""
        report = recorded(self._folder)
        if report.state == "running":
            with self._lock:
                holder = self._watch.look()
            if holder is None and self._watch.is_certain:
                report.state = "lost"
        return report


def picture_of(report: Report) -> str:
    """The graph with each node's figures as SVG; empty without Graphviz."""
    nodes = Graph(report.graph.title, [node for node in report.graph.nodes if node.kind != "input"])
    try:
        return draw(dot_of(nodes, report.figures), "svg").decode()
    except MissingDependencyError:
        return ""


def save_report(folder: RunFolder, report: Report) -> None:
    """Write `report.html` and, if Graphviz is available, `graph.svg`."""
    picture = picture_of(report)
    if picture:
        with atomic_write(folder.fs, f"{folder.root}/graph.svg") as file:
            file.write(picture.encode())
    with atomic_write(folder.fs, f"{folder.root}/report.html") as file:
        file.write(render(report, picture).encode())
