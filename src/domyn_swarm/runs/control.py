"""Manage runs: wait, cancel, delete, read the log."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import time
from shlex import quote
from typing import TYPE_CHECKING

import msgspec

from domyn_swarm.checkpoint.lock import living_holder
from domyn_swarm.checkpoint.submission import FILE, LOG, Submission
from domyn_swarm.errors import CheckpointError, ConfigurationError, JobError, SwarmError, opt
from domyn_swarm.runs import index, trust
from domyn_swarm.runs.launchers.base import FLUSH_SECONDS
from domyn_swarm.runs.launchers.local import terminate
from domyn_swarm.runs.launchers.registry import load_launcher
from domyn_swarm.runs.state import ACTIVE, Status, status_of, statuses
from domyn_swarm.serving.states import FOLDER as SERVERS
from domyn_swarm.serving.states import load_states, read_log
from domyn_swarm.storage.files import is_local, translating_io_errors
from domyn_swarm.storage.texts import now

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from domyn_swarm.checkpoint.folder import RunFolder
    from domyn_swarm.runs.find import Run

logger = logging.getLogger("domyn_swarm")

POLL_SECONDS = 0.2
MOST_POLL_SECONDS = 5.0
DEFAULT_GRACE = 30.0
PATIENCE = 1.2
"""Growth factor of the polling interval: each poll is a query to the scheduler."""
OVER = ("done", "done with failures", "failed", "cancelled", "lost", "gone")
MADE = (
    "spec.json", "run.json", "report.html", "graph.svg", "parts", "damaged", FILE, LOG, SERVERS,
)  # fmt: skip
"""What a run creates in its folder, except for locks."""


def ensure_not_running(run: Run) -> None:
    """Refuse to modify a run that is running, or may be.

    Raises:
        CheckpointError: it is running, or that cannot be determined.
    """
    status = status_of(run)
    if status.state in ACTIVE:
        raise CheckpointError(
            f"{run.name} is {status.state} ({status.detail}).",
            f"Wait for it: domyn-swarm job wait {quote(run.name)}\n"
            f"Or cancel it: domyn-swarm job cancel {quote(run.name)}",
            code="run.active",
            path=run.folder.path,
        )
    if status.state == "unknown":
        raise CheckpointError(
            f"Cannot determine whether {run.name} is running: {status.detail}.",
            f"Try again once that is fixed. If you are sure that the run has ended, delete {run.folder.path}/{FILE}.",
            code="run.unknown_state",
            path=run.folder.path,
        )


def wait(runs: Sequence[Run], timeout: float | None = None) -> Iterator[Status]:
    """Yield the status of each run when it has ended; return early after `timeout` seconds."""
    left, pause = list(runs), POLL_SECONDS
    deadline = None if timeout is None else time.monotonic() + timeout
    silent: set[str] = set()
    while left:
        found = statuses(left)
        yield from (status for status in found if status.state in OVER)
        left = [run for run, status in zip(left, found, strict=True) if status.state not in OVER]
        for status in found:
            if status.state == "unknown" and status.name not in silent:
                silent.add(status.name)
                logger.warning("%s: the launcher does not respond: %s", status.name, status.detail)
        remaining = pause if deadline is None else min(pause, deadline - time.monotonic())
        if not left or remaining <= 0:
            return
        time.sleep(remaining)
        pause = min(pause * PATIENCE, MOST_POLL_SECONDS)


def combine_exit_status(ends: Sequence[int]) -> int:
    """The most severe of several exit statuses: failed, invalid, time limit, interrupted, failed rows, done."""
    order = (0, 3, 130, 124, 2, 1)
    return max(ends, key=lambda end: order.index(end) if end in order else len(order), default=0)


def cancel(run: Run, grace: float | None = None) -> Status:
    """Ask the run to flush and exit, and kill it if it does not. A run that has ended is left unchanged.

    Calls in flight have `grace` seconds to finish; by default the run's own grace period.

    Raises:
        JobError: the launcher cannot cancel it, or does not respond.
    """
    status = status_of(run)
    if status.state in OVER:
        return status
    if grace is None:
        grace = _own_grace(run) + FLUSH_SECONDS
    submission = Submission.read(run.folder)
    if submission is not None and submission.handle is not None:
        if not trust.may_act(run, submission):
            raise trust.refusal(run)
        launcher = load_launcher(submission.placement.run_on)
        if launcher.ask(submission.handle).state != "gone":
            msgspec.structs.replace(submission, cancelled=now()).save(run.folder)
            try:
                launcher.cancel(submission.handle, grace)
            except SwarmError:
                submission.save(run.folder)
                raise
            return status_of(run)
    _end_process(run, grace)
    return status_of(run)


def _own_grace(run: Run) -> float:
    """The run's own grace period, in seconds."""
    grace = (run.folder.load("spec.json") or {}).get("grace")
    return float(grace) if isinstance(grace, (int, float)) else DEFAULT_GRACE


