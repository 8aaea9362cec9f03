"""What is true of a run now: told by asking where it runs, and by what it wrote down itself."""

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
from domyn_swarm.errors import SwarmError
from domyn_swarm.runs import trust
from domyn_swarm.runs.launchers.base import Answer
from domyn_swarm.runs.launchers.registry import load_launcher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domyn_swarm.checkpoint.process import Holder
    from domyn_swarm.runs.find import Run

State = Literal[
    "pending", "running", "done", "done with failures", "failed", "cancelled", "lost", "unknown", "gone"
]  # fmt: skip
GOING_ON = ("pending", "running")
RESUMABLE = ("done with failures", "failed", "cancelled", "lost")
TERMINAL = "terminal"
"""Where a run goes on that nobody sent anywhere."""
LIMIT_SECONDS = 30.0
"""How long one run may take to tell what it does; a heartbeat is waited for at most 20."""
AT_ONCE = 16
LAST_LINES = 3
_TIME = re.compile(r"^(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d ")
_END = re.compile(r"exit status \d+$")


class Status(msgspec.Struct, kw_only=True):
    """What is told of a run.

    `detail` is what its place calls it, or why nothing is known. `where` is the place, `host` the machine that it was
    sent from, or that ran it. `log` is its file, None where only the place has it. `rows` have been through, `failed`
    of them, of `total`; None where it has not begun.
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
    error: str = ""
    log: str | None = None
    resume: str = ""
    exit_status: int | None = None

    @property
    def since(self) -> str:
        """When it was sent, or began."""
        return self.submitted or self.started or ""


def status_of(run: Run) -> Status:
    """What is true of the run now. Never raises: what cannot be told is unknown."""
    try:
        return _told(run)
    except SwarmError as error:
        reason = error.message
    except Exception as error:  # noqa: BLE001 - whatever a filesystem or a place throws: it must not end a listing
        reason = f"{type(error).__name__}: {error}"
    return Status(name=run.name, state="unknown", detail=reason.rstrip("."), path=run.folder.path, where="")


def _told(run: Run) -> Status:
    folder = run.folder
    if not folder.fs.exists(folder.root):
        return Status(name=run.name, state="gone", detail="its folder is gone", path=folder.path, where="")
    submission = Submission.read(folder)
    record, own = _recorded(run, submission)
    answer = _asked(run, submission, record if own else None)
    if answer.state == "gone":  # it may have had its last word since the record was read
        record, own = _recorded(run, submission)
    state, detail = _judged(answer, submission, record if own else None)
    detail = detail or (_why_no_record(run) if record is None and state == "lost" else "")
    status = Status(name=run.name, state=state, detail=detail, path=folder.path, where=TERMINAL)
    if record is not None:
        _add_record(status, record, is_own=own)
    if submission is not None:
        status.where, status.host = submission.placement.run_on, submission.host
        log = trust.log_of(run)
        status.submitted, status.log = submission.submitted, str(log) if log and log.is_file() else None
    if state == "failed" and not own and submission is not None:
        status.error = _last_words(run, submission)
    if state in RESUMABLE:
        status.resume = f"domyn-swarm job resume {quote(run.name)}"
    status.exit_status = _exit_status(state, answer)
    return status


def _recorded(run: Run, submission: Submission | None) -> tuple[RunRecord | None, bool]:
    """The newest record of the folder, and whether it is that of the run that was sent last."""
    record = RunRecord.load(run.folder)
    if record is None or not record.has_begun:
        return None, False
    return record, submission is None or record.number >= submission.number


def _why_no_record(run: Run) -> str:
    try:
        RunRecord.read(run.folder)
    except UnreadableRecordError as error:
        return f"run.json cannot be read: {error.reason}"
    return "it left no record"


def _asked(run: Run, submission: Submission | None, record: RunRecord | None) -> Answer:
    """What the place says; where it was never sent, or is gone from there, what the folder's lock says."""
    if submission is None:
        answer = Answer("gone")
    elif submission.handle is not None:
        answer = _by_launcher(run, submission, submission.handle, record)
    elif sender := _sender(run):
        answer = Answer("pending", f"being sent by {sender}")
    else:
        answer = Answer("gone", "it was never sent: who did is gone")
    if answer.state == "gone" and not _is_over(submission, record) and (holder := living_holder(run.folder)):
        return Answer("running", str(holder))
    return answer


def _is_over(submission: Submission | None, record: RunRecord | None) -> bool:
    """Whether a run that was sent has had its last word, after which nothing comes."""
    return submission is not None and submission.handle is not None and record is not None and record.state == "done"


def _by_launcher(run: Run, submission: Submission, handle: Mapping[str, Any], record: RunRecord | None) -> Answer:
    if _is_over(submission, record):
        return Answer("gone")
    if not trust.may_act(run, submission):
        return _of_another_user(run, record)
    answer = load_launcher(submission.placement.run_on).ask(handle)
    if answer.state == "unknown" and record is not None:
        return _by_lock(run, submission, answer)
    return answer


