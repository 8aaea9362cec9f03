"""What a check says, and how one that may hang or take its process with it is asked."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import msgspec
import psutil

State = Literal["ok", "warning", "failed", "skipped"]

PROBES = "domyn_swarm.doctor.probes"
PATIENCE = 60.0
"""Seconds for a check in a process of its own."""


class Finding(msgspec.Struct, frozen=True):
    """One line: the check's name, how it stands, what was found, and what mends it where something does.

    `failed` is for what keeps jobs from running; a `warning` is for what some of them can do without.
    """

    name: str
    state: State
    found: str
    mend: str = ""


Check: TypeAlias = Callable[[], Iterable[Finding]]


class ProbeError(Exception):
    """A probe said nothing, or what is wrong. `mend` is what it says of that."""

    def __init__(self, message: str, mend: str = "") -> None:
        super().__init__(message)
        self.mend = mend


def probed(module: str, *arguments: str, seconds: float = PATIENCE) -> dict[str, Any]:
    """The JSON object that `python -m <module> <arguments>` prints last: a library that hangs or crashes does so there.

    Raises:
        ProbeError: it printed an `error`, or none came in time.
    """
    # -P: what is imported is what is installed, not a file of that name in the working folder.
    process = subprocess.Popen(  # noqa: S603 - this interpreter and modules of this package
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        printed, complaints = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ProbeError(f"no answer within {seconds:.0f} s") from None
    finally:
        if process.poll() is None:
            _end(process)
    try:
        said = msgspec.json.decode(printed.splitlines()[-1], type=dict[str, Any])
    except (IndexError, msgspec.DecodeError):
        last = complaints.strip().splitlines()[-1:] or ["nothing was said"]
        raise ProbeError(f"{_ending(process.returncode)}: {last[0]}") from None
    if "error" in said:
        raise ProbeError(said["error"], said.get("mend", ""))
    return said


def _end(process: subprocess.Popen[str]) -> None:
    """End it with all that it has started."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for one in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate()


def _ending(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
