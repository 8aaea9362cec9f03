"""Runs on this machine, in a session of their own: no terminal, and no logout, ends them."""

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
from domyn_swarm.errors import ConfigurationError, JobError
from domyn_swarm.runs.launchers.base import FLUSH_SECONDS, Answer, Handle, Launch, handle_as
from domyn_swarm.runs.launchers.tail import followed, make_log

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from domyn_swarm.checkpoint.submission import Placement

name = "local"
near = True
POLL_SECONDS = 0.1
APART_SECONDS = 0.5
"""Between two signals: a process is told once of those that come at the same time."""
_LAST_WORDS = re.compile(r"exit status (\d+)\s*\Z")
"""What `domyn_swarm.jobs.run` logs at its very end."""
LAST_BYTES = 200


class _Handle(Process, frozen=True):
    """The driver; where its log is, and where in it this run begins; its spec."""

    log: Text
    begins: Count
    spec: Text

    def __post_init__(self) -> None:
        if not (Path(self.log).is_absolute() and Path(self.spec).is_absolute()):  # a URL is not
            raise ValueError("log and spec are no absolute paths")


def check(placement: Placement) -> Placement:
    """Refuse what only other places know.

    Raises:
        ConfigurationError: an option is for another place.
    """
    for flag, given in (("--slurm-args", placement.slurm_args), ("--requeue", placement.requeue)):
        if given:
            raise ConfigurationError(f"{flag} is for runs on Slurm.", "Add --run-on slurm, or leave it out.")
    return placement


def shown(launch: Launch) -> str:
    """The command line, as somebody would type it."""
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
                f"The run cannot be started: {error}.", "Nothing was written. Mend it, and try again."
            ) from None
    process = Process.of(driver.pid)
    handle = _Handle(process.host, process.pid, process.machine, process.started, launch.log, begins, launch.spec)
    found: Handle = msgspec.to_builtins(handle)
    return found


def ask(handle: Mapping[str, Any]) -> Answer:
    """Look into this machine's table of processes; for a run of another machine, at the heartbeat of its lock."""
    driver = handle_as(handle, _Handle)
    if not driver.is_near:
        return _from_afar(driver)
    if driver.is_alive:
        return Answer("running", str(driver))
    status = _exit_status(driver)
    return Answer("gone", "" if status is None else f"exit status {status}", status)


def cancel(handle: Mapping[str, Any], grace: float) -> None:
    """Ask the driver to flush and end; when that takes too long end its whole session, workers included.

    Raises:
        JobError: it runs on another machine.
    """
    driver = handle_as(handle, _Handle)
    if not driver.is_near:
        raise JobError(
            f"It runs on {driver.host}, and signals do not reach there.", f"Give the same command on {driver.host}."
        )
    if not asked_to_end(driver, grace):
        _end_session(driver.pid)
        _gone_within(driver, 1.0)


def asked_to_end(process: Process, grace: float) -> bool:
    """Whether the process ends when it is asked to: in `grace` seconds, or FLUSH_SECONDS after it was asked again.

    Raises:
        JobError: it is another user's.
    """
    for seconds in (max(grace, APART_SECONDS), FLUSH_SECONDS):
        try:
            if process.is_alive:
                os.kill(process.pid, signal.SIGTERM)
        except ProcessLookupError:
            return True
        except PermissionError:
            raise JobError(
                f"{process} belongs to another user, and takes no signal from this one.", "Ask whoever started it."
            ) from None
        if _gone_within(process, seconds):
            return True
    return False


def _gone_within(process: Process, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while process.is_alive:
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def log(handle: Mapping[str, Any], path: str, *, follow: bool) -> Iterator[str]:
    """The log from its beginning, earlier runs included."""
    return followed(path, lambda: not follow or ask(handle).state == "gone")


def _command(launch: Launch) -> list[str]:
    """Without its folder in front of all modules (-P): a file there may be called like one of Python's own."""
    return [sys.executable, "-P", "-m", "domyn_swarm.jobs.run", launch.spec]


@contextlib.contextmanager
def _hangups_ignored() -> Iterator[None]:
    """What is started in here ignores SIGHUP, as under nohup: its session gets none, but some logouts send it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _from_afar(driver: _Handle) -> Answer:
    folder = RunFolder(driver.spec.rpartition("/")[0])
    if not folder.files():
        return Answer("unknown", f"it runs on {driver.host}: ask there")
    holder = living_holder(folder)
    if holder is None:
        return Answer("gone", f"no sign of life from {driver.host}", _exit_status(driver))
    return Answer("running", str(holder))


def _exit_status(driver: _Handle) -> int | None:
    """What the run said at its end; None when it ended without a word."""
    try:
        if not Path(driver.log).is_file():  # nor a pipe, which would be waited for
            return None
        with Path(driver.log).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(driver.begins, size - LAST_BYTES))
            said = _LAST_WORDS.search(file.read().decode(errors="replace"))
    except FileNotFoundError:
        return None
    return int(said[1]) if said else None


def _end_session(leader: int) -> None:
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)
