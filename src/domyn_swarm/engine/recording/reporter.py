"""A run while it goes, as others see it: run.json, the picture of its graph and its report, kept up to date.

All of it is for people. Whatever fails here is logged once, and the run continues.
"""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import threading
import time
import traceback
from dataclasses import replace
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from typing import TYPE_CHECKING, Any

import msgspec

from domyn_swarm.edges import COMMAND_LINE
from domyn_swarm.engine.recording.command_line import command_of, options_of, why_no_command
from domyn_swarm.engine.recording.describe import describe, job_name
from domyn_swarm.engine.recording.node_figures import failures_of, figures_of, traffic_of
from domyn_swarm.engine.recording.node_stats import node_of
from domyn_swarm.engine.recording.run_record import Record
from domyn_swarm.engine.recording.timeline import TimeSeries
from domyn_swarm.errors import Interrupted, SwarmError
from domyn_swarm.jobspec import RESUMED
from domyn_swarm.masking import masked
from domyn_swarm.report.files import save_report
from domyn_swarm.report.model import Broken, Report
from domyn_swarm.storage.files import is_local
from domyn_swarm.storage.texts import now, storable
from domyn_swarm.telemetry.counts import Counts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from domyn_swarm.checkpoint.done_rows import DoneRows
    from domyn_swarm.checkpoint.lock import Lock
    from domyn_swarm.checkpoint.run_record import RunState
    from domyn_swarm.engine.output_writer import Artifact
    from domyn_swarm.engine.planning import RunPlan
    from domyn_swarm.engine.recording.metrics import Meter
    from domyn_swarm.engine.recovery import Recovery

LOOK_SECONDS = 1.0
SAVE_LOOKS = 2
"""Looks between two savings of run.json, on a local disk; elsewhere each is a request."""
SAVE_LOOKS_REMOTE = 15
REPORT_SAVES = 15
"""Savings of run.json between two of the report, which a run that is killed leaves behind."""
WARNINGS = 50
FRAMES = 12
NAME = "domyn-swarm"
_TOOLS = re.compile("extra == '(dev|test)'")

logger = logging.getLogger("domyn_swarm")


