"""Keeps one model server: a small process between a run and the server, so that neither outlives the other for long.

Started as `python -I -S supervisor.py`, it needs nothing but the standard library. The first line on its stdin is JSON:
`command` (words), `log` (path), `log_bytes` (most that the log may have), `parent` (the run's process) and `seconds`
(for the server to end when the run is gone). A further line `stop SECONDS` ends the server. So does the end of stdin,
or of the run, however it came about. It exits with the server's status, 128 and the signal's number if one ended it.

On Linux it is a subreaper: all that the server has started is its descendant, whatever became of those between, and is
killed with it. If it is killed itself, the system kills the server.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SET_DEATH_SIGNAL, SET_SUBREAPER = 1, 36  # of prctl(2)
TICK_SECONDS = 0.1
AFTERLIFE_SECONDS = 1.0
"""For what a server has started, once the server itself has ended."""
KILL_SECONDS = 5.0
PIECE = 2**16
NOT_STARTED = 127


class Log:
    """What the server prints. When the file is half of what is allowed it becomes `<name>.1`, and a new one begins."""

    def __init__(self, path: str, most: int) -> None:
        self._path, self._most = path, most // 2
        self._file: Any = None
        self._size = 0

    def write(self, text: bytes) -> None:
        """Add `text`. A disk that is full costs the log, not the server."""
        try:
            if self._file is None:
                self._file = Path(self._path).open("ab", buffering=0)  # noqa: SIM115 - for as long as it is small
                self._size = self._file.tell()
            self._file.write(text)
            self._size += len(text)
            if self._size >= self._most:
                self._file.close()
                self._file = None
                Path(self._path).replace(f"{self._path}.1")
        except OSError:
            self._file = None


class Server:
    """The server's process and its descendants."""

    def __init__(self, command: list[str], output: int) -> None:
        # It is kept: when it is collected, it waits for the process itself, and the status would be lost.
        self._started = subprocess.Popen(  # noqa: S603 - the user's command
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            preexec_fn=lambda: _prctl(SET_DEATH_SIGNAL, signal.SIGKILL),  # noqa: PLW1509 - this process has one thread
        )  # fmt: skip
        self._pid = self._started.pid
        self.status: int | None = None

    def reap(self) -> None:
        """Note the end of the server, and forget other descendants that have ended."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if pid == self._pid:
                    code = os.waitstatus_to_exitcode(status)
                    self.status = code if code >= 0 else 128 - code

    def ask_to_end(self) -> None:
        """SIGTERM for its process group, whose first may be a shell that passes nothing on."""
        self._signal_group(signal.SIGTERM)

    def kill(self) -> None:
        """End all that is left. What starts meanwhile is found the next time."""
        deadline = time.monotonic() + KILL_SECONDS
        while time.monotonic() < deadline:
            self._signal_group(signal.SIGKILL)
            left = descendants(os.getpid())
            for pid in left:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            self.reap()
            if self.status is not None and not left:
                return
            time.sleep(TICK_SECONDS / 5)

    def _signal_group(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)


def descendants(ancestor: int) -> list[int]:
    """The processes below `ancestor`, as far as the system tells."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*") if Path("/proc/self").exists() else ():
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(folder.name)] = int(parent)
    found, left = [], [ancestor]
    while left:
        children = [pid for pid, parent in parents.items() if parent in left]
        found += children
        left = children
    return found


def keep(settings: dict[str, Any]) -> int:
    """Start the server, see to its log, and end it when that is asked for; its exit status."""
    log = Log(settings["log"], settings["log_bytes"])
    output, theirs = os.pipe()
    os.set_blocking(output, False)
    try:
        server = Server(settings["command"], theirs)
    except OSError as error:
        log.write(f"{settings['command'][0]}: {error.strerror}\n".encode())
        return NOT_STARTED
    os.close(theirs)
    _watch(server, output, log, settings)
    server.kill()
    _copy(output, log)
    return server.status if server.status is not None else 128 + signal.SIGKILL


def _watch(server: Server, output: int, log: Log, settings: dict[str, Any]) -> None:
    """Return when nothing is left of the server, or it is time to kill it."""
    control, deadline, watched = b"", math.inf, [0, output]
    asked = False
    while time.monotonic() < deadline:
        ready, _, _ = select.select(watched, [], [], TICK_SECONDS)
        if output in ready and not _copy(output, log):
            watched.remove(output)
        if 0 in ready:
            control += (text := os.read(0, PIECE))
            if not text:
                watched.remove(0)
        server.reap()
        if server.status is not None:
            deadline = min(deadline, time.monotonic() + AFTERLIFE_SECONDS)
            if not descendants(os.getpid()):
                return
        elif not asked and (seconds := _seconds_to_stop(control, watched, settings)) is not None:
            asked = True
            deadline = time.monotonic() + seconds
            server.ask_to_end()


def _seconds_to_stop(control: bytes, watched: list[int], settings: dict[str, Any]) -> float | None:
    """Seconds that the server has to end; None while it may run."""
    if b"stop " in control and control.endswith(b"\n"):
        return float(control.split()[1])
    return float(settings["seconds"]) if 0 not in watched or os.getppid() != settings["parent"] else None


def _copy(output: int, log: Log) -> bool:
    """Copy what there is; whether more may come."""
    with contextlib.suppress(BlockingIOError):
        for _ in range(64):
            if not (text := os.read(output, PIECE)):
                return False
            log.write(text)
    return True


def _prctl(option: int, value: int) -> None:
    if _LIBC is not None:
        _LIBC.prctl(option, value, 0, 0, 0)


_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None

if __name__ == "__main__":
    _prctl(SET_SUBREAPER, 1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)  # what is ignored would be ignored by the server, too
    line = b""
    while not line.endswith(b"\n"):  # not by `sys.stdin`, which would read ahead
        if not (byte := os.read(0, 1)):
            sys.exit(NOT_STARTED)
        line += byte
    os._exit(keep(json.loads(line)))
