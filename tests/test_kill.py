"""What survives a run that is killed or interrupted: every finished part, and nothing else has to be done again."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import Command, job, rows, run_command, start_command, stop, write
from tests.detached import until

ROWS = 60_000
KILLS = 20
TEXTS = [f"row {number}" for number in range(ROWS)]
SUBMIT = (
    "job", "submit", job("Recorded"), "--input", "in.parquet", "--output", "out.parquet", "--max-concurrency", "8",
)  # fmt: skip


def called() -> list[str]:
    """Every call so far: each is written down before it is made."""
    return Path("calls").read_text().splitlines() if Path("calls").exists() else []


def parts() -> set[Path]:
    return set(Path(".domyn-swarm/out.parquet/parts").glob("*.parquet"))


def durable() -> set[str]:
    """The rows in parts. Reading them all shows that a part is whole or not there."""
    return {TEXTS[row] for part in parts() for row in pq.read_table(part)["_row_id"].to_pylist()}


def leaves_a_part(process: subprocess.Popen[bytes], before: set[Path]) -> bool:
    return bool(parts() - before) or process.poll() is not None


@pytest.mark.stress
def test_twenty_kills_lose_nothing_and_repeat_only_what_was_not_durable() -> None:
    write("in.parquet", {"text": TEXTS}, row_group_size=1000)
    arguments = [*SUBMIT, "--job-kwargs", '{"seconds": 0.002}', "--checkpoint-interval", "0.1"]
    moments = random.Random(20260725)
    repeated = 0
    for life in range(KILLS):
        seen, kept, before = len(called()), durable(), parts()
        process = start_command(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if life % 4 == 3:  # however slowly this machine starts it
            until(partial(leaves_a_part, process, before))
        time.sleep(moments.uniform(0.2, 1.6))
        assert process.poll() is None, "the job has to be longer than its twenty lives"
        process.kill()
        process.wait()
        assert not kept & set(called()[seen:]), "a durable row was computed again"
        assert not Path("out.parquet").exists()
        repeated += len(set(called()) - durable())
    seen, kept = len(called()), durable()
    assert kept, "some lives were long enough to leave a part"
    done = run_command(*arguments)
    assert done.returncode == 0, done.stderr
    assert not kept & set(called()[seen:])
    assert set(called()) == set(TEXTS)
    assert len(called()) - ROWS <= repeated
    assert rows("out.parquet") == [{"text": text, "upper": text.upper()} for text in TEXTS]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_keeps_the_calls_in_flight_and_the_same_command_goes_on(
    number: signal.Signals, command: Command
) -> None:
    texts = TEXTS[:3000]
    write("in.parquet", {"text": texts})
    arguments = [*SUBMIT, "--job-kwargs", '{"seconds": 0.005}']
    process = start_command(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    _wait_for_calls(100)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    first = called()
    assert process.returncode == 130
    assert out == ""
    assert f"{len(first):,} rows of this run are kept in .domyn-swarm/out.parquet" in err
    assert "Run the same command again" in err
    assert "Traceback" not in err
    assert set(first) == durable()
    again = command(*arguments)
    assert again.returncode == 0, again.stderr
    assert sorted(called()) == sorted(texts)
    assert rows("out.parquet") == [{"text": text, "upper": text.upper()} for text in texts]


def test_a_call_that_hangs_does_not_keep_an_interrupted_run_from_ending() -> None:
    write("in.parquet", {"text": ["a", "b"]})
    arguments = [*SUBMIT, "--job-kwargs", '{"seconds": 3600}']
    process = start_command(*arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for_calls(2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        stop(process, signal.SIGKILL)


def test_the_lock_goes_with_a_process_that_is_killed(command: Command) -> None:
    write("in.parquet", {"text": ["a", "b"]})
    process = start_command(*SUBMIT, "--job-kwargs", '{"seconds": 3600}', stderr=subprocess.DEVNULL)
    _wait_for_calls(2)
    refused = command(*SUBMIT, "--job-kwargs", '{"seconds": 3600}')
    assert refused.returncode == 2
    assert f"process {process.pid}" in refused.stderr
    process.kill()
    process.wait()
    done = command(*SUBMIT, "--no-resume")
    assert done.returncode == 0, done.stderr


def _wait_for_calls(count: int) -> None:
    deadline = time.monotonic() + 60
    while len(called()) < count:
        assert time.monotonic() < deadline, "the job does not start"
        time.sleep(0.01)
