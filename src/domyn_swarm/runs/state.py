"""The status of a run, from its launcher, its lock and its own record."""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from datetime import UTC, datetime
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from domyn_swarm.checkpoint.lock import SENDING, living_holder
from domyn_swarm.checkpoint.records import UnreadableRecordError
from domyn_swarm.checkpoint.run_record import RunRecord
from domyn_swarm.checkpoint.submission import Submission
from domyn_swarm.edges import COMMAND_LINE
from domyn_swarm.errors import SwarmError
from domyn_swarm.runs import trust
from domyn_swarm.runs.launchers.base import LauncherStatus
from domyn_swarm.runs.launchers.registry import load_launcher
from domyn_swarm.serving.states import ServerState, load_states
from domyn_swarm.telemetry.counts import REASONS, Reason

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domyn_swarm.checkpoint.process import LockOwner
    from domyn_swarm.runs.find import Run

State = Literal[
    "pending", "running", "done", "done with failures", "failed", "cancelled", "lost", "unknown", "gone"
]  # fmt: skip
ACTIVE = ("pending", "running")
RESUMABLE = ("done with failures", "failed", "cancelled", "lost")
REPORT = "report.html"
IN_TERMINAL = "terminal"
"""The `where` of a run that was started in a terminal."""
LIMIT_SECONDS = 30.0
"""Timeout for the status of one run; waiting for a heartbeat takes at most 20 seconds of it."""
AT_ONCE = 16
LAST_LINES = 3
_TIME = re.compile(r"^(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d ")
_END = re.compile(r"exit status \d+$")


class Status(msgspec.Struct, kw_only=True):
    """The status of a run.

    Attributes:
        detail: The launcher's own description of the state, or why the state is unknown.
        where: The launcher's name, or "terminal".
        host: The machine that submitted it, or that ran it.
        log: The path of its log; None when only the launcher has it.
        servers: The model servers of the run, with `--serve`.
        tokens_in, tokens_out: Tokens of its requests since it was last started or resumed.
        reasons: The most frequent reasons for which rows failed.
        report: The path of its report; empty before there is one.
        rows: Rows that have finished, `failed` of them without an output, of `total`; None before the run has started.
    """

    name: str
    state: State
    detail: str = ""
    path: str
    where: str
    host: str = ""
    submitted: str | None = None
    started: str | None = None
    ended: str | None = None
    rows: int | None = None
    total: int | None = None
    failed: int | None = None
    rows_per_second: float | None = None
    output: str = ""
    errors_path: str = ""
    tokens_in: int | None = None
    tokens_out: int | None = None
    reasons: tuple[Reason, ...] = ()
    report: str = ""
    error: str = ""
    log: str | None = None
    resume: str = ""
    exit_status: int | None = None
    servers: list[ServerState] = []

    @property
    def since(self) -> str:
        """When it was submitted or started."""
        return self.submitted or self.started or ""


def status_of(run: Run) -> Status:
    """The status of the run. Never raises: errors give the state `unknown`."""
    try:
        return _status(run)
    except SwarmError as error:
        reason = error.rendered(COMMAND_LINE)[0]
    except Exception as error:  # noqa: BLE001 - no error of a filesystem or a launcher may end a listing
        reason = f"{type(error).__name__}: {error}"
    return Status(name=run.name, state="unknown", detail=reason.rstrip("."), path=run.folder.path, where="")


def _status(run: Run) -> Status:
    folder = run.folder
    if not folder.fs.exists(folder.root):
        return Status(name=run.name, state="gone", detail="its folder was deleted", path=folder.path, where="")
    submission = Submission.read(folder)
    record, own = _record(run, submission)
    answer = _launcher_status(run, submission, record if own else None)
    if answer.state == "gone":  # the record may have been updated since it was read
        record, own = _record(run, submission)
    state, detail = _state(answer, submission, record if own else None)
    detail = detail or (_why_no_record(run) if record is None and state == "lost" else "")
    status = Status(name=run.name, state=state, detail=detail, path=folder.path, where=IN_TERMINAL)
    if record is not None:
        _add_record(status, record, is_own=own)
        status.report = f"{folder.path}/{REPORT}" if folder.fs.exists(f"{folder.root}/{REPORT}") else ""
    status.servers = _servers(run, state)
    if submission is not None:
        status.where, status.host = submission.placement.run_on, submission.host
        log = trust.log_of(run)
        status.submitted, status.log = submission.submitted, str(log) if log and log.is_file() else None
    if state == "failed" and not own and submission is not None:
        status.error = _end_of_log(run, submission)
    if state in RESUMABLE:
        status.resume = f"domyn-swarm job resume {quote(run.name)}"
    status.exit_status = _exit_status(state, answer)
    return status