def _of_another_user(run: Run, record: RunRecord | None) -> Answer:
    """What the lock and the record say of a run whose handle is not this user's to act on."""
    if holder := living_holder(run.folder):
        return Answer("running", str(holder))
    if record is not None and record.state != "running":
        return Answer("gone")
    return Answer("unknown", "it was not submitted by you, so its launcher is not asked")


def _by_lock(run: Run, submission: Submission, answer: Answer) -> Answer:
    """What the lock says of a run that has begun, where its place is silent, as after a cluster was torn down."""
    if holder := living_holder(run.folder):
        return Answer("running", f"{holder}; its place is silent: {answer.detail}")
    return answer if submission.placement.requeue else Answer("gone", answer.detail)


def _sender(run: Run) -> Holder | None:
    """Who is sending the run, unless it is this process, which knows."""
    holder = living_holder(run.folder, SENDING)
    return None if holder is None or (holder.is_near and holder.pid == os.getpid()) else holder


def _judged(answer: Answer, submission: Submission | None, record: RunRecord | None) -> tuple[State, str]:
    """State and detail. `record` is the run's own, None when it left none."""
    if answer.state != "gone":
        return answer.state, answer.detail
    if record is not None and record.state != "running":
        ended: dict[str | None, State] = {"failed": "failed", "interrupted": "cancelled", "lost": "lost"}
        done: State = "done with failures" if record.failed else "done"
        return ended.get(record.state, done), answer.detail if record.state == "interrupted" else ""
    if submission is not None and submission.cancelled and _is_after(submission.cancelled, record):
        return "cancelled", answer.detail or "before it could say anything"
    if record is None and answer.exit_status is not None:
        ends: dict[int, State] = {0: "done", 3: "done with failures", 130: "cancelled"}
        return ends.get(answer.exit_status, "failed"), answer.detail
    if record is None and submission is None:
        return "lost", ""
    return "lost", answer.detail or "its process is gone without a word"


def _is_after(moment: str, record: RunRecord | None) -> bool:
    return record is None or datetime.fromisoformat(moment) >= datetime.fromisoformat(record.started)


def _exit_status(state: State, answer: Answer) -> int | None:
    """What the run ended with, or would have."""
    ends: dict[State, int] = {"done": 0, "done with failures": 3, "failed": 1, "cancelled": 130, "lost": 1, "gone": 1}
    known = answer.exit_status if state == "failed" else None
    return known or ends.get(state)


def _add_record(status: Status, record: RunRecord, *, is_own: bool) -> None:
    """Rows are those of the newest run, or where that has not begun those of the one before."""
    status.rows, status.total, status.failed = record.done_before + record.rows, record.total, record.failed
    status.output, status.errors_path = record.output, record.errors_path
    if is_own:
        status.host, status.started, status.ended = record.host, record.started, record.ended
        status.rows_per_second = round(record.rows / max(record.seconds or 0.0, 1e-3), 1)
        if record.broken is not None and status.state == "failed":
            status.error = f"{record.broken.message}\n{record.broken.hint}".strip()


def _last_words(run: Run, submission: Submission) -> str:
    """The end of the log of a run that refused to begin: there it says why."""
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
    """What is true of several runs: all are asked at once, and none is waited for longer than `limit` seconds.

    The threads are daemons: a place that never answers must not keep the command from ending.
    """
    found: list[Status | None] = [None] * len(runs)
    places = threading.Semaphore(AT_ONCE)
    threads = []

    def ask(number: int, place: threading.Semaphore) -> None:
        try:
            found[number] = status_of(runs[number])
        finally:
            place.release()

    for number in range(len(runs)):
        if not places.acquire(timeout=limit):
            places = threading.Semaphore(AT_ONCE - 1)  # those that hang keep theirs
        thread = threading.Thread(target=ask, args=(number, places), name="domyn-swarm-ask", daemon=True)
        thread.start()
        threads.append(thread)
    deadline = time.monotonic() + limit
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return [status or _silent(run, limit) for run, status in zip(runs, found, strict=True)]


def _silent(run: Run, limit: float) -> Status:
    detail = f"no answer in {limit:.0f} s"
    return Status(name=run.name, state="unknown", detail=detail, path=run.folder.path, where="")


def newest_first(found: Sequence[Status]) -> list[Status]:
    """By when they were sent, or began."""
    return sorted(found, key=lambda status: (status.since, status.name), reverse=True)


def age_of(status: Status) -> str:
    """How long ago it was sent, or began: `12 s`, `5 min`, `3 h`, `2 d`."""
    if not status.since:
        return "-"
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(status.since)).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
