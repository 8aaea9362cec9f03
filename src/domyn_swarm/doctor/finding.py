"""The result of a check, and checks in a subprocess for what may hang or crash."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

import msgspec
import psutil

from domyn_swarm.edges import COMMAND_LINE
from domyn_swarm.errors import render

State = Literal["ok", "warning", "failed", "skipped"]

PROBES = "domyn_swarm.doctor.probes"
PATIENCE = 60.0
"""Seconds for a check in a subprocess."""


class Finding(msgspec.Struct, frozen=True):
    """The result of one check: its name, its state, what was found, and how to fix a problem.

    `failed` means that jobs cannot run; `warning` concerns something that only some jobs need.
    """

    name: str
    state: State
    found: str
    fix: str = ""


Check: TypeAlias = Callable[[], Iterable[Finding]]


class ProbeError(Exception):
    """A probe failed. `fix` says what to do; empty when that is unknown. `code` is that of the error, if it had one."""

    def __init__(self, message: str, fix: str = "", code: str = "") -> None:
        super().__init__(message)
        self.fix, self.code = fix, code


def probed(module: str, *arguments: str, seconds: float = PATIENCE) -> dict[str, Any]:
    """Run `python -m <module> <arguments>`, where a library may hang or crash, and return its JSON output.

    Raises:
        ProbeError: the output has an `error`, or none came in time.
    """
    # -P: import installed packages, not a file of that name in the working directory.
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
        result = msgspec.json.decode(printed.splitlines()[-1], type=dict[str, Any])
    except (IndexError, msgspec.DecodeError):
        last = complaints.strip().splitlines()[-1:] or ["no output"]
        raise ProbeError(f"{_ending(process.returncode)}: {last[0]}") from None
    if "error" in result:
        error, fix = (render(result.get(name, ""), COMMAND_LINE) for name in ("error", "fix"))
        raise ProbeError(error, fix, result.get("code", ""))
    return result


def _end(process: subprocess.Popen[str]) -> None:
    """Kill the process and all of its children."""
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    for one in started:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
    process.communicate()


def _ending(status: int) -> str:
    return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