def _servers(run: Run, state: State) -> list[ServerState]:
    """The run's model servers. Those of a run that was killed are gone with it, whatever was written last."""
    found = load_states(run.folder)
    if state in (*ACTIVE, "unknown"):
        return found
    return [one if one.state == "dead" else msgspec.structs.replace(one, state="stopped") for one in found]


def _record(run: Run, submission: Submission | None) -> tuple[RunRecord | None, bool]:
    """The newest record of the folder, and whether the latest submission wrote it."""
    record = RunRecord.load(run.folder)
    if record is None or not record.has_begun:
        return None, False
    return record, submission is None or record.number >= submission.number


def _why_no_record(run: Run) -> str:
    try:
        RunRecord.read(run.folder)
    except UnreadableRecordError as error:
        return f"run.json cannot be read: {error.reason}"
    return "no record was written"


def _launcher_status(run: Run, submission: Submission | None, record: RunRecord | None) -> LauncherStatus:
    """The launcher's status; the folder's lock decides for runs in a terminal and runs that the launcher has lost."""
    if submission is None:
        answer = LauncherStatus("gone")
    elif submission.handle is not None:
        answer = _by_launcher(run, submission, submission.handle, record)
    elif sender := _sender(run):
        answer = LauncherStatus("pending", f"being submitted by {sender}")
    else:
        answer = LauncherStatus("gone", "the submitting process ended before the run was submitted")
    if answer.state == "gone" and not _is_over(submission, record) and (holder := living_holder(run.folder)):
        return LauncherStatus("running", str(holder))
    return answer


def _is_over(submission: Submission | None, record: RunRecord | None) -> bool:
    """Whether a submitted run has recorded its end."""
    return submission is not None and submission.handle is not None and record is not None and record.state == "done"


def _by_launcher(
    run: Run, submission: Submission, handle: Mapping[str, Any], record: RunRecord | None
) -> LauncherStatus:
    if _is_over(submission, record):
        return LauncherStatus("gone")
    if not trust.may_act(run, submission):
        return _of_another_user(run, record)
    answer = load_launcher(submission.placement.run_on).ask(handle)
    if answer.state == "unknown" and record is not None:
        return _by_lock(run, submission, answer)
    return answer


def _of_another_user(run: Run, record: RunRecord | None) -> LauncherStatus:
    """The status from lock and record, for a run whose handle this user may not act on."""
    if holder := living_holder(run.folder):
        return LauncherStatus("running", str(holder))
    if record is not None and record.state != "running":
        return LauncherStatus("gone")
    return LauncherStatus("unknown", "not submitted by you, so its launcher is not queried")


def _by_lock(run: Run, submission: Submission, answer: LauncherStatus) -> LauncherStatus:
    """The status from the lock, for a started run whose launcher does not respond, as after a cluster was shut down."""
    if holder := living_holder(run.folder):
        return LauncherStatus("running", f"{holder}; the launcher does not respond: {answer.detail}")
    return answer if submission.placement.requeue else LauncherStatus("gone", answer.detail)


def _sender(run: Run) -> LockOwner | None:
    """The process that is submitting the run, unless it is this one."""
    holder = living_holder(run.folder, SENDING)
    return None if holder is None or (holder.is_near and holder.pid == os.getpid()) else holder