def _end_process(run: Run, grace: float) -> None:
    """End a run that was started in a terminal: only its process, since the terminal may run others in its group."""
    holder = living_holder(run.folder)
    if holder is None:
        return
    if not holder.is_near:
        raise JobError(
            f"{run.name} is running on {holder.host}, and signals do not reach other machines.",
            f"Run the same command on {holder.host}.",
            code="run.elsewhere",
        )
    if not trust.may_signal(run, holder):
        raise trust.refusal(run)
    if not terminate(holder, grace):
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder.pid, signal.SIGKILL)


def remove(run: Run) -> list[str]:
    """Delete the run's folder and its name; return the names of other files found there, which are kept.

    Raises:
        CheckpointError: it is running, or may be.
    """
    ensure_not_running(run)
    folder = run.folder
    with translating_io_errors(folder.path):
        for name in _names(folder):
            if name in MADE or name.startswith(("lock-", "sending-")):
                folder.remove(name)
        left = _names(folder)
    if is_local(folder.fs):
        with contextlib.suppress(OSError):  # already deleted, or it holds other files
            folder.fs.rmdir(folder.root)
    elif home := trust.home_of(run):
        shutil.rmtree(home, ignore_errors=True)
    with contextlib.suppress(index.IndexUnavailableError):
        index.forget(run.name)
    return left


def _names(folder: RunFolder) -> list[str]:
    with contextlib.suppress(FileNotFoundError):
        return sorted(path.rstrip("/").rpartition("/")[2] for path in folder.fs.ls(folder.root, detail=False))
    return []


def log_of(run: Run, *, follow: bool) -> Iterator[str]:
    """The run's log, in pieces.

    Raises:
        CheckpointError: it ran in a terminal, so it has no log.
    """
    submission = Submission.read(run.folder)
    if submission is None:
        raise CheckpointError(
            f"{run.name} ran in a terminal, so its output was not stored.",
            f"See its status: domyn-swarm job status {quote(run.name)}",
            code="log.missing",
            path=run.folder.path,
        )
    if submission.handle is None:
        return iter(())
    path = trust.log_of(run)
    if path is None or not trust.may_act(run, submission):
        raise trust.refusal(run)
    return load_launcher(submission.placement.run_on).log(submission.handle, str(path), follow=follow)


def server_log_of(run: Run, server: str) -> str:
    """What the model server `server` of the run printed last.

    Raises:
        ConfigurationError: the run had no such server.
    """
    names = [one.name for one in load_states(run.folder)]
    if server not in names:
        raise ConfigurationError(
            f"{run.name} has no model server {server!r}.",
            f"It has: {', '.join(names)}." if names else f"It was run without {opt('serve')}.",
            code="server.unknown",
            option="server",
            choices=tuple(names),
        )
    return read_log(run.folder, server)