class Reporter:
    """Writes the record of a run: when it begins, every LOOK_SECONDS while it runs, and when it ends.

    `plan` has the counts and the finished rows as they are since the run began.
    """

    def __init__(self, plan: RunPlan, meter: Meter, lock: Lock) -> None:
        self.plan = plan
        self.has_begun = False
        self._record = Record(plan.store, plan.spec, plan.identity, plan.nodes["files"], plan.nodes["columns"].inputs)
        self._meter = meter
        self._lock = lock
        self._graph = describe(plan.spec, job=plan.job, graph=plan.graph)
        self._options = options_of(plan.spec)
        self._chronicle = TimeSeries()
        self._since = time.monotonic()
        self._warnings: list[str] = []
        self._over = threading.Event()
        self._told = False

    def begin(self, recovered: Recovery, done: DoneRows, rows: int, pending: int) -> Record:
        """Record that the run has begun, and number its parts. The caller has recovered the folder.

        When the graph is executed again, because a part was damaged, `pending` rows are left, which count once.
        """
        counts = self._meter.counts
        if self.has_begun:
            self._meter.advanced(Counts(self.plan.pending - counts.rows - pending, -counts.failed))
            return self._record
        nodes = {**self.plan.nodes, "recovered": recovered, "done": done}
        changed = done.changed_before(rows)
        self.plan = replace(self.plan, nodes=nodes, rows=rows, pending=pending, changed=changed)
        record = self._record
        self.plan.store.begin(record.run_id, record.number, record.identity, self._lock.fence)
        record.begin(self._report("running"))
        self._meter.progress.started(rows, rows - pending)
        self.has_begun = True
        return record

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Update the record from a separate thread while the run executes."""
        thread = threading.Thread(target=self._watch, name="domyn-swarm-watch", daemon=True)
        handler = _Warnings(self._warnings)
        logger.addHandler(handler)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            logger.removeHandler(handler)

    def end(self, artifact: Artifact) -> None:
        """Record that the run is done."""
        report = self._ended(self._report("done", artifact=artifact))
        self._record.end(report, content="" if artifact.failed else artifact.content)  # a rerun has to say it again
        self._save_report(report)

    def fail(self, error: BaseException, explained: BaseException) -> None:
        """Record that `error` ended the run; `explained` is what its user sees."""
        interrupted = isinstance(explained, Interrupted)
        report = self._report("interrupted" if interrupted else "failed", broken=node_of(error))
        if not interrupted:
            report.broken = _broken(error, explained)
        if not why_no_command(self.plan.spec, self.plan.overrides):
            report.resume = command_of(msgspec.structs.replace(self.plan.spec, **RESUMED))
        self._record.end(self._ended(report), error)
        self._save_report(report)

    def _save_report(self, report: Report) -> None:
        with self._forgiving():
            save_report(self.plan.store.folder, report)

    def _ended(self, report: Report) -> Report:
        report.ended = report.as_of
        return report

    def _watch(self) -> None:
        looks = 0
        every = SAVE_LOOKS if is_local(self.plan.store.folder.fs) else SAVE_LOOKS_REMOTE
        while not self._over.wait(LOOK_SECONDS):
            self._note()
            if self.has_begun and looks % every == 0:
                with self._forgiving():
                    self._save(report_too=looks % (every * REPORT_SAVES) == 0)
            looks += 1

    def _save(self, *, report_too: bool) -> None:
        self._lock.check()  # the folder may be another's by now
        report = self._report("running")
        self._record.update(report)
        if report_too:
            save_report(self.plan.store.folder, report)

    def _note(self, *, last: bool = False) -> None:
        seconds = time.monotonic() - self._since
        self._chronicle.note(seconds, self._meter.snapshot(), self._meter.flows.sample_memory(), last=last)

    def _report(self, state: RunState, *, broken: str | None = None, artifact: Artifact | None = None) -> Report:
        spec, folder, counts = self.plan.spec, self.plan.store.folder, self._meter.snapshot()
        seconds = max(1e-3, time.monotonic() - self._since)
        if state != "running":
            self._note(last=True)
        sizes, damaged = self._files("parts"), self._files("damaged")
        report = Report(
            path=folder.path, job=job_name(spec), state=state, number=self._record.number,
            started=self._record.content["started"], ended=None, as_of=now(),
            seconds=round(seconds, 3), host=self._record.content["host"],
            graph=self._graph, figures=figures_of(self._graph, self.plan, counts, self._meter.flows, broken, artifact),
            total=self.plan.rows, done_before=self.plan.rows - self.plan.pending,
            rows=counts.rows, failed=counts.failed, failures=failures_of(counts.failures),
            timeline=self._chronicle.line, traffic=traffic_of(counts, seconds),
            parts=len(sizes), parts_bytes=sum(sizes.values()),
            damaged=sorted(name.rpartition("/")[2] for name in damaged),
            output=spec.output, errors_path=spec.errors_path if counts.failed else "",
            options=self._options, versions=installed_versions(), warnings=list(self._warnings),
            servers=self.plan.servers.states if self.plan.servers else [],
        )  # fmt: skip
        return _storable(report)

    def _files(self, folder: str) -> dict[str, int]:
        """What broke the run may keep its folder from being read."""
        with contextlib.suppress(Exception):
            return self.plan.store.folder.files(folder)
        return {}

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - the run is what matters
            if not self._told:
                self._told = True
                logger.warning("the report of the run could not be written: %s: %s", type(error).__name__, error)


def _storable(report: Report) -> Report:
    """`report` with all of its texts storable; that few need it is known from trying."""
    try:
        msgspec.json.encode(report)
    except UnicodeEncodeError:
        return msgspec.convert(_without_halves(msgspec.to_builtins(report)), Report)
    return report


def _without_halves(value: Any) -> Any:
    if isinstance(value, dict):
        return {_without_halves(name): _without_halves(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_halves(inner) for inner in value]
    return storable(value) if isinstance(value, str) else value


class _Warnings(logging.Handler):
    """Keeps the first warnings of a run."""

    def __init__(self, kept: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._kept = kept

    def emit(self, record: logging.LogRecord) -> None:
        if len(self._kept) < WARNINGS:
            self._kept.append(masked(record.getMessage()))


def _broken(error: BaseException, explained: BaseException) -> Broken:
    shown = explained if isinstance(explained, SwarmError) else SwarmError(str(explained), code="run.failed")
    frames = "" if isinstance(error, SwarmError) else _frames(error)
    return Broken(type(error).__name__, *shown.rendered(COMMAND_LINE), node_of(error), frames, shown.code)


def _frames(error: BaseException) -> str:
    return masked("".join(traceback.format_exception(error, limit=-FRAMES, chain=False)))


@cache
def installed_versions() -> dict[str, str]:
    """Of Python, of this package, and of what it depends on, extras included where they are installed."""
    versions = {"python": sys.version.partition(" ")[0]}
    for line in [NAME, *(requires(NAME) or ())]:
        if "extra ==" in line and _TOOLS.search(line):
            continue
        package = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    return versions
