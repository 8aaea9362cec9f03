"""Launcher for this machine: runs have their own session, so they outlive the terminal and the login."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import psutil

from domyn_swarm.checkpoint.folder import RunFolder
from domyn_swarm.checkpoint.lock import living_holder
from domyn_swarm.checkpoint.process import Process
from domyn_swarm.checkpoint.records import Count, Text  # noqa: TC001 - msgspec evaluates the annotations
from domyn_swarm.errors import ConfigurationError, JobError, opt
from domyn_swarm.runs.launchers.base import FLUSH_SECONDS, Handle, Launch, LauncherStatus, handle_as
from domyn_swarm.runs.launchers.tail import follow_file, make_log

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from domyn_swarm.checkpoint.submission import Placement

name = "local"
near = True
POLL_SECONDS = 0.1
APART_SECONDS = 0.5
"""Seconds between two signals; simultaneous signals of a kind are delivered only once."""
_LAST_LINE = re.compile(r"exit status (\d+)\s*\Z")
"""The last line of a run's log, written by `domyn_swarm.jobs.run`."""
LAST_BYTES = 200


class _Handle(Process, frozen=True):
    """The driver process, the path of its log, the offset at which this run's log begins, and the path of its spec."""

    log: Text
    begins: Count
    spec: Text

    def __post_init__(self) -> None:
        if not (Path(self.log).is_absolute() and Path(self.spec).is_absolute()):  # a URL is not
            raise ValueError("log and spec are not absolute paths")


def check(placement: Placement) -> Placement:
    """Refuse options of other launchers.

    Raises:
        ConfigurationError: an option belongs to another launcher.
    """
    for option, given in (("slurm_args", placement.slurm_args), ("requeue", placement.requeue)):
        if given:
            raise ConfigurationError(
                f"{opt(option)} requires {opt('run_on', 'slurm')}.",
                f"Add {opt('run_on', 'slurm')}, or remove {opt(option)}.",
                code="option.conflict",
                option=option,
            )
    return placement


def shown(launch: Launch) -> str:
    """The command line as it would be typed."""
    words = shlex.join(_command(launch))
    return f"cd {shlex.quote(launch.folder)} && {words} >> {shlex.quote(launch.log)} 2>&1"


def start(launch: Launch) -> Handle:
    """Start the driver as the leader of a session of its own.

    Raises:
        JobError: it cannot be started.
    """
    make_log(launch.log)
    with Path(launch.log).open("ab") as log, _hangups_ignored():
        begins = log.tell()
        try:
            driver = subprocess.Popen(  # noqa: S603 - this package's own module
                _command(launch), cwd=launch.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        except OSError as error:
            raise JobError(
                f"The run cannot be started: {error}.",
                "Nothing was written. Fix the cause and try again.",
                code="launcher.failed",
            ) from None
    process = Process.of(driver.pid)
    handle = _Handle(process.host, process.pid, process.machine, process.started, launch.log, begins, launch.spec)
    found: Handle = msgspec.to_builtins(handle)
    return found


def ask(handle: Mapping[str, Any]) -> LauncherStatus:
    """Check the process table; for a run of another machine, the heartbeat of its lock."""
    driver = handle_as(handle, _Handle)
    if not driver.is_near:
        return _remote_status(driver)
    if driver.is_alive:
        return LauncherStatus("running", str(driver))
    status = _exit_status(driver)
    return LauncherStatus("gone", "" if status is None else f"exit status {status}", status)


def cancel(handle: Mapping[str, Any], grace: float) -> None:
    """Ask the driver to flush and exit; when that takes too long, kill its session, workers included.

    Raises:
        JobError: it runs on another machine.
    """
    driver = handle_as(handle, _Handle)
    if not driver.is_near:
        raise JobError(
            f"It is running on {driver.host}, and signals do not reach other machines.",
            f"Run the same command on {driver.host}.",
            code="run.elsewhere",
        )
    if not terminate(driver, grace):
        _end_session(driver.pid)
        _ends_within(driver, 1.0)


def terminate(process: Process, grace: float) -> bool:
    """Send SIGTERM, and again after `grace` seconds; return whether the process ended within FLUSH_SECONDS more.

    Raises:
        JobError: it belongs to another user.
    """
    for seconds in (max(grace, APART_SECONDS), FLUSH_SECONDS):
        try:
            if process.is_alive:
                os.kill(process.pid, signal.SIGTERM)
        except ProcessLookupError:
            return True
        except PermissionError:
            raise JobError(
                f"{process} belongs to another user and cannot be signalled.",
                "Ask the user who started it.",
                code="run.other_user",
            ) from None
        if _ends_within(process, seconds):
            return True
    return False


def _ends_within(process: Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.is_alive:
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def log(handle: Mapping[str, Any], path: str, *, follow: bool) -> Iterator[str]:
    """The whole log, including earlier runs in the same folder."""
    return follow_file(path, lambda: not follow or ask(handle).state == "gone")


def _command(launch: Launch) -> list[str]:
    """-P keeps the working directory out of sys.path, where a file could shadow the standard library."""
    return [sys.executable, "-P", "-m", "domyn_swarm.jobs.run", launch.spec]


@contextlib.contextmanager
def _hangups_ignored() -> Iterator[None]:
    """Processes started within this context ignore SIGHUP, as under nohup: some logouts send it to all processes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _remote_status(driver: _Handle) -> LauncherStatus:
    folder = RunFolder(driver.spec.rpartition("/")[0])
    if not folder.files():
        return LauncherStatus("unknown", f"it runs on {driver.host}: check there")
    holder = living_holder(folder)
    if holder is None:
        return LauncherStatus("gone", f"no heartbeat from {driver.host}", _exit_status(driver))
    return LauncherStatus("running", str(holder))


def _exit_status(driver: _Handle) -> int | None:
    """The exit status in the log; None when the run ended without writing it."""
    try:
        if not Path(driver.log).is_file():  # a pipe would block
            return None
        with Path(driver.log).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(driver.begins, size - LAST_BYTES))
            found = _LAST_LINE.search(file.read().decode(errors="replace"))
    except FileNotFoundError:
        return None
    return int(found[1]) if found else None


def _end_session(leader: int) -> None:
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)
