"""Calls in flight when a run has to end: they get `--grace` seconds; what has finished is kept, the rest reported."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import Command, start_command, stop, write
from tests.detached import until
from tests.servers.chaos import chaos

RUN = Path(".domyn-swarm/out.parquet")
NUMBERS = list(range(40))
JOB = """
import asyncio
from domyn_swarm import SwarmJob

class Sleeper(SwarmJob):
    input_columns = ("seconds",)
    output_columns = ("slept",)

    async def transform_item(self, seconds: float) -> float:
        with open("calls", "a") as calls:
            calls.write(f"{seconds}\\n")
        await asyncio.sleep(seconds)
        return seconds
"""


def submitted(seconds: Sequence[float], *options: str, **environment: str) -> subprocess.Popen[str]:
    """A run of calls that take so long, as many at once, none of which is written before the run ends."""
    write("in.parquet", {"seconds": [float(one) for one in seconds]})
    Path("sleeper.py").write_text(JOB)
    arguments = (
        "job", "submit", "sleeper.py:Sleeper", "--input", "in.parquet", "--output", "out.parquet",
        "--checkpoint-interval", "3600", "--max-concurrency", str(len(seconds)), *options,
    )  # fmt: skip
    return start_command(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **environment},
    )  # fmt: skip


def ended(process: subprocess.Popen[str], calls: int, *numbers: signal.Signals) -> tuple[int, str, float]:
    """Exit status, stderr and seconds since the first of the signals, which come once so many calls have begun."""
    try:
        until(lambda: Path("calls").exists() and len(Path("calls").read_text().splitlines()) >= calls)
        time.sleep(0.5)  # those that take no time are done
        since = time.monotonic()
        for number in numbers:
            process.send_signal(number)
            time.sleep(0.3)
        _, err = process.communicate(timeout=60)
        return process.returncode, err, time.monotonic() - since
    finally:
        stop(process, signal.SIGKILL)


def kept() -> list[float]:
    return sorted(row for part in RUN.glob("parts/*.parquet") for row in pq.read_table(part)["slept"].to_pylist())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_calls_that_end_within_the_grace_are_kept_and_the_wait_is_announced(number: signal.Signals) -> None:
    status, err, _ = ended(submitted([3, 3, 3, 0], "--grace", "40"), 4, number)
    assert status == 130
    assert kept() == [0, 3, 3, 3]
    assert "waiting for 3 calls in flight, 40 s left" in err
    assert "dropped" not in err


def test_calls_that_take_longer_are_dropped_and_counted() -> None:
    status, err, seconds = ended(submitted([3600, 3600, 0, 0], "--grace", "1"), 4, signal.SIGTERM)
    assert status == 130
    assert kept() == [0, 0]
    assert "2 calls in flight dropped after 1 s" in err
    assert seconds < 20
    warnings: Any = json.loads((RUN / "run.json").read_text())["warnings"]
    assert any("2 calls in flight dropped" in one for one in warnings)


def test_a_second_signal_drops_the_calls_at_once_and_keeps_what_has_finished() -> None:
    status, err, seconds = ended(submitted([3600, 0, 0, 0], "--grace", "600"), 4, signal.SIGINT, signal.SIGINT)
    assert status == 130
    assert kept() == [0, 0, 0]
    assert "1 call in flight dropped" in err
    assert "Traceback" not in err
    assert seconds < 20


def test_a_run_in_the_background_is_cancelled_alike(command: Command) -> None:
    run = submitted([3600, 0, 0], "--grace", "600", "--detach")
    assert run.wait(60) == 0
    until(lambda: Path("calls").exists() and len(Path("calls").read_text().splitlines()) >= 3)
    time.sleep(0.5)
    since = time.monotonic()
    assert command("job", "cancel", "out", "--grace", "1").stdout.startswith("out is cancelled")
    assert time.monotonic() - since < 25
    assert kept() == [0, 0]
    assert "1 call in flight dropped" in (RUN / "log.txt").read_text()


def test_a_batch_system_that_says_when_it_kills_leaves_calls_half_of_the_time() -> None:
    run = submitted([3600, 0], "--grace", "600", SLURM_JOB_END_TIME=str(time.time() + 3))
    status, err, seconds = ended(run, 2, signal.SIGUSR1)
    assert status == 124
    assert kept() == [0]
    assert "1 call in flight dropped" in err
    assert seconds < 20


def test_jobs_that_ask_an_endpoint_have_half_a_minute(command: Command) -> None:
    write("in.parquet", {"text": ["a"]})
    with chaos() as server:
        done = command(
            "job", "submit", "--input", "in.parquet", "--output", "out.parquet", "--input-column", "text",
            "--endpoint", server.url,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads((RUN / "spec.json").read_text())["grace"] == 30
