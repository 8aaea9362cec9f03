"""One life of a model server, as its run sees it: started, alive, ended with a status, stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec
import psutil

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MARK = "DOMYN_SWARM_SERVER"
"""Variable in the environment of a server and of all that it starts: which run's it is, and its name."""
LOG_BYTES = 16 * 2**20
ORPHAN_SECONDS = 2.0
"""For a server to end when its run is gone."""
_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_KILLED = 128 + signal.SIGKILL
_SPARE_SECONDS = 7.0
"""For the supervisor to kill what did not end by itself."""


class ServerProcess:
    """A server that was started with `command`. `mark` is the value of MARK in its environment."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path, mark: str) -> None:
        self._mark = mark
        self._deadline = 0.0
        self._supervisor = subprocess.Popen(  # noqa: S603 - this package's own file
            [sys.executable, "-I", "-S", str(_SUPERVISOR)],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            env={**env, MARK: mark},
        )  # fmt: skip
        settings = {
            "command": list(command), "log": str(log), "log_bytes": LOG_BYTES, "parent": os.getpid(),
            "seconds": ORPHAN_SECONDS,
        }  # fmt: skip
        self._say(msgspec.json.encode(settings) + b"\n")

    def poll(self) -> int | None:
        """The exit status of the server, 128 and the signal's number if one ended it; None while it is alive."""
        status = self._supervisor.poll()
        if status is not None and status < 0:  # killed, and what it kept is left
            end_marked(self._mark)
            return _KILLED
        return status

    def ask_to_stop(self, seconds: float) -> None:
        """Ask the server to end within so many seconds, after which it is killed. `stop` waits for that."""
        self._deadline = time.monotonic() + seconds + _SPARE_SECONDS
        self._say(b"stop %f\n" % seconds)

    def stop(self, seconds: float) -> None:
        """End the server; return when nothing is left of it."""
        if not self._deadline:
            self.ask_to_stop(seconds)
        try:
            self._supervisor.wait(max(0.0, self._deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._supervisor.kill()
            self._supervisor.wait()
        self.poll()
        with contextlib.suppress(OSError):
            self._stdin.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._supervisor.stdin is not None  # noqa: S101 - it is a pipe
        return self._supervisor.stdin

    def _say(self, line: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # it is gone, which `poll` tells, or was stopped
            self._stdin.write(line)
            self._stdin.flush()


def end_marked(mark: str) -> None:
    """Kill this user's processes whose MARK begins with `mark`: what no supervisor keeps any more."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(MARK, "").startswith(mark):
                process.kill()