def _state(answer: LauncherStatus, submission: Submission | None, record: RunRecord | None) -> tuple[State, str]:
    """State and detail. `record` is the run's own; None when it wrote none."""
    if answer.state != "gone":
        return answer.state, answer.detail
    if record is not None and record.state != "running":
        ended: dict[str | None, State] = {"failed": "failed", "interrupted": "cancelled", "lost": "lost"}
        done: State = "done with failures" if record.failed else "done"
        return ended.get(record.state, done), answer.detail if record.state == "interrupted" else ""
    if submission is not None and submission.cancelled and _is_after(submission.cancelled, record):
        return "cancelled", answer.detail or "before it started"
    if record is None and answer.exit_status is not None:
        ends: dict[int, State] = {0: "done", 3: "done with failures", 130: "cancelled"}
        return ends.get(answer.exit_status, "failed"), answer.detail
    if record is None and submission is None:
        return "lost", ""
    return "lost", answer.detail or "the process exited without recording a status"


def _is_after(moment: str, record: RunRecord | None) -> bool:
    return record is None or datetime.fromisoformat(moment) >= datetime.fromisoformat(record.started)


def _exit_status(state: State, answer: LauncherStatus) -> int | None:
    """The run's exit status, or the one that corresponds to its state."""
    ends: dict[State, int] = {"done": 0, "done with failures": 3, "failed": 1, "cancelled": 130, "lost": 1, "gone": 1}
    known = answer.exit_status if state == "failed" else None
    return known or ends.get(state)


def _add_record(status: Status, record: RunRecord, *, is_own: bool) -> None:
    """Copy the record's figures; before the newest run has started they are those of the previous one."""
    status.rows, status.total, status.failed = record.done_before + record.rows, record.total, record.failed
    status.output, status.errors_path = record.output, record.errors_path
    if is_own:
        status.tokens_in, status.tokens_out = record.traffic.tokens_in, record.traffic.tokens_out
        status.reasons = tuple(Reason(one.count, one.type, one.reason) for one in record.failures[:REASONS])
        status.host, status.started, status.ended = record.host, record.started, record.ended
        status.rows_per_second = round(record.rows / max(record.seconds or 0.0, 1e-3), 1)
        if record.broken is not None and status.state == "failed":
            status.error = f"{record.broken.message}\n{record.broken.hint}".strip()


def _end_of_log(run: Run, submission: Submission) -> str:
    """The last lines of the log of a run that failed before it started; they contain the error."""
    path = trust.log_of(run) if submission.handle and trust.may_act(run, submission) else None
    if path is None:
        return ""
    with contextlib.suppress(SwarmError, OSError):
        launcher = load_launcher(submission.placement.run_on)
        text = "".join(launcher.log(submission.handle or {}, str(path), follow=False))
        lines = [line for line in text.strip().splitlines() if not _END.search(line)]
        return "\n".join(_TIME.sub("", line) for line in lines[-LAST_LINES:])
    return ""


def statuses(runs: Sequence[Run], limit: float = LIMIT_SECONDS) -> list[Status]:
    """The statuses of several runs, queried concurrently with a timeout of `limit` seconds each.

    The threads are daemons, so that a launcher that never responds cannot keep the command alive.
    """
    found: list[Status | None] = [None] * len(runs)
    slots = threading.Semaphore(AT_ONCE)
    threads = []

    def ask(number: int, slot: threading.Semaphore) -> None:
        try:
            found[number] = status_of(runs[number])
        finally:
            slot.release()

    for number in range(len(runs)):
        if not slots.acquire(timeout=limit):
            slots = threading.Semaphore(AT_ONCE - 1)  # threads that hang keep their slots
        thread = threading.Thread(target=ask, args=(number, slots), name="domyn-swarm-ask", daemon=True)
        thread.start()
        threads.append(thread)
    deadline = time.monotonic() + limit
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [status or _timed_out(run, limit) for run, status in zip(runs, found, strict=True)]


def _timed_out(run: Run, limit: float) -> Status:
    detail = f"no response within {limit:.0f} s"
    return Status(name=run.name, state="unknown", detail=detail, path=run.folder.path, where="")


def newest_first(found: Sequence[Status]) -> list[Status]:
    """Sorted by submission or start, newest first."""
    return sorted(found, key=lambda status: (status.since, status.name), reverse=True)


def age_of(status: Status) -> str:
    """Time since submission or start: `12 s`, `5 min`, `3 h`, `2 d`."""
    if not status.since:
        return "-"
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(status.since)).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
