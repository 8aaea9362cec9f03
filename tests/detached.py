"""Runs that were sent away, as tests look after them: started, asked about, and gone when a test is over."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from domyn_swarm.cli.main import app
from domyn_swarm.edges import on_command_line
from domyn_swarm.errors import SwarmError
from tests.conftest import job, run_command, write

FOLDER = Path(".domyn-swarm/out.parquet")
SUBMIT = ("job", "submit", job("Paced"), "--input", "in.parquet", "--output", "out.parquet", "--max-concurrency", "4")
LONG = 6000
"""Rows that take over a minute with `slow(0.05)`, and a second once `Path("fast")` is there."""


def texts(count: int) -> list[str]:
    """The rows of an input, which is written."""
    rows = [f"row {number}" for number in range(count)]
    write("in.parquet", {"text": rows})
    return rows


def slow(seconds: float) -> tuple[str, ...]:
    """What makes each call take so long, and a crash lose little."""
    return ("--job-kwargs", json.dumps({"seconds": seconds}), "--checkpoint-interval", "0.1")


def said(*arguments: str, status: int = 0) -> Any:
    """What a command says as JSON. Those that start a run are processes of their own, whose end the run outlives."""
    if arguments[1] in ("submit", "resume"):
        done = run_command(*arguments, "--json")
        assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert called_here(*arguments, "--json") == status, (arguments, printed.getvalue())
    return json.loads(printed.getvalue())


def refusal(*arguments: str) -> str:
    """What a command that is refused says, as its user reads it."""
    with pytest.raises(SwarmError) as refused:
        called_here(*arguments)
    assert refused.value.exit_status == 2
    return on_command_line(refused.value)


def called_here(*arguments: str) -> int:
    """The exit status of a command that is called in this process."""
    ended = _command_line().main(list(arguments), prog_name="domyn-swarm", standalone_mode=False)
    return ended or 0


@functools.cache
def _command_line() -> Any:
    return typer.main.get_command(app)  # which takes a tenth of a second


def state(run: str) -> str:
    """What is true of one run."""
    return str(said("job", "status", run)[0]["state"])


def called() -> list[str]:
    """Every call so far: each is written down before it is made."""
    return Path("calls").read_text().splitlines() if Path("calls").exists() else []


def until(what: Callable[[], object], seconds: float = 60) -> None:
    """Wait for something that happens soon."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.02)


def driver(folder: Path = FOLDER) -> int:
    """The process of a run that goes on here."""
    return int(json.loads((folder / "submission.json").read_text())["handle"]["pid"])


def members(session: int) -> list[int]:
    """The processes of a session that have not ended."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = entry.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.parent.name))
    return found


def end_all(folder: Path) -> None:
    """Kill what a test has left behind."""
    for path in folder.rglob("submission.json"):
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
            for pid in members(int(json.loads(path.read_text())["handle"]["pid"])):
                os.kill(pid, signal.SIGKILL)
