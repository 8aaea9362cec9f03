"""A process as a lock and a submission name it, and whether it is alive."""

from __future__ import annotations

import contextlib
import os
import socket
import uuid
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Annotated

import msgspec
import psutil

from domyn_swarm.checkpoint.records import Count, Text  # noqa: TC001 - msgspec evaluates the annotations


class Process(msgspec.Struct, frozen=True):
    """A process, distinguished from later ones with the same number. `started` is in seconds since its machine did."""

    host: Text
    pid: Annotated[int, msgspec.Meta(gt=0, lt=2**31)]
    machine: Text
    started: float

    @classmethod
    def of(cls, pid: int) -> Process:
        """The process `pid` of this machine."""
        return Process(socket.gethostname(), pid, _machine(), _started(pid) or 0.0)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    @property
    def is_near(self) -> bool:
        """Whether its process would be in this machine's table of processes."""
        return self.machine == _machine()

    @property
    def is_alive(self) -> bool:
        """Whether its process is in this machine's table of processes, and not another one with the same number.

        One that only its owner may look at (`hidepid`) is taken for the same.
        """
        started = _started(self.pid)
        return _is_anothers(self.pid) if started is None else abs(started - self.started) < 2


class LockOwner(Process, frozen=True):
    """Who holds a lock. `token` is its own."""

    since: Text
    token: Text
    beat: Count = 0

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"


def this_process() -> LockOwner:
    """This process as a holder."""
    mine = Process.of(os.getpid())
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return LockOwner(mine.host, mine.pid, mine.machine, mine.started, since, uuid.uuid4().hex)


@cache
def _machine() -> str:
    """What process numbers mean something in: one boot of one host, or a container's own table on it."""
    boot, table = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    with contextlib.suppress(OSError):
        return f"{socket.gethostname()} {boot.read_text().strip()} {table.readlink()}"
    return f"{socket.gethostname()} {psutil.boot_time():.0f}"


def _started(pid: int) -> float | None:
    """Seconds from the machine's start to that of the process, whatever clocks were set to since; None: it is gone."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time() - psutil.boot_time()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return None


def _is_anothers(pid: int) -> bool:
    """Whether there is a process `pid` that this user may not signal."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return False  # a zombie, or one that has just ended
